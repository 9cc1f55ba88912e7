//! Searches over bytes, sixteen or sixty-four at a time: SSE2 on x86-64, a plain loop elsewhere.
//!
//! The decoder's `unsafe` is here: calls of code for a processor that has what it takes, loads of blocks that the type system
//! has already measured, and blocks of a payload that has room behind it.
#![allow(unsafe_code)]

pub(super) use blocks::Narrow;
#[cfg(target_arch = "x86_64")]
pub(super) use blocks::Wide;

use super::number::Number;

/// Index of the first byte at or after `from` that ends a run of plain string text (a quote, a backslash or a control
/// character); the length of `bytes` when there is none.
#[inline]
pub(super) fn string_stop(bytes: &[u8], mut from: usize) -> usize {
    while let Some(block) = bytes.get(from..).and_then(|rest| rest.first_chunk()) {
        let stops = blocks::string_stops(block);
        if stops != 0 {
            return from + stops.trailing_zeros() as usize;
        }
        from += 16;
    }
    // The last bytes: the last whole block once more, without what was searched before.
    if let Some(block) = bytes.last_chunk() {
        let stops = blocks::string_stops(block) >> (from + 16 - bytes.len());
        return if stops == 0 { bytes.len() } else { from + stops.trailing_zeros() as usize };
    }
    bytes[from..].iter().position(|byte| stops_string(*byte)).map_or(bytes.len(), |n| from + n)
}

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

/// Where a member's values ended so far. A value whose length stays the same is taken to have it, if a look at its bytes does
/// not say otherwise: the processor foretells that branch, and goes on to the next member without waiting for the look.
#[derive(Default)]
pub(super) struct Shape {
    /// The bits of what ends the value in its block, or where it bends; none while lengths change.
    marks: u32,
    /// All bits up to the last mark, and its place.
    up_to_last: u32,
    length: u32,
    /// The last ones, and how often they came in a row.
    last: u32,
    run: u32,
}

impl Shape {
    /// As often as this before it is counted on.
    const STEADY: u32 = 64;

    /// Whether the marks in a block, `all` of them, begin as they did the last times.
    #[inline(always)]
    pub(super) fn is_met(&self, all: u32) -> bool {
        self.marks != 0 && all & self.up_to_last == self.marks
    }

    /// Where the first mark is.
    #[inline(always)]
    pub(super) fn first(&self) -> u32 {
        self.marks.trailing_zeros()
    }

    /// Where the last mark is.
    #[inline(always)]
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// Takes the marks of a value that did not end as the last times.
    #[inline(always)]
    pub(super) fn see(&mut self, marks: u32) {
        self.run = if marks == self.last { self.run + 1 } else { 0 };
        (self.last, self.marks) = (marks, 0);
        if self.run == Self::STEADY {
            let length = 31 - marks.leading_zeros();
            *self = Shape { marks, up_to_last: u32::MAX >> (31 - length), length, last: marks, run: 0 };
        }
    }
}

/// What is looked for in blocks of bytes, by the widest instructions that the processor has. Bit 0 is the first byte.
pub(super) trait Blocks {
    /// Where a run of plain text ends: at quotes, backslashes and control characters.
    fn stops(block: &[u8; 32]) -> u32;

    /// Which bytes are digits.
    fn digits(block: &[u8; 16]) -> u32;
}

/// Whether the processor has what [`Wide`] takes.
pub(super) fn is_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

/// Index of the quote that ends the string whose text begins at `from`, if the text is plain: without escapes. `None`
/// says only that it has to be read with care.
///
/// No branch depends on where a short text ends, which could not be foretold.
#[inline(always)]
pub(super) fn plain_string<B: Blocks>(padded: Padded<'_>, from: usize, shape: &mut Shape) -> Option<usize> {
    let block = padded.block(from)?;
    let stops = B::stops(block);
    let length = if shape.is_met(stops) {
        shape.length()
    } else if stops == 0 {
        return long_string(padded, from + 32);
    } else {
        shape.see(stops & stops.wrapping_neg());
        stops.trailing_zeros()
    } as usize
        & 31;
    (block[length] == b'"').then_some(from + length)
}

/// [`plain_string`] whose text goes on at `from`.
#[inline(never)]
fn long_string(padded: Padded<'_>, mut from: usize) -> Option<usize> {
    loop {
        let block = padded.block(from)?;
        let stops = Narrow::stops(block);
        if stops != 0 {
            let length = stops.trailing_zeros() as usize & 31;
            return (block[length] == b'"').then_some(from + length);
        }
        from += 32;
    }
}

/// Index behind the scalar at `at`, if it is plain: see [`plain_string`] and [`Number::plain`]. `None` says only that it has
/// to be read with care.
#[inline(always)]
pub(super) fn plain_scalar<B: Blocks>(padded: Padded<'_>, at: usize, shape: &mut Shape) -> Option<usize> {
    match padded.byte(at)? {
        b'"' => plain_string::<B>(padded, at + 1, shape).map(|stop| stop + 1),
        b'['.. => plain_word(padded, at),
        _ => Number::plain::<B>(padded, at, shape).map(|number| at + number.len()),
    }
}

/// Index behind `true`, `false` or `null`, without a branch on which.
#[inline(always)]
pub(super) fn plain_word(padded: Padded<'_>, at: usize) -> Option<usize> {
    let [word @ .., last]: &[u8; 5] = padded.block(at)?;
    let is_false = (word == b"fals") & (*last == b'e');
    (is_false | (word == b"true") | (word == b"null")).then_some(at + 4 + usize::from(is_false))
}

fn stops_string(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < b' '
}

/// How many arrays and objects may lie in one another in one that [`plain_container`] passes.
pub(super) const PLAIN_DEPTH: usize = 32;

/// Index behind the array or the object at `at`, if it is well-formed and plain: outside of strings no white space but a blank behind a
/// comma or a colon, no escapes, no exponents, at most [`PLAIN_DEPTH`] deep. `None` says only that it has to be read with more care.
pub(super) fn plain_container(padded: Padded<'_>, mut at: usize) -> Option<usize> {
    let mut depth = 0;
    let mut objects = 0u32; // a bit for each open container, the innermost lowest: whether it is an object
    loop {
        // A value begins here.
        match padded.byte(at)? {
            open @ (b'{' | b'[') => {
                if depth == PLAIN_DEPTH {
                    return None;
                }
                (depth, objects) = (depth + 1, objects << 1 | u32::from(open == b'{'));
                at += 1;
                if padded.byte(at)? == open + 2 {
                    return None; // empty: rare
                }
            }
            _ => {
                at = plain_scalar::<Narrow>(padded, at, &mut Shape::default())?;
                loop {
                    let close = if objects & 1 == 1 { b'}' } else { b']' };
                    match padded.byte(at)? {
                        b',' => break at = behind_blank(padded, at + 1),
                        byte if byte == close => {
                            (depth, objects, at) = (depth - 1, objects >> 1, at + 1);
                            if depth == 0 {
                                return Some(at);
                            }
                        }
                        _ => return None,
                    }
                }
            }
        }
        if objects & 1 == 1 {
            if padded.byte(at)? != b'"' {
                return None;
            }
            at = plain_string::<Narrow>(padded, at + 1, &mut Shape::default())? + 1;
            if padded.byte(at)? != b':' {
                return None;
            }
            at = behind_blank(padded, at + 1);
        }
    }
}

/// `at`, or behind the blank there.
#[inline]
fn behind_blank(padded: Padded<'_>, at: usize) -> usize {
    at + usize::from(padded.byte(at) == Some(b' '))
}

/// Index behind the bracket that closes the container which is open at `from`, outside of strings; `None` when `bytes`
/// ends before. It counts brackets and looks at nothing else, not even at their shape.
pub(super) fn container_end(bytes: &[u8], mut from: usize) -> Option<usize> {
    let mut depth = 1;
    let mut in_string = 0; // all ones while a string goes on from the block before
    let mut escaped = 0; // bit 0: the block's first byte is escaped
    while from < bytes.len() {
        let rest = &bytes[from..];
        let mut padded = [b' '; 64];
        let block = rest.first_chunk().unwrap_or_else(|| {
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        });
        let marks = blocks::marks(block);
        let (escapes, carry) = escaped_bytes(marks.backslashes, escaped);
        escaped = carry;
        let strings = prefix_xor(marks.quotes & !escapes) ^ in_string;
        in_string = ((strings as i64) >> 63) as u64;
        let (opens, closes) = (marks.opens & !strings, marks.closes & !strings);
        if closes.count_ones() < depth {
            depth = depth + opens.count_ones() - closes.count_ones();
        } else {
            let mut brackets = opens | closes;
            while brackets != 0 {
                let bit = brackets & brackets.wrapping_neg();
                depth = if closes & bit == 0 { depth + 1 } else { depth - 1 };
                if depth == 0 {
                    return Some(from + bit.trailing_zeros() as usize + 1);
                }
                brackets ^= bit;
            }
        }
        from += 64;
    }
    None
}

/// Which bytes a backslash escapes, and whether the next block's first byte is escaped.
fn escaped_bytes(mut backslashes: u64, carry: u64) -> (u64, u64) {
    let mut escaped = carry;
    backslashes &= !carry;
    while backslashes != 0 {
        let at = backslashes.trailing_zeros();
        if at == 63 {
            return (escaped, 1);
        }
        escaped |= 2 << at;
        backslashes &= !(3 << at);
    }
    (escaped, 0)
}

/// Each bit becomes the parity of the bits up to it: from quotes to what lies between them.
fn prefix_xor(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// Where the bytes that give a document its structure lie in a block of 64; bit 0 is the first byte.
pub(super) struct Marks {
    quotes: u64,
    backslashes: u64,
    opens: u64,
    closes: u64,
}

#[cfg(target_arch = "x86_64")]
mod blocks {
    use std::arch::x86_64::{
        __m128i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
        _mm_sub_epi8, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set1_epi8,
    };

    use super::{Blocks, Marks};

    #[inline]
    pub(super) fn string_stops(block: &[u8; 16]) -> u32 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { sse2_string_stops(block) }
    }

    /// What every x86-64 has.
    pub(in super::super) struct Narrow;

    impl Blocks for Narrow {
        #[inline(always)]
        fn stops(block: &[u8; 32]) -> u32 {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { sse2_stops(block) }
        }

        #[inline(always)]
        fn digits(block: &[u8; 16]) -> u32 {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { sse2_digits(block) }
        }
    }

    /// AVX2 with BMI1 and BMI2, which [`is_wide`](super::is_wide) says.
    pub(in super::super) struct Wide;

    impl Blocks for Wide {
        #[inline(always)]
        fn stops(block: &[u8; 32]) -> u32 {
            // SAFETY: only code that `is_wide` allowed is made with this type.
            unsafe { avx2_stops(block) }
        }

        #[inline(always)]
        fn digits(block: &[u8; 16]) -> u32 {
            // SAFETY: SSE2 is part of x86-64.
            unsafe { sse2_digits(block) }
        }
    }

    #[inline]
    pub(super) fn marks(block: &[u8; 64]) -> Marks {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { sse2_marks(block) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn sse2_string_stops(block: &[u8; 16]) -> u32 {
        let bytes = load(block);
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        mask(_mm_or_si128(_mm_or_si128(equal(bytes, b'"'), equal(bytes, b'\\')), control))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn sse2_stops(block: &[u8; 32]) -> u32 {
        let (halves, _) = block.as_chunks();
        let stops = |half| {
            let bytes = load(half);
            let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
            mask(_mm_or_si128(_mm_or_si128(equal(bytes, b'"'), equal(bytes, b'\\')), control))
        };
        stops(&halves[0]) | stops(&halves[1]) << 16
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn sse2_digits(block: &[u8; 16]) -> u32 {
        let values = _mm_sub_epi8(load(block), _mm_set1_epi8(b'0' as i8));
        mask(_mm_cmpeq_epi8(_mm_min_epu8(values, _mm_set1_epi8(9)), values))
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn avx2_stops(block: &[u8; 32]) -> u32 {
        // SAFETY: the reference is to thirty-two initialised bytes, and this load asks for no alignment.
        let bytes = unsafe { _mm256_loadu_si256(block.as_ptr().cast()) };
        let control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1f)), bytes);
        let quotes = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'"' as i8));
        let backslashes = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(b'\\' as i8));
        _mm256_movemask_epi8(_mm256_or_si256(_mm256_or_si256(quotes, backslashes), control)) as u32
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn sse2_marks(block: &[u8; 64]) -> Marks {
        let mut marks = Marks { quotes: 0, backslashes: 0, opens: 0, closes: 0 };
        let (quarters, _) = block.as_chunks();
        for (quarter, shift) in quarters.iter().zip([0, 16, 32, 48]) {
            let bytes = load(quarter);
            let folded = _mm_or_si128(bytes, _mm_set1_epi8(0x20)); // `[` to `{`, `]` to `}`
            marks.quotes |= u64::from(mask(equal(bytes, b'"'))) << shift;
            marks.backslashes |= u64::from(mask(equal(bytes, b'\\'))) << shift;
            marks.opens |= u64::from(mask(equal(folded, b'{'))) << shift;
            marks.closes |= u64::from(mask(equal(folded, b'}'))) << shift;
        }
        marks
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn load(block: &[u8; 16]) -> __m128i {
        // SAFETY: the reference is to sixteen initialised bytes, and this load asks for no alignment.
        unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn equal(bytes: __m128i, byte: u8) -> __m128i {
        _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8))
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn mask(bytes: __m128i) -> u32 {
        _mm_movemask_epi8(bytes) as u32
    }
}

#[cfg(not(target_arch = "x86_64"))]
use portable as blocks;

/// What [`blocks`] is where no SSE2 is at hand; tests hold the two against each other.
#[cfg(any(test, not(target_arch = "x86_64")))]
mod portable {
    use super::{Blocks, Marks, stops_string};

    pub(in super::super) struct Narrow;

    impl Blocks for Narrow {
        fn stops(block: &[u8; 32]) -> u32 {
            mask(block, stops_string) as u32
        }

        fn digits(block: &[u8; 16]) -> u32 {
            mask(block, |byte| byte.is_ascii_digit()) as u32
        }
    }

    fn mask(block: &[u8], wanted: impl Fn(u8) -> bool) -> u64 {
        block.iter().rev().fold(0, |mask, byte| mask << 1 | u64::from(wanted(*byte)))
    }

    pub(super) fn string_stops(block: &[u8; 16]) -> u32 {
        mask(block, stops_string) as u32
    }

    pub(super) fn marks(block: &[u8; 64]) -> Marks {
        Marks {
            quotes: mask(block, |byte| byte == b'"'),
            backslashes: mask(block, |byte| byte == b'\\'),
            opens: mask(block, |byte| byte | 0x20 == b'{'),
            closes: mask(block, |byte| byte | 0x20 == b'}'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_found_at_every_distance() {
        for length in 0..70 {
            for stop in 0..=length {
                for byte in [b'"', b'\\', b'\n', 0] {
                    let mut bytes = vec![b'x'; length];
                    if stop < length {
                        bytes[stop] = byte;
                    }
                    for from in 0..=stop {
                        assert_eq!(string_stop(&bytes, from), stop, "length {length}, from {from}");
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_agree_with_the_plain_loop() {
        let bytes: Vec<u8> = (0..=255).collect();
        for block in bytes.windows(64) {
            let block: &[u8; 64] = block.first_chunk().unwrap();
            let (fast, plain) = (blocks::marks(block), portable::marks(block));
            assert_eq!(
                (fast.quotes, fast.backslashes, fast.opens, fast.closes),
                (plain.quotes, plain.backslashes, plain.opens, plain.closes)
            );
            let half = block.first_chunk().unwrap();
            assert_eq!(Narrow::stops(half), portable::Narrow::stops(half));
            #[cfg(target_arch = "x86_64")]
            if is_wide() {
                assert_eq!(Wide::stops(half), portable::Narrow::stops(half));
            }
            let block = block.first_chunk().unwrap();
            assert_eq!(blocks::string_stops(block), portable::string_stops(block));
            assert_eq!(Narrow::digits(block), portable::Narrow::digits(block));
        }
    }

    fn plain_container(text: &str, at: usize) -> Option<usize> {
        super::plain_container(Padded::copy(text.as_bytes(), &mut Vec::new()), at)
    }

    #[test]
    fn plain_strings_end_at_their_quote() {
        fn check<B: Blocks>() {
            let stop = |text: &str| {
                plain_string::<B>(Padded::copy(text.as_bytes(), &mut Vec::new()), 0, &mut Shape::default())
            };
            for length in 0..140 {
                let text = "x".repeat(length);
                assert_eq!(stop(&format!("{text}\"")), Some(length));
                for odd in ["", "\\n\"", "\n\"", "\0\""] {
                    assert_eq!(stop(&format!("{text}{odd}")), None, "{text}{odd}");
                }
            }
        }
        check::<Narrow>();
        #[cfg(target_arch = "x86_64")]
        if is_wide() {
            check::<Wide>();
        }
    }

    #[test]
    fn a_plain_container_ends_where_its_reader_says() {
        for text in [r#"{"a":[1,{"b":"c"},[2]],"d":false}"#, r#"{"a": [-1.5, null], "b": "c"}"#, "[[[0]]]", "[true]"] {
            assert_eq!(plain_container(text, 0), Some(text.len()), "{text}");
            let followed = format!("x{text},1");
            assert_eq!(plain_container(&followed, 1), Some(text.len() + 1), "{text}");
        }
        let deep = "[".repeat(PLAIN_DEPTH + 1) + "1" + &"]".repeat(PLAIN_DEPTH + 1);
        for text in [
            "[-]",
            "[01]",
            "[1.]",
            "[1e5]",
            "[tru]",
            r#"["a\n"]"#,
            "[\"a\n\"]",
            r#"["open"#,
            "{",
            "[",
            "[1",
            r#"{"a":1"#,
            r#"{"a""#,
            "[1,]",
            r#"{"a":1,}"#,
            r#"{"a"1}"#,
            r#"{a:1}"#,
            "[1}",
            r#"{"a":1]"#,
            "[1 ]",
            "[,1]",
            "{}",
            "[]",
            "[+1]",
            deep.as_str(),
        ] {
            assert_eq!(plain_container(text, 0), None, "{text}");
        }
    }

    #[test]
    fn a_container_ends_where_its_brackets_balance() {
        for padding in 0..140 {
            for text in [r#"}"#, r#"{}}"#, r#"[{"}":"]\"}\\"}]}"#, r#""\\\\\"}"}"#, r#"[[[[]]]]}"#] {
                let text = format!("{}{text}", " ".repeat(padding));
                assert_eq!(container_end(format!("{text} }}").as_bytes(), 0), Some(text.len()), "{text}");
                assert_eq!(container_end(&text.as_bytes()[..text.len() - 1], 0), None, "{text}");
            }
        }
    }
}
