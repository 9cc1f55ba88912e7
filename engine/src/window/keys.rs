//! Numbers for the keys of groups, in the order in which keys come for the first time.
//!
//! One text column, the most frequent key, has a table of its own: a text of up to 15 bytes is one word, compared without a look
//! elsewhere. All other keys are DataFusion's.

use std::{hash::BuildHasher, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    buffer::{Buffer, NullBuffer, OffsetBuffer},
    datatypes::{DataType, SchemaRef},
    error::ArrowError,
};
use datafusion_expr::EmitTo;
use datafusion_physical_plan::aggregates::{
    group_values::{GroupValues, new_group_values},
    order::GroupOrdering,
};
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::Result;

/// The keys that were seen.
pub(super) enum Keys {
    /// No column: all rows are of one group.
    None,
    Text(TextKeys),
    Any(Box<dyn GroupValues>),
}

impl Keys {
    /// For keys of these columns; there is room for so many, where that can be said.
    pub(super) fn try_new(columns: &SchemaRef, room: usize) -> Result<Self> {
        let types: Vec<&DataType> = columns.fields().iter().map(|field| field.data_type()).collect();
        Ok(match types[..] {
            [] => Self::None,
            [DataType::Utf8] => Self::Text(TextKeys::with_room(room)),
            _ => Self::Any(new_group_values(Arc::clone(columns), &GroupOrdering::None)?),
        })
    }

    /// Puts the number of each of `rows` keys into `ids`, whatever was there; returns how many keys there are.
    pub(super) fn assign(&mut self, keys: &[ArrayRef], rows: usize, ids: &mut Vec<usize>) -> Result<usize> {
        ids.clear();
        match self {
            Self::None => {
                ids.resize(rows, 0);
                Ok(1)
            }
            Self::Text(text) => {
                text.assign(keys[0].as_string(), ids);
                Ok(text.words.len())
            }
            Self::Any(any) => {
                any.intern(keys, ids)?;
                Ok(any.len())
            }
        }
    }

    /// What they take.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Text(TextKeys { table, words, long, .. }) => {
                table.allocation_size() + words.capacity() * size_of::<Word>() + long.capacity()
            }
            Self::Any(any) => any.size(),
        }
    }

    /// Takes the keys out, in order of their numbers.
    pub(super) fn take(&mut self) -> Result<Vec<ArrayRef>> {
        Ok(match self {
            Self::None => vec![],
            Self::Text(text) => vec![Arc::new(text.take()?)],
            Self::Any(any) => any.emit(EmitTo::All)?,
        })
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct TextKeys {
    hasher: DefaultHashBuilder,
    /// Numbers of keys, found by the keys.
    table: HashTable<u32>,
    /// The keys by their numbers.
    words: Vec<Word>,
    /// The texts that have no room in a word.
    long: Vec<u8>,
}

/// A key: a short text and, in the highest byte, its length; or where in `long` it lies, as start and length; or null.
type Word = u128;

/// Bytes of a short text, at most.
const SHORT: usize = 15;
const TAG: Word = 0xff << 120;
const LONG: Word = 0xff << 120;
const NULL: Word = 0xfe << 120;

/// The word of the text in `bytes[start..end]`, if it is short.
fn short_word(bytes: &[u8], start: usize, end: usize) -> Option<Word> {
    let length = end - start;
    if length > SHORT {
        return None;
    }
    let block = bytes[start..].first_chunk().copied().unwrap_or_else(|| {
        let mut block = [0; 16];
        block[..length].copy_from_slice(&bytes[start..end]);
        block
    });
    let text = Word::from_le_bytes(block) & ((1 << (8 * length)) - 1);
    Some(text | (length as Word) << 120)
}

/// What a word stands for, if that is a long text.
fn long_text(word: Word, long: &[u8]) -> Option<&[u8]> {
    let (start, length) = (word as u64 as usize, (word >> 64) as usize & ((1 << 56) - 1));
    (word & TAG == LONG).then(|| &long[start..start + length])
}

impl TextKeys {
    fn with_room(room: usize) -> Self {
        Self { table: HashTable::with_capacity(room), words: Vec::with_capacity(room), ..Self::default() }
    }

    fn assign(&mut self, keys: &StringArray, ids: &mut Vec<usize>) {
        let (offsets, bytes) = (keys.value_offsets(), keys.value_data());
        ids.extend((0..keys.len()).map(|row| {
            let (start, end) = (offsets[row] as usize, offsets[row + 1] as usize);
            let word = if keys.is_null(row) { Some(NULL) } else { short_word(bytes, start, end) };
            match word {
                Some(word) => self.number(word),
                None => self.number_of_long(&bytes[start..end]),
            }
        }));
    }

    fn number(&mut self, word: Word) -> usize {
        let hash = self.hasher.hash_one(word);
        match self.table.find(hash, |number| self.words[*number as usize] == word) {
            Some(number) => *number as usize,
            None => self.add(hash, word),
        }
    }

    fn number_of_long(&mut self, text: &[u8]) -> usize {
        let hash = self.hasher.hash_one(text);
        match self.table.find(hash, |number| long_text(self.words[*number as usize], &self.long) == Some(text)) {
            Some(number) => *number as usize,
            None => {
                let word = LONG | (text.len() as Word) << 64 | self.long.len() as Word;
                self.long.extend_from_slice(text);
                self.add(hash, word)
            }
        }
    }

    #[inline(never)]
    fn add(&mut self, hash: u64, word: Word) -> usize {
        let number = self.words.len();
        self.words.push(word);
        let hash_of = |number: &u32| {
            let word = self.words[*number as usize];
            long_text(word, &self.long).map_or_else(|| self.hasher.hash_one(word), |text| self.hasher.hash_one(text))
        };
        self.table.insert_unique(hash, number as u32, hash_of);
        number
    }

    fn take(&mut self) -> Result<StringArray> {
        let (mut offsets, mut text) = (Vec::with_capacity(self.words.len() + 1), Vec::with_capacity(self.long.len()));
        offsets.push(0);
        for &word in &self.words {
            match (long_text(word, &self.long), word) {
                (Some(long), _) => text.extend_from_slice(long),
                (None, NULL) => {}
                (None, _) => text.extend_from_slice(&word.to_le_bytes()[..(word >> 120) as usize]),
            }
            offsets.push(i32::try_from(text.len()).map_err(|_| ArrowError::OffsetOverflowError(text.len()))?);
        }
        let nulls = self.words.contains(&NULL).then(|| self.words.iter().map(|word| *word != NULL).collect());
        self.table.clear();
        self.words.clear();
        self.long.clear();
        let nulls: Option<NullBuffer> = nulls;
        Ok(StringArray::try_new(OffsetBuffer::new(offsets.into()), Buffer::from_vec(text), nulls)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema};

    use super::*;

    /// Texts of each length, with nulls, bytes of zero and texts that differ in their last byte alone, each several times.
    fn texts() -> StringArray {
        let text = |n: usize| match n % 50 {
            0 => None,
            length => Some(
                format!("{}{}", "x\0é".repeat(length / 4), "ab".repeat(length % 4))
                    + if n.is_multiple_of(3) { "" } else { "\0" },
            ),
        };
        (0..1_000).map(|n| text(n * 7 % 311)).collect()
    }

    #[test]
    fn keys_get_the_numbers_that_datafusion_gives() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, true)]));
        let mut theirs = new_group_values(Arc::clone(&schema), &GroupOrdering::None).unwrap();
        let texts = texts();
        for room in [0, 400] {
            let mut ours = Keys::try_new(&schema, room).unwrap();
            for _ in 0..2 {
                let (mut numbers, mut expected) = (vec![7], vec![]);
                // The slices end at the end of their bytes, and before.
                for slice in [texts.slice(0, 300), texts.slice(200, 500), texts.slice(0, 1_000)] {
                    let keys: [ArrayRef; 1] = [Arc::new(slice)];
                    let count = ours.assign(&keys, keys[0].len(), &mut numbers).unwrap();
                    theirs.intern(&keys, &mut expected).unwrap();
                    assert_eq!((&numbers, count), (&expected, theirs.len()));
                }
                let (ours, theirs) = (ours.take().unwrap(), theirs.emit(EmitTo::All).unwrap());
                assert_eq!(ours[0].as_string::<i32>(), theirs[0].as_string::<i32>());
                assert!(ours[0].null_count() == 1 && ours[0].len() > 90);
            }
        }
    }
}
