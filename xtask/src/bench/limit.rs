//! `cargo xtask bench limit`: how near jobs come to what fetching and decoding alone allow, on a real Kafka.
//!
//! The limit is `own-consume` with the columns of `bench/stateless.yaml` and `bench/tumbling.yaml`: our own path and our own
//! decoder, the rows dropped. By throughput on the wall and by CPU, as ratios of what the job takes to what the limit takes.

use std::collections::BTreeMap;

use anyhow::Result;

use super::process::Usage;
use super::report::Measure;
use super::{Job, Options, PLAIN, Programs, Run, TOPIC, in_turns, load, report, spec};
use crate::kafka::{Broker, BrokerOptions};

/// The name of the limit in the report.
const LIMIT: &str = "limit";

/// What both jobs need of an event.
const COLUMNS: [&str; 2] = ["user:string", "amount:double"];

/// The part of the limit's throughput that a stateless job reaches at least.
const REACHED: f64 = 0.8;

/// Measures, prints a table, and gives the measures.
pub(super) fn run(options: &Options) -> Result<Vec<Measure>> {
    let programs = Programs::build(options, &["tidemill", "own-consume"])?;
    let kafka = Broker::start(BrokerOptions { long_run: true, ..BrokerOptions::default() })?;
    load(&kafka, &[(TOPIC, PLAIN)], options.events)?;
    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let decode = || programs.decode("own-consume", &kafka, TOPIC, &COLUMNS, options.events);
    let mut runs = vec![Run::new(LIMIT, decode)];
    for job in [Job::Stateless, Job::Tumbling] {
        let (programs, spec) = (&programs, spec(job, &kafka, dir.path())?);
        runs.push(Run::new(job.name(), move || programs.bounded(&spec, 1, options.events)));
    }
    let medians = in_turns(&runs)?;
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    report::print_table(&names, &medians, options.events);
    Ok(measures(&medians))
}

/// A window costs more than reading and is only told.
fn measures(medians: &BTreeMap<String, Usage>) -> Vec<Measure> {
    let wall = |job: Job| medians[job.name()].wall.as_secs_f64() / medians[LIMIT].wall.as_secs_f64();
    let cpu = |job: Job| medians[job.name()].cpu.as_secs_f64() / medians[LIMIT].cpu.as_secs_f64();
    let most = Some(1.0 / REACHED);
    vec![
        Measure { name: "stateless_to_limit_wall", ratio: wall(Job::Stateless), limit: most },
        Measure { name: "stateless_to_limit_cpu", ratio: cpu(Job::Stateless), limit: most },
        Measure { name: "tumbling_to_limit_wall", ratio: wall(Job::Tumbling), limit: None },
        Measure { name: "tumbling_to_limit_cpu", ratio: cpu(Job::Tumbling), limit: None },
    ]
}
