//! Operators without state: filter, projection, union.

use std::sync::Arc;

use arrow::{array::AsArray, compute::filter_record_batch, datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion_physical_expr::PhysicalExpr;

use crate::{
    EventTime, Result,
    operator::{Emit, Operator, Stateless, evaluate},
};

/// Keeps the rows for which the predicate is true.
pub(super) struct Filter(pub(super) Arc<dyn PhysicalExpr>);

impl Stateless for Filter {
    fn rows(&mut self, batch: RecordBatch, out: &mut dyn Emit) -> Result<()> {
        let keep = evaluate(&self.0, &batch)?;
        let kept = filter_record_batch(&batch, keep.as_boolean())?;
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
        let columns = self.expressions.iter().map(|e| evaluate(e, &batch)).collect::<Result<Vec<_>>>()?;
        out.batch(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
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
