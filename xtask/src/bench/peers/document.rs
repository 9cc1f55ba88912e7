//! The section of what the bench found, on which machine, when, and of what.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::super::document::{self, machine, said};
use super::super::process::Usage;
use super::super::report::Measure;
use super::super::{Options, PARTITIONS, ROUNDS};
use super::{Comparison, FirstRow, flink};

/// The section of [`super::run`], written to its place unless debug builds were measured.
///
/// # Errors
/// When it cannot be written, or the machine does not say what it is.
pub(super) fn of_peers(
    comparisons: &[Comparison],
    measures: &[Measure],
    first_row: FirstRow,
    options: &Options,
    loading: Duration,
) -> Result<String> {
    let text = format!(
        "Both sides read the same topics of one Kafka in the same run, in turns, on cores that they share with the broker: medians of
{ROUNDS} rounds.

{machine}- {events} events of about 200 bytes of JSON a topic, {PARTITIONS} partitions, 10,000 users, 10 countries, stamped by the broker while they were loaded
  in {loading:.0} s; the two topics of the join were loaded side by side. The topic of 1,000,000 keys has as many users, that in Avro events
  of about 75 bytes.
- CPU: user and system of tidemill's whole process, its start included, which counts where events are few; of Flink's TaskManager alone,
  without JobManager, gateway and client, while the job was planned and run.
- Wall: tidemill's process from start to end; Flink's job from RUNNING to FINISHED.
- Flink at its best: warm JVM (each query has run once before), only the needed columns declared (of Avro all, as it has to), object reuse, state on the heap, no
  checkpoints, parallel collector, 4 GiB; the cheaper of its aggregation strategies.
- Peak: of tidemill's process; of the TaskManager's since the job's start, in a JVM that has run the others before.
- tidemill checks that records are well-formed to their ends. `lax` leaves a record in JSON behind its last needed column.
- The rows of each query were compared once, outside of the timed runs: as many on both sides, with the same checksum.

{queries}
Start to first row, from nothing running but Kafka: tidemill {ours:.2} s, Flink {theirs:.1} s.

### Against what is asked for

How many times as much Flink takes, and the least that is asked for.

{limits}
### The queries

The same text on both sides, but for the quotes around `user`.

{texts}",
        events = options.events,
        machine = machine_and_flink()?,
        loading = loading.as_secs_f64(),
        queries = queries(comparisons),
        ours = first_row.tidemill.as_secs_f64(),
        theirs = first_row.flink.as_secs_f64(),
        limits = limits(measures),
        texts = texts(comparisons),
    );
    put("Beside Flink SQL", "peers", options, &text)
}

/// The section of [`super::nexmark`], as [`of_peers`].
///
/// # Errors
/// As [`of_peers`].
pub(super) fn of_nexmark(comparisons: &[Comparison], options: &Options, loading: Duration) -> Result<String> {
    let text = format!(
        "Measured as `bench peers` does: in turns, rows compared, Flink at its best, medians of {ROUNDS} rounds.

{machine}- {events} events of the generator of the `nexmark` crate with its defaults, a person and three auctions to 46 bids, each kind a topic of
  JSON of {PARTITIONS} partitions, loaded side by side in {loading:.0} s. Event time is the broker's stamp, also where Nexmark has the clock
  of the machine (q12).
- q8 reads persons and auctions alone, so few that most of its CPU time is the start of the process and the plan of the job.
- Left out: q3, q4 and q6, which join for ever (a join of the language is bounded in time), and q5, which takes a window of a window's
  rows by their bounds.

{queries}
### The queries of Nexmark

The same text on both sides, but for the quotes around names.

{texts}",
        events = options.events,
        machine = machine_and_flink()?,
        loading = loading.as_secs_f64(),
        queries = queries(comparisons),
        texts = texts(comparisons),
    );
    put("Nexmark", "nexmark", options, &text)
}

/// Says which command found it and when, and writes it to its place unless debug builds were measured.
fn put(title: &str, command: &str, options: &Options, text: &str) -> Result<String> {
    let (events, date) = (options.events, chrono::Utc::now().date_naive());
    let text = format!("As `cargo xtask bench {command} --events {events}` found it on {date}. {text}");
    if !options.debug {
        document::put(title, &text)?;
    }
    Ok(text)
}

fn machine_and_flink() -> Result<String> {
    let java = said(Command::new("java").arg("-version"))?;
    let (flink, connector) = (flink::VERSION, flink::CONNECTOR_VERSION);
    Ok(machine()? + &format!("- Flink {flink} with its Kafka connector {connector}, {java}.\n"))
}

fn queries(comparisons: &[Comparison]) -> String {
    let mut table = "\
| query | rows | tidemill events/s | Flink events/s | tidemill CPU ns/event | lax | Flink | CPU, Flink to tidemill | wall | tidemill peak MB | Flink peak MB |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"
    .to_owned();
    for Comparison { query, events, rows, tidemill, lax, flink, strategy } in comparisons {
        let events = *events as f64;
        let rate = |usage: &Usage| events / usage.wall.as_secs_f64() / 1e3;
        let cost = |usage: &Usage| usage.cpu.as_secs_f64() * 1e9 / events;
        let strategy = if query.strategies.len() > 1 { format!(" ({strategy})") } else { String::new() };
        let _ = writeln!(
            table,
            "| {} | {rows} | {:.0}k | {:.0}k | {:.0} | {} | {:.0}{strategy} | {:.1} | {:.1} | {} | {} |",
            query.name,
            rate(tidemill),
            rate(flink),
            cost(tidemill),
            lax.as_ref().map(|lax| format!("{:.0}", cost(lax))).unwrap_or_default(),
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
