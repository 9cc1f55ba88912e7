//! Runs a dataflow over rows in memory, without sources: arrival is one second a row.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::AtomicU64},
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, RecordBatch, RecordBatchOptions,
        StringArray, StructArray, TimestampMicrosecondArray, UInt32Array, new_null_array,
    },
    compute::{filter_record_batch, is_not_null, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef},
    json::{
        LineDelimitedWriter, ReaderBuilder,
        reader::infer_json_schema,
        writer::{LineDelimited, WriterBuilder},
    },
};
use tidemill_engine::{
    EVENT_TIME, EventTime, ORDER, Signal,
    any::any_type,
    dataflow::{
        order::{order_of, order_type},
        plan::{Dataflow, InputColumns, InputPlan, MetadataColumn, NodeId, OperatorPlan, TimePolicy},
        stage::{Exchange, Stage},
    },
    datetime_type,
    source::PartitionId,
};

/// 2024-01-01T00:00:00Z.
const START: i64 = 1_704_067_200_000_000;

/// An input's rows as JSON lines.
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) schema: SchemaRef,
    pub(crate) rows: RecordBatch,
    /// Whether it is reference data.
    pub(crate) table: bool,
    /// Whether its columns are those of a sample.
    pub(crate) sampled: bool,
}

impl Input {
    /// `datetimes` are the columns that are datetimes rather than text.
    pub(crate) fn new(name: &str, lines: &str, datetimes: &[&str]) -> Self {
        let (inferred, _) = infer_json_schema(lines.as_bytes(), None).unwrap();
        let fields: Vec<Field> = inferred
            .fields()
            .iter()
            .map(|f| match f.data_type() {
                _ if datetimes.contains(&f.name().as_str()) => Field::new(f.name(), datetime_type(), true),
                DataType::Null => Field::new(f.name(), DataType::Utf8, true),
                t => Field::new(f.name(), t.clone(), true),
            })
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let mut decoder = ReaderBuilder::new(Arc::clone(&schema)).build_decoder().unwrap();
        decoder.decode(lines.as_bytes()).unwrap();
        let rows = decoder.flush().unwrap().unwrap_or(RecordBatch::new_empty(Arc::clone(&schema)));
        Self { name: name.to_owned(), schema, rows, table: false, sampled: false }
    }

    /// The columns that the dataflow asks for.
    fn batch(&self, wanted: &InputColumns, input: usize) -> RecordBatch {
        let n = self.rows.num_rows();
        let arrival: Vec<i64> = (0..n as i64).map(|i| START + i * 1_000_000).collect();
        let times = || -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(arrival.clone()).with_timezone("UTC")) };
        let mut columns: Vec<(Field, ArrayRef)> = vec![];
        if wanted.ordered {
            let order = (0..n).map(|i| order_of(input, PartitionId(0), i as i64, 0)).collect::<Vec<_>>();
            let order: ArrayRef = Arc::new(Decimal128Array::from(order).with_data_type(order_type()));
            columns.push((Field::new(ORDER, order_type(), false), order));
        }
        for field in wanted.payload.fields() {
            let column = with_fields(self.rows.column_by_name(field.name()).unwrap(), field.data_type());
            columns.push((field.as_ref().clone(), column));
        }
        for metadata in &wanted.metadata {
            let column: ArrayRef = match metadata {
                MetadataColumn::Key => new_null_array(&DataType::Utf8, n),
                MetadataColumn::Topic => Arc::new(StringArray::from(vec![self.name.as_str(); n])),
                MetadataColumn::Partition => Arc::new(Int64Array::from(vec![0; n])),
                MetadataColumn::Offset => Arc::new((0..n as i64).collect::<Int64Array>()),
                MetadataColumn::Timestamp => times(),
                MetadataColumn::Headers => unimplemented!("headers in tests"),
            };
            columns.push((Field::new(metadata.name(), column.data_type().clone(), true), column));
        }
        columns.push((Field::new(EVENT_TIME, datetime_type(), false), times()));
        let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let options = RecordBatchOptions::new().with_row_count(Some(n));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options).unwrap()
    }
}

/// A column with the fields that the query adds to the records of a sample: null, as no record has them.
fn with_fields(column: &ArrayRef, wanted: &DataType) -> ArrayRef {
    let (DataType::Struct(fields), Some(record)) = (wanted, column.as_struct_opt()) else { return Arc::clone(column) };
    let columns = fields.iter().map(|f| match record.column_by_name(f.name()) {
        Some(column) => with_fields(column, f.data_type()),
        None => new_null_array(f.data_type(), column.len()),
    });
    let columns = columns.collect();
    Arc::new(StructArray::try_new_with_length(fields.clone(), columns, record.nulls().cloned(), record.len()).unwrap())
}

/// How rows come; results do not depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// Rows of a batch at most.
    pub(crate) batch: usize,
    /// Workers, which rows are dealt to in turn.
    pub(crate) workers: usize,
}

impl Cut {
    pub(crate) const WHOLE: Self = Self { batch: usize::MAX, workers: 1 };
    pub(crate) const OTHERS: [Self; 3] =
        [Self { batch: 1, workers: 1 }, Self { batch: 4_096, workers: 4 }, Self { batch: 1, workers: 4 }];
}

/// Rows of each output, by its index, without the event time.
pub(crate) fn run(dataflow: &Dataflow, inputs: &[Input]) -> Result<Vec<Vec<RecordBatch>>, String> {
    run_cut(dataflow, inputs, Cut::WHOLE)
}

/// The same, with the rows cut in this way.
pub(crate) fn run_cut(dataflow: &Dataflow, inputs: &[Input], cut: Cut) -> Result<Vec<Vec<RecordBatch>>, String> {
    for table in &dataflow.tables {
        let input = inputs.iter().find(|i| i.name == table.columns.name).unwrap();
        table.rows.put(EventTime::MIN, input.batch(&table.columns, 0));
    }
    let late = Arc::new(AtomicU64::new(0));
    let workers = (0..cut.workers).map(|_| Stage::worker(dataflow, &late)).collect::<Result<Vec<_>, _>>();
    let mut workers = workers.map_err(|e| e.to_string())?;
    let mut merge = Stage::merge(dataflow, &late).map_err(|e| e.to_string())?;
    let mut outputs = vec![vec![]; dataflow.outputs.len()];
    // The merge half hears of a watermark when the last worker has it.
    let mut push = |worker: usize, node: NodeId, signal: Signal| {
        let mut sent: Vec<Exchange> = vec![];
        workers[worker].push(node, 0, signal, &mut |e| {
            sent.push(e);
            Ok(())
        })?;
        sent.retain(|e| matches!(e.signal, Signal::Batch(_)) || worker + 1 == cut.workers);
        for exchange in sent {
            merge.push(exchange.node, exchange.port, exchange.signal, &mut |e| {
                if let (OperatorPlan::Output(output), Signal::Batch(batch)) =
                    (&dataflow.nodes[e.node].operator, e.signal)
                {
                    let width = batch.num_columns() - 1;
                    outputs[*output].push(batch.project(&(0..width).collect::<Vec<_>>())?);
                }
                Ok(())
            })?;
        }
        Ok::<_, tidemill_engine::EngineError>(())
    };
    let text = |e: tidemill_engine::EngineError| match std::error::Error::source(&e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    };
    for (id, node) in dataflow.nodes.iter().enumerate() {
        let OperatorPlan::Input(plan) = &node.operator else { continue };
        let batch = rows_of(dataflow, plan, inputs)?;
        for worker in 0..cut.workers {
            let own: UInt32Array =
                (0..batch.num_rows() as u32).filter(|row| *row as usize % cut.workers == worker).collect();
            let own = take_record_batch(&batch, &own).unwrap();
            for start in (0..own.num_rows()).step_by(cut.batch) {
                let rows = own.slice(start, cut.batch.min(own.num_rows() - start));
                push(worker, id, Signal::Batch(rows)).map_err(text)?;
            }
        }
    }
    for worker in 0..cut.workers {
        for (id, node) in dataflow.nodes.iter().enumerate() {
            if matches!(node.operator, OperatorPlan::Input(_)) {
                push(worker, id, Signal::Watermark(EventTime::MAX)).map_err(text)?;
            }
        }
    }
    Ok(outputs)
}

/// The rows that an input node gives: those that have an event time.
fn rows_of(dataflow: &Dataflow, plan: &InputPlan, inputs: &[Input]) -> Result<RecordBatch, String> {
    let name = &dataflow.inputs[plan.input].name;
    let input = inputs.iter().find(|i| i.name == *name).unwrap();
    let batch = input.batch(&dataflow.inputs[plan.input], plan.input);
    let TimePolicy::Column { expression, .. } = &plan.time else { return Ok(batch) };
    let time = expression.evaluate(&batch).and_then(|v| v.into_array(batch.num_rows())).map_err(|e| e.to_string())?;
    let keep: BooleanArray = is_not_null(&time).unwrap();
    let mut columns = batch.columns().to_vec();
    columns.pop();
    columns.push(Arc::clone(&time));
    let mut fields = batch.schema().fields().to_vec();
    fields.pop();
    fields.push(Arc::new(Field::new(EVENT_TIME, datetime_type(), true)));
    let all = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let kept = filter_record_batch(&all, &keep).unwrap();
    Ok(RecordBatch::try_new(batch.schema(), kept.columns().to_vec()).unwrap())
}

/// Rows as sorted JSON lines, nulls written out.
pub(crate) fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut writer: LineDelimitedWriter<Vec<u8>> =
        WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    for batch in batches {
        writer.write(batch).unwrap();
    }
    writer.finish().unwrap();
    let any: HashSet<String> = batches
        .iter()
        .flat_map(|b| b.schema().fields().to_vec())
        .filter(|f| *f.data_type() == any_type())
        .map(|f| f.name().clone())
        .collect();
    let text = String::from_utf8(writer.into_inner()).unwrap();
    let mut lines: Vec<String> = text.lines().map(|line| with_values(line, &any)).collect();
    lines.sort();
    lines
}

/// Columns of type `any` hold JSON, which the writer takes for text.
fn with_values(line: &str, columns: &HashSet<String>) -> String {
    if columns.is_empty() {
        return line.to_owned();
    }
    let mut row: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
    for (_, value) in row.iter_mut().filter(|(name, value)| columns.contains(*name) && value.is_string()) {
        *value = serde_json::from_str(value.as_str().unwrap()).unwrap();
    }
    serde_json::to_string(&row).unwrap()
}
