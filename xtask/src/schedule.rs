//! `cargo xtask schedule`: a pipeline on a real Kafka whose schedulers are killed, frozen and run side by side while records come in;
//! at the end every record must be in exactly one file, that of the range of its LogAppendTime, and in it once.
//!
//! What is expected is computed from the topic itself, after everything is over: each record's timestamp says its range.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use rdkafka::Message;

use crate::{
    kafka::{Broker, Record},
    random::Random,
    undisturbed::{self, Difference, Rows, Running},
};

/// How it is disturbed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Scheduled runs that must have come about while it was disturbed; each is of a second.
    pub runs: usize,
    /// The same seed makes the same faults in the same order; what they hit is the scheduler's choice.
    pub seed: u64,
    /// The program; none: it is built.
    pub binary: Option<PathBuf>,
}

/// What came about.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Ranges that have files.
    pub runs: usize,
    /// Processes that were killed.
    pub kills: u32,
    /// Records of the topic.
    pub records: usize,
    /// What is wrong with them.
    pub difference: Difference,
}

/// The one output has all records, the other a third of them, in folders and in order: a range has the files of both or of none.
const OUTPUTS: [&str; 2] = ["all", "thirds"];
const PARTITIONS: i32 = 3;
/// Records a second.
const RATE: u64 = 500;
/// The longest that a process lives, in milliseconds: a run is over sooner, its beginning and end are hit all the more.
const LONGEST_LIFE_MS: u64 = 2_500;
/// How long the last range may take to be closed and run, and the longest time without a run.
const PATIENCE: Duration = Duration::from_secs(60);

/// Disturbs a pipeline over a topic of its own, and compares.
///
/// # Errors
/// When a scheduler does what it must not: it ends by itself, or no run comes about any more.
pub fn run(options: &Options, broker: &Broker) -> Result<Outcome> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => undisturbed::build()?,
    };
    let topic = format!("scheduled-{}", options.seed);
    broker.create_topic(&topic, PARTITIONS, &[])?;
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("job.yaml"), spec(broker.bootstrap(), &topic))?;
    let pipeline = Pipeline { binary: &binary, folder: folder.path(), begun: Utc::now() };

    let stop = AtomicBool::new(false);
    let outcome = thread::scope(|scope| {
        let producer = scope.spawn(|| produce(broker, &topic, &stop));
        let disturbed = disturb(&pipeline, options);
        stop.store(true, Ordering::Relaxed);
        producer.join().map_err(|_| anyhow::anyhow!("the producer panicked"))??;
        let kills = disturbed?;
        let expected = expected(broker, &topic)?;
        let difference = finish(&pipeline, &expected)?;
        Ok(Outcome { runs: pipeline.ranges()?.len(), kills, records: expected.records, difference })
    });
    if !outcome.as_ref().is_ok_and(|outcome: &Outcome| outcome.difference.ok()) {
        println!("the runs' logs and files are in {}", folder.keep().display());
    }
    outcome
}

fn spec(broker: &str, topic: &str) -> String {
    format!(
        r#"name: disturbed
inputs:
  records:
    kafka: {{brokers: ["{broker}"], topic: {topic}}}
    idle_margin: 500ms
    schema: {{n: bigint}}
clock_uncertainty: 500ms
outputs:
  all: {{file: {{path: all/}}, format: json}}
  thirds: {{file: {{path: thirds/, partition_by: [odd], sort_by: [n]}}, format: json}}
schedule: {{every: 1s, keep_runs: 3}}
range: "[previous, now)"
query: |
  SELECT n INTO all FROM records
  SELECT n, n % 2 AS odd INTO thirds FROM records WHERE n % 3 = 0
"#
    )
}

/// Records with numbers of their own, at a steady rate, until `stop`.
fn produce(broker: &Broker, topic: &str, stop: &AtomicBool) -> Result<()> {
    let started = Instant::now();
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = started.elapsed().as_millis() as u64 * RATE / 1_000;
        let record = |n: u64| Record::new((n * 7 % PARTITIONS as u64) as i32, format!(r#"{{"n":{n}}}"#));
        broker.produce(topic, (made..due).map(record))?;
        made = made.max(due);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

struct Pipeline<'p> {
    binary: &'p Path,
    folder: &'p Path,
    begun: DateTime<Utc>,
}

impl Pipeline<'_> {
    fn start(&self, way: Way, log: &str) -> Result<Running> {
        let log = self.folder.join(log);
        let mut command = Command::new(self.binary);
        command.arg("schedule");
        match way {
            Way::Run => command.args(["run", "job.yaml"]),
            Way::Once => command.args(["once", "job.yaml"]),
            Way::Backfill => {
                let from = self.begun - chrono::Duration::seconds(2);
                command.args(["backfill", "job.yaml", "--from", &from.to_rfc3339(), "--to", &Utc::now().to_rfc3339()])
            }
        };
        let child = command
            .current_dir(self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .with_context(|| format!("cannot run {}", self.binary.display()))?;
        Ok(Running { child, log })
    }

    /// Folders of ranges that can be seen in all outputs.
    fn ranges(&self) -> Result<Vec<String>> {
        let mut ranges = vec![];
        for entry in fs::read_dir(self.folder.join(OUTPUTS[0])).into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && OUTPUTS.iter().all(|output| self.seen(output, &name).is_dir()) {
                ranges.push(name);
            }
        }
        Ok(ranges)
    }

    /// The folder of a range.
    fn seen(&self, output: &str, range: &str) -> PathBuf {
        let name = if output == OUTPUTS[1] { format!("range={range}") } else { range.to_owned() };
        self.folder.join(output).join(name)
    }

    fn rows(&self) -> Result<Rows> {
        let mut rows = Rows::default();
        for range in self.ranges()? {
            rows.add_files(&format!("all/{range}"), &self.seen("all", &range))?;
            for entry in fs::read_dir(self.seen("thirds", &range).join("late=false")).into_iter().flatten() {
                let entry = entry?;
                rows.add_files(&format!("thirds/{range}/{}", entry.file_name().to_string_lossy()), &entry.path())?;
            }
        }
        Ok(rows)
    }
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Run,
    Once,
    /// Of all ranges so far, beside the schedule's own.
    Backfill,
}

/// Starts and kills until there were enough runs and as many kills; returns these.
fn disturb(pipeline: &Pipeline<'_>, options: &Options) -> Result<u32> {
    let mut random = Random(options.seed);
    let life = |random: &mut Random| thread::sleep(Duration::from_millis(random.below(LONGEST_LIFE_MS)));
    let (mut kills, mut number, mut runs, mut since) = (0, 0, 0, Instant::now());
    while runs < options.runs || (kills as usize) < options.runs {
        let mut start = |random: &mut Random| {
            number += 1;
            let way = [Way::Run, Way::Run, Way::Once, Way::Backfill][random.below(4) as usize];
            Ok::<_, anyhow::Error>((way, pipeline.start(way, &format!("{number}.log"))?))
        };
        let one = start(&mut random)?;
        life(&mut random);
        match random.below(3) {
            // Frozen where it stands, while another one does its work; it wakes, and dies at any point after that.
            0 => {
                let is_frozen = one.1.signal("STOP").is_ok();
                let other = start(&mut random)?;
                life(&mut random);
                if is_frozen {
                    one.1.signal("CONT")?;
                }
                thread::sleep(Duration::from_millis(random.below(300)));
                kills += kill(one)?;
                life(&mut random);
                kills += kill(other)?;
            }
            // Two at a time.
            1 => {
                let other = start(&mut random)?;
                life(&mut random);
                kills += kill(one)?;
                life(&mut random);
                kills += kill(other)?;
            }
            _ => kills += kill(one)?,
        }
        let now = pipeline.ranges()?.len();
        if now > runs {
            (runs, since) = (now, Instant::now());
        }
        ensure!(
            since.elapsed() < PATIENCE,
            "no run comes about any more; the logs are in {}",
            pipeline.folder.display()
        );
    }
    Ok(kills)
}

/// Kills a process unless it has ended, which a scheduler must not; returns how many were killed.
fn kill((way, mut running): (Way, Running)) -> Result<u32> {
    match running.child.try_wait()? {
        None => running.kill().map(|()| 1),
        Some(status) => {
            ensure!(way != Way::Run, "a scheduler has ended by itself ({status}): {}", running.said());
            Ok(0)
        }
    }
}

struct Expected {
    rows: Rows,
    records: usize,
}

/// What the topic says.
fn expected(broker: &Broker, topic: &str) -> Result<Expected> {
    let (mut rows, mut records) = (Rows::default(), 0);
    for message in broker.read(topic)? {
        let row = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
        let n: u64 = serde_json::from_str::<serde_json::Value>(&row)?["n"].as_u64().context("a record has a number")?;
        let stamp = message.timestamp().to_millis().context("a record has a timestamp")?;
        let range = DateTime::from_timestamp_millis(stamp).context("a timestamp is of this age")?;
        let range = range.format("%Y%m%dT%H%M%SZ");
        rows.add(&format!("all/{range}"), &row);
        if n.is_multiple_of(3) {
            rows.add(&format!("thirds/{range}/odd={}", n % 2), &row);
        }
        records += 1;
    }
    Ok(Expected { rows, records })
}

/// Lets the ranges that are left be run, undisturbed, and compares.
fn finish(pipeline: &Pipeline<'_>, expected: &Expected) -> Result<Difference> {
    let started = Instant::now();
    loop {
        let mut last = pipeline.start(Way::Backfill, "last.log")?;
        let status = last.wait(PATIENCE)?;
        ensure!(status.success(), "left alone it succeeds, and does not end with {status}: {}", last.said());
        let rows = pipeline.rows()?;
        let difference = expected.rows.compare(&rows);
        if difference.ok() || started.elapsed() > PATIENCE || difference.lost == 0 {
            if !difference.ok() {
                expected.rows.show_differences(&rows);
            }
            return Ok(difference);
        }
        thread::sleep(Duration::from_millis(300));
    }
}
