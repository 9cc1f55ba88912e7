//! Arrays of any type to the types of queries.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, ListArray, StringArray, StructArray, new_null_array},
    compute::{CastOptions, cast_with_options},
    datatypes::{DataType, Field, TimeUnit},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use tidemill_engine::{datetime_type, decoder::BadClass};

use crate::formats::{
    avro::schema::{list_type, map_type},
    json::reader::{Fault, fault},
};

/// The type of a query that takes values of another one; `None` where there is none.
pub(super) fn column_type(written: &DataType) -> Option<DataType> {
    Some(match written {
        DataType::Dictionary(_, values) => column_type(values)?,
        DataType::RunEndEncoded(_, values) => column_type(values.data_type())?,
        DataType::Boolean => DataType::Boolean,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => datetime_type(),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => list_type(column_type(item.data_type())?),
        DataType::Struct(members) => {
            let member = |member: &Arc<Field>| Some(Field::new(member.name(), column_type(member.data_type())?, true));
            DataType::Struct(members.iter().map(member).collect::<Option<_>>()?)
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => map_type(column_type(pair[1].data_type())?),
            _ => return None,
        },
        DataType::Union(..) => return None,
        other if other.is_integer() => DataType::Int64,
        other if other.is_floating() || other.is_decimal() => DataType::Float64,
        _ => DataType::Utf8,
    })
}

/// Values as a column of this type.
pub(super) fn convert(values: &ArrayRef, column: &DataType, path: &str) -> Result<ArrayRef, Fault> {
    if values.data_type() == column {
        return Ok(values.clone());
    }
    let misfit = |error: String| fault(BadClass::Type, format!("column `{path}`: {error}"));
    match (values.data_type(), column) {
        (DataType::Dictionary(_, plain), _) => {
            let plain = cast(values, plain).map_err(misfit)?;
            convert(&plain, column, path)
        }
        (DataType::Struct(_), DataType::Struct(members)) => {
            let record = values.as_struct();
            let find = |name: &str| {
                let exact = record.column_by_name(name);
                exact.or_else(|| {
                    let mut names = record.column_names().into_iter();
                    names.position(|other| other.eq_ignore_ascii_case(name)).map(|at| record.column(at))
                })
            };
            let member = |member: &Arc<Field>| match find(member.name()) {
                Some(values) => convert(values, member.data_type(), &format!("{path}.{}", member.name())),
                None => Ok(new_null_array(member.data_type(), record.len())),
            };
            let columns = members.iter().map(member).collect::<Result<Vec<_>, _>>()?;
            let nulls = record.nulls().cloned();
            let record = StructArray::try_new_with_length(members.clone(), columns, nulls, record.len());
            Ok(Arc::new(record.map_err(|error| misfit(error.to_string()))?))
        }
        (DataType::List(_), DataType::List(item)) => {
            let list = values.as_list::<i32>();
            let items = convert(list.values(), item.data_type(), &format!("{path}[]"))?;
            let list = ListArray::try_new(item.clone(), list.offsets().clone(), items, list.nulls().cloned());
            Ok(Arc::new(list.map_err(|error| misfit(error.to_string()))?))
        }
        (
            DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::ListView(item)
            | DataType::LargeListView(item),
            DataType::List(_),
        ) => {
            let list = cast(values, &DataType::List(item.clone())).map_err(misfit)?;
            convert(&list, column, path)
        }
        (DataType::Map(..), DataType::List(entry)) => {
            let map = values.as_map();
            let DataType::Struct(pair) = entry.data_type() else {
                return Err(misfit(format!("a map is an array of records of `key` and `value`, not of {entry}")));
            };
            let [key, value] = pair.as_ref() else {
                return Err(misfit("a map is an array of records of `key` and `value`".to_owned()));
            };
            let keys = convert(map.keys(), key.data_type(), &format!("{path}[].key"))?;
            let items = convert(map.values(), value.data_type(), &format!("{path}[].value"))?;
            let entries = StructArray::try_new(pair.clone(), vec![keys, items], None);
            let entries = entries.map_err(|error| misfit(error.to_string()))?;
            let list =
                ListArray::try_new(entry.clone(), map.offsets().clone(), Arc::new(entries), map.nulls().cloned());
            Ok(Arc::new(list.map_err(|error| misfit(error.to_string()))?))
        }
        (
            DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView,
            DataType::Utf8,
        ) => {
            let plain = cast(values, &DataType::Binary).map_err(misfit)?;
            let plain: &BinaryArray = plain.as_binary();
            Ok(Arc::new(StringArray::from_iter(plain.iter().map(|bytes| Some(BASE64_STANDARD.encode(bytes?))))))
        }
        (DataType::Boolean, DataType::Utf8) => {
            let plain: &BooleanArray = values.as_boolean();
            Ok(Arc::new(StringArray::from_iter(plain.iter().map(|value| value.map(|value| value.to_string())))))
        }
        // A count of milliseconds, as everywhere.
        (other, datetime) if other.is_integer() && *datetime == datetime_type() => {
            let millis = cast(values, &DataType::Int64).map_err(misfit)?;
            let millis = cast(&millis, &DataType::Timestamp(TimeUnit::Millisecond, None)).map_err(misfit)?;
            cast(&millis, column).map_err(misfit)
        }
        (other, _) if other.is_nested() != column.is_nested() => {
            Err(misfit(format!("{other} cannot go into {column}")))
        }
        _ => cast(values, column).map_err(misfit),
    }
}

/// Casts; what does not fit is an error, not a null.
fn cast(values: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(values, to, &options).map_err(|error| error.to_string())
}
