//! `memory` is one budget: under a limit of the operating system, with a backlog that is much larger, a job ends well, or by name.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use xtask::kafka::{Record, shared};

/// What the jobs are given.
const MEMORY_MIB: u64 = 64;
/// What the program takes beside that, in a debug build: itself, its libraries, librdkafka, and what the allocator keeps of batches in
/// hand.
const PROGRAM_MIB: u64 = 104;
/// What the system gives it: for stacks of threads and tables that are reserved and never touched, too.
const LIMIT_MIB: u64 = MEMORY_MIB + PROGRAM_MIB + 192;

const DEADLINE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(25);

/// A bounded run to stdout that the kernel gives no more data than [`LIMIT_MIB`].
fn run(spec: &Path) -> Child {
    let limit = format!("--data={}", LIMIT_MIB << 20);
    Command::new("prlimit")
        .args([limit.as_str(), env!("CARGO_BIN_EXE_tidemill"), "run", "--bounded", "--workers", "2"])
        .arg(spec)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env("RUST_LOG", "warn")
        .spawn()
        .expect("util-linux is installed")
}

fn spec(folder: &Path, topic: &str, memory_mib: u64, query: &str) -> std::path::PathBuf {
    let path = folder.join(format!("{topic}-{memory_mib}.yaml"));
    let text = format!(
        r#"
name: {topic}-{memory_mib}
memory: {memory_mib}MiB
inputs:
  events:
    kafka: {{brokers: ["{}"], topic: {topic}, start: earliest}}
    format: json
    schema: {{id: bigint, text: string}}
outputs:
  rows: {{stdout: {{}}}}
query: |
  {query}
"#,
        shared().bootstrap()
    );
    fs::write(&path, text).unwrap();
    path
}

/// The most that was resident, in MiB; none once it has ended.
fn peak_mib(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map(|kib| kib / 1_024)
}

/// Ticks of CPU time.
fn cpu(child: &Child) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Waits until it does nothing any more: as much was read as there is room for.
fn wait_until_it_stands_still(child: &Child) {
    let deadline = Instant::now() + DEADLINE;
    let (mut last, mut looks) = (cpu(child), 0);
    while looks < 20 || last == 0 {
        assert!(Instant::now() < deadline, "it still works");
        thread::sleep(LOOK);
        let now = cpu(child);
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
    }
}

fn stderr(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn an_output_that_takes_nothing_stops_the_reading_and_not_the_job() {
    const EVENTS: u64 = 500_000;
    let broker = shared();
    broker.create_topic("slow-output", 4, &[]).unwrap();
    let filling = "x".repeat(600);
    let event = |id: u64| Record::new((id % 4) as i32, format!(r#"{{"id":{id},"text":"{filling}"}}"#));
    broker.produce("slow-output", (0..EVENTS).map(event)).unwrap(); // five times the memory

    let folder = tempfile::tempdir().unwrap();
    let mut child = run(&spec(folder.path(), "slow-output", MEMORY_MIB, "SELECT id, text INTO rows FROM events"));
    wait_until_it_stands_still(&child);
    let standing = peak_mib(&child).expect("it waits for its reader");
    let mut seen = vec![false; EVENTS as usize];
    let mut peak = standing;
    for (n, line) in BufReader::new(child.stdout.take().unwrap()).lines().enumerate() {
        let row: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(row["text"].as_str().map(str::len), Some(600));
        let id = row["id"].as_u64().unwrap() as usize;
        assert!(!std::mem::replace(&mut seen[id], true), "{id} twice");
        if n % 1_000 == 0 {
            peak = peak.max(peak_mib(&child).unwrap_or(0));
        }
    }
    let stderr = stderr(&mut child);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{stderr}");
    assert!(seen.iter().all(|seen| *seen), "all rows are there");
    assert!(peak <= MEMORY_MIB + PROGRAM_MIB, "{peak} MiB, standing {standing}");
}

#[test]
fn a_window_that_is_too_large_for_the_memory_ends_the_job_by_name_and_for_more_memory_it_is_whole() {
    const KEYS: u64 = 400_000;
    let broker = shared();
    broker.create_topic("many-keys", 2, &[]).unwrap();
    let event = |id: u64| Record::new((id % 2) as i32, format!(r#"{{"id":{id},"text":"key-{id:010}"}}"#));
    broker.produce("many-keys", (0..KEYS).map(event)).unwrap();

    let query = "SELECT text, COUNT(*) AS n, SUM(id) AS s INTO rows FROM events GROUP BY text, TumblingWindow(day, 1)";
    let folder = tempfile::tempdir().unwrap();
    let child = run(&spec(folder.path(), "many-keys", MEMORY_MIB, query));
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    for part in ["step 1 (aggregate: tumbling window of 1 d ", "of 32 MiB", "raise `memory`"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(ended.stdout.is_empty());

    let more = spec(folder.path(), "many-keys", 4 * MEMORY_MIB, query);
    let child = run(&more);
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let rows = String::from_utf8(ended.stdout).unwrap();
    let sum: u64 = rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["s"].as_u64().unwrap()).sum();
    assert_eq!((rows.lines().count() as u64, sum), (KEYS, KEYS * (KEYS - 1) / 2));
}
