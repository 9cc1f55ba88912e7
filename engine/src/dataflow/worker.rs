//! The worker driver: its share of every input, and the worker half of the dataflow.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use super::{
    budget::StateBudget,
    merge::FromWorker,
    plan::Dataflow,
    stage::{Exchange, Stage, reach_back},
};
use crate::{EventTime, Result, intake::Intake, signal::EpochId};

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
    reach_back: i64,
    /// Whether each source was asked once: its partitions have joined.
    joined: bool,
    done: bool,
}

impl Worker {
    /// `intakes` by the index in [`Dataflow::inputs`].
    ///
    /// # Errors
    /// When an expression's type cannot be told.
    pub fn try_new(dataflow: &Dataflow, intakes: Vec<Intake>, late: &Arc<AtomicU64>) -> Result<Self> {
        let (stage, reach_back) = (Stage::worker(dataflow, late)?, reach_back(dataflow));
        Ok(Self { intakes, stage, reach_back, joined: false, done: false })
    }

    /// What it keeps is part of this budget ([`Stage::bound_state`]).
    ///
    /// # Errors
    /// As [`Stage::bound_state`].
    pub fn bound_state(&mut self, budget: &Arc<StateBudget>) -> Result<()> {
        self.stage.bound_state(budget)
    }

    /// Polls each input once and drives what came through. Waits at most `wait`, shared by the inputs.
    ///
    /// # Errors
    /// Of a source, an operator, or `send`; the worker must not be used afterwards.
    pub fn step(&mut self, wait: Duration, send: &mut dyn FnMut(FromWorker) -> Result<()>) -> Result<Step> {
        self.joined = true;
        let Self { intakes, stage, .. } = self;
        let open = intakes.iter().filter(|i| !i.finished()).count().max(1);
        let mut busy = false;
        for intake in intakes.iter_mut() {
            busy |= intake.poll(wait / open as u32, &mut |node, signal, covering| {
                let entering = Exchange { node, port: 0, signal, covering };
                stage.take(entering, &mut |exchange| send(FromWorker::Exchange(exchange)))?;
                Ok(stage.failed().into_iter().map(|failed| failed.row).collect())
            })?;
            for letters in intake.take_letters() {
                send(FromWorker::Letters(letters))?;
            }
        }
        if !self.done && self.intakes.iter().all(Intake::finished) {
            self.done = true;
            self.end(send)?;
        }
        Ok(match (self.done, busy) {
            (true, _) => Step::Done,
            (_, true) => Step::Busy,
            _ => Step::Idle,
        })
    }

    /// Sends the end and this worker's positions. Of a worker that is done, [`Worker::step`] has.
    ///
    /// # Errors
    /// Of `send`.
    pub fn end(&mut self, send: &mut dyn FnMut(FromWorker) -> Result<()>) -> Result<()> {
        let intakes = self.intakes.iter_mut().enumerate();
        send(FromWorker::End(intakes.flat_map(|(input, intake)| intake.positions(input, None)).collect()))
    }

    /// Sends the epoch and this worker's positions. `closed_below` is the event time below which the merge thread has
    /// closed windows; an older one is safe. With `seal` this half gives away what it holds before, for a snapshot.
    ///
    /// # Errors
    /// Of an operator or of `send`.
    pub fn epoch(
        &mut self,
        id: EpochId,
        closed_below: EventTime,
        seal: bool,
        send: &mut dyn FnMut(FromWorker) -> Result<()>,
    ) -> Result<()> {
        if !self.joined {
            self.step(Duration::ZERO, send)?; // an epoch tells of every partition
        }
        if seal {
            self.stage.seal().try_for_each(|(node, rows)| send(FromWorker::Sealed(node, rows)))?;
        }
        let horizon = (self.reach_back > 0).then(|| closed_below.minus_micros(self.reach_back));
        let intakes = self.intakes.iter_mut().enumerate();
        let positions = intakes.flat_map(|(input, intake)| intake.positions(input, horizon)).collect();
        send(FromWorker::Epoch(id, positions))
    }
}
