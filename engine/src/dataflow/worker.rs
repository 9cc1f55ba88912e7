//! The worker driver: its share of every input, and the worker half of the dataflow.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use super::{
    merge::FromWorker,
    plan::{Dataflow, NodeId, OperatorPlan},
    stage::{Stage, reach_back},
};
use crate::{EventTime, Result, Signal, intake::Intake, signal::EpochId, source::PartitionId};

/// Where a worker stands in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Index of the input in the dataflow.
    pub input: usize,
    /// Which partition of it.
    pub partition: PartitionId,
    /// All records below it were taken.
    pub next_offset: i64,
    /// A run that starts here sees every record that an open window needs.
    pub replay_offset: i64,
}

/// What a step of a worker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It took something; there may be more at once.
    Busy,
    /// Nothing came within the wait.
    Idle,
    /// Every input is finished and everything was sent on, [`FromWorker::End`] included.
    Done,
}

/// One worker. A driver calls [`Worker::step`] in a loop from one thread.
pub struct Worker {
    intakes: Vec<Intake>,
    stage: Stage,
    /// Nodes that hand rows to an output without a window between: replayed rows were written before.
    output_nodes: Vec<NodeId>,
    reach_back: i64,
    done: bool,
}

impl Worker {
    /// `intakes` by the index in [`Dataflow::inputs`].
    ///
    /// # Errors
    /// When an expression's type cannot be told.
    pub fn try_new(dataflow: &Dataflow, intakes: Vec<Intake>, late: &Arc<AtomicU64>) -> Result<Self> {
        let output_nodes =
            dataflow.nodes.iter().enumerate().filter(|(_, n)| matches!(n.operator, OperatorPlan::Output(_)));
        Ok(Self {
            output_nodes: output_nodes.map(|(id, _)| id).collect(),
            intakes,
            stage: Stage::worker(dataflow, late)?,
            reach_back: reach_back(dataflow),
            done: false,
        })
    }

    /// Polls each input once and drives what came through. Waits at most `wait`, shared by the inputs.
    ///
    /// # Errors
    /// Of a source, an operator, or `send`; the worker must not be used afterwards.
    pub fn step(&mut self, wait: Duration, send: &mut dyn FnMut(FromWorker) -> Result<()>) -> Result<Step> {
        let Self { intakes, stage, output_nodes, .. } = self;
        let open = intakes.iter().filter(|i| !i.finished()).count().max(1);
        let mut busy = false;
        for intake in intakes.iter_mut() {
            busy |= intake.poll(wait / open as u32, &mut |node, signal, replayed| {
                stage.push(node, 0, signal, &mut |exchange| {
                    let written = replayed
                        && matches!(exchange.signal, Signal::Batch(_))
                        && output_nodes.contains(&exchange.node);
                    if written { Ok(()) } else { send(FromWorker::Exchange(exchange)) }
                })
            })?;
        }
        if !self.done && self.intakes.iter().all(Intake::finished) {
            self.done = true;
            send(FromWorker::End)?;
        }
        Ok(match (self.done, busy) {
            (true, _) => Step::Done,
            (_, true) => Step::Busy,
            _ => Step::Idle,
        })
    }

    /// Sends the epoch and this worker's positions. `closed_below` is the event time below which the merge thread has
    /// closed windows; an older one is safe.
    ///
    /// # Errors
    /// Of `send`.
    pub fn epoch(
        &mut self,
        id: EpochId,
        closed_below: EventTime,
        send: &mut dyn FnMut(FromWorker) -> Result<()>,
    ) -> Result<()> {
        let horizon = closed_below.minus_micros(self.reach_back);
        let positions =
            self.intakes.iter_mut().enumerate().flat_map(|(input, intake)| {
                let windows = self.reach_back > 0;
                intake.positions(windows.then_some(horizon)).map(move |(partition, next_offset, replay_offset)| {
                    Position { input, partition, next_offset, replay_offset }
                })
            });
        let positions = positions.collect();
        send(FromWorker::Epoch(id, positions))
    }
}
