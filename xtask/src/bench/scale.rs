//! `cargo xtask bench scale`: how the cost of a tumbling window changes with partitions, keys, sizes of messages and lengths of windows,
//! on a real Kafka; and what a second worker is worth, without one: `bench/in-memory` reads answers that it captured before.
//!
//! What comes out is printed and becomes a section of `docs/benchmarks.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::document::{self, machine};
use super::events::{self, Spread};
use super::process::{self, Usage};
use super::report::Measure;
use super::{Options, PARTITIONS, Programs, ROUNDS, Run, TOPIC, filled, in_turns};
use crate::kafka::{Broker, BrokerOptions, Record};

const SECTION: &str = "Scale";

/// Records of one partition before those of the next: with as many in a batch, only the number of partitions differs.
const RUN: u64 = 500;
/// Bytes of the events of the other curves, about; where the size differs there are as many bytes in all.
const BYTES: u64 = 200;
/// A curve is flat where a point costs this much more or less than the one before, at most.
const FLAT: f64 = 0.1;
const SECOND: &str = "second, 1";

/// Of what a point of a curve differs from the others.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Partitions(i32),
    Keys(u64),
    Bytes(usize),
    /// Of the topic that has the usual number of all others.
    Window(&'static str),
}

/// A curve: its title and its points.
struct Curve {
    title: &'static str,
    points: &'static [(&'static str, Kind)],
}

const CURVES: [Curve; 4] = [
    Curve {
        title: "partitions",
        points: &[
            ("1", Kind::Partitions(1)),
            ("10", Kind::Partitions(10)),
            ("100", Kind::Partitions(100)),
            ("1,000", Kind::Partitions(1_000)),
        ],
    },
    Curve {
        title: "keys",
        points: &[
            ("10", Kind::Keys(10)),
            ("10,000", Kind::Keys(10_000)),
            ("1,000,000", Kind::Keys(1_000_000)),
            ("10,000,000", Kind::Keys(10_000_000)),
        ],
    },
    Curve {
        title: "bytes of a message",
        points: &[
            ("100", Kind::Bytes(100)),
            ("1,000", Kind::Bytes(1_000)),
            ("10,000", Kind::Bytes(10_000)),
            ("100,000", Kind::Bytes(100_000)),
        ],
    },
    Curve {
        title: "length of the window",
        points: &[
            ("1 s", Kind::Window(SECOND)),
            ("1 min", Kind::Window("minute, 1")),
            ("1 h", Kind::Window("hour, 1")),
            ("1 day", Kind::Window("day, 1")),
        ],
    },
];

/// A measure: its name, of which curve, which of its points is held against which, and the most that it may cost of that.
const LIMITS: [(&str, usize, usize, usize, Option<f64>); 5] = [
    ("partitions_10_to_1", 0, 1, 0, Some(1.1)),
    ("partitions_100_to_10", 0, 2, 1, Some(1.1)),
    ("partitions_1000_to_100", 0, 3, 2, Some(1.1)),
    ("keys_1000000_to_10000", 1, 2, 1, Some(5.0)),
    ("keys_10000000_to_10000", 1, 3, 1, None),
];

/// The queries that are scaled from memory, and the columns that they need.
const FROM_MEMORY: [(&str, &str); 2] = [
    ("stateless", "SELECT user, amount INTO nothing FROM events WHERE amount > 50"),
    (
        "tumbling",
        "SELECT user, COUNT(*) AS events, SUM(amount) AS total, System.Timestamp() AS window_end \
         INTO nothing FROM events GROUP BY user, TumblingWindow(second, 1)",
    ),
];
const COLUMNS: [&str; 2] = ["user:string", "amount:double"];
const WORKERS: [u32; 3] = [1, 2, 4];
/// How many times as fast two workers are at least.
const TWO_WORKERS: f64 = 1.7;

/// Measures, writes the section, prints it, and gives the measures.
pub(super) fn run(options: &Options) -> Result<Vec<Measure>> {
    let programs = Programs::build(options, &["tidemill", "in-memory"])?;
    let kafka = Broker::start(BrokerOptions { long_run: true, heap_mib: 1_024, ..BrokerOptions::default() })?;
    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    load(&kafka, TOPIC, PARTITIONS, events::generate(options.events, PARTITIONS, Spread::ByUser))?;
    let scaled = from_memory(&programs, &kafka, options.events)?;

    let mut runs = vec![];
    for (curve, Curve { points, .. }) in CURVES.iter().enumerate() {
        for (point, (_, kind)) in points.iter().enumerate() {
            runs.push(job(&programs, &kafka, dir.path(), (curve, point), *kind, options.events)?);
        }
    }
    let medians = in_turns(&runs)?;
    let text = text(&medians, &scaled, options)?;
    println!("{text}");
    if !options.debug {
        document::put(SECTION, &text)?;
    }
    Ok(measures(&medians, &scaled))
}

/// How many events a point reads.
fn events_of(kind: Kind, events: u64) -> u64 {
    match kind {
        Kind::Bytes(bytes) => events * BYTES / bytes as u64,
        _ => events,
    }
}

fn name((curve, point): (usize, usize)) -> String {
    format!("{} {}", CURVES[curve].title, CURVES[curve].points[point].0)
}

/// A point's run, its topic loaded.
fn job<'a>(
    programs: &'a Programs,
    kafka: &Broker,
    dir: &Path,
    (curve, point): (usize, usize),
    kind: Kind,
    events: u64,
) -> Result<Run<'a>> {
    let count = events_of(kind, events);
    let own = format!("scale-{curve}-{point}");
    let (topic, window) = match kind {
        Kind::Window(window) => (TOPIC, window),
        Kind::Keys(_) | Kind::Partitions(_) | Kind::Bytes(_) => (own.as_str(), SECOND),
    };
    match kind {
        Kind::Window(_) => {}
        Kind::Partitions(partitions) => {
            load(kafka, topic, partitions, events::generate(count, partitions, Spread::Runs(RUN)))?;
        }
        Kind::Keys(keys) => {
            load(kafka, topic, PARTITIONS, events::of_keys(count, keys, PARTITIONS, Spread::ByUser))?;
        }
        Kind::Bytes(bytes) => load(kafka, topic, PARTITIONS, events::of_size(count, bytes, PARTITIONS))?,
    }
    let folder = dir.join(&own);
    std::fs::create_dir(&folder)?;
    let spec = filled("scale", &folder, &[("$BROKER", kafka.bootstrap()), ("$TOPIC", topic), ("$WINDOW", window)])?;
    Ok(Run::new(name((curve, point)), move || programs.bounded(&spec, 1, count)))
}

fn load(kafka: &Broker, topic: &str, partitions: i32, events: impl Iterator<Item = Record>) -> Result<()> {
    eprintln!("loading {topic}, {partitions} partitions ...");
    kafka.create_topic(topic, partitions, &[])?;
    kafka.produce(topic, events)
}

/// What a run from memory took, in seconds.
#[derive(Clone, Debug)]
struct Scaled {
    query: &'static str,
    workers: u32,
    wall: f64,
    /// Of all workers together.
    workers_cpu: f64,
    merge_cpu: f64,
    /// Of the thread that took the most: the wall time where each thread has a core.
    busiest: f64,
}

/// Runs from memory in turns; of each the one with the median wall time.
fn from_memory(programs: &Programs, kafka: &Broker, events: u64) -> Result<Vec<Scaled>> {
    let mut all: BTreeMap<(usize, u32), Vec<Scaled>> = BTreeMap::new();
    for round in 1..=ROUNDS {
        for (number, (query, sql)) in FROM_MEMORY.iter().enumerate() {
            for workers in WORKERS {
                let mut program = Command::new(programs.path("in-memory")?);
                program.args([kafka.bootstrap(), TOPIC, &PARTITIONS.to_string(), &workers.to_string(), sql]);
                let run = process::measure(program.args(COLUMNS))?;
                let scaled = read(query, workers, events, &serde_json::from_str(&run.stdout)?)?;
                eprintln!("round {round}: {query}, {workers} workers from memory: {:.2} s", scaled.wall);
                all.entry((number, workers)).or_default().push(scaled);
            }
        }
    }
    let median = |mut runs: Vec<Scaled>| {
        runs.sort_by(|a, b| a.wall.total_cmp(&b.wall));
        runs.swap_remove(ROUNDS / 2)
    };
    Ok(all.into_values().map(median).collect())
}

fn read(query: &'static str, workers: u32, events: u64, taken: &Value) -> Result<Scaled> {
    ensure!(taken["events"].as_u64() == Some(events), "`in-memory` read other than {events} events: {taken}");
    let seconds = |name: &str| taken[name].as_f64().with_context(|| format!("no `{name}` in {taken}"));
    let of_workers = taken["worker_cpu_seconds"].as_array().context("no CPU time of the workers")?;
    let of_workers: Vec<f64> = of_workers.iter().filter_map(Value::as_f64).collect();
    let merge_cpu = seconds("merge_cpu_seconds")?;
    Ok(Scaled {
        query,
        workers,
        wall: seconds("wall_seconds")?,
        workers_cpu: of_workers.iter().sum(),
        merge_cpu,
        busiest: of_workers.iter().copied().fold(merge_cpu, f64::max),
    })
}

fn measures(medians: &BTreeMap<String, Usage>, scaled: &[Scaled]) -> Vec<Measure> {
    let cpu = |curve: usize, point: usize| medians[&name((curve, point))].cpu.as_secs_f64();
    let curves = LIMITS.into_iter().map(|(name, curve, point, of, limit)| Measure {
        name,
        ratio: cpu(curve, point) / cpu(curve, of),
        limit,
    });
    let wall = |query: &str, workers: u32| {
        let one = scaled.iter().find(|one| one.query == query && one.workers == workers);
        one.expect("it was run").wall
    };
    let workers = [("two_workers_stateless_wall", "stateless"), ("two_workers_tumbling_wall", "tumbling")];
    let workers = workers.into_iter().map(|(name, query)| Measure {
        name,
        ratio: wall(query, 2) / wall(query, 1),
        limit: Some(1.0 / TWO_WORKERS),
    });
    curves.chain(workers).collect()
}

/// Where a curve bends: the points of (label, cost) that cost other than the one before.
fn bends(points: &[(&str, f64)]) -> String {
    let ratios = points.windows(2).map(|pair| (pair[1].0, pair[1].1 / pair[0].1));
    let bends = ratios.filter(|(_, ratio)| (ratio - 1.0).abs() > FLAT);
    let bends: Vec<_> = bends.map(|(label, ratio)| format!("{label} ({ratio:.2} of the point before)")).collect();
    match bends.is_empty() {
        true => "Flat.".to_owned(),
        false => format!("By the CPU time of an event it bends at {}.", bends.join(", ")),
    }
}

fn text(medians: &BTreeMap<String, Usage>, scaled: &[Scaled], options: &Options) -> Result<String> {
    let mut text = format!(
        "As `cargo xtask bench scale --events {}` found it on {}: a tumbling window of 1 s by user, COUNT and SUM, one worker, over {} events \
         of about {BYTES} bytes, {PARTITIONS} partitions and 10,000 users but for what each table says; medians of {ROUNDS} rounds in turns, the \
         process's start included.\n\n{}",
        options.events,
        chrono::Utc::now().date_naive(),
        options.events,
        machine()?,
    );
    for (curve, Curve { title, points }) in CURVES.iter().enumerate() {
        let _ = write!(text, "\n| {title} | events/s | CPU ns/event | peak MB |\n|---|--:|--:|--:|\n");
        for (point, (label, kind)) in points.iter().enumerate() {
            let (usage, events) = (medians[&name((curve, point))], events_of(*kind, options.events) as f64);
            let _ = writeln!(
                text,
                "| {label} | {:.0}k | {:.0} | {} |",
                events / usage.wall.as_secs_f64() / 1e3,
                usage.cpu.as_secs_f64() * 1e9 / events,
                usage.peak_bytes / 1_000_000
            );
        }
        let costs = points.iter().enumerate().map(|(point, (label, kind))| {
            let cpu = medians[&name((curve, point))].cpu.as_secs_f64();
            (*label, cpu / events_of(*kind, options.events) as f64)
        });
        let _ = writeln!(text, "\n{}", bends(&costs.collect::<Vec<_>>()));
    }
    text.push_str(
        "\nWorkers, from memory: answers to fetches captured before, so that no broker shares the cores. `with a core for each thread`: \
         by the CPU time of the busiest thread.\n\n\
         | query | workers | events/s | CPU ns/event, workers | merge thread | events/s with a core for each thread |\n|---|--:|--:|--:|--:|--:|\n",
    );
    let events = options.events as f64;
    for Scaled { query, workers, wall, workers_cpu, merge_cpu, busiest } in scaled {
        let ns = |seconds: &f64| seconds * 1e9 / events;
        let rate = |seconds: &f64| events / seconds / 1e3;
        let _ = writeln!(
            text,
            "| {query} | {workers} | {:.0}k | {:.0} | {:.0} | {:.0}k |",
            rate(wall),
            ns(workers_cpu),
            ns(merge_cpu),
            rate(busiest)
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_bends_where_its_points_differ() {
        assert_eq!(bends(&[("1", 400.0), ("10", 410.0), ("100", 430.0)]), "Flat.");
        assert_eq!(
            bends(&[("1", 400.0), ("10", 410.0), ("100", 820.0), ("1,000", 410.0)]),
            "By the CPU time of an event it bends at 100 (2.00 of the point before), 1,000 (0.50 of the point before)."
        );
    }
}
