//! Commits epochs: on the merge thread, when every worker has come through one, before anything behind it is taken.
//!
//! The order is that of `crate::epoch::steps`. A run that dies between two steps leaves outputs one epoch apart, which the next
//! start makes up for (`crate::epoch::decide`). Nothing here is undone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use arrow::array::RecordBatch;
use tidemill_connectors::kafka::{Committed, Group, GroupOffsets, Transaction};
use tidemill_engine::{
    Clock, EngineError, ErrorKind, Monotonic,
    dataflow::merge::{CompletedEpoch, Merge},
    source::PartitionId,
};

use super::{error::RunError, status::EpochCounters};
use crate::epoch::{
    basis::Basis,
    mark,
    record::{self, EpochRecord, InputNames, PartitionKey},
    steps::{Step, steps},
    store::{Entry, Log, Store, StoreError},
};

/// How long to wait before the store is tried again.
const STORE_PAUSE: Duration = Duration::from_millis(500);
/// Records that a restart reads again rather than that a snapshot is written: about a second of one core's time.
pub(super) const REPLAY_AT_MOST: u64 = 2_000_000;
/// Part of the metadata's limit from which on a snapshot is due.
const MARK_DUE: usize = mark::LIMIT / 2;

/// A Kafka input of the run.
pub(super) struct CommittedInput {
    /// Its index in the dataflow.
    pub(super) input: usize,
    pub(super) group: Arc<Group>,
}

/// A cluster that takes rows in transactions.
pub(super) struct OutputCluster {
    pub(super) transaction: Arc<Transaction>,
    /// The job's epochs topic, unless all inputs are on this cluster, too.
    pub(super) topic: Option<String>,
}

/// What of an epoch asks for a snapshot; written by the merge thread, read by the supervisor.
#[derive(Debug, Default)]
pub(super) struct SnapshotNeed {
    records_to_replay: AtomicU64,
    mark_bytes: AtomicUsize,
    /// Whether one is on its way into the store.
    under_way: AtomicBool,
}

/// What a restart is to begin on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartBy {
    /// The records that open windows need: nothing to be written.
    Replay,
    /// A snapshot, which is due.
    Snapshot,
}

impl SnapshotNeed {
    /// Decides, at each beat of `state.snapshot` (`on_beat`) and between them.
    pub(super) fn decide(&self, on_beat: bool) -> RestartBy {
        if self.under_way.load(Ordering::Relaxed) {
            return RestartBy::Replay;
        }
        let (records, bytes) = (&self.records_to_replay, &self.mark_bytes);
        cheaper(records.load(Ordering::Relaxed), bytes.load(Ordering::Relaxed), on_beat)
    }
}

/// The cheaper way to begin again: reading records costs a restart some time, a snapshot costs every beat; but what an epoch
/// says has to fit beside an offset.
fn cheaper(records_to_replay: u64, mark_bytes: usize, on_beat: bool) -> RestartBy {
    let due = (on_beat && records_to_replay > REPLAY_AT_MOST) || mark_bytes > MARK_DUE;
    if due { RestartBy::Snapshot } else { RestartBy::Replay }
}

/// What a run commits to.
pub(super) struct Committer {
    pub(super) job: String,
    pub(super) plan: String,
    pub(super) names: InputNames,
    pub(super) inputs: Vec<CommittedInput>,
    pub(super) clusters: Vec<OutputCluster>,
    /// Whether an output keeps its epoch in the store's log.
    pub(super) log_each: bool,
    pub(super) store: Arc<Store>,
    pub(super) log: Arc<Mutex<Log>>,
    /// Counts the dead letters that were handed to their output.
    pub(super) letters: Arc<AtomicU64>,
    /// Whether they are files, whose epochs the log keeps.
    pub(super) letters_in_log: bool,
    pub(super) clock: Arc<dyn Clock>,
    /// How often the log gets an epoch that no output needs there.
    pub(super) log_beat: Duration,
    pub(super) need: Arc<SnapshotNeed>,
    pub(super) counters: Arc<EpochCounters>,
    /// Set when the run is given up.
    pub(super) stop: Arc<AtomicBool>,
    pub(super) progress: Progress,
}

/// How far a committer has come.
#[derive(Default)]
pub(super) struct Progress {
    /// Offsets that have to be reached before an epoch says all that the outputs hold.
    catch_up: BTreeMap<PartitionKey, i64>,
    /// The epoch that every output had when the run began.
    begun_after: u64,
    last: Option<EpochRecord>,
    logged: Option<Monotonic>,
    /// Dead letters that are committed.
    letters: u64,
    basis: Basis,
    upload: Option<JoinHandle<Result<EpochRecord, StoreError>>>,
}

impl Progress {
    /// Of a run that goes on after the epoch that every output has; some have the records up to `catch_up`.
    pub(super) fn from(begun_after: u64, catch_up: BTreeMap<PartitionKey, i64>, basis: Basis) -> Self {
        Self { begun_after, catch_up, basis, ..Self::default() }
    }
}

impl Committer {
    /// Commits an epoch whose rows the outputs have been handed. `state` is the operators' at it, when a snapshot is due. False:
    /// the run has not come yet to where the outputs stand, and the epoch becomes part of the next one.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] when the run can begin at the last epoch again; [`RunError::Replaced`] when another run has
    /// taken over.
    pub(super) fn commit(
        &mut self,
        epoch: &CompletedEpoch,
        merge: &mut Merge,
        state: Option<Vec<Vec<RecordBatch>>>,
    ) -> Result<bool, RunError> {
        self.take_upload(false);
        let generation = self.generation();
        let mut record = self.record(generation, epoch);
        if mark::longest(&record) > mark::LIMIT {
            // What it says since the last snapshot does not fit: the next one has to be there first.
            self.take_upload(true);
            record = self.record(generation, epoch);
        }
        if !record.has_reached(&self.progress.catch_up) {
            return Ok(false);
        }
        self.progress.catch_up.clear();
        if epoch.rows == 0
            && self.letters.load(Ordering::Relaxed) == self.progress.letters
            && state.is_none()
            && self.progress.last.as_ref().is_some_and(|last| says_the_same(last, &record))
        {
            self.progress.basis.committed(epoch, &record);
            return Ok(true);
        }
        let now = self.clock.monotonic();
        let beat = i64::try_from(self.log_beat.as_micros()).unwrap_or(i64::MAX);
        let log_is_due = self.log_each || self.progress.logged.is_none_or(|logged| now.0 - logged.0 >= beat);
        let mut letters = self.progress.letters;
        for step in steps(self.clusters.len()) {
            match step {
                Step::Prepare => {
                    for output in merge.outputs() {
                        output.sink.prepare(epoch.id)?;
                    }
                    letters = self.letters.load(Ordering::Relaxed);
                }
                Step::Log if !log_is_due && (!self.letters_in_log || letters == self.progress.letters) => {}
                Step::Log => {
                    self.persist(|log| log.append(&Entry::Epoch(record.clone())))?;
                    self.progress.logged = Some(now);
                }
                Step::Transaction(cluster) => self.commit_transaction(&self.clusters[cluster], &record, epoch)?,
                Step::Publish => {
                    for output in merge.outputs() {
                        output.sink.publish()?;
                    }
                }
                Step::Groups => self.commit_other_groups(&record, epoch)?,
            }
        }
        if let Some(state) = state {
            let of_manifest = self.progress.basis.for_manifest(generation, &self.plan, &self.names, epoch);
            self.upload(of_manifest, record::standing(generation, &self.plan, &self.names, epoch), state);
        }
        self.counters.committed.fetch_add(1, Ordering::Relaxed);
        self.progress.basis.committed(epoch, &record);
        self.progress.letters = letters;
        self.progress.last = Some(record);
        Ok(true)
    }

    fn generation(&self) -> u64 {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).generation()
    }

    /// The epoch as it is kept.
    fn record(&mut self, generation: u64, epoch: &CompletedEpoch) -> EpochRecord {
        let Progress { basis, last, begun_after, .. } = &mut self.progress;
        let record = basis.record(generation, &self.plan, &self.names, epoch, None);
        self.need.records_to_replay.store(record.records_to_replay(), Ordering::Relaxed);
        self.need.mark_bytes.store(mark::longest(&record), Ordering::Relaxed);
        EpochRecord { after: last.as_ref().map_or(*begun_after, |last| last.epoch), ..record }
    }

    fn commit_transaction(
        &self,
        cluster: &OutputCluster,
        record: &EpochRecord,
        epoch: &CompletedEpoch,
    ) -> Result<(), RunError> {
        let Some(topic) = &cluster.topic else {
            let offsets = self
                .inputs
                .iter()
                .map(|input| GroupOffsets { group: &input.group, positions: self.positions(input, record, epoch) });
            return Ok(cluster.transaction.commit(&offsets.collect::<Vec<_>>())?);
        };
        let json = serde_json::to_vec(record)
            .map_err(|error| RunError::State { path: topic.clone(), message: error.to_string() })?;
        cluster.transaction.send(topic, &self.job, &json)?;
        Ok(cluster.transaction.commit(&[])?)
    }

    /// Of inputs whose offsets are part of no transaction. Kafka's tools look at them, and outputs with `at_least_once` go on
    /// from them.
    fn commit_other_groups(&self, record: &EpochRecord, epoch: &CompletedEpoch) -> Result<(), RunError> {
        if self.clusters.iter().any(|cluster| cluster.topic.is_none()) {
            return Ok(());
        }
        for input in &self.inputs {
            match input.group.commit(&self.positions(input, record, epoch)) {
                // The next epoch commits a later position; what comes between is only read again.
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!("offsets were not committed: {error}; the next epoch tries again");
                }
                other => other?,
            }
        }
        Ok(())
    }

    fn positions(
        &self,
        input: &CommittedInput,
        record: &EpochRecord,
        epoch: &CompletedEpoch,
    ) -> Vec<(PartitionId, Committed)> {
        let by_key = record.by_key();
        let Some(name) = self.names.get(&input.input) else { return vec![] };
        let own = epoch.positions.iter().filter(|position| position.input == input.input);
        let positions = own.filter_map(|position| {
            let partition = by_key.get(&(name.name.clone(), position.topic.clone(), position.number))?;
            let metadata = mark::write(record, partition);
            Some((position.partition, Committed { offset: partition.replay, metadata }))
        });
        positions.collect()
    }

    /// Does something with the log until the store takes it. Nothing is lost meanwhile: the run waits.
    fn persist(&self, mut put: impl FnMut(&mut Log) -> Result<(), StoreError>) -> Result<(), RunError> {
        let mut said = false;
        loop {
            match put(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner)) {
                Ok(()) => {
                    if said {
                        tracing::info!("the state store takes epochs again");
                    }
                    return Ok(());
                }
                Err(StoreError::Failed { .. }) if self.stop.load(Ordering::Relaxed) => {
                    let message =
                        "stopped while the state store did not take an epoch; the next run repeats it".to_owned();
                    return Err(EngineError::Sink {
                        output: "state".to_owned(),
                        kind: ErrorKind::Unavailable,
                        message,
                    }
                    .into());
                }
                Err(error @ StoreError::Failed { .. }) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!("{error}; no epoch is committed until the state store takes it");
                    }
                    thread::sleep(STORE_PAUSE);
                }
                Err(replaced) => return Err(replaced.into()),
            }
        }
    }

    /// Puts a snapshot into the store, beside the run.
    fn upload(&mut self, epoch: EpochRecord, standing: EpochRecord, state: Vec<Vec<RecordBatch>>) {
        let (store, need, counters) = (Arc::clone(&self.store), Arc::clone(&self.need), Arc::clone(&self.counters));
        need.under_way.store(true, Ordering::Relaxed);
        let put = move || {
            let put = store.put_snapshot(epoch, standing.clone(), &state).map(|bytes| {
                counters.snapshot_bytes.store(bytes, Ordering::Relaxed);
                counters.snapshots.fetch_add(1, Ordering::Relaxed);
                standing
            });
            need.under_way.store(false, Ordering::Relaxed);
            put
        };
        match thread::Builder::new().name("snapshot".to_owned()).spawn(put) {
            Ok(thread) => self.progress.upload = Some(thread),
            Err(error) => {
                self.need.under_way.store(false, Ordering::Relaxed);
                tracing::warn!("no snapshot was written: {error}");
            }
        }
    }

    /// Takes up a snapshot that has reached the store; with `wait`, once it has.
    fn take_upload(&mut self, wait: bool) {
        let Some(upload) = self.progress.upload.take_if(|upload| wait || upload.is_finished()) else { return };
        match upload.join() {
            Ok(Ok(standing)) => {
                tracing::debug!(epoch = standing.epoch, "a snapshot is in the store");
                self.progress.basis.took(standing);
            }
            Ok(Err(error)) => tracing::warn!("no snapshot was written: {error}; the next beat tries again"),
            Err(_) => tracing::warn!("no snapshot was written: its thread panicked; please report this as a bug"),
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.take_upload(true);
    }
}

/// Whether a run that begins at one does what one does that begins at the other.
fn says_the_same(a: &EpochRecord, b: &EpochRecord) -> bool {
    let stands =
        |record: &EpochRecord| -> Vec<_> { record.partitions.iter().map(|p| (p.key(), p.next, p.replay)).collect() };
    a.snapshot == b.snapshot && stands(a) == stands(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_written_only_where_a_restart_would_read_much_again_or_an_epoch_says_too_much() {
        assert_eq!(cheaper(REPLAY_AT_MOST, 100, true), RestartBy::Replay);
        assert_eq!(cheaper(REPLAY_AT_MOST + 1, 100, true), RestartBy::Snapshot);
        assert_eq!(cheaper(REPLAY_AT_MOST + 1, 100, false), RestartBy::Replay, "on its own beat");
        assert_eq!(cheaper(0, MARK_DUE + 1, false), RestartBy::Snapshot, "at once");
    }
}
