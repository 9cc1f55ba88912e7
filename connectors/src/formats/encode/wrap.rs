//! What stands around encoded rows: a header before each, and their packing.

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use tidemill_engine::Result;

use super::{EncodedRows, RowEncoder};
use crate::formats::compression::Compression;

/// Puts the header before each row, so that a message can be read on its own.
pub struct HeaderEncoder {
    inner: Box<dyn RowEncoder>,
    rows: EncodedRows,
}

impl HeaderEncoder {
    /// For rows of `inner`.
    #[must_use]
    pub fn new(inner: Box<dyn RowEncoder>) -> Self {
        Self { inner, rows: EncodedRows::default() }
    }
}

impl RowEncoder for HeaderEncoder {
    fn header(&self, _schema: &Schema) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let header = self.inner.header(batch.schema_ref())?;
        self.rows.clear();
        self.inner.encode(batch, &mut self.rows)?;
        for row in 0..self.rows.len() {
            rows.push(|out| {
                out.extend_from_slice(&header);
                out.extend_from_slice(self.rows.row(row));
            });
        }
        Ok(())
    }
}

/// Packs what another encoder makes: each row, or the rows of a batch together.
pub struct PackingEncoder {
    inner: Box<dyn RowEncoder>,
    compression: Compression,
    together: bool,
    rows: EncodedRows,
}

impl PackingEncoder {
    /// Packs each row.
    #[must_use]
    pub fn each(inner: Box<dyn RowEncoder>, compression: Compression) -> Self {
        Self { inner, compression, together: false, rows: EncodedRows::default() }
    }

    /// Packs the rows of a batch together: parts of a file, which readers of gzip and zstd take for one text.
    #[must_use]
    pub fn together(inner: Box<dyn RowEncoder>, compression: Compression) -> Self {
        Self { together: true, ..Self::each(inner, compression) }
    }
}

impl RowEncoder for PackingEncoder {
    fn header(&self, schema: &Schema) -> Result<Vec<u8>> {
        let (plain, mut packed) = (self.inner.header(schema)?, Vec::new());
        if !plain.is_empty() {
            self.compression.pack(&plain, &mut packed);
        }
        Ok(packed)
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        self.rows.clear();
        self.inner.encode(batch, &mut self.rows)?;
        let compression = self.compression;
        let mut pack = |plain: &[u8]| {
            rows.push_binary(|out| {
                compression.pack(plain, out);
                Ok(())
            })
        };
        if self.together {
            return pack(self.rows.lines());
        }
        (0..self.rows.len()).try_for_each(|row| pack(self.rows.row(row)))
    }
}
