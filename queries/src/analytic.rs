//! Functions of a row and of the rows before it: `LAG(x) OVER (PARTITION BY k LIMIT DURATION(hour, 1) WHEN c)` and the like.
//!
//! They are evaluated before everything else of a SELECT, over the rows of one input or step as they are: a step before
//! the WHERE adds a column for each, and where the text calls the function its column is read ([`Scope::analytics`]).

use std::{ops::ControlFlow, sync::Arc};

use arrow::datatypes::{DataType, Schema};
use datafusion_common::ScalarValue;
use datafusion_physical_expr::{PhysicalExpr, aggregate::AggregateExprBuilder, expressions::Column};
use sqlparser::{
    ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, OrderByExpr, Select, Visit, WindowType,
        visit_expressions,
    },
    tokenizer::Span,
};
use tidemill_engine::{
    ORDER,
    analytic::{anomaly::Anomaly, verdict_type},
    dataflow::{
        order::order_type,
        plan::{AnalyticCall, AnalyticFunction, AnomalyPlan, RollingAggregate},
    },
    window::shape::{Closed, WindowShape},
};

use crate::{
    aggregates::{self, AggregateCall},
    coercion::{coerce, to_number},
    error::{QueryError, QueryErrors, all, reason},
    expression::{Expressions, place},
    functions::{record::Row, reference::FunctionDoc},
    graph::{ORDER_COLUMN, Step},
    plan::Planner,
    ranked,
    rewrite::{LIMIT, WHEN},
    scope::{AnalyticColumn, Scope, schema_of},
    tables::Relation,
    typed::Typed,
    windows::{MAX_ASA_SIZE, arguments, duration, function_name, name_span, whole},
};

const SPIKE_AND_DIP: &str = "anomalydetection_spikeanddip";
const CHANGE_POINT: &str = "anomalydetection_changepoint";
const NO_AGGREGATES: &str = "aggregates cannot be used inside a function with OVER";

/// What the reference page says of them.
pub(crate) static DOCS: &[FunctionDoc] = &[
    FunctionDoc {
        signature: "LAG(x[, n[, default]]) OVER ([PARTITION BY k] LIMIT DURATION(unit, n) [WHEN c])",
        meaning: "x of the row n rows before, by default 1, of the same partition, among those within the duration for \
                  which `c` holds; `*` is the whole row; without such a row the default",
        nulls: "a NULL is a value as others",
        examples: &[("LAG(x) OVER (LIMIT DURATION(minute, 1))", "[1,2,3,null]")],
        page: "lag-azure-stream-analytics",
    },
    FunctionDoc {
        signature: "LAST(x[, default]) OVER ([PARTITION BY k] LIMIT DURATION(unit, n) [WHEN c])",
        meaning: "x of the last row for which `c` holds, which may be the current one",
        nulls: "a NULL is a value as others",
        examples: &[("LAST(x) OVER (LIMIT DURATION(minute, 1) WHEN x < 3)", "[1,2,2,2]")],
        page: "last-azure-stream-analytics",
    },
    FunctionDoc {
        signature: "ISFIRST(unit, n) [OVER ([PARTITION BY k] [WHEN c])]",
        meaning: "1 for the first row of its interval, of its partition and for which `c` holds, else 0",
        nulls: "never NULL",
        examples: &[("ISFIRST(hour, 1) OVER (WHEN x > 1)", "[0,0,0,1]")],
        page: "isfirst-azure-stream-analytics",
    },
    FunctionDoc {
        signature: "COUNT, SUM, AVG, MIN, MAX(x) OVER ([PARTITION BY k] LIMIT DURATION(unit, n) [WHEN c])",
        meaning: "the aggregate of the rows within the duration, the current one among them",
        nulls: "as the aggregate",
        examples: &[("SUM(x) OVER (LIMIT DURATION(minute, 1))", "[1,3,6,9]")],
        page: "over-azure-stream-analytics",
    },
    FunctionDoc {
        signature: "TopOne, CollectTop, Collect, Percentile_Cont, Percentile_Disc, STDEV, STDEVP, VAR, VARP OVER ([PARTITION BY k] \
                    [ORDER BY y] LIMIT DURATION(unit, n) [WHEN c])",
        meaning: "the aggregate of the rows within the duration, the current one among them; made anew from all of them for \
                  each row",
        nulls: "as the aggregate",
        examples: &[("TopOne(x) OVER (ORDER BY x DESC LIMIT DURATION(minute, 1))", "[1,2,3,3]")],
        page: "over-azure-stream-analytics",
    },
    FunctionDoc {
        signature: "AnomalyDetection_SpikeAndDip(x, confidence, history, mode) OVER ([PARTITION BY k] LIMIT DURATION(unit, n) [WHEN c])",
        meaning: "a record: `IsAnomaly`, 1 for a value far from the `history` values before it, and `Score`, its p-value: \
                  the chance of such a value by a Gaussian kernel density of the history (Silverman, 1986); an anomaly \
                  is a p-value below 1 - confidence / 100; needs 10 values; modes are 'spikes', 'dips', 'spikesanddips'",
        nulls: "NULL for NULL, which is left out of the history",
        examples: &[(
            "AnomalyDetection_SpikeAndDip(x, 95, 100, 'spikes') OVER (LIMIT DURATION(minute, 1)).IsAnomaly",
            "[0,0,0,0]",
        )],
        page: "anomalydetection-spikeanddip-azure-stream-analytics",
    },
    FunctionDoc {
        signature: "AnomalyDetection_ChangePoint(x, confidence, history) OVER ([PARTITION BY k] LIMIT DURATION(unit, n) [WHEN c])",
        meaning: "a record: `IsAnomaly`, 1 where the level of x has become another, and `Score`, the logarithm of a power \
                  martingale over the p-values (Vovk et al., 2003) that starts anew when it has lost (Volkhonskiy et al., \
                  2017); a change is a martingale above 1 / (1 - confidence / 100), after which the history starts anew",
        nulls: "NULL for NULL, which is left out of the history",
        examples: &[(
            "AnomalyDetection_ChangePoint(x, 95, 100) OVER (LIMIT DURATION(minute, 1)).IsAnomaly",
            "[0,0,0,0]",
        )],
        page: "anomalydetection-changepoint-azure-stream-analytics",
    },
];

/// The clauses of an OVER.
#[derive(Clone, Debug, Default)]
pub(crate) struct Over<'a> {
    pub(crate) partition: Vec<&'a Expr>,
    pub(crate) order: &'a [OrderByExpr],
    /// LIMIT DURATION, in microseconds.
    pub(crate) limit: Option<i64>,
    pub(crate) when: Option<&'a Expr>,
}

impl<'a> Over<'a> {
    /// Of a call; empty where it has no OVER.
    pub(crate) fn of(function: &'a Function) -> Result<Self, QueryError> {
        let mut over = Self::default();
        let spec = match &function.over {
            None => return Ok(over),
            Some(WindowType::WindowSpec(spec)) => spec,
            Some(WindowType::NamedWindow(name)) => {
                return Err(QueryError::at(name.span, "expected `(` behind OVER"));
            }
        };
        if spec.window_name.is_some() || spec.window_frame.is_some() {
            return Err(QueryError::at(name_span(function), "a frame in OVER is not of the language")
                .help("write LIMIT DURATION(unit, n)"));
        }
        over.order = &spec.order_by;
        for expr in &spec.partition_by {
            match expr {
                Expr::Function(f) if function_name(f) == LIMIT => over.limit = Some(limit(f)?),
                Expr::Function(f) if function_name(f) == WHEN => over.when = arguments(f)?.first().copied(),
                key => over.partition.push(key),
            }
        }
        Ok(over)
    }
}

pub(crate) fn limit(function: &Function) -> Result<i64, QueryError> {
    const EXPECTED: &str = "expected LIMIT DURATION(unit, n)";
    match arguments(function)?.as_slice() {
        [Expr::Function(f)] if function_name(f) == "duration" => {
            let length = duration(&arguments(f)?, name_span(f))?;
            match length {
                1..=MAX_ASA_SIZE => Ok(length),
                ..1 => Err(QueryError::at(name_span(f), "the duration must be above 0")),
                _ => Err(QueryError::at(name_span(f), "a duration is at most 7 days")),
            }
        }
        [other] => Err(QueryError::at(place(other), EXPECTED)),
        _ => Err(QueryError::at(name_span(function), EXPECTED)),
    }
}

/// Whether a call is a function of the rows before, and not an aggregate of a window.
pub(crate) fn is_analytic(function: &Function) -> bool {
    let limited = || match &function.over {
        Some(WindowType::WindowSpec(spec)) => {
            spec.partition_by.iter().any(|e| matches!(e, Expr::Function(f) if function_name(f) == LIMIT))
        }
        _ => false,
    };
    matches!(function_name(function).as_str(), "lag" | "last" | "isfirst" | SPIKE_AND_DIP | CHANGE_POINT) || limited()
}

/// The analytic calls of a SELECT, each once; those of subqueries in FROM are their own.
pub(crate) fn calls(select: &Select) -> Vec<Function> {
    let mut calls = vec![];
    find(&select.projection, &mut calls);
    find(&select.selection, &mut calls);
    find(&select.group_by, &mut calls);
    find(&select.having, &mut calls);
    for join in select.from.iter().flat_map(|table| &table.joins) {
        find(&join.join_operator, &mut calls);
    }
    calls
}

fn find(part: &impl Visit, calls: &mut Vec<Function>) {
    // Nothing breaks off.
    let _ = visit_expressions::<_, (), _>(part, |expr| {
        if let Expr::Function(function) = expr
            && is_analytic(function)
            && !calls.contains(function)
        {
            calls.push(function.clone());
        }
        ControlFlow::Continue(())
    });
}

/// A call, planned, and the type of its results.
struct Planned {
    call: AnalyticCall,
    data_type: DataType,
}

impl Planner<'_> {
    /// Adds columns for those of `calls` that can be computed over the rows of `relation`, and takes them off the list.
    pub(crate) fn analytic(&mut self, relation: Relation, calls: &mut Vec<Function>) -> Result<Relation, QueryErrors> {
        if calls.is_empty() {
            return Ok(relation);
        }
        let mut relation = self.assigned(relation);
        let mut planned = vec![];
        let order = self.graph.can_order(relation.node);
        let order = order.then(|| Typed::column(ORDER, ORDER_COLUMN, order_type(), Span::empty()));
        calls.retain(|function| match plan(function, &relation.scope, order.as_ref()) {
            Ok(call) => {
                planned.push((function.clone(), call));
                false
            }
            Err(_) => true,
        });
        if planned.is_empty() {
            return Ok(relation);
        }
        let before = self.graph.schema(relation.node);
        let first = before.fields().len() - 1;
        let columns = before.fields()[..first].iter().map(|f| (f.name().clone(), f.data_type().clone()));
        let added = planned.iter().map(|(function, p)| (function_name(function), p.data_type.clone()));
        let schema = schema_of(columns.chain(added));
        let scope = &mut relation.scope;
        scope.time = first + planned.len();
        let mut step = vec![];
        for (i, (function, Planned { call, data_type })) in planned.into_iter().enumerate() {
            scope.analytics.push(AnalyticColumn { function, index: first + i, data_type });
            step.push(call);
        }
        relation.node = self.graph.add(Step::Analytic(step), vec![relation.node], schema);
        Ok(relation)
    }
}

/// What is wrong with calls that fit no input of the FROM, whose scope this is.
pub(crate) fn refuse(calls: &[Function], scope: &Scope) -> Result<(), QueryErrors> {
    all(calls.iter().map(|function| match plan(function, scope, None) {
        Err(error) => Err::<(), _>(error),
        Ok(_) => Err(QueryError::at(
            name_span(function),
            format!("`{}(...) OVER` reads columns of several inputs", function.name),
        )
        .help("join them in a step of a WITH clause, and call it over that step")),
    }))?;
    Ok(())
}

fn plan(function: &Function, scope: &Scope, order: Option<&Typed>) -> Result<Planned, QueryError> {
    let (name, span) = (function_name(function), name_span(function));
    let over = Over::of(function)?;
    if let Some(order) = over.order.first()
        && matches!(
            name.as_str(),
            "lag" | "last" | "isfirst" | "count" | "sum" | "avg" | "min" | "max" | SPIKE_AND_DIP | CHANGE_POINT
        )
    {
        return Err(QueryError::at(
            place(&order.expr),
            format!("`{}` takes its rows by time: no ORDER BY", function.name),
        ));
    }
    let mut expressions = Expressions::plain(scope, NO_AGGREGATES);
    let partition = over.partition.iter().map(|k| Ok(expressions.plan(k)?.expr)).collect::<Result<_, QueryError>>()?;
    let when = over.when.map(|w| expressions.condition(w)).transpose()?.map(|w| w.expr);
    let within = || {
        over.limit.ok_or_else(|| {
            QueryError::at(span, format!("`{}` needs a LIMIT DURATION", function.name))
                .help("write OVER (LIMIT DURATION(minute, 5))")
        })
    };
    let (function, argument, data_type) = match name.as_str() {
        "lag" | "last" => look_back(function, &name, &mut expressions, scope, within()?)?,
        "isfirst" => {
            let length = duration(&arguments(function)?, span)?;
            if length <= 0 {
                return Err(QueryError::at(span, "the interval of ISFIRST must be above 0"));
            }
            let interval = WindowShape { size: length, hop: length, offset: 0, closed: Closed::End };
            (AnalyticFunction::First(interval), Typed::literal(ScalarValue::Int64(Some(1)), span), DataType::Int64)
        }
        SPIKE_AND_DIP | CHANGE_POINT => {
            let (plan, argument) = anomaly(function, &name, &mut expressions, within()?)?;
            (AnalyticFunction::Anomaly(plan), argument, verdict_type())
        }
        "count" | "sum" | "avg" | "min" | "max" => {
            let (argument, data_type) = aggregated(function, &name, &mut expressions, scope)?;
            let aggregate = match name.as_str() {
                "count" => RollingAggregate::Count,
                "sum" => RollingAggregate::Sum,
                "avg" => RollingAggregate::Avg,
                "min" => RollingAggregate::Min,
                _ => RollingAggregate::Max,
            };
            (AnalyticFunction::Rolling { aggregate, within_us: within()? }, argument, data_type)
        }
        _ => {
            let call = match ranked::is_ranked(&name) {
                true => ranked::call(&name, function, scope, order, &mut expressions, span)?,
                false => spread(function, &name, &mut expressions)?,
            };
            gathered(call, within()?, span)?
        }
    };
    Ok(Planned { call: AnalyticCall { function, argument: argument.expr, partition, when }, data_type })
}

/// STDEV and its like: what calculates with one number.
fn spread(function: &Function, name: &str, expressions: &mut Expressions<'_>) -> Result<AggregateCall, QueryError> {
    let span = name_span(function);
    if !aggregates::is_aggregate(name) {
        return Err(QueryError::at(span, format!("`{}` has no OVER", function.name)));
    }
    let args = arguments(function)?;
    let [value] = args.as_slice() else {
        return Err(QueryError::at(span, format!("`{name}` takes one argument")));
    };
    aggregates::call(name, expressions.plan(value)?, false, false, span)
}

/// An aggregate over a duration: its arguments are kept as one record a row.
fn gathered(
    call: AggregateCall,
    within_us: i64,
    span: Span,
) -> Result<(AnalyticFunction, Typed, DataType), QueryError> {
    let AggregateCall { function, args, data_type, name, types, .. } = call;
    let args = args.into_iter().zip(types).enumerate();
    let fields = args.map(|(i, (expr, data_type))| (i.to_string(), Typed { expr, data_type, span }));
    let record = Row::with(fields.collect(), span)?;
    let DataType::Struct(fields) = record.data_type.clone() else {
        return Err(QueryError::at(span, "expected an argument"));
    };
    let columns: Vec<Arc<dyn PhysicalExpr>> =
        fields.iter().enumerate().map(|(i, f)| Arc::new(Column::new(f.name(), i)) as _).collect();
    let aggregate =
        AggregateExprBuilder::new(function, columns).schema(Arc::new(Schema::new(fields))).alias(name).build();
    let aggregate = Arc::new(aggregate.map_err(|e| QueryError::at(span, reason(&e)))?);
    Ok((AnalyticFunction::Gathered { aggregate, within_us }, record, data_type))
}

/// `LAG(x[, offset[, default]])`, `LAST(x[, default])`; `*` is the whole row as a record.
fn look_back(
    function: &Function,
    name: &str,
    expressions: &mut Expressions<'_>,
    scope: &Scope,
    within_us: i64,
) -> Result<(AnalyticFunction, Typed, DataType), QueryError> {
    let span = name_span(function);
    let lag = name == "lag";
    let usage = || {
        QueryError::at(
            span,
            match lag {
                true => "expected LAG(value[, offset[, default]])",
                false => "expected LAST(value[, default])",
            },
        )
    };
    let FunctionArguments::List(list) = &function.args else { return Err(usage()) };
    let [first, rest @ ..] = list.args.as_slice() else { return Err(usage()) };
    let value = match first {
        FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => Row::of(scope, None, span)?,
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => expressions.plan(e)?,
        _ => return Err(usage()),
    };
    // NULL without a type prints as any null does.
    let value = if value.data_type == DataType::Null { coerce(value, &DataType::Utf8)? } else { value };
    let mut rest = rest.iter().map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Ok(e),
        _ => Err(usage()),
    });
    let offset = match if lag { rest.next().transpose()? } else { None } {
        Some(e) => usize::try_from(whole(e)?).ok().filter(|n| (1..=MAX_OFFSET).contains(n)).ok_or_else(|| {
            QueryError::at(place(e), format!("the offset of LAG is a whole number from 1 to {MAX_OFFSET}"))
        })?,
        None => usize::from(lag),
    };
    let default = rest.next().transpose()?.map(|e| coerce(expressions.plan(e)?, &value.data_type)).transpose()?;
    if rest.next().is_some() {
        return Err(usage());
    }
    let data_type = value.data_type.clone();
    Ok((AnalyticFunction::Lag { offset, default: default.map(|d| d.expr), within_us }, value, data_type))
}

/// `AnomalyDetection_SpikeAndDip(x, confidence, history, mode)` and `AnomalyDetection_ChangePoint(x, confidence, history)`.
fn anomaly(
    function: &Function,
    name: &str,
    expressions: &mut Expressions<'_>,
    within_us: i64,
) -> Result<(AnomalyPlan, Typed), QueryError> {
    let span = name_span(function);
    let args = arguments(function)?;
    let (value, confidence, history, mode) = match (name, args.as_slice()) {
        (SPIKE_AND_DIP, [value, confidence, history, mode]) => (value, confidence, history, Some(mode)),
        (CHANGE_POINT, [value, confidence, history]) => (value, confidence, history, None),
        (SPIKE_AND_DIP, _) => {
            return Err(QueryError::at(
                span,
                "expected AnomalyDetection_SpikeAndDip(value, confidence, history, 'spikesanddips')",
            ));
        }
        _ => return Err(QueryError::at(span, "expected AnomalyDetection_ChangePoint(value, confidence, history)")),
    };
    let argument = coerce(to_number(expressions.plan(value)?)?, &DataType::Float64)?;
    let percent = match expressions.plan(confidence)?.constant() {
        Some(ScalarValue::Int64(Some(n))) => Some(*n as f64),
        Some(ScalarValue::Float64(Some(x))) => Some(*x),
        _ => None,
    };
    let confidence = percent
        .filter(|p| (1.0..=100.0).contains(p))
        .ok_or_else(|| QueryError::at(place(confidence), "the confidence is a number from 1 to 100, in percent"))?;
    let history =
        usize::try_from(whole(history)?).ok().filter(|n| (MIN_HISTORY..=MAX_HISTORY).contains(n)).ok_or_else(|| {
            QueryError::at(place(history), format!("the history is from {MIN_HISTORY} to {MAX_HISTORY} events"))
        })?;
    let anomaly = match mode {
        None => Anomaly::ChangePoint,
        Some(mode) => match expressions.plan(mode)?.constant() {
            Some(ScalarValue::Utf8(Some(mode))) if mode.eq_ignore_ascii_case("spikes") => Anomaly::Spikes,
            Some(ScalarValue::Utf8(Some(mode))) if mode.eq_ignore_ascii_case("dips") => Anomaly::Dips,
            Some(ScalarValue::Utf8(Some(mode))) if mode.eq_ignore_ascii_case("spikesanddips") => Anomaly::SpikesAndDips,
            _ => {
                return Err(QueryError::at(place(mode), "expected 'spikes', 'dips' or 'spikesanddips'"));
            }
        },
    };
    Ok((AnomalyPlan { anomaly, confidence, history, within_us }, argument))
}

/// A detector looks over all of its history for each row.
const MAX_HISTORY: usize = 10_000;
/// Fewer values tell nothing.
const MIN_HISTORY: usize = 10;

/// LAG keeps so many rows of each partition.
const MAX_OFFSET: usize = 100_000;

/// The argument of COUNT, SUM, AVG, MIN or MAX, and the type of the result.
fn aggregated(
    function: &Function,
    name: &str,
    expressions: &mut Expressions<'_>,
    scope: &Scope,
) -> Result<(Typed, DataType), QueryError> {
    let span = name_span(function);
    let FunctionArguments::List(list) = &function.args else {
        return Err(QueryError::at(span, format!("`{name}` takes one argument")));
    };
    if let Some(sqlparser::ast::DuplicateTreatment::Distinct) = list.duplicate_treatment {
        return Err(QueryError::at(span, format!("`{name}(DISTINCT ...)` cannot be used with OVER")));
    }
    let argument = match list.args.as_slice() {
        [] | [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] if name == "count" => None,
        // COUNT(input) counts rows.
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(i)))]
            if name == "count" && scope.relation(&i.value).is_some() && scope.find(&i.value, i.span)?.is_none() =>
        {
            None
        }
        [FunctionArg::Unnamed(FunctionArgExpr::Expr(e))] => Some(e),
        _ => return Err(QueryError::at(span, format!("`{name}` takes one argument"))),
    };
    let Some(expr) = argument else {
        return Ok((Typed::literal(ScalarValue::Int64(Some(1)), span), DataType::Int64));
    };
    let bare = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
    let value = expressions.plan(expr)?;
    let value = if matches!(name, "min" | "max") { scope.as_time(value)? } else { value };
    let call = aggregates::call(name, value, false, bare, span)?;
    let argument = call.args.into_iter().next().ok_or_else(|| QueryError::at(span, "expected an argument"))?;
    Ok((Typed { expr: argument, data_type: call.data_type.clone(), span }, call.data_type))
}

/// The column of an analytic call.
pub(crate) fn column(function: &Function, scope: &Scope, span: Span) -> Result<Typed, QueryError> {
    match scope.analytics.iter().find(|a| a.function == *function) {
        Some(a) => Ok(Typed::column(&function_name(function), a.index, a.data_type.clone(), span)),
        None => Err(QueryError::at(span, format!("`{}` cannot be used here", function.name))
            .help("functions of the rows before stand in SELECT, WHERE, GROUP BY, HAVING and ON")),
    }
}
