//! Integers of variable length, seven bits a byte and the lowest first, as Avro and Protobuf have them.

/// The integer at the front of `bytes` and how many of them it takes; `None` when it does not end there or does not fit.
pub(super) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        if index == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some((value, index + 1));
        }
    }
    None
}
