//! One side of a join: its rows, until their deadlines.
//!
//! Rows are numbered in the order in which they came (`seq`). Their values stay in the batches in which they came, small
//! batches put together, so that a row costs its columns and one entry.

use std::collections::{BTreeMap, VecDeque};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::{concat_batches, interleave},
};

use crate::{EventTime, Result, dataflow::budget::bytes_of_rows};

/// Rows of a batch above which it is put together with others no more.
const HELD_ROWS: usize = 4_096;

/// What a row takes beside its columns: its key, its deadline, and whether and when it was matched.
const ROW_BYTES: usize = 32;

/// Rows that are held together.
#[derive(Debug)]
pub(super) struct Held {
    first: u64,
    pub(super) batch: RecordBatch,
    /// Rows that have not expired.
    live: usize,
    /// Of an outer join's left rows: whether they had a match.
    pub(super) matched: Vec<bool>,
    /// Of an outer join's left rows: the time of the row that says that there was none.
    unmatched: Vec<i64>,
    /// Of each row the number of its key ([`super::keys`]); `None` when it can match nothing.
    keys: Vec<Option<u32>>,
    bytes: usize,
}

impl Held {
    pub(super) fn new(batch: RecordBatch, keys: Vec<Option<u32>>, matched: Vec<bool>, unmatched: Vec<i64>) -> Self {
        let bytes = bytes_of_rows(&batch) + batch.num_rows() * ROW_BYTES;
        Self { first: 0, live: batch.num_rows(), batch, matched, unmatched, keys, bytes }
    }

    fn append(&mut self, mut later: Held) -> Result<()> {
        self.batch = concat_batches(&self.batch.schema(), [&self.batch, &later.batch])?;
        self.live += later.live;
        self.bytes += later.bytes;
        self.matched.append(&mut later.matched);
        self.unmatched.append(&mut later.unmatched);
        self.keys.append(&mut later.keys);
        Ok(())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Side {
    held: VecDeque<Held>,
    next: u64,
    /// Of the rows that are held.
    bytes: usize,
    /// Rows by deadline, which many share: it lies at the end of a unit of DATEDIFF.
    deadlines: BTreeMap<i64, Vec<u64>>,
}

impl Side {
    /// Keeps rows; gives the number of the first. Each is then to be [`Self::expect`]ed.
    pub(super) fn hold(&mut self, mut held: Held) -> Result<u64> {
        let first = self.next;
        let rows = held.batch.num_rows();
        if rows == 0 {
            return Ok(first);
        }
        held.first = first;
        self.next += rows as u64;
        self.bytes += held.bytes;
        self.held.push_back(held);
        // As in a binary counter: each row is copied a few times at most.
        while let Some(last) = self.held.pop_back() {
            let rows = last.batch.num_rows();
            match self.held.back_mut() {
                Some(before) if before.batch.num_rows() <= 2 * rows && before.batch.num_rows() + rows <= HELD_ROWS => {
                    before.append(last)?;
                }
                _ => {
                    self.held.push_back(last);
                    break;
                }
            }
        }
        Ok(first)
    }

    /// Keeps a held row until its deadline.
    pub(super) fn expect(&mut self, seq: u64, deadline: i64) {
        self.deadlines.entry(deadline).or_default().push(seq);
    }

    /// Rows whose deadline lies below `t`, in order of their deadlines, with the numbers of their keys. They are still held.
    pub(super) fn expire(&mut self, t: EventTime) -> Vec<(u64, Option<u32>)> {
        let mut expired = vec![];
        while let Some(due) = self.deadlines.first_entry().filter(|due| *due.key() < t.0) {
            for seq in due.remove() {
                let (held, row) = self.place(seq);
                self.held[held].live -= 1;
                expired.push((seq, self.held[held].keys[row]));
            }
        }
        expired
    }

    /// Lets go of rows that have expired.
    pub(super) fn let_go(&mut self) {
        while let Some(gone) = self.held.pop_front_if(|held| held.live == 0) {
            self.bytes -= gone.bytes;
        }
    }

    /// Of the rows that are held.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        self.held.iter()
    }

    pub(super) fn set_matched(&mut self, seq: u64) {
        let (held, row) = self.place(seq);
        self.held[held].matched[row] = true;
    }

    pub(super) fn is_matched(&self, seq: u64) -> bool {
        let (held, row) = self.place(seq);
        self.held[held].matched[row]
    }

    pub(super) fn unmatched_time(&self, seq: u64) -> i64 {
        let (held, row) = self.place(seq);
        self.held[held].unmatched[row]
    }

    /// Columns of held rows, in the order of `seqs`.
    pub(super) fn columns(&self, seqs: &[u64], columns: &[usize]) -> Result<Vec<ArrayRef>> {
        let places: Vec<_> = seqs.iter().map(|&seq| self.place(seq)).collect();
        let column = |&column: &usize| {
            let arrays: Vec<_> = self.held.iter().map(|held| held.batch.column(column).as_ref()).collect();
            Ok(interleave(&arrays, &places)?)
        };
        columns.iter().map(column).collect()
    }

    /// Where a row lies: which batch, which row of it.
    fn place(&self, seq: u64) -> (usize, usize) {
        let held = self.held.partition_point(|held| held.first <= seq) - 1;
        (held, (seq - self.held[held].first) as usize)
    }
}
