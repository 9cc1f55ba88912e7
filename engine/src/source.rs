//! The contract of a source: it hands over runs of raw records of one partition, and evidence about ends.
//!
//! One source serves one worker; the records are borrowed from its fetch buffer and live as long as the call.

use std::time::Duration;

use crate::{Monotonic, Result};

/// A partition of one input, numbered from 0 over all its topics in the order in which they became known. The source
/// keeps the table to topic and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId(pub u32);

/// Who stamped a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampKind {
    /// The broker, when it appended the record: event time by default.
    LogAppend,
    /// The producer.
    Create,
    /// Nobody (formats before Kafka 0.10).
    None,
}

/// One header of a record.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// Its name; names may repeat.
    pub name: &'a str,
    /// Its value, if any.
    pub value: Option<&'a [u8]>,
}

/// Headers that a source has left as they lie: nothing but a dead letter needs them.
#[derive(Clone, Copy, Debug)]
pub struct UnreadHeaders<'a> {
    /// As they lie in the fetch buffer.
    pub bytes: &'a [u8],
    /// Appends them.
    pub read: ReadHeaders,
}

/// Appends the headers in some bytes, up to the first that is none.
pub type ReadHeaders = for<'b> fn(&'b [u8], &mut Vec<Header<'b>>);

/// One record as it lies in the fetch buffer.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Position in its partition.
    pub offset: i64,
    /// Milliseconds since the epoch, as Kafka has them.
    pub timestamp_ms: i64,
    /// Who stamped it.
    pub timestamp_kind: TimestampKind,
    /// Key, if any.
    pub key: Option<&'a [u8]>,
    /// Payload; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers; empty unless the source was opened with them.
    pub headers: &'a [Header<'a>],
    /// The same, where it was opened without them and can read them yet.
    pub unread_headers: Option<UnreadHeaders<'a>>,
}

/// What a source reports.
#[derive(Clone, Copy, Debug)]
pub enum SourceEvent<'a> {
    /// Records of one partition in offset order.
    Records {
        /// Whose.
        partition: PartitionId,
        /// At least one.
        records: &'a [Record<'a>],
        /// When they came in.
        received: Monotonic,
        /// The leader that sent them, if its fetch was asked when this partition had been read to its end: such records
        /// are samples of the leader's clock.
        live_from: Option<i32>,
    },
    /// All records below `next_offset` were handed over or do not exist (control, aborted, compacted).
    Position {
        /// Whose.
        partition: PartitionId,
        /// The next offset to come.
        next_offset: i64,
    },
    /// The leader answered, to a request sent at `asked`, that the log ends at `end_offset`.
    End {
        /// Whose.
        partition: PartitionId,
        /// Who answered.
        leader: i32,
        /// When the question left.
        asked: Monotonic,
        /// High watermark in the answer.
        end_offset: i64,
    },
    /// A metadata answer, to a request sent at `asked`, showed no partition that was not announced by `Joined` before.
    Topology {
        /// When the question left.
        asked: Monotonic,
    },
    /// This partition is read from now on.
    Joined {
        /// Whose.
        partition: PartitionId,
        /// Its topic; a file's path.
        topic: &'a str,
        /// Its number in the topic; 0 for a file.
        number: i32,
        /// First offset to be read.
        start_offset: i64,
    },
    /// Bounded: this partition was read to its end as it stood at start; no record of it follows.
    Finished {
        /// Whose.
        partition: PartitionId,
    },
}

impl SourceEvent<'_> {
    /// The partition that it is about; none: all of them.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        match *self {
            Self::Records { partition, .. }
            | Self::Position { partition, .. }
            | Self::End { partition, .. }
            | Self::Joined { partition, .. }
            | Self::Finished { partition } => Some(partition),
            Self::Topology { .. } => None,
        }
    }
}

/// Takes what a source reports; an error ends the poll.
pub type Visit<'v> = dyn FnMut(SourceEvent<'_>) -> Result<()> + 'v;

/// A worker's share of an input.
pub trait Source: Send {
    /// Waits at most `wait` for something to report, reports it, returns. `Joined` comes before anything else of a
    /// partition. Returns at once when [`Source::finished`].
    ///
    /// # Errors
    /// [`crate::EngineError::Source`]: what cannot be retried (authentication, authorisation, an unknown topic, offsets
    /// that are gone). An unreachable broker is retried inside.
    fn poll(&mut self, wait: Duration, visit: &mut Visit<'_>) -> Result<()>;

    /// Whether every partition is [`SourceEvent::Finished`].
    fn finished(&self) -> bool;
}
