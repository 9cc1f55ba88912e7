//! The dataflow over the columns that are read: each node's operator, with its columns where they are afterwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion_common::{
    Result, internal_datafusion_err,
    tree_node::{Transformed, TransformedResult, TreeNode},
};
use datafusion_physical_expr::{
    aggregate::{AggregateExprBuilder, LoweredAggregate},
    expressions::Column,
};
use tidemill_engine::{
    ORDER,
    dataflow::{
        order::order_type,
        plan::{
            AggregatePlan, AnalyticCall, AnalyticFunction, Dataflow, InputColumns, InputPlan, JoinPlan, LookupPlan,
            MatchPlan, Node, NodeId, OperatorPlan, RankPlan, TimeBound, TimePolicy,
        },
    },
};

use super::{
    Expr, Graph, GraphNode, InputTime, JoinStep, LookupStep, ORDER_COLUMN, Step,
    inputs::{input_columns, table_plan},
    needs::kept,
};
use crate::{InputTable, aggregates::AggregateCall};

/// Columns of a node before pruning, and where they are afterwards.
type Places = BTreeMap<usize, usize>;

impl Graph {
    pub(super) fn pruned(self, tables: &[InputTable], outputs: &[String]) -> Result<Dataflow> {
        let needs = self.needs();
        let may_fail = self.inputs_that_may_fail(&needs);
        let wanted = self.wanted_of_inputs(&needs);
        let looked_up = self.wanted_of_tables(&needs);
        let mut dataflow = Dataflow {
            nodes: vec![],
            inputs: wanted
                .iter()
                .map(|(input, columns)| InputColumns {
                    may_fail: may_fail.contains(input),
                    ..input_columns(&tables[*input], columns)
                })
                .collect(),
            tables: looked_up.iter().map(|(table, columns)| table_plan(&tables[*table], columns)).collect(),
            outputs: outputs.to_vec(),
        };
        let mut done: Vec<(NodeId, Places)> = Vec::with_capacity(self.nodes.len());
        for (node, needs) in self.nodes.iter().zip(&needs) {
            if needs.is_empty() {
                done.push((usize::MAX, Places::new()));
                continue;
            }
            let columns = node.columns(needs, &wanted, &done);
            let places: Places = columns.iter().enumerate().map(|(new, old)| (*old, new)).collect();
            let child = node.inputs.first().map(|i| &done[*i]);
            let operator = match (&node.step, child) {
                (Step::Input { input, time }, _) => OperatorPlan::Input(InputPlan {
                    input: wanted.keys().position(|i| i == input).unwrap_or_default(),
                    time: match time {
                        InputTime::Arrival => TimePolicy::Arrival,
                        InputTime::By { expression, bounds, substream } => TimePolicy::Column {
                            expression: moved(expression, &places)?,
                            bounds: *bounds,
                            substream: substream.iter().map(|k| moved(k, &places)).collect::<Result<_>>()?,
                        },
                    },
                }),
                (Step::Filter(predicate), Some((_, from))) => OperatorPlan::Filter(moved(predicate, from)?),
                (Step::Project(list), Some((_, from))) => {
                    let order: Expr = Arc::new(Column::new(ORDER, ORDER_COLUMN));
                    let expression = |c: &usize| if *c == ORDER_COLUMN { &order } else { &list[*c] };
                    OperatorPlan::Project(columns.iter().map(|c| moved(expression(c), from)).collect::<Result<_>>()?)
                }
                (Step::Assign(windows), _) => OperatorPlan::Assign(*windows),
                (Step::AssignSessions { shape, partition }, Some((_, from))) => OperatorPlan::AssignSessions {
                    shape: *shape,
                    partition: partition.iter().map(|k| moved(k, from)).collect::<Result<_>>()?,
                },
                (Step::Unnest { outer }, _) => OperatorPlan::Unnest { outer: *outer },
                (Step::Aggregate { windows, keys, partition, calls }, Some((child, from))) => {
                    let input = Arc::clone(&dataflow.nodes[*child].schema);
                    let first = keys.len() + 2;
                    let used = calls.iter().enumerate().filter(|(i, _)| needs.contains(&(first + i)));
                    OperatorPlan::Aggregate(AggregatePlan {
                        windows: *windows,
                        partition: partition.clone(),
                        keys: keys.iter().map(|k| moved(k, from)).collect::<Result<_>>()?,
                        aggregates: used.map(|(i, c)| lowered(c, i, from, &input)).collect::<Result<_>>()?,
                    })
                }
                (Step::Rank(plan), Some((_, from))) => OperatorPlan::Rank(RankPlan {
                    partition: plan.partition.iter().map(|k| moved(k, from)).collect::<Result<_>>()?,
                    order: plan.order.iter().map(|(e, o)| Ok((moved(e, from)?, *o))).collect::<Result<_>>()?,
                }),
                (Step::Analytic(calls), Some((_, from))) => {
                    let first = node.time() - calls.len();
                    let used = calls.iter().enumerate().filter(|(i, _)| needs.contains(&(first + i)));
                    OperatorPlan::Analytic(used.map(|(_, call)| moved_call(call, from)).collect::<Result<_>>()?)
                }
                (Step::Recognize(plan), Some((child, from))) => {
                    let width = dataflow.nodes[*child].schema.fields().len();
                    let before = self.nodes[node.inputs[0]].schema.fields().len();
                    OperatorPlan::Recognize(moved_match(plan, before, from, width)?)
                }
                (Step::Join(join), Some((_, left))) => {
                    OperatorPlan::Join(join.plan(&columns, &places, left, &done[node.inputs[1]].1)?)
                }
                (Step::Lookup(lookup), Some((_, from))) => {
                    let table = looked_up.keys().position(|t| *t == lookup.table).unwrap_or_default();
                    let wanted = looked_up.get(&lookup.table).into_iter().flatten();
                    let of_table = wanted.enumerate().map(|(new, old)| (*old, new)).collect();
                    OperatorPlan::Lookup(lookup.plan(table, &columns, &places, from, &of_table)?)
                }
                (Step::Union, _) => OperatorPlan::Union,
                (Step::Output(output), _) => OperatorPlan::Output(*output),
                _ => return Err(internal_datafusion_err!("a node without input")),
            };
            dataflow.nodes.push(Node {
                operator,
                inputs: node.inputs.iter().map(|i| done[*i].0).collect(),
                schema: project(&node.schema, &columns),
            });
            done.push((dataflow.nodes.len() - 1, places));
        }
        Ok(dataflow)
    }
}

impl GraphNode {
    /// The columns that remain, by their old numbers in their new order.
    fn columns(
        &self,
        needs: &BTreeSet<usize>,
        wanted: &BTreeMap<usize, BTreeSet<usize>>,
        done: &[(NodeId, Places)],
    ) -> Vec<usize> {
        let kept_of_input = || self.inputs.iter().flat_map(|i| done[*i].1.keys().copied());
        let kept_before = |added| kept_of_input().filter(move |c| self.is_kept(*c, added));
        let time = self.time();
        let mut columns: Vec<usize> = match &self.step {
            Step::Input { input, .. } => wanted[input].iter().copied().collect(),
            Step::Filter(_) => kept_of_input().collect(),
            Step::Assign(_) | Step::AssignSessions { .. } => kept_before(3).chain(time - 3..=time).collect(),
            Step::Unnest { .. } => kept_before(2).chain(time - 2..=time).collect(),
            Step::Rank(_) => kept_before(1).chain([time - 1, time]).collect(),
            Step::Analytic(calls) => {
                let used = needs.range(time - calls.len()..time).copied();
                kept_before(calls.len()).chain(used).chain([time]).collect()
            }
            Step::Join(join) => kept(needs, join.condition.as_ref(), time).into_iter().chain([time]).collect(),
            Step::Lookup(lookup) => {
                let order = needs.contains(&ORDER_COLUMN).then_some(ORDER_COLUMN);
                kept(needs, lookup.condition.as_ref(), time).into_iter().chain([time]).chain(order).collect()
            }
            Step::Aggregate { keys, .. } => {
                (0..keys.len() + 2).chain(needs.range(keys.len() + 2..time).copied()).chain([time]).collect()
            }
            Step::Recognize(_) => (0..=time).collect(),
            Step::Project(_) | Step::Union | Step::Output(_) => needs.iter().copied().collect(),
        };
        if let Some(order) = columns.iter().position(|c| *c == ORDER_COLUMN) {
            columns[..=order].rotate_right(1);
        }
        columns
    }
}

impl LookupStep {
    fn plan(
        &self,
        table: usize,
        columns: &[usize],
        places: &Places,
        left: &Places,
        of_table: &Places,
    ) -> Result<LookupPlan> {
        let pruned = || internal_datafusion_err!("a column of a join was pruned but is used");
        let place = |at: &Places, c: usize| at.get(&c).copied().ok_or_else(pruned);
        let kept = &columns[..columns.len() - 1];
        let is_of_table = |c: &usize| *c != ORDER_COLUMN && *c >= self.left_width;
        let (of_right, of_left): (Vec<_>, Vec<_>) = kept.iter().partition(|c| is_of_table(c));
        let keys = self.keys.iter().map(|(l, r)| Ok((moved(l, left)?, moved(r, of_table)?)));
        Ok(LookupPlan {
            table,
            outer: self.outer,
            keys: keys.collect::<Result<_>>()?,
            condition: self.condition.as_ref().map(|c| moved(c, places)).transpose()?,
            left_columns: of_left.into_iter().map(|c| place(left, c)).collect::<Result<_>>()?,
            table_columns: of_right.into_iter().map(|c| place(of_table, c - self.left_width)).collect::<Result<_>>()?,
        })
    }
}

impl JoinStep {
    fn plan(&self, columns: &[usize], places: &Places, left: &Places, right: &Places) -> Result<JoinPlan> {
        let pruned = || internal_datafusion_err!("a column of a join was pruned but is used");
        let place = |at: &Places, c: usize| at.get(&c).copied().ok_or_else(pruned);
        let kept = &columns[..columns.len() - 1];
        let (of_left, of_right) = kept.split_at(kept.partition_point(|c| *c < self.left_width));
        let bound = |b: &TimeBound| Ok(TimeBound { left_time: place(left, b.left_time)?, ..*b });
        Ok(JoinPlan {
            outer: self.outer,
            keys: self.keys.iter().map(|(l, r)| Ok((moved(l, left)?, moved(r, right)?))).collect::<Result<_>>()?,
            bounds: self.bounds.iter().map(bound).collect::<Result<_>>()?,
            condition: self.condition.as_ref().map(|c| moved(c, places)).transpose()?,
            left_columns: of_left.iter().map(|c| place(left, *c)).collect::<Result<_>>()?,
            right_columns: of_right.iter().map(|c| place(right, c - self.left_width)).collect::<Result<_>>()?,
        })
    }
}

/// The columns of these numbers.
fn project(schema: &Schema, columns: &[usize]) -> SchemaRef {
    let order = || Arc::new(Field::new(ORDER, order_type(), false));
    let field = |c: &usize| schema.fields().get(*c).map_or_else(order, Arc::clone);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn moved_call(call: &AnalyticCall, places: &Places) -> Result<AnalyticCall> {
    let mut function = call.function.clone();
    if let AnalyticFunction::Lag { default: Some(default), .. } = &mut function {
        *default = moved(default, places)?;
    }
    Ok(AnalyticCall {
        function,
        argument: moved(&call.argument, places)?,
        partition: call.partition.iter().map(|k| moved(k, places)).collect::<Result<_>>()?,
        when: call.when.as_ref().map(|w| moved(w, places)).transpose()?,
    })
}

/// `before`: how many columns the input had; `width`: how many it has.
fn moved_match(plan: &MatchPlan, before: usize, places: &Places, width: usize) -> Result<MatchPlan> {
    let references = (0..plan.references.len()).map(|i| (before + i, width + i));
    let context: Places = places.iter().map(|(old, new)| (*old, *new)).chain(references).collect();
    let all = |list: &[Expr]| list.iter().map(|e| moved(e, &context)).collect::<Result<Vec<_>>>();
    let mut plan = plan.clone();
    plan.partition = all(&plan.partition)?;
    plan.measures = all(&plan.measures)?;
    for condition in plan.variables.iter_mut().filter_map(|v| v.condition.as_mut()) {
        *condition = moved(condition, &context)?;
    }
    for reference in &mut plan.references {
        reference.argument = moved(&reference.argument, &context)?;
    }
    Ok(plan)
}

fn moved(expr: &Expr, places: &Places) -> Result<Expr> {
    Arc::clone(expr)
        .transform_up(|e| {
            let Some(column) = e.downcast_ref::<Column>() else { return Ok(Transformed::no(e)) };
            let place = places
                .get(&column.index())
                .ok_or_else(|| internal_datafusion_err!("column `{}` was pruned but is used", column.name()))?;
            Ok(Transformed::yes(Arc::new(Column::new(column.name(), *place)) as Expr))
        })
        .data()
}

fn lowered(call: &AggregateCall, number: usize, places: &Places, input: &SchemaRef) -> Result<Arc<LoweredAggregate>> {
    let args = call.args.iter().map(|a| moved(a, places)).collect::<Result<_>>()?;
    let aggregate = AggregateExprBuilder::new(Arc::clone(&call.function), args)
        .schema(Arc::clone(input))
        .alias(format!("{}_{number}", call.name))
        .with_distinct(call.distinct)
        .build()?;
    Ok(Arc::new(LoweredAggregate { aggregate: Arc::new(aggregate), filter: None, order_bys: vec![] }))
}
