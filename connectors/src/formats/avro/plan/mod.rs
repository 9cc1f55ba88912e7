//! What to do with each value of a writer's schema: into which column it goes, or how it is passed over.
//!
//! A plan is an arena of nodes. Nodes with a column form a tree, as finite as the columns are; nodes that are passed over
//! are shared by the name of their type, so that types that contain themselves, or each other many times, cost nothing.
//!
//! [`compile`] makes a plan, [`read`] follows it.

mod compile;
mod logical;
mod read;

/// Values in one another that are passed over, and types in one another: both can be nested for ever.
const MAX_DEPTH: usize = 128;

type NodeId = usize;

/// See the module.
pub(super) struct Plan {
    nodes: Vec<Node>,
    root: NodeId,
}

enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(usize),
    Enum(Vec<Box<str>>),
    /// A number of this many to the second.
    Datetime(i64),
    Date,
    /// A number since midnight, this many to the second.
    Time(i64),
    Decimal {
        scale: usize,
        size: Option<usize>,
    },
    UuidBytes(Option<usize>),
    Duration,
    Array(NodeId),
    Map(NodeId),
    Union(Vec<NodeId>),
    /// A union whose column is a record with a member for each type: node and member.
    Wide(Vec<(NodeId, Option<usize>)>),
    /// A value that is the given member of such a record.
    OneOf(NodeId, usize),
    Record(Record),
    /// A value of this kind, which its column does not take.
    Misfit(&'static str),
}

#[derive(Default)]
struct Record {
    /// In the writer's order: node, and column.
    fields: Vec<(NodeId, Option<usize>)>,
    /// Columns that the writer does not have, with what stands for them.
    missing: Vec<(usize, Option<Default>)>,
}

/// An encoded default and its node.
struct Default {
    node: NodeId,
    value: Vec<u8>,
}
