//! `tidemill sql` from outside, on a real Kafka.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use arrow::{
    ipc::reader::{FileReader, StreamReader},
    record_batch::RecordBatch,
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use serde_json::{Value, json};
use tidemill_connectors::files::each_parquet_batch;
use xtask::kafka::{Broker, Record, shared};

const PATIENCE: Duration = Duration::from_secs(60);

fn tidemill(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("sql").args(arguments).env_remove("TIDEMILL_LOG").stdin(Stdio::null());
    command
}

fn ask(kafka: &Broker, arguments: &[&str]) -> Output {
    tidemill(&["--kafka", kafka.bootstrap()]).args(arguments).output().unwrap()
}

/// The rows of an answer.
#[track_caller]
fn rows(kafka: &Broker, arguments: &[&str]) -> Vec<Value> {
    let output = ask(kafka, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a failing question says, and its exit code.
#[track_caller]
fn fails(output: &Output) -> (i32, String) {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap(), String::from_utf8(output.stderr.clone()).unwrap())
}

/// Three partitions; partition p holds users `p-0` to `p-99`.
fn clicks(topic: &str) -> &'static Broker {
    let kafka = shared();
    kafka.create_topic(topic, 3, &[]).unwrap();
    let record = |n: i32| {
        let (partition, id) = (n % 3, n / 3);
        let value = json!({"userId": format!("{partition}-{id}"), "amount": f64::from(id) / 4.0, "n": n, "geo": {"city": "Ulm"}});
        let headers = vec![("trace".to_owned(), id.to_string().into_bytes())];
        Record { headers, ..Record::new(partition, value.to_string()).with_key(format!("k{id}")) }
    };
    kafka.produce(topic, (0..300).map(record)).unwrap();
    kafka
}

#[test]
fn topics_are_tables() {
    let kafka = clicks("sql-clicks.v1");
    for (question, expected) in [
        ("SELECT COUNT(*) AS n FROM sql-clicks", vec![]),
        ("SELECT COUNT(*) AS n FROM \"sql-clicks.v1\"", vec![json!({"n": 300})]),
        ("SELECT userid, N FROM \"SQL-clicks.v1\" WHERE n = 7", vec![json!({"userId": "1-2", "n": 7})]),
        (
            "SELECT _partition, COUNT(*) AS c, SUM(amount) AS s FROM \"sql-clicks.v1\" GROUP BY _partition ORDER BY 1 DESC LIMIT 1",
            vec![json!({"_partition": 2, "c": 100, "s": 1237.5})],
        ),
        (
            "SELECT _key, _offset, _headers, t.geo.city AS city FROM \"sql-clicks.v1\" AS t WHERE _partition = 1 AND _offset = 42",
            vec![json!({"_key": "k42", "_offset": 42, "_headers": [{"name": "trace", "value": "42"}], "city": "Ulm"})],
        ),
        (
            "SELECT _partition, _offset FROM \"sql-clicks.v1\" ORDER BY _offset DESC, _partition LIMIT 4",
            vec![
                json!({"_partition": 0, "_offset": 99}),
                json!({"_partition": 1, "_offset": 99}),
                json!({"_partition": 2, "_offset": 99}),
                json!({"_partition": 0, "_offset": 98}),
            ],
        ),
        (
            "SELECT COUNT(*) AS n FROM \"sql-clicks.v1\" WHERE _timestamp > now() + INTERVAL '1 minute'",
            vec![json!({"n": 0})],
        ),
        (
            "SELECT COUNT(*) AS n FROM \"sql-clicks.v1\" WHERE _timestamp <= now() + INTERVAL '1 minute'",
            vec![json!({"n": 300})],
        ),
        ("VALUES (1)", vec![json!({"column1": 1})]),
    ] {
        match expected.is_empty() {
            true => {
                let (code, text) = fails(&ask(kafka, &[question]));
                assert_eq!(code, 2);
                assert!(text.contains("a name with `-` in it goes in quotes: \"sql-clicks\""), "{text}");
            }
            false => assert_eq!(rows(kafka, &[question]), expected, "{question}"),
        }
    }
    let with_parameters = [
        "--param",
        "user=2-3",
        "--param",
        "least=1",
        "SELECT n FROM \"sql-clicks.v1\" WHERE \"userId\" = $user AND n > $least",
    ];
    assert_eq!(rows(kafka, &with_parameters), [json!({"n": 11})]);
    let limited = rows(kafka, &["SELECT n FROM \"sql-clicks.v1\" LIMIT 5"]);
    assert_eq!(limited.len(), 5);
}

#[test]
fn explain_shows_what_is_read_and_much_is_asked_about() {
    let topic = "sql-explain";
    let kafka = clicks(topic);
    let plan = |question: &str| {
        let lines = rows(kafka, &[&format!("EXPLAIN {question}")]);
        lines.iter().map(|line| line["plan"].as_str().unwrap().to_owned() + "\n").collect::<String>()
    };
    let text = plan("SELECT n FROM \"sql-explain\" WHERE _partition <> 1 AND _offset >= 90 AND n % 2 = 0");
    assert!(text.starts_with("read `sql-explain`: 2 of 3 partitions, at most 20 records, about "), "{text}");
    assert!(text.contains("  sql-explain partition 2: offsets 90 to 99 of 0 to 99\n"), "{text}");
    assert!(text.contains("LogScan: sql-explain, columns=[n], in 1 parts"), "{text}");
    let text = plan("SELECT COUNT(*) FROM \"sql-explain\" WHERE _partition = 0");
    assert!(
        text.contains("1 of 3 partitions, at most 100 records") && text.contains("counted in the headers"),
        "{text}"
    );
    let text = plan("SELECT * FROM \"sql-explain\" ORDER BY _offset DESC LIMIT 7");
    assert!(text.contains("at most 21 records") && text.contains("the last 7 of each partition"), "{text}");
    let text = plan("SELECT * FROM \"sql-explain\" WHERE _timestamp > now() + INTERVAL '1 hour'");
    assert!(text.starts_with("read `sql-explain`: 0 of 3 partitions"), "{text}");
    let text = plan("SELECT * FROM \"sql-explain\" LIMIT 3");
    assert!(text.contains("at most 3 records"), "{text}");

    let (code, text) = fails(&ask(kafka, &["--max-bytes", "1kB", "SELECT n FROM \"sql-explain\""]));
    assert_eq!(code, 1);
    assert!(text.contains("more than `--max-bytes 1kB`"), "{text}");
    assert_eq!(rows(kafka, &["--max-bytes", "1kB", "SELECT n FROM \"sql-explain\" LIMIT 1"]).len(), 1);

    kafka.create_topic("sql-create-time", 1, &[("message.timestamp.type", "CreateTime")]).unwrap();
    let stamped = |n: i64| Record { timestamp_ms: Some(n * 1_000), ..Record::new(0, json!({"n": n}).to_string()) };
    kafka.produce("sql-create-time", [5, 1, 9, 2].map(stamped)).unwrap();
    let question = "SELECT n FROM \"sql-create-time\" WHERE _timestamp <= '1970-01-01T00:00:02Z' ORDER BY n";
    assert_eq!(rows(kafka, &[question]), [json!({"n": 1}), json!({"n": 2})]);
    assert!(plan(question).contains("not by `_timestamp`"));
}

#[test]
fn records_from_before_a_switch_are_not_pruned_away() {
    let (kafka, topic) = (shared(), "sql-switched");
    let any_time = ("message.timestamp.after.max.ms", "9223372036854775807");
    kafka.create_topic(topic, 1, &[("message.timestamp.type", "CreateTime"), any_time]).unwrap();
    let ahead = Record { timestamp_ms: Some(9_000_000_000_000), ..Record::new(0, "{\"n\": 1}") };
    kafka.produce(topic, [ahead]).unwrap();
    kafka.configure_topic(topic, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    kafka.produce(topic, [Record::new(0, "{\"n\": 2}")]).unwrap();
    let question = "SELECT n FROM \"sql-switched\" WHERE _timestamp <= now()";
    assert_eq!(rows(kafka, &[question]), [json!({"n": 2})]);
}

#[test]
fn counting_leaves_out_what_was_aborted_and_markers() {
    let (kafka, topic) = (shared(), "sql-transactions");
    kafka.create_topic(topic, 1, &[]).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("transactional.id", topic)
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    for round in 0..10 {
        producer.begin_transaction().unwrap();
        for n in 0..7 {
            let value = json!({"round": round, "n": n}).to_string();
            producer.send(BaseRecord::<str, str>::to(topic).payload(&value).partition(0)).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        match round % 3 {
            0 => producer.abort_transaction(PATIENCE).unwrap(),
            _ => producer.commit_transaction(PATIENCE).unwrap(),
        }
    }
    let one = |question: &str| rows(kafka, &[question]).remove(0)["n"].as_i64().unwrap();
    assert_eq!(one("SELECT COUNT(*) AS n FROM \"sql-transactions\""), 42);
    assert_eq!(one("SELECT COUNT(round) AS n FROM \"sql-transactions\""), 42);
    assert_eq!(one("SELECT COUNT(*) AS n FROM \"sql-transactions\" WHERE _offset BETWEEN 10 AND 20"), 10);
    assert_eq!(
        one("SELECT COUNT(*) AS n FROM (SELECT round FROM \"sql-transactions\" ORDER BY _offset DESC LIMIT 20)"),
        20
    );
    let counted = ask(kafka, &["--stats", "SELECT COUNT(*) AS n FROM \"sql-transactions\""]);
    let stats: Value = serde_json::from_slice(&counted.stderr).unwrap();
    assert_eq!((&stats["rows"], &stats["records"], &stats["payload_bytes"]), (&json!(1), &json!(42), &json!(0)));
    assert!(stats["fetched_bytes"].as_u64().unwrap() > 70 * 60, "{stats}");
    let approximate = ask(kafka, &["--approximate", "SELECT COUNT(*) AS n FROM \"sql-transactions\""]);
    assert_eq!(String::from_utf8(approximate.stdout).unwrap(), "{\"n\":80}\n");
    assert!(String::from_utf8(approximate.stderr).unwrap().contains("approximate"));
}

#[test]
fn mistakes_are_shown_with_their_place_and_what_exists() {
    let topic = "sql-mistakes";
    let kafka = clicks(topic);
    let (code, text) = fails(&ask(kafka, &["SELECT amuont FROM \"sql-mistakes\""]));
    assert_eq!(code, 1, "columns are only known once the topic was looked at");
    assert!(text.contains("unknown column `amuont`; available: ") && text.contains("did you mean `amount`?"), "{text}");
    assert!(text.contains("1 | SELECT amuont FROM") && text.contains("|        ^^^^^^\n"), "{text}");
    let (code, text) = fails(&ask(kafka, &["SELECT 1 FROM \"sql-mistake\""]));
    assert!(
        code == 1 && text.contains("unknown topic or input `sql-mistake`") && text.contains("sql-mistakes"),
        "{text}"
    );
    for (question, expected) in [
        ("SELEC 1", "expected"),
        ("SELECT 1; SELECT 2", "second question"),
        ("DROP TABLE a", "expected SELECT, WITH or EXPLAIN"),
        ("CREATE EXTERNAL TABLE a STORED AS CSV LOCATION 'a'", "expected"),
        ("SELECT n FROM a WHERE", "question:1:"),
    ] {
        let (code, text) = fails(&ask(kafka, &[question]));
        assert!(code == 2 && text.contains(expected), "{question}: {code} {text}");
    }
    let (code, text) = fails(&ask(kafka, &["SELECT $a"]));
    assert!(code != 0 && text.contains("`$a` has no value") && text.contains("--param a=VALUE"), "{text}");
    let (code, text) = fails(&ask(kafka, &["SELECT n / 0 FROM \"sql-mistakes\""]));
    assert!(code == 1 && text.contains("cannot compute an answer: divide by zero"), "{text}");
    let (code, _) = fails(&tidemill(&["SELECT 1"]).output().unwrap());
    assert_eq!(code, 2, "neither --kafka nor --context");
    let (code, text) =
        fails(&tidemill(&["--kafka", "127.0.0.1:1", "--wait", "1s", "SELECT 1 FROM a"]).output().unwrap());
    assert!(code == 1 && text.contains("127.0.0.1:1"), "{text}");
}

#[test]
fn records_that_are_no_rows_are_counted_and_shown() {
    let (kafka, topic) = (shared(), "sql-bad");
    kafka.create_topic(topic, 1, &[]).unwrap();
    let tombstone = Record { value: None, ..Record::new(0, "").with_key("a") };
    kafka
        .produce(
            topic,
            [Record::new(0, "{\"n\": 1}"), Record::new(0, "{\"n\": "), tombstone, Record::new(0, "{\"n\": 2}")],
        )
        .unwrap();
    let output = ask(kafka, &["SELECT n FROM \"sql-bad\""]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("1 records could not be decoded") && stderr.contains("partition 0 offset 1"), "{stderr}");
    assert_eq!(rows(kafka, &["SELECT COUNT(*) AS n FROM \"sql-bad\""]), [json!({"n": 4})]);
    assert_eq!(rows(kafka, &["SELECT _offset AS o FROM \"sql-bad\" WHERE _key = 'a'"]), [json!({"o": 2})]);
}

#[test]
fn rows_come_in_every_format() {
    let topic = "sql-formats";
    let kafka = clicks(topic);
    let directory = tempfile::tempdir().unwrap();
    let question = "SELECT n, \"userId\" FROM \"sql-formats\" WHERE n < 3 ORDER BY n";
    let stdout = |format: &str| ask(kafka, &["--format", format, question]).stdout;
    assert_eq!(String::from_utf8(stdout("csv")).unwrap(), "n,userId\n0,0-0\n1,1-0\n2,2-0\n");
    let table = "n  userId\n─  ──────\n0  0-0\n1  1-0\n2  2-0\n";
    assert_eq!(String::from_utf8(stdout("table")).unwrap(), table);
    let stream = stdout("arrow");
    let batches = StreamReader::try_new(&stream[..], None).unwrap().map(Result::unwrap);
    assert_eq!(batches.map(|batch| batch.num_rows()).sum::<usize>(), 3);
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for name in ["a.csv", "a.jsonl", "a.parquet", "a.arrow"] {
        let output = ask(kafka, &["-o", &file(name), question]);
        assert!(output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(fs::read_to_string(file("a.csv")).unwrap().lines().count(), 4);
    assert_eq!(fs::read_to_string(file("a.jsonl")).unwrap().lines().next(), Some("{\"n\":0,\"userId\":\"0-0\"}"));
    let ipc = FileReader::try_new(fs::File::open(file("a.arrow")).unwrap(), None).unwrap();
    assert_eq!(ipc.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 3);
    // What was written is a table again.
    fs::write(file("context.yaml"), "inputs: {a: {file: {path: a.parquet}, format: parquet}}").unwrap();
    let again =
        tidemill(&["--context", &file("context.yaml"), "SELECT MAX(n) AS m, COUNT(*) AS c FROM a"]).output().unwrap();
    assert_eq!(
        String::from_utf8(again.stdout).unwrap(),
        "{\"m\":2,\"c\":3}\n",
        "{}",
        String::from_utf8_lossy(&again.stderr)
    );
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 5, "no unfinished file is left");
}

fn context(directory: &Path, kafka: &Broker, topic: &str) -> String {
    let path = directory.join("job.yaml");
    let spec = format!(
        "name: any\ninputs:\n  Clicks:\n    kafka: {{brokers: [{}], topic: {topic}}}\n    schema: {{userId: string, n: int}}\n\
         outputs: {{o: {{stdout: {{}}}}}}\nquery: SELECT n FROM Clicks\n",
        kafka.bootstrap()
    );
    fs::write(&path, spec).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_job_is_a_context() {
    let topic = "sql-context";
    let kafka = clicks(topic);
    let directory = tempfile::tempdir().unwrap();
    let context = context(directory.path(), kafka, topic);
    let ask = |question: &str| tidemill(&["--context", &context, question]).output().unwrap();
    let joined = ask("WITH clicks AS (SELECT * FROM clicks WHERE n < 6) \
         SELECT a.n, b.n AS m FROM clicks a JOIN clicks b ON a.n = b.n + 3 ORDER BY a.n");
    let rows = "{\"n\":3,\"m\":0}\n{\"n\":4,\"m\":1}\n{\"n\":5,\"m\":2}\n";
    assert_eq!(String::from_utf8(joined.stdout).unwrap(), rows, "{}", String::from_utf8_lossy(&joined.stderr));
    let (code, text) = fails(&ask("SELECT amount FROM clicks"));
    assert!(code == 2 && text.contains("available: userId, n, _key"), "{text}");
    let (code, text) = fails(&ask("SELECT 1 FROM klicks"));
    assert!(code == 2 && text.contains("did you mean `Clicks`?"), "{text}");
    // The question may come from stdin, and the context may be nothing but inputs.
    let mut child = tidemill(&["--context", &context]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"SELECT COUNT(*) AS n\nFROM Clicks;").unwrap();
    assert_eq!(String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap(), "{\"n\":300}\n");
}

#[test]
fn a_question_with_windows_goes_on_and_leaves_nothing_behind() {
    let topic = "sql-windows";
    let kafka = clicks(topic);
    let directory = tempfile::tempdir().unwrap();
    let context = context(directory.path(), kafka, topic);
    let question = "SELECT COUNT(*) AS n FROM Clicks GROUP BY TumblingWindow(hour, 1)";
    let filtered = "SELECT n FROM Clicks WHERE n >= 298";
    // Rows come while it goes on: the first ends the waiting.
    let mut child = tidemill(&["--context", &context, "--follow", filtered])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut first: Vec<_> = lines.by_ref().take(2).collect();
    first.sort();
    assert_eq!(first, ["{\"n\":298}", "{\"n\":299}"]);
    kafka.produce(topic, [Record::new(0, "{\"n\": 1000}")]).unwrap();
    assert_eq!(lines.next().unwrap(), "{\"n\":1000}");
    child.kill().unwrap();
    child.wait().unwrap();
    let timed =
        tidemill(&["--context", &context, "--for", "1s", question]).current_dir(directory.path()).output().unwrap();
    assert!(timed.status.success(), "{}", String::from_utf8_lossy(&timed.stderr));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "only the context is there");
    assert!(kafka.committed("any", topic).unwrap().iter().all(Option::is_none));
    let (code, text) = fails(&tidemill(&["--context", &context, "--format", "parquet", question]).output().unwrap());
    assert!(code == 2 && text.contains("with `-o FILE`"), "{text}");
    let (code, text) = fails(&tidemill(&["--context", &context, "--for", "1s", filtered]).output().unwrap());
    assert!(code == 2 && text.contains("questions that go on"), "{text}");
    let cluster = tidemill(&[
        "--kafka",
        kafka.bootstrap(),
        "--for",
        "1s",
        "SELECT COUNT(*) AS n FROM [sql-windows] GROUP BY TumblingWindow(hour, 1)",
    ]);
    let mut cluster = cluster;
    assert!(cluster.output().unwrap().status.success());
}

#[test]
fn a_question_that_goes_on_takes_values_and_gives_its_rows_in_any_format() {
    let (kafka, topic) = (shared(), "sql-formats-that-go-on");
    kafka.create_topic(topic, 1, &[]).unwrap();
    kafka.produce(topic, (0..20).map(|n| Record::new(0, json!({"n": n}).to_string()))).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let spec = format!(
        "inputs:\n  t:\n    kafka: {{brokers: [{}], topic: {topic}}}\n    schema: {{n: int}}\n",
        kafka.bootstrap()
    );
    fs::write(directory.path().join("context.yaml"), spec).unwrap();
    let question = "SELECT n, $name AS name FROM t WHERE n >= $least";
    let asked = |least: &str, options: &[&str]| {
        let least = format!("least={least}");
        let mut arguments = vec!["--context", "context.yaml", "--follow", "--param", &least, "--param", "name=a,b"];
        arguments.extend(options);
        arguments.push(question);
        let mut command = tidemill(&arguments);
        command.current_dir(directory.path());
        command
    };
    // A line comes when its row does.
    let mut child = asked("18", &["--format", "csv"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().take(3).collect::<Vec<_>>(), ["n,name", "18,\"a,b\"", "19,\"a,b\""]);
    kafka.produce(topic, [Record::new(0, "{\"n\": 20}")]).unwrap();
    assert_eq!(lines.next().unwrap(), "20,\"a,b\"");
    child.kill().unwrap();
    child.wait().unwrap();

    let mut child = asked("19", &["--format", "arrow"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut batches = StreamReader::try_new(child.stdout.take().unwrap(), None).unwrap();
    let mut rows = 0;
    while rows < 2 {
        rows += batches.next().unwrap().unwrap().num_rows();
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let ends = |least: &str, file: &str| {
        let ended = asked(least, &["--for", "1s", "-o", file]).output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        directory.path().join(file)
    };
    let mut rows = 0;
    let count = &mut |batch: &RecordBatch| {
        rows += batch.num_rows();
        Ok(())
    };
    each_parquet_batch(&ends("19", "rows.parquet"), count).unwrap();
    assert_eq!(rows, 2);
    let none = FileReader::try_new(fs::File::open(ends("100", "none.arrow")).unwrap(), None).unwrap();
    assert_eq!((none.schema().fields().len(), none.count()), (2, 0), "also without rows there are columns");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3, "the context and what was asked for");
    let (code, text) = fails(&tidemill(&["--kafka", kafka.bootstrap(), "--follow", question]).output().unwrap());
    assert!(
        code == 2 && text.contains("`$name` has no value") && text.contains("--param name=VALUE"),
        "{code}: {text}"
    );
}

/// The prompt behind a pseudo-terminal, which util-linux's `script` makes.
struct Terminal {
    child: std::process::Child,
    keys: std::process::ChildStdin,
    seen: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(home: &Path, arguments: &[&str]) -> Self {
        // `exec`: a shell in between would take Ctrl-C for itself as well, and leave with its own code.
        let command = format!("exec {} sql {}", env!("CARGO_BIN_EXE_tidemill"), arguments.join(" "));
        let mut child = Command::new("script")
            .args(["-qefc", &command, "/dev/null"])
            .env("HOME", home)
            .env("TERM", "xterm")
            .env_remove("XDG_STATE_HOME")
            .env_remove("TIDEMILL_LOG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let seen = Arc::<Mutex<String>>::default();
        let to = Arc::clone(&seen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Self { child, keys, seen }
    }

    fn press(&mut self, keys: &str) {
        self.seen.lock().unwrap().clear();
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    /// Waits for a text on the screen, behind what was waited for since the last keys: the line is painted anew, prompt and
    /// all, for each key, and keys that come before the prompt is there again are not for it.
    #[track_caller]
    fn shows(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut seen = self.seen.lock().unwrap();
            if let Some(at) = seen.find(text) {
                seen.drain(..at + text.len());
                return;
            }
            assert!(Instant::now() < deadline, "{text:?} is not in {seen:?}");
            drop(seen);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Leaves by these keys, which must be no failure.
    #[track_caller]
    fn leave(mut self, keys: &str) {
        self.press(keys);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {:?}", self.seen.lock().unwrap());
    }
}

#[test]
fn the_prompt_completes_remembers_and_survives_an_interrupt() {
    let topic = "sql-prompt";
    let kafka = clicks(topic);
    let home = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open(home.path(), &["--kafka", kafka.bootstrap()]);
    terminal.shows("sql> ");
    terminal.press("\\d\r");
    terminal.shows("sql-prompt\r\n");
    terminal.shows("sql> ");
    terminal.press("\\d sql-prompt\r");
    terminal.shows("userId");
    terminal.shows("_offset");
    terminal.shows("sql> ");
    // A name is completed, over two lines.
    terminal.press("SELECT MAX(n) AS most\r");
    terminal.press("FROM \"sql-prom\t;\r");
    terminal.shows("299");
    terminal.shows("1 rows in ");
    terminal.shows("sql> ");
    // A column of a topic that was read is completed.
    terminal.press("SELECT use\t AS u FROM \"sql-prompt\" WHERE n = 8;\r");
    terminal.shows("2-2");
    terminal.shows("sql> ");
    // A mistake ends nothing.
    terminal.press("SELECT x FROM \"sql-prompt\";\r");
    terminal.shows("unknown column `x`");
    terminal.shows("sql> ");
    // Ctrl-C forgets a line, and ends a question that goes on; the prompt stays.
    terminal.press("SELECT nonsense");
    terminal.shows("SELECT nonsense");
    terminal.press("\x03");
    terminal.shows("sql> ");
    terminal.press("SELECT COUNT(*) AS n FROM [sql-prompt] GROUP BY TumblingWindow(hour, 1);\r");
    terminal.shows("events/s");
    terminal.press("\x03");
    terminal.shows("sql> ");
    terminal.press("SELECT 40 + 2 AS answer;\r");
    terminal.shows("42");
    terminal.shows("sql> ");
    terminal.leave("\x04");
    // The next prompt remembers the last question of this one.
    let mut terminal = Terminal::open(home.path(), &["--kafka", kafka.bootstrap()]);
    terminal.shows("sql> ");
    terminal.press("\x1b[A\r");
    terminal.shows("42");
    terminal.shows("sql> ");
    terminal.leave("\\q\r");
}

#[test]
fn a_key_is_read_from_one_partition_where_the_spec_names_the_partitioner() {
    let (kafka, directory) = (shared(), tempfile::tempdir().unwrap());
    for (rule, name) in [("murmur2_random", "murmur2"), ("consistent_random", "crc32")] {
        let topic = format!("sql-keys-{name}");
        kafka.create_topic(&topic, 5, &[]).unwrap();
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).set("partitioner", rule).create().unwrap();
        for n in 0..200 {
            let (key, value) = (format!("user-{}", n % 40), json!({"n": n}).to_string());
            producer.send(BaseRecord::to(&topic).key(&key).payload(&value)).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
        let context = directory.path().join("context.yaml");
        let input = |partitioner: &str| {
            let input = format!("{{brokers: [{}], topic: {topic}{partitioner}}}", kafka.bootstrap());
            fs::write(&context, format!("inputs: {{t: {{kafka: {input}}}}}")).unwrap();
        };
        let ask = |question: &str| {
            let output = tidemill(&["--context", context.to_str().unwrap(), question]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        input("");
        assert!(ask("EXPLAIN SELECT n FROM t WHERE _key = 'user-7'").contains("5 of 5 partitions"));
        input(&format!(", partitioner: {name}"));
        for user in 0..8 {
            let question = format!("SELECT COUNT(n) AS c FROM t WHERE _key = 'user-{user}'");
            assert!(ask(&format!("EXPLAIN {question}")).contains("1 of 5 partitions"));
            assert_eq!(ask(&question), "{\"c\":5}\n", "{rule} {user}");
        }
    }
}

#[test]
fn the_example_of_embedding_answers() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("in.jsonl"), "{\"n\": 1}\n{\"n\": 41}\n").unwrap();
    let context = directory.path().join("context.yaml");
    fs::write(&context, "inputs: {numbers: {file: {path: in.jsonl}, format: json}}").unwrap();
    let embedding = Path::new(env!("CARGO_BIN_EXE_tidemill")).with_file_name("examples").join("embedding");
    let output = Command::new(embedding).arg(&context).arg("SELECT SUM(n) AS s FROM numbers").output().unwrap();
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "{\"s\":42}\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
