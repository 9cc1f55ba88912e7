//! Values into columns: one walk over a message, along its plan.

use super::{Absent, FieldPlan, Message, Plan, Scalar, Shape, ValuePlan};
use crate::formats::{
    builder::{Builder, Builders, Misfit},
    json::reader::Fault,
    protobuf::wire::{Wire, WireType},
};

impl Plan {
    /// Appends one row from a message.
    pub(in crate::formats::protobuf) fn read_row(&self, builders: &mut Builders, message: &[u8]) -> Result<(), Fault> {
        self.root.read(&mut builders.columns, builders.rows, message)?;
        self.root.finish(&mut builders.columns, builders.rows)?;
        builders.rows += 1;
        Ok(())
    }
}

impl Message {
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
