//! Variable-length integers in zigzag form, as Kafka's records carry them.

/// Most bytes that a 64-bit integer takes.
const MAX_BYTES: usize = 10;

/// An integer at the front of `bytes` and what follows it; `None` when it does not end there.
#[inline]
pub(super) fn read(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    // Deltas, lengths and counts rarely need a second byte, hardly ever a third.
    if first < 0x80 {
        return Some((zigzag(u64::from(first)), rest));
    }
    let (&second, rest) = rest.split_first()?;
    if second < 0x80 {
        return Some((zigzag(u64::from(first & 0x7f) | u64::from(second) << 7), rest));
    }
    long(bytes)
}

#[cold]
fn long(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((zigzag(value), &bytes[index + 1..]));
        }
    }
    None
}

/// Appends an integer.
pub(super) fn write(into: &mut Vec<u8>, value: i64) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        into.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    into.push(left as u8);
}

#[inline]
fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_of_every_length_come_back() {
        let powers = (0..63).flat_map(|bit| [1i64 << bit, -(1 << bit), (1 << bit) - 1]);
        for value in powers.chain([0, i64::MAX, i64::MIN]) {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            bytes.push(0xaa);
            assert_eq!(read(&bytes), Some((value, &[0xaa][..])), "{value}");
            bytes.truncate(bytes.len() - 2);
            assert_eq!(read(&bytes), None, "{value} cut off");
        }
    }

    #[test]
    fn an_integer_without_end_is_none() {
        assert_eq!(read(&[0xff; 32]), None);
        assert_eq!(read(&[]), None);
    }
}
