//! From what a start finds to what it does: a pure function, so that every point at which a run can die is a unit test.
//!
//! Each output may stand at another epoch of the same history: a run that died between two commits leaves them one apart. All
//! of them go on from where the least advanced one stands, and each is spared what it has ([`Written`]).

use std::collections::{BTreeMap, BTreeSet};

use tidemill_engine::{
    EventTime,
    epoch::{Advance, Resume, TimeMark, Written},
};

use super::{
    record::{EpochRecord, PartitionKey, PartitionRecord},
    store::{Begun, DATAFUSION, FORMAT, Found, Manifest},
};

/// What a start finds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// `--from-start`.
    pub(crate) from_start: bool,
    /// `--discard-state`.
    pub(crate) discard_state: bool,
    /// Fingerprint of the plan.
    pub(crate) plan: String,
    /// The output of each statement, by index in `outputs`.
    pub(crate) statements: Vec<usize>,
    pub(crate) inputs: Vec<InputFacts>,
    /// The outputs; that of the dead letters behind those of the query, if there is one.
    pub(crate) outputs: Vec<OutputFacts>,
    /// The index of that of the dead letters.
    pub(crate) letters: Option<usize>,
    /// What stands beside the committed offsets of the inputs' groups.
    pub(crate) group: Option<EpochRecord>,
    /// Committed offsets beside which nothing of ours stands.
    pub(crate) foreign: BTreeMap<PartitionKey, i64>,
    /// The store's log: the last start of the job at `start`, and the last epoch.
    pub(crate) begun: Option<Begun>,
    pub(crate) log: Option<EpochRecord>,
    /// The snapshots, the newest first: whole, or why not.
    pub(crate) snapshots: Vec<Found>,
}

/// An input.
#[derive(Clone, Debug)]
pub(crate) struct InputFacts {
    pub(crate) name: String,
    pub(crate) partitions: Vec<PartitionFacts>,
    /// Whether they are files, which may be taken away once they were read.
    pub(crate) files: bool,
}

/// A partition and its log.
#[derive(Clone, Debug)]
pub(crate) struct PartitionFacts {
    pub(crate) topic: String,
    pub(crate) number: i32,
    /// The cluster's id of the topic, where it tells.
    pub(crate) topic_id: Option<String>,
    pub(crate) earliest: i64,
    pub(crate) end: i64,
}

/// An output.
#[derive(Clone, Debug)]
pub(crate) struct OutputFacts {
    pub(crate) name: String,
    pub(crate) keeps: Keeps,
}

/// Where an output's epoch is committed.
#[derive(Clone, Debug)]
pub(crate) enum Keeps {
    /// In one transaction with the inputs' offsets.
    WithOffsets,
    /// In one transaction with a record of the epochs topic on its own cluster; the last one.
    InTopic(Option<EpochRecord>),
    /// In the store's log.
    InLog,
    /// In the store's log, which has each epoch with rows of it, before any cluster has that.
    InLogWithRows,
    /// Nowhere: at least once.
    Nowhere,
}

/// What a start does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// There is nothing to go on from: `start` counts.
    Begin,
    /// It goes on.
    GoOn(GoOn),
    /// Going on would lose or repeat something: the user decides.
    Stop(Stop),
}

/// How a run goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct GoOn {
    /// The most advanced epoch; the next one is counted from here.
    pub(crate) epoch: u64,
    /// The least advanced one.
    pub(crate) after: u64,
    /// The epoch of the snapshot to be restored.
    pub(crate) snapshot: Option<u64>,
    /// Where each known partition is taken up; others are new and read from their beginning.
    pub(crate) partitions: BTreeMap<PartitionKey, (i64, Resume)>,
    /// What each statement's output has.
    pub(crate) written: Vec<Written>,
    /// Dead letters of records that are part of more epochs than this are kept.
    pub(crate) letters: u8,
    /// What the user should know.
    pub(crate) notes: Vec<Note>,
}

/// Said at a start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Note {
    #[error("the snapshot of epoch {epoch} cannot be used ({why}); going on from the one of epoch {instead}")]
    SnapshotBefore { epoch: u64, why: String, instead: u64 },
    #[error("the group's committed offsets are gone; going on from epoch {epoch} in the state store, not from `start`")]
    OffsetsExpired { epoch: u64 },
    #[error("output `{output}` is new: it gets rows from epoch {epoch} on")]
    NewOutput { output: String, epoch: u64 },
    #[error(
        "topic `{topic}` partition {number}: offsets {from} to {to} are no longer in the log and are left out (--discard-state)"
    )]
    LeftOut { topic: String, number: i32, from: i64, to: i64 },
    #[error("the query has changed since epoch {epoch}: windows that are open now are computed by the new one")]
    OtherQuery { epoch: u64 },
}

/// Why a start does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each says in full what it is")]
pub enum Stop {
    #[error(
        "topic `{topic}` partition {number}: offsets {from} to {to}, from event time {since} on, are needed and no longer in \
         the log; `--discard-state` goes on behind them without the windows that were open, `--from-start` begins anew"
    )]
    Lost { topic: String, number: i32, from: i64, to: i64, since: EventTime },
    #[error(
        "topic `{topic}` was deleted and made again since epoch {epoch} (its id was {was}, now it is {is}); the job's offsets are \
         those of the old one; `--from-start` begins anew"
    )]
    OtherTopic { topic: String, epoch: u64, was: String, is: String },
    #[error(
        "topic `{topic}` partition {number} ends at offset {end}, but records up to {next} were read: it was deleted and made \
         again, or its log was cut; `--from-start` begins anew"
    )]
    LogIsShorter { topic: String, number: i32, next: i64, end: i64 },
    #[error(
        "topic `{topic}` has no partition {number} any more, of which records up to {next} were read: it was deleted and made \
         again; `--from-start` begins anew"
    )]
    PartitionGone { topic: String, number: i32, next: i64 },
    #[error(
        "the query has changed since the snapshot of epoch {epoch}, and the state no longer fits; `--discard-state` goes on \
         from the committed offsets without the windows that were open"
    )]
    OtherPlan { epoch: u64 },
    #[error(
        "the snapshot of epoch {epoch} was written by DataFusion {found}, this is {DATAFUSION}: its aggregates keep their state \
         otherwise; finish with the version before, or go on without the windows that were open by `--discard-state`"
    )]
    OtherDataFusion { epoch: u64, found: String },
    #[error(
        "the snapshot of epoch {epoch} has format {found}, this version reads {FORMAT}; run the version that wrote it, or go on \
         without the windows that were open by `--discard-state`"
    )]
    OtherFormat { epoch: u64, found: u32 },
    #[error(
        "epoch {epoch} needs the snapshot of epoch {snapshot}, and none can be read: {why}; `--discard-state` goes on from the \
         committed offsets without the windows that were open"
    )]
    NoSnapshot { epoch: u64, snapshot: u64, why: String },
}

impl Facts {
    /// The highest number that an epoch has had.
    pub(crate) fn last_epoch(&self) -> Option<u64> {
        let topics = self.outputs.iter().filter_map(|output| match &output.keeps {
            Keeps::InTopic(record) => record.as_ref(),
            _ => None,
        });
        let records = topics.chain(&self.group).chain(&self.log).chain(self.begun.as_ref().map(|begun| &begun.record));
        records.map(|record| record.epoch).chain(self.snapshots.iter().map(|(epoch, _)| *epoch)).max()
    }
}

/// Decides.
pub(crate) fn decide(facts: &Facts) -> Decision {
    if facts.from_start {
        return Decision::Begin;
    }
    if facts.group.is_none() && !facts.foreign.is_empty() {
        return begin_at(&facts.foreign, facts); // somebody has moved the group, or it is another program's
    }
    let mut notes = vec![];
    let Some(held) = held(facts, &mut notes) else { return Decision::Begin };
    // One of each epoch, the most advanced first.
    let mut epochs: Vec<&EpochRecord> = held.clone();
    epochs.sort_by_key(|record| std::cmp::Reverse(record.epoch));
    epochs.dedup_by_key(|record| record.epoch);
    let (Some(most), Some(least)) = (epochs.first(), epochs.last()) else { return Decision::Begin };
    let base = match base(facts, least, &mut notes) {
        Ok(base) => base,
        Err(stop) => return Decision::Stop(stop),
    };
    if matches!(base, Base::Replay) && least.plan != facts.plan {
        notes.push(Note::OtherQuery { epoch: least.epoch });
    }
    match partitions(facts, &epochs, &base, &mut notes) {
        Ok(partitions) => Decision::GoOn(GoOn {
            epoch: most.epoch,
            after: least.epoch,
            snapshot: if let Base::Snapshot(manifest) = base { Some(manifest.standing.epoch) } else { None },
            partitions,
            written: written(facts, &held, &epochs),
            letters: facts.letters.map_or(0, |letters| rank(held[letters], &epochs)),
            notes,
        }),
        Err(stop) => Decision::Stop(stop),
    }
}

/// The epoch that each output holds; `None` when there is none at all.
fn held<'f>(facts: &'f Facts, notes: &mut Vec<Note>) -> Option<Vec<&'f EpochRecord>> {
    let begun = facts.begun.as_ref().map(|begun| &begun.record);
    // What is older than the job's last beginning (`--from-start`) is of another history.
    let counts = |record: &&EpochRecord| record.epoch >= begun.map_or(0, |begun| begun.epoch);
    let snapshots = facts.snapshots.iter().filter_map(told_by);
    let in_store = snapshots.chain(&facts.log).chain(begun).filter(counts);
    let in_store = in_store.max_by_key(|record| record.epoch);
    // Whether an epoch is the first: a run that died while it committed that one had nothing where it did not come to.
    let is_first = |record: &EpochRecord| begun.is_some_and(|begun| record.after == begun.epoch);
    let offsets = match (facts.group.as_ref().filter(counts), in_store) {
        (Some(group), _) => Some(group),
        (None, Some(record)) if is_first(record) => begun,
        // Committed offsets expire; the store's do not.
        (None, Some(record)) => {
            if facts.group.is_none() && facts.inputs.iter().all(|input| !input.files) {
                notes.push(Note::OffsetsExpired { epoch: record.epoch });
            }
            Some(record)
        }
        (None, None) => None,
    };
    let own = facts.outputs.iter().map(|output| match &output.keeps {
        Keeps::WithOffsets => offsets,
        Keeps::InTopic(record) => record.as_ref().filter(counts),
        Keeps::InLog => facts.log.as_ref(),
        Keeps::InLogWithRows => facts.log.as_ref().filter(counts),
        Keeps::Nowhere => None,
    });
    let mut own: Vec<Option<&EpochRecord>> = own.collect();
    let most = own.iter().flatten().copied().chain(offsets).max_by_key(|record| record.epoch)?;
    // Later epochs than that of the log had no rows of it: it would be there.
    let with_rows =
        facts.outputs.iter().zip(&mut own).filter(|(output, _)| matches!(output.keeps, Keeps::InLogWithRows));
    with_rows.for_each(|(_, own)| *own = Some(most));
    let each = facts.outputs.iter().zip(own).map(|(output, own)| match (own, &facts.begun) {
        (Some(record), _) => record,
        // The run that began the job died before its first epoch was committed everywhere.
        (None, Some(begun))
            if begun.outputs.contains(&output.name) && is_first(most) && !matches!(output.keeps, Keeps::Nowhere) =>
        {
            &begun.record
        }
        (None, _) => {
            if !matches!(output.keeps, Keeps::Nowhere) {
                notes.push(Note::NewOutput { output: output.name.clone(), epoch: most.epoch });
            }
            most
        }
    });
    Some(each.collect())
}

/// What the manifest of a snapshot tells of its epoch.
fn told_by((_, manifest): &Found) -> Option<&EpochRecord> {
    match manifest {
        Ok(manifest) => Some(&manifest.epoch),
        Err(damage) => damage.epoch.as_ref(),
    }
}

/// What a run begins on.
enum Base<'f> {
    /// The records that open windows need.
    Replay,
    /// A snapshot.
    Snapshot(&'f Manifest),
    /// Nothing: `--discard-state`.
    Nothing,
}

fn base<'f>(facts: &'f Facts, least: &EpochRecord, notes: &mut Vec<Note>) -> Result<Base<'f>, Stop> {
    if facts.discard_state {
        return Ok(Base::Nothing);
    }
    let Some(needed) = least.snapshot else { return Ok(Base::Replay) };
    let mut unusable: Option<(u64, String)> = None;
    // A snapshot ahead of an output is no use to it.
    let begun = facts.begun.as_ref().map_or(0, |begun| begun.record.epoch);
    for (epoch, manifest) in facts.snapshots.iter().filter(|(epoch, _)| (begun..=least.epoch).contains(epoch)) {
        let (epoch, manifest) = match manifest {
            Ok(manifest) => (*epoch, manifest),
            // Without what its manifest tells, the one before it is not enough.
            Err(damage) if damage.epoch.is_none() => {
                unusable.get_or_insert((*epoch, damage.why.clone()));
                break;
            }
            Err(damage) => {
                unusable.get_or_insert((*epoch, damage.why.clone()));
                continue;
            }
        };
        if manifest.format != FORMAT {
            return Err(Stop::OtherFormat { epoch, found: manifest.format });
        }
        if manifest.datafusion != DATAFUSION {
            return Err(Stop::OtherDataFusion { epoch, found: manifest.datafusion.clone() });
        }
        if manifest.standing.plan != facts.plan {
            return Err(Stop::OtherPlan { epoch });
        }
        if let Some((unusable, why)) = unusable {
            notes.push(Note::SnapshotBefore { epoch: unusable, why, instead: epoch });
        }
        return Ok(Base::Snapshot(manifest));
    }
    let why = unusable.map_or("there is none".to_owned(), |(_, why)| why);
    Err(Stop::NoSnapshot { epoch: least.epoch, snapshot: needed, why })
}

/// Where each partition of the job's inputs is taken up.
fn partitions(
    facts: &Facts,
    epochs: &[&EpochRecord],
    base: &Base<'_>,
    notes: &mut Vec<Note>,
) -> Result<BTreeMap<PartitionKey, (i64, Resume)>, Stop> {
    let by_epoch: Vec<_> = epochs.iter().map(|record| record.by_key()).collect();
    let manifests: Vec<_> = facts.snapshots.iter().filter_map(told_by).collect();
    let told: Vec<_> = manifests.iter().map(|record| record.by_key()).chain(by_epoch.iter().cloned()).collect();
    // A partition that joined behind the snapshot begins as the manifest of the next one says: later ones say how it stood.
    let (mut standing, mut since) = (BTreeMap::new(), vec![]);
    if let Base::Snapshot(manifest) = base {
        standing = manifest.standing.by_key();
        let behind = manifests.iter().filter(|record| record.epoch > manifest.standing.epoch);
        since = behind.map(|record| record.by_key()).collect();
        since.reverse();
    }
    let names: BTreeSet<&str> = facts.inputs.iter().map(|input| input.name.as_str()).collect();
    let known = by_epoch.iter().flat_map(BTreeMap::keys).filter(|key| names.contains(key.0.as_str()));
    let known: BTreeSet<&PartitionKey> = known.collect();
    let mut found = BTreeMap::new();
    for key in known {
        let (topic, number) = (key.1.clone(), key.2);
        let next_of = |by_key: &BTreeMap<PartitionKey, &PartitionRecord>| by_key.get(key).map(|p| p.next);
        let covered: Vec<i64> = by_epoch.iter().map(|by_key| next_of(by_key).unwrap_or(i64::MIN)).collect();
        let next = covered.iter().copied().max().unwrap_or(i64::MIN);
        let input = facts.inputs.iter().filter(|input| input.name == key.0);
        let Some(log) = input.flat_map(|i| &i.partitions).find(|p| p.topic == topic && p.number == number) else {
            if facts.inputs.iter().any(|input| input.name == key.0 && input.files) {
                continue;
            }
            return Err(Stop::PartitionGone { topic, number, next });
        };
        for (record, by_key) in epochs.iter().zip(&by_epoch) {
            let was = by_key.get(key).and_then(|partition| partition.topic_id.as_ref());
            if let (Some(was), Some(is)) = (was, &log.topic_id)
                && was != is
            {
                return Err(Stop::OtherTopic { topic, epoch: record.epoch, was: was.clone(), is: is.clone() });
            }
        }
        // The one that begins first; of an output that does not know the partition, the one that does.
        let records = by_epoch.iter().filter_map(|by_key| by_key.get(key).copied());
        let first = records.min_by_key(|record| record.replay);
        let joined = || since.iter().find_map(|by_key| by_key.get(key).copied());
        let Some(first) = standing.get(key).copied().or_else(joined).or(first) else { continue };
        let mut start = match base {
            Base::Nothing => covered.iter().copied().filter(|&next| next > i64::MIN).min().unwrap_or(first.replay),
            Base::Replay | Base::Snapshot(_) => first.replay,
        };
        if log.end < next {
            return Err(Stop::LogIsShorter { topic, number, next, end: log.end });
        }
        if start < log.earliest {
            let (from, to) = (start, log.earliest);
            if !facts.discard_state {
                let since = first.readers.first().map_or(EventTime::MIN, |reader| EventTime(reader.base.0));
                return Err(Stop::Lost { topic, number, from, to, since });
            }
            notes.push(Note::LeftOut { topic, number, from, to });
            start = log.earliest;
        }
        let readers = if let Base::Nothing = base { vec![] } else { readers(key, first, &told) };
        found.insert(key.clone(), (start, Resume { covered, readers }));
    }
    Ok(found)
}

/// The time of a partition where reading begins, and all advances since that any record tells of, by reader.
fn readers(
    key: &PartitionKey,
    first: &PartitionRecord,
    told: &[BTreeMap<PartitionKey, &PartitionRecord>],
) -> Vec<(TimeMark, Vec<Advance>)> {
    let reader = |(index, reader): (usize, &super::record::ReaderRecord)| {
        let mut advances: BTreeMap<i64, EventTime> = BTreeMap::new();
        for record in told.iter().filter_map(|by_key| by_key.get(key)) {
            for advance in record.readers.get(index).map(|reader| reader.advances()).unwrap_or_default() {
                if advance.offset >= first.replay {
                    let watermark = advances.entry(advance.offset).or_insert(advance.watermark);
                    *watermark = advance.watermark.max(*watermark);
                }
            }
        }
        let advances = advances.into_iter().map(|(offset, watermark)| Advance { offset, watermark });
        (reader.base(), advances.collect())
    };
    first.readers.iter().enumerate().map(reader).collect()
}

/// What each statement's output has. Lists of another length come from another query: then the smallest entry holds for all,
/// so that nothing is lost.
fn written(facts: &Facts, held: &[&EpochRecord], epochs: &[&EpochRecord]) -> Vec<Written> {
    let statement = |(index, &output): (usize, &usize)| {
        let record = held[output];
        let below = &record.written_below;
        let smallest = || below.iter().copied().min().unwrap_or(i64::MIN);
        let below = if below.len() == facts.statements.len() { below[index] } else { smallest() };
        Written { below: EventTime(below), covering: rank(record, epochs) }
    };
    facts.statements.iter().enumerate().map(statement).collect()
}

/// How many epochs are more advanced than that of an output.
fn rank(held: &EpochRecord, epochs: &[&EpochRecord]) -> u8 {
    let rank = epochs.iter().position(|epoch| epoch.epoch == held.epoch).unwrap_or(0);
    u8::try_from(rank).unwrap_or(u8::MAX)
}

/// Another program's committed offsets: where they are, without anything of ours.
fn begin_at(offsets: &BTreeMap<PartitionKey, i64>, facts: &Facts) -> Decision {
    let mut partitions = BTreeMap::new();
    for (key, &offset) in offsets {
        let input = facts.inputs.iter().filter(|input| input.name == key.0);
        let log = input.flat_map(|i| &i.partitions).find(|p| p.topic == key.1 && p.number == key.2);
        if let Some(log) = log {
            let (topic, number) = (key.1.clone(), key.2);
            if offset > log.end {
                return Decision::Stop(Stop::LogIsShorter { topic, number, next: offset, end: log.end });
            }
            if offset < log.earliest {
                let (from, to, since) = (offset, log.earliest, EventTime::MIN);
                return Decision::Stop(Stop::Lost { topic, number, from, to, since });
            }
        }
        partitions.insert(key.clone(), (offset, Resume::default()));
    }
    let written = vec![Written::NOTHING; facts.statements.len()];
    Decision::GoOn(GoOn { partitions, written, ..GoOn::default() })
}

#[cfg(test)]
mod tests;
