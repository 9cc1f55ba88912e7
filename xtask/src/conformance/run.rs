//! Runs one case: its rows as JSON records through the ordinary decoder, planner and engine, on this thread.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema},
};
use chrono::{DateTime, NaiveDateTime};
use serde_json::Value;
use tidemill_connectors::formats::{
    encode::{EncodedRows, JsonEncoder, RowEncoder},
    infer::SchemaSample,
    json::{JsonDecoder, JsonOptions},
};
use tidemill_engine::{
    Clock, EventTime, Monotonic,
    dataflow::{
        merge::{Merge, Output},
        plan::{LateAction, TimeBounds},
        worker::{Step, Worker},
    },
    dead_letter::{DeadLetter, DeadLetters},
    decoder::DecoderFactory,
    event_time::TimeRule,
    intake::{BATCH_ROWS, Intake, IntakeOptions, OnBadRecord},
    sink::Sink,
    source::{PartitionId, Record, Source, SourceEvent, TimestampKind, Visit},
};
use tidemill_queries::{CompatibilityLevel, InputTable, Script, Settings};

use super::case::{Case, Row};

/// The rows of the case's output.
///
/// # Errors
/// A query that is refused, or that fails on the rows.
pub(super) fn run_case(case: &Case) -> anyhow::Result<Vec<Row>> {
    let refused = |errors: tidemill_queries::QueryErrors| anyhow::anyhow!("{}", errors.render(&case.query, &case.id));
    let script = Script::parse(&case.query).map_err(refused)?;
    let outputs = output_names(&script);
    let compared = case.output.as_deref().or(outputs.first().map(String::as_str)).unwrap_or_default();
    let compared = outputs.iter().position(|o| o.eq_ignore_ascii_case(compared)).context("no such output")?;

    let tables =
        case.inputs.iter().map(|(name, rows)| table(case, &script, name, rows)).collect::<anyhow::Result<Vec<_>>>()?;
    let dataflow = tidemill_queries::plan(&script, &tables, &outputs, &settings(case)?).map_err(refused)?;

    let mut intakes = vec![];
    for (index, columns) in dataflow.inputs.iter().enumerate() {
        let rows = case.inputs.get(&columns.name).context("an input of the plan")?;
        let schema = Arc::clone(&columns.payload);
        JsonDecoder::new(Arc::clone(&schema), JsonOptions::default())?;
        let decoders: DecoderFactory = Arc::new(move || {
            Box::new(JsonDecoder::new(Arc::clone(&schema), JsonOptions::default()).expect("accepted above"))
        });
        let options = IntakeOptions {
            arrival: TimeRule::LogAppend,
            idle_margin_us: 0,
            clock_uncertainty_us: 0,
            growing: false,
            on_bad_record: OnBadRecord::DeadLetter,
            dead_letters: Arc::new(Mutex::new(Forget)),
            counters: Arc::default(),
            clock: Arc::new(NoClock),
            replay_below: BTreeMap::new(),
            batch_rows: BATCH_ROWS,
        };
        let source = Box::new(Rows::new(case, &columns.name, rows)?);
        intakes.push(Intake::new(&dataflow, index, source, &decoders, options));
    }
    let collected: Vec<Arc<Mutex<Vec<Row>>>> = outputs.iter().map(|_| Arc::default()).collect();
    let sinks = collected.iter().map(|rows| Output { sink: Box::new(Collect(Arc::clone(rows))), rows: Arc::default() });
    let mut merge = Merge::try_new(&dataflow, sinks.collect(), &[], 1, &Arc::default())?;
    let mut worker = Worker::try_new(&dataflow, intakes, &Arc::default())?;
    while worker.step(Duration::ZERO, &mut |message| merge.take(0, message).map(drop)).map_err(chain)? != Step::Done {}
    merge.close()?;
    let rows = collected[compared].lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(rows)
}

/// An error with its causes on one line.
fn chain(error: tidemill_engine::EngineError) -> anyhow::Error {
    anyhow::anyhow!("{:#}", anyhow::Error::from(error))
}

/// Each output of the script once; `output` for statements without INTO.
fn output_names(script: &Script) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for name in script.outputs() {
        let name = name.unwrap_or_else(|| "output".to_owned());
        if !names.iter().any(|n| n.eq_ignore_ascii_case(&name)) {
            names.push(name);
        }
    }
    names
}

fn table(case: &Case, script: &Script, name: &str, rows: &[Row]) -> anyhow::Result<InputTable> {
    let mut sample = SchemaSample::default();
    for row in rows {
        sample.add_json(&serde_json::to_vec(row)?)?;
    }
    let time_column = case.timestamp_column.as_ref().and_then(|t| t.of(name)).map(str::to_owned);
    let created = script.declared_tables().iter().find(|t| t.name.eq_ignore_ascii_case(name));
    let schema = match created {
        None => sample.schema(),
        Some(table) => {
            let inferred = sample.schema();
            let fields = table.columns.iter().map(|(column, declared)| {
                let sampled = || inferred.fields().iter().find(|f| f.name().eq_ignore_ascii_case(column));
                let data_type = declared.clone().or_else(|| sampled().map(|f| f.data_type().clone()));
                Field::new(column, data_type.unwrap_or(DataType::Utf8), true)
            });
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        }
    };
    Ok(InputTable { name: name.to_owned(), schema, sampled: Some(rows.len()), time_column })
}

fn settings(case: &Case) -> anyhow::Result<Settings> {
    let micros = |seconds: f64| (seconds * 1e6) as i64;
    let time = case.settings.as_ref().map(|s| TimeBounds {
        late_arrival: s.late_arrival_tolerance_s.map(micros),
        out_of_order: s.out_of_order_tolerance_s.map_or(0, micros),
        early_arrival: s.early_arrival_tolerance_s.map(micros),
        action: match s.policy.as_deref() {
            Some(policy) if policy.eq_ignore_ascii_case("drop") => LateAction::Drop,
            _ => LateAction::Adjust,
        },
    });
    let compatibility = match case.compatibility_level.as_ref().map(Value::to_string) {
        Some(level) if level.contains("1.1") || level.contains("1.0") => CompatibilityLevel::V1_1,
        _ => CompatibilityLevel::V1_2,
    };
    let standard_delay = case.watermark_delay.as_deref().map(delay).transpose()?;
    Ok(Settings { time, standard_delay, compatibility })
}

/// `1 second`, in microseconds.
fn delay(text: &str) -> anyhow::Result<i64> {
    let (number, unit) = text.split_once(' ').context("a number and a unit")?;
    let unit = match unit.trim_end_matches('s') {
        "millisecond" => 1_000,
        "second" => 1_000_000,
        "minute" => 60_000_000,
        "hour" => 3_600_000_000,
        other => bail!("unknown unit `{other}`"),
    };
    Ok(number.parse::<i64>()? * unit)
}

/// The rows of an input as records of one partition.
struct Rows {
    name: String,
    records: Vec<(i64, Vec<u8>)>,
    state: State,
}

enum State {
    New,
    Joined,
    Finished,
}

impl Rows {
    fn new(case: &Case, name: &str, rows: &[Row]) -> anyhow::Result<Self> {
        let column = case.settings.as_ref().and_then(|s| s.arrival_time_column.clone());
        let column = column.or_else(|| case.timestamp_column.as_ref()?.of(name).map(str::to_owned));
        let mut records = vec![];
        for (index, row) in rows.iter().enumerate() {
            let value =
                column.as_ref().and_then(|c| row.iter().find(|(k, _)| k.eq_ignore_ascii_case(c)).map(|(_, v)| v));
            let arrival = value.and_then(millis).unwrap_or(1_600_000_000_000 + index as i64);
            records.push((arrival, serde_json::to_vec(row)?));
        }
        Ok(Self { name: name.to_owned(), records, state: State::New })
    }
}

/// Milliseconds since the epoch of an ISO 8601 text without a zone or with one, or of a number that is such already.
fn millis(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => DateTime::parse_from_rfc3339(text)
            .map(|t| t.timestamp_millis())
            .or_else(|_| text.parse::<NaiveDateTime>().map(|t| t.and_utc().timestamp_millis()))
            .ok(),
        _ => None,
    }
}

impl Source for Rows {
    fn poll(&mut self, _wait: Duration, visit: &mut Visit<'_>) -> tidemill_engine::Result<()> {
        const PARTITION: PartitionId = PartitionId(0);
        match self.state {
            // Every input joins before the first row of any.
            State::New => {
                self.state = State::Joined;
                visit(SourceEvent::Joined { partition: PARTITION, topic: &self.name, number: 0, start_offset: 0 })
            }
            State::Joined => {
                self.state = State::Finished;
                for (offset, (arrival, payload)) in self.records.iter().enumerate() {
                    let record = Record {
                        offset: offset as i64,
                        timestamp_ms: *arrival,
                        timestamp_kind: TimestampKind::LogAppend,
                        key: None,
                        value: Some(payload),
                        headers: &[],
                    };
                    let records = &[record];
                    visit(SourceEvent::Records {
                        partition: PARTITION,
                        records,
                        received: Monotonic(0),
                        live_from: None,
                    })?;
                }
                visit(SourceEvent::Finished { partition: PARTITION })
            }
            State::Finished => Ok(()),
        }
    }

    fn finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }
}

/// Keeps an output's rows as JSON.
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

/// Rows that cannot be read are no rows of a case.
struct Forget;

impl DeadLetters for Forget {
    fn put(&mut self, _letter: &DeadLetter<'_>) -> tidemill_engine::Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> tidemill_engine::Result<()> {
        Ok(())
    }
}

/// Nothing in a case depends on the time of day.
struct NoClock;

impl Clock for NoClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(0)
    }

    fn wall(&self) -> EventTime {
        EventTime(0)
    }
}
