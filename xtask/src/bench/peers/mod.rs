//! `cargo xtask bench peers`: tidemill beside Flink SQL, on the same Kafka, the same topics, in the same run.
//!
//! Both run the same text ([`query`]), once to files whose rows must be the same ([`rows`]), then to nowhere, in turns. Flink is
//! taken at its best: warm, with only the columns declared that it needs, by the better of its strategies; its CPU time is that
//! of the TaskManager alone. What comes out is printed and becomes `docs/benchmarks.md` ([`document`]). Where Flink cannot be had,
//! nothing is compared, and the error says why. [`nexmark`] does the same with the queries and the events of that benchmark.

mod document;
mod flink;
pub(super) mod nexmark;
mod query;
mod rows;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use self::flink::Flink;
use self::query::{AVRO, Counts, FIRST_ROW, Format, LEFT, MANY_USERS, PACKED, QUERIES, Query};
use super::events::{self, Spread};
use super::process::Usage;
use super::report::Measure;
use super::{OTHERS, Options, PARTITIONS, PLAIN, Programs, ROUNDS, Run, TOPIC, first_row_after, in_turns, load};
use crate::kafka::{Broker, BrokerOptions};

/// The broker stamps at most so many in a second: 31 of each user, who then has sessions of some twenty events.
const EVENTS_PER_SECOND: f64 = 310_000.0;

/// Flink's table that takes all rows and keeps none.
const NOWHERE: &str = "'connector' = 'blackhole'";

/// A measure: its name, its query, what of a run it is about, and how many times as much Flink takes at least.
const LIMITS: [(&str, &str, Figure, f64); 8] = [
    ("stateless_cpu", "stateless", Figure::Cpu, 5.0),
    ("tumbling_10_keys_cpu", "tumbling, 10 keys", Figure::Cpu, 6.0),
    ("tumbling_10000_keys_cpu", "tumbling, 10,000 keys", Figure::Cpu, 8.0),
    ("hopping_cpu", "hopping", Figure::Cpu, 8.0),
    ("session_cpu", "session", Figure::Cpu, 15.0),
    ("join_cpu", "join", Figure::Cpu, 4.0),
    ("stateless_2_tasks_wall", "stateless, 2 tasks", Figure::Wall, 2.5),
    ("tumbling_2_tasks_wall", "tumbling, 2 tasks", Figure::Wall, 4.0),
];

/// How many times as much memory Flink takes at least, and time to its first row.
const MEMORY_LIMIT: f64 = 4.0;
const FIRST_ROW_LIMIT: f64 = 10.0;

#[derive(Clone, Copy, Debug)]
enum Figure {
    Cpu,
    Wall,
}

impl Figure {
    fn of(self, usage: &Usage) -> f64 {
        match self {
            Self::Cpu => usage.cpu,
            Self::Wall => usage.wall,
        }
        .as_secs_f64()
    }
}

/// What one query took on both sides; medians.
#[derive(Debug)]
struct Comparison {
    query: &'static Query,
    /// Events that it reads.
    events: u64,
    /// Rows of the untimed run, the same on both sides.
    rows: u64,
    tidemill: Usage,
    /// Where only what stands before the last column is checked; none of a format that has no such option.
    lax: Option<Usage>,
    flink: Usage,
    /// Flink's strategy, the one that took less CPU time.
    strategy: &'static str,
}

/// From the start of all processes to the first row, the median of [`ROUNDS`].
#[derive(Clone, Copy, Debug)]
struct FirstRow {
    tidemill: Duration,
    flink: Duration,
}

/// Measures, writes the document, prints its tables, and gives the measures.
///
/// # Errors
/// When Flink cannot be had, a run fails, or the two sides give other rows.
pub(super) fn run(options: &Options) -> Result<Vec<Measure>> {
    flink::files().context("Flink was not run")?;
    let programs = Programs::build(options, &["tidemill"])?;
    let kafka = Broker::start(BrokerOptions { long_run: true, heap_mib: 1_024, ..BrokerOptions::default() })?;
    let start = Instant::now();
    eprintln!("loading {} events into {TOPIC} ...", options.events);
    for topic in [TOPIC, MANY_USERS, AVRO] {
        kafka.create_topic(topic, PARTITIONS, &[])?;
    }
    let events = events::generate(options.events, PARTITIONS, Spread::ByUser);
    kafka.produce(TOPIC, events::paced(events, EVENTS_PER_SECOND))?;
    let loading = start.elapsed();
    load(&kafka, &[(LEFT, PLAIN), (OTHERS, PLAIN)], options.events)?;
    load(&kafka, &[(PACKED, "lz4")], options.events)?;
    eprintln!("loading as many into {MANY_USERS} and {AVRO} ...");
    kafka.produce(MANY_USERS, events::of_keys(options.events, 1_000_000, PARTITIONS, Spread::ByUser))?;
    kafka.produce(AVRO, events::in_avro(options.events, PARTITIONS))?;
    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;

    let first_row =
        FirstRow { tidemill: first_row_after(&programs, &kafka, dir.path())?, flink: flinks_first_row_after(&kafka)? };
    let counts = [TOPIC, LEFT, OTHERS, PACKED, MANY_USERS, AVRO].map(|topic| (topic, options.events)).into();
    let bench = Bench { counts, programs: &programs, kafka: &kafka, flink: Flink::start()?, dir: dir.path() };
    let comparisons = bench.compare(QUERIES)?;
    let measures = measures(&comparisons, first_row);
    let text = document::of_peers(&comparisons, &measures, first_row, options, loading)?;
    println!("{text}");
    Ok(measures)
}

/// As [`first_row_after`] for tidemill.
fn flinks_first_row_after(kafka: &Broker) -> Result<Duration> {
    let mut times = vec![];
    for _ in 0..ROUNDS {
        let start = Instant::now();
        Flink::start()?.first_row(&FIRST_ROW.flink(kafka, FIRST_ROW.strategies[0], "'connector' = 'print'"))?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[ROUNDS / 2])
}

/// Both sides, and what they read.
struct Bench<'a> {
    counts: Counts,
    programs: &'a Programs,
    kafka: &'a Broker,
    flink: Flink,
    /// Where specs and rows lie.
    dir: &'a Path,
}

impl Bench<'_> {
    /// What both sides take for each of these queries.
    fn compare(&self, queries: &'static [Query]) -> Result<Vec<Comparison>> {
        let rows = queries.iter().map(|query| self.rows_of_both(query)).collect::<Result<Vec<_>>>()?;
        let medians = in_turns(&self.warm_runs(queries)?)?;
        let of = |(query, rows): (&'static Query, u64)| compare(query, query.events(&self.counts), rows, &medians);
        Ok(queries.iter().zip(rows).map(of).collect())
    }

    /// Runs a query on both sides, not timed; how many rows it has, which must be the same.
    fn rows_of_both(&self, query: &Query) -> Result<u64> {
        eprintln!("rows of {} ...", query.name);
        let folder = tempfile::tempdir_in(self.dir)?;
        let (ours, theirs) = (folder.path().join("tidemill"), folder.path().join("flink"));
        self.tidemill(query, &format!("{{file: {{path: {}/}}, format: json}}", ours.display()), "full")?;
        self.flink.run(&query.flink_files(self.kafka, &theirs))?;
        let (ours, theirs) = (rows::in_folder(&ours)?, rows::in_folder(&theirs)?);
        ensure!(ours == theirs, "`{}` gives other rows: tidemill {ours:?}, Flink {theirs:?}", query.name);
        ensure!(ours.count > 0, "`{}` gives no rows", query.name);
        Ok(ours.count)
    }

    /// All that is timed. What a JVM runs for the first time is slow, so Flink has run each once before.
    fn warm_runs(&self, queries: &'static [Query]) -> Result<Vec<Run<'_>>> {
        let mut runs = vec![];
        for query in queries {
            let sides =
                if query.format == Format::Json { &[(TIDEMILL, "full"), (LAX, "lax")][..] } else { &[(TIDEMILL, "")] };
            for (side, check) in sides {
                runs.push(Run::new(name(query, side), move || self.tidemill(query, "{discard: {}}", check)));
            }
            for strategy in query.strategies {
                let job = query.flink(self.kafka, strategy, NOWHERE);
                let name = name(query, &side_of_flink(strategy));
                eprintln!("warming: {name} {}", self.flink.run(&job)?);
                runs.push(Run::new(name, move || self.flink.run(&job)));
            }
        }
        Ok(runs)
    }

    fn tidemill(&self, query: &Query, output: &str, check: &str) -> Result<Usage> {
        let spec = self.dir.join("job.yaml");
        fs::write(&spec, query.spec(self.kafka, output, check))?;
        self.programs.bounded(&spec, query.tasks, query.events(&self.counts))
    }
}

/// The sides of a run's name.
const TIDEMILL: &str = "tidemill";
const LAX: &str = "tidemill lax";

fn side_of_flink(strategy: &str) -> String {
    format!("Flink {strategy}")
}

fn name(query: &Query, side: &str) -> String {
    format!("{}: {side}", query.name)
}

fn compare(query: &'static Query, events: u64, rows: u64, medians: &BTreeMap<String, Usage>) -> Comparison {
    let find = |side: &str| medians.get(&name(query, side)).copied();
    let of = |side: &str| find(side).expect("it was run");
    let strategies = query.strategies.iter().map(|strategy| (of(&side_of_flink(strategy)), *strategy));
    let (flink, strategy) = strategies.min_by_key(|(usage, _)| usage.cpu).expect("each query has a strategy");
    Comparison { query, events, rows, tidemill: of(TIDEMILL), lax: find(LAX), flink, strategy }
}

/// What tidemill takes of what Flink takes.
fn measures(comparisons: &[Comparison], first_row: FirstRow) -> Vec<Measure> {
    let measure =
        |name, ours: f64, theirs: f64, least: f64| Measure { name, ratio: ours / theirs, limit: Some(1.0 / least) };
    let of =
        |query: &str| comparisons.iter().find(|comparison| comparison.query.name == query).expect("it is compared");
    let limited = LIMITS.into_iter().map(|(name, query, figure, least)| {
        let Comparison { tidemill, flink, .. } = of(query);
        measure(name, figure.of(tidemill), figure.of(flink), least)
    });
    let memory =
        |side: fn(&Comparison) -> &Usage| comparisons.iter().map(|one| side(one).peak_bytes).max().unwrap_or(0) as f64;
    let rest = [
        measure("memory", memory(|one| &one.tidemill), memory(|one| &one.flink), MEMORY_LIMIT),
        measure("first_row", first_row.tidemill.as_secs_f64(), first_row.flink.as_secs_f64(), FIRST_ROW_LIMIT),
    ];
    limited.chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheaper_strategy_counts_and_every_limit_has_its_query() {
        let usage = |cpu: u64| Usage { wall: Duration::from_secs(9), cpu: Duration::from_secs(cpu), peak_bytes: 8 };
        let comparisons: Vec<_> = QUERIES
            .iter()
            .map(|query| {
                let strategies = query.strategies.iter().zip([80, 40]).map(|(side, cpu)| (side_of_flink(side), cpu));
                let sides = [(TIDEMILL.to_owned(), 2), (LAX.to_owned(), 1)].into_iter().chain(strategies);
                compare(query, 9, 1, &sides.map(|(side, cpu)| (name(query, &side), usage(cpu))).collect())
            })
            .collect();
        let seconds = Duration::from_secs;
        let measures = measures(&comparisons, FirstRow { tidemill: seconds(1), flink: seconds(20) });
        let ratio = |name| measures.iter().find(|measure| measure.name == name).unwrap().ratio;
        assert_eq!([ratio("stateless_cpu"), ratio("hopping_cpu")], [0.025, 0.05]);
        assert_eq!([ratio("tumbling_2_tasks_wall"), ratio("memory"), ratio("first_row")], [1.0, 1.0, 0.05]);
        assert_eq!(comparisons[3].strategy, "TWO_PHASE");
    }
}
