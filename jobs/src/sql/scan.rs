//! Records of a source as batches of the columns that a question reads.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arrow::{
    array::ArrayRef,
    datatypes::{Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use tidemill_engine::{
    EngineError, ErrorKind, Result,
    dataflow::plan::MetadataColumn,
    decoder::{BadClass, BadRecord, Decoder},
    intake::{BATCH_ROWS, MetadataBuilders},
    source::{PartitionId, Record, Source, SourceEvent},
};
use tidemill_queries::bounded::Scan;

use super::{
    columns::{Columns, Origin},
    progress::Progress,
};

/// How long one look at a source may take.
const POLL: Duration = Duration::from_millis(100);
/// Payload bytes of a batch after which it is given early: large records must not pile up.
const BATCH_BYTES: usize = 2 << 20;
/// Rows without columns that are given at once: for each of them something may be computed.
const COUNTED_ROWS: u64 = 1 << 16;

/// What a scan reads, beside its source.
pub(super) struct ScanPlan {
    /// The table's name, for messages.
    pub(super) name: String,
    /// The payload's columns that are read, and the decoder of them; `None` when none is: then each record is a row.
    pub(super) decoder: Option<Box<dyn Decoder>>,
    pub(super) metadata: Vec<MetadataColumn>,
    /// Of each column of a batch, the index in the decoder's columns or in `metadata`.
    places: Vec<Place>,
    schema: SchemaRef,
    /// A record that cannot be decoded ends the question.
    pub(super) fail_on_bad: bool,
}

enum Place {
    Payload(usize),
    Metadata(usize),
}

impl ScanPlan {
    /// For the columns of these indices. `decoder` makes a decoder of some of the payload's columns.
    pub(super) fn new(
        name: &str,
        columns: &Columns,
        wanted: &[usize],
        always_decode: bool,
        decoder: impl FnOnce(SchemaRef) -> Result<Box<dyn Decoder>>,
        fail_on_bad: bool,
    ) -> Result<Self> {
        let (mut payload, mut metadata, mut places) = (vec![], vec![], vec![]);
        for &index in wanted {
            places.push(match columns.origins[index] {
                Origin::Payload(field) => {
                    payload.push(field);
                    Place::Payload(payload.len() - 1)
                }
                Origin::Metadata(column) => {
                    metadata.push(column);
                    Place::Metadata(metadata.len() - 1)
                }
            });
        }
        let decoder = match payload.is_empty() && !always_decode {
            true => None,
            false => {
                let fields: Vec<_> =
                    payload.iter().map(|&field| Arc::clone(&columns.payload.fields()[field])).collect();
                Some(decoder(Arc::new(Schema::new(fields)))?)
            }
        };
        let schema = Arc::new(columns.schema.project(wanted)?);
        Ok(Self { name: name.to_owned(), decoder, metadata, places, schema, fail_on_bad })
    }

    /// Whether only the number of records is wanted.
    pub(super) fn counts(&self) -> bool {
        self.places.is_empty() && self.decoder.is_none()
    }

    pub(super) fn with_headers(&self) -> bool {
        self.metadata.contains(&MetadataColumn::Headers)
    }
}

/// A scan of a table's records.
pub(super) struct RecordScan {
    source: Box<dyn Source>,
    rows: RowBuilder,
    /// What the source counted by itself.
    counted: Arc<AtomicU64>,
}

impl RecordScan {
    pub(super) fn new(
        source: Box<dyn Source>,
        plan: ScanPlan,
        counted: Arc<AtomicU64>,
        progress: Arc<Progress>,
    ) -> Self {
        let metadata = MetadataBuilders::new(&plan.metadata);
        let rows = RowBuilder {
            plan,
            metadata,
            progress,
            partitions: HashMap::new(),
            rows: 0,
            bytes: 0,
            ready: VecDeque::new(),
        };
        Self { source, rows, counted }
    }
}

impl Scan for RecordScan {
    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let Self { source, rows, counted } = self;
        if rows.ready.is_empty() && !source.finished() {
            source.poll(POLL, &mut |event| rows.take(event))?;
            let counted = counted.swap(0, Relaxed);
            rows.progress.took(counted, 0);
            rows.rows += usize::try_from(counted).unwrap_or(usize::MAX);
            rows.flush()?;
        }
        match rows.ready.pop_front() {
            Some(batch) => Ok(Some(batch)),
            None if source.finished() => Ok(None),
            None => Ok(Some(RecordBatch::new_empty(Arc::clone(&rows.plan.schema)))),
        }
    }
}

/// Everything but the source, which is borrowed while it reports.
struct RowBuilder {
    plan: ScanPlan,
    metadata: MetadataBuilders,
    progress: Arc<Progress>,
    partitions: HashMap<PartitionId, Partition>,
    /// Since the last flush.
    rows: usize,
    /// Of payloads since the last flush.
    bytes: usize,
    ready: VecDeque<RecordBatch>,
}

struct Partition {
    topic: Arc<str>,
    number: i32,
    next_offset: i64,
}

impl RowBuilder {
    fn take(&mut self, event: SourceEvent<'_>) -> Result<()> {
        match event {
            SourceEvent::Joined { partition, topic, number, start_offset } => {
                self.partitions.insert(partition, Partition { topic: topic.into(), number, next_offset: start_offset });
            }
            SourceEvent::Records { partition, records, .. } => {
                self.take_records(partition, records)?;
                if let Some(last) = records.last() {
                    self.reached(partition, last.offset + 1);
                }
            }
            SourceEvent::Position { partition, next_offset } => self.reached(partition, next_offset),
            SourceEvent::End { .. } | SourceEvent::Topology { .. } | SourceEvent::Finished { .. } => {}
        }
        Ok(())
    }

    fn reached(&mut self, partition: PartitionId, offset: i64) {
        if let Some(partition) = self.partitions.get_mut(&partition) {
            let passed = offset.saturating_sub(partition.next_offset);
            self.progress.passed(u64::try_from(passed).unwrap_or(0));
            partition.next_offset = offset.max(partition.next_offset);
        }
    }

    fn take_records(&mut self, partition: PartitionId, records: &[Record<'_>]) -> Result<()> {
        let (topic, number) = match self.partitions.get(&partition) {
            Some(partition) => (Arc::clone(&partition.topic), partition.number),
            None => (Arc::from(""), 0),
        };
        let bytes: usize = records.iter().filter_map(|record| record.value).map(<[u8]>::len).sum();
        self.progress.took(records.len() as u64, bytes as u64);
        for record in records {
            let rows = match (&mut self.plan.decoder, record.value) {
                (None, _) => 1,
                (Some(_), None) => {
                    self.progress.tombstone();
                    continue;
                }
                (Some(decoder), Some(payload)) => match push(decoder.as_mut(), payload, self.rows) {
                    Ok(rows) => rows,
                    Err(bad) => {
                        self.bad_record(&topic, number, record.offset, &bad)?;
                        continue;
                    }
                },
            };
            self.metadata.append(record, &topic, number, rows);
            self.rows += rows;
            self.bytes += record.value.map_or(0, <[u8]>::len);
            if !self.plan.counts() && (self.rows >= BATCH_ROWS || self.bytes >= BATCH_BYTES) {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn bad_record(&self, topic: &str, number: i32, offset: i64, bad: &BadRecord) -> Result<()> {
        let text = || format!("`{topic}` partition {number} offset {offset}: {bad}");
        let kind = match bad.class {
            BadClass::Unavailable => ErrorKind::Unavailable,
            _ if self.plan.fail_on_bad => ErrorKind::Data,
            _ => {
                self.progress.bad_record(text);
                return Ok(());
            }
        };
        Err(EngineError::Source { input: self.plan.name.clone(), kind, message: text() })
    }

    fn flush(&mut self) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        let payload = self.plan.decoder.as_mut().map(|decoder| decoder.flush()).transpose()?;
        let metadata: Vec<ArrayRef> = self.metadata.finish().collect();
        let columns = self.plan.places.iter().map(|place| match place {
            Place::Payload(index) => payload.as_ref().map(|payload| Arc::clone(payload.column(*index))),
            Place::Metadata(index) => metadata.get(*index).map(Arc::clone),
        });
        let columns: Vec<ArrayRef> = columns.collect::<Option<_>>().unwrap_or_default();
        if columns.is_empty() {
            let mut left = rows as u64;
            while left > 0 {
                let some = left.min(COUNTED_ROWS);
                self.ready.push_back(self.batch(vec![], usize::try_from(some).unwrap_or(usize::MAX))?);
                left -= some;
            }
            return Ok(());
        }
        let batch = self.batch(columns, rows)?;
        self.ready.push_back(batch);
        Ok(())
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.plan.schema), columns, &options)?)
    }
}

/// Decodes a payload behind `rows` others; a panic of ours is a bad record.
fn push(decoder: &mut dyn Decoder, payload: &[u8], rows: usize) -> Result<usize, BadRecord> {
    catch_unwind(AssertUnwindSafe(|| decoder.push(payload))).unwrap_or_else(|_| {
        decoder.truncate(rows);
        Err(BadRecord { class: BadClass::Bug, message: "the decoder panicked; please report this as a bug".to_owned() })
    })
}
