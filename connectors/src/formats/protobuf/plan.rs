//! What to do with each field of a message: into which column its values go. Fields that no column wants are passed over by
//! their wire type alone.
//!
//! A field may come more than once: of a single value the last one counts, messages are merged, repeated values add up.
//! So records and lists stay open until the message that they lie in has ended.

use std::collections::HashMap;

use arrow::datatypes::{DataType, Fields};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::{
    ProtobufMessage,
    schema::WellKnown,
    wire::{Wire, WireType},
};
use crate::formats::{
    builder::{Builder, Builders, Misfit},
    json::reader::Fault,
};

/// Field numbers below this are found by index.
const DENSE: u32 = 128;

/// See the module.
pub(super) struct Plan {
    root: Message,
}

#[derive(Default)]
struct Message {
    fields: Vec<FieldPlan>,
    /// By field number: index of the field.
    dense: Vec<Option<u32>>,
    sparse: HashMap<u32, u32>,
    /// Of each column: what stands for a field that did not come.
    absent: Vec<Absent>,
}

struct FieldPlan {
    /// `None` for a field of a oneof that no column wants: its coming still clears the others.
    column: Option<usize>,
    shape: Shape,
    value: ValuePlan,
    /// Columns of the other fields of its oneof.
    clears: Box<[usize]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Single,
    List,
    Map,
}

enum Absent {
    Null,
    Default(Scalar),
    /// A list of what came, or none.
    List,
    /// A record, if it was begun: the index of its field.
    Record(usize),
}

enum ValuePlan {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Float,
    Double,
    Bool,
    Text,
    Bytes,
    Enum(HashMap<i32, Box<str>>),
    Timestamp,
    Duration,
    Wrapper(Box<ValuePlan>),
    Message(Box<Message>),
    /// The value's own plan; keys are texts.
    Entry(Box<ValuePlan>, Box<ValuePlan>),
    Group(Box<Message>),
}

/// A value that stands for an absent field.
enum Scalar {
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Boolean(bool),
    Text(Box<str>),
    Bytes(Box<[u8]>),
}

impl Plan {
    /// For messages of this type.
    ///
    /// # Errors
    /// A column that its field cannot go into, in words.
    pub(super) fn new(message: &ProtobufMessage, columns: &Fields) -> Result<Self, String> {
        Ok(Self { root: Message::new(&message.0, columns)? })
    }

    /// Appends one row from a message.
    pub(super) fn read_row(&self, builders: &mut Builders, message: &[u8]) -> Result<(), Fault> {
        self.root.read(&mut builders.columns, builders.rows, message)?;
        self.root.finish(&mut builders.columns, builders.rows)?;
        builders.rows += 1;
        Ok(())
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

    #[inline]
    fn field(&self, number: u32) -> Option<&FieldPlan> {
        let index = match self.dense.get(number as usize) {
            Some(index) => *index,
            None if number < DENSE => None,
            None => self.sparse.get(&number).copied(),
        };
        index.map(|index| &self.fields[index as usize])
    }

    /// Reads a message, or a further part of it, into row `row`, which stays open.
    fn read(&self, columns: &mut [Builder], row: usize, message: &[u8]) -> Result<(), Fault> {
        let mut wire = Wire::new(message);
        while !wire.is_empty() {
            let (number, wire_type) = wire.tag()?;
            let Some(field) = self.field(number) else {
                wire.skip(number, wire_type)?;
                continue;
            };
            for &other in &field.clears {
                columns[other].truncate(row);
            }
            let Some(column) = field.column else {
                wire.skip(number, wire_type)?;
                continue;
            };
            field.read(&mut columns[column], row, &mut wire, number, wire_type)?;
        }
        Ok(())
    }

    /// Ends row `row`.
    fn finish(&self, columns: &mut [Builder], row: usize) -> Result<(), Fault> {
        for (column, absent) in columns.iter_mut().zip(&self.absent) {
            if column.rows() > row {
                continue;
            }
            let pushed = match absent {
                Absent::Null => column.push_null(),
                Absent::Default(value) => value.push(column),
                Absent::List => {
                    column.close_list();
                    Ok(())
                }
                Absent::Record(field) if column.is_open() => {
                    if let (ValuePlan::Message(message) | ValuePlan::Group(message), Ok(members)) =
                        (&self.fields[*field].value, column.members())
                    {
                        message.finish(members, row)?;
                    }
                    column.close_record();
                    Ok(())
                }
                Absent::Record(_) => column.push_null(),
            };
            pushed.map_err(|misfit| column.misfit(misfit))?;
        }
        Ok(())
    }
}

impl FieldPlan {
    #[inline]
    fn read(
        &self,
        column: &mut Builder,
        row: usize,
        wire: &mut Wire<'_>,
        number: u32,
        wire_type: WireType,
    ) -> Result<(), Fault> {
        if self.shape == Shape::Single {
            match &self.value {
                ValuePlan::Message(message) | ValuePlan::Group(message) => {
                    let bytes = self.value.message_bytes(wire, number, wire_type)?;
                    let members = column.members()?;
                    return message.read(members, row, bytes);
                }
                value => {
                    // The last one counts.
                    if column.rows() > row {
                        column.truncate(row);
                    }
                    return value.read(column, wire, number, wire_type);
                }
            }
        }
        let items = column.items()?;
        let packed = wire_type == WireType::Sized && self.value.wire_type() != WireType::Sized;
        if packed && self.value.wire_type() != WireType::StartGroup {
            let mut values = Wire::new(wire.sized()?);
            while !values.is_empty() {
                self.value.read(items, &mut values, number, self.value.wire_type())?;
            }
            return Ok(());
        }
        self.value.read(items, wire, number, wire_type)
    }
}

impl ValuePlan {
    fn wire_type(&self) -> WireType {
        match self {
            Self::Fixed32 | Self::Sfixed32 | Self::Float => WireType::Fixed32,
            Self::Fixed64 | Self::Sfixed64 | Self::Double => WireType::Fixed64,
            Self::Int32
            | Self::Int64
            | Self::Uint32
            | Self::Uint64
            | Self::Sint32
            | Self::Sint64
            | Self::Bool
            | Self::Enum(_) => WireType::Varint,
            Self::Group(_) => WireType::StartGroup,
            _ => WireType::Sized,
        }
    }

    fn message_bytes<'a>(&self, wire: &mut Wire<'a>, number: u32, wire_type: WireType) -> Result<&'a [u8], Fault> {
        match (self.wire_type(), wire_type) {
            (WireType::Sized, WireType::Sized) => wire.sized(),
            (WireType::StartGroup, WireType::StartGroup) => wire.group(number),
            _ => Err(wrong_wire_type(wire, number)),
        }
    }

    /// Appends one whole value.
    #[inline]
    fn read(&self, column: &mut Builder, wire: &mut Wire<'_>, number: u32, wire_type: WireType) -> Result<(), Fault> {
        if wire_type != self.wire_type() {
            return Err(wrong_wire_type(wire, number));
        }
        let pushed = match self {
            Self::Int32 => column.push_int(i64::from(wire.varint()? as i32)),
            Self::Int64 => column.push_int(wire.varint()? as i64),
            Self::Uint32 => column.push_int(i64::from(wire.varint()? as u32)),
            Self::Uint64 => column.push_unsigned(wire.varint()?),
            Self::Sint32 => column.push_int(zigzag(u64::from(wire.varint()? as u32))),
            Self::Sint64 => column.push_int(zigzag(wire.varint()?)),
            Self::Fixed32 => column.push_int(i64::from(u32::from_le_bytes(wire.array()?))),
            Self::Fixed64 => column.push_unsigned(u64::from_le_bytes(wire.array()?)),
            Self::Sfixed32 => column.push_int(i64::from(i32::from_le_bytes(wire.array()?))),
            Self::Sfixed64 => column.push_int(i64::from_le_bytes(wire.array()?)),
            Self::Float => column.push_float(f64::from(f32::from_le_bytes(wire.array()?))),
            Self::Double => column.push_float(f64::from_le_bytes(wire.array()?)),
            Self::Bool => column.push_boolean(wire.varint()? != 0),
            Self::Text => {
                let text = wire.sized()?;
                if simdutf8::basic::from_utf8(text).is_err() {
                    return Err(wire.malformed("a string in UTF-8 before this"));
                }
                column.push_text(text)
            }
            Self::Bytes => column.push_bytes(wire.sized()?),
            Self::Enum(names) => {
                let value = wire.varint()? as i32;
                match names.get(&value) {
                    Some(name) => column.push_text(name.as_bytes()),
                    None => column.push_int(i64::from(value)),
                }
            }
            Self::Timestamp => {
                let (seconds, nanos) = seconds_and_nanos(wire.sized()?)?;
                let micros = seconds
                    .checked_mul(1_000_000)
                    .and_then(|micros| micros.checked_add(i64::from(nanos).div_euclid(1_000)));
                column.push_datetime(micros.ok_or_else(|| wire.malformed("a time within 290,000 years before this"))?)
            }
            Self::Duration => {
                let (seconds, nanos) = seconds_and_nanos(wire.sized()?)?;
                column.push_text(duration_text(seconds, nanos).as_bytes())
            }
            Self::Wrapper(value) => return value.read_wrapped(column, wire.sized()?),
            Self::Message(message) | Self::Group(message) => {
                let bytes = self.message_bytes(wire, number, wire_type)?;
                let row = column.rows();
                let members = column.members()?;
                message.read(members, row, bytes)?;
                message.finish(members, row)?;
                column.close_record();
                return Ok(());
            }
            Self::Entry(key, value) => return read_entry(key, value, column, wire.sized()?),
        };
        pushed.map_err(|misfit| column.misfit(misfit))
    }

    /// The value in a wrapper message, or its default.
    fn read_wrapped(&self, column: &mut Builder, message: &[u8]) -> Result<(), Fault> {
        let row = column.rows();
        let mut wire = Wire::new(message);
        while !wire.is_empty() {
            match wire.tag()? {
                (1, wire_type) => {
                    column.truncate(row);
                    self.read(column, &mut wire, 1, wire_type)?;
                }
                (number, wire_type) => wire.skip(number, wire_type)?,
            }
        }
        if column.rows() == row { self.push_default(column) } else { Ok(()) }
    }

    /// What an absent value without presence is.
    fn push_default(&self, column: &mut Builder) -> Result<(), Fault> {
        let pushed = match self {
            Self::Float | Self::Double => column.push_float(0.0),
            Self::Bool => column.push_boolean(false),
            Self::Text | Self::Bytes => column.push_text(b""),
            Self::Enum(names) => match names.get(&0) {
                Some(name) => column.push_text(name.as_bytes()),
                None => column.push_int(0),
            },
            Self::Timestamp => column.push_datetime(0),
            Self::Duration => column.push_text(b"0s"),
            Self::Wrapper(_) | Self::Entry(..) => column.push_null(),
            Self::Message(message) | Self::Group(message) => {
                let row = column.rows();
                let members = column.members()?;
                message.finish(members, row)?;
                column.close_record();
                Ok(())
            }
            _ => column.push_int(0),
        };
        pushed.map_err(|misfit| column.misfit(misfit))
    }
}

/// One entry of a map.
fn read_entry(key: &ValuePlan, value: &ValuePlan, entries: &mut Builder, message: &[u8]) -> Result<(), Fault> {
    let row = entries.rows();
    let [keys, values] = entries.members()? else { return Ok(()) };
    let mut wire = Wire::new(message);
    while !wire.is_empty() {
        let (number, wire_type) = wire.tag()?;
        match number {
            1 => {
                keys.truncate(row);
                key.read(keys, &mut wire, number, wire_type)?;
            }
            2 => {
                values.truncate(row);
                value.read(values, &mut wire, number, wire_type)?;
            }
            other => wire.skip(other, wire_type)?,
        }
    }
    if keys.rows() == row {
        key.push_default(keys)?;
    }
    if values.rows() == row {
        value.push_default(values)?;
    }
    entries.close_record();
    Ok(())
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

impl Scalar {
    #[inline]
    fn push(&self, column: &mut Builder) -> Result<(), Misfit> {
        match self {
            Self::Int(value) => column.push_int(*value),
            Self::Unsigned(value) => column.push_unsigned(*value),
            Self::Float(value) => column.push_float(*value),
            Self::Boolean(value) => column.push_boolean(*value),
            Self::Text(value) => column.push_text(value.as_bytes()),
            Self::Bytes(value) => column.push_bytes(value),
        }
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

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// The two fields of a timestamp or duration.
fn seconds_and_nanos(message: &[u8]) -> Result<(i64, i32), Fault> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut wire = Wire::new(message);
    while !wire.is_empty() {
        match wire.tag()? {
            (1, WireType::Varint) => seconds = wire.varint()? as i64,
            (2, WireType::Varint) => nanos = wire.varint()? as i32,
            (number @ (1 | 2), _) => return Err(wrong_wire_type(&wire, number)),
            (number, wire_type) => wire.skip(number, wire_type)?,
        }
    }
    Ok((seconds, nanos))
}

/// `3.5s`, as Protobuf's JSON has it.
fn duration_text(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (seconds.unsigned_abs(), nanos.unsigned_abs());
    if nanos == 0 {
        return format!("{sign}{seconds}s");
    }
    format!("{sign}{seconds}.{}s", format!("{nanos:09}").trim_end_matches('0'))
}

#[cold]
fn wrong_wire_type(wire: &Wire<'_>, number: u32) -> Fault {
    wire.malformed(&format!("field {number} in the wire type of its kind before this"))
}
