//! The merge thread's half of a windowed aggregation: state batches of all workers' slices in, results of closed windows
//! out, in order of window.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, TimestampMicrosecondArray},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
    record_batch::RecordBatch,
};

use super::{
    groups::Groups,
    partial::WindowAggregate,
    slices::{Slices, Window},
};
use crate::{
    EventTime, Result,
    dataflow::budget::bytes_of_rows,
    operator::{Emit, Operator},
};

/// See the module.
pub(crate) struct MergeWindows {
    window: Arc<WindowAggregate>,
    slices: Slices,
    /// Keys, `window_start`, `window_end`, aggregates, event time.
    schema: SchemaRef,
    /// State batches by slice start; a slice stays until its last window has closed.
    states: BTreeMap<i64, Vec<RecordBatch>>,
    /// Of these.
    held_bytes: usize,
    /// End (half-open) of the last window that was closed: windows close in order, each once.
    closed_to: i64,
    watermark: EventTime,
}

impl MergeWindows {
    /// `slices` are the window's.
    pub(crate) fn new(window: Arc<WindowAggregate>, slices: Slices, schema: SchemaRef) -> Self {
        let (closed_to, watermark) = (i64::MIN, EventTime::MIN);
        Self { window, slices, schema, states: BTreeMap::new(), held_bytes: 0, closed_to, watermark }
    }

    /// Its keys are here a second time while it is made.
    fn result(&self, window: Window, out: &mut dyn Emit) -> Result<RecordBatch> {
        let states = self.states.range(window.start..window.end).flat_map(|(_, batches)| batches);
        let room = states.clone().map(RecordBatch::num_rows).max().unwrap_or(0);
        let mut groups = Groups::try_new(Arc::clone(&self.window.groups), room)?;
        for state in states {
            groups.merge(state.columns(), state.num_rows())?;
            out.takes(groups.held_bytes())?;
        }
        let (mut columns, results) = groups.take_results()?;
        let rows = columns.first().or(results.first()).map_or(1, |c| c.len());
        let (shown_start, shown_end, time) = self.slices.shown(window);
        let constant =
            |t: i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from_value(t, rows).with_timezone("UTC")) };
        columns.push(constant(shown_start));
        columns.push(constant(shown_end));
        columns.extend(results);
        columns.push(constant(time.0));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// State batches of a slice that are kept side by side: one of each worker, and one more of each at a snapshot.
const MAX_BATCHES: usize = 16;

impl Operator for MergeWindows {
    fn on_batch(&mut self, _port: usize, state: RecordBatch, _out: &mut dyn Emit) -> Result<()> {
        let start = self.window.slice_start(&state)?;
        let batches = self.states.entry(start).or_default();
        self.held_bytes += bytes_of_rows(&state);
        batches.push(state);
        if batches.len() > MAX_BATCHES {
            let mut groups = Groups::try_new(Arc::clone(&self.window.groups), batches[0].num_rows())?;
            for state in batches.drain(..) {
                groups.merge(state.columns(), state.num_rows())?;
                self.held_bytes -= bytes_of_rows(&state);
            }
            let merged = self.window.state_batch(start, &mut groups)?;
            self.held_bytes += bytes_of_rows(&merged);
            batches.push(merged);
        }
        Ok(())
    }

    fn on_watermark(&mut self, _port: usize, t: EventTime, out: &mut dyn Emit) -> Result<()> {
        self.watermark = self.watermark.max(t);
        let slices = self.slices;
        while let Some((&first, _)) = self.states.first_key_value() {
            match slices.first_open_window(slices.slice_of(first), self.closed_to) {
                None => {
                    let gone = self.states.pop_first();
                    self.held_bytes -= gone.iter().flat_map(|(_, batches)| batches).map(bytes_of_rows).sum::<usize>();
                }
                Some(window) if window.end <= t.0 => {
                    let result = self.result(window, out)?;
                    out.batch(result)?;
                    self.closed_to = window.end;
                }
                Some(_) => break,
            }
        }
        out.watermark(slices.result_watermark(t))
    }

    fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        let mut state = vec![progress_batch(self.closed_to, self.watermark)?];
        state.extend(self.states.values().flatten().cloned());
        Ok(state)
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        let mut batches = state.into_iter();
        if let Some(progress) = batches.next() {
            let value = |column: usize| progress.column(column).as_primitive::<Int64Type>().value(0);
            (self.closed_to, self.watermark) = (value(0), EventTime(value(1)));
        }
        for batch in batches {
            self.held_bytes += bytes_of_rows(&batch);
            self.states.entry(self.window.slice_start(&batch)?).or_default().push(batch);
        }
        Ok(())
    }
}

/// First batch of a snapshot: one row of how far windows have closed.
fn progress_batch(closed_to: i64, watermark: EventTime) -> Result<RecordBatch> {
    let field = |name: &str| Field::new(name, DataType::Int64, false);
    let schema = Schema::new(vec![field("closed_to"), field("watermark")]);
    let value = |v: i64| -> ArrayRef { Arc::new(Int64Array::from_value(v, 1)) };
    Ok(RecordBatch::try_new(Arc::new(schema), vec![value(closed_to), value(watermark.0)])?)
}
