//! The merge driver: one thread that takes what all workers send, closes windows, and writes to the sinks.
//!
//! Invariant: an edge's watermark is the smallest of its workers', so a window closes only when every worker has passed
//! it. An epoch is complete when every worker has sent it; the sinks are flushed then, and only what was sent before it
//! is in them with certainty.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::TimestampMicrosecondType,
};

use super::{
    plan::{Dataflow, NodeId, OperatorPlan},
    stage::{Exchange, Stage},
    worker::Position,
};
use crate::{EventTime, Result, Signal, signal::EpochId, sink::Sink};

/// What a worker sends.
#[derive(Debug)]
pub enum FromWorker {
    /// Rows or a watermark for a node of the merge stage.
    Exchange(Exchange),
    /// Everything before it belongs to the epoch; the worker's positions at that instant.
    Epoch(EpochId, Vec<Position>),
    /// Nothing follows from this worker.
    End,
}

/// An output of the dataflow while it runs.
pub struct Output {
    /// Takes its rows.
    pub sink: Box<dyn Sink>,
    /// Counts rows handed to the sink.
    pub rows: Arc<AtomicU64>,
}

/// An epoch that every worker has sent and whose rows are safe in the sinks.
#[derive(Debug)]
pub struct CompletedEpoch {
    /// Which.
    pub id: EpochId,
    /// Positions of all workers.
    pub positions: Vec<Position>,
    /// For each output node, in the dataflow's order, the event time below which all its rows are written.
    pub written_below: Vec<EventTime>,
}

/// One output node: several statements may write to one output.
struct Statement {
    node: NodeId,
    output: usize,
    floor: EventTime,
    written_below: EventTime,
}

/// See the module.
pub struct Merge {
    stage: Stage,
    edges: HashMap<(NodeId, usize), Vec<EventTime>>,
    outputs: Vec<Output>,
    statements: Vec<Statement>,
    epochs: HashMap<EpochId, Vec<Vec<Position>>>,
    workers: usize,
    ended: usize,
}

impl Merge {
    /// `outputs` by the index in [`OperatorPlan::Output`]. `floors` for each output node in the dataflow's order: rows
    /// below it were written by an earlier run, or belong to windows that began before the start; empty: none.
    ///
    /// # Errors
    /// When an expression's type cannot be told.
    pub fn try_new(
        dataflow: &Dataflow,
        outputs: Vec<Output>,
        floors: &[EventTime],
        workers: usize,
        late: &Arc<AtomicU64>,
    ) -> Result<Self> {
        let nodes = dataflow.nodes.iter().enumerate().filter_map(|(node, n)| match n.operator {
            OperatorPlan::Output(output) => Some((node, output)),
            _ => None,
        });
        let statements = nodes
            .enumerate()
            .map(|(i, (node, output))| {
                let floor = floors.get(i).copied().unwrap_or(EventTime::MIN);
                Statement { node, output, floor, written_below: floor }
            })
            .collect();
        let stage = Stage::merge(dataflow, late)?;
        Ok(Self { stage, edges: HashMap::new(), outputs, statements, epochs: HashMap::new(), workers, ended: 0 })
    }

    /// Takes one message. Returns an epoch when this message completed it.
    ///
    /// # Errors
    /// Of an operator or a sink; the job stops.
    pub fn take(&mut self, worker: usize, message: FromWorker) -> Result<Option<CompletedEpoch>> {
        match message {
            FromWorker::Exchange(exchange) => self.exchange(worker, exchange).map(|()| None),
            FromWorker::Epoch(id, positions) => {
                let sent = self.epochs.entry(id).or_default();
                sent.push(positions);
                if sent.len() < self.workers {
                    return Ok(None);
                }
                let positions = self.epochs.remove(&id).into_iter().flatten().flatten().collect();
                self.outputs.iter_mut().try_for_each(|output| output.sink.flush())?;
                let written_below = self.statements.iter().map(|s| s.written_below).collect();
                Ok(Some(CompletedEpoch { id, positions, written_below }))
            }
            FromWorker::End => {
                self.ended += 1;
                Ok(None)
            }
        }
    }

    /// Whether every worker has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended == self.workers
    }

    /// Lets the sinks do what time asks of them.
    ///
    /// # Errors
    /// The first one of a sink.
    pub fn tick(&mut self) -> Result<()> {
        self.outputs.iter_mut().try_for_each(|output| output.sink.tick())
    }

    /// Closes every sink, even when one of them fails.
    ///
    /// # Errors
    /// The first one of a sink.
    pub fn close(mut self) -> Result<()> {
        let closed: Vec<Result<()>> = self.outputs.iter_mut().map(|output| output.sink.close()).collect();
        closed.into_iter().collect()
    }

    fn exchange(&mut self, worker: usize, Exchange { node, port, signal }: Exchange) -> Result<()> {
        let signal = match signal {
            Signal::Batch(_) => signal,
            Signal::Watermark(t) => {
                let edge = self.edges.entry((node, port)).or_insert_with(|| vec![EventTime::MIN; self.workers]);
                let smallest = |edge: &[EventTime]| edge.iter().copied().min().unwrap_or(EventTime::MIN);
                let before = smallest(edge);
                edge[worker] = edge[worker].max(t);
                let after = smallest(edge);
                if after <= before {
                    return Ok(());
                }
                Signal::Watermark(after)
            }
        };
        let Self { stage, outputs, statements, .. } = self;
        stage.push(node, port, signal, &mut |leaving| {
            let statement = statements.iter_mut().find(|s| s.node == leaving.node).expect("only output nodes leave");
            match leaving.signal {
                Signal::Batch(batch) => write(&mut outputs[statement.output], statement.floor, &batch),
                Signal::Watermark(t) => {
                    statement.written_below = statement.written_below.max(t);
                    Ok(())
                }
            }
        })
    }
}

/// Writes rows at or above `floor`, without their event time.
fn write(output: &mut Output, floor: EventTime, batch: &RecordBatch) -> Result<()> {
    let time = batch.num_columns() - 1;
    let mut shown = batch.project(&(0..time).collect::<Vec<_>>())?;
    if floor > EventTime::MIN {
        let times = batch.column(time).as_primitive::<TimestampMicrosecondType>();
        let keep = BooleanArray::from_iter(times.values().iter().map(|&t| Some(t >= floor.0)));
        shown = filter_record_batch(&shown, &keep)?;
    }
    if shown.num_rows() == 0 {
        return Ok(());
    }
    output.rows.fetch_add(shown.num_rows() as u64, Ordering::Relaxed);
    output.sink.write(&shown)
}
