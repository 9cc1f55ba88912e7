//! What to do with each field of a message: into which column its values go. Fields that no column wants are passed over by
//! their wire type alone.
//!
//! A field may come more than once: of a single value the last one counts, messages are merged, repeated values add up.
//! So records and lists stay open until the message that they lie in has ended.
//!
//! [`compile`] makes a plan, [`read`] follows it.

mod compile;
mod read;

use std::collections::HashMap;

/// Field numbers below this are found by index.
const DENSE: u32 = 128;

/// See the module.
pub(super) struct Plan {
    root: Message,
}

#[derive(Default)]
struct Message {
    fields: Vec<FieldPlan>,
    /// By field number: index of the field.
    dense: Vec<Option<u32>>,
    sparse: HashMap<u32, u32>,
    /// Of each column: what stands for a field that did not come.
    absent: Vec<Absent>,
}

struct FieldPlan {
    /// `None` for a field of a oneof that no column wants: its coming still clears the others.
    column: Option<usize>,
    shape: Shape,
    value: ValuePlan,
    /// Columns of the other fields of its oneof.
    clears: Box<[usize]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Single,
    List,
    Map,
}

enum Absent {
    Null,
    Default(Scalar),
    /// A list of what came, or none.
    List,
    /// A record, if it was begun: the index of its field.
    Record(usize),
}

enum ValuePlan {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Float,
    Double,
    Bool,
    Text,
    Bytes,
    Enum(HashMap<i32, Box<str>>),
    Timestamp,
    Duration,
    Wrapper(Box<ValuePlan>),
    Message(Box<Message>),
    /// The value's own plan; keys are texts.
    Entry(Box<ValuePlan>, Box<ValuePlan>),
    Group(Box<Message>),
}

/// A value that stands for an absent field.
enum Scalar {
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Boolean(bool),
    Text(Box<str>),
    Bytes(Box<[u8]>),
}

impl Message {
    #[inline]
    fn field(&self, number: u32) -> Option<&FieldPlan> {
        let index = match self.dense.get(number as usize) {
            Some(index) => *index,
            None if number < DENSE => None,
            None => self.sparse.get(&number).copied(),
        };
        index.map(|index| &self.fields[index as usize])
    }
}
