//! Rows that user code fails on. Such a row leaves the dataflow with its cause, and its neighbours stay.
//!
//! A call that fails makes its expression fail with [`CallFailed`], which says nothing of the row: within a CASE the function
//! sees only some rows of a batch. So the rows of a batch that fails are looked at one by one, and each of them is evaluated as
//! it is alone, whatever it came with. Planners put user code only where that can be done: into filters, projections and the
//! conditions of joins.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array, new_null_array},
    compute::{concat, take_record_batch},
    datatypes::{Decimal128Type, Field, Schema},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use datafusion_common::DataFusionError;
use datafusion_physical_expr::PhysicalExpr;

use crate::{
    EngineError, EventTime, ORDER, Result,
    dataflow::order::{origin_of, times},
    operator::{Emit, evaluate},
    source::PartitionId,
};

/// Why a call of user code has no value for a row: the function, its line and what it says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CallFailed(pub String);

impl From<CallFailed> for DataFusionError {
    fn from(failed: CallFailed) -> Self {
        Self::External(Box::new(failed))
    }
}

/// Begins a value of type `any` that is none, because its aggregate failed; the cause follows. The results of all keys come at
/// once, so that the failure is that of the row which uses it. No JSON text begins so.
pub const FAILED_VALUE: char = '\0';

/// A row that user code failed on.
#[derive(Clone, Debug)]
pub struct FailedRow {
    /// The row alone, with the columns of the step that failed.
    pub row: RecordBatch,
    /// Why.
    pub message: String,
}

impl FailedRow {
    /// Its event time.
    #[must_use]
    pub fn time(&self) -> EventTime {
        EventTime(times(&self.row)[0])
    }

    /// The record that it was made of, where it was made of one: its input, partition and offset.
    #[must_use]
    pub fn origin(&self) -> Option<(usize, PartitionId, i64)> {
        let schema = self.row.schema_ref();
        let ordered = schema.fields().first().is_some_and(|field| field.name() == ORDER);
        ordered.then(|| origin_of(self.row.column(0).as_primitive::<Decimal128Type>().value(0)))
    }

    /// Its columns, without those that no query names, each under a name of its own; null for values that failed.
    ///
    /// # Errors
    /// None that is expected.
    pub fn values(&self) -> Result<RecordBatch> {
        let first = usize::from(self.origin().is_some());
        let shown = self.row.project(&(first..self.row.num_columns() - 1).collect::<Vec<_>>())?;
        let has_failed = |column: &ArrayRef| {
            let value = column.as_string_opt::<i64>().filter(|values| values.is_valid(0)).map(|values| values.value(0));
            value.is_some_and(|value| value.starts_with(FAILED_VALUE))
        };
        let columns = shown.columns().iter().map(|column| match has_failed(column) {
            true => new_null_array(column.data_type(), 1),
            false => Arc::clone(column),
        });
        let known = shown.schema_ref().fields();
        let fields = known.iter().enumerate().map(|(at, field)| {
            let name = match known[..at].iter().filter(|before| before.name() == field.name()).count() {
                0 => field.name().clone(),
                same => format!("{}_{}", field.name(), same + 1),
            };
            Field::new(name, field.data_type().clone(), true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        Ok(RecordBatch::try_new_with_options(schema, columns.collect(), &options)?)
    }
}

impl EngineError {
    /// The cause, if it is that user code failed on a row.
    pub(crate) fn failed_call(&self) -> Option<&CallFailed> {
        let Self::Evaluate { source, .. } = self else { return None };
        match source.find_root() {
            DataFusionError::External(cause) => cause.downcast_ref(),
            _ => None,
        }
    }
}

/// Evaluates expressions on the rows of a batch. Rows that fail go to `out`; the others and their values are given.
pub(crate) fn evaluate_rows(
    expressions: &[Arc<dyn PhysicalExpr>],
    batch: RecordBatch,
    out: &mut dyn Emit,
) -> Result<(RecordBatch, Vec<ArrayRef>)> {
    match evaluate_all(expressions, &batch) {
        Err(error) if error.failed_call().is_some() => {}
        whole => return Ok((batch, whole?)),
    }
    let (mut kept, mut values) = (vec![], vec![]);
    for (row, outcome) in (0u32..).zip(one_by_one(expressions, &batch)) {
        match outcome? {
            Ok(of_row) => {
                kept.push(row);
                values.push(of_row);
            }
            Err(failed) => out.failed(failed)?,
        }
    }
    let batch = take_record_batch(&batch, &UInt32Array::from(kept))?;
    if values.is_empty() {
        let columns = evaluate_all(expressions, &batch)?;
        return Ok((batch, columns));
    }
    let column = |at: usize| concat(&values.iter().map(|of_row| of_row[at].as_ref()).collect::<Vec<_>>());
    let columns = (0..expressions.len()).map(column).collect::<Result<_, _>>()?;
    Ok((batch, columns))
}

/// Evaluates an expression. Null for a row that fails and whose cause `failed` takes.
pub(crate) fn evaluate_or_null(
    expression: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    mut failed: impl FnMut(usize, EngineError) -> Result<()>,
) -> Result<ArrayRef> {
    if let Ok(whole) = evaluate(expression, batch) {
        return Ok(whole);
    }
    let data_type = expression.data_type(batch.schema_ref())?;
    let values = (0..batch.num_rows()).map(|row| match evaluate(expression, &batch.slice(row, 1)) {
        Ok(value) => Ok(value),
        Err(error) => failed(row, error).map(|()| new_null_array(&data_type, 1)),
    });
    let values = values.collect::<Result<Vec<_>>>()?;
    Ok(concat(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>())?)
}

/// For which rows a condition is true. It is not for a row that fails, which goes to `out`.
pub(crate) fn holds(
    condition: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    out: &mut dyn Emit,
) -> Result<BooleanArray> {
    let condition = std::slice::from_ref(condition);
    match evaluate(&condition[0], batch) {
        Err(error) if error.failed_call().is_some() => {}
        whole => return Ok(whole?.as_boolean().clone()),
    }
    let mut held = Vec::with_capacity(batch.num_rows());
    for outcome in one_by_one(condition, batch) {
        held.push(match outcome? {
            Ok(values) => values[0].is_valid(0) && values[0].as_boolean().value(0),
            Err(failed) => {
                out.failed(failed)?;
                false
            }
        });
    }
    Ok(BooleanArray::from(held))
}

/// The values of each row, or why user code has none for it.
fn one_by_one<'b>(
    expressions: &'b [Arc<dyn PhysicalExpr>],
    batch: &'b RecordBatch,
) -> impl Iterator<Item = Result<Result<Vec<ArrayRef>, FailedRow>>> + 'b {
    (0..batch.num_rows()).map(|row| {
        let row = batch.slice(row, 1);
        evaluate_all(expressions, &row).map(Ok).or_else(|error| match error.failed_call() {
            Some(CallFailed(message)) => Ok(Err(FailedRow { row, message: message.clone() })),
            None => Err(error),
        })
    })
}

fn evaluate_all(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    expressions.iter().map(|expression| evaluate(expression, batch)).collect()
}
