//! Formats from outside: rows go out in each and come back, schemas change mid-stream, what is bad is counted and shown.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
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

/// A job that runs beside its producer; its rows go to `out/`.
struct Live {
    folder: tempfile::TempDir,
    child: Child,
}

impl Live {
    fn start(spec: &str, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files.iter().chain(&[("job.yaml", spec)]) {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.args(["run", "job.yaml"]).current_dir(folder.path());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { folder, child }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Its rows, once there are so many.
    #[track_caller]
    fn rows(&self, count: usize) -> Vec<String> {
        let started = Instant::now();
        loop {
            let out = self.folder.path().join("out");
            let visible = |path: &PathBuf| !path.file_name().unwrap().to_str().unwrap().starts_with('.');
            let files = fs::read_dir(out).into_iter().flatten().map(|entry| entry.unwrap().path()).filter(visible);
            let texts: Vec<String> = files.map(|path| fs::read_to_string(path).unwrap()).collect();
            let mut rows: Vec<String> = texts.iter().flat_map(|text| text.lines().map(str::to_owned)).collect();
            if rows.len() >= count {
                rows.sort();
                return rows;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{} of {count} rows: {}", rows.len(), self.said());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a job over a topic whose producer registers one schema after the other in a real registry, and at last writes by one that
/// nobody knows. `versions` are a schema and the body of a record each; `reader` is the file with the reader's schema.
fn evolved(topic: &str, kind: &str, format: &str, reader: (&str, &str), versions: [(&str, Vec<u8>); 3]) -> Vec<String> {
    let (kafka, registry) = (shared(), xtask::registry::shared());
    kafka.create_topic(topic, 2, &[]).unwrap();
    let (broker, format) = (kafka.bootstrap(), format.replace("URL", &registry.url()));
    let job = Live::start(
        &format!(
            "name: {topic}\ninputs: {{a: {{kafka: {{brokers: [\"{broker}\"], topic: {topic}}}, format: {format}}}}}\n\
             outputs: {{o: {{file: {{path: out/}}}}}}\nstate: {{epoch: 100ms}}\n\
             query: SELECT n, \"user\", added, more, at, price, kind FROM a\n"
        ),
        &[reader],
    );
    let framed = |id: u32, body: &[u8]| [&[0][..], &id.to_be_bytes(), body].concat();
    let mut first = None;
    for (done, (schema, body)) in versions.iter().enumerate() {
        let id = registry.register(&format!("{topic}-value"), kind, schema).unwrap();
        // A producer that was not restarted yet goes on with its schema.
        let (old, body) = (framed(*first.get_or_insert(id), &versions[0].1), framed(id, body));
        kafka.produce(topic, [Record::new(0, old), Record::new(1, body)]).unwrap();
        job.rows(2 * (done + 1));
    }
    let behind = framed(first.unwrap(), &versions[0].1);
    kafka.produce(topic, [Record::new(0, framed(999_999, &[0])), Record::new(0, behind)]).unwrap();
    let rows = job.rows(7);
    let letters = tidemill(job.folder.path(), &["dead-letters", "job.yaml", "--format", "json"]);
    let letters: Value = serde_json::from_slice(&letters.stdout).unwrap();
    assert_eq!((&letters["classes"][0]["class"], &letters["classes"][0]["count"]), (&json!("schema"), &json!(1)));
    let sample = &letters["classes"][0]["samples"][0];
    assert_eq!(sample["schema_id"], 999_999, "{sample}");
    assert!(sample["error"].as_str().unwrap().starts_with("schema 999999: 404 Not Found"), "{sample}");
    rows
}

#[test]
fn a_producer_evolves_an_avro_schema_twice_mid_stream() {
    let schema = |fields: Value| json!({"type": "record", "name": "r", "fields": fields}).to_string();
    let (n, user) = (json!({"name": "n", "type": "long"}), json!({"name": "user", "type": "string"}));
    let added = json!({"name": "added", "type": "string", "default": "-"});
    let first = schema(json!([user, {"name": "n", "type": "int"}]));
    let second = schema(json!([n, user, added]));
    let third = schema(json!([
        n, user, added,
        {"name": "more", "type": ["null", "double"], "default": null},
        {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}], "default": null},
        {
            "name": "price",
            "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}],
            "default": null,
        },
        {"name": "kind", "type": {"type": "enum", "name": "k", "symbols": ["A", "B"]}, "default": "A"},
    ]));
    let last = [&b"\x06\x02c\x02y\x02"[..], &0.5f64.to_le_bytes(), b"\x02\xb8\x17\x02\x04\x04\xd2\x02"].concat();
    let versions = [(&*first, b"\x02a\x02".to_vec()), (&*second, b"\x04\x02b\x02x".to_vec()), (&*third, last)];
    let format = r#"{avro: {registry: {url: "URL"}, schema_file: row.avsc}}"#;
    let old = r#"{"n":1,"user":"a","added":"-","more":null,"at":null,"price":null,"kind":"A"}"#;
    assert_eq!(
        evolved("evolving-avro", "AVRO", format, ("row.avsc", &third), versions),
        [
            [old; 5].as_slice(),
            &[
                r#"{"n":2,"user":"b","added":"x","more":null,"at":null,"price":null,"kind":"A"}"#,
                r#"{"n":3,"user":"c","added":"y","more":0.5,"at":"1970-01-01T00:00:01.5000000Z","price":12.34,"kind":"B"}"#,
            ],
        ]
        .concat()
    );
}

#[test]
fn a_producer_evolves_a_protobuf_schema_twice_mid_stream() {
    let schema = |fields: &str| {
        format!(
            "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; message M {{ {fields} }} enum Kind {{ A = 0; B = 1; }}"
        )
    };
    let first = schema("string user = 1; int32 n = 2;");
    let second = schema("string user = 1; int64 n = 2; string added = 3;");
    let third = schema(
        "string user = 1; int64 n = 2; string added = 3; optional double more = 4; google.protobuf.Timestamp at = 5; \
         optional float price = 6; Kind kind = 7;",
    );
    let last = [
        &b"\x00\x0a\x01c\x10\x03\x1a\x01y\x21"[..],
        &0.5f64.to_le_bytes(),
        b"\x2a\x08\x08\x01\x10\x80\xca\xb5\xee\x01\x35",
        &12.5f32.to_le_bytes(),
        b"\x38\x01",
    ]
    .concat();
    let versions = [
        (&*first, b"\x00\x0a\x01a\x10\x01".to_vec()),
        (&*second, b"\x02\x00\x0a\x01b\x10\x02\x1a\x01x".to_vec()),
        (&*third, last),
    ];
    let format = r#"{protobuf: {registry: {url: "URL"}, files: [row.proto], message: M}}"#;
    let old = r#"{"n":1,"user":"a","added":"","more":null,"at":null,"price":null,"kind":"A"}"#;
    assert_eq!(
        evolved("evolving-protobuf", "PROTOBUF", format, ("row.proto", &third), versions),
        [
            [old; 5].as_slice(),
            &[
                r#"{"n":2,"user":"b","added":"x","more":null,"at":null,"price":null,"kind":"A"}"#,
                r#"{"n":3,"user":"c","added":"y","more":0.5,"at":"1970-01-01T00:00:01.5000000Z","price":12.5,"kind":"B"}"#,
            ],
        ]
        .concat()
    );
}

/// What a job writes behind ids of a registry, and how it ends.
fn written(topic: &str, format: &str, query: &str) -> (Option<i32>, String, Vec<Vec<u8>>) {
    let (kafka, registry) = (shared(), xtask::registry::shared());
    let _ = kafka.create_topic(topic, 1, &[]); // it may be there already
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("in.jsonl"), "{\"n\": 7, \"user\": \"a\"}\n").unwrap();
    let (broker, format) = (kafka.bootstrap(), format.replace("URL", &registry.url()));
    let output = bounded(
        directory.path(),
        &format!(
            "name: {topic}\ninputs: {{a: {{file: {{path: in.jsonl}}, schema: {{n: bigint, user: string}}}}}}\n\
             outputs: {{o: {{kafka: {{brokers: [\"{broker}\"], topic: {topic}}}, format: {format}}}}}\nquery: {query}\n"
        ),
    );
    let messages = kafka.read(topic).unwrap();
    let values = messages.iter().map(|message| rdkafka::Message::payload(message).unwrap().to_vec());
    (output.status.code(), String::from_utf8(output.stderr).unwrap(), values.collect())
}

#[test]
fn rows_are_registered_or_written_by_the_latest_schema_and_the_registrys_refusal_is_shown() {
    let registry = xtask::registry::shared();
    // Registered: the first schema is, one that readers of it cannot read is not.
    let register = r#"{avro: {registry: {url: "URL"}}}"#;
    let (code, said, values) = written("registered", register, "SELECT n FROM a");
    assert_eq!((code, values.len()), (Some(0), 1), "{said}");
    registry.demand("registered-value", "BACKWARD").unwrap();
    let (code, said, values) = written("registered", register, "SELECT \"user\" AS n FROM a");
    assert_eq!((code, values.len()), (Some(1), 1), "{said}");
    assert!(
        said.contains("its rows' schema was not registered under `registered-value`") && said.contains("409"),
        "{said}"
    );

    // The latest one.
    let latest = r#"{avro: {registry: {url: "URL", use_latest: true}}}"#;
    let (code, said, _) = written("latest", latest, "SELECT n FROM a");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no latest schema of `latest-value`"), "{said}");
    let schema = json!({"type": "record", "name": "r", "fields": [
        {"name": "user", "type": "string"}, {"name": "n", "type": "int"}, {"name": "more", "type": "long", "default": 3},
    ]});
    let id = registry.register("latest-value", "AVRO", &schema.to_string()).unwrap();
    let (code, said, values) = written("latest", latest, "SELECT n, \"user\" FROM a");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(values, [[&[0][..], &id.to_be_bytes(), b"\x02a\x0e\x06"].concat()]);
    let (code, said, values) = written("latest", latest, "SELECT n, \"user\", 1 AS other FROM a");
    assert_eq!((code, values.len()), (Some(1), 1), "{said}");
    let sentence = "the rows do not fit the subject's latest schema: it has no field for column `other`; available: `user`, `n`, `more`";
    assert!(said.contains(sentence), "{said}");

    let schema = "syntax = \"proto3\"; message A { string x = 1; } message B { string user = 1; int32 n = 4; }";
    let id = registry.register("latest-proto-value", "PROTOBUF", schema).unwrap();
    let latest = r#"{protobuf: {registry: {url: "URL", use_latest: true}, message: B}}"#;
    let (code, said, values) = written("latest-proto", latest, "SELECT n, \"user\" FROM a");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(values, [[&[0][..], &id.to_be_bytes(), b"\x02\x02\x0a\x01a\x20\x07"].concat()]);
}
