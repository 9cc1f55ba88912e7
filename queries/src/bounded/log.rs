//! The seam to whoever knows the connectors: a log that can be asked for stretches of its partitions.

use std::{fmt::Debug, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use tidemill_engine::Result;

use super::bounds::Interval;

/// A partition of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPartition {
    /// Its topic; a file's path.
    pub topic: Arc<str>,
    /// Its number in the topic.
    pub number: i32,
}

/// Which records a question can use: those that fulfil all of this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// For each partition, in the order of [`LogTable::partitions`], whether it is wanted.
    pub partitions: Vec<bool>,
    /// Their offsets.
    pub offsets: Interval,
    /// Their timestamps, in microseconds.
    pub times: Interval,
    /// Their key.
    pub key: Option<String>,
}

/// Records of one partition that lie together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Index in [`LogTable::partitions`].
    pub partition: usize,
    /// The first offset.
    pub from: i64,
    /// The offset behind the last.
    pub to: i64,
    /// The first offset of the partition, and the one behind its last.
    pub whole: (i64, i64),
    /// How many records it holds at most; `None` where offsets do not say it: then it cannot be cut.
    pub records: Option<u64>,
    /// About how many bytes it holds.
    pub bytes: u64,
}

/// What a log answers to [`Wanted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stretches {
    /// Everything that is wanted lies in these; one a partition at most, none of them empty.
    pub stretches: Vec<Stretch>,
    /// Why it is not less, for who reads an EXPLAIN.
    pub notes: Vec<String>,
}

/// A table over a log.
pub trait LogTable: Debug + Send + Sync {
    /// Its name, for messages.
    fn name(&self) -> &str;

    /// Its columns, of the types of [`tidemill_engine`]. Conditions on `_partition`, `_offset` (`Int64`), `_timestamp` and `_key` say
    /// which records are read.
    fn schema(&self) -> SchemaRef;

    /// Its partitions.
    fn partitions(&self) -> &[LogPartition];

    /// Where the wanted records lie. The log's ends are those of the first call.
    ///
    /// # Errors
    /// When the log cannot be asked.
    fn stretches(&self, wanted: &Wanted) -> Result<Stretches>;

    /// Whether stretches hold the offsets that are asked for and no others. If not, conditions on offsets are asked of each row.
    fn seeks(&self) -> bool;

    /// Whether a row is a record, so that a scan of no column can count records and does not look at payloads.
    fn counts_records(&self) -> bool;

    /// Reads stretches, one a partition at most. Batches have the columns of these indices, in their order; without columns
    /// only a count of rows.
    ///
    /// # Errors
    /// When the log cannot be read.
    fn open(&self, columns: &[usize], stretches: &[Stretch]) -> Result<Box<dyn Scan>>;
}

/// Stretches that are being read.
pub trait Scan: Send {
    /// The next rows; none when nothing came within a fraction of a second; `None` at the end.
    ///
    /// # Errors
    /// When reading cannot go on.
    fn next(&mut self) -> Result<Option<RecordBatch>>;
}
