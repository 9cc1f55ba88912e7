//! The intake: raw records of one input in, batches with event time and watermarks out.
//!
//! One intake serves one worker and one input. It decodes each record once for all statements that read the input; each
//! of them has its own time policy, so its own event times and watermark. A bad record becomes a dead letter and harms
//! nobody else; a record that makes the decoder panic is such a bad record (class `bug`).

mod bad_records;
mod metadata;
mod place;
mod progress;
mod substreams;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arrow::{
    array::{ArrayRef, TimestampMicrosecondArray},
    datatypes::{Field, Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};

pub use bad_records::{BadRecords, RowText};
pub use metadata::{MetadataBuilders, metadata_field};
use place::Reader;
pub use progress::{InputCounters, PartitionView};
use progress::{Journal, PartitionProgress};

use crate::{
    Clock, EVENT_TIME, EngineError, ErrorKind, EventTime, ORDER, Result, Signal,
    dataflow::{
        order::{order_array, order_of, order_type},
        plan::{Dataflow, InputColumns, NodeId, OperatorPlan},
    },
    datetime_type,
    dead_letter::{DeadLetter, DeadLetters},
    decoder::{BadClass, BadRecord, Decoder, DecoderFactory},
    epoch::{Advance, Position, Resume},
    event_time::{BrokerClocks, Now, TimeCounters, TimeFact, TimeRule},
    source::{PartitionId, Record, Source, SourceEvent, UnreadHeaders},
    user_code::FailedRow,
};

/// Rows of a batch at most, but for a payload that holds more: large enough that per-batch work does not show, small
/// enough to stay in the second-level cache (spikes C: 1,024 to 8,192 rows cost the same).
pub const BATCH_ROWS: usize = 8_192;

/// Payload bytes of a batch after which it is emitted early: large records must not pile up.
const BATCH_BYTES: usize = 2 << 20;

/// Records of an input before its share of bad ones is judged: the first record of all may be a bad one.
pub const JUDGED_RECORDS: u64 = 1_000;

/// What becomes of a record that cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnBadRecord {
    /// Counted and kept.
    DeadLetter,
    /// The job stops.
    Fail,
    /// Counted.
    Drop,
}

/// How an input is taken in.
#[derive(Clone)]
pub struct IntakeOptions {
    /// How the record's own timestamp becomes event time, for statements without `TIMESTAMP BY`.
    pub arrival: TimeRule,
    /// Whether the arrival says when a record came in. If not (a file's last modification), nothing of `TIMESTAMP BY` is
    /// late or early by it.
    pub judge_arrival: bool,
    /// How far an idle partition stays behind its broker's clock, in microseconds.
    pub idle_margin_us: i64,
    /// What is known of the brokers' clocks, shared by the workers of an input: one may see live records of a leader while
    /// another has only idle partitions of it.
    pub clocks: Arc<Mutex<BrokerClocks>>,
    /// Whether partitions may appear while the job runs.
    pub growing: bool,
    /// Policy for bad records.
    pub on_bad_record: OnBadRecord,
    /// Bad records in a million of which there may be no more, judged from [`JUDGED_RECORDS`] records on.
    pub max_bad_ppm: Option<u64>,
    /// Where they go, shared by the intakes of a worker.
    pub dead_letters: Arc<Mutex<dyn DeadLetters>>,
    /// What is shown of this input while it runs, shared by its workers.
    pub counters: Arc<InputCounters>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where an earlier run left the partitions; records that it took are read again for its open windows.
    pub resume: BTreeMap<PartitionId, Resume>,
    /// Rows of a batch at most; [`BATCH_ROWS`] but in tests.
    pub batch_rows: usize,
}

/// Takes what an intake emits: the input node, rows or watermark, and of how many epochs of an earlier run these rows are part
/// ([`Resume::covering`]). Gives the rows that failed before they were held anywhere.
pub type EmitInput<'e> = dyn FnMut(NodeId, Signal, u8) -> Result<Vec<FailedRow>> + 'e;

/// See the module.
pub struct Intake {
    source: Box<dyn Source>,
    rows: Rows,
}

/// Everything but the source, which is borrowed while it reports.
struct Rows {
    name: String,
    options: IntakeOptions,
    bad_records: BadRecords,
    /// Whether rows may fail that are still those of records: these have to be at hand then.
    may_fail: bool,
    decoder: Box<dyn Decoder>,
    /// [`ORDER`] if wanted, payload, metadata, arrival as [`EVENT_TIME`].
    schema: SchemaRef,
    /// Index of the input, for the order of its rows.
    index: usize,
    /// Of each row since the last flush its place in the order of all rows; `None` where nothing depends on it.
    order: Option<Vec<i128>>,
    readers: Vec<Reader>,
    partitions: BTreeMap<PartitionId, PartitionProgress>,
    metadata: MetadataBuilders,
    /// Of each row since the last flush: its record's timestamp in microseconds.
    arrivals: Vec<i64>,
    /// Payload bytes since the last flush.
    bytes: usize,
    /// Of each row since the last flush: index of its record in the event at hand.
    record_of_row: Vec<u32>,
    /// Rows since the last flush in runs of one partition: (partition, first row).
    runs: Vec<(PartitionId, usize)>,
    /// What happened to event times, as far as it was published.
    counted: TimeCounters,
    /// Partitions of which something was heard since the counters were told.
    heard: Vec<PartitionId>,
    /// Of how many epochs of an earlier run the rows since the last flush are part.
    covering: u8,
    ended: bool,
}

impl Intake {
    /// For the input of index `input`. `decoders` makes decoders of the input's payload columns.
    #[must_use]
    pub fn new(
        dataflow: &Dataflow,
        input: usize,
        source: Box<dyn Source>,
        decoders: &DecoderFactory,
        options: IntakeOptions,
    ) -> Self {
        let InputColumns { name, payload, metadata, ordered, may_fail, .. } = dataflow.inputs[input].clone();
        let mut fields: Vec<Arc<Field>> = vec![];
        fields.extend(ordered.then(|| Arc::new(Field::new(ORDER, order_type(), false))));
        fields.extend(payload.fields().iter().cloned());
        fields.extend(metadata.iter().map(|m| Arc::new(metadata_field(*m))));
        fields.push(Arc::new(Field::new(EVENT_TIME, datetime_type(), false)));
        let readers = dataflow.nodes.iter().enumerate().filter_map(|(node, n)| match &n.operator {
            OperatorPlan::Input(plan) if plan.input == input => Some(Reader::new(node, &plan.time, &options)),
            _ => None,
        });
        let rows = Rows {
            bad_records: BadRecords::of(&name, &options),
            may_fail,
            name,
            decoder: decoders(),
            schema: Arc::new(Schema::new(fields)),
            index: input,
            order: ordered.then(Vec::new),
            readers: readers.collect(),
            partitions: BTreeMap::new(),
            metadata: MetadataBuilders::new(&metadata),
            arrivals: vec![],
            bytes: 0,
            record_of_row: vec![],
            runs: vec![],
            counted: TimeCounters::default(),
            heard: vec![],
            covering: 0,
            ended: false,
            options,
        };
        Self { source, rows }
    }

    /// The columns of its batches.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.rows.schema)
    }

    /// Polls the source once, waiting at most `wait`, and emits what came. Returns whether anything came. At the end of
    /// the source emits watermarks of [`EventTime::MAX`], once.
    ///
    /// # Errors
    /// Of the source, of an expression, of `emit`, or a bad record under [`OnBadRecord::Fail`].
    pub fn poll(&mut self, wait: Duration, emit: &mut EmitInput<'_>) -> Result<bool> {
        if self.rows.ended {
            return Ok(false);
        }
        let Self { source, rows } = self;
        let (mut heard, mut any) = (false, false);
        source.poll(wait, &mut |event| {
            heard = true;
            any |= matches!(event, SourceEvent::Records { .. });
            rows.take(event, emit)
        })?;
        rows.ended = source.finished();
        if heard || rows.ended {
            rows.flush(None, emit)?;
            rows.send_watermarks(emit)?;
        }
        Ok(any)
    }

    /// The dead letters since the last call, of all intakes that share them.
    pub(crate) fn take_letters(&self) -> Vec<RecordBatch> {
        self.rows.options.dead_letters.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the source is finished and everything was emitted.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.rows.ended
    }

    /// Where each partition stands; `input` is the input's index. The replay offset is that of the first record whose event
    /// time may be at or above `horizon`; `None`: nothing needs replaying.
    pub fn positions(&mut self, input: usize, horizon: Option<EventTime>) -> Vec<Position> {
        let Rows { readers, partitions, .. } = &mut self.rows;
        let positions = partitions.iter_mut().map(|(&partition, progress)| {
            let marks = readers.iter().map(|reader| reader.time.mark(partition)).collect();
            let (replay_offset, readers) = progress.cut(horizon, marks);
            let PartitionProgress { topic, number, next_offset, .. } = &*progress;
            let (topic, number, next_offset) = (topic.clone(), *number, *next_offset);
            Position { input, partition, topic, number, next_offset, replay_offset, readers }
        });
        positions.collect()
    }
}

impl Rows {
    fn take(&mut self, event: SourceEvent<'_>, emit: &mut EmitInput<'_>) -> Result<()> {
        if let Some(partition) = event.partition().filter(|partition| self.heard.last() != Some(partition)) {
            self.heard.push(partition);
        }
        match event {
            SourceEvent::Joined { partition, topic, number, start_offset } => {
                self.join(partition, topic, number, start_offset);
                self.repeat_advances(partition, start_offset, emit)?;
            }
            SourceEvent::Records { partition, records, received, live_from } => {
                self.take_records(partition, records, emit)?;
                if let (Some(leader), TimeRule::LogAppend, Some(last)) =
                    (live_from, self.options.arrival, records.last())
                {
                    self.clocks().sample(partition, leader, EventTime::from_millis(last.timestamp_ms), received);
                }
            }
            SourceEvent::Position { partition, next_offset } => {
                if let Some(progress) = self.partitions.get_mut(&partition) {
                    progress.next_offset = progress.next_offset.max(next_offset);
                    self.repeat_advances(partition, next_offset, emit)?;
                }
            }
            SourceEvent::End { partition, leader, asked, end_offset } => {
                self.flush(None, emit)?; // what was read before the answer is placed before the watermark moves
                let now = Now::of(self.options.clock.as_ref());
                let broker_time = self.clocks().broker_time(partition, leader, asked, now);
                if let Some(progress) = self.partitions.get_mut(&partition) {
                    for (reader, journal) in self.readers.iter_mut().zip(&mut progress.journals) {
                        let moved = reader.time.end_evidence(partition, progress.next_offset, end_offset, broker_time);
                        if let Some(TimeFact::IdleAdvance { offset, watermark, .. }) = moved {
                            journal.advanced(Advance { offset, watermark });
                        }
                    }
                }
            }
            SourceEvent::Topology { asked } => {
                let now = Now::of(self.options.clock.as_ref());
                let broker_time = self.clocks().topology_time(asked, now);
                for reader in &mut self.readers {
                    reader.time.topology(broker_time);
                }
            }
            SourceEvent::Finished { partition } => {
                self.flush(None, emit)?;
                for reader in &mut self.readers {
                    reader.time.finished(partition);
                }
            }
        }
        Ok(())
    }

    fn clocks(&self) -> MutexGuard<'_, BrokerClocks> {
        self.options.clocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition is read from now on, as a new one or where an earlier run left it.
    fn join(&mut self, partition: PartitionId, topic: &str, number: i32, start_offset: i64) {
        let resume = self.options.resume.get(&partition).filter(|resume| resume.readers.len() == self.readers.len());
        match resume {
            Some(resume) => {
                for (reader, (mark, _)) in self.readers.iter_mut().zip(&resume.readers) {
                    reader.time.resumed(partition, *mark);
                }
            }
            None => {
                for reader in &mut self.readers {
                    reader.time.joined(partition, start_offset);
                }
            }
        }
        let marks = self.readers.iter().map(|reader| reader.time.mark(partition)).collect();
        let mut progress = PartitionProgress::new(topic, number, start_offset, marks);
        for (journal, (_, due)) in progress.journals.iter_mut().zip(resume.iter().flat_map(|resume| &resume.readers)) {
            journal.repeat(due);
        }
        self.options.counters.joined(partition, &progress);
        self.partitions.insert(partition, progress);
    }

    /// Repeats the advances of an earlier run that stood at or before the record at `offset`.
    fn repeat_advances(&mut self, partition: PartitionId, offset: i64, emit: &mut EmitInput<'_>) -> Result<()> {
        let is_due = |journal: &Journal| journal.due_at().is_some_and(|at| at <= offset);
        if !self.partitions.get(&partition).is_some_and(|progress| progress.journals.iter().any(is_due)) {
            return Ok(());
        }
        self.flush(None, emit)?; // what came before an advance is placed before it
        let Some(progress) = self.partitions.get_mut(&partition) else { return Ok(()) };
        for (reader, journal) in self.readers.iter_mut().zip(&mut progress.journals) {
            while let Some(advance) = journal.take_due(offset) {
                let Advance { offset, watermark } = advance;
                reader.time.apply(&TimeFact::IdleAdvance { partition, offset, watermark });
                journal.advanced(advance);
            }
        }
        Ok(())
    }

    fn take_records(&mut self, partition: PartitionId, records: &[Record<'_>], emit: &mut EmitInput<'_>) -> Result<()> {
        let Some(last) = records.last() else { return Ok(()) };
        let mut rest = records;
        while let Some(first) = rest.first() {
            self.repeat_advances(partition, first.offset, emit)?;
            let (covering, until) = self.stretch(partition, first.offset);
            if self.covering != covering {
                self.flush(None, emit)?;
                self.covering = covering;
            }
            let (piece, behind) = rest.split_at(rest.partition_point(|record| record.offset < until));
            self.decode(partition, piece, emit)?;
            rest = behind;
        }
        if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.next_offset = last.offset + 1;
        }
        self.options.counters.took(records);
        self.judge_bad()?;
        self.repeat_advances(partition, last.offset + 1, emit)
    }

    /// Ends the job when too large a share of the input's records is bad.
    fn judge_bad(&self) -> Result<()> {
        let Some(max_ppm) = self.options.max_bad_ppm else { return Ok(()) };
        let (records, bad) = self.options.counters.share_of_bad();
        if records < JUDGED_RECORDS || bad.saturating_mul(1_000_000) <= max_ppm.saturating_mul(records) {
            return Ok(());
        }
        Err(EngineError::Source {
            input: self.name.clone(),
            kind: ErrorKind::Data,
            message: format!(
                "{bad} of {records} records are bad, more than `max_bad` allows ({} %)",
                max_ppm as f64 / 10_000.0
            ),
        })
    }

    /// Of how many epochs the record at `offset` is part, and the first offset behind it at which that changes or an advance
    /// is to be repeated.
    fn stretch(&self, partition: PartitionId, offset: i64) -> (u8, i64) {
        let Some(resume) = self.options.resume.get(&partition) else { return (0, i64::MAX) };
        let journals = self.partitions.get(&partition).into_iter().flat_map(|progress| &progress.journals);
        let changes = resume.covered.iter().copied().chain(journals.filter_map(Journal::due_at));
        (resume.covering(offset), changes.filter(|&at| at > offset).min().unwrap_or(i64::MAX))
    }

    /// Decodes records of one partition, all part of the same epochs.
    fn decode(&mut self, partition: PartitionId, records: &[Record<'_>], emit: &mut EmitInput<'_>) -> Result<()> {
        let at_hand = self.may_fail || self.readers.iter_mut().any(|reader| reader.may_leave_out(partition));
        if at_hand {
            self.flush(None, emit)?; // `record_of_row` counts from this event
        }
        self.runs.push((partition, self.arrivals.len()));
        let mut next = 0;
        while next < records.len() {
            let outcome = catch_unwind(AssertUnwindSafe(|| self.push_until_bad(records, &mut next)));
            let bad = match outcome {
                Ok(Ok(())) => None,
                Ok(Err(bad)) => Some(bad),
                Err(panic) => {
                    self.decoder.truncate(self.arrivals.len());
                    Some(BadRecord {
                        class: BadClass::Bug,
                        message: format!("decoder panicked: {}", panic_text(&panic)),
                    })
                }
            };
            if let Some(bad) = bad {
                self.bad_record(partition, &records[next], &bad)?;
                next += 1;
            }
            if self.is_full() {
                self.flush(at_hand.then_some(records), emit)?;
                self.runs.push((partition, 0));
            }
        }
        if at_hand { self.flush(Some(records), emit) } else { Ok(()) }
    }

    /// Whether the batch is to be emitted before more is put into it.
    fn is_full(&self) -> bool {
        self.arrivals.len() >= self.options.batch_rows || self.bytes >= BATCH_BYTES
    }

    /// Pushes records from `next` on until one is bad (then `next` is its index), the batch is full or none is left.
    fn push_until_bad(&mut self, records: &[Record<'_>], next: &mut usize) -> Result<(), BadRecord> {
        while let Some(record) = records.get(*next) {
            if self.is_full() {
                break;
            }
            match record.value {
                None => self.options.counters.tombstone(),
                Some(value) => {
                    let rows = self.decoder.push(value)?;
                    self.bytes += value.len();
                    let arrival = EventTime::from_millis(record.timestamp_ms).0;
                    self.arrivals.extend(std::iter::repeat_n(arrival, rows));
                    self.record_of_row.extend(std::iter::repeat_n(*next as u32, rows));
                    if let (Some(order), Some(&(partition, _))) = (&mut self.order, self.runs.last()) {
                        order.extend((0..rows).map(|row| order_of(self.index, partition, record.offset, row)));
                    }
                    if !self.metadata.is_empty() {
                        let partition = self.runs.last().and_then(|(p, _)| self.partitions.get(p));
                        let (topic, number) = partition.map_or(("", 0), |p| (p.topic.as_str(), p.number));
                        self.metadata.append(record, topic, number, rows);
                    }
                }
            }
            *next += 1;
        }
        Ok(())
    }

    fn bad_record(&self, partition: PartitionId, record: &Record<'_>, bad: &BadRecord) -> Result<()> {
        if bad.class == BadClass::Unavailable {
            let (kind, message) = (ErrorKind::Unavailable, bad.message.clone());
            return Err(EngineError::Source { input: self.name.clone(), kind, message });
        }
        let (topic, number) = self.partitions.get(&partition).map_or(("", 0), |p| (p.topic.as_str(), p.number));
        let mut read = vec![];
        if let Some(UnreadHeaders { bytes, read: read_into }) = record.unread_headers {
            read_into(bytes, &mut read);
        }
        self.bad_records.take(&DeadLetter {
            input: &self.name,
            topic,
            partition: number,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: if record.headers.is_empty() { &read } else { record.headers },
            class: bad.class,
            message: &bad.message,
            covering: self.covering,
        })
    }

    /// Takes rows that user code failed on: their records are dead letters, once for each row.
    fn failed_rows(&self, failed: Vec<FailedRow>, records: Option<&[Record<'_>]>) -> Result<()> {
        for row in failed {
            let record = row.origin().zip(records).and_then(|((_, partition, offset), records)| {
                let at = records.binary_search_by_key(&offset, |record| record.offset).ok()?;
                Some((partition, &records[at]))
            });
            let message = row.message;
            let Some((partition, record)) = record else {
                let message = format!("the record of a row that failed is not at hand: {message}");
                return Err(EngineError::Source { input: self.name.clone(), kind: ErrorKind::Bug, message });
            };
            self.bad_record(partition, record, &BadRecord { class: BadClass::Function, message })?;
        }
        Ok(())
    }

    /// Emits the rows since the last flush. `records` of the event at hand when a reader may leave rows out.
    fn flush(&mut self, records: Option<&[Record<'_>]>, emit: &mut EmitInput<'_>) -> Result<()> {
        let runs = std::mem::take(&mut self.runs);
        self.bytes = 0;
        if self.arrivals.is_empty() {
            return Ok(());
        }
        let rows = self.arrivals.len();
        let arrivals = std::mem::replace(&mut self.arrivals, Vec::with_capacity(rows));
        let mut record_of_row = std::mem::take(&mut self.record_of_row);
        let payload = self.decoder.flush()?;
        let mut columns: Vec<ArrayRef> = vec![];
        columns.extend(self.order.as_mut().map(|order| order_array(std::mem::take(order))));
        columns.extend_from_slice(payload.columns());
        columns.extend(self.metadata.finish());
        columns.push(datetimes(arrivals.clone()));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;

        let mut readers = std::mem::take(&mut self.readers);
        for (index, reader) in readers.iter_mut().enumerate() {
            let records = records.map(|r| (r, &record_of_row[..]));
            self.place((index, reader), &batch, &arrivals, &runs, records, emit)?;
        }
        self.readers = readers;
        record_of_row.clear();
        self.record_of_row = record_of_row; // and what it has allocated
        Ok(())
    }

    fn send_watermarks(&mut self, emit: &mut EmitInput<'_>) -> Result<()> {
        for reader in &mut self.readers {
            let watermark = if self.ended { EventTime::MAX } else { reader.time.watermark() };
            if watermark > reader.sent {
                reader.sent = watermark;
                emit(reader.node, Signal::Watermark(watermark), 0)?;
            }
        }
        if let Some(reader) = self.readers.first() {
            let watermark = |partition| Some((partition, reader.time.watermark_of(partition)?));
            self.options.counters.progress(&self.partitions, self.heard.drain(..).filter_map(watermark));
            let counted = reader.time.counters();
            self.options.counters.times(std::mem::replace(&mut self.counted, counted), counted);
        }
        Ok(())
    }
}

fn datetimes(values: Vec<i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from(values).with_timezone("UTC"))
}

fn panic_text(panic: &Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a message".to_owned())
}
