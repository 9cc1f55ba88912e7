//! Windows as the text writes them: ASA's functions in GROUP BY and the arguments of the standard table functions.

use sqlparser::{
    ast::{
        DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Interval, UnaryOperator, Value,
    },
    tokenizer::Span,
};
use tidemill_engine::window::shape::{Closed, WindowShape};

use crate::{error::QueryError, expression::place, functions::Part};

/// Longest window, in microseconds: a hundred years, so that sums of boundaries stay in range.
const MAX_SIZE: i64 = 100 * 366 * 24 * 3600 * 1_000_000;

/// ASA's windows by lower-case name without `window`; the last three are not built yet.
const ASA_WINDOWS: &[&str] = &["tumbling", "hopping", "sliding", "session", "windows"];

/// Arguments of a call as expressions; `*`, subqueries and names (`x => 1`) are none.
pub(crate) fn arguments(function: &Function) -> Result<Vec<&Expr>, QueryError> {
    let FunctionArguments::List(list) = &function.args else { return Ok(vec![]) };
    let expression = |arg| match arg {
        &FunctionArg::Unnamed(FunctionArgExpr::Expr(ref e)) => Ok(e),
        _ => Err(QueryError::at(name_span(function), "expected an expression as argument")),
    };
    list.args.iter().map(expression).collect()
}

/// Names of a table function's arguments, in the order of their places.
fn argument_names(function: &str) -> &'static [&'static str] {
    match function {
        "hop" => &["data", "timecol", "slide", "size", "offset"],
        _ => &["data", "timecol", "size", "offset"],
    }
}

/// Arguments of a table function; where they are named (`SIZE => ...`), each name must be that of its place.
pub(crate) fn table_arguments<'a>(
    function: &str,
    args: &'a [FunctionArg],
    span: Span,
) -> Result<Vec<&'a Expr>, QueryError> {
    let names = argument_names(function);
    let argument = |(i, arg): (usize, &'a FunctionArg)| {
        let (name, expr) = match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => return Ok(e),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(e), .. } => (name.value.clone(), e),
            FunctionArg::ExprNamed { name, arg: FunctionArgExpr::Expr(e), .. } => (name.to_string(), e),
            _ => return Err(QueryError::at(span, "expected an expression as argument")),
        };
        match names.get(i) {
            Some(expected) if name.eq_ignore_ascii_case(expected) => Ok(expr),
            _ => Err(QueryError::at(place(expr), format!("`{name}` does not stand in its place")).help(format!(
                "the arguments of {} are {}, in this order",
                function.to_uppercase(),
                names.join(", ")
            ))),
        }
    };
    args.iter().enumerate().map(argument).collect()
}

/// Place of a function's name.
pub(crate) fn name_span(function: &Function) -> Span {
    function.name.0.first().and_then(|p| p.as_ident()).map_or(Span::empty(), |i| i.span)
}

/// A function's name in lower case, with its qualifiers.
pub(crate) fn function_name(function: &Function) -> String {
    let parts: Vec<_> = function.name.0.iter().map(|p| p.as_ident().map_or("", |i| i.value.as_str())).collect();
    parts.join(".").to_ascii_lowercase()
}

/// The function that an element of GROUP BY calls, if it is one of ASA's windows: its kind and the call.
pub(crate) fn asa_window(expr: &Expr) -> Option<(&'static str, &Function)> {
    let Expr::Function(function) = expr else { return None };
    let name = function_name(function);
    let short = name.strip_suffix("window").unwrap_or(&name);
    ASA_WINDOWS.iter().find(|w| **w == short || **w == name).map(|w| (*w, function))
}

/// The shape of an ASA window: `(unit, size[, hop][, offset])` or `(Duration(..)[, Hop(..)][, Offset(..)])`.
pub(crate) fn asa_shape(kind: &str, function: &Function) -> Result<WindowShape, QueryError> {
    let span = name_span(function);
    let name = function.name.to_string();
    if !matches!(kind, "tumbling" | "hopping") {
        return Err(QueryError::unsupported(span, format!("`{name}`")));
    }
    let hopping = kind == "hopping";
    let args = arguments(function)?;
    let (mut size, mut hop, mut offset) = (None, None, None);
    if args.iter().all(|a| matches!(a, Expr::Function(_))) {
        for arg in args {
            let Expr::Function(part) = arg else { continue };
            let length = duration(&arguments(part)?, name_span(part))?;
            let slot = match function_name(part).as_str() {
                "duration" => &mut size,
                "hop" if hopping => &mut hop,
                "offset" => &mut offset,
                other => {
                    return Err(
                        QueryError::at(name_span(part), format!("`{name}` has no `{other}`")).help(usage(hopping))
                    );
                }
            };
            if slot.replace(length).is_some() {
                return Err(
                    QueryError::at(name_span(part), format!("`{}` is given twice", part.name)).help(usage(hopping))
                );
            }
        }
    } else {
        let [unit, lengths @ ..] = args.as_slice() else { return Err(QueryError::at(span, usage(hopping))) };
        let unit = unit_of(unit)?;
        let mut lengths = lengths.iter().map(|n| times(unit, whole(n)?, place(n)));
        size = lengths.next().transpose()?;
        if hopping {
            hop = lengths.next().transpose()?;
        }
        offset = lengths.next().transpose()?;
        if lengths.next().is_some() {
            return Err(QueryError::at(span, format!("too many arguments for `{name}`")).help(usage(hopping)));
        }
    }
    let Some(size) = size else {
        return Err(QueryError::at(span, format!("`{name}` has no size")).help(usage(hopping)));
    };
    let hop = match (hopping, hop) {
        (true, None) => return Err(QueryError::at(span, format!("`{name}` has no hop")).help(usage(hopping))),
        (true, Some(hop)) => hop,
        (false, _) => size,
    };
    shape(size, hop, offset.unwrap_or(0), Closed::End, span)
}

fn usage(hopping: bool) -> &'static str {
    if hopping {
        "write HoppingWindow(second, 10, 5) or HoppingWindow(Duration(second, 10), Hop(second, 5), Offset(second, 1))"
    } else {
        "write TumblingWindow(second, 10) or TumblingWindow(Duration(second, 10), Offset(second, 1))"
    }
}

/// `(second, 10)` in microseconds.
pub(crate) fn duration(args: &[&Expr], span: Span) -> Result<i64, QueryError> {
    let [unit, n] = args else { return Err(QueryError::at(span, "expected a unit and a number, e.g. `(second, 10)`")) };
    times(unit_of(unit)?, whole(n)?, place(n))
}

fn times(unit: i64, n: i64, span: Span) -> Result<i64, QueryError> {
    unit.checked_mul(n).filter(|l| l.abs() <= MAX_SIZE).ok_or_else(|| QueryError::at(span, "the window is too long"))
}

/// Microseconds of a unit of a window.
fn unit_of(expr: &Expr) -> Result<i64, QueryError> {
    let name = match expr {
        Expr::Identifier(name) => Some(name.value.as_str()),
        _ => None,
    };
    name.and_then(Part::parse)
        .filter(|p| !matches!(p, Part::Week | Part::Weekday | Part::DayOfYear))
        .and_then(Part::micros)
        .ok_or_else(|| {
            QueryError::at(place(expr), "expected a unit: day, hour, minute, second, millisecond or microsecond")
        })
}

/// A whole number written in the text.
pub(crate) fn whole(expr: &Expr) -> Result<i64, QueryError> {
    match expr {
        Expr::Value(v) => match &v.value {
            Value::Number(n, _) => n.parse().ok(),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => whole(expr)?.checked_neg(),
        _ => None,
    }
    .ok_or_else(|| QueryError::at(place(expr), "expected a whole number"))
}

fn shape(size: i64, hop: i64, offset: i64, closed: Closed, span: Span) -> Result<WindowShape, QueryError> {
    if size <= 0 || hop <= 0 {
        return Err(QueryError::at(span, "the size and the hop of a window must be greater than 0"));
    }
    Ok(WindowShape { size, hop, offset, closed })
}

/// `GROUP BY System.Timestamp()`: rows of one instant. As datetimes are whole microseconds, that is a window of one.
pub(crate) fn snapshot() -> WindowShape {
    WindowShape { size: 1, hop: 1, offset: 0, closed: Closed::End }
}

/// Whether a table function of this lower-case name makes windows.
pub(crate) fn is_table_function(name: &str) -> bool {
    matches!(name, "tumble" | "hop" | "cumulate" | "session")
}

/// The shape of `TUMBLE(t, d, size[, offset])` and `HOP(t, d, slide, size[, offset])`, from the intervals.
pub(crate) fn standard_shape(name: &str, intervals: &[&Expr], span: Span) -> Result<WindowShape, QueryError> {
    let lengths = intervals.iter().map(|i| interval(i)).collect::<Result<Vec<_>, _>>()?;
    let (size, hop, offset) = match (name, lengths.as_slice()) {
        ("tumble", [size]) => (*size, *size, 0),
        ("tumble", [size, offset]) => (*size, *size, *offset),
        ("hop", [slide, size]) => (*size, *slide, 0),
        ("hop", [slide, size, offset]) => (*size, *slide, *offset),
        ("tumble" | "hop", _) => {
            return Err(QueryError::at(span, format!("wrong number of intervals for `{name}`"))
                .help("write TUMBLE(TABLE t, DESCRIPTOR(ts), size[, offset]) or HOP(TABLE t, DESCRIPTOR(ts), slide, size[, offset])"));
        }
        _ => return Err(QueryError::unsupported(span, format!("`{}`", name.to_ascii_uppercase()))),
    };
    shape(size, hop, offset, Closed::Start, span)
}

/// `INTERVAL '10' MINUTES` in microseconds.
fn interval(expr: &Expr) -> Result<i64, QueryError> {
    let wrong = || QueryError::at(place(expr), "expected an interval such as INTERVAL '10' MINUTES");
    let Expr::Interval(Interval { value, leading_field: Some(field), last_field: None, .. }) = expr else {
        return Err(wrong());
    };
    let unit = match field {
        DateTimeField::Custom(name) => Part::parse(&name.value),
        field => Part::parse(&field.to_string()),
    };
    let number = match value.as_ref() {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(n) | Value::Number(n, _) => n.trim().parse::<f64>().ok(),
            _ => None,
        },
        _ => None,
    };
    match (unit.and_then(Part::micros), number) {
        (Some(unit), Some(n)) if (n * unit as f64).abs() <= MAX_SIZE as f64 => Ok((n * unit as f64).round() as i64),
        _ => Err(wrong()),
    }
}
