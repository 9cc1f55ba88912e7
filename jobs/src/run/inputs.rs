//! The inputs of a run: contact, schemas, and one intake for each worker.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use arrow::{
    array::RecordBatch,
    datatypes::{Field, Schema, SchemaRef},
};
use tidemill_connectors::{
    files::{self, FileSource, list_files},
    formats::{
        LeftOut,
        encode::{EncodedRows, JsonEncoder, RowEncoder},
    },
    kafka::{Fetch, Group, Isolation, KafkaConnection, KafkaInput, SourceSettings, Start},
    replay::{KeptRecord, KeptSource, Without},
};
use tidemill_engine::{
    EngineError, ErrorKind,
    dataflow::plan::{Dataflow, InputColumns, MetadataColumn, TimeBounds},
    dead_letter::DeadLetters,
    event_time::{BrokerClocks, TimeRule},
    intake::{BATCH_ROWS, BadRecords, Intake, IntakeOptions, OnBadRecord},
    source::{PartitionId, Source},
};
use tidemill_queries::{DeclaredTable, InputTable, Script};

use super::{
    RunOptions,
    budget::Budget,
    decoding::{self, FormatSchemas},
    error::RunError,
    late_action, pinned,
    resume::Begin,
    security::{self, Owner, Secrets},
    stamped::Stamped,
};
use crate::{
    epoch::store::Store,
    spec::{self, InputTransport, Job, Timestamp},
};

/// Records that a schema is inferred from, at most.
pub(crate) const SAMPLE_RECORDS: usize = 1_000;
/// How long sampling may take.
pub(crate) const SAMPLE_WITHIN: Duration = Duration::from_secs(5);
/// How often an empty topic is looked at again.
const EMPTY_RETRY: Duration = Duration::from_millis(500);

/// An input with which contact was made.
pub(super) struct ConnectedInput {
    pub(super) spec: spec::Input,
    pub(super) transport: Transport,
    pub(super) schemas: FormatSchemas,
}

pub(super) enum Transport {
    Kafka {
        input: KafkaInput,
        group: Arc<Group>,
        start: Start,
    },
    File {
        files: Vec<PathBuf>,
    },
    /// In the place of both.
    Kept(Vec<KeptRecord>),
}

/// A topic's input as the connector takes it; secrets are fetched for it.
pub(crate) fn kafka_settings(
    spec: &spec::Input,
    kafka: &spec::KafkaInput,
    queue_kib: u64,
    secrets: &Secrets,
    options: &RunOptions,
) -> Result<SourceSettings, EngineError> {
    let security = security::resolve(Owner::Input(&spec.name), &kafka.brokers, &kafka.security, secrets, options)?;
    Ok(SourceSettings {
        input: spec.name.clone(),
        connection: KafkaConnection { brokers: kafka.brokers.clone(), security },
        topics: kafka.topics.clone(),
        isolation: match kafka.isolation {
            spec::Isolation::ReadCommitted => Isolation::ReadCommitted,
            spec::Isolation::ReadUncommitted => Isolation::ReadUncommitted,
        },
        // Reference data has no time.
        accept_create_time: spec.reference.is_some() || matches!(kafka.timestamp, Timestamp::CreateTime { .. }),
        queue_kib: usize::try_from(queue_kib).unwrap_or(usize::MAX),
        fetch: fetch_of(kafka),
        rack: kafka.rack.clone(),
    })
}

/// The spec's word for an implementation as the connector's.
pub(super) fn fetch_of(kafka: &spec::KafkaInput) -> Fetch {
    match kafka.fetch {
        spec::Fetch::Auto => Fetch::Auto,
        spec::Fetch::Own => Fetch::Own,
        spec::Fetch::Rdkafka => Fetch::Librdkafka,
    }
}

impl ConnectedInput {
    pub(super) fn connect(
        job: &Job,
        spec: &spec::Input,
        secrets: &Secrets,
        options: &RunOptions,
    ) -> Result<Self, RunError> {
        // Reference data has no dead letters that could be replayed: it is read as always.
        let replay = options.replay.as_ref().filter(|_| spec.reference.is_none());
        let kept = replay.and_then(|replay| replay.instead(&spec.name));
        let transport = match (&spec.transport, kept) {
            (_, Some(records)) => Transport::Kept(records),
            (InputTransport::File(file), None) => Transport::File { files: list_files(&spec.name, &file.path)? },
            (InputTransport::Kafka(kafka), None) => {
                let queue_kib = Budget::of(job).fetch_kib(job.inputs.len() * super::workers(job, options));
                let settings = kafka_settings(spec, kafka, queue_kib, secrets, options)?;
                let input = KafkaInput::connect(settings, Arc::clone(&options.clock), options.wait)?;
                let start = match &kafka.start {
                    spec::Start::Earliest => Start::Earliest,
                    spec::Start::Latest => Start::Latest,
                    spec::Start::Time(time) => Start::Time(*time),
                    spec::Start::Offsets(offsets) => Start::Offsets(offsets.clone()),
                };
                let group = Arc::new(input.group(&kafka.group)?);
                Transport::Kafka { input, group, start }
            }
        };
        for LeftOut { path, reason } in &spec.left_out {
            tracing::warn!("input `{}`: field `{path}` is no column: {reason}", spec.name);
        }
        let schemas = FormatSchemas::learn(spec, secrets, options)?;
        Ok(Self { spec: spec.clone(), transport, schemas })
    }

    fn sample(&self) -> Result<Vec<Vec<u8>>, EngineError> {
        match &self.transport {
            Transport::Kafka { input, .. } => {
                let packed = input.sample(SAMPLE_RECORDS, SAMPLE_WITHIN)?;
                Ok(packed.into_iter().filter_map(|payload| decoding::unpack(&self.spec, payload)).collect())
            }
            Transport::Kept(records) => Ok(records.iter().filter_map(|record| record.value.clone()).collect()),
            Transport::File { files } => {
                files::sample(&self.spec.name, files, decoding::file_format(&self.spec), SAMPLE_RECORDS)
            }
        }
    }

    /// What was found of it, for a person.
    pub(super) fn describe(&self) -> Result<String, EngineError> {
        Ok(match &self.transport {
            Transport::Kafka { input, group, .. } => {
                let (partitions, committed) = (input.partitions().len(), group.committed()?.len());
                format!("{partitions} partitions; the group has positions in {committed}")
            }
            Transport::File { files } => format!("{} files", files.len()),
            Transport::Kept(records) => format!("{} kept records", records.len()),
        })
    }

    /// The columns that a registry's schema makes, or those of a sample; `None` when it holds no record. A record that cannot be
    /// read is the run's concern. With them the number of sampled records, if they come from a sample.
    pub(super) fn infer(&self) -> Result<Option<(SchemaRef, Option<usize>)>, EngineError> {
        let declared = self.schemas.columns().map_err(|problem| self.error(problem))?;
        if let Some(schema) = declared {
            return Ok(Some((schema, None)));
        }
        let payloads = self.sample()?;
        let columns = decoding::infer(&self.spec.format, &payloads).map_err(|problem| self.error(problem))?;
        Ok(columns.map(|columns| (columns, Some(payloads.len()))))
    }
}

impl ConnectedInput {
    fn error(&self, message: String) -> EngineError {
        EngineError::Source { input: self.spec.name.clone(), kind: ErrorKind::User, message }
    }
}

/// The inputs as the query sees them: declared in the spec or by `CREATE TABLE`, pinned by an earlier start, or inferred.
/// An empty topic without a schema is waited for; `None` when the run is bounded or was stopped meanwhile. Schemas are pinned in
/// `store`, which a bounded run has only to read them.
pub(super) fn tables(
    store: Option<&Store>,
    script: &Script,
    connected: &[ConnectedInput],
    options: &RunOptions,
) -> Result<Option<Vec<InputTable>>, RunError> {
    let mut tables = vec![];
    for input in connected {
        let name = &input.spec.name;
        let created = script.declared_tables().iter().find(|table| table.name.eq_ignore_ascii_case(name));
        let declared = input.spec.schema.clone().or_else(|| created.and_then(|table| created_schema(table, None)));
        if let Some(schema) = declared {
            tables.push(InputTable {
                name: name.clone(),
                schema,
                sampled: None,
                time_column: None,
                exact: created.is_some() && input.spec.schema.is_none(),
                reference: input.spec.reference.is_some(),
            });
            continue;
        }
        let pinned = match store {
            Some(store) if !options.reinfer => pinned::load(store, name)?,
            _ => None,
        };
        let (sample, records) = match pinned {
            Some(schema) => (schema, Some(SAMPLE_RECORDS)),
            None => {
                let Some((schema, records)) = wait_for_sample(input, options)? else {
                    if options.bounded && connected.len() > 1 {
                        let message = "is empty, so its columns are not known; declare `schema`".to_owned();
                        return Err(input.error(message).into());
                    }
                    return Ok(None);
                };
                if let Some(store) = store.filter(|_| !options.bounded) {
                    pinned::store(store, name, &schema)?;
                }
                (schema, records)
            }
        };
        let schema = created.and_then(|table| created_schema(table, Some(&sample))).unwrap_or(sample);
        tables.push(InputTable {
            name: name.clone(),
            schema,
            sampled: records,
            time_column: None,
            exact: created.is_some(),
            reference: input.spec.reference.is_some(),
        });
    }
    Ok(Some(tables))
}

/// The columns of a `CREATE TABLE`. The insides of an array or a record, which it does not declare, are those of the
/// sample; `None` when they are not known.
pub(super) fn created_schema(table: &DeclaredTable, sample: Option<&SchemaRef>) -> Option<SchemaRef> {
    let fields = table.columns.iter().map(|(name, declared)| {
        let sampled =
            || sample?.fields().iter().find(|f| f.name().eq_ignore_ascii_case(name)).map(|f| f.data_type().clone());
        Some(Field::new(name, declared.clone().or_else(sampled)?, true))
    });
    Some(Arc::new(Schema::new(fields.collect::<Option<Vec<_>>>()?)))
}

fn wait_for_sample(
    input: &ConnectedInput,
    options: &RunOptions,
) -> Result<Option<(SchemaRef, Option<usize>)>, RunError> {
    let mut said = false;
    loop {
        if let Some(inferred) = input.infer()? {
            return Ok(Some(inferred));
        }
        if options.bounded {
            tracing::info!("input `{}` is empty and has no `schema`: there is nothing to do", input.spec.name);
            return Ok(None);
        }
        if options.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if !said {
            said = true;
            let name = &input.spec.name;
            tracing::info!("input `{name}` is empty and has no `schema`: waiting for its first record");
        }
        std::thread::sleep(EMPTY_RETRY);
    }
}

/// One intake for each worker and input of the dataflow, by worker, and of each input what becomes of its bad records.
/// `connected` is in the dataflow's order; `letters` makes what takes the dead letters of a worker. A dataflow that runs twice has the
/// inputs twice: what status shows is the second reading.
pub(super) fn intakes(
    job: &Job,
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    begin: &Begin,
    workers: usize,
    options: &RunOptions,
    letters: &dyn Fn() -> Arc<Mutex<dyn DeadLetters>>,
) -> Result<(Vec<Vec<Intake>>, Vec<BadRecords>), RunError> {
    let mut by_worker: Vec<Vec<Intake>> = (0..workers).map(|_| vec![]).collect();
    let letters: Vec<_> = (0..workers).map(|_| letters()).collect();
    let mut bad_records = vec![];
    for (number, columns) in dataflow.inputs.iter().enumerate() {
        let (index, is_last) = (number % connected.len(), number + connected.len() >= dataflow.inputs.len());
        let input = &connected[index];
        let decoders = decoding::decoders(&input.spec, &input.schemas, columns)?;
        let counters = match is_last {
            true => options.stats.add_input(&input.spec.name, &input.transport),
            false => Arc::default(),
        };
        let left_out = options.replay.as_ref().and_then(|replayed| replayed.left_out(&input.spec.name, is_last));
        let left_out = left_out.map(Arc::new);
        let clocks = Arc::new(Mutex::new(BrokerClocks::new(job.clock_uncertainty.micros())));
        let intake_options = |worker: usize| IntakeOptions {
            arrival: arrival(job, &input.spec),
            judge_arrival: matches!(input.transport, Transport::Kafka { .. }),
            idle_margin_us: idle_margin_us(&input.spec),
            clocks: Arc::clone(&clocks),
            growing: !options.bounded && matches!(input.transport, Transport::Kafka { .. }),
            on_bad_record: on_bad_record(&input.spec),
            max_bad_ppm: input.spec.max_bad_ppm,
            dead_letters: Arc::clone(&letters[worker]),
            counters: Arc::clone(&counters),
            clock: Arc::clone(&options.clock),
            resume: begin.resume[index].clone(),
            batch_rows: BATCH_ROWS,
        };
        bad_records.push(BadRecords::of(&columns.name, &intake_options(0)));
        for (worker, mut source) in sources(input, columns, (begin, index), workers, options)?.into_iter().enumerate() {
            if let Some(stamps) = &options.stamps {
                source = Box::new(Stamped { source, stamps: Arc::clone(stamps) });
            }
            if let Some(places) = &left_out {
                source = Box::new(Without::new(source, Arc::clone(places)));
            }
            by_worker[worker].push(Intake::new(dataflow, number, source, &decoders, intake_options(worker)));
        }
    }
    Ok((by_worker, bad_records))
}

/// A row as the JSON that a dead letter holds where there is no record.
pub(super) fn row_text(row: &RecordBatch) -> Result<Vec<u8>, EngineError> {
    let mut rows = EncodedRows::default();
    JsonEncoder.encode(row, &mut rows)?;
    Ok(rows.row(0).to_vec())
}

fn sources(
    input: &ConnectedInput,
    columns: &InputColumns,
    (begin, index): (&Begin, usize),
    workers: usize,
    options: &RunOptions,
) -> Result<Vec<Box<dyn Source>>, RunError> {
    Ok(match &input.transport {
        Transport::Kafka { input, .. } => {
            let ends = match &begin.ends {
                Some(ends) => Some(ends[index].clone()),
                None => options.bounded.then(|| input.end_offsets()).transpose()?,
            };
            let with_headers = columns.metadata.contains(&MetadataColumn::Headers);
            input.open(workers, &begin.offsets[index], ends.as_deref(), with_headers)?
        }
        Transport::Kept(records) => (0..workers)
            .map(|worker| {
                let own = if worker == 0 { records.clone() } else { Vec::new() };
                Box::new(KeptSource::new(own, Arc::clone(&options.clock))) as Box<dyn Source>
            })
            .collect(),
        Transport::File { files } => (0..workers)
            .map(|worker| {
                let numbered = (0u32..).map(PartitionId).zip(files.iter().cloned());
                let own = numbered.filter(|(id, _)| id.0 as usize % workers == worker);
                let format = decoding::file_format(&input.spec);
                let source = FileSource::new(&input.spec.name, own, format, Arc::clone(&options.clock));
                Box::new(source) as Box<dyn Source>
            })
            .collect(),
    })
}

pub(super) fn on_bad_record(input: &spec::Input) -> OnBadRecord {
    match input.on_bad_record {
        spec::OnBadRecord::DeadLetter => OnBadRecord::DeadLetter,
        spec::OnBadRecord::Fail => OnBadRecord::Fail,
        spec::OnBadRecord::Drop => OnBadRecord::Drop,
    }
}

fn arrival(job: &Job, input: &spec::Input) -> TimeRule {
    match &input.transport {
        InputTransport::Kafka(kafka) => match kafka.timestamp {
            Timestamp::LogAppendTime => TimeRule::LogAppend,
            Timestamp::CreateTime { out_of_order } => TimeRule::Bounded(TimeBounds {
                late_arrival: Some(job.time.late_arrival.micros()),
                out_of_order: out_of_order.micros(),
                early_arrival: None,
                action: late_action(job),
            }),
        },
        InputTransport::File(_) => TimeRule::LogAppend,
    }
}

fn idle_margin_us(input: &spec::Input) -> i64 {
    match &input.transport {
        InputTransport::Kafka(kafka) => kafka.idle_margin.micros(),
        InputTransport::File(_) => 0,
    }
}
