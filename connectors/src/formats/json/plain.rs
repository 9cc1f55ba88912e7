//! Values as most are: strings without escapes, short numbers, words, and arrays and objects of them without white space.
//!
//! `None` says everywhere only that a value has to be read with care. No branch depends on how long a string or a number is,
//! unless that stays the same: lengths that change could not be foretold.

use super::{
    number::Number,
    padded::Padded,
    scan::{Blocks, Narrow},
};

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
        _ => Number::plain(padded, at, shape).map(|number| at + number.len()),
    }
}

/// Index behind `true`, `false` or `null`, without a branch on which.
#[inline(always)]
pub(super) fn plain_word(padded: Padded<'_>, at: usize) -> Option<usize> {
    let [word @ .., last]: &[u8; 5] = padded.block(at)?;
    let is_false = (word == b"fals") & (*last == b'e');
    (is_false | (word == b"true") | (word == b"null")).then_some(at + 4 + usize::from(is_false))
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

#[cfg(test)]
mod tests {
    use super::super::scan;
    use super::*;

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
        if scan::is_wide() {
            check::<scan::Wide>();
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
}
