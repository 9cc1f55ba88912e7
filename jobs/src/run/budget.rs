//! How a job's `memory` is shared out. The one place with the shares; each is taken by whoever holds that much.
//!
//! What is on its way is bounded by pauses: a partition is not fetched while its worker's share is full, a worker waits while the merge
//! thread has as much to do, the merge thread waits while an output's queue is full. What operators keep until a watermark lets it go is
//! bounded by the end of the job ([`StateBudget`]). The rest is for batches in hand: one that is decoded, one that is encoded, and what
//! the allocator loses between them.

use tidemill_engine::dataflow::budget::StateBudget;

use crate::spec::Job;

/// Each is one part in so many.
const FETCH: u64 = 8;
const EXCHANGE: u64 = 8;
const SINKS: u64 = 16;
const LAYOUT: u64 = 8;
const STATE: u64 = 2;

/// KiB fetched ahead for a worker at most: more does not make it faster.
pub(crate) const FETCH_KIB_MAX: u64 = 32 * 1024;
/// KiB of an output's queue at least: a message has to fit.
const SINK_KIB_MIN: u64 = 1024;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    bytes: u64,
}

impl Budget {
    pub(super) fn of(job: &Job) -> Self {
        Self { bytes: job.memory.bytes() }
    }

    /// KiB of records that are fetched ahead for one of so many readers, of each input one for each worker.
    pub(super) fn fetch_kib(self, readers: usize) -> u64 {
        (self.bytes / FETCH / readers.max(1) as u64 / 1024).min(FETCH_KIB_MAX)
    }

    /// Bytes of rows that one of so many workers has sent and the merge thread has not taken.
    pub(super) fn exchange_bytes(self, workers: usize) -> u64 {
        self.bytes / EXCHANGE / workers.max(1) as u64
    }

    /// KiB of rows that wait for acknowledgement in one of so many producers.
    pub(super) fn sink_kib(self, producers: usize) -> usize {
        let kib = (self.bytes / SINKS / producers.max(1) as u64 / 1024).max(SINK_KIB_MIN);
        usize::try_from(kib).unwrap_or(usize::MAX)
    }

    /// Bytes of rows that wait to be laid out in files, of one of so many outputs.
    pub(super) fn layout_bytes(self, outputs: usize) -> usize {
        usize::try_from(self.bytes / LAYOUT / outputs.max(1) as u64).unwrap_or(usize::MAX)
    }

    /// What operators keep.
    pub(super) fn state(self) -> StateBudget {
        StateBudget::new(self.bytes / STATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sixteenth_is_left_for_batches_in_hand() {
        let budget = Budget { bytes: 1 << 30 };
        for (inputs, workers, producers) in [(1, 1, 1), (2, 3, 1), (1, 16, 5)] {
            let readers = inputs * workers;
            let shared = budget.fetch_kib(readers) * 1024 * readers as u64
                + budget.exchange_bytes(workers) * workers as u64
                + budget.sink_kib(producers) as u64 * 1024 * producers as u64
                + (budget.layout_bytes(producers) * producers) as u64
                + budget.bytes / STATE;
            assert!(shared <= budget.bytes / 16 * 15, "{shared} bytes");
        }
    }

    #[test]
    fn a_message_fits_however_little_there_is() {
        assert_eq!(Budget { bytes: 1024 }.sink_kib(3), 1024);
    }
}
