//! Protobuf: rows as messages of a given type, or of one that is made of the columns and registered.

use std::{fmt::Write as _, sync::Arc};

use arrow::{
    array::StructArray,
    datatypes::{DataType, Field, Fields, Schema},
    error::ArrowError,
    record_batch::RecordBatch,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use tidemill_engine::Result;

use super::{Column, EncodedRows, Registrar, RowEncoder, datetime_text};
use crate::formats::{
    avro::schema::put_long,
    protobuf::{Prefix, ProtobufMessage, ProtobufSchema, schema::WellKnown},
    registry::{SchemaKind, WireFormat},
};

/// Name of the message that is made of columns.
const ROW: &str = "Row";

/// Writes each row as a message.
pub struct ProtobufEncoder {
    target: Target,
}

enum Target {
    Given {
        message: ProtobufMessage,
        prefix: Option<Prefix>,
    },
    /// Of a registry's schema: the id, and which message of its file it is.
    Registered {
        message: ProtobufMessage,
        head: Vec<u8>,
    },
    /// Of the last batch: columns, their message, and the id under which it is registered.
    Made {
        wire: WireFormat,
        registrar: Box<dyn Registrar>,
        current: Option<(Arc<Schema>, ProtobufMessage, u64)>,
    },
}

impl ProtobufEncoder {
    /// Into messages of this type, each behind its length if there is a `prefix`.
    #[must_use]
    pub fn of_message(message: ProtobufMessage, prefix: Option<Prefix>) -> Self {
        Self { target: Target::Given { message, prefix } }
    }

    /// Into messages of this type, of a schema that a registry has under this id.
    #[must_use]
    pub fn of_registered(wire: WireFormat, id: u64, message: ProtobufMessage) -> Self {
        let mut head = vec![];
        wire.put(id, &mut head);
        put_indexes(&message.0, &mut head);
        Self { target: Target::Registered { message, head } }
    }

    /// Into messages that are made of the columns, behind the ids under which they are registered.
    #[must_use]
    pub fn registered(wire: WireFormat, registrar: Box<dyn Registrar>) -> Self {
        Self { target: Target::Made { wire, registrar, current: None } }
    }
}

impl RowEncoder for ProtobufEncoder {
    fn header(&self, _schema: &Schema) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        if let Target::Made { registrar, current, .. } = &mut self.target
            && current.as_ref().is_none_or(|(known, ..)| known != batch.schema_ref())
        {
            let text = proto_text(batch.schema_ref())?;
            let made = ProtobufSchema::of_texts(&text, &[]).and_then(|schema| schema.message(Some(ROW)));
            let made = made.map_err(|error| ArrowError::SchemaError(format!("columns make no message: {error}")))?;
            let id = registrar.register(SchemaKind::Protobuf, &text)?;
            *current = Some((batch.schema(), made, id));
        }
        let message = match &self.target {
            Target::Given { message, .. }
            | Target::Registered { message, .. }
            | Target::Made { current: Some((_, message, _)), .. } => message,
            Target::Made { current: None, .. } => return Ok(()),
        };
        let Column::Record(_, members) = Column::resolve(&StructArray::from(batch.clone()))? else { return Ok(()) };
        let fields = batch.schema_ref().fields();
        let values: Vec<Column> = members.into_iter().map(|member| member.values).collect();
        let plan = Message::new(&message.0, fields, &values, "")?;
        let mut scratch = Vec::new();
        for row in 0..batch.num_rows() {
            scratch.clear();
            plan.put(row, &mut scratch)?;
            rows.push_binary(|out| {
                match &self.target {
                    Target::Given { prefix: Some(prefix), .. } => prefix.put(scratch.len(), out),
                    Target::Registered { head, .. } => out.extend_from_slice(head),
                    Target::Made { wire, current: Some((_, _, id)), .. } => {
                        wire.put(*id, out);
                        out.push(0); // the first message of its file
                    }
                    _ => {}
                }
                out.extend_from_slice(&scratch);
                Ok::<_, ArrowError>(())
            })?;
        }
        Ok(())
    }
}

/// Which message of its file it is: the indexes of those around it and its own, by Confluent's format; the first of all is a zero.
fn put_indexes(message: &MessageDescriptor, out: &mut Vec<u8>) {
    let mut indexes = vec![];
    let mut current = message.clone();
    loop {
        let parent = current.parent_message();
        let index = match &parent {
            Some(parent) => parent.child_messages().position(|child| child == current),
            None => current.parent_file().messages().position(|child| child == current),
        };
        indexes.insert(0, index.unwrap_or(0));
        match parent {
            Some(parent) => current = parent,
            None => break,
        }
    }
    if indexes == [0] {
        return out.push(0);
    }
    put_long(indexes.len() as i64, out);
    indexes.iter().for_each(|&index| put_long(index as i64, out));
}

/// A file with one message whose fields are the columns, in their order.
fn proto_text(schema: &Schema) -> Result<String, ArrowError> {
    let mut text = "syntax = \"proto3\";\nimport \"google/protobuf/timestamp.proto\";\n".to_owned();
    put_message(ROW, schema.fields(), &mut text)?;
    Ok(text)
}

fn put_message(name: &str, fields: &Fields, text: &mut String) -> Result<(), ArrowError> {
    let _ = writeln!(text, "message {name} {{"); // writing to a String cannot fail
    for (number, field) in (1..).zip(fields) {
        let column = field.name();
        let is_name = column.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && column.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        if !is_name {
            return Err(ArrowError::SchemaError(format!(
                "column `{column}` cannot be a field of Protobuf: give it a name of letters, digits and `_` with AS"
            )));
        }
        let (label, data_type) = match field.data_type() {
            DataType::List(item) => ("repeated", item.data_type()),
            other => ("optional", other),
        };
        let nested = format!("{name}_{column}");
        let kind = match data_type {
            DataType::Boolean => "bool",
            DataType::Timestamp(..) => "google.protobuf.Timestamp",
            DataType::Struct(members) => {
                put_message(&nested, members, text)?;
                &nested
            }
            DataType::List(_) => {
                return Err(ArrowError::SchemaError(format!(
                    "column `{column}` is an array of arrays, which Protobuf does not have"
                )));
            }
            other if other.is_integer() => "int64",
            other if other.is_floating() || other.is_decimal() => "double",
            _ => "string",
        };
        let _ = writeln!(text, "{label} {kind} {column} = {number};");
    }
    text.push_str("}\n");
    Ok(())
}

/// Columns with the fields that they go into.
struct Message<'b> {
    /// Each with the path of its column, by number.
    fields: Vec<(FieldPlan<'b>, String)>,
}

struct FieldPlan<'b> {
    number: u32,
    kind: Kind,
    packed: bool,
    values: Values<'b>,
}

enum Values<'b> {
    One(&'b Column),
    Message(&'b Column, Box<Message<'b>>),
    /// The array, and what its items are.
    List(&'b Column, Box<FieldPlan<'b>>),
}

impl<'b> Message<'b> {
    fn new(
        message: &MessageDescriptor,
        fields: &Fields,
        columns: &'b [Column],
        path: &str,
    ) -> Result<Self, ArrowError> {
        let mut plans = Vec::new();
        for (field, values) in fields.iter().zip(columns) {
            let (name, path) = (field.name(), format!("{path}{}", field.name()));
            let descriptor = message
                .get_field_by_name(name)
                .or_else(|| message.get_field_by_json_name(name))
                .or_else(|| message.fields().find(|field| field.name().eq_ignore_ascii_case(name)));
            let Some(descriptor) = descriptor else {
                let names: Vec<_> = message.fields().map(|field| format!("`{}`", field.name())).collect();
                return Err(ArrowError::SchemaError(format!(
                    "message `{}` has no field for column `{path}`; available: {}",
                    message.full_name(),
                    names.join(", ")
                )));
            };
            plans.push((FieldPlan::new(&descriptor, field, values, &path)?, path));
        }
        plans.sort_by_key(|(plan, _)| plan.number);
        Ok(Self { fields: plans })
    }

    fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), ArrowError> {
        self.fields.iter().try_for_each(|(field, path)| field.put(row, out, path))
    }
}

impl<'b> FieldPlan<'b> {
    fn new(
        descriptor: &FieldDescriptor,
        field: &Arc<Field>,
        values: &'b Column,
        path: &str,
    ) -> Result<Self, ArrowError> {
        let is_repeated = descriptor.is_list() || descriptor.is_map();
        let plan = |values| Self {
            number: descriptor.number(),
            kind: descriptor.kind(),
            packed: descriptor.is_packed(),
            values,
        };
        let values = match (values, field.data_type()) {
            (Column::List(_, items), DataType::List(item)) if is_repeated => {
                let inside = match (items.as_ref(), item.data_type(), descriptor.kind()) {
                    (Column::Record(_, members), DataType::Struct(fields), Kind::Message(message))
                        if WellKnown::of(&message).is_none() =>
                    {
                        let message = Self::members(&message, fields, members, &format!("{path}[]"))?;
                        Values::Message(items, Box::new(message))
                    }
                    _ => Values::One(items),
                };
                Values::List(values, Box::new(plan(inside)))
            }
            (Column::Record(_, members), DataType::Struct(fields)) if !is_repeated => match descriptor.kind() {
                Kind::Message(message) if WellKnown::of(&message).is_none() => {
                    Values::Message(values, Box::new(Self::members(&message, fields, members, path)?))
                }
                _ => return Err(mismatch(path, "a record", descriptor)),
            },
            (Column::Record(..), _) => return Err(mismatch(path, "a record", descriptor)),
            (Column::List(..), _) => return Err(mismatch(path, "an array", descriptor)),
            _ if is_repeated => return Err(mismatch(path, "one value", descriptor)),
            _ => Values::One(values),
        };
        Ok(plan(values))
    }

    fn members(
        message: &MessageDescriptor,
        fields: &Fields,
        members: &'b [super::column::Member],
        path: &str,
    ) -> Result<Message<'b>, ArrowError> {
        let mut plans = Vec::new();
        for (field, member) in fields.iter().zip(members) {
            let one = Fields::from(vec![field.clone()]);
            let values = std::slice::from_ref(&member.values);
            plans.extend(Message::new(message, &one, values, &format!("{path}."))?.fields);
        }
        plans.sort_by_key(|(plan, _)| plan.number);
        Ok(Message { fields: plans })
    }

    fn put(&self, row: usize, out: &mut Vec<u8>, path: &str) -> Result<(), ArrowError> {
        match &self.values {
            Values::One(column) | Values::Message(column, _) if column.is_null(row) => Ok(()),
            Values::List(column, items) => {
                let Column::List(list, _) = column else { return Ok(()) };
                if column.is_null(row) {
                    return Ok(());
                }
                let [start, end] = [list.value_offsets()[row], list.value_offsets()[row + 1]];
                let rows = start as usize..end as usize;
                if items.packed && start < end {
                    let mut packed = Vec::new();
                    for item in rows {
                        items.put_item(item, &mut packed, false, path)?;
                    }
                    put_sized(self.number, &packed, out);
                    return Ok(());
                }
                for item in rows {
                    items.put_item(item, out, true, path)?;
                }
                Ok(())
            }
            _ => self.put_value(row, out, true, path),
        }
    }

    fn put_item(&self, item: usize, out: &mut Vec<u8>, key: bool, path: &str) -> Result<(), ArrowError> {
        if let Values::One(column) | Values::Message(column, _) = &self.values
            && column.is_null(item)
        {
            return Err(value_error(path, "a null in an array, which Protobuf does not have"));
        }
        self.put_value(item, out, key, path)
    }

    fn put_value(&self, row: usize, out: &mut Vec<u8>, key: bool, path: &str) -> Result<(), ArrowError> {
        match &self.values {
            Values::Message(_, message) => {
                let mut inner = Vec::new();
                message.put(row, &mut inner)?;
                put_sized(self.number, &inner, out);
                Ok(())
            }
            Values::One(column) => self.put_scalar(column, row, out, key, path),
            Values::List(..) => Ok(()),
        }
    }

    fn put_scalar(
        &self,
        column: &'b Column,
        row: usize,
        out: &mut Vec<u8>,
        key: bool,
        path: &str,
    ) -> Result<(), ArrowError> {
        let number = self.number;
        let misfit = || value_error(path, &format!("a value that is no {:?}", self.kind));
        let put_key = |wire, out: &mut Vec<u8>| {
            if key {
                encode_key(number, wire, out);
            }
        };
        let int = || match column {
            Column::Int(values) => Some(values.value(row)),
            Column::Float(values) => {
                Some(values.value(row)).filter(|value| value.fract() == 0.0).map(|value| value as i64)
            }
            // As everywhere, milliseconds.
            Column::Datetime(values) => Some(values.value(row).div_euclid(1_000)),
            Column::Text(values) => values.value(row).parse().ok(),
            _ => None,
        };
        let float = || match column {
            Column::Int(values) => Some(values.value(row) as f64),
            Column::Float(values) => Some(values.value(row)),
            Column::Text(values) => values.value(row).parse().ok(),
            _ => None,
        };
        let varint = |value: u64, out: &mut Vec<u8>| {
            put_key(WireType::Varint, out);
            encode_varint(value, out);
        };
        let fixed32 = |bytes: [u8; 4], out: &mut Vec<u8>| {
            put_key(WireType::ThirtyTwoBit, out);
            out.extend_from_slice(&bytes);
        };
        let fixed64 = |bytes: [u8; 8], out: &mut Vec<u8>| {
            put_key(WireType::SixtyFourBit, out);
            out.extend_from_slice(&bytes);
        };
        let narrow = || int().and_then(|value| i32::try_from(value).ok()).ok_or_else(misfit);
        let unsigned = || int().and_then(|value| u64::try_from(value).ok()).ok_or_else(misfit);
        let narrow_unsigned = || int().and_then(|value| u32::try_from(value).ok()).ok_or_else(misfit);
        match &self.kind {
            Kind::Int32 => varint(i64::from(narrow()?) as u64, out),
            Kind::Int64 => varint(int().ok_or_else(misfit)? as u64, out),
            Kind::Uint32 => varint(u64::from(narrow_unsigned()?), out),
            Kind::Uint64 => varint(unsigned()?, out),
            Kind::Sint32 => varint(zigzag(i64::from(narrow()?)), out),
            Kind::Sint64 => varint(zigzag(int().ok_or_else(misfit)?), out),
            Kind::Fixed32 => fixed32(narrow_unsigned()?.to_le_bytes(), out),
            Kind::Sfixed32 => fixed32(narrow()?.to_le_bytes(), out),
            Kind::Fixed64 => fixed64(unsigned()?.to_le_bytes(), out),
            Kind::Sfixed64 => fixed64(int().ok_or_else(misfit)?.to_le_bytes(), out),
            Kind::Float => fixed32((float().ok_or_else(misfit)? as f32).to_le_bytes(), out),
            Kind::Double => fixed64(float().ok_or_else(misfit)?.to_le_bytes(), out),
            Kind::Bool => match column {
                Column::Boolean(values) => varint(u64::from(values.value(row)), out),
                _ => return Err(misfit()),
            },
            Kind::String => put_sized(number, text(column, row).ok_or_else(misfit)?.as_bytes(), out),
            Kind::Bytes => match column {
                Column::Text(values) => {
                    let bytes = BASE64_STANDARD.decode(values.value(row));
                    put_sized(number, &bytes.map_err(|_| value_error(path, "a text that is no base64"))?, out);
                }
                _ => return Err(misfit()),
            },
            Kind::Enum(names) => {
                let value = match column {
                    Column::Text(values) => {
                        let name = values.value(row);
                        let named = names.get_value_by_name(name).map(|value| value.number());
                        named
                            .or_else(|| name.parse().ok())
                            .ok_or_else(|| value_error(path, &format!("`{name}`, which is no {}", names.full_name())))?
                    }
                    _ => narrow()?,
                };
                varint(i64::from(value) as u64, out);
            }
            Kind::Message(message) => match (WellKnown::of(message), column) {
                (Some(WellKnown::Timestamp), Column::Datetime(values)) => {
                    let micros = values.value(row);
                    let mut inner = Vec::new();
                    encode_key(1, WireType::Varint, &mut inner);
                    encode_varint(micros.div_euclid(1_000_000) as u64, &mut inner);
                    encode_key(2, WireType::Varint, &mut inner);
                    encode_varint(micros.rem_euclid(1_000_000) as u64 * 1_000, &mut inner);
                    put_sized(number, &inner, out);
                }
                (Some(WellKnown::Wrapper(kind)), column) => {
                    let mut inner = Vec::new();
                    let value = Self { number: 1, kind, packed: false, values: Values::One(column) };
                    value.put_scalar(column, row, &mut inner, true, path)?;
                    put_sized(number, &inner, out);
                }
                _ => return Err(misfit()),
            },
        }
        Ok(())
    }
}

fn text(column: &Column, row: usize) -> Option<String> {
    Some(match column {
        Column::Text(values) => values.value(row).to_owned(),
        Column::Any(values) => values.value(row).to_owned(),
        Column::Int(values) => values.value(row).to_string(),
        Column::Float(values) => format!("{:?}", values.value(row)),
        Column::Boolean(values) => values.value(row).to_string(),
        Column::Datetime(values) => datetime_text(values.value(row)),
        _ => return None,
    })
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn put_sized(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn mismatch(path: &str, found: &str, field: &FieldDescriptor) -> ArrowError {
    ArrowError::SchemaError(format!("column `{path}` is {found}, which cannot go into field `{}`", field.full_name()))
}

fn value_error(path: &str, found: &str) -> ArrowError {
    ArrowError::CastError(format!("column `{path}` has {found}"))
}
