//! What an epoch says: where each partition stood, and every decision that depended on when answers came in. It determines
//! each row emitted up to it, so that a later run reads the records again and emits the same ones.
//!
//! Workers report [`Position`]s with an epoch; the runner commits them with the outputs' rows and, at its next start, hands
//! each intake a [`Resume`].

use crate::{EventTime, source::PartitionId};

/// The time of one partition at an offset, as far as later rows depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeMark {
    /// The largest event time of the rows before; `MIN` before the first.
    pub largest: EventTime,
    /// No later row is placed below it.
    pub watermark: EventTime,
}

impl TimeMark {
    /// Before every record.
    pub const START: TimeMark = TimeMark { largest: EventTime::MIN, watermark: EventTime::MIN };
}

/// The watermark of a partition moved without a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advance {
    /// The offset that it stood before: records below came in before the advance.
    pub offset: i64,
    /// Where it moved.
    pub watermark: EventTime,
}

/// A partition under one statement's time policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderTime {
    /// At the position's `replay_offset`.
    pub base: TimeMark,
    /// By offset, without those that no row depends on: all since then, and those before it that no epoch has told of yet.
    pub advances: Vec<Advance>,
    /// At the position's `next_offset`.
    pub now: TimeMark,
}

/// Where a worker stands in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Index of the input in the dataflow.
    pub input: usize,
    /// Which partition of it.
    pub partition: PartitionId,
    /// Its topic; a file's path.
    pub topic: String,
    /// Its number in the topic.
    pub number: i32,
    /// All records below it were taken.
    pub next_offset: i64,
    /// A run that starts here sees every record that an open window needs.
    pub replay_offset: i64,
    /// Of each statement that reads the input, in the dataflow's order.
    pub readers: Vec<ReaderTime>,
}

/// How a partition is taken up where an earlier run left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Up to where the outputs have the records: the next offsets of their epochs, the most advanced first.
    pub covered: Vec<i64>,
    /// The partition's time at the offset that reading begins at, and its advances since, by reader; empty: it joins as a new
    /// one does.
    pub readers: Vec<(TimeMark, Vec<Advance>)>,
}

impl Resume {
    /// Of how many of the outputs' epochs, the most advanced first, the record at `offset` is part.
    #[must_use]
    pub fn covering(&self, offset: i64) -> u8 {
        let covering = self.covered.iter().filter(|&&next| offset < next).count();
        u8::try_from(covering).unwrap_or(u8::MAX)
    }
}

/// What an output already has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Rows of windows below this event time.
    pub below: EventTime,
    /// Rows of records that are part of more epochs than this ([`Resume::covering`]): 0 for the output that is the most
    /// advanced.
    pub covering: u8,
}

impl Written {
    /// Nothing.
    pub const NOTHING: Written = Written { below: EventTime::MIN, covering: u8::MAX };
}
