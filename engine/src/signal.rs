//! What runs on every edge of a dataflow.

use arrow::record_batch::RecordBatch;

use crate::time::EventTime;

/// Number of an epoch, counted from 1 in each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId(pub u64);

/// One message on an edge. Order on an edge is the order of meaning: rows before a watermark are before it.
#[derive(Clone, Debug)]
pub enum Signal {
    /// Rows; each batch carries the column [`crate::EVENT_TIME`].
    Batch(RecordBatch),
    /// No later row has an event time below this one; equal may come.
    Watermark(EventTime),
    /// All rows before it belong to this epoch.
    Epoch(EpochId),
    /// Nothing follows. A watermark of [`EventTime::MAX`] came before it.
    End,
}
