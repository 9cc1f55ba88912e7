//! Rows of the standard table function SESSION without aggregation: each row once, with the session it lies in, when that
//! is over. Runs in the merge half: rows of all workers make the sessions of a partition.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch},
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
};
use datafusion_physical_expr::PhysicalExpr;

use super::{
    sessions::{Pieces, Sessions},
    shape::SessionShape,
};
use crate::{
    EngineError, EventTime, Result,
    operator::{Emit, Operator, evaluate},
};

/// Adds `window_start`, `window_end` and `window_time` before the event time, which becomes `window_time`.
pub(crate) struct AssignSessions {
    partition: Vec<Arc<dyn PhysicalExpr>>,
    sessions: Sessions,
    rows: Pieces,
    input: SchemaRef,
    schema: SchemaRef,
    /// Rows that came after their session was closed.
    late: Arc<AtomicU64>,
}

impl AssignSessions {
    pub(crate) fn try_new(
        shape: SessionShape,
        partition: &[Arc<dyn PhysicalExpr>],
        input: &SchemaRef,
        schema: SchemaRef,
        late: Arc<AtomicU64>,
    ) -> Result<Self> {
        let keys = partition.iter().map(|k| Ok(k.data_type(input)?)).collect::<Result<_>>()?;
        Ok(Self {
            partition: partition.to_vec(),
            sessions: Sessions::try_new(shape, keys)?,
            rows: Pieces::new(Arc::clone(input)),
            input: Arc::clone(input),
            schema,
            late,
        })
    }

    /// Moves the rows of open sessions together; gives their sessions.
    fn compact(&mut self) -> Result<Vec<i64>> {
        let (places, numbers) = self.sessions.all_pieces();
        let batch =
            RecordBatch::try_new(Arc::clone(&self.input), self.rows.gather(&places, 0..self.input.fields().len())?)?;
        self.sessions.replace_pieces(&mut self.rows, batch, &numbers);
        Ok(numbers)
    }
}

impl Operator for AssignSessions {
    fn on_batch(&mut self, _port: usize, batch: RecordBatch, _out: &mut dyn Emit) -> Result<()> {
        let keys = self.partition.iter().map(|k| evaluate(k, &batch)).collect::<Result<Vec<_>>>()?;
        let times = batch.column(batch.num_columns() - 1).as_primitive::<TimestampMicrosecondType>().clone();
        let rows = batch.num_rows();
        let number = self.rows.push(batch);
        let late = self.sessions.add(&keys, 0..rows, |row| (times.value(row), times.value(row)), number)?;
        self.late.fetch_add(late.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn held_bytes(&self) -> usize {
        self.sessions.held_bytes() + self.rows.held_bytes()
    }

    fn on_watermark(&mut self, _port: usize, t: EventTime, out: &mut dyn Emit) -> Result<()> {
        let closed = self.sessions.close(t);
        if !closed.is_empty() {
            let (places, numbers) = self.sessions.pieces_of(&closed);
            let [start, end, time] = self.sessions.shown(&closed, numbers.iter().map(|n| *n as usize));
            let mut columns = self.rows.gather(&places, 0..self.input.fields().len())?;
            columns.pop();
            columns.extend([start, end, Arc::clone(&time), time]);
            out.batch(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)?;
        }
        if !self.sessions.let_go(&mut self.rows) && self.rows.are_loose() {
            self.compact()?;
        }
        out.watermark(self.sessions.result_watermark())
    }

    /// The sessions, then their rows with the number of the session of each.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        let numbers = self.compact()?;
        let (places, _) = self.sessions.all_pieces();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(numbers))];
        columns.extend(self.rows.gather(&places, 0..self.input.fields().len())?);
        let mut fields = vec![Arc::new(Field::new("__session", DataType::Int64, false))];
        fields.extend(self.input.fields().iter().cloned());
        Ok(vec![self.sessions.snapshot()?, RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?])
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        let columns = self.input.fields().len();
        let [sessions, rows] = state.as_slice() else {
            let message = format!("{} batches, expected sessions and rows", state.len());
            return Err(EngineError::State { operator: "sessions".to_owned(), message });
        };
        let numbers = rows.columns().first().and_then(|c| c.as_primitive_opt::<Int64Type>());
        let Some(numbers) = numbers.filter(|_| rows.num_columns() == columns + 1) else {
            let message = format!("rows of {:?}, expected {:?}", rows.schema(), self.input);
            return Err(EngineError::State { operator: "sessions".to_owned(), message });
        };
        self.sessions.restore(sessions, numbers.values())?;
        self.rows.push(RecordBatch::try_new(Arc::clone(&self.input), rows.columns()[1..].to_vec())?);
        Ok(())
    }
}
