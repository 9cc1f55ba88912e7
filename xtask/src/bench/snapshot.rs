//! `cargo xtask bench snapshot`: what epochs and snapshots take from a job that runs, and a restart from one that was killed.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    Options, PARTITIONS, ROUNDS, TOPIC,
    events::{self, Spread},
    filled, process,
    programs::Programs,
    report::Measure,
};
use crate::kafka::{Broker, BrokerOptions, Record};

/// Keys of the open window.
const KEYS: u64 = 1_000_000;
/// Records over them: more than a restart reads again rather than that a snapshot is written.
const RECORDS: u64 = 3 * KEYS;
/// Records that come in while snapshots are made.
const UNDER_LOAD: u64 = 4 * KEYS;
const KEYS_TOPIC: &str = "keys";

/// The longest that a snapshot may keep a worker from its records.
const PAUSE_LIMIT: Duration = Duration::from_millis(100);
/// What a snapshot may take on disk for each key.
const BYTES_PER_KEY_LIMIT: f64 = 80.0;
/// CPU time from a start to the first record that it takes.
const RESTART_LIMIT: Duration = Duration::from_secs(2);
/// CPU time of a job without epochs and snapshots, of the same with them: 90 % of its throughput.
const COST_LIMIT: f64 = 1.0 / 0.9;

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(5);

/// Measures.
pub(super) fn run(options: &Options) -> Result<Vec<Measure>> {
    let programs = Programs::build(options, &["tidemill"])?;
    let tidemill = programs.path("tidemill")?;
    let kafka = Broker::start(BrokerOptions { long_run: true, ..BrokerOptions::default() })?;
    let folder = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let mut measures = open_window(tidemill, &kafka, folder.path())?;
    measures.push(throughput(tidemill, &kafka, folder.path(), options.events)?);
    Ok(measures)
}

/// A snapshot of [`KEYS`] keys, and a restart on it.
fn open_window(tidemill: &Path, kafka: &Broker, folder: &Path) -> Result<Vec<Measure>> {
    kafka.create_topic(KEYS_TOPIC, PARTITIONS, &[])?;
    eprintln!("loading {RECORDS} events of {KEYS} keys ...");
    let record = |i: u64| {
        let key = i % KEYS;
        Record::new((key % PARTITIONS as u64) as i32, format!(r#"{{"user":"user-{key:07}","amount":{}.25}}"#, i % 97))
    };
    kafka.produce(KEYS_TOPIC, (0..RECORDS).map(record))?;

    let spec = filled("snapshot", folder, &[("$BROKER", kafka.bootstrap())])?;
    let job = Job::start(tidemill, &spec)?;
    job.wait_until("every record was taken", |metrics| metrics.get("tidemill_records_total") >= RECORDS as f64)?;
    let before = job.metrics()?.get("tidemill_snapshots_total");
    kafka.produce(KEYS_TOPIC, (0..UNDER_LOAD).map(record))?; // snapshots of them all are made meanwhile
    let metrics = job.wait_until("there was a snapshot of all keys", |metrics| {
        metrics.get("tidemill_records_total") >= (RECORDS + UNDER_LOAD) as f64
            && metrics.get("tidemill_snapshots_total") > before
    })?;
    let pause = Duration::from_secs_f64(metrics.get("tidemill_snapshot_pause_seconds"));
    let bytes = metrics.get("tidemill_snapshot_bytes");
    job.kill()?;

    let mut restarts = vec![];
    for _ in 0..ROUNDS {
        kafka.produce(KEYS_TOPIC, [record(0)])?;
        let job = Job::start(tidemill, &spec)?;
        job.wait_until("a record was taken", |metrics| metrics.get("tidemill_records_total") > 0.0)?;
        restarts.push(process::cpu(job.child.id())?.1);
        job.kill()?;
    }
    restarts.sort();
    let restart = restarts[ROUNDS / 2];
    println!(
        "a snapshot of {KEYS} keys: {:.0} ms pause, {:.1} bytes a key; restart to the first record: {:.2} s of CPU",
        pause.as_secs_f64() * 1e3,
        bytes / KEYS as f64,
        restart.as_secs_f64(),
    );
    Ok(vec![
        Measure {
            name: "snapshot_pause_of_100_ms",
            ratio: pause.as_secs_f64() / PAUSE_LIMIT.as_secs_f64(),
            limit: Some(1.0),
        },
        Measure {
            name: "snapshot_bytes_of_80_a_key",
            ratio: bytes / KEYS as f64 / BYTES_PER_KEY_LIMIT,
            limit: Some(1.0),
        },
        Measure {
            name: "restart_of_2_s_cpu",
            ratio: restart.as_secs_f64() / RESTART_LIMIT.as_secs_f64(),
            limit: Some(1.0),
        },
    ])
}

/// The tumbling job with epochs each second and snapshots each ten, and without, in turns.
fn throughput(tidemill: &Path, kafka: &Broker, folder: &Path, events: u64) -> Result<Measure> {
    kafka.create_topic(TOPIC, PARTITIONS, &[])?;
    eprintln!("loading {events} events ...");
    kafka.produce(TOPIC, events::generate(events, PARTITIONS, Spread::ByUser))?;
    let mut with = vec![];
    let mut without = vec![];
    for round in 1..=ROUNDS {
        for (state, costs) in [("{epoch: 1s, snapshot: 10s}", &mut with), ("{epoch: 1h, snapshot: 1h}", &mut without)] {
            let spec = filled("in_epochs", folder, &[("$BROKER", kafka.bootstrap()), ("$STATE", state)])?;
            let job = Job::start(tidemill, &spec)?;
            job.wait_until("every event was taken", |metrics| metrics.get("tidemill_records_total") >= events as f64)?;
            let cost = process::cpu(job.child.id())?.1;
            eprintln!("round {round}: {state} {:.2} s of CPU", cost.as_secs_f64());
            costs.push(cost);
            job.kill()?;
        }
    }
    with.sort();
    without.sort();
    let ratio = with[ROUNDS / 2].as_secs_f64() / without[ROUNDS / 2].as_secs_f64();
    Ok(Measure { name: "cost_with_epochs_to_without", ratio, limit: Some(COST_LIMIT) })
}

/// A job that runs on; killed when dropped.
struct Job {
    child: Child,
    metrics: String,
}

impl Job {
    /// Goes on where the job stands, or, where it never was killed, begins.
    fn start(tidemill: &Path, spec: &Path) -> Result<Self> {
        let metrics = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let name = spec.file_stem().unwrap_or_default();
        let mut command = Command::new(tidemill);
        command.args(["run", "--workers", "1", "--metrics", &metrics]).arg(spec);
        if name == "in_epochs" {
            command.arg("--from-start");
        }
        let log = fs::File::create(spec.with_extension("log"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
        Ok(Self { child, metrics })
    }

    fn metrics(&self) -> Result<Metrics> {
        let mut stream = TcpStream::connect(&self.metrics)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(Metrics(text))
    }

    /// # Errors
    /// When it does not come to that, or the job ends.
    fn wait_until(&self, what: &str, is_so: impl Fn(&Metrics) -> bool) -> Result<Metrics> {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            ensure!(!process::cpu(self.child.id())?.0, "the job has ended before {what}");
            match self.metrics() {
                Ok(metrics) if is_so(&metrics) => return Ok(metrics),
                _ => thread::sleep(LOOK), // it does not listen yet, or not yet
            }
        }
        bail!("waited in vain until {what}")
    }

    fn kill(mut self) -> Result<()> {
        self.child.kill().context("cannot kill the job")?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a job answered at `/metrics`.
struct Metrics(String);

impl Metrics {
    /// The sum over all labels; 0 before it is there.
    fn get(&self, name: &str) -> f64 {
        let values = self.0.lines().filter_map(|line| {
            let (labelled, value) = line.rsplit_once(' ')?;
            (labelled.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        });
        values.sum()
    }
}
