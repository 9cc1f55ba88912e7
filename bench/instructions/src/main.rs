//! `bench-instructions LOOP EVENTS ROUNDS`: one of the product's inner loops over the events of a file, one a line, so many times; for
//! `cargo xtask bench instructions`, which counts what the processor executes. All is made ready before the first round in the same
//! way whatever their number, so that two runs differ by their rounds alone.
//!
//! Prints a JSON object: the records of a round, and the CPU features that choose between code paths.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own, which is told what to run")]

mod tumble;

use std::{fs, hint::black_box, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use arrow::{
    array::{ArrayRef, RecordBatch, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Schema},
};
use bytes::{Bytes, BytesMut};
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use serde_json::json;
use tidemill_connectors::{
    formats::{
        encode::{EncodedRows, JsonEncoder, RowEncoder},
        json::{JsonDecoder, JsonOptions},
    },
    kafka::records::{Unpacker, batches},
};
use tidemill_engine::{datetime_type, decoder::Decoder, intake::BATCH_ROWS};

/// Records of a batch of a producer that lingers: some 50 kB.
const RECORDS_OF_A_BATCH: usize = 256;
/// When the first of the events came in.
const FIRST_MS: i64 = 1_767_225_600_000;

/// A loop made ready; a call is a round, and says how many records it saw.
type Loop = Box<dyn FnMut() -> Result<usize>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, path, rounds] = &args[..] else {
        bail!("usage: bench-instructions LOOP EVENTS ROUNDS");
    };
    let text = fs::read_to_string(path).with_context(|| format!("`{path}` cannot be read"))?;
    let events: Vec<&[u8]> = text.lines().map(str::as_bytes).collect();
    let (mut round, records) = prepared(name, &events)?;
    for _ in 0..rounds.parse::<u32>().with_context(|| format!("`{rounds}` is no number of rounds"))? {
        let seen = round()?;
        ensure!(seen == records, "`{name}` saw {seen} of {records} records");
    }
    println!("{}", json!({"records": records, "cpu_features": cpu_features()}));
    Ok(())
}

/// A loop by its name, and the records of a round.
fn prepared(name: &str, events: &[&[u8]]) -> Result<(Loop, usize)> {
    let count = events.len();
    Ok(match name {
        "walk" => (walk(events)?, count),
        "decode" => (decode(events)?, count),
        "tumble" => {
            let batches = decoded(&[("user", DataType::Utf8), ("amount", DataType::Float64)], events)?;
            (tumble::prepared(&batches)?, tumble::WINDOWS * count)
        }
        "encode" => (encode(events)?, count),
        other => bail!("no loop `{other}`; there are walk, decode, tumble and encode"),
    })
}

/// The batches of a fetch answer: checked, and walked record by record.
fn walk(events: &[&[u8]]) -> Result<Loop> {
    let mut answer = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    for (batch, events) in events.chunks(RECORDS_OF_A_BATCH).enumerate() {
        let first = (batch * RECORDS_OF_A_BATCH) as i64;
        let records: Vec<Record> = (first..).zip(events).map(|(offset, event)| record(offset, event)).collect();
        RecordBatchEncoder::encode(&mut answer, &records, &options)?;
    }
    let mut unpacker = Unpacker::default();
    Ok(Box::new(move || {
        let mut count = 0;
        for batch in batches(&answer) {
            for record in unpacker.records(&batch?)? {
                black_box(record?);
                count += 1;
            }
        }
        Ok(count)
    }))
}

fn record(offset: i64, event: &[u8]) -> Record {
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::LogAppend,
        offset,
        sequence: offset as i32,
        timestamp: FIRST_MS,
        key: None,
        value: Some(Bytes::copy_from_slice(event)),
        headers: Default::default(),
    }
}

/// Two members of eleven into columns, all of each record checked.
fn decode(events: &[&[u8]]) -> Result<Loop> {
    let mut decoder = decoder(&[("user", DataType::Utf8), ("amount", DataType::Float64)])?;
    let events: Vec<Box<[u8]>> = events.iter().map(|event| (*event).into()).collect();
    Ok(Box::new(move || {
        let mut rows = 0;
        for batch in events.chunks(BATCH_ROWS) {
            for event in batch {
                rows += decoder.push(event)?;
            }
            black_box(decoder.flush()?);
        }
        Ok(rows)
    }))
}

/// Rows of text, numbers and a datetime to JSON.
fn encode(events: &[&[u8]]) -> Result<Loop> {
    let columns = [
        ("user", DataType::Utf8),
        ("page", DataType::Utf8),
        ("amount", DataType::Float64),
        ("quantity", DataType::Int64),
    ];
    let batches = decoded(&columns, events)?;
    let batches: Vec<RecordBatch> = batches
        .iter()
        .zip(0..)
        .map(|(batch, second)| with_time(batch, "at", FIRST_MS * 1_000 + second * 1_000_000))
        .collect::<Result<_>>()?;
    let mut rows = EncodedRows::default();
    Ok(Box::new(move || {
        let mut count = 0;
        for batch in &batches {
            rows.clear();
            JsonEncoder.encode(batch, &mut rows)?;
            count += black_box(&rows).len();
        }
        Ok(count)
    }))
}

fn decoder(columns: &[(&str, DataType)]) -> Result<JsonDecoder> {
    let fields: Vec<Field> = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
    Ok(JsonDecoder::new(Arc::new(Schema::new(fields)), JsonOptions::default())?)
}

/// Columns of the events, in batches as the engine takes them.
fn decoded(columns: &[(&str, DataType)], events: &[&[u8]]) -> Result<Vec<RecordBatch>> {
    let mut decoder = decoder(columns)?;
    let batch = |events: &[&[u8]]| {
        events.iter().try_for_each(|event| decoder.push(event).map(drop))?;
        Ok(decoder.flush()?)
    };
    events.chunks(BATCH_ROWS).map(batch).collect()
}

/// The rows with a column behind them that says the same instant for each, in microseconds.
fn with_time(batch: &RecordBatch, name: &str, micros: i64) -> Result<RecordBatch> {
    let times = TimestampMicrosecondArray::from_value(micros, batch.num_rows()).with_timezone("UTC");
    let mut fields: Vec<Field> = batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(name, datetime_type(), false));
    let columns = batch.columns().iter().cloned().chain([Arc::new(times) as ArrayRef]).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// Those of the features that the libraries below us look for which the processor has, as this process is shown it; and those
/// that the program was built for.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    macro_rules! features {
        ($($name:tt),*) => {[$(($name, std::is_x86_feature_detected!($name), cfg!(target_feature = $name))),*]};
    }
    let features = features!["sse4.2", "popcnt", "pclmulqdq", "avx", "avx2", "bmi1", "bmi2", "lzcnt", "fma", "avx512f"];
    let has = features.iter().filter(|(_, has, _)| *has).map(|(name, ..)| (*name).to_owned());
    let built = features.iter().filter(|(.., built)| *built).map(|(name, ..)| format!("built for {name}"));
    has.chain(built).collect()
}

/// None of another architecture are told apart.
#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<String> {
    vec![]
}
