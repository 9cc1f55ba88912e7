//! Schema registries: the wire formats that put an id before a value, and a client of Confluent's API, which Apicurio,
//! Karapace and Redpanda speak too.

mod client;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use tidemill_engine::{
    EngineError,
    decoder::{BadClass, BadRecord, Decoder},
};

pub use client::{Authentication, RegistryClient, RegistryError, RegistrySettings};

use super::{
    avro::AvroSchema,
    encode::Registrar,
    json::reader::{Fault, fault},
    protobuf::ProtobufSchema,
};

/// How an id stands before a value: a zero, then the id, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFormat {
    /// An id of 4 bytes.
    Confluent,
    /// An id of 8 bytes, as Apicurio's own serializers wrote before they took Confluent's format.
    Apicurio,
}

/// A payload with its id taken off.
pub(super) struct Framed<'a> {
    pub(super) id: u64,
    pub(super) value: &'a [u8],
}

impl WireFormat {
    /// Takes the id off.
    #[inline]
    pub(super) fn split(self, payload: &[u8]) -> Result<Framed<'_>, Fault> {
        let framed = match (self, payload) {
            (Self::Confluent, [0, a, b, c, d, value @ ..]) => {
                Some(Framed { id: u64::from(u32::from_be_bytes([*a, *b, *c, *d])), value })
            }
            (Self::Apicurio, [0, a, b, c, d, e, f, g, h, value @ ..]) => {
                Some(Framed { id: u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), value })
            }
            _ => None,
        };
        framed.ok_or_else(|| {
            let length = if self == Self::Confluent { 4 } else { 8 };
            fault(BadClass::Malformed, format!("expected a zero and a schema id of {length} bytes before the value"))
        })
    }

    /// The id before a value, if there is one.
    #[must_use]
    pub fn id(self, payload: &[u8]) -> Option<u64> {
        self.split(payload).ok().map(|framed| framed.id)
    }

    /// The value behind an id that does not matter.
    ///
    /// # Errors
    /// A payload without one.
    pub fn unframed(self, payload: &[u8]) -> Result<&[u8], BadRecord> {
        self.split(payload).map(|framed| framed.value).map_err(|fault| *fault)
    }

    /// Puts an id before the value that follows.
    pub(super) fn put(self, id: u64, out: &mut Vec<u8>) {
        out.push(0);
        match self {
            Self::Confluent => out.extend_from_slice(&(id as u32).to_be_bytes()),
            Self::Apicurio => out.extend_from_slice(&id.to_be_bytes()),
        }
    }
}

/// The language of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaKind {
    /// Avro.
    Avro,
    /// JSON Schema.
    Json,
    /// Protobuf.
    Protobuf,
}

impl SchemaKind {
    /// Its name in the API.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Avro => "AVRO",
            Self::Json => "JSON",
            Self::Protobuf => "PROTOBUF",
        }
    }
}

/// A schema as a registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its id.
    pub id: u64,
    /// Its language.
    pub kind: SchemaKind,
    /// Its text.
    pub text: String,
    /// The schemas that it refers to, each behind those that it refers to itself: name and text.
    pub references: Vec<(String, String)>,
}

impl Registered {
    fn expect(&self, kind: SchemaKind) -> Result<(), String> {
        if self.kind == kind {
            return Ok(());
        }
        Err(format!("is of type {}, expected {}", self.kind.name(), kind.name()))
    }

    /// Parsed as Avro.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn avro(&self) -> Result<AvroSchema, String> {
        self.expect(SchemaKind::Avro)?;
        let references: Vec<String> = self.references.iter().map(|(_, text)| text.clone()).collect();
        AvroSchema::parse(&self.text, &references)
    }

    /// Compiled as Protobuf.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn protobuf(&self) -> Result<ProtobufSchema, String> {
        self.expect(SchemaKind::Protobuf)?;
        ProtobufSchema::of_texts(&self.text, &self.references)
    }
}

/// A decoder of values behind ids that say nothing about how they are read: those of JSON.
pub struct UnframingDecoder {
    inner: Box<dyn Decoder>,
    wire: WireFormat,
}

impl UnframingDecoder {
    /// Gives `inner` what stands behind ids.
    #[must_use]
    pub fn new(inner: Box<dyn Decoder>, wire: WireFormat) -> Self {
        Self { inner, wire }
    }
}

impl Decoder for UnframingDecoder {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn push(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        self.inner.push(self.wire.unframed(payload)?)
    }

    fn truncate(&mut self, rows: usize) {
        self.inner.truncate(rows);
    }

    fn flush(&mut self) -> tidemill_engine::Result<RecordBatch> {
        self.inner.flush()
    }
}

/// Registers the schemas of an output under one subject.
pub struct SubjectRegistrar {
    /// The registry.
    pub client: Arc<RegistryClient>,
    /// The subject.
    pub subject: String,
    /// The output's name in the spec.
    pub output: String,
}

impl Registrar for SubjectRegistrar {
    fn register(&self, kind: SchemaKind, text: &str) -> tidemill_engine::Result<u64> {
        self.client.register(&self.subject, kind, text).map_err(|error| EngineError::Sink {
            output: self.output.clone(),
            kind: error.kind(),
            message: format!("its rows' schema was not registered under `{}`: {error}", self.subject),
        })
    }
}

/// Where the schemas of ids come from; shared by the decoders of an input.
pub trait Schemas: Send + Sync {
    /// The schema of an id, or why there never will be one.
    ///
    /// # Errors
    /// A fault of class [`BadClass::Unavailable`] when that cannot be known now.
    fn by_id(&self, id: u64) -> Result<Result<Registered, String>, Box<BadRecord>>;
}
