//! Which transactional batches of an answer belong to aborted transactions.

use std::collections::HashSet;

use super::Batch;

/// Goes along the batches of one partition of one answer, in order. The broker names every aborted transaction that overlaps
/// the answer, so nothing is carried from one answer to the next.
#[derive(Debug, Default)]
pub(in crate::kafka) struct AbortedTransactions {
    /// Not begun yet: (first offset, producer), the next one last.
    ahead: Vec<(i64, i64)>,
    /// Producers whose records here are those of an aborted transaction.
    open: HashSet<i64>,
}

impl AbortedTransactions {
    /// `transactions` as the answer has them: (producer, first offset), in any order.
    pub(in crate::kafka) fn new(transactions: impl Iterator<Item = (i64, i64)>) -> Self {
        let mut ahead: Vec<_> = transactions.map(|(producer, first_offset)| (first_offset, producer)).collect();
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Self { ahead, open: HashSet::new() }
    }

    /// Whether this batch's records are to be left out: markers of transactions, and records of aborted ones.
    pub(in crate::kafka) fn leaves_out(&mut self, batch: &Batch<'_>) -> bool {
        while let Some(&(first_offset, producer)) = self.ahead.last()
            && first_offset < batch.next_offset
        {
            self.open.insert(producer);
            self.ahead.pop();
        }
        if batch.is_control() {
            // Whatever it says, the producer's transaction ends here; only aborted ones are in the set.
            self.open.remove(&batch.producer_id);
            return true;
        }
        batch.is_transactional() && self.open.contains(&batch.producer_id)
    }
}
