//! A dataflow over records in memory, on one thread: for conformance cases and tests. Everything but the transport is what
//! a job runs on: decoder, intake, both halves of the dataflow, JSON encoder.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arrow::array::RecordBatch;
use serde_json::{Map, Value};
use tidemill_connectors::formats::{
    encode::{EncodedRows, JsonEncoder, RowEncoder},
    json::{JsonDecoder, JsonOptions},
};
use tidemill_engine::{
    Clock, EventTime, Monotonic,
    dataflow::{
        merge::{Merge, Output},
        plan::{Dataflow, InputColumns, TablePlan},
        worker::Worker,
    },
    dead_letter::{DeadLetter, DeadLetters},
    decoder::{BadClass, DecoderFactory},
    event_time::{BrokerClocks, TimeRule},
    intake::{BATCH_ROWS, Intake, IntakeOptions, OnBadRecord},
    reference,
    sink::Sink,
    source::{PartitionId, Record, Source, SourceEvent, TimestampKind, Visit},
};

/// A row of a result, as the JSON encoder writes it.
pub type Row = Map<String, Value>;

/// One partition: (timestamp in milliseconds, payload) in offset order.
pub type Partition = Vec<(i64, Vec<u8>)>;

/// How a dataflow is run; results must not depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Workers, stepped in turn.
    pub workers: usize,
    /// Rows of a batch at most.
    pub batch_rows: usize,
    /// Records that a source hands over at once, at most.
    pub run_records: usize,
}

impl Default for Cut {
    fn default() -> Self {
        Self { workers: 1, batch_rows: BATCH_ROWS, run_records: usize::MAX }
    }
}

/// What came out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Rows of each output of the dataflow, in order.
    pub rows: Vec<Vec<Row>>,
    /// Dead letters: (input, partition, offset, class).
    pub dead_letters: Vec<(String, i32, i64, BadClass)>,
}

/// Runs the dataflow over the partitions of its inputs (by name) to their end.
///
/// # Errors
/// What stops a job, with its causes.
pub fn run(dataflow: &Dataflow, inputs: &BTreeMap<String, Vec<Partition>>, cut: Cut) -> anyhow::Result<Outcome> {
    let letters: Arc<Mutex<Letters>> = Arc::default();
    let mut by_worker: Vec<Vec<Intake>> = (0..cut.workers).map(|_| vec![]).collect();
    let options = || IntakeOptions {
        arrival: TimeRule::LogAppend,
        judge_arrival: true,
        idle_margin_us: 0,
        clocks: Arc::new(Mutex::new(BrokerClocks::new(0))),
        growing: false,
        on_bad_record: OnBadRecord::DeadLetter,
        max_bad_ppm: None,
        dead_letters: letters.clone(),
        counters: Arc::default(),
        clock: Arc::new(NoClock),
        resume: BTreeMap::new(),
        batch_rows: cut.batch_rows,
    };
    let source = |columns: &InputColumns, workers: usize, worker: usize| {
        let numbered = inputs.get(&columns.name).into_iter().flatten().enumerate();
        let own = numbered.filter(|(id, _)| id % workers == worker);
        let partitions = own.map(|(id, records)| (PartitionId(id as u32), records.clone(), 0)).collect();
        Box::new(Records { topic: columns.name.clone(), partitions, run: cut.run_records, joined: false })
    };
    for (index, columns) in dataflow.inputs.iter().enumerate() {
        let decoders = decoders(columns)?;
        for (worker, intakes) in by_worker.iter_mut().enumerate() {
            let source = source(columns, cut.workers, worker);
            intakes.push(Intake::new(dataflow, index, source, &decoders, options()));
        }
    }
    for TablePlan { columns, rows } in &dataflow.tables {
        let loaded = reference::load(columns, source(columns, 1, 0), &decoders(columns)?, options(), false)?;
        rows.put(EventTime::MIN, loaded);
    }
    let collected: Vec<Arc<Mutex<Vec<Row>>>> = dataflow.outputs.iter().map(|_| Arc::default()).collect();
    let sinks = collected.iter().map(|rows| Output { sink: Box::new(Collect(Arc::clone(rows))), rows: Arc::default() });
    let mut merge = Merge::try_new(dataflow, sinks.collect(), &[], cut.workers, &Arc::default())?;
    let workers = by_worker.into_iter().map(|intakes| Worker::try_new(dataflow, intakes, &Arc::default()));
    let mut workers = workers.collect::<Result<Vec<_>, _>>()?;
    while !merge.ended() {
        for (index, worker) in workers.iter_mut().enumerate() {
            worker.step(Duration::ZERO, &mut |message| merge.take(index, message).map(drop))?;
        }
    }
    merge.close()?;
    let rows = collected.iter().map(|rows| rows.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect();
    let mut dead_letters = letters.lock().unwrap_or_else(PoisonError::into_inner).0.clone();
    dead_letters.sort();
    Ok(Outcome { rows, dead_letters })
}

fn decoders(columns: &InputColumns) -> anyhow::Result<DecoderFactory> {
    let schema = Arc::clone(&columns.payload);
    let options = JsonOptions { exact: columns.exact, ..JsonOptions::default() };
    JsonDecoder::new(Arc::clone(&schema), options)?;
    Ok(Arc::new(move || Box::new(JsonDecoder::new(Arc::clone(&schema), options).expect("accepted above"))))
}

/// A worker's partitions, read in turn, a run of records each.
struct Records {
    topic: String,
    /// Number, records, next offset.
    partitions: Vec<(PartitionId, Partition, usize)>,
    run: usize,
    joined: bool,
}

impl Source for Records {
    fn poll(&mut self, _wait: Duration, visit: &mut Visit<'_>) -> tidemill_engine::Result<()> {
        if !self.joined {
            self.joined = true;
            for (partition, ..) in &self.partitions {
                let (topic, number) = (self.topic.as_str(), partition.0 as i32);
                visit(SourceEvent::Joined { partition: *partition, topic, number, start_offset: 0 })?;
            }
            return Ok(());
        }
        for (partition, records, next) in &mut self.partitions {
            if *next > records.len() {
                continue; // finished
            }
            let end = next.saturating_add(self.run).min(records.len());
            let run = (*next..end).map(|offset| Record {
                offset: offset as i64,
                timestamp_ms: records[offset].0,
                timestamp_kind: TimestampKind::LogAppend,
                key: None,
                value: Some(&records[offset].1),
                headers: &[],
                unread_headers: None,
            });
            let run: Vec<_> = run.collect();
            if !run.is_empty() {
                let (partition, records) = (*partition, &run[..]);
                visit(SourceEvent::Records { partition, records, received: Monotonic(0), live_from: None })?;
            }
            *next = end;
            if end == records.len() {
                *next = end + 1;
                visit(SourceEvent::Finished { partition: *partition })?;
            }
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.joined && self.partitions.iter().all(|(_, records, next)| *next > records.len())
    }
}

/// Keeps an output's rows.
struct Collect(Arc<Mutex<Vec<Row>>>);

impl Sink for Collect {
    fn write(&mut self, batch: &RecordBatch) -> tidemill_engine::Result<()> {
        let mut encoded = EncodedRows::default();
        JsonEncoder.encode(batch, &mut encoded)?;
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for index in 0..encoded.len() {
            rows.push(serde_json::from_slice(encoded.row(index)).expect("the encoder writes JSON objects"));
        }
        Ok(())
    }

    fn flush(&mut self) -> tidemill_engine::Result<()> {
        Ok(())
    }

    fn close(&mut self) -> tidemill_engine::Result<()> {
        Ok(())
    }
}

#[derive(Default)]
struct Letters(Vec<(String, i32, i64, BadClass)>);

impl DeadLetters for Letters {
    fn put(&mut self, letter: &DeadLetter<'_>) -> tidemill_engine::Result<()> {
        self.0.push((letter.input.to_owned(), letter.partition, letter.offset, letter.class));
        Ok(())
    }
}

/// Nothing over finished records depends on the time of day.
struct NoClock;

impl Clock for NoClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(0)
    }

    fn wall(&self) -> EventTime {
        EventTime(0)
    }
}
