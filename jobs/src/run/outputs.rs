//! Opens the outputs of a job.

use std::sync::{Arc, Mutex, PoisonError};

use tidemill_certs::SecretStore;
use tidemill_connectors::{
    discard::DiscardSink,
    files::{EncoderFactory, FileSink, OutputFormat as FileFormat, Rolling},
    formats::{
        csv::Dialect,
        encode::{
            AvroBlockEncoder, AvroContainerEncoder, AvroEncoder, CsvEncoder, HeaderEncoder, JsonEncoder,
            PackingEncoder, ParquetMessageEncoder, ProtobufEncoder, RowEncoder,
        },
        registry::SubjectRegistrar,
    },
    kafka::{KafkaConnection, KafkaSink, OnRejected, RejectedRow, SinkSettings},
    stdout::StdoutSink,
};
use tidemill_engine::{
    EngineError, ErrorKind,
    dataflow::merge::Output,
    dead_letter::{DeadLetter, DeadLetters},
    decoder::BadClass,
    sink::Sink,
};

use super::{
    RunOptions,
    error::RunError,
    registry,
    security::{self, Owner},
};
use crate::spec::{
    self, AvroOutput, Job, KafkaOutput, OnOutputError, OutputFormat, OutputTransport, ProtobufOutput, Registry,
};

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
                let format = file_format(output).ok_or_else(|| EngineError::Sink {
                    output: output.name.clone(),
                    kind: ErrorKind::Bug,
                    message: "its format is not for files".to_owned(),
                })?;
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
    let encoder = message_encoder(output, secrets, options)?;
    let sink = KafkaSink::connect(settings, encoder, on_rejected, options.clock.as_ref(), options.wait)?;
    Ok(sink)
}

/// How the rows of a file are written; `None` for what the spec refuses in files.
fn file_format(output: &spec::Output) -> Option<FileFormat> {
    let (extension, encoder): (&str, EncoderFactory) = match output.format.clone() {
        OutputFormat::Parquet => return Some(FileFormat::Parquet),
        OutputFormat::Json => ("jsonl", Box::new(|| Box::new(JsonEncoder))),
        OutputFormat::Csv { dialect, header } => ("csv", Box::new(move || csv_encoder(dialect, header))),
        OutputFormat::Avro(AvroOutput { codec, .. }) => {
            ("avro", Box::new(move || Box::new(AvroBlockEncoder::new(codec))))
        }
        OutputFormat::Protobuf(ProtobufOutput::Message { message, prefix }) => {
            ("binpb", Box::new(move || Box::new(ProtobufEncoder::of_message(message.clone(), prefix))))
        }
        OutputFormat::Protobuf(ProtobufOutput::Registry(..)) => return None,
    };
    let extension = extension.to_owned();
    Some(match output.compression {
        None => FileFormat::Rows { extension, encoder },
        Some(compression) => FileFormat::Rows {
            extension: format!("{extension}.{}", compression.extension()),
            encoder: Box::new(move || Box::new(PackingEncoder::together(encoder(), compression))),
        },
    })
}

fn csv_encoder(dialect: Dialect, header: bool) -> Box<dyn RowEncoder> {
    let encoder = CsvEncoder::new(dialect);
    Box::new(if header { encoder } else { encoder.without_header() })
}

/// How each row becomes a message.
fn message_encoder(
    output: &spec::Output,
    secrets: &SecretStore,
    options: &RunOptions,
) -> Result<Box<dyn RowEncoder>, RunError> {
    let registrar = |registry: &Registry| -> Result<Box<SubjectRegistrar>, RunError> {
        let client = registry::client(registry, secrets, options).map_err(|message| EngineError::Sink {
            output: output.name.clone(),
            kind: ErrorKind::User,
            message,
        })?;
        let (subject, output) = (registry.subject.clone(), output.name.clone());
        Ok(Box::new(SubjectRegistrar { client, subject, output }))
    };
    let encoder: Box<dyn RowEncoder> = match &output.format {
        OutputFormat::Json => Box::new(JsonEncoder),
        OutputFormat::Csv { dialect, header } => Box::new(HeaderEncoder::new(csv_encoder(*dialect, *header))),
        OutputFormat::Avro(AvroOutput { ids: None, codec }) => Box::new(AvroContainerEncoder::new(*codec)),
        OutputFormat::Avro(AvroOutput { ids: Some((wire, registry)), .. }) => {
            Box::new(AvroEncoder::new(*wire, registrar(registry)?))
        }
        OutputFormat::Parquet => Box::new(ParquetMessageEncoder),
        OutputFormat::Protobuf(ProtobufOutput::Registry(wire, registry)) => {
            Box::new(ProtobufEncoder::registered(*wire, registrar(registry)?))
        }
        OutputFormat::Protobuf(ProtobufOutput::Message { message, prefix }) => {
            Box::new(ProtobufEncoder::of_message(message.clone(), *prefix))
        }
    };
    Ok(match output.compression {
        Some(compression) => Box::new(PackingEncoder::each(encoder, compression)),
        None => encoder,
    })
}
