//! What a restart would begin on, as a run goes: the records that open windows need, or the last snapshot with the records since.
//!
//! Invariants: an epoch that begins at a snapshot begins exactly where that stood, and tells every advance since. Any epoch tells
//! every advance since the replay offsets of the one before it: an output that has only that one needs them. A run that
//! itself began on a snapshot has not read what lies before it, so it offers its records alone only when no open window can
//! need any from before.

use std::collections::BTreeMap;

use tidemill_engine::{EventTime, dataflow::merge::CompletedEpoch};

use super::{
    mark,
    record::{self, EpochRecord, InputNames, PartitionKey},
};

/// Advances by partition and reader: offset and watermark.
type Journal = BTreeMap<(PartitionKey, usize), BTreeMap<i64, i64>>;

/// See the module.
#[derive(Default)]
pub(crate) struct Basis {
    snapshot: Option<EpochRecord>,
    /// The largest event time before the snapshot that the run began on, until no window needs it.
    began_behind: Option<EventTime>,
    /// Since the snapshot and the last epoch's replay offsets, whichever are earlier.
    journal: Journal,
    /// Replay offsets of the last epoch.
    told_from: BTreeMap<PartitionKey, i64>,
    /// Below this event time windows are closed in all outputs, less what their records reach back.
    horizon: Option<EventTime>,
    reach_back_us: i64,
}

impl Basis {
    /// Of a run whose windows reach back so far, and which perhaps began on a snapshot: the epoch of that, standing.
    pub(crate) fn new(reach_back_us: i64, snapshot: Option<EpochRecord>) -> Self {
        let readers = |snapshot: &EpochRecord| -> Option<EventTime> {
            let readers = snapshot.partitions.iter().flat_map(|partition| &partition.readers);
            readers.map(|reader| EventTime(reader.base.0)).max()
        };
        let began_behind = snapshot.as_ref().map(|snapshot| readers(snapshot).unwrap_or(EventTime::MIN));
        Self { snapshot, began_behind, reach_back_us, ..Self::default() }
    }

    /// The epoch as it is to be kept: beginning wherever a restart has less to do, if that fits beside an offset. `pick` overrules
    /// what is less where both are right.
    pub(crate) fn record(
        &mut self,
        generation: u64,
        plan: &str,
        names: &InputNames,
        epoch: &CompletedEpoch,
        pick: Option<bool>,
    ) -> EpochRecord {
        self.note(names, epoch);
        let mut replayed = record::replayed(generation, plan, names, epoch);
        for partition in &mut replayed.partitions {
            let key = partition.key();
            let from = self.told_from.get(&key).map_or(i64::MIN, |&told| told.min(partition.replay));
            for (index, reader) in partition.readers.iter_mut().enumerate() {
                reader.advances = told(&self.journal, &key, index, from);
            }
        }
        let Some(snapshot) = &self.snapshot else { return replayed };
        let since = since(snapshot, &self.journal, replayed.clone());
        let bound = self.began_behind.is_some_and(|largest| self.horizon.is_none_or(|horizon| horizon <= largest));
        if bound {
            return since;
        }
        self.began_behind = None;
        let replays_less = since.records_to_replay() < replayed.records_to_replay();
        let snapshot_is_better = replays_less || mark::longest(&replayed) > mark::LIMIT / 2;
        if pick.unwrap_or(snapshot_is_better) { since } else { replayed }
    }

    /// The same epoch for the manifest of a snapshot taken at it: it tells what happened since the snapshot before.
    pub(crate) fn for_manifest(
        &self,
        generation: u64,
        plan: &str,
        names: &InputNames,
        epoch: &CompletedEpoch,
    ) -> EpochRecord {
        let replayed = record::replayed(generation, plan, names, epoch);
        match &self.snapshot {
            Some(snapshot) => since(snapshot, &self.journal, replayed),
            None => replayed,
        }
    }

    /// A snapshot is in the store: the epoch that it was taken at, standing.
    pub(crate) fn took(&mut self, standing: EpochRecord) {
        self.snapshot = Some(standing);
    }

    /// An epoch was committed, or says the same as the last one.
    pub(crate) fn committed(&mut self, epoch: &CompletedEpoch, record: &EpochRecord) {
        self.told_from = record.partitions.iter().map(|partition| (partition.key(), partition.replay)).collect();
        let stands = self.snapshot.as_ref().map(EpochRecord::by_key).unwrap_or_default();
        for ((key, _), advances) in &mut self.journal {
            let snapshot = stands.get(key).map_or(i64::MAX, |partition| partition.replay);
            if let Some(&told) = self.told_from.get(key) {
                advances.retain(|&offset, _| offset >= told.min(snapshot));
            }
        }
        let below = epoch.written_below.iter().min().copied().unwrap_or(EventTime::MIN);
        self.horizon = Some(below.minus_micros(self.reach_back_us));
    }

    fn note(&mut self, names: &InputNames, epoch: &CompletedEpoch) {
        for position in &epoch.positions {
            let Some(input) = names.get(&position.input) else { continue };
            let key = (input.name.clone(), position.topic.clone(), position.number);
            for (index, reader) in position.readers.iter().enumerate() {
                if reader.advances.is_empty() {
                    continue;
                }
                let journal = self.journal.entry((key.clone(), index)).or_default();
                for advance in &reader.advances {
                    let watermark = journal.entry(advance.offset).or_insert(advance.watermark.0);
                    *watermark = advance.watermark.0.max(*watermark);
                }
            }
        }
    }
}

/// Advances from an offset on.
fn told(journal: &Journal, key: &PartitionKey, reader: usize, from: i64) -> Vec<(i64, i64)> {
    let advances = journal.get(&(key.clone(), reader));
    advances.map(|advances| advances.range(from..).map(|(&offset, &at)| (offset, at)).collect()).unwrap_or_default()
}

/// An epoch that begins at a snapshot; partitions that joined since then begin where they did.
fn since(snapshot: &EpochRecord, journal: &Journal, replayed: EpochRecord) -> EpochRecord {
    let standing = snapshot.by_key();
    let partitions = replayed.partitions.into_iter().map(|mut partition| {
        let key = partition.key();
        let then = standing.get(&key);
        partition.replay = then.map_or(partition.replay, |then| then.replay);
        for (index, reader) in partition.readers.iter_mut().enumerate() {
            if let Some(then) = then.and_then(|then| then.readers.get(index)) {
                reader.base = then.base;
            }
            let before = reader.advances.first().map_or(i64::MAX, |advance| advance.0);
            reader.advances = told(journal, &key, index, partition.replay.min(before));
        }
        partition
    });
    EpochRecord { partitions: partitions.collect(), snapshot: Some(snapshot.epoch), ..replayed }
}
