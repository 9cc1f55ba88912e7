//! A Parquet file piece by piece: each row group as a file of its own, its columns copied as they are packed.

use std::{fs::File, io};

use ::parquet::{
    column::writer::ColumnCloseResult,
    errors::ParquetError,
    file::{reader::FileReader as _, serialized_reader::SerializedFileReader, writer::SerializedFileWriter},
};

/// A row group longer than this ends the reading: it would not fit into memory.
const MAX_ROW_GROUP_BYTES: i64 = 1 << 30;

/// Reads one file row group by row group.
pub(crate) struct RowGroups {
    reader: SerializedFileReader<File>,
    /// For copying column chunks.
    file: File,
    next: usize,
    payload: Vec<u8>,
}

impl RowGroups {
    /// Reads the footer.
    pub(crate) fn open(file: File) -> io::Result<Self> {
        let reader = SerializedFileReader::new(file.try_clone()?).map_err(into_io)?;
        Ok(Self { reader, file, next: 0, payload: Vec::new() })
    }

    /// Number of the next row group.
    pub(crate) fn next_index(&self) -> usize {
        self.next
    }

    /// The next row group as a file; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<&[u8]>> {
        let metadata = self.reader.metadata();
        let Some(group) = metadata.row_groups().get(self.next) else { return Ok(None) };
        if group.compressed_size() > MAX_ROW_GROUP_BYTES {
            let message = format!("row group {} has more than {MAX_ROW_GROUP_BYTES} bytes", self.next);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        self.payload.clear();
        let file = metadata.file_metadata();
        let properties = ::parquet::file::properties::WriterProperties::builder()
            .set_key_value_metadata(file.key_value_metadata().cloned())
            .build();
        let schema = file.schema_descr().root_schema_ptr();
        let copy = || -> Result<(), ParquetError> {
            let mut writer = SerializedFileWriter::new(&mut self.payload, schema, properties.into())?;
            let mut columns = writer.next_row_group()?;
            for column in group.columns() {
                let result = ColumnCloseResult {
                    bytes_written: column.compressed_size() as u64,
                    rows_written: group.num_rows() as u64,
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                columns.append_column(&self.file, result)?;
            }
            columns.close()?;
            writer.close().map(drop)
        };
        copy().map_err(into_io)?;
        self.next += 1;
        Ok(Some(&self.payload))
    }
}

fn into_io(error: ParquetError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
