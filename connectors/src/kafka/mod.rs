//! Kafka as input and output, on librdkafka.
//!
//! [`KafkaInput::connect`] makes the first contact and answers everything that a start needs: partitions, offsets, the
//! committed positions of a group, a sample of payloads. [`KafkaInput::open`] then gives each worker a [`KafkaSource`],
//! which borrows payloads straight from librdkafka's fetch buffers ([`batch`], the one place with `unsafe`), and starts
//! the control thread ([`control`]), which asks the leaders where their logs end and finds new partitions.
//! [`KafkaSink`] writes rows and counts acknowledgements.
//!
//! librdkafka's errors are classified once, in [`fault`]: callers see a [`Fault`] with its cause, or the engine's error
//! made from it, never a bare `BrokerTransportFailure`.

mod batch;
mod client;
mod cluster;
mod config;
mod control;
pub mod embedded;
mod fault;
mod group;
mod input;
mod partition;
mod range;
mod sink;
mod source;
mod timestamp_type;

#[cfg(test)]
mod tests;

pub use config::{Isolation, KafkaConnection, Security, SinkSettings, SourceSettings, Start};
pub use fault::{Cause, Fault};
pub use group::{Committed, Group};
pub use input::KafkaInput;
pub use partition::Partition;
pub use sink::{KafkaSink, KeepRejected, OnRejected, RejectedRow};
pub use source::KafkaSource;
