//! `own-consume HOST:PORT TOPIC [COLUMN:TYPE...]`: what `raw-consume` does by librdkafka, by tidemill's own path: reads a topic
//! from its beginning to its end, decodes nothing, and prints how many records there were. With columns it decodes these of
//! JSON, as a job does that needs them, and drops the rows: the limit of such a job.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "a program of its own, which takes its own time")]

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use arrow::datatypes::{DataType, Field, Schema};
use tidemill_connectors::{
    formats::json::{JsonDecoder, JsonOptions},
    kafka::{Fetch, Isolation, KafkaConnection, KafkaInput, Security, SourceSettings},
};
use tidemill_engine::{Clock, EventTime, Monotonic, decoder::Decoder, intake::BATCH_ROWS, source::SourceEvent};

/// As much as a job with one worker and 512 MiB fetches ahead, and as `raw-consume` does.
const QUEUE_KIB: usize = 65_536;
/// How long the first contact may take.
const CONTACT_WITHIN: Duration = Duration::from_secs(10);
/// How long a look at the sockets may take.
const WAIT: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic, columns @ ..] = &args[..] else {
        bail!("usage: own-consume HOST:PORT TOPIC [COLUMN:TYPE...]");
    };
    println!("{}", consume(brokers, topic, decoder(columns)?)?);
    Ok(())
}

/// What decodes these columns; none: nothing is decoded.
fn decoder(columns: &[String]) -> Result<Option<JsonDecoder>> {
    let field = |column: &String| {
        let (name, kind) = column.split_once(':').with_context(|| format!("`{column}` is not COLUMN:TYPE"))?;
        let kind = match kind {
            "string" => DataType::Utf8,
            "double" => DataType::Float64,
            other => bail!("no type `{other}` of column `{name}`; there are string and double"),
        };
        Ok(Field::new(name, kind, true))
    };
    let fields = columns.iter().map(field).collect::<Result<Vec<_>>>()?;
    if fields.is_empty() {
        return Ok(None);
    }
    Ok(Some(JsonDecoder::new(Arc::new(Schema::new(fields)), JsonOptions::default())?))
}

fn consume(brokers: &str, topic: &str, mut decoder: Option<JsonDecoder>) -> Result<u64> {
    let settings = SourceSettings {
        input: topic.to_owned(),
        connection: KafkaConnection { brokers: vec![brokers.to_owned()], security: Security::default() },
        topics: vec![topic.to_owned()],
        isolation: Isolation::ReadCommitted,
        accept_create_time: false,
        queue_kib: QUEUE_KIB,
        fetch: Fetch::Own,
        rack: None,
    };
    let input = KafkaInput::connect(settings, Arc::new(ProcessClock(Instant::now())), CONTACT_WITHIN)?;
    let ends = input.end_offsets()?;
    let mut sources = input.open(1, &vec![0; ends.len()], Some(&ends), false)?;
    let source = &mut sources[0];
    let (mut count, mut bytes, mut touched, mut rows, mut bad) = (0_u64, 0_usize, 0_i64, 0_usize, 0_u64);
    while !source.finished() {
        source.poll(WAIT, &mut |event| {
            let SourceEvent::Records { records, .. } = event else { return Ok(()) };
            for record in records {
                // What a consumer of any use reads: timestamp, offset, and the payload's memory.
                let value = record.value.unwrap_or_default();
                let middle = value.get(value.len() / 2).copied().unwrap_or(0);
                touched = touched.wrapping_add(record.timestamp_ms + record.offset + i64::from(middle));
                bytes += value.len();
                if let Some(decoder) = &mut decoder {
                    match decoder.push(value) {
                        Ok(pushed) => rows += pushed,
                        Err(_) => bad += 1,
                    }
                }
            }
            if let Some(decoder) = decoder.as_mut().filter(|_| rows >= BATCH_ROWS) {
                std::hint::black_box(decoder.flush()?);
                rows = 0;
            }
            count += records.len() as u64;
            Ok(())
        })?;
    }
    if let Some(decoder) = &mut decoder {
        std::hint::black_box(decoder.flush()?);
    }
    std::hint::black_box(touched);
    ensure!(bad == 0, "{bad} of {count} records cannot be decoded");
    ensure!(bytes > 0 || count == 0, "records without a byte");
    Ok(count)
}

struct ProcessClock(Instant);

impl Clock for ProcessClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn wall(&self) -> EventTime {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        EventTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}
