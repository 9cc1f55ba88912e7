//! Where an intake stands: offsets for resuming, and counters for whoever watches.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    EventTime,
    decoder::BadClass,
    event_time::TimeCounters,
    source::{PartitionId, Record},
};

/// Progress in one partition.
#[derive(Debug)]
pub(super) struct PartitionProgress {
    pub(super) topic: String,
    pub(super) number: i32,
    pub(super) next_offset: i64,
    /// Offset at which the chunk at hand begins.
    chunk_offset: i64,
    /// Taken records in pieces: (first offset, largest event time), oldest first, without those that no open window needs.
    chunks: VecDeque<(i64, EventTime)>,
}

impl PartitionProgress {
    pub(super) fn new(topic: &str, number: i32, start_offset: i64) -> Self {
        Self {
            topic: topic.to_owned(),
            number,
            next_offset: start_offset,
            chunk_offset: start_offset,
            chunks: VecDeque::new(),
        }
    }

    /// Rows up to `largest` were taken, from records at or above the last `next_offset`.
    pub(super) fn took_rows(&mut self, largest: EventTime) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.0 == self.chunk_offset => chunk.1 = chunk.1.max(largest),
            _ => self.chunks.push_back((self.chunk_offset, largest)),
        }
    }

    /// Offset of the first record whose event time may be at or above `horizon`, or of the next record.
    pub(super) fn replay_offset(&mut self, horizon: Option<EventTime>) -> i64 {
        self.chunk_offset = self.next_offset;
        match horizon {
            None => self.chunks.clear(),
            Some(horizon) => {
                while self.chunks.front().is_some_and(|chunk| chunk.1 < horizon) {
                    self.chunks.pop_front();
                }
            }
        }
        self.chunks.front().map_or(self.next_offset, |chunk| chunk.0)
    }
}

/// One partition as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Its topic; a file's path.
    pub topic: String,
    /// Its number in the topic.
    pub number: i32,
    /// All records below it were taken.
    pub next_offset: i64,
    /// Its watermark under the first statement that reads the input; `MAX` when finished.
    pub watermark: EventTime,
}

/// What is shown of an input while it runs; written by its intakes, read by metrics and the status line.
#[derive(Debug, Default)]
pub struct InputCounters {
    /// Records taken.
    pub records: AtomicU64,
    /// Bytes of their payloads.
    pub bytes: AtomicU64,
    /// Records without a payload.
    pub tombstones: AtomicU64,
    /// Rows whose event time was moved up to a bound.
    pub adjusted: AtomicU64,
    /// Rows whose LogAppendTime was below an earlier one of their partition.
    pub stepped_back: AtomicU64,
    bad: Mutex<BTreeMap<BadClass, u64>>,
    partitions: Mutex<BTreeMap<PartitionId, PartitionView>>,
}

impl InputCounters {
    pub(super) fn took(&self, records: &[Record<'_>]) {
        self.records.fetch_add(records.len() as u64, Relaxed);
        let bytes: usize = records.iter().map(|r| r.value.map_or(0, <[u8]>::len)).sum();
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Adds what happened to event times from one count to the next.
    pub(super) fn times(&self, before: TimeCounters, after: TimeCounters) {
        self.adjusted.fetch_add(after.adjusted - before.adjusted, Relaxed);
        self.stepped_back.fetch_add(after.stepped_back - before.stepped_back, Relaxed);
    }

    pub(super) fn tombstone(&self) {
        self.tombstones.fetch_add(1, Relaxed);
    }

    pub(super) fn bad(&self, class: BadClass) {
        *self.bad.lock().unwrap_or_else(PoisonError::into_inner).entry(class).or_default() += 1;
    }

    pub(super) fn joined(&self, partition: PartitionId, progress: &PartitionProgress) {
        let view = PartitionView {
            topic: progress.topic.clone(),
            number: progress.number,
            next_offset: progress.next_offset,
            watermark: EventTime::MIN,
        };
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).insert(partition, view);
    }

    pub(super) fn progress(
        &self,
        progress: &BTreeMap<PartitionId, PartitionProgress>,
        watermarks: impl Iterator<Item = (PartitionId, EventTime)>,
    ) {
        let mut views = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, watermark) in watermarks {
            if let (Some(view), Some(progress)) = (views.get_mut(&partition), progress.get(&partition)) {
                view.next_offset = progress.next_offset;
                view.watermark = watermark;
            }
        }
    }

    /// Bad records by class.
    #[must_use]
    pub fn bad_records(&self) -> BTreeMap<BadClass, u64> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every partition that was joined.
    #[must_use]
    pub fn partition_views(&self) -> Vec<PartitionView> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}
