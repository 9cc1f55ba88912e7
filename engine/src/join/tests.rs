//! State stays within its bounds, and matches are those of the definition.

use std::sync::Arc;

use arrow::{array::Int64Array, datatypes::Int64Type};
use datafusion_physical_expr::expressions::col;

use super::*;
use crate::{EVENT_TIME, datetime_type};

#[derive(Default)]
struct Rows(Vec<RecordBatch>);

impl Emit for Rows {
    fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.0.push(batch);
        Ok(())
    }

    fn watermark(&mut self, _t: EventTime) -> Result<()> {
        Ok(())
    }

    fn failed(&mut self, row: crate::user_code::FailedRow) -> Result<()> {
        panic!("{row:?}")
    }
}

fn schema() -> SchemaRef {
    let time = Field::new(EVENT_TIME, datetime_type(), false);
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true), time]))
}

fn rows(rows: &[(i64, i64)]) -> RecordBatch {
    let keys = Int64Array::from_iter_values(rows.iter().map(|r| r.0));
    RecordBatch::try_new(schema(), vec![Arc::new(keys), datetimes(rows.iter().map(|r| r.1))]).unwrap()
}

fn join(outer: bool, unit_us: i64, min: i64, max: i64) -> StreamJoin {
    let input = schema();
    let key = col("k", &input).unwrap();
    let fields = vec![input.field(0).clone(), input.field(0).clone().with_name("other"), input.field(1).clone()];
    let plan = JoinPlan {
        outer,
        keys: vec![(key.clone(), key)],
        bounds: vec![TimeBound { left_time: 1, lag_us: 0, unit_us, min: Some(min), max: Some(max) }],
        condition: None,
        left_columns: vec![0],
        right_columns: vec![0],
    };
    StreamJoin::try_new(plan, &input, Arc::new(Schema::new(fields))).unwrap()
}

/// Gives both sides' rows, which are in order, up to their watermark.
fn give(join: &mut StreamJoin, left: &[(i64, i64)], right: &[(i64, i64)], below: i64, out: &mut Rows) {
    let mut order: Vec<(usize, usize)> =
        (0..left.len()).map(|i| (0, i)).chain((0..right.len()).map(|i| (1, i))).collect();
    order.sort_by_key(|&(port, row)| (if port == 0 { left[row].1 } else { right[row].1 }, port));
    join.rows(&[rows(left), rows(right)], &order, out).unwrap();
    join.advance(EventTime(below), out).unwrap();
}

#[test]
fn keys_that_move_on_are_forgotten() {
    for outer in [false, true] {
        let mut join = join(outer, 10, -5, 20);
        let mut out = Rows::default();
        for round in 0..500i64 {
            let fresh: Vec<(i64, i64)> = (0..100).map(|i| (round * 100 + i, round * 100 + i)).collect();
            give(&mut join, &fresh, &fresh, (round + 1) * 100, &mut out);
            for side in &join.sides {
                let held: usize = side.held().map(|held| held.batch.num_rows()).sum();
                // Rows of 210 us, and of the batches that they lie in.
                assert!(held <= 4_096 + 400, "{held} rows in round {round}");
            }
            let keys = join.keys.len();
            assert!(keys <= 16_384 + 400, "{keys} keys in round {round}");
        }
        let given: usize = out.0.iter().map(RecordBatch::num_rows).sum();
        assert!((49_000..=50_000).contains(&given), "{given}");
    }
}

#[test]
fn matches_are_those_of_the_definition_however_rows_come() {
    let mut seed = 7u64;
    let mut below = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((seed >> 33) % n) as i64
    };
    for (unit, min, max) in [(1, 0, 5), (10, -1, 2), (10, 0, 0), (7, 2, 3), (3, -4, -2)] {
        let mut side = || {
            let mut rows: Vec<(i64, i64)> = (0..60).map(|_| (below(4), below(200) - 100)).collect();
            rows.sort_by_key(|row| row.1);
            rows
        };
        let (left, right) = (side(), side());
        let near = |a: i64, b: i64| (min..=max).contains(&(b.div_euclid(unit) - a.div_euclid(unit)));
        let mut expected = vec![];
        for &(k, a) in &left {
            let mut found = right.iter().filter(|(other, b)| *other == k && near(a, *b)).peekable();
            if found.peek().is_none() {
                expected.push((k, None, a.max(a + max * unit)));
            }
            expected.extend(found.map(|(other, b)| (k, Some(*other), a.max(*b))));
        }
        expected.sort_unstable();
        for steps in [vec![i64::MAX], vec![-50, -49, 0, 3, 60, i64::MAX], (-100..101).chain([i64::MAX]).collect()] {
            let (mut join, mut out, mut from) = (join(true, unit, min, max), Rows::default(), i64::MIN);
            for to in steps {
                let part = |rows: &[(i64, i64)]| {
                    rows.iter().copied().filter(|row| from <= row.1 && row.1 < to).collect::<Vec<_>>()
                };
                give(&mut join, &part(&left), &part(&right), to, &mut out);
                from = to;
            }
            let mut got = vec![];
            let mut last = i64::MIN;
            for batch in &out.0 {
                let column = |c: usize| batch.column(c).as_primitive::<Int64Type>().clone();
                let (keys, others) = (column(0), column(1));
                for (row, &time) in times(batch).iter().enumerate() {
                    assert!(time >= last, "in order of time");
                    last = time;
                    got.push((keys.value(row), others.is_valid(row).then(|| others.value(row)), time));
                }
            }
            got.sort_unstable();
            assert_eq!(got, expected, "unit {unit}, {min} to {max}");
        }
    }
}
