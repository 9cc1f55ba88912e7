//! Numbers: one pass over the token checks its grammar and gathers what both integers and floats need.

use super::{padded::Padded, plain::Shape, scan::digits};

/// A number as written, by the grammar of JSON: no leading zeros, no `+`, no bare dot.
pub(in crate::formats) struct Number<'a> {
    text: &'a [u8],
    negative: bool,
    /// The digits before the exponent, without the point; wrapped when there are more than 19.
    digits: u64,
    count: usize,
    /// How many of them stand behind the point.
    scale: usize,
    exponent: bool,
}

/// Powers of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Integers up to this one are exact in a double.
pub(in crate::formats) const MAX_EXACT: i64 = 1 << 53;

impl<'a> Number<'a> {
    /// The number at `at`, if it is plain: at most 15 bytes behind its sign and no exponent. `None` says only that it has to be
    /// read with care.
    ///
    /// No branch depends on how many digits it has, which could not be foretold.
    #[inline(always)]
    pub(super) fn plain(padded: Padded<'a>, at: usize, shape: &mut Shape) -> Option<Self> {
        if padded.byte(at)? == b'-' {
            return Self::plain_negative(padded, at, shape);
        }
        let block = padded.block::<16>(at)?;
        let marks = !digits(block);
        let ends = |length: u32| matches!(block[length as usize & 15], b',' | b'}');
        let (whole, length) = if shape.is_met(marks) && ends(shape.length()) {
            (shape.first(), shape.length())
        } else {
            let whole = marks.trailing_zeros();
            let has_point = block[whole as usize & 15] == b'.';
            let scale = if has_point { 1 + (marks >> 1 >> whole).trailing_zeros() } else { 0 };
            let length = whole + scale;
            if whole == 0 || scale == 1 || length > 15 || block[length as usize & 15] | 0x20 == b'e' {
                return None;
            }
            shape.see(marks & ((2 << length) - 1));
            (whole, length)
        };
        let scale = (length - whole).saturating_sub(1);
        if (scale > 0 && block[whole as usize & 15] != b'.') || (whole > 1 && block[0] == b'0') {
            return None;
        }
        let first = u128::from_le_bytes(*block) as u64;
        let digits = if length > 8 {
            let digits = block[..length as usize & 15].iter().filter(|byte| **byte != b'.');
            digits.fold(0, |value: u64, digit| value * 10 + u64::from(digit - b'0'))
        } else if scale == 0 {
            eight_digits(first << (64 - 8 * whole))
        } else {
            // The digits before the point move up by a byte, onto it.
            let before = (1 << (8 * whole)) - 1;
            let closed_up = (first & before) << 8 | first & !(before << 8 | 0xff);
            eight_digits(closed_up << (64 - 8 * length))
        };
        let text = &block[..length as usize & 15];
        Some(Number {
            text,
            negative: false,
            digits,
            count: (whole + scale) as usize,
            scale: scale as usize,
            exponent: false,
        })
    }

    #[inline(never)]
    fn plain_negative(padded: Padded<'a>, at: usize, shape: &mut Shape) -> Option<Self> {
        if padded.byte(at + 1)? == b'-' {
            return None;
        }
        let number = Self::plain(padded, at + 1, shape)?;
        let text = padded.between(at, at + 1 + number.len())?;
        Some(Number { text, negative: true, ..number })
    }

    /// The number that `bytes` begins with.
    ///
    /// # Errors
    /// Where in `bytes` a digit was expected.
    #[inline(always)]
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, usize> {
        let negative = bytes.first() == Some(&b'-');
        let start = usize::from(negative);
        let mut digits = 0;
        let mut at = take_digits(bytes, start, &mut digits);
        let mut count = at - start;
        if count == 0 {
            return Err(start);
        }
        if count > 1 && bytes[start] == b'0' {
            return Err(start + 1);
        }
        let mut scale = 0;
        if bytes.get(at) == Some(&b'.') {
            let point = at;
            at = take_digits(bytes, point + 1, &mut digits);
            scale = at - point - 1;
            if scale == 0 {
                return Err(at);
            }
            count += scale;
        }
        let exponent = matches!(bytes.get(at), Some(b'e' | b'E'));
        if exponent {
            at += 1;
            at += usize::from(matches!(bytes.get(at), Some(b'+' | b'-')));
            let first = at;
            at = take_digits(bytes, first, &mut 0);
            if at == first {
                return Err(at);
            }
        }
        Ok(Number { text: &bytes[..at], negative, digits, count, scale, exponent })
    }

    /// The number that `text` is, whole.
    pub(in crate::formats) fn whole(text: &'a [u8]) -> Option<Self> {
        Self::read(text).ok().filter(|number| number.text.len() == text.len())
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether it has neither fraction nor exponent.
    pub(in crate::formats) fn is_integer(&self) -> bool {
        self.scale == 0 && !self.exponent
    }

    /// As bigint: integers of its range, and numbers with a fraction or an exponent whose double is a whole number of at
    /// most 2^53 in size.
    #[inline(always)]
    pub(in crate::formats) fn to_i64(&self) -> Option<i64> {
        if self.is_integer() && self.count <= 18 {
            let value = self.digits as i64;
            return Some(if self.negative { -value } else { value });
        }
        if self.is_integer() { parse_i64(self.text) } else { self.to_f64().and_then(whole_f64) }
    }

    /// As float: the nearest double; none when that is infinite.
    #[inline(always)]
    pub(in crate::formats) fn to_f64(&self) -> Option<f64> {
        // Clinger: both operands are exact, so that the quotient is rounded once.
        if self.count <= 15 && !self.exponent {
            let value = self.digits as i64 as f64 / EXACT_POWERS[self.scale];
            return Some(if self.negative { -value } else { value });
        }
        parse_f64(self.text)
    }
}

/// The value of eight digits, the first in the lowest byte; a byte of zero is the digit 0.
#[inline(always)]
fn eight_digits(digits: u64) -> u64 {
    let pairs = ((digits & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 << 32 | 1) >> 32
}

#[cold]
fn parse_i64(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[inline(never)]
fn parse_f64(text: &[u8]) -> Option<f64> {
    fast_float2::parse(text).ok().filter(|value: &f64| value.is_finite())
}

fn whole_f64(value: f64) -> Option<i64> {
    (value.fract() == 0.0 && value.abs() <= MAX_EXACT as f64).then_some(value as i64)
}

/// Index behind the digits at `at`, which go into `value`.
#[inline(always)]
fn take_digits(bytes: &[u8], mut at: usize, value: &mut u64) -> usize {
    while let Some(byte) = bytes.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_that_of_json() {
        for text in ["0", "-0", "7", "1234567890123456789012", "1.5", "-0.001", "1e5", "1E+5", "1.25e-3", "0e0"] {
            assert!(Number::whole(text.as_bytes()).is_some(), "{text}");
        }
        for text in ["", "-", "+1", "01", "-01", ".5", "1.", "1.e5", "1e", "1e+", "0x1", "1 ", "NaN", "1_0", "--1"] {
            assert!(Number::whole(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn plain_numbers_are_what_the_careful_way_reads() {
        let mut plain = 0;
        for text in [
            "0",
            "7",
            "12",
            "1234567",
            "12345678",
            "123456789",
            "1234567890123",
            "123456789012345",
            "0.5",
            "12.34",
            "0.0",
            "123456.7",
            "1234567.8",
            "1234567890.1234",
            "-0",
            "-7",
            "-1.5",
            "--1",
            "-.5",
            "-01",
            "1234567890123456",
            "00",
            "01",
            "-",
            "",
            ".",
            "1.",
            ".5",
            "1..2",
            "1.2.3",
            "1-2",
            "1e5",
            "1E5",
            "1.5e5",
            "+1",
            "a",
            "00.1",
            "12345678901234.5",
        ] {
            for behind in ["", ",", "}", ".", "e", "1234567890123456"] {
                let bytes = [text, behind].concat().into_bytes();
                let mut room = Vec::new();
                let Some(number) = Number::plain(Padded::copy(&bytes, &mut room), 0, &mut Shape::default()) else {
                    continue;
                };
                let careful = Number::read(&bytes).unwrap();
                assert_eq!(number.text, careful.text);
                assert_eq!((number.to_i64(), number.to_f64()), (careful.to_i64(), careful.to_f64()), "{text}{behind}");
                plain += 1;
            }
        }
        assert!(plain > 60, "{plain}");
    }

    #[test]
    fn bigint_takes_its_whole_range_and_whole_floats() {
        let to_i64 = |text: &str| Number::whole(text.as_bytes()).unwrap().to_i64();
        for value in [0, -1, 999_999_999_999_999_999, i64::MAX, i64::MIN] {
            assert_eq!(to_i64(&value.to_string()), Some(value));
        }
        assert_eq!(to_i64("7.0"), Some(7));
        assert_eq!(to_i64("-1.5e3"), Some(-1500));
        assert_eq!(to_i64("9007199254740992.0"), Some(MAX_EXACT));
        for text in ["9223372036854775808", "-9223372036854775809", "7.5", "1e16", "1e999", "99999999999999999999999"] {
            assert_eq!(to_i64(text), None, "{text}");
        }
    }

    #[test]
    fn floats_are_the_nearest_double() {
        let to_f64 = |text: &str| Number::whole(text.as_bytes()).unwrap().to_f64();
        for text in [
            "0.1",
            "-0.0",
            "123456.789",
            "999999999999999",
            "9007199254740993",
            "0.30000000000000004",
            "2.2250738585072014e-308",
            "5e-324",
            "1.7976931348623157e308",
            "1e22",
            "1e23",
            "0.000000000000001",
            "123456789012345678901234567890",
            "1e-999",
        ] {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(to_f64(text).map(f64::to_bits), Some(expected.to_bits()), "{text}");
        }
        assert_eq!(to_f64("1e309"), None);
        assert_eq!(to_f64("-1e999"), None);
    }
}
