//! An epoch as data. It lies in the store's log and manifests and in the epochs topic as JSON, and beside committed offsets
//! as text ([`super::mark`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_engine::{
    EventTime,
    dataflow::merge::CompletedEpoch,
    epoch::{Advance, Position, Resume, TimeMark},
};

/// One epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    /// The run that made it: the number of its claim in the store's log.
    pub(crate) generation: u64,
    /// Counted on from run to run; 0 is the start of the job.
    pub(crate) epoch: u64,
    /// The last epoch that every output had before it; the job's beginning: it is the first.
    pub(crate) after: u64,
    /// Fingerprint of the plan.
    pub(crate) plan: String,
    /// The epoch of the snapshot that a run has to begin at; `None`: at the partitions' `replay` offsets, without one.
    pub(crate) snapshot: Option<u64>,
    /// For each statement the event time below which all its rows are written, in microseconds.
    pub(crate) written_below: Vec<i64>,
    /// Every partition of every input; a file is one.
    pub(crate) partitions: Vec<PartitionRecord>,
}

/// A partition in an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionRecord {
    /// Name of the input in the spec.
    pub(crate) input: String,
    pub(crate) topic: String,
    pub(crate) number: i32,
    /// The cluster's id of the topic, where it tells: another one is another topic of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) topic_id: Option<String>,
    /// All records below it were taken.
    pub(crate) next: i64,
    /// Where reading has to begin.
    pub(crate) replay: i64,
    /// Of each statement that reads the input.
    pub(crate) readers: Vec<ReaderRecord>,
}

/// A partition under one statement's time policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReaderRecord {
    /// At `replay`: the largest event time, and the watermark.
    pub(crate) base: (i64, i64),
    /// (offset, watermark): all since then, and those before it that the epoch before did not tell.
    pub(crate) advances: Vec<(i64, i64)>,
}

/// Names a partition across runs: input, topic, number.
pub(crate) type PartitionKey = (String, String, i32);

impl EpochRecord {
    /// The partitions by name.
    pub(crate) fn by_key(&self) -> BTreeMap<PartitionKey, &PartitionRecord> {
        self.partitions.iter().map(|partition| (partition.key(), partition)).collect()
    }

    /// Whether reading has come to these offsets: up to where outputs have the records. An epoch before would say less than
    /// they hold, and is not committed.
    pub(crate) fn has_reached(&self, offsets: &BTreeMap<PartitionKey, i64>) -> bool {
        let stands = self.by_key();
        offsets.iter().all(|(key, &offset)| stands.get(key).is_some_and(|partition| partition.next >= offset))
    }

    /// Records between where reading has to begin and where it stood.
    pub(crate) fn records_to_replay(&self) -> u64 {
        self.partitions.iter().map(|p| u64::try_from(p.next - p.replay).unwrap_or(0)).sum()
    }
}

impl PartitionRecord {
    pub(crate) fn key(&self) -> PartitionKey {
        (self.input.clone(), self.topic.clone(), self.number)
    }
}

impl ReaderRecord {
    pub(crate) fn base(&self) -> TimeMark {
        TimeMark { largest: EventTime(self.base.0), watermark: EventTime(self.base.1) }
    }

    pub(crate) fn advances(&self) -> Vec<Advance> {
        let advance = |&(offset, watermark): &(i64, i64)| Advance { offset, watermark: EventTime(watermark) };
        self.advances.iter().map(advance).collect()
    }
}

/// What an input is called across runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct InputName {
    pub(crate) name: String,
    /// By topic, where the cluster tells.
    pub(crate) topic_ids: BTreeMap<String, String>,
}

/// The inputs' names, by their index in the dataflow.
pub(crate) type InputNames = BTreeMap<usize, InputName>;

/// An epoch that begins at its replay offsets.
pub(crate) fn replayed(generation: u64, plan: &str, names: &InputNames, epoch: &CompletedEpoch) -> EpochRecord {
    record(generation, plan, names, epoch, |position| {
        let reader = |reader: &tidemill_engine::epoch::ReaderTime| ReaderRecord {
            base: (reader.base.largest.0, reader.base.watermark.0),
            advances: reader.advances.iter().map(|a| (a.offset, a.watermark.0)).collect(),
        };
        (position.replay_offset, position.readers.iter().map(reader).collect())
    })
}

/// The same epoch for a snapshot taken at it: it begins where it stood.
pub(crate) fn standing(generation: u64, plan: &str, names: &InputNames, epoch: &CompletedEpoch) -> EpochRecord {
    record(generation, plan, names, epoch, |position| {
        let reader = |reader: &tidemill_engine::epoch::ReaderTime| ReaderRecord {
            base: (reader.now.largest.0, reader.now.watermark.0),
            advances: vec![],
        };
        (position.next_offset, position.readers.iter().map(reader).collect())
    })
}

/// Up to where a run has to come before an epoch says all that the outputs hold: it knows each partition that it began with, and
/// has come to where they have its records. Takes where each begins.
pub(crate) fn to_be_reached<'r>(
    begins: impl IntoIterator<Item = (PartitionKey, i64, Option<&'r Resume>)>,
) -> BTreeMap<PartitionKey, i64> {
    let furthest = |(key, start, resume): (PartitionKey, i64, Option<&Resume>)| {
        let covered = resume.into_iter().flat_map(|resume| &resume.covered);
        (key, covered.copied().fold(start, i64::max))
    };
    begins.into_iter().map(furthest).collect()
}

fn record(
    generation: u64,
    plan: &str,
    names: &InputNames,
    epoch: &CompletedEpoch,
    begin: impl Fn(&Position) -> (i64, Vec<ReaderRecord>),
) -> EpochRecord {
    let partitions = epoch.positions.iter().filter_map(|position| {
        let (replay, readers) = begin(position);
        let Position { topic, number, next_offset, .. } = position;
        let InputName { name, topic_ids } = names.get(&position.input)?;
        let (input, topic_id) = (name.clone(), topic_ids.get(topic).cloned());
        let (topic, number, next) = (topic.clone(), *number, *next_offset);
        Some(PartitionRecord { input, topic, number, topic_id, next, replay, readers })
    });
    EpochRecord {
        generation,
        epoch: epoch.id.0,
        after: 0,
        plan: plan.to_owned(),
        snapshot: None,
        written_below: epoch.written_below.iter().map(|t| t.0).collect(),
        partitions: partitions.collect(),
    }
}
