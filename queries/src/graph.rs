//! The plan before it is handed over: nodes over whole rows, then cut down to the columns that are used.
//!
//! Nodes are added in topological order, each with all columns that could be named. [`Graph::finish`] walks back from the
//! outputs, drops nodes and columns that nothing reads, and numbers the rest anew; what remains of an input is what its
//! decoder builds.
//!
//! Rows that user code fails on leave alone: see [`user_code`].
//!
//! The place of a row in the order of all rows is one more column of every node between an input and an operator that
//! needs it: [`ORDER_COLUMN`] here, the first column of the batches that run.

mod user_code;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion_common::{
    Result, internal_datafusion_err,
    tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion},
};
use datafusion_physical_expr::{
    PhysicalExpr,
    aggregate::{AggregateExprBuilder, LoweredAggregate},
    expressions::Column,
};
use tidemill_engine::{
    ORDER,
    dataflow::{
        order::order_type,
        plan::{
            AggregatePlan, AnalyticCall, AnalyticFunction, Dataflow, InputColumns, InputPlan, JoinPlan, LookupPlan,
            MatchPlan, MetadataColumn, Node, NodeId, OperatorPlan, RankPlan, TablePlan, TimeBound, TimeBounds,
            TimePolicy,
        },
    },
    datetime_type,
    window::shape::{SessionShape, Windows},
};

use crate::{InputTable, aggregates::AggregateCall, scope::schema_of};

type Expr = Arc<dyn PhysicalExpr>;

/// The number of the hidden column [`ORDER`] in every node that can give it ([`Graph::can_order`]).
pub(crate) const ORDER_COLUMN: usize = usize::MAX;

/// How the rows of an input get their event time.
#[derive(Clone, Debug)]
pub(crate) enum InputTime {
    Arrival,
    By {
        expression: Expr,
        bounds: Option<TimeBounds>,
        /// `OVER`.
        substream: Vec<Expr>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Input {
        input: usize,
        time: InputTime,
    },
    Filter(Expr),
    Project(Vec<Expr>),
    Assign(Windows),
    AssignSessions {
        shape: SessionShape,
        partition: Vec<Expr>,
    },
    /// The column before the event time is a list; two take its place.
    Unnest {
        outer: bool,
    },
    Aggregate {
        windows: Windows,
        keys: Vec<Expr>,
        /// Of sessions, the keys that make their own.
        partition: Vec<usize>,
        calls: Vec<AggregateCall>,
    },
    /// Adds a column of places before the event time.
    Rank(RankPlan),
    /// Adds a column for each call before the event time.
    Analytic(Vec<AnalyticCall>),
    /// The columns of references stand behind those of the input.
    Recognize(MatchPlan),
    /// Columns: those of the left rows and their event time, those of the right rows and their event time, event time.
    Join(JoinStep),
    /// Columns: those of the rows, those of the table, event time.
    Lookup(LookupStep),
    Union,
    Output(usize),
}

#[derive(Clone, Debug)]
pub(crate) struct JoinStep {
    pub(crate) outer: bool,
    pub(crate) keys: Vec<(Expr, Expr)>,
    pub(crate) bounds: Vec<TimeBound>,
    /// Over the columns of the join.
    pub(crate) condition: Option<Expr>,
    /// How many columns the left rows have, their event time included.
    pub(crate) left_width: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct LookupStep {
    /// The input of reference data, by its place among the tables.
    pub(crate) table: usize,
    pub(crate) outer: bool,
    /// Over the rows, and over the columns of the table.
    pub(crate) keys: Vec<(Expr, Expr)>,
    /// Over the columns of both.
    pub(crate) condition: Option<Expr>,
    /// How many columns the rows have, without the event time.
    pub(crate) left_width: usize,
}

#[derive(Debug)]
struct GraphNode {
    step: Step,
    inputs: Vec<NodeId>,
    schema: SchemaRef,
}

#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: Vec<GraphNode>,
}

/// Columns of a node before pruning, and where they are afterwards.
type Places = BTreeMap<usize, usize>;

impl Graph {
    pub(crate) fn add(&mut self, step: Step, inputs: Vec<NodeId>, schema: SchemaRef) -> NodeId {
        self.nodes.push(GraphNode { step, inputs, schema });
        self.nodes.len() - 1
    }

    pub(crate) fn schema(&self, node: NodeId) -> SchemaRef {
        Arc::clone(&self.nodes[node].schema)
    }

    pub(crate) fn filter(&mut self, input: NodeId, predicate: Expr) -> NodeId {
        let schema = self.schema(input);
        self.add(Step::Filter(predicate), vec![input], schema)
    }

    /// Whether the rows of a node have places in the order of the inputs' rows: not when something was made of several.
    pub(crate) fn can_order(&self, node: NodeId) -> bool {
        let GraphNode { step, inputs, .. } = &self.nodes[node];
        match step {
            Step::Input { .. } => true,
            Step::Filter(_)
            | Step::Project(_)
            | Step::Assign(_)
            | Step::AssignSessions { .. }
            | Step::Unnest { .. }
            | Step::Rank(_)
            | Step::Analytic(_)
            | Step::Lookup(_)
            | Step::Union => inputs.iter().all(|input| self.can_order(*input)),
            Step::Join(_) | Step::Aggregate { .. } | Step::Recognize(_) | Step::Output(_) => false,
        }
    }

    /// The dataflow over the columns that are used.
    ///
    /// # Errors
    /// When DataFusion refuses an aggregate that the planner took for good.
    pub(crate) fn finish(self, tables: &[InputTable], outputs: &[String]) -> Result<Dataflow> {
        self.with_user_code_apart()?.pruned(tables, outputs)
    }

    fn pruned(self, tables: &[InputTable], outputs: &[String]) -> Result<Dataflow> {
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

    /// For each node the columns that its readers use; none where nothing reads it.
    fn needs(&self) -> Vec<BTreeSet<usize>> {
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
    fn wanted_of_tables(&self, needs: &[BTreeSet<usize>]) -> BTreeMap<usize, BTreeSet<usize>> {
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
    fn wanted_of_inputs(&self, needs: &[BTreeSet<usize>]) -> BTreeMap<usize, BTreeSet<usize>> {
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
    /// Place of the event time.
    fn time(&self) -> usize {
        self.schema.fields().len() - 1
    }

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

    /// Whether a column of this node is one of its input that stays, where the node adds so many before the event time.
    fn is_kept(&self, column: usize, added: usize) -> bool {
        column < self.time() - added || column == ORDER_COLUMN
    }
}

/// The columns of a join that are kept, without the event time: those that are needed, and those of its condition.
fn kept(needs: &BTreeSet<usize>, condition: Option<&Expr>, time: usize) -> BTreeSet<usize> {
    let read = condition.into_iter().flat_map(columns_of);
    needs.iter().copied().chain(read).filter(|c| *c < time).collect()
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

fn table_plan(table: &InputTable, columns: &BTreeSet<usize>) -> TablePlan {
    TablePlan { columns: input_columns(table, columns), rows: Arc::default() }
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

/// The expressions of a call.
fn call_expressions(call: &AnalyticCall) -> impl Iterator<Item = &Expr> {
    let default = match &call.function {
        AnalyticFunction::Lag { default, .. } => default.as_ref(),
        _ => None,
    };
    [&call.argument].into_iter().chain(&call.partition).chain(&call.when).chain(default)
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

/// Columns of its input that a match reads. Those behind the input's are its references.
fn match_columns(plan: &MatchPlan) -> BTreeSet<usize> {
    match_expressions(plan).flat_map(columns_of).collect()
}

/// The expressions of a match.
fn match_expressions(plan: &MatchPlan) -> impl Iterator<Item = &Expr> {
    let conditions = plan.variables.iter().filter_map(|v| v.condition.as_ref());
    let arguments = plan.references.iter().map(|r| &r.argument);
    plan.partition.iter().chain(conditions).chain(arguments).chain(&plan.measures)
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

/// All columns that an input can have: payload, metadata, event time.
pub(crate) fn input_schema(table: &InputTable) -> SchemaRef {
    let payload = table.schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone()));
    let metadata = MetadataColumn::ALL.iter().map(|m| (m.name().to_owned(), metadata_type(*m)));
    schema_of(payload.chain(metadata))
}

fn metadata_type(column: MetadataColumn) -> DataType {
    match column {
        MetadataColumn::Key | MetadataColumn::Topic => DataType::Utf8,
        MetadataColumn::Partition | MetadataColumn::Offset => DataType::Int64,
        MetadataColumn::Timestamp => datetime_type(),
        MetadataColumn::Headers => {
            let header = [Field::new("name", DataType::Utf8, true), Field::new("value", DataType::Utf8, true)];
            DataType::new_list(DataType::Struct(header.into_iter().collect()), true)
        }
    }
}

fn input_columns(table: &InputTable, columns: &BTreeSet<usize>) -> InputColumns {
    let all = input_schema(table);
    let width = table.schema.fields().len();
    let payload: Vec<_> = columns.range(..width).map(|c| Arc::clone(&all.fields()[*c])).collect();
    InputColumns {
        name: table.name.clone(),
        payload: Arc::new(Schema::new(payload)),
        metadata: columns.range(width..).filter_map(|c| MetadataColumn::ALL.get(c - width).copied()).collect(),
        ordered: columns.contains(&ORDER_COLUMN),
        may_fail: false,
        exact: table.exact,
    }
}

/// Columns that an expression reads.
pub(crate) fn columns_of(expr: &Expr) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    // The closure cannot fail.
    let _ = expr.apply(|e| {
        if let Some(column) = e.downcast_ref::<Column>() {
            found.insert(column.index());
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found
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
