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
    epoch::{Advance, ReaderTime, TimeMark},
    event_time::TimeCounters,
    source::{PartitionId, Record},
};

/// Pieces of a partition that are remembered one by one; beyond, neighbours are put together, and a replay may begin earlier.
const MAX_CHUNKS: usize = 1_024;

/// Progress in one partition.
#[derive(Debug)]
pub(super) struct PartitionProgress {
    pub(super) topic: String,
    pub(super) number: i32,
    pub(super) next_offset: i64,
    /// Offset at which the chunk at hand begins, and the partition's time there, by reader.
    chunk_offset: i64,
    chunk_marks: Vec<TimeMark>,
    /// Taken records in pieces, oldest first, without those that no open window needs.
    chunks: VecDeque<Chunk>,
    /// By reader.
    pub(super) journals: Vec<Journal>,
}

#[derive(Debug)]
struct Chunk {
    offset: i64,
    largest: EventTime,
    marks: Vec<TimeMark>,
}

/// One reader's advances: those that are part of the next epoch, and those of an earlier run that are still to be repeated.
#[derive(Debug, Default)]
pub(super) struct Journal {
    advances: Vec<Advance>,
    /// Whether no row was placed since the last of them.
    open: bool,
    due: VecDeque<Advance>,
}

impl Journal {
    /// The watermark moved before the record at this offset.
    pub(super) fn advanced(&mut self, advance: Advance) {
        match self.advances.last_mut() {
            Some(last) if last.offset == advance.offset && self.open => *last = advance,
            _ => self.advances.push(advance),
        }
        self.open = true;
    }

    /// The advance that the next row may depend on.
    pub(super) fn open(&self) -> Option<EventTime> {
        self.advances.last().filter(|_| self.open).map(|last| last.watermark)
    }

    /// A row was placed after the last advance; `without_trace`: as it would have been without.
    pub(super) fn settle(&mut self, without_trace: bool) {
        if self.open && without_trace {
            self.advances.pop();
        }
        self.open = false;
    }

    /// Takes advances of an earlier run, in the order of their offsets.
    pub(super) fn repeat(&mut self, due: &[Advance]) {
        self.due = due.iter().copied().collect();
    }

    /// The next one that stood at or before an offset.
    pub(super) fn take_due(&mut self, offset: i64) -> Option<Advance> {
        self.due.pop_front_if(|advance| advance.offset <= offset)
    }

    /// Where the next one stood.
    pub(super) fn due_at(&self) -> Option<i64> {
        self.due.front().map(|advance| advance.offset)
    }
}

impl PartitionProgress {
    /// `marks`: the partition's time at `start_offset`, by reader.
    pub(super) fn new(topic: &str, number: i32, start_offset: i64, marks: Vec<TimeMark>) -> Self {
        Self {
            topic: topic.to_owned(),
            number,
            next_offset: start_offset,
            chunk_offset: start_offset,
            journals: marks.iter().map(|_| Journal::default()).collect(),
            chunk_marks: marks,
            chunks: VecDeque::new(),
        }
    }

    /// Rows up to `largest` were taken, from records at or above the last `next_offset`.
    pub(super) fn took_rows(&mut self, largest: EventTime) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.offset == self.chunk_offset => chunk.largest = chunk.largest.max(largest),
            _ => {
                self.chunks.push_back(Chunk { offset: self.chunk_offset, largest, marks: self.chunk_marks.clone() });
                if self.chunks.len() > MAX_CHUNKS {
                    self.join_neighbours();
                }
            }
        }
    }

    fn join_neighbours(&mut self) {
        let mut joined: VecDeque<Chunk> = VecDeque::with_capacity(MAX_CHUNKS);
        for (index, chunk) in std::mem::take(&mut self.chunks).into_iter().enumerate() {
            match joined.back_mut() {
                Some(last) if index % 2 == 1 => last.largest = last.largest.max(chunk.largest),
                _ => joined.push_back(chunk),
            }
        }
        self.chunks = joined;
    }

    /// Ends the chunk at hand; `marks` is the partition's time now. Gives the offset of the first record whose event time may
    /// be at or above `horizon`, or of the next record, and each reader's time from there.
    pub(super) fn cut(&mut self, horizon: Option<EventTime>, marks: Vec<TimeMark>) -> (i64, Vec<ReaderTime>) {
        match horizon {
            None => self.chunks.clear(),
            Some(horizon) => {
                while self.chunks.front().is_some_and(|chunk| chunk.largest < horizon) {
                    self.chunks.pop_front();
                }
            }
        }
        let (replay_offset, bases) =
            self.chunks.front().map_or((self.next_offset, &marks), |chunk| (chunk.offset, &chunk.marks));
        let readers = self.journals.iter_mut().zip(bases).zip(&marks).map(|((journal, base), now)| {
            let advances = journal.advances.clone();
            journal.advances.retain(|advance| advance.offset >= replay_offset);
            ReaderTime { base: *base, advances, now: *now }
        });
        let readers = readers.collect();
        self.chunk_offset = self.next_offset;
        self.chunk_marks = marks;
        (replay_offset, readers)
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

    /// The topic and the number in it of a partition that was joined.
    pub(super) fn place(&self, partition: PartitionId) -> Option<(String, i32)> {
        let views = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        views.get(&partition).map(|view| (view.topic.clone(), view.number))
    }

    /// Records taken, and how many of them were bad.
    pub(super) fn share_of_bad(&self) -> (u64, u64) {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner).values().sum();
        (self.records.load(Relaxed), bad)
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
