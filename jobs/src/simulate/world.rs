//! What outlives a run in the simulator: the brokers' logs and clock, the outputs, the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch};
use object_store::memory::InMemory;
use tidemill_connectors::formats::encode::{EncodedRows, JsonEncoder, RowEncoder};
use tidemill_engine::{
    Clock, EventTime, Monotonic, Result,
    dead_letter::{DeadLetter, DeadLetters},
    decoder::BadClass,
    sink::Sink,
    source::{PartitionId, Record, Source, SourceEvent, TimestampKind, Visit},
};

use crate::epoch::store::Store;

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    /// A number from 0 to `bound`, exclusive.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ bits >> 31) % bound.max(1)
    }

    pub(super) fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// Our clock: monotonic and wall time are one.
#[derive(Default)]
pub(super) struct SimClock(AtomicI64);

impl SimClock {
    pub(super) fn now_us(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn advance(&self, us: i64) {
        self.0.fetch_add(us, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.now_us())
    }

    fn wall(&self) -> EventTime {
        EventTime(self.now_us())
    }
}

/// The input's cluster, as its clients see it.
pub(super) struct Brokers {
    /// By partition, in offset order: stamp in milliseconds, payload.
    pub(super) logs: Vec<Vec<(i64, Vec<u8>)>>,
    /// How far the leaders' clocks are ahead of ours, in microseconds.
    pub(super) ahead_us: i64,
    pub(super) random: Random,
    /// No more faults: each poll gives everything and every answer.
    pub(super) calm: bool,
}

/// A cluster that takes rows in transactions.
#[derive(Default)]
pub(super) struct Cluster {
    /// Of the transactional id: whoever began last.
    pub(super) producer_epoch: u64,
    pub(super) rows: Vec<(usize, String)>,
    /// Committed offsets with what stands beside them, by partition.
    pub(super) offsets: BTreeMap<i32, (i64, String)>,
    /// The last record of the epochs topic.
    pub(super) record: Option<Vec<u8>>,
}

/// Everything durable.
pub(super) struct World {
    pub(super) clock: Arc<SimClock>,
    pub(super) brokers: Arc<Mutex<Brokers>>,
    /// With the inputs, and another one.
    pub(super) clusters: [Cluster; 2],
    pub(super) visible: Vec<String>,
    /// Parts of files that wait for their epoch, by generation and epoch.
    pub(super) ready: BTreeMap<(u64, u64), Vec<String>>,
    pub(super) store: Arc<Store>,
    /// Dead letters, and those that wait for their epoch.
    pub(super) letters: Vec<String>,
    pub(super) letters_ready: BTreeMap<(u64, u64), Vec<String>>,
    /// Records that came in behind an idle advance, for good: partition, offset.
    pub(super) late: BTreeSet<(i32, i64)>,
    pub(super) next_id: u64,
}

impl World {
    pub(super) fn new(seed: u64) -> std::result::Result<Self, String> {
        let store = Store::over(Arc::new(InMemory::new()), "simulated").map_err(|error| error.to_string())?;
        let clock = Arc::<SimClock>::default();
        clock.advance(1_700_000_000_000_000);
        let brokers = Brokers { logs: vec![vec![]; 2], ahead_us: 0, random: Random(seed ^ 0xb0b), calm: false };
        Ok(Self {
            clock,
            brokers: Arc::new(Mutex::new(brokers)),
            clusters: Default::default(),
            visible: vec![],
            ready: BTreeMap::new(),
            letters: vec![],
            letters_ready: BTreeMap::new(),
            store: Arc::new(store),
            late: BTreeSet::new(),
            next_id: 0,
        })
    }

    pub(super) fn brokers(&self) -> MutexGuard<'_, Brokers> {
        self.brokers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends some records.
    pub(super) fn produce(&mut self, random: &mut Random) {
        let (now_us, first) = (self.clock.now_us(), self.next_id);
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        let partition = random.below(brokers.logs.len() as u64) as usize;
        let count = 1 + random.below(6);
        let stamp_ms = (now_us + brokers.ahead_us) / 1_000;
        for id in first..first + count {
            let x = (id as f64 * 0.618_033_988_749_894_9).fract() * 10.0;
            let payload = match random.one_in(16) {
                true => format!("bad {id}"),
                false => format!(r#"{{"id":{id},"k":"k{}","x":{x}}}"#, random.below(4)),
            };
            brokers.logs[partition].push((stamp_ms, payload.into_bytes()));
        }
        drop(brokers);
        self.next_id += count;
    }
}

/// A worker's share of the input.
pub(super) struct SimSource {
    pub(super) brokers: Arc<Mutex<Brokers>>,
    pub(super) clock: Arc<SimClock>,
    pub(super) worker: usize,
    pub(super) workers: usize,
    /// Where reading begins, by partition; others are new.
    pub(super) starts: BTreeMap<u32, i64>,
    /// By partition: the next offset, and whether the last answer reached the end.
    pub(super) joined: BTreeMap<u32, (i64, bool)>,
}

impl SimSource {
    /// A metadata answer: new partitions join.
    fn look(&mut self, partitions: usize, visit: &mut Visit<'_>) -> Result<()> {
        for id in (0..partitions).filter(|id| id % self.workers == self.worker) {
            let start = self.starts.get(&(id as u32)).copied().unwrap_or(0);
            if let std::collections::btree_map::Entry::Vacant(vacant) = self.joined.entry(id as u32) {
                vacant.insert((start, false));
                let (partition, topic, number) = (PartitionId(id as u32), "events", id as i32);
                visit(SourceEvent::Joined { partition, topic, number, start_offset: start })?;
            }
        }
        Ok(())
    }
}

impl Source for SimSource {
    fn poll(&mut self, _wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        let (brokers, now) = (Arc::clone(&self.brokers), self.clock.monotonic());
        let mut brokers = brokers.lock().unwrap_or_else(PoisonError::into_inner);
        let Brokers { logs, random, calm, .. } = &mut *brokers;
        let first = self.joined.is_empty() && logs.len() > self.worker;
        if first || *calm || random.one_in(6) {
            self.look(logs.len(), visit)?;
            visit(SourceEvent::Topology { asked: now })?;
        }
        for (&id, (next, at_end)) in &mut self.joined {
            // Nothing of a partition for a while: its leader is slow, or answers were lost.
            if !*calm && random.one_in(3) {
                continue;
            }
            let (partition, log) = (PartitionId(id), &logs[id as usize]);
            let there = log.len() - *next as usize;
            let count = if *calm { there } else { there.min(random.below(8) as usize) };
            let records: Vec<Record<'_>> = (*next as usize..*next as usize + count)
                .map(|offset| Record {
                    offset: offset as i64,
                    timestamp_ms: log[offset].0,
                    timestamp_kind: TimestampKind::LogAppend,
                    key: None,
                    value: Some(&log[offset].1),
                    headers: &[],
                    unread_headers: None,
                })
                .collect();
            if !records.is_empty() {
                let live_from = at_end.then_some(1);
                visit(SourceEvent::Records { partition, records: &records, received: now, live_from })?;
                *next += count as i64;
                *at_end = false;
            }
            if *calm || random.one_in(2) {
                let end_offset = log.len() as i64;
                for _ in 0..=random.below(2) {
                    visit(SourceEvent::End { partition, leader: 1, asked: now, end_offset })?; // an answer may come twice
                }
                *at_end = *next == end_offset;
            }
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        false
    }
}

/// Rows of an output since the last epoch.
pub(super) type Pending = Arc<Mutex<Vec<String>>>;

/// Holds an output's rows until the run commits them.
pub(super) struct SimSink(pub(super) Pending);

impl Sink for SimSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut encoded = EncodedRows::default();
        JsonEncoder.encode(batch, &mut encoded)?;
        let rows = (0..encoded.len()).map(|row| String::from_utf8_lossy(encoded.row(row)).into_owned());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(rows);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Records that came in late in a run, not yet for good.
#[derive(Default)]
pub(super) struct Late(pub(super) Vec<(i32, i64)>);

/// The dead letters of a worker.
pub(super) struct Letters {
    pub(super) late: Arc<Mutex<Late>>,
    /// Of records that are part of more epochs than this they are kept already.
    pub(super) covering: u8,
    /// Bad records since they were taken: partition and offset.
    pub(super) bad: Vec<(i32, i64)>,
}

impl DeadLetters for Letters {
    fn put(&mut self, letter: &DeadLetter<'_>) -> Result<()> {
        let place = (letter.partition, letter.offset);
        if letter.class != BadClass::Late {
            self.bad.extend((letter.covering <= self.covering).then_some(place));
        } else if letter.covering == 0 {
            self.late.lock().unwrap_or_else(PoisonError::into_inner).0.push(place);
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<RecordBatch> {
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = self.bad.drain(..).unzip();
        if offsets.is_empty() {
            return vec![];
        }
        let columns: [(&str, ArrayRef); 2] =
            [("partition", Arc::new(Int32Array::from(partitions))), ("offset", Arc::new(Int64Array::from(offsets)))];
        vec![RecordBatch::try_from_iter(columns).expect("two columns of one length")]
    }
}
