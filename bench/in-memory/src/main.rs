//! `in-memory HOST:PORT TOPIC PARTITIONS WORKERS QUERY COLUMN:TYPE...`: captures the answers to fetches of a whole topic, then runs
//! a query over them from memory with so many workers, and prints what that took as one JSON object: events, seconds on the wall,
//! seconds of CPU of each worker and of the merge thread. So the broker takes no part in what is measured.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own, which takes its own time")]

mod capture;
mod source;

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::json;
use tidemill_connectors::{
    discard::DiscardSink,
    formats::json::{JsonDecoder, JsonOptions},
};
use tidemill_engine::{
    Clock, EngineError, ErrorKind, EventTime, Monotonic,
    dataflow::{
        merge::{FromWorker, Merge, Output},
        plan::Dataflow,
        worker::{Step, Worker},
    },
    dead_letter::{DeadLetter, DeadLetters},
    decoder::DecoderFactory,
    event_time::{BrokerClocks, TimeRule},
    intake::{BATCH_ROWS, Intake, IntakeOptions, OnBadRecord},
};
use tidemill_queries::{InputTable, Script, Settings, plan};

use self::{
    capture::{Captured, capture},
    source::Answers,
};

/// Messages of a worker that may wait for the merge thread, as in a job.
const EXCHANGE_CAPACITY: usize = 32;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [broker, topic, partitions, workers, query, columns @ ..] = &args[..] else {
        bail!("usage: in-memory HOST:PORT TOPIC PARTITIONS WORKERS QUERY COLUMN:TYPE...");
    };
    let dataflow = dataflow(query, schema(columns)?)?;
    let captured = capture(broker, topic, partitions.parse()?)?;
    let taken = run(&dataflow, &captured, topic, workers.parse()?)?;
    println!("{taken}");
    Ok(())
}

fn schema(columns: &[String]) -> Result<SchemaRef> {
    let field = |column: &String| {
        let (name, kind) = column.split_once(':').with_context(|| format!("`{column}` is not COLUMN:TYPE"))?;
        let kind = match kind {
            "string" => DataType::Utf8,
            "double" => DataType::Float64,
            other => bail!("no type `{other}` of column `{name}`; there are string and double"),
        };
        Ok(Field::new(name, kind, true))
    };
    Ok(Arc::new(Schema::new(columns.iter().map(field).collect::<Result<Vec<_>>>()?)))
}

/// Over one input `events`, to one output `nothing`.
fn dataflow(query: &str, schema: SchemaRef) -> Result<Dataflow> {
    let refused = |errors: tidemill_queries::QueryErrors| anyhow!("{}", errors.render(query, "query"));
    let script = Script::parse(query).map_err(refused)?;
    let events = InputTable::declared("events", schema);
    plan(&script, &[events], &["nothing".to_owned()], &Settings::default()).map_err(refused)
}

/// Runs it with a thread for each worker and one for the merge half, as a job does.
fn run(dataflow: &Dataflow, captured: &[Captured], topic: &str, workers: usize) -> Result<serde_json::Value> {
    let output = Output { sink: Box::new(DiscardSink::default()), rows: Arc::default() };
    let rows = Arc::clone(&output.rows);
    let mut merge = Merge::try_new(dataflow, vec![output], &[], workers, &Arc::default())?;
    let halves = (0..workers).map(|worker| {
        let intake = intake(dataflow, Answers::new(topic, captured, (worker, workers)))?;
        Ok(Worker::try_new(dataflow, vec![intake], &Arc::default())?)
    });
    let halves = halves.collect::<Result<Vec<_>>>()?;

    let start = Instant::now();
    let (exchange, messages) = sync_channel(EXCHANGE_CAPACITY * workers);
    let (worker_seconds, merge_seconds) = thread::scope(|scope| -> Result<_> {
        let threads = halves.into_iter().enumerate().map(|(number, half)| {
            let exchange = exchange.clone();
            scope.spawn(move || work(number, half, &exchange))
        });
        let threads: Vec<_> = threads.collect();
        drop(exchange);
        let merging = scope.spawn(move || -> Result<f64> {
            while !merge.ended() {
                let (worker, message) = messages.recv().context("a worker left before its end")?;
                merge.take(worker, message)?;
            }
            merge.close()?;
            cpu_seconds()
        });
        let join = |thread: thread::ScopedJoinHandle<'_, Result<f64>>| {
            thread.join().map_err(|_| anyhow!("a thread panicked"))?
        };
        let merge_seconds = join(merging)?;
        Ok((threads.into_iter().map(join).collect::<Result<Vec<_>>>()?, merge_seconds))
    })?;
    let wall = start.elapsed();
    Ok(json!({
        "events": captured.iter().map(|partition| partition.records).sum::<u64>(),
        "rows": rows.load(std::sync::atomic::Ordering::Relaxed),
        "wall_seconds": wall.as_secs_f64(),
        "worker_cpu_seconds": worker_seconds,
        "merge_cpu_seconds": merge_seconds,
    }))
}

/// A worker's thread; gives the CPU time that it took.
fn work(number: usize, mut worker: Worker, exchange: &SyncSender<(usize, FromWorker)>) -> Result<f64> {
    let mut send = |message| {
        exchange.send((number, message)).map_err(|_| {
            let message = "the merge thread has left".to_owned();
            EngineError::Source { input: String::new(), kind: ErrorKind::Bug, message }
        })
    };
    while worker.step(Duration::ZERO, &mut send)? != Step::Done {}
    cpu_seconds()
}

/// CPU time of the calling thread: the first figure of its `schedstat`, nanoseconds.
fn cpu_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").context("the kernel tells no CPU time of a thread")?;
    let nanoseconds = text.split(' ').next().and_then(|figure| figure.parse::<u64>().ok());
    Ok(nanoseconds.context("`schedstat` has another form")? as f64 / 1e9)
}

fn intake(dataflow: &Dataflow, source: Answers) -> Result<Intake> {
    let schema = Arc::clone(&dataflow.inputs[0].payload);
    JsonDecoder::new(Arc::clone(&schema), JsonOptions::default())?;
    let decoders: DecoderFactory = Arc::new(move || {
        Box::new(JsonDecoder::new(Arc::clone(&schema), JsonOptions::default()).expect("accepted above"))
    });
    let options = IntakeOptions {
        arrival: TimeRule::LogAppend,
        judge_arrival: true,
        idle_margin_us: 0,
        clocks: Arc::new(Mutex::new(BrokerClocks::new(0))),
        growing: false,
        on_bad_record: OnBadRecord::Fail,
        max_bad_ppm: None,
        dead_letters: Arc::new(Mutex::new(NoLetters)),
        counters: Arc::default(),
        clock: Arc::new(ProcessClock(Instant::now())),
        resume: BTreeMap::new(),
        batch_rows: BATCH_ROWS,
    };
    ensure!(dataflow.inputs.len() == 1, "the query reads other than `events`");
    Ok(Intake::new(dataflow, 0, Box::new(source), &decoders, options))
}

/// The events are all good.
struct NoLetters;

impl DeadLetters for NoLetters {
    fn put(&mut self, letter: &DeadLetter<'_>) -> tidemill_engine::Result<()> {
        let message = format!("a record became a dead letter: {}", letter.class.as_str());
        Err(EngineError::Source { input: letter.input.to_owned(), kind: ErrorKind::Data, message })
    }
}

struct ProcessClock(Instant);

impl Clock for ProcessClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn wall(&self) -> EventTime {
        EventTime(self.monotonic().0)
    }
}
