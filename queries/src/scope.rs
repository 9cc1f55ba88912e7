//! The names that an expression can use.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::ScalarValue;
use datafusion_physical_expr::expressions::Column;
use sqlparser::{
    ast::{Function, Ident},
    tokenizer::Span,
};
use tidemill_engine::{EVENT_TIME, any::any_type, datetime_type};

use crate::{
    coercion::type_name,
    error::QueryError,
    functions::{
        HEADER, HEADERS,
        conversion::{Failure, convert},
        hash::GUID,
        json::Member,
        record::{self, Row},
    },
    javascript::UserFunctions,
    typed::Typed,
};

/// A column of the rows at hand.
#[derive(Clone, Debug)]
pub(crate) struct ScopeColumn {
    pub(crate) name: String,
    pub(crate) data_type: DataType,
    /// Place in the batch.
    pub(crate) index: usize,
    /// The relation that it comes from, by its place in [`Scope::relations`].
    pub(crate) relation: usize,
    /// Whether `*` gives it.
    pub(crate) visible: bool,
    /// Whether it is the event time under another name.
    pub(crate) is_time: bool,
    /// Whether it is text that TIMESTAMP BY reads as a datetime.
    pub(crate) is_time_text: bool,
    /// Of `window_start` and `window_end`: the size of the windows, in microseconds.
    pub(crate) window: Option<i64>,
}

/// When the rows of a source of a FROM were.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SourceTime {
    /// Which source, by its place in [`Scope::relations`].
    pub(crate) relation: usize,
    /// The column; `None`: the event time of the rows at hand.
    pub(crate) time: Option<usize>,
    /// How far it may lie before the event time of the rows at hand, in microseconds.
    pub(crate) lag_us: i64,
}

/// The column of a function of the rows before, which the text names by calling it again.
#[derive(Clone, Debug)]
pub(crate) struct AnalyticColumn {
    pub(crate) function: Function,
    pub(crate) index: usize,
    pub(crate) data_type: DataType,
}

/// The columns of the relations in FROM, and their names.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    /// Of each relation the names that can qualify its columns: alias, input or step.
    pub(crate) relations: Vec<Vec<String>>,
    pub(crate) columns: Vec<ScopeColumn>,
    /// Results of functions of the rows before.
    pub(crate) analytics: Vec<AnalyticColumn>,
    /// Place of the event time.
    pub(crate) time: usize,
    /// The times of the streams in FROM.
    pub(crate) sources: Vec<SourceTime>,
    /// Columns that are the event time of their relation.
    pub(crate) event_times: Vec<(usize, String)>,
    /// Whether a JOIN made them: then a name that several relations have must say which.
    pub(crate) joined: bool,
    /// Why a column may be unknown although records have it, e.g. that types come from a sample.
    pub(crate) note: Option<String>,
    /// Whether the types are declared: a text column is text then, and not numbers that a producer has quoted.
    pub(crate) declared: bool,
    /// What `udf.name` and `uda.name` call.
    pub(crate) functions: UserFunctions,
}

/// Names of a stream event's properties on Event Hubs, and the metadata columns that stand for them.
const EVENT_HUB_NAMES: &[(&str, &str)] = &[
    ("EventEnqueuedUtcTime", "_timestamp"),
    // Reading a record again gives the same: it is taken for processed when it arrived.
    ("EventProcessedUtcTime", "_timestamp"),
    ("PartitionId", "_partition"),
    ("Offset", "_offset"),
    ("SequenceNumber", "_offset"),
    ("PartitionKey", "_key"),
];
const KAFKA_NAMES: &[(&str, &str)] = &[
    ("Key", "_key"),
    ("Headers", "_headers"),
    ("Topic", "_topic"),
    ("Partition", "_partition"),
    ("Offset", "_offset"),
    ("Timestamp", "_timestamp"),
];

impl Scope {
    /// Of a node whose schema ends with the event time.
    pub(crate) fn of(schema: &Schema, names: Vec<String>) -> Self {
        let time = schema.fields().len() - 1;
        let columns = schema.fields()[..time]
            .iter()
            .enumerate()
            .map(|(index, f)| ScopeColumn {
                name: f.name().clone(),
                data_type: f.data_type().clone(),
                index,
                relation: 0,
                visible: true,
                is_time: false,
                is_time_text: false,
                window: None,
            })
            .collect();
        Self {
            relations: vec![names],
            columns,
            analytics: vec![],
            time,
            sources: vec![SourceTime { relation: 0, time: None, lag_us: 0 }],
            event_times: vec![],
            joined: false,
            note: None,
            declared: false,
            functions: UserFunctions::default(),
        }
    }

    /// Without any name.
    pub(crate) fn empty() -> Self {
        let mut scope = Self::of(&schema_of([]), vec![]);
        (scope.relations, scope.sources) = (vec![], vec![]);
        scope
    }

    /// The time of a stream in FROM.
    pub(crate) fn source_time(&self, name: &Ident) -> Option<Typed> {
        let relation = self.relation(&name.value)?;
        let source = self.sources.iter().find(|s| s.relation == relation)?;
        Some(Typed::column(EVENT_TIME, source.time.unwrap_or(self.time), datetime_type(), name.span))
    }

    pub(crate) fn time(&self, span: Span) -> Typed {
        Typed::column(EVENT_TIME, self.time, datetime_type(), span)
    }

    /// A column of text that TIMESTAMP BY reads as the event time, where an order of values is asked for: it is one of
    /// datetimes.
    pub(crate) fn as_time(&self, value: Typed) -> Result<Typed, QueryError> {
        let index = value.expr.downcast_ref::<Column>().map(Column::index);
        match self.columns.iter().any(|c| c.is_time_text && Some(c.index) == index) {
            true => convert(value, &datetime_type(), Failure::Null),
            false => Ok(value),
        }
    }

    /// The relation whose columns `name` qualifies.
    pub(crate) fn relation(&self, name: &str) -> Option<usize> {
        self.relations.iter().position(|names| names.iter().any(|n| n.eq_ignore_ascii_case(name)))
    }

    /// The column of this name: in this spelling, else in any case.
    pub(crate) fn find(&self, name: &str, span: Span) -> Result<Option<&ScopeColumn>, QueryError> {
        self.find_in(None, name, span)
    }

    fn find_in(&self, relation: Option<usize>, name: &str, span: Span) -> Result<Option<&ScopeColumn>, QueryError> {
        let columns = || self.columns.iter().filter(|c| relation.is_none_or(|r| c.relation == r));
        if let Some(column) = columns().find(|c| c.name == name) {
            let other = columns().find(|c| c.name == name && c.visible && c.relation != column.relation);
            if let (true, None, Some(other)) = (column.visible && self.joined, relation, other) {
                let names = [column, other].map(|c| self.relations[c.relation].first().map_or("", String::as_str));
                return Err(QueryError::at(
                    span,
                    format!("`{name}` is a column of `{}` and of `{}`", names[0], names[1]),
                )
                .help(format!("write `{}.{name}`", names[0])));
            }
            return Ok(Some(column));
        }
        let mut same = columns().filter(|c| c.name.eq_ignore_ascii_case(name));
        match (same.next(), same.next()) {
            (Some(a), Some(b)) => Err(QueryError::at(
                span,
                format!("`{name}` can be `{}` or `{}`: write it in its own spelling", a.name, b.name),
            )),
            (found, _) => Ok(found.or_else(|| self.event_hub(name))),
        }
    }

    /// `EventEnqueuedUtcTime`, `EventProcessedUtcTime` and `PartitionId` stand beside the payload on a live source.
    fn event_hub(&self, name: &str) -> Option<&ScopeColumn> {
        let (_, column) = EVENT_HUB_NAMES[..3].iter().find(|(n, _)| n.eq_ignore_ascii_case(name))?;
        self.columns.iter().find(|c| c.name == *column && !c.visible)
    }

    /// The column of this name, of this relation or of any, as an expression.
    pub(crate) fn column(&self, name: &Ident, relation: Option<usize>) -> Result<Typed, QueryError> {
        match self.find_in(relation, &name.value, name.span)? {
            Some(c) => Ok(Typed::column(&c.name, c.index, c.data_type.clone(), name.span)),
            None => Err(self.unknown_in(relation, name)),
        }
    }

    pub(crate) fn unknown(&self, name: &Ident) -> QueryError {
        self.unknown_in(None, name)
    }

    fn unknown_in(&self, relation: Option<usize>, name: &Ident) -> QueryError {
        let columns = self.columns.iter().filter(|c| c.visible && relation.is_none_or(|r| c.relation == r));
        let mut known: Vec<&str> = vec![];
        columns.for_each(|c| known.extend((!known.contains(&c.name.as_str())).then_some(c.name.as_str())));
        let error = QueryError::unknown(name.span, "column", &name.value, &known);
        match (&self.note, &error.help) {
            (Some(note), None) => error.help(note.clone()),
            (Some(note), Some(help)) => QueryError { help: Some(format!("{help} ({note})")), ..error },
            _ => error,
        }
    }

    /// `GetMetadataPropertyValue(input, '[Kafka].[Offset]')`.
    pub(crate) fn metadata(&self, path: &str, span: Span) -> Result<Typed, QueryError> {
        let bare = path.trim().trim_start_matches('[').trim_end_matches(']');
        let parts: Vec<&str> = bare.split(if bare.contains("].[") { "].[" } else { "." }).collect();
        if let [family, header] = parts.as_slice()
            && family.eq_ignore_ascii_case("user")
        {
            let headers = self.hidden("_headers", span)?;
            return HEADER.call(vec![headers, Typed::text(*header, span)], span);
        }
        if let [name] = parts.as_slice() {
            let family = match name.to_ascii_lowercase().as_str() {
                "eventid" => return self.guid(0, span),
                "user" => return HEADERS.call(vec![self.hidden("_headers", span)?], span),
                "kafka" => KAFKA_NAMES,
                "eventhub" => EVENT_HUB_NAMES,
                _ => &[],
            };
            if !family.is_empty() {
                let field = |(name, column): &(&str, &str)| Ok(((*name).to_owned(), self.hidden(column, span)?));
                return Row::with(family.iter().map(field).collect::<Result<_, QueryError>>()?, span);
            }
        }
        let names = match parts.as_slice() {
            [family, _] if family.eq_ignore_ascii_case("kafka") => KAFKA_NAMES,
            [family, _] if family.eq_ignore_ascii_case("eventhub") => EVENT_HUB_NAMES,
            _ => {
                return Err(QueryError::at(span, format!("unknown metadata property `{path}`")).help(
                    "properties are '[Kafka].[Key]', Headers, Topic, Partition, Offset, Timestamp; '[User].[header]'; 'EventId'; \
                     'Kafka' and 'User' for all of them",
                ));
            }
        };
        let Some((_, column)) = names.iter().find(|(n, _)| n.eq_ignore_ascii_case(parts[1])) else {
            let known: Vec<&str> = names.iter().map(|(n, _)| *n).collect();
            return Err(QueryError::unknown(span, "metadata property", parts[1], &known));
        };
        self.hidden(column, span)
    }

    /// An identifier of the record at hand and of a call.
    pub(crate) fn guid(&self, call: i64, span: Span) -> Result<Typed, QueryError> {
        let mut args = vec![];
        for column in ["_topic", "_partition", "_offset"] {
            args.push(self.hidden(column, span)?);
        }
        args.push(Typed::literal(ScalarValue::Int64(Some(call)), span));
        GUID.call(args, span)
    }

    /// A metadata column.
    fn hidden(&self, column: &str, span: Span) -> Result<Typed, QueryError> {
        match self.columns.iter().find(|c| c.name == column && !c.visible) {
            Some(c) => Ok(Typed::column(&c.name, c.index, c.data_type.clone(), span)),
            None => Err(QueryError::at(span, "metadata can only be read where the FROM names an input")
                .help("select the property in the step that reads the input")),
        }
    }
}

/// `record.name`: in this spelling, else in any case.
pub(crate) fn field(record: Typed, name: &Ident) -> Result<Typed, QueryError> {
    if record.data_type == DataType::LargeUtf8 {
        return Typed::call(Member::function(&name.value), vec![record], any_type(), name.span);
    }
    let DataType::Struct(fields) = &record.data_type else {
        return Err(QueryError::at(
            name.span,
            format!("`{}` is asked of {}, which is no record", name.value, type_name(&record.data_type)),
        ));
    };
    let found = fields
        .iter()
        .position(|f| *f.name() == name.value)
        .or_else(|| fields.iter().position(|f| f.name().eq_ignore_ascii_case(&name.value)));
    let Some(index) = found else {
        let known: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
        return Err(QueryError::unknown(name.span, "field", &name.value, &known));
    };
    let data_type = fields[index].data_type().clone();
    Typed::call(record::Field::function(index, data_type.clone()), vec![record], data_type, name.span)
}

/// A schema from columns, the event time last.
pub(crate) fn schema_of(columns: impl IntoIterator<Item = (String, DataType)>) -> SchemaRef {
    let mut fields: Vec<Field> = columns.into_iter().map(|(name, t)| Field::new(name, t, true)).collect();
    fields.push(Field::new(EVENT_TIME, datetime_type(), false));
    Arc::new(Schema::new(fields))
}
