//! Dead letters run through their inputs once more: `tidemill replay`.
//!
//! Twice. Rows of records are made of the letters alone. A window is more than its letters: those that hold one are made anew of all
//! records of the log, and their rows are written once more, whole. What a statement's rows are is told by its plan: with joins,
//! analytic functions and windows that begin with a row, they are made of the letters alone as well.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tidemill_connectors::replay::KeptRecord;
use tidemill_engine::{
    EngineError, ErrorKind, EventTime,
    dataflow::{
        plan::{Dataflow, OperatorPlan, TimePolicy},
        stage::reaches_back,
    },
    window::slices::WINDOW_TIME_BEFORE_END_US,
};

use super::{
    EARLY_ARRIVAL_US, RunError, RunOptions, Status, Summary,
    inputs::{ConnectedInput, Transport},
    resume::{self, Begin, statements},
    run,
    verify::{self, Period},
};
use crate::{
    epoch::store::{Log, Store},
    spec::{InputTransport, Job},
};

/// What is replayed, and which half of it.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// By input, the records.
    pub(super) records: Arc<BTreeMap<String, Vec<KeptRecord>>>,
    /// Whether windows are made anew, rather than rows of records.
    pub(super) windows: bool,
    /// Set when the query has such windows.
    pub(super) has_windows: Arc<AtomicBool>,
}

/// Replays records. `each` is called about five times a second.
///
/// # Errors
/// Whatever makes going on impossible.
pub fn replay(
    job: &Job,
    records: BTreeMap<String, Vec<KeptRecord>>,
    options: &RunOptions,
    each: &mut dyn FnMut(&Status),
) -> Result<Summary, RunError> {
    let mut replayed = Replayed { records: Arc::new(records), windows: false, has_windows: Arc::default() };
    let of = |replayed: &Replayed| RunOptions { replay: Some(replayed.clone()), ..options.clone() };
    let rows = run(job, &of(&replayed), each)?;
    if rows.stopped || !replayed.has_windows.load(Ordering::Relaxed) {
        return Ok(rows);
    }
    replayed.windows = true;
    run(job, &of(&replayed), each)
}

impl Replayed {
    /// The event times of the rows of each statement that this half writes.
    pub(super) fn wanted(
        &self,
        job: &Job,
        dataflow: &Dataflow,
        until: Option<&[EventTime]>,
    ) -> Vec<Vec<Range<EventTime>>> {
        let reaches = reaches_back(dataflow);
        let statements = statements(dataflow);
        let of_windows = statements.iter().any(|statement| statement.is_of_windows);
        self.has_windows.store(of_windows, Ordering::Relaxed);
        let wanted = statements.iter().enumerate().map(|(index, statement)| {
            if statement.is_of_windows != self.windows {
                return vec![];
            }
            let end = until.and_then(|until| until.get(index)).copied().unwrap_or(EventTime::MAX);
            match self.windows {
                true => self.touched(job, dataflow, reaches[statement.node], end),
                false => vec![EventTime::MIN..end],
            }
        });
        wanted.collect()
    }

    /// The event times of windows that may hold one of the records.
    fn touched(&self, job: &Job, dataflow: &Dataflow, reach: i64, end: EventTime) -> Vec<Range<EventTime>> {
        let mut ranges: Vec<Range<EventTime>> = vec![];
        for (name, records) in self.records.iter() {
            let Some((late_us, early_us)) = distance(job, dataflow, name) else {
                return vec![EventTime::MIN..end];
            };
            let range = |record: &KeptRecord| {
                let arrival = EventTime::from_millis(record.timestamp_ms);
                let from = arrival.minus_micros(late_us.saturating_add(WINDOW_TIME_BEFORE_END_US));
                let ahead = reach.saturating_add(early_us).saturating_sub(WINDOW_TIME_BEFORE_END_US);
                from..EventTime(arrival.0.saturating_add(ahead)).min(end)
            };
            ranges.extend(records.iter().map(range).filter(|range| !range.is_empty()));
        }
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, range| {
            let touches = next.start <= range.end;
            if touches {
                range.end = range.end.max(next.end);
            }
            touches
        });
        ranges
    }

    /// Where reading begins, early enough for the windows to be whole, and where it ends: where the job has come to, or at the ends of
    /// the logs for one that keeps no state. With it, the event time at which the job's rows of each statement end.
    pub(super) fn begin(
        &self,
        job: &Job,
        connected: &[ConnectedInput],
        dataflow: &Dataflow,
        options: &RunOptions,
    ) -> Result<(Begin, Option<Vec<EventTime>>), RunError> {
        let records =
            self.records.iter().flat_map(|(input, records)| records.iter().map(move |record| (input, record)));
        let first = records.map(|(input, record)| {
            let (late_us, early_us) = distance(job, dataflow, input)?;
            let margin = late_us.saturating_add(early_us).saturating_add(WINDOW_TIME_BEFORE_END_US);
            Some(EventTime::from_millis(record.timestamp_ms).minus_micros(margin))
        });
        let from = first.collect::<Option<Vec<_>>>().and_then(|times| times.into_iter().min());
        let history = Log::read(&Store::open(&job.state.store, &job.name)?)?;
        let Some(begun) = history.begun else {
            let begin = resume::begin_at_start(connected, dataflow, from, options)?;
            self.are_there(connected, &begin)?;
            return Ok((begin, None));
        };
        let last = verify::last_epoch(connected, history.epoch, &begun)?;
        let period = Period { from, to: None };
        let begin = verify::begin(connected, dataflow, &begun, &last, period, options)?;
        self.are_there(connected, &begin)?;
        Ok((begin, Some(verify::until(dataflow, &last, period))))
    }

    /// # Errors
    /// When records of the windows may have gone from a log: less than what was written would be written in its place.
    fn are_there(&self, connected: &[ConnectedInput], begin: &Begin) -> Result<(), EngineError> {
        for (input, offsets) in connected.iter().zip(&begin.offsets) {
            let Transport::Kafka { input: kafka, .. } = &input.transport else { continue };
            let Some(records) = self.records.get(&input.spec.name) else { continue };
            for ((partition, (earliest, _)), &offset) in kafka.partitions().iter().zip(kafka.bounds()?).zip(offsets) {
                let (topic, number) = (&*partition.topic, partition.number);
                let has_letters = records.iter().any(|record| record.topic == *topic && record.partition == number);
                if has_letters && earliest > 0 && offset <= earliest {
                    return Err(EngineError::Source {
                        input: input.spec.name.clone(),
                        kind: ErrorKind::User,
                        message: format!(
                            "rows of records are replayed, windows are not: topic `{topic}` partition {number} begins at offset \
                             {earliest}, and may have lost records of theirs"
                        ),
                    });
                }
            }
        }
        Ok(())
    }
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
