//! The keys of both sides of a join, numbered, and the rows of each.
//!
//! A row's key is looked up once; then its number finds the rows of both sides. Keys mostly come again, so that one whose rows have
//! all expired is kept until such keys are the most.

use std::{collections::VecDeque, sync::Arc};

use datafusion_common::HashMap;

/// Keys without rows that are always kept.
const KEPT_UNUSED: usize = 16_384;

/// A row that may be matched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) seq: u64,
    /// The times of the other side that it matches; both its own time on the side that does not say.
    pub(super) span: (i64, i64),
}

/// The rows of one key, by side.
#[derive(Debug)]
struct Group {
    key: Arc<[u8]>,
    entries: [VecDeque<Entry>; 2],
}

impl Group {
    fn is_unused(&self) -> bool {
        self.entries.iter().all(VecDeque::is_empty)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Keys {
    numbers: HashMap<Arc<[u8]>, u32>,
    /// By number; `None` where the number is free.
    groups: Vec<Option<Group>>,
    free: Vec<u32>,
    unused: usize,
}

impl Keys {
    /// The number of a key, which holds until [`Self::forget_unused`].
    pub(super) fn number(&mut self, key: &[u8]) -> u32 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let group = Group { key: key.into(), entries: Default::default() };
        let key = Arc::clone(&group.key);
        self.unused += 1;
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

    /// The rows of a key on one side, in their order.
    pub(super) fn rows(&self, number: u32, port: usize) -> impl Iterator<Item = Entry> {
        self.groups[number as usize].iter().flat_map(move |group| group.entries[port].iter().copied())
    }

    pub(super) fn insert(&mut self, number: u32, port: usize, entry: Entry) {
        let Some(group) = &mut self.groups[number as usize] else { return };
        self.unused -= usize::from(group.is_unused());
        group.entries[port].push_back(entry);
    }

    pub(super) fn remove(&mut self, number: u32, port: usize, seq: u64) {
        let Some(group) = &mut self.groups[number as usize] else { return };
        if let Some(at) = group.entries[port].iter().position(|entry| entry.seq == seq) {
            group.entries[port].remove(at);
            self.unused += usize::from(group.is_unused());
        }
    }

    /// Forgets the keys without rows when they are the most: numbers of such keys hold no longer.
    pub(super) fn forget_unused(&mut self) {
        if self.unused <= KEPT_UNUSED.max(self.numbers.len() / 2) {
            return;
        }
        for (number, slot) in (0..).zip(&mut self.groups) {
            if let Some(group) = slot.take_if(|group| group.is_unused()) {
                self.numbers.remove(&group.key);
                self.free.push(number);
            }
        }
        self.unused = 0;
        if self.numbers.is_empty() {
            *self = Self::default();
        }
    }

    /// How many keys there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}
