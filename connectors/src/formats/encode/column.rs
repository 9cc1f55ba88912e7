//! A column with its type resolved, so that a value costs one match and no downcast.

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, LargeStringArray, ListArray},
    array::{StringArray, StructArray},
    array::{TimestampMicrosecondArray, make_array},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType},
};
use tidemill_engine::{Result, datetime_type};

/// The values of one column, or of one member of a record, or of all items of a list.
pub(crate) enum Column {
    Null,
    Boolean(BooleanArray),
    Int(Int64Array),
    Float(Float64Array),
    Text(StringArray),
    /// Values with types of their own, as JSON.
    Any(LargeStringArray),
    Datetime(TimestampMicrosecondArray),
    /// The array for its nulls, and its members.
    Record(StructArray, Vec<Member>),
    /// The array for its offsets and nulls, and its items.
    List(ListArray, Box<Column>),
}

/// One member of a record.
pub(crate) struct Member {
    /// Its name as JSON, with the colon.
    pub(crate) key: Vec<u8>,
    pub(crate) values: Column,
}

impl Member {
    fn new(field: &Field, values: &ArrayRef) -> Result<Self> {
        let mut key = serde_json::to_vec(field.name()).expect("memory takes every byte");
        key.push(b':');
        Ok(Self { key, values: Column::resolve(values)? })
    }
}

impl Column {
    /// Takes the types of our batches as they are; others become the nearest of these: smaller integers `Int64`, other
    /// floats and decimals `Float64`, dates, times and durations their ISO text.
    pub(crate) fn resolve(array: &dyn Array) -> Result<Self> {
        Ok(match array.data_type() {
            DataType::Null => Self::Null,
            DataType::Boolean => Self::Boolean(array.as_boolean().clone()),
            DataType::Int64 => Self::Int(array.as_primitive::<Int64Type>().clone()),
            DataType::Float64 => Self::Float(array.as_primitive::<Float64Type>().clone()),
            DataType::Utf8 => Self::Text(array.as_string().clone()),
            DataType::LargeUtf8 => Self::Any(array.as_string().clone()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                Self::Datetime(array.as_primitive::<TimestampMicrosecondType>().clone())
            }
            DataType::Struct(fields) => {
                let record = array.as_struct();
                let members = fields.iter().zip(record.columns()).map(|(field, values)| Member::new(field, values));
                Self::Record(record.clone(), members.collect::<Result<_>>()?)
            }
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Self::List(list.clone(), Box::new(Self::resolve(list.values())?))
            }
            other => Self::resolve(&cast(array, &nearest(other))?)?,
        })
    }

    /// Whether the row has no value.
    pub(crate) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Boolean(values) => values.is_null(row),
            Self::Int(values) => values.is_null(row),
            Self::Float(values) => values.is_null(row),
            Self::Text(values) => values.is_null(row),
            Self::Any(values) => values.is_null(row),
            Self::Datetime(values) => values.is_null(row),
            Self::Record(values, _) => values.is_null(row),
            Self::List(values, _) => values.is_null(row),
        }
    }
}

/// The type of ours that stands for another one.
fn nearest(other: &DataType) -> DataType {
    match other {
        DataType::Dictionary(_, values) => (**values).clone(),
        DataType::RunEndEncoded(_, values) => values.data_type().clone(),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => DataType::List(item.clone()),
        DataType::Timestamp(..) => datetime_type(),
        _ if other.is_integer() => DataType::Int64,
        _ if other.is_floating() || other.is_decimal() => DataType::Float64,
        _ => DataType::Utf8,
    }
}

/// Casts; what does not fit is an error, not a null.
fn cast(array: &dyn Array, to: &DataType) -> Result<ArrayRef> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(&make_array(array.to_data()), to, &options)?)
}
