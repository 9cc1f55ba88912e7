//! An Avro schema: parsed by apache-avro, with the columns that a query sees of it.

use std::{collections::HashMap, sync::Arc};

use apache_avro::schema::{InnerDecimalSchema, Name, RecordField, RecordSchema, Schema, UnionSchema, UuidSchema};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema as ArrowSchema, SchemaRef};
use serde_json::Value as Json;
use tidemill_engine::datetime_type;

use crate::formats::{Declared, LeftOut};

/// Types in one another beyond this are refused: nobody means them, and every walk over a schema is bounded.
const MAX_DEPTH: usize = 64;
/// Columns and members that a schema may make: a few types that contain each other twice can make 2^60.
const MAX_COLUMNS: usize = 10_000;

/// A parsed schema with the schemas that it refers to.
#[derive(Clone, Debug)]
pub struct AvroSchema {
    root: Schema,
    references: Vec<Schema>,
}

/// Every named type by its full name.
pub(in crate::formats) type Names<'s> = HashMap<&'s Name, &'s Schema>;

impl AvroSchema {
    /// Parses the JSON of a schema, whose named types may come from `references`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, references: &[String]) -> Result<Self, String> {
        let (root, references) =
            Schema::parse_str_with_list(text, references).map_err(|error| format!("not an Avro schema: {error}"))?;
        Ok(Self { root, references })
    }

    pub(in crate::formats) fn root(&self) -> &Schema {
        &self.root
    }

    pub(in crate::formats) fn names(&self) -> Names<'_> {
        let mut names = Names::new();
        for schema in self.references.iter().chain([&self.root]) {
            collect_names(schema, &mut names);
        }
        names
    }

    /// The columns of its record, all nullable, and the fields that can be none.
    ///
    /// # Errors
    /// When it is no record.
    pub fn columns(&self) -> Result<Declared, String> {
        let names = self.names();
        let record = record_of(&self.root, &names)
            .ok_or_else(|| format!("the schema's top is {}, expected a record", kind_name(&self.root)))?;
        let mut columns = Columns { names, open: Vec::new(), left_out: Vec::new(), count: 0 };
        columns.open.push(&record.name);
        let fields = columns.members(record, "");
        if columns.count > MAX_COLUMNS {
            return Err(format!("the schema makes more than {MAX_COLUMNS} columns"));
        }
        let schema: SchemaRef = Arc::new(ArrowSchema::new(fields));
        Ok(Declared { schema, left_out: columns.left_out })
    }
}

/// The record that a schema is or refers to.
pub(in crate::formats) fn record_of<'s>(schema: &'s Schema, names: &Names<'s>) -> Option<&'s RecordSchema> {
    match resolve(schema, names) {
        Schema::Record(record) => Some(record),
        _ => None,
    }
}

/// The type behind a reference.
pub(in crate::formats) fn resolve<'s>(schema: &'s Schema, names: &Names<'s>) -> &'s Schema {
    match schema {
        Schema::Ref { name } => names.get(name).copied().unwrap_or(schema),
        other => other,
    }
}

fn collect_names<'s>(schema: &'s Schema, names: &mut Names<'s>) {
    match schema {
        Schema::Array(array) => return collect_names(&array.items, names),
        Schema::Map(map) => return collect_names(&map.types, names),
        Schema::Union(union) => return union.variants().iter().for_each(|variant| collect_names(variant, names)),
        Schema::Record(record) => record.fields.iter().for_each(|field| collect_names(&field.schema, names)),
        _ => {}
    }
    let name = match schema {
        Schema::Decimal(decimal) => match &decimal.inner {
            InnerDecimalSchema::Fixed(fixed) => Some(&fixed.name),
            InnerDecimalSchema::Bytes => None,
        },
        Schema::Uuid(UuidSchema::Fixed(fixed)) => Some(&fixed.name),
        Schema::Ref { .. } => None,
        other => other.name(),
    };
    if let Some(name) = name {
        names.insert(name, schema);
    }
}

/// A union's types that are not null.
pub(super) fn branches(union: &UnionSchema) -> impl Iterator<Item = &Schema> {
    union.variants().iter().filter(|variant| !matches!(variant, Schema::Null))
}

/// Whether a union becomes a record with a member for each of its types: it has several, and one of them has insides.
pub(super) fn is_wide(union: &UnionSchema, names: &Names<'_>) -> bool {
    let nested = |schema| matches!(resolve(schema, names), Schema::Record(_) | Schema::Array(_) | Schema::Map(_));
    branches(union).count() > 1 && branches(union).any(nested)
}

/// The member of a wide union's record that holds values of this type.
pub(super) fn branch_name(schema: &Schema) -> &str {
    match schema {
        Schema::Ref { name } => name.name(),
        other => other.name().map_or_else(|| kind_name(other), Name::name),
    }
}

/// Its type in the words of the specification.
pub(in crate::formats) fn kind_name(schema: &Schema) -> &'static str {
    match schema {
        Schema::Null => "null",
        Schema::Boolean => "boolean",
        Schema::Int | Schema::Date | Schema::TimeMillis => "int",
        Schema::Float => "float",
        Schema::Double => "double",
        Schema::Bytes | Schema::Decimal(_) | Schema::BigDecimal => "bytes",
        Schema::String | Schema::Uuid(_) => "string",
        Schema::Array(_) => "array",
        Schema::Map(_) => "map",
        Schema::Union(_) => "union",
        Schema::Record(_) => "record",
        Schema::Enum(_) => "enum",
        Schema::Fixed(_) | Schema::Duration(_) => "fixed",
        Schema::Ref { .. } => "reference",
        _ => "long",
    }
}

/// A map as we have it: its entries, each a record of `key` and `value`.
pub(in crate::formats) fn map_type(value: DataType) -> DataType {
    let entry = Fields::from(vec![Field::new("key", DataType::Utf8, true), Field::new("value", value, true)]);
    list_type(DataType::Struct(entry))
}

/// A list of values that may be null.
pub(in crate::formats) fn list_type(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

struct Columns<'s> {
    names: Names<'s>,
    /// Records around the type at hand.
    open: Vec<&'s Name>,
    left_out: Vec<LeftOut>,
    count: usize,
}

impl<'s> Columns<'s> {
    fn members(&mut self, record: &'s RecordSchema, path: &str) -> Fields {
        let member = |field: &'s RecordField| -> Option<FieldRef> {
            self.count += 1;
            if self.count > MAX_COLUMNS {
                return None;
            }
            let path = format!("{path}{}", field.name);
            match self.data_type(&field.schema, &path) {
                Ok(data_type) => Some(Arc::new(Field::new(&field.name, data_type, true))),
                Err(reason) => {
                    self.left_out.push(LeftOut { path, reason });
                    None
                }
            }
        };
        record.fields.iter().filter_map(member).collect()
    }

    fn data_type(&mut self, schema: &'s Schema, path: &str) -> Result<DataType, String> {
        Ok(match resolve(schema, &self.names) {
            Schema::Boolean => DataType::Boolean,
            Schema::Int | Schema::Long => DataType::Int64,
            Schema::Float | Schema::Double | Schema::Decimal(_) => DataType::Float64,
            Schema::Date
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => datetime_type(),
            Schema::Array(array) => list_type(self.data_type(&array.items, &format!("{path}[]"))?),
            Schema::Map(map) => map_type(self.data_type(&map.types, &format!("{path}[].value"))?),
            Schema::Union(union) if is_wide(union, &self.names) => {
                let member = |branch| {
                    let name = branch_name(branch);
                    Ok(Field::new(name, self.data_type(branch, &format!("{path}.{name}"))?, true))
                };
                DataType::Struct(branches(union).map(member).collect::<Result<_, String>>()?)
            }
            Schema::Union(union) => {
                let types =
                    branches(union).map(|branch| self.data_type(branch, path)).collect::<Result<Vec<_>, _>>()?;
                common_type(&types)
            }
            Schema::Record(record) => {
                if self.open.contains(&&record.name) || self.open.len() >= MAX_DEPTH {
                    return Err(format!("its type `{}` contains itself", record.name));
                }
                self.open.push(&record.name);
                let members = self.members(record, &format!("{path}."));
                self.open.pop();
                if members.is_empty() {
                    return Err(format!("record `{}` has no fields that can be columns", record.name));
                }
                DataType::Struct(members)
            }
            _ => DataType::Utf8,
        })
    }
}

/// The type that takes values of all of them: text where nothing else does.
fn common_type(types: &[DataType]) -> DataType {
    match types {
        [] => DataType::Utf8,
        [first, others @ ..] if others.iter().all(|other| other == first) => first.clone(),
        _ if types.iter().all(|one| matches!(one, DataType::Int64 | DataType::Float64)) => DataType::Float64,
        _ => DataType::Utf8,
    }
}

/// Encodes a field's default, JSON by the rules of the specification, as a value of its type; `None` where it does not fit.
pub(in crate::formats) fn encode_default(
    schema: &Schema,
    names: &Names<'_>,
    default: &Json,
    out: &mut Vec<u8>,
) -> Option<()> {
    match (resolve(schema, names), default) {
        (Schema::Null, Json::Null) => {}
        (Schema::Boolean, Json::Bool(value)) => out.push(u8::from(*value)),
        (Schema::Float, Json::Number(value)) => out.extend((value.as_f64()? as f32).to_le_bytes()),
        (Schema::Double, Json::Number(value)) => out.extend(value.as_f64()?.to_le_bytes()),
        (Schema::String | Schema::Uuid(UuidSchema::String), Json::String(text)) => put_bytes(text.as_bytes(), out),
        (Schema::Enum(symbols), Json::String(text)) => {
            put_long(symbols.symbols.iter().position(|symbol| symbol == text)? as i64, out);
        }
        (Schema::Fixed(_) | Schema::Duration(_) | Schema::Uuid(UuidSchema::Fixed(_)), Json::String(text)) => {
            out.extend(latin1(text)?);
        }
        (Schema::Decimal(decimal), Json::String(text)) => match decimal.inner {
            InnerDecimalSchema::Fixed(_) => out.extend(latin1(text)?),
            InnerDecimalSchema::Bytes => put_bytes(&latin1(text)?, out),
        },
        (Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes), Json::String(text)) => {
            put_bytes(&latin1(text)?, out);
        }
        (Schema::Array(array), Json::Array(items)) => {
            if !items.is_empty() {
                put_long(items.len() as i64, out);
                items.iter().try_for_each(|item| encode_default(&array.items, names, item, out))?;
            }
            out.push(0);
        }
        (Schema::Map(map), Json::Object(entries)) => {
            if !entries.is_empty() {
                put_long(entries.len() as i64, out);
            }
            for (key, value) in entries {
                put_bytes(key.as_bytes(), out);
                encode_default(&map.types, names, value, out)?;
            }
            out.push(0);
        }
        (Schema::Record(record), Json::Object(members)) => {
            for field in &record.fields {
                let value = members.get(&field.name).or(field.default.as_ref())?;
                encode_default(&field.schema, names, value, out)?;
            }
        }
        // Of a union the first type that takes it; older writers meant the first type alone.
        (Schema::Union(union), value) => {
            let start = out.len();
            let fits = |(index, variant): (usize, &Schema)| {
                out.truncate(start);
                put_long(index as i64, out);
                encode_default(variant, names, value, out)
            };
            return union.variants().iter().enumerate().find_map(fits);
        }
        (other, Json::Number(value)) if matches!(kind_name(other), "int" | "long") => put_long(value.as_i64()?, out),
        _ => return None,
    }
    Some(())
}

/// Bytes written as the characters of the same numbers.
fn latin1(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|character| u8::try_from(u32::from(character)).ok()).collect()
}

/// Appends a length and bytes.
pub(in crate::formats) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Appends a zigzag number.
pub(in crate::formats) fn put_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
