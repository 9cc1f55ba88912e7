//! Dead letters in a topic and in files, on a real Kafka: exactly once however the job dies, shown, and replayed once they can be read.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rdkafka::{Message, message::Headers};
use serde_json::Value;
use tidemill_connectors::dead_letters::KeptLetter;
use xtask::kafka::{Broker, Listener, PASSWORD, Record, shared};

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn tidemill(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill")).args(arguments).current_dir(folder).output().unwrap()
}

/// A job that runs, or was killed.
struct Job {
    folder: tempfile::TempDir,
    in_topic: bool,
    child: Option<Child>,
}

impl Job {
    fn new(spec: &str, in_topic: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("job.yaml"), spec).unwrap();
        Self { folder, in_topic, child: None }
    }

    fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["run", "job.yaml", "--workers", "2"]).current_dir(self.folder.path());
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "{}", self.said());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The lines that a reader of a folder's files sees.
    fn lines_in(&self, folder: &str) -> Vec<String> {
        let mut files = visible(&self.path(folder));
        files.sort();
        let texts = files.into_iter().map(|path| fs::read_to_string(path).unwrap());
        texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    /// The letters that a reader of its files sees.
    fn letters_in_files(&self) -> Vec<KeptLetter> {
        let mut letters = vec![];
        for path in visible(&self.path("letters")) {
            KeptLetter::each_of_file(&path, &mut |letter| letters.push(letter)).unwrap();
        }
        letters
    }

    /// What `tidemill dead-letters` counts, by class.
    fn counted(&self) -> BTreeMap<String, u64> {
        let shown = tidemill(self.folder.path(), &["dead-letters", "job.yaml", "--format", "json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&shown.stderr)));
        let classes = shown["classes"].as_array().unwrap().iter();
        classes.map(|class| (class["class"].as_str().unwrap().to_owned(), class["count"].as_u64().unwrap())).collect()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn visible(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.')).collect()
}

#[track_caller]
fn wait_for(what: &str, job: &Job, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}: {}", job.said());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Record `i` of the input: in one of ten `n` is no number.
fn value(i: usize) -> String {
    if i % 10 == 3 { format!(r#"{{"id":{i},"n":"x{i}"}}"#) } else { format!(r#"{{"id":{i},"n":{i}}}"#) }
}

fn record(i: usize) -> Record {
    let headers = vec![("trace".to_owned(), format!("t{i}").into_bytes())];
    Record { headers, ..Record::new((i % 3) as i32, value(i)).with_key(format!("k{i}")) }
}

fn spec(broker: &Broker, name: &str, output: &str, letters: &str, n: &str) -> String {
    let bootstrap = broker.bootstrap();
    format!(
        r#"
name: {name}
inputs:
  events: {{kafka: {{brokers: ["{bootstrap}"], topic: letters-in}}, schema: {{id: bigint, n: {n}}}}}
outputs:
  copy: {output}
dead_letters: {letters}
state: {{epoch: 100ms}}
query: SELECT id INTO copy FROM events WHERE n IS NOT NULL
"#
    )
}

/// The ids in a topic or in files of JSON lines.
fn ids(texts: impl Iterator<Item = String>) -> Vec<u64> {
    let ids = texts.map(|text| serde_json::from_str::<Value>(&text).unwrap()["id"].as_u64().unwrap());
    let mut ids: Vec<u64> = ids.collect();
    ids.sort_unstable();
    ids
}

#[test]
fn letters_are_there_once_however_the_job_dies_and_replayed_they_become_rows() {
    const ROUNDS: usize = 6;
    const RECORDS: usize = 400;
    let broker = shared();
    let bootstrap = broker.bootstrap();
    broker.create_topic("letters-in", 3, &[]).unwrap();
    for topic in ["letters-out", "letters-dead"] {
        broker.create_topic(topic, 2, &[]).unwrap();
    }
    let topic = |topic: &str| format!(r#"{{kafka: {{brokers: ["{bootstrap}"], topic: {topic}}}}}"#);
    let files = r#"{file: {path: out/}}"#;
    let parquet = r#"{file: {path: letters/}, format: parquet}"#;
    let specs = [
        ("letters-topic", topic("letters-out"), topic("letters-dead")),
        ("letters-parquet", files.to_owned(), parquet.to_owned()),
        ("letters-lines", "{discard: {}}".to_owned(), r#"{file: {path: letters/}}"#.to_owned()),
    ];
    let job = |(name, output, letters): &(&str, String, String)| {
        Job::new(&spec(broker, name, output, letters, "bigint"), letters.contains("kafka"))
    };
    let mut jobs: Vec<Job> = specs.iter().map(job).collect();
    let kept = |job: &Job| match job.in_topic {
        true => broker.read("letters-dead").unwrap().len(),
        false => job.letters_in_files().len(),
    };
    for round in 0..ROUNDS {
        jobs.iter_mut().for_each(Job::start);
        let first = round * RECORDS;
        let records = |from: usize, to: usize| (from..to).map(record);
        broker.produce("letters-in", records(first, first + RECORDS / 2)).unwrap();
        // Each dies behind an epoch with letters, with others on their way.
        for job in &jobs {
            wait_for("letters of this round", job, || kept(job) > first / 10);
        }
        broker.produce("letters-in", records(first + RECORDS / 2, first + RECORDS)).unwrap();
        for (index, job) in jobs.iter_mut().enumerate() {
            std::thread::sleep(Duration::from_millis((round * 53 + index * 31) as u64 % 120));
            job.kill();
        }
    }
    let records = ROUNDS * RECORDS;
    let copied = |job: &Job| match job.in_topic {
        true => broker.read("letters-out").unwrap().len(),
        false => job.lines_in("out").len(),
    };
    for job in &mut jobs {
        job.start();
        wait_for("all letters", job, || kept(job) >= records / 10);
        if job.path("out").exists() || job.in_topic {
            wait_for("all rows", job, || copied(job) >= records / 10 * 9);
        }
        wait_for("it to run", job, || job.said().matches("read by our own fetch").count() > ROUNDS);
        job.stop();
        assert_eq!(job.counted(), BTreeMap::from([("type".to_owned(), (records / 10) as u64)]), "{}", job.said());
    }
    let bad: Vec<String> = (0..records).filter(|i| i % 10 == 3).map(value).collect();
    for job in &jobs[1..] {
        let letters = job.letters_in_files();
        let mut values: Vec<_> =
            letters.iter().map(|l| String::from_utf8(l.record.value.clone().unwrap()).unwrap()).collect();
        values.sort_by_key(|value| value.len());
        let mut bad = bad.clone();
        values.sort();
        bad.sort();
        assert_eq!(values, bad, "each once");
    }
    let messages = broker.read("letters-dead").unwrap();
    let mut values: Vec<_> =
        messages.iter().map(|m| String::from_utf8(m.payload().unwrap().to_vec()).unwrap()).collect();
    values.sort();
    let mut sorted = bad.clone();
    sorted.sort();
    assert_eq!(values, sorted, "each once");
    // A letter is the record as it came, with what is known of it.
    let letter = messages.iter().find(|message| message.payload() == Some(br#"{"id":13,"n":"x13"}"#)).unwrap();
    let header = |name: &str| {
        let headers = letter.headers().unwrap();
        let found = headers.iter().find(|header| header.key == name).unwrap();
        String::from_utf8(found.value.unwrap().to_vec()).unwrap()
    };
    assert_eq!(letter.key(), Some(b"k13".as_slice()));
    let known =
        ["job", "input", "topic", "partition", "format", "class"].map(|name| header(&format!("tidemill.{name}")));
    assert_eq!(known, ["letters-topic", "events", "letters-in", "1", "json", "type"]);
    assert_eq!(header("trace"), "t13", "also of a query that reads no headers");

    // Read as text they are no letters: the result is that of a run in which they never were.
    let all: Vec<u64> = (0..records as u64).collect();
    for (job, (name, output, letters)) in jobs.iter().zip(&specs).take(2) {
        fs::write(job.path("job.yaml"), spec(broker, name, output, letters, "string")).unwrap();
        let replayed = tidemill(job.folder.path(), &["replay", "job.yaml", "--class", "type"]);
        assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
        let again = tidemill(job.folder.path(), &["replay", "job.yaml"]);
        assert_eq!(String::from_utf8(again.stdout).unwrap(), format!("{name}: nothing to replay\n"));
    }
    let rows = broker.read("letters-out").unwrap();
    assert_eq!(ids(rows.iter().map(|m| String::from_utf8(m.payload().unwrap().to_vec()).unwrap())), all);
    assert_eq!(ids(jobs[1].lines_in("out").into_iter()), all);
}

#[test]
fn windows_with_replayed_records_are_written_once_more() {
    let broker = shared();
    broker.create_topic("letters-windows", 2, &[]).unwrap();
    let bootstrap = broker.bootstrap();
    let spec = |name: &str, n: &str| {
        format!(
            r#"
name: {name}
inputs:
  events: {{kafka: {{brokers: ["{bootstrap}"], topic: letters-windows}}, idle_margin: 500ms, schema: {{id: bigint, n: {n}}}}}
outputs:
  copy: {{file: {{path: {name}-copy/}}}}
  counts: {{file: {{path: {name}-counts/}}}}
state: {{epoch: 100ms}}
clock_uncertainty: 0s
query: |
  SELECT id INTO copy FROM events WHERE n IS NOT NULL
  SELECT id % 2 AS k, COUNT(*) AS c, MAX(id) AS hi, System.Timestamp() AS t
  INTO counts FROM events WHERE n IS NOT NULL GROUP BY id % 2, TumblingWindow(millisecond, 500)
"#
        )
    };
    let mut job = Job::new(&spec("windows", "bigint"), false);
    job.start();
    // Only the second of three bursts has bad records.
    for burst in 0..3 {
        let is_bad = |i: usize| burst == 1 && i % 10 == 3;
        let value =
            |i: usize| if is_bad(i) { format!(r#"{{"id":{i},"n":"x"}}"#) } else { format!(r#"{{"id":{i},"n":1}}"#) };
        let ids = burst * 40..burst * 40 + 40;
        broker.produce("letters-windows", ids.map(|i| Record::new((i % 2) as i32, value(i)))).unwrap();
        std::thread::sleep(Duration::from_millis(600)); // so that windows lie apart
    }
    // Of each row its key, and what it says.
    let rows = |lines: Vec<String>| -> Vec<((u64, String), (u64, u64))> {
        let rows = lines.into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
        let number = |row: &Value, name: &str| row[name].as_u64().unwrap();
        let key = |row: &Value| (number(row, "k"), row["t"].as_str().unwrap().to_owned());
        rows.map(|row| (key(&row), (number(&row, "c"), number(&row, "hi")))).collect()
    };
    let counted = |job: &Job| rows(job.lines_in("windows-counts"));
    wait_for("all windows", &job, || counted(&job).iter().map(|(_, (c, _))| c).sum::<u64>() == 116);
    wait_for("all rows", &job, || job.lines_in("windows-copy").len() == 116);
    job.stop();
    let before = counted(&job);

    fs::write(job.path("job.yaml"), spec("windows", "string")).unwrap();
    let replayed = tidemill(job.folder.path(), &["replay", "job.yaml"]);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    fs::write(job.path("never.yaml"), spec("never", "string")).unwrap();
    let never = tidemill(job.folder.path(), &["run", "--bounded", "never.yaml"]);
    assert!(never.status.success(), "{}", String::from_utf8_lossy(&never.stderr));
    assert_eq!(ids(job.lines_in("windows-copy").into_iter()), ids(job.lines_in("never-copy").into_iter()));
    // The last row of a window holds.
    let after = counted(&job);
    let last: BTreeMap<_, _> = after.iter().cloned().collect();
    assert_eq!(last, rows(job.lines_in("never-counts")).into_iter().collect::<BTreeMap<_, _>>());
    // Bad are odd ids alone; the windows of the others are not written again.
    let again = &after[before.len()..];
    assert!(!again.is_empty() && again.iter().all(|((_, t), _)| before.iter().any(|((_, known), _)| known == t)));
    let untouched = before.iter().filter(|((_, t), _)| again.iter().all(|((_, other), _)| other != t));
    assert_eq!(untouched.map(|(_, (c, _))| c).sum::<u64>(), 80, "{before:?} {again:?}");
    assert_eq!(
        job.counted(),
        BTreeMap::from([("type".to_owned(), 4)]),
        "those that were read again are no new letters"
    );

    // Where records of the windows are gone, less than what was written would be written in its place.
    fs::write(job.path("job.yaml"), spec("cut", "bigint")).unwrap();
    assert!(tidemill(job.folder.path(), &["run", "--bounded", "job.yaml"]).status.success());
    broker.delete_records("letters-windows", 1, 25).unwrap();
    fs::write(job.path("job.yaml"), spec("cut", "string")).unwrap();
    let rows = job.lines_in("cut-counts").len();
    let replayed = tidemill(job.folder.path(), &["replay", "job.yaml"]);
    let said = String::from_utf8(replayed.stderr).unwrap();
    assert_eq!(replayed.status.code(), Some(1), "{said}");
    assert!(
        said.contains("functions of other rows are not: topic `letters-windows` partition 1 begins at offset 25"),
        "{said}"
    );
    assert_eq!((job.lines_in("cut-copy").len(), job.lines_in("cut-counts").len()), (120, rows));
}

/// What `a` holds more often than `b`.
fn without(mut a: Vec<String>, mut b: Vec<String>) -> Vec<String> {
    b.sort();
    a.sort();
    a.retain(|row| b.iter().position(|other| other == row).map(|at| b.remove(at)).is_none());
    a
}

#[test]
fn replayed_records_are_in_whatever_depends_on_other_records() {
    const RECORDS: usize = 400;
    const BAD: [usize; 3] = [223, 224, 253];
    const BOUNDED: &str = "  SELECT id INTO plain FROM events WHERE n IS NOT NULL
  SELECT k, COUNT(*) AS c, System.Timestamp() AS t INTO tumbling
  FROM events WHERE n IS NOT NULL GROUP BY k, TumblingWindow(second, 10)
  SELECT k, COUNT(*) AS c, MIN(id) AS lo, System.Timestamp() AS t INTO sessions
  FROM events WHERE n IS NOT NULL GROUP BY k, SessionWindow(second, 5, 30)
  SELECT k, COUNT(*) AS c, System.Timestamp() AS t INTO sliding
  FROM events WHERE n IS NOT NULL GROUP BY k, SlidingWindow(second, 7)
  SELECT a.id AS a, b.id AS b INTO joined FROM events a JOIN events b
  ON a.k = b.k AND DATEDIFF(second, a, b) BETWEEN 1 AND 8 WHERE a.n IS NOT NULL AND b.n IS NOT NULL
  SELECT a.id AS a, b.id AS b INTO outer FROM events a LEFT JOIN events b
  ON a.k = b.k AND DATEDIFF(second, a, b) BETWEEN 1 AND 4 AND b.n IS NOT NULL WHERE a.n IS NOT NULL
  SELECT id, LAG(id) OVER (PARTITION BY k LIMIT DURATION(second, 20)) AS last INTO lagged
  FROM events WHERE n IS NOT NULL
  SELECT id, ISFIRST(second, 10) OVER (PARTITION BY k) AS first INTO firsts FROM events WHERE n IS NOT NULL
";
    const UNBOUNDED: &str = "  WITH good AS (SELECT id, k, System.Timestamp() AS at FROM events WHERE n IS NOT NULL)
  SELECT k, COUNT(*) AS c, MIN(id) AS lo, window_end AS t INTO sessions
  FROM TABLE(SESSION(TABLE good PARTITION BY k, DESCRIPTOR(at), INTERVAL '5' SECOND)) GROUP BY k, window_start, window_end
";
    let broker = shared();
    let bootstrap = broker.bootstrap();
    broker.create_topic("letters-depend", 2, &[("message.timestamp.type", "CreateTime")]).unwrap();
    // A record a second, each key's four seconds apart.
    let value = |i: usize| {
        let n = if BAD.contains(&i) { r#""x""# } else { "1" };
        format!(r#"{{"id":{i},"k":{},"n":{n}}}"#, i % 4)
    };
    let first_ms = 1_760_000_000_000;
    broker
        .produce(
            "letters-depend",
            (0..RECORDS).map(|i| Record {
                timestamp_ms: Some(first_ms + i as i64 * 1_000),
                ..Record::new((i / 4 % 2) as i32, value(i))
            }),
        )
        .unwrap();
    for (name, query) in [("depend", BOUNDED), ("depend-whole", UNBOUNDED)] {
        let words: Vec<&str> = query.split_whitespace().collect();
        let outputs: Vec<&str> = words.windows(2).filter(|pair| pair[0] == "INTO").map(|pair| pair[1]).collect();
        let spec = |name: &str, n: &str| {
            let files = outputs.iter().map(|output| format!("  {output}: {{file: {{path: {name}-{output}/}}}}\n"));
            format!(
                r#"
name: {name}
inputs:
  events: {{kafka: {{brokers: ["{bootstrap}"], topic: letters-depend}}, timestamp: create_time, schema: {{id: bigint, k: bigint, n: {n}}}}}
outputs:
{}state: {{epoch: 100ms}}
query: |
{query}"#,
                files.collect::<String>()
            )
        };
        let mut job = Job::new(&spec(name, "bigint"), false);
        job.start();
        let rows = |job: &Job, name: &str, output: &str| job.lines_in(&format!("{name}-{output}"));
        let count = |line: &String| serde_json::from_str::<Value>(line).unwrap()["c"].as_u64().unwrap();
        wait_for("all sessions", &job, || {
            rows(&job, name, "sessions").iter().map(count).sum::<u64>() == (RECORDS - BAD.len()) as u64
        });
        job.stop();
        let before: Vec<_> = outputs.iter().map(|output| rows(&job, name, output)).collect();

        fs::write(job.path("job.yaml"), spec(name, "string")).unwrap();
        fs::write(job.path("never.yaml"), spec("never", "string")).unwrap();
        let never = tidemill(job.folder.path(), &["run", "--bounded", "never.yaml"]);
        assert!(never.status.success(), "{}", String::from_utf8_lossy(&never.stderr));
        let replayed = tidemill(job.folder.path(), &["replay", "job.yaml"]);
        assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
        let said = String::from_utf8(replayed.stdout).unwrap();
        for (output, before) in outputs.iter().zip(before) {
            let never = rows(&job, "never", output);
            let new = without(rows(&job, name, output), before.clone());
            assert_eq!(
                new,
                without(never.clone(), before.clone()),
                "{output}: what a never broken run has more, and no other"
            );
            assert!(!new.is_empty() && new.len() < 100, "{output}: {}", new.len());
            let outdated = without(before, never).len();
            let line = format!("output `{output}`: {outdated} rows that were written before would not be there");
            assert_eq!(said.contains(&line), outdated > 0, "{output}: {outdated}: {said}");
            assert_eq!(said.contains(&format!("`{output}`")), outdated > 0, "{said}");
        }
        assert_eq!(job.counted(), BTreeMap::from([("type".to_owned(), BAD.len() as u64)]));
        // Of each key the session that ended at the gap.
        let alone =
            "6 rows that were written before would not be there; for 3 of them no new row of the same event time";
        assert!(name == "depend" || said.contains(alone), "{said}");
    }
}

#[test]
fn a_topic_of_dead_letters_is_checked_like_an_output() {
    let broker = shared();
    broker.create_topic("letters-checked", 1, &[]).unwrap();
    let bootstrap = broker.bootstrap();
    let folder = tempfile::tempdir().unwrap();
    let run = |letters: &str| {
        let text = format!(
            r#"
name: checked
inputs: {{a: {{kafka: {{brokers: ["{bootstrap}"], topic: letters-checked}}, schema: {{n: bigint}}}}}}
outputs: {{o: {{discard: {{}}}}}}
dead_letters: {letters}
query: SELECT n FROM a
"#
        );
        fs::write(folder.path().join("job.yaml"), text).unwrap();
        let output = tidemill(folder.path(), &["run", "--bounded", "job.yaml"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run(&format!(r#"{{kafka: {{brokers: ["{bootstrap}"], topic: letters-nowhere}}}}"#));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("output `dead_letters`") && said.contains("`letters-nowhere`"), "{said}");
    let (code, said) =
        run(&format!(r#"{{kafka: {{brokers: ["{bootstrap}"], topic: letters-checked, key: n}}, format: json}}"#));
    assert_eq!(code, Some(2), "{said}");
    for problem in [
        "a topic gets the records as they came: leave `format` out",
        "a dead letter has the key of its record: leave `key` out",
        "input `a` reads `letters-checked`: its dead letters would come in again",
    ] {
        assert!(said.contains(problem), "{said}");
    }
}

#[test]
fn letters_go_over_a_secured_connection_as_rows_do() {
    let broker = shared();
    for topic in ["letters-secured", "letters-secured-dead"] {
        broker.create_topic(topic, 1, &[]).unwrap();
    }
    broker.produce("letters-secured", ["1", "x", "3"].map(|n| Record::new(0, format!(r#"{{"n":{n}}}"#)))).unwrap();
    let address = broker.address(Listener::SaslTls);
    let ca = broker.certificates().ca.display().to_string();
    let kafka = |topic: &str| {
        format!(
            "{{kafka: {{brokers: [\"{address}\"], topic: {topic}, security: {{protocol: sasl_ssl, mechanism: SCRAM-SHA-512, \
             username: alice, password: {{env: KAFKA_PASSWORD}}, ca: {{file: {ca}}}}}}}}}"
        )
    };
    let input = kafka("letters-secured");
    let input = format!("{}, schema: {{n: bigint}}}}", input.strip_suffix('}').unwrap());
    let folder = tempfile::tempdir().unwrap();
    let spec = format!(
        "name: secured-letters\ninputs: {{a: {input}}}\noutputs: {{o: {{discard: {{}}}}}}\ndead_letters: {}\nquery: SELECT n FROM a\n",
        kafka("letters-secured-dead")
    );
    fs::write(folder.path().join("job.yaml"), spec).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        let output =
            command.args(arguments).current_dir(folder.path()).env("KAFKA_PASSWORD", PASSWORD).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    command(&["run", "--bounded", "job.yaml"]);
    assert_eq!(broker.read("letters-secured-dead").unwrap().len(), 1);
    let shown = command(&["dead-letters", "job.yaml"]);
    assert!(shown.starts_with("secured-letters: 1 dead letters\nmalformed: 1, from "), "{shown}");
    let doctor = command(&["doctor", "job.yaml"]);
    assert!(doctor.contains("output `dead_letters`"), "{doctor}");

    // The cluster and its security come from the spec, for a topic as for the name of an input.
    for name in ["letters-secured", "a"] {
        let inferred = command(&["infer", "--context", "job.yaml", name]);
        assert!(inferred.starts_with("# `security` is that of input `a`, and stands there\n"), "{inferred}");
        assert!(
            inferred.contains("topic: letters-secured}\n    format: json\n    schema:\n      \"n\": int"),
            "{inferred}"
        );
    }
}
