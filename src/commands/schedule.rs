//! `tidemill schedule`: pipelines that are run by the clock.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use chrono::{DateTime, SecondsFormat};
use serde_json::json;
use tidemill_engine::{Clock, ErrorKind, EventTime, Monotonic};
use tidemill_jobs::{
    run::{RunError, RunOptions},
    schedule::{self, Attempt, Listing, Outcome, RunRecord},
    spec::{self, Job},
};

use super::print;
use crate::{
    cli::{LogFormat, ReportFormat, ScheduleArgs, ScheduleCommand},
    clock::MachineClock,
    failure::{self, Failure},
    logging, signals,
};

/// How long a pipeline rests before it is looked at again.
const LOOK_EVERY_US: i64 = 1_000_000;
/// The pause after a failure, and the longest; it doubles.
const PAUSES_US: (i64, i64) = (1_000_000, 300_000_000);
/// How long a thread waits when there is nothing to do.
const TICK: Duration = Duration::from_millis(100);

pub(super) fn schedule(args: &ScheduleArgs) -> Result<(), Failure> {
    logging::init(LogFormat::Text);
    match &args.command {
        ScheduleCommand::Run { specs, parallel, wait } => run(load(specs)?, parallel.get(), wait.get()),
        ScheduleCommand::Once { specs, wait } => once(&load(specs)?, wait.get()),
        ScheduleCommand::List { specs, format } => list(&load(specs)?, *format),
        ScheduleCommand::Backfill { spec, from, to, wait } => {
            let jobs = load(std::slice::from_ref(spec))?;
            let period = (EventTime(from.timestamp_micros()), EventTime(to.timestamp_micros()));
            let options = options(wait.get(), Arc::default());
            signals::set_on_signal(Arc::clone(&options.stop)).context("cannot wait for signals")?;
            for job in &jobs {
                let attempt = schedule::backfill(job, period, &options, &mut |record| tell(job, record));
                settle(job, attempt)?;
            }
            Ok(())
        }
        ScheduleCommand::Pause { spec } => set_paused(spec, true),
        ScheduleCommand::Resume { spec } => set_paused(spec, false),
    }
}

fn set_paused(spec: &PathBuf, paused: bool) -> Result<(), Failure> {
    for job in load(std::slice::from_ref(spec))? {
        schedule::set_paused(&job, paused).map_err(anyhow::Error::from)?;
        tracing::info!("{}: {}", job.name, if paused { "paused" } else { "goes on" });
    }
    Ok(())
}

/// The jobs of specs, all of which have a schedule.
fn load(specs: &[PathBuf]) -> Result<Vec<Job>, Failure> {
    let mut jobs: Vec<Job> = vec![];
    for path in specs {
        let job = spec::load(path)?;
        if job.schedule.is_none() {
            return Err(failure::of_file(path, "it has no `schedule`; run it with `tidemill run`"));
        }
        if jobs.iter().any(|other| other.name == job.name) {
            return Err(failure::of_file(path, &format!("two pipelines have the name `{}`", job.name)));
        }
        jobs.push(job);
    }
    Ok(jobs)
}

fn options(wait: Duration, stop: Arc<AtomicBool>) -> RunOptions {
    RunOptions { bounded: true, from_start: true, stop, ..RunOptions::new(wait, MachineClock::start()) }
}

/// Runs every range that is due, and ends.
fn once(jobs: &[Job], wait: Duration) -> Result<(), Failure> {
    let options = options(wait, Arc::default());
    signals::set_on_signal(Arc::clone(&options.stop)).context("cannot wait for signals")?;
    let mut failed = None;
    for job in jobs {
        let attempt = schedule::run_due(job, &options, &mut |record| tell(job, record));
        if let Err(failure) = settle(job, attempt) {
            // The others are run nevertheless.
            failed = Some(failure);
        }
    }
    failed.map_or(Ok(()), Err)
}

fn settle(job: &Job, attempt: Result<Attempt, RunError>) -> Result<(), Failure> {
    match attempt {
        Ok(Attempt::Idle) => Ok(()),
        Ok(Attempt::Paused) => {
            tracing::info!("{}: paused", job.name);
            Ok(())
        }
        Ok(Attempt::NotClosed) => {
            tracing::info!("{}: records of the last range may still come in; it is run the next time", job.name);
            Ok(())
        }
        Err(error) => {
            tracing::error!("{}: {error}", job.name);
            Err(Failure::AtRunTimeAndShown)
        }
    }
}

fn tell(job: &Job, record: &RunRecord) {
    tracing::info!("{}: {} to {}: {}", job.name, text(record.from), text(record.to), counts(record));
}

fn counts(RunRecord { records, rows, late, .. }: &RunRecord) -> String {
    let late = if *late > 0 { format!(", {late} of them late") } else { String::new() };
    format!("{records} records{late}, {rows} rows")
}

/// A pipeline of the scheduler.
struct Pipeline {
    job: Job,
    /// When it is looked at next.
    at: Monotonic,
    failures: u32,
}

/// Runs pipelines until it is stopped: each as its ranges come due, `parallel` of them at a time, none beside itself.
fn run(jobs: Vec<Job>, parallel: usize, wait: Duration) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let options = options(wait, Arc::clone(&stop));
    signals::set_on_signal(Arc::clone(&stop)).context("cannot wait for signals")?;
    let now = options.clock.monotonic();
    let pipelines = jobs.into_iter().map(|job| Pipeline { job, at: now, failures: 0 });
    let waiting = Mutex::new(pipelines.collect::<VecDeque<_>>());
    let worker = || -> Result<(), RunError> {
        while !stop.load(Ordering::Relaxed) {
            let Some(mut pipeline) = take(&waiting, options.clock.as_ref()) else {
                thread::sleep(TICK);
                continue;
            };
            let outcome = schedule::run_due(&pipeline.job, &options, &mut |record| tell(&pipeline.job, record));
            let pause = match outcome {
                Ok(_) => {
                    pipeline.failures = 0;
                    LOOK_EVERY_US
                }
                // Nothing that waiting could cure.
                Err(error) if matches!(error.kind(), ErrorKind::Bug) => return Err(error),
                Err(error) => {
                    let pause = PAUSES_US.0.saturating_mul(1 << pipeline.failures.min(20)).min(PAUSES_US.1);
                    pipeline.failures += 1;
                    tracing::warn!("{}: {error}; again in {} s", pipeline.job.name, pause / 1_000_000);
                    pause
                }
            };
            pipeline.at = Monotonic(options.clock.monotonic().0 + pause);
            lock(&waiting).push_back(pipeline);
        }
        Ok(())
    };
    let ended = thread::scope(|scope| {
        let workers: Vec<_> = (0..parallel).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().map(|worker| worker.join()).collect::<Vec<_>>()
    });
    for outcome in ended {
        let outcome = outcome.map_err(|_| anyhow!("a pipeline's thread panicked; please report this as a bug"))?;
        outcome.map_err(anyhow::Error::from)?;
    }
    Ok(())
}

/// The first pipeline that is to be looked at; nobody else has it meanwhile.
fn take(waiting: &Mutex<VecDeque<Pipeline>>, clock: &dyn Clock) -> Option<Pipeline> {
    let mut waiting = lock(waiting);
    let now = clock.monotonic();
    let due = waiting.iter().position(|pipeline| pipeline.at <= now)?;
    waiting.remove(due)
}

fn lock(waiting: &Mutex<VecDeque<Pipeline>>) -> MutexGuard<'_, VecDeque<Pipeline>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn list(jobs: &[Job], format: ReportFormat) -> Result<(), Failure> {
    let now = MachineClock::start().wall();
    let mut out = String::new();
    for job in jobs {
        let listing = schedule::list(job, now).map_err(anyhow::Error::from)?;
        // Writing to a String cannot fail.
        let _ = match format {
            ReportFormat::Text => write!(out, "{}", as_text(&job.name, &listing)),
            ReportFormat::Json => writeln!(
                out,
                "{}",
                json!({
                    "pipeline": job.name,
                    "paused": listing.paused,
                    "due": listing.due,
                    "next": listing.next.map(|next| text(next.0)),
                    "last": listing.last,
                })
            ),
        };
    }
    print(out.as_bytes())
}

fn as_text(name: &str, listing: &Listing) -> String {
    let mut out = format!("{name}{}\n", if listing.paused { " (paused)" } else { "" });
    if let Some(last) = &listing.last {
        let outcome = match &last.outcome {
            Outcome::Done => counts(last),
            Outcome::Failed(error) => format!("failed, {} attempts: {error}", last.attempts),
        };
        let _ = writeln!(out, "  last: {} to {}: {outcome}", text(last.from), text(last.to));
    }
    let next = listing.next.map_or_else(|| "never".to_owned(), |next| text(next.0));
    let _ = writeln!(out, "  next: {next}; due: {}", listing.due);
    out
}

/// In RFC 3339.
fn text(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros).unwrap_or_default().to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
