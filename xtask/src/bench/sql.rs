//! `cargo xtask bench sql`: what questions read, and what they cost beside a job, on a real Kafka.
//!
//! The last hundredth of the events comes in more than a minute behind the others, by the broker's own stamps. So a question for the last
//! minute wants one record in a hundred; what it reads is counted as the bytes of all answers to its fetches, those for the sample of the
//! topic and what it does not need among them, and held against the same count of a scan of everything. That scan groups by the columns
//! that `bench/stateless.yaml` reads, on one thread, as that job runs; it is compared by throughput on the wall and by CPU.

use std::{cell::Cell, collections::BTreeMap, fs, thread, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Job, Options, PARTITIONS, Programs, Run, TOPIC, events,
    events::Spread,
    in_turns,
    process::Usage,
    report::{self, Measure},
    spec,
};
use crate::kafka::{Broker, BrokerOptions};

/// One in so many events comes in during the last minute.
const LAST: u64 = 100;
/// What the loader waits before those, so that a minute later the others are older than one.
const BEFORE_LAST: Duration = Duration::from_secs(60);
const LAST_MINUTE: &str = "SELECT COUNT(user) AS n FROM events WHERE _timestamp >= now() - INTERVAL '1 minute'";
/// The part of all bytes that it may read.
const LAST_MINUTE_LIMIT: f64 = 0.02;

/// By name.
const QUESTIONS: [(&str, &str); 2] = [
    ("group by", "SELECT user, COUNT(*) AS n, SUM(amount) AS s FROM events GROUP BY user ORDER BY s DESC LIMIT 10"),
    ("count", "SELECT COUNT(*) AS n FROM events"),
];

/// Measures, prints a table, and gives the measures.
pub(super) fn run(options: &Options) -> Result<Vec<Measure>> {
    let programs = Programs::build(options, &["tidemill"])?;
    let kafka = Broker::start(BrokerOptions { long_run: true, ..BrokerOptions::default() })?;
    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let job = spec(Job::Stateless, &kafka, dir.path())?;
    let context = dir.path().join("one-thread.yaml");
    fs::write(&context, fs::read_to_string(&job)? + "workers: 1\n")?;
    load(&kafka, options.events)?;

    let last = programs.ask(&context, LAST_MINUTE)?;
    let expected = options.events / LAST;
    ensure!(last.records == expected, "of the last minute are {expected} events, and {} were read", last.records);
    let all_bytes = Cell::new(0);
    let ask = |question: &str| {
        let asked = programs.ask(&context, question)?;
        ensure!(asked.records == options.events, "{} of {} events were read", asked.records, options.events);
        all_bytes.set(asked.fetched_bytes);
        Ok(asked.usage)
    };
    let mut runs = vec![Run::new(Job::Stateless.name(), || programs.bounded(&job, 1, options.events))];
    for (name, question) in QUESTIONS {
        runs.push(Run::new(name, move || ask(question)));
    }
    let medians = in_turns(&runs)?;
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    report::print_table(&names, &medians, options.events);
    println!("the last minute: {} bytes of {}", last.fetched_bytes, all_bytes.get());
    Ok(measures(&medians, last.fetched_bytes as f64 / all_bytes.get() as f64))
}

/// All events but the last ones, and these so much later.
fn load(kafka: &Broker, count: u64) -> Result<()> {
    eprintln!("loading {count} events into {TOPIC} ...");
    kafka.create_topic(TOPIC, PARTITIONS, &[])?;
    let mut events = events::generate(count, PARTITIONS, Spread::ByUser);
    kafka.produce(TOPIC, events.by_ref().take((count - count / LAST) as usize))?;
    eprintln!("waiting {BEFORE_LAST:?} ...");
    thread::sleep(BEFORE_LAST);
    kafka.produce(TOPIC, events)
}

fn measures(medians: &BTreeMap<String, Usage>, last_minute: f64) -> Vec<Measure> {
    let [(group_by, _), (count, _)] = QUESTIONS;
    let wall = |name: &str| medians[name].wall.as_secs_f64() / medians[Job::Stateless.name()].wall.as_secs_f64();
    let cpu = |name: &str| medians[name].cpu.as_secs_f64() / medians[Job::Stateless.name()].cpu.as_secs_f64();
    vec![
        Measure { name: "last_minute_bytes_to_all", ratio: last_minute, limit: Some(LAST_MINUTE_LIMIT) },
        Measure { name: "group_by_to_stateless_wall", ratio: wall(group_by), limit: Some(1.0) },
        Measure { name: "group_by_to_stateless_cpu", ratio: cpu(group_by), limit: None },
        Measure { name: "count_to_stateless_cpu", ratio: cpu(count), limit: None },
    ]
}
