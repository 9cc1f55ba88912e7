//! A cursor over Protobuf's wire format.

use tidemill_engine::decoder::BadClass;

use crate::formats::{
    json::reader::{Fault, fault},
    varint::varint,
};

/// Groups in one another that are passed over.
const MAX_GROUPS: usize = 100;

/// How a field's value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    Fixed64,
    Sized,
    StartGroup,
    EndGroup,
    Fixed32,
}

/// Reads one message from front to back.
pub(super) struct Wire<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Wire<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    pub(super) fn position(&self) -> usize {
        self.at
    }

    #[cold]
    pub(super) fn malformed(&self, what: &str) -> Fault {
        fault(BadClass::Malformed, format!("expected {what} at byte {} of a message", self.at))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Fault> {
        match self.bytes.get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Fault> {
        let (value, length) = varint(&self.bytes[self.at..]).ok_or_else(|| self.malformed("a varint"))?;
        self.at += length;
        Ok(value)
    }

    /// A field's number and how its value is written.
    #[inline]
    pub(super) fn tag(&mut self) -> Result<(u32, WireType), Fault> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Sized,
            3 => WireType::StartGroup,
            4 => WireType::EndGroup,
            5 => WireType::Fixed32,
            _ => return Err(self.malformed("a wire type before this")),
        };
        match u32::try_from(tag) {
            Ok(tag) if tag >> 3 > 0 => Ok((tag >> 3, wire)),
            _ => Err(self.malformed("a field number before this")),
        }
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        match self.bytes[self.at..].first_chunk() {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.malformed(&format!("{N} bytes"))),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        match self.bytes[self.at..].get(..length) {
            Some(taken) => {
                self.at += length;
                Ok(taken)
            }
            None => Err(self.malformed(&format!("{length} bytes"))),
        }
    }

    /// A length and as many bytes.
    #[inline]
    pub(super) fn sized(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.varint()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// Passes a value.
    #[inline]
    pub(super) fn skip(&mut self, number: u32, wire: WireType) -> Result<(), Fault> {
        match wire {
            WireType::Varint => drop(self.varint()?),
            WireType::Fixed64 => drop(self.array::<8>()?),
            WireType::Sized => drop(self.sized()?),
            WireType::Fixed32 => drop(self.array::<4>()?),
            WireType::StartGroup => drop(self.group(number)?),
            WireType::EndGroup => return Err(self.malformed("the beginning of the group that ends before this")),
        }
        Ok(())
    }

    /// What a group holds whose beginning was passed.
    pub(super) fn group(&mut self, number: u32) -> Result<&'a [u8], Fault> {
        let start = self.at;
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            let before = self.at;
            let (number, wire) = self.tag()?;
            match wire {
                WireType::StartGroup if open.len() >= MAX_GROUPS => {
                    return Err(self.malformed(&format!("at most {MAX_GROUPS} groups in one another")));
                }
                WireType::StartGroup => open.push(number),
                WireType::EndGroup if number == innermost => {
                    open.pop();
                    if open.is_empty() {
                        return Ok(&self.bytes[start..before]);
                    }
                }
                WireType::EndGroup => return Err(self.malformed("the end of the innermost group before this")),
                other => self.skip(number, other)?,
            }
        }
        Ok(&[])
    }
}
