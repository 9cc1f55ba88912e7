//! Functions of a row and of the rows before it: LAG, LAST, ISFIRST, and aggregates over the last so many seconds.
//!
//! [`Analytic`] adds a column for each call. It sees the rows in order ([`crate::dataflow::order`]), and keeps of each
//! partition only what a later row can still ask for ([`history`]): state is bounded by the partitions that were met
//! within the duration of the call, and for aggregates by their rows.

pub mod anomaly;
mod history;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Float64Array, Int64Array, Int64Builder, RecordBatch,
        StructArray,
    },
    buffer::NullBuffer,
    datatypes::{BinaryType, DataType, Field, Fields, Float64Type, Int64Type, Schema, SchemaRef},
    row::{RowConverter, Rows, SortField},
};
use datafusion_common::{ScalarValue, exec_datafusion_err};
use datafusion_expr::EmitTo;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use anomaly::Verdict;
use history::{History, Number};

use crate::{
    EngineError, EventTime, Result,
    dataflow::{
        order::{Sequential, times},
        plan::{AnalyticCall, AnalyticFunction, RollingAggregate},
    },
    operator::{Emit, evaluate},
    window::slices::Slices,
};

/// See the module.
pub(crate) struct Analytic {
    calls: Vec<Call>,
    /// Columns of the rows, one for each call, event time.
    schema: SchemaRef,
}

/// One call and its state.
struct Call {
    plan: AnalyticCall,
    /// Windows that ISFIRST counts in.
    slices: Option<Slices>,
    partition: Option<RowConverter>,
    /// Of values that are kept as bytes; they compare as the values do.
    values: RowConverter,
    value_type: DataType,
    histories: HashMap<Box<[u8]>, History>,
    /// When partitions were last looked over for ones that nobody can ask for any more.
    swept: EventTime,
}

impl Analytic {
    pub(crate) fn try_new(calls: &[AnalyticCall], input: &Schema, schema: SchemaRef) -> Result<Self> {
        let calls = calls.iter().map(|plan| {
            let value_type = plan.argument.data_type(input)?;
            let fields = plan.partition.iter().map(|k| Ok(SortField::new(k.data_type(input)?)));
            let fields = fields.collect::<Result<Vec<_>>>()?;
            let slices = match &plan.function {
                AnalyticFunction::First(interval) => Some(Slices::new(*interval)),
                _ => None,
            };
            Ok(Call {
                slices,
                partition: if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) },
                values: RowConverter::new(vec![SortField::new(value_type.clone())])?,
                value_type,
                histories: HashMap::new(),
                swept: EventTime::MIN,
                plan: plan.clone(),
            })
        });
        Ok(Self { calls: calls.collect::<Result<_>>()?, schema })
    }
}

impl Sequential for Analytic {
    fn rows(&mut self, batches: &[RecordBatch], _order: &[(usize, usize)], out: &mut dyn Emit) -> Result<()> {
        let [batch] = batches else { return Ok(()) };
        let mut columns = batch.columns().to_vec();
        let time = columns.pop();
        for call in &mut self.calls {
            columns.push(call.results(batch)?);
        }
        columns.extend(time);
        out.batch(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    fn advance(&mut self, t: EventTime, _out: &mut dyn Emit) -> Result<EventTime> {
        self.calls.iter_mut().for_each(|call| call.sweep(t));
        Ok(t)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        self.calls.iter().map(Call::snapshot).collect()
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        if state.len() != self.calls.len() {
            let message = format!("state of {} calls, expected {}", state.len(), self.calls.len());
            return Err(EngineError::State { operator: "analytic".to_owned(), message });
        }
        self.calls.iter_mut().zip(state).try_for_each(|(call, state)| call.restore(&state))
    }
}

/// The argument of a call over a batch.
enum Values {
    /// Only whether there is one.
    Any(ArrayRef),
    Encoded(ArrayRef, Rows),
    Ints(Int64Array),
    Floats(Float64Array),
}

impl Call {
    /// How long a row counts, in microseconds.
    fn within(&self) -> i64 {
        self.plan.function.reach_back()
    }

    fn values(&self, batch: &RecordBatch) -> Result<Values> {
        let argument = evaluate(&self.plan.argument, batch)?;
        Ok(match &self.plan.function {
            AnalyticFunction::First(_) | AnalyticFunction::Rolling { aggregate: RollingAggregate::Count, .. } => {
                Values::Any(argument)
            }
            AnalyticFunction::Anomaly(_) => Values::Floats(argument.as_primitive::<Float64Type>().clone()),
            AnalyticFunction::Rolling { aggregate: RollingAggregate::Sum | RollingAggregate::Avg, .. } => {
                match self.value_type {
                    DataType::Int64 => Values::Ints(argument.as_primitive::<Int64Type>().clone()),
                    _ => Values::Floats(argument.as_primitive::<Float64Type>().clone()),
                }
            }
            _ => {
                let rows = self.values.convert_columns(&[Arc::clone(&argument)])?;
                Values::Encoded(argument, rows)
            }
        })
    }

    fn results(&mut self, batch: &RecordBatch) -> Result<ArrayRef> {
        let rows = batch.num_rows();
        let keys = match &self.partition {
            Some(converter) => {
                let columns = self.plan.partition.iter().map(|k| evaluate(k, batch)).collect::<Result<Vec<_>>>()?;
                Some(converter.convert_columns(&columns)?)
            }
            None => None,
        };
        let when = self.plan.when.as_ref().map(|w| evaluate(w, batch)).transpose()?;
        let when: Option<&BooleanArray> = when.as_ref().map(|w| w.as_boolean());
        let counts = |row: usize| when.is_none_or(|when| when.is_valid(row) && when.value(row));
        let values = self.values(batch)?;
        let default = match &self.plan.function {
            AnalyticFunction::Lag { default: Some(default), .. } => {
                Some(self.values.convert_columns(&[evaluate(default, batch)?])?)
            }
            _ => None,
        };
        let null = self.values.convert_columns(&[arrow::array::new_null_array(&self.value_type, 1)])?;
        let mut results = Results::default();
        for (row, &time) in times(batch).iter().enumerate() {
            let key: &[u8] = keys.as_ref().map_or(&[], |keys| keys.row(row).data());
            let counted = counts(row);
            if counted && !self.histories.contains_key(key) {
                self.histories.insert(key.into(), History::new(&self.plan.function));
            }
            let mut history = self.histories.get_mut(key);
            match (&self.plan.function, &values) {
                (AnalyticFunction::Lag { offset, within_us, .. }, Values::Encoded(_, encoded)) => {
                    let value = encoded.row(row);
                    if let (0, true, Some(history)) = (offset, counted, &mut history) {
                        history.keep(time, value.data(), 1);
                    }
                    let found = history.as_ref().and_then(|h| h.back((*offset).max(1), time - within_us));
                    match (found, &default) {
                        (Some(bytes), _) => results.encoded(bytes),
                        (None, Some(default)) => results.encoded(default.row(row).data()),
                        (None, None) => results.encoded(null.row(0).data()),
                    }
                    if let (1.., true, Some(history)) = (offset, counted, &mut history) {
                        history.keep(time, value.data(), *offset);
                    }
                }
                (AnalyticFunction::First(_), _) => {
                    let interval = self.slices.map_or(time, |slices| slices.slice_of(time).start);
                    let first = counted && history.is_some_and(|history| history.enter(interval));
                    results.ints.push(Some(i64::from(first)));
                }
                (AnalyticFunction::Anomaly(plan), Values::Floats(x)) => {
                    let value = x.is_valid(row).then(|| x.value(row)).filter(|x| counted && x.is_finite());
                    results.verdicts.push(match (value, &mut history) {
                        (Some(value), Some(history)) => {
                            history.forget(time - plan.within_us);
                            history.judge(plan, time, value)
                        }
                        _ => None,
                    });
                }
                (AnalyticFunction::Rolling { aggregate, within_us }, values) => {
                    if let (true, Some(history)) = (counted, &mut history) {
                        match values {
                            Values::Any(any) if any.is_valid(row) => history.count(time),
                            Values::Encoded(any, encoded) if any.is_valid(row) => {
                                history.extreme(time, encoded.row(row).data(), *aggregate == RollingAggregate::Max);
                            }
                            Values::Ints(ints) if ints.is_valid(row) => history.add(time, Number::Int(ints.value(row))),
                            Values::Floats(x) if x.is_valid(row) => history.add(time, Number::Float(x.value(row))),
                            _ => {}
                        }
                    }
                    if let Some(history) = &mut history {
                        history.forget(time - within_us);
                    }
                    let history = history.as_deref();
                    match (aggregate, values) {
                        (RollingAggregate::Count, _) => results.ints.push(Some(history.map_or(0, History::len))),
                        (RollingAggregate::Avg, _) => results.floats.push(history.and_then(History::average)),
                        (RollingAggregate::Sum, Values::Ints(_)) => {
                            let sum = history.map(History::whole_sum).transpose();
                            results.ints.push(sum.map_err(|()| self.overflow())?.flatten());
                        }
                        (RollingAggregate::Sum, _) => results.floats.push(history.and_then(History::sum)),
                        (RollingAggregate::Min | RollingAggregate::Max, _) => {
                            results.encoded(history.and_then(History::first).unwrap_or(null.row(0).data()));
                        }
                    }
                }
                (AnalyticFunction::Gathered { aggregate, within_us }, Values::Encoded(_, encoded)) => {
                    if let (true, Some(history)) = (counted, &mut history) {
                        history.keep(time, encoded.row(row).data(), usize::MAX);
                    }
                    if let Some(history) = &mut history {
                        history.forget(time - within_us);
                    }
                    results.scalars.push(gathered(aggregate, history.as_deref(), &self.values)?);
                }
                (
                    AnalyticFunction::Lag { .. } | AnalyticFunction::Gathered { .. } | AnalyticFunction::Anomaly(_),
                    _,
                ) => {
                    unreachable!("`values` encodes the argument of LAG, and reads that of detectors as floats")
                }
            }
        }
        results.finish(rows, &self.values)
    }

    fn overflow(&self) -> EngineError {
        EngineError::Evaluate {
            expression: format!("SUM({}) OVER", self.plan.argument),
            source: exec_datafusion_err!("the sum of bigint exceeds its range"),
        }
    }

    /// Forgets partitions that no row at or above `t` can ask for. At most once in the call's duration, so that a row costs
    /// no more for it than a look.
    fn sweep(&mut self, t: EventTime) {
        let within = self.within();
        if self.swept == EventTime::MIN {
            self.swept = t;
        }
        if t.0.saturating_sub(self.swept.0) >= within {
            self.swept = t;
            self.histories.retain(|_, history| history.newest() > t.0.saturating_sub(within));
            if self.histories.capacity() > 4 * self.histories.len() + 1_024 {
                self.histories.shrink_to_fit();
            }
        }
    }

    /// One row for each kept entry: partition, time, value; those of a partition in order.
    fn snapshot(&self) -> Result<RecordBatch> {
        let (mut keys, mut at, mut values) = (BinaryBuilder::new(), Int64Builder::new(), BinaryBuilder::new());
        for (key, history) in &self.histories {
            history.entries(&mut |time, value| {
                keys.append_value(key);
                at.append_value(time);
                values.append_value(value);
            });
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(keys.finish()), Arc::new(at.finish()), Arc::new(values.finish())];
        Ok(RecordBatch::try_new(state_schema(), columns)?)
    }

    fn restore(&mut self, state: &RecordBatch) -> Result<()> {
        if state.schema() != state_schema() {
            let message = format!("expected partition, time and value, found {}", state.schema());
            return Err(EngineError::State { operator: "analytic".to_owned(), message });
        }
        let (keys, values) = (state.column(0).as_bytes::<BinaryType>(), state.column(2).as_bytes::<BinaryType>());
        let times = state.column(1).as_primitive::<Int64Type>();
        for row in 0..state.num_rows() {
            let history = self.histories.entry(keys.value(row).into());
            let history = history.or_insert_with(|| History::new(&self.plan.function));
            history.restore(times.value(row), values.value(row)).ok_or_else(|| EngineError::State {
                operator: "analytic".to_owned(),
                message: format!("a value of {} bytes", values.value(row).len()),
            })?;
        }
        Ok(())
    }
}

/// An aggregate of all values that count; they are records of its arguments, encoded by `values`.
fn gathered(
    aggregate: &AggregateFunctionExpr,
    history: Option<&History>,
    values: &RowConverter,
) -> Result<ScalarValue> {
    let failed = |source| EngineError::Evaluate { expression: aggregate.name().to_owned(), source };
    let parser = values.parser();
    let kept = history.into_iter().flat_map(History::values).map(|value| parser.parse(value));
    let record = values.convert_rows(kept)?.remove(0);
    let arguments = record.as_struct().columns();
    if !aggregate.groups_accumulator_supported() {
        let mut accumulator = aggregate.create_accumulator().map_err(failed)?;
        accumulator.update_batch(arguments).map_err(failed)?;
        return accumulator.evaluate().map_err(failed);
    }
    // All rows are one group.
    let mut accumulator = aggregate.create_groups_accumulator().map_err(failed)?;
    accumulator.update_batch(arguments, &vec![0; record.len()], None, 1).map_err(failed)?;
    let result = accumulator.evaluate(EmitTo::All).map_err(failed)?;
    ScalarValue::try_from_array(&result, 0).map_err(failed)
}

fn state_schema() -> SchemaRef {
    let field = |name: &str, data_type| Field::new(name, data_type, false);
    Arc::new(Schema::new(vec![
        field("partition", DataType::Binary),
        field("time", DataType::Int64),
        field("value", DataType::Binary),
    ]))
}

/// The record that a detector gives: `{IsAnomaly, Score}`.
#[must_use]
pub fn verdict_type() -> DataType {
    DataType::Struct(verdict_fields())
}

fn verdict_fields() -> Fields {
    let fields = [("IsAnomaly", DataType::Int64), ("Score", DataType::Float64)];
    fields.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect()
}

/// The results of a call over a batch: one of the five.
#[derive(Default)]
struct Results {
    ints: Vec<Option<i64>>,
    floats: Vec<Option<f64>>,
    verdicts: Vec<Option<Verdict>>,
    scalars: Vec<ScalarValue>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Results {
    fn encoded(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.ends.push(self.bytes.len());
    }

    fn finish(self, rows: usize, values: &RowConverter) -> Result<ArrayRef> {
        if self.ints.len() == rows && rows > 0 {
            return Ok(Arc::new(Int64Array::from(self.ints)));
        }
        if self.floats.len() == rows && rows > 0 {
            return Ok(Arc::new(Float64Array::from(self.floats)));
        }
        if self.verdicts.len() == rows && rows > 0 {
            let anomalies: Int64Array = self.verdicts.iter().map(|v| v.map(|v| i64::from(v.is_anomaly))).collect();
            let scores: Float64Array = self.verdicts.iter().map(|v| v.map(|v| v.score)).collect();
            let nulls = NullBuffer::from_iter(self.verdicts.iter().map(Option::is_some));
            let columns: Vec<ArrayRef> = vec![Arc::new(anomalies), Arc::new(scores)];
            return Ok(Arc::new(StructArray::try_new(verdict_fields(), columns, Some(nulls))?));
        }
        if self.scalars.len() == rows && rows > 0 {
            let scalars = ScalarValue::iter_to_array(self.scalars);
            return scalars.map_err(|source| EngineError::Evaluate { expression: "OVER".to_owned(), source });
        }
        let parser = values.parser();
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let encoded = starts.zip(&self.ends).map(|(start, end)| parser.parse(&self.bytes[start..*end]));
        Ok(values.convert_rows(encoded)?.remove(0))
    }
}
