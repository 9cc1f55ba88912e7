//! Letters as messages: the record as it came, key, value and headers, and behind its own headers those that say what is known of
//! it, all as text: `tidemill.job`, `.input`, `.topic`, `.partition`, `.offset`, `.timestamp`, `.format`, `.schema_id`, `.class`,
//! `.error`, `.time`.

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use chrono::DateTime;
use tidemill_engine::{Result, source::Record};

use super::{
    kept::KeptLetter,
    row::{LetterRow, LetterRows},
};
use crate::{
    formats::encode::{EncodedRows, MessageHeader, RowEncoder, datetime_text},
    replay::KeptRecord,
};

/// The first of our headers.
const JOB: &str = "tidemill.job";

/// Writes the value of each letter's record. The key is the letter's column `key`.
#[derive(Debug, Default)]
pub struct LetterMessages;

impl RowEncoder for LetterMessages {
    fn header(&self, _schema: &Schema) -> Result<Vec<u8>> {
        Ok(vec![])
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let letters = LetterRows::of(batch)?;
        for row in 0..letters.len() {
            rows.push_binary(|out| {
                out.extend_from_slice(letters.row(row).value.unwrap_or_default());
                Ok::<(), tidemill_engine::EngineError>(())
            })?;
        }
        Ok(())
    }

    fn message_headers(&self, batch: &RecordBatch) -> Result<Vec<Vec<MessageHeader>>> {
        let letters = LetterRows::of(batch)?;
        Ok((0..letters.len()).map(|row| headers(&letters.row(row))).collect())
    }
}

/// Those of the record, then ours.
fn headers(letter: &LetterRow<'_>) -> Vec<MessageHeader> {
    let own = letter.headers.iter().map(|&(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
    let mut headers: Vec<MessageHeader> = own.collect();
    let mut add = |name: &str, text: &str| headers.push((name.to_owned(), Some(text.as_bytes().to_vec())));
    add(JOB, letter.job);
    add("tidemill.input", letter.input);
    add("tidemill.topic", letter.topic);
    add("tidemill.partition", &letter.partition.to_string());
    add("tidemill.offset", &letter.offset.to_string());
    add("tidemill.timestamp", &datetime_text(letter.timestamp_us));
    if let Some(format) = letter.format {
        add("tidemill.format", format);
    }
    if let Some(id) = letter.schema_id {
        add("tidemill.schema_id", &id.to_string());
    }
    add("tidemill.class", letter.class);
    add("tidemill.error", letter.error);
    add("tidemill.time", &datetime_text(letter.time_us));
    headers
}

/// The letter in a message; `None` for what is none. A record that was a letter before has the headers of that among its own.
pub(super) fn parse(record: &Record<'_>) -> Option<KeptLetter> {
    let first = record.headers.iter().rposition(|header| header.name == JOB)?;
    let (own, ours) = record.headers.split_at(first);
    let text = |name: &str| {
        let header = ours.iter().find(|header| header.name.strip_prefix("tidemill.") == Some(name))?;
        std::str::from_utf8(header.value?).ok()
    };
    let micros = |name: &str| Some(DateTime::parse_from_rfc3339(text(name)?).ok()?.timestamp_micros());
    let own = own.iter().map(|header| (header.name.to_owned(), header.value.map(<[u8]>::to_vec)));
    Some(KeptLetter {
        time_us: micros("time")?,
        job: text("job")?.to_owned(),
        input: text("input")?.to_owned(),
        format: text("format").map(str::to_owned),
        schema_id: text("schema_id").and_then(|id| id.parse().ok()),
        class: text("class")?.to_owned(),
        error: text("error")?.to_owned(),
        record: KeptRecord {
            topic: text("topic")?.to_owned(),
            partition: text("partition")?.parse().ok()?,
            offset: text("offset")?.parse().ok()?,
            timestamp_ms: micros("timestamp")?.div_euclid(1_000),
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: own.collect(),
        },
    })
}
