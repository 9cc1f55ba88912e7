//! Comparisons and the conversions that nobody asks for, against the table of the language:
//!
//! | with | bigint | float | bit | nvarchar(max) | datetime |
//! |---|---|---|---|---|---|
//! | bigint | bigint | float | bigint | float | refused |
//! | float | | float | float | float | refused |
//! | bit | | | bit | bit | refused |
//! | nvarchar(max) | | | | nvarchar(max) | datetime |
//! | datetime | | | | | datetime |
//!
//! Both become the type at which row and column meet; text that cannot fails. With NULL nothing holds. A value of type `any`
//! compares as the one that it holds does.

use std::{cmp::Ordering, sync::Arc};

use arrow::{
    array::{
        ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    },
    datatypes::DataType,
};
use datafusion_common::ScalarValue;
use datafusion_expr::Operator;
use proptest::prelude::*;
use sqlparser::{ast::BinaryOperator, tokenizer::Span};
use tidemill_engine::{any::any_type, datetime_type};

use super::{binary, compare};
use crate::{
    coercion::coerce,
    functions::conversion::{Failure, convert},
    typed::Typed,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int,
    Float,
    Bit,
    Text,
    Time,
}

const KINDS: [Kind; 5] = [Kind::Int, Kind::Float, Kind::Bit, Kind::Text, Kind::Time];

#[derive(Clone, Debug)]
enum Value {
    Int(i64),
    Float(f64),
    Bit(bool),
    Text(String),
    /// Microseconds since the epoch.
    Time(i64),
}

/// What a table of types says of two of them; `None`: they cannot be compared.
fn meet(a: Kind, b: Kind) -> Option<Kind> {
    use Kind::{Bit, Float, Int, Text, Time};
    Some(match (a, b) {
        (a, b) if a == b => a,
        (Time, Text) | (Text, Time) => Time,
        (Time, _) | (_, Time) => return None,
        (Bit, Text) | (Text, Bit) => Bit,
        (Text | Float, _) | (_, Text | Float) => Float,
        (Int, _) | (_, Int) => Int,
        _ => unreachable!("bits are of one type"),
    })
}

impl Value {
    fn number(&self) -> Option<f64> {
        match self {
            Self::Int(n) => Some(*n as f64),
            Self::Float(x) => Some(*x),
            Self::Bit(bit) => Some(f64::from(u8::from(*bit))),
            // Decimal digits only.
            Self::Text(s) => s.trim().parse().ok().filter(|x: &f64| x.is_finite()),
            Self::Time(_) => None,
        }
    }

    fn whole(&self) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            Self::Bit(bit) => Some(i64::from(*bit)),
            _ => None,
        }
    }

    fn bit(&self) -> Option<bool> {
        match self {
            Self::Bit(bit) => Some(*bit),
            Self::Text(s) => match s.trim() {
                "1" => Some(true),
                "0" => Some(false),
                s if s.eq_ignore_ascii_case("true") => Some(true),
                s if s.eq_ignore_ascii_case("false") => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    fn time(&self) -> Option<i64> {
        match self {
            Self::Time(t) => Some(*t),
            Self::Text(s) => chrono::DateTime::parse_from_rfc3339(s).ok().map(|t| t.timestamp_micros()),
            _ => None,
        }
    }

    /// How it compares as values of this kind do; `None`: one of them cannot become one.
    fn compared(&self, other: &Self, kind: Kind) -> Option<Ordering> {
        match kind {
            Kind::Int => Some(self.whole()?.cmp(&other.whole()?)),
            Kind::Float => self.number()?.partial_cmp(&other.number()?),
            Kind::Bit => Some(self.bit()?.cmp(&other.bit()?)),
            Kind::Time => Some(self.time()?.cmp(&other.time()?)),
            Kind::Text => match (self, other) {
                (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
                _ => None,
            },
        }
    }

    fn scalar(&self) -> ScalarValue {
        match self {
            Self::Int(n) => ScalarValue::Int64(Some(*n)),
            Self::Float(x) => ScalarValue::Float64(Some(*x)),
            Self::Bit(bit) => ScalarValue::Boolean(Some(*bit)),
            Self::Text(s) => ScalarValue::Utf8(Some(s.clone())),
            Self::Time(t) => ScalarValue::TimestampMicrosecond(Some(*t), Some("UTC".into())),
        }
    }
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Int => DataType::Int64,
        Kind::Float => DataType::Float64,
        Kind::Bit => DataType::Boolean,
        Kind::Text => DataType::Utf8,
        Kind::Time => datetime_type(),
    }
}

/// One row.
fn array(value: Option<&Value>, kind: Kind) -> ArrayRef {
    match value {
        None => arrow::array::new_null_array(&data_type(kind), 1),
        Some(Value::Int(n)) => Arc::new(Int64Array::from(vec![*n])),
        Some(Value::Float(x)) => Arc::new(Float64Array::from(vec![*x])),
        Some(Value::Bit(bit)) => Arc::new(BooleanArray::from(vec![*bit])),
        Some(Value::Text(s)) => Arc::new(StringArray::from(vec![s.as_str()])),
        Some(Value::Time(t)) => Arc::new(TimestampMicrosecondArray::from(vec![*t]).with_timezone("UTC")),
    }
}

fn of_kind(kind: Kind) -> BoxedStrategy<Option<Value>> {
    let near = -3i64..4;
    let ints = prop_oneof![
        4 => near.clone(),
        1 => any::<i64>(),
        1 => prop::sample::select(&[i64::MIN, -(1 << 53) - 1, (1 << 53) + 1, i64::MAX][..]),
    ];
    let floats = prop_oneof![
        4 => (-6i64..8).prop_map(|n| n as f64 / 2.0),
        1 => any::<f64>().prop_filter("numbers alone", |x| x.is_finite()),
        1 => prop::sample::select(&[-0.0, f64::MIN_POSITIVE, 9_007_199_254_740_992.0, 9.223_372_036_854_776e18][..]),
    ];
    let times = prop_oneof![4 => (-2i64..3).prop_map(|n| n * 500_000), 1 => 0..253_402_300_800_000_000i64];
    let text_of_time = |t: i64| chrono::DateTime::from_timestamp_micros(t).unwrap().to_rfc3339();
    let values = match kind {
        Kind::Int => ints.prop_map(Value::Int).boxed(),
        Kind::Float => floats.prop_map(Value::Float).boxed(),
        Kind::Bit => any::<bool>().prop_map(Value::Bit).boxed(),
        Kind::Time => times.prop_map(Value::Time).boxed(),
        Kind::Text => prop_oneof![
            3 => near.prop_map(|n| n.to_string()),
            2 => floats.prop_map(|x| format!(" {x} ")),
            2 => times.prop_map(text_of_time),
            1 => prop::sample::select(&["true", "FALSE", "1", "0", "", "nan", "inf", "-0", "1e400", "0x1"][..])
                .prop_map(str::to_owned),
            1 => "[a-cA-C]{0,3}",
        ]
        .prop_map(Value::Text)
        .boxed(),
    };
    prop_oneof![6 => values.prop_map(Some), 1 => Just(None)].boxed()
}

/// A kind and a value of it, or NULL.
fn typed_value() -> impl Strategy<Value = (Kind, Option<Value>)> {
    prop::sample::select(&KINDS[..]).prop_flat_map(|kind| (Just(kind), of_kind(kind)))
}

fn columns(a: &ArrayRef, b: &ArrayRef) -> (Typed, Typed) {
    let column = |name: &str, at, of: &ArrayRef| Typed::column(name, at, of.data_type().clone(), Span::empty());
    (column("a", 0, a), column("b", 1, b))
}

/// Over the row of `a` and `b`; NULL is `None`.
fn evaluated(expression: &Typed, a: &ArrayRef, b: &ArrayRef) -> Result<Option<ScalarValue>, String> {
    let columns = [("a", Arc::clone(a), true), ("b", Arc::clone(b), true)];
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let value = expression.expr.evaluate(&batch).and_then(|v| v.into_array(1)).map_err(|e| e.strip_backtrace())?;
    assert_eq!(*value.data_type(), expression.data_type);
    Ok(Some(ScalarValue::try_from_array(&value, 0).unwrap()).filter(|value| !value.is_null()))
}

type Holds = fn(Ordering) -> bool;

const OPERATORS: [(Operator, Holds); 6] = [
    (Operator::Eq, Ordering::is_eq),
    (Operator::NotEq, Ordering::is_ne),
    (Operator::Lt, Ordering::is_lt),
    (Operator::LtEq, Ordering::is_le),
    (Operator::Gt, Ordering::is_gt),
    (Operator::GtEq, Ordering::is_ge),
];

/// What a comparison of two columns says of their row: `Err` when a value cannot be converted.
fn says(left: Typed, op: Operator, right: Typed, a: &ArrayRef, b: &ArrayRef) -> Result<Option<bool>, String> {
    let compared = compare(left, op, right, Span::empty()).map_err(|e| e.message)?;
    let value = evaluated(&compared, a, b)?;
    Ok(value.map(|value| matches!(value, ScalarValue::Boolean(Some(true)))))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn comparisons_obey_the_table((ka, a) in typed_value(), (kb, b) in typed_value()) {
        let (of_a, of_b) = (array(a.as_ref(), ka), array(b.as_ref(), kb));
        let (left, right) = columns(&of_a, &of_b);
        for (op, holds) in OPERATORS {
            let compared = compare(left.clone(), op, right.clone(), Span::empty());
            let Some(kind) = meet(ka, kb) else {
                prop_assert!(compared.unwrap_err().message.starts_with("cannot compare "));
                continue;
            };
            let found = evaluated(&compared.unwrap(), &of_a, &of_b).map(|v| v.map(|v| v == ScalarValue::from(true)));
            // What cannot be converted fails, whatever it is compared with.
            let can = |value: &Option<Value>| value.as_ref().is_none_or(|v| v.compared(v, kind).is_some());
            let expected = match (&a, &b) {
                _ if !can(&a) || !can(&b) => None,
                (Some(a), Some(b)) => Some(a.compared(b, kind).map(holds)),
                _ => Some(None),
            };
            match expected {
                None => prop_assert!(found.as_ref().is_err_and(|e| e.contains("cannot cast")), "{a:?} {op} {b:?}: {found:?}"),
                Some(expected) => prop_assert_eq!(&found, &Ok(expected), "{:?} {} {:?}", a, op, b),
            }
            // Constants are compared as columns are; one that cannot be converted is a mistake of the query.
            let Some(constant) = &b else { continue };
            let constant = Typed::literal(constant.scalar(), Span::empty());
            match (says(left.clone(), op, constant, &of_a, &of_b), can(&b)) {
                (with_constant, true) => prop_assert_eq!(with_constant.ok(), found.ok(), "{:?} {} {:?}", a, op, b),
                (with_constant, false) => prop_assert!(with_constant.is_err()),
            }
        }
    }

    #[test]
    fn a_value_of_any_type_compares_as_what_it_holds((ka, a) in typed_value(), (kb, b) in typed_value()) {
        // Against text it is text, and against a bit it is one: what it holds is known too late to look for another type.
        let known = meet(ka, kb).filter(|_| kb != Kind::Text && !(kb == Kind::Bit && matches!(ka, Kind::Int | Kind::Float)));
        let Some(_) = known.filter(|kind| !(*kind == Kind::Int && kb != ka)) else { return Ok(()) };
        let (of_a, of_b) = (array(a.as_ref(), ka), array(b.as_ref(), kb));
        let (left, right) = columns(&of_a, &of_b);
        let held = convert(left.clone(), &any_type(), Failure::Error).unwrap();
        let exact = ka != Kind::Int || kb != Kind::Int;
        for (op, _) in OPERATORS.into_iter().filter(|_| exact) {
            let plain = says(left.clone(), op, right.clone(), &of_a, &of_b);
            let of_any = says(held.clone(), op, right.clone(), &of_a, &of_b);
            prop_assert_eq!(of_any.ok(), plain.ok(), "{:?} {} {:?}", a, op, b);
        }
    }

    #[test]
    fn what_is_converted_unasked_is_what_a_cast_gives((ka, a) in typed_value(), (kb, b) in typed_value()) {
        let (of_a, of_b) = (array(a.as_ref(), ka), array(b.as_ref(), kb));
        let (left, right) = columns(&of_a, &of_b);
        for kind in KINDS {
            let target = data_type(kind);
            let Ok(unasked) = coerce(left.clone(), &target) else { continue };
            let asked = convert(left.clone(), &target, Failure::Error).unwrap();
            let tried = convert(left.clone(), &target, Failure::Null).unwrap();
            let (unasked, asked) = (evaluated(&unasked, &of_a, &of_b), evaluated(&asked, &of_a, &of_b));
            prop_assert_eq!(&unasked, &asked, "{:?} as {:?}", a, kind);
            prop_assert_eq!(evaluated(&tried, &of_a, &of_b), Ok(asked.unwrap_or(None)), "{:?} as {:?}", a, kind);
        }
        // Where a number is needed, text is a float and a bit a bigint.
        let number = |kind| match kind {
            Kind::Int | Kind::Bit => Some(DataType::Int64),
            Kind::Float | Kind::Text => Some(DataType::Float64),
            Kind::Time => None,
        };
        for op in [BinaryOperator::Minus, BinaryOperator::Multiply, BinaryOperator::Divide, BinaryOperator::Modulo] {
            let unasked = binary(left.clone(), &op, right.clone(), Span::empty());
            let (Some(ta), Some(tb)) = (number(ka), number(kb)) else {
                prop_assert!(unasked.unwrap_err().message.starts_with("expected a number, found datetime"));
                continue;
            };
            let asked = |value: &Typed, target| convert(value.clone(), target, Failure::Error).unwrap();
            let asked = binary(asked(&left, &ta), &op, asked(&right, &tb), Span::empty()).unwrap();
            let unasked = unasked.unwrap();
            prop_assert_eq!(&unasked.data_type, &if ta == tb { ta } else { DataType::Float64 });
            prop_assert_eq!(evaluated(&unasked, &of_a, &of_b), evaluated(&asked, &of_a, &of_b));
        }
    }
}

#[test]
fn nothing_holds_of_null_and_each_zero_is_zero() {
    let zeros: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.0), Some(-0.0), None]));
    let x = Typed::column("a", 0, DataType::Float64, Span::empty());
    let batch = RecordBatch::try_from_iter_with_nullable([("a", zeros, true)]).unwrap();
    for (op, constant, expected) in [
        (Operator::Eq, ScalarValue::Int64(Some(0)), [Some(true), Some(true), None]),
        (Operator::Lt, ScalarValue::Float64(Some(0.0)), [Some(false), Some(false), None]),
        (Operator::GtEq, ScalarValue::Float64(Some(-0.0)), [Some(true), Some(true), None]),
        (Operator::Eq, ScalarValue::Null, [None, None, None]),
    ] {
        let compared = compare(x.clone(), op, Typed::literal(constant, Span::empty()), Span::empty()).unwrap();
        let found = compared.expr.evaluate(&batch).and_then(|v| v.into_array(3)).unwrap();
        assert_eq!(found.as_boolean().iter().collect::<Vec<_>>(), expected, "{op}");
    }
}
