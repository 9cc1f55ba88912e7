//! The worker's half of a windowed aggregation: rows into slices, slices out as state batches once the worker's watermark
//! has passed them.
//!
//! Invariant: a state batch holds the groups of one slice; its columns are the keys, the aggregates' states and the
//! slice's start. The same slice may come again (a row that was late for the slice but not for all of its windows).

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array},
    compute::take,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
    record_batch::RecordBatch,
};
use datafusion_physical_expr::PhysicalExpr;

use super::{
    groups::{Arguments, Groups, GroupsPlan, Piece},
    shape::Windows,
    slices::{Cells, Slice, Slices, Slicing},
};
use crate::{
    EngineError, EventTime, Result,
    dataflow::plan::AggregatePlan,
    operator::{Emit, Operator, Sealed, evaluate},
};

/// A batch is cut into at most this many runs of rows of one slice without copying; above, rows are gathered by slice.
const MAX_RUNS: usize = 8;

/// What both halves of a windowed aggregation share.
#[derive(Debug)]
pub(crate) struct WindowAggregate {
    pub(super) plan: AggregatePlan,
    pub(super) slicing: Slicing,
    pub(super) groups: Arc<GroupsPlan>,
    /// What [`GroupsPlan::state_fields`] says, `__slice` (Int64, half-open start in microseconds).
    pub(super) state_schema: SchemaRef,
    /// Rows that came after their last window had closed.
    late: Arc<AtomicU64>,
}

impl WindowAggregate {
    /// `input` is the schema of the rows; `late` counts rows whose windows have all closed.
    pub(crate) fn try_new(plan: AggregatePlan, input: &Schema, late: Arc<AtomicU64>) -> Result<Self> {
        let keys = plan
            .keys
            .iter()
            .enumerate()
            .map(|(i, k)| Ok(Field::new(format!("__key_{i}"), k.data_type(input)?, true)))
            .collect::<Result<Vec<_>>>()?;
        let (slicing, gap) = match plan.windows {
            Windows::Aligned(shape) => (Slicing::Windows(Slices::new(shape)), None),
            Windows::Cumulating(shape) => (Slicing::Windows(Slices::cumulating(shape)), None),
            Windows::Session(shape) => (Slicing::Sessions(Cells::new(shape)), Some(shape.gap)),
            Windows::Sliding { .. } => unreachable!("sliding windows have no slices"),
        };
        let groups = Arc::new(GroupsPlan::try_new(keys, &plan.aggregates, gap)?);
        let mut fields = groups.state_fields().to_vec();
        fields.push(Field::new("__slice", DataType::Int64, false));
        Ok(Self { slicing, groups, state_schema: Arc::new(Schema::new(fields)), plan, late })
    }

    pub(super) fn count_late(&self, rows: i64) {
        self.late.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub(super) fn state_batch(&self, start: i64, groups: &mut Groups) -> Result<RecordBatch> {
        let (mut columns, states) = groups.take_state()?;
        columns.extend(states);
        let rows = columns.first().map_or(1, |c| c.len());
        columns.push(Arc::new(Int64Array::from_value(start, rows)));
        // A slice may be kept for long: without the room that its columns had to grow.
        columns.iter_mut().filter_map(Arc::get_mut).for_each(|column| column.shrink_to_fit());
        Ok(RecordBatch::try_new(Arc::clone(&self.state_schema), columns)?)
    }

    /// Slice start of a state batch, which has at least one row.
    pub(super) fn slice_start(&self, state: &RecordBatch) -> Result<i64> {
        if state.schema_ref().fields() != self.state_schema.fields() || state.num_rows() == 0 {
            return Err(EngineError::State {
                operator: "window".to_owned(),
                message: format!("columns are {:?}, expected {:?}", state.schema(), self.state_schema),
            });
        }
        Ok(state.column(state.num_columns() - 1).as_primitive::<Int64Type>().value(0))
    }
}

/// See the module.
pub(crate) struct PartialAggregate {
    window: Arc<WindowAggregate>,
    open: BTreeMap<i64, (Slice, Groups)>,
    /// How many the last slice had: the next will have as many.
    groups: usize,
    /// Of all open slices.
    held_bytes: usize,
    watermark: EventTime,
}

impl PartialAggregate {
    pub(crate) fn new(window: Arc<WindowAggregate>) -> Self {
        Self { window, open: BTreeMap::new(), groups: 0, held_bytes: 0, watermark: EventTime::MIN }
    }

    fn update(&mut self, slice: Slice, piece: &Piece) -> Result<()> {
        match self.window.slicing.last_window_end(slice) {
            None => return Ok(()), // between windows
            Some(end) if end <= self.watermark.0 => {
                self.window.count_late(piece.times.len() as i64);
                return Ok(());
            }
            Some(_) => {}
        }
        let groups = match self.open.entry(slice.start) {
            std::collections::btree_map::Entry::Occupied(e) => &mut e.into_mut().1,
            std::collections::btree_map::Entry::Vacant(e) => {
                &mut e.insert((slice, Groups::try_new(Arc::clone(&self.window.groups), self.groups)?)).1
            }
        };
        let before = groups.held_bytes();
        groups.update(piece)?;
        self.held_bytes = self.held_bytes + groups.held_bytes() - before;
        Ok(())
    }
}

/// Runs of rows of one slice, in row order.
fn runs(slicing: &Slicing, times: &[i64]) -> Vec<(Slice, usize, usize)> {
    let mut runs: Vec<(Slice, usize, usize)> = vec![];
    for (row, &t) in times.iter().enumerate() {
        match runs.last_mut() {
            Some((slice, _, end)) if slice.start <= t && t < slice.end => *end = row + 1,
            _ => runs.push((slicing.slice_of(t), row, row + 1)),
        }
    }
    runs
}

impl Operator for PartialAggregate {
    fn on_batch(&mut self, _port: usize, batch: RecordBatch, _out: &mut dyn Emit) -> Result<()> {
        let window = Arc::clone(&self.window);
        let times = batch.column(batch.num_columns() - 1);
        let all =
            |exprs: &[Arc<dyn PhysicalExpr>]| exprs.iter().map(|e| evaluate(e, &batch)).collect::<Result<Vec<_>>>();
        let keys = all(&window.plan.keys)?;
        let mut arguments = Vec::with_capacity(window.plan.aggregates.len());
        for lowered in &window.plan.aggregates {
            let mut values = all(&lowered.aggregate.expressions())?;
            for order in &lowered.order_bys {
                values.push(evaluate(&order.expr, &batch)?);
            }
            let filter = lowered.filter.as_ref().map(|f| evaluate(f, &batch)).transpose()?;
            arguments.push(Arguments { values, filter });
        }
        let piece = Piece { keys, arguments, times: Arc::clone(times) };
        let runs = runs(&window.slicing, times.as_primitive::<TimestampMicrosecondType>().values());
        if let [(slice, ..)] = runs[..] {
            return self.update(slice, &piece);
        }
        let mut pieces: BTreeMap<i64, (Slice, Vec<(usize, usize)>)> = BTreeMap::new();
        for &(slice, start, end) in &runs {
            pieces.entry(slice.start).or_insert_with(|| (slice, vec![])).1.push((start, end));
        }
        for (slice, ranges) in pieces.into_values() {
            let gathered = match ranges[..] {
                [_] if runs.len() <= MAX_RUNS => None,
                _ => Some(UInt32Array::from_iter_values(ranges.iter().flat_map(|&(s, e)| s as u32..e as u32))),
            };
            let cut = |array: &ArrayRef| match &gathered {
                None => Ok(array.slice(ranges[0].0, ranges[0].1 - ranges[0].0)),
                Some(rows) => take(array.as_ref(), rows, None).map_err(EngineError::from),
            };
            self.update(slice, &piece.map(cut)?)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, _port: usize, t: EventTime, out: &mut dyn Emit) -> Result<()> {
        self.watermark = self.watermark.max(t);
        while let Some(entry) = self.open.first_entry() {
            if entry.get().0.end > t.0 {
                break;
            }
            let (slice, mut groups) = entry.remove();
            self.held_bytes -= groups.held_bytes();
            let state = self.window.state_batch(slice.start, &mut groups)?;
            self.groups = state.num_rows();
            out.batch(state)?;
        }
        out.watermark(t)
    }

    fn seal(&mut self) -> Vec<Sealed> {
        let sealed = |(slice, mut groups): (Slice, Groups)| -> Sealed {
            let window = Arc::clone(&self.window);
            Box::new(move || window.state_batch(slice.start, &mut groups))
        };
        self.held_bytes = 0;
        std::mem::take(&mut self.open).into_values().map(sealed).collect()
    }

    fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        let mut state = vec![];
        for (slice, groups) in self.open.values_mut() {
            let batch = self.window.state_batch(slice.start, groups)?;
            groups.merge(batch.columns(), batch.num_rows())?; // `take_state` emptied them
            state.push(batch);
        }
        self.held_bytes = self.open.values().map(|(_, groups)| groups.held_bytes()).sum();
        Ok(state)
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        for batch in state {
            let slice = self.window.slicing.slice_of(self.window.slice_start(&batch)?);
            let mut groups = Groups::try_new(Arc::clone(&self.window.groups), batch.num_rows())?;
            groups.merge(batch.columns(), batch.num_rows())?;
            self.held_bytes += groups.held_bytes();
            self.open.insert(slice.start, (slice, groups));
        }
        Ok(())
    }
}
