//! `tidemill verify JOB`: what a job has committed against what its query makes of the same records.

use tidemill_engine::EventTime;
use tidemill_jobs::{
    run::{self, Period, RunOptions, Verdict, Verified},
    spec,
};

use super::print;
use crate::{
    cli::{LogFormat, VerifyArgs},
    clock::MachineClock,
    failure::{self, Failure},
    logging,
};

pub(super) fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    logging::init(LogFormat::Text);
    let job = spec::load(&args.job)?;
    run::check(&job).map_err(|errors| failure::in_file(&job.query, &errors))?;
    let options = RunOptions::of_a_look(args.wait.get(), MachineClock::start());
    let time = |t: chrono::DateTime<chrono::FixedOffset>| EventTime(t.timestamp_micros());
    let period = Period { from: args.from.map(time), to: args.to.map(time) };
    let verified = run::verify(&job, period, &options).map_err(anyhow::Error::from)?;
    let text: String = verified.iter().map(as_text).collect();
    print(text.as_bytes())?;
    if verified.iter().all(Verified::ok) { Ok(()) } else { Err(Failure::AtRunTimeAndShown) }
}

fn as_text(verified: &Verified) -> String {
    let Verified { output, outcome } = verified;
    match outcome {
        Verdict::NotCompared(why) => format!("output `{output}`: not compared: {why}\n"),
        Verdict::Compared { rows, missing: 0, more: 0, .. } => format!("output `{output}`: {rows} rows, equal\n"),
        Verdict::Compared { rows, missing, more, examples } => {
            let examples: String = examples.iter().map(|example| format!("  {example}\n")).collect();
            format!(
                "output `{output}`: of {rows} rows {missing} are missing, {more} are there that should not be\n{examples}"
            )
        }
    }
}
