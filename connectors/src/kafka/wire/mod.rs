//! Our own client of Kafka's protocol, as far as reading takes it: one [`Connection`] to one broker (TCP, TLS by rustls, SASL,
//! versions agreed on), and a [`Client`] that asks a cluster for its topology and offsets.
//!
//! Messages come from `kafka-protocol`; only the answer to a fetch is read by ourselves (see `fetch/answer.rs`), and the
//! others are measured before they are decoded ([`measure`]). Whatever
//! goes wrong has a [`super::fault::Cause`]: rustls says which of a certificate's faults it was, where librdkafka has one
//! text for all of them.

mod address;
mod client;
mod connection;
mod measure;
mod protection;
mod reader;
mod rights;
mod sasl;
mod topology;
mod transport;

pub(super) use address::Address;
pub(super) use client::{Client, OffsetQuestion};
pub(super) use connection::{Connection, Parts, frame};
pub(super) use protection::{Protection, roots};
pub use reader::BadAnswer;
pub(super) use reader::Reader;
pub use rights::Right;
pub(super) use topology::{Leader, Topology};
pub(super) use transport::{Transport, cause_of, speaks_tls};
