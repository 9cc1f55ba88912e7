//! Rows to bytes: what sinks write.
//!
//! A [`RowEncoder`] makes one slice of bytes a row, so that it serves a sink of messages (one row each) and a sink of
//! lines alike. Parquet has no rows of bytes: a [`ParquetEncoder`] owns its file. Every encoder resolves a batch's column
//! types once and then goes through the rows; none knows where its bytes go.

mod column;
mod csv;
mod datetime;
mod json;
mod parquet;
#[cfg(test)]
mod tests;

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use tidemill_engine::Result;

pub(crate) use column::Column;
pub use csv::CsvEncoder;
pub(crate) use datetime::{datetime_text, push_datetime};
pub use json::JsonEncoder;
pub(crate) use json::push_json;
pub use parquet::ParquetEncoder;

/// Encoded rows in one buffer, each followed by a line feed. Reused from batch to batch.
#[derive(Debug, Default)]
pub struct EncodedRows {
    bytes: Vec<u8>,
    /// Where each row ends, its line feed not counted.
    ends: Vec<usize>,
}

impl EncodedRows {
    /// Forgets the rows and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One row without its line feed.
    ///
    /// # Panics
    /// When there is no such row.
    #[must_use]
    pub fn row(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] + 1);
        &self.bytes[start..self.ends[index]]
    }

    /// All rows, each with its line feed.
    #[must_use]
    pub fn lines(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends one row, which `write` writes.
    fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
        self.bytes.push(b'\n');
    }
}

/// Turns rows into bytes. One encoder serves one output; schemas may change from batch to batch.
pub trait RowEncoder: Send {
    /// What stands above the rows of a file, with its line feed; empty for a format without a header.
    fn header(&self, schema: &Schema) -> Vec<u8>;

    /// Appends each row of the batch.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Arrow`] for a column type that the format cannot carry (a map, a union) and for an
    /// unsigned number above 2^63 - 1; nothing is appended then.
    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()>;
}
