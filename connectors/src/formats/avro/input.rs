//! A cursor over Avro's binary encoding.

use std::fmt::Display;

use tidemill_engine::decoder::BadClass;

use crate::formats::{
    json::reader::{Fault, fault},
    varint::varint,
};

/// Items without bytes of their own (nulls) that one payload may have beyond its length: 2^62 of them can be claimed in
/// ten bytes.
pub(super) const FREE_ITEMS: usize = 1 << 16;

/// Reads one payload from front to back.
pub(super) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
    items_left: usize,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, items_left: bytes.len() + FREE_ITEMS }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    #[cold]
    pub(super) fn malformed(&self, what: impl Display) -> Fault {
        fault(BadClass::Malformed, format!("expected {what} at byte {}", self.at))
    }

    #[inline]
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        match self.bytes[self.at..].get(..count) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.malformed(format_args!("{count} bytes"))),
        }
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        match self.bytes[self.at..].first_chunk() {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.malformed(format_args!("{N} bytes"))),
        }
    }

    /// A zigzag number.
    #[inline]
    pub(super) fn long(&mut self) -> Result<i64, Fault> {
        let raw = match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                u64::from(byte)
            }
            _ => self.long_varint()?,
        };
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    fn long_varint(&mut self) -> Result<u64, Fault> {
        let (value, length) =
            varint(&self.bytes[self.at..]).ok_or_else(|| self.malformed("a variable-length number"))?;
        self.at += length;
        Ok(value)
    }

    /// A number of 32 bits.
    #[inline]
    pub(super) fn int(&mut self) -> Result<i32, Fault> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| self.malformed("an int of 32 bits before this"))
    }

    #[inline]
    pub(super) fn length(&mut self) -> Result<usize, Fault> {
        let length = self.long()?;
        usize::try_from(length).map_err(|_| self.malformed("a length that is not negative before this"))
    }

    /// A length and as many bytes.
    #[inline]
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.length()?;
        self.take(length)
    }

    #[inline]
    pub(super) fn boolean(&mut self) -> Result<bool, Fault> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.malformed("0 or 1 before this")),
        }
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Holds that a block that began at `start` is as long as it said: who passes over it trusts that.
    #[inline]
    pub(super) fn end_block(&self, start: usize, length: Option<usize>) -> Result<(), Fault> {
        match length {
            Some(length) if self.at - start != length => {
                Err(self.malformed(format_args!("a block of {length} bytes, as it says, before this")))
            }
            _ => Ok(()),
        }
    }

    /// The head of the next block of an array or map: how many items it has (0: none follow), and how long they are, where
    /// it says so.
    #[inline]
    pub(super) fn block(&mut self) -> Result<(usize, Option<usize>), Fault> {
        let count = self.long()?;
        let length = if count < 0 { Some(self.length()?) } else { None };
        let count = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
        match self.items_left.checked_sub(count) {
            Some(left) => self.items_left = left,
            None => {
                return Err(self.malformed(format_args!("fewer than {count} items, which the payload cannot hold,")));
            }
        }
        Ok((count, length))
    }
}
