//! The outputs of a run: first contact, then, once it is known where the run begins, the sinks.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use arrow::datatypes::SchemaRef;
use tidemill_connectors::{
    dead_letters::{LetterLines, LetterMessages, LetterOrigin, LetterOrigins, LetterSink},
    discard::DiscardSink,
    files::{EncoderFactory, FileSink, LaidOutSink, OpenFolder, OutputFormat as FileFormat, Rolling},
    formats::{
        csv::Dialect,
        encode::{
            AvroBlockEncoder, AvroContainerEncoder, AvroEncoder, CsvEncoder, HeaderEncoder, JsonEncoder,
            PackingEncoder, ParquetMessageEncoder, ProtobufEncoder, RowEncoder,
        },
        registry::{Registered, SubjectRegistrar, WireFormat},
    },
    kafka::{
        Contact, KafkaConnection, KafkaSink, OnRejected, RejectedRow, SinkSettings, Transaction, TransactionSettings,
    },
    stdout::StdoutSink,
};
use tidemill_engine::{
    EngineError, ErrorKind,
    dataflow::{
        merge::Output,
        plan::{Dataflow, Node, OperatorPlan},
    },
    dead_letter::DeadLetter,
    decoder::BadClass,
    sink::Sink,
};

use super::{
    RunOptions,
    attempt::Letters,
    budget::Budget,
    commit::OutputCluster,
    error::RunError,
    registry,
    security::{self, Owner, Secrets},
};
use crate::spec::{
    self, AvroOutput, Delivery, FileOutput, InputFormat, Job, KafkaOutput, OnOutputError, OutputFormat,
    OutputTransport, ProtobufOutput, Registry,
};

/// The Kafka outputs of a job, the dead letters among them, after first contact.
#[derive(Default)]
pub(super) struct Contacts {
    /// By the output's index in [`Job::destinations`].
    kafka: BTreeMap<usize, (SinkSettings, Contact)>,
    /// Clusters that take rows in transactions.
    clusters: Vec<Cluster>,
}

struct Cluster {
    transaction: Arc<Transaction>,
    connection: KafkaConnection,
    /// The job's epochs topic, unless all inputs are on this cluster, too.
    topic: Option<String>,
    /// Its outputs, by index in [`Job::destinations`].
    outputs: Vec<usize>,
}

/// Contacts the Kafka outputs. With `transactional`, those with `exactly_once` begin transactions, and whoever ran the job
/// before can commit nothing any more. `input_clusters`: where the inputs are.
pub(super) fn contact(
    job: &Job,
    input_clusters: &[String],
    transactional: bool,
    secrets: &Secrets,
    options: &RunOptions,
) -> Result<Contacts, RunError> {
    let mut contacts = Contacts::default();
    let mut on_cluster: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, output) in job.destinations().enumerate() {
        let OutputTransport::Kafka(kafka) = &output.transport else { continue };
        let settings = settings(job, output, kafka, secrets, options)?;
        let contact = KafkaSink::contact(&settings, options.clock.as_ref(), options.wait)?;
        if transactional && kafka.delivery == Delivery::ExactlyOnce {
            on_cluster.entry(contact.cluster_id.clone()).or_default().push(index);
        }
        contacts.kafka.insert(index, (settings, contact));
    }
    for (cluster_id, outputs) in on_cluster {
        let Some((first, _)) = outputs.first().and_then(|first| contacts.kafka.get(first)) else { continue };
        let settings = TransactionSettings {
            outputs: outputs.iter().map(|output| contacts.kafka[output].0.output.clone()).collect(),
            connection: first.connection.clone(),
            transactional_id: transactional_id(job),
            queue_kib: queue_kib(job),
            limit: outputs.iter().filter_map(|output| contacts.kafka[output].1.limit).min(),
        };
        let transaction = Transaction::begin(&settings, Arc::clone(&options.clock), options.wait)?;
        let with_offsets = !input_clusters.is_empty() && input_clusters.iter().all(|input| *input == cluster_id);
        let topic = (!with_offsets).then(|| format!("tidemill-{}-epochs", job.name));
        contacts.clusters.push(Cluster { transaction, connection: settings.connection, topic, outputs });
    }
    Ok(contacts)
}

impl Contacts {
    fn cluster(&self, output: usize) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.outputs.contains(&output))
    }

    /// Where an output keeps its epochs, when that is not beside the inputs' offsets.
    pub(super) fn epochs_topic(&self, output: usize) -> Option<(&KafkaConnection, &str)> {
        let cluster = self.cluster(output)?;
        cluster.topic.as_deref().map(|topic| (&cluster.connection, topic))
    }

    /// What a run commits to.
    pub(super) fn clusters(&self) -> Vec<OutputCluster> {
        let cluster = |cluster: &Cluster| OutputCluster {
            transaction: Arc::clone(&cluster.transaction),
            topic: cluster.topic.clone(),
        };
        self.clusters.iter().map(cluster).collect()
    }
}

/// Under which a job writes its transactions, in each cluster.
pub(super) fn transactional_id(job: &Job) -> String {
    format!("tidemill-{}", job.name)
}

/// How the files of a run are named.
pub(super) enum Naming<'r> {
    /// By the id of a run that goes on from nothing and leaves nothing to go on from.
    Run(&'r str),
    /// By epochs.
    Epochs {
        /// The run's number.
        generation: u64,
        /// Generation and number of the last epoch in the store's log.
        committed: Option<(u64, u64)>,
    },
}

/// Opens the sinks; that of the dead letters is the last.
pub(super) fn open(
    (job, dataflow): (&Job, &Dataflow),
    contacts: &Contacts,
    naming: &Naming<'_>,
    secrets: &Secrets,
    options: &RunOptions,
    letters: &Letters,
) -> Result<Vec<Output>, RunError> {
    let mut outputs = vec![];
    for (index, output) in job.outputs.iter().enumerate() {
        let sink: Box<dyn Sink> = match &output.transport {
            OutputTransport::Discard => Box::new(DiscardSink::default()),
            OutputTransport::Stdout => match (&options.rows, columns(dataflow, &output.name)) {
                (Some(make), Some(schema)) => make(schema)?,
                _ => Box::new(StdoutSink::new(&output.name)),
            },
            OutputTransport::File(file) if !file.layout.is_plain() => {
                Box::new(laid_out(job, output, file, naming, options)?)
            }
            OutputTransport::File(file) => {
                Box::new(open_file(job, &output.name, file, file_format(output)?, naming, options)?)
            }
            OutputTransport::Kafka(kafka) => {
                let encoder = message_encoder(output, secrets, options)?;
                let Some(sink) = open_topic(contacts, index, encoder, on_rejected(output, kafka, letters))? else {
                    continue;
                };
                Box::new(sink)
            }
        };
        let rows = options.stats.add_output(&output.name);
        outputs.push(Output { sink, rows });
    }
    if let Some(sink) = open_letters(job, contacts, naming, options)? {
        let sink = LetterSink::new(sink, Arc::clone(&letters.aside), Arc::clone(&letters.count));
        outputs.push(Output { sink: Box::new(sink), rows: Arc::clone(&letters.count) });
    }
    Ok(outputs)
}

/// The columns of the first statement into an output.
fn columns<'d>(dataflow: &'d Dataflow, output: &str) -> Option<&'d SchemaRef> {
    let is_into =
        |node: &&Node| matches!(node.operator, OperatorPlan::Output(into) if dataflow.outputs[into] == output);
    dataflow.nodes.iter().find(is_into).map(|node| &node.schema)
}

fn open_letters(
    job: &Job,
    contacts: &Contacts,
    naming: &Naming<'_>,
    options: &RunOptions,
) -> Result<Option<Box<dyn Sink>>, RunError> {
    Ok(match &job.dead_letters.transport {
        OutputTransport::File(file) => {
            let format = match job.dead_letters.format {
                OutputFormat::Parquet => FileFormat::Parquet,
                _ => FileFormat::Rows { extension: "jsonl".to_owned(), encoder: Box::new(|| Box::new(LetterLines)) },
            };
            let name = letter_files(job); // several jobs may share the directory
            Some(Box::new(open_file(job, &name, file, format, naming, options)?))
        }
        OutputTransport::Kafka(_) => {
            let sink = open_topic(contacts, job.outputs.len(), Box::new(LetterMessages), OnRejected::Stop)?;
            sink.map(|sink| Box::new(sink) as Box<dyn Sink>)
        }
        OutputTransport::Stdout | OutputTransport::Discard => None,
    })
}

/// What the names of a job's files of dead letters begin with.
pub(crate) fn letter_files(job: &Job) -> String {
    format!("{}.{}", job.name, job.dead_letters.name)
}

/// What is known of the records of inputs and the rows of outputs.
pub(super) fn letter_origins(job: &Job) -> LetterOrigins {
    let of_input = |format: &InputFormat| {
        let (format, wire) = match format {
            InputFormat::Json(json) => ("json", json.framing),
            InputFormat::Csv(_) => ("csv", None),
            InputFormat::Avro(avro) => ("avro", avro.framing.wire()),
            InputFormat::Parquet => ("parquet", None),
            InputFormat::Protobuf(protobuf) => ("protobuf", protobuf.framing.wire()),
        };
        LetterOrigin { format, wire }
    };
    let of_output = |format: &OutputFormat| {
        let (format, wire): (_, Option<WireFormat>) = match format {
            OutputFormat::Json => ("json", None),
            OutputFormat::Csv { .. } => ("csv", None),
            OutputFormat::Avro(avro) => ("avro", avro.ids.as_ref().map(|(wire, _)| *wire)),
            OutputFormat::Parquet => ("parquet", None),
            OutputFormat::Protobuf(ProtobufOutput::Registry(wire, ..)) => ("protobuf", Some(*wire)),
            OutputFormat::Protobuf(ProtobufOutput::Message { .. }) => ("protobuf", None),
        };
        LetterOrigin { format, wire }
    };
    LetterOrigins {
        job: job.name.clone(),
        inputs: job.inputs.iter().map(|input| (input.name.clone(), of_input(&input.format))).collect(),
        outputs: job.outputs.iter().map(|output| (output.name.clone(), of_output(&output.format))).collect(),
    }
}

/// The sink of a topic that was contacted, by the output's index in [`Job::destinations`].
fn open_topic(
    contacts: &Contacts,
    index: usize,
    encoder: Box<dyn RowEncoder>,
    on_rejected: OnRejected,
) -> Result<Option<KafkaSink>, EngineError> {
    let Some((settings, contact)) = contacts.kafka.get(&index) else { return Ok(None) };
    let settings = settings.clone();
    Ok(Some(match contacts.cluster(index) {
        Some(cluster) => {
            let transaction = Arc::clone(&cluster.transaction);
            KafkaSink::in_transaction(settings, transaction, encoder, on_rejected)
        }
        None => KafkaSink::at_least_once(settings, contact.limit, encoder, on_rejected)?,
    }))
}

/// The sink of an output with a layout; its rows may wait in a share of the job's memory.
fn laid_out(
    job: &Job,
    output: &spec::Output,
    file: &FileOutput,
    naming: &Naming<'_>,
    options: &RunOptions,
) -> Result<LaidOutSink, EngineError> {
    let Naming::Run(run) = *naming else {
        let message = "files are laid out in runs by themselves alone".to_owned();
        return Err(EngineError::Sink { output: output.name.clone(), kind: ErrorKind::Bug, message });
    };
    let is_laid_out =
        |output: &&spec::Output| matches!(&output.transport, OutputTransport::File(file) if !file.layout.is_plain());
    let waiting_max = Budget::of(job).layout_bytes(job.outputs.iter().filter(is_laid_out).count());
    let (run, clock, output) = (run.to_owned(), Arc::clone(&options.clock), output.clone());
    let (name, rolling) = (output.name.clone(), rolling(file));
    let open: OpenFolder = Box::new(move |folder| {
        FileSink::open(&output.name, &run, folder, file_format(&output)?, rolling, Arc::clone(&clock))
    });
    Ok(LaidOutSink::new(&name, &file.path, file.layout.clone(), waiting_max, open))
}

fn rolling(file: &FileOutput) -> Rolling {
    Rolling { size: file.roll_size.bytes(), every: file.roll_every.get() }
}

fn open_file(
    job: &Job,
    name: &str,
    file: &FileOutput,
    format: FileFormat,
    naming: &Naming<'_>,
    options: &RunOptions,
) -> Result<FileSink, EngineError> {
    let rolling = rolling(file);
    let clock = Arc::clone(&options.clock);
    match *naming {
        Naming::Run(run) => FileSink::open(name, run, &file.path, format, rolling, clock),
        Naming::Epochs { generation, committed } => {
            let run = (job.name.as_str(), generation);
            FileSink::in_epochs(name, run, committed, &file.path, (format, rolling), clock)
        }
    }
}

/// Of a producer: each output has one, or shares one with those of its cluster.
fn queue_kib(job: &Job) -> usize {
    let is_kafka = |output: &&spec::Output| matches!(output.transport, OutputTransport::Kafka(_));
    Budget::of(job).sink_kib(job.destinations().filter(is_kafka).count())
}

fn settings(
    job: &Job,
    output: &spec::Output,
    kafka: &KafkaOutput,
    secrets: &Secrets,
    options: &RunOptions,
) -> Result<SinkSettings, RunError> {
    let owner = Owner::Output(&output.name);
    let security = security::resolve(owner, &kafka.brokers, &kafka.security, secrets, options)?;
    Ok(SinkSettings {
        output: output.name.clone(),
        connection: KafkaConnection { brokers: kafka.brokers.clone(), security },
        topic: kafka.topic.clone(),
        key: kafka.key.clone(),
        queue_kib: queue_kib(job),
    })
}

fn on_rejected(output: &spec::Output, kafka: &KafkaOutput, letters: &Letters) -> OnRejected {
    if output.on_output_error == OnOutputError::Stop {
        return OnRejected::Stop;
    }
    let (letters, name, topic) = (Arc::clone(&letters.aside), output.name.clone(), kafka.topic.clone());
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
            covering: 0,
        })
    }))
}

/// How the rows of a file are written.
///
/// # Errors
/// For what the spec refuses in files.
fn file_format(output: &spec::Output) -> Result<FileFormat, EngineError> {
    let (extension, encoder): (&str, EncoderFactory) = match output.format.clone() {
        OutputFormat::Parquet => return Ok(FileFormat::Parquet),
        OutputFormat::Json => ("jsonl", Box::new(|| Box::new(JsonEncoder))),
        OutputFormat::Csv { dialect, header } => ("csv", Box::new(move || csv_encoder(dialect, header))),
        OutputFormat::Avro(AvroOutput { codec, .. }) => {
            ("avro", Box::new(move || Box::new(AvroBlockEncoder::new(codec))))
        }
        OutputFormat::Protobuf(ProtobufOutput::Message { message, prefix }) => {
            ("binpb", Box::new(move || Box::new(ProtobufEncoder::of_message(message.clone(), prefix))))
        }
        OutputFormat::Protobuf(ProtobufOutput::Registry(..)) => {
            let message = "its format is not for files".to_owned();
            return Err(EngineError::Sink { output: output.name.clone(), kind: ErrorKind::Bug, message });
        }
    };
    let extension = extension.to_owned();
    Ok(match output.compression {
        None => FileFormat::Rows { extension, encoder },
        Some(compression) => FileFormat::Rows {
            extension: format!("{extension}.{}", compression.extension()),
            encoder: Box::new(move || Box::new(PackingEncoder::together(encoder(), compression))),
        },
    })
}

pub(super) fn csv_encoder(dialect: Dialect, header: bool) -> Box<dyn RowEncoder> {
    let encoder = CsvEncoder::new(dialect);
    Box::new(if header { encoder } else { encoder.without_header() })
}

/// How each row becomes a message.
pub(super) fn message_encoder(
    output: &spec::Output,
    secrets: &Secrets,
    options: &RunOptions,
) -> Result<Box<dyn RowEncoder>, RunError> {
    let failure = |kind, message| EngineError::Sink { output: output.name.clone(), kind, message };
    let client = |registry: &Registry| {
        registry::client(registry, secrets, options).map_err(|message| failure(ErrorKind::User, message))
    };
    let latest = |registry: &Registry| -> Result<Registered, RunError> {
        let latest = client(registry)?.latest(&registry.subject);
        Ok(latest.map_err(|error| {
            failure(error.kind(), format!("there is no latest schema of `{}`: {error}", registry.subject))
        })?)
    };
    let unusable = |registry: &Registry, problem: String| {
        failure(ErrorKind::User, format!("the latest schema of `{}` {problem}", registry.subject))
    };
    let registrar = |registry: &Registry| -> Result<Box<SubjectRegistrar>, RunError> {
        let client = client(registry)?;
        let (subject, output) = (registry.subject.clone(), output.name.clone());
        Ok(Box::new(SubjectRegistrar { client, subject, output }))
    };
    let encoder: Box<dyn RowEncoder> = match &output.format {
        OutputFormat::Json => Box::new(JsonEncoder),
        OutputFormat::Csv { dialect, header } => Box::new(HeaderEncoder::new(csv_encoder(*dialect, *header))),
        OutputFormat::Avro(AvroOutput { ids: None, codec }) => Box::new(AvroContainerEncoder::new(*codec)),
        OutputFormat::Avro(AvroOutput { ids: Some((wire, registry)), .. }) if registry.use_latest => {
            let latest = latest(registry)?;
            let schema = latest.avro().map_err(|problem| unusable(registry, problem))?;
            Box::new(AvroEncoder::of_schema(*wire, latest.id, schema))
        }
        OutputFormat::Avro(AvroOutput { ids: Some((wire, registry)), .. }) => {
            Box::new(AvroEncoder::new(*wire, registrar(registry)?))
        }
        OutputFormat::Parquet => Box::new(ParquetMessageEncoder),
        OutputFormat::Protobuf(ProtobufOutput::Registry(wire, registry, name)) if registry.use_latest => {
            let latest = latest(registry)?;
            let message = latest.protobuf().and_then(|schema| match name {
                Some(name) => schema.message(Some(name)),
                None => schema.first_message().ok_or_else(|| "has no message".to_owned()),
            });
            let message = message.map_err(|problem| unusable(registry, problem))?;
            Box::new(ProtobufEncoder::of_registered(*wire, latest.id, message))
        }
        OutputFormat::Protobuf(ProtobufOutput::Registry(wire, registry, _)) => {
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
