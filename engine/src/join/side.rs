//! One side of a join: its rows, found by key, until their deadlines.
//!
//! Rows are numbered in the order in which they came (`seq`). Their values stay in the batches in which they came, small
//! batches put together, so that a row costs its columns and one entry.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::{concat_batches, interleave},
};

use crate::{EventTime, Result};

/// Rows of a batch above which it is put together with others no more.
const HELD_ROWS: usize = 4_096;

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
    /// Of each row the number of its key; `NO_KEY` when it can match nothing.
    groups: Vec<u32>,
}

const NO_KEY: u32 = u32::MAX;

impl Held {
    pub(super) fn new(batch: RecordBatch, matched: Vec<bool>, unmatched: Vec<i64>) -> Self {
        let rows = batch.num_rows();
        Self { first: 0, live: rows, matched, unmatched, groups: vec![NO_KEY; rows], batch }
    }

    fn append(&mut self, mut later: Held) -> Result<()> {
        self.batch = concat_batches(&self.batch.schema(), [&self.batch, &later.batch])?;
        self.live += later.live;
        self.matched.append(&mut later.matched);
        self.unmatched.append(&mut later.unmatched);
        self.groups.append(&mut later.groups);
        Ok(())
    }
}

/// A row that may be matched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// The times of the other side that it matches; both its own time on the side that does not say.
    pub(super) span: (i64, i64),
}

/// The rows of one key.
#[derive(Debug)]
struct Group {
    key: Arc<[u8]>,
    entries: VecDeque<Entry>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Side {
    held: VecDeque<Held>,
    next: u64,
    numbers: HashMap<Arc<[u8]>, u32>,
    groups: Vec<Option<Group>>,
    free: Vec<u32>,
    deadlines: BinaryHeap<Reverse<(i64, u64)>>,
}

impl Side {
    /// Keeps rows; gives the number of the first. Each is then to be [`Self::insert`]ed.
    pub(super) fn hold(&mut self, mut held: Held) -> Result<u64> {
        let first = self.next;
        let rows = held.batch.num_rows();
        if rows == 0 {
            return Ok(first);
        }
        held.first = first;
        self.next += rows as u64;
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

    /// Makes a held row findable by its key; without one it only waits for its deadline.
    pub(super) fn insert(&mut self, key: Option<&[u8]>, seq: u64, span: (i64, i64), deadline: i64) {
        self.deadlines.push(Reverse((deadline, seq)));
        let Some(key) = key else { return };
        let number = match self.numbers.get(key) {
            Some(number) => *number,
            None => {
                let group = Group { key: key.into(), entries: VecDeque::new() };
                let key = Arc::clone(&group.key);
                let number = match self.free.pop() {
                    Some(number) => {
                        self.groups[number as usize] = Some(group);
                        number
                    }
                    None => {
                        self.groups.push(Some(group));
                        (self.groups.len() - 1) as u32
                    }
                };
                self.numbers.insert(key, number);
                number
            }
        };
        if let Some(group) = &mut self.groups[number as usize] {
            group.entries.push_back(Entry { seq, span });
        }
        let (held, row) = self.place(seq);
        self.held[held].groups[row] = number;
    }

    /// The rows of a key, in their order.
    pub(super) fn find(&self, key: &[u8]) -> impl Iterator<Item = Entry> {
        let group = self.numbers.get(key).and_then(|number| self.groups[*number as usize].as_ref());
        group.into_iter().flat_map(|group| group.entries.iter().copied())
    }

    /// Takes rows whose deadline lies below `t` out of the keys; gives them in order of their deadlines. They are still held.
    pub(super) fn expire(&mut self, t: EventTime) -> Vec<u64> {
        let mut expired = vec![];
        while let Some(&Reverse((deadline, seq))) = self.deadlines.peek()
            && deadline < t.0
        {
            self.deadlines.pop();
            expired.push(seq);
            let (held, row) = self.place(seq);
            self.held[held].live -= 1;
            let number = self.held[held].groups[row];
            if number == NO_KEY {
                continue;
            }
            let Some(group) = &mut self.groups[number as usize] else { continue };
            if let Some(at) = group.entries.iter().position(|entry| entry.seq == seq) {
                group.entries.remove(at);
            }
            if group.entries.is_empty() {
                self.numbers.remove(&group.key);
                self.groups[number as usize] = None;
                self.free.push(number);
            }
        }
        expired
    }

    /// Lets go of rows that have expired.
    pub(super) fn let_go(&mut self) {
        while self.held.front().is_some_and(|held| held.live == 0) {
            self.held.pop_front();
        }
        if self.groups.len() > 1_024 && self.numbers.is_empty() {
            (self.groups, self.free) = (vec![], vec![]);
            self.numbers.shrink_to_fit();
        }
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        self.held.iter()
    }

    /// How many keys can be found.
    #[cfg(test)]
    pub(super) fn keys(&self) -> usize {
        self.numbers.len()
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
        let mut used: Vec<&RecordBatch> = vec![];
        let mut local: HashMap<usize, usize> = HashMap::new();
        let mut places = Vec::with_capacity(seqs.len());
        for &seq in seqs {
            let (held, row) = self.place(seq);
            let at = *local.entry(held).or_insert_with(|| {
                used.push(&self.held[held].batch);
                used.len() - 1
            });
            places.push((at, row));
        }
        let column = |&column: &usize| {
            let arrays: Vec<_> = used.iter().map(|batch| batch.column(column).as_ref()).collect();
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
