//! Operators without state: filter, projection, union.

use std::sync::Arc;

use arrow::{compute::filter_record_batch, datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion_physical_expr::PhysicalExpr;

use crate::{
    EventTime, Result,
    operator::{Emit, Operator, Stateless},
    user_code::{evaluate_rows, holds},
};

/// Keeps the rows for which the predicate is true.
pub(super) struct Filter(pub(super) Arc<dyn PhysicalExpr>);

impl Stateless for Filter {
    fn rows(&mut self, batch: RecordBatch, out: &mut dyn Emit) -> Result<()> {
        let kept = filter_record_batch(&batch, &holds(&self.0, &batch, out)?)?;
        if kept.num_rows() > 0 { out.batch(kept) } else { Ok(()) }
    }
}

/// Computes columns.
pub(super) struct Project {
    pub(super) expressions: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) schema: SchemaRef,
}

impl Stateless for Project {
    fn rows(&mut self, batch: RecordBatch, out: &mut dyn Emit) -> Result<()> {
        let (rows, columns) = evaluate_rows(&self.expressions, batch, out)?;
        let projected = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        if rows.num_rows() == 0 { Ok(()) } else { out.batch(projected) }
    }
}

/// All rows of all ports under the union's own schema; the watermark is the smallest of the ports'.
pub(super) struct Union {
    schema: SchemaRef,
    watermarks: Vec<EventTime>,
}

impl Union {
    pub(super) fn new(schema: SchemaRef, ports: usize) -> Self {
        Self { schema, watermarks: vec![EventTime::MIN; ports] }
    }

    fn watermark(&self) -> EventTime {
        self.watermarks.iter().copied().min().unwrap_or(EventTime::MAX)
    }
}

impl Operator for Union {
    fn on_batch(&mut self, _port: usize, batch: RecordBatch, out: &mut dyn Emit) -> Result<()> {
        out.batch(batch.with_schema(Arc::clone(&self.schema))?)
    }

    fn on_watermark(&mut self, port: usize, t: EventTime, out: &mut dyn Emit) -> Result<()> {
        let before = self.watermark();
        self.watermarks[port] = self.watermarks[port].max(t);
        let after = self.watermark();
        if after > before { out.watermark(after) } else { Ok(()) }
    }

    fn passes_rows_on(&self) -> bool {
        true
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        Ok(vec![]) // the inputs send their watermarks again
    }

    fn restore(&mut self, _state: Vec<RecordBatch>) -> Result<()> {
        Ok(())
    }
}
