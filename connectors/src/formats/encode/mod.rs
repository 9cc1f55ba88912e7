//! Rows to bytes: what sinks write.
//!
//! A [`RowEncoder`] makes one slice of bytes a row, so that it serves a sink of messages (one row each) and a sink of
//! lines alike; in files of blocks a slice is a block. Parquet has no rows of bytes: a [`ParquetEncoder`] owns its file. Every
//! encoder resolves a batch's column types once and then goes through the rows; none knows where its bytes go.
//!
//! | | nulls | datetimes | records and lists |
//! |---|---|---|---|
//! | JSON | `null` | ISO 8601, UTC, 7 digits | objects, arrays |
//! | CSV | nothing | as in JSON | the words `Record`, `Array` |
//! | Avro | of a union with null | timestamp-micros | records, arrays |
//! | Protobuf | absent | google.protobuf.Timestamp | messages, repeated fields: a null list is an empty one, a null in a list an error |
//! | Parquet | null | timestamp in microseconds | structs, lists |

mod avro;
mod avro_target;
mod column;
mod csv;
mod datetime;
mod json;
mod parquet;
mod protobuf;
#[cfg(test)]
mod tests;
mod wrap;

use std::ops::Range;

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use tidemill_engine::Result;

pub use avro::{AvroBlockEncoder, AvroContainerEncoder, AvroEncoder, Codec};
pub(crate) use column::Column;
pub use csv::CsvEncoder;
pub use datetime::datetime_text;
pub(crate) use datetime::push_datetime;
pub use json::JsonEncoder;
pub(crate) use json::push_json;
pub use parquet::{ParquetEncoder, ParquetMessageEncoder};
pub use protobuf::ProtobufEncoder;
pub use wrap::{HeaderEncoder, PackingEncoder};

use super::registry::SchemaKind;

/// Encoded rows in one buffer, those of text formats each followed by a line feed. Reused from batch to batch.
#[derive(Debug, Default)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    /// Where each row lies, its line feed not counted.
    rows: Vec<Range<usize>>,
}

impl EncodedRows {
    /// Forgets the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows.clear();
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// One row without its line feed.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn row(&self, index: usize) -> &[u8] {
        &self.bytes[self.rows[index].clone()]
    }

    /// All rows, each with its line feed: the body of a file.
    #[must_use]
    pub fn lines(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends one row, which `write` writes, and a line feed.
    pub(crate) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.rows.push(start..self.bytes.len());
        self.bytes.push(b'\n');
    }

    /// Appends one row without a line feed; when `write` fails, nothing.
    pub(crate) fn push_binary<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.bytes.len();
        let written = write(&mut self.bytes);
        match written {
            Ok(()) => self.rows.push(start..self.bytes.len()),
            Err(_) => self.bytes.truncate(start),
        }
        written
    }
}

/// Registers the schema of rows, and says the id that stands before them.
pub trait Registrar: Send {
    /// The id of a schema.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Sink`] when it is refused, as one that is not compatible with those before it.
    fn register(&self, kind: SchemaKind, text: &str) -> Result<u64>;
}

/// A header of a message: its name and value.
pub type MessageHeader = (String, Option<Vec<u8>>);

/// Turns rows into bytes. One encoder serves one output; schemas may change from batch to batch.
pub trait RowEncoder: Send {
    /// What stands above the rows of a file, with its line feed; empty for a format without a header.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Arrow`] for columns that the format cannot carry.
    fn header(&self, schema: &Schema) -> Result<Vec<u8>>;

    /// Appends each row of the batch.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Arrow`] for a column type that the format cannot carry (a map, a union) and for a
    /// value that it cannot (an unsigned number above 2^63 - 1).
    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()>;

    /// What stands beside each row in the headers of its message; of most formats nothing, of no row.
    ///
    /// # Errors
    /// As [`RowEncoder::encode`].
    fn message_headers(&self, _batch: &RecordBatch) -> Result<Vec<Vec<MessageHeader>>> {
        Ok(vec![])
    }
}
