//! What the state of a dataflow may take: one account over all workers and the merge thread.
//!
//! Reading can wait, and so what is on its way is bounded by pauses. What windows and joins keep cannot: only a watermark lets it go, and
//! that takes more reading. So a half that finds the account overdrawn ends the job, by name, before the system ends it without a word.
//! Figures are estimates, by rows and groups and not by the allocator.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arrow::record_batch::RecordBatch;

use crate::{EngineError, Result};

/// Shared by the halves of a dataflow.
#[derive(Debug)]
pub struct StateBudget {
    limit_bytes: u64,
    held_bytes: AtomicU64,
}

impl StateBudget {
    /// At most so many bytes.
    #[must_use]
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, held_bytes: AtomicU64::new(0) }
    }

    /// What all halves together keep.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Relaxed)
    }
}

/// The part of a half.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<StateBudget>,
    own_bytes: u64,
}

impl Account {
    pub(super) fn new(budget: Arc<StateBudget>) -> Self {
        Self { budget, own_bytes: 0 }
    }

    /// From now on the half keeps so many bytes. Where these are more than before and too many, it says what `step` is to be told.
    pub(super) fn keep(&mut self, own_bytes: u64, step: impl FnOnce() -> String) -> Result<()> {
        let before = std::mem::replace(&mut self.own_bytes, own_bytes);
        if own_bytes <= before {
            self.budget.held_bytes.fetch_sub(before - own_bytes, Relaxed);
            return Ok(());
        }
        let grown = own_bytes - before;
        let held = self.budget.held_bytes.fetch_add(grown, Relaxed) + grown;
        self.judge(held, step)
    }

    /// Whether so many bytes more are there for a moment.
    pub(super) fn spare(&self, more_bytes: u64, step: impl FnOnce() -> String) -> Result<()> {
        self.judge(self.budget.held_bytes() + more_bytes, step)
    }

    fn judge(&self, held_bytes: u64, step: impl FnOnce() -> String) -> Result<()> {
        let limit_bytes = self.budget.limit_bytes;
        match held_bytes > limit_bytes {
            true => Err(EngineError::OutOfMemory { step: step(), held_bytes, limit_bytes }),
            false => Ok(()),
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.budget.held_bytes.fetch_sub(self.own_bytes, Relaxed);
    }
}

/// The bytes of the rows of a batch, whatever else lies in its buffers.
pub(crate) fn bytes_of_rows(batch: &RecordBatch) -> usize {
    let bytes = |column: &arrow::array::ArrayRef| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{ArrayRef, Int64Array},
        record_batch::RecordBatch,
    };

    use super::*;
    use crate::ErrorKind;

    fn no_step() -> String {
        unreachable!("there is room")
    }

    #[test]
    fn halves_share_one_budget_and_give_back_what_they_kept() {
        let budget = Arc::new(StateBudget::new(100 << 20));
        let mut one = Account::new(Arc::clone(&budget));
        let mut other = Account::new(Arc::clone(&budget));
        one.keep(60 << 20, no_step).unwrap();
        other.keep(40 << 20, no_step).unwrap();
        let error = one.keep(61 << 20, || "step 3 (join)".to_owned()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::User);
        let text = error.to_string();
        for part in ["step 3 (join)", "101 MiB", "of 100 MiB", "raise `memory`"] {
            assert!(text.contains(part), "{text}");
        }
        drop(other);
        assert_eq!(budget.held_bytes(), 61 << 20);
        one.keep(10 << 20, no_step).unwrap();
        one.spare(90 << 20, no_step).unwrap();
        assert!(one.spare(91 << 20, String::new).is_err());
    }

    #[test]
    fn less_is_no_fault_even_where_it_is_still_too_much() {
        let budget = Arc::new(StateBudget::new(100));
        let mut one = Account::new(Arc::clone(&budget));
        assert!(one.keep(300, String::new).is_err());
        one.keep(200, no_step).unwrap();
    }

    #[test]
    fn a_part_of_a_batch_takes_a_part_of_its_bytes() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        assert_eq!(bytes_of_rows(&batch), 8_000);
        assert_eq!(bytes_of_rows(&batch.slice(10, 100)), 800);
    }
}
