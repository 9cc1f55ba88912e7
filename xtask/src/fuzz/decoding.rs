//! The decoders of Avro, Protobuf, CSV and Parquet: whatever a payload holds, it becomes rows or is refused, and its neighbours
//! in the batch are as they would be without it.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use arrow::{
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use tidemill_connectors::formats::{
    avro::{self, AvroDecoder, AvroOptions, AvroSchema},
    csv::{CsvDecoder, CsvOptions},
    parquet::{self, ParquetDecoder},
    protobuf::{self, ProtobufDecoder, ProtobufOptions, ProtobufSchema},
};
use tidemill_engine::decoder::Decoder;

use super::Target;

const AVRO_SCHEMA: &str = r#"{"type": "record", "name": "r", "fields": [
    {"name": "id", "type": "long"},
    {"name": "name", "type": "string"},
    {"name": "maybe", "type": ["null", "double"]},
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "counts", "type": {"type": "map", "values": "int"}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "either", "type": ["null", "long", {"type": "record", "name": "s", "fields": [
        {"name": "x", "type": "float"}, {"name": "next", "type": ["null", "s"]}]}]}
]}"#;

const PROTO_SCHEMA: &str = r#"
syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Color { NONE = 0; RED = 1; }
message M {
  int64 id = 1; string name = 2; optional double maybe = 3; repeated sint32 numbers = 4; map<string, S> items = 5;
  google.protobuf.Timestamp at = 6; oneof pay { string card = 7; S gift = 8; } Color color = 9; bytes raw = 10;
  google.protobuf.Int64Value wrapped = 11; M self = 12; fixed64 big = 300;
}
message S { float x = 1; repeated string words = 2; }
"#;

/// Largest payload that a packed part may become here: a run makes thousands of them.
const MAX_UNPACKED: usize = 4 << 20;

/// A decoder of all columns and one of few.
pub(crate) struct Decoding {
    name: &'static str,
    tokens: &'static [&'static str],
    all: Box<dyn Decoder>,
    few: Box<dyn Decoder>,
    /// A payload of one row or more, and its rows.
    good: Vec<u8>,
    rows: RecordBatch,
}

impl Decoding {
    fn new(
        name: &'static str,
        tokens: &'static [&'static str],
        columns: SchemaRef,
        few: &[&str],
        decoder: impl Fn(SchemaRef) -> anyhow::Result<Box<dyn Decoder>>,
    ) -> anyhow::Result<Self> {
        let wanted = columns.fields().iter().filter(|field| few.contains(&field.name().as_str())).cloned();
        let wanted = Arc::new(Schema::new(wanted.collect::<Vec<_>>()));
        let (mut all, few) = (decoder(columns)?, decoder(wanted)?);
        let good = super::read_corpus(name)?.into_iter().find(|payload| all.push(payload).is_ok());
        let good = good.with_context(|| format!("no payload of the corpus {name} is good"))?;
        let rows = all.flush()?;
        Ok(Self { name, tokens, all, few, good, rows })
    }

    /// Plain Avro values.
    pub(crate) fn avro() -> anyhow::Result<Self> {
        let schema = Arc::new(AvroSchema::parse(AVRO_SCHEMA, &[]).map_err(|error| anyhow!(error))?);
        let columns = schema.columns().map_err(|error| anyhow!(error))?.schema;
        Self::new("avro", &["\u{2}", "\u{0}", "\u{1}"], columns, &["name", "either"], |columns| {
            let options = AvroOptions {
                framing: avro::Framing::Datum,
                schema: Some(Arc::clone(&schema)),
                schemas: None,
                max_unpacked: MAX_UNPACKED,
            };
            Ok(Box::new(AvroDecoder::new(columns, options).map_err(|error| anyhow!(error))?))
        })
    }

    /// Avro container files.
    pub(crate) fn avro_container() -> anyhow::Result<Self> {
        let columns = [("n", DataType::Int64), ("text", DataType::Utf8)];
        let tokens = &["Obj\u{1}", "avro.schema", "avro.codec", "deflate", "snappy", "zstandard", "null"];
        Self::new("avro_container", tokens, schema_of(&columns), &["n"], |columns| {
            let options = AvroOptions {
                framing: avro::Framing::Container,
                schema: None,
                schemas: None,
                max_unpacked: MAX_UNPACKED,
            };
            Ok(Box::new(AvroDecoder::new(columns, options).map_err(|error| anyhow!(error))?))
        })
    }

    /// Protobuf messages.
    pub(crate) fn protobuf() -> anyhow::Result<Self> {
        let schema = ProtobufSchema::of_texts(PROTO_SCHEMA, &[]).map_err(|error| anyhow!(error))?;
        let message = schema.message(Some("M")).map_err(|error| anyhow!(error))?;
        let columns = message.columns().map_err(|error| anyhow!(error))?.schema;
        Self::new(
            "protobuf",
            &["\u{8}\u{1}", "\u{12}", "\u{2a}", "\u{3}", "\u{4}"],
            columns,
            &["id", "gift"],
            |columns| {
                let options = ProtobufOptions {
                    framing: protobuf::Framing::Message,
                    message: Some(message.clone()),
                    schemas: None,
                };
                Ok(Box::new(ProtobufDecoder::new(columns, options).map_err(|error| anyhow!(error))?))
            },
        )
    }

    /// CSV with a header.
    pub(crate) fn csv() -> anyhow::Result<Self> {
        let columns =
            [("a", DataType::Utf8), ("n", DataType::Int64), ("x", DataType::Float64), ("ok", DataType::Boolean)];
        Self::new("csv", &["a,n,x,ok\n", "\"", "\"\"", ",", "\r\n", "NULL"], schema_of(&columns), &["n"], |columns| {
            Ok(Box::new(CsvDecoder::new(
                "in",
                columns,
                CsvOptions { null: Some("NULL".to_owned()), ..CsvOptions::default() },
            )?))
        })
    }

    /// Parquet files.
    pub(crate) fn parquet() -> anyhow::Result<Self> {
        let corpus = super::read_corpus("parquet")?;
        let columns = corpus.iter().find_map(|payload| parquet::columns(payload).ok());
        let columns = columns.context("no payload of the corpus parquet is good")?.schema;
        Self::new("parquet", &["PAR1"], columns, &["n"], |columns| {
            Ok(Box::new(ParquetDecoder::new(columns, MAX_UNPACKED)))
        })
    }
}

fn schema_of(columns: &[(&str, DataType)]) -> SchemaRef {
    let fields = columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

impl Target for Decoding {
    fn name(&self) -> &'static str {
        self.name
    }

    fn tokens(&self) -> &'static [&'static str] {
        self.tokens
    }

    fn check(&mut self, input: &[u8]) -> Result<(), String> {
        let around = |decoder: &mut Box<dyn Decoder>| {
            let good = decoder.push(&self.good).map_err(|bad| format!("the good payload is refused: {bad}"))?;
            let rows = decoder.push(input);
            let again =
                decoder.push(&self.good).map_err(|bad| format!("the good payload is refused afterwards: {bad}"))?;
            let batch = decoder.flush().map_err(|error| format!("the batch cannot be taken: {error}"))?;
            let expected = good + again + rows.as_ref().copied().unwrap_or(0);
            if batch.num_rows() == expected {
                Ok((rows, batch))
            } else {
                Err(format!("{} rows in the batch, expected {expected}", batch.num_rows()))
            }
        };
        let (all, batch) = around(&mut self.all)?;
        let (few, _) = around(&mut self.few)?;
        let good = self.rows.num_rows();
        for (place, rows) in [("before", batch.slice(0, good)), ("behind", batch.slice(batch.num_rows() - good, good))]
        {
            // NaN is not equal to itself: the good payloads of the corpora have none.
            if rows != self.rows {
                return Err(format!("the good payload {place} it was changed"));
            }
        }
        match (all, few) {
            (Ok(all), Ok(few)) if all != few => Err(format!("{all} rows with all columns, {few} with some")),
            (Ok(_), Err(bad)) => Err(format!("refused when fewer columns are wanted: {bad}")),
            _ => Ok(()),
        }
    }
}
