//! Bounded questions against the same SQL in DataFusion over the same data in Parquet.

use std::sync::{Arc, atomic::AtomicBool};

use arrow::{
    array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::concat_batches,
    util::display::{ArrayFormatter, FormatOptions},
};
use datafusion::prelude::{SessionConfig, SessionContext};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use rdkafka::{
    ClientConfig, Message,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};
use tidemill_jobs::sql::{Session, SessionOptions, Source};
use xtask::kafka::{Broker, Record, shared};

use xtask::clock::machine_clock;

const QUESTIONS: usize = 200;
const SEED: u64 = 0x5eed_0011;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A linear congruential generator: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Fills a topic: four partitions of different lengths, one of them empty, one with aborted transactions and their markers in it.
fn fill(kafka: &Broker, topic: &str) {
    kafka.create_topic(topic, 4, &[]).unwrap();
    let mut random = Random(SEED);
    let mut record = |partition: i32, n: u64| {
        let value = json!({
            "id": n,
            "name": if random.below(10) == 0 { Value::Null } else { json!(format!("user{}", random.below(12))) },
            "amount": random.below(400) as f64 / 4.0, // sums of quarters are exact in any order
            "ok": random.below(2) == 0,
        });
        let key = (random.below(4) > 0).then(|| format!("k{}", random.below(9)));
        (partition, key, value.to_string())
    };
    let plain: Vec<_> = (0..900).map(|n| record(if n % 3 == 0 { 1 } else { 0 }, n)).collect();
    let records = plain
        .into_iter()
        .map(|(partition, key, value)| Record { key: key.map(String::into_bytes), ..Record::new(partition, value) });
    kafka.produce(topic, records).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("transactional.id", topic)
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for round in 0..6 {
        producer.begin_transaction().unwrap();
        for n in 0..20 {
            let (_, key, value) = record(2, 1_000 + round * 20 + n);
            let mut base = BaseRecord::to(topic).payload(&value).partition(2);
            base.key = key.as_deref();
            producer.send(base).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        match round % 2 {
            0 => producer.commit_transaction(PATIENCE).unwrap(),
            _ => producer.abort_transaction(PATIENCE).unwrap(),
        }
    }
}

/// What is in the topic, as a plain consumer of librdkafka reads it.
fn in_memory(kafka: &Broker, topic: &str) -> RecordBatch {
    let messages = kafka.read(topic).unwrap();
    let values: Vec<Value> = messages.iter().map(|m| serde_json::from_slice(m.payload().unwrap()).unwrap()).collect();
    let stamps = messages.iter().map(|m| m.timestamp().to_millis().unwrap() * 1_000);
    let columns: [(&str, ArrayRef); 8] = [
        ("id", Arc::new(values.iter().map(|v| v["id"].as_i64()).collect::<Int64Array>())),
        ("name", Arc::new(values.iter().map(|v| v["name"].as_str()).collect::<StringArray>())),
        ("amount", Arc::new(values.iter().map(|v| v["amount"].as_f64()).collect::<Float64Array>())),
        ("ok", Arc::new(values.iter().map(|v| v["ok"].as_bool()).collect::<BooleanArray>())),
        (
            "_key",
            Arc::new(
                messages.iter().map(|m| m.key().map(|k| std::str::from_utf8(k).unwrap())).collect::<StringArray>(),
            ),
        ),
        ("_timestamp", Arc::new(TimestampMicrosecondArray::from_iter_values(stamps).with_timezone("UTC"))),
        ("_partition", Arc::new(messages.iter().map(|m| Some(i64::from(m.partition()))).collect::<Int64Array>())),
        ("_offset", Arc::new(messages.iter().map(|m| Some(m.offset())).collect::<Int64Array>())),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// Its rows, as they come back from a Parquet file.
fn through_parquet(rows: &RecordBatch) -> RecordBatch {
    let file = tempfile::tempfile().unwrap();
    let mut writer = ArrowWriter::try_new(file.try_clone().unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
    let read = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batches: Vec<RecordBatch> = read.map(Result::unwrap).collect();
    concat_batches(batches[0].schema_ref(), &batches).unwrap()
}

/// A condition on what lies where, on what is in the records, or on both.
fn condition(random: &mut Random, (first, last): (i64, i64)) -> String {
    let stamp = |random: &mut Random| {
        let micros = first - 2_000 + random.below((last - first + 4_000) as u64) as i64;
        format!("to_timestamp_micros({micros})")
    };
    let one = |random: &mut Random| match random.below(11) {
        0 => format!("_partition = {}", random.below(5)),
        1 => format!("_partition IN ({}, {})", random.below(4), random.below(4)),
        2 => format!("_partition % 2 = {}", random.below(2)),
        3 => format!("_offset {} {}", random.one(&["<", "<=", ">", ">=", "=", "<>"]), random.below(700)),
        4 => format!("_offset BETWEEN {} AND {}", random.below(300), random.below(700)),
        5 => format!("_timestamp {} {}", random.one(&["<", "<=", ">", ">="]), stamp(random)),
        6 => format!("_timestamp BETWEEN {} AND {}", stamp(random), stamp(random)),
        7 => format!("_key = 'k{}'", random.below(10)),
        8 => format!("name {} 'user{}'", random.one(&["=", ">", "<>"]), random.below(12)),
        9 => format!("amount > {}", random.below(90)),
        _ => random.one(&["ok", "name IS NULL", "_key IS NULL", "NOT ok", "id % 7 = 3"]).to_owned(),
    };
    let mut text = one(random);
    for _ in 0..random.below(3) {
        text = format!("{text} {} {}", random.one(&["AND", "AND", "AND", "OR"]), one(random));
    }
    text
}

/// A question, and whether it fixes the order of its rows.
fn question(random: &mut Random, range: (i64, i64)) -> (String, bool) {
    let filter = condition(random, range);
    let other = condition(random, range);
    let limit = 1 + random.below(40);
    match random.below(13) {
        0 => {
            (format!("SELECT id, name, amount, ok, _key, _timestamp, _partition, _offset FROM t WHERE {filter}"), false)
        }
        1 => (format!("SELECT COUNT(*) AS n FROM t WHERE {filter}"), true),
        2 => {
            (format!("SELECT id, _offset FROM t WHERE {filter} ORDER BY _offset DESC, _partition LIMIT {limit}"), true)
        }
        3 => (format!("SELECT _partition, _offset, id FROM t ORDER BY _offset DESC, _partition LIMIT {limit}"), true),
        4 => (format!("SELECT COUNT(*) AS n FROM (SELECT id FROM t WHERE {filter} LIMIT {limit}) AS s"), true),
        5 => (
            format!(
                "SELECT name, COUNT(*) AS n, SUM(amount) AS s, MIN(_offset) AS first, MAX(_timestamp) AS last \
                 FROM t WHERE {filter} GROUP BY name HAVING COUNT(*) > {}",
                random.below(4)
            ),
            false,
        ),
        6 => (
            format!(
                "SELECT a.id, b.id AS other FROM t AS a JOIN t AS b ON a.name = b.name AND a._partition = b._partition \
                 WHERE a._offset < {} AND b._offset < {}",
                random.below(60),
                random.below(60)
            ),
            false,
        ),
        7 => (
            format!(
                "SELECT id, ROW_NUMBER() OVER (PARTITION BY name ORDER BY _partition, _offset) AS r, \
                 LAG(amount) OVER (ORDER BY _partition, _offset) AS before FROM t WHERE {filter}"
            ),
            false,
        ),
        8 => (format!("SELECT id FROM t WHERE {filter} UNION SELECT id FROM t WHERE {other}"), false),
        9 => (
            format!(
                "WITH big AS (SELECT name, amount, id FROM t WHERE {filter}), most AS (SELECT name, MAX(amount) AS m FROM big GROUP BY name) \
                 SELECT big.id, most.m FROM big LEFT JOIN most ON big.name = most.name"
            ),
            false,
        ),
        10 => (format!("SELECT id FROM t WHERE name IN (SELECT name FROM t WHERE {filter}) AND ({other})"), false),
        11 => (format!("SELECT DISTINCT _partition, ok FROM t WHERE {filter}"), false),
        _ => (
            format!(
                "SELECT id, amount FROM t WHERE {filter} ORDER BY amount DESC, id LIMIT {limit} OFFSET {}",
                random.below(5)
            ),
            true,
        ),
    }
}

/// Rows as texts; sorted unless their order is the question's.
fn texts(batches: &[RecordBatch], ordered: bool) -> Vec<String> {
    let options = FormatOptions::new().with_null("NULL");
    let mut rows = vec![];
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    if !ordered {
        rows.sort();
    }
    rows
}

#[test]
fn questions_give_the_rows_that_datafusion_gives() {
    let (kafka, topic) = (shared(), "sql-differential");
    fill(kafka, topic);
    let data = in_memory(kafka, topic);
    let stamps: &TimestampMicrosecondArray = data["_timestamp"].as_any().downcast_ref().unwrap();
    let range = (*stamps.values().iter().min().unwrap(), *stamps.values().iter().max().unwrap());
    let config = SessionConfig::new().with_target_partitions(1);
    let reference = SessionContext::new_with_config(config);
    reference.register_batch("t", through_parquet(&data)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    let source = Source::Cluster { brokers: vec![kafka.bootstrap().to_owned()], format: None };
    let options = SessionOptions { wait: PATIENCE, clock: machine_clock(), approximate: false };
    let mut session = Session::new(source, options).unwrap();
    let mut random = Random(SEED);
    let mut rows_seen = 0;
    for number in 0..QUESTIONS {
        let (text, ordered) = question(&mut random, range);
        let expected = runtime.block_on(async { reference.sql(&text).await.unwrap().collect().await.unwrap() });
        let expected = texts(&expected, ordered);
        let ours =
            text.replace("FROM t ", "FROM \"sql-differential\" AS t ").replace("JOIN t ", "JOIN \"sql-differential\" ");
        let ours = ours.replace("\"sql-differential\" AS t AS a", "\"sql-differential\" AS a");
        let answer =
            session.sql(&ours, &[]).unwrap_or_else(|error| panic!("question {number}, seed {SEED:x}: {ours}: {error}"));
        let batches: Result<Vec<_>, _> = answer.rows(Arc::new(AtomicBool::new(false))).unwrap().collect();
        let batches = batches.unwrap_or_else(|error| panic!("question {number}, seed {SEED:x}: {ours}: {error}"));
        assert_eq!(texts(&batches, ordered), expected, "question {number}, seed {SEED:x}: {ours}");
        rows_seen += expected.len();
    }
    assert!(rows_seen > QUESTIONS * 10, "the questions have answers: {rows_seen} rows");
}
