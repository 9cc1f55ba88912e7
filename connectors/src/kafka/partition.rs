//! The partitions of an input, in the order in which they became known: the table behind `PartitionId`.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering},
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
    records: AtomicU64,
    batches: AtomicU64,
    batch_bytes: AtomicU64,
    unpacked_bytes: AtomicU64,
    /// -1: none yet.
    leader: AtomicI32,
    leader_changes: AtomicU64,
}

impl Partition {
    fn new(id: PartitionId, topic: Arc<str>, number: i32) -> Self {
        Self {
            id,
            topic,
            number,
            next_offset: AtomicI64::new(0),
            log_end: AtomicI64::new(0),
            at_end: AtomicBool::new(false),
            records: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            batch_bytes: AtomicU64::new(0),
            unpacked_bytes: AtomicU64::new(0),
            leader: AtomicI32::new(-1),
            leader_changes: AtomicU64::new(0),
        }
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

    /// Records that were handed over, a second time too if they were read again.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Record batches that were read; 0 where librdkafka reads, which does not show them.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Their bytes as they came.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        self.batch_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of their records, unpacked.
    #[must_use]
    pub fn unpacked_bytes(&self) -> u64 {
        self.unpacked_bytes.load(Ordering::Relaxed)
    }

    /// How often it was read from another broker than before.
    #[must_use]
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Ordering::Relaxed)
    }

    pub(super) fn handed_over(&self, records: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
    }

    pub(super) fn fetched(&self, batch_bytes: usize, unpacked_bytes: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.batch_bytes.fetch_add(batch_bytes as u64, Ordering::Relaxed);
        self.unpacked_bytes.fetch_add(unpacked_bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn led_by(&self, node: i32) {
        let before = self.leader.swap(node, Ordering::Relaxed);
        self.leader_changes.fetch_add(u64::from(before >= 0 && before != node), Ordering::Relaxed);
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
