//! Exactly once, on a real Kafka: jobs that are killed, frozen, copied, and kept from their store.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rdkafka::Message;
use xtask::{
    kafka::{Broker, Record, shared},
    torture,
};

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A job in a folder of its own, and what it logs.
struct Job {
    folder: tempfile::TempDir,
    spec: PathBuf,
}

struct Running {
    child: Child,
    log: PathBuf,
}

impl Job {
    fn new(spec: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("job.yaml");
        fs::write(&path, spec).unwrap();
        Self { folder, spec: path }
    }

    fn start(&self, log: &str, args: &[&str]) -> Running {
        let log = self.folder.path().join(log);
        let child = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .arg("run")
            .arg(&self.spec)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Running { child, log }
    }
}

impl Running {
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The exit code, once it has ended by itself.
    fn code(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.code(),
                None => assert!(started.elapsed() < PATIENCE, "it has not ended: {}", self.said()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) -> Option<i32> {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
        self.code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Copies `from` to topic `to`, record by record.
fn copying(broker: &Broker, from: &str, to: &str) -> String {
    let bootstrap = broker.bootstrap();
    format!(
        r#"
name: copy-{to}
inputs:
  events: {{kafka: {{brokers: ["{bootstrap}"], topic: {from}}}, schema: {{n: bigint}}}}
outputs:
  copy: {{kafka: {{brokers: ["{bootstrap}"], topic: {to}}}}}
state: {{epoch: 200ms}}
query: SELECT n INTO copy FROM events
"#
    )
}

fn numbers(broker: &Broker, topic: &str) -> Vec<String> {
    let messages = broker.read(topic).unwrap();
    messages.iter().map(|message| String::from_utf8(message.payload().unwrap().to_vec()).unwrap()).collect()
}

#[test]
fn a_job_that_is_killed_frozen_and_copied_leaves_the_rows_of_one_that_never_was() {
    let binary = Some(PathBuf::from(env!("CARGO_BIN_EXE_tidemill")));
    let difference = torture::run(&torture::Options { kills: 10, seed: 1, binary, brokers: false }).unwrap();
    assert!(difference.ok(), "{difference}");
}

#[test]
fn of_two_copies_the_older_ends_with_1_and_says_why() {
    let broker = shared();
    for topic in ["two-in", "two-out"] {
        broker.create_topic(topic, 1, &[]).unwrap();
    }
    let record = |n: i32| Record::new(0, format!(r#"{{"n":{n}}}"#));
    let job = Job::new(&copying(broker, "two-in", "two-out"));
    broker.produce("two-in", [record(1)]).unwrap();
    let mut older = job.start("older.log", &[]);
    wait_for("the first row", || numbers(broker, "two-out").len() == 1);

    let mut newer = job.start("newer.log", &[]);
    // The older one has to commit something to see that it was replaced.
    let mut made = 1;
    wait_for("the end of the older copy", || {
        made += 1;
        broker.produce("two-in", [record(made)]).unwrap();
        older.child.try_wait().unwrap().is_some()
    });
    assert_eq!(older.code(), Some(1), "{}", older.said());
    assert!(older.said().contains("two copies of a job cannot run at once"), "{}", older.said());
    let expected: Vec<String> = (1..=made).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    wait_for("all rows", || numbers(broker, "two-out").len() >= expected.len());
    assert_eq!(numbers(broker, "two-out"), expected, "each row once");
    assert_eq!(newer.stop(), Some(0), "{}", newer.said());
    // A consumer group's tools see how far it has come.
    assert_eq!(broker.committed("copy-two-out", "two-in").unwrap()[0], Some(i64::from(made)));
}

fn parts(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let visible =
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "jsonl"));
    let mut rows: Vec<String> = visible
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
        .flat_map(|path| fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    rows.sort_unstable();
    rows
}

#[test]
fn a_store_or_a_folder_that_is_away_for_a_while_loses_nothing() {
    let broker = shared();
    broker.create_topic("away", 1, &[]).unwrap();
    let bootstrap = broker.bootstrap();
    let job = Job::new(&format!(
        r#"
name: away
inputs:
  events: {{kafka: {{brokers: ["{bootstrap}"], topic: away}}, schema: {{n: bigint}}}}
outputs:
  lines: {{file: {{path: out/}}}}
state: {{epoch: 100ms}}
query: SELECT n INTO lines FROM events
"#
    ));
    let record = |n: i32| Record::new(0, format!(r#"{{"n":{n}}}"#));
    let out = job.folder.path().join("out");
    let mut running = job.start("run.log", &[]);
    broker.produce("away", [record(1)]).unwrap();
    wait_for("the first part", || parts(&out).len() == 1);

    // The store takes nothing: as on a full or read-only disk.
    let (log, away) = (job.folder.path().join("state/away/log"), job.folder.path().join("log-away"));
    fs::rename(&log, &away).unwrap();
    fs::write(&log, "").unwrap();
    broker.produce("away", [record(2)]).unwrap();
    wait_for("a clear word", || running.said().contains("no epoch is committed until the state store takes it"));
    assert_eq!(parts(&out).len(), 1, "nothing shows that is not committed");
    fs::remove_file(&log).unwrap();
    fs::rename(&away, &log).unwrap();
    wait_for("the second part", || parts(&out).len() == 2);
    assert!(running.said().contains("the state store takes epochs again"), "{}", running.said());

    // Nor does the folder.
    let away = job.folder.path().join("out-away");
    fs::rename(&out, &away).unwrap();
    fs::write(&out, "").unwrap();
    broker.produce("away", [record(3)]).unwrap();
    wait_for("a clear word", || running.said().contains("beginning again at the last epoch"));
    fs::remove_file(&out).unwrap();
    fs::rename(&away, &out).unwrap();
    wait_for("the third part", || parts(&out).len() == 3);
    assert_eq!(parts(&out), [r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#]);
    assert_eq!(running.stop(), Some(0), "{}", running.said());
}

#[test]
fn a_topic_that_was_made_again_between_two_runs_is_not_taken_for_the_old_one() {
    let broker = shared();
    for topic in ["again-in", "again-out"] {
        broker.create_topic(topic, 1, &[]).unwrap();
    }
    let record = |n: i32| Record::new(0, format!(r#"{{"n":{n}}}"#));
    broker.produce("again-in", (1..=2).map(record)).unwrap();
    let job = Job::new(&copying(broker, "again-in", "again-out"));
    let mut first = job.start("first.log", &[]);
    wait_for("the rows", || numbers(broker, "again-out").len() == 2);
    assert_eq!(first.stop(), Some(0), "{}", first.said());

    broker.delete_topic("again-in").unwrap();
    wait_for("the topic's end", || broker.create_topic("again-in", 1, &[]).is_ok());
    broker.produce("again-in", (11..=15).map(record)).unwrap();
    let mut second = job.start("second.log", &[]);
    assert_eq!(second.code(), Some(1), "{}", second.said());
    assert!(second.said().contains("topic `again-in` was deleted and made again since epoch "), "{}", second.said());

    let mut anew = job.start("anew.log", &["--from-start"]);
    wait_for("the new topic's rows", || numbers(broker, "again-out").len() == 7);
    assert_eq!(anew.stop(), Some(0), "{}", anew.said());
}

#[test]
fn verify_tells_what_is_missing_and_what_is_more() {
    let broker = shared();
    for topic in ["verified-in", "verified-out"] {
        broker.create_topic(topic, 1, &[]).unwrap();
    }
    let bootstrap = broker.bootstrap();
    let job = Job::new(&format!(
        r#"
name: verified
inputs:
  events: {{kafka: {{brokers: ["{bootstrap}"], topic: verified-in}}, idle_margin: 500ms, schema: {{n: bigint}}}}
outputs:
  copy: {{kafka: {{brokers: ["{bootstrap}"], topic: verified-out}}}}
  counts: {{file: {{path: counts/}}}}
state: {{epoch: 100ms}}
clock_uncertainty: 0s
query: |
  SELECT n INTO copy FROM events
  SELECT COUNT(*) AS c, System.Timestamp() AS t INTO counts FROM events GROUP BY TumblingWindow(second, 1)
"#
    ));
    let verify = || {
        let output = Command::new(env!("CARGO_BIN_EXE_tidemill")).arg("verify").arg(&job.spec).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code(), text)
    };
    let (code, text) = verify();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("job `verified` has committed nothing that could be compared"), "{text}");

    broker.produce("verified-in", (1..=5).map(|n| Record::new(0, format!(r#"{{"n":{n}}}"#)))).unwrap();
    let counts = job.folder.path().join("counts");
    let mut running = job.start("run.log", &[]);
    let counted = || -> usize {
        let count = |row: String| row["{\"c\":".len()..].split(',').next().unwrap().parse::<usize>().unwrap();
        parts(&counts).into_iter().map(count).sum()
    };
    wait_for("all rows", || numbers(broker, "verified-out").len() == 5 && counted() == 5);
    assert_eq!(running.stop(), Some(0), "{}", running.said());
    let (code, text) = verify();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("output `copy`: 5 rows, equal\noutput `counts`: "), "{text}");
    assert_eq!(text.matches(" rows, equal\n").count(), 2, "{text}");

    broker.produce("verified-out", [Record::new(0, r#"{"n":99}"#)]).unwrap();
    for part in fs::read_dir(&counts).unwrap() {
        fs::write(part.unwrap().path(), "").unwrap();
    }
    let (code, text) = verify();
    assert_eq!(code, Some(1), "{text}");
    let topic = "output `copy`: of 5 rows 0 are missing, 1 are there that should not be\n  more    {\"n\":99}\n";
    assert!(text.contains(topic) && text.contains("  missing {\"c\":"), "{text}");
}
