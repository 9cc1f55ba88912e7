//! Windows as the text writes them: ASA's functions in GROUP BY and the arguments of the standard table functions.

use sqlparser::{
    ast::{
        DateTimeField, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Interval, UnaryOperator, Value,
        ValueWithSpan, WindowType,
    },
    tokenizer::Span,
};
use tidemill_engine::window::shape::{Closed, SessionShape, WindowShape, Windows};

use crate::{error::QueryError, expression::place, functions::Part};

/// Longest window, duration and bound of a join of ASA's language, in microseconds: seven days.
pub(crate) const MAX_ASA_SIZE: i64 = 7 * 24 * 3600 * 1_000_000;
/// Longest window of a table function: a hundred years, so that sums of boundaries stay in range.
const MAX_SIZE: i64 = 100 * 366 * 24 * 3600 * 1_000_000;

/// ASA's windows by lower-case name without `window`.
const ASA_WINDOWS: &[&str] = &["tumbling", "hopping", "sliding", "session", "windows"];

/// One window of a GROUP BY.
#[derive(Clone, Debug)]
pub(crate) struct AsaWindow<'a> {
    pub(crate) windows: Windows,
    /// Keys whose values make sessions of their own.
    pub(crate) partition: Vec<&'a Expr>,
    /// Its name inside `Windows(...)`.
    pub(crate) id: Option<String>,
}

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
        "cumulate" => &["data", "timecol", "step", "size", "offset"],
        "session" => &["data", "timecol", "gap"],
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

/// What an element of GROUP BY that is one of ASA's windows says: several for `Windows(...)`, and whether it is that.
pub(crate) fn asa_windows<'a>(kind: &str, function: &'a Function) -> Result<Vec<AsaWindow<'a>>, QueryError> {
    if kind != "windows" {
        return Ok(vec![asa_window_of(kind, function)?]);
    }
    let span = name_span(function);
    let help = "write Windows(TumblingWindow(minute, 1), HoppingWindow(minute, 5, 1)) \
                or Windows(Window('a', TumblingWindow(minute, 1)), ...)";
    let mut windows = vec![];
    for arg in arguments(function)? {
        let (id, definition) = match arg {
            Expr::Function(f) if function_name(f) == "window" => match arguments(f)?.as_slice() {
                [Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(id), .. }), definition] => {
                    (Some(id.clone()), *definition)
                }
                _ => return Err(QueryError::at(name_span(f), "expected an id in quotes and a window").help(help)),
            },
            _ => (None, arg),
        };
        let window = match asa_window(definition) {
            _ if is_system_timestamp(definition) => AsaWindow { windows: snapshot(), partition: vec![], id: None },
            Some(("windows", inner)) => {
                return Err(QueryError::at(name_span(inner), "`Windows` cannot stand inside `Windows`"));
            }
            Some((kind, function)) => asa_window_of(kind, function)?,
            None => return Err(QueryError::at(place(definition), "expected a window").help(help)),
        };
        if windows.first().is_some_and(|first: &AsaWindow<'_>| first.id.is_some() != id.is_some()) {
            return Err(QueryError::at(place(arg), "either all windows have an id, or none").help(help));
        }
        if let Some(id) = &id
            && windows.iter().any(|w| w.id.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(id)))
        {
            return Err(QueryError::at(place(arg), format!("two windows have the id `{id}`")));
        }
        windows.push(AsaWindow { id, ..window });
    }
    if windows.is_empty() {
        return Err(QueryError::at(span, "`Windows` without a window").help(help));
    }
    Ok(windows)
}

/// `System.Timestamp()`, with parentheses or without.
pub(crate) fn is_system_timestamp(expr: &Expr) -> bool {
    match expr {
        Expr::Function(f) => function_name(f) == "system.timestamp",
        Expr::CompoundIdentifier(path) => {
            matches!(path.as_slice(), [a, b] if a.value.eq_ignore_ascii_case("system") && b.value.eq_ignore_ascii_case("timestamp"))
        }
        _ => false,
    }
}

/// The lengths that an ASA window takes, by the names of their functions and in the order of their places.
struct Lengths {
    required: &'static [&'static str],
    offset: bool,
    usage: &'static str,
}

fn lengths_of(kind: &str) -> Lengths {
    let (required, offset, usage): (&[&str], _, _) = match kind {
        "tumbling" => (
            &["duration"],
            true,
            "write TumblingWindow(second, 10) or TumblingWindow(Duration(second, 10), Offset(second, 1))",
        ),
        "hopping" => (
            &["duration", "hop"],
            true,
            "write HoppingWindow(second, 10, 5) or HoppingWindow(Duration(second, 10), Hop(second, 5), Offset(second, 1))",
        ),
        "sliding" => (&["duration"], false, "write SlidingWindow(second, 10) or SlidingWindow(Duration(second, 10))"),
        _ => (
            &["timeout", "maxduration"],
            false,
            "write SessionWindow(second, 5, 60) or SessionWindow(Timeout(second, 5), MaxDuration(minute, 1))",
        ),
    };
    Lengths { required, offset, usage }
}

/// `(unit, length ...[, offset])` or `(Duration(unit, n), ...[, Offset(unit, n)])`.
fn asa_window_of<'a>(kind: &str, function: &'a Function) -> Result<AsaWindow<'a>, QueryError> {
    let span = name_span(function);
    let name = function.name.to_string();
    let Lengths { required, offset, usage } = lengths_of(kind);
    let args = arguments(function)?;
    let mut lengths: Vec<Option<i64>> = vec![None; required.len() + usize::from(offset)];
    if args.iter().all(|a| matches!(a, Expr::Function(_))) {
        for arg in args {
            let Expr::Function(part) = arg else { continue };
            let found = function_name(part);
            let known = required.iter().copied().chain(offset.then_some("offset"));
            let Some(at) = known.clone().position(|k| k == found) else {
                return Err(QueryError::at(name_span(part), format!("`{name}` has no `{found}`")).help(usage));
            };
            let length = duration(&arguments(part)?, name_span(part))?;
            if lengths[at].replace(length).is_some() {
                return Err(QueryError::at(name_span(part), format!("`{}` is given twice", part.name)).help(usage));
            }
        }
    } else {
        let [unit, numbers @ ..] = args.as_slice() else { return Err(QueryError::at(span, usage)) };
        let unit = unit_of(unit)?;
        if numbers.len() > lengths.len() {
            return Err(QueryError::at(span, format!("too many arguments for `{name}`")).help(usage));
        }
        for (length, n) in lengths.iter_mut().zip(numbers) {
            *length = Some(times(unit, n)?);
        }
    }
    let shift = if offset { lengths.pop().flatten().unwrap_or(0) } else { 0 };
    let mut values = Vec::with_capacity(lengths.len());
    for (length, what) in lengths.into_iter().zip(required) {
        let what = if *what == "duration" { "size" } else { what };
        let Some(length) = length else {
            return Err(QueryError::at(span, format!("`{name}` has no {what}")).help(usage));
        };
        if length <= 0 {
            return Err(QueryError::at(span, format!("the {what} of a window must be greater than 0")));
        }
        if length > MAX_ASA_SIZE {
            return Err(QueryError::at(span, format!("the {what} of a window is at most 7 days")));
        }
        values.push(length);
    }
    // The engine counts starts from the offset on; ASA's windows end at multiples of the hop.
    let aligned =
        |size, hop| Windows::Aligned(WindowShape { size, hop, offset: shift - size % hop, closed: Closed::End });
    let windows = match (kind, values.as_slice()) {
        ("tumbling", [size]) => aligned(*size, *size),
        ("hopping", [size, hop]) => aligned(*size, *hop),
        ("sliding", [size]) => Windows::Sliding { size: *size },
        ("session", [gap, max]) => Windows::Session(SessionShape { gap: *gap, max: Some(*max), closed: Closed::End }),
        _ => return Err(QueryError::at(span, usage)),
    };
    Ok(AsaWindow { windows, partition: session_partition(kind, function)?, id: None })
}

/// The keys of `SessionWindow(...) OVER (PARTITION BY k, ...)`.
fn session_partition<'a>(kind: &str, function: &'a Function) -> Result<Vec<&'a Expr>, QueryError> {
    let span = name_span(function);
    match &function.over {
        None => Ok(vec![]),
        Some(WindowType::WindowSpec(spec))
            if kind == "session" && spec.order_by.is_empty() && spec.window_frame.is_none() =>
        {
            Ok(spec.partition_by.iter().collect())
        }
        Some(_) => Err(QueryError::at(span, format!("`{}` has no such OVER clause", function.name))
            .help("sessions can be of their own keys: SessionWindow(second, 5, 60) OVER (PARTITION BY k)")),
    }
}

/// `(second, 10)` in microseconds.
pub(crate) fn duration(args: &[&Expr], span: Span) -> Result<i64, QueryError> {
    let [unit, n] = args else { return Err(QueryError::at(span, "expected a unit and a number, e.g. `(second, 10)`")) };
    times(unit_of(unit)?, n)
}

/// So many units in microseconds; a fraction, as `0.5` of a second, is rounded to one.
fn times(unit: i64, n: &Expr) -> Result<i64, QueryError> {
    let length = match n {
        Expr::Value(ValueWithSpan { value: Value::Number(digits, _), .. }) if digits.contains('.') => digits
            .parse::<f64>()
            .ok()
            .map(|n| (n * unit as f64).round())
            .filter(|l| *l <= MAX_SIZE as f64)
            .map(|l| l as i64),
        _ => unit.checked_mul(whole(n)?),
    };
    length.filter(|l| l.abs() <= MAX_SIZE).ok_or_else(|| QueryError::at(place(n), "the window is too long"))
}

/// Microseconds of a unit of a window.
pub(crate) fn unit_of(expr: &Expr) -> Result<i64, QueryError> {
    let name = match expr {
        Expr::Identifier(name) => Some(name.value.as_str()),
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(name), .. }) => Some(name.as_str()),
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

/// `GROUP BY System.Timestamp()`: rows of one instant. As datetimes are whole microseconds, that is a window of one.
pub(crate) fn snapshot() -> Windows {
    Windows::Aligned(WindowShape { size: 1, hop: 1, offset: 0, closed: Closed::End })
}

/// The table functions that make windows, in upper case.
pub(crate) const TABLE_FUNCTIONS: [&str; 4] = ["TUMBLE", "HOP", "CUMULATE", "SESSION"];

/// Whether a table function of this name makes windows.
pub(crate) fn is_table_function(name: &str) -> bool {
    TABLE_FUNCTIONS.iter().any(|f| f.eq_ignore_ascii_case(name))
}

/// The windows of a table function of this lower-case name, from the intervals behind its table and column.
pub(crate) fn standard_windows(name: &str, intervals: &[&Expr], span: Span) -> Result<Windows, QueryError> {
    let lengths = intervals.iter().map(|i| interval(i)).collect::<Result<Vec<_>, _>>()?;
    let offset = |at: usize| lengths.get(at).copied().unwrap_or(0);
    let (size, hop, offset) = match (name, lengths.as_slice()) {
        ("tumble", [size] | [size, _]) => (*size, *size, offset(1)),
        ("hop" | "cumulate", [hop, size] | [hop, size, _]) => (*size, *hop, offset(2)),
        ("session", [gap]) => (*gap, *gap, 0),
        _ => {
            let usage = match name {
                "tumble" => "TUMBLE(TABLE t, DESCRIPTOR(ts), size[, offset])",
                "hop" => "HOP(TABLE t, DESCRIPTOR(ts), slide, size[, offset])",
                "cumulate" => "CUMULATE(TABLE t, DESCRIPTOR(ts), step, size[, offset])",
                _ => "SESSION(TABLE t [PARTITION BY k], DESCRIPTOR(ts), gap)",
            };
            return Err(
                QueryError::at(span, format!("wrong number of intervals for `{name}`")).help(format!("write {usage}"))
            );
        }
    };
    if size <= 0 || hop <= 0 {
        return Err(QueryError::at(span, "the lengths of a window must be greater than 0"));
    }
    let shape = WindowShape { size, hop, offset, closed: Closed::Start };
    match name {
        "session" => Ok(Windows::Session(SessionShape { gap: size, max: None, closed: Closed::Start })),
        "cumulate" if size % hop != 0 => {
            Err(QueryError::at(span, "the size of a cumulating window must be a multiple of its step"))
        }
        "cumulate" => Ok(Windows::Cumulating(shape)),
        _ => Ok(Windows::Aligned(shape)),
    }
}

/// `INTERVAL '10' MINUTES` in microseconds.
pub(crate) fn interval(expr: &Expr) -> Result<i64, QueryError> {
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
