//! Reference data in jobs: a compacted topic and a file, and a file that is read again.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use xtask::kafka::{Record, shared};

fn tidemill(args: &[&str], job: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(args).arg(job).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
    command
}

fn rows(text: &str) -> Vec<Value> {
    let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    rows.sort_by_key(Value::to_string);
    rows
}

#[test]
fn the_last_record_of_a_key_and_the_rows_of_a_file_are_found() {
    let broker = shared();
    let stamped = [("message.timestamp.type", "LogAppendTime")];
    broker.create_topic("reference-orders", 2, &stamped).unwrap();
    broker.create_topic("reference-users", 1, &[("cleanup.policy", "compact"), stamped[0]]).unwrap();
    let order = |i: i32| Record::new(i % 2, format!(r#"{{"id":{i},"user":"u{}","kind":{}}}"#, i % 3, i % 2));
    broker.produce("reference-orders", (0..6).map(order)).unwrap();
    let user = |key: &str, city: &str| Record::new(0, format!(r#"{{"user":"{key}","city":"{city}"}}"#)).with_key(key);
    let gone = Record { value: None, ..user("u2", "") };
    broker.produce("reference-users", [user("u0", "Oslo"), user("u2", "Rome"), user("u0", "Bern"), gone]).unwrap();

    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kinds.jsonl"), "{\"kind\":0,\"name\":\"even\"}\n{\"kind\":1,\"name\":\"odd\"}\n")
        .unwrap();
    let job = folder.path().join("job.yaml");
    let brokers = broker.bootstrap();
    let spec = format!(
        "name: reference\ninputs:\n\
         \x20 orders: {{kafka: {{brokers: ['{brokers}'], topic: reference-orders}}, format: json}}\n\
         \x20 users: {{kafka: {{brokers: ['{brokers}'], topic: reference-users}}, format: json, reference: true}}\n\
         \x20 kinds: {{file: {{path: kinds.jsonl}}, format: json, reference: true}}\n\
         outputs: {{screen: {{stdout: {{}}}}}}\n\
         query: |\n\
         \x20 WITH odd AS (SELECT kind, UPPER(name) AS name FROM kinds WHERE kind = 1)\n\
         \x20 SELECT o.id, u.city, odd.name FROM orders o LEFT JOIN users u ON o.[user] = u.[user] LEFT JOIN odd ON o.kind = odd.kind\n"
    );
    fs::write(&job, spec).unwrap();
    for workers in ["1", "2"] {
        let output = tidemill(&["run", "--bounded", "--workers", workers], &job).output().unwrap();
        assert!(output.status.success());
        let expected = [
            json!({"id": 0, "city": "Bern", "name": null}),
            json!({"id": 1, "city": null, "name": "ODD"}),
            json!({"id": 2, "city": null, "name": null}),
            json!({"id": 3, "city": "Bern", "name": "ODD"}),
            json!({"id": 4, "city": null, "name": null}),
            json!({"id": 5, "city": null, "name": "ODD"}),
        ];
        let mut expected = expected.to_vec();
        expected.sort_by_key(Value::to_string);
        assert_eq!(rows(&String::from_utf8(output.stdout).unwrap()), expected);
    }
}

/// Killed when the test ends, however it does.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_file_is_read_again_and_holds_for_the_rows_that_follow() {
    let broker = shared();
    broker.create_topic("reference-refresh", 1, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("names.jsonl");
    fs::write(&names, "{\"id\":1,\"name\":\"before\"}\n").unwrap();
    let job = folder.path().join("job.yaml");
    let spec = format!(
        "name: reference-refresh\ninputs:\n\
         \x20 events: {{kafka: {{brokers: ['{}'], topic: reference-refresh}}, format: json, schema: {{id: int}}}}\n\
         \x20 names: {{file: {{path: names.jsonl}}, format: json, reference: true, refresh: 1s, schema: {{id: int, name: string}}}}\n\
         outputs: {{screen: {{stdout: {{}}}}}}\n\
         query: SELECT names.name FROM events JOIN names ON events.id = names.id\n",
        broker.bootstrap()
    );
    fs::write(&job, spec).unwrap();
    let mut running = Running(tidemill(&["run"], &job).spawn().unwrap());
    let output = running.0.stdout.take().unwrap();
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let deadline = Instant::now() + Duration::from_secs(60);
    let wait_for = |name: &str| {
        while Instant::now() < deadline {
            broker.produce("reference-refresh", [Record::new(0, r#"{"id":1}"#)]).unwrap();
            while let Ok(line) = lines.recv_timeout(Duration::from_millis(500)) {
                if line.contains(name) {
                    return;
                }
            }
        }
        panic!("no row with {name}");
    };
    wait_for("before");
    fs::write(&names, "{\"id\":1,\"name\":\"behind\"}\n").unwrap();
    wait_for("behind");
}
