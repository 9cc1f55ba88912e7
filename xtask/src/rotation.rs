//! `cargo xtask rotation`: a job over mTLS from a key vault in full run, while the broker is told to trust another authority, and
//! the vault gets the certificate of that one. At the end the outputs are held against an undisturbed run over the same records.
//!
//! ```text
//! broker trusts CA 1, vault has a certificate of CA 1 -> broker trusts CA 2 alone -> vault has one of CA 2 -> the job takes it up
//! ```
//! Between the second and the third step nobody gets in with the old certificate, but connections that stand stay.

use std::{
    fmt, fs,
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
use rdkafka::Message;
use stand_in::{Azure, Way};
use tidemill_certs::{SecretRef, SecretStore};
use tidemill_connectors::kafka::{SecuritySettings, TlsSettings, probe};

use crate::{
    clock::machine_clock,
    kafka::{Broker, BrokerOptions, Certificates, Listener, Record},
    undisturbed::{self, Difference, Rows, Running},
};

/// What is rotated under which load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Events a second.
    pub rate: u64,
    /// How long the job runs before the change, and after it.
    pub run_for: Duration,
    /// The program; none: it is built.
    pub binary: Option<PathBuf>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    records: u64,
    seconds: f64,
    /// From the epoch at which the job stopped to its next threads, as it says itself.
    pause: Duration,
    /// The longest time without a row, before the change and from it on.
    gaps: [Duration; 2],
    difference: Difference,
}

/// What the issue of a rotation may cost.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Outcome {
    /// Whether exactly the rows of the undisturbed run are there, and the pause was short.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.difference.ok() && self.pause <= LONGEST_PAUSE
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, seconds, pause, gaps: [usual, gap], difference } = self;
        write!(
            f,
            "{records} records at {:.0} a second, pause {} ms (longest time without a row {} ms, usually {} ms), {difference}",
            *records as f64 / seconds,
            pause.as_millis(),
            gap.as_millis(),
            usual.as_millis(),
        )
    }
}

const TOPICS: [&str; 2] = ["some", "counted"];
const PARTITIONS: i32 = 4;
/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Rotates, and compares.
///
/// # Errors
/// When the job ends by itself, or does not take up what is new.
pub fn run(options: &Options) -> Result<Outcome> {
    let binary = match &options.binary {
        Some(binary) => binary.clone(),
        None => undisturbed::build()?,
    };
    let broker = Broker::start(BrokerOptions { heap_mib: 1_024, ..BrokerOptions::default() })?;
    broker.create_topic("events", PARTITIONS, &[])?;
    for topic in TOPICS {
        broker.create_topic(topic, 2, &[])?;
    }
    let files = broker.certificates();
    let azure = Azure::start();
    azure.put_files(&[("kafka-ca", &files.ca), ("kafka-cert", &files.certificate), ("kafka-key", &files.key)]);
    let folder = tempfile::tempdir()?;
    let job = folder.path().join("job.yaml");
    fs::write(&job, spec(&broker.address(Listener::Mtls), TLS, &topics(&broker)))?;

    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let producer = scope.spawn(|| produce(&broker, options.rate, &stop));
        let rotated = (|| {
            let mut running = start(&binary, &job, &azure.environment(Way::VirtualMachine, folder.path()))?;
            let changed_ms = rotate(&broker, &files, &azure, &mut running, options.run_for)?;
            Ok::<_, anyhow::Error>((running, changed_ms))
        })();
        stop.store(true, Ordering::Relaxed);
        let produced = producer.join().map_err(|_| anyhow::anyhow!("the producer panicked"))?;
        let ((mut running, changed_ms), (records, seconds)) = (rotated?, produced?);
        let expected = expected(&broker, &binary, folder.path())?;
        let found = || Rows::of_topics(&broker, &TOPICS);
        let difference = running.come_to_the_end(&expected, found, PATIENCE)?;
        let pause = pause(&running.log)?.context("the job rotated")?;
        Ok(Outcome { records, seconds, pause, gaps: gaps(&broker, changed_ms)?, difference })
    })
}

const TLS: &str = "protocol: mtls, ca: {key_vault: kafka-ca}, certificate: {key_vault: kafka-cert}, key: {key_vault: \
                   kafka-key}, refresh: 500ms";

fn topics(broker: &Broker) -> String {
    let address = broker.address(Listener::Mtls);
    let topic =
        |name: &str| format!("  {name}: {{kafka: {{brokers: [\"{address}\"], topic: {name}, security: {{{TLS}}}}}}}\n");
    TOPICS.map(topic).concat()
}

fn spec(address: &str, security: &str, outputs: &str) -> String {
    format!(
        r#"name: rotated
inputs:
  events:
    kafka: {{brokers: ["{address}"], topic: events, security: {{{security}}}}}
    idle_margin: 1s
    schema: {{id: bigint, k: string, x: double}}
clock_uncertainty: 0s
outputs:
{outputs}key_vault: {{vault: my-vault}}
state: {{epoch: 200ms}}
query: |
  SELECT id, x INTO some FROM events WHERE id % 100 = 0
  SELECT k, COUNT(*) AS c, SUM(x) AS s, System.Timestamp() AS t INTO counted FROM events GROUP BY k, TumblingWindow(second, 1)
"#
    )
}

/// Records with numbers of their own, at a steady rate, until `stop`; returns how many, and in how many seconds.
fn produce(broker: &Broker, rate: u64, stop: &AtomicBool) -> Result<(u64, f64)> {
    let started = Instant::now();
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        let record = |id: u64| {
            let x = (id as f64 * 0.618_033_988_749_894_9).fract() * 100.0;
            Record::new((id % PARTITIONS as u64) as i32, format!(r#"{{"id":{id},"k":"k{}","x":{x}}}"#, id * 31 % 17))
        };
        broker.produce("events", (made..due).map(record))?;
        made = due;
        thread::sleep(Duration::from_millis(20));
    }
    Ok((made, started.elapsed().as_secs_f64()))
}

fn start(binary: &Path, job: &Path, environment: &[(&'static str, String)]) -> Result<Running> {
    let log = job.with_file_name("run.log");
    let child = Command::new(binary)
        .args(["run", "--workers", "2", "--wait", "60s"])
        .arg(job)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    Ok(Running { child, log })
}

/// Changes what the broker trusts, then what the vault holds, in the middle of `2 * run_for`. Returns when the vault changed,
/// as the broker's clock has it.
fn rotate(
    broker: &Broker,
    files: &Certificates,
    azure: &Azure,
    running: &mut Running,
    run_for: Duration,
) -> Result<i64> {
    wait(running, "the first rows", || Ok(!broker.read("some")?.is_empty()))?;
    let go_on = |running: &mut Running| {
        thread::sleep(run_for); // a load has to last
        running.still_runs()
    };
    go_on(running)?;
    broker.trust(Listener::Mtls, &files.second_ca)?;
    wait(running, "the broker to trust the second authority alone", || {
        let first = lets_in(broker, &files.ca, &files.certificate, &files.key)?;
        Ok(!first && lets_in(broker, &files.ca, &files.second_certificate, &files.second_key)?)
    })?;
    let changed_ms = machine_clock().wall().0 / 1_000;
    azure.put_files(&[("kafka-cert", &files.second_certificate), ("kafka-key", &files.second_key)]);
    let log = running.log.clone();
    wait(running, "the job to take up what is new", || Ok(pause(&log)?.is_some()))?;
    go_on(running)?;
    Ok(changed_ms)
}

fn wait(running: &mut Running, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let started = Instant::now();
    while !is_so()? {
        running.still_runs()?;
        ensure!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}: {}", running.said());
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Whether the listener takes a client certificate.
fn lets_in(broker: &Broker, ca: &Path, certificate: &Path, key: &Path) -> Result<bool> {
    let clock = machine_clock();
    let file = |path: &Path| Some(SecretRef::File(path.to_owned()));
    let tls = TlsSettings { ca: file(ca), certificate: file(certificate), key: file(key), key_password: None };
    let settings = SecuritySettings { tls: Some(tls), ..SecuritySettings::default() };
    let security = settings.resolve(&Arc::new(SecretStore::default()), &clock)?;
    let steps = probe(&broker.address(Listener::Mtls), &security, &clock, PATIENCE)?;
    Ok(steps.last().is_some_and(|step| step.what == "login" && step.outcome.is_ok()))
}

/// What the job says of its rotation, if it has.
fn pause(log: &Path) -> Result<Option<Duration>> {
    let log = fs::read_to_string(log)?;
    let said = log.split_once("secrets have changed: connections were made anew within ");
    let milliseconds = said.and_then(|(_, rest)| rest.split_once(" ms"));
    milliseconds.map(|(number, _)| Ok(Duration::from_millis(number.parse()?))).transpose()
}

/// The same query over the same records, in one go, to files.
fn expected(broker: &Broker, binary: &Path, folder: &Path) -> Result<Rows> {
    let job = folder.join("undisturbed.yaml");
    let text = spec(broker.bootstrap(), "protocol: none", &TOPICS.map(undisturbed::output).concat());
    fs::write(&job, text.replace("name: rotated", "name: undisturbed"))?;
    undisturbed::rows(binary, &job)
}

/// The longest times between rows of the stateless output, by the broker's stamps: before `changed_ms`, and from it on.
fn gaps(broker: &Broker, changed_ms: i64) -> Result<[Duration; 2]> {
    let mut stamps: Vec<i64> =
        broker.read("some")?.iter().filter_map(|message| message.timestamp().to_millis()).collect();
    stamps.sort_unstable();
    let mut gaps = [0; 2];
    for pair in stamps.windows(2) {
        let gap = &mut gaps[usize::from(pair[1] >= changed_ms)];
        *gap = pair[1].abs_diff(pair[0]).max(*gap);
    }
    Ok(gaps.map(Duration::from_millis))
}
