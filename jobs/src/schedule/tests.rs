//! Pipelines under a clock of the test's: runs that die at any point, a store in memory, logs that grow.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    datatypes::Int64Type,
};
use chrono::{DateTime, NaiveDateTime};
use chrono_tz::Tz;
use object_store::memory::InMemory;
use tidemill_connectors::files::{
    FileSink, LaidOutSink, Layout, OpenFolder, OutputFormat, Rolling, each_parquet_batch,
};
use tidemill_engine::{Clock, EngineError, ErrorKind, EventTime, Monotonic, sink::Sink};

use super::{
    advance::{Progress, Range, Steps, Written, between, due, ranges_within, run_range, to_run},
    folders::Folders,
    ledger::{Boundary, Ledger, Outcome, RunRecord},
    timing::{CatchUp, Pipeline, Timing},
    trimming::Step,
};
use crate::{
    epoch::store::Store,
    run::RunError,
    spec::{ByteSize, Duration, FileOutput},
};

/// A linear congruential generator: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// How long after an instant its range is closed.
const CLOSED_AFTER_US: i64 = 7_000_000;

/// Runs that are kept one by one.
const KEPT: usize = 20;

/// Topics and files as far as runs see them.
struct World {
    now: EventTime,
    /// Timestamps of the records of each partition.
    logs: Vec<Vec<i64>>,
    /// By range: the records of its files.
    files: BTreeMap<i64, Vec<(usize, usize)>>,
    random: Random,
    /// One step in so many dies.
    dies_one_in: u64,
    deaths: u32,
}

impl World {
    /// Time passes, records come in; now and then a partition's clock steps back a little.
    fn pass(&mut self, micros: i64) {
        for log in &mut self.logs {
            for _ in 0..self.random.below(4) {
                let at = self.now.0 + self.random.below(micros.unsigned_abs()) as i64;
                let at = log.last().map_or(at, |last| at.max(*last));
                log.push(if self.random.below(200) == 0 { at - 1_500_000 } else { at });
            }
        }
        self.now.0 += micros;
    }

    fn may_die(&mut self) -> Result<(), RunError> {
        if self.random.below(self.dies_one_in) > 0 {
            return Ok(());
        }
        self.deaths += 1;
        let message = "killed".to_owned();
        Err(RunError::Engine(EngineError::Source { input: "t".to_owned(), kind: ErrorKind::Unavailable, message }))
    }
}

/// The records between two boundaries, as partition and offset.
fn records(from: &Boundary, to: &Boundary) -> Vec<(usize, usize)> {
    let of_partition = |(&number, &(from, to)): (&i32, &(i64, i64))| {
        (from as usize..to as usize).map(move |offset| (number as usize, offset)).collect::<Vec<_>>()
    };
    between(from, to)["t"]["t"].iter().flat_map(of_partition).collect()
}

impl Steps for World {
    fn boundary(&mut self, at: EventTime) -> Result<Option<Boundary>, RunError> {
        self.may_die()?;
        if self.now.0 < at.0 + CLOSED_AFTER_US {
            return Ok(None);
        }
        let cut = |log: &Vec<i64>| log.iter().position(|stamp| *stamp >= at.0).unwrap_or(log.len());
        let cuts = self.logs.iter().enumerate().map(|(number, log)| (number as i32, cut(log) as i64));
        let topic = BTreeMap::from([("t".to_owned(), cuts.collect())]);
        self.may_die()?;
        Ok(Some(BTreeMap::from([("t".to_owned(), topic)])))
    }

    fn write(&mut self, range: Range, from: &Boundary, to: &Boundary) -> Result<Written, RunError> {
        self.may_die()?;
        let records = records(from, to);
        let written = Written { records: records.len() as u64, ..Written::default() };
        self.files.insert(range.from.0, records); // in the place of what was there
        self.may_die()?; // before the ledger knows of it
        Ok(written)
    }
}

fn world(start: &str, dies_one_in: u64) -> World {
    World { now: at(start), logs: vec![vec![]; 3], files: BTreeMap::new(), random: Random(11), dies_one_in, deaths: 0 }
}

fn at(text: &str) -> EventTime {
    EventTime(DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros())
}

fn ledger(objects: &Arc<InMemory>) -> Ledger {
    Ledger::new(Arc::new(Store::over(Arc::clone(objects) as _, "job").unwrap()))
}

/// One process: it runs what is due until it dies or nothing is left. Returns the runs that it finished.
fn process(world: &mut World, objects: &Arc<InMemory>, pipeline: &Pipeline) -> u32 {
    let ranges = to_run(&ledger(objects), world.now, pipeline).unwrap();
    run_until_dead(world, &ranges, objects, pipeline)
}

fn run_until_dead(steps: &mut impl Mortal, ranges: &[Range], objects: &Arc<InMemory>, pipeline: &Pipeline) -> u32 {
    let ledger = ledger(objects);
    let mut ran = 0;
    for range in ranges {
        let now = steps.world().now;
        match run_range(&ledger, steps, *range, &|| now) {
            Ok(Progress::Ran(_)) => {
                ran += 1;
                if trim(steps.world(), &ledger, pipeline).is_err() {
                    break;
                }
            }
            Ok(Progress::RanBefore) => {}
            Ok(Progress::NotClosed) | Err(_) => break,
        }
    }
    ran
}

/// Steps in a world.
trait Mortal: Steps {
    fn world(&mut self) -> &mut World;
}

impl Mortal for World {
    fn world(&mut self) -> &mut World {
        self
    }
}

/// Trims the ledger, and may die at each step of it.
fn trim(world: &mut World, ledger: &Ledger, pipeline: &Pipeline) -> Result<(), RunError> {
    for step in ledger.trimming(pipeline.keep_runs)? {
        world.may_die()?;
        assert!(ledger.trim(&step)?);
    }
    Ok(())
}

/// The names that a ledger has in its folders, sorted.
fn names(objects: &Arc<InMemory>) -> BTreeMap<&'static str, Vec<String>> {
    let store = Store::over(Arc::clone(objects) as _, "job").unwrap();
    let folders = ["runs", "failures", "boundaries", "trimmed"];
    folders.into_iter().map(|folder| (folder, store.names(folder).unwrap())).collect()
}

/// Every record below the last boundary is in one file, of the range that its stamp lies in unless its clock had stepped back.
fn assert_exactly_once(world: &World, pipeline: &Pipeline) {
    let mut seen = BTreeMap::new();
    for (&from, records) in &world.files {
        let to = pipeline.timing.after(EventTime(from)).unwrap().0;
        for &(partition, offset) in records {
            assert_eq!(seen.insert((partition, offset), from), None, "twice: partition {partition} offset {offset}");
            let log = &world.logs[partition];
            let earlier = log[..offset].iter().max().copied().unwrap_or(i64::MIN);
            let stamp = log[offset].max(earlier); // a step back counts as no progress
            assert!(
                (from..to).contains(&stamp),
                "partition {partition} offset {offset} at {stamp} is not of {from}..{to}"
            );
        }
    }
    for (partition, log) in world.logs.iter().enumerate() {
        let offsets: Vec<_> = (0..log.len()).filter(|offset| seen.contains_key(&(partition, *offset))).collect();
        let gap = offsets.windows(2).find(|pair| pair[1] != pair[0] + 1);
        assert_eq!(gap, None, "partition {partition} has a gap");
    }
}

#[test]
fn a_thousand_runs_with_deaths_anywhere_and_daylight_saving_put_each_record_into_one_file() {
    // Half past two: skipped in March, repeated in October.
    let timing = Timing::cron("30 2,8,20 * * *", Tz::Europe__Paris).unwrap();
    let pipeline = Pipeline { timing, catch_up: CatchUp::All, keep_runs: KEPT };
    let mut world = world("2026-01-15T02:00:00Z", 8);
    let objects = Arc::new(InMemory::new());
    let mut ran = 0;
    while ran < 1_000 {
        let hours = 1 + world.random.below(9) as i64;
        world.pass(hours * 3_600_000_000);
        ran += process(&mut world, &objects, &pipeline);
    }
    assert!(world.deaths > 100, "{} deaths", world.deaths);
    assert_eq!(world.files.len(), 1_000);
    assert_exactly_once(&world, &pipeline);
    let records: usize = world.files.values().map(Vec::len).sum();
    assert!(records > 3_000, "{records} records");

    // Of old runs the ledger has the period alone: nothing in it is run again, by the schedule or by another one.
    world.dies_one_in = u64::MAX;
    trim(&mut world, &ledger(&objects), &pipeline).unwrap();
    let kept = names(&objects);
    assert_eq!(kept["runs"].len(), KEPT);
    assert_eq!(kept["boundaries"].len(), KEPT + 2);
    assert!(kept["failures"].len() <= KEPT && kept["trimmed"].len() < 6, "{kept:?}");
    let (&first, now) = (world.files.keys().next().unwrap(), world.now);
    let files = world.files.clone();
    let other = Timing::Every(Duration::from_secs(86_400));
    let again = ranges_within(EventTime(first), now, &pipeline.timing);
    let days = ranges_within(EventTime(first), EventTime(now.0 - 30 * 86_400_000_000), &other);
    assert!(again.len() >= 1_000 && days.len() > 300);
    for range in again.into_iter().take(1_000).chain(days) {
        let progress = run_range(&ledger(&objects), &mut world, range, &|| now).unwrap();
        assert!(matches!(progress, Progress::RanBefore), "{range:?}");
    }
    assert_eq!(world.files, files);
    assert_eq!(names(&objects), kept);
}

#[test]
fn whoever_was_frozen_while_others_trimmed_takes_nothing_away() {
    let pipeline = Pipeline { timing: Timing::Every(Duration::from_secs(600)), catch_up: CatchUp::All, keep_runs: 1 };
    let mut world = world("2026-01-15T00:00:00Z", u64::MAX);
    let objects = Arc::new(InMemory::new());
    world.pass(3_600_000_000);
    let run = |world: &mut World, ledger: &Ledger, minutes: [i64; 2]| {
        let [from, to] = minutes.map(|minutes| EventTime(at("2026-01-15T00:00:00Z").0 + minutes * 60_000_000));
        let now = world.now;
        matches!(run_range(ledger, world, Range { from, to }, &|| now).unwrap(), Progress::Ran(_))
    };
    let ledger = ledger(&objects);
    assert!(run(&mut world, &ledger, [0, 10]) && run(&mut world, &ledger, [10, 20]));
    let frozen = ledger.trimming(1).unwrap();
    assert!(matches!(frozen[..], [Step::Note { slot: 1, .. }, Step::Run(_)]), "{frozen:?}");
    // A backfill that it does not know of comes in, and the slot that it would take is taken, then removed.
    for begin in (20..40).step_by(2) {
        assert!(run(&mut world, &ledger, [begin, begin + 2]));
        trim(&mut world, &ledger, &pipeline).unwrap();
    }
    let slots = &names(&objects)["trimmed"];
    assert!(!slots[0].ends_with("01.json"), "{slots:?}");
    let before = names(&objects);
    assert!(!ledger.trim(&frozen[0]).unwrap(), "others are further");
    assert_eq!(names(&objects)["runs"], before["runs"]);
    // The next one removes its slot.
    assert!(run(&mut world, &ledger, [40, 50]));
    trim(&mut world, &ledger, &pipeline).unwrap();
    assert_eq!(names(&objects)["trimmed"].len(), before["trimmed"].len());
    assert_eq!(names(&objects)["boundaries"].len(), 3);
    assert!(!run(&mut world, &ledger, [10, 20]) && !run(&mut world, &ledger, [22, 24]));
}

/// Asks for a boundary, and is frozen until others have done its range and trimmed it.
struct Frozen<'a> {
    world: &'a mut World,
    meanwhile: &'a dyn Fn(&mut World),
}

impl Steps for Frozen<'_> {
    fn boundary(&mut self, at: EventTime) -> Result<Option<Boundary>, RunError> {
        (self.meanwhile)(self.world);
        self.world.boundary(at)
    }

    fn write(&mut self, range: Range, _: &Boundary, _: &Boundary) -> Result<Written, RunError> {
        unreachable!("{range:?} was run")
    }
}

#[test]
fn a_range_that_was_trimmed_is_not_run_by_whoever_was_frozen_before_its_boundary() {
    let pipeline = Pipeline { timing: Timing::Every(Duration::from_secs(600)), catch_up: CatchUp::All, keep_runs: 1 };
    let mut world = world("2026-01-15T00:00:00Z", u64::MAX);
    let objects = Arc::new(InMemory::new());
    world.pass(3_600_000_000);
    let ranges = ranges_within(at("2026-01-15T00:00:00Z"), at("2026-01-15T00:50:00Z"), &pipeline.timing);
    let meanwhile = |world: &mut World| {
        let (ledger, now) = (ledger(&objects), world.now);
        for range in &ranges {
            run_range(&ledger, world, *range, &|| now).unwrap();
            trim(world, &ledger, &pipeline).unwrap();
        }
    };
    let now = world.now;
    let mut frozen = Frozen { world: &mut world, meanwhile: &meanwhile };
    let progress = run_range(&ledger(&objects), &mut frozen, ranges[1], &|| now).unwrap();
    assert!(matches!(progress, Progress::RanBefore));
    assert_eq!(world.files.len(), 5);
}

#[test]
fn a_backfill_beside_the_schedule_doubles_nothing_and_one_of_what_was_done_changes_nothing() {
    let pipeline =
        Pipeline { timing: Timing::Every(Duration::from_secs(600)), catch_up: CatchUp::All, keep_runs: KEPT };
    let mut world = world("2026-01-15T00:00:00Z", u64::MAX);
    let objects = Arc::new(InMemory::new());
    for _ in 0..100 {
        world.pass(60_000_000);
    }
    let until = world.now;
    process(&mut world, &objects, &pipeline); // the last range alone
    for _ in 0..30 {
        world.pass(60_000_000);
        process(&mut world, &objects, &pipeline);
    }
    let before = world.files.clone();
    let backfill = |world: &mut World, to: EventTime| {
        let ledger = ledger(&objects);
        for range in ranges_within(at("2026-01-15T00:05:00Z"), to, &pipeline.timing) {
            let now = world.now;
            run_range(&ledger, world, range, &|| now).unwrap();
        }
    };
    backfill(&mut world, until);
    assert!(world.files.len() > before.len());
    assert!(before.iter().all(|(range, records)| world.files[range] == *records));
    assert_exactly_once(&world, &pipeline);
    let all = world.files.clone();
    let now = world.now;
    backfill(&mut world, now);
    assert_eq!(world.files, all);
}

#[test]
fn what_was_missed_is_caught_up_as_the_job_says() {
    let now = at("2026-01-15T10:00:30Z");
    let last = at("2026-01-15T09:55:00Z");
    let minutes = |catch_up| {
        let pipeline = Pipeline { timing: Timing::Every(Duration::from_secs(60)), catch_up, keep_runs: KEPT };
        let ranges = due(Some(last), now, &pipeline);
        ranges.iter().map(|range| (range.to.0 - last.0) / 60_000_000).collect::<Vec<_>>()
    };
    assert_eq!(minutes(CatchUp::All), [1, 2, 3, 4, 5]);
    assert_eq!(minutes(CatchUp::Latest), [4, 5]);
    assert_eq!(minutes(CatchUp::None), [5]);
    let first = Pipeline { timing: Timing::Every(Duration::from_secs(60)), catch_up: CatchUp::All, keep_runs: KEPT };
    assert_eq!(due(None, now, &first).len(), 1);
    assert!(due(Some(at("2026-01-15T10:00:00Z")), now, &first).is_empty());
}

#[test]
fn what_the_first_run_began_is_gone_on_with_however_late() {
    let pipeline =
        Pipeline { timing: Timing::Every(Duration::from_secs(600)), catch_up: CatchUp::All, keep_runs: KEPT };
    let ledger = ledger(&Arc::new(InMemory::new()));
    let ranges = |now: &str| to_run(&ledger, at(now), &pipeline).unwrap().len();
    assert_eq!(due(ledger.done_up_to().unwrap(), at("2026-01-15T10:05:00Z"), &pipeline).len(), 1);
    assert_eq!(ledger.done_up_to().unwrap(), None, "who looks begins nothing");
    assert_eq!(ranges("2026-01-15T10:05:00Z"), 1);
    assert_eq!(ranges("2026-01-15T10:35:00Z"), 4);
    assert_eq!(ledger.done_up_to().unwrap(), Some(at("2026-01-15T09:50:00Z")));
}

#[test]
fn a_range_of_which_another_schedule_has_run_a_part_is_refused() {
    let hourly =
        Pipeline { timing: Timing::Every(Duration::from_secs(3_600)), catch_up: CatchUp::All, keep_runs: KEPT };
    let mut world = world("2026-01-15T00:00:00Z", u64::MAX);
    let objects = Arc::new(InMemory::new());
    world.pass(2 * 3_600_000_000 + CLOSED_AFTER_US);
    assert_eq!(process(&mut world, &objects, &hourly), 1);
    let files = world.files.clone();
    let (ledger, now) = (ledger(&objects), world.now);
    let mut run = |from: &str, to: &str| {
        let progress = run_range(&ledger, &mut world, Range { from: at(from), to: at(to) }, &|| now);
        progress.map(|progress| matches!(progress, Progress::Ran(_)))
    };
    assert!(!run("2026-01-15T01:00:00Z", "2026-01-15T02:00:00Z").unwrap());
    for (from, to) in
        [("01:00:00", "01:15:00"), ("01:45:00", "02:00:00"), ("00:30:00", "01:30:00"), ("00:00:00", "03:00:00")]
    {
        let error = run(&format!("2026-01-15T{from}Z"), &format!("2026-01-15T{to}Z")).unwrap_err();
        assert!(error.to_string().contains("overlaps 2026-01-15T01:00:00Z to 2026-01-15T02:00:00Z"), "{error}");
    }
    assert!(run("2026-01-15T00:45:00Z", "2026-01-15T01:00:00Z").unwrap());
    assert!(files.iter().all(|(range, records)| world.files[range] == *records));
}

#[test]
fn a_failure_is_noted_beside_what_was_done() {
    let record = |to: &str, outcome| RunRecord {
        from: at(to).0 - 1,
        to: at(to).0,
        outcome,
        attempts: 1,
        records: 0,
        bytes: 0,
        rows: 0,
        late: 0,
        offsets: BTreeMap::new(),
        ended: 0,
    };
    let ledger = ledger(&Arc::new(InMemory::new()));
    let failed = || Outcome::Failed("killed".to_owned());
    let range = |to: &str| Range { from: EventTime(at(to).0 - 1), to: at(to) };
    let (one, two) = ("2026-01-15T01:00:00Z", "2026-01-15T02:00:00Z");
    ledger.put(&record(one, failed())).unwrap();
    assert_eq!((ledger.last().unwrap(), ledger.last_done().unwrap()), (Some(record(one, failed())), None));
    assert_eq!(ledger.failures(range(one)).unwrap(), 1);
    ledger.put(&record(one, Outcome::Done)).unwrap();
    ledger.put(&record(one, failed())).unwrap(); // of a run that was frozen meanwhile
    assert_eq!(ledger.last().unwrap(), Some(record(one, Outcome::Done)));
    assert_eq!(ledger.last_done().unwrap(), Some(at(one)));
    ledger.put(&record(two, failed())).unwrap();
    assert_eq!((ledger.last().unwrap(), ledger.last_done().unwrap()), (Some(record(two, failed())), Some(at(one))));
}

/// The same on a disk: files by country and day, in the order of offsets, the last first.
struct Filing<'a> {
    world: &'a mut World,
    file: &'a FileOutput,
    /// Its number.
    run: u32,
}

impl Mortal for Filing<'_> {
    fn world(&mut self) -> &mut World {
        self.world
    }
}

fn country(partition: usize, offset: usize) -> &'static str {
    ["DE", "F/R", ""][(partition + offset) % 3]
}

fn day(stamp: i64) -> String {
    DateTime::from_timestamp_micros(stamp).unwrap().format("%Y-%m-%d").to_string()
}

struct NoClock;

impl Clock for NoClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(0)
    }

    fn wall(&self) -> EventTime {
        EventTime(0)
    }
}

impl Steps for Filing<'_> {
    fn boundary(&mut self, at: EventTime) -> Result<Option<Boundary>, RunError> {
        self.world.boundary(at)
    }

    fn write(&mut self, range: Range, from: &Boundary, to: &Boundary) -> Result<Written, RunError> {
        let folders = Folders::prepare(self.file, range, &self.run.to_string())?;
        let rolling = Rolling { size: self.file.roll_size.bytes(), every: self.file.roll_every.get() };
        let open: OpenFolder = Box::new(move |folder| {
            FileSink::open("files", "r", folder, OutputFormat::Parquet, rolling, Arc::new(NoClock))
        });
        let waiting_max = 2_000;
        let mut sink = LaidOutSink::new("files", &folders.written(false), self.file.layout.clone(), waiting_max, open);
        let records = records(from, to);
        for some in records.chunks(4) {
            self.world.may_die()?;
            let stamps: Vec<_> = some.iter().map(|&(partition, offset)| self.world.logs[partition][offset]).collect();
            let number = |pick: fn(&(usize, usize)) -> usize| {
                Arc::new(Int64Array::from_iter_values(some.iter().map(|record| pick(record) as i64))) as ArrayRef
            };
            let countries = some.iter().map(|&(partition, offset)| country(partition, offset));
            let columns: [(&str, ArrayRef); 4] = [
                ("partition", number(|record| record.0)),
                ("offset", number(|record| record.1)),
                ("country", Arc::new(StringArray::from_iter_values(countries))),
                ("at", Arc::new(TimestampMicrosecondArray::from(stamps).with_timezone("UTC"))),
            ];
            sink.write(&RecordBatch::try_from_iter(columns).unwrap())?;
        }
        sink.close()?;
        self.world.may_die()?;
        folders.publish()?;
        self.world.may_die()?;
        Ok(Written { records: records.len() as u64, ..Written::default() })
    }
}

/// The records of the files of a folder that can be seen, each of which lies where it should.
fn seen_in(folder: &Path, world: &World) -> Vec<(usize, usize)> {
    let mut seen = vec![];
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            seen.extend(seen_in(&entry, world));
            continue;
        }
        let mut offsets = vec![];
        each_parquet_batch(&entry, &mut |rows| {
            let numbers = |name: &str| rows[name].as_primitive::<Int64Type>().values().iter().map(|n| *n as usize);
            for (partition, offset) in numbers("partition").zip(numbers("offset")) {
                let country = match country(partition, offset) {
                    "" => "__HIVE_DEFAULT_PARTITION__".to_owned(),
                    country => country.replace('/', "%2F"),
                };
                let expected = format!("country={country}/day={}", day(world.logs[partition][offset]));
                assert!(folder.ends_with(&expected), "{} instead of {expected}", folder.display());
                seen.push((partition, offset));
                offsets.push(offset);
            }
            Ok(())
        })
        .unwrap();
        assert!(offsets.is_sorted_by(|a, b| a >= b), "{}: {offsets:?}", entry.display());
    }
    seen
}

#[test]
fn files_by_country_and_day_have_each_record_once_whatever_dies() {
    let pipeline =
        Pipeline { timing: Timing::Every(Duration::from_secs(7_200)), catch_up: CatchUp::All, keep_runs: KEPT };
    let mut world = world("2026-01-15T02:00:00Z", 12);
    let objects = Arc::new(InMemory::new());
    let directory = tempfile::tempdir().unwrap();
    let file = FileOutput {
        path: directory.path().to_owned(),
        roll_size: ByteSize::from_mib(128),
        roll_every: Duration::from_secs(60),
        layout: Layout {
            partition_by: vec!["country".parse().unwrap(), "day(at)".parse().unwrap()],
            sort_by: vec!["offset desc".parse().unwrap()],
        },
    };
    let (mut ran, mut run) = (0, 0);
    while ran < 60 {
        for _ in 0..4 {
            let minutes = 1 + world.random.below(60) as i64;
            world.pass(minutes * 60_000_000);
        }
        let ranges = to_run(&ledger(&objects), world.now, &pipeline).unwrap();
        run += 1;
        ran += run_until_dead(&mut Filing { world: &mut world, file: &file, run }, &ranges, &objects, &pipeline);
    }
    assert!(world.deaths > 20, "{} deaths", world.deaths);
    for entry in fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        let Some(begin) = name.strip_prefix("range=") else {
            assert!(name.starts_with('.'), "{name}");
            continue;
        };
        let begin = NaiveDateTime::parse_from_str(begin, "%Y%m%dT%H%M%SZ").unwrap().and_utc().timestamp_micros();
        let records = seen_in(&entry, &world);
        world.files.insert(begin, records);
    }
    assert_exactly_once(&world, &pipeline);
    assert!(world.files.values().map(Vec::len).sum::<usize>() > 500);
}
