//! Rows of a standard table function without aggregation: each row once for each window that it lies in.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, TimestampMicrosecondArray, UInt32Array},
    compute::take_record_batch,
    datatypes::{SchemaRef, TimestampMicrosecondType},
    record_batch::RecordBatch,
};

use super::slices::Slices;
use crate::{
    Result,
    operator::{Emit, Stateless},
};

/// Adds `window_start`, `window_end` and `window_time` before the event time, which stays the row's own.
pub(crate) struct AssignWindows {
    slices: Slices,
    schema: SchemaRef,
}

impl AssignWindows {
    pub(crate) fn new(slices: Slices, schema: SchemaRef) -> Self {
        Self { slices, schema }
    }
}

impl Stateless for AssignWindows {
    fn rows(&mut self, batch: RecordBatch, out: &mut dyn Emit) -> Result<()> {
        let times = batch.column(batch.num_columns() - 1).as_primitive::<TimestampMicrosecondType>();
        let (mut rows, mut starts, mut ends, mut shown_times) = (vec![], vec![], vec![], vec![]);
        for (row, &t) in times.values().iter().enumerate() {
            for window in self.slices.windows_of(t) {
                let (start, end, time) = self.slices.shown(window);
                rows.push(row as u32);
                starts.push(start);
                ends.push(end);
                shown_times.push(time.0);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let repeated = take_record_batch(&batch, &UInt32Array::from(rows))?;
        let mut columns = repeated.columns().to_vec();
        let time = columns.pop();
        let datetimes = |v: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(v).with_timezone("UTC")) };
        columns.extend([datetimes(starts), datetimes(ends), datetimes(shown_times)]);
        columns.extend(time);
        out.batch(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}
