//! A run's steps on real topics and files.
//!
//! Files are written into a hidden folder of this run and come to be seen by a rename of the folder, so that a range has all of its files or none;
//! another run of the range takes their place. The folder is named by the range's begin.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::DateTime;
use tidemill_connectors::kafka::KafkaInput;
use tidemill_engine::{EngineError, ErrorKind, EventTime};

use super::{
    advance::{Range, Steps, Written, between},
    ledger::Boundary,
};
use crate::{
    run::{
        self, RunError, RunOptions, Stats,
        inputs::{QUEUE_KIB_MAX, kafka_settings},
        security::Secrets,
    },
    spec::{InputTransport, Job, OutputTransport},
};

/// What the hidden folders of runs end with.
const PART: &str = ".part";

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
                if left.starts_with(&format!(".{name}.")) && left.ends_with(PART) {
                    remove(&entry.path())?;
                }
            }
            folders.push((path.join(&run), path.join(&name)));
        }
        Ok(folders)
    }
}

impl Steps for Ingest<'_> {
    fn boundary(&mut self, at: EventTime) -> Result<Option<Boundary>, RunError> {
        let first_ms = at.0.div_euclid(1_000) + i64::from(at.0.rem_euclid(1_000) > 0);
        let mut boundary = Boundary::new();
        if self.options.clock.wall().0 < at.0.saturating_add(closed_after_us(self.job)) {
            return Ok(None);
        }
        for (input, kafka) in &self.topics {
            // The ends before the question for the instant: what comes in between is of behind it.
            let bounds = kafka.bounds()?;
            let found = kafka.offsets_at(first_ms)?;
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
        let mut job = self.job.clone();
        let mut aside = folders.iter().map(|(aside, _)| aside);
        for output in &mut job.outputs {
            if let (OutputTransport::File(file), Some(aside)) = (&mut output.transport, aside.next()) {
                file.path.clone_from(aside);
            }
        }
        let options = RunOptions {
            bounded: true,
            stretches: Some(Arc::new(between(from, to))),
            stats: Arc::new(Stats::default()),
            ..self.options.clone()
        };
        let outcome = run::run(&job, &options, &mut |_| {}).and_then(|summary| match summary.stopped {
            true => Err(RunError::Engine(EngineError::Source {
                input: self.job.name.clone(),
                kind: ErrorKind::Unavailable,
                message: "the run was stopped".to_owned(),
            })),
            false => Ok(summary.status),
        });
        let status = match outcome {
            Ok(status) => status,
            Err(error) => {
                folders.iter().try_for_each(|(aside, _)| remove(aside))?;
                return Err(error);
            }
        };
        for (aside, seen) in &folders {
            remove(seen)?;
            // An output without rows makes no folder of its own.
            fs::create_dir_all(aside).map_err(|error| failure(aside, &error))?;
            fs::rename(aside, seen).map_err(|error| failure(seen, &error))?;
            if let Some(parent) = seen.parent() {
                File::open(parent).and_then(|parent| parent.sync_all()).map_err(|error| failure(seen, &error))?;
            }
        }
        Ok(Written {
            records: status.inputs.iter().map(|input| input.records).sum(),
            bytes: status.inputs.iter().map(|input| input.bytes).sum(),
            rows: status.outputs.iter().map(|output| output.rows).sum(),
        })
    }
}

/// Removes a folder with what is in it; one that is not there is removed.
fn remove(folder: &Path) -> Result<(), RunError> {
    match fs::remove_dir_all(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failure(folder, &error)),
    }
}

fn failure(folder: &Path, error: &std::io::Error) -> RunError {
    RunError::State { path: folder.display().to_string(), message: error.to_string() }
}
