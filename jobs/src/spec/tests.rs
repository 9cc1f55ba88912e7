//! Reports are held against `tests/NAME.txt`, one for each spec of the fuzz corpus that has one; rewrite them with
//! `TIDEMILL_REWRITE=1 cargo test spec::tests`, and read the difference.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::*;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/spec");
const REPORTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spec/tests");

fn report(text: &str) -> String {
    match parse(text, FilePath::new("jobs"), "job.yaml") {
        Ok(_) => "ok".to_owned(),
        Err(errors) => {
            assert!(!errors.problems.is_empty(), "{text}");
            errors.to_string()
        }
    }
}

fn corpus(name: &str) -> String {
    fs::read_to_string(format!("{CORPUS}/{name}.yaml")).unwrap()
}

fn job(text: &str) -> Job {
    parse(text, FilePath::new("jobs"), "job.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn reports_are_as_recorded() {
    let rewrite = std::env::var_os("TIDEMILL_REWRITE").is_some();
    let mut checked = 0;
    let mut differing = String::new();
    for entry in fs::read_dir(REPORTS).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let found = report(&corpus(name)) + "\n";
        if rewrite {
            fs::write(&path, &found).unwrap();
        } else if found != fs::read_to_string(&path).unwrap() {
            write!(differing, "--- {name}\n{found}").unwrap();
        }
        checked += 1;
    }
    assert!(checked >= 15, "only {checked} reports found");
    assert!(differing.is_empty(), "{differing}");
}

#[test]
fn no_report_holds_a_secret() {
    for name in ["secrets", "tab"] {
        assert!(!report(&corpus(name)).contains("hunter2"), "{name}");
    }
}

#[test]
fn defaults_are_filled_in() {
    let job = job(&corpus("minimal"));
    assert_eq!(job.name, "copy");
    let input = job.input("clicks").unwrap();
    let InputTransport::Kafka(kafka) = &input.transport else { panic!("{input:?}") };
    assert_eq!(kafka.brokers, ["localhost:9092"]);
    assert_eq!(kafka.topics, ["clicks"]);
    assert_eq!(kafka.group, "copy");
    assert_eq!(kafka.start, Start::Earliest);
    assert_eq!(kafka.isolation, Isolation::ReadCommitted);
    assert_eq!(kafka.fetch, Fetch::Auto);
    assert_eq!(kafka.timestamp, Timestamp::LogAppendTime);
    assert_eq!(kafka.idle_margin.to_string(), "2s");
    assert!(matches!(&input.format, InputFormat::Json(json) if *json == JsonOptions::default()));
    assert_eq!(input.max_unpacked.to_string(), "256MiB");
    assert_eq!(input.schema, None);
    assert_eq!(input.on_bad_record, OnBadRecord::DeadLetter);
    assert_eq!(job.output("screen").unwrap().on_output_error, OnOutputError::Stop);
    assert_eq!(job.dead_letters.transport.to_string(), "jobs/./dead-letters");
    assert_eq!(job.time.late_arrival.to_string(), "5s");
    assert_eq!(job.time.out_of_order.to_string(), "0s");
    assert_eq!(job.time.policy, LatePolicy::Adjust);
    assert_eq!(job.clock_uncertainty.to_string(), "5s");
    assert_eq!(job.state.store, StateStore::Directory(PathBuf::from("jobs/./state")));
    assert_eq!(job.state.epoch.to_string(), "1s");
    assert_eq!(job.state.snapshot.to_string(), "1m");
    assert_eq!(job.workers, None);
    assert_eq!(job.memory.to_string(), "1GiB");
    assert_eq!(job.query.text, "SELECT user FROM clicks");
}

#[test]
fn everything_given_arrives() {
    let job = job(&corpus("everything_built"));
    let names: Vec<_> = job.outputs.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["topic", "archive", "lines", "table", "screen", "nothing"]);
    let input = job.input("clicks").unwrap();
    let InputTransport::Kafka(kafka) = &input.transport else { panic!("{input:?}") };
    assert_eq!(kafka.brokers, ["broker-1:9093", "[::1]:9092"]);
    assert_eq!(kafka.topics, ["a", "b"]);
    assert_eq!(kafka.start, Start::Time(tidemill_engine::EventTime(1_795_168_800_000_000)));
    assert_eq!(kafka.group, "readers");
    assert_eq!(kafka.isolation, Isolation::ReadUncommitted);
    assert_eq!(kafka.fetch, Fetch::Rdkafka);
    assert_eq!(kafka.timestamp, Timestamp::CreateTime { out_of_order: Duration::from_secs(3) });
    assert!(matches!(&input.format, InputFormat::Json(json) if json.check == Check::Lax));
    let schema = input.schema.as_ref().unwrap();
    let types: Vec<_> = schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
    assert_eq!(types.len(), 6);
    assert_eq!(types[..2], ["user: Utf8", "amount: Float64"]);
    assert_eq!(schema.field(3).data_type(), &tidemill_engine::datetime_type());
    let arrow::datatypes::DataType::Struct(at) = schema.field(2).data_type() else { panic!("{schema}") };
    assert_eq!(at[1].data_type(), &arrow::datatypes::DataType::new_list(arrow::datatypes::DataType::Utf8, true));
    let InputTransport::Kafka(one) = &job.input("one").unwrap().transport else { panic!() };
    assert_eq!(one.start, Start::Offsets([(0, 120), (1, 98)].into()));
    let InputTransport::File(old) = &job.input("old").unwrap().transport else { panic!() };
    assert_eq!(old.path, PathBuf::from("jobs/in/*.csv"));
    assert!(matches!(&job.input("old").unwrap().format, InputFormat::Csv(csv) if csv.dialect.delimiter == b';'));
    let OutputTransport::Kafka(topic) = &job.output("topic").unwrap().transport else { panic!() };
    assert_eq!((topic.topic.as_str(), topic.key.as_deref()), ("out", Some("user")));
    assert_eq!(topic.delivery, Delivery::AtLeastOnce);
    assert_eq!(job.output("topic").unwrap().on_output_error, OnOutputError::DeadLetter);
    let OutputTransport::File(archive) = &job.output("archive").unwrap().transport else { panic!() };
    assert_eq!(archive.path.to_str(), Some("/var/out/"));
    assert!(matches!(job.output("archive").unwrap().format, OutputFormat::Parquet));
    assert_eq!((archive.roll_size.bytes(), archive.roll_every.get().as_secs()), (1_000_000_000, 90));
    assert_eq!(job.state.store, StateStore::Url("s3://bucket/state".into()));
    assert_eq!(job.workers.unwrap().get(), 2);
}

#[test]
fn a_place_in_the_query_is_a_place_in_the_spec() {
    let text = corpus("everything_built");
    let query = job(&text).query;
    for (number, line) in query.text.lines().enumerate() {
        let place = query.locate(number as u64 + 1, 3);
        let from = text.lines().nth(place.line - 1).unwrap().split_at(place.column - 1).1;
        assert_eq!(from, &line[2..]);
    }
    let folded = job(&corpus("anchors").replace("!name ", "")).query;
    assert_eq!(folded.locate(1, 5), Position { line: 8, column: 3 });
    let quoted = job(&corpus("minimal").replace("SELECT user FROM clicks", "'SELECT user FROM clicks'")).query;
    assert_eq!(quoted.locate(1, 1), Position { line: 6, column: 9 });
}

#[test]
fn a_query_in_its_own_file_is_read() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("job.asaql"), "SELECT user\nFROM clicks\n").unwrap();
    let text = corpus("minimal").replace("query: SELECT user FROM clicks", "query_file: job.asaql");
    fs::write(directory.path().join("job.yaml"), text).unwrap();
    let query = load(&directory.path().join("job.yaml")).unwrap().query;
    assert!(query.file.ends_with("job.asaql"));
    assert_eq!(query.locate(2, 6), Position { line: 2, column: 6 });

    fs::write(directory.path().join("job.asaql"), "SELECT user\nFROM click\n").unwrap();
    let error = load(&directory.path().join("job.yaml")).unwrap_err();
    let expected = "job.asaql:2:6: unknown input `click`; available: clicks\n  2 | FROM click\n    |      ^";
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("job.yaml");
    let error = load(&path).unwrap_err();
    assert_eq!(error.kind(), tidemill_engine::ErrorKind::User);
    assert!(error.to_string().contains("job.yaml: cannot read: "), "{error}");
    fs::write(&path, "a".repeat(1 << 21)).unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("job.yaml: larger than 1MiB"));
    fs::write(&path, b"name: a\nquery: \xff\n").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("job.yaml: line 2 is not UTF-8"));
}

#[test]
fn hostile_text_is_refused() {
    for (text, expected) in [
        (String::new(), "job.yaml: is empty"),
        ("[".repeat(10_000), "recursion limit exceeded"),
        ("[".repeat(100), "nested deeper than 64 levels"),
        ("{a: ".repeat(10_000), "recursion limit exceeded"),
        ("{a: ".repeat(100), "nested deeper than 64 levels"),
        ("- ".repeat(10_000), "nested deeper than 64 levels"),
        (format!("name: {}", "x".repeat(500_000)), "is no job name"),
        ("a: 1\n".repeat(4_000), "duplicate key"),
        ("a: 1\n".repeat(100_000), "more than 100 mistakes; these are some of them"),
        ((0..4_000).map(|i| format!("k{i}: 1\n")).collect(), "too many mistakes"),
        (format!("inputs: {{{}}}", (0..1_000).map(|i| format!("k{i}: {{}}, ")).collect::<String>()), "is missing"),
        ("&a [*a]".to_owned(), "inside its own anchor"),
        ("? [a]\n: b".to_owned(), "expected a name as key"),
        ("\u{0}".to_owned(), "job.yaml"),
    ] {
        let found = report(&text);
        assert!(found.contains(expected), "{expected}: {}", &found[..found.len().min(500)]);
    }
}

/// A small search for panics on every test run; the long one is `cargo xtask fuzz`.
#[test]
fn mutated_specs_never_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize % below
    };
    let specs: Vec<_> = ["design_example", "everything_built", "wrong_types"].map(corpus).into();
    for _ in 0..1_000 {
        let mut text: Vec<char> = specs[random(specs.len())].chars().collect();
        for _ in 0..=random(4) {
            let (at, from) = (random(text.len()), random(text.len()));
            match random(3) {
                0 => text[at] = ['{', '}', '[', ':', '\n', ' ', '&', '*', '"', 'é', '-', '0'][random(12)],
                1 => drop(text.drain(at..text.len().min(at + 1 + random(20)))),
                _ => text.insert(at, text[from]),
            }
            if text.is_empty() {
                text.push(' ');
            }
        }
        report(&text.into_iter().collect::<String>());
    }
}

#[test]
fn committed_copies_are_current() {
    for (name, current, command) in [
        ("spec.schema.json", json_schema(), "tidemill schema > docs/spec.schema.json"),
        ("spec.md", reference(), "TIDEMILL_REWRITE=1 cargo test spec::tests"),
    ] {
        let path = format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("TIDEMILL_REWRITE").is_some() {
            fs::write(&path, &current).unwrap();
        }
        assert!(fs::read_to_string(&path).unwrap_or_default() == current, "docs/{name} is stale: run `{command}`");
    }
}

#[test]
fn two_inputs_on_one_topic_need_groups_of_their_own() {
    let spec = |group: &str| {
        format!(
            "name: twice\ninputs:\n  a: {{kafka: {{brokers: [b:1], topic: t}}, format: json}}\n  b: {{kafka: {{brokers: [b:1], topics: [u, t]{group}}}, \
             format: json}}\noutputs: {{o: {{discard: {{}}}}}}\nquery: SELECT x INTO o FROM a\n"
        )
    };
    let report = super::parse(&spec(""), std::path::Path::new("."), "job.yaml").unwrap_err().to_string();
    assert!(report.contains("`a` reads `t` in group `twice` too; give one of them its own `group`"), "{report}");
    assert!(super::parse(&spec(", group: other"), std::path::Path::new("."), "job.yaml").is_ok());
}

#[test]
fn functions_are_compiled_with_the_spec() {
    let spec = |function: &str| {
        format!(
            "name: functions\ninputs:\n  a: {{kafka: {{brokers: [b:1], topic: t}}, format: json}}\noutputs: {{o: {{discard: {{}}}}}}\n\
             functions: {{hex: {{javascript: {function}}}}}\nquery: SELECT udf.hex(x) AS x INTO o FROM a\n"
        )
    };
    let job = parse(&spec("{source: \"function hex(x) { return x; }\", on_error: give_null}"), "".as_ref(), "job.yaml");
    assert_eq!(job.unwrap().functions.iter().map(|f| f.name().to_owned()).collect::<Vec<_>>(), ["hex"]);
    for (function, expected) in [
        ("{source: \"function (\"}", "functions.hex.javascript: `hex` failed at hex.js:1"),
        ("{source: \"var x = 1\"}", "`hex.js` declares no function"),
        ("{}", "functions.hex.javascript"),
        ("{file: missing.js}", "missing.js"),
        ("{source: \"function f(x) {}\", on_error: drop}", "on_error"),
    ] {
        let errors = parse(&spec(function), "".as_ref(), "job.yaml").unwrap_err().to_string();
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn the_schemas_of_formats_make_columns() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    write(
        "a.avsc",
        r#"{"type": "record", "name": "r", "fields": [{"name": "n", "type": "int"}, {"name": "self", "type": "r"}]}"#,
    );
    write("b.proto", "syntax = \"proto3\"; import \"c.proto\"; package shop; message Order { Item item = 1; }");
    write("c.proto", "syntax = \"proto3\"; package shop; message Item { string name = 1; }");
    let spec = |format: &str| {
        format!(
            "name: x\ninputs: {{a: {{kafka: {{brokers: [\"b:1\"], topic: a}}, format: {format}}}}}\noutputs: {{o: {{stdout: }}}}\n\
             query: SELECT * FROM a\n"
        )
    };
    let input = |format: &str| {
        let job = parse(&spec(format), directory.path(), "job.yaml").unwrap_or_else(|errors| panic!("{errors}"));
        job.inputs.into_iter().next().unwrap()
    };
    let avro = input("{avro: {schema_file: a.avsc}}");
    assert_eq!(avro.schema.unwrap().field(0).name(), "n");
    assert_eq!(avro.left_out[0].path, "self");
    let protobuf = input("{protobuf: {files: [b.proto], message: shop.Order}}");
    assert_eq!(protobuf.schema.unwrap().field(0).data_type().to_string(), "Struct(\"name\": Utf8)");
    let errors = parse(&spec("{protobuf: {files: [b.proto], message: shop.order}}"), directory.path(), "job.yaml");
    let text = errors.unwrap_err().to_string();
    assert!(text.contains("protobuf.message: unknown message `shop.order`; available: `shop.Order`"), "{text}");
}

#[test]
fn levels_of_compatibility_are_told_in_quotes() {
    let with = |level: &str| {
        parse(&format!("{}compatibility: {level}\n", corpus("minimal")), FilePath::new("jobs"), "job.yaml")
    };
    assert_eq!(job(&corpus("minimal")).compatibility, Compatibility::V1_2);
    assert_eq!(with("\"1.0\"").unwrap().compatibility, Compatibility::V1_0);
    let error = with("\"1.3\"").unwrap_err().to_string();
    assert!(error.contains("compatibility") && error.contains("1.1"), "{error}");
}
