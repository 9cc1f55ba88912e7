//! Aggregates that depend on an order of the rows of a window: TopOne, CollectTop, Collect, the percentiles, FIRST_VALUE and
//! LAST_VALUE.
//!
//! Rows that an ORDER BY leaves equal, and rows without one, are in the order of all rows: event time, input, partition,
//! offset; where rows were made of several, event time and value.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use sqlparser::{
    ast::{Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, OrderByExpr, Value, ValueWithSpan},
    tokenizer::Span,
};
use tidemill_engine::aggregate::{self, Ranked};

use crate::{
    aggregates::AggregateCall,
    analytic::Over,
    coercion::{coerce, mismatch, to_number, type_name},
    error::QueryError,
    expression::{Expressions, place},
    functions::{record::Row, reference::FunctionDoc},
    scope::Scope,
    typed::Typed,
    windows::whole,
};

/// Most rows that CollectTop gives.
const MAX_TOP: i64 = 10_000;

const KEEPS: &str = "NULLs count; in ORDER BY they are the smallest";
const LEFT_OUT: &str = "NULLs are left out; NULL when nothing is left";

/// Name, what is said of it.
static FUNCTIONS: &[(&str, FunctionDoc)] = &[
    (
        "topone",
        FunctionDoc {
            signature: "TopOne([x]) OVER (ORDER BY y [DESC], ...)",
            meaning: "x of the first row in this order, or the row as a record",
            nulls: KEEPS,
            examples: &[("TopOne(x) OVER (ORDER BY x DESC)", "3")],
            page: "topone-azure-stream-analytics",
        },
    ),
    (
        "collecttop",
        FunctionDoc {
            signature: "CollectTop(n [, x]) OVER (ORDER BY y [DESC], ...)",
            meaning: "array of the first n rows in this order, each {rank, value}",
            nulls: KEEPS,
            examples: &[("CollectTop(1, x) OVER (ORDER BY x)", r#"[{"rank": 1, "value": 1}]"#)],
            page: "collecttop-azure-stream-analytics",
        },
    ),
    (
        "collect",
        FunctionDoc {
            signature: "Collect([x])",
            meaning: "array of x of all rows, or of all rows as records, by time",
            nulls: "NULLs are left out; an empty array when nothing is left",
            examples: &[("GetArrayLength(Collect(x))", "4")],
            page: "collect-azure-stream-analytics",
        },
    ),
    (
        "percentile_cont",
        FunctionDoc {
            signature: "Percentile_Cont(p) OVER (ORDER BY x [DESC])",
            meaning: "the value at the part p (0 to 1) of the values in order, between two of them in proportion; a float",
            nulls: LEFT_OUT,
            examples: &[("Percentile_Cont(0.5) OVER (ORDER BY x)", "2.5")],
            page: "percentile-cont-azure-stream-analytics",
        },
    ),
    (
        "percentile_disc",
        FunctionDoc {
            signature: "Percentile_Disc(p) OVER (ORDER BY x [DESC])",
            meaning: "the first value up to which at least the part p (0 to 1) of the values lies",
            nulls: LEFT_OUT,
            examples: &[("Percentile_Disc(0.5) OVER (ORDER BY x)", "2")],
            page: "percentile-disc-azure-stream-analytics",
        },
    ),
    (
        "first_value",
        FunctionDoc {
            signature: "FIRST_VALUE(x)",
            meaning: "x of the earliest row; of the standard",
            nulls: "NULLs count",
            examples: &[("FIRST_VALUE(x) IS NULL", "false")],
            page: "",
        },
    ),
    (
        "last_value",
        FunctionDoc {
            signature: "LAST_VALUE(x)",
            meaning: "x of the latest row; of the standard",
            nulls: "NULLs count",
            examples: &[("LAST_VALUE(x) IS NULL", "false")],
            page: "",
        },
    ),
];

/// What the reference page says of them.
pub(crate) fn docs() -> impl Iterator<Item = FunctionDoc> {
    FUNCTIONS.iter().map(|(_, doc)| *doc)
}

/// Whether this lower-case name is that of one of these aggregates.
pub(crate) fn is_ranked(name: &str) -> bool {
    FUNCTIONS.iter().any(|(n, _)| *n == name)
}

/// A call of one of these aggregates over `rows`, whose place in the order of all rows is `order` if they have one.
pub(crate) fn call(
    name: &str,
    function: &Function,
    rows: &Scope,
    order: Option<&Typed>,
    expressions: &mut Expressions<'_>,
    span: Span,
) -> Result<AggregateCall, QueryError> {
    let over = Over::of(function)?;
    if over.limit.is_none() && (!over.partition.is_empty() || over.when.is_some()) {
        return Err(QueryError::at(span, format!("`{}` of a window takes ORDER BY only in OVER", function.name))
            .help("GROUP BY says of which rows; with LIMIT DURATION it would be a function of the rows before"));
    }
    let takes_order = !matches!(name, "collect" | "first_value" | "last_value");
    if takes_order == over.order.is_empty() {
        return Err(QueryError::at(
            span,
            match takes_order {
                true => format!("`{}` needs OVER (ORDER BY ...)", function.name),
                false => format!("`{}` takes its rows by time: no ORDER BY", function.name),
            },
        ));
    }
    let args = call_arguments(function, span)?;
    if name.starts_with("percentile") {
        return percentile(name, &args, over.order, expressions, span);
    }
    let (n, value) = match (name, args.as_slice()) {
        ("collecttop", [n]) => (Some(*n), None),
        ("collecttop", [n, value]) => (Some(*n), Some(*value)),
        ("topone" | "collect", []) => (None, None),
        ("topone" | "collect" | "first_value" | "last_value", [value]) => (None, Some(*value)),
        _ => {
            let doc = FUNCTIONS.iter().find(|(n, _)| *n == name).map_or("", |(_, doc)| doc.signature);
            return Err(
                QueryError::at(span, format!("wrong arguments of `{}`", function.name)).help(format!("write {doc}"))
            );
        }
    };
    let value_of_rows = match value {
        None => Row::of(rows, None, span)?,
        Some(value) => match expressions.plan(value)? {
            null if null.data_type == DataType::Null => coerce(null, &DataType::Utf8)?,
            value => value,
        },
    };
    let mut keys = ordered_by(over.order, rows, expressions)?;
    let latest_first = name == "last_value";
    keys.push((rows.time(span), latest_first));
    keys.extend(order.map(|order| (order.clone(), latest_first)));
    let ranked = match name {
        "collecttop" => {
            let at = n.map_or(span, place);
            let n = n.map_or(Ok(0), whole)?;
            if !(1..=MAX_TOP).contains(&n) {
                return Err(QueryError::at(at, format!("expected a number of rows from 1 to {MAX_TOP}")));
            }
            Ranked::Top(n as usize)
        }
        "collect" => Ranked::All { nulls: value.is_none() },
        _ => Ranked::First,
    };
    let value_type = value_of_rows.data_type.clone();
    let data_type = match ranked {
        Ranked::First => value_type,
        Ranked::Top(_) => {
            let rank = arrow::datatypes::Field::new("rank", DataType::Int64, false);
            let value = arrow::datatypes::Field::new("value", value_type, true);
            DataType::new_list(DataType::Struct([rank, value].into_iter().collect()), true)
        }
        Ranked::All { .. } => DataType::new_list(value_type, true),
    };
    let (keys, descending): (Vec<_>, Vec<_>) = keys.into_iter().unzip();
    Ok(AggregateCall {
        function: aggregate::ranked(ranked, descending),
        types: std::iter::once(&value_of_rows).chain(&keys).map(|a| a.data_type.clone()).collect(),
        args: std::iter::once(value_of_rows).chain(keys).map(|a| a.expr).collect(),
        distinct: false,
        name: name.to_owned(),
        data_type,
    })
}

/// Arguments of a call; `*` alone is as none.
fn call_arguments(function: &Function, span: Span) -> Result<Vec<&Expr>, QueryError> {
    let FunctionArguments::List(list) = &function.args else { return Ok(vec![]) };
    let argument = |arg| match arg {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref e)) => Some(e),
        _ => None,
    };
    match list.args.as_slice() {
        [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] => Ok(vec![]),
        args => {
            args.iter().map(argument).collect::<Option<_>>().ok_or_else(|| {
                QueryError::at(span, format!("expected expressions as arguments of `{}`", function.name))
            })
        }
    }
}

/// What an ORDER BY sorts by, and whether descending.
fn ordered_by(
    order: &[OrderByExpr],
    rows: &Scope,
    expressions: &mut Expressions<'_>,
) -> Result<Vec<(Typed, bool)>, QueryError> {
    order
        .iter()
        .map(|by| {
            let value = rows.as_time(expressions.plan(&by.expr)?)?;
            if !matches!(value.data_type, DataType::Int64 | DataType::Float64 | DataType::Timestamp(..)) {
                let found = type_name(&value.data_type);
                return Err(QueryError::at(value.span, format!("expected bigint, float or datetime, found {found}"))
                    .help("rows are ordered by numbers and datetimes: CAST or TRY_CAST it"));
            }
            Ok((value, by.options.asc == Some(false)))
        })
        .collect()
}

fn percentile(
    name: &str,
    args: &[&Expr],
    order: &[OrderByExpr],
    expressions: &mut Expressions<'_>,
    span: Span,
) -> Result<AggregateCall, QueryError> {
    let expected = || QueryError::at(span, "expected a part from 0 to 1, e.g. Percentile_Cont(0.5)");
    let [part] = args else { return Err(expected()) };
    let part = match part {
        Expr::Value(ValueWithSpan { value: Value::Number(..), .. }) => match expressions.plan(part)?.constant() {
            Some(ScalarValue::Float64(Some(x))) => *x,
            Some(ScalarValue::Int64(Some(n))) => *n as f64,
            _ => return Err(expected()),
        },
        _ => return Err(expected()),
    };
    if !(0.0..=1.0).contains(&part) {
        return Err(expected());
    }
    let [by] = order else {
        return Err(QueryError::at(span, format!("`{name}` takes one expression in ORDER BY")));
    };
    let value = expressions.plan(&by.expr)?;
    let continuous = name == "percentile_cont";
    let value = match value.data_type {
        DataType::Timestamp(..) if !continuous => value,
        DataType::Timestamp(..) => return Err(mismatch(&value, "a number")),
        _ => to_number(value)?,
    };
    let value = if continuous { coerce(value, &DataType::Float64)? } else { value };
    let data_type = value.data_type.clone();
    Ok(AggregateCall {
        function: aggregate::percentile(part, continuous, by.options.asc == Some(false)),
        types: vec![value.data_type.clone()],
        args: vec![Arc::clone(&value.expr)],
        distinct: false,
        name: name.to_owned(),
        data_type,
    })
}
