//! Searches over bytes, sixteen or sixty-four at a time: SSE2 on x86-64, a plain loop elsewhere.
//!
//! The decoder's only `unsafe` is here: calls of SSE2 code, which every x86-64 has, and its load of a block that the type
//! system has already measured.
#![allow(unsafe_code)]

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

fn stops_string(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < b' '
}

/// How many arrays and objects may lie in one another in one that [`plain_container`] passes.
pub(super) const PLAIN_DEPTH: usize = 32;

#[inline]
fn plain_scalar(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes.get(at)? {
        b'"' => plain_string(bytes, at),
        b'-' | b'0'..=b'9' => plain_number(bytes, at),
        _ => [&b"true"[..], b"false", b"null"]
            .iter()
            .find(|word| bytes[at..].starts_with(word))
            .map(|word| at + word.len()),
    }
}

#[inline]
fn plain_string(bytes: &[u8], at: usize) -> Option<usize> {
    let stop = string_stop(bytes, at + 1);
    (bytes.get(stop) == Some(&b'"')).then_some(stop + 1)
}

#[inline]
fn plain_number(bytes: &[u8], at: usize) -> Option<usize> {
    let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let start = at + usize::from(bytes[at] == b'-');
    let count = digits(start);
    if count == 0 || (count > 1 && bytes[start] == b'0') {
        return None;
    }
    let mut end = start + count;
    if bytes.get(end) == Some(&b'.') {
        let fraction = digits(end + 1);
        if fraction == 0 {
            return None;
        }
        end += 1 + fraction;
    }
    (!matches!(bytes.get(end), Some(b'e' | b'E'))).then_some(end)
}

/// Index behind the array or the object at `at`, if it is well-formed and plain: outside of strings no white space but a blank behind a
/// comma or a colon, no escapes, no exponents, at most [`PLAIN_DEPTH`] deep. `None` says only that it has to be read with more care.
pub(super) fn plain_container(bytes: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0;
    let mut objects = 0u32; // a bit for each open container, the innermost lowest: whether it is an object
    loop {
        // A value begins here.
        match bytes.get(at)? {
            open @ (b'{' | b'[') => {
                if depth == PLAIN_DEPTH {
                    return None;
                }
                (depth, objects) = (depth + 1, objects << 1 | u32::from(*open == b'{'));
                at += 1;
                if bytes.get(at)? == &(open + 2) {
                    return None; // empty: rare
                }
            }
            _ => {
                at = plain_scalar(bytes, at)?;
                loop {
                    let close = if objects & 1 == 1 { b'}' } else { b']' };
                    match bytes.get(at)? {
                        b',' => break at = behind_blank(bytes, at + 1),
                        byte if *byte == close => {
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
            if bytes.get(at)? != &b'"' {
                return None;
            }
            at = plain_string(bytes, at)?;
            if bytes.get(at)? != &b':' {
                return None;
            }
            at = behind_blank(bytes, at + 1);
        }
    }
}

/// `at`, or behind the blank there.
#[inline]
fn behind_blank(bytes: &[u8], at: usize) -> usize {
    at + usize::from(bytes.get(at) == Some(&b' '))
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
    };

    use super::Marks;

    #[inline]
    pub(super) fn string_stops(block: &[u8; 16]) -> u32 {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { sse2_string_stops(block) }
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
    use super::{Marks, stops_string};

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
            let block = block.first_chunk().unwrap();
            assert_eq!(blocks::string_stops(block), portable::string_stops(block));
        }
    }

    #[test]
    fn a_plain_container_ends_where_its_reader_says() {
        for text in [r#"{"a":[1,{"b":"c"},[2]],"d":false}"#, r#"{"a": [-1.5, null], "b": "c"}"#, "[[[0]]]", "[true]"] {
            assert_eq!(plain_container(text.as_bytes(), 0), Some(text.len()), "{text}");
            let followed = format!("x{text},1");
            assert_eq!(plain_container(followed.as_bytes(), 1), Some(text.len() + 1), "{text}");
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
            assert_eq!(plain_container(text.as_bytes(), 0), None, "{text}");
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
