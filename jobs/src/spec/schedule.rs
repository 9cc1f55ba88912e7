//! The schedule of a pipeline, and what a job must be like to be run by one.

use chrono_tz::Tz;

use super::{
    check::Check,
    job::{Input, InputTransport, Output, OutputTransport, Start, Timestamp},
    problem::Path,
    raw::{RawFileOutput, RawJob, RawSchedule},
};
use crate::schedule::{Pipeline, Timing};

/// The only range that a run can have.
const RANGE: &str = "[previous, now)";

/// `Some(None)` without a schedule.
pub(super) fn schedule(
    check: &mut Check<'_>,
    root: &Path,
    raw: &RawJob,
    inputs: Option<&[Input]>,
    outputs: Option<&[Output]>,
) -> Option<Option<Pipeline>> {
    if let Some(range) = raw.range.as_ref().filter(|range| *range != RANGE) {
        check.problem(&root.key("range"), format!("expected `\"{RANGE}\"`, found `{range}`"));
    }
    for (name, output) in raw.outputs.iter() {
        let path = root.key("outputs").key(name).key("file");
        output.file.iter().for_each(|file| check_file(check, &path, file, raw.schedule.is_some()));
    }
    let Some(schedule) = &raw.schedule else {
        if raw.range.is_some() {
            check.problem(&root.key("range"), "`range` has no effect without `schedule`");
        }
        return Some(None);
    };
    inputs.into_iter().flatten().for_each(|input| check_input(check, &root.key("inputs"), input));
    outputs.into_iter().flatten().for_each(|output| check_output(check, &root.key("outputs"), output));
    let path = root.key("schedule");
    let timing = timing(check, &path, schedule);
    if schedule.keep_runs == 0 {
        check.problem(
            &path.key("keep_runs"),
            "expected a number from 1: the next range begins where the last run ended",
        );
    }
    Some(Some(Pipeline { timing: timing?, catch_up: schedule.catch_up, keep_runs: schedule.keep_runs as usize }))
}

fn timing(check: &mut Check<'_>, path: &Path, raw: &RawSchedule) -> Option<Timing> {
    check.exactly_one(path, &[("cron", raw.cron.is_some()), ("every", raw.every.is_some())]);
    match (&raw.cron, raw.every) {
        (Some(cron), None) => {
            let zone = raw.zone.as_deref().unwrap_or("UTC");
            let zone =
                zone.parse::<Tz>().map_err(|_| format!("expected a time zone such as `Europe/Paris`, found `{zone}`"));
            let zone = check.holds_value(&path.key("zone"), zone)?;
            check.holds_value(&path.key("cron"), Timing::cron(cron, zone))
        }
        (None, Some(every)) => {
            if raw.zone.is_some() {
                check.problem(&path.key("zone"), "`zone` has no effect without `cron`");
            }
            if every.micros() < 1_000_000 {
                check.problem(&path.key("every"), "expected a second at least");
                return None;
            }
            Some(Timing::Every(every))
        }
        _ => None,
    }
}

/// A run reads the records whose LogAppendTime lies in its range.
fn check_input(check: &mut Check<'_>, inputs: &Path, input: &Input) {
    if input.reference.is_some() {
        return;
    }
    let path = inputs.key(&input.name);
    match &input.transport {
        InputTransport::File(_) => {
            check.problem(&path, "a scheduled pipeline reads topics; files are for `reference: true`")
        }
        InputTransport::Kafka(kafka) => {
            if matches!(kafka.timestamp, Timestamp::CreateTime { .. }) {
                let message = "a scheduled pipeline needs the broker's timestamps: they say which records a range has";
                check.problem(&path.key("timestamp"), message);
            }
            if kafka.start != Start::Earliest {
                check.problem(&path.key("kafka").key("start"), "`start` has no effect beside `schedule`");
            }
        }
    }
}

/// Files of a run are seen together, when it is over; those of a job that goes on with each epoch.
fn check_file(check: &mut Check<'_>, path: &Path, file: &RawFileOutput, has_schedule: bool) {
    for (field, _) in file.layout().iter().filter(|(_, given)| *given && !has_schedule) {
        let message =
            format!("`{field}` needs `schedule`: a job that goes on writes its files epoch by epoch, as rows come");
        check.problem(&path.key(field), message);
    }
    if file.roll_every.is_some() && has_schedule {
        let message = "`roll_every` has no effect beside `schedule`: the files of a run are seen together";
        check.problem(&path.key("roll_every"), message);
    }
}

/// A run's output is there as a whole or not at all.
fn check_output(check: &mut Check<'_>, outputs: &Path, output: &Output) {
    let path = outputs.key(&output.name);
    let what = match output.transport {
        OutputTransport::File(_) | OutputTransport::Discard => return,
        OutputTransport::Kafka(_) => "`kafka`",
        OutputTransport::Stdout => "`stdout`",
    };
    check.problem(&path, format!("{what} beside `schedule` is not built yet; available: file, discard"));
}
