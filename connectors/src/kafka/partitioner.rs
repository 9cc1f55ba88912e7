//! Where producers put a key, as far as there is a rule for it.

/// The rule by which producers chose the partition of a record with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioner {
    /// Java's clients, and librdkafka's `murmur2` and `murmur2_random`.
    Murmur2,
    /// librdkafka's default, `consistent_random`, and `consistent`.
    Crc32,
}

impl Partitioner {
    /// The number of the partition that a key goes to, of so many.
    #[must_use]
    pub fn partition(self, key: &[u8], partitions: u32) -> u32 {
        match self {
            Self::Murmur2 => (murmur2(key) & 0x7fff_ffff) % partitions.max(1),
            Self::Crc32 => {
                let mut crc = flate2::Crc::new();
                crc.update(key);
                crc.sum() % partitions.max(1)
            }
        }
    }
}

/// Source: Apache Kafka, `Utils.murmur2`.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ u32::try_from(key.len()).unwrap_or(u32::MAX);
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let k = u32::from_le_bytes(*word).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ (k ^ (k >> 24)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| (tail << 8) | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_land_where_javas_producers_put_them() {
        // The values of Apache Kafka's own test of it.
        for (key, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
        assert_eq!(Partitioner::Murmur2.partition(b"", 1), 0);
    }
}
