//! The JSON decoder and schema inference under mutation, with serde_json as the judge of what is JSON.

use std::sync::Arc;

use anyhow::Context;
use arrow::{
    array::Array,
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use serde::Deserialize;
use serde_json::Value;
use tidemill_connectors::formats::{
    infer::SchemaSample,
    json::{Check, JsonDecoder, JsonOptions},
};
use tidemill_engine::{
    datetime_type,
    decoder::{BadClass, Decoder},
};

use super::Target;

/// A payload that lies before and behind each input, in the batch that the input goes to.
const NEIGHBOUR: &str = r#"{"user":"neighbour","n":1,"device":{"tags":["a",null]},"items":[{"price":0.5}]}"#;

/// Its properties:
/// - a decoder of no columns or of text accepts exactly what serde_json accepts, and so does inference;
/// - a decoder of types refuses as malformed only what is malformed;
/// - what is accepted gives valid columns, the same ones when the check is lax, and fits the schema inferred from it;
/// - the rows before and behind it are what they are without it.
pub(crate) struct Json {
    untyped: [JsonDecoder; 2],
    typed: JsonDecoder,
    lax: JsonDecoder,
    neighbour: RecordBatch,
}

impl Json {
    /// # Errors
    /// When the decoder refuses a schema or a good payload.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let text = ["user", "device", "items", "n"].map(|name| Field::new(name, DataType::Utf8, true));
        let mut typed = decoder(&schema(), Check::Full)?;
        typed.push(NEIGHBOUR.as_bytes())?;
        let neighbour = typed.flush()?;
        Ok(Json {
            untyped: [
                decoder(&Arc::new(Schema::empty()), Check::Full)?,
                decoder(&Arc::new(Schema::new(text.to_vec())), Check::Full)?,
            ],
            typed,
            lax: decoder(&schema(), Check::Lax)?,
            neighbour,
        })
    }

    fn check(&mut self, input: &[u8]) -> anyhow::Result<()> {
        let expected = well_formed(input);
        let mut sample = SchemaSample::default();
        let sampled = sample.add_json(input);
        for decoder in &mut self.untyped {
            let result = decoder.push(input);
            anyhow::ensure!(expected.is_none_or(|good| good == result.is_ok()), "serde_json differs: {result:?}");
            anyhow::ensure!(result.is_ok() == sampled.is_ok(), "inference differs: {sampled:?}, {result:?}");
            valid(&decoder.flush()?)?;
        }
        if sampled.is_ok() {
            let mut inferred = decoder(&sample.schema(), Check::Full)?;
            let rows = inferred.push(input).context("it does not fit its inferred schema")?;
            anyhow::ensure!(rows as u64 == sample.records(), "inference counts other rows");
            valid(&inferred.flush()?)?;
        }

        let result = self.typed.push(NEIGHBOUR.as_bytes()).and_then(|_| {
            let result = self.typed.push(input);
            self.typed.push(NEIGHBOUR.as_bytes())?;
            result
        });
        let malformed = result.as_ref().is_err_and(|bad| bad.class == BadClass::Malformed);
        anyhow::ensure!(!malformed || sampled.is_err(), "refused, though well-formed: {result:?}");
        anyhow::ensure!(result.is_err() || sampled.is_ok(), "accepted, though malformed");
        let rows = result.clone().unwrap_or(0);
        let batch = self.typed.flush()?;
        valid(&batch)?;
        anyhow::ensure!(batch.num_rows() == rows + 2, "{} rows, not {}", batch.num_rows(), rows + 2);
        for row in [0, rows + 1] {
            anyhow::ensure!(batch.slice(row, 1) == self.neighbour, "a neighbour has changed");
        }
        let lax = self.lax.push(input);
        let lax_batch = self.lax.flush()?;
        valid(&lax_batch)?;
        anyhow::ensure!(result.is_err() || lax == result && lax_batch == batch.slice(1, rows), "a lax check differs");
        Ok(())
    }
}

impl Target for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn tokens(&self) -> &'static [&'static str] {
        &[
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\\\"",
            "\\u",
            "\\ud800",
            "\\udc00",
            "\\u0000",
            "null",
            "true",
            "false",
            "-",
            "0",
            "-0",
            ".",
            "e",
            "E+",
            "1e999",
            "0.1",
            "9223372036854775807",
            "9223372036854775808",
            "9007199254740993",
            "1.0",
            " ",
            "\n",
            "\r\n",
            "\t",
            "\u{0}",
            "\u{7f}",
            "é",
            "😀",
            "\u{feff}",
            "{}",
            "[]",
            "\"\"",
            "{\"n\":",
            "\"user\":",
            "\"USER\":",
            "\"at\":",
            "\"device\":{",
            "\"items\":[{",
            "\"2026-02-30\"",
            "\"2026-11-20T10:00:00+01:00\"",
        ]
    }

    fn check(&mut self, input: &[u8]) -> Result<(), String> {
        Json::check(self, input).map_err(|broken| format!("{broken:#}"))
    }
}

fn decoder(schema: &SchemaRef, check: Check) -> anyhow::Result<JsonDecoder> {
    Ok(JsonDecoder::new(schema.clone(), JsonOptions { check, exact: false })?)
}

fn schema() -> SchemaRef {
    let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
    let record = |fields: &[(&str, DataType)]| {
        DataType::Struct(fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect())
    };
    let place = record(&[("lat", DataType::Float64), ("lon", DataType::Float64)]);
    let device = record(&[("id", DataType::Int64), ("place", place), ("tags", list(DataType::Utf8))]);
    let item = record(&[("sku", DataType::Utf8), ("price", DataType::Float64)]);
    Arc::new(Schema::new(vec![
        Field::new("user", DataType::Utf8, true),
        Field::new("at", datetime_type(), true),
        Field::new("amount", DataType::Float64, true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("n", DataType::Int64, true),
        Field::new("device", device, true),
        Field::new("items", list(item), true),
    ]))
}

fn valid(batch: &RecordBatch) -> anyhow::Result<()> {
    batch.columns().iter().try_for_each(|column| column.to_data().validate_full()).context("invalid columns")
}

/// Whether serde_json takes the input as a payload; none where it refuses a number that the grammar allows.
fn well_formed(input: &[u8]) -> Option<bool> {
    fn rows(input: &[u8]) -> serde_json::Result<Vec<Value>> {
        let mut json = serde_json::Deserializer::from_slice(input);
        if input.trim_ascii_start().first() == Some(&b'[') {
            let rows = Vec::deserialize(&mut json)?;
            json.end()?;
            return Ok(rows);
        }
        let rows: Vec<Value> = json.into_iter().collect::<Result<_, _>>()?;
        Ok(if rows.is_empty() { vec![Value::Null] } else { rows })
    }
    match rows(input) {
        Ok(rows) => Some(rows.iter().all(Value::is_object)),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(_) => Some(false),
    }
}
