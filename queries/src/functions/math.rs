//! Mathematical functions. Where one keeps its argument's type, a bigint stays exact.

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion_common::{Result, exec_datafusion_err};

use super::{
    Arg::{Float, Int, Number},
    Args, Function,
    Returns::{self, First},
    function,
};

pub(super) static FUNCTIONS: &[Function] = &[
    function("abs", &[Number], First, abs)
        .doc_of("ABS(x)", "absolute value, of the type of x", &[("ABS(-7)", "7"), ("ABS('-2.5')", "2.5")])
        .page("abs-azure-stream-analytics"),
    function("ceiling", &[Number], First, ceiling)
        .doc_of("CEILING(x)", "the smallest whole number that is not below x, of the type of x", &[("CEILING(-2.5)", "-2.0")])
        .page("ceiling-azure-stream-analytics"),
    function("exp", &[Float], Returns::Float, exp)
        .doc_of("EXP(x)", "e to the power of x, a float", &[("EXP(0)", "1.0")])
        .page("exp-azure-stream-analytics"),
    function("floor", &[Number], First, floor)
        .doc_of("FLOOR(x)", "the largest whole number that is not above x, of the type of x", &[("FLOOR(-2.5)", "-3.0")])
        .page("floor-azure-stream-analytics"),
    function("power", &[Number, Float], First, power)
        .doc_of("POWER(x, y)", "x to the power of y, of the type of x", &[("POWER(2, 3)", "8"), ("POWER(2.0, -1)", "0.5")])
        .page("power-azure-stream-analytics"),
    function("round", &[Number, Int], First, round)
        .optional(1)
        .doc_of(
            "ROUND(x[, digits])",
            "x to that many digits behind the point, or before it where negative; half away from zero; of the type of x",
            &[("ROUND(1.235, 1)", "1.2"), ("ROUND(-0.5, 0)", "-1.0"), ("ROUND(155, -1)", "160")],
        )
        .page("round-azure-stream-analytics"),
    function("sign", &[Number], First, sign)
        .doc_of("SIGN(x)", "-1, 0 or 1, of the type of x", &[("SIGN(-7)", "-1")])
        .page("sign-azure-stream-analytics"),
    function("square", &[Float], Returns::Float, square)
        .doc_of("SQUARE(x)", "x times x, a float", &[("SQUARE(3)", "9.0")])
        .page("square-azure-stream-analytics"),
    function("sqrt", &[Float], Returns::Float, sqrt)
        .doc_of("SQRT(x)", "square root, a float; NaN for a negative number", &[("SQRT(2.25)", "1.5")])
        .page("sqrt-azure-stream-analytics"),
];

/// Applies one rule to bigints, another to floats.
fn number(args: &Args, int: impl Fn(i64) -> Option<i64>, float: impl Fn(f64) -> f64, what: &str) -> Result<ArrayRef> {
    if *args.data_type(0) == DataType::Int64 {
        let x = args.int(0);
        args.to_ints(|i| {
            x.get(i).map(|x| int(x).ok_or_else(|| exec_datafusion_err!("{what}({x}) does not fit bigint"))).transpose()
        })
    } else {
        let x = args.float(0);
        args.to_floats(|i| Ok(x.get(i).map(&float)))
    }
}

fn float(args: &Args, rule: impl Fn(f64) -> f64) -> Result<ArrayRef> {
    let x = args.float(0);
    args.to_floats(|i| Ok(x.get(i).map(&rule)))
}

pub(super) fn abs(args: &Args) -> Result<ArrayRef> {
    number(args, i64::checked_abs, f64::abs, "abs")
}

pub(super) fn ceiling(args: &Args) -> Result<ArrayRef> {
    number(args, Some, |x| x.ceil() + 0.0, "ceiling")
}

pub(super) fn floor(args: &Args) -> Result<ArrayRef> {
    number(args, Some, f64::floor, "floor")
}

pub(super) fn sign(args: &Args) -> Result<ArrayRef> {
    number(args, |x| Some(x.signum()), |x| if x == 0.0 { 0.0 } else { x.signum() }, "sign")
}

pub(super) fn exp(args: &Args) -> Result<ArrayRef> {
    float(args, f64::exp)
}

pub(super) fn sqrt(args: &Args) -> Result<ArrayRef> {
    float(args, f64::sqrt)
}

pub(super) fn square(args: &Args) -> Result<ArrayRef> {
    float(args, |x| x * x)
}

/// The result has the type of the base: a bigint is computed exactly where the exponent is a whole number.
pub(super) fn power(args: &Args) -> Result<ArrayRef> {
    let y = args.float(1);
    if *args.data_type(0) == DataType::Float64 {
        let x = args.float(0);
        return args.to_floats(|i| Ok(x.get(i).zip(y.get(i)).map(|(x, y)| x.powf(y))));
    }
    let x = args.int(0);
    args.to_ints(|i| {
        let Some((x, y)) = x.get(i).zip(y.get(i)) else { return Ok(None) };
        let exact =
            if y.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&y) { x.checked_pow(y as u32) } else { None };
        let rounded = || {
            let power = (x as f64).powf(y);
            (power.abs() < i64::MAX as f64).then_some(power as i64)
        };
        exact.or_else(rounded).map(Some).ok_or_else(|| exec_datafusion_err!("power({x}, {y}) does not fit bigint"))
    })
}

/// Half away from zero; a negative number of digits rounds left of the point.
pub(super) fn round(args: &Args) -> Result<ArrayRef> {
    let digits = |i| if args.len() > 1 { args.int(1).get(i) } else { Some(0) };
    if *args.data_type(0) == DataType::Int64 {
        let x = args.int(0);
        return args.to_ints(|i| {
            let Some((x, digits)) = x.get(i).zip(digits(i)) else { return Ok(None) };
            round_int(x, digits)
                .map(Some)
                .ok_or_else(|| exec_datafusion_err!("round({x}, {digits}) does not fit bigint"))
        });
    }
    let x = args.float(0);
    args.to_floats(|i| Ok(x.get(i).zip(digits(i)).map(|(x, digits)| round_float(x, digits))))
}

fn round_int(x: i64, digits: i64) -> Option<i64> {
    let Some(unit) = u32::try_from(-digits).ok().filter(|d| *d > 0).map(|d| 10i128.checked_pow(d)) else {
        return Some(x); // no digit right of the point
    };
    let Some(unit) = unit else { return Some(0) };
    let x = i128::from(x);
    i64::try_from((x + x.signum() * (unit / 2)) / unit * unit).ok()
}

fn round_float(x: f64, digits: i64) -> f64 {
    let digits = digits.clamp(-400, 400) as i32;
    let scale = 10f64.powi(digits.abs());
    let rounded = if digits < 0 { (x / scale).round() * scale } else { (x * scale).round() / scale };
    match () {
        // Fewer digits than the unit, or more than a float has.
        () if digits < 0 && !scale.is_finite() => 0.0,
        () if !rounded.is_finite() => x,
        () => rounded + 0.0, // no negative zero
    }
}
