//! `cargo xtask bench fetch`: what reading by our own path costs, against librdkafka's, on a real Kafka.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;

use super::events::{self, Spread};
use super::process::Usage;
use super::report::Measure;
use super::{Options, PARTITIONS, Programs, Run, in_turns, report};
use crate::kafka::{Broker, BrokerOptions, Certificates, Listener};
use crate::repository::root;

/// `memory` of `bench/fetch.yaml`.
const MEMORY_BYTES: f64 = 256.0 * 1024.0 * 1024.0;

/// Records of one partition before those of the next, where the number of partitions is what is measured: with as many in a
/// batch, only that number differs.
const RUN: u64 = 500;

/// A topic of the events: its name, partitions, the producer's codec, and how the events go over the partitions.
const TOPICS: [(&str, i32, &str, Spread); 5] = [
    ("plain", PARTITIONS, "none", Spread::ByUser),
    ("lz4", PARTITIONS, "lz4", Spread::ByUser),
    ("zstd", PARTITIONS, "zstd", Spread::ByUser),
    ("few", 10, "none", Spread::Runs(RUN)),
    ("many", 1_000, "none", Spread::Runs(RUN)),
];

/// A measure: its name, what is measured, what it is held against, and the most that it may cost of that.
const LIMITS: [(&str, &str, &str, f64); 6] = [
    ("fetch_raw", "own", "raw", 0.4),
    ("fetch_stateless", "job own", "job rdkafka", 0.5),
    ("fetch_lz4", "job lz4 own", "job lz4 rdkafka", 0.7),
    ("fetch_zstd", "job zstd own", "job zstd rdkafka", 0.7),
    ("fetch_tls", "job TLS own", "job own", 1.5),
    ("fetch_1000_partitions", "job 1,000 own", "job 10 own", 1.1),
];

/// Measures, prints a table, and gives the measures.
pub(super) fn run(options: &Options) -> Result<Vec<Measure>> {
    let programs = Programs::build(options, &["tidemill", "raw-consume", "own-consume"])?;
    let kafka = Broker::start(BrokerOptions { long_run: true, heap_mib: 1_024, ..BrokerOptions::default() })?;
    for (topic, partitions, codec, spread) in TOPICS {
        eprintln!("loading {} events, {codec}, into {partitions} partitions ...", options.events);
        kafka.create_topic(topic, partitions, &[])?;
        let events = events::generate(options.events, partitions, spread);
        kafka.produce_with(&[("compression.type", codec)], topic, events)?;
    }
    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let job = |name: &'static str, topic, fetch, listener| {
        let spec = dir.path().join(format!("{}.yaml", name.replace([' ', ','], "-")));
        fs::write(&spec, job_spec(&kafka, topic, fetch, listener)?)?;
        let programs = &programs;
        Ok(Run::new(name, move || programs.bounded(&spec, 1, options.events)))
    };
    let consumer = |name, program| {
        let (programs, kafka) = (&programs, &kafka);
        Ok(Run::new(name, move || programs.consume(program, kafka, "plain", options.events)))
    };
    let runs = [
        consumer("raw", "raw-consume"),
        consumer("own", "own-consume"),
        job("job rdkafka", "plain", "rdkafka", Listener::Plaintext),
        job("job own", "plain", "own", Listener::Plaintext),
        job("job TLS own", "plain", "own", Listener::Mtls),
        job("job lz4 rdkafka", "lz4", "rdkafka", Listener::Plaintext),
        job("job lz4 own", "lz4", "own", Listener::Plaintext),
        job("job zstd rdkafka", "zstd", "rdkafka", Listener::Plaintext),
        job("job zstd own", "zstd", "own", Listener::Plaintext),
        job("job 10 own", "few", "own", Listener::Plaintext),
        job("job 1,000 own", "many", "own", Listener::Plaintext),
    ];
    let runs = runs.into_iter().collect::<Result<Vec<_>>>()?;
    let medians = in_turns(&runs)?;
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    report::print_table(&names, &medians, options.events);
    Ok(measures(&medians))
}

/// The spec of the job over one way to read.
fn job_spec(kafka: &Broker, topic: &str, fetch: &str, listener: Listener) -> Result<String> {
    let Certificates { ca, certificate, key, .. } = kafka.certificates();
    let file = |field: &str, path: &Path| format!("{field}: {{file: {}}}", path.display());
    let security = match listener {
        Listener::Mtls => {
            format!("protocol: mtls, {}, {}, {}", file("ca", &ca), file("certificate", &certificate), file("key", &key))
        }
        _ => "protocol: none".to_owned(),
    };
    let template = fs::read_to_string(root().join("bench/fetch.yaml"))?;
    let values = [
        ("$BROKER", kafka.address(listener)),
        ("$TOPIC", topic.to_owned()),
        ("$FETCH", fetch.to_owned()),
        ("$SECURITY", security),
    ];
    Ok(values.iter().fold(template, |spec, (name, value)| spec.replace(name, value)))
}

fn measures(medians: &BTreeMap<String, Usage>) -> Vec<Measure> {
    let cpu = |name: &str| medians[name].cpu.as_secs_f64();
    let cost = |(name, ours, theirs, limit)| Measure { name, ratio: cpu(ours) / cpu(theirs), limit: Some(limit) };
    // Of all partitions at once, each of which lags from its first record to its last.
    let memory = Measure {
        name: "fetch_memory_of_256_mib",
        ratio: medians["job 1,000 own"].peak_bytes as f64 / MEMORY_BYTES,
        limit: Some(1.0),
    };
    LIMITS.into_iter().map(cost).chain([memory]).collect()
}
