use super::*;

/// xorshift64*; a failure prints its seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// A finite float whose binary exponent lies in `low..high`.
    fn float(&mut self, low: i32, high: i32) -> f64 {
        let exponent = low + self.below((high - low) as u64) as i32;
        let field = (exponent + 1023).clamp(0, 2046) as u64;
        f64::from_bits(self.next() & (1 << 63 | ((1 << 52) - 1)) | field << 52)
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

fn exact(values: &[f64]) -> ExactSum {
    let mut sum = ExactSum::default();
    values.iter().for_each(|x| sum.add(*x));
    sum
}

fn encoded(sum: &ExactSum) -> Vec<u8> {
    let mut bytes = vec![];
    sum.encode(&mut bytes);
    bytes
}

/// A second opinion that shares nothing with the code above: the bits of each value are counted one by one, the total is
/// written as a decimal number and read by the standard library, which rounds correctly.
#[derive(Clone)]
struct BitCounts {
    /// Entry i counts 2^(i - 2148): squares of the smallest floats fit.
    counts: Vec<i64>,
}

const UNIT: i32 = 2148;

impl BitCounts {
    fn new() -> Self {
        BitCounts { counts: vec![0; 4500] }
    }

    fn of(values: &[f64]) -> Self {
        let mut counts = Self::new();
        for &x in values {
            let bits = x.to_bits();
            let field = (bits >> 52 & 0x7ff) as i32;
            let mantissa = u128::from(bits & ((1 << 52) - 1)) + if field > 0 { 1 << 52 } else { 0 };
            counts.add(mantissa, field.max(1) - 1075, x.is_sign_negative());
        }
        counts
    }

    fn add(&mut self, mantissa: u128, exponent: i32, negative: bool) {
        for bit in (0..128).filter(|bit| mantissa >> bit & 1 == 1) {
            self.counts[(exponent + UNIT + bit) as usize] += if negative { -1 } else { 1 };
        }
    }

    fn to_f64(&self) -> f64 {
        let mut bits = self.counts.clone();
        let mut carry = 0;
        for bit in &mut bits {
            let total = *bit + carry;
            *bit = total.rem_euclid(2);
            carry = total.div_euclid(2);
        }
        let negative = carry < 0;
        if negative {
            assert_eq!(carry, -1);
            let lowest = bits.iter().position(|bit| *bit == 1).unwrap();
            bits[lowest + 1..].iter_mut().for_each(|bit| *bit = 1 - *bit);
        }
        // The total times 2^UNIT, then times 5^UNIT: 2^-UNIT is 5^UNIT * 10^-UNIT. In base 10^9.
        let mut decimal = vec![0_u64];
        let mut times_plus = |factor: u64, carry: u64| {
            let mut carry = carry;
            for part in &mut decimal {
                let product = *part * factor + carry;
                *part = product % 1_000_000_000;
                carry = product / 1_000_000_000;
            }
            if carry > 0 {
                decimal.push(carry);
            }
        };
        bits.iter().rev().for_each(|bit| times_plus(2, *bit as u64));
        (0..UNIT / 12).for_each(|_| times_plus(5_u64.pow(12), 0));
        let digits: String = decimal.iter().rev().map(|part| format!("{part:09}")).collect();
        let magnitude: f64 = format!("{digits}e-{UNIT}").parse().unwrap();
        if negative { -magnitude } else { magnitude }
    }
}

#[track_caller]
fn assert_sum(values: &[f64], expected: f64) {
    assert_eq!(exact(values).to_f64().to_bits(), expected.to_bits(), "sum of {values:?}");
}

#[test]
fn sums_that_plain_addition_gets_wrong() {
    assert_sum(&[0.1; 10], 1.0);
    assert_sum(&[1e16, 1.0, -1e16], 1.0);
    assert_sum(&[1e16, 1.0, 1.0], 1e16 + 2.0);
    assert_sum(&[1e308, 1e308, -1e308, -1e308, 3.5], 3.5);
    assert_sum(&[1e308, 1e308], f64::INFINITY);
    assert_sum(&[-1e308, -1e308], f64::NEG_INFINITY);
    assert_sum(&[f64::MAX, f64::MAX, -f64::MAX], f64::MAX);
    assert_sum(&[5e-324, 5e-324, -5e-324], 5e-324);
    assert_sum(&[1.0, 1e-300, -1.0], 1e-300);
    assert_sum(&[2.2250738585072014e-308, -5e-324], 2.225073858507201e-308);
}

#[test]
fn halves_go_to_the_even_neighbour() {
    let two_to_53 = 9_007_199_254_740_992.0;
    assert_sum(&[two_to_53, 1.0], two_to_53);
    assert_sum(&[two_to_53, 1.0, 5e-324], two_to_53 + 2.0);
    assert_sum(&[two_to_53, 1.0, -5e-324], two_to_53);
    assert_sum(&[two_to_53, 3.0], two_to_53 + 4.0);
    let half_unit_of_max = 2_f64.powi(970);
    assert_sum(&[f64::MAX, half_unit_of_max], f64::INFINITY);
    assert_sum(&[f64::MAX, half_unit_of_max, -1.0], f64::MAX);
}

#[test]
fn zeros_are_positive() {
    assert_sum(&[], 0.0);
    assert_sum(&[-0.0, -0.0], 0.0);
    assert_sum(&[1e300, -1e300], 0.0);
    assert!(encoded(&exact(&[1e300, 1e-300, -1e300, -1e-300, -0.0])).is_empty());
}

#[test]
fn values_that_are_not_finite() {
    assert_sum(&[f64::INFINITY, 1.0, 1e308, 1e308], f64::INFINITY);
    assert_sum(&[-1e308, -1e308, f64::INFINITY], f64::INFINITY);
    assert_sum(&[f64::NEG_INFINITY, 1.0], f64::NEG_INFINITY);
    assert!(exact(&[f64::INFINITY, f64::NEG_INFINITY]).to_f64().is_nan());
    assert!(exact(&[f64::NAN, f64::INFINITY]).to_f64().is_nan());
    let mut sum = exact(&[f64::NAN, f64::INFINITY, 2.5, f64::NEG_INFINITY]);
    assert!(!sum.is_finite());
    for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        sum.subtract(x);
    }
    assert_eq!((sum.is_finite(), sum.to_f64()), (true, 2.5));
    assert_eq!(encoded(&sum), encoded(&exact(&[2.5])));
}

#[test]
fn agrees_with_counted_bits() {
    for (seed, (low, high)) in (0..).zip([(-12, 52), (-60, 60), (-1074, -1000), (900, 1024), (-1074, 1024), (-3, 3)]) {
        let mut random = Random::new(seed);
        for _ in 0..12 {
            let mut values: Vec<f64> = (0..=random.below(60)).map(|_| random.float(low, high)).collect();
            if random.below(2) == 0 {
                // Cancel nearly everything.
                let negatives: Vec<f64> = values[1..].iter().map(|x| -x).collect();
                values.extend(negatives);
            }
            let expected = BitCounts::of(&values).to_f64() + 0.0;
            assert_eq!(exact(&values).to_f64().to_bits(), expected.to_bits(), "seed {seed}: {values:?}");
        }
    }
}

#[test]
fn order_cuts_and_detours_do_not_matter() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let mut values: Vec<f64> = (0..300).map(|_| random.float(-1074, 1024)).collect();
        values.extend((0..300).map(|_| random.float(-15, 15)));
        if seed % 3 == 0 {
            values.extend([f64::INFINITY, f64::NAN]);
        }
        let whole = exact(&values);
        let bytes = encoded(&whole);
        random.shuffle(&mut values);
        assert_eq!(encoded(&exact(&values)), bytes, "seed {seed}: another order");

        let mut parts = ExactSum::default();
        let mut left = &values[..];
        while !left.is_empty() {
            let (part, more) = left.split_at(1 + random.below(left.len() as u64) as usize);
            parts.merge(&ExactSum::decode(&encoded(&exact(part))).unwrap());
            left = more;
        }
        assert_eq!(encoded(&parts), bytes, "seed {seed}: in parts");
        assert_eq!(parts.to_f64().to_bits(), whole.to_f64().to_bits());

        let mut detour = whole.clone();
        let others: Vec<f64> = (0..100).map(|_| random.float(-1074, 1024)).collect();
        others.iter().for_each(|x| detour.add(*x));
        others[..50].iter().for_each(|x| detour.subtract(*x));
        detour.retract(&exact(&others[50..]));
        assert_eq!(encoded(&detour), bytes, "seed {seed}: added and taken off");
        detour.retract(&whole);
        assert!(encoded(&detour).is_empty(), "seed {seed}");
    }
}

#[test]
fn digits_carry_when_they_overflow() {
    for x in [2_f64.powi(52), -2_f64.powi(52), 1.9999999999999998 * 2_f64.powi(51), -1.7e308, 1.7e308] {
        let mut sum = ExactSum::default();
        for _ in 0..10_000 {
            sum.add(x);
        }
        let mut expected = BitCounts::of(&[x]);
        expected.counts.iter_mut().for_each(|count| *count *= 10_000);
        assert_eq!(sum.to_f64(), expected.to_f64(), "{x} ten thousand times");
        let factor = exact(&[10_000.0]);
        assert_eq!(encoded(&sum), encoded(&exact(&[x]).product(&factor)));
    }
    let mut smallest = ExactSum::default();
    smallest.add_digit(3, i128::MIN);
    let mut negative = ExactSum::default();
    negative.retract(&smallest);
    assert_eq!(negative.to_f64(), 2_f64.powi(64 * 3 + 127));
}

#[test]
fn whole_numbers() {
    let mut sum = ExactSum::default();
    assert_eq!(sum.to_i64(), Some(0));
    for x in [i64::MAX, i64::MAX, i64::MIN, 5] {
        sum.add_i64(x);
    }
    assert_eq!(sum.to_i64(), None, "four more than the largest");
    sum.add_i64(-10);
    assert_eq!(sum.to_i64(), Some(i64::MAX - 6));
    let mut least = ExactSum::default();
    least.add_i64(i64::MIN);
    assert_eq!(least.to_i64(), Some(i64::MIN));
    least.add_i64(-1);
    assert_eq!(least.to_i64(), None);
    assert_eq!(least.to_f64(), -9_223_372_036_854_775_808.0);
    assert_eq!(exact(&[1.5, 0.5]).to_i64(), Some(2));
    assert_eq!(exact(&[1.5]).to_i64(), None);
    assert_eq!(exact(&[1e19]).to_i64(), None);
    assert_eq!(exact(&[f64::INFINITY]).to_i64(), None);
}

#[test]
fn squares_and_products_are_exact() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let x = random.float(-1074, 1024);
        let (mut square, mut low) = (ExactSum::default(), ExactSum::default());
        ExactSum::add_square(x, &mut square, &mut low);
        square.merge(&low);
        assert_eq!(encoded(&square), encoded(&exact(&[x]).product(&exact(&[x]))), "seed {seed}: {x}");
        let mut expected = BitCounts::new();
        let (mantissa, exponent) = split(x).unwrap();
        let mantissa = u128::from(mantissa.unsigned_abs());
        expected.add(mantissa * mantissa, 2 * exponent, false);
        assert_eq!(square.to_f64(), expected.to_f64(), "seed {seed}: {x}");
    }
    let (mut a, mut b) = (ExactSum::default(), ExactSum::default());
    for x in [i64::MAX, i64::MIN, -3, 0] {
        a.add_square_i64(x);
        let mut factor = ExactSum::default();
        factor.add_i64(x);
        b.merge(&factor.product(&factor));
    }
    assert_eq!(encoded(&a), encoded(&b));
    assert_eq!(exact(&[-3.0]).product(&exact(&[0.5])).to_f64(), -1.5);
    assert_eq!(exact(&[-3.0]).product(&ExactSum::default()).to_f64(), 0.0);
    let (mut high, mut low) = (ExactSum::default(), ExactSum::default());
    ExactSum::add_square(f64::NEG_INFINITY, &mut high, &mut low);
    assert_eq!((high.to_f64(), low.to_f64()), (f64::INFINITY, 0.0));
}

#[test]
fn encodings_that_were_never_written_are_refused() {
    for bytes in [&[0][..], &[0, 0, 1], &[4, 0], &[2, 0, 1, 1, 1, 1, 1, 1, 1, 1], &[255; 18]] {
        assert!(ExactSum::decode(bytes).is_none(), "{bytes:?}");
    }
}

#[test]
fn usual_columns_need_no_heap() {
    let mut random = Random::new(1);
    let mut sum = ExactSum::default();
    for _ in 0..100_000 {
        sum.add(random.below(100_000) as f64 / 100.0);
        sum.add(-1e12 * random.below(10) as f64);
    }
    assert_eq!(sum.heap_size(), 0);
    assert!(encoded(&sum).len() <= 18);
    sum.add(1e-30);
    assert!(sum.heap_size() > 0);
}
