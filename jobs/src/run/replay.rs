//! Dead letters run through their inputs once more: `tidemill replay`.
//!
//! Twice. Rows that depend on their record alone are made of the letters alone. Others depend on records beside theirs, too, in ways that only the
//! rows show: for these the log is read as the job has read it, without the letters and, side by side, with them
//! ([`tidemill_engine::dataflow::difference`]), from so far before the first letter that both are whole. What differs is written.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tidemill_connectors::replay::{KeptRecord, Places};
use tidemill_engine::{
    EngineError, ErrorKind, EventTime,
    dataflow::{
        difference::{Outdated, twice},
        plan::{Dataflow, OperatorPlan, TimePolicy},
        stage::reach_back,
    },
};

use super::{
    EARLY_ARRIVAL_US, RunError, RunOptions, Status, Summary,
    inputs::{ConnectedInput, Transport},
    resume::{self, Begin, statements},
    run,
    verify::{self, Period},
};
use crate::{
    epoch::{
        record::PartitionKey,
        store::{Log, Store},
    },
    spec::{InputTransport, Job},
};

/// The dead letters of a job that were not replayed before, by input.
#[derive(Debug, Default)]
pub struct Mended {
    /// Those that are replayed.
    pub records: BTreeMap<String, Vec<KeptRecord>>,
    /// The places of the others: they stay letters.
    pub others: BTreeMap<String, Places>,
}

/// What is replayed, and which half of it.
#[derive(Clone, Debug)]
pub struct Replayed {
    mended: Arc<Mended>,
    /// Whether it is the half with the rows that depend on other records.
    pub(super) compares: bool,
    found: Arc<Mutex<Found>>,
}

/// What the halves tell.
#[derive(Debug, Default)]
struct Found {
    /// Whether there are rows that depend on other records.
    compares: bool,
    /// By statement, its output's index and what is outdated there.
    outdated: Vec<(usize, Arc<Outdated>)>,
}

/// What a replay did.
#[derive(Debug)]
pub struct ReplaySummary {
    /// Of the run.
    pub summary: Summary,
    /// By output.
    pub outdated: Vec<OutdatedRows>,
}

/// Rows of an output that would not be there if the letters had never been bad.
#[derive(Debug, PartialEq, Eq)]
pub struct OutdatedRows {
    /// The output's name in the spec.
    pub output: String,
    /// How many there are.
    pub rows: u64,
    /// Of these at least so many have no new row of their event time in their place.
    pub without_successor: u64,
}

/// Replays letters. `each` is called about five times a second.
///
/// # Errors
/// Whatever makes going on impossible.
pub fn replay(
    job: &Job,
    mended: Mended,
    options: &RunOptions,
    each: &mut dyn FnMut(&Status),
) -> Result<ReplaySummary, RunError> {
    let mut replayed = Replayed { mended: Arc::new(mended), compares: false, found: Arc::default() };
    let of = |replayed: &Replayed| RunOptions { replay: Some(replayed.clone()), ..options.clone() };
    let mut summary = run(job, &of(&replayed), each)?;
    if !summary.stopped && replayed.found().compares {
        replayed.compares = true;
        summary = run(job, &of(&replayed), each)?;
    }
    let outdated = replayed.outdated(job);
    Ok(ReplaySummary { summary, outdated })
}

impl Replayed {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outdated(&self, job: &Job) -> Vec<OutdatedRows> {
        let found = self.found();
        let of_output = |(index, output): (usize, &crate::spec::Output)| {
            let sum = |count: fn(&Outdated) -> &AtomicU64| {
                let statements = found.outdated.iter().filter(|(output, _)| *output == index);
                statements.map(|(_, outdated)| count(outdated).load(Relaxed)).sum()
            };
            let (rows, without_successor) =
                (sum(|outdated| &outdated.rows), sum(|outdated| &outdated.without_successor));
            OutdatedRows { output: output.name.clone(), rows, without_successor }
        };
        job.outputs.iter().enumerate().map(of_output).filter(|outdated| outdated.rows > 0).collect()
    }

    /// The records of an input that take the place of its log.
    pub(super) fn instead(&self, input: &str) -> Option<Vec<KeptRecord>> {
        (!self.compares).then(|| self.mended.records.get(input).cloned().unwrap_or_default())
    }

    /// The event times below which rows of each statement are written that depend on their record alone.
    pub(super) fn alone_below(&self, dataflow: &Dataflow) -> Vec<EventTime> {
        let statements = statements(dataflow);
        self.found().compares = statements.iter().any(|statement| statement.windowed);
        let below = |windowed| if windowed { EventTime::MIN } else { EventTime::MAX };
        statements.iter().map(|statement| below(statement.windowed)).collect()
    }

    /// Which records of its log an input leaves out, when it is read without the letters, or else with them.
    pub(super) fn left_out(&self, input: &str, with_letters: bool) -> Option<Places> {
        let mut places = self.compares.then(|| self.mended.others.get(input).cloned().unwrap_or_default())?;
        if !with_letters {
            for record in self.mended.records.get(input).into_iter().flatten() {
                places.entry((record.topic.clone(), record.partition)).or_default().insert(record.offset);
            }
        }
        Some(places)
    }

    /// The dataflow that compares, where reading begins, early enough for what depends on the letters to be whole, and where it ends:
    /// where the job has come to, or at the ends of the logs for one that keeps no state.
    pub(super) fn begin(
        &self,
        job: &Job,
        connected: &[ConnectedInput],
        dataflow: &Dataflow,
        options: &RunOptions,
    ) -> Result<(Begin, Dataflow), RunError> {
        let period = Period { from: self.from(job, dataflow), to: None };
        let history = Log::read(&Store::open(&job.state.store, &job.name)?)?;
        let (mut begin, below, began) = match history.begun {
            None => {
                let below = vec![EventTime::MAX; dataflow.statements().len()];
                (resume::begin_at_start(connected, dataflow, period.from, options)?, below, BTreeMap::new())
            }
            Some(begun) => {
                let last = verify::last_epoch(connected, history.epoch, &begun)?;
                let begin = verify::begin(connected, dataflow, &begun, &last, period, options)?;
                let began = begun.record.partitions.iter().map(|partition| (partition.key(), partition.replay));
                (begin, verify::until(dataflow, &last, period), began.collect())
            }
        };
        go_no_further_back(connected, &mut begin, &began)?;
        begin.written.clear(); // what an output has is what the first reading makes
        let compared = statements(dataflow).into_iter().zip(below);
        let compared: Vec<_> = compared.map(|(statement, below)| statement.windowed.then_some(below)).collect();
        let (twice, outdated) = twice(dataflow, &compared);
        self.found().outdated = outdated;
        Ok((begin, twice))
    }

    /// The event time from which on rows may depend on a letter; `None` when that has no bound.
    fn from(&self, job: &Job, dataflow: &Dataflow) -> Option<EventTime> {
        let reach = Some(reach_back(dataflow)).filter(|&reach| reach < i64::MAX)?;
        let records = self.mended.records.iter();
        let records = records.flat_map(|(input, records)| records.iter().map(move |record| (input, record)));
        let from = records.map(|(input, record)| {
            let (late_us, early_us) = distance(job, dataflow, input)?;
            let margin = late_us.saturating_add(early_us).saturating_add(reach);
            Some(EventTime::from_millis(record.timestamp_ms).minus_micros(margin))
        });
        from.collect::<Option<Vec<_>>>()?.into_iter().min()
    }
}

/// No further than where the job began.
///
/// # Errors
/// When records that the job has read may have gone from a log: what was written could not be made again.
fn go_no_further_back(
    connected: &[ConnectedInput],
    begin: &mut Begin,
    began: &BTreeMap<PartitionKey, i64>,
) -> Result<(), EngineError> {
    for (input, offsets) in connected.iter().zip(&mut begin.offsets) {
        let Transport::Kafka { input: kafka, .. } = &input.transport else { continue };
        for ((partition, (earliest, end)), offset) in kafka.partitions().iter().zip(kafka.bounds()?).zip(offsets) {
            let (name, topic, number) = (&input.spec.name, &partition.topic, partition.number);
            let first = began.get(&(name.clone(), topic.to_string(), number)).copied().unwrap_or(0);
            if first < earliest && *offset <= earliest && earliest < end {
                return Err(EngineError::Source {
                    input: name.clone(),
                    kind: ErrorKind::User,
                    message: format!(
                        "rows of records are replayed, rows of windows, joins and functions of other rows are not: topic \
                         `{topic}` partition {number} begins at offset {earliest}, and may have lost records that they need"
                    ),
                });
            }
            *offset = (*offset).max(first);
        }
    }
    Ok(())
}

/// By how much event times of an input may lie before and behind its records' arrival; `None` when nothing bounds it.
fn distance(job: &Job, dataflow: &Dataflow, input: &str) -> Option<(i64, i64)> {
    let is_topic = job.input(input).is_some_and(|input| matches!(input.transport, InputTransport::Kafka(_)));
    let (mut late_us, mut early_us) = (0, 0);
    for node in &dataflow.nodes {
        let OperatorPlan::Input(plan) = &node.operator else { continue };
        if dataflow.inputs[plan.input].name != input {
            continue;
        }
        match &plan.time {
            TimePolicy::Arrival => {}
            TimePolicy::Column { bounds: Some(_), .. } if is_topic => {
                late_us = job.time.late_arrival.micros().saturating_add(job.time.out_of_order.micros());
                early_us = EARLY_ARRIVAL_US;
            }
            TimePolicy::Column { .. } => return None,
        }
    }
    Some((late_us, early_us))
}
