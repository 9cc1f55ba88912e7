//! Conversions between types: CAST, TRY_CAST, the implicit ones, and GetType.

use std::{borrow::Cow, fmt::Display, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, LargeStringBuilder, ListArray, ListBuilder, StringArray, StructArray, new_null_array,
    },
    datatypes::DataType,
};
use datafusion_common::{Result, exec_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use tidemill_engine::any::any_type;

use super::{
    Arg::Any,
    Function, Returns, datetime, function,
    json::{self, Json},
    rows::{self, Args},
};

pub(super) static FUNCTIONS: &[Function] = &[function("gettype", &[Any], Returns::Text, get_type)
    .doc_of(
        "GetType(x)",
        "name of the value's type: bigint, float, nvarchar(max), datetime, bit, record or array",
        &[("GetType(2.5)", "\"float\""), ("GetType(r)", "\"record\"")],
    )
    .page("gettype-azure-stream-analytics")];
use crate::{coercion::type_name, error::QueryError, typed::Typed};

/// What a value becomes that the target cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    /// An error of the evaluation, which stops the job: CAST.
    Error,
    /// Null: TRY_CAST.
    Null,
}

/// Whether values of one type can become another at all. Text stands between most types.
fn convertible(from: &DataType, to: &DataType) -> bool {
    use DataType::{Boolean, Float64, Int64, LargeUtf8, List, Null, Struct, Timestamp, Utf8};
    match (from, to) {
        (Null, _) | (_, Utf8 | LargeUtf8) => true,
        (LargeUtf8, Int64 | Float64 | Boolean | Timestamp(..)) => true,
        (Utf8 | LargeUtf8, List(element)) => *element.data_type() == LargeUtf8,
        (Int64 | Float64 | Boolean | Utf8, Int64 | Float64 | Boolean) => true,
        (Utf8 | Timestamp(..), Timestamp(..)) => true,
        (List(from), List(to)) => convertible(from.data_type(), to.data_type()),
        (Struct(from), Struct(to)) => to.iter().all(|t| {
            from.iter().find(|f| f.name() == t.name()).is_none_or(|f| convertible(f.data_type(), t.data_type()))
        }),
        _ => false,
    }
}

/// `value` as `target`.
pub(crate) fn convert(value: Typed, target: &DataType, failure: Failure) -> Result<Typed, QueryError> {
    if value.data_type == *target {
        return Ok(value);
    }
    let span = value.span;
    if value.constant().is_some_and(|c| c.is_null()) {
        return Ok(Typed::null(target, span));
    }
    if !convertible(&value.data_type, target) {
        return match failure {
            Failure::Null => Ok(Typed::null(target, span)),
            Failure::Error => {
                let (from, to) = (type_name(&value.data_type), type_name(target));
                Err(QueryError::at(span, format!("cannot cast {from} to {to}")).help("TRY_CAST gives NULL instead"))
            }
        };
    }
    let function = Convert { target: target.clone(), failure, signature: Signature::any(1, Volatility::Immutable) };
    Typed::call(ScalarUDF::new_from_impl(function), vec![value], target.clone(), span)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Convert {
    target: DataType,
    failure: Failure,
    signature: Signature,
}

impl ScalarUDFImpl for Convert {
    fn name(&self) -> &str {
        match self.failure {
            Failure::Error => "cast",
            Failure::Null => "try_cast",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.target.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        rows::invoke(&args, |args| cast(args, &self.target, self.failure))
    }
}

/// The value, or what `failure` makes of its absence.
fn checked<T>(value: Option<T>, source: &dyn Display, target: &DataType, failure: Failure) -> Result<Option<T>> {
    match (value, failure) {
        (Some(value), _) => Ok(Some(value)),
        (None, Failure::Null) => Ok(None),
        (None, Failure::Error) => {
            exec_err!("cannot cast '{source}' to {}; TRY_CAST gives NULL instead", type_name(target))
        }
    }
}

fn cast(args: &Args, target: &DataType, failure: Failure) -> Result<ArrayRef> {
    use DataType::{Boolean, Float64, Int64, LargeUtf8, Timestamp, Utf8};
    match (args.data_type(0), target) {
        (from, to) if from == to => Ok(Arc::clone(args.column(0))),
        (DataType::Null, to) => Ok(new_null_array(to, args.rows())),
        (_, LargeUtf8) => json::from_typed(args.column(0)),
        (Int64, Float64) => {
            let x = args.int(0);
            args.to_floats(|i| Ok(x.get(i).map(|x| x as f64)))
        }
        (Int64, Boolean) => {
            let x = args.int(0);
            args.to_bits(|i| Ok(x.get(i).map(|x| x != 0)))
        }
        (Float64, Int64) => {
            let x = args.float(0);
            args.to_ints(|i| x.get(i).map_or(Ok(None), |x| checked(whole(x), &x, target, failure)))
        }
        (Float64, Boolean) => {
            let x = args.float(0);
            args.to_bits(|i| Ok(x.get(i).map(|x| x != 0.0)))
        }
        (Boolean, Int64) => {
            let x = args.bit(0);
            args.to_ints(|i| Ok(x(i).map(i64::from)))
        }
        (Boolean, Float64) => {
            let x = args.bit(0);
            args.to_floats(|i| Ok(x(i).map(f64::from)))
        }
        (Utf8, Int64) => {
            let s = args.text(0);
            args.to_ints(|i| s.get(i).map_or(Ok(None), |s| checked(s.trim().parse().ok(), &s, target, failure)))
        }
        (Utf8, Float64) => {
            let s = args.text(0);
            args.to_floats(|i| s.get(i).map_or(Ok(None), |s| checked(parse_float(s), &s, target, failure)))
        }
        (Utf8, Boolean) => {
            let s = args.text(0);
            args.to_bits(|i| s.get(i).map_or(Ok(None), |s| checked(parse_bit(s), &s, target, failure)))
        }
        (Utf8, Timestamp(..)) => {
            let s = args.text(0);
            args.to_times(|i| s.get(i).map_or(Ok(None), |s| checked(datetime::parse(s), &s, target, failure)))
        }
        (Utf8 | LargeUtf8, DataType::List(_)) => {
            let texts = arrow::compute::cast(args.column(0), &any_type())?;
            let mut out = ListBuilder::new(LargeStringBuilder::new());
            for text in texts.as_string::<i64>() {
                out.append_option(match text {
                    Some(text) => checked(parse_array(text), &text, target, failure)?,
                    None => None,
                });
            }
            Ok(Arc::new(out.finish()))
        }
        (LargeUtf8, to) => from_any(args, to, failure),
        (Timestamp(..), Utf8) => {
            let t = args.time(0);
            args.to_text(|i| Ok(t.get(i).and_then(datetime::print).map(Cow::from)))
        }
        (Float64, Utf8) => {
            let x = args.float(0);
            args.to_text(|i| Ok(x.get(i).map(|x| Cow::from(x.to_string()))))
        }
        (_, Utf8) => to_text(args.column(0)),
        (_, to) => nested(args.column(0), to, failure),
    }
}

/// The whole part; none outside bigint.
fn whole(x: f64) -> Option<i64> {
    // 2^63 itself is the first float above the largest bigint.
    let limit = 2f64.powi(63);
    (-limit..limit).contains(&x).then(|| x.trunc() as i64)
}

/// Decimal digits only: no `inf`, no `nan`.
fn parse_float(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|x: &f64| x.is_finite())
}

/// Elements of a JSON array.
fn parse_array(text: &str) -> Option<Vec<Option<Cow<'_, str>>>> {
    let array = Json::parse(text).filter(|value| value.kind() == "array")?;
    Some(array.elements().map(|e| (!e.is_null()).then(|| e.compact())).collect())
}

fn parse_bit(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// Integers and bits as they print; arrays and records as JSON.
fn to_text(column: &ArrayRef) -> Result<ArrayRef> {
    if column.data_type().is_nested() {
        return json(column);
    }
    Ok(arrow::compute::cast(column, &DataType::Utf8)?)
}

fn json(column: &ArrayRef) -> Result<ArrayRef> {
    let texts = json::encode(column)?.into_iter().map(|text| text.map(|t| String::from_utf8_lossy(&t).into_owned()));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

/// Values of type `any`, each by its own type.
fn from_any(args: &Args, target: &DataType, failure: Failure) -> Result<ArrayRef> {
    /// What a value is in the target, or the failure of the conversion.
    fn each<T>(
        values: &json::Values<'_>,
        row: usize,
        target: &DataType,
        failure: Failure,
        read: impl Fn(Json<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        match values.get(row) {
            Some(value) => checked(read(value), &value.text(), target, failure),
            None => Ok(None),
        }
    }
    let values = json::Values::of(args, 0);
    match target {
        DataType::Int64 => args.to_ints(|row| {
            each(&values, row, target, failure, |value| {
                let from_text = || value.string()?.trim().parse().ok();
                let number = value.int().or_else(|| whole(value.float()?));
                number.or_else(|| value.bit().map(i64::from)).or_else(from_text)
            })
        }),
        DataType::Float64 => args.to_floats(|row| {
            each(&values, row, target, failure, |value| {
                let from_text = || parse_float(&value.string()?);
                value.float().or_else(|| value.bit().map(f64::from)).or_else(from_text)
            })
        }),
        DataType::Boolean => args.to_bits(|row| {
            each(&values, row, target, failure, |value| {
                let from_text = || parse_bit(&value.string()?);
                value.bit().or_else(|| value.float().map(|x| x != 0.0)).or_else(from_text)
            })
        }),
        DataType::Timestamp(..) => {
            args.to_times(|row| each(&values, row, target, failure, |value| datetime::parse(&value.string()?)))
        }
        DataType::Utf8 => args.to_text(|row| Ok(values.get(row).map(Json::to_text))),
        other => exec_err!("cannot cast any to {}", type_name(other)),
    }
}

/// CAST to record or array of values of any type, or of JSON text: those that are none fail.
pub(crate) fn only(value: Typed, kind: &'static str, failure: Failure) -> Result<Typed, QueryError> {
    let (data_type, span) = (any_type(), value.span);
    let function = Only { kind, failure, signature: Signature::any(1, Volatility::Immutable) };
    Typed::call(ScalarUDF::new_from_impl(function), vec![value], data_type, span)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Only {
    kind: &'static str,
    failure: Failure,
    signature: Signature,
}

impl ScalarUDFImpl for Only {
    fn name(&self) -> &str {
        self.kind
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(any_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        rows::invoke(&args, |args| {
            let texts = arrow::compute::cast(args.column(0), &any_type())?;
            let kept = texts.as_string::<i64>().iter().map(|text| {
                let Some(text) = text else { return Ok(None) };
                let value = Json::parse(text).filter(|value| value.kind() == self.kind);
                match (value, self.failure) {
                    (Some(value), _) => Ok(Some(value.compact())),
                    (None, Failure::Null) => Ok(None),
                    (None, Failure::Error) => {
                        exec_err!("cannot cast '{text}' to {}; TRY_CAST gives NULL instead", self.kind)
                    }
                }
            });
            Ok(json::collect(kept.collect::<Result<Vec<_>>>()?.into_iter()))
        })
    }
}

/// Elements of arrays and fields of records, each converted; a field that is missing is null.
fn nested(column: &ArrayRef, target: &DataType, failure: Failure) -> Result<ArrayRef> {
    match target {
        DataType::List(element) => {
            let (_, offsets, values, nulls) = column.as_list::<i32>().clone().into_parts();
            let values = cast(&Args::of(values), element.data_type(), failure)?;
            Ok(Arc::new(ListArray::try_new(Arc::clone(element), offsets, values, nulls)?))
        }
        DataType::Struct(fields) => {
            let record = column.as_struct();
            let columns = fields
                .iter()
                .map(|f| match record.column_by_name(f.name()) {
                    Some(column) => cast(&Args::of(Arc::clone(column)), f.data_type(), failure),
                    None => Ok(new_null_array(f.data_type(), record.len())),
                })
                .collect::<Result<_>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), columns, record.nulls().cloned())?))
        }
        other => exec_err!("cannot cast {} to {}", type_name(column.data_type()), type_name(other)),
    }
}

/// Name of the type of each value; null for null.
fn get_type(args: &Args) -> Result<ArrayRef> {
    let column = args.column(0);
    if *args.data_type(0) == DataType::LargeUtf8 {
        let values = json::Values::of(args, 0);
        return args.to_text(|i| Ok(values.get(i).map(|value| Cow::from(value.kind()))));
    }
    let name = type_name(args.data_type(0));
    args.to_text(|i| Ok(column.is_valid(args.index(0, i)).then_some(Cow::from(name))))
}
