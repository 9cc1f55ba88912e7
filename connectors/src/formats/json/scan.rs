//! Searches over bytes, sixteen to sixty-four at a time: SSE2 or AVX2 on x86-64, plain loops elsewhere.
//!
//! `unsafe` are calls of code for a processor that has what it takes, and loads of blocks that the type system has measured.
#![allow(unsafe_code)]

pub(super) use blocks::Narrow;
#[cfg(target_arch = "x86_64")]
pub(super) use blocks::Wide;

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

/// What is looked for in blocks of bytes, by the widest instructions that the processor has. Bit 0 is the first byte.
pub(super) trait Blocks {
    /// Where a run of plain text ends: at quotes, backslashes and control characters.
    fn stops(block: &[u8; 32]) -> u32;
}

/// Which of the sixteen bytes are digits; bit 0 is the first.
#[inline(always)]
pub(super) fn digits(block: &[u8; 16]) -> u32 {
    blocks::digits(block)
}

/// Whether the processor has what [`Wide`] takes.
pub(super) fn is_wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("bmi2");
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

fn stops_string(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < b' '
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
    }

    /// AVX2 with BMI1 and BMI2, which [`is_wide`](super::is_wide) says.
    pub(in super::super) struct Wide;

    impl Blocks for Wide {
        #[inline(always)]
        fn stops(block: &[u8; 32]) -> u32 {
            // SAFETY: only code that `is_wide` allowed is made with this type.
            unsafe { avx2_stops(block) }
        }
    }

    #[inline(always)]
    pub(super) fn digits(block: &[u8; 16]) -> u32 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { sse2_digits(block) }
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
        sse2_string_stops(&halves[0]) | sse2_string_stops(&halves[1]) << 16
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
    }

    pub(super) fn digits(block: &[u8; 16]) -> u32 {
        mask(block, |byte| byte.is_ascii_digit()) as u32
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
            assert_eq!(digits(block), portable::digits(block));
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
