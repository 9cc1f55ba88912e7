//! Who leads which partition, as the brokers said last; asked for by the control thread, read by the sources.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use kafka_protocol::messages::MetadataResponse;
use uuid::Uuid;

use super::Address;

/// A partition's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kafka) struct Leader {
    /// Its node; -1: none at the moment.
    pub(in crate::kafka) node: i32,
    /// The epoch of its leadership; -1: not said.
    pub(in crate::kafka) epoch: i32,
}

#[derive(Debug, Default)]
struct Known {
    nodes: BTreeMap<i32, Address>,
    topics: HashMap<Arc<str>, TopicView>,
    /// Changes whenever something else does.
    version: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct TopicView {
    id: Uuid,
    leaders: BTreeMap<i32, Leader>,
}

/// See the module. Shared by all workers of an input.
#[derive(Debug, Default)]
pub(in crate::kafka) struct Topology(RwLock<Known>);

impl Topology {
    /// Takes over what an answer says of nodes and of topics without an error. A leader of an older epoch than the known one is
    /// a broker's that has not heard of the change yet.
    pub(in crate::kafka) fn update(&self, answer: &MetadataResponse) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for broker in &answer.brokers {
            let address = Address { host: broker.host.to_string(), port: u16::try_from(broker.port).unwrap_or(0) };
            changed |= known.nodes.insert(broker.node_id.0, address.clone()) != Some(address);
        }
        for topic in answer.topics.iter().filter(|topic| topic.error_code == 0) {
            let Some(name) = &topic.name else { continue };
            let name: Arc<str> = name.0.as_str().into();
            let view = known.topics.entry(name).or_default();
            if view.id != topic.topic_id {
                *view = TopicView { id: topic.topic_id, leaders: BTreeMap::new() };
                changed = true;
            }
            for partition in &topic.partitions {
                let leader = Leader { node: partition.leader_id.0, epoch: partition.leader_epoch };
                changed |= note(&mut view.leaders, partition.partition_index, leader);
            }
        }
        known.version += u64::from(changed);
    }

    /// A leader that another broker named when it refused to be it.
    pub(in crate::kafka) fn heard_of(&self, topic: &str, number: i32, leader: Leader) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = known.topics.get_mut(topic).is_some_and(|view| note(&mut view.leaders, number, leader));
        known.version += u64::from(changed);
    }

    /// The leader of a partition, if one is known.
    pub(in crate::kafka) fn leader(&self, topic: &str, number: i32) -> Option<Leader> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.topics.get(topic)?.leaders.get(&number).copied().filter(|leader| leader.node >= 0)
    }

    /// A topic's id; nil where the brokers have none (before Kafka 2.8).
    pub(in crate::kafka) fn topic_id(&self, topic: &str) -> Uuid {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.topics.get(topic).map_or(Uuid::nil(), |view| view.id)
    }

    /// Where a node listens.
    pub(in crate::kafka) fn address(&self, node: i32) -> Option<Address> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).nodes.get(&node).cloned()
    }

    /// All nodes.
    pub(in crate::kafka) fn nodes(&self) -> Vec<(i32, Address)> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.nodes.iter().map(|(&node, address)| (node, address.clone())).collect()
    }

    /// A number that changes with what is known.
    pub(in crate::kafka) fn version(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).version
    }
}

fn note(leaders: &mut BTreeMap<i32, Leader>, number: i32, leader: Leader) -> bool {
    let known = leaders.get(&number);
    if known.is_some_and(|known| *known == leader || (leader.epoch >= 0 && leader.epoch < known.epoch)) {
        return false;
    }
    leaders.insert(number, leader);
    true
}
