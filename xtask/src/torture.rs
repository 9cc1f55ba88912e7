//! `cargo xtask torture`: a job on a real Kafka that is killed, frozen and copied again and again while records come in, and
//! whose brokers are frozen, killed and cut off in the middle of what they say; at the end its outputs are held against an
//! undisturbed run over the same records.
//!
//! The job has a stateless, a tumbling and a hopping statement to topics, which share transactions, and a tumbling one to files.
//! What is counted: rows that are missing, rows that are there more than once, rows that the undisturbed run does not have.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    kafka::{Broker, BrokerOptions, Proxy, Record},
    random::Random,
    undisturbed::{self, Difference, Rows, Running},
};

/// How it is tortured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Faults, one after the other.
    pub kills: u32,
    /// The same seed makes the same faults in the same order; what they hit is the scheduler's choice.
    pub seed: u64,
    /// The program; none: it is built.
    pub binary: Option<PathBuf>,
    /// Whether the brokers and their network are tortured, too, and the outputs have a cluster of their own: slower.
    pub brokers: bool,
}

/// Topics that take rows, and the folder.
const TOPICS: [&str; 3] = ["plain", "tumbling", "hopping"];
const FOLDER: &str = "archive";
const PARTITIONS: i32 = 4;
/// Records a second.
const RATE: u64 = 400;
/// Bytes of answers that a connection may live to see while its network is cut.
const LONGEST_ANSWER: u64 = 20_000;
/// How long the job may take to catch up at the end, and a copy to see that it was replaced.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tortures a job, and compares.
///
/// # Errors
/// When the job does not do what it has to under torture: it ends by itself, or a copy that was replaced does not.
pub fn run(options: &Options) -> Result<Difference> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => undisturbed::build()?,
    };
    let mut clusters = vec![];
    let mut networks = vec![];
    if options.brokers {
        for (broker, network) in [Broker::start_behind_proxy()?, Broker::start_behind_proxy()?] {
            clusters.push(broker);
            networks.push(network);
        }
    } else {
        clusters.push(Broker::start(BrokerOptions::default())?);
    }
    let (input, output) = (&clusters[0], &clusters[clusters.len() - 1]);
    input.create_topic("events", PARTITIONS, &[])?;
    for topic in TOPICS {
        output.create_topic(topic, 2, &[])?;
    }
    let folder = tempfile::tempdir()?;
    let job = folder.path().join("job.yaml");
    fs::write(&job, spec(input.bootstrap(), output.bootstrap()))?;

    let stop = Arc::new(AtomicBool::new(false));
    let outcome = thread::scope(|scope| {
        let producer = scope.spawn(|| produce(input, &stop));
        let mut random = Random(options.seed);
        let tortured = torture(&Subject { binary: &binary, job: &job }, (input, &networks), options, &mut random);
        stop.store(true, Ordering::Relaxed);
        let produced = producer.join().map_err(|_| anyhow::anyhow!("the producer panicked"))?;
        tortured?;
        println!("{} records", produced?);
        finish(&Subject { binary: &binary, job: &job }, output, folder.path())
    });
    if !outcome.as_ref().is_ok_and(Difference::ok) {
        println!("the runs' logs and files are in {}", folder.keep().display());
    }
    outcome
}

fn spec(input: &str, output: &str) -> String {
    let topic = |name: &str, key: &str| {
        format!("  {name}: {{kafka: {{brokers: [\"{output}\"], topic: {name}, key: {key}}}, format: json}}\n")
    };
    format!(
        r#"name: tortured
inputs:
  events:
    kafka: {{brokers: ["{input}"], topic: events}}
    idle_margin: 1s
    schema: {{id: bigint, k: string, x: double}}
clock_uncertainty: 0s
outputs:
{}{}{}  {FOLDER}: {{file: {{path: {FOLDER}/}}, format: json}}
state: {{epoch: 200ms, snapshot: 2s}}
query: |
{QUERY}
"#,
        topic("plain", "k"),
        topic("tumbling", "k"),
        topic("hopping", "k"),
    )
}

const QUERY: &str = "  SELECT id, k, x INTO plain FROM events WHERE id % 3 = 0
  SELECT k, COUNT(*) AS c, SUM(x) AS s, System.Timestamp() AS t INTO tumbling
  FROM events GROUP BY k, TumblingWindow(second, 1)
  SELECT k, COUNT(*) AS c, MIN(id) AS lo, MAX(id) AS hi, System.Timestamp() AS t INTO hopping
  FROM events GROUP BY k, HoppingWindow(second, 5, 1)
  SELECT COUNT(*) AS c, SUM(x) AS s, System.Timestamp() AS t INTO archive
  FROM events GROUP BY TumblingWindow(second, 2)";

/// Records with numbers of their own, at a steady rate, until `stop`; returns how many.
fn produce(broker: &Broker, stop: &AtomicBool) -> Result<u64> {
    let started = Instant::now();
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = started.elapsed().as_millis() as u64 * RATE / 1_000;
        let records = (made..due).map(|id| {
            let x = (id as f64 * 0.618_033_988_749_894_9).fract() * 100.0;
            let partition = (id * 7 % PARTITIONS as u64) as i32;
            Record::new(partition, format!(r#"{{"id":{id},"k":"k{}","x":{x}}}"#, id * 31 % 17))
        });
        broker.produce("events", records)?;
        made = made.max(due);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(made)
}

struct Subject<'s> {
    binary: &'s Path,
    job: &'s Path,
}

impl Subject<'_> {
    fn start(&self, log: &str) -> Result<Running> {
        let path = self.job.with_file_name(log);
        let child = Command::new(self.binary)
            .args(["run", "--workers", "2", "--wait", "60s"])
            .arg(self.job)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&path)?)
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        Ok(Running { child, log: path })
    }
}

/// Faults, one after the other; a job runs at the end of each and is killed at the beginning of the next.
fn torture(
    subject: &Subject<'_>,
    (input, networks): (&Broker, &[Proxy]),
    options: &Options,
    random: &mut Random,
) -> Result<()> {
    let mut job = subject.start("run-0.log")?;
    for number in 1..=options.kills {
        thread::sleep(Duration::from_millis(200 + random.below(2_000)));
        let log = format!("run-{number}.log");
        match random.below(if options.brokers { 15 } else { 9 }) {
            // Frozen for a while, where it stands.
            0 => {
                job.signal("STOP")?;
                thread::sleep(Duration::from_millis(random.below(2_000)));
                job.signal("CONT")?;
                job.still_runs()?;
            }
            // A frozen copy that wakes when another has taken its place; or takes that one's, frozen before it had its own.
            1 | 2 => {
                job.signal("STOP")?;
                let next = subject.start(&log)?;
                thread::sleep(Duration::from_millis(500 + random.below(3_000)));
                job.signal("CONT")?;
                job = survivor([job, next])?;
            }
            // Asked to stop, which is no fault, but another way to end an epoch.
            3 => {
                job.signal("TERM")?;
                let status = job.wait(PATIENCE)?;
                ensure!(status.success(), "asked to stop it ends with 0, not {status}: {}", job.said());
                job = subject.start(&log)?;
            }
            9 => {
                input.pause()?;
                thread::sleep(Duration::from_millis(random.below(3_000)));
                input.resume()?;
                job.still_runs()?;
            }
            10 | 11 => {
                input.kill()?;
                thread::sleep(Duration::from_millis(random.below(2_000)));
                if random.below(2) == 0 {
                    job.kill()?;
                    input.restart()?;
                    job = subject.start(&log)?;
                } else {
                    input.restart()?;
                    job.still_runs()?;
                }
            }
            // Cut off: connections break in the middle of an answer, again and again, at one cluster.
            12..=14 => {
                let network = &networks[random.below(networks.len() as u64) as usize];
                network.cut_after(1, 1 + random.below(LONGEST_ANSWER));
                thread::sleep(Duration::from_millis(random.below(3_000)));
                if random.below(2) == 0 {
                    job.kill()?;
                    job = subject.start(&log)?;
                    thread::sleep(Duration::from_millis(random.below(1_000)));
                }
                network.cut_after(0, 0);
                job.still_runs()?;
            }
            _ => {
                job.kill()?;
                job = subject.start(&log)?;
            }
        }
    }
    job.still_runs()
}

/// Which of two copies goes on; the other one has to say why it does not.
fn survivor([mut one, mut other]: [Running; 2]) -> Result<Running> {
    let started = Instant::now();
    let (status, ended, mut goes_on) = loop {
        if let Some(status) = one.child.try_wait()? {
            break (status, one, other);
        }
        if let Some(status) = other.child.try_wait()? {
            break (status, other, one);
        }
        ensure!(started.elapsed() < PATIENCE, "two copies go on side by side: {}\n{}", one.said(), other.said());
        thread::sleep(Duration::from_millis(20));
    };
    ensure!(status.code() == Some(1), "a copy that was replaced ends with 1, not {status}: {}", ended.said());
    ensure!(ended.said().contains("taken over"), "{}", ended.said());
    goes_on.still_runs()?;
    Ok(goes_on)
}

/// Lets a last run come to the end of what was produced, and compares with an undisturbed one: the same query over the same
/// records, in one go, to files.
fn finish(subject: &Subject<'_>, output: &Broker, folder: &Path) -> Result<Difference> {
    let mut last = subject.start("run-last.log")?;
    let job = folder.join("undisturbed.yaml");
    let outputs = TOPICS.iter().chain(&[FOLDER]).map(|name| undisturbed::output(name)).collect::<String>();
    let text = fs::read_to_string(subject.job)?;
    let (before, rest) = text.split_once("outputs:\n").context("the spec has outputs")?;
    let (_, after) = rest.split_once("state:").context("the spec has a state")?;
    let text = format!("{before}outputs:\n{outputs}state:{after}").replace("name: tortured", "name: undisturbed");
    fs::write(&job, text)?;
    let expected = undisturbed::rows(subject.binary, &job)?;
    let found = || {
        let mut rows = Rows::of_topics(output, &TOPICS)?;
        rows.add_files(FOLDER, &folder.join(FOLDER))?;
        Ok(rows)
    };
    let difference = last.come_to_the_end(&expected, found, PATIENCE)?;
    if !difference.ok() {
        println!("{} dead letters", letters(folder)?);
    }
    Ok(difference)
}

/// Dead letters: a record that came in behind an idle advance would be one, and nothing else here.
fn letters(folder: &Path) -> Result<usize> {
    let Ok(entries) = fs::read_dir(folder.join("dead-letters")) else { return Ok(0) };
    let mut count = 0;
    for entry in entries {
        for line in fs::read_to_string(entry?.path())?.lines() {
            count += usize::from(serde_json::from_str::<Value>(line)?.is_object());
        }
    }
    Ok(count)
}
