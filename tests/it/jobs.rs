//! Jobs against a real Apache Kafka: nothing lost, results equal to an independent computation, last windows that close.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rdkafka::Message;
use serde_json::Value;
use xtask::kafka::{Broker, BrokerOptions, Record, shared};

fn tidemill(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(args).stdin(Stdio::null()).env("RUST_LOG", "warn");
    command
}

fn run_bounded(job: &Path, workers: usize) {
    let output = tidemill(&["run", "--bounded", "--workers", &workers.to_string()]).arg(job).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The bits of a float member as it was written: serde_json's own floats may be off in the last place.
fn float_bits(line: &str, name: &str) -> u64 {
    let (_, rest) = line.split_once(&format!("\"{name}\":")).unwrap();
    rest.split([',', '}']).next().unwrap().parse::<f64>().unwrap().to_bits()
}

/// All rows of the JSON-lines files of a folder, as text.
fn rows(folder: &Path) -> Vec<String> {
    let mut rows = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.extension().is_some_and(|e| e == "jsonl" || e == "json"), "only whole files: {}", path.display());
        rows.extend(fs::read_to_string(path).unwrap().lines().map(str::to_owned));
    }
    rows
}

const EVENTS: usize = 1_000_000;

/// The value of event `i`: text, and what a job should make of it: (device, temp), or none for the one in a hundred that
/// is corrupt in one of four ways.
fn event(i: usize) -> (Vec<u8>, Option<(String, f64)>) {
    let device = format!("device-{}", i * 7_919 % 1_000);
    // All 53 bits of the mantissa are used, so a naive sum would depend on its order.
    let temp = (i as f64 * 0.618_033_988_749_894_9).fract() * 100.0 + 0.001;
    let text = format!(
        r#"{{"id":{i},"device":"{device}","region":"r{}","tags":["a","b"],"geo":{{"lat":1.5,"lon":2}},"temp":{temp},"ok":true}}"#,
        i % 10
    );
    let corrupt = match i % 400 {
        17 => text.as_bytes()[..text.len() / 2].to_vec(),
        117 => text.replace("device-", "device\u{1}").into_bytes(),
        217 => [text.as_bytes(), b"}"].concat(),
        317 => text.replace(&format!("\"temp\":{temp}"), "\"temp\":{}").into_bytes(),
        _ => return (text.into_bytes(), Some((device, temp))),
    };
    (corrupt, None)
}

/// An exact sum of values between 2^-10 and 2^40, by integers: each is a whole number of 2^-64.
#[derive(Default)]
struct Exact(i128);

impl Exact {
    fn add(&mut self, x: f64) {
        let bits = x.to_bits();
        let exponent = ((bits >> 52) & 0x7ff) as i32 - 1_075;
        assert!(x > 0.0 && exponent >= -64);
        self.0 += i128::from((bits & ((1 << 52) - 1)) | (1 << 52)) << (exponent + 64);
    }

    fn get(&self) -> f64 {
        self.0 as f64 / 2f64.powi(64) // `as` rounds to nearest even; the division is by a power of two
    }
}

#[test]
fn a_million_events_with_corrupt_ones_give_the_same_rows_as_an_independent_computation() {
    let broker = shared();
    broker.create_topic("million", 4, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    broker.produce("million", (0..EVENTS).map(|i| Record::new((i * 31 % 4) as i32, event(i).0))).unwrap();

    // (window end in ms, device) -> count, sum, min, max; windows are (start, end].
    let mut expected: BTreeMap<(i64, String), (u64, Exact, f64, f64)> = BTreeMap::new();
    for message in broker.read("million").unwrap() {
        let text = message.payload().unwrap();
        let id = text.split(|b| *b == b':').nth(1).unwrap().split(|b| *b == b',').next().unwrap();
        let i: usize = std::str::from_utf8(id).unwrap().parse().unwrap();
        if let Some((device, temp)) = event(i).1 {
            let stamp = message.timestamp().to_millis().unwrap();
            let end = (stamp + 999) / 1_000 * 1_000;
            let group = expected.entry((end, device)).or_insert_with(|| (0, Exact::default(), f64::MAX, f64::MIN));
            group.0 += 1;
            group.1.add(temp);
            group.2 = group.2.min(temp);
            group.3 = group.3.max(temp);
        }
    }
    assert_eq!(expected.values().map(|g| g.0).sum::<u64>(), EVENTS as u64 / 100 * 99);

    let folder = tempfile::tempdir().unwrap();
    for workers in [1, 2] {
        let job = folder.path().join(format!("job-{workers}.yaml"));
        let spec = format!(
            r#"
name: million-{workers}
inputs:
  events:
    kafka: {{brokers: ["{}"], topic: million, start: earliest}}
    format: json
    schema: {{device: string, temp: double}}
outputs:
  rows: {{file: {{path: out-{workers}/}}, format: json}}
dead_letters: {{file: {{path: letters-{workers}/}}}}
query: |
  SELECT device, COUNT(*) AS c, SUM(temp) AS s, AVG(temp) AS a, MIN(temp) AS lo, MAX(temp) AS hi, System.Timestamp() AS t
  INTO rows FROM events GROUP BY device, TumblingWindow(second, 1)
"#,
            broker.bootstrap()
        );
        fs::write(&job, spec).unwrap();
        run_bounded(&job, workers);

        let got = rows(&folder.path().join(format!("out-{workers}")));
        assert_eq!(got.len(), expected.len());
        for line in got {
            let row: Value = serde_json::from_str(&line).unwrap();
            let text = |name: &str| row[name].as_str().unwrap();
            let end = chrono::DateTime::parse_from_rfc3339(text("t")).unwrap().timestamp_millis();
            let (count, sum, min, max) = &expected[&(end, text("device").to_owned())];
            let float = |name: &str| float_bits(&line, name);
            assert_eq!(row["c"].as_u64().unwrap(), *count, "{row}");
            assert_eq!(float("s"), sum.get().to_bits(), "{row}");
            assert_eq!(float("a"), (sum.get() / *count as f64).to_bits(), "{row}");
            assert_eq!((float("lo"), float("hi")), (min.to_bits(), max.to_bits()), "{row}");
        }
        let letters = rows(&folder.path().join(format!("letters-{workers}")));
        assert_eq!(letters.len(), EVENTS / 100, "each corrupt record is kept, once");
        let letters = letters.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut offsets: Vec<_> = letters.map(|l| (l["partition"].as_i64(), l["offset"].as_i64())).collect();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), EVENTS / 100);
    }
}

/// A job whose rows come by stdout, and when each came.
struct Live {
    child: Child,
    rows: mpsc::Receiver<(SystemTime, Value)>,
    _folder: tempfile::TempDir,
}

impl Live {
    fn start(broker: &Broker, topic: &str, start: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let job = folder.path().join("job.yaml");
        let spec = format!(
            r#"
name: live-{topic}
inputs:
  events:
    kafka: {{brokers: ["{}"], topic: {topic}, start: {start}}}
    format: json
    schema: {{k: string}}
outputs:
  screen: {{stdout: {{}}}}
query: |
  SELECT k, COUNT(*) AS c, System.Timestamp() AS t INTO screen FROM events GROUP BY k, TumblingWindow(second, 1)
"#,
            broker.bootstrap()
        );
        fs::write(&job, spec).unwrap();
        let mut child = tidemill(&["run"]).arg(&job).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (send, rows) = mpsc::sync_channel(1_000);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = send.send((SystemTime::now(), serde_json::from_str(&line).unwrap()));
            }
        });
        Self { child, rows, _folder: folder }
    }

    /// The next row, and how long after its window's end it came.
    fn next(&self, within: Duration) -> Option<(Value, Duration)> {
        let (at, row) = self.rows.recv_timeout(within).ok()?;
        let end = chrono::DateTime::parse_from_rfc3339(row["t"].as_str().unwrap()).unwrap();
        let end = UNIX_EPOCH + Duration::from_millis(end.timestamp_millis() as u64);
        Some((row, at.duration_since(end).unwrap_or_default()))
    }

    /// SIGTERM, and the exit code.
    fn stop(mut self) -> Option<i32> {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const IDLE_MARGIN: Duration = Duration::from_secs(2);
const CLOCK_UNCERTAINTY: Duration = Duration::from_secs(5);
/// What the issue allows on top.
const SLACK: Duration = Duration::from_secs(1);

#[test]
fn the_last_window_closes_without_further_input_three_of_four_partitions_being_empty() {
    let broker = shared();
    broker.create_topic("last-window", 4, &[]).unwrap();

    // Nothing live was seen: the records lie there before the job starts.
    broker.produce("last-window", (0..5).map(|_| Record::new(2, r#"{"k":"backlog"}"#))).unwrap();
    let job = Live::start(broker, "last-window", "earliest");
    let started = Instant::now();
    let mut counted = 0;
    while counted < 5 {
        let (row, after) = job.next(Duration::from_secs(20)).expect("the last window closes");
        counted += row["c"].as_u64().unwrap();
        let start_up = started.elapsed().min(Duration::from_secs(3)); // a window that ended before the job began
        assert!(after <= IDLE_MARGIN + CLOCK_UNCERTAINTY + SLACK + start_up, "{row} came {after:?} after its end");
    }

    // A live record: now the broker's clock is known.
    broker.produce("last-window", [Record::new(2, r#"{"k":"live"}"#)]).unwrap();
    let (row, after) = job.next(Duration::from_secs(20)).expect("the last window closes");
    assert_eq!((row["k"].as_str(), row["c"].as_u64()), (Some("live"), Some(1)));
    assert!(after <= IDLE_MARGIN + SLACK, "{row} came {after:?} after its end");
    assert_eq!(job.stop(), Some(0));

    // It goes on where it left off: nothing is written twice.
    let again = Live::start(broker, "last-window", "earliest");
    broker.produce("last-window", [Record::new(0, r#"{"k":"resumed"}"#)]).unwrap();
    let (row, _) = again.next(Duration::from_secs(20)).expect("the resumed job reads on");
    assert_eq!((row["k"].as_str(), row["c"].as_u64()), (Some("resumed"), Some(1)));
    assert_eq!(again.stop(), Some(0));
}

#[test]
fn no_window_closes_early_while_the_broker_is_frozen() {
    let broker = Broker::start(BrokerOptions::default()).unwrap();
    broker.create_topic("frozen", 2, &[]).unwrap();
    let job = Live::start(&broker, "frozen", "earliest");
    broker.produce("frozen", [Record::new(0, r#"{"k":"a"}"#)]).unwrap();
    job.next(Duration::from_secs(20)).expect("a first window closes");
    // Its record has been read or has not; either way nobody says that no other follows.
    broker.produce("frozen", [Record::new(0, r#"{"k":"b"}"#)]).unwrap();
    broker.pause().unwrap();
    assert_eq!(job.next(IDLE_MARGIN + CLOCK_UNCERTAINTY + SLACK), None);
    broker.resume().unwrap();
    let (row, _) = job.next(Duration::from_secs(20)).expect("the window closes in the end");
    assert_eq!((row["k"].as_str(), row["c"].as_u64()), (Some("b"), Some(1)));
    assert_eq!(job.stop(), Some(0));
}

#[test]
fn a_killed_job_goes_on_and_its_open_windows_are_whole() {
    let broker = shared();
    broker.create_topic("killed", 2, &[]).unwrap();
    let mut job = Live::start(broker, "killed", "earliest");
    broker.produce("killed", [Record::new(0, r#"{"k":"before"}"#)]).unwrap();
    job.next(Duration::from_secs(20)).expect("a first window closes");
    let deadline = Instant::now() + Duration::from_secs(20);
    while broker.committed("live-killed", "killed").unwrap()[0] != Some(1) {
        assert!(Instant::now() < deadline, "the window's record is committed");
        std::thread::sleep(Duration::from_millis(50));
    }
    // Read by the first run (its positions pass them), but not in a closed window when it dies.
    broker.produce("killed", (0..100).map(|i| Record::new(i % 2, r#"{"k":"open"}"#))).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    job.child.kill().unwrap();
    let mut rows: Vec<Value> = job.rows.iter().map(|(_, row)| row).collect();
    let again = Live::start(broker, "killed", "earliest");
    let count = |rows: &[Value]| -> u64 {
        // A window may have been written by both runs (at least once): then with the same count.
        let whole: BTreeMap<_, _> =
            rows.iter().filter(|r| r["k"] == "open").map(|r| (r["t"].to_string(), r["c"].as_u64())).collect();
        whole.values().map(|c| c.unwrap()).sum()
    };
    while count(&rows) < 100 {
        let (row, _) = again.next(Duration::from_secs(20)).expect("the windows of the killed run close");
        rows.push(row);
    }
    assert_eq!(count(&rows), 100, "{rows:?}");
    assert!(rows.iter().all(|r| r["k"] != "before"), "committed before: {rows:?}");
    assert_eq!(again.stop(), Some(0));
}

#[test]
fn a_start_inside_the_log_gives_whole_windows_only_and_metadata_can_be_named() {
    let broker = shared();
    broker.create_topic("inside", 2, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    // Batches of records over some seconds, so that windows hold several stamps.
    for round in 0..12 {
        broker
            .produce(
                "inside",
                (0..50).map(|i| Record::new(i % 2, format!(r#"{{"n":{round}}}"#)).with_key(format!("key-{i}"))),
            )
            .unwrap();
        std::thread::sleep(Duration::from_millis(250));
    }
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, start: &str| -> BTreeMap<String, Value> {
        let job = folder.path().join(format!("{name}.yaml"));
        let spec = format!(
            r#"
name: inside
inputs:
  events:
    kafka: {{brokers: ["{}"], topic: inside, start: {start}}}
    format: json
outputs:
  rows: {{file: {{path: {name}/}}, format: json}}
query: |
  SELECT COUNT(*) AS c, COUNT(DISTINCT GetMetadataPropertyValue(events, '[Kafka].[Key]')) AS keys,
    MIN(GetMetadataPropertyValue(events, '[Kafka].[Offset]')) AS lowest, System.Timestamp() AS t
  INTO rows FROM events GROUP BY HoppingWindow(millisecond, 1000, 500)
"#,
            broker.bootstrap()
        );
        fs::write(&job, spec).unwrap();
        run_bounded(&job, 2);
        let rows =
            rows(&folder.path().join(name)).into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        rows.map(|row| (row["t"].as_str().unwrap().to_owned(), row)).collect()
    };
    let whole = run("whole", "earliest");
    assert_eq!(
        whole.values().map(|row| row["c"].as_u64().unwrap()).sum::<u64>(),
        2 * 12 * 50,
        "two windows hold each record"
    );
    // The stamps of one round may lie on both sides of a window's end.
    let keys = |row: &Value| row["keys"].as_u64().unwrap();
    assert!(whole.values().all(|row| keys(row) <= 50.min(row["c"].as_u64().unwrap())), "{whole:?}");
    assert!(whole.values().any(|row| keys(row) == 50) && whole.values().all(|row| row["lowest"].is_i64()), "{whole:?}");
    let middle = whole.keys().nth(whole.len() / 2).unwrap();
    let inside = run("inside", &format!("{{time: {middle}}}"));
    let expected: BTreeMap<_, _> =
        whole.iter().filter(|(end, _)| *end >= middle).map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(inside, expected);
}
