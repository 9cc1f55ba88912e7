//! The partitions of an input, in the order in which they became known: the table behind `PartitionId`.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use tidemill_engine::source::PartitionId;

/// A partition and how far it was read. Its source and the control thread write, metrics read; none waits for another.
#[derive(Debug)]
pub struct Partition {
    /// Its number over all topics of the input.
    pub id: PartitionId,
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number in the topic.
    pub number: i32,
    next_offset: AtomicI64,
    log_end: AtomicI64,
    at_end: AtomicBool,
}

impl Partition {
    fn new(id: PartitionId, topic: Arc<str>, number: i32) -> Self {
        let [next_offset, log_end] = [AtomicI64::new(0), AtomicI64::new(0)];
        Self { id, topic, number, next_offset, log_end, at_end: AtomicBool::new(false) }
    }

    /// The next offset to be handed over.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset.load(Ordering::Relaxed)
    }

    /// The high watermark as last heard of, never below [`Partition::next_offset`]; the difference is the lag.
    #[must_use]
    pub fn log_end(&self) -> i64 {
        self.log_end.load(Ordering::Relaxed).max(self.next_offset())
    }

    pub(super) fn read_to(&self, next_offset: i64) {
        self.next_offset.store(next_offset, Ordering::Relaxed);
    }

    pub(super) fn heard_end(&self, end_offset: i64) {
        self.log_end.fetch_max(end_offset, Ordering::Relaxed);
    }

    /// Whether all records known to be there were handed over: only then is an answer of the leader worth asking for.
    pub(super) fn at_end(&self) -> bool {
        self.at_end.load(Ordering::Relaxed)
    }

    pub(super) fn set_at_end(&self, at_end: bool) {
        self.at_end.store(at_end, Ordering::Relaxed);
    }
}

/// All partitions of an input; grows while it is read.
#[derive(Debug, Default)]
pub(super) struct PartitionTable(RwLock<Vec<Arc<Partition>>>);

impl PartitionTable {
    pub(super) fn all(&self) -> Vec<Arc<Partition>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn contains(&self, topic: &str, number: i32) -> bool {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.iter().any(|partition| partition.number == number && *partition.topic == *topic)
    }

    /// The number that the next partition will have.
    pub(super) fn next_id(&self) -> PartitionId {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        PartitionId(u32::try_from(table.len()).expect("fewer than 2^32 partitions"))
    }

    pub(super) fn add(&self, topic: Arc<str>, number: i32) -> Arc<Partition> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let id = PartitionId(u32::try_from(table.len()).expect("fewer than 2^32 partitions"));
        let partition = Arc::new(Partition::new(id, topic, number));
        table.push(partition.clone());
        partition
    }
}
