//! `tidemill replay JOB`: dead letters run through their inputs once more, after what was wrong with them was mended.

use tidemill_jobs::{
    dead_letters::{Selection, select},
    run::{self, RunOptions},
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
    if replay.records.is_empty() {
        return print(format!("{}: nothing to replay\n", job.name).as_bytes());
    }
    replay.enter(&job).map_err(anyhow::Error::from)?;
    let options = RunOptions { workers: Some(1), ..look };
    report(&job, &options, &mut |show| run::replay(&job, replay.records.clone(), &options, show))
}
