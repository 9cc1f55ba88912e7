//! Types: what the language calls them, how values are converted where the text does not say so, and the common type of
//! several values.

use arrow::datatypes::{DataType, Field};
use sqlparser::{ast::DataType as SqlType, tokenizer::Span};
use tidemill_engine::{any::any_type, datetime_type};

use crate::{
    error::QueryError,
    functions::conversion::{Failure, convert},
    typed::Typed,
};

/// The language's name of a type.
pub(crate) fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Int64 => "bigint",
        DataType::Float64 => "float",
        DataType::Utf8 => "nvarchar(max)",
        DataType::Boolean => "bit",
        DataType::Timestamp(..) => "datetime",
        DataType::Struct(_) => "record",
        DataType::List(_) => "array",
        DataType::LargeUtf8 => "any",
        DataType::Null => "null",
        _ => "unknown",
    }
}

/// What a type in CAST names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CastTarget {
    Type(DataType),
    Array,
    Record,
}

/// Reads ASA's and the usual SQL names of types.
pub(crate) fn cast_target(sql_type: &SqlType, span: Span) -> Result<CastTarget, QueryError> {
    let text = sql_type.to_string().to_ascii_lowercase();
    let (name, parameters) = text.split_once('(').unwrap_or((&text, "max)"));
    if parameters != "max)" {
        return Err(QueryError::at(span, format!("`{text}` has a length or a scale; the language's types have none"))
            .help("write nvarchar(max) and LEFT(x, n), or float and ROUND(x, n)"));
    }
    let name = name.trim();
    let data_type = match name {
        "bigint" | "int" | "integer" | "smallint" | "tinyint" => DataType::Int64,
        "float" | "double" | "double precision" | "real" | "decimal" | "numeric" | "dec" => DataType::Float64,
        "nvarchar" | "varchar" | "nchar" | "char" | "character varying" | "text" | "string" => DataType::Utf8,
        "datetime" | "datetime2" | "datetimeoffset" | "timestamp" | "timestamp_ltz" => datetime_type(),
        "bit" | "boolean" | "bool" => DataType::Boolean,
        "array" => return Ok(CastTarget::Array),
        "record" => return Ok(CastTarget::Record),
        _ => {
            return Err(QueryError::at(span, format!("unknown type `{text}`"))
                .help("types are bigint, float, nvarchar(max), datetime, bit, array and record"));
        }
    };
    Ok(CastTarget::Type(data_type))
}

/// Type of a declared column; `None` for arrays and records.
pub(crate) fn column_type(sql_type: &SqlType, span: Span) -> Result<Option<DataType>, QueryError> {
    Ok(match cast_target(sql_type, span)? {
        CastTarget::Type(t) => Some(t),
        CastTarget::Array | CastTarget::Record => None,
    })
}

/// The type that values of both types can have; `None` when there is none.
pub(crate) fn common_type(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Boolean, Float64, Int64, Null, Struct, Timestamp, Utf8};
    Some(match (a, b) {
        (a, b) if a == b => a.clone(),
        (Null, t) | (t, Null) => t.clone(),
        (Int64 | Float64 | Boolean, Float64) | (Float64, Int64 | Boolean) => Float64,
        (Int64, Boolean) | (Boolean, Int64) => Int64,
        (Utf8, Timestamp(..)) | (Timestamp(..), Utf8) => Utf8,
        (Struct(a), Struct(b)) => {
            let mut fields: Vec<Field> = a.iter().map(|f| f.as_ref().clone()).collect();
            for field in b {
                match fields.iter_mut().find(|f| f.name() == field.name()) {
                    Some(known) => known.set_data_type(common_type(known.data_type(), field.data_type())?),
                    None => return None,
                }
            }
            Struct(fields.into())
        }
        _ => return None,
    })
}

/// The type in which two values are compared: a string becomes what it is compared with.
pub(crate) fn comparison_type(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Boolean, Float64, Int64, LargeUtf8, Timestamp, Utf8};
    match (a, b) {
        (LargeUtf8, LargeUtf8) => Some(Utf8),
        (LargeUtf8, Int64) | (Int64, LargeUtf8) => Some(Float64),
        (LargeUtf8, t @ (Utf8 | Float64 | Boolean | Timestamp(..)))
        | (t @ (Utf8 | Float64 | Boolean | Timestamp(..)), LargeUtf8) => Some(t.clone()),
        (Utf8, Int64 | Float64) | (Int64 | Float64, Utf8) => Some(Float64),
        (Utf8, t @ (Timestamp(..) | Boolean)) | (t @ (Timestamp(..) | Boolean), Utf8) => Some(t.clone()),
        (DataType::Struct(_) | DataType::List(_), _) | (_, DataType::Struct(_) | DataType::List(_)) => None,
        _ => common_type(a, b),
    }
}

/// `value` as a number: text and values of any type become float, bits become bigint.
pub(crate) fn to_number(value: Typed) -> Result<Typed, QueryError> {
    match value.data_type {
        DataType::Int64 | DataType::Float64 => Ok(value),
        DataType::Utf8 | DataType::LargeUtf8 => coerce(value, &DataType::Float64),
        DataType::Boolean | DataType::Null => coerce(value, &DataType::Int64),
        _ => Err(mismatch(&value, "a number")),
    }
}

/// `value` as `target`, converted if the language converts it without being asked. Such a conversion fails at run time as
/// a CAST does.
pub(crate) fn coerce(value: Typed, target: &DataType) -> Result<Typed, QueryError> {
    use DataType::{Boolean, Float64, Int64, LargeUtf8, List, Null, Struct, Timestamp, Utf8};
    if value.data_type == *target {
        return Ok(value);
    }
    let allowed = matches!(
        (&value.data_type, target),
        (Null, _)
            | (_, LargeUtf8)
            | (LargeUtf8, Int64 | Float64 | Utf8 | Boolean | Timestamp(..))
            | (Int64 | Float64 | Boolean, Utf8 | Float64 | Int64)
            | (Timestamp(..), Utf8)
            | (Utf8, Float64 | Int64 | Boolean | Timestamp(..))
            | (Struct(_), Struct(_))
            | (List(_), List(_))
    );
    if !allowed {
        return Err(mismatch(&value, type_name(target)));
    }
    convert(value, target, Failure::Error)
}

pub(crate) fn mismatch(value: &Typed, expected: &str) -> QueryError {
    QueryError::at(value.span, format!("expected {expected}, found {}", type_name(&value.data_type)))
        .help("CAST or TRY_CAST it")
}

/// Brings all values to their common type; to `any` where they have none, so that each keeps its own.
pub(crate) fn unify(values: Vec<Typed>) -> Result<Vec<Typed>, QueryError> {
    let common = values.iter().try_fold(DataType::Null, |common, v| common_type(&common, &v.data_type));
    let target = common.unwrap_or_else(any_type);
    values.into_iter().map(|v| coerce(v, &target)).collect()
}
