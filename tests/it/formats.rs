//! Formats from outside: rows go out in each and come back, schemas change mid-stream, what is bad is counted and shown.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::{Value, json};
use xtask::kafka::{Record, shared};

fn tidemill(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill")).args(arguments).current_dir(directory).output().unwrap()
}

/// Runs a job to the end of its inputs.
fn bounded(directory: &Path, spec: &str) -> Output {
    fs::write(directory.join("job.yaml"), spec).unwrap();
    tidemill(directory, &["run", "--bounded", "job.yaml"])
}

#[track_caller]
fn succeeds(directory: &Path, spec: &str) {
    let output = bounded(directory, spec);
    assert!(output.status.success(), "{}\n{spec}", String::from_utf8_lossy(&output.stderr));
}

/// The rows of the JSON-lines files in a folder, sorted.
fn rows(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let mut rows: Vec<String> = files.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    rows.sort();
    rows
}

const ROWS: &str = r#"{"id":1,"user":"a, \"b\"","amount":0.5,"ok":true,"at":"2026-01-02T03:04:05.6789010Z"}
{"id":9007199254740993,"user":"","amount":1e300,"ok":false,"at":"1969-12-31T23:59:59.9999990Z"}
{"id":3,"user":null,"amount":null,"ok":null,"at":null}
"#;
const SCHEMA: &str = "{id: int, user: string, amount: double, ok: bool, at: timestamp}";

#[test]
fn rows_come_back_from_files_of_every_format() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    fs::write(directory.join("in.jsonl"), ROWS).unwrap();
    fs::write(
        directory.join("row.proto"),
        "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; message Row { optional sint64 id = 5; optional string user = 1; \
         optional double amount = 2; optional bool ok = 3; google.protobuf.Timestamp at = 4; }",
    )
    .unwrap();
    for (name, format, declared, pattern) in [
        ("csv", "format: {csv: {delimiter: \"|\", quote: \"'\"}}", true, "*.csv"),
        ("avro", "format: {avro: {codec: snappy}}", false, "*.avro"),
        ("parquet", "format: parquet", false, "*.parquet"),
        ("protobuf", "format: {protobuf: {files: [row.proto]}}", false, "*.binpb"),
        ("gzip", "format: json, compression: gzip", true, "*.jsonl.gz"),
        ("zstd", "format: {protobuf: {files: [row.proto], framing: fixed32}}, compression: zstd", false, "*.binpb.zst"),
    ] {
        succeeds(
            directory,
            &format!(
                "name: out-{name}\ninputs: {{a: {{file: {{path: in.jsonl}}, schema: {SCHEMA}}}}}\n\
                 outputs: {{o: {{file: {{path: {name}/}}, {format}}}}}\nquery: SELECT id, user, amount, ok, at FROM a\n"
            ),
        );
        let read = format.replace("{avro: {codec: snappy}}", "avro");
        let schema = if declared { format!(", schema: {SCHEMA}") } else { String::new() };
        succeeds(
            directory,
            &format!(
                "name: in-{name}\ninputs: {{a: {{file: {{path: \"{name}/{pattern}\"}}, {read}{schema}}}}}\n\
                 outputs: {{o: {{file: {{path: {name}-back/}}}}}}\nquery: SELECT id, user, amount, ok, at FROM a\n"
            ),
        );
        let mut expected: Vec<String> = ROWS.lines().map(|row| row.replace("1e300", "1e+300")).collect();
        expected.sort();
        assert_eq!(rows(&directory.join(format!("{name}-back"))), expected, "{name}");
    }
}

#[test]
fn bad_records_are_counted_shown_and_too_many_of_them_end_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let lines: Vec<_> =
        (0..2_000).map(|n| if n % 50 == 7 { "{\"n\": [".to_owned() } else { format!("{{\"n\": {n}}}") }).collect();
    fs::write(directory.join("in.jsonl"), lines.join("\n")).unwrap();
    let spec = |limit: &str| {
        format!(
            "name: count\ninputs: {{a: {{file: {{path: in.jsonl}}, schema: {{n: int}}, max_bad: {limit}}}}}\n\
             outputs: {{o: {{file: {{path: out/}}}}}}\nquery: SELECT n FROM a\n"
        )
    };
    succeeds(directory, &spec("3%"));
    assert_eq!(rows(&directory.join("out")).len(), 1_960);
    let shown = tidemill(directory, &["dead-letters", "job.yaml"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(text.starts_with("count: 40 dead letters\nmalformed: 40, from ") && text.contains("offset 7: "), "{text}");
    let shown = tidemill(directory, &["dead-letters", "job.yaml", "--format", "json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["classes"][0]["count"], 40);

    // Mended by another type, they become rows; each once.
    let mended: Vec<_> = (0..2_000)
        .map(|n| format!("{{\"n\": {}}}", if n % 50 == 7 { "\"x\"".to_owned() } else { n.to_string() }))
        .collect();
    fs::write(directory.join("typed.jsonl"), mended.join("\n")).unwrap();
    let typed = |column: &str| {
        format!(
            "name: typed\ninputs: {{a: {{file: {{path: typed.jsonl}}, schema: {{n: {column}}}}}}}\n\
             outputs: {{o: {{file: {{path: typed/}}}}}}\nquery: SELECT n FROM a\n"
        )
    };
    succeeds(directory, &typed("int"));
    assert_eq!(rows(&directory.join("typed")).len(), 1_960);
    fs::write(directory.join("job.yaml"), typed("string")).unwrap();
    let replay = || tidemill(directory, &["replay", "job.yaml", "--class", "type"]);
    let output = replay();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = rows(&directory.join("typed"));
    assert_eq!((all.len(), all.iter().filter(|row| *row == r#"{"n":"x"}"#).count()), (2_000, 40));
    assert_eq!(String::from_utf8(replay().stdout).unwrap(), "typed: nothing to replay\n");

    let output = bounded(directory, &spec("1.5%"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("of 2000 records are bad, more than `max_bad` allows (1.5 %)"), "{said}");

    let inferred = tidemill(directory, &["infer", "--file", "in.jsonl"]);
    let yaml = String::from_utf8(inferred.stdout).unwrap();
    assert!(yaml.contains("    format: json\n    schema:\n      \"n\": int  # "), "{yaml}");
}

/// A schema registry that knows these schemas by id; the last is the latest of every subject.
fn registry(schemas: Vec<(u64, Value)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let known: Arc<Mutex<BTreeMap<u64, Value>>> = Arc::new(Mutex::new(schemas.into_iter().collect()));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|line| !line.unwrap().is_empty()) {}
            let path = request.split(' ').nth(1).unwrap().to_owned();
            let known = known.lock().unwrap();
            let answer = match path.strip_prefix("/schemas/ids/") {
                Some(id) => known.get(&id.parse().unwrap()).cloned(),
                None => known.last_key_value().map(|(id, schema)| {
                    let mut latest = schema.clone();
                    latest["id"] = json!(id);
                    latest
                }),
            };
            let (status, body) = match answer {
                Some(schema) => ("200 OK", schema.to_string()),
                None => ("404 Not Found", json!({"error_code": 40403, "message": "Schema not found"}).to_string()),
            };
            let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
    });
    url
}

/// Reads a topic whose records were written by three schemas of a registry, and by one that nobody knows.
fn evolved(topic: &str, format: &str, schemas: Vec<(u64, Value)>, records: Vec<Vec<u8>>) -> Vec<String> {
    let kafka = shared();
    kafka.create_topic(topic, 2, &[]).unwrap();
    let unknown = b"\x00\x00\x00\x00\x63\x00".to_vec();
    let records = records.into_iter().chain([unknown]).zip([0, 1].into_iter().cycle());
    kafka.produce(topic, records.map(|(value, partition)| Record::new(partition, value))).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (broker, url) = (kafka.bootstrap(), registry(schemas));
    succeeds(
        directory.path(),
        &format!(
            "name: {topic}\ninputs: {{a: {{kafka: {{brokers: [\"{broker}\"], topic: {topic}}}, format: {{{format}: {{registry: {{url: \"{url}\"}}}}}}}}}}\n\
             outputs: {{o: {{file: {{path: out/}}}}}}\nquery: SELECT n, user, added, more FROM a\n"
        ),
    );
    let letters = tidemill(directory.path(), &["dead-letters", "job.yaml", "--format", "json"]);
    let letters: Value = serde_json::from_slice(&letters.stdout).unwrap();
    assert_eq!((&letters["classes"][0]["class"], &letters["classes"][0]["count"]), (&json!("schema"), &json!(1)));
    assert_eq!(letters["classes"][0]["samples"][0]["error"], "schema 99: 404 Not Found: Schema not found");
    rows(&directory.path().join("out"))
}

#[test]
fn avro_schemas_change_twice_mid_stream() {
    let schema =
        |fields: Value| json!({"schema": json!({"type": "record", "name": "r", "fields": fields}).to_string()});
    let schemas = vec![
        (1, schema(json!([{"name": "user", "type": "string"}, {"name": "n", "type": "int"}]))),
        (
            2,
            schema(
                json!([{"name": "n", "type": "long"}, {"name": "user", "type": "string"}, {"name": "added", "type": "string"}]),
            ),
        ),
        (
            3,
            schema(json!([
                {"name": "n", "type": "long"}, {"name": "user", "type": "string"},
                {"name": "added", "type": "string", "default": "-"}, {"name": "more", "type": ["null", "double"], "default": null},
            ])),
        ),
    ];
    let records = vec![
        b"\x00\x00\x00\x00\x01\x02a\x02".to_vec(),
        b"\x00\x00\x00\x00\x02\x04\x02b\x02x".to_vec(),
        [&b"\x00\x00\x00\x00\x03\x06\x02c\x02y\x02"[..], &0.5f64.to_le_bytes()].concat(),
        b"\x00\x00\x00\x00\x01\x02d\x08".to_vec(),
    ];
    assert_eq!(
        evolved("evolving-avro", "avro", schemas, records),
        [
            r#"{"n":1,"user":"a","added":"-","more":null}"#,
            r#"{"n":2,"user":"b","added":"x","more":null}"#,
            r#"{"n":3,"user":"c","added":"y","more":0.5}"#,
            r#"{"n":4,"user":"d","added":"-","more":null}"#,
        ]
    );
}

#[test]
fn protobuf_schemas_change_twice_mid_stream() {
    let schema = |fields: &str| json!({"schemaType": "PROTOBUF", "schema": format!("syntax = \"proto3\"; message M {{ {fields} }}")});
    let schemas = vec![
        (1, schema("string user = 1; int32 n = 2;")),
        (2, schema("string user = 1; int64 n = 2; string added = 3;")),
        (3, schema("string user = 1; int64 n = 2; string added = 3; optional double more = 4;")),
    ];
    let records = vec![
        b"\x00\x00\x00\x00\x01\x00\x0a\x01a\x10\x01".to_vec(),
        b"\x00\x00\x00\x00\x02\x02\x00\x0a\x01b\x10\x02\x1a\x01x".to_vec(),
        [&b"\x00\x00\x00\x00\x03\x00\x0a\x01c\x10\x03\x1a\x01y\x21"[..], &0.5f64.to_le_bytes()].concat(),
        b"\x00\x00\x00\x00\x01\x00\x0a\x01d\x10\x04".to_vec(),
    ];
    assert_eq!(
        evolved("evolving-protobuf", "protobuf", schemas, records),
        [
            r#"{"n":1,"user":"a","added":"","more":null}"#,
            r#"{"n":2,"user":"b","added":"x","more":null}"#,
            r#"{"n":3,"user":"c","added":"y","more":0.5}"#,
            r#"{"n":4,"user":"d","added":"","more":null}"#,
        ]
    );
}
