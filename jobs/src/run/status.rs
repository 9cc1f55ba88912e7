//! What is shown of a run: counters that its threads write, and a status made of them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tidemill_certs::{Expiry, UnixTime};
use tidemill_connectors::kafka::{BrokerFetches, KafkaInput, Partition, ReadPath};
use tidemill_engine::{Clock, EventTime, Monotonic, decoder::BadClass, intake::InputCounters};
use tidemill_queries::UserFunctions;

use super::inputs::Transport;

/// Counters of a run, shared between its threads and whoever watches.
#[derive(Default)]
pub struct Stats {
    inputs: Mutex<Vec<InputStats>>,
    outputs: Mutex<Vec<(String, Arc<AtomicU64>)>>,
    /// Rows that came after their windows had closed.
    pub(super) late: Arc<AtomicU64>,
    /// What the run's epochs cost.
    pub(super) epochs: Arc<EpochCounters>,
    functions: Mutex<UserFunctions>,
    started: OnceLock<Monotonic>,
    certificates: Mutex<Vec<Watched>>,
    secrets: Mutex<SecretsStatus>,
}

/// How the secrets of a run's connections are kept up to date.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecretsStatus {
    /// When they were last fetched again; `None`: never.
    pub fetched_at: Option<UnixTime>,
    /// How often they could not be fetched again, or not be used.
    pub failures: u64,
    /// How often connections were made anew with new ones.
    pub rotations: u64,
    /// How long no records were taken for the last of these, in microseconds.
    pub pause_us: u64,
}

/// Counts epochs and snapshots; written by the run's threads.
#[derive(Debug, Default)]
pub(super) struct EpochCounters {
    pub(super) committed: AtomicU64,
    pub(super) snapshots: AtomicU64,
    /// Of the newest one.
    pub(super) snapshot_bytes: AtomicU64,
    /// The longest that a worker took no records because of a snapshot.
    pub(super) longest_pause_us: AtomicU64,
}

impl EpochCounters {
    /// A worker took no records from one instant to another because of a snapshot.
    pub(super) fn paused(&self, from: Monotonic, to: Monotonic) {
        let pause_us = u64::try_from(to.0 - from.0).unwrap_or(0);
        self.longest_pause_us.fetch_max(pause_us, Relaxed);
    }
}

/// A certificate whose end is watched.
struct Watched {
    certificate: Certificate,
    /// How many of its warnings were given.
    warned: usize,
}

/// A certificate of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose connection, "input `clicks`".
    pub owner: String,
    /// Which one, and when it ends.
    pub expiry: Expiry,
}

struct InputStats {
    name: String,
    counters: Arc<InputCounters>,
    /// Where its log ends, and what came of it, are asked for.
    kafka: Option<KafkaInput>,
}

/// Epochs and snapshots of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpochStatus {
    /// Epochs that were committed.
    pub committed: u64,
    /// Snapshots that were put into the state store.
    pub snapshots: u64,
    /// Size of the newest one.
    pub snapshot_bytes: u64,
    /// The longest that a worker took no records because of a snapshot, in microseconds.
    pub longest_pause_us: u64,
}

/// A run at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Since the first status or counter, in microseconds.
    pub elapsed_us: i64,
    /// The wall clock.
    pub at: EventTime,
    /// Whether the run ends where its inputs ended at its start.
    pub bounded: bool,
    /// Each input that the query reads.
    pub inputs: Vec<InputStatus>,
    /// Each output.
    pub outputs: Vec<OutputStatus>,
    /// Rows that came after their windows had closed.
    pub late: u64,
    /// Its epochs.
    pub epochs: EpochStatus,
    /// Of each function of the spec how many calls have failed and given NULL.
    pub function_failures: Vec<(String, u64)>,
}

/// An input at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct InputStatus {
    /// Its name in the spec.
    pub name: String,
    /// Records taken.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Records without a payload.
    pub tombstones: u64,
    /// Rows whose event time was moved up to a bound.
    pub adjusted: u64,
    /// Rows whose LogAppendTime was below an earlier one of their partition.
    pub stepped_back: u64,
    /// Bad records by class.
    pub bad: BTreeMap<BadClass, u64>,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
    /// The way by which its records come; `None` for a file.
    pub path: Option<ReadPath>,
    /// What our own fetch requests brought, by broker.
    pub fetches: Vec<FetchStatus>,
}

/// Fetches of one broker so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchStatus {
    /// Its node number.
    pub broker: i32,
    /// Answers.
    pub answers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Microseconds between requests and answers, all together.
    pub waited_us: u64,
    /// Connections that broke or could not be opened.
    pub failures: u64,
    /// Requests under way.
    pub in_flight: u64,
}

/// A partition at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its topic; a file's path.
    pub topic: String,
    /// Its number in the topic.
    pub number: i32,
    /// Records that are known to lie ahead; `None` for a file.
    pub lag: Option<u64>,
    /// No later row is below it; `MIN` before anything is known, `MAX` at the end.
    pub watermark: EventTime,
    /// What came from Kafka; `None` for a file.
    pub fetched: Option<Fetched>,
}

/// What came of a partition so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Records.
    pub records: u64,
    /// Batches; 0, as the two below, where librdkafka reads.
    pub batches: u64,
    /// Bytes of the batches as they came.
    pub batch_bytes: u64,
    /// Bytes of their records, unpacked.
    pub unpacked_bytes: u64,
    /// How often it came from another broker than before.
    pub leader_changes: u64,
}

/// An output at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputStatus {
    /// Its name in the spec.
    pub name: String,
    /// Rows handed to it.
    pub rows: u64,
}

impl Stats {
    pub(super) fn add_input(&self, name: &str, transport: &Transport) -> Arc<InputCounters> {
        let kafka = match transport {
            Transport::Kafka { input, .. } => Some(input.clone()),
            Transport::File { .. } | Transport::Kept(_) => None,
        };
        let mut inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        // A run that begins anew counts on.
        if let Some(known) = inputs.iter_mut().find(|input| input.name == name) {
            known.kafka = kafka;
            return Arc::clone(&known.counters);
        }
        let counters = Arc::<InputCounters>::default();
        inputs.push(InputStats { name: name.to_owned(), counters: Arc::clone(&counters), kafka });
        counters
    }

    pub(super) fn add_certificates(&self, owner: &str, expiries: Vec<Expiry>) {
        let owned = expiries.into_iter().map(|expiry| Certificate { owner: owner.to_owned(), expiry });
        let mut watched = self.watched();
        // Those of an attempt before; what was warned of is not warned of again.
        let (before, mut kept): (Vec<_>, Vec<_>) =
            watched.drain(..).partition(|watched| watched.certificate.owner == owner);
        kept.extend(owned.map(|certificate| {
            let known = before.iter().find(|watched| watched.certificate == certificate);
            Watched { warned: known.map_or(0, |watched| watched.warned), certificate }
        }));
        *watched = kept;
    }

    pub(super) fn secrets_were_fetched(&self, at: UnixTime, can_be_used: bool) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.fetched_at = Some(at);
        secrets.failures += u64::from(!can_be_used);
    }

    pub(super) fn rotated(&self, pause_us: i64) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        secrets.rotations += 1;
        secrets.pause_us = u64::try_from(pause_us).unwrap_or(0);
    }

    /// How the secrets of the connections are kept up to date.
    #[must_use]
    pub fn secrets(&self) -> SecretsStatus {
        *self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Warns of certificates whose end has come nearer than 30, 7 or 1 days, once each.
    pub(super) fn warn_of_expiries(&self, now: UnixTime) {
        for Watched { certificate, warned } in self.watched().iter_mut() {
            match certificate.expiry.warning(now) {
                Some((crossed, warning)) if crossed > *warned => {
                    *warned = crossed;
                    tracing::warn!("{}: {warning}", certificate.owner);
                }
                _ => {}
            }
        }
    }

    /// The certificates of all connections.
    #[must_use]
    pub fn certificates(&self) -> Vec<Certificate> {
        self.watched().iter().map(|watched| watched.certificate.clone()).collect()
    }

    fn watched(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_output(&self, name: &str) -> Arc<AtomicU64> {
        let mut outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = outputs.iter().find(|(known, _)| known == name) {
            return Arc::clone(known);
        }
        let rows = Arc::<AtomicU64>::default();
        outputs.push((name.to_owned(), Arc::clone(&rows)));
        rows
    }

    pub(super) fn watch_functions(&self, functions: &UserFunctions) {
        *self.functions.lock().unwrap_or_else(PoisonError::into_inner) = functions.clone();
    }

    /// The run as it stands.
    #[must_use]
    pub fn status(&self, clock: &dyn Clock, bounded: bool) -> Status {
        let now = clock.monotonic();
        let inputs = self.inputs.lock().unwrap_or_else(PoisonError::into_inner);
        let outputs = self.outputs.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            elapsed_us: now.0 - self.started.get_or_init(|| now).0,
            at: clock.wall(),
            bounded,
            inputs: inputs.iter().map(InputStats::status).collect(),
            outputs: outputs
                .iter()
                .map(|(name, rows)| OutputStatus { name: name.clone(), rows: rows.load(Relaxed) })
                .collect(),
            late: self.late.load(Relaxed),
            epochs: EpochStatus {
                committed: self.epochs.committed.load(Relaxed),
                snapshots: self.epochs.snapshots.load(Relaxed),
                snapshot_bytes: self.epochs.snapshot_bytes.load(Relaxed),
                longest_pause_us: self.epochs.longest_pause_us.load(Relaxed),
            },
            function_failures: functions.iter().map(|f| (f.name().to_owned(), f.failures())).collect(),
        }
    }
}

impl InputStats {
    fn status(&self) -> InputStatus {
        let known = self.kafka.as_ref().map(KafkaInput::partitions).unwrap_or_default();
        let known: BTreeMap<(&str, i32), &Partition> = known.iter().map(|p| ((&*p.topic, p.number), &**p)).collect();
        let partitions = self.counters.partition_views().into_iter().map(|view| {
            let partition = known.get(&(view.topic.as_str(), view.number)).copied();
            PartitionStatus {
                lag: partition.map(|partition| u64::try_from(partition.log_end() - view.next_offset).unwrap_or(0)),
                fetched: partition.map(Fetched::of),
                topic: view.topic,
                number: view.number,
                watermark: view.watermark,
            }
        });
        let fetches = self.kafka.as_ref().map(KafkaInput::fetches).unwrap_or_default();
        InputStatus {
            name: self.name.clone(),
            records: self.counters.records.load(Relaxed),
            bytes: self.counters.bytes.load(Relaxed),
            tombstones: self.counters.tombstones.load(Relaxed),
            adjusted: self.counters.adjusted.load(Relaxed),
            stepped_back: self.counters.stepped_back.load(Relaxed),
            bad: self.counters.bad_records(),
            partitions: partitions.collect(),
            path: self.kafka.as_ref().map(|kafka| kafka.path().clone()),
            fetches: fetches.into_iter().map(|(broker, fetches)| FetchStatus::of(broker, &fetches)).collect(),
        }
    }
}

impl FetchStatus {
    fn of(broker: i32, fetches: &BrokerFetches) -> Self {
        Self {
            broker,
            answers: fetches.answers(),
            bytes: fetches.bytes(),
            waited_us: fetches.waited_us(),
            failures: fetches.failures(),
            in_flight: fetches.in_flight(),
        }
    }
}

impl Fetched {
    fn of(partition: &Partition) -> Self {
        Self {
            records: partition.records(),
            batches: partition.batches(),
            batch_bytes: partition.batch_bytes(),
            unpacked_bytes: partition.unpacked_bytes(),
            leader_changes: partition.leader_changes(),
        }
    }
}

impl Status {
    /// Records taken from all inputs.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.inputs.iter().map(|input| input.records).sum()
    }

    /// Payload bytes taken from all inputs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.bytes).sum()
    }

    /// Bad records of all inputs and classes.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.inputs.iter().flat_map(|input| input.bad.values()).sum()
    }

    /// Records known to lie ahead; `None` without a Kafka input.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let lags: Vec<u64> = self.inputs.iter().flat_map(|i| &i.partitions).filter_map(|p| p.lag).collect();
        (!lags.is_empty()).then(|| lags.iter().sum())
    }

    /// The smallest watermark; `None` before it is known and at the end.
    #[must_use]
    pub fn watermark(&self) -> Option<EventTime> {
        let smallest = self.inputs.iter().flat_map(|i| &i.partitions).map(|p| p.watermark).min()?;
        (smallest > EventTime::MIN && smallest < EventTime::MAX).then_some(smallest)
    }

    /// Rows handed to all outputs.
    #[must_use]
    pub fn rows_out(&self) -> u64 {
        self.outputs.iter().map(|output| output.rows).sum()
    }
}
