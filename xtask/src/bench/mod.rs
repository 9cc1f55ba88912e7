//! `cargo xtask bench`: what tidemill costs on a real Kafka, against a consumer that decodes nothing.
//!
//! A topic is loaded once; then the baseline (`bench/raw-consume`) and each job (`bench/*.yaml`) read all of it, in turns
//! and in [`ROUNDS`] rounds, so that a slow spell of the machine meets all of them. Medians are compared, as CPU time per
//! event: ratios travel between machines, absolutes do not. Every run is a process of its own in release.

mod events;
mod process;
mod report;
mod snapshot;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::process::Usage;
use self::report::Measure;
use crate::kafka::{Broker, BrokerOptions};
use crate::repository::{cargo, root};

/// How often each is run.
const ROUNDS: usize = 3;

/// The name of the baseline in the report.
const RAW: &str = "raw";

const TOPIC: &str = "events";
const PARTITIONS: i32 = 4;

/// The most that a job may hold at its peak.
const MEMORY_LIMIT_BYTES: f64 = 400e6;

/// The first row comes within this time of the start, on a running broker.
const FIRST_ROW_LIMIT: Duration = Duration::from_secs(1);

/// A job to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Job {
    /// A filter and a projection.
    Stateless,
    /// A tumbling window of 1 s by 10,000 keys.
    Tumbling,
    /// A hopping window of 5 s each second by 10,000 keys.
    Hopping,
    /// Not its cost, but the time to its first row.
    FirstRow,
    /// No job: the decoders, each against the library that would be used in its place. Only where it is asked for.
    Formats,
    /// No job's cost, but what epochs, snapshots and a restart take. Only where it is asked for.
    Snapshot,
}

impl Job {
    const ALL: [Self; 4] = [Self::Stateless, Self::Tumbling, Self::Hopping, Self::FirstRow];

    /// Its name, and that of its spec in `bench/`.
    fn name(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Tumbling => "tumbling",
            Self::Hopping => "hopping",
            Self::FirstRow => "first_row",
            Self::Formats => "formats",
            Self::Snapshot => "snapshot",
        }
    }

    /// The most CPU per event that it may cost, of the baseline's.
    fn limit(self) -> Option<f64> {
        match self {
            Self::Stateless => Some(2.0),
            Self::Tumbling => Some(2.5),
            Self::Hopping | Self::FirstRow | Self::Formats | Self::Snapshot => None,
        }
    }
}

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The jobs to measure; none: all of them.
    jobs: Vec<Job>,
    /// How many events to load.
    #[arg(long, default_value_t = 10_000_000)]
    events: u64,
    /// Exit 1 when a limit is missed.
    #[arg(long)]
    check: bool,
}

/// Measures, prints a table and one JSON object a measure. False when a limit is missed and that was to be checked.
///
/// # Errors
/// When something cannot be built, started or loaded, or a run fails.
pub fn run(options: &Options) -> Result<bool> {
    let decoders_hold = !options.jobs.contains(&Job::Formats) || formats()?;
    let jobs: Vec<Job> = match options.jobs.as_slice() {
        [] => Job::ALL.to_vec(),
        named => named.iter().copied().filter(|job| !matches!(job, Job::Formats | Job::Snapshot)).collect(),
    };
    let tidemill = build("tidemill")?;
    let snapshots_hold = !options.jobs.contains(&Job::Snapshot) || snapshot::run(&tidemill, options.events)?;
    let apart_hold = decoders_hold && snapshots_hold;
    if jobs.is_empty() {
        return Ok(apart_hold || !options.check);
    }
    let raw_consume = build("raw-consume")?;

    let kafka = Broker::start(BrokerOptions::default())?;
    kafka.create_topic(TOPIC, PARTITIONS, &[])?;
    eprintln!("loading {} events ...", options.events);
    kafka.produce(TOPIC, events::generate(options.events, PARTITIONS))?;

    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let mut runs: BTreeMap<&str, Vec<Usage>> = BTreeMap::new();
    let costs: Vec<Job> = jobs.iter().copied().filter(|job| *job != Job::FirstRow).collect();
    for round in 1..=ROUNDS {
        let usage = raw(&raw_consume, &kafka, options.events)?;
        eprintln!("round {round}: {RAW} {usage}");
        runs.entry(RAW).or_default().push(usage);
        for job in &costs {
            let usage = bounded(&tidemill, &spec(*job, &kafka, dir.path())?, options.events)?;
            eprintln!("round {round}: {} {usage}", job.name());
            runs.entry(job.name()).or_default().push(usage);
        }
    }
    let first_row = jobs.contains(&Job::FirstRow).then(|| first_row(&tidemill, &kafka, dir.path())).transpose()?;

    let medians: BTreeMap<&str, Usage> = runs.into_iter().map(|(name, runs)| (name, Usage::median(&runs))).collect();
    let names: Vec<&str> = [RAW].into_iter().chain(costs.iter().map(|job| job.name())).collect();
    report::print_table(&names, &medians, options.events);
    let measures = measures(&costs, &medians, first_row);
    measures.iter().for_each(|measure| println!("{}", Value::from(measure)));
    Ok(!options.check || (apart_hold && measures.iter().all(Measure::ok)))
}

/// Measures the decoders; whether all limits hold.
fn formats() -> Result<bool> {
    let program = build("bench-formats")?;
    let status = Command::new(&program).status()?;
    ensure!(status.code().is_some_and(|code| code <= 1), "`bench-formats` failed");
    Ok(status.success())
}

/// Builds a package in release and says where its program is.
fn build(package: &str) -> Result<PathBuf> {
    eprintln!("building {package} in release ...");
    let mut cargo = cargo(&[
        "build",
        "--quiet",
        "--release",
        "--workspace",
        "--bin",
        package,
        "--message-format=json-render-diagnostics",
    ]);
    let output = cargo.stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "`{package}` does not build");
    let messages = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let programs = messages.filter_map(|message| Some(message.ok()?.get("executable")?.as_str()?.into()));
    programs.last().with_context(|| format!("`{package}` has no program"))
}

/// One run of the baseline, which must have seen every event.
fn raw(program: &Path, kafka: &Broker, events: u64) -> Result<Usage> {
    let run = process::measure(Command::new(program).args([kafka.bootstrap(), TOPIC]))?;
    let seen: u64 = run.stdout.trim().parse().context("`raw-consume` prints a number")?;
    ensure!(seen == events, "`raw-consume` saw {seen} of {events} events");
    Ok(run.usage)
}

/// One bounded run of a job, which must have read every event.
fn bounded(tidemill: &Path, spec: &Path, events: u64) -> Result<Usage> {
    let run = process::measure(Command::new(tidemill).arg("run").arg(spec).args(["--bounded", "--workers", "1"]))?;
    let read_all = run.stderr.contains(&format!(" records={events} "));
    ensure!(read_all, "`tidemill run` does not say that it read {events} records:\n{}", run.stderr);
    Ok(run.usage)
}

/// The spec of a job for this broker, written to `dir`.
fn spec(job: Job, kafka: &Broker, dir: &Path) -> Result<PathBuf> {
    let file = format!("{}.yaml", job.name());
    let template = fs::read_to_string(root().join("bench").join(&file))?;
    let spec = dir.join(file);
    fs::write(&spec, template.replace("$BROKER", kafka.bootstrap()))?;
    Ok(spec)
}

/// From the start of the process to its first row on stdout, the median of [`ROUNDS`].
fn first_row(tidemill: &Path, kafka: &Broker, dir: &Path) -> Result<Duration> {
    let spec = spec(Job::FirstRow, kafka, dir)?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut child = Command::new(tidemill)
            .args(["run", "--from-start"])
            .arg(&spec)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut row = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut row)?;
        times.push(start.elapsed());
        child.kill()?;
        let mut said = String::new();
        child.stderr.take().context("stderr is piped")?.read_to_string(&mut said)?;
        child.wait()?;
        ensure!(!row.is_empty(), "`tidemill run` ended without a row:\n{said}");
    }
    times.sort();
    Ok(times[ROUNDS / 2])
}

fn measures(jobs: &[Job], medians: &BTreeMap<&str, Usage>, first_row: Option<Duration>) -> Vec<Measure> {
    let raw = medians[RAW].cpu.as_secs_f64();
    let cost = |job: &Job| Measure {
        name: job.name(),
        ratio: medians[job.name()].cpu.as_secs_f64() / raw,
        limit: job.limit(),
    };
    let peak = jobs.iter().map(|job| medians[job.name()].peak_bytes).max();
    let memory = peak.map(|peak| Measure {
        name: "peak_memory_of_400_mb",
        ratio: peak as f64 / MEMORY_LIMIT_BYTES,
        limit: Some(1.0),
    });
    let first_row = first_row.map(|time| Measure {
        name: "first_row_of_1_s",
        ratio: time.as_secs_f64() / FIRST_ROW_LIMIT.as_secs_f64(),
        limit: Some(1.0),
    });
    jobs.iter().map(cost).chain(memory).chain(first_row).collect()
}
