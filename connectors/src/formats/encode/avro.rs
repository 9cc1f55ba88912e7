//! Avro: rows as values of a record `row`, whose schema is made of the columns. Every field is a union with null.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
};

use arrow::{
    array::StructArray,
    datatypes::{DataType, Field, Fields, Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use serde_json::{Value as Json, json};
use tidemill_engine::{Result, datetime_type};

use super::{Column, EncodedRows, Registrar, RowEncoder, avro_target};
use crate::formats::{
    avro::{
        AvroSchema,
        container::MAGIC,
        schema::{put_bytes, put_long},
    },
    registry::{SchemaKind, WireFormat},
};

/// How the blocks of a container file are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    Null,
    /// By deflate, without a frame.
    Deflate,
    /// By snappy, with a checksum.
    Snappy,
    /// By zstandard.
    Zstandard,
}

impl Codec {
    fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Deflate => "deflate",
            Self::Snappy => "snappy",
            Self::Zstandard => "zstandard",
        }
    }

    fn pack(self, plain: &[u8]) -> Vec<u8> {
        match self {
            Self::Null => plain.to_vec(),
            Self::Deflate => {
                let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(plain).and_then(|()| encoder.finish()).expect("memory takes every byte")
            }
            Self::Snappy => {
                let mut packed = snap::raw::Encoder::new().compress_vec(plain).expect("a batch is smaller than 4 GiB");
                let mut crc = flate2::Crc::new();
                crc.update(plain);
                packed.extend_from_slice(&crc.sum().to_be_bytes());
                packed
            }
            Self::Zstandard => {
                zstd::encode_all(plain, zstd::DEFAULT_COMPRESSION_LEVEL).expect("memory takes every byte")
            }
        }
    }
}

/// Writes each row as a value behind the id of its schema, which is registered when it changes; or of a schema that is given.
pub struct AvroEncoder {
    wire: WireFormat,
    target: Target,
}

enum Target {
    /// The schema is made of the columns. The last one's text and id.
    Made { registrar: Box<dyn Registrar>, current: Option<(String, u64)> },
    /// The schema and its id. The columns of the last batch, and how they go into it.
    Given { schema: AvroSchema, id: u64, current: Option<(SchemaRef, avro_target::Record)> },
}

impl AvroEncoder {
    /// With ids of this format.
    #[must_use]
    pub fn new(wire: WireFormat, registrar: Box<dyn Registrar>) -> Self {
        Self { wire, target: Target::Made { registrar, current: None } }
    }

    /// By a schema that a registry has under this id.
    #[must_use]
    pub fn of_schema(wire: WireFormat, id: u64, schema: AvroSchema) -> Self {
        Self { wire, target: Target::Given { schema, id, current: None } }
    }
}

impl RowEncoder for AvroEncoder {
    fn header(&self, _schema: &Schema) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let columns = columns(batch)?;
        let (registrar, current) = match &mut self.target {
            Target::Made { registrar, current } => (registrar, current),
            Target::Given { schema, id, current } => {
                let known = current.take().filter(|(known, _)| known == batch.schema_ref());
                let record = match known {
                    Some((_, record)) => record,
                    None => avro_target::plan(schema, batch.schema_ref().fields())?,
                };
                for row in 0..batch.num_rows() {
                    rows.push_binary(|out| {
                        self.wire.put(*id, out);
                        record.put(&|index| &columns[index], row, out)
                    })?;
                }
                *current = Some((batch.schema(), record));
                return Ok(());
            }
        };
        let text = schema_text(batch.schema_ref())?;
        let id = match current {
            Some((known, id)) if *known == text => *id,
            _ => {
                let id = registrar.register(SchemaKind::Avro, &text)?;
                *current = Some((text, id));
                id
            }
        };
        for row in 0..batch.num_rows() {
            rows.push_binary(|out| {
                self.wire.put(id, out);
                columns.iter().for_each(|column| put_value(column, row, out));
                Ok::<_, ArrowError>(())
            })?;
        }
        Ok(())
    }
}

/// Writes the parts of a container file: its header, and a block a batch.
#[derive(Debug)]
pub struct AvroBlockEncoder {
    codec: Codec,
}

impl AvroBlockEncoder {
    /// With blocks packed so.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        Self { codec }
    }
}

impl RowEncoder for AvroBlockEncoder {
    fn header(&self, schema: &Schema) -> Result<Vec<u8>> {
        let text = schema_text(schema)?;
        let mut out = MAGIC.to_vec();
        put_long(2, &mut out);
        put_bytes(b"avro.schema", &mut out);
        put_bytes(text.as_bytes(), &mut out);
        put_bytes(b"avro.codec", &mut out);
        put_bytes(self.codec.name().as_bytes(), &mut out);
        out.push(0);
        out.extend_from_slice(&sync_mark(schema));
        Ok(out)
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let columns = columns(batch)?;
        let mut values = Vec::new();
        for row in 0..batch.num_rows() {
            columns.iter().for_each(|column| put_value(column, row, &mut values));
        }
        let packed = self.codec.pack(&values);
        rows.push_binary(|out| {
            put_long(batch.num_rows() as i64, out);
            put_bytes(&packed, out);
            out.extend_from_slice(&sync_mark(batch.schema_ref()));
            Ok::<_, ArrowError>(())
        })?;
        Ok(())
    }
}

/// Writes each row as a container file of its own, so that a message brings its schema.
#[derive(Debug)]
pub struct AvroContainerEncoder {
    blocks: AvroBlockEncoder,
    block: EncodedRows,
}

impl AvroContainerEncoder {
    /// With blocks packed so.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        Self { blocks: AvroBlockEncoder::new(codec), block: EncodedRows::default() }
    }
}

impl RowEncoder for AvroContainerEncoder {
    fn header(&self, _schema: &Schema) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let header = self.blocks.header(batch.schema_ref())?;
        for row in 0..batch.num_rows() {
            self.block.clear();
            self.blocks.encode(&batch.slice(row, 1), &mut self.block)?;
            rows.push_binary(|out| {
                out.extend_from_slice(&header);
                out.extend_from_slice(self.block.lines());
                Ok::<_, ArrowError>(())
            })?;
        }
        Ok(())
    }
}

fn columns(batch: &RecordBatch) -> Result<Vec<Column>> {
    match Column::resolve(&StructArray::from(batch.clone()))? {
        Column::Record(_, members) => Ok(members.into_iter().map(|member| member.values).collect()),
        _ => Ok(Vec::new()),
    }
}

/// The same for the same columns, so that a header and its blocks agree.
fn sync_mark(schema: &Schema) -> [u8; 16] {
    let mut mark = [0; 16];
    for (half, salt) in mark.chunks_exact_mut(8).zip(0u8..) {
        let mut hasher = DefaultHasher::new();
        (salt, schema).hash(&mut hasher);
        half.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    mark
}

/// The schema of rows with these columns.
pub(super) fn schema_text(schema: &Schema) -> Result<String, ArrowError> {
    Ok(record("row", schema.fields())?.to_string())
}

fn record(name: &str, fields: &Fields) -> Result<Json, ArrowError> {
    let field = |field: &std::sync::Arc<Field>| {
        let (column, path) = (field.name(), format!("{name}_{}", field.name()));
        if !is_name(column) {
            return Err(ArrowError::SchemaError(format!(
                "column `{column}` cannot be a field of Avro: give it a name of letters, digits and `_` with AS"
            )));
        }
        let data_type = data_type(field.data_type(), &path)?;
        Ok(json!({"name": column, "type": ["null", data_type], "default": null}))
    };
    let fields = fields.iter().map(field).collect::<Result<Vec<_>, _>>()?;
    Ok(json!({"type": "record", "name": name, "fields": fields}))
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn data_type(data_type: &DataType, path: &str) -> Result<Json, ArrowError> {
    Ok(match data_type {
        DataType::Boolean => json!("boolean"),
        datetime if *datetime == datetime_type() || matches!(datetime, DataType::Timestamp(..)) => {
            json!({"type": "long", "logicalType": "timestamp-micros"})
        }
        DataType::Struct(members) => record(path, members)?,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            json!({"type": "array", "items": ["null", self::data_type(item.data_type(), &format!("{path}_item"))?]})
        }
        DataType::Dictionary(_, values) => self::data_type(values, path)?,
        DataType::RunEndEncoded(_, values) => self::data_type(values.data_type(), path)?,
        other if other.is_integer() => json!("long"),
        other if other.is_floating() || other.is_decimal() => json!("double"),
        _ => json!("string"),
    })
}

/// A value or null: the index of its type in the union, then the value.
fn put_value(column: &Column, row: usize, out: &mut Vec<u8>) {
    if column.is_null(row) {
        return out.push(0);
    }
    out.push(2);
    match column {
        Column::Null => {}
        Column::Boolean(values) => out.push(u8::from(values.value(row))),
        Column::Int(values) => put_long(values.value(row), out),
        Column::Float(values) => out.extend_from_slice(&values.value(row).to_le_bytes()),
        Column::Text(values) => put_bytes(values.value(row).as_bytes(), out),
        Column::Any(values) => put_bytes(values.value(row).as_bytes(), out),
        Column::Datetime(values) => put_long(values.value(row), out),
        Column::Record(_, members) => members.iter().for_each(|member| put_value(&member.values, row, out)),
        Column::List(list, items) => {
            let [start, end] = [list.value_offsets()[row], list.value_offsets()[row + 1]];
            if end > start {
                put_long(i64::from(end - start), out);
                (start as usize..end as usize).for_each(|item| put_value(items, item, out));
            }
            out.push(0);
        }
    }
}
