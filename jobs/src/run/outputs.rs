//! Opens the outputs of a job.

use std::sync::{Arc, Mutex, PoisonError};

use tidemill_certs::SecretStore;
use tidemill_connectors::{
    discard::DiscardSink,
    files::{FileSink, OutputFormat, Rolling},
    formats::encode::JsonEncoder,
    kafka::{KafkaConnection, KafkaSink, OnRejected, RejectedRow, SinkSettings},
    stdout::StdoutSink,
};
use tidemill_engine::{
    dataflow::merge::Output,
    dead_letter::{DeadLetter, DeadLetters},
    decoder::BadClass,
    sink::Sink,
};

use super::{
    RunOptions,
    error::RunError,
    security::{self, Owner},
};
use crate::spec::{self, FileFormat, Job, KafkaOutput, OnOutputError, OutputTransport};

/// One part in this many of the job's memory holds rows on their way to a Kafka output.
const SINK_SHARE: u64 = 16;

pub(super) fn open(
    job: &Job,
    run_id: &str,
    secrets: &Arc<SecretStore>,
    options: &RunOptions,
    letters: &Arc<Mutex<dyn DeadLetters>>,
) -> Result<Vec<Output>, RunError> {
    let mut outputs = vec![];
    for output in &job.outputs {
        let sink: Box<dyn Sink> = match &output.transport {
            OutputTransport::Discard => Box::new(DiscardSink::default()),
            OutputTransport::Stdout => Box::new(StdoutSink::new(&output.name)),
            OutputTransport::File(file) => {
                let format = match &file.format {
                    FileFormat::Json => OutputFormat::Json,
                    FileFormat::Csv(csv) => OutputFormat::Csv { delimiter: csv.delimiter },
                    FileFormat::Parquet => OutputFormat::Parquet,
                };
                let rolling = Rolling { size: file.roll_size.bytes(), every: file.roll_every.get() };
                let clock = Arc::clone(&options.clock);
                Box::new(FileSink::open(&output.name, run_id, &file.path, format, rolling, clock)?)
            }
            OutputTransport::Kafka(kafka) => Box::new(open_kafka(job, output, kafka, secrets, options, letters)?),
        };
        let rows = options.stats.add_output(&output.name);
        outputs.push(Output { sink, rows });
    }
    Ok(outputs)
}

fn open_kafka(
    job: &Job,
    output: &spec::Output,
    kafka: &KafkaOutput,
    secrets: &Arc<SecretStore>,
    options: &RunOptions,
    letters: &Arc<Mutex<dyn DeadLetters>>,
) -> Result<KafkaSink, RunError> {
    let owner = Owner::Output(&output.name);
    let security = security::resolve(owner, &kafka.security, secrets, options)?;
    let settings = SinkSettings {
        output: output.name.clone(),
        connection: KafkaConnection { brokers: kafka.brokers.clone(), security },
        topic: kafka.topic.clone(),
        key: kafka.key.clone(),
        queue_kib: usize::try_from(job.memory.bytes() / SINK_SHARE / 1024).unwrap_or(usize::MAX),
    };
    let on_rejected = match output.on_output_error {
        OnOutputError::Stop => OnRejected::Stop,
        OnOutputError::DeadLetter => {
            let (letters, name, topic) = (Arc::clone(letters), output.name.clone(), kafka.topic.clone());
            OnRejected::DeadLetter(Box::new(move |row: &RejectedRow<'_>| {
                letters.lock().unwrap_or_else(PoisonError::into_inner).put(&DeadLetter {
                    input: &name,
                    topic: &topic,
                    partition: -1,
                    offset: -1,
                    timestamp_ms: -1,
                    key: row.key,
                    value: Some(row.value),
                    headers: &[],
                    class: BadClass::Output,
                    message: row.cause,
                })
            }))
        }
    };
    let sink = KafkaSink::connect(settings, Box::new(JsonEncoder), on_rejected, options.clock.as_ref(), options.wait)?;
    Ok(sink)
}
