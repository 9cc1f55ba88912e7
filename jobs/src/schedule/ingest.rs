//! A run's steps on real topics and files.
//!
//! Files are written into a folder beside their final one and come to be there by a rename of the folder, so that a range has all of its files or
//! none; another run of the range takes their place. The folder is named by the range's begin.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::DateTime;
use tidemill_certs::SecretStore;
use tidemill_connectors::kafka::KafkaInput;
use tidemill_engine::{EngineError, ErrorKind, EventTime};

use super::{
    advance::{Range, Steps, Written, between},
    ledger::Boundary,
};
use crate::{
    epoch::store::Log,
    run::{
        self, RunError, RunOptions, Stats,
        inputs::{QUEUE_KIB_MAX, kafka_settings},
    },
    spec::{InputTransport, Job, OutputTransport},
};

/// A pipeline that is connected.
pub(super) struct Ingest<'a> {
    job: &'a Job,
    options: &'a RunOptions,
    claim: &'a Log,
    topics: Vec<Topic>,
}

/// An input, and how long after an instant nothing of before it comes in any more, in microseconds.
struct Topic {
    input: String,
    kafka: KafkaInput,
    closed_after_us: i64,
}

impl<'a> Ingest<'a> {
    pub(super) fn connect(job: &'a Job, options: &'a RunOptions, claim: &'a Log) -> Result<Self, RunError> {
        let secrets = Arc::new(SecretStore::new(job.key_vault.clone()));
        let mut topics = vec![];
        for input in job.inputs.iter().filter(|input| input.reference.is_none()) {
            let InputTransport::Kafka(kafka) = &input.transport else { continue };
            let settings = kafka_settings(input, kafka, QUEUE_KIB_MAX, &secrets, options)?;
            topics.push(Topic {
                input: input.name.clone(),
                kafka: KafkaInput::connect(settings, Arc::clone(&options.clock), options.wait)?,
                closed_after_us: kafka.idle_margin.micros() + job.clock_uncertainty.micros(),
            });
        }
        Ok(Self { job, options, claim, topics })
    }

    /// The folders of a range, for each output the one that is written and the one that is seen.
    fn folders(&self, range: Range) -> Vec<(PathBuf, PathBuf)> {
        let begin = DateTime::from_timestamp_micros(range.from.0).unwrap_or_default();
        let name = begin.format("%Y%m%dT%H%M%SZ").to_string();
        let files = self.job.outputs.iter().filter_map(|output| match &output.transport {
            OutputTransport::File(file) => Some(&file.path),
            _ => None,
        });
        files.map(|path| (path.join(format!(".{name}.part")), path.join(&name))).collect()
    }
}

impl Steps for Ingest<'_> {
    fn boundary(&mut self, at: EventTime) -> Result<Option<Boundary>, RunError> {
        let first_ms = at.0.div_euclid(1_000) + i64::from(at.0.rem_euclid(1_000) > 0);
        let mut boundary = Boundary::new();
        for Topic { input, kafka, closed_after_us } in &self.topics {
            if self.options.clock.wall().0 < at.0.saturating_add(*closed_after_us) {
                return Ok(None);
            }
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
        let folders = self.folders(range);
        let mut job = self.job.clone();
        let mut aside = folders.iter().map(|(aside, _)| aside);
        for output in &mut job.outputs {
            if let (OutputTransport::File(file), Some(aside)) = (&mut output.transport, aside.next()) {
                remove(aside)?;
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
        self.check()?;
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

    fn check(&mut self) -> Result<(), RunError> {
        Ok(self.claim.check()?)
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
