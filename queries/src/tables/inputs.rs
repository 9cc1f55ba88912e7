//! Inputs and steps as relations, and the event time that TIMESTAMP BY gives to an input.

use arrow::datatypes::DataType;
use datafusion_physical_expr::expressions::Column;
use sqlparser::{
    ast::{Expr, Ident},
    tokenizer::Span,
};
use tidemill_engine::{dataflow::plan::MetadataColumn, datetime_type};

use super::Relation;
use crate::{
    CompatibilityLevel,
    coercion::type_name,
    error::{QueryError, QueryErrors},
    expression::{Expressions, place},
    functions::conversion::{Failure, convert},
    graph::{InputTime, Step, input_schema},
    plan::Planner,
    rewrite::{PARTITION_BY, TIMESTAMP_BY},
    scope::{Scope, ScopeColumn, schema_of},
    typed::Typed,
    windows::{arguments, function_name, is_system_timestamp, name_span},
};

impl Planner<'_> {
    /// An input or a step.
    pub(super) fn named(
        &mut self,
        name: &Ident,
        timestamp_by: Option<TimestampBy<'_>>,
    ) -> Result<Relation, QueryErrors> {
        if let Some(step) = self.step(name)? {
            return match timestamp_by {
                None => Ok(with_event_times(step)),
                Some(by) => Err(QueryError::at(
                    place(by.expr),
                    format!("TIMESTAMP BY is for inputs, `{}` is a step", name.value),
                )
                .help("put it on the input that the step reads")
                .into()),
            };
        }
        if self.view(name).is_some() || self.tables[self.input(name)?].reference {
            return Err(QueryError::at(name.span, format!("`{}` is reference data, which has no time", name.value))
                .help("read a stream, and JOIN the reference data to it")
                .into());
        }
        let input = self.input(name)?;
        let mut scope = self.input_scope(input);
        let bounds = self.settings.time;
        let column = self.tables[input].time_column.as_ref().map(|c| Ident::with_span(name.span, c));
        let mut read = None;
        let time = match (timestamp_by, column) {
            (Some(TimestampBy { expr, over }), _) => {
                let mut expressions = Expressions::plain(&scope, "aggregates cannot be used in TIMESTAMP BY");
                if is_system_timestamp(expr) {
                    return Err(QueryError::at(place(expr), "TIMESTAMP BY says what System.Timestamp() is")
                        .help("without TIMESTAMP BY it is the arrival")
                        .into());
                }
                let value = expressions.plan(expr)?;
                read = value.expr.downcast_ref::<Column>().map(Column::index);
                let expression = event_time(value)?.expr;
                let substream =
                    over.iter().map(|k| Ok(expressions.plan(k)?.expr)).collect::<Result<_, QueryError>>()?;
                InputTime::By { expression, bounds, substream }
            }
            (None, Some(column)) => {
                let expression = event_time(scope.column(&column, None)?)?.expr;
                InputTime::By { expression, bounds, substream: vec![] }
            }
            (None, None) => InputTime::Arrival,
        };
        let named = |index: usize| scope.columns.iter().find(|c| c.index == index).map(|c| c.name.clone());
        let by = match &time {
            InputTime::By { expression, .. } => expression.downcast_ref::<Column>().and_then(|c| named(c.index())),
            InputTime::Arrival => Some(MetadataColumn::Timestamp.name().to_owned()),
        };
        for column in scope.columns.iter_mut().filter(|c| read == Some(c.index)) {
            column.is_time_text = column.data_type == DataType::Utf8;
        }
        scope.event_times.extend(by.map(|name| (0, name)));
        Ok(self.read(input, scope, time))
    }

    pub(crate) fn input_scope(&self, input: usize) -> Scope {
        let table = &self.tables[input];
        let mut scope = self.scope_of(&input_schema(table), vec![table.name.clone()]);
        for metadata in &mut scope.columns[table.schema.fields().len()..] {
            metadata.visible = false;
        }
        scope.declared = table.sampled.is_none();
        scope.note = table.sampled.map(|n| format!("the columns of `{}` were inferred from {n} records", table.name));
        scope
    }

    /// Rows of an input under this time; statements that read it alike share one node.
    pub(super) fn read(&mut self, input: usize, scope: Scope, time: InputTime) -> Relation {
        let key = (input, format!("{time:?}"));
        let node = match self.readers.get(&key) {
            Some(node) => *node,
            None => {
                let node = self.graph.add(Step::Input { input, time }, vec![], input_schema(&self.tables[input]));
                self.readers.insert(key, node);
                node
            }
        };
        let relation = Relation { node, scope, window: None };
        match self.settings.compatibility {
            CompatibilityLevel::V1_2 => relation,
            CompatibilityLevel::V1_0 | CompatibilityLevel::V1_1 => self.bits_as_bigint(relation),
        }
    }

    /// Before level 1.2 there is no type bit: booleans of the payload are 0 and 1.
    fn bits_as_bigint(&mut self, mut relation: Relation) -> Relation {
        let is_bit = |c: &ScopeColumn| c.data_type == DataType::Boolean;
        if !relation.scope.columns.iter().any(is_bit) {
            return relation;
        }
        let time = relation.scope.time(Span::empty()).expr;
        let mut list = Vec::with_capacity(relation.scope.columns.len() + 1);
        for column in &mut relation.scope.columns {
            let value = Typed::column(&column.name, column.index, column.data_type.clone(), Span::empty());
            let value = match &column.data_type {
                // A bit can always become a bigint.
                DataType::Boolean => convert(value.clone(), &DataType::Int64, Failure::Null).unwrap_or(value),
                _ => value,
            };
            column.data_type = value.data_type.clone();
            list.push(value.expr);
        }
        list.push(time);
        let schema = schema_of(relation.scope.columns.iter().map(|c| (c.name.clone(), c.data_type.clone())));
        relation.node = self.graph.add(Step::Project(list), vec![relation.node], schema);
        relation
    }
}

/// A `TIMESTAMP BY expr [OVER key, ...]`.
pub(crate) struct TimestampBy<'a> {
    pub(crate) expr: &'a Expr,
    over: Vec<&'a Expr>,
}

/// The TIMESTAMP BY among the clauses of an input. PARTITION BY does not change results.
pub(crate) fn timestamp_by(hints: &[Expr]) -> Result<Option<TimestampBy<'_>>, QueryError> {
    let mut found = None;
    for hint in hints {
        match hint {
            Expr::Function(f) if function_name(f) == TIMESTAMP_BY => match arguments(f)?.as_slice() {
                [expr, over @ ..] if found.is_none() => found = Some(TimestampBy { expr, over: over.to_vec() }),
                _ => return Err(QueryError::at(name_span(f), "expected one TIMESTAMP BY with one expression")),
            },
            Expr::Function(f) if function_name(f) == PARTITION_BY => {}
            other => return Err(QueryError::at(place(other), "table hints are not of the language")),
        }
    }
    Ok(found)
}

/// A step whose columns of event time can bound a join.
fn with_event_times(mut step: Relation) -> Relation {
    let times = step.scope.columns.iter().filter(|c| c.is_time).map(|c| (0, c.name.clone()));
    step.scope.event_times = times.collect();
    step
}

/// A datetime, or null where it cannot be read: such a record is dead-lettered.
pub(super) fn event_time(value: Typed) -> Result<Typed, QueryError> {
    match value.data_type {
        DataType::Timestamp(..) | DataType::Utf8 | DataType::LargeUtf8 => {
            convert(value, &datetime_type(), Failure::Null)
        }
        _ => Err(QueryError::at(
            value.span,
            format!("the event time must be a datetime or ISO 8601 text, found {}", type_name(&value.data_type)),
        )
        .help("for milliseconds write TIMESTAMP BY DATEADD(millisecond, x, '1970-01-01T00:00:00Z')")),
    }
}
