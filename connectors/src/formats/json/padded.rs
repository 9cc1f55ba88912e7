//! A payload that blocks are taken from. `unsafe` is the block: there is room for it behind the payload.
#![allow(unsafe_code)]

/// A payload with zeros behind it, so that blocks can be taken from any place in it. No zero is text, a digit or punctuation:
/// whatever is found ends before them.
#[derive(Clone, Copy)]
pub(super) struct Padded<'a> {
    bytes: &'a [u8],
    /// The payload's length.
    end: usize,
}

impl<'a> Padded<'a> {
    /// How many zeros there are.
    const ZEROS: usize = 64;

    /// Copies a payload into `room`.
    pub(super) fn copy(payload: &[u8], room: &'a mut Vec<u8>) -> Self {
        room.clear();
        room.extend_from_slice(payload);
        room.extend_from_slice(&[0; Self::ZEROS]);
        Padded { bytes: room, end: payload.len() }
    }

    /// Nothing.
    pub(super) const EMPTY: Padded<'static> = Padded { bytes: &[0; Self::ZEROS], end: 0 };

    /// The payload.
    #[inline]
    pub(super) fn payload(self) -> &'a [u8] {
        &self.bytes[..self.end]
    }

    /// Whether the payload is of ASCII, found by whole blocks: the zeros are.
    #[inline]
    pub(super) fn is_ascii(self) -> bool {
        self.bytes[..self.end.next_multiple_of(Self::ZEROS)].is_ascii()
    }

    /// The payload, and the zeros.
    #[inline(always)]
    pub(super) fn with_zeros(self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes at `at`, unless that is behind the payload's end.
    #[inline(always)]
    pub(super) fn block<const N: usize>(self, at: usize) -> Option<&'a [u8; N]> {
        const { assert!(N <= Self::ZEROS) };
        if at > self.end {
            return None;
        }
        // SAFETY: `bytes` has `ZEROS` bytes behind `end`, and a block is no longer than these.
        Some(unsafe { &*self.bytes.as_ptr().add(at).cast() })
    }

    /// The byte at `at`, unless that is behind the payload's end.
    #[inline(always)]
    pub(super) fn byte(self, at: usize) -> Option<u8> {
        self.block(at).map(|[byte]| *byte)
    }

    /// What lies between two places in the payload.
    #[inline(always)]
    pub(super) fn between(self, start: usize, end: usize) -> Option<&'a [u8]> {
        self.bytes.get(start..end)
    }
}
