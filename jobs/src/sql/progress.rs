//! How far the reading for a question is, and what it could not use.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counters that the scans of a question write and whoever waits reads.
#[derive(Debug, Default)]
pub struct Progress {
    records: AtomicU64,
    bytes: AtomicU64,
    offsets: AtomicU64,
    empty: AtomicU64,
    bad: AtomicU64,
    first_bad: Mutex<Option<String>>,
}

impl Progress {
    /// Records that were read or counted.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Relaxed)
    }

    /// Bytes of the payloads that were looked at.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Offsets that were passed; comparable with [`super::Reading::records`].
    #[must_use]
    pub fn offsets(&self) -> u64 {
        self.offsets.load(Relaxed)
    }

    /// Records without a payload, which are no rows.
    #[must_use]
    pub fn tombstones(&self) -> u64 {
        self.empty.load(Relaxed)
    }

    /// Records that could not be decoded, which are no rows; with the first one's place and cause.
    #[must_use]
    pub fn bad(&self) -> (u64, Option<String>) {
        let first = self.first_bad.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.bad.load(Relaxed), first)
    }

    pub(super) fn took(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn passed(&self, offsets: u64) {
        self.offsets.fetch_add(offsets, Relaxed);
    }

    pub(super) fn tombstone(&self) {
        self.empty.fetch_add(1, Relaxed);
    }

    pub(super) fn bad_record(&self, text: impl FnOnce() -> String) {
        if self.bad.fetch_add(1, Relaxed) == 0 {
            *self.first_bad.lock().unwrap_or_else(PoisonError::into_inner) = Some(text());
        }
    }
}
