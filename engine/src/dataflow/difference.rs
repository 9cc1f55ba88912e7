//! What a dataflow makes of some more records: it runs twice side by side, without and with them, and only the rows that
//! are new are written.
//!
//! A window, a join, LAG: what one more record changes there is told by no plan, but by the rows. [`twice`] rewrites a
//! dataflow so; [`Difference`] compares before each output.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arrow::{
    array::{RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::Schema,
    row::{OwnedRow, RowConverter, SortField},
};

use super::{
    order::{Sequential, times},
    plan::{Dataflow, DifferencePlan, Node, OperatorPlan},
};
use crate::{EngineError, EventTime, Result, operator::Emit};

const BEFORE: usize = 0;
const AFTER: usize = 1;

/// Rows that were made before and are not made any more: they cannot be taken back.
#[derive(Debug, Default)]
pub struct Outdated {
    /// How many.
    pub rows: AtomicU64,
    /// Of these at least so many have no new row of their event time in their place.
    pub without_successor: AtomicU64,
}

/// The dataflow twice: over its inputs, and over as many again, which have more records. What only the second one makes goes to the
/// outputs, of each statement below an event time; statements without one are left out. With it the statements that are left: the
/// output, and what is outdated there.
#[must_use]
pub fn twice(dataflow: &Dataflow, below: &[Option<EventTime>]) -> (Dataflow, Vec<(usize, Arc<Outdated>)>) {
    let outputs = dataflow.nodes.iter().enumerate().filter_map(|(id, node)| match node.operator {
        OperatorPlan::Output(output) => Some((id, output)),
        _ => None,
    });
    let left: Vec<_> =
        outputs.zip(below).filter_map(|((id, output), below)| below.map(|below| (id, output, below))).collect();
    let mut is_needed = vec![false; dataflow.nodes.len()];
    left.iter().for_each(|(id, ..)| is_needed[*id] = true);
    for (id, node) in dataflow.nodes.iter().enumerate().rev() {
        if is_needed[id] {
            node.inputs.iter().for_each(|&input| is_needed[input] = true);
        }
    }
    let mut nodes: Vec<Node> = vec![];
    let mut copies = vec![];
    for copy in [BEFORE, AFTER] {
        let mut ids = vec![0; dataflow.nodes.len()];
        for (id, node) in dataflow.nodes.iter().enumerate().filter(|(id, _)| is_needed[*id]) {
            let mut operator = node.operator.clone();
            match &mut operator {
                OperatorPlan::Output(_) => continue,
                OperatorPlan::Input(plan) => plan.input += copy * dataflow.inputs.len(),
                _ => {}
            }
            ids[id] = nodes.len();
            let inputs = node.inputs.iter().map(|&input| ids[input]).collect();
            nodes.push(Node { operator, inputs, schema: Arc::clone(&node.schema) });
        }
        copies.push(ids);
    }
    let mut outdated = vec![];
    for (id, output, below) in left {
        let (node, from) = (&dataflow.nodes[id], dataflow.nodes[id].inputs[0]);
        let of_output = Arc::<Outdated>::default();
        let plan = DifferencePlan { below, outdated: Arc::clone(&of_output) };
        let inputs = copies.iter().map(|ids| ids[from]).collect();
        let schema = Arc::clone(&dataflow.nodes[from].schema);
        nodes.push(Node { operator: OperatorPlan::Difference(plan), inputs, schema });
        let inputs = vec![nodes.len() - 1];
        nodes.push(Node { operator: node.operator.clone(), inputs, schema: Arc::clone(&node.schema) });
        outdated.push((output, of_output));
    }
    let inputs = [dataflow.inputs.as_slice(); 2].concat();
    (Dataflow { nodes, inputs, tables: dataflow.tables.clone(), outputs: dataflow.outputs.clone() }, outdated)
}

/// The rows of its second input that are not, or not so often, in its first. Rows are compared with those of their event time.
pub(super) struct Difference {
    plan: DifferencePlan,
    converter: RowConverter,
    /// Of one event time: how often rows came before and have not come again, and how many new ones there were.
    time: EventTime,
    before: HashMap<OwnedRow, u64>,
    new: u64,
}

impl Difference {
    pub(super) fn try_new(plan: &DifferencePlan, schema: &Schema) -> Result<Self> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        Ok(Self { plan: plan.clone(), converter, time: EventTime::MIN, before: HashMap::new(), new: 0 })
    }

    /// All rows of the event time have come.
    fn settle(&mut self) {
        let outdated: u64 = self.before.drain().map(|(_, count)| count).sum();
        self.plan.outdated.rows.fetch_add(outdated, Relaxed);
        self.plan.outdated.without_successor.fetch_add(outdated.saturating_sub(self.new), Relaxed);
        self.new = 0;
    }
}

impl Sequential for Difference {
    fn rows(&mut self, batches: &[RecordBatch], order: &[(usize, usize)], out: &mut dyn Emit) -> Result<()> {
        let rows = batches.iter().map(|batch| self.converter.convert_columns(batch.columns()));
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        let times = [BEFORE, AFTER].map(|port| times(&batches[port]));
        let mut new = vec![];
        for &(port, row) in order {
            let time = EventTime(times[port][row]);
            if time >= self.plan.below {
                break;
            }
            if time > self.time {
                self.settle();
                self.time = time;
            }
            // Those of before come first.
            let content = rows[port].row(row).owned();
            if port == BEFORE {
                *self.before.entry(content).or_default() += 1;
            } else if let Some(count) = self.before.get_mut(&content).filter(|count| **count > 0) {
                *count -= 1;
            } else {
                self.new += 1;
                new.push(row as u32);
            }
        }
        match new.is_empty() {
            true => Ok(()),
            false => out.batch(take_record_batch(&batches[AFTER], &UInt32Array::from(new))?),
        }
    }

    fn advance(&mut self, t: EventTime, _out: &mut dyn Emit) -> Result<EventTime> {
        if t > self.time {
            self.settle();
        }
        Ok(t)
    }

    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        Err(has_no_snapshots())
    }

    fn restore(&mut self, _state: Vec<RecordBatch>) -> Result<()> {
        Err(has_no_snapshots())
    }
}

/// What is compared has an end; an interrupted comparison begins anew.
fn has_no_snapshots() -> EngineError {
    EngineError::State { operator: "difference".to_owned(), message: "it is run from beginning to end".to_owned() }
}
