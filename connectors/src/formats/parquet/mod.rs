//! Parquet to Arrow: a payload is a whole Parquet file, of which only the wanted columns are read.
//!
//! A file source hands over one row group at a time, as a file of its own ([`RowGroups`]), so that a large file costs no more
//! memory than its largest row group and a dead letter can be read on its own.
//!
//! # Values
//! | Parquet, as Arrow reads it | column that is inferred |
//! |---|---|
//! | integers, signed or not | bigint; unsigned above 2^63 - 1 is a bad record unless the column is declared as float or text |
//! | floats, decimals | float, the nearest; all digits of a decimal where the column is declared as text |
//! | boolean | bit |
//! | strings, dictionaries of them | nvarchar(max) |
//! | binary | nvarchar(max), base64 |
//! | timestamps, dates | datetime, cut to microseconds; without a zone UTC |
//! | times, durations | nvarchar(max) |
//! | list, struct | array, record |
//! | map | array of records `{key, value}` |

mod convert;
mod row_groups;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use ::parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder},
    },
    errors::ParquetError,
};
use arrow::{
    array::ArrayRef,
    compute::concat_batches,
    datatypes::{Field, Fields, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use bytes::Bytes;
use tidemill_engine::{
    Result,
    decoder::{BadClass, BadRecord, Decoder},
};

use self::convert::{column_type, convert};
pub(crate) use self::row_groups::RowGroups;
use super::{
    Declared, LeftOut,
    json::reader::{Fault, fault},
};

/// Rows that are read at once.
const BATCH_ROWS: usize = 8_192;

/// Builds the columns of a schema from Parquet payloads.
pub struct ParquetDecoder {
    schema: SchemaRef,
    /// Bytes that a payload's columns may take in memory.
    max_unpacked: usize,
    batches: Vec<RecordBatch>,
    rows: usize,
}

impl ParquetDecoder {
    /// For these columns, of a payload of which they take at most `max_unpacked` bytes of memory.
    #[must_use]
    pub fn new(schema: SchemaRef, max_unpacked: usize) -> Self {
        Self { schema, max_unpacked, batches: Vec::new(), rows: 0 }
    }

    /// The library panics on some bytes that are no Parquet: they are malformed, and no fault of ours.
    fn read_guarded(&mut self, payload: &[u8]) -> Result<usize, Fault> {
        let read = catch_unwind(AssertUnwindSafe(|| self.read(payload)));
        read.unwrap_or_else(|_| Err(fault(BadClass::Malformed, "no Parquet file that can be read".to_owned())))
    }

    fn read(&mut self, payload: &[u8]) -> Result<usize, Fault> {
        let bytes = Bytes::copy_from_slice(payload);
        let metadata = ArrowReaderMetadata::load(&bytes, Default::default()).map_err(malformed)?;
        let written = metadata.schema().clone();
        let positions = positions(written.fields(), self.schema.fields());
        let roots = positions.iter().flatten().copied();
        let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
        let declared = usize::try_from(metadata.metadata().file_metadata().num_rows()).unwrap_or(usize::MAX);
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata).with_projection(mask);
        // Batches have the wanted columns in the file's order.
        let mut order: Vec<usize> = positions.iter().flatten().copied().collect();
        order.sort_unstable();
        let reader = builder.with_batch_size(BATCH_ROWS.min(declared.max(1))).build().map_err(malformed)?;
        let (mut rows, mut memory) = (0, 0);
        for batch in reader {
            let batch = batch.map_err(|error| malformed(error.into()))?;
            memory += batch.get_array_memory_size();
            rows += batch.num_rows();
            if memory > self.max_unpacked || rows > self.max_unpacked {
                let message = format!("its columns take more than {} bytes", self.max_unpacked);
                return Err(fault(BadClass::Malformed, message));
            }
            let columns = self.schema.fields().iter().zip(&positions).map(|(field, position)| match position {
                Some(position) => {
                    let index = order.binary_search(position).unwrap_or_default();
                    convert(batch.column(index), field.data_type(), field.name())
                }
                None => Ok(arrow::array::new_null_array(field.data_type(), batch.num_rows())),
            });
            let columns = columns.collect::<Result<Vec<ArrayRef>, Fault>>()?;
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
            self.batches.push(batch.map_err(|error| fault(BadClass::Type, error.to_string()))?);
        }
        Ok(rows)
    }
}

impl Decoder for ParquetDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn push(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        match self.read_guarded(payload) {
            Ok(rows) => {
                self.rows += rows;
                Ok(rows)
            }
            Err(fault) => {
                self.truncate(self.rows);
                Err(*fault)
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        let mut left = rows;
        self.batches.retain_mut(|batch| {
            let kept = left.min(batch.num_rows());
            left -= kept;
            *batch = batch.slice(0, kept);
            kept > 0
        });
        self.rows = self.rows.min(rows);
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        let batch = match self.batches.as_slice() {
            [only] => only.clone(),
            batches => concat_batches(&self.schema, batches)?,
        };
        self.batches.clear();
        self.rows = 0;
        Ok(batch)
    }
}

/// The columns of a Parquet payload, all nullable, and those that can be none.
///
/// # Errors
/// Bytes that are no Parquet file.
pub fn columns(payload: &[u8]) -> Result<Declared, BadRecord> {
    let bytes = Bytes::copy_from_slice(payload);
    let metadata = ArrowReaderMetadata::load(&bytes, Default::default()).map_err(|error| *malformed(error))?;
    let (mut fields, mut left_out) = (Vec::new(), Vec::new());
    for field in metadata.schema().fields() {
        match column_type(field.data_type()) {
            Some(data_type) => fields.push(Field::new(field.name(), data_type, true)),
            None => {
                let reason = format!("type {} has no place in a query", field.data_type());
                left_out.push(LeftOut { path: field.name().clone(), reason });
            }
        }
    }
    Ok(Declared { schema: Arc::new(Schema::new(fields)), left_out })
}

/// For each column the position of its field: of the same name, else the first that differs only in ASCII case.
fn positions(written: &Fields, wanted: &Fields) -> Vec<Option<usize>> {
    let mut taken = HashMap::new();
    let find = |column: usize, taken: &mut HashMap<usize, usize>| {
        let name = wanted[column].name();
        let free = |position: &usize| !taken.contains_key(position);
        let exact = (0..written.len()).find(|position| written[*position].name() == name && free(position));
        let found = exact.or_else(|| {
            (0..written.len()).find(|position| written[*position].name().eq_ignore_ascii_case(name) && free(position))
        });
        if let Some(position) = found {
            taken.insert(position, column);
        }
        found
    };
    (0..wanted.len()).map(|column| find(column, &mut taken)).collect()
}

fn malformed(error: ParquetError) -> Fault {
    fault(BadClass::Malformed, format!("no Parquet file that can be read: {error}"))
}
