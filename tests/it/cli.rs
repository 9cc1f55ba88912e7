//! The binary from outside: what it prints where, and its exit codes.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rdkafka::Message;
use tidemill_connectors::kafka::embedded::EmbeddedBroker;
use xtask::kafka::Record;

fn tidemill(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("RUST_BACKTRACE", "1")
        .env_remove("TIDEMILL_LOG");
    command
}

/// Exit code, stdout, stderr. No command may print a backtrace or panic.
fn outcome(output: Output) -> (i32, String, String) {
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(!stderr.contains("backtrace") && !stderr.contains("panicked"), "{stderr}");
    (output.status.code().unwrap(), stdout, stderr)
}

fn run(arguments: &[&str]) -> (i32, String, String) {
    outcome(tidemill(arguments).output().unwrap())
}

/// A spec in a directory of its own.
fn spec(text: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job.yaml");
    fs::write(&path, text).unwrap();
    (directory, path.to_str().unwrap().to_owned())
}

#[test]
fn validate_lists_all_five_mistakes() {
    let (_directory, path) = spec(
        "name: click rates\n\
         inputs:\n  clicks:\n    kafka: {brokers: [localhost], topik: clicks}\n    format: jsn\n\
         outputs:\n  screen: {stdout: {}}\n\
         query: SELECT page INTO scren FROM clicks\n",
    );
    let (code, stdout, stderr) = run(&["validate", &path]);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    let places =
        ["1:7 name", "4:23 inputs.clicks.kafka.brokers[0]", "4:35 inputs.clicks.kafka", "5:13 inputs.clicks", "8:"];
    let lines: Vec<_> = stderr.lines().filter(|line| line.starts_with(&path)).collect();
    assert_eq!(lines.len(), 5, "{stderr}");
    for (line, place) in lines.iter().zip(places) {
        assert!(line.starts_with(&format!("{path}:{place}")), "{place}: {stderr}");
    }
    assert!(stderr.contains("did you mean `topic`?"), "{stderr}");
    assert!(stderr.ends_with("\nerror: 5 mistakes\n"), "{stderr}");

    let (code, stdout, stderr) = run(&["validate", &path, "--format", "json"]);
    assert_eq!((code, stderr.as_str()), (2, ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"].as_array().unwrap().len(), 5);
    assert_eq!(report["problems"][0]["line"], 1);
}

#[test]
fn a_query_that_does_not_fit_its_columns_is_shown_in_the_spec() {
    let (_directory, path) = spec(
        "name: a\n\
         inputs:\n  clicks: {kafka: {brokers: [localhost:9092], topic: clicks}, schema: {page: string}}\n\
         outputs:\n  screen: {stdout: {}}\n\
         query: |\n  SELECT page,\n    SUM(amuont) AS s\n  FROM clicks GROUP BY page, TumblingWindow(second, 1)\n",
    );
    for command in ["validate", "run"] {
        let (code, stdout, stderr) = run(&[command, &path]);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.starts_with(&format!("{path}:8:9: ")), "{stderr}");
        assert!(stderr.contains("amuont") && stderr.contains("8 |     SUM(amuont) AS s\n    |         ^"), "{stderr}");
    }
}

#[test]
fn a_spec_that_is_not_there_is_named() {
    for command in ["validate", "run"] {
        let (code, stdout, stderr) = run(&[command, "no/such/job.yaml"]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert_eq!(stderr, "no/such/job.yaml: cannot read: No such file or directory (os error 2)\nerror: 1 mistake\n");
    }
}

#[test]
fn the_command_line_explains_itself() {
    let (code, stdout, _) = run(&["--help"]);
    assert_eq!(code, 0);
    for command in ["run", "validate", "doctor", "schema", "completions", "demo"] {
        assert!(stdout.contains(&format!("\n  {command} ")), "{command}: {stdout}");
    }
    assert!(stdout.contains("Exit codes: 0 done"), "{stdout}");
    assert_eq!(run(&["run"]).0, 2);
    assert_eq!(run(&["run", "job.yaml", "--wait", "soon"]).0, 2);
    let (code, stdout, _) = run(&["completions", "bash"]);
    assert!(code == 0 && stdout.contains("--bounded"));
}

#[test]
fn the_schema_is_the_committed_one() {
    let committed = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/spec.schema.json")).unwrap();
    assert_eq!(run(&["schema"]), (0, committed, String::new()));
}

#[test]
fn every_example_is_valid() {
    let clouds =
        ["aiven.yaml", "confluent-cloud.yaml", "event-hubs.yaml", "key-vault.yaml", "msk.yaml", "redpanda.yaml"];
    for example in ["demo.yaml", "clicks-per-minute.yaml", "files.yaml", "hourly-archive.yaml"].iter().chain(&clouds) {
        let (code, stdout, stderr) = run(&["validate", &format!("examples/{example}")]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{example}");
        assert!(stdout.starts_with("ok: "), "{stdout}");
        let (code, stdout, _) = run(&["validate", &format!("examples/{example}"), "--format", "json"]);
        let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((code, &report["ok"], &report["columns_checked"]), (0, &true.into(), &true.into()));
    }
}

/// `examples/files.yaml` in a directory of its own, for what it writes.
fn files_example() -> (tempfile::TempDir, String) {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let (directory, path) = spec(&fs::read_to_string(examples.join("files.yaml")).unwrap());
    fs::create_dir(directory.path().join("data")).unwrap();
    fs::copy(examples.join("data/orders.jsonl"), directory.path().join("data/orders.jsonl")).unwrap();
    (directory, path)
}

#[test]
fn the_files_example_gives_its_rows() {
    let (directory, path) = files_example();
    for workers in ["1", "2"] {
        let (code, stdout, stderr) = run(&["run", &path, "--bounded", "--workers", workers]);
        assert_eq!(code, 0, "{stderr}");
        assert_eq!(
            stdout,
            r#"{"window_end":"2024-05-01T09:10:00.0000000Z","customer":"ada","orders":3,"amount":33.0}
{"window_end":"2024-05-01T09:10:00.0000000Z","customer":"grace","orders":1,"amount":80.0}
{"window_end":"2024-05-01T09:20:00.0000000Z","customer":"grace","orders":2,"amount":101.25}
{"window_end":"2024-05-01T09:40:00.0000000Z","customer":"ada","orders":1,"amount":22.0}
"#
        );
        assert!(
            stderr.contains("done: 9 records, 599 B in ") && stderr.contains("rows out: screen 4, large 2"),
            "{stderr}"
        );
    }
    let files = fs::read_dir(directory.path().join("out/large-orders")).unwrap();
    let texts: Vec<_> = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let large =
        "at,customer,amount\n2024-05-01T09:03:40.0000000Z,grace,80.0\n2024-05-01T09:17:30.0000000Z,grace,60.25\n";
    assert_eq!(texts, [large, large], "one file of each run");
}

#[test]
fn log_lines_are_json_when_asked_for() {
    let (_directory, path) = files_example();
    let (code, _, stderr) = run(&["run", &path, "--bounded", "--log-format", "json"]);
    assert_eq!(code, 0);
    let last: serde_json::Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    assert_eq!((&last["records"], &last["rows_out"], &last["level"]), (&9.into(), &6.into(), &"INFO".into()));
}

#[test]
fn a_reader_that_leaves_ends_the_job_without_noise() {
    let (_directory, path) = files_example();
    let mut child =
        tidemill(&["run", &path, "--bounded"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let (code, _, stderr) = outcome(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{stderr}");
    assert!(!stderr.contains("error"), "{stderr}");
}

#[test]
fn the_kafka_example_counts_on_a_real_kafka() {
    let kafka = xtask::kafka::shared();
    kafka.create_topic("clicks", 4, &[]).unwrap();
    kafka.create_topic("clicks-per-minute", 4, &[]).unwrap();
    let click = |n: i32| {
        let page = if n % 10 == 0 { "/health" } else { "/home" };
        Record::new(n % 4, format!(r#"{{"user":"u{}","page":"{page}","amount":0.5}}"#, n % 3))
    };
    kafka.produce("clicks", (0..600).map(click)).unwrap();
    let example = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/clicks-per-minute.yaml"));
    let (_directory, path) = spec(&example.unwrap().replace("localhost:9092", kafka.bootstrap()));
    let (code, stdout, stderr) = run(&["run", &path, "--bounded"]);
    assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
    // A minute may have ended while the records were produced: then a user has two rows.
    let mut clicks = BTreeMap::<String, (i64, f64)>::new();
    for record in kafka.read("clicks-per-minute").unwrap() {
        let row: serde_json::Value = serde_json::from_slice(record.payload().unwrap()).unwrap();
        assert_eq!(row["user"].as_str().unwrap().as_bytes(), record.key().unwrap());
        let sums = clicks.entry(row["user"].as_str().unwrap().to_owned()).or_default();
        sums.0 += row["clicks"].as_i64().unwrap();
        sums.1 += row["amount"].as_f64().unwrap();
    }
    assert_eq!(clicks, ["u0", "u1", "u2"].map(|user| (user.to_owned(), (180, 90.0))).into());
}

fn kafka_spec(broker: &str) -> String {
    format!(
        "name: counts\n\
         inputs:\n  clicks:\n    kafka: {{brokers: ['{broker}'], topic: clicks}}\n    timestamp: create_time\n    \
         schema: {{page: string}}\n\
         outputs:\n  screen: {{stdout: {{}}}}\n\
         query: SELECT page FROM clicks\n"
    )
}

#[test]
fn a_broker_that_refuses_ends_the_run_within_the_wait() {
    let nobody = "127.0.0.1:1"; // a port that is given to none of the tests beside this one
    let (_directory, path) = spec(&kafka_spec(nobody));
    let begun = Instant::now();
    let (code, stdout, stderr) = run(&["run", &path, "--wait", "2s"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let expected =
        format!("error: input `clicks`: no Kafka broker answered within 2s: `{nobody}`: connection refused\n");
    assert_eq!(stderr, expected);
}

#[test]
fn a_second_signal_leaves_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // takes connections and never answers
    let (_directory, path) = spec(&kafka_spec(&silent.local_addr().unwrap().to_string()));
    let mut command = tidemill(&["run", &path, "--wait", "5m", "--metrics", "127.0.0.1:0"]);
    let mut job = Running(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(job.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.next().unwrap().contains("metrics at"), "now signals are waited for");
    terminate(&job);
    assert!(log.next().unwrap().contains("stopping"));
    terminate(&job);
    assert_eq!(job.0.wait().unwrap().code(), Some(130));
}

#[test]
fn a_port_in_use_is_an_error_at_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (_directory, path) = files_example();
    let (code, stdout, stderr) = run(&["run", &path, "--metrics", &address]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert_eq!(stderr, format!("error: cannot serve metrics at `{address}`: Address already in use (os error 98)\n"));
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A job that is killed when its test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn terminate(job: &Running) {
    assert!(Command::new("kill").arg(job.0.id().to_string()).status().unwrap().success());
}

#[test]
fn a_running_job_is_scraped_and_ends_at_a_signal() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("clicks", 2).unwrap();
    let producer = broker.producer("clicks").unwrap();
    for n in 0..100 {
        let payload = if n % 10 == 0 { "{" } else { r#"{"page":"/"}"# };
        producer.send(&n.to_string(), payload.as_bytes(), 1_700_000_000_000 + n).unwrap();
    }
    producer.flush().unwrap();
    let (directory, path) = spec(&kafka_spec(&broker.bootstrap()));
    let mut command = tidemill(&["run", &path, "--metrics", "127.0.0.1:0"]);
    let mut job = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut log = BufReader::new(job.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = log.next().unwrap();
    let address = first.split("http://").nth(1).unwrap().strip_suffix("/metrics").unwrap().to_owned();
    assert!(get(&address, "/healthz").starts_with("HTTP/1.1 200 OK"));

    let rows = BufReader::new(job.0.stdout.take().unwrap()).lines();
    assert_eq!(rows.take(90).filter(|row| row.as_ref().unwrap() == r#"{"page":"/"}"#).count(), 90);
    let metrics = get(&address, "/metrics");
    for sample in [
        r#"tidemill_records_total{input="clicks"} 100"#,
        r#"tidemill_bad_records_total{input="clicks",class="malformed"} 10"#,
        r#"tidemill_rows_out_total{output="screen"} 90"#,
        r#"tidemill_partition_lag{input="clicks",topic="clicks",partition="0"} "#,
        r#"tidemill_partition_lag{input="clicks",topic="clicks",partition="1"} "#,
    ] {
        assert!(metrics.contains(&format!("\n{sample}")), "{sample}: {metrics}");
    }

    terminate(&job);
    let log: Vec<_> = log.collect();
    assert!(log.iter().any(|line| line.contains("stopping")), "{log:?}");
    assert!(log.last().unwrap().contains("stopped: 100 records"), "{log:?}");
    assert_eq!(job.0.wait().unwrap().code(), Some(0));
    let letters = fs::read_dir(directory.path().join("dead-letters")).unwrap().next().unwrap().unwrap();
    assert_eq!(fs::read_to_string(letters.path()).unwrap().lines().count(), 10);
}

#[test]
fn the_demo_prints_windows_as_json_lines() {
    let (code, stdout, stderr) = run(&["demo", "--seconds", "8"]);
    assert_eq!(code, 0, "{stderr}");
    let rows: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!rows.is_empty(), "{stderr}");
    for row in rows {
        assert!(row["page"].as_str().unwrap().starts_with('/') && row["clicks"].as_u64().unwrap() > 0, "{row}");
    }
    assert!(stderr.contains("stopped: "), "{stderr}");
}
