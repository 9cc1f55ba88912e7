//! Which broker is asked, and for what: partitions follow their leaders, and each link has one request under way.

use std::mem;

use tidemill_engine::Result;

use super::FetchSource;
use crate::kafka::{
    fault::{Cause, Fault},
    fetch::{
        answer::BY_TOPIC_ID,
        link::{Link, Progress},
        session::{Position, Wanted, request_outside},
    },
    wire::Leader,
};

/// Where more partitions than this are known to have records, this many are asked for at a time: a broker looks at each that
/// it is asked for, for some 20 µs, and most of them have no place in its answer.
const MANY: usize = 32;
/// How often all are asked for then, for news of the others.
const ALL_EVERY_US: i64 = 100_000;

impl FetchSource {
    /// Gives each partition to the link of its leader.
    pub(super) fn follow_topology(&mut self) -> Result<()> {
        let topology = &self.own.topology;
        let version = topology.version();
        if version == mem::replace(&mut self.topology_version, version) {
            return Ok(());
        }
        for slot in self.slots.iter_mut().filter(|slot| !slot.finished) {
            let (topic, number) = (&slot.partition.topic, slot.partition.number);
            let id = topology.topic_id(topic);
            if slot.topic_id.is_nil() {
                slot.topic_id = id;
            } else if !id.is_nil() && id != slot.topic_id {
                let replaced = Fault::TopicReplaced { topic: topic.to_string() };
                return Err(self.shared.settings.error(replaced));
            }
            let leader = topology.leader(topic, number);
            let node = leader.map(|leader| leader.node);
            if let Some(Leader { epoch, .. }) = leader {
                slot.leader_epoch = epoch;
            }
            if !slot.follower && slot.node != node {
                tracing::debug!(%topic, number, from = ?slot.node, to = ?node, "leader");
                slot.node = node;
                slot.fetch_offset = slot.next_offset;
            }
            if let Some(node) = slot.node {
                slot.partition.led_by(node);
                self.links.entry(node).or_insert_with(|| Link::new(node, self.shared.fetches.of(node)));
            }
        }
        for topic in &mut self.topics {
            topic.id = topology.topic_id(&topic.name);
        }
        let slots = &self.slots;
        self.links.retain(|node, _| slots.iter().any(|slot| !slot.finished && slot.node == Some(*node)));
        Ok(())
    }

    /// Opens links, gives up those that do not answer, sends where nothing is under way.
    pub(super) fn drive(&mut self) {
        let nodes: Vec<i32> = self.links.keys().copied().collect();
        for node in nodes {
            let address = self.own.topology.address(node);
            let Some(link) = self.links.get_mut(&node) else { continue };
            match link.advance(address.as_ref(), &self.own.protection, &self.own.clock, self.poll.registry()) {
                Progress::Waiting => {}
                Progress::Ready => self.ask(node),
                Progress::Broke(cause) => self.broke(node, &cause),
            }
        }
    }

    /// What a broken link was asked for is asked for again.
    pub(super) fn broke(&mut self, node: i32, cause: &Cause) {
        if let Some(address) = self.own.topology.address(node) {
            self.own.brokers.failed(&address, cause);
            self.own.brokers.lost(cause);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.node == Some(node)) {
            slot.fetch_offset = slot.next_offset;
            if slot.follower {
                (slot.follower, slot.node) = (false, None);
                self.topology_version = u64::MAX;
            }
        }
    }

    /// Sends the next fetch on a link.
    pub(super) fn ask(&mut self, node: i32) {
        let now = self.own.clock.monotonic();
        let Some(link) = self.links.get_mut(&node) else { return };
        let Some(version) = link.version().filter(|_| link.may_ask(now)) else { return };
        let slots = self.slots.iter_mut().enumerate();
        let (mut wanted, mut behind) = (Vec::new(), Vec::new());
        for (index, slot) in slots.filter(|(_, slot)| slot.node == Some(node) && slot.wants(now)) {
            slot.asked_at_end = slot.high_watermark >= 0 && slot.fetch_offset >= slot.high_watermark;
            let from = Position {
                offset: slot.fetch_offset,
                leader_epoch: slot.leader_epoch,
                fetched_epoch: slot.fetched_epoch,
            };
            if slot.is_behind() {
                behind.push(wanted.len());
            }
            let (topic_id, number) = (slot.topic_id, slot.partition.number);
            wanted.push(Wanted { slot: index, topic: &slot.partition.topic, topic_id, number, from });
        }
        if wanted.is_empty() {
            return;
        }
        let ids_known = wanted.iter().all(|want| !want.topic_id.is_nil());
        let version = if ids_known { version } else { version.min(BY_TOPIC_ID - 1) };
        let all_can_wait = behind.len() == wanted.len() || now.0.saturating_sub(link.asked_all_at.0) < ALL_EVERY_US;
        let request = if behind.len() > MANY && all_can_wait {
            let next = next_in_turn(&behind, wanted.partition_point(|want| want.slot <= link.last_read));
            let part: Vec<_> = next.map(|position| wanted[position].clone()).collect();
            request_outside(&part, &self.terms, version)
        } else {
            link.session.request(&wanted, &self.terms, version)
        };
        if let Err(cause) = link.ask(&request, version, now) {
            link.fail(cause.clone(), now);
            self.broke(node, &cause);
        }
    }
}

/// The first `MANY` of these ascending positions from `start` on, and then from the front: each gets its turn.
fn next_in_turn(positions: &[usize], start: usize) -> impl Iterator<Item = usize> {
    let (front, next) = positions.split_at(positions.partition_point(|position| *position < start));
    next.iter().chain(front).copied().take(MANY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_gets_its_turn() {
        let behind: Vec<usize> = (0..100).map(|n| 2 * n).collect();
        let (mut start, mut asked) = (0, vec![]);
        for _ in 0..34 {
            // An answer has room for three of those that were asked for.
            let read: Vec<usize> = next_in_turn(&behind, start).take(3).collect();
            start = read[2] + 1;
            asked.extend(read);
        }
        assert_eq!(asked[..100], behind);
        assert_eq!(asked[100..], [0, 2]);
        assert_eq!(next_in_turn(&behind, 190).count(), MANY);
    }
}
