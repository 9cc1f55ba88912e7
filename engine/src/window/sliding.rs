//! ASA's sliding windows: (t - size, t] of each key, at each t at which a row comes in or drops out.
//!
//! Rows come in order of event time ([`crate::dataflow::order`]). Each enters its key's aggregates at its time and leaves
//! them `size` later; what happens at one instant gives one result, and none where the window is empty. Aggregates that can
//! give back what they took do so ([`rolling`]); others are computed anew from the rows of the window.

mod rolling;

use std::{
    collections::{HashMap, VecDeque},
    ops::Range,
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, TimestampMicrosecondArray},
    compute::interleave,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion_physical_expr::PhysicalExpr;

use rolling::{Rolling, Row, rolling};

use crate::{
    EngineError, EventTime, Result,
    dataflow::{
        budget::bytes_of_rows,
        order::{Sequential, times},
        plan::AggregatePlan,
    },
    datetime_type,
    operator::{Emit, evaluate},
};

/// Results that are collected before they are handed on, at most.
const CHUNK_ROWS: usize = 8_192;

/// See the module.
pub(crate) struct Sliding {
    size: i64,
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Arguments of all aggregates.
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    /// For each aggregate which of the held columns are its arguments.
    arguments: Vec<Range<usize>>,
    aggregates: Vec<Box<dyn Rolling>>,
    converter: Option<RowConverter>,
    /// Rows by time: first those inside their windows, then those that are still to enter.
    rows: VecDeque<Held>,
    inside: usize,
    /// Keys and arguments of the rows, evaluated; the number of the first.
    batches: VecDeque<RecordBatch>,
    /// Of these.
    batch_bytes: usize,
    first_batch: u64,
    /// Sequence number of the next row.
    next_row: u64,
    held_schema: SchemaRef,
    slots: HashMap<Box<[u8]>, usize>,
    states: Vec<Slot>,
    free: Vec<usize>,
    /// Keys, `window_start`, `window_end`, aggregates, event time.
    schema: SchemaRef,
}

/// What a key takes, about: its bytes twice, its slot, and its aggregates.
const KEY_BYTES: usize = 256;

/// A row that waits, or is inside its windows.
#[derive(Clone, Copy, Debug)]
struct Held {
    time: i64,
    batch: u64,
    row: usize,
    slot: usize,
    number: u64,
}

/// What is known of a key that has rows.
#[derive(Debug, Default)]
struct Slot {
    key: Box<[u8]>,
    held: usize,
    inside: usize,
    touched: bool,
}

/// Results on their way out: where the key of each lies, and its time.
#[derive(Default)]
struct Results {
    keys: Vec<(usize, usize)>,
    times: Vec<i64>,
}

impl Sliding {
    pub(crate) fn try_new(plan: &AggregatePlan, size: i64, input: &SchemaRef, schema: SchemaRef) -> Result<Self> {
        let mut fields = vec![];
        for (i, key) in plan.keys.iter().enumerate() {
            fields.push(Field::new(format!("__key_{i}"), key.data_type(input)?, true));
        }
        let types: Vec<SortField> = fields.iter().map(|f: &Field| SortField::new(f.data_type().clone())).collect();
        let converter = if types.is_empty() { None } else { Some(RowConverter::new(types)?) };
        let (mut expressions, mut arguments, mut aggregates) = (vec![], vec![], vec![]);
        for lowered in &plan.aggregates {
            let first = fields.len();
            for expression in lowered.aggregate.expressions() {
                fields.push(Field::new(format!("__argument_{}", fields.len()), expression.data_type(input)?, true));
                expressions.push(expression);
            }
            arguments.push(first..fields.len());
            aggregates.push(rolling(&lowered.aggregate)?);
        }
        fields.push(Field::new(crate::EVENT_TIME, datetime_type(), false));
        Ok(Self {
            size,
            keys: plan.keys.clone(),
            expressions,
            arguments,
            aggregates,
            converter,
            rows: VecDeque::new(),
            inside: 0,
            batches: VecDeque::new(),
            batch_bytes: 0,
            first_batch: 0,
            next_row: 0,
            held_schema: Arc::new(Schema::new(fields)),
            slots: HashMap::new(),
            states: vec![],
            free: vec![],
            schema,
        })
    }

    /// Holds rows in order of time; `held` are their columns.
    fn hold(&mut self, held: RecordBatch) -> Result<()> {
        let keys = &held.columns()[..self.keys.len()];
        let keys = self.converter.as_ref().map(|converter| converter.convert_columns(keys)).transpose()?;
        let batch = self.first_batch + self.batches.len() as u64;
        for (row, &time) in times(&held).iter().enumerate() {
            let key = keys.as_ref().map_or(&[][..], |keys| keys.row(row).data());
            let slot = match self.slots.get(key) {
                Some(slot) => *slot,
                None => {
                    let slot = self.free.pop().unwrap_or(self.states.len());
                    if slot == self.states.len() {
                        self.states.push(Slot::default());
                    }
                    self.states[slot] = Slot { key: key.into(), ..Slot::default() };
                    self.slots.insert(key.into(), slot);
                    slot
                }
            };
            self.states[slot].held += 1;
            self.rows.push_back(Held { time, batch, row, slot, number: self.next_row });
            self.next_row += 1;
        }
        self.batch_bytes += bytes_of_rows(&held);
        self.batches.push_back(held);
        Ok(())
    }

    /// Lets everything happen that does before `t`.
    fn sweep(&mut self, t: EventTime, out: &mut dyn Emit) -> Result<()> {
        let mut results = Results::default();
        let mut touched: Vec<Held> = vec![];
        loop {
            let leaving = self.rows.front().filter(|_| self.inside > 0).map(|row| row.time.saturating_add(self.size));
            let entering = self.rows.get(self.inside).map(|row| row.time);
            let Some(now) = [leaving, entering].into_iter().flatten().min().filter(|now| *now < t.0) else { break };
            while self.inside > 0
                && let Some(row) = self.rows.front().copied().filter(|r| r.time.saturating_add(self.size) == now)
            {
                self.rows.pop_front();
                self.inside -= 1;
                self.change(row, false);
                self.touch(row, &mut touched);
            }
            while let Some(row) = self.rows.get(self.inside).copied().filter(|row| row.time == now) {
                self.inside += 1;
                self.change(row, true);
                self.touch(row, &mut touched);
            }
            for row in touched.drain(..) {
                let slot = &mut self.states[row.slot];
                slot.touched = false;
                if slot.inside > 0 {
                    self.aggregates.iter_mut().try_for_each(|a| a.emit(row.slot))?;
                    results.keys.push(((row.batch - self.first_batch) as usize, row.row));
                    results.times.push(now);
                } else if slot.held == 0 {
                    self.slots.remove(&slot.key);
                    self.free.push(row.slot);
                    self.aggregates.iter_mut().for_each(|a| a.clear(row.slot));
                }
            }
            if results.times.len() >= CHUNK_ROWS {
                self.flush(&mut results, out)?;
            }
        }
        self.flush(&mut results, out)
    }

    fn change(&mut self, held: Held, enters: bool) {
        let batch = &self.batches[(held.batch - self.first_batch) as usize];
        for (aggregate, columns) in self.aggregates.iter_mut().zip(&self.arguments) {
            let row = Row { arguments: &batch.columns()[columns.clone()], row: held.row, number: held.number };
            if enters { aggregate.enter(held.slot, &row) } else { aggregate.leave(held.slot, &row) }
        }
        let slot = &mut self.states[held.slot];
        if enters {
            slot.inside += 1;
        } else {
            slot.inside -= 1;
            slot.held -= 1;
        }
    }

    fn touch(&mut self, row: Held, touched: &mut Vec<Held>) {
        if !std::mem::replace(&mut self.states[row.slot].touched, true) {
            touched.push(row);
        }
    }

    /// Hands results on, and drops the batches of rows that are gone.
    fn flush(&mut self, results: &mut Results, out: &mut dyn Emit) -> Result<()> {
        let Results { keys, times } = std::mem::take(results);
        if !times.is_empty() {
            let key = |c: usize| {
                let columns: Vec<&dyn Array> = self.batches.iter().map(|b| b.column(c).as_ref()).collect();
                interleave(&columns, &keys).map_err(EngineError::from)
            };
            let mut columns = (0..self.keys.len()).map(key).collect::<Result<Vec<_>>>()?;
            let datetimes = |shift: i64| -> ArrayRef {
                let times = times.iter().map(|t| t - shift);
                Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC"))
            };
            columns.extend([datetimes(self.size), datetimes(0)]);
            for aggregate in &mut self.aggregates {
                columns.push(aggregate.finish()?);
            }
            columns.push(datetimes(0));
            out.batch(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)?;
        }
        let first = self.rows.front().map_or(self.first_batch + self.batches.len() as u64, |row| row.batch);
        let gone = self.batches.drain(..(first - self.first_batch) as usize);
        self.batch_bytes -= gone.map(|batch| bytes_of_rows(&batch)).sum::<usize>();
        self.first_batch = first;
        Ok(())
    }
}

impl Sequential for Sliding {
    fn rows(&mut self, batches: &[RecordBatch], _order: &[(usize, usize)], _out: &mut dyn Emit) -> Result<()> {
        for batch in batches {
            let expressions = self.keys.iter().chain(&self.expressions);
            let mut columns = expressions.map(|e| evaluate(e, batch)).collect::<Result<Vec<_>>>()?;
            columns.push(Arc::clone(batch.column(batch.num_columns() - 1)));
            self.hold(RecordBatch::try_new(Arc::clone(&self.held_schema), columns)?)?;
        }
        Ok(())
    }

    fn advance(&mut self, t: EventTime, out: &mut dyn Emit) -> Result<EventTime> {
        self.sweep(t, out)?;
        Ok(t)
    }

    fn held_bytes(&self) -> usize {
        self.batch_bytes + self.rows.len() * size_of::<Held>() + self.slots.len() * KEY_BYTES
    }

    /// How many rows are inside their windows, then all rows.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        let places: Vec<(usize, usize)> =
            self.rows.iter().map(|row| ((row.batch - self.first_batch) as usize, row.row)).collect();
        let inside: ArrayRef = Arc::new(Int64Array::from(vec![self.inside as i64]));
        let head = RecordBatch::try_new(head_schema(), vec![inside])?;
        if places.is_empty() {
            return Ok(vec![head]);
        }
        let column = |c: usize| {
            let columns: Vec<&dyn Array> = self.batches.iter().map(|b| b.column(c).as_ref()).collect();
            interleave(&columns, &places).map_err(EngineError::from)
        };
        let columns = (0..self.held_schema.fields().len()).map(column).collect::<Result<_>>()?;
        Ok(vec![head, RecordBatch::try_new(Arc::clone(&self.held_schema), columns)?])
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        let foreign = |message: String| EngineError::State { operator: "sliding window".to_owned(), message };
        let mut state = state.into_iter();
        let head = state.next().filter(|head| head.schema() == head_schema() && head.num_rows() == 1);
        let head = head.ok_or_else(|| foreign("expected how many rows are inside".to_owned()))?;
        for rows in state {
            if rows.schema() != self.held_schema {
                return Err(foreign(format!("rows of {:?}, expected {:?}", rows.schema(), self.held_schema)));
            }
            self.hold(rows)?;
        }
        let inside = head.column(0).as_primitive::<Int64Type>().value(0);
        let inside = usize::try_from(inside).ok().filter(|inside| *inside <= self.rows.len());
        let inside = inside.ok_or_else(|| foreign(format!("{} rows", self.rows.len())))?;
        while self.inside < inside {
            let row = self.rows[self.inside];
            self.inside += 1;
            self.change(row, true);
        }
        Ok(())
    }
}

fn head_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("inside", DataType::Int64, false)]))
}
