//! What is counted of fetches: by broker here, by partition in [`crate::kafka::Partition`].

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Fetches of one broker, over all workers of an input. Links write, metrics read.
#[derive(Debug, Default)]
pub struct BrokerFetches {
    answers: AtomicU64,
    bytes: AtomicU64,
    waited_us: AtomicU64,
    failures: AtomicU64,
    in_flight: AtomicU64,
}

impl BrokerFetches {
    /// Answers that came.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Microseconds between requests and their answers, all together. A broker that has nothing answers after a tenth of a
    /// second.
    #[must_use]
    pub fn waited_us(&self) -> u64 {
        self.waited_us.load(Relaxed)
    }

    /// Connections that broke or could not be opened.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    pub(super) fn asked(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    /// What was asked will not be answered.
    pub(super) fn dropped(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn answered(&self, bytes: usize, after_us: i64) {
        self.in_flight.fetch_sub(1, Relaxed);
        self.answers.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.waited_us.fetch_add(u64::try_from(after_us).unwrap_or(0), Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }
}

/// The brokers of an input that were fetched from.
#[derive(Debug, Default)]
pub(in crate::kafka) struct FetchTable(RwLock<BTreeMap<i32, Arc<BrokerFetches>>>);

impl FetchTable {
    pub(super) fn of(&self, node: i32) -> Arc<BrokerFetches> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(table.entry(node).or_default())
    }

    pub(in crate::kafka) fn all(&self) -> Vec<(i32, Arc<BrokerFetches>)> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.iter().map(|(&node, fetches)| (node, Arc::clone(fetches))).collect()
    }
}
