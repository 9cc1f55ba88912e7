//! `bench-formats [EVENTS]`: decodes events of 8 columns, 3 of which are wanted, by our decoders and by the libraries that would be
//! used in their place, and prints a JSON object a measure: our time as a ratio of theirs, and allocations per record.
//!
//! All runs are in one process, in turns and in [`ROUNDS`] rounds, and the best CPU time of each is compared: ratios travel between
//! machines, absolutes do not. The last measures decode a mix with 1 % bad records, which become rows of dead letters as in a job, and
//! compare it with none.
#![allow(
    unsafe_code,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "counts allocations, prints, and takes the time that no result depends on"
)]

mod theirs;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    fs,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, anyhow, ensure};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::json;
use tidemill_connectors::{
    dead_letters::{LetterBox, LetterOrigin, LetterOrigins},
    formats::{
        avro::{self, AvroDecoder, AvroOptions, AvroSchema},
        csv::{CsvDecoder, CsvOptions},
        json::{JsonDecoder, JsonOptions},
        protobuf::{self, ProtobufDecoder, ProtobufOptions, ProtobufSchema},
    },
};
use tidemill_engine::{
    Clock, EventTime, Monotonic,
    dead_letter::{DeadLetter, DeadLetters},
    decoder::{BadRecord, Decoder},
};

const ROUNDS: usize = 9;
/// Rows of a batch, as the engine takes them.
const BATCH: usize = 8_192;
const EVENTS: usize = 50 * BATCH;
/// Of the events of a mix, one in this many is bad.
const BAD_EACH: usize = 100;

const AVRO_SCHEMA: &str = r#"{"type": "record", "name": "event", "fields": [
    {"name": "id", "type": "long"}, {"name": "user", "type": "string"}, {"name": "page", "type": "string"},
    {"name": "amount", "type": "double"}, {"name": "ok", "type": "boolean"}, {"name": "city", "type": "string"},
    {"name": "count", "type": "int"}, {"name": "note", "type": ["null", "string"]}
]}"#;
const PROTO_SCHEMA: &str = "syntax = \"proto3\"; message Event { int64 id = 1; string user = 2; string page = 3; double amount = 4; \
    bool ok = 5; string city = 6; int32 count = 7; optional string note = 8; }";
const WANTED: [&str; 3] = ["user", "amount", "count"];

/// Counts allocations.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Decodes payloads by another library, and says how many rows they gave.
type Theirs = Box<dyn FnMut(&[Vec<u8>]) -> Result<usize>>;

/// A format: its events, what decodes them, and how fast that has to be.
struct Bench {
    name: &'static str,
    payloads: Vec<Vec<u8>>,
    ours: Box<dyn Decoder>,
    theirs: Theirs,
    limit: f64,
}

fn main() -> Result<()> {
    let events = std::env::args().nth(1).map_or(Ok(EVENTS), |count| count.parse())?;
    let mut missed = false;
    for mut bench in benches(events)? {
        let (mut ours, mut theirs, mut slow, mut allocations) = (Duration::MAX, Duration::MAX, Duration::MAX, u64::MAX);
        let mut mixed = bench.payloads.clone();
        for payload in mixed.iter_mut().step_by(BAD_EACH) {
            payload.truncate(payload.len() / 2);
        }
        let mut letters = letters(bench.name);
        for _ in 0..ROUNDS {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            let (time, rows) = timed(|| decode(bench.ours.as_mut(), &bench.payloads))?;
            allocations = allocations.min(ALLOCATIONS.load(Ordering::Relaxed) - before);
            ensure!(rows == events, "{}: {rows} of {events} rows", bench.name);
            ours = ours.min(time);
            let (time, rows) = timed(|| (bench.theirs)(&bench.payloads))?;
            ensure!(rows == events, "{}: theirs gave {rows} of {events} rows", bench.name);
            theirs = theirs.min(time);
            let (time, (rows, bad)) = timed(|| decode_mixed(bench.ours.as_mut(), &mixed, &mut letters))?;
            ensure!(rows + bad == events, "{}: {rows} rows and {bad} letters of {events}", bench.name);
            slow = slow.min(time);
        }
        let per_event = |time: Duration| time.as_secs_f64() * 1e9 / events as f64;
        eprintln!("{}: {:.0} ns an event, theirs {:.0}", bench.name, per_event(ours), per_event(theirs));
        missed |= !print(&format!("{}_3_of_8", bench.name), ours.as_secs_f64() / theirs.as_secs_f64(), bench.limit);
        missed |= !print(&format!("{}_allocations", bench.name), allocations as f64 / events as f64, 0.05);
        missed |= !print(&format!("{}_1_percent_bad", bench.name), slow.as_secs_f64() / ours.as_secs_f64(), 1.0 / 0.9);
    }
    std::process::exit(i32::from(missed));
}

fn print(name: &str, ratio: f64, limit: f64) -> bool {
    let ok = ratio <= limit;
    let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
    println!("{}", json!({"name": name, "ratio": round(ratio), "limit": round(limit), "ok": ok}));
    ok
}

fn timed<T>(run: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let start = cpu_time()?;
    let value = run()?;
    Ok((cpu_time()? - start, value))
}

/// What this thread was on a core so far.
fn cpu_time() -> Result<Duration> {
    let schedule = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = schedule.split(' ').next().unwrap_or_default();
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

/// Rows of payloads that are all good.
fn decode(decoder: &mut dyn Decoder, payloads: &[Vec<u8>]) -> Result<usize> {
    let mut rows = 0;
    for batch in payloads.chunks(BATCH) {
        rows += batch.iter().filter_map(|payload| decoder.push(payload).ok()).sum::<usize>();
        std::hint::black_box(decoder.flush()?);
    }
    Ok(rows)
}

/// Rows of the good ones, and letters of the others.
fn decode_mixed(decoder: &mut dyn Decoder, payloads: &[Vec<u8>], letters: &mut LetterBox) -> Result<(usize, usize)> {
    let (mut rows, mut bad) = (0, 0);
    for batch in payloads.chunks(BATCH) {
        for (offset, payload) in (0..).zip(batch) {
            match decoder.push(payload) {
                Ok(decoded) => rows += decoded,
                Err(BadRecord { class, message }) => letters.put(&DeadLetter {
                    input: "in",
                    topic: "in",
                    partition: 0,
                    offset,
                    timestamp_ms: 0,
                    key: None,
                    value: Some(payload),
                    headers: &[],
                    class,
                    message: &message,
                    covering: 0,
                })?,
            }
        }
        std::hint::black_box(decoder.flush()?);
        bad += std::hint::black_box(letters.take()).iter().map(|letters| letters.num_rows()).sum::<usize>();
    }
    Ok((rows, bad))
}

/// Takes the letters of one input.
fn letters(format: &'static str) -> LetterBox {
    let origin = LetterOrigin { format, wire: None };
    let (job, inputs) = ("bench".to_owned(), [("in".to_owned(), origin)].into());
    let origins = LetterOrigins { job, inputs, ..LetterOrigins::default() };
    LetterBox::new(Arc::new(origins), 0, Arc::new(NoClock))
}

/// No letter needs the time of day here.
struct NoClock;

impl Clock for NoClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(0)
    }

    fn wall(&self) -> EventTime {
        EventTime(0)
    }
}

fn columns() -> SchemaRef {
    let types = [DataType::Utf8, DataType::Float64, DataType::Int64];
    let fields = WANTED.into_iter().zip(types).map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn benches(events: usize) -> Result<Vec<Bench>> {
    let avro_schema = Arc::new(AvroSchema::parse(AVRO_SCHEMA, &[]).map_err(|error| anyhow!(error))?);
    let avro_options =
        AvroOptions { framing: avro::Framing::Datum, schema: Some(avro_schema), schemas: None, max_unpacked: 1 << 20 };
    let message = ProtobufSchema::of_texts(PROTO_SCHEMA, &[]).and_then(|schema| schema.message(None));
    let protobuf_options = ProtobufOptions {
        framing: protobuf::Framing::Message,
        message: Some(message.map_err(|error| anyhow!(error))?),
        schemas: None,
    };
    let csv_names: Vec<String> =
        ["id", "user", "page", "amount", "ok", "city", "count", "note"].map(str::to_owned).to_vec();
    let csv_options = CsvOptions { names: Some(csv_names), ..CsvOptions::default() };
    Ok(vec![
        Bench {
            name: "json",
            payloads: theirs::events(events).map(|event| event.to_string().into_bytes()).collect(),
            ours: Box::new(JsonDecoder::new(columns(), JsonOptions::default())?),
            theirs: Box::new(theirs::arrow_json(columns())?),
            limit: 0.4,
        },
        Bench {
            name: "avro",
            payloads: theirs::avro_payloads(AVRO_SCHEMA, events)?,
            ours: Box::new(AvroDecoder::new(columns(), avro_options).map_err(|error| anyhow!(error))?),
            theirs: Box::new(theirs::apache_avro(AVRO_SCHEMA)?),
            limit: 0.2,
        },
        Bench {
            name: "protobuf",
            payloads: theirs::protobuf_payloads(PROTO_SCHEMA, events)?,
            ours: Box::new(ProtobufDecoder::new(columns(), protobuf_options).map_err(|error| anyhow!(error))?),
            theirs: Box::new(theirs::dynamic_message(PROTO_SCHEMA)?),
            limit: 0.2,
        },
        Bench {
            name: "csv",
            payloads: theirs::events(events).map(|event| theirs::csv_line(&event)).collect(),
            ours: Box::new(CsvDecoder::new("in", columns(), csv_options)?),
            theirs: Box::new(theirs::arrow_csv()?),
            limit: 1.0,
        },
    ])
}
