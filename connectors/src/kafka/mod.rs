//! Kafka as input and output: records are read by our own fetch requests, everything else is librdkafka's.
//!
//! [`KafkaInput::connect`] makes the first contact and answers everything that a start needs: partitions, offsets, the
//! committed positions of a group, a sample of payloads. [`KafkaInput::open`] then gives each worker a source and starts the
//! control thread ([`control`]), which follows the leaders and finds new partitions. A source is a [`fetch::FetchSource`] over
//! connections of our own ([`wire`]), which walks record batches where they lie in an answer ([`records`]); or, for what
//! those do not reach and as the oracle of their tests, a [`source::KafkaSource`] that borrows payloads from librdkafka's
//! fetch buffers ([`batch`]; `unsafe` is there and in [`token`] alone).
//! [`KafkaSink`] writes rows and counts acknowledgements, by itself (at least once) or in a [`Transaction`] (exactly once).
//!
//! Errors are classified once, in [`fault`]: callers see a [`Fault`] with its cause, or the engine's error
//! made from it, never a bare `BrokerTransportFailure`.

mod batch;
mod client;
mod cluster;
mod config;
mod control;
pub mod embedded;
mod epochs_topic;
mod fault;
mod fetch;
mod group;
mod input;
mod partition;
mod partitioner;
mod path;
mod probe;
mod range;
pub mod records;
mod security;
mod sink;
mod source;
mod stretches;
mod timestamp_type;
mod token;
mod transaction;
mod wire;

#[cfg(test)]
mod tests;

pub use config::{Fetch, Isolation, KafkaConnection, SinkSettings, SourceSettings, Start};
pub use epochs_topic::last_epoch;
pub use fault::{Asked, Cause, Fault};
pub use fetch::{BrokerFetches, answer};
pub use group::{Committed, Group};
pub use input::KafkaInput;
pub use partition::Partition;
pub use partitioner::Partitioner;
pub use path::{Chosen, ReadPath};
pub use probe::{Step, probe};
pub use security::{HAS_GSSAPI, Sasl, SaslSettings, ScramHash, Security, SecurityError, SecuritySettings, TlsSettings};
pub use sink::{Contact, KafkaSink, KeepRejected, OnRejected, RejectedRow};
pub use stretches::{ReadStretch, list_topics};
pub use token::{AwsKeys, AwsSettings, ClientProof, OidcSettings, Token, TokenError, TokenSettings, TokenSource};
pub use transaction::{GroupOffsets, Transaction, TransactionSettings};
pub use wire::Right;
