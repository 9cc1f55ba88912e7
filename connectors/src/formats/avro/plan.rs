//! What to do with each value of a writer's schema: into which column it goes, or how it is passed over.
//!
//! A plan is an arena of nodes. Nodes with a column form a tree, as finite as the columns are; nodes that are passed over
//! are shared by the name of their type, so that types that contain themselves, or each other many times, cost nothing.

use std::collections::HashMap;

use apache_avro::schema::{InnerDecimalSchema, Name, RecordField, RecordSchema, Schema, UuidSchema};
use arrow::datatypes::{DataType, Fields};
use tidemill_engine::decoder::BadClass;

use super::{
    AvroSchema,
    input::Input,
    schema::{Names, branch_name, branches, encode_default, is_wide, kind_name, record_of, resolve},
};
use crate::formats::{
    builder::{Builder, Builders, Misfit},
    json::reader::{Fault, fault},
};

/// Nodes that a plan may have: a schema that needs more is refused.
const MAX_NODES: usize = 20_000;
/// Values in one another that are passed over, and types in one another: both can be nested for ever.
const MAX_DEPTH: usize = 128;

type NodeId = usize;

/// See the module.
pub(super) struct Plan {
    nodes: Vec<Node>,
    root: NodeId,
}

enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Vec<Box<str>>),
    /// A number of this many to the second.
    Datetime(i64),
    Date,
    /// A number since midnight, this many to the second.
    Time(i64),
    Decimal {
        scale: usize,
        size: Option<usize>,
    },
    UuidBytes(Option<usize>),
    Duration,
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    /// A union whose column is a record with a member for each type: node and member.
    Wide(Vec<(NodeId, Option<usize>)>),
    /// A value that is the given member of such a record.
    OneOf(NodeId, usize),
    Record(Record),
    /// A value of this kind, which its column does not take.
    Misfit(&'static str),
}

#[derive(Default)]
struct Record {
    /// In the writer's order: node, and column.
    fields: Vec<(NodeId, Option<usize>)>,
    /// Columns that the writer does not have, with what stands for them.
    missing: Vec<(usize, Option<Default>)>,
}

/// An encoded default and its node.
struct Default {
    node: NodeId,
    value: Vec<u8>,
}

impl Plan {
    /// For values of `writer`. A column belongs to the field of its name, or of an alias that `reader` gives it, else to the
    /// first whose name differs only in ASCII case; a column without a field gets the default that `reader` has for it,
    /// else null.
    ///
    /// # Errors
    /// A schema that is no record, or needs too many nodes; in words.
    pub(super) fn new(writer: &AvroSchema, reader: Option<&AvroSchema>, columns: &Fields) -> Result<Self, String> {
        let names = writer.names();
        let reader_names = reader.map(AvroSchema::names).unwrap_or_default();
        let Some(record) = record_of(writer.root(), &names) else {
            return Err(format!("the schema's top is {}, expected a record", kind_name(writer.root())));
        };
        let reader = reader.and_then(|reader| record_of(reader.root(), &reader_names));
        let mut compiler = Compiler { names, reader_names, nodes: Vec::new(), skipped: HashMap::new(), depth: 0 };
        let root = compiler.record(record, reader, columns)?;
        Ok(Self { nodes: compiler.nodes, root })
    }

    /// Appends one row from the value at the cursor.
    pub(super) fn read_row(&self, builders: &mut Builders, input: &mut Input<'_>) -> Result<(), Fault> {
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

struct Compiler<'s> {
    names: Names<'s>,
    reader_names: Names<'s>,
    nodes: Vec<Node>,
    /// Nodes of named types that are passed over.
    skipped: HashMap<&'s Name, NodeId>,
    /// Types around the one that is passed over.
    depth: usize,
}

impl<'s> Compiler<'s> {
    fn add(&mut self, node: Node) -> Result<NodeId, String> {
        if self.nodes.len() >= MAX_NODES {
            return Err(format!("the schema has more than {MAX_NODES} parts"));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn record(
        &mut self,
        record: &'s RecordSchema,
        reader: Option<&'s RecordSchema>,
        columns: &Fields,
    ) -> Result<NodeId, String> {
        let mut plan = Record::default();
        let mut taken: HashMap<usize, usize> = HashMap::new();
        for (column, field) in columns.iter().enumerate() {
            let wanted = reader_field(reader, field.name());
            match writer_field(record, wanted, field.name(), &taken) {
                Some(position) => {
                    taken.insert(position, column);
                }
                None => {
                    let default = wanted.and_then(|wanted| Some((wanted, wanted.default.as_ref()?)));
                    let default = default.map(|(wanted, json)| {
                        let mut value = Vec::new();
                        encode_default(&wanted.schema, &self.reader_names, json, &mut value)
                            .ok_or_else(|| format!("the default of field `{}` is no value of its type", wanted.name))?;
                        // The default is a value of the reader's schema.
                        let names = std::mem::replace(&mut self.names, self.reader_names.clone());
                        let node = self.value(&wanted.schema, Some(&wanted.schema), field.data_type());
                        self.names = names;
                        Ok::<_, String>(Default { node: node?, value })
                    });
                    plan.missing.push((column, default.transpose()?));
                }
            }
        }
        for (position, field) in record.fields.iter().enumerate() {
            plan.fields.push(match taken.get(&position) {
                Some(&column) => {
                    let wanted = reader_field(reader, columns[column].name());
                    let reader = wanted.map(|wanted| &wanted.schema);
                    (self.value(&field.schema, reader, columns[column].data_type())?, Some(column))
                }
                None => (self.skip(&field.schema)?, None),
            });
        }
        self.add(Node::Record(plan))
    }

    /// A value that goes into a column of this type.
    fn value(&mut self, schema: &'s Schema, reader: Option<&'s Schema>, column: &DataType) -> Result<NodeId, String> {
        let (schema, reader) = (resolve(schema, &self.names), reader.map(|reader| resolve(reader, &self.reader_names)));
        let node = match (schema, column) {
            (Schema::Union(union), DataType::Struct(members)) if is_wide(union, &self.names) => {
                let mut variants = Vec::new();
                for variant in union.variants() {
                    let (name, wanted) = (branch_name(variant), reader_branch(reader, variant));
                    variants.push(match members.iter().position(|member| member.name() == name) {
                        Some(member) => (self.value(variant, wanted, members[member].data_type())?, Some(member)),
                        None => (self.skip(variant)?, None),
                    });
                }
                Node::Wide(variants)
            }
            (Schema::Union(union), _) => {
                let variants = union.variants().iter();
                let wanted = |variant| reader_branch(reader, variant);
                Node::Union(
                    variants.map(|variant| self.value(variant, wanted(variant), column)).collect::<Result<_, _>>()?,
                )
            }
            (schema, DataType::Struct(members)) if reader.is_some_and(|reader| self.is_wide_reader(reader)) => {
                let name = branch_name(schema);
                let member = members.iter().position(|member| member.name() == name);
                let member = member.ok_or_else(|| format!("the reader's union has no type `{name}`"))?;
                let value = self.value(schema, reader_branch(reader, schema), members[member].data_type())?;
                Node::OneOf(value, member)
            }
            (Schema::Array(array), DataType::List(item)) => {
                let reader = match reader {
                    Some(Schema::Array(reader)) => Some(&*reader.items),
                    _ => None,
                };
                Node::Array(self.value(&array.items, reader, item.data_type())?)
            }
            (Schema::Map(map), DataType::List(entry)) => {
                let value = match entry.data_type() {
                    DataType::Struct(pair) if pair.len() == 2 && *pair[0].data_type() == DataType::Utf8 => &pair[1],
                    other => return Err(format!("a map is a list of records of `key` and `value`, not of {other}")),
                };
                let reader = match reader {
                    Some(Schema::Map(reader)) => Some(&*reader.types),
                    _ => None,
                };
                Node::Map(self.value(&map.types, reader, value.data_type())?)
            }
            (Schema::Record(record), DataType::Struct(members)) => {
                let reader = match reader {
                    Some(Schema::Record(reader)) => Some(reader),
                    Some(Schema::Union(union)) => branches(union).find_map(|b| record_of(b, &self.reader_names)),
                    _ => None,
                };
                return self.record(record, reader, members);
            }
            (Schema::Array(_) | Schema::Map(_) | Schema::Record(_), _) => Node::Misfit(kind_name(schema)),
            _ => scalar(schema),
        };
        self.add(node)
    }

    fn is_wide_reader(&self, reader: &Schema) -> bool {
        matches!(reader, Schema::Union(union) if is_wide(union, &self.reader_names))
    }

    fn skip(&mut self, schema: &'s Schema) -> Result<NodeId, String> {
        if self.depth > MAX_DEPTH {
            return Err(format!("types lie more than {MAX_DEPTH} levels deep"));
        }
        self.depth += 1;
        let node = self.skip_type(schema);
        self.depth -= 1;
        node
    }

    fn skip_type(&mut self, schema: &'s Schema) -> Result<NodeId, String> {
        let node = match resolve(schema, &self.names) {
            Schema::Record(record) => {
                if let Some(&known) = self.skipped.get(&record.name) {
                    return Ok(known);
                }
                let id = self.add(Node::Null)?; // its place, so that its own fields can refer to it
                self.skipped.insert(&record.name, id);
                let fields = record.fields.iter().map(|field| Ok((self.skip(&field.schema)?, None)));
                let fields = fields.collect::<Result<_, String>>()?;
                self.nodes[id] = Node::Record(Record { fields, missing: Vec::new() });
                return Ok(id);
            }
            Schema::Array(array) => Node::Array(self.skip(&array.items)?),
            Schema::Map(map) => Node::Map(self.skip(&map.types)?),
            Schema::Union(union) => {
                Node::Union(union.variants().iter().map(|variant| self.skip(variant)).collect::<Result<_, _>>()?)
            }
            other => scalar(other),
        };
        self.add(node)
    }
}

/// The reader's own field of a column, whose default and aliases count.
fn reader_field<'s>(reader: Option<&'s RecordSchema>, column: &str) -> Option<&'s RecordField> {
    let fields = &reader?.fields;
    let exact = fields.iter().find(|field| field.name == column);
    exact.or_else(|| fields.iter().find(|field| field.name.eq_ignore_ascii_case(column)))
}

/// The position of the writer's field for a column.
fn writer_field(
    record: &RecordSchema,
    reader: Option<&RecordField>,
    column: &str,
    taken: &HashMap<usize, usize>,
) -> Option<usize> {
    let find = |matches: &dyn Fn(&str) -> bool| {
        let free = |(position, field): &(usize, &RecordField)| matches(&field.name) && !taken.contains_key(position);
        record.fields.iter().enumerate().find(free).map(|(position, _)| position)
    };
    let alias = |name: &str| reader.is_some_and(|reader| reader.aliases.iter().any(|alias| alias == name));
    find(&|name| name == column).or_else(|| find(&alias)).or_else(|| find(&|name| name.eq_ignore_ascii_case(column)))
}

/// The type of a reader's union that reads values of `writer`; the reader itself if it is no union.
fn reader_branch<'s>(reader: Option<&'s Schema>, writer: &Schema) -> Option<&'s Schema> {
    match reader? {
        Schema::Union(union) => union.variants().iter().find(|variant| branch_name(variant) == branch_name(writer)),
        other => Some(other),
    }
}

fn scalar(schema: &Schema) -> Node {
    match schema {
        Schema::Null => Node::Null,
        Schema::Boolean => Node::Boolean,
        Schema::Int => Node::Int,
        Schema::Long => Node::Long,
        Schema::Float => Node::Float,
        Schema::Double => Node::Double,
        Schema::String | Schema::Uuid(UuidSchema::String) => Node::Text,
        Schema::Uuid(UuidSchema::Fixed(fixed)) => Node::UuidBytes(Some(fixed.size)),
        Schema::Uuid(UuidSchema::Bytes) => Node::UuidBytes(None),
        Schema::Fixed(fixed) => Node::Fixed(fixed.size),
        Schema::Enum(symbols) => Node::Enum(symbols.symbols.iter().map(|symbol| symbol.as_str().into()).collect()),
        Schema::Date => Node::Date,
        Schema::TimeMillis => Node::Time(1_000),
        Schema::TimeMicros => Node::Time(1_000_000),
        Schema::TimestampMillis | Schema::LocalTimestampMillis => Node::Datetime(1_000),
        Schema::TimestampMicros | Schema::LocalTimestampMicros => Node::Datetime(1_000_000),
        Schema::TimestampNanos | Schema::LocalTimestampNanos => Node::Datetime(1_000_000_000),
        Schema::Decimal(decimal) => Node::Decimal {
            scale: decimal.scale,
            size: match &decimal.inner {
                InnerDecimalSchema::Fixed(fixed) => Some(fixed.size),
                InnerDecimalSchema::Bytes => None,
            },
        },
        Schema::Duration(_) => Node::Duration,
        _ => Node::Bytes,
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

/// `-12.50`; `None` beyond 128 bits and 38 digits behind the point.
fn decimal_text(bytes: &[u8], scale: usize) -> Option<String> {
    let fill = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut number = [fill; 16];
    let skipped = bytes.len().saturating_sub(16);
    let (head, tail) = bytes.split_at(skipped);
    if head.iter().any(|byte| *byte != fill) || scale > 38 {
        return None;
    }
    number[16 - tail.len()..].copy_from_slice(tail);
    let number = i128::from_be_bytes(number);
    if (number < 0) != (fill == 0xff) {
        return None;
    }
    let digits = format!("{:0width$}", number.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if number < 0 { "-" } else { "" };
    Some(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
}

/// `14:50:25.120000`.
fn time_text(value: i64, per_second: i64) -> String {
    let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    let digits = per_second.ilog10() as usize;
    format!("{:02}:{:02}:{:02}.{fraction:0digits$}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `P1M2DT3.004S`.
fn duration_text(bytes: [u8; 12]) -> String {
    let [months, days, millis] =
        [0, 4, 8].map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    format!("P{months}M{days}DT{}.{:03}S", millis / 1000, millis % 1000)
}

/// `f81d4fae-7dec-11d0-a765-00a0c91e6bf6`; other lengths than 16 as plain digits.
fn uuid_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if bytes.len() == 16 && matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
