//! A topic, or files, as a table of questions.

use std::{
    fmt, fs,
    path::PathBuf,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

use arrow::{
    datatypes::{Schema, SchemaRef},
    record_batch::RecordBatch,
};
use tidemill_connectors::{
    files::{self, FileSource},
    kafka::{KafkaInput, Partitioner, ReadStretch},
};
use tidemill_engine::{
    Clock, EngineError, ErrorKind, Result,
    source::{PartitionId, Source, TimestampKind},
};
use tidemill_queries::bounded::{Interval, LogPartition, LogTable, Scan, Stretch, Stretches, Wanted};

use super::{
    columns::Columns,
    progress::Progress,
    scan::{RecordScan, ScanPlan},
};
use crate::{
    run::decoding::{self, FormatSchemas},
    spec,
};

/// How far a broker's clock may have stepped back: a record of before an instant may lie behind one of so much later.
const STEP_BACK_MS: i64 = 60_000;
/// Rows that are kept of a sample, to be shown.
const SHOWN_ROWS: usize = 3;

/// Where a table's records are.
pub(super) enum Transport {
    Kafka(KafkaInput),
    Files(Vec<PathBuf>),
}

/// An input with which contact was made, and what a sample of it says. Serves any number of questions.
pub(super) struct Topic {
    pub(super) spec: spec::Input,
    pub(super) transport: Transport,
    schemas: FormatSchemas,
    pub(super) columns: Columns,
    partitions: Vec<LogPartition>,
    /// Of a payload, on average.
    record_bytes: u64,
    /// Whether a payload may be several rows.
    several_rows: bool,
    /// Whether its topics are set to be stamped by the broker.
    pub(super) log_append: bool,
    pub(super) sample: Option<RecordBatch>,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

impl Topic {
    /// `payloads` are a sample of the input, as they lie there.
    pub(super) fn new(
        spec: spec::Input,
        transport: Transport,
        schemas: FormatSchemas,
        payloads: Vec<Vec<u8>>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let failure = |message| EngineError::Source { input: spec.name.clone(), kind: ErrorKind::User, message };
        let (partitions, log_append) = match &transport {
            Transport::Kafka(input) => {
                let partitions = input.partitions().into_iter();
                let partitions = partitions.map(|p| LogPartition { topic: Arc::clone(&p.topic), number: p.number });
                (partitions.collect(), input.stamps_log_append()?)
            }
            Transport::Files(files) => {
                let topic = |path: &PathBuf| path.display().to_string().into();
                (files.iter().map(|path| LogPartition { topic: topic(path), number: 0 }).collect(), false)
            }
        };
        let payload_bytes: usize = payloads.iter().map(Vec::len).sum();
        let record_bytes = (payload_bytes / payloads.len().max(1)).max(1) as u64;
        let payloads: Vec<_> = match &transport {
            Transport::Kafka(_) => payloads.into_iter().filter_map(|p| decoding::unpack(&spec, p)).collect(),
            Transport::Files(_) => payloads,
        };
        let payload = match &spec.schema {
            Some(schema) => Arc::clone(schema),
            None => match schemas.columns().map_err(failure)? {
                Some(schema) => schema,
                None => decoding::infer(&spec.format, &payloads)
                    .map_err(failure)?
                    .unwrap_or_else(|| Arc::new(Schema::empty())),
            },
        };
        let several_topics = match &spec.transport {
            spec::InputTransport::Kafka(kafka) => kafka.topics.len() > 1,
            spec::InputTransport::File(_) => true,
        };
        let columns = Columns::new(payload, several_topics);
        let mut topic = Self {
            spec,
            transport,
            schemas,
            columns,
            partitions,
            record_bytes,
            several_rows: false,
            log_append,
            sample: None,
            clock,
        };
        topic.look_at(&payloads)?;
        Ok(topic)
    }

    /// Decodes the sample as a question would, except for what is packed: that was unpacked.
    fn look_at(&mut self, payloads: &[Vec<u8>]) -> Result<()> {
        let unpacked = spec::Input { compression: None, ..self.spec.clone() };
        let mut decoder = decoding::decoder(&unpacked, &self.schemas, &self.columns.payload, false)?;
        for payload in payloads {
            self.several_rows |= decoder.push(payload).is_ok_and(|rows| rows > 1);
        }
        let rows = decoder.flush()?;
        self.sample = (rows.num_rows() > 0).then(|| rows.slice(0, rows.num_rows().min(SHOWN_ROWS)));
        Ok(())
    }

    /// Bytes of all answers of brokers to fetches so far, also of records that nobody asked for; `None` where librdkafka reads, which does
    /// not tell. Files are not fetched.
    pub(super) fn fetched_bytes(&self) -> Option<u64> {
        match &self.transport {
            Transport::Kafka(input) if !input.path().is_own() => None,
            Transport::Kafka(input) => Some(input.fetches().iter().map(|(_, broker)| broker.bytes()).sum()),
            Transport::Files(_) => Some(0),
        }
    }

    fn scan_plan(&self, columns: &[usize]) -> Result<ScanPlan> {
        let decoder = |payload| decoding::decoder(&self.spec, &self.schemas, &payload, false);
        let fails = self.spec.on_bad_record == spec::OnBadRecord::Fail;
        ScanPlan::new(&self.spec.name, &self.columns, columns, self.several_rows, decoder, fails)
    }
}

/// A topic as one question sees it: up to its ends when they were asked for first.
pub(super) struct TopicTable {
    topic: Arc<Topic>,
    bounds: OnceLock<Vec<(i64, i64)>>,
    progress: Arc<Progress>,
}

impl fmt::Debug for TopicTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.topic.fmt(f)
    }
}

impl TopicTable {
    pub(super) fn new(topic: Arc<Topic>, progress: Arc<Progress>) -> Self {
        Self { topic, bounds: OnceLock::new(), progress }
    }

    fn of_files(&self, files: &[PathBuf], wanted: &Wanted) -> Stretches {
        let wanted = files.iter().enumerate().filter(|(index, _)| wanted.partitions[*index]);
        let stretch = |(partition, path): (usize, &PathBuf)| Stretch {
            partition,
            from: 0,
            to: i64::MAX,
            whole: (0, i64::MAX),
            records: None,
            bytes: fs::metadata(path).map_or(0, |metadata| metadata.len()),
        };
        Stretches { stretches: wanted.map(stretch).collect(), notes: vec![] }
    }

    fn of_topic(&self, input: &KafkaInput, wanted: &Wanted) -> Result<Stretches> {
        let bounds = match self.bounds.get() {
            Some(bounds) => bounds,
            None => {
                let bounds = input.bounds()?;
                self.bounds.get_or_init(|| bounds)
            }
        };
        let mut ranges: Vec<(i64, i64)> = bounds
            .iter()
            .zip(&wanted.partitions)
            .map(|(&(first, end), &wanted_at_all)| match wanted_at_all {
                true => (first.max(wanted.offsets.from), end.min(wanted.offsets.to.saturating_add(1))),
                false => (end, end),
            })
            .collect();
        let mut notes = vec![];
        if wanted.times != Interval::ALL {
            match self.topic.log_append {
                true => self.narrow_by_time(input, wanted, bounds, &mut ranges, &mut notes)?,
                false => notes.push(
                    "not by `_timestamp`: only where the broker stamps records does it say where they lie \
                     (message.timestamp.type=LogAppendTime)"
                        .to_owned(),
                ),
            }
        }
        if let Some(key) = &wanted.key {
            match self.partition_of(key) {
                Some(only) => {
                    let others = ranges.iter_mut().zip(bounds).enumerate().filter(|(partition, _)| *partition != only);
                    others.for_each(|(_, (range, &(_, end)))| *range = (end, end));
                }
                None => notes.push(
                    "not by `_key`: which partition has a key depends on who wrote it (`partitioner` of the input)"
                        .to_owned(),
                ),
            }
        }
        let pairs = ranges.iter().zip(bounds).enumerate().filter(|(_, ((from, to), _))| from < to);
        let stretches = pairs.map(|(partition, (&(from, to), &whole))| {
            let records = u64::try_from(to - from).unwrap_or(0);
            let bytes = records.saturating_mul(self.topic.record_bytes);
            Stretch { partition, from, to, whole, records: Some(records), bytes }
        });
        Ok(Stretches { stretches: stretches.collect(), notes })
    }

    /// The only partition that can hold a key. A key that is not UTF-8 is shown with U+FFFD in it, and may lie anywhere.
    fn partition_of(&self, key: &str) -> Option<usize> {
        let spec::InputTransport::Kafka(spec::KafkaInput { topics, partitioner: Some(partitioner), .. }) =
            &self.topic.spec.transport
        else {
            return None;
        };
        let partitioner = match partitioner {
            spec::Partitioner::Murmur2 => Partitioner::Murmur2,
            spec::Partitioner::Crc32 => Partitioner::Crc32,
        };
        let partitions = u32::try_from(self.topic.partitions.len()).ok()?;
        let number = i32::try_from(partitioner.partition(key.as_bytes(), partitions)).ok()?;
        let of_number = |partition: &LogPartition| partition.number == number;
        let only = self.topic.partitions.iter().position(of_number)?;
        Some(only).filter(|_| topics.len() == 1 && !key.contains('\u{fffd}'))
    }

    /// All before the first record of an instant are of before it. What lies behind the first of another instant may be of before
    /// it after a step of the broker's clock, and after records that their producer has stamped.
    fn narrow_by_time(
        &self,
        input: &KafkaInput,
        wanted: &Wanted,
        bounds: &[(i64, i64)],
        ranges: &mut [(i64, i64)],
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let times = wanted.times;
        if times.from > i64::MIN {
            let first_ms = times.from.div_euclid(1_000) + i64::from(times.from.rem_euclid(1_000) > 0);
            for ((range, found), (_, end)) in ranges.iter_mut().zip(input.offsets_at(first_ms)?).zip(bounds) {
                range.0 = range.0.max(found.unwrap_or(*end));
            }
        }
        if times.to < i64::MAX {
            let behind = input.offsets_at(times.to.div_euclid(1_000).saturating_add(1 + STEP_BACK_MS))?;
            let cuts: Vec<ReadStretch> = (0u32..)
                .map(PartitionId)
                .zip(behind)
                .zip(ranges.iter().zip(bounds))
                .filter_map(|((partition, found), (&(from, to), &(_, end)))| {
                    let found = found.filter(|found| (from..to).contains(found))?;
                    Some(ReadStretch { partition, from: found, to: end })
                })
                .collect();
            let stamped = input.stamped_by(&cuts)?;
            for cut in cuts {
                if stamped.get(&cut.partition) == Some(&TimestampKind::LogAppend) {
                    ranges[cut.partition.0 as usize].1 = cut.from;
                } else {
                    let number = self.topic.partitions[cut.partition.0 as usize].number;
                    notes.push(format!(
                        "partition {number} has records that their producer has stamped: read to its end"
                    ));
                }
            }
        }
        Ok(())
    }
}

impl LogTable for TopicTable {
    fn name(&self) -> &str {
        &self.topic.spec.name
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.topic.columns.schema)
    }

    fn partitions(&self) -> &[LogPartition] {
        &self.topic.partitions
    }

    fn stretches(&self, wanted: &Wanted) -> Result<Stretches> {
        match &self.topic.transport {
            Transport::Files(files) => Ok(self.of_files(files, wanted)),
            Transport::Kafka(input) => self.of_topic(input, wanted),
        }
    }

    fn seeks(&self) -> bool {
        matches!(self.topic.transport, Transport::Kafka(_))
    }

    fn counts_records(&self) -> bool {
        !self.topic.several_rows
    }

    fn open(&self, columns: &[usize], stretches: &[Stretch]) -> Result<Box<dyn Scan>> {
        let plan = self.topic.scan_plan(columns)?;
        let counted = Arc::<AtomicU64>::default();
        let id = |partition: usize| PartitionId(u32::try_from(partition).unwrap_or(u32::MAX));
        let source: Box<dyn Source> = match &self.topic.transport {
            Transport::Kafka(input) => {
                let stretches: Vec<_> = stretches
                    .iter()
                    .map(|stretch| ReadStretch { partition: id(stretch.partition), from: stretch.from, to: stretch.to })
                    .collect();
                let counting = plan.counts().then(|| Arc::clone(&counted));
                input.open_stretches(&stretches, plan.with_headers(), counting)?
            }
            Transport::Files(paths) => {
                let own = stretches.iter().map(|stretch| (id(stretch.partition), paths[stretch.partition].clone()));
                let format: files::InputFormat = decoding::file_format(&self.topic.spec);
                let name = &self.topic.spec.name;
                Box::new(FileSource::new(name, own, format, Arc::clone(&self.topic.clock)))
            }
        };
        Ok(Box::new(RecordScan::new(source, plan, counted, Arc::clone(&self.progress))))
    }
}

/// Columns that are declared, without a log behind them: to plan against before a connection is made.
#[derive(Debug)]
pub(super) struct DeclaredTable {
    name: String,
    schema: SchemaRef,
}

impl DeclaredTable {
    /// `None` where the columns are only known from a sample.
    pub(super) fn of(spec: &spec::Input) -> Option<Self> {
        let several = match &spec.transport {
            spec::InputTransport::Kafka(kafka) => kafka.topics.len() > 1,
            spec::InputTransport::File(_) => true,
        };
        let columns = Columns::new(Arc::clone(spec.schema.as_ref()?), several);
        Some(Self { name: spec.name.clone(), schema: columns.schema })
    }
}

impl LogTable for DeclaredTable {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn partitions(&self) -> &[LogPartition] {
        &[]
    }

    fn stretches(&self, _: &Wanted) -> Result<Stretches> {
        Ok(Stretches::default())
    }

    fn seeks(&self) -> bool {
        true
    }

    fn counts_records(&self) -> bool {
        false
    }

    fn open(&self, _: &[usize], _: &[Stretch]) -> Result<Box<dyn Scan>> {
        let message = "it has no records".to_owned();
        Err(EngineError::Source { input: self.name.clone(), kind: ErrorKind::Bug, message })
    }
}
