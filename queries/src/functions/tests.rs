//! Functions over columns with nulls, and over constants beside columns.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, StringArray,
        TimestampMicrosecondArray, UInt32Array,
    },
    compute::take,
    datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType},
    record_batch::RecordBatch,
};
use datafusion_common::ScalarValue;
use proptest::prelude::*;
use sqlparser::tokenizer::Span;
use tidemill_engine::{any::any_type, datetime_type};

use super::{
    Arg, Function, Part, conversion::Failure, conversion::convert, find, json::Json, pattern::Pattern, scalar,
};
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

/// Values of the type of an argument, extreme ones among them.
fn values(kind: Arg) -> BoxedStrategy<ArrayRef> {
    let texts = || {
        prop_oneof![
            3 => "\\PC{0,8}".prop_map(Some),
            1 => prop::sample::select(EXTREME_TEXTS).prop_map(|s| Some(s.to_owned())),
            1 => Just(None),
        ]
    };
    let ints = || {
        prop_oneof![
            3 => (-5i64..20).prop_map(Some),
            1 => prop::sample::select(&[i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX][..]).prop_map(Some),
            1 => Just(None),
        ]
    };
    let floats = || {
        prop_oneof![
            3 => (-200.0..200.0).prop_map(Some),
            1 => prop::num::f64::ANY.prop_map(Some),
            1 => Just(None),
        ]
    };
    let rows = 0..12;
    match kind {
        Arg::Text | Arg::Geometry => {
            prop::collection::vec(texts(), rows).prop_map(|v| Arc::new(StringArray::from(v)) as ArrayRef).boxed()
        }
        Arg::Int | Arg::Bits => {
            prop::collection::vec(ints(), rows).prop_map(|v| Arc::new(Int64Array::from(v)) as ArrayRef).boxed()
        }
        Arg::Float | Arg::Number | Arg::Any => {
            prop::collection::vec(floats(), rows).prop_map(|v| Arc::new(Float64Array::from(v)) as ArrayRef).boxed()
        }
        Arg::Time => prop::collection::vec(ints(), rows)
            .prop_map(|v| Arc::new(TimestampMicrosecondArray::from(v).with_timezone("UTC")) as ArrayRef)
            .boxed(),
        Arg::Array => prop::collection::vec(prop::option::of(prop::collection::vec(ints(), 0..4)), rows)
            .prop_map(|v| Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(v)) as ArrayRef)
            .boxed(),
        Arg::Part => Just(Arc::new(StringArray::from(vec!["month"])) as ArrayRef).boxed(),
    }
}

const EXTREME_TEXTS: &[&str] = &[
    "",
    " ",
    "%",
    "[",
    "(",
    "a\\",
    "\u{0}",
    "1e400",
    "NaN",
    "9223372036854775808",
    "POINT (1 2)",
    "POLYGON ((0 0, 2 0, 2 2, 0 2, 0 0))",
    "LINESTRING (0 0, 0 0)",
    "{\"type\":\"Point\",\"coordinates\":[]}",
    "Europe/Paris",
    "SHA2_256",
];

/// Evaluates over columns of the same length; the error is that of some row.
fn evaluate(call: &Typed, columns: &[ArrayRef]) -> Result<ArrayRef, String> {
    let rows = columns.first().map_or(0, |c| c.len());
    let names = (0..columns.len()).map(|i| i.to_string());
    let batch = RecordBatch::try_from_iter_with_nullable(names.zip(columns).map(|(n, c)| (n, Arc::clone(c), true)));
    let evaluated = call.expr.evaluate(&batch.unwrap()).and_then(|v| v.into_array(rows));
    evaluated.map_err(|e| e.strip_backtrace())
}

#[test]
fn json_is_read_where_it_stands() {
    let text = r#" {"a": [1, "x,]}", {"b" : null}], "c\"d":1e5, "E":{} } "#;
    let value = Json::parse(text).unwrap();
    let element = |n| value.member("a").unwrap().elements().nth(n).map(Json::text);
    assert_eq!(
        (element(0), element(1), element(2), element(3)),
        (Some("1"), Some(r#""x,]}""#), Some(r#"{"b" : null}"#), None)
    );
    assert_eq!(value.member("a").unwrap().elements().nth(2).unwrap().member("b").map(Json::is_null), Some(true));
    assert_eq!(value.member("c\"d").and_then(Json::float), Some(1e5));
    assert_eq!(value.member("e").map(Json::text), Some("{}"));
    assert_eq!(value.member("e").unwrap().member("a"), None);
    assert_eq!(value.member("f"), None);
    assert_eq!(Json::parse("[] ").unwrap().elements().count(), 0);
    assert_eq!(Json::parse("{"), None);
    assert_eq!(
        ["1", "1.0", "true", "\"\"", "9223372036854775808"].map(|t| Json::parse(t).unwrap().kind()),
        ["bigint", "float", "bit", "nvarchar(max)", "float"]
    );
}

const LARGE_BATCH: u32 = 4_096;

/// Whole columns give what their rows give one by one, and again in a large batch, and fail when one of these fails; nothing
/// panics.
fn rows_agree(function: &'static Function, columns: Vec<ArrayRef>) -> Result<(), TestCaseError> {
    let rows = columns.iter().zip(function.args).filter(|(_, a)| **a != Arg::Part).map(|(c, _)| c.len()).min();
    let rows = rows.unwrap_or(0);
    if function.args.first() == Some(&Arg::Any) && function.name == "getrecordpropertyvalue" {
        return Ok(()); // the planner gives it records alone
    }
    let columns: Vec<ArrayRef> = columns.iter().map(|c| c.slice(0, rows.min(c.len()))).collect();
    let args = columns.iter().zip(function.args).enumerate().map(|(i, (c, kind))| match kind {
        Arg::Part => text("month"),
        _ => Typed::column(&i.to_string(), i, c.data_type().clone(), Span::empty()),
    });
    let call = function.call(args.collect(), Span::empty()).unwrap();
    let columns: Vec<ArrayRef> = columns
        .iter()
        .map(|c| if c.len() == rows { Arc::clone(c) } else { Arc::new(StringArray::from(vec!["month"; rows])) })
        .collect();
    let whole = evaluate(&call, &columns);
    let one_by_one = (0..rows).map(|row| {
        let row: Vec<ArrayRef> = columns.iter().map(|c| c.slice(row, 1)).collect();
        evaluate(&call, &row)
    });
    match (whole, one_by_one.collect::<Result<Vec<_>, _>>()) {
        (Ok(whole), Ok(rows)) => {
            prop_assert_eq!(whole.data_type(), &call.data_type);
            for (at, row) in rows.iter().enumerate() {
                let (whole, row) = (whole.slice(at, 1), row.slice(0, 1));
                prop_assert_eq!(format!("{:?}", &whole), format!("{:?}", &row), "{}", function.name);
            }
            if !rows.is_empty() {
                let again = UInt32Array::from_iter_values((0..LARGE_BATCH).map(|at| at % rows.len() as u32));
                let again = |column: &ArrayRef| take(column, &again, None).unwrap();
                let large = evaluate(&call, &columns.iter().map(again).collect::<Vec<_>>());
                prop_assert!(large == Ok(again(&whole)), "{} in a batch of {LARGE_BATCH} rows", function.name);
            }
        }
        (Err(_), Err(_)) => {}
        (whole, rows) => prop_assert!(false, "{}: {whole:?} of the whole, {rows:?} row by row", function.name),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn functions_hold_for_every_value(
        (function, columns) in (0..scalar().count()).prop_flat_map(|at| {
            let function = scalar().nth(at).unwrap();
            let columns: Vec<_> = function.args.iter().map(|kind| values(*kind)).collect();
            (Just(function), columns)
        })
    ) {
        rows_agree(function, columns)?;
    }

    #[test]
    fn casts_there_and_back_give_the_value(n in any::<i64>(), x in any::<f64>(), bit in any::<bool>(), t in 0..253_402_300_800_000_000i64) {
        let there_and_back = |column: ArrayRef, between: &DataType| {
            let there = convert(Typed::column("x", 0, column.data_type().clone(), Span::empty()), between, Failure::Error);
            let back = convert(there.unwrap(), column.data_type(), Failure::Error).unwrap();
            let found = over(&column, &back);
            prop_assert_eq!(found.as_ref(), Ok(&column));
            Ok(())
        };
        there_and_back(Arc::new(Int64Array::from(vec![n])), &DataType::Utf8)?;
        there_and_back(Arc::new(Int64Array::from(vec![n])), &any_type())?;
        if x.is_finite() {
            there_and_back(Arc::new(Float64Array::from(vec![x])), &DataType::Utf8)?;
            there_and_back(Arc::new(Float64Array::from(vec![x])), &any_type())?;
        }
        for between in [DataType::Int64, DataType::Float64, DataType::Utf8, any_type()] {
            there_and_back(Arc::new(BooleanArray::from(vec![bit])), &between)?;
        }
        let time: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![t]).with_timezone("UTC"));
        there_and_back(Arc::clone(&time), &DataType::Utf8)?;
        there_and_back(time, &any_type())?;
    }
}

#[test]
fn regular_expressions_are_those_of_ecmascript() {
    let s: ArrayRef = Arc::new(StringArray::from(vec![Some("ABC-123"), Some("é1"), None]));
    let found = |pattern: &str| {
        let found = over(&s, &call("regexmatch", vec![x(&s), text(pattern)]));
        found.map(|f| f.as_primitive::<Int64Type>().iter().collect::<Vec<_>>())
    };
    assert_eq!(found("[0-9][0-9][0-9]").unwrap(), [Some(5), Some(0), None]);
    assert_eq!(found(r"c-\d").unwrap(), [Some(3), Some(0), None]);
    assert_eq!(found(r"\d").unwrap(), [Some(5), Some(2), None]);
    assert_eq!(found(r"^\w{3}[^]\d+$").unwrap(), [Some(1), Some(0), None]);
    assert_eq!(found("(").unwrap(), [Some(0), Some(0), None]);
    assert!(found("a(?=b)").unwrap_err().contains("looks around"));
    assert!(found(r"(a)\1").unwrap_err().contains("refers back"));
}

#[test]
fn distances_are_those_of_the_documentation() {
    let s: ArrayRef = Arc::new(StringArray::from(vec!["POINT (-5 -5)"]));
    let metres = over(&s, &call("st_distance", vec![x(&s), text("POINT (0 0)")])).unwrap();
    let metres = metres.as_primitive::<Float64Type>().value(0);
    assert!((metres - 784_028.740_775_018_2).abs() < 1e-3, "{metres}");
}

#[test]
fn a_wall_clock_is_read_in_spring_and_autumn() {
    let s: ArrayRef =
        Arc::new(StringArray::from(vec!["2024-03-31T02:30:00", "2024-10-27T02:30:00", "2024-07-01T14:00:00"]));
    let utc = over(&s, &call("to_utc_timestamp", vec![x(&s), text("Europe/Paris")])).unwrap();
    let shown = over(&utc, &convert(x(&utc), &DataType::Utf8, Failure::Error).unwrap()).unwrap();
    assert_eq!(
        texts(&shown),
        [
            Some("2024-03-31T01:30:00.0000000Z"),
            Some("2024-10-27T00:30:00.0000000Z"),
            Some("2024-07-01T12:00:00.0000000Z")
        ]
    );
    let unknown = find("to_utc_timestamp").unwrap().call(vec![x(&s), text("Mars/Base")], Span::empty()).unwrap();
    assert!(over(&s, &unknown).unwrap_err().contains("unknown time zone"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn patterns_match_as_defined(pattern in "[ab%_]{0,8}", text in "[ab]{0,8}") {
        let expected = naive(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>());
        prop_assert_eq!(Pattern::new(&pattern, None).matches(&text), expected);
    }
}
