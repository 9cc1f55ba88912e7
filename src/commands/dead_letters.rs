//! `tidemill dead-letters JOB`: what could not become rows, by class.

use std::fmt::Write as _;

use serde_json::json;
use tidemill_jobs::{
    dead_letters::{ClassSummary, Letter, summarize},
    run::RunOptions,
    spec,
};

use super::print;
use crate::{
    cli::{DeadLettersArgs, LogFormat, ReportFormat},
    clock::MachineClock,
    failure::Failure,
    logging,
};

pub(super) fn dead_letters(args: &DeadLettersArgs) -> Result<(), Failure> {
    logging::init(LogFormat::Text);
    let job = spec::load(&args.job)?;
    let options = RunOptions::of_a_look(args.wait.get(), MachineClock::start());
    let classes = summarize(&job, &options).map_err(anyhow::Error::from)?;
    match args.format {
        ReportFormat::Json => print(format!("{}\n", json!({"job": job.name, "classes": classes})).as_bytes()),
        ReportFormat::Text => print(text(&job.name, &classes).as_bytes()),
    }
}

fn text(job: &str, classes: &[ClassSummary]) -> String {
    let total: u64 = classes.iter().map(|class| class.count).sum();
    let mut out = format!("{job}: {total} dead letters\n");
    for ClassSummary { class, count, first, last, samples } in classes {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{class}: {count}, from {first} to {last}");
        for Letter { input, topic, partition, offset, error, .. } in samples {
            let _ = writeln!(out, "  {input}: `{topic}` partition {partition} offset {offset}: {error}");
        }
    }
    out
}
