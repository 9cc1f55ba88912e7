//! `cargo xtask bench latency`: how long after its end the rows of a tumbling window are there to be read, on a real Kafka, under loads
//! that are parts of the most that this machine carries with producer, broker and job on it.
//!
//! From the end of a window, by the broker's stamps, to the reading of each of its rows: so the waiting of the producer and of the fetch,
//! the watermark's own delay and the printing count along. What comes out is printed and becomes a section of `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use serde_json::Value;

use super::document::{self, machine};
use super::events::{self, Spread};
use super::report::Measure;
use super::{Options, PARTITIONS, Programs, filled};
use crate::kafka::{Broker, BrokerOptions};

const SECTION: &str = "Latency";

/// Loads: name of the measure of the 99.9th percentile, and the part of the most that can be carried.
const LOADS: [(&str, f64); 3] =
    [("latency_at_10_percent", 0.1), ("latency_at_50_percent", 0.5), ("latency_at_90_percent", 0.9)];
/// How long a load lasts: some 1,200 windows.
const LASTS: Duration = Duration::from_secs(60);
/// Of its beginning nothing is counted: threads and buffers are new. Nor is what comes out when it is over: that waits for the evidence that
/// nothing more comes.
const WARM_UP: Duration = Duration::from_secs(3);
/// The most that a result may come after its window.
const LIMIT: Duration = Duration::from_millis(250);
/// Percentiles that are told.
const PERCENTILES: [(&str, f64); 4] = [("50 %", 0.5), ("99 %", 0.99), ("99.9 %", 0.999), ("most", 1.0)];

/// What came of one load.
struct Loaded {
    part: f64,
    /// Events a second that were produced.
    rate: f64,
    /// Of each row, ascending.
    latencies: Vec<Duration>,
}

impl Loaded {
    fn percentile(&self, part: f64) -> Duration {
        let last = self.latencies.len() - 1;
        self.latencies[((last as f64 * part).round() as usize).min(last)]
    }
}

/// Measures, writes the section, prints it, and gives the measures.
pub(super) fn run(options: &Options) -> Result<Vec<Measure>> {
    let programs = Programs::build(options, &["tidemill"])?;
    let kafka = Broker::start(BrokerOptions { long_run: true, heap_mib: 1_024, ..BrokerOptions::default() })?;
    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let most = under_load(&programs, &kafka, dir.path(), "most", options.events, None)?.0;
    eprintln!("at most {most:.0} events a second");
    let mut loads = vec![];
    for (topic, part) in LOADS {
        let rate = most * part;
        let events = (rate * LASTS.as_secs_f64()) as u64;
        let (rate, mut latencies) = under_load(&programs, &kafka, dir.path(), topic, events, Some(rate))?;
        ensure!(!latencies.is_empty(), "no row came after the first {WARM_UP:?}");
        latencies.sort();
        loads.push(Loaded { part, rate, latencies });
    }
    let text = text(most, &loads, options)?;
    println!("{text}");
    if !options.debug {
        document::put(SECTION, &text)?;
    }
    let ratio = |load: &Loaded| load.percentile(0.999).as_secs_f64() / LIMIT.as_secs_f64();
    let measures = LOADS.iter().zip(&loads);
    Ok(measures.map(|((name, _), load)| Measure { name, ratio: ratio(load), limit: Some(1.0) }).collect())
}

/// Produces so many events at this rate, or as fast as can be, under a running job, until it has counted them all. Gives how many a second
/// went through, and the latency of each row.
fn under_load(
    programs: &Programs,
    kafka: &Broker,
    dir: &Path,
    topic: &str,
    events: u64,
    rate: Option<f64>,
) -> Result<(f64, Vec<Duration>)> {
    eprintln!("{events} events into {topic} ...");
    kafka.create_topic(topic, PARTITIONS, &[])?;
    let spec = filled("latency", dir, &[("$BROKER", kafka.bootstrap()), ("$TOPIC", topic)])?;
    let (job, stdout) = Job::start(programs.path("tidemill")?, &spec)?;
    let first: Vec<_> = events::generate(PARTITIONS as u64, PARTITIONS, Spread::Runs(1)).collect();
    kafka.produce(topic, first)?;
    let mut rows = Rows { lines: BufReader::new(stdout), events: 0 };
    while rows.events < PARTITIONS as u64 {
        rows.next()?;
    }
    let (started, is_over) = (Instant::now(), AtomicBool::new(false));
    let (until, latencies) = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let events = events::generate(events, PARTITIONS, Spread::ByUser);
            let produced = kafka.produce(topic, events::paced(events, rate.unwrap_or(f64::INFINITY)));
            is_over.store(true, Ordering::Relaxed);
            produced
        });
        let mut latencies = vec![];
        while rows.events < events + PARTITIONS as u64 {
            let latency = rows.next()?;
            if started.elapsed() > WARM_UP && !is_over.load(Ordering::Relaxed) {
                latencies.push(latency);
            }
        }
        let until = started.elapsed();
        match producer.join() {
            Ok(produced) => produced?,
            Err(_) => bail!("the producer panicked"),
        }
        Ok((until, latencies))
    })?;
    drop(job);
    Ok((events as f64 / until.as_secs_f64(), latencies))
}

/// The rows of a job.
struct Rows {
    lines: BufReader<ChildStdout>,
    /// What they count together.
    events: u64,
}

impl Rows {
    /// Waits for the next row; how long after the end of its window it came.
    fn next(&mut self) -> Result<Duration> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        let now = SystemTime::now();
        ensure!(!line.is_empty(), "the job has ended before its last row");
        let row: Value = serde_json::from_str(&line)?;
        self.events += row["events"].as_u64().with_context(|| format!("no count in {line}"))?;
        let end = row["window_end"].as_str().with_context(|| format!("no end of a window in {line}"))?;
        let end: DateTime<Utc> = end.parse()?;
        Ok(now.duration_since(end.into()).unwrap_or_default())
    }
}

/// A job that runs on; killed when dropped.
struct Job(Child);

impl Job {
    fn start(tidemill: &Path, spec: &Path) -> Result<(Self, ChildStdout)> {
        let log = File::create(spec.with_extension("log"))?;
        let mut command = Command::new(tidemill);
        command.args(["run", "--from-start", "--workers", "1"]).arg(spec);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        Ok((Self(child), stdout))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(most: f64, loads: &[Loaded], options: &Options) -> Result<String> {
    let mut text = format!(
        "As `cargo xtask bench latency --events {}` found it on {}: from the end of a window, by the broker's stamps, to the reading of each of \
         its rows; windows of 50 ms by 10 countries, one worker, {PARTITIONS} partitions, {} s of each load. The most that producer, broker and job \
         carry together on these cores is {:.0}k events a second; loads are parts of that.\n\n{}\n| load | events/s | rows |",
        options.events,
        chrono::Utc::now().date_naive(),
        LASTS.as_secs(),
        most / 1e3,
        machine()?,
    );
    PERCENTILES.iter().for_each(|(name, _)| text.push_str(&format!(" {name} |")));
    let _ = writeln!(text, "\n|---|--:|--:|{}", "--:|".repeat(PERCENTILES.len()));
    for load in loads {
        let _ = write!(text, "| {:.0} % | {:.0}k | {} |", load.part * 100.0, load.rate / 1e3, load.latencies.len());
        for (_, part) in PERCENTILES {
            let _ = write!(text, " {} ms |", load.percentile(part).as_millis());
        }
        text.push('\n');
    }
    Ok(text)
}
