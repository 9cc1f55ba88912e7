//! Values into columns: one walk over a row, along its plan.

use tidemill_engine::decoder::BadClass;

use super::{
    Default, MAX_DEPTH, Node, NodeId, Plan, Record,
    logical::{decimal_text, duration_text, time_text, uuid_text},
};
use crate::formats::{
    avro::input::Input,
    builder::{Builder, Builders, Misfit},
    json::reader::{Fault, fault},
};

impl Plan {
    /// Appends one row from the value at the cursor.
    pub(in crate::formats::avro) fn read_row(
        &self,
        builders: &mut Builders,
        input: &mut Input<'_>,
    ) -> Result<(), Fault> {
        let Node::Record(record) = &self.nodes[self.root] else { return Ok(()) };
        self.read_members(record, &mut builders.columns, input)?;
        builders.rows += 1;
        Ok(())
    }

    fn read_members(&self, record: &Record, columns: &mut [Builder], input: &mut Input<'_>) -> Result<(), Fault> {
        for &(node, column) in &record.fields {
            match column {
                Some(column) => self.read(node, &mut columns[column], input)?,
                None => self.skip(node, input, 0)?,
            }
        }
        for (column, default) in &record.missing {
            let column = &mut columns[*column];
            match default {
                Some(Default { node, value }) => self.read(*node, column, &mut Input::new(value))?,
                None => column.push_null().map_err(|misfit| column.misfit(misfit))?,
            }
        }
        Ok(())
    }

    fn read(&self, node: NodeId, column: &mut Builder, input: &mut Input<'_>) -> Result<(), Fault> {
        let pushed = match &self.nodes[node] {
            Node::Null => column.push_null(),
            Node::Boolean => column.push_boolean(input.boolean()?),
            Node::Int => column.push_int(i64::from(input.int()?)),
            Node::Long => column.push_int(input.long()?),
            Node::Float => column.push_float(f64::from(f32::from_le_bytes(input.array()?))),
            Node::Double => column.push_float(f64::from_le_bytes(input.array()?)),
            Node::Bytes => column.push_bytes(input.sized()?),
            Node::Text => column.push_text(text(input)?),
            Node::Fixed(size) => column.push_bytes(input.take(*size)?),
            Node::Enum(symbols) => column.push_text(symbol(symbols, input)?.as_bytes()),
            Node::Datetime(per_second) => {
                let value = input.long()?;
                let micros = match per_second {
                    1_000 => value.checked_mul(1_000),
                    1_000_000 => Some(value),
                    _ => Some(value.div_euclid(per_second / 1_000_000)),
                };
                column.push_datetime(within_range(micros, input)?)
            }
            Node::Date => {
                let micros = i64::from(input.int()?).checked_mul(86_400_000_000);
                column.push_datetime(within_range(micros, input)?)
            }
            Node::Time(per_second) => {
                let value = if *per_second == 1_000 { i64::from(input.int()?) } else { input.long()? };
                column.push_text(time_text(value, *per_second).as_bytes())
            }
            Node::Decimal { scale, size } => {
                let digits = match size {
                    Some(size) => input.take(*size)?,
                    None => input.sized()?,
                };
                push_decimal(column, digits, *scale, input)?;
                return Ok(());
            }
            Node::UuidBytes(size) => {
                let bytes = match size {
                    Some(size) => input.take(*size)?,
                    None => input.sized()?,
                };
                column.push_text(uuid_text(bytes).as_bytes())
            }
            Node::Duration => column.push_text(duration_text(input.array()?).as_bytes()),
            Node::Array(item) => {
                loop {
                    let (count, length) = input.block()?;
                    if count == 0 {
                        break;
                    }
                    let start = input.position();
                    let items = column.items()?;
                    for _ in 0..count {
                        self.read(*item, items, input)?;
                    }
                    input.end_block(start, length)?;
                }
                column.close_list();
                return Ok(());
            }
            Node::Map(value) => return self.read_map(*value, column, input),
            Node::Union(variants) => {
                let variant = branch(variants, input)?;
                return self.read(*variant, column, input);
            }
            Node::Wide(variants) => {
                let &(variant, member) = branch(variants, input)?;
                return match member {
                    Some(member) => self.read_one_of(variant, member, column, input),
                    None => {
                        self.skip(variant, input, 0)?;
                        column.push_null().map_err(|misfit| column.misfit(misfit))
                    }
                };
            }
            Node::OneOf(value, member) => return self.read_one_of(*value, *member, column, input),
            Node::Misfit(found) => Err(Misfit { found }),
            Node::Record(record) => {
                let members = column.members()?;
                self.read_members(record, members, input)?;
                column.close_record();
                return Ok(());
            }
        };
        pushed.map_err(|misfit| column.misfit(misfit))
    }

    fn read_map(&self, value: NodeId, column: &mut Builder, input: &mut Input<'_>) -> Result<(), Fault> {
        loop {
            let (count, length) = input.block()?;
            if count == 0 {
                break;
            }
            let start = input.position();
            for _ in 0..count {
                let entries = column.items()?;
                let [key, to] = entries.members()? else { continue };
                key.push_text(text(input)?).map_err(|misfit| key.misfit(misfit))?;
                self.read(value, to, input)?;
                entries.close_record();
            }
            input.end_block(start, length)?;
        }
        column.close_list();
        Ok(())
    }

    /// A record whose one member has the value at the cursor.
    fn read_one_of(
        &self,
        value: NodeId,
        member: usize,
        column: &mut Builder,
        input: &mut Input<'_>,
    ) -> Result<(), Fault> {
        let members = column.members()?;
        for (index, builder) in members.iter_mut().enumerate() {
            if index == member {
                self.read(value, builder, input)?;
            } else {
                builder.push_null().map_err(|misfit| builder.misfit(misfit))?;
            }
        }
        column.close_record();
        Ok(())
    }

    fn skip(&self, node: NodeId, input: &mut Input<'_>, depth: usize) -> Result<(), Fault> {
        if depth > MAX_DEPTH {
            return Err(fault(BadClass::Malformed, format!("values lie more than {MAX_DEPTH} levels deep")));
        }
        match &self.nodes[node] {
            Node::Null | Node::Misfit(_) => {}
            Node::Boolean => drop(input.boolean()?),
            Node::Int | Node::Date | Node::Time(1_000) => drop(input.int()?),
            Node::Long | Node::Datetime(_) | Node::Time(_) => drop(input.long()?),
            Node::Float => drop(input.take(4)?),
            Node::Double => drop(input.take(8)?),
            Node::Bytes | Node::Text => drop(input.sized()?),
            Node::Fixed(size) => drop(input.take(*size)?),
            Node::Enum(symbols) => drop(symbol(symbols, input)?),
            Node::Decimal { size, .. } | Node::UuidBytes(size) => drop(match size {
                Some(size) => input.take(*size)?,
                None => input.sized()?,
            }),
            Node::Duration => drop(input.take(12)?),
            Node::Array(item) => self.skip_blocks(input, |input| self.skip(*item, input, depth + 1))?,
            Node::Map(value) => self.skip_blocks(input, |input| {
                input.sized()?;
                self.skip(*value, input, depth + 1)
            })?,
            Node::Union(variants) => self.skip(*branch(variants, input)?, input, depth + 1)?,
            Node::Wide(variants) => self.skip(branch(variants, input)?.0, input, depth + 1)?,
            Node::OneOf(value, _) => self.skip(*value, input, depth + 1)?,
            Node::Record(record) => {
                for (field, _) in &record.fields {
                    self.skip(*field, input, depth + 1)?;
                }
            }
        }
        Ok(())
    }

    fn skip_blocks(
        &self,
        input: &mut Input<'_>,
        mut skip: impl FnMut(&mut Input<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            match input.block()? {
                (0, _) => return Ok(()),
                (_, Some(length)) => drop(input.take(length)?),
                (count, None) => {
                    for _ in 0..count {
                        skip(input)?;
                    }
                }
            }
        }
    }
}

fn branch<'p, T>(variants: &'p [T], input: &mut Input<'_>) -> Result<&'p T, Fault> {
    let index = input.long()?;
    let variant = usize::try_from(index).ok().and_then(|index| variants.get(index));
    variant
        .ok_or_else(|| input.malformed(format_args!("one of {} types of a union, not number {index},", variants.len())))
}

fn symbol<'p>(symbols: &'p [Box<str>], input: &mut Input<'_>) -> Result<&'p str, Fault> {
    let index = input.long()?;
    let symbol = usize::try_from(index).ok().and_then(|index| symbols.get(index));
    symbol.map(AsRef::as_ref).ok_or_else(|| {
        input.malformed(format_args!("one of {} symbols of an enum, not number {index},", symbols.len()))
    })
}

/// A time that microseconds of 64 bits can tell.
fn within_range(micros: Option<i64>, input: &Input<'_>) -> Result<i64, Fault> {
    micros.ok_or_else(|| input.malformed("a time within 290,000 years before this"))
}

#[inline]
fn text<'a>(input: &mut Input<'a>) -> Result<&'a [u8], Fault> {
    let bytes = input.sized()?;
    match simdutf8::basic::from_utf8(bytes) {
        Ok(_) => Ok(bytes),
        Err(_) => Err(input.malformed("a string in UTF-8 before this")),
    }
}

/// A two's complement number with `scale` digits behind the point: the nearest double, or all digits as text.
fn push_decimal(column: &mut Builder, bytes: &[u8], scale: usize, input: &Input<'_>) -> Result<(), Fault> {
    let Some(text) = decimal_text(bytes, scale) else {
        return Err(input.malformed("a decimal of at most 38 digits before this"));
    };
    column.push_text(text.as_bytes()).map_err(|misfit| column.misfit(misfit))
}
