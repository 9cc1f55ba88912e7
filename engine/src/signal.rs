//! What runs on the edges of a dataflow.

use arrow::record_batch::RecordBatch;

use crate::time::EventTime;

/// Number of an epoch of a job. Counted on from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EpochId(pub u64);

/// One message on an edge. Order on an edge is the order of meaning. Epochs and ends concern whole workers, not single
/// edges: see [`crate::dataflow::merge::FromWorker`].
#[derive(Clone, Debug)]
pub enum Signal {
    /// Rows; each batch carries the column [`crate::EVENT_TIME`].
    Batch(RecordBatch),
    /// No later row has an event time below this one; equal may come. [`EventTime::MAX`] is the end.
    Watermark(EventTime),
}
