//! Parquet: files of column chunks, compressed with zstd.

use std::{
    fs::File,
    io::{self, Write},
};

use arrow::{
    datatypes::{Schema, SchemaRef},
    error::ArrowError,
    record_batch::RecordBatch,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};
use tidemill_engine::Result;

use super::{EncodedRows, RowEncoder};

/// A row group is written out when it holds this many bytes; it is in memory until then.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// Writes each row as a Parquet file of its own: for who must read messages of Parquet; a file costs about a kilobyte.
#[derive(Debug, Default)]
pub struct ParquetMessageEncoder;

impl RowEncoder for ParquetMessageEncoder {
    fn header(&self, _schema: &Schema) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let failure = |error: ParquetError| ArrowError::ParquetError(error.to_string());
        for row in 0..batch.num_rows() {
            rows.push_binary(|out| {
                let mut writer = ArrowWriter::try_new(out, batch.schema(), Some(properties())).map_err(failure)?;
                writer.write(&batch.slice(row, 1)).map_err(failure)?;
                writer.close().map(drop).map_err(failure)
            })?;
        }
        Ok(())
    }
}

/// Writes batches of one schema into one file, which is readable only after [`ParquetEncoder::finish`].
pub struct ParquetEncoder<W: Write + Send = File> {
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> ParquetEncoder<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// A column type that Parquet does not have; an I/O error.
    pub fn new(file: W, schema: SchemaRef) -> io::Result<Self> {
        Ok(Self { writer: ArrowWriter::try_new(file, schema, Some(properties())).map_err(into_io)? })
    }

    /// Adds rows to the current row group.
    ///
    /// # Errors
    /// Rows of another schema; an I/O error.
    pub fn write(&mut self, batch: &RecordBatch) -> io::Result<()> {
        self.writer.write(batch).map_err(into_io)?;
        if self.writer.in_progress_size() >= ROW_GROUP_BYTES {
            self.end_row_group()?;
        }
        Ok(())
    }

    /// Writes the current row group out, if it has rows.
    ///
    /// # Errors
    /// An I/O error.
    pub fn end_row_group(&mut self) -> io::Result<()> {
        self.writer.flush().map_err(into_io)
    }

    /// About how long the file would be, in bytes, if it ended here.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Writes the footer and gives the file back, not yet synced.
    ///
    /// # Errors
    /// An I/O error.
    pub fn finish(self) -> io::Result<W> {
        self.writer.into_inner().map_err(into_io)
    }
}

fn properties() -> WriterProperties {
    WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build()
}

/// Gets the I/O error back out, with its kind.
fn into_io(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        other => io::Error::other(other),
    }
}
