//! Which ranges are due, and the steps of one run in their order.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat::AutoSi};
use tidemill_engine::EventTime;

use super::{
    ledger::{Boundary, Ledger, Outcome, RunRecord, Standing},
    timing::{CatchUp, Pipeline, Timing},
};
use crate::{
    epoch::store::StoreError,
    run::{RunError, Stretches},
};

/// From an instant to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) from: EventTime,
    pub(super) to: EventTime,
}

/// The ranges that are to be run at `now` by the schedule. Its first run says where it begins, before it does anything else: should it die, and
/// its successor come much later, there is no gap behind what it may have written.
pub(super) fn to_run(ledger: &Ledger, now: EventTime, pipeline: &Pipeline) -> Result<Vec<Range>, StoreError> {
    let mut from = ledger.done_up_to()?;
    if from.is_none()
        && let Some(begin) = begin(now, &pipeline.timing)
    {
        from = Some(ledger.begin(begin)?);
    }
    Ok(due(from, now, pipeline))
}

/// Where a pipeline begins of which nothing was run: its first range is the last one.
fn begin(now: EventTime, timing: &Timing) -> Option<EventTime> {
    timing.at_or_before(now).and_then(|end| timing.at_or_before(EventTime(end.0 - 1)))
}

/// The ranges from what was done up to `now`, the oldest first.
pub(super) fn due(done_up_to: Option<EventTime>, now: EventTime, pipeline: &Pipeline) -> Vec<Range> {
    let timing = &pipeline.timing;
    let Some(from) = done_up_to.or_else(|| begin(now, timing)) else { return vec![] };
    let mut ranges = from_on(from, now, timing);
    let kept = match pipeline.catch_up {
        CatchUp::All => ranges.len(),
        CatchUp::Latest => 2,
        CatchUp::None => 1,
    };
    ranges.split_off(ranges.len().saturating_sub(kept))
}

/// The ranges between the instants at or behind `from` and up to `to`.
pub(super) fn ranges_within(from: EventTime, to: EventTime, timing: &Timing) -> Vec<Range> {
    timing.after(EventTime(from.0 - 1)).map_or(vec![], |begin| from_on(begin, to, timing))
}

/// From `begin` on, from instant to instant, up to `to`.
fn from_on(mut begin: EventTime, to: EventTime, timing: &Timing) -> Vec<Range> {
    let mut ranges = vec![];
    while let Some(end) = timing.after(begin).filter(|end| *end <= to) {
        ranges.push(Range { from: begin, to: end });
        begin = end;
    }
    ranges
}

/// What a run is made of.
pub(super) trait Steps {
    /// Where an instant cuts the topics; `None` while records of before it may come in.
    fn boundary(&mut self, at: EventTime) -> Result<Option<Boundary>, RunError>;

    /// Puts the rows of all records between two boundaries in the place of what was there of the range, all at once.
    fn write(&mut self, range: Range, from: &Boundary, to: &Boundary) -> Result<Written, RunError>;
}

/// What a run has read and written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Written {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) rows: u64,
    /// Of the records, those with timestamps of before the range.
    pub(super) late: u64,
}

/// What came of a range.
pub(super) enum Progress {
    Ran(RunRecord),
    RanBefore,
    NotClosed,
}

/// Runs a range unless it was run. A failure is noted; its range is as if it had not been run.
pub(super) fn run_range(
    ledger: &Ledger,
    steps: &mut dyn Steps,
    range: Range,
    now: &dyn Fn() -> EventTime,
) -> Result<Progress, RunError> {
    if ran_before(ledger, range)? {
        return Ok(Progress::RanBefore);
    }
    let attempts = ledger.failures(range)? + 1;
    let (mut from, mut to) = (Boundary::new(), Boundary::new());
    let outcome = (|| -> Result<Result<Written, Progress>, RunError> {
        for (at, boundary) in [(range.from, &mut from), (range.to, &mut to)] {
            *boundary = match ledger.boundary(at)? {
                Some(fixed) => fixed,
                None => match steps.boundary(at)? {
                    Some(found) => ledger.fix_boundary(at, found)?,
                    None => return Ok(Err(Progress::NotClosed)),
                },
            };
        }
        // Whoever was frozen until others had run the range and trimmed its boundaries has fixed them anew, maybe elsewhere.
        if ran_before(ledger, range)? {
            return Ok(Err(Progress::RanBefore));
        }
        steps.write(range, &from, &to).map(Ok)
    })();
    let (outcome, written, error) = match outcome {
        Ok(Err(progress)) => return Ok(progress),
        Ok(Ok(written)) => (Outcome::Done, written, None),
        Err(error) => (Outcome::Failed(error.to_string()), Written::default(), Some(error)),
    };
    let Written { records, bytes, rows, late } = written;
    let (offsets, ended) = (between(&from, &to), now().0);
    let record =
        RunRecord { from: range.from.0, to: range.to.0, outcome, attempts, records, bytes, rows, late, offsets, ended };
    match error {
        None => {
            ledger.put(&record)?;
            Ok(Progress::Ran(record))
        }
        Some(error) => {
            let _ = ledger.put(&record); // why it failed is worth more than why that cannot be noted
            Err(error)
        }
    }
}

/// Whether all of a range was run; an error when a part was, while the schedule was another.
fn ran_before(ledger: &Ledger, range: Range) -> Result<bool, RunError> {
    let text = |range: Range| {
        let [from, to] = [range.from, range.to]
            .map(|at| DateTime::from_timestamp_micros(at.0).unwrap_or_default().to_rfc3339_opts(AutoSi, true));
        format!("{from} to {to}")
    };
    match ledger.standing(range)? {
        Standing::Open => Ok(false),
        Standing::Ran => Ok(true),
        Standing::Overlaps(ran) => Err(RunError::Overlap { range: text(range), ran: text(ran) }),
    }
}

/// Of each partition where it begins and ends; one that is new begins at 0.
pub(super) fn between(from: &Boundary, to: &Boundary) -> Stretches {
    let of_input = |input: &String, topics: &BTreeMap<String, BTreeMap<i32, i64>>| {
        let of_topic = |topic: &String, partitions: &BTreeMap<i32, i64>| {
            let begin = |partition: i32| from.get(input)?.get(topic)?.get(&partition).copied();
            partitions.iter().map(|(&number, &end)| (number, (begin(number).unwrap_or(0).min(end), end))).collect()
        };
        topics.iter().map(|(topic, partitions)| (topic.clone(), of_topic(topic, partitions))).collect()
    };
    to.iter().map(|(input, topics)| (input.clone(), of_input(input, topics))).collect()
}
