//! Letters as JSON lines.
//!
//! Members of a line are the columns in their order; `key` and `value` are text where they are UTF-8, followed by `key_base64` and
//! `value_base64`, which are always there and complete. `headers` is a list of `{name, value, value_base64}`. What a record does not
//! have is `null`.

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use tidemill_engine::Result;

use super::{
    kept::KeptLetter,
    row::{LetterRow, LetterRows},
};
use crate::{
    formats::encode::{EncodedRows, RowEncoder, datetime_text},
    replay::KeptRecord,
};

/// Writes each letter as one JSON object on one line.
#[derive(Debug, Default)]
pub struct LetterLines;

impl RowEncoder for LetterLines {
    fn header(&self, _schema: &Schema) -> Result<Vec<u8>> {
        Ok(vec![])
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let letters = LetterRows::of(batch)?;
        for row in 0..letters.len() {
            let line = Line::of(&letters.row(row));
            rows.push(|out| serde_json::to_writer(out, &line).expect("memory takes every byte"));
        }
        Ok(())
    }
}

/// The letter in a line; `None` for what is none.
pub(super) fn parse(line: &[u8]) -> Option<KeptLetter> {
    let line: ReadLine = serde_json::from_slice(line).ok()?;
    let bytes = |text: Option<String>| text.map(|text| BASE64_STANDARD.decode(text)).transpose().ok();
    let micros = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros());
    let headers = line.headers.into_iter().map(|header| Some((header.name, bytes(header.value_base64)?)));
    Some(KeptLetter {
        time_us: micros(&line.time)?,
        job: line.job,
        input: line.input,
        format: line.format,
        schema_id: line.schema_id,
        class: line.class,
        error: line.error,
        record: KeptRecord {
            topic: line.topic,
            partition: line.partition,
            offset: line.offset,
            timestamp_ms: micros(&line.timestamp)?.div_euclid(1_000),
            key: bytes(line.key_base64)?,
            value: bytes(line.value_base64)?,
            headers: headers.collect::<Option<_>>()?,
        },
    })
}

/// Members in the order of the file.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    job: &'a str,
    input: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: String,
    format: Option<&'a str>,
    schema_id: Option<i64>,
    class: &'a str,
    error: &'a str,
    key: Option<&'a str>,
    key_base64: Option<String>,
    value: Option<&'a str>,
    value_base64: Option<String>,
    headers: Vec<HeaderLine<'a>>,
}

#[derive(Serialize)]
struct HeaderLine<'a> {
    name: &'a str,
    value: Option<&'a str>,
    value_base64: Option<String>,
}

impl<'a> Line<'a> {
    fn of(letter: &LetterRow<'a>) -> Self {
        let headers = letter.headers.iter().map(|&(name, value)| HeaderLine {
            name,
            value: text(value),
            value_base64: base64(value),
        });
        Self {
            time: datetime_text(letter.time_us),
            job: letter.job,
            input: letter.input,
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            timestamp: datetime_text(letter.timestamp_us),
            format: letter.format,
            schema_id: letter.schema_id,
            class: letter.class,
            error: letter.error,
            key: text(letter.key),
            key_base64: base64(letter.key),
            value: text(letter.value),
            value_base64: base64(letter.value),
            headers: headers.collect(),
        }
    }
}

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    bytes.and_then(|bytes| std::str::from_utf8(bytes).ok())
}

fn base64(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| BASE64_STANDARD.encode(bytes))
}

/// What of a line is read.
#[derive(Deserialize)]
struct ReadLine {
    time: String,
    job: String,
    input: String,
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: String,
    format: Option<String>,
    schema_id: Option<i64>,
    class: String,
    error: String,
    key_base64: Option<String>,
    value_base64: Option<String>,
    headers: Vec<ReadHeader>,
}

#[derive(Deserialize)]
struct ReadHeader {
    name: String,
    value_base64: Option<String>,
}
