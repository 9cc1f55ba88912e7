//! The two halves of a dataflow and the driver of each: the worker stage (inputs, stateless steps, partial windows; one
//! instance per worker) and the merge stage (windows over all workers, what follows them, outputs; one instance).
//!
//! What an operator emits has gone through all that follows before the next signal goes in: each edge keeps its order, and of many
//! windows that close at once one is at hand at a time. What crosses from a worker to the merge stage is an [`Exchange`].

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, atomic::AtomicU64},
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};

use super::{
    budget::{Account, StateBudget},
    describe::StepDescription,
    difference::Difference,
    order::InOrder,
    plan::{AggregatePlan, Dataflow, InputPlan, NodeId, OperatorPlan, TimePolicy},
    rank::Rank,
    stateless::{Filter, Project, Union},
    unnest::Unnest,
};
use crate::{
    EventTime, Result, Signal,
    analytic::Analytic,
    join::StreamJoin,
    operator::{Emit, Operator, Sealed},
    recognize::Recognize,
    reference::Lookup,
    user_code::FailedRow,
    window::{
        AssignSessions, AssignWindows, MergeSessions, MergeWindows, PartialAggregate, Sliding, WindowAggregate,
        shape::Windows, slices::Slices,
    },
};

/// Rows or a watermark on their way from a worker to a node of the merge stage.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The node that takes it.
    pub node: NodeId,
    /// Its port.
    pub port: usize,
    /// What it is.
    pub signal: Signal,
    /// Of how many epochs of an earlier run the rows are part ([`crate::epoch::Resume::covering`]); 0 for what an operator with
    /// state makes of them, and for watermarks.
    pub covering: u8,
}

/// Which half of the dataflow runs a node. A windowed aggregation over a worker's rows runs in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Worker,
    Merge,
}

pub(super) fn halves(dataflow: &Dataflow) -> Vec<Half> {
    let mut halves: Vec<Half> = Vec::with_capacity(dataflow.nodes.len());
    for node in &dataflow.nodes {
        let half = match node.operator {
            OperatorPlan::Input(_) => Half::Worker,
            OperatorPlan::Aggregate(_) | OperatorPlan::AssignSessions { .. } | OperatorPlan::Output(_) => Half::Merge,
            ref operator if operator.is_sequential() => Half::Merge,
            _ if node.inputs.iter().all(|&i| halves[i] == Half::Worker) => Half::Worker,
            _ => Half::Merge,
        };
        halves.push(half);
    }
    halves
}

/// Where an operator's signals go.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// An operator of this half.
    Local { slot: usize, port: usize },
    /// A node of the other half (worker), or an output (merge).
    Away { node: NodeId, port: usize },
}

struct Slot {
    node: NodeId,
    /// What it does, for a person.
    step: String,
    operator: Box<dyn Operator>,
    targets: Vec<Target>,
}

impl Slot {
    fn new(step: &StepDescription, operator: Box<dyn Operator>) -> Self {
        let StepDescription { id, kind, what, keys, .. } = step;
        let by = if keys.is_empty() { String::new() } else { format!(" by {}", keys.join(", ")) };
        Self { node: *id, step: format!("step {id} ({kind}: {what}{by})"), operator, targets: vec![] }
    }
}

/// A row that went no further than a node, because user code failed on it.
#[derive(Debug)]
pub struct Failed {
    /// The row.
    pub row: FailedRow,
    /// Where.
    pub node: NodeId,
    /// As [`Exchange::covering`].
    pub covering: u8,
}

/// One half of a dataflow.
pub struct Stage {
    slots: Vec<Slot>,
    /// Where signals enter: at a worker's input nodes (port 0), or at the merge half's ports.
    entries: HashMap<(NodeId, usize), Vec<Target>>,
    failed: Vec<Failed>,
    /// Where what it keeps is bounded.
    account: Option<Account>,
}

/// Takes what leaves a half: (node, port, signal). For the merge half the node is an output's.
pub type Leave<'l> = dyn FnMut(Exchange) -> Result<()> + 'l;

impl Stage {
    /// A worker's half. Rows enter at input nodes.
    ///
    /// # Errors
    /// When an expression's type cannot be told.
    pub fn worker(dataflow: &Dataflow, late: &Arc<AtomicU64>) -> Result<Self> {
        Self::build(dataflow, Half::Worker, late)
    }

    /// The merge half. Exchanges enter at their node.
    ///
    /// # Errors
    /// When an expression's type cannot be told.
    pub fn merge(dataflow: &Dataflow, late: &Arc<AtomicU64>) -> Result<Self> {
        Self::build(dataflow, Half::Merge, late)
    }

    fn build(dataflow: &Dataflow, half: Half, late: &Arc<AtomicU64>) -> Result<Self> {
        let halves = halves(dataflow);
        let steps = dataflow.describe();
        let mut stage = Stage { slots: vec![], entries: HashMap::new(), failed: vec![], account: None };
        // Slots that produce a node's rows in this half, and slots that consume its inputs.
        let mut producer: HashMap<NodeId, usize> = HashMap::new();
        let mut links: Vec<(NodeId, Target)> = vec![];
        for (id, node) in dataflow.nodes.iter().enumerate() {
            let input_half = |port: usize| halves[node.inputs[port]];
            match &node.operator {
                OperatorPlan::Input(_) => {}
                OperatorPlan::Aggregate(plan) if !node.operator.is_sequential() => {
                    let input = &dataflow.nodes[node.inputs[0]].schema;
                    let window = Arc::new(WindowAggregate::try_new(plan.clone(), input, Arc::clone(late))?);
                    let partial = (input_half(0) == half).then(|| {
                        let operator = Box::new(PartialAggregate::new(Arc::clone(&window)));
                        stage.slots.push(Slot::new(&steps[id], operator));
                        stage.slots.len() - 1
                    });
                    if let Some(slot) = partial {
                        links.push((node.inputs[0], Target::Local { slot, port: 0 }));
                    }
                    if half == Half::Merge {
                        let operator = merge(window, plan.windows, Arc::clone(&node.schema))?;
                        stage.slots.push(Slot::new(&steps[id], operator));
                        let merge = stage.slots.len() - 1;
                        producer.insert(id, merge);
                        match partial {
                            Some(slot) => stage.slots[slot].targets.push(Target::Local { slot: merge, port: 0 }),
                            None => stage.entry((id, 0), Target::Local { slot: merge, port: 0 }),
                        }
                    } else if let Some(slot) = partial {
                        stage.slots[slot].targets.push(Target::Away { node: id, port: 0 });
                    }
                }
                OperatorPlan::Output(_) => match (half, input_half(0)) {
                    (Half::Merge, Half::Worker) => stage.entry((id, 0), Target::Away { node: id, port: 0 }),
                    (_, from) if from == half => links.push((node.inputs[0], Target::Away { node: id, port: 0 })),
                    _ => {}
                },
                _ if halves[id] == half => {
                    stage.slots.push(Slot::new(&steps[id], operator(dataflow, id, late)?));
                    let slot = stage.slots.len() - 1;
                    producer.insert(id, slot);
                    for (port, &input) in node.inputs.iter().enumerate() {
                        let target = Target::Local { slot, port };
                        if halves[input] == half {
                            links.push((input, target));
                        } else {
                            stage.entry((id, port), target);
                        }
                    }
                }
                // A merge node that reads this worker's rows, among others.
                _ => {
                    for (port, &input) in node.inputs.iter().enumerate() {
                        if half == Half::Worker && halves[input] == Half::Worker {
                            links.push((input, Target::Away { node: id, port }));
                        }
                    }
                }
            }
        }
        for (from, target) in links {
            match producer.get(&from) {
                Some(&slot) => stage.slots[slot].targets.push(target),
                None => stage.entry((from, 0), target), // an input node
            }
        }
        Ok(stage)
    }

    /// What it keeps from now on is part of this budget; a signal that takes it beyond fails with
    /// [`crate::EngineError::OutOfMemory`].
    ///
    /// # Errors
    /// When what it was restored with is too much already.
    pub fn bound_state(&mut self, budget: &Arc<StateBudget>) -> Result<()> {
        self.account = Some(Account::new(Arc::clone(budget)));
        self.settle()
    }

    /// Tells the account what is kept.
    fn settle(&mut self) -> Result<()> {
        let Self { slots, account: Some(account), .. } = self else { return Ok(()) };
        let held = |slot: &Slot| slot.operator.held_bytes() as u64;
        account.keep(slots.iter().map(held).sum(), || {
            slots.iter().max_by_key(|slot| held(slot)).map_or_else(String::new, |slot| slot.step.clone())
        })
    }

    fn entry(&mut self, at: (NodeId, usize), target: Target) {
        self.entries.entry(at).or_default().push(target);
    }

    /// Takes a signal for an input node (worker, port 0) or an exchange's node and port (merge), and drives it through. What
    /// leaves the half goes to `leave`.
    ///
    /// # Errors
    /// The first one of an operator or of `leave`; the stage must not be used afterwards.
    pub fn push(&mut self, node: NodeId, port: usize, signal: Signal, leave: &mut Leave<'_>) -> Result<()> {
        self.take(Exchange { node, port, signal, covering: 0 }, leave)
    }

    /// As [`Self::push`], with rows that may be part of an earlier run's epochs.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn take(&mut self, entering: Exchange, leave: &mut Leave<'_>) -> Result<()> {
        let Exchange { node, port, signal, covering } = entering;
        let Self { slots, entries, failed, account } = self;
        let Some(targets) = entries.get(&(node, port)) else { return Ok(()) };
        let signals = targets.iter().map(|&target| (target, signal.clone(), covering)).collect();
        Rest { slots, first: 0, failed, leave, account: account.as_ref() }.drive(signals)?;
        self.settle()
    }

    /// The rows that have failed since it was asked last.
    pub fn failed(&mut self) -> Vec<Failed> {
        std::mem::take(&mut self.failed)
    }

    /// Gives away what a worker's half holds, each for the node of the merge half: nothing is in it afterwards, so that the merge
    /// half's state is the whole state.
    pub fn seal(&mut self) -> impl Iterator<Item = (NodeId, Sealed)> {
        self.slots.iter_mut().flat_map(|slot| slot.operator.seal().into_iter().map(|sealed| (slot.node, sealed)))
    }

    /// Every operator's state, in a fixed order.
    ///
    /// # Errors
    /// The first one of an operator.
    pub fn snapshot(&mut self) -> Result<Vec<Vec<RecordBatch>>> {
        self.slots.iter_mut().map(|slot| slot.operator.snapshot()).collect()
    }

    /// Puts a snapshot of a stage of the same dataflow into this new one.
    ///
    /// # Errors
    /// [`crate::EngineError::State`] when it does not fit.
    pub fn restore(&mut self, state: Vec<Vec<RecordBatch>>) -> Result<()> {
        if state.len() != self.slots.len() {
            return Err(crate::EngineError::State {
                operator: "stage".to_owned(),
                message: format!("{} operators in the state, {} in the plan", state.len(), self.slots.len()),
            });
        }
        self.slots.iter_mut().zip(state).try_for_each(|(slot, state)| slot.operator.restore(state))
    }
}

/// The slots from one on, and what is behind them. An operator emits to later slots only.
struct Rest<'r, 'l> {
    slots: &'r mut [Slot],
    /// The number of the first of them.
    first: usize,
    failed: &'r mut Vec<Failed>,
    leave: &'r mut Leave<'l>,
    account: Option<&'r Account>,
}

impl<'l> Rest<'_, 'l> {
    /// Drives signals through, in this order.
    fn drive(&mut self, mut signals: VecDeque<(Target, Signal, u8)>) -> Result<()> {
        while let Some((target, signal, covering)) = signals.pop_front() {
            let (slot, port) = match target {
                Target::Local { slot, port } => (slot, port),
                Target::Away { node, port } => {
                    (self.leave)(Exchange { node, port, signal, covering })?;
                    continue;
                }
            };
            let (before, behind) = self.slots.split_at_mut(slot + 1 - self.first);
            let Slot { node, step, operator, targets } = &mut before[slot - self.first];
            let covering = if operator.passes_rows_on() { covering } else { 0 };
            let (account, first) = (self.account, slot + 1);
            let rest = Rest { slots: behind, first, failed: self.failed, leave: self.leave, account };
            let mut forward = Forward { node: *node, step, targets, covering, emitted: VecDeque::new(), rest };
            match signal {
                Signal::Batch(batch) => operator.on_batch(port, batch, &mut forward)?,
                Signal::Watermark(t) => operator.on_watermark(port, t, &mut forward)?,
            }
            let emitted = forward.emitted;
            emitted.into_iter().rev().for_each(|signal| signals.push_front(signal));
        }
        Ok(())
    }
}

/// Takes what an operator emits, once for each target, and drives it through before the operator emits rows again.
struct Forward<'f, 'l> {
    node: NodeId,
    step: &'f str,
    targets: &'f [Target],
    covering: u8,
    emitted: VecDeque<(Target, Signal, u8)>,
    rest: Rest<'f, 'l>,
}

impl Emit for Forward<'_, '_> {
    fn batch(&mut self, batch: RecordBatch) -> Result<()> {
        self.rest.drive(std::mem::take(&mut self.emitted))?;
        self.emitted.extend(self.targets.iter().map(|&t| (t, Signal::Batch(batch.clone()), self.covering)));
        Ok(())
    }

    fn watermark(&mut self, t: EventTime) -> Result<()> {
        self.emitted.extend(self.targets.iter().map(|&target| (target, Signal::Watermark(t), 0)));
        Ok(())
    }

    fn failed(&mut self, row: FailedRow) -> Result<()> {
        self.rest.failed.push(Failed { row, node: self.node, covering: self.covering });
        Ok(())
    }

    fn takes(&mut self, bytes: usize) -> Result<()> {
        self.rest.account.map_or(Ok(()), |account| account.spare(bytes as u64, || self.step.to_owned()))
    }
}

/// The merge half of an aggregation whose rows come as states of slices.
fn merge(window: Arc<WindowAggregate>, windows: Windows, schema: SchemaRef) -> Result<Box<dyn Operator>> {
    Ok(match windows {
        Windows::Aligned(shape) => Box::new(MergeWindows::new(window, Slices::new(shape), schema)),
        Windows::Cumulating(shape) => Box::new(MergeWindows::new(window, Slices::cumulating(shape), schema)),
        Windows::Session(shape) => Box::new(MergeSessions::try_new(window, shape, schema)?),
        Windows::Sliding { .. } => unreachable!("sliding windows have no slices"),
    })
}

fn operator(dataflow: &Dataflow, id: NodeId, late: &Arc<AtomicU64>) -> Result<Box<dyn Operator>> {
    let node = &dataflow.nodes[id];
    let input = &dataflow.nodes[node.inputs[0]].schema;
    let schema = Arc::clone(&node.schema);
    Ok(match &node.operator {
        OperatorPlan::Filter(predicate) => Box::new(Filter(Arc::clone(predicate))),
        OperatorPlan::Project(expressions) => Box::new(Project { expressions: expressions.clone(), schema }),
        OperatorPlan::Assign(Windows::Aligned(shape)) => Box::new(AssignWindows::new(Slices::new(*shape), schema)),
        OperatorPlan::Assign(Windows::Cumulating(shape)) => {
            Box::new(AssignWindows::new(Slices::cumulating(*shape), schema))
        }
        OperatorPlan::AssignSessions { shape, partition } => {
            Box::new(AssignSessions::try_new(*shape, partition, input, schema, Arc::clone(late))?)
        }
        OperatorPlan::Unnest { outer } => Box::new(Unnest { outer: *outer, schema }),
        OperatorPlan::Union => Box::new(Union::new(schema, node.inputs.len())),
        OperatorPlan::Aggregate(plan @ AggregatePlan { windows: Windows::Sliding { size }, .. }) => {
            let sliding = Sliding::try_new(plan, *size, input, schema)?;
            Box::new(InOrder::try_new(sliding, "sliding window", dataflow, &node.inputs, Arc::clone(late))?)
        }
        OperatorPlan::Rank(plan) => {
            let rank = Rank::try_new(plan, input, schema)?;
            Box::new(InOrder::try_new(rank, "row number", dataflow, &node.inputs, Arc::clone(late))?)
        }
        OperatorPlan::Analytic(calls) => {
            let analytic = Analytic::try_new(calls, input, schema)?;
            Box::new(InOrder::try_new(analytic, "analytic", dataflow, &node.inputs, Arc::clone(late))?)
        }
        OperatorPlan::Recognize(plan) => {
            let recognize = Recognize::try_new(plan, input, schema)?;
            Box::new(InOrder::try_new(recognize, "match_recognize", dataflow, &node.inputs, Arc::clone(late))?)
        }
        OperatorPlan::Join(plan) => {
            let join = StreamJoin::try_new(plan.clone(), &dataflow.nodes[node.inputs[0]].schema, schema)?;
            Box::new(InOrder::try_new(join, "join", dataflow, &node.inputs, Arc::clone(late))?)
        }
        OperatorPlan::Difference(plan) => {
            let difference = Difference::try_new(plan, input)?;
            Box::new(InOrder::try_new(difference, "difference", dataflow, &node.inputs, Arc::clone(late))?)
        }
        OperatorPlan::Lookup(plan) => {
            let input = &dataflow.nodes[node.inputs[0]].schema;
            Box::new(Lookup::try_new(plan.clone(), &dataflow.tables[plan.table], input, schema)?)
        }
        OperatorPlan::Assign(Windows::Session(_) | Windows::Sliding { .. })
        | OperatorPlan::Input(_)
        | OperatorPlan::Aggregate(_)
        | OperatorPlan::Output(_) => {
            unreachable!("`Stage::build` places these itself, and no plan assigns windows that depend on other rows")
        }
    })
}

/// How far before a watermark rows may lie that open windows of this dataflow still need, in microseconds: the longest
/// sum of what its operators reach back, from an input to an output. 0 when none does.
#[must_use]
pub fn reach_back(dataflow: &Dataflow) -> i64 {
    // Rows of windows have the time of their window: what reads them by that time reaches back further.
    let (mut reach, mut shift) = (vec![0i64; dataflow.nodes.len()], vec![0i64; dataflow.nodes.len()]);
    for (id, node) in dataflow.nodes.iter().enumerate() {
        let upstream = |of: &[i64]| node.inputs.iter().map(|&i| of[i]).max().unwrap_or(0);
        let own = match &node.operator {
            OperatorPlan::Aggregate(plan) => Some(plan.windows.reach_back()),
            OperatorPlan::AssignSessions { shape, .. } => Some(Windows::Session(*shape).reach_back()),
            OperatorPlan::Analytic(calls) => calls.iter().map(|c| c.function.reach_back()).max(),
            OperatorPlan::Recognize(plan) => Some(plan.within_us),
            // The times of the substreams come back with the rows that they may still be compared with.
            OperatorPlan::Input(InputPlan {
                time: TimePolicy::Column { substream, bounds: Some(bounds), .. }, ..
            }) if !substream.is_empty() => {
                Some(bounds.late_arrival.unwrap_or(0).saturating_add(bounds.out_of_order).max(1))
            }
            OperatorPlan::Join(plan) => Some(plan.reach_back()),
            OperatorPlan::Rank(_) => Some(0),
            _ => None,
        };
        let assigned = match &node.operator {
            OperatorPlan::Assign(windows) => windows.reach_back(),
            _ => 0,
        };
        reach[id] = upstream(&reach);
        match own {
            Some(own) => reach[id] = reach[id].saturating_add(upstream(&shift)).saturating_add(own),
            None => shift[id] = upstream(&shift).saturating_add(assigned),
        }
    }
    reach.into_iter().max().unwrap_or(0)
}
