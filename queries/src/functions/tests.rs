//! Functions over columns with nulls, and over constants beside columns.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, StringArray},
    datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType},
    record_batch::RecordBatch,
};
use datafusion_common::ScalarValue;
use proptest::prelude::*;
use sqlparser::tokenizer::Span;
use tidemill_engine::datetime_type;

use super::{Part, conversion::Failure, conversion::convert, find, pattern::Pattern};
use crate::typed::Typed;

fn batch(column: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("x", column)]).unwrap()
}

fn x(column: &ArrayRef) -> Typed {
    Typed::column("x", 0, column.data_type().clone(), Span::empty())
}

fn text(s: &str) -> Typed {
    Typed::text(s, Span::empty())
}

fn int(n: i64) -> Typed {
    Typed::literal(ScalarValue::Int64(Some(n)), Span::empty())
}

/// Evaluates over one column.
fn over(column: &ArrayRef, value: &Typed) -> Result<ArrayRef, String> {
    let n = column.len();
    let array = value
        .expr
        .evaluate(&batch(Arc::clone(column)))
        .and_then(|v| v.into_array(n))
        .map_err(|e| e.strip_backtrace())?;
    assert_eq!(*array.data_type(), value.data_type);
    Ok(array)
}

fn call(name: &str, args: Vec<Typed>) -> Typed {
    find(name).unwrap().call(args, Span::empty()).unwrap()
}

fn texts(array: &ArrayRef) -> Vec<Option<&str>> {
    array.as_string::<i32>().iter().collect()
}

#[test]
fn text_functions_go_row_by_row() {
    let s: ArrayRef = Arc::new(StringArray::from(vec![Some("añb"), None, Some("")]));
    let left = over(&s, &call("left", vec![x(&s), int(2)])).unwrap();
    assert_eq!(texts(&left), [Some("añ"), None, Some("")]);
    let replaced = over(&s, &call("replace", vec![x(&s), text("ñ"), text("n")])).unwrap();
    assert_eq!(texts(&replaced), [Some("anb"), None, Some("")]);
    let joined = over(&s, &call("concat", vec![text("<"), x(&s), text(">")])).unwrap();
    assert_eq!(texts(&joined), [Some("<añb>"), Some("<>"), Some("<>")]);
    let found = over(&s, &call("charindex", vec![text("b"), x(&s)])).unwrap();
    assert_eq!(found.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(3), None, Some(0)]);
    let code = over(&s, &call("unicode", vec![x(&s)])).unwrap();
    assert_eq!(code.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(97), None, None]);
    let repeated = over(&s, &call("replicate", vec![x(&s), int(1 << 40)]));
    assert!(repeated.unwrap_err().contains("longer than"));
}

#[test]
fn a_negative_length_is_an_error() {
    let n: ArrayRef = Arc::new(Int64Array::from(vec![1, -1]));
    for name in ["left", "right"] {
        let error = over(&n, &call(name, vec![text("abc"), x(&n)])).unwrap_err();
        assert!(error.contains("negative length -1"), "{error}");
    }
}

#[test]
fn rounding_is_half_away_from_zero() {
    let f: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), Some(-0.5), Some(-0.4), Some(1e300), None]));
    let rounded = over(&f, &call("round", vec![x(&f), int(0)])).unwrap();
    let rounded: Vec<_> = rounded.as_primitive::<Float64Type>().iter().collect();
    assert_eq!(rounded, [Some(1.0), Some(-1.0), Some(0.0), Some(1e300), None]);
    assert!(rounded[2].unwrap().is_sign_positive());
    let n: ArrayRef = Arc::new(Int64Array::from(vec![15, -15, 14, i64::MAX]));
    let error = over(&n, &call("round", vec![x(&n), int(-1)])).unwrap_err();
    assert!(error.contains("does not fit bigint"), "{error}");
    let far = over(&n, &call("round", vec![x(&n), int(-40)])).unwrap();
    assert_eq!(far.as_primitive::<Int64Type>().values(), &[0, 0, 0, 0]);
}

#[test]
fn powers_of_bigints_are_exact_or_refused() {
    let n: ArrayRef = Arc::new(Int64Array::from(vec![3]));
    let exact = over(&n, &call("power", vec![x(&n), int(39)])).unwrap();
    assert_eq!(exact.as_primitive::<Int64Type>().value(0), 4_052_555_153_018_976_267);
    assert!(over(&n, &call("power", vec![x(&n), int(40)])).is_err());
    let below_one = over(&n, &call("power", vec![x(&n), int(-1)])).unwrap();
    assert_eq!(below_one.as_primitive::<Int64Type>().value(0), 0);
}

#[test]
fn casts_fail_or_give_null() {
    let s: ArrayRef = Arc::new(StringArray::from(vec![
        Some("1"),
        Some(" -2 "),
        None,
        Some("1.5"),
        Some("nan"),
        Some("9223372036854775808"),
    ]));
    let tried = over(&s, &convert(x(&s), &DataType::Int64, Failure::Null).unwrap()).unwrap();
    assert_eq!(
        tried.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(),
        [Some(1), Some(-2), None, None, None, None]
    );
    let error = over(&s, &convert(x(&s), &DataType::Int64, Failure::Error).unwrap()).unwrap_err();
    assert!(error.contains("cannot cast '1.5' to bigint"), "{error}");
    let floats = over(&s, &convert(x(&s), &DataType::Float64, Failure::Null).unwrap()).unwrap();
    let floats: Vec<_> = floats.as_primitive::<Float64Type>().iter().collect();
    assert_eq!(floats, [Some(1.0), Some(-2.0), None, Some(1.5), None, Some(9_223_372_036_854_775_808.0)]);
    let f: ArrayRef = Arc::new(Float64Array::from(vec![2.9, -2.9, 9_223_372_036_854_775_808.0, f64::NAN]));
    let whole = over(&f, &convert(x(&f), &DataType::Int64, Failure::Null).unwrap()).unwrap();
    assert_eq!(whole.as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(2), Some(-2), None, None]);
}

#[test]
fn datetimes_are_read_as_iso_8601() {
    let s: ArrayRef = Arc::new(StringArray::from(vec![
        Some("1970-01-01T00:00:01.5Z"),
        Some("1970-01-01 00:00:01.1234567"),
        Some("1970-01-01T02:00:00+02:00"),
        Some("1970-01-02"),
        Some("1970-01-01T00:01"),
        Some("9999-12-31T23:59:59.9999999Z"),
        Some("01/02/1970"),
    ]));
    let times = over(&s, &convert(x(&s), &datetime_type(), Failure::Null).unwrap()).unwrap();
    assert_eq!(
        times.as_primitive::<TimestampMicrosecondType>().iter().collect::<Vec<_>>(),
        [
            Some(1_500_000),
            Some(1_123_456),
            Some(0),
            Some(86_400_000_000),
            Some(60_000_000),
            Some(253_402_300_799_999_999),
            None
        ]
    );
}

#[test]
fn parts_of_datetimes_have_their_abbreviations() {
    for (name, part) in [("YY", Part::Year), ("m", Part::Month), ("n", Part::Minute), ("mcs", Part::Microsecond)] {
        assert_eq!(Part::parse(name), Some(part), "{name}");
    }
    assert_eq!(Part::parse("minut"), None);
}

#[test]
fn patterns_match_as_like_does() {
    for (pattern, text, matches) in [
        ("", "", true),
        ("%", "", true),
        ("a%b%c", "a1b2c", true),
        ("a%b%c", "a1b2d", false),
        ("_", "é", true),
        ("[a-cx]_", "x1", true),
        ("[^a-c]", "b", false),
        ("[]]", "]", true),
        ("a[", "a[", true),
        ("%aab", "aaab", true),
        ("[-a]", "-", true),
    ] {
        assert_eq!(Pattern::new(pattern, None).matches(text), matches, "{pattern} on {text}");
    }
    assert_eq!(Pattern::new("%b_", None).find("aabc"), Some(2));
    assert_eq!(Pattern::new("b_", None).find("aabc"), None);
    assert!(Pattern::new("10!%", Some('!')).matches("10%"));
}

/// LIKE by its definition.
fn naive(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some(('%', rest)), _) => (0..=text.len()).any(|n| naive(rest, &text[n..])),
        (Some((p, pattern)), Some((t, text))) => (*p == '_' || p == t) && naive(pattern, text),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn patterns_match_as_defined(pattern in "[ab%_]{0,8}", text in "[ab]{0,8}") {
        let expected = naive(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
        prop_assert_eq!(Pattern::new(&pattern, None).matches(&text), expected);
    }
}
