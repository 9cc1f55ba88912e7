//! The answer to a fetch, read by ourselves: `kafka-protocol` takes the counts in it at their word and would allocate for
//! them, and makes a dozen small vectors a partition. All bytes are untrusted; records stay where they lie.
//!
//! Source: Apache Kafka, `FetchResponse.json`, versions 4 to 17.

use std::ops::Range;

use kafka_protocol::protocol::VersionRange;
use uuid::Uuid;

pub use crate::kafka::wire::BadAnswer;
use crate::kafka::wire::Reader;

/// The versions that are read here.
pub const FETCH_VERSIONS: VersionRange = VersionRange { min: 4, max: 17 };
/// From here on lengths are varints and structures end in tagged fields.
const FLEXIBLE: i16 = 12;
/// From here on topics go by their ids.
pub(super) const BY_TOPIC_ID: i16 = 13;

/// Tags of a partition's optional fields.
const DIVERGING_EPOCH: u64 = 0;
const CURRENT_LEADER: u64 = 1;

/// An answer. Kept for its allocations: [`FetchAnswer::read`] fills it anew.
#[derive(Debug, Default)]
pub struct FetchAnswer {
    /// Which request it answers.
    pub correlation: i32,
    /// For how long the broker wants to be left alone, in milliseconds.
    pub throttle_ms: i32,
    /// Of the whole request.
    pub error_code: i16,
    /// 0: the broker keeps no session.
    pub session_id: i32,
    /// What it says of partitions, in its order.
    pub partitions: Vec<FetchedPartition>,
    /// Aborted transactions of all partitions: (producer, first offset).
    aborted: Vec<(i64, i64)>,
}

/// What an answer says of one partition.
#[derive(Clone, Debug)]
pub struct FetchedPartition {
    /// Where the topic's name stands in the answer; empty when it goes by its id.
    topic: Range<usize>,
    /// The topic's id; nil when it goes by its name.
    pub topic_id: Uuid,
    /// Its number.
    pub number: i32,
    /// 0: none.
    pub error_code: i16,
    /// The offset after the last record that all replicas have.
    pub high_watermark: i64,
    /// The offset of the first record of a transaction that is open, or the high watermark; -1: not said.
    last_stable_offset: i64,
    /// A follower to read from instead; -1: none.
    pub preferred_replica: i32,
    /// Where the log of the broker parted from what we have read: (epoch, end offset).
    pub diverging: Option<(i32, i64)>,
    /// The leader, when this is not it: (node, epoch).
    pub leader: Option<(i32, i32)>,
    /// Which of the aborted transactions are its.
    aborted: Range<usize>,
    /// Where its record batches stand in the answer.
    pub records: Range<usize>,
}

impl FetchedPartition {
    /// How far it can be read now, also by those who read only what is committed.
    pub fn readable_to(&self) -> i64 {
        match self.last_stable_offset {
            ..0 => self.high_watermark,
            stable => stable.min(self.high_watermark),
        }
    }
}

impl FetchAnswer {
    /// Reads an answer, without its length in front.
    ///
    /// # Errors
    /// When a length or a count in it points behind its end.
    pub fn read(&mut self, answer: &[u8], version: i16) -> Result<(), BadAnswer> {
        self.partitions.clear();
        self.aborted.clear();
        let mut reader = Reader::new(answer, version >= FLEXIBLE);
        self.correlation = reader.i32("correlation id")?;
        reader.tags()?;
        self.throttle_ms = reader.i32("throttle time")?;
        (self.error_code, self.session_id) = match version {
            ..7 => (0, 0),
            _ => (reader.i16("error code")?, reader.i32("session id")?),
        };
        for _ in 0..reader.count("topics", 1)? {
            let (topic, topic_id) = match version {
                ..BY_TOPIC_ID => (reader.string("topic")?, Uuid::nil()),
                _ => (0..0, Uuid::from_bytes(reader.array("topic id")?)),
            };
            for _ in 0..reader.count("partitions", 1)? {
                let partition = self.partition(&mut reader, version, topic.clone(), topic_id)?;
                self.partitions.push(partition);
            }
            reader.tags()?;
        }
        reader.tags()
    }

    fn partition(
        &mut self,
        reader: &mut Reader<'_>,
        version: i16,
        topic: Range<usize>,
        topic_id: Uuid,
    ) -> Result<FetchedPartition, BadAnswer> {
        let (number, error_code) = (reader.i32("partition")?, reader.i16("error code")?);
        let high_watermark = reader.i64("high watermark")?;
        let last_stable_offset = reader.i64("last stable offset")?;
        if version >= 5 {
            reader.i64("log start")?;
        }
        let first_aborted = self.aborted.len();
        for _ in 0..reader.count("aborted transactions", 1)? {
            self.aborted.push((reader.i64("producer")?, reader.i64("first offset")?));
            reader.tags()?;
        }
        let preferred_replica = if version >= 11 { reader.i32("preferred replica")? } else { -1 };
        let records = reader.blob("records")?;
        let (mut diverging, mut leader) = (None, None);
        reader.each_tag(|tag, field| {
            match tag {
                DIVERGING_EPOCH => diverging = Some((field.i32("diverging epoch")?, field.i64("end offset")?)),
                CURRENT_LEADER => leader = Some((field.i32("leader")?, field.i32("leader epoch")?)),
                _ => {}
            }
            Ok(())
        })?;
        let aborted = first_aborted..self.aborted.len();
        Ok(FetchedPartition {
            topic,
            topic_id,
            number,
            error_code,
            high_watermark,
            last_stable_offset,
            preferred_replica,
            diverging: diverging.filter(|(epoch, _)| *epoch >= 0),
            leader: leader.filter(|(node, _)| *node >= 0),
            aborted,
            records,
        })
    }

    /// The topic's name in an answer that names topics.
    pub fn topic<'a>(&self, answer: &'a [u8], partition: &FetchedPartition) -> &'a [u8] {
        &answer[partition.topic.clone()]
    }

    /// The aborted transactions that overlap a partition's records: (producer, first offset).
    pub fn aborted(&self, partition: &FetchedPartition) -> impl Iterator<Item = (i64, i64)> + use<'_> {
        self.aborted[partition.aborted.clone()].iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// An answer with one topic and one partition, as version 16 has it.
    fn flexible() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(7i32.to_be_bytes());
        bytes.push(0); // no tags of the header
        bytes.extend(3i32.to_be_bytes()); // throttled
        bytes.extend(0i16.to_be_bytes());
        bytes.extend(99i32.to_be_bytes()); // session
        bytes.push(2); // one topic
        bytes.extend([0xab; 16]);
        bytes.push(2); // one partition
        bytes.extend(5i32.to_be_bytes());
        bytes.extend(6i16.to_be_bytes()); // not the leader
        bytes.extend([40i64, 38, 10].iter().flat_map(|n| n.to_be_bytes()));
        bytes.push(2); // one aborted transaction
        bytes.extend([77i64, 12].iter().flat_map(|n| n.to_be_bytes()));
        bytes.push(0);
        bytes.extend((-1i32).to_be_bytes());
        bytes.push(4); // three bytes of records
        bytes.extend(b"abc");
        bytes.extend([2, 0, 13]); // two tags; diverging epoch
        bytes.extend([&4i32.to_be_bytes()[..], &21i64.to_be_bytes(), &[0]].concat());
        bytes.extend([1, 9]); // current leader
        bytes.extend([&2i32.to_be_bytes()[..], &8i32.to_be_bytes(), &[0]].concat());
        bytes.extend([0, 0]);
        bytes
    }

    #[test]
    fn a_flexible_answer_is_read() {
        let bytes = flexible();
        let mut answer = FetchAnswer::default();
        answer.read(&bytes, 16).unwrap();
        assert_eq!((answer.correlation, answer.throttle_ms, answer.session_id), (7, 3, 99));
        let [partition] = &answer.partitions[..] else { panic!("one partition") };
        assert_eq!((partition.topic_id, partition.number, partition.error_code), (Uuid::from_bytes([0xab; 16]), 5, 6));
        assert_eq!((partition.high_watermark, partition.preferred_replica), (40, -1));
        let unsaid = FetchedPartition { last_stable_offset: -1, ..partition.clone() };
        assert_eq!((partition.readable_to(), unsaid.readable_to()), (38, 40));
        assert_eq!((partition.diverging, partition.leader), (Some((4, 21)), Some((2, 8))));
        assert_eq!(answer.aborted(partition).collect::<Vec<_>>(), [(77, 12)]);
        assert_eq!(&bytes[partition.records.clone()], b"abc");
    }

    #[test]
    fn an_old_answer_is_read() {
        let mut bytes = Vec::new();
        bytes.extend([1i32, 0, 1].iter().flat_map(|n| n.to_be_bytes())); // correlation, throttle, topics
        bytes.extend([0, 1, b't']);
        bytes.extend([1i32, 0].iter().flat_map(|n| n.to_be_bytes())); // partitions, number
        bytes.extend(0i16.to_be_bytes());
        bytes.extend([9i64, 9].iter().flat_map(|n| n.to_be_bytes()));
        bytes.extend((-1i32).to_be_bytes()); // no aborted transactions
        bytes.extend((-1i32).to_be_bytes()); // no records
        let mut answer = FetchAnswer::default();
        answer.read(&bytes, 4).unwrap();
        assert_eq!(answer.partitions.len(), 1);
        assert_eq!(answer.topic(&bytes, &answer.partitions[0]), b"t");
        assert_eq!((answer.partitions[0].high_watermark, answer.partitions[0].records.len()), (9, 0));
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = flexible();
        for length in 0..bytes.len() {
            assert!(FetchAnswer::default().read(&bytes[..length], 16).is_err(), "cut at {length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: prop::test_runner::RngSeed::Fixed(5), ..ProptestConfig::with_cases(500) })]

        #[test]
        fn hostile_bytes_are_refused(noise in vec(any::<u8>(), 0..60), at in 0usize..90, version in 4i16..=17) {
            let mut bytes = flexible();
            let at = at.min(bytes.len());
            bytes.splice(at..(at + noise.len() / 2).min(bytes.len()), noise);
            let mut answer = FetchAnswer::default();
            if answer.read(&bytes, version).is_ok() {
                for partition in &answer.partitions {
                    let _ = (&bytes[partition.records.clone()], answer.topic(&bytes, partition));
                    let _ = answer.aborted(partition).count();
                }
            }
        }
    }
}
