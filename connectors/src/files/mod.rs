//! Files as inputs and outputs. A [`FileSource`] reads records of finished files; a [`FileSink`] writes files
//! that a reader sees only when they are whole; a [`LaidOutSink`] does so in folders of Hive's names, in the order of columns.

mod laid_out;
mod layout;
mod listing;
mod reader;
mod sink;
mod source;

use std::{
    fs::{self, File},
    io,
    path::Path,
};

use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

pub use laid_out::{LaidOutSink, OpenFolder};
pub use layout::{Layout, PartitionBy, SortBy, Unit};
pub use listing::list_files;
pub use sink::{EncoderFactory, FileSink, OutputFormat, Rolling};
pub use source::{Content, FileSource, InputFormat, sample};

/// Creates the directory where it is missing, and a file in it for a moment: what is wrong with it should show at the
/// start of a job, not at its first row.
pub(crate) fn prepare_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let probe = directory.join(format!(".tidemill-{}.probe", std::process::id()));
    File::create(&probe)?;
    fs::remove_file(&probe)
}

/// Hands over the batches of a Parquet file, in order.
///
/// # Errors
/// Of the file, of what is no Parquet in it, and of `each`.
pub fn each_parquet_batch(
    path: &Path,
    each: &mut dyn FnMut(&RecordBatch) -> tidemill_engine::Result<()>,
) -> io::Result<()> {
    let batches = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()?;
    for batch in batches {
        each(&batch.map_err(io::Error::other)?).map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) use tests::FixedClock;
#[cfg(test)]
mod tests;
