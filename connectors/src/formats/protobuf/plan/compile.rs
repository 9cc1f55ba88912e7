//! The plan for a message's descriptor and the columns.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Fields};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::{Absent, DENSE, FieldPlan, Message, Plan, Scalar, Shape, ValuePlan};
use crate::formats::protobuf::{ProtobufMessage, schema::WellKnown};

impl Plan {
    /// For messages of this type.
    ///
    /// # Errors
    /// A column that its field cannot go into, in words.
    pub(in crate::formats::protobuf) fn new(message: &ProtobufMessage, columns: &Fields) -> Result<Self, String> {
        Ok(Self { root: Message::new(&message.0, columns)? })
    }
}

impl Message {
    fn new(message: &MessageDescriptor, columns: &Fields) -> Result<Self, String> {
        let mut plan = Self { absent: columns.iter().map(|_| Absent::Null).collect(), ..Self::default() };
        let mut column_of: HashMap<u32, usize> = HashMap::new();
        for (column, wanted) in columns.iter().enumerate() {
            let find = |matches: &dyn Fn(&FieldDescriptor) -> bool| {
                message.fields().find(|field| matches(field) && !column_of.contains_key(&field.number()))
            };
            let name = wanted.name();
            let field = find(&|field| field.name() == name)
                .or_else(|| find(&|field| field.json_name() == name))
                .or_else(|| find(&|field| field.name().eq_ignore_ascii_case(name)));
            if let Some(field) = field {
                column_of.insert(field.number(), column);
            }
        }
        for field in message.fields() {
            let column = column_of.get(&field.number()).copied();
            let siblings = field.containing_oneof().into_iter().flat_map(|oneof| oneof.fields().collect::<Vec<_>>());
            let siblings = siblings.filter(|sibling| sibling.number() != field.number());
            let clears: Box<[usize]> =
                siblings.filter_map(|sibling| column_of.get(&sibling.number()).copied()).collect();
            let Some(column) = column else {
                if !clears.is_empty() {
                    let (shape, value) = (Shape::Single, ValuePlan::Bool);
                    plan.add(&field, FieldPlan { column: None, shape, value, clears });
                }
                continue;
            };
            let (shape, value) = field_value(&field, columns[column].data_type())?;
            plan.absent[column] = match (shape, &value) {
                (Shape::List | Shape::Map, _) => Absent::List,
                (_, ValuePlan::Message(_) | ValuePlan::Group(_)) => Absent::Record(plan.fields.len()),
                _ if field.supports_presence() && field.field_descriptor_proto().default_value.is_none() => {
                    Absent::Null
                }
                _ => Absent::of(&field),
            };
            plan.add(&field, FieldPlan { column: Some(column), shape, value, clears });
        }
        Ok(plan)
    }

    fn add(&mut self, field: &FieldDescriptor, plan: FieldPlan) {
        let index = self.fields.len() as u32;
        self.fields.push(plan);
        match field.number() {
            number @ ..DENSE => {
                let room = self.dense.len().max(number as usize + 1);
                self.dense.resize(room, None);
                self.dense[number as usize] = Some(index);
            }
            number => drop(self.sparse.insert(number, index)),
        }
    }
}

impl Absent {
    fn of(field: &FieldDescriptor) -> Self {
        Self::Default(match field.default_value() {
            Value::Bool(value) => Scalar::Boolean(value),
            Value::I32(value) => Scalar::Int(i64::from(value)),
            Value::I64(value) => Scalar::Int(value),
            Value::U32(value) => Scalar::Int(i64::from(value)),
            Value::U64(value) => Scalar::Unsigned(value),
            Value::F32(value) => Scalar::Float(f64::from(value)),
            Value::F64(value) => Scalar::Float(value),
            Value::String(value) => Scalar::Text(value.into()),
            Value::Bytes(value) => Scalar::Bytes(value.to_vec().into()),
            Value::EnumNumber(number) => match field.kind() {
                Kind::Enum(values) => match values.get_value(number) {
                    Some(value) => Scalar::Text(value.name().into()),
                    None => Scalar::Int(i64::from(number)),
                },
                _ => Scalar::Int(i64::from(number)),
            },
            _ => return Self::Null,
        })
    }
}

fn field_value(field: &FieldDescriptor, column: &DataType) -> Result<(Shape, ValuePlan), String> {
    let item = |what: &str| match column {
        DataType::List(item) => Ok(item.data_type().clone()),
        other => Err(format!("{what} `{}` cannot go into {other}", field.full_name())),
    };
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let members = match item("map")? {
            DataType::Struct(pair) if pair.len() == 2 => pair,
            other => return Err(format!("a map is a list of records of `key` and `value`, not of {other}")),
        };
        let key = value_plan(&entry.map_entry_key_field(), members[0].data_type())?;
        let value = value_plan(&entry.map_entry_value_field(), members[1].data_type())?;
        return Ok((Shape::Map, ValuePlan::Entry(Box::new(key), Box::new(value))));
    }
    if field.is_list() {
        return Ok((Shape::List, value_plan(field, &item("repeated field")?)?));
    }
    Ok((Shape::Single, value_plan(field, column)?))
}

fn value_plan(field: &FieldDescriptor, column: &DataType) -> Result<ValuePlan, String> {
    if let Kind::Message(message) = field.kind() {
        return match (WellKnown::of(&message), column) {
            (Some(WellKnown::Timestamp), _) => Ok(ValuePlan::Timestamp),
            (Some(WellKnown::Duration), _) => Ok(ValuePlan::Duration),
            (Some(WellKnown::Wrapper(kind)), _) => Ok(ValuePlan::Wrapper(Box::new(scalar_plan(&kind)))),
            (None, DataType::Struct(members)) => {
                let message = Box::new(Message::new(&message, members)?);
                Ok(if field.is_group() { ValuePlan::Group(message) } else { ValuePlan::Message(message) })
            }
            (None, other) => Err(format!("message `{}` cannot go into {other}", message.full_name())),
        };
    }
    Ok(scalar_plan(&field.kind()))
}

fn scalar_plan(kind: &Kind) -> ValuePlan {
    match kind {
        Kind::Double => ValuePlan::Double,
        Kind::Float => ValuePlan::Float,
        Kind::Int32 => ValuePlan::Int32,
        Kind::Int64 => ValuePlan::Int64,
        Kind::Uint32 => ValuePlan::Uint32,
        Kind::Uint64 => ValuePlan::Uint64,
        Kind::Sint32 => ValuePlan::Sint32,
        Kind::Sint64 => ValuePlan::Sint64,
        Kind::Fixed32 => ValuePlan::Fixed32,
        Kind::Fixed64 => ValuePlan::Fixed64,
        Kind::Sfixed32 => ValuePlan::Sfixed32,
        Kind::Sfixed64 => ValuePlan::Sfixed64,
        Kind::Bool => ValuePlan::Bool,
        Kind::String => ValuePlan::Text,
        Kind::Bytes | Kind::Message(_) => ValuePlan::Bytes,
        Kind::Enum(values) => ValuePlan::Enum(names(values)),
    }
}

/// The name of each number; of several the first.
fn names(values: &EnumDescriptor) -> HashMap<i32, Box<str>> {
    let mut names = HashMap::new();
    for value in values.values() {
        names.entry(value.number()).or_insert_with(|| value.name().into());
    }
    names
}
