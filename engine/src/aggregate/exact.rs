//! A sum of floats without rounding.
//!
//! A float is m * 2^e with a whole m of 53 bits, and so is a multiple of 2^(64 k) by fewer than 116 bits, where k is
//! e / 64 rounded down. A sum is kept as such multiples, its *digits*, in i128s: the 11 spare bits let thousands of values
//! be added before a digit overflows into the next one. Values of one column mostly share a digit (2^-12 to 2^52 all do),
//! so that one digit lies inline and takes most additions at the price of a shift and an add; the others, if any, are
//! boxed. Which digits hold a value depends on what was added when; the value does not, and neither does its encoding.
//!
//! The same idea as Neal's small superaccumulator ("Fast exact summation using small and large superaccumulators", 2015),
//! sparse because there is one for each group of each window.

/// Bits of a digit that the next digit takes over.
const DIGIT_BITS: i32 = 64;

/// An exact sum: of floats, of whole numbers, of their squares, in any mixture and order.
///
/// Infinities and NaN are counted beside the finite sum, so that everything that was added can be taken off again. A sum
/// of zero is +0.0, also when only -0.0 was added.
#[derive(Clone, Debug, Default)]
pub struct ExactSum {
    home: i128,
    home_digit: i16,
    rest: Option<Box<Rest>>,
}

/// What does not fit the home digit: further digits in ascending order, each once, and values that are not finite.
#[derive(Clone, Debug, Default)]
struct Rest {
    digits: Vec<(i16, i128)>,
    nans: i64,
    infinities: i64,
    negative_infinities: i64,
}

impl ExactSum {
    /// Adds a float.
    #[inline]
    pub fn add(&mut self, x: f64) {
        match split(x) {
            Some((mantissa, exponent)) => self.add_shifted(mantissa, exponent),
            None => self.add_special(x, 1),
        }
    }

    /// Takes a float off.
    pub fn subtract(&mut self, x: f64) {
        if x.is_finite() { self.add(-x) } else { self.add_special(x, -1) }
    }

    /// Adds a whole number.
    #[inline]
    pub fn add_i64(&mut self, x: i64) {
        self.add_digit(0, i128::from(x));
    }

    /// Adds the exact square of a float, which neither overflows nor vanishes, in two parts that mostly lie in different
    /// digits: each in a sum of its own, they stay on the fast path.
    #[inline]
    pub fn add_square(x: f64, high: &mut ExactSum, low: &mut ExactSum) {
        let Some((mantissa, exponent)) = split(x) else { return high.add_special(x * x, 1) };
        let magnitude = u128::from(mantissa.unsigned_abs());
        let square = magnitude * magnitude;
        high.add_shifted((square >> 53) as i64, 2 * exponent + 53);
        low.add_shifted((square & MANTISSA) as i64, 2 * exponent);
    }

    /// Adds the square of a whole number.
    #[inline]
    pub fn add_square_i64(&mut self, x: i64) {
        self.add_digit(0, i128::from(x) * i128::from(x));
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        self.combine(other, 1);
    }

    /// Takes another sum off.
    pub fn retract(&mut self, other: &ExactSum) {
        self.combine(other, -1);
    }

    /// Whether neither NaN nor an infinity is in it.
    #[must_use]
    pub fn is_finite(&self) -> bool {
        self.rest.as_ref().is_none_or(|rest| rest.nans == 0 && rest.infinities == 0 && rest.negative_infinities == 0)
    }

    /// The exact product of the finite parts of two sums.
    #[must_use]
    pub fn product(&self, other: &ExactSum) -> ExactSum {
        let (a, b) = (self.magnitude(), other.magnitude());
        let sign = if a.negative == b.negative { 1 } else { -1 };
        let mut product = ExactSum::default();
        for (i, &x) in (a.lowest_digit..).zip(&a.limbs) {
            for (j, &y) in (b.lowest_digit..).zip(&b.limbs) {
                let p = u128::from(x) * u128::from(y);
                product.add_digit(i + j, sign * (p & u128::from(u64::MAX)) as i128);
                product.add_digit(i + j + 1, sign * (p >> DIGIT_BITS) as i128);
            }
        }
        product
    }

    /// The float nearest to the exact value, of two equally near ones the even one; an infinity beyond the largest float.
    /// With infinities in it that infinity, with NaN or both infinities NaN.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        match &self.rest {
            None if (-15..=13).contains(&self.home_digit) => {
                // Neither the power nor the product can be subnormal or overflow: only `as` rounds, to nearest even.
                self.home as f64 * power_of_two(DIGIT_BITS * i32::from(self.home_digit))
            }
            Some(rest) if rest.nans != 0 || (rest.infinities != 0 && rest.negative_infinities != 0) => f64::NAN,
            Some(rest) if rest.infinities != 0 => f64::INFINITY,
            Some(rest) if rest.negative_infinities != 0 => f64::NEG_INFINITY,
            _ => self.magnitude().to_f64(),
        }
    }

    /// The value as an i64; `None` when it is not whole or out of range.
    #[must_use]
    pub fn to_i64(&self) -> Option<i64> {
        if !self.is_finite() {
            return None;
        }
        let Magnitude { negative, lowest_digit, limbs } = self.magnitude();
        match (lowest_digit, &limbs[..]) {
            (_, []) => Some(0),
            (0, &[limb]) if negative => 0i64.checked_sub_unsigned(limb),
            (0, &[limb]) => i64::try_from(limb).ok(),
            _ => None,
        }
    }

    /// Appends an encoding of the value, the same for equal values whatever made them: nothing for zero; else
    /// - a byte: 1 for negative, plus 2 when counts of special values follow,
    /// - an i8: the number of the lowest digit,
    /// - if so: counts of NaN, infinity and negative infinity as little-endian i64s,
    /// - the magnitude as little-endian u64s, first and last not 0.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if self.rest.is_none() {
            return self.encode_home(out);
        }
        let Magnitude { negative, lowest_digit, limbs } = self.magnitude();
        let finite = self.is_finite();
        if limbs.is_empty() && finite {
            return;
        }
        out.push(u8::from(negative) | u8::from(!finite) << 1);
        out.push(lowest_digit as i8 as u8);
        if let Some(rest) = &self.rest
            && !finite
        {
            for count in [rest.nans, rest.infinities, rest.negative_infinities] {
                out.extend(count.to_le_bytes());
            }
        }
        for limb in limbs {
            out.extend(limb.to_le_bytes());
        }
    }

    /// [`Self::encode`] of the home digit alone, as sums mostly are.
    fn encode_home(&self, out: &mut Vec<u8>) {
        let magnitude = self.home.unsigned_abs();
        let (low, high) = (magnitude as u64, (magnitude >> DIGIT_BITS) as u64);
        let (lowest_digit, limbs) = match (low, high) {
            (0, 0) => return,
            (0, _) => (self.home_digit + 1, &[high][..]),
            (_, 0) => (self.home_digit, &[low][..]),
            _ => (self.home_digit, &[low, high][..]),
        };
        out.extend([u8::from(self.home < 0), lowest_digit as i8 as u8]);
        limbs.iter().for_each(|limb| out.extend(limb.to_le_bytes()));
    }

    /// Reads what [`Self::encode`] wrote; `None` when it did not write that.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut sum = ExactSum::default();
        let [head, lowest_digit, words @ ..] = bytes else { return bytes.is_empty().then_some(sum) };
        let (words, []) = words.as_chunks::<8>() else { return None };
        let limbs = match (head, words) {
            (0 | 1, limbs) => limbs,
            (2 | 3, [nans, infinities, negative_infinities, limbs @ ..]) => {
                let rest = sum.rest.get_or_insert_default();
                rest.nans = i64::from_le_bytes(*nans);
                rest.infinities = i64::from_le_bytes(*infinities);
                rest.negative_infinities = i64::from_le_bytes(*negative_infinities);
                limbs
            }
            _ => return None,
        };
        let sign = if head & 1 == 1 { -1 } else { 1 };
        for (digit, limb) in (i16::from(*lowest_digit as i8)..).zip(limbs) {
            sum.add_digit(digit, sign * i128::from(u64::from_le_bytes(*limb)));
        }
        Some(sum)
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_size(&self) -> usize {
        let rest = self.rest.as_ref();
        rest.map_or(0, |rest| size_of::<Rest>() + rest.digits.capacity() * size_of::<(i16, i128)>())
    }

    /// Adds `mantissa * 2^exponent`.
    #[inline]
    fn add_shifted(&mut self, mantissa: i64, exponent: i32) {
        self.add_digit((exponent >> 6) as i16, i128::from(mantissa) << (exponent & 63));
    }

    /// Adds `value * 2^(64 digit)`.
    #[inline]
    fn add_digit(&mut self, digit: i16, value: i128) {
        match self.home.checked_add(value) {
            Some(sum) if digit == self.home_digit => self.home = sum,
            _ => self.add_elsewhere(digit, value),
        }
    }

    /// Adds to a digit that is not the home digit, or that would overflow. The home moves there: what comes next
    /// is likely to be of that size.
    #[cold]
    fn add_elsewhere(&mut self, digit: i16, value: i128) {
        if value == 0 {
            return;
        }
        let lower = digit.min(self.home_digit);
        if self.home == 0 {
            (self.home, self.home_digit) = (value, digit);
        } else if let Some(home) = shift_digits(self.home, self.home_digit - lower)
            && let Some(value) = shift_digits(value, digit - lower)
            && let Some(sum) = home.checked_add(value)
        {
            (self.home, self.home_digit) = (sum, lower);
        } else {
            self.rest.get_or_insert_default().add(self.home_digit, self.home);
            (self.home, self.home_digit) = (value, digit);
        }
    }

    #[cold]
    fn add_special(&mut self, x: f64, times: i64) {
        let rest = self.rest.get_or_insert_default();
        if x.is_nan() {
            rest.nans += times;
        } else if x > 0.0 {
            rest.infinities += times;
        } else {
            rest.negative_infinities += times;
        }
    }

    fn combine(&mut self, other: &ExactSum, sign: i64) {
        let Some(rest) = &other.rest else { return self.add_signed(other.home_digit, other.home, sign) };
        for &(digit, value) in &rest.digits {
            self.add_signed(digit, value, sign);
        }
        self.add_signed(other.home_digit, other.home, sign);
        if !other.is_finite() {
            let own = self.rest.get_or_insert_default();
            own.nans += sign * rest.nans;
            own.infinities += sign * rest.infinities;
            own.negative_infinities += sign * rest.negative_infinities;
        }
    }

    fn add_signed(&mut self, digit: i16, value: i128, sign: i64) {
        match value.checked_mul(i128::from(sign)) {
            Some(value) => self.add_digit(digit, value),
            // Only -2^127 has no negative.
            None => self.add_digit(digit + 1, 1 << 63),
        }
    }

    /// Carries all digits through, into the one form that equal values share.
    fn magnitude(&self) -> Magnitude {
        let digits = self.rest.as_ref().map_or(&[][..], |rest| &rest.digits);
        let digits = || digits.iter().copied().chain([(self.home_digit, self.home)]);
        let lowest = digits().map(|(digit, _)| digit).min().unwrap_or(0);
        let highest = digits().map(|(digit, _)| digit).max().unwrap_or(0);
        let mut limbs = Vec::with_capacity((highest - lowest) as usize + 3);
        let mut carry = 0;
        for place in lowest..=highest + 2 {
            let mut limb: i128 = carry;
            carry = 0;
            for (_, value) in digits().filter(|(digit, _)| *digit == place) {
                limb += value & i128::from(u64::MAX);
                carry += value >> DIGIT_BITS;
            }
            limbs.push(limb as u64);
            carry += limb >> DIGIT_BITS;
        }
        let negative = carry < 0;
        if negative {
            let mut borrow = true;
            for limb in &mut limbs {
                (*limb, borrow) = (!*limb).overflowing_add(u64::from(borrow));
            }
        }
        let used = limbs.iter().rposition(|limb| *limb != 0).map_or(0, |last| last + 1);
        limbs.truncate(used);
        let zeros = limbs.iter().take_while(|limb| **limb == 0).count();
        limbs.drain(..zeros);
        Magnitude { negative, lowest_digit: lowest + zeros as i16, limbs }
    }
}

impl Rest {
    fn add(&mut self, digit: i16, value: i128) {
        match self.digits.binary_search_by_key(&digit, |(digit, _)| *digit) {
            Err(at) => self.digits.insert(at, (digit, value)),
            Ok(at) => {
                let own = &mut self.digits[at].1;
                match own.checked_add(value) {
                    Some(sum) => *own = sum,
                    None => {
                        let carry = (*own >> DIGIT_BITS) + (value >> DIGIT_BITS);
                        *own = (*own & i128::from(u64::MAX)) + (value & i128::from(u64::MAX));
                        self.add(digit + 1, carry);
                    }
                }
            }
        }
    }
}

/// Sign and magnitude: limb i counts 2^(64 (lowest_digit + i)); the first and the last are not 0.
struct Magnitude {
    negative: bool,
    lowest_digit: i16,
    limbs: Vec<u64>,
}

impl Magnitude {
    fn to_f64(&self) -> f64 {
        let Some(last) = self.limbs.last() else { return 0.0 };
        // Bits are numbered from the lowest limb's; the result's unit is 53 bits from the top, or the smallest float.
        let zero = DIGIT_BITS * i32::from(self.lowest_digit);
        let top = DIGIT_BITS * (self.limbs.len() as i32 - 1) + 63 - last.leading_zeros() as i32;
        let unit = (top - 52).max(-1074 - zero);
        let whole = self.bits_from(unit);
        let half = self.bits_from(unit - 1) & 1 == 1;
        let round_up = half && (whole & 1 == 1 || self.any_below(unit - 1));
        let rounded = whole + u64::from(round_up);
        let exponent = unit + zero;
        let magnitude = if exponent > 1023 { f64::INFINITY } else { rounded as f64 * power_of_two(exponent) };
        if self.negative { -magnitude } else { magnitude }
    }

    /// 64 bits from bit `at` on; bits outside are 0.
    fn bits_from(&self, at: i32) -> u64 {
        let limb = |i: i32| usize::try_from(i).ok().and_then(|i| self.limbs.get(i)).copied().unwrap_or(0);
        let pair = u128::from(limb((at >> 6) + 1)) << DIGIT_BITS | u128::from(limb(at >> 6));
        (pair >> (at & 63)) as u64
    }

    /// Whether a bit below `at` is set.
    fn any_below(&self, at: i32) -> bool {
        (0..self.limbs.len() as i32).any(|i| match at - DIGIT_BITS * i {
            ..=0 => false,
            bits @ 1..64 => self.limbs[i as usize] << (DIGIT_BITS - bits) != 0,
            _ => self.limbs[i as usize] != 0,
        })
    }
}

const MANTISSA: u128 = (1 << 53) - 1;

/// Signed mantissa and exponent; `None` when not finite.
#[inline]
fn split(x: f64) -> Option<(i64, i32)> {
    let bits = x.to_bits();
    let field = (bits >> 52 & 0x7ff) as i32;
    if field == 0x7ff {
        return None;
    }
    let fraction = (bits & ((1 << 52) - 1)) as i64;
    let mantissa = if field == 0 { fraction } else { fraction | 1 << 52 };
    let negative = (bits as i64) >> 63;
    Some(((mantissa ^ negative) - negative, field.max(1) - 1075))
}

/// `value * 2^(64 digits)` if that is an i128.
fn shift_digits(value: i128, digits: i16) -> Option<i128> {
    match digits {
        0 => Some(value),
        1 => Some(value << DIGIT_BITS).filter(|shifted| shifted >> DIGIT_BITS == value),
        _ => None,
    }
}

/// 2^exponent for -1074 to 1023.
fn power_of_two(exponent: i32) -> f64 {
    if exponent >= -1022 {
        f64::from_bits(((exponent + 1023) as u64) << 52)
    } else {
        f64::from_bits(1 << (exponent + 1074))
    }
}

#[cfg(test)]
mod tests;
