//! A fetch session: broker and client both know which partitions are read from where, and only changes go over the wire.
//!
//! Source: KIP-227. A broker that has no room for a session answers with none; then every request is whole.

use std::sync::Arc;

use kafka_protocol::{
    messages::{
        BrokerId, FetchRequest, TopicName,
        fetch_request::{FetchPartition, FetchTopic, ForgottenTopic},
    },
    protocol::StrBytes,
};
use uuid::Uuid;

use crate::kafka::{config::Isolation, fetch::answer::BY_TOPIC_ID};

/// How long a broker holds a request for which it has nothing: an idle partition's evidence is that old.
pub(super) const MAX_WAIT_MS: i32 = 100;

/// The epoch of a request outside of a session.
pub(super) const OUTSIDE: i32 = -1;

/// A partition as it is to be read.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'t> {
    pub(super) slot: usize,
    pub(super) topic: &'t Arc<str>,
    pub(super) topic_id: Uuid,
    pub(super) number: i32,
    pub(super) from: Position,
}

/// From where a partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: i64,
    /// The leader's epoch as we know it; -1: not.
    pub(super) leader_epoch: i32,
    /// The epoch of the last batch read, by which the broker finds that the log was cut; -1: none.
    pub(super) fetched_epoch: i32,
}

/// What does not change between requests.
#[derive(Clone, Debug)]
pub(super) struct FetchTerms {
    pub(super) isolation: Isolation,
    pub(super) rack: String,
    pub(super) max_bytes: i32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Session {
    id: i32,
    /// Of the next request; 0 begins anew.
    epoch: i32,
    /// What the broker knows, by slot.
    known: Vec<Option<Known>>,
    /// Counts requests, for [`Known::wanted_in`].
    requests: u64,
}

#[derive(Clone, Debug)]
struct Known {
    topic: Arc<str>,
    topic_id: Uuid,
    number: i32,
    from: Position,
    /// The last request that wanted it.
    wanted_in: u64,
}

impl Session {
    /// The request for what is wanted: all of it, or what has changed. A partition that stays as it was costs a comparison.
    pub(super) fn request(&mut self, wanted: &[Wanted<'_>], terms: &FetchTerms, version: i16) -> FetchRequest {
        let whole = self.epoch == 0;
        if whole {
            self.known.clear();
        }
        self.requests += 1;
        let partition_bytes = partition_bytes(wanted, terms);
        let mut topics: Vec<FetchTopic> = Vec::new();
        for want in wanted {
            if self.known.len() <= want.slot {
                self.known.resize_with(want.slot + 1, || None);
            }
            let known = &mut self.known[want.slot];
            if let Some(known) = known
                && known.from == want.from
                && known.topic_id == want.topic_id
            {
                known.wanted_in = self.requests;
                continue;
            }
            *known = Some(Known {
                topic: Arc::clone(want.topic),
                topic_id: want.topic_id,
                number: want.number,
                from: want.from,
                wanted_in: self.requests,
            });
            push(&mut topics, want, partition_bytes, version);
        }
        let mut request = of_topics(topics, terms, version);
        let gone = self.forget_unwanted();
        if version >= 7 {
            request = request.with_session_id(self.id).with_session_epoch(self.epoch);
            if !whole {
                let gone = gone.into_iter().map(|known| forgotten(&known, version)).collect();
                request = request.with_forgotten_topics_data(gone);
            }
        }
        request
    }

    /// Takes out what the request at hand did not want.
    fn forget_unwanted(&mut self) -> Vec<Known> {
        let requests = self.requests;
        let unwanted = |known: &mut Option<Known>| known.take_if(|known| known.wanted_in != requests);
        self.known.iter_mut().filter_map(unwanted).collect()
    }

    /// A request was answered without an error.
    pub(super) fn answered(&mut self, session_id: i32) {
        if self.epoch == 0 {
            self.id = session_id;
        }
        self.epoch = match (self.id, self.epoch) {
            (0, _) => 0,
            (_, i32::MAX) => 1,
            (_, epoch) => epoch + 1,
        };
    }

    /// Begins anew with the next request.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    /// Whether an answer without an error leaves out what has not changed.
    pub(super) fn is_incremental(&self) -> bool {
        self.epoch != 0
    }

    /// The slots that the last request was about.
    pub(super) fn slots(&self) -> impl Iterator<Item = usize> + '_ {
        self.known.iter().enumerate().filter_map(|(slot, known)| known.as_ref().map(|_| slot))
    }
}

/// A request outside of the session, which stays as it is: for what is wanted and nothing else.
pub(super) fn request_outside(wanted: &[Wanted<'_>], terms: &FetchTerms, version: i16) -> FetchRequest {
    let (mut topics, partition_bytes) = (Vec::new(), partition_bytes(wanted, terms));
    wanted.iter().for_each(|want| push(&mut topics, want, partition_bytes, version));
    of_topics(topics, terms, version) // its epoch is OUTSIDE by default
}

/// A request without a session.
fn of_topics(topics: Vec<FetchTopic>, terms: &FetchTerms, version: i16) -> FetchRequest {
    let request = FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(MAX_WAIT_MS)
        .with_min_bytes(1)
        .with_max_bytes(terms.max_bytes)
        .with_isolation_level(i8::from(terms.isolation == Isolation::ReadCommitted))
        .with_topics(topics);
    match version {
        ..11 => request,
        _ => request.with_rack_id(StrBytes::from_string(terms.rack.clone())),
    }
}

/// Adds what is wanted of a partition.
fn push(topics: &mut Vec<FetchTopic>, want: &Wanted<'_>, partition_bytes: i32, version: i16) {
    let partition = FetchPartition::default()
        .with_partition(want.number)
        .with_current_leader_epoch(if version >= 9 { want.from.leader_epoch } else { -1 })
        .with_fetch_offset(want.from.offset)
        .with_last_fetched_epoch(if version >= 12 { want.from.fetched_epoch } else { -1 })
        .with_partition_max_bytes(partition_bytes);
    let same = |topic: &FetchTopic| match version {
        BY_TOPIC_ID.. => topic.topic_id == want.topic_id,
        _ => *topic.topic.0 == **want.topic,
    };
    match topics.last_mut().filter(|topic| same(topic)) {
        Some(topic) => topic.partitions.push(partition),
        None => topics.push(named(want.topic, want.topic_id, version).with_partitions(vec![partition])),
    }
}

/// The bytes of a partition in an answer, at most.
fn partition_bytes(wanted: &[Wanted<'_>], terms: &FetchTerms) -> i32 {
    (terms.max_bytes / i32::try_from(wanted.len().max(1)).unwrap_or(i32::MAX)).max(PARTITION_BYTES_MIN)
}

/// Less of a partition than this is not worth a place in an answer.
const PARTITION_BYTES_MIN: i32 = 256 << 10;

fn named(topic: &str, topic_id: Uuid, version: i16) -> FetchTopic {
    match version {
        BY_TOPIC_ID.. => FetchTopic::default().with_topic_id(topic_id),
        _ => FetchTopic::default().with_topic(TopicName(StrBytes::from_string(topic.to_owned()))),
    }
}

fn forgotten(known: &Known, version: i16) -> ForgottenTopic {
    let topic = match version {
        BY_TOPIC_ID.. => ForgottenTopic::default().with_topic_id(known.topic_id),
        _ => ForgottenTopic::default().with_topic(TopicName(StrBytes::from_string(known.topic.to_string()))),
    };
    topic.with_partitions(vec![known.number])
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn terms() -> FetchTerms {
        FetchTerms { isolation: Isolation::ReadCommitted, rack: String::new(), max_bytes: 1 << 20 }
    }

    fn want(slot: usize, offset: i64) -> Wanted<'static> {
        static TOPIC: LazyLock<Arc<str>> = LazyLock::new(|| "t".into());
        let from = Position { offset, leader_epoch: 3, fetched_epoch: -1 };
        Wanted { slot, topic: &TOPIC, topic_id: Uuid::from_u128(9), number: i32::try_from(slot).unwrap(), from }
    }

    fn asked(request: &FetchRequest) -> Vec<(i32, i64)> {
        request.topics.iter().flat_map(|t| &t.partitions).map(|p| (p.partition, p.fetch_offset)).collect()
    }

    #[test]
    fn only_changes_go_over_the_wire() {
        let mut session = Session::default();
        let first = session.request(&[want(0, 5), want(1, 7)], &terms(), 16);
        assert_eq!((first.session_id, first.session_epoch, asked(&first)), (0, 0, vec![(0, 5), (1, 7)]));
        session.answered(42);
        assert!(session.is_incremental());
        let second = session.request(&[want(0, 5), want(1, 8)], &terms(), 16);
        assert_eq!((second.session_id, second.session_epoch, asked(&second)), (42, 1, vec![(1, 8)]));
        session.answered(42);
        let third = session.request(&[want(1, 8), want(2, 0)], &terms(), 16);
        assert_eq!((third.session_epoch, asked(&third)), (2, vec![(2, 0)]));
        let forgotten: Vec<_> = third.forgotten_topics_data.iter().flat_map(|t| t.partitions.clone()).collect();
        assert_eq!(forgotten, [0]);
        assert_eq!(session.slots().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_request_outside_leaves_the_session_as_it_is() {
        let mut session = Session::default();
        session.request(&[want(0, 5), want(1, 7)], &terms(), 16);
        session.answered(42);
        let outside = request_outside(&[want(1, 7)], &terms(), 16);
        assert_eq!((outside.session_id, outside.session_epoch, asked(&outside)), (0, OUTSIDE, vec![(1, 7)]));
        let next = session.request(&[want(0, 5), want(1, 9)], &terms(), 16);
        assert_eq!((next.session_id, next.session_epoch, asked(&next)), (42, 1, vec![(1, 9)]));
    }

    #[test]
    fn without_a_session_every_request_is_whole() {
        let mut session = Session::default();
        for _ in 0..2 {
            let request = session.request(&[want(0, 5)], &terms(), 16);
            assert_eq!((request.session_epoch, asked(&request)), (0, vec![(0, 5)]));
            session.answered(0);
        }
        session.answered(7);
        session.reset();
        assert_eq!(asked(&session.request(&[want(0, 5)], &terms(), 6)), [(0, 5)]);
    }
}
