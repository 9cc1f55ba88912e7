//! `tidemill run JOB`, and what `demo` shares with it.

use std::sync::Arc;

use anyhow::Context;
use tidemill_jobs::{
    metrics,
    run::{self, RunError, RunOptions, Status, Summary},
    spec::{self, Job},
};

use crate::{
    cli::RunArgs,
    clock::MachineClock,
    failure::{self, Failure},
    logging,
    report::Report,
    signals,
};

pub(super) fn run(args: &RunArgs) -> Result<(), Failure> {
    logging::init(args.log_format);
    let job = spec::load(&args.job)?;
    if job.schedule.is_some() {
        return Err(failure::of_file(&args.job, "it has a `schedule`; run it with `tidemill schedule run`, or `once`"));
    }
    let options = RunOptions {
        bounded: args.bounded,
        from_start: args.from_start,
        discard_state: args.discard_state,
        reinfer: args.reinfer,
        workers: args.workers.map(Into::into),
        ..RunOptions::new(args.wait.get(), MachineClock::start())
    };
    signals::set_on_signal(Arc::clone(&options.stop)).context("cannot wait for signals")?;
    let server = args.metrics.as_ref().map(|address| {
        metrics::serve(address, Arc::clone(&options.stats), Arc::clone(&options.clock))
            .with_context(|| format!("cannot serve metrics at `{address}`"))
    });
    let server = server.transpose()?;
    if let Some(server) = &server {
        tracing::info!("metrics at http://{}/metrics", server.address());
    }
    execute(&job, &options, &mut |_| {})
}

/// Runs a job to its end or until it is stopped, and shows how it goes. `each` is called about five times a second.
pub(super) fn execute(job: &Job, options: &RunOptions, each: &mut dyn FnMut(&Status)) -> Result<(), Failure> {
    report(job, options, &mut |show| {
        run::run(job, options, &mut |status| {
            show(status);
            each(status);
        })
    })
}

/// Takes the status of a run, about five times a second.
type Show<'s> = dyn FnMut(&Status) + 's;

/// Shows how a run of a job goes, which is given what shows it.
pub(super) fn report(
    job: &Job,
    options: &RunOptions,
    run: &mut dyn FnMut(&mut Show<'_>) -> Result<Summary, RunError>,
) -> Result<(), Failure> {
    run::check(job).map_err(|errors| failure::in_file(&job.query, &errors))?;
    let status = || options.stats.status(options.clock.as_ref(), options.bounded);
    let mut report = Report::new(&job.dead_letters.transport);
    report.show(&status());
    let outcome = run(&mut |status| report.show(status));
    match outcome {
        Ok(summary) => report.close(&summary.status, summary.stopped),
        Err(RunError::Query { query, errors }) => {
            return Err(anyhow::Error::from(failure::in_file(&query, &errors)).into());
        }
        Err(error) => return Err(anyhow::Error::from(error).into()),
    }
    Ok(())
}
