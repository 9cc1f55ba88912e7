//! The declared columns of an input: `schema: {user: string, amount: double, tags: [string], at: {lat: double}}`.
//!
//! A type has two names: that of ASA (`bigint`, `float`, `nvarchar(max)`, `datetime`, `bit`) and a friendly one. `any` is the type of values
//! that have types of their own, as fields of mixed kinds do; only JSON has such.

use std::{borrow::Cow, fmt, sync::Arc};

use arrow::datatypes::{DataType, Field, Fields};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{deserialize::near, named::Named};

/// The type of a declared column; every column may be null.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ColumnType {
    Scalar(DataType),
    List(Box<ColumnType>),
    Record(Named<ColumnType>),
}

impl ColumnType {
    /// As Arrow has it.
    pub(super) fn data_type(&self) -> DataType {
        match self {
            Self::Scalar(data_type) => data_type.clone(),
            Self::List(item) => DataType::List(Arc::new(Field::new_list_field(item.data_type(), true))),
            Self::Record(columns) => DataType::Struct(fields(columns)),
        }
    }
}

/// The columns as Arrow fields, in the order of the spec.
pub(super) fn fields(columns: &Named<ColumnType>) -> Fields {
    columns.iter().map(|(name, column)| Field::new(name, column.data_type(), true)).collect()
}

/// Friendly names first: they are the ones that are suggested.
const NAMES: [&str; 11] =
    ["string", "double", "int", "bool", "timestamp", "any", "nvarchar(max)", "float", "bigint", "bit", "datetime"];

fn scalar(name: &str) -> Option<DataType> {
    Some(match name.to_ascii_lowercase().as_str() {
        "string" | "nvarchar(max)" => DataType::Utf8,
        "double" | "float" => DataType::Float64,
        "int" | "bigint" => DataType::Int64,
        "bool" | "bit" => DataType::Boolean,
        "any" => tidemill_engine::any::any_type(),
        "timestamp" | "datetime" => tidemill_engine::datetime_type(),
        _ => return None,
    })
}

impl<'de> Deserialize<'de> for ColumnType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TypeVisitor)
    }
}

struct TypeVisitor;

impl<'de> Visitor<'de> for TypeVisitor {
    type Value = ColumnType;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a type such as `string`, a list `[double]` or a record `{a: double}`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<ColumnType, E> {
        scalar(name).map(ColumnType::Scalar).ok_or_else(|| {
            let near = near(name, &NAMES).map_or(String::new(), |near| format!("did you mean `{near}`? "));
            E::custom(format!("unknown type `{name}`; {near}available: {}", NAMES.join(", ")))
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ColumnType, A::Error> {
        let written = items.size_hint();
        let item: Option<ColumnType> = items.next_element()?;
        match (item, items.next_element::<ColumnType>()?) {
            (Some(item), None) => Ok(ColumnType::List(Box::new(item))),
            // It was there, was wrong, and is reported already.
            (None, None) if written == Some(1) => Ok(ColumnType::List(Box::new(ColumnType::Scalar(DataType::Null)))),
            _ => Err(de::Error::custom("expected the type of the list's elements, once: `[double]`")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ColumnType, A::Error> {
        Named::deserialize(de::value::MapAccessDeserializer::new(map)).map(ColumnType::Record)
    }
}

impl JsonSchema for ColumnType {
    fn schema_name() -> Cow<'static, str> {
        "ColumnType".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let this = generator.subschema_for::<ColumnType>();
        json_schema!({
            "description": "The type of a column.",
            "oneOf": [
                {"type": "string", "enum": NAMES},
                {"description": "A list of values of one type.", "type": "array", "items": this, "minItems": 1, "maxItems": 1},
                {"description": "A record.", "type": "object", "additionalProperties": this},
            ]
        })
    }
}
