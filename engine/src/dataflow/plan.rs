//! The description of a dataflow: a graph of operator plans in topological order. `queries` makes it, once; each worker
//! and the merge thread instantiate their halves of it.

use std::sync::Arc;

use arrow::{
    compute::SortOptions,
    datatypes::{DataType, SchemaRef},
};
use datafusion_physical_expr::{
    PhysicalExpr,
    aggregate::{AggregateFunctionExpr, LoweredAggregate},
};

use super::difference::Outdated;
use crate::{
    EventTime,
    analytic::anomaly::Anomaly,
    recognize::pattern::Pattern,
    reference::ReferenceTable,
    window::shape::{SessionShape, WindowShape, Windows},
};

/// Index of a node in [`Dataflow::nodes`].
pub type NodeId = usize;

/// A whole job between its inputs and outputs.
#[derive(Clone, Debug)]
pub struct Dataflow {
    /// Each node's inputs come before it.
    pub nodes: Vec<Node>,
    /// Inputs as the intake has to deliver them, by the index in [`InputPlan::input`].
    pub inputs: Vec<InputColumns>,
    /// Reference data, by the index in [`LookupPlan::table`].
    pub tables: Vec<TablePlan>,
    /// Names of the outputs, by the index in [`OperatorPlan::Output`].
    pub outputs: Vec<String>,
}

impl Dataflow {
    /// Tells plans apart whose operators would not understand each other's state: the same text of 16 characters for the same
    /// operators, expressions and columns, in any run of this version.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        // FNV-1a: the standard library's hashers promise nothing across versions.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for node in &self.nodes {
            for byte in format!("{:?} {:?} {:?}", node.operator, node.inputs, node.schema.fields()).bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }

    /// The output of each statement, by index in [`Dataflow::outputs`], in the order of the output nodes.
    #[must_use]
    pub fn statements(&self) -> Vec<usize> {
        let output = |node: &Node| if let OperatorPlan::Output(output) = node.operator { Some(output) } else { None };
        self.nodes.iter().filter_map(output).collect()
    }
}

/// One operator and where its rows come from.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub operator: OperatorPlan,
    /// Its inputs by port.
    pub inputs: Vec<NodeId>,
    /// Columns of its rows. The last one is [`crate::EVENT_TIME`], for every node but an output.
    pub schema: SchemaRef,
}

/// What the query needs of one input: the columns of its batches are [`crate::ORDER`] if `ordered`, then `payload`, then
/// `metadata`, then [`crate::EVENT_TIME`].
#[derive(Clone, Debug)]
pub struct InputColumns {
    /// Name of the input in the spec.
    pub name: String,
    /// Payload columns that the query names, to be decoded.
    pub payload: SchemaRef,
    /// Metadata columns that the query names.
    pub metadata: Vec<MetadataColumn>,
    /// Whether an operator needs to know the order of its rows.
    pub ordered: bool,
    /// Whether user code may fail on its rows ([`crate::user_code`]); they are ordered then.
    pub may_fail: bool,
    /// Whether a value has to be of its column's type as it stands (`CREATE TABLE`): text is no number then, and a number no
    /// text. A record with another is bad.
    pub exact: bool,
}

/// A property of a record outside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MetadataColumn {
    /// `_key`: Utf8, null when absent; bytes that are not UTF-8 are replaced by U+FFFD.
    Key,
    /// `_headers`: a list of structs `{name: Utf8, value: Utf8}`.
    Headers,
    /// `_topic`: Utf8; a file's path.
    Topic,
    /// `_partition`: Int64.
    Partition,
    /// `_offset`: Int64.
    Offset,
    /// `_timestamp`: the raw timestamp as a datetime.
    Timestamp,
}

impl MetadataColumn {
    /// All of them.
    pub const ALL: [MetadataColumn; 6] =
        [Self::Key, Self::Headers, Self::Topic, Self::Partition, Self::Offset, Self::Timestamp];

    /// Its column name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "_key",
            Self::Headers => "_headers",
            Self::Topic => "_topic",
            Self::Partition => "_partition",
            Self::Offset => "_offset",
            Self::Timestamp => "_timestamp",
        }
    }
}

/// What a node does.
#[derive(Clone, Debug)]
pub enum OperatorPlan {
    /// Rows of an input under a time policy. No node inputs.
    Input(InputPlan),
    /// Keeps the rows for which the predicate is true (null is not).
    Filter(Arc<dyn PhysicalExpr>),
    /// Computes the columns of the node's schema, in order, the event time among them.
    Project(Vec<Arc<dyn PhysicalExpr>>),
    /// Repeats each row for each window that it lies in, with the columns `window_start`, `window_end` and `window_time`
    /// put before the event time. For windows that are known beforehand: neither sessions nor sliding ones.
    Assign(Windows),
    /// Adds the same columns for the session that a row lies in, once that is over; the event time becomes `window_time`.
    AssignSessions {
        /// The sessions.
        shape: SessionShape,
        /// Rows of the same values make sessions of their own; empty: all rows make the same.
        partition: Vec<Arc<dyn PhysicalExpr>>,
    },
    /// Repeats each row for each element of a list, its column before the event time: two columns take the list's place,
    /// the element's position (`Int64`, from 0) and its value. With `outer`, a row whose list is empty or null stays once,
    /// with nulls; otherwise it is left out.
    Unnest {
        /// Whether rows without elements stay.
        outer: bool,
    },
    /// Aggregates by window and key. Columns: keys, `window_start`, `window_end`, aggregates, event time.
    Aggregate(AggregatePlan),
    /// Adds the column of a ROW_NUMBER before the event time.
    Rank(RankPlan),
    /// Adds a column for each call before the event time: a function of the row and of those before it.
    Analytic(Vec<AnalyticCall>),
    /// Runs of rows that match a pattern. Columns: measures, event time.
    Recognize(MatchPlan),
    /// Pairs of rows of its two inputs. Columns: those of the left rows, those of the right rows, event time.
    Join(JoinPlan),
    /// Each row with the rows of a table that match it. Columns: those of the row ([`crate::ORDER`] first where it has one),
    /// those of the table, event time.
    Lookup(LookupPlan),
    /// All rows of all inputs, which have one schema; its watermark is the smallest of theirs.
    Union,
    /// The rows of its second input that are not, or not so often, among those of its first; both have one schema.
    Difference(DifferencePlan),
    /// Hands the rows, without the event time, to the output of this index.
    Output(usize),
}

impl OperatorPlan {
    /// Whether it takes its rows in their order and gives them in one ([`super::order`]).
    #[must_use]
    pub fn is_sequential(&self) -> bool {
        match self {
            Self::Analytic(_) | Self::Rank(_) | Self::Recognize(_) | Self::Join(_) | Self::Difference(_) => true,
            Self::Aggregate(plan) => matches!(plan.windows, Windows::Sliding { .. }),
            _ => false,
        }
    }

    /// Whether it holds rows back until the watermark has passed them, so that its results are told apart by event time
    /// rather than by the offsets of their records.
    #[must_use]
    pub fn waits_for_watermark(&self) -> bool {
        self.is_sequential() || matches!(self, Self::Aggregate(_) | Self::AssignSessions { .. })
    }
}

/// Which rows are compared ([`super::difference`]).
#[derive(Clone, Debug)]
pub struct DifferencePlan {
    /// Those below this event time; the others are left out.
    pub below: EventTime,
    /// Counts those of the first input that are not, or not so often, among those of the second.
    pub outdated: Arc<Outdated>,
}

/// An input as one statement reads it.
#[derive(Clone, Debug)]
pub struct InputPlan {
    /// Index in [`Dataflow::inputs`].
    pub input: usize,
    /// How its rows get their event time.
    pub time: TimePolicy,
}

/// How rows get their event time, and what becomes of those that come too late or too early (ASA, time handling).
#[derive(Clone, Debug)]
pub enum TimePolicy {
    /// The arrival: the record's own timestamp, as the source or the spec's `timestamp` decides.
    Arrival,
    /// `TIMESTAMP BY expression`.
    Column {
        /// Over the input's columns (arrival included, as [`crate::EVENT_TIME`]); gives a datetime or null.
        expression: Arc<dyn PhysicalExpr>,
        /// The policies; `None`: nothing is late or early, and the watermark stays at the beginning until the end.
        bounds: Option<TimeBounds>,
        /// `OVER key`: rows of each key are out of order among themselves alone. Empty: among all rows of a partition.
        substream: Vec<Arc<dyn PhysicalExpr>>,
    },
}

/// Tolerances in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBounds {
    /// arrival - event time above this is late; `None` waits for ever.
    pub late_arrival: Option<i64>,
    /// How far behind the largest event time a row may come.
    pub out_of_order: i64,
    /// event time - arrival above this is early: the row is dropped.
    pub early_arrival: Option<i64>,
    /// What becomes of late and out-of-order rows.
    pub action: LateAction,
}

/// What becomes of a row that is late or out of order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateAction {
    /// Its event time moves up to the bound.
    Adjust,
    /// It is counted and kept as a dead letter of class `late`.
    Drop,
    /// It keeps its event time; windows that are still open take it, others count it as late (standard SQL).
    Keep,
}

/// The place of a row, from 1, among the rows of its event time, which those of a window share.
#[derive(Clone, Debug)]
pub struct RankPlan {
    /// Rows of the same values are numbered together.
    pub partition: Vec<Arc<dyn PhysicalExpr>>,
    /// What orders them; then it is the order of rows.
    pub order: Vec<(Arc<dyn PhysicalExpr>, SortOptions)>,
}

/// A windowed aggregation.
#[derive(Clone, Debug)]
pub struct AggregatePlan {
    /// The windows.
    pub windows: Windows,
    /// Group keys over the input's columns; may be empty.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// For sessions: the keys, by their places, whose values make sessions of their own; empty: all rows make the same.
    pub partition: Vec<usize>,
    /// Aggregates over the input's columns.
    pub aggregates: Vec<Arc<LoweredAggregate>>,
}

/// A join of two streams.
#[derive(Clone, Debug)]
pub struct JoinPlan {
    /// Whether left rows without a match are kept, with nulls in the right columns.
    pub outer: bool,
    /// Pairs of expressions, over the left and over the right rows, of one type, that are equal and not null.
    pub keys: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// How far apart in time the rows are; all of them hold. One at least has a lower, one an upper end.
    pub bounds: Vec<TimeBound>,
    /// What else is true of a pair, over the columns of the join.
    pub condition: Option<Arc<dyn PhysicalExpr>>,
    /// The columns of the left rows that are kept.
    pub left_columns: Vec<usize>,
    /// The columns of the right rows that are kept.
    pub right_columns: Vec<usize>,
}

/// Reference data that a query reads.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// The columns that are read; no order.
    pub columns: InputColumns,
    /// What it holds; whoever runs the dataflow puts that there before the first row.
    pub rows: Arc<ReferenceTable>,
}

/// A join of a stream with reference data.
#[derive(Clone, Debug)]
pub struct LookupPlan {
    /// Index in [`Dataflow::tables`].
    pub table: usize,
    /// Whether rows without a match are kept, with nulls in the columns of the table.
    pub outer: bool,
    /// Pairs of expressions, over the rows and over the table, of one type, that are equal and not null.
    pub keys: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// What else is true of a pair, over the columns of the join.
    pub condition: Option<Arc<dyn PhysicalExpr>>,
    /// The columns of the rows that are kept, without the event time.
    pub left_columns: Vec<usize>,
    /// The columns of the table that are kept.
    pub table_columns: Vec<usize>,
}

/// Bounds of the time from a left to a right row, as ASA's DATEDIFF counts it: boundaries of a unit that lie between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeBound {
    /// The column of the left rows with the time that is meant: of one of the sources that they were joined from.
    pub left_time: usize,
    /// How far that time may lie before the left row's event time, in microseconds.
    pub lag_us: i64,
    /// The unit, in microseconds.
    pub unit_us: i64,
    /// Boundaries at least; `None`: no bound.
    pub min: Option<i64>,
    /// Boundaries at most; `None`: no bound.
    pub max: Option<i64>,
}

impl JoinPlan {
    /// How far before a row the rows may lie that it depends on, in microseconds.
    #[must_use]
    pub fn reach_back(&self) -> i64 {
        let reach = |bound: &TimeBound, ends: Option<i64>| {
            ends.map(|n| n.saturating_add(1).saturating_mul(bound.unit_us).max(0).saturating_add(bound.lag_us))
        };
        let left = self.bounds.iter().filter_map(|b| reach(b, b.max)).min().unwrap_or(i64::MAX);
        let right = self.bounds.iter().filter_map(|b| reach(b, b.min.map(i64::wrapping_neg))).min().unwrap_or(i64::MAX);
        left.max(right)
    }
}

/// A function of a row and of the rows before it. All expressions are over the input's columns.
#[derive(Clone, Debug)]
pub struct AnalyticCall {
    /// Which function.
    pub function: AnalyticFunction,
    /// What it is of.
    pub argument: Arc<dyn PhysicalExpr>,
    /// Only rows of the same values count; empty: all.
    pub partition: Vec<Arc<dyn PhysicalExpr>>,
    /// Only rows for which it is true count (null is not).
    pub when: Option<Arc<dyn PhysicalExpr>>,
}

/// What a function makes of the rows that count. Durations are in microseconds: rows of (t - d, t].
#[derive(Clone, Debug)]
pub enum AnalyticFunction {
    /// The argument `offset` counted rows before this one, not counting it; of offset 0, of the last counted row, which may
    /// be this one. Of the argument's type.
    Lag {
        /// How many rows back.
        offset: usize,
        /// The value where there is no such row, of the argument's type; none: null.
        default: Option<Arc<dyn PhysicalExpr>>,
        /// How long a row counts.
        within_us: i64,
    },
    /// 1 for the first counted row in its window, else 0; `Int64`.
    First(WindowShape),
    /// Whether a number is an anomaly among the counted ones before it; of Float64, a record
    /// ([`crate::analytic::verdict_type`]), null where the row does not count.
    Anomaly(AnomalyPlan),
    /// Any other aggregate of the counted rows up to this one, made anew for each row from all of them.
    Gathered {
        /// Of its arguments, which are the fields of the call's argument, a record.
        aggregate: Arc<AggregateFunctionExpr>,
        /// How long a row counts.
        within_us: i64,
    },
    /// An aggregate of the counted rows up to this one.
    Rolling {
        /// Which.
        aggregate: RollingAggregate,
        /// How long a row counts.
        within_us: i64,
    },
}

/// MATCH_RECOGNIZE. Conditions and measures are over the columns of a row, then a column for each of `references`.
#[derive(Clone, Debug)]
pub struct MatchPlan {
    /// Only rows of the same values are matched together; empty: all.
    pub partition: Vec<Arc<dyn PhysicalExpr>>,
    /// From the first to the last row of a match lies less than this, in microseconds.
    pub within_us: i64,
    /// Over `variables`, by their places.
    pub pattern: Pattern,
    /// The variables.
    pub variables: Vec<Variable>,
    /// What conditions and measures ask of the rows that a match has so far.
    pub references: Vec<Reference>,
    /// The columns of a result; the row at hand is the match's last.
    pub measures: Vec<Arc<dyn PhysicalExpr>>,
}

/// A variable of a pattern.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name, for CLASSIFIER.
    pub name: String,
    /// Which rows it takes; none: all.
    pub condition: Option<Arc<dyn PhysicalExpr>>,
    /// The references in the condition, by their places; the row at hand is among their rows.
    pub reads: Vec<usize>,
}

/// What something is over the rows of a match.
#[derive(Clone, Debug)]
pub struct Reference {
    /// Which of its rows' values.
    pub kind: ReferenceKind,
    /// Of the rows of this variable; none: of all.
    pub variable: Option<usize>,
    /// Over a row.
    pub argument: Arc<dyn PhysicalExpr>,
    /// Of the result.
    pub data_type: DataType,
}

/// See [`Reference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    /// The value of the first row.
    First,
    /// The value of the last row.
    Last,
    /// The smallest value, nulls apart.
    Min,
    /// The largest value, nulls apart.
    Max,
    /// The names of the variables of the rows, a list of text.
    Classifier,
}

/// A detector of anomalies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnomalyPlan {
    /// What it looks for.
    pub anomaly: Anomaly,
    /// How sure it has to be, in percent.
    pub confidence: f64,
    /// How many values before a value it is judged by, at most.
    pub history: usize,
    /// How long a value counts, in microseconds.
    pub within_us: i64,
}

impl AnalyticFunction {
    /// How far before a row the rows may lie that it depends on, in microseconds.
    #[must_use]
    pub fn reach_back(&self) -> i64 {
        match self {
            Self::Lag { within_us, .. } | Self::Rolling { within_us, .. } | Self::Gathered { within_us, .. } => {
                *within_us
            }
            Self::First(interval) => interval.size,
            Self::Anomaly(plan) => plan.within_us,
        }
    }
}

/// An aggregate of the rows of a duration; nulls do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollingAggregate {
    /// How many; `Int64`.
    Count,
    /// Exactly summed, null without rows; of `Int64` `Int64`, of `Float64` `Float64`.
    Sum,
    /// `Float64`, null without rows.
    Avg,
    /// The smallest, null without rows.
    Min,
    /// The largest, null without rows.
    Max,
}
