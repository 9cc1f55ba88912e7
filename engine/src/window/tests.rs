//! Sessions against their definition, row by row: whatever the batches, the order within the watermark and the workers.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
};
use datafusion_functions_aggregate::count::count_udaf;
use datafusion_physical_expr::{
    aggregate::{AggregateExprBuilder, LoweredAggregate},
    expressions::col,
};

use super::{
    MergeSessions, PartialAggregate, WindowAggregate,
    assign_sessions::AssignSessions,
    shape::{Closed, SessionShape, Windows},
};
use crate::{
    EVENT_TIME, EventTime, Result,
    dataflow::plan::AggregatePlan,
    datetime_type,
    operator::{Emit, Operator},
};

/// (key, time) of a row.
type Row = (i64, i64);
/// (key, first, end, rows) of a session.
type Found = (i64, i64, i64, i64);

#[derive(Default)]
struct Signals {
    batches: Vec<RecordBatch>,
    watermark: Option<EventTime>,
}

impl Emit for Signals {
    fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        let times = batch.column(batch.num_columns() - 1);
        if let Some(times) = times.as_primitive_opt::<TimestampMicrosecondType>() {
            assert!(
                self.watermark.is_none_or(|w| times.values().iter().all(|t| *t >= w.0)),
                "a row behind its watermark"
            );
        }
        self.batches.push(batch);
        Ok(())
    }

    fn watermark(&mut self, t: EventTime) -> Result<()> {
        assert!(self.watermark.is_none_or(|w| t >= w));
        self.watermark = Some(t);
        Ok(())
    }

    fn failed(&mut self, row: crate::user_code::FailedRow) -> Result<()> {
        panic!("{row:?}")
    }
}

fn input_schema() -> SchemaRef {
    let time = Field::new(EVENT_TIME, datetime_type(), false);
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true), time]))
}

fn batch(rows: &[Row]) -> RecordBatch {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.1)).with_timezone("UTC");
    RecordBatch::try_new(input_schema(), vec![keys, Arc::new(times)]).unwrap()
}

fn schema(columns: &[&str]) -> SchemaRef {
    let fields = columns.iter().map(|name| match *name {
        "k" | "n" => Field::new(*name, DataType::Int64, true),
        _ => Field::new(*name, datetime_type(), *name != EVENT_TIME),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The halves of an aggregation by key, with COUNT(*).
fn aggregation(shape: SessionShape, workers: usize) -> (Vec<PartialAggregate>, MergeSessions) {
    let count = AggregateExprBuilder::new(count_udaf(), vec![col("k", &input_schema()).unwrap()]);
    let aggregate = count.schema(input_schema()).alias("n").build().unwrap();
    let plan = AggregatePlan {
        windows: Windows::Session(shape),
        keys: vec![col("k", &input_schema()).unwrap()],
        partition: vec![0],
        aggregates: vec![Arc::new(LoweredAggregate {
            aggregate: Arc::new(aggregate),
            filter: None,
            order_bys: vec![],
        })],
    };
    let window = Arc::new(WindowAggregate::try_new(plan, &input_schema(), Arc::default()).unwrap());
    let partials = (0..workers).map(|_| PartialAggregate::new(Arc::clone(&window))).collect();
    let schema = schema(&["k", "window_start", "window_end", "n", EVENT_TIME]);
    (partials, MergeSessions::try_new(window, shape, schema).unwrap())
}

fn found(batches: &[RecordBatch], count: Option<usize>) -> Vec<Found> {
    let mut found = BTreeMap::<(i64, i64, i64), i64>::new();
    for batch in batches {
        let last = batch.num_columns() - 1;
        let (start, end) = if count.is_some() { (1, 2) } else { (last - 3, last - 2) };
        let time = |c: usize, row| batch.column(c).as_primitive::<TimestampMicrosecondType>().value(row);
        let number = |c: usize, row| batch.column(c).as_primitive::<Int64Type>().value(row);
        for row in 0..batch.num_rows() {
            let session = (number(0, row), time(start, row), time(end, row));
            *found.entry(session).or_default() += count.map_or(1, |c| number(c, row));
        }
    }
    found.into_iter().map(|((key, first, end), rows)| (key, first, end, rows)).collect()
}

/// By the definition: rows in order; over when the gap is exceeded or a check comes late enough.
fn expected(shape: SessionShape, rows: &[Row]) -> Vec<Found> {
    let mut by_key = BTreeMap::<i64, Vec<i64>>::new();
    rows.iter().for_each(|(key, t)| by_key.entry(*key).or_default().push(*t));
    let mut all = vec![];
    for (key, mut times) in by_key {
        times.sort_unstable();
        // (first row, opened, last row, rows)
        let mut open: Option<(i64, i64, i64, i64)> = None;
        let mut sessions = vec![];
        for now in times[0]..=times[times.len() - 1] + shape.gap + 1 {
            let arriving = times.iter().filter(|t| **t == now).count() as i64;
            if let Some((first, opened, last, rows)) = open {
                if now - last > shape.gap {
                    sessions.extend((rows > 0).then_some((key, first, last + shape.gap, rows)));
                    open = None;
                } else if shape.max.is_some_and(|max| now % max == 0 && now - opened >= max) {
                    // The row at the check is in the window that ends there.
                    let (last, rows) = if arriving > 0 { (now, rows + arriving) } else { (last, rows) };
                    let first = if rows == arriving { now } else { first };
                    sessions.extend((rows > 0).then_some((key, first, now, rows)));
                    open = Some((now, now, last, 0));
                    continue;
                }
            }
            if arriving > 0 {
                open = Some(match open {
                    None => (now, now, now, arriving),
                    Some((_, opened, _, 0)) => (now, opened, now, arriving),
                    Some((first, opened, _, rows)) => (first, opened, now, rows + arriving),
                });
            }
        }
        all.extend(sessions);
    }
    all.sort_unstable();
    all
}

/// Numbers that look random, the same each time.
fn random(seed: &mut u64, below: u64) -> i64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*seed >> 33) % below) as i64
}

fn rows(seed: u64) -> Vec<Row> {
    let mut seed = seed;
    let mut t = 0;
    let mut row = || {
        t += if random(&mut seed, 12) == 0 { random(&mut seed, 60) } else { random(&mut seed, 8) };
        (random(&mut seed, 3), t)
    };
    (0..150).map(|_| row()).collect()
}

fn shapes() -> impl Iterator<Item = SessionShape> {
    let lengths = [(5, None), (9, Some(20)), (10, Some(10)), (4, Some(7)), (30, Some(10)), (12, Some(100))];
    lengths.into_iter().map(|(gap, max)| SessionShape { gap, max, closed: Closed::End })
}

#[test]
fn sessions_are_what_their_definition_says() {
    for (seed, shape) in (0..12).flat_map(|seed| shapes().map(move |shape| (seed, shape))) {
        let rows = rows(seed);
        let expected = expected(shape, &rows);
        for (size, workers) in [(1, 1), (7, 2), (150, 3)] {
            let (mut partials, mut merge) = aggregation(shape, workers);
            let mut out = Signals::default();
            let mut watermark = |partials: &mut Vec<PartialAggregate>, t: EventTime| {
                let mut states = Signals::default();
                partials.iter_mut().for_each(|p| p.on_watermark(0, t, &mut states).unwrap());
                states.batches.into_iter().for_each(|state| merge.on_batch(0, state, &mut out).unwrap());
                merge.on_watermark(0, t, &mut out).unwrap();
            };
            for (i, chunk) in rows.chunks(size).enumerate() {
                let shuffled: Vec<Row> = chunk.iter().rev().copied().collect();
                partials[i % workers].on_batch(0, batch(&shuffled), &mut Signals::default()).unwrap();
                let partial = &mut partials[i % workers];
                let state = partial.snapshot().unwrap();
                partial.restore(state).unwrap();
                watermark(&mut partials, EventTime(chunk[0].1));
            }
            watermark(&mut partials, EventTime::MAX);
            assert_eq!(found(&out.batches, Some(3)), expected, "seed {seed}, {shape:?}, batches of {size}");
        }
    }
}

#[test]
fn rows_get_the_session_that_they_lie_in() {
    let schema = schema(&["k", "window_start", "window_end", "window_time", EVENT_TIME]);
    for (seed, shape) in (0..12).flat_map(|seed| shapes().map(move |shape| (seed, SessionShape { max: None, ..shape })))
    {
        let rows = rows(seed);
        let expected = expected(shape, &rows);
        for size in [1, 9, 150] {
            let late: Arc<AtomicU64> = Arc::default();
            let key = [col("k", &input_schema()).unwrap()];
            let new = || {
                AssignSessions::try_new(shape, &key, &input_schema(), Arc::clone(&schema), Arc::clone(&late)).unwrap()
            };
            let mut operator = new();
            let mut out = Signals::default();
            for chunk in rows.chunks(size) {
                let shuffled: Vec<Row> = chunk.iter().rev().copied().collect();
                operator.on_batch(0, batch(&shuffled), &mut out).unwrap();
                operator.on_watermark(0, EventTime(chunk[0].1), &mut out).unwrap();
                let state = operator.snapshot().unwrap();
                operator = new();
                operator.restore(state).unwrap();
            }
            operator.on_watermark(0, EventTime::MAX, &mut out).unwrap();
            assert_eq!(found(&out.batches, None), expected, "seed {seed}, {shape:?}, batches of {size}");
            assert_eq!(late.load(std::sync::atomic::Ordering::Relaxed), 0);
        }
    }
}

#[test]
fn a_late_row_joins_an_open_session_and_is_counted_where_there_is_none() {
    let shape = SessionShape { gap: 5, max: None, closed: Closed::Start };
    let schema = schema(&["k", "window_start", "window_end", "window_time", EVENT_TIME]);
    let late: Arc<AtomicU64> = Arc::default();
    let key = [col("k", &input_schema()).unwrap()];
    let mut operator = AssignSessions::try_new(shape, &key, &input_schema(), schema, Arc::clone(&late)).unwrap();
    let mut out = Signals::default();
    operator.on_batch(0, batch(&[(1, 10), (1, 20), (2, 10)]), &mut out).unwrap();
    operator.on_watermark(0, EventTime(15), &mut out).unwrap();
    assert!(out.batches.is_empty(), "a row at 15 may still come and is of the session that ends then");
    // 15 joins the two sessions of key 1; 9 is behind the watermark, but its session would end at 16 or later.
    operator.on_batch(0, batch(&[(1, 15), (3, 11)]), &mut out).unwrap();
    operator.on_watermark(0, EventTime(17), &mut out).unwrap();
    operator.on_batch(0, batch(&[(2, 11), (3, 11)]), &mut out).unwrap();
    operator.on_watermark(0, EventTime::MAX, &mut out).unwrap();
    assert_eq!(found(&out.batches, None), [(1, 10, 25, 3), (2, 10, 15, 1), (3, 11, 16, 1)]);
    assert_eq!(late.load(std::sync::atomic::Ordering::Relaxed), 2);
}
