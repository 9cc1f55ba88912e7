//! The fetch path: records straight from the wire to the decoder, with no queue and no hand-over between.
//!
//! One [`FetchSource`] serves one worker, on its thread. It keeps a [`link`] to each broker that leads (or, with a `rack`,
//! replicates) partitions of its own, with one fetch under way on each. When an answer is there, its batches' headers are
//! scanned for where to go on, the next request leaves, and then the records are walked in the answer's buffer
//! ([`super::records`]): while they are decoded, the broker gathers the next answer.
//!
//! An answer of the leader carries the high watermark, and the time at which its request left is known: that is the evidence
//! on which an idle partition's watermark moves, without a question of its own.

pub mod answer;
mod counters;
mod link;
mod session;
mod slot;
mod source;

pub use counters::BrokerFetches;
pub(super) use counters::FetchTable;
pub(super) use source::{FetchOptions, FetchSource};
