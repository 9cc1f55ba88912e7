//! Avro to Arrow: the writer's values are walked once, and those that a column wants go straight into it.
//!
//! apache-avro parses schemas; the values are read by our own walk, driven by a [`plan`] for each writer's schema. arrow-avro,
//! the obvious choice, cannot take back half a record: one bad record would cost its whole batch. The tests hold this walk
//! against the `apache-avro` crate.
//!
//! A payload is framed in one of four ways ([`Framing`]). With an id from a registry, the writer's schema is fetched when the id
//! is first met. A schema that cannot be read into the columns makes each of its records a bad one, with the reason.
//!
//! # Values
//! | Avro | column that is inferred |
//! |---|---|
//! | int, long | bigint |
//! | float, double | float |
//! | decimal (bytes, fixed; at most 38 digits) | float, the nearest; all digits where the column is declared as text |
//! | boolean | bit |
//! | string, enum, uuid | nvarchar(max) |
//! | bytes, fixed | nvarchar(max), base64 |
//! | date, timestamp-\*, local-timestamp-\* | datetime; nanoseconds are cut to microseconds, local times are taken for UTC |
//! | time-\*, duration | nvarchar(max), `14:50:25.120`, `P1M2DT3.004S` |
//! | array | array |
//! | map | array of records `{key, value}` |
//! | record | record |
//! | union with null | as without it |
//! | union of several scalars | float for numbers, else nvarchar(max) |
//! | union of several types with insides | record with a member for each type, named after it |
//! | record that contains itself | none: the column is left out, and named |

pub(crate) mod container;
mod input;
mod plan;
pub(in crate::formats) mod schema;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use tidemill_engine::{
    Result,
    decoder::{BadClass, BadRecord, Decoder},
};

use self::{
    container::{Block, Header},
    input::{FREE_ITEMS, Input},
    plan::Plan,
};
pub use schema::AvroSchema;

use super::{
    Declared,
    builder::Builders,
    json::reader::{Fault, fault},
    registry::{Framed, Schemas, WireFormat},
};

/// How a payload holds Avro values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One value and nothing else.
    Datum,
    /// An object container file, with its writer's schema.
    Container,
    /// An id of the writer's schema, then one value.
    Registry(WireFormat),
}

impl Framing {
    /// How an id stands before a value, if it does.
    #[must_use]
    pub fn wire(self) -> Option<WireFormat> {
        match self {
            Self::Registry(wire) => Some(wire),
            Self::Datum | Self::Container => None,
        }
    }
}

/// Options of an [`AvroDecoder`].
#[derive(Clone)]
pub struct AvroOptions {
    /// How a payload holds values.
    pub framing: Framing,
    /// The writer's schema of [`Framing::Datum`], and the reader's, whose defaults and aliases count, of all.
    pub schema: Option<Arc<AvroSchema>>,
    /// Where the schemas of ids come from; needed by [`Framing::Registry`].
    pub schemas: Option<Arc<dyn Schemas>>,
    /// Bytes that a block of a container file may unpack to.
    pub max_unpacked: usize,
}

/// Decodes Avro payloads; the module says how.
pub struct AvroDecoder {
    builders: Builders,
    options: AvroOptions,
    /// Of each schema id: what to do with its values, or why there is nothing to be done.
    plans: HashMap<u64, Result<Arc<Plan>, String>>,
    /// The plan used last, and its id.
    current: Option<(u64, Arc<Plan>)>,
    datum: Option<Plan>,
    /// The header seen last, and the plan for its schema: the blocks of one file come with the same one.
    container: Option<(Vec<u8>, Plan)>,
    /// A block's values.
    unpacked: Vec<u8>,
}

impl AvroDecoder {
    /// A decoder of these columns.
    ///
    /// # Errors
    /// A column of another type than the module lists; options without what they need; a schema that cannot be read into the
    /// columns.
    pub fn new(schema: SchemaRef, options: AvroOptions) -> Result<Self, String> {
        let builders = Builders::new(schema).map_err(|error| error.to_string())?;
        let datum = match (options.framing, &options.schema) {
            (Framing::Datum, None) => return Err("plain Avro values need a `schema_file`".to_owned()),
            (Framing::Datum, Some(writer)) => Some(Plan::new(writer, Some(writer), builders.schema().fields())?),
            (Framing::Registry(_), _) if options.schemas.is_none() => {
                return Err("schema ids need a `registry`".to_owned());
            }
            _ => None,
        };
        Ok(Self {
            builders,
            options,
            plans: HashMap::new(),
            current: None,
            datum,
            container: None,
            unpacked: Vec::new(),
        })
    }

    fn read(&mut self, payload: &[u8]) -> Result<(), Fault> {
        match self.options.framing {
            Framing::Datum => {
                let Some(plan) = &self.datum else { return Ok(()) };
                read_one(plan, &mut self.builders, payload)
            }
            Framing::Registry(wire) => {
                let Framed { id, value } = wire.split(payload)?;
                self.choose_plan(id)?;
                let Some((_, plan)) = &self.current else { return Ok(()) };
                read_one(plan, &mut self.builders, value)
            }
            Framing::Container => self.read_container(payload),
        }
    }

    /// Makes the plan for a schema id the current one.
    fn choose_plan(&mut self, id: u64) -> Result<(), Fault> {
        if self.current.as_ref().is_some_and(|(current, _)| *current == id) {
            return Ok(());
        }
        if !self.plans.contains_key(&id) {
            let Some(schemas) = &self.options.schemas else { return Ok(()) };
            let found = schemas.by_id(id)?; // what may be there later is asked for again
            let plan = found.and_then(|registered| {
                let writer = registered.avro()?;
                Plan::new(&writer, self.options.schema.as_deref(), self.builders.schema().fields())
            });
            self.plans.insert(id, plan.map(Arc::new));
        }
        match &self.plans[&id] {
            Ok(plan) => {
                self.current = Some((id, plan.clone()));
                Ok(())
            }
            Err(reason) => Err(fault(BadClass::Schema, format!("schema {id}: {reason}"))),
        }
    }

    fn read_container(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let header = Header::read(payload)?;
        let bytes = &payload[..header.length];
        if self.container.as_ref().is_none_or(|(known, _)| known != bytes) {
            let reason = |reason| fault(BadClass::Schema, reason);
            let writer = AvroSchema::parse(header.schema, &[]).map_err(reason)?;
            let plan = Plan::new(&writer, self.options.schema.as_deref(), self.builders.schema().fields());
            self.container = Some((bytes.to_vec(), plan.map_err(reason)?));
        }
        let Some((_, plan)) = &self.container else { return Ok(()) };
        let mut blocks = Input::new(&payload[header.length..]);
        while !blocks.is_empty() {
            let block = Block::read(&mut blocks, &header.sync)?;
            block.unpack(header.codec, &mut self.unpacked, self.options.max_unpacked)?;
            if block.values > self.unpacked.len() + FREE_ITEMS {
                let (values, bytes) = (block.values, self.unpacked.len());
                return Err(blocks.malformed(format_args!("fewer than {values} values in {bytes} bytes before this")));
            }
            let mut values = Input::new(&self.unpacked);
            for _ in 0..block.values {
                plan.read_row(&mut self.builders, &mut values)?;
            }
            if !values.is_empty() {
                return Err(values.malformed("the end of the block"));
            }
        }
        Ok(())
    }
}

/// The columns that the schema of a container file makes.
///
/// # Errors
/// Bytes that are no container file, or whose schema makes no columns; in words.
pub fn container_columns(payload: &[u8]) -> Result<Declared, String> {
    let header = Header::read(payload).map_err(|fault| fault.message)?;
    AvroSchema::parse(header.schema, &[])?.columns()
}

fn read_one(plan: &Plan, builders: &mut Builders, value: &[u8]) -> Result<(), Fault> {
    let mut input = Input::new(value);
    plan.read_row(builders, &mut input)?;
    if input.is_empty() { Ok(()) } else { Err(input.malformed("the end of the value")) }
}

impl Decoder for AvroDecoder {
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
