//! User code where a row can fail alone ([`tidemill_engine::user_code`]): in filters, projections and conditions. What else
//! calls it, as the argument of an aggregate or the key of a join, takes it as a column of a projection before.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion_common::{
    Result,
    tree_node::{Transformed, TransformedResult, TreeNode},
};
use datafusion_expr::Operator;
use datafusion_physical_expr::expressions::{BinaryExpr, Column};
use tidemill_engine::{
    EVENT_TIME,
    dataflow::plan::{AnalyticFunction, NodeId},
};

use super::{
    Expr, Graph, GraphNode, InputTime, JoinStep, LookupStep, ORDER_COLUMN, Step, call_expressions, match_expressions,
};
use crate::{javascript::calls_user_code, reference::moved_by, scope::schema_of};

/// Columns that were put into a node's: before which one of those that it had, and of which types.
type Added = (usize, Vec<DataType>);

impl Graph {
    /// The same graph with user code in filters, projections and conditions only.
    pub(super) fn with_user_code_apart(self) -> Result<Self> {
        if !self.nodes.iter().any(|node| node.expressions().into_iter().any(calls_user_code)) {
            return Ok(self);
        }
        let mut graph = Self::default();
        let mut places: Vec<NodeId> = Vec::with_capacity(self.nodes.len());
        for GraphNode { step, inputs, schema } in self.nodes {
            let inputs = inputs.into_iter().map(|input| places[input]).collect();
            places.push(graph.add_apart(step, inputs, schema)?);
        }
        Ok(graph)
    }

    /// Of the nodes that call user code, the inputs whose records their rows still are.
    pub(super) fn inputs_that_may_fail(&self, needs: &[BTreeSet<usize>]) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut open: Vec<NodeId> = vec![];
        for (node, needs) in self.nodes.iter().zip(needs) {
            if node.may_fail(needs) {
                open.extend(&node.inputs);
            }
        }
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let node = &self.nodes[id];
            match &node.step {
                Step::Input { input, .. } => drop(found.insert(*input)),
                Step::Filter(_)
                | Step::Project(_)
                | Step::Assign(_)
                | Step::Unnest { .. }
                | Step::Lookup(_)
                | Step::Union => open.extend(&node.inputs),
                _ => {}
            }
        }
        found
    }

    fn add_apart(&mut self, mut step: Step, mut inputs: Vec<NodeId>, schema: SchemaRef) -> Result<NodeId> {
        let mut added: Vec<Added> = vec![];
        match &mut step {
            Step::Input { .. }
            | Step::Filter(_)
            | Step::Project(_)
            | Step::Assign(_)
            | Step::Unnest { .. }
            | Step::Union
            | Step::Output(_) => {}
            Step::Aggregate { keys, calls, .. } => {
                let expressions = keys.iter_mut().chain(calls.iter_mut().flat_map(|call| &mut call.args));
                self.computed_before(&mut inputs[0], expressions.collect())?;
            }
            Step::AssignSessions { partition, .. } => {
                added.push(self.computed_before(&mut inputs[0], partition.iter_mut().collect())?);
            }
            Step::Rank(plan) => {
                let expressions = plan.partition.iter_mut().chain(plan.order.iter_mut().map(|(e, _)| e));
                added.push(self.computed_before(&mut inputs[0], expressions.collect())?);
            }
            Step::Analytic(calls) => {
                let expressions = calls.iter_mut().flat_map(|call| {
                    let default = match &mut call.function {
                        AnalyticFunction::Lag { default, .. } => default.as_mut(),
                        _ => None,
                    };
                    [&mut call.argument].into_iter().chain(&mut call.partition).chain(&mut call.when).chain(default)
                });
                added.push(self.computed_before(&mut inputs[0], expressions.collect())?);
            }
            // What looks at several rows fails there.
            Step::Recognize(plan) => {
                let (alone, over_rows): (Vec<_>, Vec<_>) =
                    plan.variables.iter_mut().filter(|v| v.condition.is_some()).partition(|v| v.reads.is_empty());
                let alone = alone.into_iter().filter_map(|v| v.condition.as_mut());
                let arguments = plan.references.iter_mut().map(|r| &mut r.argument);
                let of_row = plan.partition.iter_mut().chain(arguments).chain(alone).collect();
                let (width, types) = self.computed_before(&mut inputs[0], of_row)?;
                let over_rows = over_rows.into_iter().filter_map(|v| v.condition.as_mut());
                for expression in over_rows.chain(&mut plan.measures) {
                    *expression = shifted(expression, width, types.len())?;
                }
            }
            Step::Join(join) => added = self.join_apart(join, &mut inputs)?,
            Step::Lookup(lookup) => added.push(self.lookup_apart(lookup, &mut inputs[0])?),
        }
        added.retain(|(_, types)| !types.is_empty());
        if added.is_empty() {
            return Ok(self.add(step, inputs, schema));
        }
        let (wide, kept) = widened(&schema, &added);
        let node = self.add(step, inputs, wide);
        let columns = kept.into_iter().zip(schema.fields());
        let list = columns.map(|(at, field)| Arc::new(Column::new(field.name(), at)) as Expr).collect();
        Ok(self.add(Step::Project(list), vec![node], schema))
    }

    fn join_apart(&mut self, join: &mut JoinStep, inputs: &mut [NodeId]) -> Result<Vec<Added>> {
        let [left, right] = inputs else { return Ok(vec![]) };
        let (of_left, of_right): (Vec<_>, Vec<_>) = join.keys.iter_mut().map(|(l, r)| (l, r)).unzip();
        let (left_time, of_left) = self.computed_before(left, of_left)?;
        let (right_time, of_right) = self.computed_before(right, of_right)?;
        let right_time = join.left_width + right_time;
        if let Some(condition) = &mut join.condition {
            let moved = shifted(condition, right_time, of_right.len())?;
            *condition = shifted(&moved, left_time, of_left.len())?;
        }
        for bound in join.bounds.iter_mut().filter(|bound| bound.left_time >= left_time) {
            bound.left_time += of_left.len();
        }
        join.left_width += of_left.len();
        Ok(vec![(left_time, of_left), (right_time, of_right)])
    }

    /// A key that calls user code over the table becomes a part of the condition: an index has no place for failures.
    fn lookup_apart(&mut self, lookup: &mut LookupStep, input: &mut NodeId) -> Result<Added> {
        let width = lookup.left_width;
        let (over_table, keys): (Vec<_>, Vec<_>) =
            std::mem::take(&mut lookup.keys).into_iter().partition(|(_, key)| calls_user_code(key));
        lookup.keys = keys;
        for (of_row, of_table) in over_table {
            let equal: Expr = Arc::new(BinaryExpr::new(of_row, Operator::Eq, moved_by(&of_table, width)?));
            lookup.condition = Some(match lookup.condition.take() {
                Some(condition) => Arc::new(BinaryExpr::new(equal, Operator::And, condition)),
                None => equal,
            });
        }
        let (_, types) = self.computed_before(input, lookup.keys.iter_mut().map(|(key, _)| key).collect())?;
        if let Some(condition) = &mut lookup.condition {
            *condition = shifted(condition, width, types.len())?;
        }
        lookup.left_width += types.len();
        Ok((width, types))
    }

    /// Puts a projection behind `input` that computes those expressions which call user code, before the event time; they
    /// become its columns, and the others read the columns where they are now.
    fn computed_before(&mut self, input: &mut NodeId, expressions: Vec<&mut Expr>) -> Result<Added> {
        let schema = self.schema(*input);
        let width = schema.fields().len() - 1;
        let (calls, others): (Vec<_>, Vec<_>) = expressions.into_iter().partition(|e| calls_user_code(e));
        let known = schema.fields()[..width].iter().map(|f| (f.name().clone(), f.data_type().clone()));
        let mut columns: Vec<(String, DataType)> = known.collect();
        let named = |(at, (name, _)): (usize, &(String, DataType))| Arc::new(Column::new(name, at)) as Expr;
        let mut list: Vec<Expr> = columns.iter().enumerate().map(named).collect();
        for call in calls {
            let column = (format!("user_code_{}", list.len() - width), call.data_type(&schema)?);
            let value = std::mem::replace(call, named((list.len(), &column)));
            list.push(value);
            columns.push(column);
        }
        let types: Vec<DataType> = columns[width..].iter().map(|(_, data_type)| data_type.clone()).collect();
        if !types.is_empty() {
            for other in others {
                *other = shifted(other, width, types.len())?;
            }
            list.push(Arc::new(Column::new(EVENT_TIME, width)));
            *input = self.add(Step::Project(list), vec![*input], schema_of(columns));
        }
        Ok((width, types))
    }
}

impl GraphNode {
    /// Every expression of it, over whatever columns.
    fn expressions(&self) -> Vec<&Expr> {
        match &self.step {
            Step::Input { time: InputTime::By { expression, substream, .. }, .. } => {
                substream.iter().chain([expression]).collect()
            }
            Step::Filter(predicate) => vec![predicate],
            Step::Project(list) | Step::AssignSessions { partition: list, .. } => list.iter().collect(),
            Step::Aggregate { keys, calls, .. } => {
                keys.iter().chain(calls.iter().flat_map(|call| &call.args)).collect()
            }
            Step::Rank(plan) => plan.partition.iter().chain(plan.order.iter().map(|(e, _)| e)).collect(),
            Step::Analytic(calls) => calls.iter().flat_map(call_expressions).collect(),
            Step::Recognize(plan) => match_expressions(plan).collect(),
            Step::Join(JoinStep { keys, condition, .. }) | Step::Lookup(LookupStep { keys, condition, .. }) => {
                keys.iter().flat_map(|(left, right)| [left, right]).chain(condition).collect()
            }
            Step::Input { .. } | Step::Assign(_) | Step::Unnest { .. } | Step::Union | Step::Output(_) => vec![],
        }
    }

    /// Whether user code may fail on its rows: on those whose columns are needed.
    pub(super) fn may_fail(&self, needs: &BTreeSet<usize>) -> bool {
        match &self.step {
            _ if needs.is_empty() => false,
            Step::Project(list) => needs.iter().filter_map(|c| list.get(*c)).any(calls_user_code),
            Step::Filter(_) | Step::Join(_) | Step::Lookup(_) | Step::Recognize(_) => {
                self.expressions().into_iter().any(calls_user_code)
            }
            _ => false,
        }
    }
}

/// The expression with its columns from `first` on so many places further.
fn shifted(expression: &Expr, first: usize, places: usize) -> Result<Expr> {
    let moved = Arc::clone(expression).transform_up(|e| {
        let column = e.downcast_ref::<Column>().filter(|c| c.index() >= first && c.index() != ORDER_COLUMN);
        Ok(match column {
            Some(column) => Transformed::yes(Arc::new(Column::new(column.name(), column.index() + places)) as Expr),
            None => Transformed::no(e),
        })
    });
    moved.data()
}

/// The schema with columns added to it, and where those are that it had.
fn widened(schema: &Schema, added: &[Added]) -> (SchemaRef, Vec<usize>) {
    let (mut columns, mut kept) = (vec![], vec![]);
    for (at, field) in schema.fields().iter().enumerate() {
        for (_, types) in added.iter().filter(|(before, _)| *before == at) {
            columns.extend(types.iter().map(|data_type| ("user_code".to_owned(), data_type.clone())));
        }
        kept.push(columns.len());
        columns.push((field.name().clone(), field.data_type().clone()));
    }
    columns.pop(); // the event time, which every node has
    (schema_of(columns), kept)
}
