//! ROW_NUMBER: the place of each row among those of its window and partition.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch},
    compute::concat_batches,
    datatypes::{Schema, SchemaRef},
    row::{RowConverter, SortField},
};

use super::{
    order::{Sequential, times},
    plan::RankPlan,
};
use crate::{
    EngineError, EventTime, Result,
    operator::{Emit, evaluate},
};

/// Adds a number from 1 before the event time. Rows of a window have one event time, so a window is complete when the
/// watermark has passed that; rows that are equal in what orders them are numbered as they come in order.
pub(super) struct Rank {
    plan: RankPlan,
    partition: RowConverter,
    order: RowConverter,
    waiting: Vec<RecordBatch>,
    input: SchemaRef,
    schema: SchemaRef,
}

impl Rank {
    pub(super) fn try_new(plan: &RankPlan, input: &SchemaRef, schema: SchemaRef) -> Result<Self> {
        let data_type = |e: &Arc<dyn datafusion_physical_expr::PhysicalExpr>, input: &Schema| e.data_type(input);
        let partition = plan.partition.iter().map(|k| Ok(SortField::new(data_type(k, input)?)));
        let order =
            plan.order.iter().map(|(e, options)| Ok(SortField::new_with_options(data_type(e, input)?, *options)));
        Ok(Self {
            partition: RowConverter::new(partition.collect::<Result<_>>()?)?,
            order: RowConverter::new(order.collect::<Result<_>>()?)?,
            plan: plan.clone(),
            waiting: vec![],
            input: Arc::clone(input),
            schema,
        })
    }
}

impl Sequential for Rank {
    fn rows(&mut self, batches: &[RecordBatch], _order: &[(usize, usize)], _out: &mut dyn Emit) -> Result<()> {
        self.waiting.extend(batches.iter().filter(|b| b.num_rows() > 0).cloned());
        Ok(())
    }

    fn advance(&mut self, t: EventTime, out: &mut dyn Emit) -> Result<EventTime> {
        if self.waiting.is_empty() {
            return Ok(t);
        }
        let rows = concat_batches(&self.input, &std::mem::take(&mut self.waiting))?;
        let columns = |of: &mut dyn Iterator<Item = &Arc<dyn datafusion_physical_expr::PhysicalExpr>>| {
            of.map(|e| evaluate(e, &rows)).collect::<Result<Vec<ArrayRef>>>()
        };
        let partition = self.partition.convert_columns(&columns(&mut self.plan.partition.iter())?)?;
        let order = self.order.convert_columns(&columns(&mut self.plan.order.iter().map(|(e, _)| e))?)?;
        let times = times(&rows);
        let mut places: Vec<usize> = (0..rows.num_rows()).collect();
        places.sort_by_key(|&row| (times[row], partition.row(row), order.row(row)));
        let mut numbers = vec![0i64; places.len()];
        let (mut number, mut before) = (0, None);
        for row in places {
            let group = (times[row], partition.row(row));
            number = if before == Some(group) { number + 1 } else { 1 };
            before = Some(group);
            numbers[row] = number;
        }
        let mut columns = rows.columns().to_vec();
        columns.insert(columns.len() - 1, Arc::new(Int64Array::from(numbers)));
        out.batch(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)?;
        Ok(t)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        Ok(vec![]) // nothing waits between two watermarks
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        if state.is_empty() {
            return Ok(());
        }
        let message = format!("{} batches for an operator without state", state.len());
        Err(EngineError::State { operator: "row number".to_owned(), message })
    }
}
