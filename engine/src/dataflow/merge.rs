//! The merge driver: one thread that takes what all workers send, closes windows, and writes to the sinks.
//!
//! Invariants: an edge's watermark is the smallest of its workers', so a window closes only when every worker has passed
//! it. An epoch is a cut: from a worker that has sent it nothing is taken ([`Merge::is_waiting`]) until every worker has, so
//! exactly the rows of what was read before it have been handed to the sinks when it is complete. Making them safe is the
//! caller's business.

use std::{
    collections::{BTreeSet, HashMap},
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
    budget::{StateBudget, bytes_of_rows},
    plan::{Dataflow, NodeId, OperatorPlan},
    stage::{Exchange, Failed, Stage},
};
use crate::{
    EngineError, ErrorKind, EventTime, Result, Signal,
    epoch::{Position, Written},
    intake::{BadRecords, RowText},
    operator::Sealed,
    signal::EpochId,
    sink::Sink,
    user_code::CallFailed,
};

/// What a worker sends.
pub enum FromWorker {
    /// Rows or a watermark for a node of the merge stage.
    Exchange(Exchange),
    /// What the worker's half of the node held, before a snapshot.
    Sealed(NodeId, Sealed),
    /// Dead letters.
    Letters(RecordBatch),
    /// Everything before it belongs to the epoch; the worker's positions at that instant.
    Epoch(EpochId, Vec<Position>),
    /// Nothing follows from this worker but epochs; its positions.
    End(Vec<Position>),
}

impl FromWorker {
    /// The bytes of its rows, as far as they are written.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Exchange(Exchange { signal: Signal::Batch(rows), .. }) | Self::Letters(rows) => {
                bytes_of_rows(rows) as u64
            }
            Self::Exchange(_) | Self::Sealed(..) | Self::Epoch(..) | Self::End(_) => 0,
        }
    }
}

/// An output of the dataflow while it runs.
pub struct Output {
    /// Takes its rows.
    pub sink: Box<dyn Sink>,
    /// Counts rows handed to the sink.
    pub rows: Arc<AtomicU64>,
}

/// An epoch that every worker has sent and whose rows the sinks have been handed.
#[derive(Clone, Debug)]
pub struct CompletedEpoch {
    /// Which.
    pub id: EpochId,
    /// Positions of all workers.
    pub positions: Vec<Position>,
    /// For each output node, in the dataflow's order, the event time below which all its rows are written.
    pub written_below: Vec<EventTime>,
    /// Rows handed to sinks since the epoch before.
    pub rows: u64,
}

/// One output node: several statements may write to one output.
struct Statement {
    node: NodeId,
    output: usize,
    written: Written,
    written_below: EventTime,
    /// Only rows below this event time are wanted.
    wanted_below: EventTime,
}

/// See the module.
pub struct Merge {
    stage: Stage,
    edges: HashMap<(NodeId, usize), Vec<EventTime>>,
    outputs: Vec<Output>,
    /// The index of the output of the dead letters.
    letters: usize,
    statements: Vec<Statement>,
    /// The epoch that some workers have sent, which ones, and their positions.
    epoch: Option<EpochId>,
    waiting: Vec<bool>,
    positions: Vec<Position>,
    last_epoch: EpochId,
    /// Of the workers that have ended.
    final_positions: Vec<Position>,
    rows: u64,
    ended: Vec<bool>,
    failing: Failing,
}

/// What becomes of rows that user code fails on.
struct Failing {
    /// Of each input; empty: the job stops.
    inputs: Vec<BadRecords>,
    text: RowText,
    /// By node.
    nodes: Vec<Ends>,
}

/// Where the rows of a node come from and go.
#[derive(Clone, Debug, Default)]
struct Ends {
    /// The first input that they come from.
    input: usize,
    /// Whether they come in the order of time: then an earlier run had those below what it had written.
    waits: bool,
    /// The output nodes that they go to, numbered in their order.
    statements: BTreeSet<usize>,
}

impl Merge {
    /// `outputs` by the index in [`OperatorPlan::Output`], and behind them that of the dead letters, if there is one. `written` for each output node in the dataflow's order: rows that
    /// an earlier run has written, or that belong to windows that began before the start; empty: none.
    ///
    /// # Errors
    /// When an expression's type cannot be told.
    pub fn try_new(
        dataflow: &Dataflow,
        outputs: Vec<Output>,
        written: &[Written],
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
                let written = written.get(i).copied().unwrap_or(Written::NOTHING);
                Statement { node, output, written, written_below: written.below, wanted_below: EventTime::MAX }
            })
            .collect();
        Ok(Self {
            stage: Stage::merge(dataflow, late)?,
            edges: HashMap::new(),
            outputs,
            letters: dataflow.outputs.len(),
            statements,
            epoch: None,
            waiting: vec![false; workers],
            positions: vec![],
            last_epoch: EpochId(0),
            final_positions: vec![],
            rows: 0,
            ended: vec![false; workers],
            failing: Failing { inputs: vec![], text: |_| Ok(vec![]), nodes: Ends::of_nodes(dataflow) },
        })
    }

    /// Rows that user code fails on are no end of the job but dead letters of their inputs, which are in the dataflow's order;
    /// `text` writes them.
    pub fn keep_failed(&mut self, inputs: Vec<BadRecords>, text: RowText) {
        (self.failing.inputs, self.failing.text) = (inputs, text);
    }

    /// What it keeps is part of this budget ([`Stage::bound_state`]).
    ///
    /// # Errors
    /// As [`Stage::bound_state`].
    pub fn bound_state(&mut self, budget: &Arc<StateBudget>) -> Result<()> {
        self.stage.bound_state(budget)
    }

    /// Leaves out rows that are not below these event times; by output node in the dataflow's order.
    pub fn keep_below(&mut self, below: &[EventTime]) {
        for (statement, &below) in self.statements.iter_mut().zip(below) {
            statement.wanted_below = below;
        }
    }

    /// Epochs are counted on from this one.
    pub fn count_from(&mut self, last: EpochId) {
        self.last_epoch = last;
    }

    /// The state of all operators at a complete epoch before which the workers have sealed theirs.
    ///
    /// # Errors
    /// The first one of an operator.
    pub fn snapshot(&mut self) -> Result<Vec<Vec<RecordBatch>>> {
        self.stage.snapshot()
    }

    /// Puts a snapshot of the same dataflow into this new merge.
    ///
    /// # Errors
    /// [`crate::EngineError::State`] when it does not fit.
    pub fn restore(&mut self, state: Vec<Vec<RecordBatch>>) -> Result<()> {
        self.stage.restore(state)
    }

    /// Whether nothing of this worker may be taken now: it has sent an epoch that others have not.
    #[must_use]
    pub fn is_waiting(&self, worker: usize) -> bool {
        self.waiting[worker]
    }

    /// The outputs, by the index in [`OperatorPlan::Output`]; that of the dead letters is the last.
    pub fn outputs(&mut self) -> &mut [Output] {
        &mut self.outputs
    }

    /// Takes one message, of a worker that is not waiting. Returns an epoch when this message completed it.
    ///
    /// # Errors
    /// Of an operator or a sink; the job stops.
    pub fn take(&mut self, worker: usize, message: FromWorker) -> Result<Option<CompletedEpoch>> {
        debug_assert!(!self.waiting[worker], "worker {worker} is waiting for the others' epochs");
        match message {
            FromWorker::Exchange(exchange) => self.exchange(worker, exchange).map(|()| None),
            FromWorker::Sealed(node, rows) => {
                let sealed = Exchange { node, port: 0, signal: Signal::Batch(rows()?), covering: 0 };
                self.exchange(worker, sealed).map(|()| None)
            }
            FromWorker::Letters(letters) => self.keep(&letters).map(|()| None),
            FromWorker::Epoch(id, positions) => {
                self.epoch = Some(id);
                self.waiting[worker] = true;
                self.positions.extend(positions);
                if self.waiting.iter().any(|waiting| !waiting) {
                    return Ok(None);
                }
                self.waiting.fill(false);
                self.epoch = None;
                let positions = std::mem::take(&mut self.positions);
                Ok(Some(self.completed(id, positions)))
            }
            FromWorker::End(positions) => {
                self.ended[worker] = true;
                self.final_positions.extend(positions);
                Ok(None)
            }
        }
    }

    /// Once every worker has ended: the rows since the last epoch as one more; `None` without such rows.
    pub fn finish(&mut self) -> Option<CompletedEpoch> {
        let positions = std::mem::take(&mut self.final_positions);
        (self.rows > 0).then(|| self.completed(EpochId(self.last_epoch.0 + 1), positions))
    }

    fn completed(&mut self, id: EpochId, positions: Vec<Position>) -> CompletedEpoch {
        self.last_epoch = id;
        let written_below = self.statements.iter().map(|s| s.written_below).collect();
        CompletedEpoch { id, positions, written_below, rows: std::mem::take(&mut self.rows) }
    }

    /// Whether every worker has ended, and no epoch is under way.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended.iter().all(|ended| *ended) && self.epoch.is_none()
    }

    /// Whether this worker has ended.
    #[must_use]
    pub fn has_ended(&self, worker: usize) -> bool {
        self.ended[worker]
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

    fn keep(&mut self, letters: &RecordBatch) -> Result<()> {
        let output = self.outputs.get_mut(self.letters).ok_or_else(|| EngineError::Sink {
            output: "dead_letters".to_owned(),
            kind: ErrorKind::Bug,
            message: "there is no output for dead letters".to_owned(),
        })?;
        let rows = letters.num_rows() as u64;
        output.rows.fetch_add(rows, Ordering::Relaxed);
        self.rows += rows;
        output.sink.write(letters)
    }

    fn exchange(&mut self, worker: usize, Exchange { node, port, signal, covering }: Exchange) -> Result<()> {
        let signal = match signal {
            Signal::Batch(_) => signal,
            Signal::Watermark(t) => {
                let edge = self.edges.entry((node, port)).or_insert_with(|| vec![EventTime::MIN; self.ended.len()]);
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
        let Self { stage, outputs, statements, rows, .. } = self;
        stage.take(Exchange { node, port, signal, covering }, &mut |leaving| {
            let statement = statements.iter_mut().find(|s| s.node == leaving.node).expect("only output nodes leave");
            match leaving.signal {
                Signal::Batch(_) if leaving.covering > statement.written.covering => Ok(()),
                Signal::Batch(batch) => {
                    *rows += write(&mut outputs[statement.output], statement, &batch)?;
                    Ok(())
                }
                Signal::Watermark(t) => {
                    statement.written_below = statement.written_below.max(t);
                    Ok(())
                }
            }
        })?;
        stage.failed().into_iter().try_for_each(|failed| self.failing.take(failed, &self.statements))
    }
}

impl Failing {
    fn take(&self, Failed { row, node, covering }: Failed, statements: &[Statement]) -> Result<()> {
        let ends = &self.nodes[node];
        let Some(input) = self.inputs.get(ends.input) else {
            let (expression, source) = ("user code".to_owned(), CallFailed(row.message).into());
            return Err(EngineError::Evaluate { expression, source });
        };
        // Then it was counted and kept by an earlier run.
        let written = |at: &usize| row.time() < statements[*at].written.below;
        let known = ends.waits && ends.statements.iter().all(written);
        if known { Ok(()) } else { input.take_row(&row, covering, self.text) }
    }
}

impl Ends {
    fn of_nodes(dataflow: &Dataflow) -> Vec<Self> {
        let mut ends: Vec<Self> = vec![];
        for node in &dataflow.nodes {
            let from = || node.inputs.iter().map(|&input| &ends[input]);
            let input = match &node.operator {
                OperatorPlan::Input(plan) => plan.input,
                _ => from().map(|from| from.input).min().unwrap_or_default(),
            };
            let waits = node.operator.waits_for_watermark() || from().any(|from| from.waits);
            ends.push(Self { input, waits, statements: BTreeSet::new() });
        }
        let mut statement = dataflow.statements().len();
        for (id, node) in dataflow.nodes.iter().enumerate().rev() {
            if let OperatorPlan::Output(_) = node.operator {
                statement -= 1;
                ends[id].statements.insert(statement);
            }
            let reached = ends[id].statements.clone();
            node.inputs.iter().for_each(|&input| ends[input].statements.extend(&reached));
        }
        ends
    }
}

impl Statement {
    fn wants_all(&self) -> bool {
        self.written.below == EventTime::MIN && self.wanted_below == EventTime::MAX
    }

    fn wants(&self, t: EventTime) -> bool {
        self.written.below <= t && t < self.wanted_below
    }
}

/// Rows that a sink gets at once, at most: it holds them encoded, and a window may have any number.
const WRITE_ROWS: usize = 8_192;

/// Writes rows whose event times are wanted, without these; returns how many.
fn write(output: &mut Output, statement: &Statement, batch: &RecordBatch) -> Result<u64> {
    let time = batch.num_columns() - 1;
    let mut shown = batch.project(&(0..time).collect::<Vec<_>>())?;
    if !statement.wants_all() {
        let times = batch.column(time).as_primitive::<TimestampMicrosecondType>();
        let keep = BooleanArray::from_iter(times.values().iter().map(|&t| Some(statement.wants(EventTime(t)))));
        shown = filter_record_batch(&shown, &keep)?;
    }
    let rows = shown.num_rows() as u64;
    output.rows.fetch_add(rows, Ordering::Relaxed);
    for first in (0..shown.num_rows()).step_by(WRITE_ROWS) {
        output.sink.write(&shown.slice(first, WRITE_ROWS.min(shown.num_rows() - first)))?;
    }
    Ok(rows)
}
