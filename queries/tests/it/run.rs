//! Runs a dataflow over rows in memory, without sources: arrival is one second a row.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, RecordBatch, RecordBatchOptions,
        StringArray, StructArray, TimestampMicrosecondArray, UInt32Array, new_null_array,
    },
    compute::{filter_record_batch, is_not_null, min, take_record_batch},
    datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType},
    json::{
        LineDelimitedWriter, ReaderBuilder,
        reader::infer_json_schema,
        writer::{LineDelimited, WriterBuilder},
    },
};
use tidemill_engine::{
    EVENT_TIME, EngineError, EventTime, ORDER, Signal,
    any::any_type,
    dataflow::{
        order::{order_of, order_type},
        plan::{Dataflow, InputColumns, InputPlan, MetadataColumn, NodeId, OperatorPlan, TimePolicy},
        stage::{Exchange, Stage},
    },
    datetime_type,
    source::PartitionId,
    user_code::FailedRow,
};
use tidemill_queries::{InputTable, Script, Settings, plan};

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

    /// As a query sees it.
    pub(crate) fn as_table(&self) -> InputTable {
        InputTable {
            sampled: self.sampled.then_some(self.rows.num_rows()),
            reference: self.table,
            ..InputTable::declared(&self.name, self.schema.clone())
        }
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
    /// Whether watermarks come between the batches, and whoever runs the dataflow dies behind each of them and goes on from a
    /// snapshot.
    pub(crate) killed: bool,
}

impl Cut {
    pub(crate) const WHOLE: Self = Self { batch: usize::MAX, workers: 1, killed: false };
    pub(crate) const OTHERS: [Self; 5] = [
        Self { batch: 1, ..Self::WHOLE },
        Self { batch: 4_096, workers: 4, killed: false },
        Self { batch: 1, workers: 4, killed: false },
        Self { batch: 1, workers: 1, killed: true },
        Self { batch: 2, workers: 4, killed: true },
    ];
}

/// What a dataflow made of its rows.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    /// Rows of each output, by its index, without the event time.
    pub(crate) outputs: Vec<Vec<RecordBatch>>,
    /// Rows that user code failed on.
    pub(crate) failed: Vec<FailedRow>,
}

/// The rows that a query over one input gives, as JSON; its mistakes as a user sees them.
pub(crate) fn query_rows(query: &str, input: Input) -> Result<Vec<String>, String> {
    let dataflow = Script::parse(query)
        .and_then(|s| plan(&s, &[input.as_table()], &["output".to_owned()], &Settings::default()))
        .map_err(|errors| errors.render(query, "query"))?;
    Ok(lines(&run_cut(&dataflow, &[input], Cut::WHOLE)?.outputs[0]))
}

/// Runs a dataflow over the rows, cut in this way.
pub(crate) fn run_cut(dataflow: &Dataflow, inputs: &[Input], cut: Cut) -> Result<Ran, String> {
    for table in &dataflow.tables {
        let input = inputs.iter().find(|i| i.name == table.columns.name).unwrap();
        table.rows.put(EventTime::MIN, input.batch(&table.columns, 0));
    }
    let text = |e: EngineError| match std::error::Error::source(&e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    };
    let mut halves = Halves::new(dataflow, cut.workers).map_err(text)?;
    for (id, node) in dataflow.nodes.iter().enumerate() {
        let OperatorPlan::Input(plan) = &node.operator else { continue };
        let rows = rows_of(dataflow, plan, inputs)?;
        let dealt: Vec<RecordBatch> = (0..cut.workers)
            .map(|worker| {
                let own = (0..rows.num_rows() as u32).filter(|row| *row as usize % cut.workers == worker);
                take_record_batch(&rows, &own.collect::<UInt32Array>()).unwrap()
            })
            .collect();
        let longest = dealt[0].num_rows();
        for start in (0..longest).step_by(cut.batch) {
            let end = start.saturating_add(cut.batch);
            for (worker, own) in dealt.iter().enumerate().filter(|(_, own)| start < own.num_rows()) {
                let batch = own.slice(start, end.min(own.num_rows()) - start);
                halves.push(worker, id, Signal::Batch(batch)).map_err(text)?;
            }
            if cut.killed {
                let rest = rows
                    .slice((end * cut.workers).min(rows.num_rows()), rows.num_rows().saturating_sub(end * cut.workers));
                let times = rest.column(rest.num_columns() - 1).as_primitive::<TimestampMicrosecondType>();
                if let Some(next) = min(times) {
                    (0..cut.workers)
                        .try_for_each(|worker| halves.push(worker, id, Signal::Watermark(EventTime(next))))
                        .map_err(text)?;
                }
                halves.die().map_err(text)?;
            }
        }
    }
    for worker in 0..cut.workers {
        for (id, node) in dataflow.nodes.iter().enumerate() {
            if matches!(node.operator, OperatorPlan::Input(_)) {
                halves.push(worker, id, Signal::Watermark(EventTime::MAX)).map_err(text)?;
            }
        }
    }
    Ok(halves.ran)
}

/// Both halves of a dataflow that runs.
struct Halves<'d> {
    dataflow: &'d Dataflow,
    workers: Vec<Stage>,
    merge: Stage,
    /// Watermarks of the workers, by input node, which a new run sends again.
    watermarks: BTreeMap<NodeId, EventTime>,
    ran: Ran,
}

impl<'d> Halves<'d> {
    fn new(dataflow: &'d Dataflow, workers: usize) -> tidemill_engine::Result<Self> {
        let (workers, merge) = stages(dataflow, workers)?;
        let ran = Ran { outputs: vec![vec![]; dataflow.outputs.len()], failed: vec![] };
        Ok(Self { dataflow, workers, merge, watermarks: BTreeMap::new(), ran })
    }

    /// The merge half hears of a watermark when the last worker has it.
    fn push(&mut self, worker: usize, node: NodeId, signal: Signal) -> tidemill_engine::Result<()> {
        if let Signal::Watermark(t) = signal {
            self.watermarks.insert(node, t);
        }
        let last = worker + 1 == self.workers.len();
        let mut sent: Vec<Exchange> = vec![];
        self.workers[worker].push(node, 0, signal, &mut |e| {
            sent.push(e);
            Ok(())
        })?;
        sent.retain(|e| matches!(e.signal, Signal::Batch(_)) || last);
        self.ran.failed.extend(self.workers[worker].failed().into_iter().map(|failed| failed.row));
        sent.into_iter().try_for_each(|exchange| self.merged(exchange))
    }

    fn merged(&mut self, exchange: Exchange) -> tidemill_engine::Result<()> {
        let Self { dataflow, merge, ran, .. } = self;
        merge.push(exchange.node, exchange.port, exchange.signal, &mut |e| {
            if let (OperatorPlan::Output(output), Signal::Batch(batch)) = (&dataflow.nodes[e.node].operator, e.signal) {
                let width = batch.num_columns() - 1;
                ran.outputs[*output].push(batch.project(&(0..width).collect::<Vec<_>>())?);
            }
            Ok(())
        })?;
        ran.failed.extend(merge.failed().into_iter().map(|failed| failed.row));
        Ok(())
    }

    /// Goes on in new halves from a snapshot of these.
    fn die(&mut self) -> tidemill_engine::Result<()> {
        for worker in 0..self.workers.len() {
            let sealed: Vec<_> = self.workers[worker].seal().collect();
            for (node, rows) in sealed {
                self.merged(Exchange { node, port: 0, signal: Signal::Batch(rows()?), covering: 0 })?;
            }
        }
        let state = self.merge.snapshot()?;
        (self.workers, self.merge) = stages(self.dataflow, self.workers.len())?;
        self.merge.restore(state)?;
        for (node, t) in self.watermarks.clone() {
            (0..self.workers.len()).try_for_each(|worker| self.push(worker, node, Signal::Watermark(t)))?;
        }
        Ok(())
    }
}

fn stages(dataflow: &Dataflow, workers: usize) -> tidemill_engine::Result<(Vec<Stage>, Stage)> {
    let late = Arc::default();
    let of_workers = (0..workers).map(|_| Stage::worker(dataflow, &late)).collect::<Result<_, _>>()?;
    Ok((of_workers, Stage::merge(dataflow, &late)?))
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
