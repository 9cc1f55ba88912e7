//! A run's steps on real topics and files: the boundaries that its brokers' timestamps make, and the job, run between two of them into
//! [`Folders`].

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tidemill_connectors::kafka::KafkaInput;
use tidemill_engine::{EngineError, EventTime};

use super::{
    advance::{Range, Steps, Written, between},
    folders::Folders,
    ledger::Boundary,
};
use crate::{
    run::{
        self, RunError, RunOptions, Stamps, Stats, Stretches, Summary, budget::FETCH_KIB_MAX, inputs::kafka_settings,
        security::Secrets,
    },
    spec::{Duration, InputTransport, Job, OutputTransport},
};

/// The age at which a run's files are closed: none has it, as nobody sees them before the run is over.
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

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
            let settings = kafka_settings(input, kafka, FETCH_KIB_MAX, &secrets, options)?;
            let contact = KafkaInput::connect(settings, Arc::clone(&options.clock), options.wait)?;
            topics.push((input.name.clone(), contact));
        }
        Ok(Self { job, options, topics })
    }
}

impl Ingest<'_> {
    /// Writes the rows of a range, and those of records that came in late into folders of their own.
    fn read(&self, range: Range, stretches: &Arc<Stretches>, folders: &[Folders]) -> Result<Written, RunError> {
        let begin_ms = first_ms(range.from);
        let in_time = Stamps::new(begin_ms..i64::MAX);
        let mut written =
            self.read_stamped(stretches, &in_time, folders.iter().map(|folders| folders.written(false)))?;
        if in_time.left_out() > 0 {
            let late = Stamps::new(i64::MIN..begin_ms);
            let Written { records, bytes, rows, .. } =
                self.read_stamped(stretches, &late, folders.iter().map(|folders| folders.written(true)))?;
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
                file.roll_every = NEVER;
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
        let run = format!("{}-{}", self.options.clock.wall().0, std::process::id());
        let files = self.job.outputs.iter().filter_map(|output| match &output.transport {
            OutputTransport::File(file) => Some(file),
            _ => None,
        });
        // Of every output, whether it gets rows or not: only a folder that is there can be published.
        let folders: Vec<_> = files.map(|file| Folders::prepare(file, range, &run)).collect::<Result<_, _>>()?;
        let stretches = Arc::new(between(from, to));
        let written = self.read(range, &stretches, &folders);
        if written.is_err() {
            folders.iter().try_for_each(Folders::discard)?;
        } else {
            folders.iter().try_for_each(Folders::publish)?;
        }
        written
    }
}
