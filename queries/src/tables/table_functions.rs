//! Table functions: the standard windows, `TUMBLE(TABLE t, DESCRIPTOR(c), ...)` and its like, and how their arguments are
//! written.

use sqlparser::{
    ast::{Expr, FunctionArguments, Ident, TableFactor},
    tokenizer::Span,
};
use tidemill_engine::{
    dataflow::plan::{LateAction, MetadataColumn, TimeBounds},
    datetime_type,
    window::shape::Windows,
};

use super::{Relation, inputs::event_time, relation_name};
use crate::{
    dialect::TABLE_ARGUMENT,
    error::{QueryError, QueryErrors, all},
    expression::place,
    graph::{InputTime, Step},
    plan::Planner,
    scope::{Scope, ScopeColumn, schema_of},
    typed::Typed,
    windows::{arguments, function_name, name_span, standard_windows, table_arguments},
};

/// Columns that a standard window table function adds.
pub(crate) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

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

impl Planner<'_> {
    /// `TUMBLE(TABLE t, DESCRIPTOR(c), ...)`.
    pub(super) fn windowed(&mut self, function: &str, args: &[&Expr], span: Span) -> Result<Relation, QueryErrors> {
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

type Arguments<'a> = Result<Vec<&'a Expr>, QueryError>;

/// Name (lower case), arguments and place of a table function.
pub(super) fn table_function(factor: &TableFactor) -> Option<(String, Arguments<'_>, Span)> {
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
pub(super) fn table_argument(arg: &Expr, span: Span) -> Result<(&Ident, Vec<&Ident>), QueryError> {
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
