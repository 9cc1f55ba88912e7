//! `tidemill replay JOB`: dead letters run through their inputs once more, after what was wrong with them was mended.

use tidemill_jobs::{
    dead_letters::{Selection, select},
    run::{self, OutdatedRows, RunOptions},
    spec,
};

use super::{print, run::report};
use crate::{
    cli::{LogFormat, ReplayArgs},
    clock::MachineClock,
    failure::Failure,
    logging,
};

pub(super) fn replay(args: &ReplayArgs) -> Result<(), Failure> {
    logging::init(LogFormat::Text);
    let job = spec::load(&args.job)?;
    let selection = Selection { class: args.class.clone(), since: args.since };
    let look = RunOptions::of_a_look(args.wait.get(), MachineClock::start());
    let replay = select(&job, &selection, &look).map_err(anyhow::Error::from)?;
    if replay.mended.records.is_empty() {
        return print(format!("{}: nothing to replay\n", job.name).as_bytes());
    }
    replay.enter(&job).map_err(anyhow::Error::from)?;
    let options = RunOptions { workers: Some(1), ..look };
    let (mut mended, mut outdated) = (Some(replay.mended), vec![]);
    report(&job, &options, &mut |show| {
        let replayed = run::replay(&job, mended.take().unwrap_or_default(), &options, show)?;
        outdated = replayed.outdated;
        Ok(replayed.summary)
    })?;
    let lines: String = outdated.iter().map(line).collect();
    print(lines.as_bytes())
}

/// What an append-only output cannot take back.
fn line(OutdatedRows { output, rows, without_successor }: &OutdatedRows) -> String {
    format!(
        "output `{output}`: {rows} rows that were written before would not be there; for {without_successor} of them no new row of the \
         same event time was written\n"
    )
}
