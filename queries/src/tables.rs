//! FROM: inputs, steps, subqueries and the standard window table functions.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use sqlparser::{
    ast::{
        Expr, Function, FunctionArguments, Ident, JoinOperator, ObjectName, TableAlias, TableFactor, TableWithJoins,
    },
    tokenizer::Span,
};
use tidemill_engine::{
    dataflow::plan::{LateAction, MetadataColumn, NodeId, TimeBounds},
    datetime_type,
    window::shape::Windows,
};

use crate::{
    CompatibilityLevel, analytic,
    coercion::{CastTarget, mismatch, type_name},
    dialect::TABLE_ARGUMENT,
    error::{QueryError, QueryErrors, all},
    expression::{Expressions, place},
    functions::{
        conversion::{Failure, convert},
        record::{PROPERTY, properties},
    },
    graph::{InputTime, Step, input_schema},
    joins::join_of,
    operators::cast,
    plan::Planner,
    rewrite::{PARTITION_BY, TIMESTAMP_BY},
    scope::{Scope, ScopeColumn, field, schema_of},
    typed::Typed,
    windows::{
        TABLE_FUNCTIONS, arguments, function_name, is_system_timestamp, is_table_function, name_span, standard_windows,
        table_arguments,
    },
};

/// Columns that a standard window table function adds.
pub(crate) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

const ARRAY_INDEX: &str = "ArrayIndex";
const ARRAY_VALUE: &str = "ArrayValue";
/// The functions that stand behind APPLY.
const APPLY_FUNCTIONS: [&str; 2] = ["GetArrayElements", "GetRecordProperties"];

/// A node, and the columns that it has behind those of its input, before the event time.
type Added = (NodeId, Vec<(String, DataType)>);

/// Rows that a SELECT reads, or gives.
#[derive(Clone, Debug)]
pub(crate) struct Relation {
    pub(crate) node: NodeId,
    pub(crate) scope: Scope,
    /// The windows of a standard table function, not yet applied.
    pub(crate) window: Option<TableWindow>,
}

/// The windows of a standard table function.
#[derive(Clone, Debug)]
pub(crate) struct TableWindow {
    pub(crate) windows: Windows,
    /// For sessions: columns of the relation whose values make sessions of their own.
    pub(crate) partition: Vec<Typed>,
}

impl TableWindow {
    /// How far apart rows of one window lie at most, in microseconds; of sessions that is not known.
    pub(crate) fn size(&self) -> Option<i64> {
        match self.windows {
            Windows::Aligned(shape) | Windows::Cumulating(shape) => Some(shape.size),
            Windows::Session(_) | Windows::Sliding { .. } => None,
        }
    }
}

/// The one name of an input, step or output.
pub(crate) fn relation_name(name: &ObjectName) -> Result<&Ident, QueryError> {
    match name.0.as_slice() {
        [part] => part.as_ident().ok_or_else(|| QueryError::at(Span::empty(), format!("`{name}` is not a name"))),
        [first, ..] => {
            let span = first.as_ident().map_or(Span::empty(), |i| i.span);
            Err(QueryError::at(span, format!("`{name}` has several parts, expected one name")))
        }
        [] => Err(QueryError::at(Span::empty(), "expected a name")),
    }
}

/// Name of the input or step that an element of FROM reads.
pub(crate) fn source_name(factor: &TableFactor) -> Option<&Ident> {
    match factor {
        TableFactor::Table { name, args: None, .. } => relation_name(name).ok(),
        TableFactor::MatchRecognize { table, .. } => source_name(table),
        other => {
            let (_, args, span) = table_function(other)?;
            Some(table_argument(args.ok()?.first()?, span).ok()?.0)
        }
    }
}

type Arguments<'a> = Result<Vec<&'a Expr>, QueryError>;

/// Name (lower case), arguments and place of a table function.
fn table_function(factor: &TableFactor) -> Option<(String, Arguments<'_>, Span)> {
    match factor {
        TableFactor::Table { name, args: Some(args), .. } => {
            let ident = relation_name(name).ok()?;
            let function = ident.value.to_ascii_lowercase();
            let args = table_arguments(&function, &args.args, ident.span);
            Some((function, args, ident.span))
        }
        TableFactor::TableFunction { expr: Expr::Function(f), .. } => {
            let span = name_span(f);
            let args = match &f.args {
                FunctionArguments::List(list) => table_arguments(&function_name(f), &list.args, span),
                _ => Ok(vec![]),
            };
            Some((function_name(f), args, span))
        }
        _ => None,
    }
}

/// `TABLE t [PARTITION BY k, ...]` or `t`.
fn table_argument(arg: &Expr, span: Span) -> Result<(&Ident, Vec<&Ident>), QueryError> {
    fn name(e: &Expr) -> Option<&Ident> {
        match e {
            Expr::Identifier(name) => Some(name),
            _ => None,
        }
    }
    let wrong = |at| QueryError::at(at, "expected TABLE and a name as the first argument");
    match arg {
        Expr::Identifier(name) => Ok((name, vec![])),
        Expr::Function(f) if function_name(f) == TABLE_ARGUMENT => {
            let names: Option<Vec<&Ident>> = arguments(f)?.into_iter().map(name).collect();
            match names.as_deref() {
                Some([table, keys @ ..]) => Ok((table, keys.to_vec())),
                _ => Err(wrong(span)),
            }
        }
        _ => Err(wrong(place(arg))),
    }
}

/// `DESCRIPTOR(column)`.
fn descriptor(arg: &Expr) -> Result<&Ident, QueryError> {
    if let Expr::Function(f) = arg
        && function_name(f) == "descriptor"
        && let [Expr::Identifier(column)] = arguments(f)?.as_slice()
    {
        return Ok(column);
    }
    Err(QueryError::at(place(arg), "expected DESCRIPTOR(column) as the second argument"))
}

impl Planner<'_> {
    /// The rows that a SELECT reads, with the columns of its `calls` of functions of the rows before.
    pub(crate) fn from(
        &mut self,
        from: &[TableWithJoins],
        mut calls: Vec<Function>,
        select: Span,
    ) -> Result<Relation, QueryErrors> {
        let table = match from {
            [] => return Err(QueryError::at(select, "a SELECT needs a FROM").into()),
            [one] => one,
            [_, second, ..] => {
                let span = source_name(&second.relation).map_or(select, |n| n.span);
                return Err(QueryError::unsupported(span, "a FROM with several inputs").into());
            }
        };
        let relation = self.relation(&table.relation, select)?;
        let mut relation = self.analytic(relation, &mut calls)?;
        for join in &table.joins {
            relation = match &join.join_operator {
                JoinOperator::CrossApply | JoinOperator::OuterApply => {
                    let outer = matches!(join.join_operator, JoinOperator::OuterApply);
                    let elements = self.apply(relation, &join.relation, outer, select)?;
                    self.analytic(elements, &mut calls)?
                }
                operator => {
                    let span = source_name(&join.relation).map_or(select, |n| n.span);
                    let (outer, on) = join_of(operator, span)?;
                    match self.reference(&join.relation)? {
                        Some(reference) => self.lookup(relation, reference, outer, on, span)?,
                        None => {
                            let right = self.relation(&join.relation, select)?;
                            let right = self.analytic(right, &mut calls)?;
                            self.join(relation, right, outer, on, span)?
                        }
                    }
                }
            };
        }
        analytic::refuse(&calls, &relation.scope)?;
        Ok(relation)
    }

    /// `APPLY GetArrayElements(array) AS e`: each row once for each element, which is `e.ArrayValue` at `e.ArrayIndex`;
    /// `APPLY GetRecordProperties(record) AS e`: once for each field, `e.PropertyName` with `e.PropertyValue`.
    fn apply(
        &mut self,
        relation: Relation,
        factor: &TableFactor,
        outer: bool,
        select: Span,
    ) -> Result<Relation, QueryErrors> {
        let Some((name, args, span)) = table_function(factor) else {
            return Err(QueryError::at(select, "expected a function behind APPLY").into());
        };
        let mut relation = self.assigned(relation);
        let args = args?;
        let [argument] = args.as_slice() else {
            return Err(QueryError::at(span, format!("`{name}` takes one argument")).into());
        };
        let argument = Expressions::plain(&relation.scope, "aggregates cannot be used in APPLY").plan(argument)?;
        let (node, added) = match name.as_str() {
            "getarrayelements" => self.elements(relation.node, argument, outer)?,
            "getrecordproperties" => self.properties(relation.node, argument, outer)?,
            _ => return Err(QueryError::unknown(span, "function behind APPLY", &name, &APPLY_FUNCTIONS).into()),
        };
        relation.node = node;
        let scope = &mut relation.scope;
        let alias = match factor {
            TableFactor::Table { alias: Some(alias), .. } => vec![alias.name.value.clone()],
            _ => vec![],
        };
        scope.relations.push(alias);
        let first = self.graph.schema(node).fields().len() - 1 - added.len();
        scope.time = first + added.len();
        scope.columns.extend(added.into_iter().zip(first..).map(|((name, data_type), index)| ScopeColumn {
            name,
            data_type,
            index,
            relation: scope.relations.len() - 1,
            visible: true,
            is_time: false,
            is_time_text: false,
            window: None,
        }));
        Ok(relation)
    }

    /// The rows of `node`, each once for each element of `array`, and the two columns that this adds.
    fn elements(&mut self, node: NodeId, array: Typed, outer: bool) -> Result<Added, QueryErrors> {
        let array = match array.data_type {
            // Elements of values that have types of their own have them too.
            DataType::LargeUtf8 => cast(array, &CastTarget::Array, Failure::Null)?,
            _ => array,
        };
        let DataType::List(element) = array.data_type.clone() else {
            return Err(mismatch(&array, "array").into());
        };
        let before = self.graph.schema(node);
        let width = before.fields().len() - 1;
        let mut list = columns(&before);
        list.insert(width, array.expr);
        let value = |data_type| [(ARRAY_VALUE.to_owned(), data_type)];
        let with_array = self.graph.add(Step::Project(list), vec![node], widened(&before, value(array.data_type)));
        let added =
            vec![(ARRAY_INDEX.to_owned(), DataType::Int64), (ARRAY_VALUE.to_owned(), element.data_type().clone())];
        let after = widened(&before, added.clone());
        Ok((self.graph.add(Step::Unnest { outer }, vec![with_array], after), added))
    }

    /// The rows of `node`, each once for each field of `record`, and the two columns that this adds: names and values.
    fn properties(&mut self, node: NodeId, record: Typed, outer: bool) -> Result<Added, QueryErrors> {
        let before = self.graph.schema(node);
        let width = before.fields().len() - 1;
        let span = record.span;
        let (elements, _) = self.elements(node, properties(record)?, outer)?;
        let unnested = self.graph.schema(elements);
        let property = unnested.field(width + 1);
        let property = Typed::column(ARRAY_VALUE, width + 1, property.data_type().clone(), span);
        let parts = PROPERTY.iter().map(|name| field(property.clone(), &Ident::with_span(span, *name)));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let added: Vec<_> =
            PROPERTY.iter().zip(&parts).map(|(name, part)| ((*name).to_owned(), part.data_type.clone())).collect();
        let mut list = columns(&unnested);
        list.splice(width..width + 2, parts.into_iter().map(|part| part.expr));
        Ok((self.graph.add(Step::Project(list), vec![elements], widened(&before, added.clone())), added))
    }

    pub(crate) fn relation(&mut self, factor: &TableFactor, select: Span) -> Result<Relation, QueryErrors> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                sample: None,
                version: None,
                json_path: None,
                with_ordinality: false,
                ..
            } => {
                let name = relation_name(name)?;
                let timestamp_by = timestamp_by(with_hints)?;
                let mut relation = self.named(name, timestamp_by)?;
                rename(&mut relation.scope, alias.as_ref())?;
                Ok(relation)
            }
            TableFactor::Derived { lateral: false, subquery, alias, sample: None } => {
                let mut relation = self.query(subquery)?;
                relation.scope.relations = vec![vec![]];
                rename(&mut relation.scope, alias.as_ref())?;
                Ok(relation)
            }
            TableFactor::Table { alias, .. } | TableFactor::TableFunction { alias, .. } => {
                let Some((name, args, span)) = table_function(factor) else {
                    return Err(QueryError::at(select, format!("`{factor}` cannot be read from")).into());
                };
                if !is_table_function(&name) {
                    return Err(QueryError::unknown(span, "table function", &name, &TABLE_FUNCTIONS).into());
                }
                let mut relation = self.windowed(&name, &args?, span)?;
                rename(&mut relation.scope, alias.as_ref())?;
                Ok(relation)
            }
            TableFactor::MatchRecognize { alias, .. } => {
                let mut relation = self.recognize(factor, select)?;
                relation.scope.relations = vec![vec![]];
                rename(&mut relation.scope, alias.as_ref())?;
                Ok(relation)
            }
            other => Err(QueryError::at(select, format!("`{other}` cannot be read from")).into()),
        }
    }

    /// An input or a step.
    fn named(&mut self, name: &Ident, timestamp_by: Option<TimestampBy<'_>>) -> Result<Relation, QueryErrors> {
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

    /// `TUMBLE(TABLE t, DESCRIPTOR(c), ...)`.
    fn windowed(&mut self, function: &str, args: &[&Expr], span: Span) -> Result<Relation, QueryErrors> {
        let [source, column, intervals @ ..] = args else {
            return Err(QueryError::at(
                span,
                format!("`{}` takes a table, a descriptor and intervals", function.to_uppercase()),
            )
            .into());
        };
        let windows = standard_windows(function, intervals, span)?;
        let ((name, keys), column) = (table_argument(source, span)?, descriptor(column)?);
        let mut relation = match self.step(name)? {
            Some(step) => {
                if !step.scope.find(&column.value, column.span)?.is_some_and(|c| c.is_time) {
                    return Err(QueryError::at(
                        column.span,
                        format!("`{}` is not the event time of `{}`", column.value, name.value),
                    )
                    .help("name a column that the step takes from window_time or System.Timestamp()")
                    .into());
                }
                step
            }
            None => {
                let input = self.input(name)?;
                let scope = self.input_scope(input);
                let value = scope.column(column, None)?;
                let arrival = scope
                    .find(&column.value, column.span)?
                    .is_some_and(|c| c.name == MetadataColumn::Timestamp.name() && !c.visible);
                let time = if arrival {
                    InputTime::Arrival
                } else {
                    let expression = event_time(value)?.expr;
                    InputTime::By { expression, bounds: self.standard_bounds(), substream: vec![] }
                };
                self.read(input, scope, time)
            }
        };
        // Aligned windows are the same for each key, but a key that does not exist is a mistake.
        let partition = all(keys.into_iter().map(|key| relation.scope.column(key, None)))?;
        let partition = if matches!(windows, Windows::Session(_)) { partition } else { vec![] };
        relation.window = Some(TableWindow { windows, partition });
        Ok(relation)
    }

    /// Standard tables have a bounded delay and drop nothing before their window has closed.
    fn standard_bounds(&self) -> Option<TimeBounds> {
        match self.settings.standard_delay {
            Some(out_of_order) => {
                Some(TimeBounds { late_arrival: None, out_of_order, early_arrival: None, action: LateAction::Keep })
            }
            None => self.settings.time,
        }
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
    fn read(&mut self, input: usize, scope: Scope, time: InputTime) -> Relation {
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

    /// Repeats rows for the windows of a table function, where no aggregation takes that over.
    pub(crate) fn assigned(&mut self, relation: Relation) -> Relation {
        let Some(window) = relation.window else { return relation };
        let size = window.size();
        let TableWindow { windows, partition } = window;
        let before = self.graph.schema(relation.node);
        let time = before.fields().len() - 1;
        let columns = before.fields()[..time].iter().map(|f| (f.name().clone(), f.data_type().clone()));
        let schema = schema_of(columns.chain(WINDOW_COLUMNS.iter().map(|w| ((*w).to_owned(), datetime_type()))));
        let mut scope = relation.scope;
        add_window_columns(&mut scope, time);
        for column in scope.columns.iter_mut().filter(|c| c.index == time || c.index == time + 1) {
            column.window = size;
        }
        scope.time = time + 2;
        let step = match windows {
            Windows::Session(shape) => {
                Step::AssignSessions { shape, partition: partition.into_iter().map(|k| k.expr).collect() }
            }
            windows => Step::Assign(windows),
        };
        Relation { node: self.graph.add(step, vec![relation.node], schema), scope, window: None }
    }
}

/// All columns of these rows, as they are.
fn columns(schema: &Schema) -> Vec<Arc<dyn PhysicalExpr>> {
    let column = |(i, f): (usize, &FieldRef)| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(f.name(), i)) };
    schema.fields().iter().enumerate().map(column).collect()
}

/// A schema with more columns before the event time.
fn widened(schema: &Schema, added: impl IntoIterator<Item = (String, DataType)>) -> SchemaRef {
    let width = schema.fields().len() - 1;
    let before = schema.fields()[..width].iter().map(|f| (f.name().clone(), f.data_type().clone()));
    schema_of(before.chain(added))
}

/// The columns of a table function's windows, from place `first` on; the last is the event time.
pub(crate) fn add_window_columns(scope: &mut Scope, first: usize) {
    scope.columns.extend(WINDOW_COLUMNS.iter().enumerate().map(|(i, name)| ScopeColumn {
        name: (*name).to_owned(),
        data_type: datetime_type(),
        index: first + i,
        relation: 0,
        visible: true,
        is_time: i == 2,
        is_time_text: false,
        window: None,
    }));
}

/// A step whose columns of event time can bound a join.
fn with_event_times(mut step: Relation) -> Relation {
    let times = step.scope.columns.iter().filter(|c| c.is_time).map(|c| (0, c.name.clone()));
    step.scope.event_times = times.collect();
    step
}

/// A datetime, or null where it cannot be read: such a record is dead-lettered.
fn event_time(value: Typed) -> Result<Typed, QueryError> {
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

pub(crate) fn rename(scope: &mut Scope, alias: Option<&TableAlias>) -> Result<(), QueryError> {
    let Some(alias) = alias else { return Ok(()) };
    if let Some(column) = alias.columns.first() {
        return Err(QueryError::unsupported(column.name.span, "an alias with column names"));
    }
    scope.relations[0].insert(0, alias.name.value.clone());
    Ok(())
}
