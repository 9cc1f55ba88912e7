//! Numbers: one pass over the token checks its grammar and gathers what both integers and floats need.

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
            let value = self.digits as f64 / EXACT_POWERS[self.scale];
            return Some(if self.negative { -value } else { value });
        }
        parse_f64(self.text)
    }
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
