//! Which columns of each node are read: asked from the outputs back to the inputs.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_engine::{dataflow::plan::MatchPlan, window::shape::Windows};

use super::{
    Expr, Graph, GraphNode, InputTime, JoinStep, ORDER_COLUMN, Step, call_expressions, columns_of, match_expressions,
};

impl Graph {
    /// For each node the columns that its readers use; none where nothing reads it.
    pub(super) fn needs(&self) -> Vec<BTreeSet<usize>> {
        let mut needs = vec![BTreeSet::new(); self.nodes.len()];
        for (id, node) in self.nodes.iter().enumerate().rev() {
            if let Step::Output(_) = node.step {
                needs[id].extend(0..node.schema.fields().len());
            }
            if needs[id].is_empty() {
                continue;
            }
            // A row that fails says which record it was.
            let may_fail = node.may_fail(&needs[id]);
            if may_fail && matches!(node.step, Step::Lookup(_)) && self.can_order(id) {
                needs[id].insert(ORDER_COLUMN);
            }
            for (port, input) in node.inputs.iter().enumerate() {
                let (wanted, width) = (node.wants(port, &needs[id]), self.nodes[*input].schema.fields().len());
                needs[*input].extend(wanted.into_iter().filter(|c| *c < width || *c == ORDER_COLUMN));
                needs[*input].insert(self.nodes[*input].time());
                if (may_fail || node.takes_rows_in_order()) && self.can_order(*input) {
                    needs[*input].insert(ORDER_COLUMN);
                }
            }
        }
        needs
    }

    /// Columns of each table of reference data that are read.
    pub(super) fn wanted_of_tables(&self, needs: &[BTreeSet<usize>]) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut wanted = BTreeMap::<usize, BTreeSet<usize>>::new();
        for (node, needs) in self.nodes.iter().zip(needs) {
            if let (Step::Lookup(lookup), false) = (&node.step, needs.is_empty()) {
                let kept = kept(needs, lookup.condition.as_ref(), node.time());
                let keys = lookup.keys.iter().flat_map(|(_, key)| columns_of(key));
                let columns = kept.range(lookup.left_width..).map(|c| c - lookup.left_width).chain(keys);
                wanted.entry(lookup.table).or_default().extend(columns);
            }
        }
        wanted
    }

    /// Columns of each input that is read, over all nodes that read it.
    pub(super) fn wanted_of_inputs(&self, needs: &[BTreeSet<usize>]) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut wanted = BTreeMap::<usize, BTreeSet<usize>>::new();
        for (node, needs) in self.nodes.iter().zip(needs) {
            if let (Step::Input { input, time }, false) = (&node.step, needs.is_empty()) {
                let columns = wanted.entry(*input).or_default();
                columns.extend(needs);
                if let InputTime::By { expression, substream, .. } = time {
                    columns.extend(substream.iter().chain([expression]).flat_map(columns_of));
                }
            }
        }
        wanted
    }
}

impl GraphNode {
    /// Whether its operator needs the places of its rows in the order of all rows.
    fn takes_rows_in_order(&self) -> bool {
        match &self.step {
            Step::Analytic(_) | Step::Rank(_) | Step::Recognize(_) | Step::Join(_) => true,
            Step::Aggregate { windows, .. } => matches!(windows, Windows::Sliding { .. }),
            _ => false,
        }
    }

    /// Columns of the input at this port that the columns `needs` are made of.
    fn wants(&self, port: usize, needs: &BTreeSet<usize>) -> BTreeSet<usize> {
        match &self.step {
            Step::Input { .. } => BTreeSet::new(),
            Step::Filter(predicate) => needs.iter().copied().chain(columns_of(predicate)).collect(),
            Step::Project(list) => {
                let order = needs.contains(&ORDER_COLUMN).then_some(ORDER_COLUMN);
                needs.iter().filter_map(|c| list.get(*c)).flat_map(columns_of).chain(order).collect()
            }
            Step::Assign(_) => needs.iter().copied().filter(|c| self.is_kept(*c, 3)).collect(),
            Step::AssignSessions { partition, .. } => {
                let kept = needs.iter().copied().filter(|c| self.is_kept(*c, 3));
                kept.chain(partition.iter().flat_map(columns_of)).collect()
            }
            // The list lies where the first of its two columns does.
            Step::Unnest { .. } => {
                needs.iter().copied().filter(|c| self.is_kept(*c, 2)).chain([self.time() - 2]).collect()
            }
            Step::Rank(plan) => {
                let expressions = plan.partition.iter().chain(plan.order.iter().map(|(e, _)| e));
                let kept = needs.iter().copied().filter(|c| self.is_kept(*c, 1));
                kept.chain(expressions.flat_map(columns_of)).collect()
            }
            Step::Analytic(calls) => {
                let first = self.time() - calls.len();
                let used = calls.iter().enumerate().filter(|(i, _)| needs.contains(&(first + i)));
                let read = used.flat_map(|(_, call)| call_expressions(call)).flat_map(columns_of);
                needs.range(..first).copied().chain(read).collect()
            }
            Step::Join(join) => join.wants(port, &kept(needs, join.condition.as_ref(), self.time())),
            Step::Lookup(lookup) => {
                let kept = kept(needs, lookup.condition.as_ref(), self.time());
                let keys = lookup.keys.iter().flat_map(|(key, _)| columns_of(key));
                let order = needs.contains(&ORDER_COLUMN).then_some(ORDER_COLUMN);
                kept.range(..lookup.left_width).copied().chain(keys).chain(order).collect()
            }
            Step::Aggregate { keys, calls, .. } => {
                let used = calls.iter().enumerate().filter(|(i, _)| needs.contains(&(keys.len() + 2 + i)));
                keys.iter().chain(used.flat_map(|(_, c)| &c.args)).flat_map(columns_of).collect()
            }
            Step::Recognize(plan) => match_columns(plan),
            Step::Union | Step::Output(_) => needs.clone(),
        }
    }
}

impl JoinStep {
    /// What the kept columns, keys and bounds read of a side.
    fn wants(&self, port: usize, kept: &BTreeSet<usize>) -> BTreeSet<usize> {
        let width = self.left_width;
        if port == 0 {
            let keys = self.keys.iter().flat_map(|(left, _)| columns_of(left));
            let times = self.bounds.iter().map(|b| b.left_time);
            kept.range(..width).copied().chain(keys).chain(times).collect()
        } else {
            let keys = self.keys.iter().flat_map(|(_, right)| columns_of(right));
            kept.range(width..).map(|c| c - width).chain(keys).collect()
        }
    }
}

/// The columns of a join that are kept, without the event time: those that are needed, and those of its condition.
pub(super) fn kept(needs: &BTreeSet<usize>, condition: Option<&Expr>, time: usize) -> BTreeSet<usize> {
    let read = condition.into_iter().flat_map(columns_of);
    needs.iter().copied().chain(read).filter(|c| *c < time).collect()
}

/// Columns of its input that a match reads. Those behind the input's are its references.
fn match_columns(plan: &MatchPlan) -> BTreeSet<usize> {
    match_expressions(plan).flat_map(columns_of).collect()
}
