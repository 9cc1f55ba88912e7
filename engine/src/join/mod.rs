//! Joins of two streams: rows that lie near one another in time, and satisfy a condition.
//!
//! [`StreamJoin`] sees the rows of both sides in order ([`crate::dataflow::order`]). Each row is held as long as a row may
//! come that matches it ([`crate::dataflow::plan::JoinPlan::bounds`]), in a [`Side`] that finds rows by their keys. A match
//! has the later of the two times. With `outer`, a left row that goes without a match is given with nulls, at the last time
//! that a match could have had.

mod keys;
mod side;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray,
        UInt32Array, new_null_array,
    },
    buffer::NullBuffer,
    compute::{concat_batches, filter_record_batch, take_record_batch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
    row::{RowConverter, SortField},
};
use datafusion_physical_expr::PhysicalExpr;

use keys::{Entry, Keys};
use side::{Held, Side};

use crate::{
    EngineError, EventTime, Result,
    dataflow::{
        order::{Sequential, times},
        plan::{JoinPlan, TimeBound},
    },
    operator::{Emit, evaluate},
    user_code::holds,
};

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// Pairs after which the condition is looked at: what many rows of one key match must not pile up.
const PAIRS: usize = 65_536;

/// See the module.
pub(crate) struct StreamJoin {
    plan: JoinPlan,
    /// The columns that are kept of the left and the right rows, event time.
    schema: SchemaRef,
    key_expressions: [Vec<Arc<dyn PhysicalExpr>>; 2],
    converter: RowConverter,
    keys: Keys,
    sides: [Side; 2],
    /// Every row below it was taken.
    taken_below: EventTime,
    /// Rows of an outer join that are not below the promise yet.
    waiting: Vec<RecordBatch>,
}

/// The rows of one side that came at once, with what they are found by.
struct Arrived {
    /// The numbers of their keys; `None` where one is null, which equals nothing.
    keys: Vec<Option<u32>>,
    spans: Vec<Span>,
}

/// The times of rows of the other side that may match a row.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: i64,
    to: i64,
    /// No match comes for the row when every row up to this time was taken.
    deadline: i64,
    /// Time of the row that says that there was no match.
    unmatched: i64,
}

impl StreamJoin {
    pub(crate) fn try_new(plan: JoinPlan, left: &Schema, schema: SchemaRef) -> Result<Self> {
        let (left_keys, right_keys): (Vec<_>, Vec<_>) = plan.keys.iter().cloned().unzip();
        let fields = left_keys.iter().map(|k| Ok(SortField::new(k.data_type(left)?)));
        let converter = RowConverter::new(fields.collect::<Result<_>>()?)?;
        Ok(Self {
            plan,
            schema,
            key_expressions: [left_keys, right_keys],
            converter,
            keys: Keys::default(),
            sides: [Side::default(), Side::default()],
            taken_below: EventTime::MIN,
            waiting: vec![],
        })
    }

    fn arrived(&mut self, port: usize, batch: &RecordBatch) -> Result<Arrived> {
        let columns = self.key_expressions[port].iter().map(|k| evaluate(k, batch)).collect::<Result<Vec<_>>>()?;
        let keys = if columns.is_empty() {
            vec![Some(self.keys.number(&[])); batch.num_rows()]
        } else {
            let nulls = columns.iter().map(|c| c.logical_nulls());
            let nulls = nulls.fold(None, |all, nulls| NullBuffer::union(all.as_ref(), nulls.as_ref()));
            let matchable = |row: &usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row));
            let rows = self.converter.convert_columns(&columns)?;
            // `Rows` hands out rows that borrow from it.
            let mut number = |row| self.keys.number(rows.row(row).data());
            (0..batch.num_rows()).map(|row| Some(row).filter(matchable).map(&mut number)).collect()
        };
        Ok(Arrived { keys, spans: self.spans(port, batch) })
    }

    fn spans(&self, port: usize, batch: &RecordBatch) -> Vec<Span> {
        if port == LEFT { self.left_spans(batch) } else { self.right_spans(batch) }
    }

    fn left_spans(&self, batch: &RecordBatch) -> Vec<Span> {
        let own = times(batch);
        let anywhere = Span { from: i64::MIN, to: i64::MAX, deadline: i64::MAX, unmatched: i64::MAX };
        let mut spans = vec![anywhere; own.len()];
        for bound in &self.plan.bounds {
            let sources = batch.column(bound.left_time).as_primitive::<TimestampMicrosecondType>().values();
            for (span, &source) in spans.iter_mut().zip(sources) {
                span.from = span.from.max(bound.first(source));
                span.to = span.to.min(bound.last(source));
                span.deadline = span.to;
                if let Some(max) = bound.max {
                    span.unmatched = span.unmatched.min(source.saturating_add(max.saturating_mul(bound.unit_us)));
                }
            }
        }
        for (span, &t) in spans.iter_mut().zip(own) {
            span.unmatched = span.unmatched.max(t);
            span.deadline = span.deadline.max(t);
        }
        spans
    }

    /// Which left rows may match is theirs to say; here only until when one may come.
    fn right_spans(&self, batch: &RecordBatch) -> Vec<Span> {
        let deadline = |t: i64| self.plan.bounds.iter().map(|b| b.last_left(t)).min().unwrap_or(i64::MAX).max(t);
        times(batch).iter().map(|&t| Span { from: t, to: t, deadline: deadline(t), unmatched: i64::MAX }).collect()
    }

    /// Puts rows among those that are held.
    fn hold(&mut self, port: usize, batch: RecordBatch, arrived: &Arrived, matched: Vec<bool>) -> Result<u64> {
        let outer = self.plan.outer && port == LEFT;
        let unmatched = if outer { arrived.spans.iter().map(|s| s.unmatched).collect() } else { vec![] };
        self.sides[port].hold(Held::new(batch, arrived.keys.clone(), matched, unmatched))
    }

    fn insert(&mut self, port: usize, arrived: &Arrived, row: usize, seq: u64) {
        let Span { from, to, deadline, .. } = arrived.spans[row];
        self.sides[port].expect(seq, deadline);
        if let Some(key) = arrived.keys[row] {
            self.keys.insert(key, port, Entry { seq, span: (from, to) });
        }
    }

    /// Takes rows that wait no longer out of the keys; gives them in order of their deadlines.
    fn expire(&mut self, port: usize, t: EventTime) -> Vec<u64> {
        let expired = self.sides[port].expire(t).into_iter();
        let forget = |(seq, key): (u64, Option<u32>)| {
            if let Some(key) = key {
                self.keys.remove(key, port, seq);
            }
            seq
        };
        expired.map(forget).collect()
    }

    /// The pairs as rows, as far as they satisfy the condition.
    fn matches(&mut self, pairs: &[(u64, u64, i64)], out: &mut dyn Emit) -> Result<Option<RecordBatch>> {
        if pairs.is_empty() {
            return Ok(None);
        }
        let seqs = |side: fn(&(u64, u64, i64)) -> u64| pairs.iter().map(side).collect::<Vec<_>>();
        let mut columns = self.sides[LEFT].columns(&seqs(|p| p.0), &self.plan.left_columns)?;
        columns.extend(self.sides[RIGHT].columns(&seqs(|p| p.1), &self.plan.right_columns)?);
        columns.push(datetimes(pairs.iter().map(|p| p.2)));
        let mut rows = self.batch(columns, pairs.len())?;
        let kept = match &self.plan.condition {
            Some(condition) => Some(holds(condition, &rows, out)?),
            None => None,
        };
        if let Some(kept) = &kept {
            rows = filter_record_batch(&rows, kept)?;
        }
        if self.plan.outer {
            for (i, pair) in pairs.iter().enumerate() {
                if kept.as_ref().is_none_or(|kept| kept.is_valid(i) && kept.value(i)) {
                    self.sides[LEFT].set_matched(pair.0);
                }
            }
        }
        Ok((rows.num_rows() > 0).then_some(rows))
    }

    /// Emits the pairs that satisfy the condition, or lets them wait for the rows without a match.
    fn give(&mut self, pairs: &[(u64, u64, i64)], out: &mut dyn Emit) -> Result<()> {
        match self.matches(pairs, out)? {
            Some(rows) if self.plan.outer => self.waiting.push(rows),
            Some(rows) => out.batch(rows)?,
            None => {}
        }
        Ok(())
    }

    /// Left rows that went without a match.
    fn unmatched(&self, seqs: &[u64]) -> Result<Option<RecordBatch>> {
        if seqs.is_empty() {
            return Ok(None);
        }
        let mut columns = self.sides[LEFT].columns(seqs, &self.plan.left_columns)?;
        let right = &self.schema.fields()[columns.len()..self.schema.fields().len() - 1];
        columns.extend(right.iter().map(|f| new_null_array(f.data_type(), seqs.len())));
        columns.push(datetimes(seqs.iter().map(|seq| self.sides[LEFT].unmatched_time(*seq))));
        self.batch(columns, seqs.len()).map(Some)
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    /// How far behind the rows that were taken a row without a match may come: a unit of DATEDIFF counts boundaries, so that
    /// a match may come up to a unit after the time of that row.
    fn slack(&self) -> i64 {
        let units = self.plan.bounds.iter().filter(|b| b.max.is_some()).map(|b| b.unit_us - 1);
        if self.plan.outer { units.max().unwrap_or(0) } else { 0 }
    }

    /// Emits the waiting rows below `promise`, in order of time.
    fn emit_below(&mut self, promise: EventTime, out: &mut dyn Emit) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let all = concat_batches(&self.schema, &self.waiting)?;
        let at = times(&all);
        let mut order: Vec<u32> = (0..all.num_rows() as u32).collect();
        order.sort_by_key(|&row| at[row as usize]);
        let end = order.partition_point(|&row| at[row as usize] < promise.0);
        let rest = order.split_off(end);
        self.waiting.clear();
        if !rest.is_empty() {
            self.waiting.push(take_record_batch(&all, &UInt32Array::from(rest))?);
        }
        if order.is_empty() { Ok(()) } else { out.batch(take_record_batch(&all, &UInt32Array::from(order))?) }
    }
}

impl TimeBound {
    /// The first time of a right row that a left row of this time matches.
    fn first(&self, left: i64) -> i64 {
        let Some(min) = self.min else { return i64::MIN };
        left.div_euclid(self.unit_us).saturating_add(min).saturating_mul(self.unit_us)
    }

    /// The last such time.
    fn last(&self, left: i64) -> i64 {
        let Some(max) = self.max else { return i64::MAX };
        left.div_euclid(self.unit_us)
            .saturating_add(max)
            .saturating_add(1)
            .saturating_mul(self.unit_us)
            .saturating_sub(1)
    }

    /// The last event time of a left row that may match a right row of this time.
    fn last_left(&self, right: i64) -> i64 {
        let Some(min) = self.min else { return i64::MAX };
        let next = right.div_euclid(self.unit_us).saturating_sub(min).saturating_add(1);
        next.saturating_mul(self.unit_us).saturating_sub(1).saturating_add(self.lag_us)
    }
}

fn datetimes(times: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
}

impl Sequential for StreamJoin {
    fn rows(&mut self, batches: &[RecordBatch], order: &[(usize, usize)], out: &mut dyn Emit) -> Result<()> {
        let [left, right] = batches else { return Ok(()) };
        let arrived = [self.arrived(LEFT, left)?, self.arrived(RIGHT, right)?];
        let at = [times(left), times(right)];
        let none = vec![false; if self.plan.outer { left.num_rows() } else { 0 }];
        let first = [
            self.hold(LEFT, left.clone(), &arrived[LEFT], none)?,
            self.hold(RIGHT, right.clone(), &arrived[RIGHT], vec![])?,
        ];
        let mut pairs = vec![];
        for &(port, row) in order {
            let (seq, time) = (first[port] + row as u64, at[port][row]);
            if let Some(key) = arrived[port].keys[row] {
                let span = arrived[port].spans[row];
                for entry in self.keys.rows(key, 1 - port) {
                    let other = entry.span;
                    let near = match port {
                        LEFT => span.from <= other.0 && other.0 <= span.to,
                        _ => other.0 <= time && time <= other.1,
                    };
                    if near {
                        let (l, r) = if port == LEFT { (seq, entry.seq) } else { (entry.seq, seq) };
                        pairs.push((l, r, time));
                    }
                }
            }
            self.insert(port, &arrived[port], row, seq);
            if pairs.len() >= PAIRS {
                self.give(&pairs, out)?;
                pairs.clear();
            }
        }
        self.give(&pairs, out)
    }

    fn advance(&mut self, t: EventTime, out: &mut dyn Emit) -> Result<EventTime> {
        self.taken_below = t;
        let expired = self.expire(LEFT, t);
        if self.plan.outer {
            let without: Vec<u64> = expired.into_iter().filter(|seq| !self.sides[LEFT].is_matched(*seq)).collect();
            self.waiting.extend(self.unmatched(&without)?);
        }
        self.sides[LEFT].let_go();
        self.expire(RIGHT, t);
        self.sides[RIGHT].let_go();
        self.keys.forget_unused();
        let promise = t.minus_micros(self.slack());
        self.emit_below(promise, out)?;
        Ok(promise)
    }

    fn held_bytes(&self) -> usize {
        self.sides.iter().map(Side::held_bytes).sum()
    }

    /// First a batch with a row for each that follows: whose it is (0: left, 1: right, 2: waiting for output); before them
    /// how far rows were taken. Left rows have one more column: whether they had a match.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        let mut kinds = vec![self.taken_below.0];
        let mut batches = vec![];
        for (port, side) in self.sides.iter().enumerate() {
            for held in side.held() {
                let spans = self.spans(port, &held.batch);
                let alive = spans.iter().map(|span| span.deadline >= self.taken_below.0);
                let alive = BooleanArray::from(alive.collect::<Vec<_>>());
                let mut rows = held.batch.clone();
                if port == LEFT {
                    let mut matched = held.matched.clone();
                    matched.resize(rows.num_rows(), false);
                    rows = with_column(&rows, Arc::new(BooleanArray::from(matched)))?;
                }
                kinds.push(port as i64);
                batches.push(filter_record_batch(&rows, &alive)?);
            }
        }
        for rows in &self.waiting {
            kinds.push(2);
            batches.push(rows.clone());
        }
        let schema = Schema::new(vec![Field::new("kind", DataType::Int64, false)]);
        let mut state = vec![RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(kinds))])?];
        state.extend(batches);
        Ok(state)
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        let foreign =
            || EngineError::State { operator: "join".to_owned(), message: "expected rows of its sides".to_owned() };
        let (head, batches) = state.split_first().ok_or_else(foreign)?;
        let kinds = head.columns().first().and_then(|c| c.as_primitive_opt::<Int64Type>()).ok_or_else(foreign)?;
        let (taken_below, kinds) = kinds.values().split_first().ok_or_else(foreign)?;
        if kinds.len() != batches.len() {
            return Err(foreign());
        }
        self.taken_below = EventTime(*taken_below);
        for (kind, rows) in kinds.iter().zip(batches) {
            let (port, rows, matched) = match kind {
                0 => {
                    let width = rows.num_columns().checked_sub(1).ok_or_else(foreign)?;
                    let matched = rows.column(width).as_boolean_opt().ok_or_else(foreign)?;
                    let matched = matched.values().iter().collect::<Vec<_>>();
                    (LEFT, rows.project(&(0..width).collect::<Vec<_>>())?, matched)
                }
                1 => (RIGHT, rows.clone(), vec![]),
                2 => {
                    self.waiting.push(rows.clone());
                    continue;
                }
                _ => return Err(foreign()),
            };
            let arrived = self.arrived(port, &rows)?;
            let count = rows.num_rows();
            let matched = if self.plan.outer { matched } else { vec![] };
            let first = self.hold(port, rows, &arrived, matched)?;
            for row in 0..count {
                self.insert(port, &arrived, row, first + row as u64);
            }
        }
        Ok(())
    }
}

fn with_column(batch: &RecordBatch, column: ArrayRef) -> Result<RecordBatch> {
    let mut fields = batch.schema().fields().to_vec();
    fields.push(Arc::new(Field::new("matched", column.data_type().clone(), false)));
    let columns = batch.columns().iter().cloned().chain([column]).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
