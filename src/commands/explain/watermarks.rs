//! What keeps windows open: the watermarks of a run's partitions, as its metrics tell them.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, bail};
use chrono::{DateTime, SecondsFormat};
use serde_json::{Value, json};
use tidemill_jobs::run::Explanation;

use crate::failure::Failure;

/// How long a run may take to answer.
const WAIT: Duration = Duration::from_secs(5);

/// The partitions of a run.
#[derive(Debug, PartialEq)]
pub(super) struct Held {
    partitions: Vec<Partition>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Partition {
    input: String,
    topic: String,
    number: String,
    lag: Option<u64>,
    /// Seconds since the epoch.
    watermark: Option<f64>,
}

/// Asks the metrics of a run at `host:port`.
pub(super) fn read(address: &str) -> Result<Held, Failure> {
    Ok(fetched(address).map(|text| Held::of(&text)).with_context(|| format!("cannot read the metrics at {address}"))?)
}

fn fetched(address: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WAIT))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP answer") };
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200") {
        bail!("{status}");
    }
    Ok(body.to_owned())
}

impl Held {
    fn of(metrics: &str) -> Self {
        let mut partitions = BTreeMap::<(String, String, String), Partition>::new();
        for line in metrics.lines() {
            let Some((name, rest)) = line.split_once('{') else { continue };
            let Some((labels, value)) = rest.rsplit_once("} ") else { continue };
            let label = |wanted: &str| {
                let behind = &labels[labels.find(&format!("{wanted}=\""))? + wanted.len() + 2..];
                behind.split('"').next().map(str::to_owned)
            };
            let (Some(input), Some(topic), Some(number)) = (label("input"), label("topic"), label("partition")) else {
                continue;
            };
            let Some(value) = value.split(' ').next().and_then(|v| v.parse::<f64>().ok()) else { continue };
            let partition = partitions.entry((input.clone(), topic.clone(), number.clone())).or_default();
            (partition.input, partition.topic, partition.number) = (input, topic, number);
            match name {
                "tidemill_partition_lag" => partition.lag = Some(value as u64),
                "tidemill_watermark_seconds" => partition.watermark = Some(value),
                _ => {}
            }
        }
        Self { partitions: partitions.into_values().collect() }
    }

    /// The partition whose watermark is the smallest; one without any comes first.
    fn slowest(&self) -> Option<&Partition> {
        let at = |p: &Partition| p.watermark.unwrap_or(f64::NEG_INFINITY);
        self.partitions.iter().min_by(|a, b| at(a).total_cmp(&at(b)))
    }

    pub(super) fn as_text(&self, explanation: &Explanation) -> String {
        let Some(slowest) = self.slowest() else {
            return "no partition has a watermark: the run has read nothing, or its inputs have ended\n".to_owned();
        };
        let windows = explanation.steps.iter().flatten().filter(|step| step.state.is_some());
        let windows = windows.map(|step| format!("  step {}, {}: {}\n", step.id, step.kind, step.what));
        let mut text = match slowest.watermark {
            Some(at) => format!("windows that end above {} are open\n", time(at)),
            None => "every window is open\n".to_owned(),
        };
        text.extend(windows);
        text += &format!("held by {slowest}\n  {}\n", slowest.why());
        text
    }

    pub(super) fn as_json(&self) -> Value {
        let partition = |p: &Partition| {
            json!({
                "input": p.input,
                "topic": p.topic,
                "partition": p.number,
                "watermark": p.watermark.map(time),
                "lag": p.lag,
                "why": p.why(),
            })
        };
        json!({
            "held_by": self.slowest().map(partition),
            "partitions": self.partitions.iter().map(partition).collect::<Vec<_>>(),
        })
    }
}

impl std::fmt::Display for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "input `{}`, `{}` partition {}", self.input, self.topic, self.number)
    }
}

impl Partition {
    fn why(&self) -> String {
        match (self.watermark, self.lag) {
            (None, Some(0) | None) => {
                "nothing was read of it, and its leader has not yet answered that this is all there is".to_owned()
            }
            (None, Some(lag)) => format!("nothing was read of it yet, and {lag} records lie ahead"),
            (Some(_), Some(lag)) if lag > 0 => format!("{lag} records lie ahead: it is behind"),
            (Some(_), Some(_)) => {
                "it is read to its end: its watermark follows the broker's clock, `idle_margin` behind".to_owned()
            }
            (Some(_), None) => "it has read no later record yet".to_owned(),
        }
    }
}

fn time(seconds: f64) -> String {
    DateTime::from_timestamp_micros((seconds * 1e6) as i64)
        .map_or_else(|| seconds.to_string(), |t| t.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(metrics: &str) -> (String, String) {
        let held = Held::of(metrics);
        let slowest = held.slowest().unwrap();
        (slowest.to_string(), slowest.why())
    }

    #[test]
    fn the_smallest_watermark_holds_windows_open() {
        let metrics = "# TYPE tidemill_partition_lag gauge\n\
            tidemill_partition_lag{input=\"a\",topic=\"t\",partition=\"0\"} 0\n\
            tidemill_partition_lag{input=\"a\",topic=\"t\",partition=\"1\"} 12\n\
            tidemill_watermark_seconds{input=\"a\",topic=\"t\",partition=\"0\"} 1700000010.5\n\
            tidemill_watermark_seconds{input=\"a\",topic=\"t\",partition=\"1\"} 1700000000.25\n";
        let (who, why) = held(metrics);
        assert_eq!((who.as_str(), why.as_str()), ("input `a`, `t` partition 1", "12 records lie ahead: it is behind"));
        let without = metrics.replace("tidemill_watermark_seconds{input=\"a\",topic=\"t\",partition=\"0\"", "other{");
        let (who, why) = held(&without);
        assert!(
            who.ends_with("partition 0") && why.starts_with("nothing was read of it, and its leader"),
            "{who} {why}"
        );
        assert_eq!(time(1_700_000_000.25), "2023-11-14T22:13:20.250Z");
    }
}
