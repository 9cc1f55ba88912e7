//! Scheduled pipelines: runs of a job over ranges of time, each record in exactly one of them.
//!
//! ```text
//! instants (timing) -> ranges that are due (advance) -> boundaries in offsets -> a bounded run into files aside -> published -> ledger
//! ```
//! - [`timing`]: the instants of a schedule, daylight saving included.
//! - [`ledger`]: what was run, and the offsets at which each instant cuts the topics, in the job's state store.
//! - [`trimming`]: what of it goes again.
//! - [`advance`]: from the ledger and the time to what is to be run, and the order of a run's steps. Nothing in it knows Kafka.
//! - [`ingest`]: these steps on real topics and files.
//! - [`folders`]: the files of a range, seen all at once.
//!
//! An instant cuts each partition once: at the first record that the broker stamped then or later. The cut is put into the ledger before
//! anything is read by it, and never changes; so ranges between instants meet without a gap and without an overlap, whoever runs them, and
//! however often. A record that came in behind the cut that its timestamp lies before (the broker's clock had stepped back, or was further behind than
//! `clock_uncertainty` and `idle_margin` allow for) is read by the range behind it, as its late part: the query is run over these records by
//! themselves, into the folder `late` of each output's (`late=true` where files are partitioned), and the ledger says how many they were.

mod advance;
mod folders;
mod ingest;
mod ledger;
mod timing;
mod trimming;

#[cfg(test)]
mod tests;

use std::sync::{Arc, atomic::Ordering};

use tidemill_engine::EventTime;

pub(crate) use folders::check_names;
pub use ledger::{Outcome, RunRecord};
pub use timing::{CatchUp, Pipeline, Timing};

use crate::{
    epoch::store::{Store, StoreError},
    run::{RunError, RunOptions},
    spec::Job,
};
use advance::{Progress, Range, due, ranges_within, run_range, to_run};
use ingest::Ingest;
use ledger::Ledger;

/// Where a pipeline stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Whether it is paused.
    pub paused: bool,
    /// Its last run.
    pub last: Option<RunRecord>,
    /// Ranges that are due.
    pub due: usize,
    /// The next instant.
    pub next: Option<EventTime>,
}

/// What an attempt to run what is due came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Nothing is due any more.
    Idle,
    /// It is paused.
    Paused,
    /// The end of the next range is too near: records of it may still come in.
    NotClosed,
}

fn pipeline(job: &Job) -> Result<&Pipeline, RunError> {
    job.schedule.as_ref().ok_or_else(|| RunError::State {
        path: job.name.clone(),
        message: "the job has no `schedule`; run it with `tidemill run`".to_owned(),
    })
}

fn store(job: &Job) -> Result<Arc<Store>, RunError> {
    Ok(Arc::new(Store::open(&job.state.store, &job.name)?))
}

/// Where a pipeline stands; connects to nothing but its state store.
///
/// # Errors
/// Of the store; a job without a schedule.
pub fn list(job: &Job, now: EventTime) -> Result<Listing, RunError> {
    let pipeline = pipeline(job)?;
    let ledger = Ledger::new(store(job)?);
    let done_up_to = ledger.done_up_to()?;
    Ok(Listing {
        paused: ledger.is_paused()?,
        last: ledger.last()?,
        due: due(done_up_to, now, pipeline).len(),
        next: pipeline.timing.after(now),
    })
}

/// Pauses a pipeline, or lets it go on; a run that is under way ends as it would.
///
/// # Errors
/// Of the store; a job without a schedule.
pub fn set_paused(job: &Job, paused: bool) -> Result<(), RunError> {
    pipeline(job)?;
    Ok(Ledger::new(store(job)?).set_paused(paused)?)
}

/// Runs every range that is due, in order; `each` is told of each run. Several callers at a time do no harm: a range has the same rows,
/// whoever runs it.
///
/// # Errors
/// Of the first run that fails, which is noted in the ledger; its range is due again.
pub fn run_due(job: &Job, options: &RunOptions, each: &mut dyn FnMut(&RunRecord)) -> Result<Attempt, RunError> {
    let pipeline = pipeline(job)?;
    let ledger = Ledger::new(store(job)?);
    if ledger.is_paused()? {
        return Ok(Attempt::Paused);
    }
    let now = options.clock.wall();
    let ranges = to_run(&ledger, now, pipeline)?;
    run_ranges(job, ranges, (&ledger, pipeline.keep_runs), options, each)
}

/// Runs the ranges of the schedule that lie in a period and were not run; those that were stay as they are.
///
/// # Errors
/// As [`run_due`].
pub fn backfill(
    job: &Job,
    (from, to): (EventTime, EventTime),
    options: &RunOptions,
    each: &mut dyn FnMut(&RunRecord),
) -> Result<Attempt, RunError> {
    let pipeline = pipeline(job)?;
    let ledger = Ledger::new(store(job)?);
    let ranges = ranges_within(from, to.min(options.clock.wall()), &pipeline.timing);
    run_ranges(job, ranges, (&ledger, pipeline.keep_runs), options, each)
}

fn run_ranges(
    job: &Job,
    mut ranges: Vec<Range>,
    (ledger, keep_runs): (&Ledger, usize),
    options: &RunOptions,
    each: &mut dyn FnMut(&RunRecord),
) -> Result<Attempt, RunError> {
    if ranges.is_empty() {
        return Ok(Attempt::Idle);
    }
    // A contact for what cannot be run yet would be made for nothing.
    let closed_before = options.clock.wall().0 - ingest::closed_after_us(job);
    ranges.retain(|range| range.to.0 <= closed_before);
    if ranges.is_empty() {
        return Ok(Attempt::NotClosed);
    }
    let mut ingest = Ingest::connect(job, options)?;
    for range in ranges {
        if options.stop.load(Ordering::Relaxed) {
            return Ok(Attempt::NotClosed);
        }
        match run_range(ledger, &mut ingest, range, &|| options.clock.wall())? {
            Progress::Ran(record) => {
                each(&record);
                // What cannot be trimmed now is trimmed after the next run.
                let _ = trim(ledger, keep_runs);
            }
            Progress::RanBefore => {}
            Progress::NotClosed => return Ok(Attempt::NotClosed),
        }
    }
    Ok(Attempt::Idle)
}

fn trim(ledger: &Ledger, keep_runs: usize) -> Result<(), StoreError> {
    for step in ledger.trimming(keep_runs)? {
        if !ledger.trim(&step)? {
            break;
        }
    }
    Ok(())
}
