//! `docs/benchmarks.md`: what the bench found, on which machine, when, and of what.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::process::Usage;
use super::super::report::Measure;
use super::super::{Options, PARTITIONS, ROUNDS};
use super::{Comparison, FirstRow, flink};
use crate::kafka::Version;
use crate::repository::root;

const PATH: &str = "docs/benchmarks.md";

/// The document, written to its place unless debug builds were measured.
///
/// # Errors
/// When it cannot be written, or the machine does not say what it is.
pub(super) fn write(
    comparisons: &[Comparison],
    measures: &[Measure],
    first_row: FirstRow,
    options: &Options,
    loading: Duration,
) -> Result<String> {
    let text = format!(
        "# Benchmarks

tidemill beside Flink SQL, as `cargo xtask bench peers --events {events}` found it on {date}; the command writes this page. Both sides read the
same topics of one Kafka in the same run, in turns, on cores that they share with the broker: medians of {ROUNDS} rounds. Absolute
figures are of this machine in that hour; ratios travel.

{machine}
- {events} events of about 200 bytes of JSON a topic, {PARTITIONS} partitions, stamped by the broker while two topics were loaded
  in {loading:.0} s; 10,000 users, 10 countries.
- CPU: user and system of tidemill's whole process, its start included, which counts where events are few; of Flink's TaskManager alone,
  without JobManager, gateway and client, while the job was planned and run.
- Wall: tidemill's process from start to end; Flink's job from RUNNING to FINISHED.
- Flink at its best: warm JVM (each query has run once before), only the needed columns declared, object reuse, state on the heap, no
  checkpoints, parallel collector, 4 GiB; the cheaper of its aggregation strategies.
- Peak: of tidemill's process; of the TaskManager's since the job's start, in a JVM that has run the others before.
- tidemill checks that records are well-formed to their ends. `lax` leaves a record behind its last needed column.
- The rows of each query were compared once, outside of the timed runs: as many on both sides, with the same checksum.

{queries}
Start to first row, from nothing running but Kafka: tidemill {ours:.2} s, Flink {theirs:.1} s.

## Against what is asked for

How many times as much Flink takes, and the least that is asked for.

{limits}
## The queries

The same text on both sides, but for the quotes around `user`.

{texts}",
        events = options.events,
        date = chrono::Utc::now().date_naive(),
        machine = machine()?,
        loading = loading.as_secs_f64(),
        queries = queries(comparisons, options.events),
        ours = first_row.tidemill.as_secs_f64(),
        theirs = first_row.flink.as_secs_f64(),
        limits = limits(measures),
        texts = texts(comparisons),
    );
    if !options.debug {
        fs::write(root().join(PATH), &text).with_context(|| format!("cannot write `{PATH}`"))?;
    }
    Ok(text)
}

fn queries(comparisons: &[Comparison], events: u64) -> String {
    let mut table = "\
| query | rows | tidemill events/s | Flink events/s | tidemill CPU ns/event | lax | Flink | CPU, Flink to tidemill | wall | tidemill peak MB | Flink peak MB |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"
    .to_owned();
    for Comparison { query, rows, tidemill, lax, flink, strategy } in comparisons {
        let events = query.events(events) as f64;
        let rate = |usage: &Usage| events / usage.wall.as_secs_f64() / 1e3;
        let cost = |usage: &Usage| usage.cpu.as_secs_f64() * 1e9 / events;
        let strategy = if query.strategies.len() > 1 { format!(" ({strategy})") } else { String::new() };
        let _ = writeln!(
            table,
            "| {} | {rows} | {:.0}k | {:.0}k | {:.0} | {:.0} | {:.0}{strategy} | {:.1} | {:.1} | {} | {} |",
            query.name,
            rate(tidemill),
            rate(flink),
            cost(tidemill),
            cost(lax),
            cost(flink),
            cost(flink) / cost(tidemill),
            rate(tidemill) / rate(flink),
            tidemill.peak_bytes / 1_000_000,
            flink.peak_bytes / 1_000_000,
        );
    }
    table
}

fn limits(measures: &[Measure]) -> String {
    let mut table = "| what | Flink to tidemill | at least | holds |\n|---|--:|--:|---|\n".to_owned();
    for measure in measures {
        let least = measure.limit.map(|limit| format!("{:.1}", 1.0 / limit)).unwrap_or_default();
        let holds = if measure.ok() { "yes" } else { "**no**" };
        let _ =
            writeln!(table, "| {} | {:.1} | {least} | {holds} |", measure.name.replace('_', " "), 1.0 / measure.ratio);
    }
    table
}

/// Each text once: some queries differ in their topic or tasks alone.
fn texts(comparisons: &[Comparison]) -> String {
    let mut texts: Vec<(&str, &str)> = vec![];
    for Comparison { query, .. } in comparisons {
        if texts.iter().all(|(_, sql)| *sql != query.sql) {
            texts.push((query.name, query.sql));
        }
    }
    texts.iter().map(|(name, sql)| format!("- {name}: `{sql}`\n")).collect()
}

/// The machine and the versions, as a list.
fn machine() -> Result<String> {
    let line = |path: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(path)?;
        let line =
            text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no `{name}` in {path}"))?;
        Ok(line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned())
    };
    let memory = line("/proc/meminfo", "MemTotal")?;
    let memory: f64 = memory.trim_end_matches(" kB").parse().context("`MemTotal` is a number")?;
    Ok(format!(
        "- Machine: {}, {} cores, {:.0} GiB, Linux {}.\n- tidemill {} ({}), Flink {} with its Kafka connector {}, Kafka {}, {}.",
        line("/proc/cpuinfo", "model name").unwrap_or_else(|_| std::env::consts::ARCH.to_owned()),
        std::thread::available_parallelism()?,
        memory / f64::from(1 << 20),
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        said(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root()))?,
        said(Command::new("rustc").arg("--version"))?,
        flink::VERSION,
        flink::CONNECTOR_VERSION,
        Version::default().number(),
        said(Command::new("java").arg("-version"))?,
    ))
}

/// The first line that a program says.
fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}
