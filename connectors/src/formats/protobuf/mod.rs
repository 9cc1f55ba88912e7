//! Protobuf to Arrow: the wire is walked once, driven by a table of field numbers for each message, and values go straight
//! into columns. prost-reflect has the descriptors, protox compiles `.proto` text; no message is ever built.
//!
//! A payload is one message, or messages each behind its length, or one behind an id of a registry and the indexes of its
//! message ([`Framing`]).
//!
//! # Values
//! | Protobuf | column that is inferred |
//! |---|---|
//! | int32, int64, sint\*, sfixed\*, uint32, fixed32 | bigint |
//! | uint64, fixed64 | bigint; above 2^63 - 1 only into a column declared as float or text |
//! | float, double | float |
//! | bool | bit |
//! | string | nvarchar(max) |
//! | bytes | nvarchar(max), base64 |
//! | enum | nvarchar(max), its name; digits for a number without one |
//! | message, group | record |
//! | repeated, packed or not | array; never null |
//! | map | array of records `{key, value}`, the key as text, in the order of the payload |
//! | google.protobuf.Timestamp | datetime, cut to microseconds |
//! | google.protobuf.Duration | nvarchar(max), `3.5s` |
//! | google.protobuf.Int64Value and the like | the value, or null |
//! | message that contains itself (Struct, Value) | none: the column is left out, and named |
//!
//! A field that did not come is null where its absence can be told (messages, `optional`, oneofs, proto2 without a default), else
//! its default. Unknown fields are passed over.

mod plan;
pub(in crate::formats) mod schema;
#[cfg(test)]
mod tests;
mod wire;

use std::{collections::HashMap, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use tidemill_engine::{
    Result,
    decoder::{BadClass, BadRecord, Decoder},
};

pub use self::schema::{ProtobufMessage, ProtobufSchema};
use self::{plan::Plan, wire::Wire};
use super::{
    builder::Builders,
    json::reader::{Fault, fault},
    registry::{Framed, Schemas, WireFormat},
};

/// Messages in one another that an index may name.
const MAX_INDEXES: usize = 16;

/// How a payload holds messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One message and nothing else.
    Message,
    /// Messages, each behind its length.
    Prefixed(Prefix),
    /// An id of the writer's schema and the indexes of its message, then one message.
    Registry(WireFormat),
}

impl Framing {
    /// How an id stands before a message, if it does.
    #[must_use]
    pub fn wire(self) -> Option<WireFormat> {
        match self {
            Self::Registry(wire) => Some(wire),
            Self::Message | Self::Prefixed(_) => None,
        }
    }
}

/// How a length stands before a message; the names are those of Azure Stream Analytics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// A varint.
    Base128,
    /// 4 bytes, little-endian.
    Fixed32,
    /// 4 bytes, big-endian.
    Fixed32BigEndian,
}

impl Prefix {
    /// Takes the next message off.
    fn split<'a>(self, wire: &mut Wire<'a>) -> Result<&'a [u8], Fault> {
        let length = match self {
            Self::Base128 => return wire.sized(),
            Self::Fixed32 => u32::from_le_bytes(wire.array()?),
            Self::Fixed32BigEndian => u32::from_be_bytes(wire.array()?),
        };
        wire.take(length as usize)
    }

    /// Puts the length before the message that follows.
    pub(super) fn put(self, length: usize, out: &mut Vec<u8>) {
        let length = length as u32; // a row is smaller than 4 GiB, as its batch is
        match self {
            Self::Base128 => prost::encode_length_delimiter(length as usize, out).expect("memory takes every byte"),
            Self::Fixed32 => out.extend_from_slice(&length.to_le_bytes()),
            Self::Fixed32BigEndian => out.extend_from_slice(&length.to_be_bytes()),
        }
    }

    /// How long the message at the beginning of `bytes` is, its prefix included; `None` when its prefix is not whole.
    pub(crate) fn message_length(self, bytes: &[u8]) -> Option<usize> {
        let mut wire = Wire::new(bytes);
        let length = match self {
            Self::Base128 => wire.varint().ok()? as usize,
            Self::Fixed32 => u32::from_le_bytes(wire.array().ok()?) as usize,
            Self::Fixed32BigEndian => u32::from_be_bytes(wire.array().ok()?) as usize,
        };
        length.checked_add(wire.position())
    }
}

/// Options of a [`ProtobufDecoder`].
#[derive(Clone)]
pub struct ProtobufOptions {
    /// How a payload holds messages.
    pub framing: Framing,
    /// The type of the messages; only [`Framing::Registry`] can do without.
    pub message: Option<ProtobufMessage>,
    /// Where the schemas of ids come from; without it the id is passed over and `message` holds for all.
    pub schemas: Option<Arc<dyn Schemas>>,
}

/// Decodes Protobuf payloads; the module says how.
pub struct ProtobufDecoder {
    builders: Builders,
    options: ProtobufOptions,
    /// For messages of the given type; with ids, if the written message has its name.
    plan: Option<Arc<Plan>>,
    /// Of each id with its indexes, as they stand before messages: what to do, or why there is nothing to be done.
    plans: HashMap<Vec<u8>, Result<Arc<Plan>, String>>,
    /// The one used last.
    current: Option<(Vec<u8>, Arc<Plan>)>,
}

impl ProtobufDecoder {
    /// A decoder of these columns.
    ///
    /// # Errors
    /// A column of another type than the module lists; a message that does not fit the columns; options without what they
    /// need.
    pub fn new(schema: SchemaRef, options: ProtobufOptions) -> Result<Self, String> {
        let builders = Builders::new(schema).map_err(|error| error.to_string())?;
        let by_id = matches!(options.framing, Framing::Registry(_)) && options.schemas.is_some();
        let plan = match &options.message {
            Some(message) => Some(Arc::new(Plan::new(message, builders.schema().fields())?)),
            None if by_id => None,
            None => return Err("Protobuf needs `files` or a `descriptor_set`, or a `registry`".to_owned()),
        };
        Ok(Self { builders, options, plan, plans: HashMap::new(), current: None })
    }

    fn read(&mut self, payload: &[u8]) -> Result<(), Fault> {
        match (self.options.framing, &self.plan) {
            (Framing::Message, Some(plan)) => plan.read_row(&mut self.builders, payload),
            (Framing::Prefixed(prefix), Some(plan)) => {
                let mut wire = Wire::new(payload);
                if wire.is_empty() {
                    return Err(wire.malformed("a length and a message"));
                }
                while !wire.is_empty() {
                    plan.read_row(&mut self.builders, prefix.split(&mut wire)?)?;
                }
                Ok(())
            }
            (Framing::Registry(wire), Some(plan)) if self.options.schemas.is_none() => {
                let mut rest = Wire::new(wire.split(payload)?.value);
                indexes(&mut rest)?;
                plan.read_row(&mut self.builders, rest.rest())
            }
            (Framing::Registry(wire), _) => {
                let start = self.choose_plan(wire, payload)?;
                match &self.current {
                    Some((_, plan)) => plan.read_row(&mut self.builders, &payload[start..]),
                    None => Ok(()),
                }
            }
            (_, None) => Ok(()),
        }
    }

    /// Makes the plan for a payload the current one; says where its message begins.
    fn choose_plan(&mut self, wire: WireFormat, payload: &[u8]) -> Result<usize, Fault> {
        if let Some((prefix, _)) = &self.current
            && payload.starts_with(prefix)
        {
            return Ok(prefix.len());
        }
        let Framed { id, value } = wire.split(payload)?;
        let mut rest = Wire::new(value);
        let indexes = indexes(&mut rest)?;
        let start = payload.len() - rest.rest().len();
        let prefix = &payload[..start];
        if !self.plans.contains_key(prefix) {
            let Some(schemas) = &self.options.schemas else { return Ok(start) };
            let found = schemas.by_id(id)?; // what may be there later is asked for again
            let plan = found.and_then(|registered| {
                let message = registered.protobuf()?.message_at(&indexes);
                let written = message.ok_or_else(|| format!("has no message at {indexes:?}"))?;
                // Fields are told by their numbers: the reader's message reads what any version of it has written.
                match (&self.plan, &self.options.message) {
                    (Some(plan), Some(reader)) if reader.name() == written.name() => Ok(Arc::clone(plan)),
                    (_, Some(reader)) => {
                        Err(format!("is of message `{}`, expected `{}`", written.name(), reader.name()))
                    }
                    (_, None) => Plan::new(&written, self.builders.schema().fields()).map(Arc::new),
                }
            });
            self.plans.insert(prefix.to_vec(), plan);
        }
        match &self.plans[prefix] {
            Ok(plan) => {
                self.current = Some((prefix.to_vec(), plan.clone()));
                Ok(start)
            }
            Err(reason) => Err(fault(BadClass::Schema, format!("schema {id}: {reason}"))),
        }
    }
}

/// The indexes of a message: their number and each of them as zigzag varints; a zero alone is the first message.
fn indexes(wire: &mut Wire<'_>) -> Result<Vec<usize>, Fault> {
    let mut next = || -> Result<usize, Fault> {
        let value = wire.varint()?;
        if value & 1 == 1 {
            Err(wire.malformed("an index of a message before this"))
        } else {
            Ok((value >> 1) as usize)
        }
    };
    match next()? {
        0 => Ok(vec![0]),
        count @ 1..=MAX_INDEXES => (0..count).map(|_| next()).collect(),
        count => {
            let message = format!("expected at most {MAX_INDEXES} indexes of a message, found {count}");
            Err(fault(BadClass::Malformed, message))
        }
    }
}

impl Decoder for ProtobufDecoder {
    fn schema(&self) -> SchemaRef {
        self.builders.schema()
    }

    fn push(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        let before = self.builders.rows;
        match self.read(payload) {
            Ok(()) => Ok(self.builders.rows - before),
            Err(fault) => {
                self.builders.truncate(before);
                Err(*fault)
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.builders.truncate(rows);
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        self.builders.flush()
    }
}
