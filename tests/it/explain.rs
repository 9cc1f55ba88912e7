//! `tidemill explain`: a golden of each example's plan, and what a run says of its watermarks.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use serde_json::Value;

fn explain(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    let output = command.arg("explain").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if output.status.success() { Ok(stdout) } else { Err(stderr) }
}

fn examples() -> Vec<PathBuf> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(!files.is_empty());
    files
}

/// `TIDEMILL_UPDATE=1 cargo test --test it explain` rewrites the goldens; read the difference before you commit it.
#[test]
fn the_plan_of_each_example_is_its_golden() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/explain");
    let mut stale = vec![];
    for example in examples() {
        let golden = goldens.join(example.file_stem().unwrap()).with_extension("txt");
        let plan = explain(&[example.to_str().unwrap()]).unwrap();
        if std::env::var_os("TIDEMILL_UPDATE").is_some() {
            fs::create_dir_all(&goldens).unwrap();
            fs::write(&golden, &plan).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != plan {
            stale.push(format!("{}:\n{plan}", golden.display()));
        }
    }
    assert!(stale.is_empty(), "TIDEMILL_UPDATE=1 cargo test --test it explain\n{}", stale.join("\n"));
}

#[test]
fn as_json_it_is_one_object_with_the_same_steps() {
    let plan: Value = serde_json::from_str(&explain(&["examples/files.yaml", "--format", "json"]).unwrap()).unwrap();
    let steps = plan["steps"].as_array().unwrap();
    assert_eq!(steps[0]["kind"], "input");
    assert_eq!(steps.last().unwrap()["kind"], "output");
    assert!(steps.iter().any(|step| step["kind"] == "aggregate" && step["state"]["until"].is_string()), "{plan}");
    assert!(plan["inputs"][0]["decoded"].as_array().is_some_and(|columns| !columns.is_empty()), "{plan}");
}

#[test]
fn a_mistake_of_the_query_is_told_in_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let job = directory.path().join("job.yaml");
    fs::write(
        &job,
        "name: j\ninputs: {a: {file: {path: a.jsonl}, format: json, schema: {x: int}}}\n\
         outputs: {o: {stdout: {}}}\nquery: SELECT y FROM a\n",
    )
    .unwrap();
    let error = explain(&[job.to_str().unwrap()]).unwrap_err();
    assert!(error.contains("job.yaml:4:15") && error.contains("unknown column `y`"), "{error}");
}

#[test]
fn why_not_closed_names_the_slowest_partition() {
    const METRICS: &str = "tidemill_partition_lag{input=\"visits\",topic=\"v\",partition=\"0\"} 0\n\
        tidemill_partition_lag{input=\"visits\",topic=\"v\",partition=\"1\"} 7\n\
        tidemill_watermark_seconds{input=\"visits\",topic=\"v\",partition=\"0\"} 1700000060.0\n\
        tidemill_watermark_seconds{input=\"visits\",topic=\"v\",partition=\"1\"} 1700000000.0\n";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let head: Vec<String> =
                BufReader::new(&stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
            assert!(head[0].starts_with("GET /metrics "), "{head:?}");
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{METRICS}").unwrap();
        }
    });
    let text = explain(&["examples/files.yaml", "--why-not-closed", &address]).unwrap();
    assert!(text.starts_with("windows that end above 2023-11-14T22:13:20.000Z are open\n"), "{text}");
    assert!(text.contains("held by input `visits`, `v` partition 1\n  7 records lie ahead"), "{text}");
    let json = explain(&["examples/files.yaml", "--why-not-closed", &address, "--format", "json"]).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["held_by"]["partition"], "1");
    server.join().unwrap();
    let error = explain(&["examples/files.yaml", "--why-not-closed", &address]).unwrap_err();
    assert!(error.contains(&format!("cannot read the metrics at {address}")), "{error}");
}
