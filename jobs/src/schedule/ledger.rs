//! What was run, in the job's state store.
//!
//! | object | what |
//! |---|---|
//! | `runs/<end>.json` | the run of the range that ends then, in microseconds since 1970; it stays until it is trimmed |
//! | `failures/<end>.json` | the last attempt of it that failed |
//! | `boundaries/<instant>.json` | where an instant cuts the topics; put once |
//! | `trimmed/<slot>.json` | the periods that older runs made up, which are not there one by one any more ([`super::trimming`]) |
//! | `begun.json` | where the schedule began; put once |
//! | `paused` | there while the pipeline is paused |

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use tidemill_engine::EventTime;

use super::{
    advance::Range,
    trimming::{Found, Periods, Step},
};
use crate::{
    epoch::store::{Store, StoreError},
    run::Stretches,
};

/// Where an instant cuts the topics: by input, topic and partition the first offset of what comes behind.
pub(super) type Boundary = BTreeMap<String, BTreeMap<String, BTreeMap<i32, i64>>>;

/// An attempt to run a range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Begin of the range, in microseconds since 1970.
    pub from: i64,
    /// End of the range, which does not belong to it.
    pub to: i64,
    /// What came of it.
    pub outcome: Outcome,
    /// Attempts so far.
    pub attempts: u32,
    /// Records that were read.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Rows that were written.
    pub rows: u64,
    /// Of the records, those that came in behind the range that their timestamps lie in; their rows are in the folder `late` of this one's.
    #[serde(default)]
    pub late: u64,
    /// Where it began and where it ended in each partition, by input and topic.
    pub offsets: Stretches,
    /// When it ended.
    pub ended: i64,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Its files are there.
    Done,
    /// None of its files are there.
    Failed(String),
}

impl RunRecord {
    /// Whether its files are there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outcome == Outcome::Done
    }

    fn range(&self) -> Range {
        Range { from: EventTime(self.from), to: EventTime(self.to) }
    }
}

/// Whether a range may be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Nothing of it was run.
    Open,
    /// All of it was.
    Ran,
    /// A part of it was, in this one.
    Overlaps(Range),
}

/// The ledger of one pipeline.
pub(super) struct Ledger {
    store: Arc<Store>,
}

const BEGUN: &str = "begun.json";
const PAUSED: &str = "paused";
const RUNS: &str = "runs";
const FAILURES: &str = "failures";
const BOUNDARIES: &str = "boundaries";
const TRIMMED: &str = "trimmed";

fn name(folder: &str, at: EventTime) -> String {
    format!("{folder}/{:020}.json", at.0)
}

fn slot_name(slot: u64) -> String {
    format!("{TRIMMED}/{slot:020}.json")
}

impl Ledger {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    fn times(&self, folder: &str) -> Result<Vec<EventTime>, StoreError> {
        let names = self.store.names(folder)?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).map(EventTime).collect())
    }

    /// The run of the range that ends at `to`.
    pub(super) fn run(&self, to: EventTime) -> Result<Option<RunRecord>, StoreError> {
        self.store.read_document(&name(RUNS, to))
    }

    /// Whether a range may be run; runs do not overlap.
    pub(super) fn standing(&self, range: Range) -> Result<Standing, StoreError> {
        // Runs before periods: of what is trimmed in between the period is there first.
        let run = self.times(RUNS)?.into_iter().find(|to| *to > range.from).map_or(Ok(None), |to| self.run(to))?;
        let period = self.periods()?.1.first_behind(range.from);
        if let Some(period) = period.filter(|period| period.from < range.to) {
            let all = period.from <= range.from && range.to <= period.to;
            return Ok(if all { Standing::Ran } else { Standing::Overlaps(period) });
        }
        Ok(match run.map(|run| run.range()) {
            Some(run) if run == range => Standing::Ran,
            Some(run) if run.from < range.to => Standing::Overlaps(run),
            _ => Standing::Open,
        })
    }

    /// Puts what came of an attempt. One that failed changes nothing for a range that another one has run meanwhile.
    pub(super) fn put(&self, record: &RunRecord) -> Result<(), StoreError> {
        let folder = if record.is_done() { RUNS } else { FAILURES };
        self.store.put_document(&name(folder, EventTime(record.to)), record)
    }

    /// What came of the last range that was tried.
    pub(super) fn last(&self) -> Result<Option<RunRecord>, StoreError> {
        let ran = self.last_done()?.map_or(Ok(None), |to| self.run(to))?;
        let failed = self.times(FAILURES)?.last().map_or(Ok(None), |to| self.failure(*to))?;
        Ok(match (ran, failed) {
            (Some(ran), Some(failed)) if failed.to > ran.to => Some(failed),
            (ran, failed) => ran.or(failed),
        })
    }

    /// The end of the last range that was run.
    pub(super) fn last_done(&self) -> Result<Option<EventTime>, StoreError> {
        Ok(self.times(RUNS)?.last().copied())
    }

    /// Up to where the schedule has come: the end of the last range that was run, or else where it began.
    pub(super) fn done_up_to(&self) -> Result<Option<EventTime>, StoreError> {
        match self.last_done()? {
            Some(last) => Ok(Some(last)),
            None => Ok(self.store.read_document(BEGUN)?.map(EventTime)),
        }
    }

    /// Says where the schedule begins; whoever came first has said it.
    pub(super) fn begin(&self, at: EventTime) -> Result<EventTime, StoreError> {
        match self.store.put_new_document(BEGUN, &at.0)? {
            true => Ok(at),
            false => Ok(self.store.read_document(BEGUN)?.map_or(at, EventTime)),
        }
    }

    fn failure(&self, to: EventTime) -> Result<Option<RunRecord>, StoreError> {
        self.store.read_document(&name(FAILURES, to))
    }

    pub(super) fn boundary(&self, at: EventTime) -> Result<Option<Boundary>, StoreError> {
        self.store.read_document(&name(BOUNDARIES, at))
    }

    /// Fixes a boundary, between its neighbours; whoever came first has fixed it.
    pub(super) fn fix_boundary(&self, at: EventTime, found: Boundary) -> Result<Boundary, StoreError> {
        let times = self.times(BOUNDARIES)?;
        let before =
            times.iter().rev().find(|time| **time < at).map(|time| self.boundary(*time)).transpose()?.flatten();
        let behind = times.iter().find(|time| **time > at).map(|time| self.boundary(*time)).transpose()?.flatten();
        let mut fixed = found;
        for (input, topics) in &mut fixed {
            for (topic, partitions) in topics {
                for (partition, offset) in partitions {
                    let of = |boundary: &Boundary| boundary.get(input)?.get(topic)?.get(partition).copied();
                    if let Some(least) = before.as_ref().and_then(of) {
                        *offset = least.max(*offset);
                    }
                    if let Some(most) = behind.as_ref().and_then(of) {
                        *offset = most.min(*offset);
                    }
                }
            }
        }
        if self.store.put_new_document(&name(BOUNDARIES, at), &fixed)? {
            return Ok(fixed);
        }
        Ok(self.boundary(at)?.unwrap_or(fixed))
    }

    /// How often a range was tried in vain.
    pub(super) fn failures(&self, range: Range) -> Result<u32, StoreError> {
        Ok(self.failure(range.to)?.map_or(0, |record| record.attempts))
    }

    /// The slots of periods, and what the last of them says.
    fn periods(&self) -> Result<(Vec<u64>, Periods), StoreError> {
        loop {
            let slots = self.slots()?;
            let Some(&last) = slots.last() else { return Ok((slots, Periods::default())) };
            if let Some(periods) = self.store.read_document(&slot_name(last))? {
                return Ok((slots, periods));
            }
            // Others have trimmed so often meanwhile that it is gone.
        }
    }

    fn slots(&self) -> Result<Vec<u64>, StoreError> {
        let names = self.store.names(TRIMMED)?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
    }

    /// The steps after which there are at most `keep` runs one by one.
    pub(super) fn trimming(&self, keep: usize) -> Result<Vec<Step>, StoreError> {
        let runs = self.times(RUNS)?;
        let (slots, periods) = self.periods()?;
        let (failures, boundaries) = (self.times(FAILURES)?, self.times(BOUNDARIES)?);
        let mut found = Found { slots, periods, runs, old: vec![], failures, boundaries };
        let old: Result<Vec<_>, _> = found.too_many(keep).iter().map(|to| self.run(*to)).collect();
        found.old = old?.iter().flatten().map(RunRecord::range).collect();
        Ok(found.steps())
    }

    /// Takes a step of a trimming; whether the next one may be taken.
    pub(super) fn trim(&self, step: &Step) -> Result<bool, StoreError> {
        match step {
            Step::Note { slot, periods } => {
                let ours = self.store.put_new_document(&slot_name(*slot), periods)?;
                // A slot that was taken and removed since is free again, but others lie behind it.
                return Ok(ours && self.slots()?.last() == Some(slot));
            }
            Step::Run(to) => self.store.delete(&name(RUNS, *to))?,
            Step::Failure(to) => self.store.delete(&name(FAILURES, *to))?,
            Step::Boundary(at) => self.store.delete(&name(BOUNDARIES, *at))?,
            Step::Slot(slot) => self.store.delete(&slot_name(*slot))?,
        }
        Ok(true)
    }

    pub(super) fn is_paused(&self) -> Result<bool, StoreError> {
        Ok(self.store.get(PAUSED)?.is_some())
    }

    pub(super) fn set_paused(&self, paused: bool) -> Result<(), StoreError> {
        match paused {
            true => self.store.put(PAUSED, vec![]),
            false => self.store.delete(PAUSED),
        }
    }
}
