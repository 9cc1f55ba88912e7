//! The simulator: a whole job on one thread, with a seeded clock, scheduler and faults.
//!
//! What runs is what a job runs on: intake, workers, merge, the order of a commit ([`crate::epoch`]'s `steps`), the decisions of
//! a start, marks, the store's log and snapshots. What is played is what lies outside: brokers with their clocks, clusters that
//! take transactions, files. Runs die or freeze between any two steps; a frozen one wakes when another has taken its place.
//! Partitions are slow, answers come twice or not at all, partitions are added, the brokers' clock steps, snapshots are damaged,
//! each run has another number of workers. In the end the outputs are held against one run over the same records without any of
//! this. It is called by `cargo xtask simulate`, and lies here because it drives this crate's private parts.

mod run;
mod world;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use arrow::datatypes::{DataType, Field, Schema};
use tidemill_engine::{
    Monotonic, Result as EngineResult,
    dataflow::{
        merge::{Merge, Output},
        plan::Dataflow,
        worker::Worker,
    },
    source::{PartitionId, Record, Source, SourceEvent, TimestampKind, Visit},
};
use tidemill_queries::{InputTable, Script, Settings};

use run::{Committed, Run, make_intake};
use world::{Letters, Pending, Random, SimSink, World};

/// The outputs: two on the inputs' cluster, one on another, files.
const OUTPUTS: [&str; 4] = ["plain", "tumbling", "hopping", "archive"];
/// The output of dead letters: files.
const LETTERS: &str = "letters";

const QUERY: &str = "
    SELECT id, k, x INTO plain FROM events WHERE id % 3 = 0
    SELECT k, COUNT(*) AS c, SUM(x) AS s, System.Timestamp() AS t INTO tumbling
    FROM events GROUP BY k, TumblingWindow(second, 1)
    SELECT k, COUNT(*) AS c, MIN(id) AS lo, MAX(id) AS hi, System.Timestamp() AS t INTO hopping
    FROM events GROUP BY k, HoppingWindow(second, 3, 1);
    WITH small AS (SELECT k, SUM(x) AS s FROM events GROUP BY k, TumblingWindow(millisecond, 500))
    SELECT COUNT(*) AS c, SUM(s) AS s, System.Timestamp() AS t INTO archive FROM small GROUP BY TumblingWindow(second, 2)";

/// Things that happen before everything calms down.
const ACTIONS: u64 = 400;

/// A deliberate bug, to show that the simulator finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Offsets are committed before the rows, not with them.
    OffsetsBeforeRows,
}

/// Simulates a job's life.
///
/// # Errors
/// What differs from an undisturbed run, or why the job could not go on.
pub fn simulate(seed: u64, mutation: Option<Mutation>) -> Result<(), String> {
    let dataflow = dataflow()?;
    let mut random = Random(seed);
    let mut world = World::new(seed)?;
    let mut run = Run::start(&mut world, dataflow, &mut random)?;
    let mut frozen = None;
    for _ in 0..ACTIONS {
        world.clock.advance(random.below(40_000) as i64);
        match random.below(40) {
            0..8 => world.produce(&mut random),
            8..20 => run.step_worker(random.below(3) as usize)?,
            20..34 => {
                let epoch = run.step_merge(random.below(3) as usize)?;
                if let Some(epoch) = epoch {
                    let mut breaks = |random: &mut Random| random.one_in(30);
                    if let Committed::Broken { left, record } =
                        run.commit(&mut world, &epoch, mutation, &mut random, &mut breaks)?
                    {
                        let dead = std::mem::replace(&mut run, Run::start(&mut world, dataflow, &mut random)?);
                        if random.one_in(2) {
                            frozen = Some(dead.freeze(left, record));
                        }
                    }
                }
            }
            34..37 => run.begin_epoch(random.one_in(3)),
            37 if random.one_in(3) => run = Run::start(&mut world, dataflow, &mut random)?,
            38 => outside(&mut world, &mut random)?,
            _ => {
                if let Some(frozen) = frozen.take() {
                    Run::thaw(frozen, &mut world);
                }
            }
        }
    }
    calm_down(&mut world, &mut run, &mut random)?;
    compare(&world, dataflow)
}

/// Something happens to the brokers or the store.
fn outside(world: &mut World, random: &mut Random) -> Result<(), String> {
    match random.below(4) {
        0 if world.brokers().logs.len() < 5 => world.brokers().logs.push(vec![]),
        // A new leader, or a clock that is set: stamps may go back.
        1 => world.brokers().ahead_us = random.below(400_000) as i64 - 200_000,
        2 => {
            let snapshots = world.store.snapshots(false).map_err(|error| error.to_string())?;
            // The newest of several is torn; the one before is there.
            if let [(_, Ok(newest)), (_, Ok(_)), ..] = &snapshots[..]
                && let Some(object) = newest.operators.iter().find(|object| object.bytes > 0)
            {
                world.store.put(&object.object, b"torn".to_vec()).map_err(|error| error.to_string())?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// No more faults or records: every window closes on evidence and is committed.
fn calm_down(world: &mut World, run: &mut Run, random: &mut Random) -> Result<(), String> {
    world.brokers().calm = true;
    for round in 0..60 {
        world.clock.advance(200_000);
        for worker in 0..3 {
            run.step_worker(worker)?;
        }
        if round % 4 == 3 {
            run.begin_epoch(false);
        }
        for worker in (0..3).cycle().take(90) {
            if let Some(epoch) = run.step_merge(worker)? {
                run.commit(world, &epoch, None, random, &mut |_| false)?;
            }
        }
    }
    Ok(())
}

fn compare(world: &World, dataflow: &Dataflow) -> Result<(), String> {
    let mut expected = undisturbed(world, dataflow)?;
    let mut found: [Vec<String>; 5] = Default::default();
    for (output, row) in world.clusters.iter().flat_map(|cluster| &cluster.rows) {
        found[*output].push(row.clone());
    }
    found[3].clone_from(&world.visible);
    found[4].clone_from(&world.letters);
    for (output, name) in OUTPUTS.iter().chain([&LETTERS]).enumerate() {
        expected[output].sort_unstable();
        found[output].sort_unstable();
        if expected[output] != found[output] {
            return Err(difference(name, &expected[output], &found[output]));
        }
    }
    Ok(())
}

fn difference(name: &str, expected: &[String], found: &[String]) -> String {
    let count = |rows: &[String]| {
        rows.iter().fold(BTreeMap::<String, i64>::new(), |mut counts, row| {
            *counts.entry(row.clone()).or_default() += 1;
            counts
        })
    };
    let (expected, found) = (count(expected), count(found));
    let rows = expected.keys().chain(found.keys());
    let mut texts: Vec<String> = rows
        .filter_map(|row| {
            let (wanted, there) = (expected.get(row).unwrap_or(&0), found.get(row).unwrap_or(&0));
            (wanted != there).then(|| format!("{row} is there {there} times, not {wanted}"))
        })
        .collect();
    texts.sort();
    texts.dedup();
    texts.truncate(5);
    format!("output `{name}`: {}", texts.join("; "))
}

/// The same records in one go, without those that came in behind an idle advance.
fn undisturbed(world: &World, dataflow: &Dataflow) -> Result<Vec<Vec<String>>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let logs = world.brokers().logs.clone();
    let logs = logs.into_iter().enumerate().map(|(number, log)| {
        let on_time = move |offset: i64| !world.late.contains(&(number as i32, offset));
        (0..).zip(log).filter(|(offset, _)| on_time(*offset)).map(|(offset, (ms, value))| (offset, ms, value)).collect()
    });
    let source = Whole { logs: logs.collect(), done: false };
    let letters = Letters { late: Arc::default(), covering: 0, bad: vec![] };
    let intake = make_intake(dataflow, Box::new(source), false, world, BTreeMap::new(), letters)?;
    let mut worker = Worker::try_new(dataflow, vec![intake], &Arc::default()).map_err(|e| text(&e))?;
    let rows: Vec<Pending> = OUTPUTS.iter().chain([&LETTERS]).map(|_| Arc::default()).collect();
    let sinks = rows.iter().map(|rows| Output { sink: Box::new(SimSink(Arc::clone(rows))), rows: Arc::default() });
    let mut merge = Merge::try_new(dataflow, sinks.collect(), &[], 1, &Arc::default()).map_err(|e| text(&e))?;
    while !merge.ended() {
        worker.step(Duration::ZERO, &mut |message| merge.take(0, message).map(drop)).map_err(|e| text(&e))?;
    }
    Ok(rows.iter().map(|rows| rows.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect())
}

/// All records at once.
struct Whole {
    /// By partition: offset, stamp, payload.
    logs: Vec<Vec<(i64, i64, Vec<u8>)>>,
    done: bool,
}

impl Source for Whole {
    fn poll(&mut self, _wait: Duration, visit: &mut Visit<'_>) -> EngineResult<()> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(());
        }
        for id in 0..self.logs.len() {
            let (partition, number) = (PartitionId(id as u32), id as i32);
            visit(SourceEvent::Joined { partition, topic: "events", number, start_offset: 0 })?;
        }
        for (id, log) in self.logs.iter().enumerate() {
            let partition = PartitionId(id as u32);
            let records = log.iter().map(|(offset, timestamp_ms, value)| Record {
                offset: *offset,
                timestamp_ms: *timestamp_ms,
                timestamp_kind: TimestampKind::LogAppend,
                key: None,
                value: Some(value),
                headers: &[],
                unread_headers: None,
            });
            let records: Vec<_> = records.collect();
            visit(SourceEvent::Records { partition, records: &records, received: Monotonic(0), live_from: None })?;
            visit(SourceEvent::Finished { partition })?;
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.done
    }
}

/// The job, planned once.
fn dataflow() -> Result<&'static Dataflow, String> {
    static PLANNED: OnceLock<Result<Dataflow, String>> = OnceLock::new();
    let plan = || {
        let field = |name: &str, data_type| Field::new(name, data_type, true);
        let schema =
            Schema::new(vec![field("id", DataType::Int64), field("k", DataType::Utf8), field("x", DataType::Float64)]);
        let table = InputTable::declared("events", Arc::new(schema));
        let script = Script::parse(QUERY).map_err(|errors| errors.render(QUERY, "simulated"))?;
        let outputs = OUTPUTS.map(str::to_owned);
        tidemill_queries::plan(&script, &[table], &outputs, &Settings::default())
            .map_err(|errors| errors.render(QUERY, "simulated"))
    };
    PLANNED.get_or_init(plan).as_ref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Debug builds are slow; `cargo xtask simulate` does more.
    const SEEDS: u64 = 200;

    #[test]
    fn whatever_happens_the_rows_are_those_of_an_undisturbed_run() {
        for seed in 0..SEEDS {
            if let Err(difference) = simulate(seed, None) {
                panic!("seed {seed}: {difference}");
            }
        }
    }

    #[test]
    fn offsets_that_are_committed_before_the_rows_are_found() {
        let found = (0..1_000).find(|&seed| simulate(seed, Some(Mutation::OffsetsBeforeRows)).is_err());
        assert!(found.is_some(), "a deliberate bug is not found within 1,000 seeds");
    }
}
