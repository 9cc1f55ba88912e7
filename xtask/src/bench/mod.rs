//! `cargo xtask bench`: what tidemill costs on a real Kafka, against a consumer that decodes nothing.
//!
//! A topic is loaded once; then the baseline (`bench/raw-consume`) and each job (`bench/*.yaml`) read all of it, in turns
//! and in [`ROUNDS`] rounds, so that a slow spell of the machine meets all of them. Medians are compared, as CPU time per
//! event: ratios travel between machines, absolutes do not. Every run is a process of its own in release. [`fetch`] does the
//! same for the ways to read, [`limit`] for the least that a job can cost, [`sql`] for questions, [`scale`] and [`latency`]
//! for curves, [`peers`] for Flink SQL, with Nexmark's queries in [`peers::nexmark`].
//! [`instructions`] counts what inner loops execute, which needs neither Kafka nor a quiet machine.

mod document;
mod events;
mod fetch;
mod instructions;
mod latency;
mod limit;
mod memory;
mod peers;
mod process;
mod programs;
mod report;
mod scale;
mod snapshot;
mod sql;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use self::events::Spread;
use self::process::Usage;
use self::programs::Programs;
use self::report::Measure;
use crate::kafka::{Broker, BrokerOptions};
use crate::repository::root;

/// How often each is run.
const ROUNDS: usize = 3;

/// The name of the baseline in the report, and its program.
const RAW: &str = "raw";
const RAW_CONSUME: &str = "raw-consume";

const TOPIC: &str = "events";
/// The other topic of a join; its events come in at the same time.
const OTHERS: &str = "others";
const PARTITIONS: i32 = 4;
/// The producer's codec of a topic that is not compressed.
const PLAIN: &str = "none";

/// The most that a job may hold at its peak.
const MEMORY_LIMIT_BYTES: f64 = 400e6;

/// CPU time that a call of a function in JavaScript may take, with all that it needs beside the job without.
const CALL_LIMIT: Duration = Duration::from_micros(2);

/// The first row comes within this time of the start, on a running broker.
const FIRST_ROW_LIMIT: Duration = Duration::from_secs(1);

/// A job to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Job {
    /// A filter and a projection.
    Stateless,
    /// A tumbling window of 1 s by 10,000 keys.
    Tumbling,
    /// A hopping window of 10 s each second by 10,000 keys.
    Hopping,
    /// Sessions of 10,000 keys that end after 0.1 s.
    Session,
    /// A sliding window of 1 s by 10,000 keys.
    Sliding,
    /// Two topics joined by 10,000 keys within 10 ms.
    Join,
    /// What the join reads, without the join.
    Two,
    /// A function in JavaScript, called for each event. Only where it is asked for.
    Function,
    /// Not its cost, but the time to its first row.
    FirstRow,
    /// No job: the decoders, each against the library that would be used in its place. Only where it is asked for.
    Formats,
    /// No job: the instructions of inner loops, by callgrind, against those recorded; always exits 1 when one takes more. Only where it is asked for.
    Instructions,
    /// No job's cost, but what epochs, snapshots and a restart take. Only where it is asked for.
    Snapshot,
    /// Reading by our own path against librdkafka's: plain, compressed, under TLS, many partitions. Only where it is asked for.
    Fetch,
    /// Jobs against their limit: fetching and decoding the same columns, and nothing else. Only where it is asked for.
    Limit,
    /// What state takes: a key in a slice, and a long run against a short one. Only where it is asked for.
    Memory,
    /// Questions: the bytes of one for the last minute, and a full scan with GROUP BY against the stateless job. Only where it is asked for.
    Sql,
    /// How long after their end the rows of windows are there, under three loads; writes `docs/benchmarks.md`. Only where it is asked for.
    Latency,
    /// Partitions, keys, sizes of messages, windows and workers, each as a curve; writes `docs/benchmarks.md`. Only where it is asked for.
    Scale,
    /// The same queries in Flink SQL, in turns, and the same rows; writes `docs/benchmarks.md`. Only where it is asked for.
    Peers,
    /// Queries of Nexmark on events of its generator, as `peers` does with ours; writes `docs/benchmarks.md`. Only where it is asked for.
    Nexmark,
}

impl Job {
    const ALL: [Self; 8] = [
        Self::Stateless,
        Self::Tumbling,
        Self::Hopping,
        Self::Session,
        Self::Sliding,
        Self::Two,
        Self::Join,
        Self::FirstRow,
    ];

    /// Its name, and that of its spec in `bench/`.
    fn name(self) -> &'static str {
        match self {
            Self::Stateless => "stateless",
            Self::Tumbling => "tumbling",
            Self::Hopping => "hopping",
            Self::Session => "session",
            Self::Sliding => "sliding",
            Self::Join => "join",
            Self::Two => "two",
            Self::Function => "function",
            Self::FirstRow => "first_row",
            Self::Formats => "formats",
            Self::Instructions => "instructions",
            Self::Snapshot => "snapshot",
            Self::Fetch => "fetch",
            Self::Limit => "limit",
            Self::Memory => "memory",
            Self::Sql => "sql",
            Self::Latency => "latency",
            Self::Scale => "scale",
            Self::Peers => "peers",
            Self::Nexmark => "nexmark",
        }
    }

    /// What its CPU is held against.
    fn baseline(self) -> &'static str {
        match self {
            Self::Hopping | Self::Session | Self::Sliding => Self::Tumbling.name(),
            Self::Join => Self::Two.name(),
            Self::Function => Self::Stateless.name(),
            _ => RAW,
        }
    }

    /// Its measure, and the most that it may cost of [`Job::baseline`].
    fn measure(self) -> (&'static str, Option<f64>) {
        match self {
            Self::Stateless => ("stateless", Some(2.0)),
            Self::Tumbling => ("tumbling", Some(2.5)),
            Self::Hopping => ("hopping_to_tumbling", Some(1.5)),
            Self::Session => ("session_to_tumbling", Some(2.0)),
            Self::Sliding => ("sliding_to_tumbling", Some(4.0)),
            Self::Join => ("join_to_reading", Some(2.5)),
            other => (other.name(), None),
        }
    }

    /// Topics that it reads all of.
    fn topics(self) -> u64 {
        if matches!(self, Self::Join | Self::Two) { 2 } else { 1 }
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
    /// Measure debug builds: their figures say nothing, but that the bench itself works.
    #[arg(long)]
    debug: bool,
    /// Of `instructions`: write the counts down instead of comparing them.
    #[arg(long)]
    record: bool,
    /// Why counts that rise are written down.
    #[arg(long, requires = "record")]
    reason: Option<String>,
}

/// Measures, prints a table and one JSON object a measure. False when a limit is missed and that was to be
/// checked, or a loop takes more instructions than recorded.
///
/// # Errors
/// When something cannot be built, started or loaded, or a run fails.
pub fn run(options: &Options) -> Result<bool> {
    let counts_asked = options.jobs.contains(&Job::Instructions);
    ensure!(counts_asked || !options.record, "`--record` is of `cargo xtask bench instructions`");
    let counts_hold = !counts_asked || instructions::run(options)?;
    let decoders_hold = !options.jobs.contains(&Job::Formats) || formats(options)?;
    let mut measures = vec![];
    if options.jobs.contains(&Job::Fetch) {
        measures.extend(fetch::run(options)?);
    }
    if options.jobs.contains(&Job::Limit) {
        measures.extend(limit::run(options)?);
    }
    if options.jobs.contains(&Job::Memory) {
        measures.extend(memory::run(options)?);
    }
    if options.jobs.contains(&Job::Sql) {
        measures.extend(sql::run(options)?);
    }
    if options.jobs.contains(&Job::Latency) {
        measures.extend(latency::run(options)?);
    }
    if options.jobs.contains(&Job::Scale) {
        measures.extend(scale::run(options)?);
    }
    if options.jobs.contains(&Job::Peers) {
        measures.extend(peers::run(options)?);
    }
    if options.jobs.contains(&Job::Nexmark) {
        measures.extend(peers::nexmark::run(options)?);
    }
    if options.jobs.contains(&Job::Snapshot) {
        measures.extend(snapshot::run(options)?);
    }
    let jobs: Vec<Job> = match options.jobs.as_slice() {
        [] => Job::ALL.to_vec(),
        named => {
            let alone = |job: &Job| {
                matches!(
                    job,
                    Job::Formats
                        | Job::Instructions
                        | Job::Snapshot
                        | Job::Fetch
                        | Job::Limit
                        | Job::Memory
                        | Job::Sql
                        | Job::Latency
                        | Job::Scale
                        | Job::Peers
                        | Job::Nexmark
                )
            };
            named.iter().copied().filter(|job| !alone(job)).collect()
        }
    };
    if !jobs.is_empty() {
        measures.extend(run_jobs(&jobs, options)?);
    }
    measures.iter().for_each(|measure| println!("{}", Value::from(measure)));
    Ok(counts_hold && (!options.check || (decoders_hold && measures.iter().all(Measure::ok))))
}

/// The jobs against the baseline.
fn run_jobs(jobs: &[Job], options: &Options) -> Result<Vec<Measure>> {
    let programs = Programs::build(options, &["tidemill", RAW_CONSUME])?;
    let kafka = Broker::start(BrokerOptions { long_run: true, ..BrokerOptions::default() })?;
    let topics = jobs.iter().map(|job| job.topics()).max().unwrap_or(1);
    let topics = &[(TOPIC, PLAIN), (OTHERS, PLAIN)][..topics as usize];
    load(&kafka, topics, options.events)?;

    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let mut costs: Vec<Job> = jobs.iter().copied().filter(|job| *job != Job::FirstRow).collect();
    let baselines: Vec<&str> = costs.iter().map(|job| job.baseline()).collect();
    costs.extend([Job::Stateless, Job::Tumbling, Job::Two].into_iter().filter(|job| baselines.contains(&job.name())));
    costs.sort();
    costs.dedup();
    let mut runs = vec![Run::new(RAW, || programs.consume(RAW_CONSUME, &kafka, TOPIC, options.events))];
    for job in &costs {
        let (programs, spec) = (&programs, spec(*job, &kafka, dir.path())?);
        runs.push(Run::new(job.name(), move || programs.bounded(&spec, 1, options.events * job.topics())));
    }
    let medians = in_turns(&runs)?;
    let first_row = jobs.contains(&Job::FirstRow);
    let first_row = first_row.then(|| first_row_after(&programs, &kafka, dir.path())).transpose()?;
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    report::print_table(&names, &medians, options.events);
    let call = costs.contains(&Job::Function).then(|| {
        let cpu = |job: Job| medians[job.name()].cpu.as_secs_f64();
        let call = (cpu(Job::Function) - cpu(Job::Stateless)) / options.events as f64;
        println!("a call of a function: {:.0} ns", call * 1e9);
        Measure { name: "call_of_2_us", ratio: call / CALL_LIMIT.as_secs_f64(), limit: Some(1.0) }
    });
    Ok(measures(&costs, &medians, first_row).into_iter().chain(call).collect())
}

/// Loads all topics, each with its producer's codec, at once, so that their times go side by side.
fn load(kafka: &Broker, topics: &[(&str, &str)], events: u64) -> Result<()> {
    let names: Vec<_> = topics.iter().map(|(topic, _)| *topic).collect();
    eprintln!("loading {events} events into {} ...", names.join(" and "));
    let load = |topic: &str, codec: &str| {
        kafka.create_topic(topic, PARTITIONS, &[])?;
        let events = events::generate(events, PARTITIONS, Spread::ByUser);
        kafka.produce_with(&[("compression.type", codec)], topic, events)
    };
    thread::scope(|scope| {
        let loads: Vec<_> = topics.iter().map(|(topic, codec)| scope.spawn(|| load(topic, codec))).collect();
        loads.into_iter().try_for_each(|load| load.join().map_err(|_| anyhow!("loading panicked"))?)
    })
}

/// Something to measure.
struct Run<'a> {
    name: String,
    once: Box<dyn Fn() -> Result<Usage> + 'a>,
}

impl<'a> Run<'a> {
    fn new(name: impl Into<String>, once: impl Fn() -> Result<Usage> + 'a) -> Self {
        Self { name: name.into(), once: Box::new(once) }
    }
}

/// Runs all in turns, [`ROUNDS`] times; the median of each, by name.
fn in_turns(runs: &[Run<'_>]) -> Result<BTreeMap<String, Usage>> {
    let mut usages: BTreeMap<&str, Vec<Usage>> = BTreeMap::new();
    for round in 1..=ROUNDS {
        for Run { name, once } in runs {
            let usage = once()?;
            eprintln!("round {round}: {name} {usage}");
            usages.entry(name).or_default().push(usage);
        }
    }
    Ok(usages.into_iter().map(|(name, usages)| (name.to_owned(), Usage::median(&usages))).collect())
}

/// Measures the decoders; whether all limits hold.
fn formats(options: &Options) -> Result<bool> {
    let programs = Programs::build(options, &["bench-formats"])?;
    let status = Command::new(programs.path("bench-formats")?).status()?;
    ensure!(status.code().is_some_and(|code| code <= 1), "`bench-formats` failed");
    Ok(status.success())
}

/// The spec of a job for this broker, written to `dir`.
fn spec(job: Job, kafka: &Broker, dir: &Path) -> Result<PathBuf> {
    let folder = root().join("bench").display().to_string();
    filled(job.name(), dir, &[("$BROKER", kafka.bootstrap()), ("$FOLDER", &folder)])
}

/// A spec of `bench/` with these words replaced, written to `dir`.
fn filled(name: &str, dir: &Path, words: &[(&str, &str)]) -> Result<PathBuf> {
    let file = format!("{name}.yaml");
    let template = fs::read_to_string(root().join("bench").join(&file))?;
    let spec = dir.join(file);
    fs::write(&spec, words.iter().fold(template, |text, (word, by)| text.replace(word, by)))?;
    Ok(spec)
}

/// From the start of the process to its first row on stdout, the median of [`ROUNDS`].
fn first_row_after(programs: &Programs, kafka: &Broker, dir: &Path) -> Result<Duration> {
    let spec = spec(Job::FirstRow, kafka, dir)?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut child = Command::new(programs.path("tidemill")?)
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

fn measures(jobs: &[Job], medians: &BTreeMap<String, Usage>, first_row: Option<Duration>) -> Vec<Measure> {
    let cpu = |name: &str| medians[name].cpu.as_secs_f64();
    let cost = |job: &Job| {
        let (name, limit) = job.measure();
        Measure { name, ratio: cpu(job.name()) / cpu(job.baseline()), limit }
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
