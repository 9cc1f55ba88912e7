//! `tidemill schedule` on a real Kafka: each record in one file of the right range, whatever dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::{Value, json};
use xtask::{
    kafka::{Broker, Record, shared},
    schedule,
};

const PATIENCE: Duration = Duration::from_secs(60);

fn tidemill(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("schedule").args(arguments).current_dir(directory).env_remove("TIDEMILL_LOG");
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// A command that succeeds; its stdout.
#[track_caller]
fn runs(directory: &Path, arguments: &[&str]) -> String {
    let output = tidemill(directory, arguments).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn pipeline(directory: &Path, kafka: &Broker, topic: &str) {
    let spec = format!(
        "name: archive\n\
         inputs:\n  t:\n    kafka: {{brokers: [{}], topic: {topic}}}\n    schema: {{n: int}}\n    idle_margin: 100ms\n\
         outputs: {{files: {{file: {{path: out/}}, format: json}}}}\n\
         clock_uncertainty: 100ms\nschedule: {{every: 1s}}\nrange: \"[previous, now)\"\n\
         query: SELECT n, _timestamp AS at FROM t\n",
        kafka.bootstrap()
    );
    fs::write(directory.join("job.yaml"), spec).unwrap();
}

/// The files that can be seen, by the begin of their range.
fn files(directory: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let Ok(folders) = fs::read_dir(directory.join("out")) else { return BTreeMap::new() };
    let folders = folders
        .map(|folder| folder.unwrap().path())
        .filter(|folder| !folder.file_name().unwrap().to_str().unwrap().starts_with('.'));
    let files = |folder: PathBuf| {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect())
    };
    folders.map(files).collect()
}

/// Every `n` that is in a file; each is there once, in the range of its stamp.
#[track_caller]
fn rows_in_their_ranges(directory: &Path) -> BTreeSet<i64> {
    let mut seen = BTreeSet::new();
    for (range, files) in files(directory) {
        let begin = NaiveDateTime::parse_from_str(&range, "%Y%m%dT%H%M%SZ").unwrap().and_utc();
        for file in files {
            for line in fs::read_to_string(file).unwrap().lines() {
                let row: Value = serde_json::from_str(line).unwrap();
                let at: DateTime<Utc> = row["at"].as_str().unwrap().parse().unwrap();
                let within = at >= begin && at < begin + chrono::Duration::seconds(1);
                assert!(within, "{line} is not of {range}");
                assert!(seen.insert(row["n"].as_i64().unwrap()), "twice: {line}");
            }
        }
    }
    seen
}

#[track_caller]
fn wait_until(mut what: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !what() {
        assert!(Instant::now() < deadline, "waited too long");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn each_record_is_in_one_file_of_its_range_whatever_dies() {
    let binary = Some(PathBuf::from(env!("CARGO_BIN_EXE_tidemill")));
    let outcome = schedule::run(&schedule::Options { runs: 3, seed: 1, binary }, shared()).unwrap();
    assert!(outcome.difference.ok() && outcome.records > 0, "{outcome:?}");
}

#[test]
fn a_backfill_fills_in_what_was_before_and_a_paused_pipeline_rests() {
    let (kafka, topic) = (shared(), "schedule-archive");
    kafka.create_topic(topic, 2, &[]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    pipeline(directory, kafka, topic);
    let begun = Utc::now();
    let stop = AtomicBool::new(false);
    let produced = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                let records = (n..n + 10).map(|n| Record::new((n % 2) as i32, json!({"n": n}).to_string()));
                kafka.produce(topic, records).unwrap();
                n += 10;
                thread::sleep(Duration::from_millis(40));
            }
            n
        });
        let mut scheduler = tidemill(directory, &["run", "job.yaml"]).spawn().unwrap();
        wait_until(|| files(directory).len() > 1);
        scheduler.kill().unwrap();
        scheduler.wait().unwrap();
        stop.store(true, Ordering::Relaxed);
        producer.join().unwrap()
    });
    // A record behind them all closes their ranges for certain.
    wait_until(|| {
        runs(directory, &["once", "job.yaml"]);
        rows_in_their_ranges(directory).last() == Some(&(produced - 1))
    });
    let seen = rows_in_their_ranges(directory);
    let first = *seen.first().unwrap(); // what came in before the first range is not asked for
    assert_eq!(seen.len() as i64, produced - first, "nothing is missing from {first} on");

    let listed = || serde_json::from_str::<Value>(&runs(directory, &["list", "job.yaml", "--format", "json"])).unwrap();
    let done = listed();
    assert_eq!(
        (&done["pipeline"], &done["paused"], &done["last"]["outcome"]),
        (&json!("archive"), &json!(false), &json!("done"))
    );
    // What was done stays as it is; what was before the first range is filled in.
    let before = files(directory);
    let period = [begun - chrono::Duration::seconds(2), Utc::now()].map(|time| time.to_rfc3339());
    runs(directory, &["backfill", "job.yaml", "--from", &period[0], "--to", &period[1]]);
    let after = files(directory);
    assert!(before.iter().all(|(range, files)| after.get(range) == Some(files)));
    assert_eq!(rows_in_their_ranges(directory).len() as i64, produced);

    runs(directory, &["pause", "job.yaml"]);
    kafka.produce(topic, [Record::new(0, json!({"n": produced}).to_string())]).unwrap();
    assert!(runs(directory, &["list", "job.yaml"]).starts_with("archive (paused)\n"));
    wait_until(|| listed()["due"].as_u64().unwrap() > 2); // its range is over then
    runs(directory, &["once", "job.yaml"]);
    assert_eq!(rows_in_their_ranges(directory).len() as i64, produced);
    runs(directory, &["resume", "job.yaml"]);
    wait_until(|| {
        runs(directory, &["once", "job.yaml"]);
        rows_in_their_ranges(directory).len() as i64 == produced + 1
    });
}

#[test]
fn a_run_that_fails_is_noted_and_leaves_nothing() {
    let (kafka, topic) = (shared(), "schedule-fails");
    kafka.create_topic(topic, 1, &[]).unwrap();
    kafka.produce(topic, [Record::new(0, "{\"n\": ")]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    pipeline(directory, kafka, topic);
    let spec = fs::read_to_string(directory.join("job.yaml")).unwrap();
    let spec = spec.replace("    idle_margin", "    on_bad_record: fail\n    idle_margin");
    fs::write(directory.join("job.yaml"), spec).unwrap();
    let failed = || {
        let now = Utc::now();
        let period = [now - chrono::Duration::seconds(20), now].map(|time| time.to_rfc3339());
        tidemill(directory, &["backfill", "job.yaml", "--from", &period[0], "--to", &period[1]]).status().unwrap()
    };
    wait_until(|| failed().code() == Some(1));
    let listed: Value = serde_json::from_str(&runs(directory, &["list", "job.yaml", "--format", "json"])).unwrap();
    assert!(listed["last"]["outcome"]["failed"].as_str().unwrap().contains("bad record"), "{listed}");
    let hidden = fs::read_dir(directory.join("out"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
    assert_eq!(hidden.count(), 0);
    assert!(files(directory).values().all(Vec::is_empty));
    // `run` is for jobs without a schedule.
    let run =
        Command::new(env!("CARGO_BIN_EXE_tidemill")).args(["run", "job.yaml"]).current_dir(directory).output().unwrap();
    assert_eq!(run.status.code(), Some(2));
}

#[test]
fn a_run_lays_its_files_out_in_folders_and_in_order() {
    let (kafka, topic) = (shared(), "schedule-laid-out");
    kafka.create_topic(topic, 2, &[]).unwrap();
    let record =
        |n: i64| Record::new((n % 2) as i32, json!({"n": n, "country": (["FR", "D/E"][n as usize % 2])}).to_string());
    kafka.produce(topic, (0..100).map(record)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    pipeline(directory, kafka, topic);
    let spec = fs::read_to_string(directory.join("job.yaml")).unwrap();
    let spec = spec
        .replace("{n: int}", "{n: int, country: string}")
        .replace("{path: out/}", "{path: out/, partition_by: [country, day(at)], sort_by: [n desc]}")
        .replace("SELECT n,", "SELECT n, country,");
    fs::write(directory.join("job.yaml"), &spec).unwrap();
    // Every file that can be seen: its folder below the range's, and its rows.
    let seen = || {
        let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let mut left = vec![directory.join("out")];
        while let Some(path) = left.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
                left.extend(
                    entries
                        .filter(|entry| !entry.file_name().to_str().unwrap().starts_with('.'))
                        .map(|entry| entry.path()),
                );
            } else if path.is_file() {
                let folder = path.parent().unwrap().strip_prefix(directory.join("out")).unwrap();
                let (range, folder) = folder.to_str().unwrap().split_once('/').unwrap();
                assert!(range.starts_with("range=20"), "{range}");
                let lines = fs::read_to_string(&path).unwrap();
                let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                assert!(rows.is_sorted_by(|a, b| a["n"].as_i64() > b["n"].as_i64()), "{rows:?}");
                seen.entry(folder.to_owned()).or_default().extend(rows);
            }
        }
        seen
    };
    let period = [-60, 30].map(|seconds| (Utc::now() + chrono::Duration::seconds(seconds)).to_rfc3339());
    wait_until(|| {
        runs(directory, &["backfill", "job.yaml", "--from", &period[0], "--to", &period[1]]);
        seen().values().map(Vec::len).sum::<usize>() == 100
    });
    for (folder, rows) in seen() {
        let expected = |row: &Value| {
            let country = ["FR", "D%2FE"][row["n"].as_i64().unwrap() as usize % 2];
            format!("late=false/country={country}/day={}", &row["at"].as_str().unwrap()[..10])
        };
        assert!(rows.iter().all(|row| expected(row) == folder && row.get("country").is_none()), "{folder}: {rows:?}");
    }

    fs::write(directory.join("job.yaml"), spec.replace("[country,", "[countri,")).unwrap();
    let validated = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["validate", "job.yaml"])
        .current_dir(directory)
        .output()
        .unwrap();
    assert_eq!(validated.status.code(), Some(2));
    let said = String::from_utf8(validated.stderr).unwrap();
    assert!(
        said.contains("output `files`: unknown column `countri` in `partition_by`; available: n, country, at"),
        "{said}"
    );
}

/// The broker's clock cannot be set back here, but a boundary can: as if it had been asked for before the last record came in.
#[test]
fn a_record_that_comes_in_behind_its_range_is_in_the_late_part_of_the_next() {
    let (kafka, topic) = (shared(), "schedule-late");
    kafka.create_topic(topic, 1, &[]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    pipeline(directory, kafka, topic);
    let begun = Utc::now();
    kafka.produce(topic, (0..10).map(|n| Record::new(0, json!({"n": n}).to_string()))).unwrap();
    let period = [-2, 10].map(|seconds| (begun + chrono::Duration::seconds(seconds)).to_rfc3339());
    let backfill = || runs(directory, &["backfill", "job.yaml", "--from", &period[0], "--to", &period[1]]);
    // Instants behind all records, in order, each with its boundary.
    let behind = || {
        let entries = fs::read_dir(directory.join("state/archive/boundaries")).unwrap();
        let boundaries = entries.map(|entry| entry.unwrap().path());
        let mut behind: Vec<_> =
            boundaries.filter(|path| fs::read_to_string(path).unwrap().contains("{\"0\":10}")).collect();
        behind.sort();
        behind
    };
    wait_until(|| {
        backfill();
        behind().len() > 1
    });
    let [first, second] = [0, 1].map(|n| behind().remove(n));
    let boundary = fs::read_to_string(&first).unwrap().lines().nth(1).unwrap().replace("{\"0\":10}", "{\"0\":9}");
    fs::write(&first, format!("{:08x}\n{boundary}", crc32c::crc32c(boundary.as_bytes()))).unwrap();
    for folder in ["out", "state/archive/runs"] {
        fs::remove_dir_all(directory.join(folder)).unwrap();
    }
    backfill();

    let instant =
        DateTime::from_timestamp_micros(first.file_stem().unwrap().to_str().unwrap().parse().unwrap()).unwrap();
    let range = directory.join("out").join(instant.format("%Y%m%dT%H%M%SZ").to_string());
    let numbers = |folder: &Path| {
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
        files.flat_map(|file| numbers_in(&file)).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&range), [0; 0]);
    assert_eq!(numbers(&range.join("late")), [9]);
    let others = files(directory).into_keys().map(|name| numbers(&directory.join("out").join(name)));
    assert_eq!(others.flatten().collect::<BTreeSet<_>>(), BTreeSet::from_iter(0..9));
    let run = fs::read_to_string(directory.join("state/archive/runs").join(second.file_name().unwrap())).unwrap();
    let run: Value = serde_json::from_str(run.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&run["late"], &run["records"], &run["rows"]), (&json!(1), &json!(1), &json!(1)));
}

fn numbers_in(file: &Path) -> Vec<i64> {
    let text = fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].as_i64().unwrap()).collect()
}
