//! Event time: which instant a row belongs to, and up to which instant everything has been seen.
//!
//! The intake asks here for each record and each answer of a broker; nothing in here does I/O or reads a clock.
//! - [`partition::PartitionTime`] places the rows of one partition and keeps its watermark. What it says about a row
//!   depends only on the rows before it in the partition and on the recorded [`input::TimeFact`]s, never on how rows were
//!   cut into batches or when they came in: that is what makes a replay equal to the live run.
//! - [`input::InputTime`] combines the partitions of a worker's share of an input with what is known about partitions
//!   that do not exist yet.
//! - [`broker_clock::BrokerClocks`] says what a broker's clock showed at an instant of ours, so that evidence about the
//!   end of a partition can advance its watermark when no record does.
//!
//! A watermark W promises that no later row has an event time below W; equal may come, since all records of a Kafka
//! batch share one stamp.

pub mod broker_clock;
pub mod input;
pub mod partition;

pub use broker_clock::{BrokerClocks, Now};
pub use input::{InputTime, TimeFact};
pub use partition::{PartitionTime, Placement, TimeCounters, TimeRule};
