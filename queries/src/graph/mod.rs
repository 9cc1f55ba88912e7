//! The plan before it is handed over: nodes over whole rows, then cut down to the columns that are used.
//!
//! Nodes are added in topological order, each with all columns that could be named. [`Graph::finish`] walks back from the
//! outputs for what their rows are made of ([`needs`]), drops nodes and columns that nothing reads, and numbers the rest
//! anew ([`prune`]); what remains of an input is what its decoder builds ([`inputs`]).
//!
//! Rows that user code fails on leave alone: see [`user_code`].
//!
//! The place of a row in the order of all rows is one more column of every node between an input and an operator that
//! needs it: [`ORDER_COLUMN`] here, the first column of the batches that run.

mod inputs;
mod needs;
mod prune;
mod user_code;

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion_common::{
    Result,
    tree_node::{TreeNode, TreeNodeRecursion},
};
use datafusion_physical_expr::{PhysicalExpr, expressions::Column};
use tidemill_engine::{
    dataflow::plan::{AnalyticCall, AnalyticFunction, Dataflow, MatchPlan, NodeId, RankPlan, TimeBound, TimeBounds},
    window::shape::{SessionShape, Windows},
};

pub(crate) use self::inputs::input_schema;
use crate::{InputTable, aggregates::AggregateCall};

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
}

impl GraphNode {
    /// Place of the event time.
    fn time(&self) -> usize {
        self.schema.fields().len() - 1
    }

    /// Whether a column of this node is one of its input that stays, where the node adds so many before the event time.
    fn is_kept(&self, column: usize, added: usize) -> bool {
        column < self.time() - added || column == ORDER_COLUMN
    }
}

/// The expressions of a call.
fn call_expressions(call: &AnalyticCall) -> impl Iterator<Item = &Expr> {
    let default = match &call.function {
        AnalyticFunction::Lag { default, .. } => default.as_ref(),
        _ => None,
    };
    [&call.argument].into_iter().chain(&call.partition).chain(&call.when).chain(default)
}

/// The expressions of a match.
fn match_expressions(plan: &MatchPlan) -> impl Iterator<Item = &Expr> {
    let conditions = plan.variables.iter().filter_map(|v| v.condition.as_ref());
    let arguments = plan.references.iter().map(|r| &r.argument);
    plan.partition.iter().chain(conditions).chain(arguments).chain(&plan.measures)
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
