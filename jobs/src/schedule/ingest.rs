//! A run's steps on real topics and files.
//!
//! Files are written into a hidden folder of this run and come to be seen by a rename of the folder, so that a range has all of its files or none.
//! The folder is named by the range's begin. Once it is seen it stays: another run of the range has the same rows, and one that was frozen
//! while another took its place must not take those away. For the same reason the hidden folder of a run is given another name before it is
//! removed: a run that still lives does not publish half of it then, but fails.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::DateTime;
use tidemill_connectors::kafka::KafkaInput;
use tidemill_engine::{EngineError, EventTime};

use super::{
    advance::{Range, Steps, Written, between},
    ledger::Boundary,
};
use crate::{
    run::{
        self, RunError, RunOptions, Stamps, Stats, Stretches, Summary,
        inputs::{QUEUE_KIB_MAX, kafka_settings},
        security::Secrets,
    },
    spec::{InputTransport, Job, OutputTransport},
};

/// What the hidden folders of runs end with.
const PART: &str = ".part";
/// The same, of those that are being removed.
const GONE: &str = ".gone";

/// The folder of a range's late part.
const LATE: &str = "late";

/// A pipeline that is connected.
pub(super) struct Ingest<'a> {
    job: &'a Job,
    options: &'a RunOptions,
    /// Input and topics.
    topics: Vec<(String, KafkaInput)>,
}

/// How long after an instant nothing of before it comes in any more, in microseconds: brokers' clocks may be behind ours by
/// `clock_uncertainty`, and replicas by `idle_margin`.
pub(super) fn closed_after_us(job: &Job) -> i64 {
    let margins = job.inputs.iter().filter_map(|input| match &input.transport {
        InputTransport::Kafka(kafka) => Some(kafka.idle_margin.micros()),
        InputTransport::File(_) => None,
    });
    margins.max().unwrap_or(0) + job.clock_uncertainty.micros()
}

impl<'a> Ingest<'a> {
    pub(super) fn connect(job: &'a Job, options: &'a RunOptions) -> Result<Self, RunError> {
        let secrets = Secrets::new(job.key_vault.clone());
        let mut topics = vec![];
        for input in job.inputs.iter().filter(|input| input.reference.is_none()) {
            let InputTransport::Kafka(kafka) = &input.transport else { continue };
            let settings = kafka_settings(input, kafka, QUEUE_KIB_MAX, &secrets, options)?;
            let contact = KafkaInput::connect(settings, Arc::clone(&options.clock), options.wait)?;
            topics.push((input.name.clone(), contact));
        }
        Ok(Self { job, options, topics })
    }

    /// The folders of a range, for each output the one that is written by this run and the one that is seen. Those that dead runs have left
    /// are removed; a run that was not dead fails, and has a successor.
    fn folders(&self, range: Range) -> Result<Vec<(PathBuf, PathBuf)>, RunError> {
        let begin = DateTime::from_timestamp_micros(range.from.0).unwrap_or_default();
        let name = begin.format("%Y%m%dT%H%M%SZ").to_string();
        let run = format!(".{name}.{}-{}{PART}", self.options.clock.wall().0, std::process::id());
        let files = self.job.outputs.iter().filter_map(|output| match &output.transport {
            OutputTransport::File(file) => Some(&file.path),
            _ => None,
        });
        let mut folders = vec![];
        for path in files {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                let left = entry.file_name();
                let left = left.to_string_lossy();
                match left.strip_prefix(&format!(".{name}.")) {
                    Some(of_run) if of_run.ends_with(PART) => discard(&entry.path())?,
                    Some(of_run) if of_run.ends_with(GONE) => remove(&entry.path())?,
                    _ => {}
                }
            }
            folders.push((path.join(&run), path.join(&name)));
        }
        Ok(folders)
    }
}

impl Ingest<'_> {
    /// Writes the rows of a range, and those of records that came in late into the folder `late` of each output's.
    fn read<'f>(
        &self,
        range: Range,
        stretches: &Arc<Stretches>,
        folders: impl Iterator<Item = &'f Path> + Clone,
    ) -> Result<Written, RunError> {
        let begin_ms = first_ms(range.from);
        let in_time = Stamps::new(begin_ms..i64::MAX);
        let mut written = self.read_stamped(stretches, &in_time, folders.clone().map(Path::to_owned))?;
        if in_time.left_out() > 0 {
            let late = Stamps::new(i64::MIN..begin_ms);
            let Written { records, bytes, rows, .. } =
                self.read_stamped(stretches, &late, folders.map(|folder| folder.join(LATE)))?;
            written.records += records;
            written.bytes += bytes;
            written.rows += rows;
            written.late = records;
        }
        Ok(written)
    }

    /// Runs the job over the records of these timestamps.
    fn read_stamped(
        &self,
        stretches: &Arc<Stretches>,
        stamps: &Arc<Stamps>,
        mut folders: impl Iterator<Item = PathBuf>,
    ) -> Result<Written, RunError> {
        let mut job = self.job.clone();
        for output in &mut job.outputs {
            if let OutputTransport::File(file) = &mut output.transport {
                file.path = folders.next().unwrap_or_default();
            }
        }
        let options = RunOptions {
            bounded: true,
            stretches: Some(Arc::clone(stretches)),
            stamps: Some(Arc::clone(stamps)),
            stats: Arc::new(Stats::default()),
            ..self.options.clone()
        };
        let Summary { status, stopped } = run::run(&job, &options, &mut |_| {})?;
        if stopped {
            return Err(RunError::Engine(EngineError::Source {
                input: self.job.name.clone(),
                kind: tidemill_engine::ErrorKind::Unavailable,
                message: "the run was stopped".to_owned(),
            }));
        }
        Ok(Written {
            records: status.inputs.iter().map(|input| input.records).sum(),
            bytes: status.inputs.iter().map(|input| input.bytes).sum(),
            rows: status.outputs.iter().map(|output| output.rows).sum(),
            late: 0,
        })
    }
}

/// The first millisecond that is not before an instant.
fn first_ms(at: EventTime) -> i64 {
    at.0.div_euclid(1_000) + i64::from(at.0.rem_euclid(1_000) > 0)
}

impl Steps for Ingest<'_> {
    fn boundary(&mut self, at: EventTime) -> Result<Option<Boundary>, RunError> {
        let mut boundary = Boundary::new();
        if self.options.clock.wall().0 < at.0.saturating_add(closed_after_us(self.job)) {
            return Ok(None);
        }
        for (input, kafka) in &self.topics {
            // The ends before the question for the instant: what comes in between is of behind it.
            let bounds = kafka.bounds()?;
            let found = kafka.offsets_at(first_ms(at))?;
            let topics: &mut BTreeMap<String, BTreeMap<i32, i64>> = boundary.entry(input.clone()).or_default();
            for ((partition, (_, end)), found) in kafka.partitions().iter().zip(bounds).zip(found) {
                let offset = found.unwrap_or(end);
                topics.entry(partition.topic.to_string()).or_default().insert(partition.number, offset);
            }
        }
        Ok(Some(boundary))
    }

    fn write(&mut self, range: Range, from: &Boundary, to: &Boundary) -> Result<Written, RunError> {
        let folders = self.folders(range)?;
        // Of every output, whether it gets rows or not: only a folder that is there can be published.
        folders.iter().try_for_each(|(aside, _)| fs::create_dir_all(aside).map_err(|error| failure(aside, &error)))?;
        let stretches = Arc::new(between(from, to));
        let written = self.read(range, &stretches, folders.iter().map(|(aside, _)| aside.as_path()));
        if written.is_err() {
            folders.iter().try_for_each(|(aside, _)| discard(aside))?;
        } else {
            folders.iter().try_for_each(|(aside, seen)| publish(aside, seen))?;
        }
        written
    }
}

/// Lets the files of a run be seen, unless those of another run of the range are.
fn publish(aside: &Path, seen: &Path) -> Result<(), RunError> {
    match fs::rename(aside, seen) {
        Ok(()) => {}
        // Which of them it is depends on the file system; a folder without files is replaced.
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
            discard(aside)?
        }
        Err(error) => return Err(failure(seen, &error)),
    }
    match seen.parent() {
        Some(parent) => File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| failure(seen, &error)),
        None => Ok(()),
    }
}

/// Removes the hidden folder of a run, in one step for whoever writes into it.
fn discard(aside: &Path) -> Result<(), RunError> {
    let gone = aside.with_extension(&GONE[1..]);
    match fs::rename(aside, &gone) {
        Ok(()) => remove(&gone),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failure(aside, &error)),
    }
}

/// Removes a folder with what is in it; one that is not there is removed.
fn remove(folder: &Path) -> Result<(), RunError> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failure(folder, &error)),
    }
}

fn failure(folder: &Path, error: &std::io::Error) -> RunError {
    RunError::State { path: folder.display().to_string(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_with(path: &Path, file: &str) {
        fs::create_dir(path).unwrap();
        fs::write(path.join(file), "").unwrap();
    }

    #[test]
    fn what_is_seen_stays_and_a_run_whose_folder_was_removed_publishes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let [one, two, three, seen] =
            [".r.1.part", ".r.2.part", ".r.3.part", "r"].map(|name| directory.path().join(name));
        folder_with(&one, "of one");
        publish(&one, &seen).unwrap();
        folder_with(&two, "of two");
        publish(&two, &seen).unwrap();
        assert!(seen.join("of one").exists() && !seen.join("of two").exists() && !two.exists());
        folder_with(&three, "of three");
        discard(&three).unwrap();
        discard(&three).unwrap();
        let again = directory.path().join("again");
        publish(&three, &again).unwrap_err();
        assert!(!again.exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
