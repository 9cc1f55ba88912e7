//! The plan for a writer's schema, the reader's schema and the columns.

use std::collections::HashMap;

use apache_avro::schema::{InnerDecimalSchema, Name, RecordField, RecordSchema, Schema, UuidSchema};
use arrow::datatypes::{DataType, Fields};

use super::{Default, MAX_DEPTH, Node, NodeId, Plan, Record};
use crate::formats::avro::{
    AvroSchema,
    schema::{Names, branch_name, branches, encode_default, is_wide, kind_name, record_of, resolve},
};

/// Nodes that a plan may have: a schema that needs more is refused.
const MAX_NODES: usize = 20_000;

impl Plan {
    /// For values of `writer`. A column belongs to the field of its name, or of an alias that `reader` gives it, else to the
    /// first whose name differs only in ASCII case; a column without a field gets the default that `reader` has for it,
    /// else null.
    ///
    /// # Errors
    /// A schema that is no record, or needs too many nodes; in words.
    pub(in crate::formats::avro) fn new(
        writer: &AvroSchema,
        reader: Option<&AvroSchema>,
        columns: &Fields,
    ) -> Result<Self, String> {
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
