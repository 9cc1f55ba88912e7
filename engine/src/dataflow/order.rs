//! Rows in one defined order, whatever the batches, the workers and their arrival.
//!
//! Most operators give the same rows in any order. A [`Sequential`] one does not (a join's left rows, LAG): it sees its
//! rows by event time, then port, then the order of the port ([`RowOrder`]). [`InOrder`] makes that so: it runs in the
//! merge half, keeps rows until the watermark of every port has passed them, sorts, and hands them on. Where rows come
//! straight from inputs their order is (input, partition, offset, row within the record): the column [`crate::ORDER`],
//! first in a batch, which the intake adds only to inputs that such an operator reads.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arrow::{
    array::{ArrayRef, AsArray, Decimal128Array, Int64Array, RecordBatch, UInt32Array},
    compute::{interleave_record_batch, take_record_batch},
    datatypes::{DataType, Decimal128Type, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
    row::{RowConverter, Rows, SortField},
};

use super::{
    budget::bytes_of_rows,
    plan::{Dataflow, NodeId, OperatorPlan},
};
use crate::{
    EngineError, EventTime, ORDER, Result,
    operator::{Emit, Operator},
    source::PartitionId,
};

/// Rows that a [`Sequential`] operator gets at once, at most: as a batch of the intake.
const CHUNK_ROWS: usize = 8_192;

/// The type of [`ORDER`]: a whole number of 128 bits.
#[must_use]
pub fn order_type() -> DataType {
    DataType::Decimal128(38, 0)
}

/// The value of [`ORDER`]: 15 bits of input, 24 of partition, 64 of offset, 24 of the row within its record.
#[must_use]
pub fn order_of(input: usize, partition: PartitionId, offset: i64, row: usize) -> i128 {
    const WITHIN: i128 = (1 << 24) - 1;
    let (row, partition) = ((row as i128).min(WITHIN), i128::from(partition.0) & WITHIN);
    (input as i128) << 112 | partition << 88 | i128::from(offset as u64) << 24 | row
}

/// The input, the partition and the offset that an [`order_of`] is made of.
#[must_use]
pub fn origin_of(order: i128) -> (usize, PartitionId, i64) {
    let (input, partition, offset) = (order >> 112, (order >> 88) as u32 & ((1 << 24) - 1), (order >> 24) as i64);
    (input as usize, PartitionId(partition), offset)
}

/// An array of [`order_of`].
pub(crate) fn order_array(values: Vec<i128>) -> ArrayRef {
    Arc::new(Decimal128Array::from(values).with_data_type(order_type()))
}

/// What orders rows of one event time and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// The column [`ORDER`].
    Column,
    /// They come from a sequential operator, in its order.
    Given,
    /// All columns: rows that are equal in all of them can stand for one another.
    Content,
}

impl RowOrder {
    /// Of the rows of a node.
    pub(crate) fn of(dataflow: &Dataflow, mut node: NodeId) -> Self {
        if dataflow.nodes[node].schema.fields().first().is_some_and(|f| f.name() == ORDER) {
            return Self::Column;
        }
        loop {
            let at = &dataflow.nodes[node];
            match (&at.operator, at.inputs.as_slice()) {
                (operator, _) if operator.is_sequential() => return Self::Given,
                (OperatorPlan::Aggregate(_) | OperatorPlan::AssignSessions { .. }, _) => return Self::Content,
                (_, &[input]) => node = input,
                _ => return Self::Content,
            }
        }
    }
}

/// An operator that depends on the order of its rows.
pub(crate) trait Sequential: Send {
    /// Takes the next rows: of each port a batch (maybe empty), and the order over all of them as (port, row). Event times
    /// never go back, neither here nor from call to call.
    fn rows(&mut self, batches: &[RecordBatch], order: &[(usize, usize)], out: &mut dyn Emit) -> Result<()>;

    /// Every row below `t` has been given. Returns the event time below which this operator emits no more rows.
    fn advance(&mut self, t: EventTime, out: &mut dyn Emit) -> Result<EventTime>;

    /// As [`Operator::held_bytes`].
    fn held_bytes(&self) -> usize {
        0
    }

    /// As [`Operator::snapshot`].
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>>;

    /// As [`Operator::restore`].
    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()>;
}

/// A port's rows that no watermark has passed yet.
struct Port {
    order: RowOrder,
    schema: SchemaRef,
    /// Compares rows by content, where that orders them.
    content: Option<RowConverter>,
    watermark: EventTime,
    waiting: Vec<Waiting>,
    /// Rows taken so far, to number rows whose order is given.
    taken: i128,
    /// Of all that wait.
    bytes: usize,
}

/// Rows in order of event time, and how far they were handed on.
struct Waiting {
    batch: RecordBatch,
    keys: Keys,
    next: usize,
    bytes: usize,
}

enum Keys {
    Column,
    /// The number of the first row.
    Given(i128),
    Content(Rows),
}

/// A row on its way out: what it is sorted by, and where it lies.
struct Place {
    time: i64,
    port: u32,
    order: i128,
    waiting: u32,
    row: u32,
}

/// See the module.
pub(crate) struct InOrder<S> {
    operator: S,
    name: &'static str,
    ports: Vec<Port>,
    /// Rows below it were handed on.
    given: EventTime,
    late: Arc<AtomicU64>,
}

impl<S: Sequential> InOrder<S> {
    /// `name` for errors. `late` counts rows that come behind the watermark and can be put into no order any more.
    pub(crate) fn try_new(
        operator: S,
        name: &'static str,
        dataflow: &Dataflow,
        inputs: &[NodeId],
        late: Arc<AtomicU64>,
    ) -> Result<Self> {
        let ports = inputs.iter().map(|&input| {
            let schema = Arc::clone(&dataflow.nodes[input].schema);
            let order = RowOrder::of(dataflow, input);
            let fields = || schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
            let content = (order == RowOrder::Content).then(|| RowConverter::new(fields())).transpose()?;
            Ok(Port { order, schema, content, watermark: EventTime::MIN, waiting: vec![], taken: 0, bytes: 0 })
        });
        Ok(Self { operator, name, ports: ports.collect::<Result<_>>()?, given: EventTime::MIN, late })
    }

    /// The rows below `t` that were not handed on yet, in order.
    fn take_below(&mut self, t: EventTime) -> Vec<Place> {
        let mut places = vec![];
        for (port, at) in self.ports.iter_mut().enumerate() {
            for (index, waiting) in at.waiting.iter_mut().enumerate() {
                let times = times(&waiting.batch);
                let end = waiting.next + times[waiting.next..].partition_point(|&time| time < t.0);
                let column = matches!(waiting.keys, Keys::Column).then(|| order_column(&waiting.batch));
                places.extend((waiting.next..end).map(|row| Place {
                    time: times[row],
                    port: port as u32,
                    order: match (column, &waiting.keys) {
                        (Some(column), _) => column[row],
                        (_, Keys::Given(first)) => first + row as i128,
                        _ => 0,
                    },
                    waiting: index as u32,
                    row: row as u32,
                }));
                waiting.next = end;
            }
        }
        let content = |place: &Place| match &self.ports[place.port as usize].waiting[place.waiting as usize].keys {
            Keys::Content(rows) => Some(rows.row(place.row as usize)),
            _ => None,
        };
        // What is left equal are rows of one record, which come in their order. Waiting batches are sorted already, and the stable
        // sort merges such runs.
        places.sort_by(|a, b| {
            let by_order = (a.time, a.port, a.order).cmp(&(b.time, b.port, b.order));
            by_order.then_with(|| content(a).cmp(&content(b))).then((a.waiting, a.row).cmp(&(b.waiting, b.row)))
        });
        places
    }

    fn give(&mut self, places: &[Place], out: &mut dyn Emit) -> Result<()> {
        for chunk in places.chunks(CHUNK_ROWS) {
            let mut order = Vec::with_capacity(chunk.len());
            let mut picked: Vec<Vec<(usize, usize)>> = vec![vec![]; self.ports.len()];
            for place in chunk {
                let rows = &mut picked[place.port as usize];
                order.push((place.port as usize, rows.len()));
                rows.push((place.waiting as usize, place.row as usize));
            }
            let batches = self.ports.iter().zip(&picked).map(|(port, rows)| {
                if rows.is_empty() {
                    return Ok(RecordBatch::new_empty(Arc::clone(&port.schema)));
                }
                let (first, from) = rows[0];
                let run = rows.iter().enumerate().all(|(i, row)| *row == (first, from + i));
                if run {
                    return Ok(port.waiting[first].batch.slice(from, rows.len()));
                }
                let waiting: Vec<&RecordBatch> = port.waiting.iter().map(|w| &w.batch).collect();
                Ok(interleave_record_batch(&waiting, rows)?)
            });
            let batches = batches.collect::<Result<Vec<_>>>()?;
            self.operator.rows(&batches, &order, out)?;
        }
        Ok(())
    }
}

impl Port {
    fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let rows = batch.num_rows();
        let batch = by_time(batch)?;
        let keys = match &mut self.content {
            Some(converter) => Keys::Content(converter.convert_columns(batch.columns())?),
            None if self.order == RowOrder::Given => Keys::Given(self.taken),
            None => Keys::Column,
        };
        self.taken += rows as i128;
        let of_keys = if let Keys::Content(rows) = &keys { rows.size() } else { 0 };
        let bytes = bytes_of_rows(&batch) + of_keys;
        self.bytes += bytes;
        self.waiting.push(Waiting { batch, keys, next: 0, bytes });
        Ok(())
    }
}

/// The batch with its rows in order of event time, rows of one time as they came.
fn by_time(batch: RecordBatch) -> Result<RecordBatch> {
    let times = times(&batch);
    if times.is_sorted() {
        return Ok(batch);
    }
    let mut rows: Vec<u32> = (0..batch.num_rows() as u32).collect();
    rows.sort_by_key(|&row| times[row as usize]);
    Ok(take_record_batch(&batch, &UInt32Array::from(rows))?)
}

pub(crate) fn times(batch: &RecordBatch) -> &[i64] {
    batch.column(batch.num_columns() - 1).as_primitive::<TimestampMicrosecondType>().values()
}

fn order_column(batch: &RecordBatch) -> &[i128] {
    batch.column(0).as_primitive::<Decimal128Type>().values()
}

impl<S: Sequential> Operator for InOrder<S> {
    fn on_batch(&mut self, port: usize, batch: RecordBatch, _out: &mut dyn Emit) -> Result<()> {
        let late = times(&batch).iter().filter(|&&time| time < self.given.0).count();
        if late == 0 {
            return self.ports[port].push(batch);
        }
        self.late.fetch_add(late as u64, Relaxed);
        let on_time = (0u32..).zip(times(&batch)).filter(|(_, time)| **time >= self.given.0).map(|(row, _)| row);
        let on_time = UInt32Array::from_iter_values(on_time);
        self.ports[port].push(take_record_batch(&batch, &on_time)?)
    }

    fn on_watermark(&mut self, port: usize, t: EventTime, out: &mut dyn Emit) -> Result<()> {
        self.ports[port].watermark = self.ports[port].watermark.max(t);
        let below = self.ports.iter().map(|p| p.watermark).min().unwrap_or(EventTime::MAX);
        if below <= self.given {
            return Ok(());
        }
        let places = self.take_below(below);
        self.give(&places, out)?;
        for port in &mut self.ports {
            port.waiting.retain(|waiting| waiting.next < waiting.batch.num_rows());
            port.bytes = port.waiting.iter().map(|waiting| waiting.bytes).sum();
        }
        self.given = below;
        let promise = self.operator.advance(below, out)?;
        out.watermark(promise)
    }

    fn held_bytes(&self) -> usize {
        self.ports.iter().map(|port| port.bytes).sum::<usize>() + self.operator.held_bytes()
    }

    /// First a batch of a row for each waiting batch that follows, with its port (and one with the port -1 for how far
    /// rows were handed on), then those, then the operator's state.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        let (mut ports, mut waiting) = (vec![-1], vec![]);
        for (port, at) in self.ports.iter().enumerate() {
            for rows in &at.waiting {
                ports.push(port as i64);
                waiting.push(rows.batch.slice(rows.next, rows.batch.num_rows() - rows.next));
            }
        }
        let mut given = vec![self.given.0];
        given.resize(ports.len(), 0);
        let fields = ["port", "given"].map(|name| Field::new(name, DataType::Int64, false));
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ports)), Arc::new(Int64Array::from(given))];
        let mut state = vec![RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), columns)?];
        state.extend(waiting);
        state.extend(self.operator.snapshot()?);
        Ok(state)
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        let foreign = |message: String| EngineError::State { operator: self.name.to_owned(), message };
        let mut state = state.into_iter();
        let head = state.next().filter(|head| {
            head.num_rows() > 0
                && head.columns().iter().all(|c| *c.data_type() == DataType::Int64)
                && head.num_columns() == 2
        });
        let head = head.ok_or_else(|| foreign("expected where its rows belong".to_owned()))?;
        let ports = head.column(0).as_primitive::<Int64Type>().values();
        self.given = EventTime(head.column(1).as_primitive::<Int64Type>().value(0));
        for &port in &ports[1..] {
            let rows = state.next().ok_or_else(|| foreign(format!("{} batches are missing", ports.len() - 1)))?;
            let at = usize::try_from(port).ok().and_then(|port| self.ports.get_mut(port));
            match at {
                Some(at) if at.schema.fields().len() == rows.num_columns() => at.push(rows)?,
                _ => return Err(foreign(format!("rows of {} columns for input {port}", rows.num_columns()))),
            }
        }
        self.operator.restore(state.collect())
    }
}
