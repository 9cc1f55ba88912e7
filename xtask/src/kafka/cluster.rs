//! Three brokers, of which two can be hurt.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, ElectLeadersRequest, MetadataRequest, TopicName,
    alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic},
    elect_leaders_request::TopicPartitions,
    metadata_request::MetadataRequestTopic,
};
use kafka_protocol::protocol::StrBytes;

use super::admin::wait;
use super::server::{Node, Server};
use super::{Broker, BrokerOptions, Listener, Proxy, wire::ask};

/// How many.
const NODES: u32 = 3;
/// Of each broker's heap: three of them share the machine with what is tested.
const HEAP_MIB: u32 = 192;
/// After how long without a word from it a broker counts as gone.
const SESSION: Duration = Duration::from_secs(3);

/// Three brokers with the plain listener alone. Node 1 is the controller and stays; nodes 2 and 3 are there to be killed and
/// frozen. What clients and brokers say to node 2 goes through [`Cluster::proxy`].
#[derive(Debug)]
pub struct Cluster {
    // Before the proxy, so that they end first.
    brokers: Vec<Broker>,
    proxy: Proxy,
}

impl Cluster {
    /// Starts them and waits until each knows the others.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start() -> Result<Self> {
        let nodes = Node::several(NODES)?;
        let proxy = Proxy::start(format!("127.0.0.1:{}", nodes[1].ports[Listener::Plaintext as usize]))?;
        let options = |node: &Node| {
            let session = SESSION.as_millis().to_string();
            let mut properties = vec![
                ("broker.session.timeout.ms".to_owned(), session.clone()),
                ("broker.heartbeat.interval.ms".to_owned(), "500".to_owned()),
                ("replica.lag.time.max.ms".to_owned(), session),
                ("controlled.shutdown.enable".to_owned(), "false".to_owned()),
                // The default alone is 128 MiB.
                ("log.cleaner.dedupe.buffer.size".to_owned(), "4194304".to_owned()),
            ];
            if node.id == 2 {
                properties.push(("advertised.listeners".to_owned(), format!("PLAINTEXT://{}", proxy.address())));
            }
            BrokerOptions { secured: false, heap_mib: HEAP_MIB, properties, ..BrokerOptions::default() }
        };
        let starting: Vec<_> = nodes
            .into_iter()
            .map(|node| {
                let options = options(&node);
                thread::spawn(move || Server::start(options, node))
            })
            .collect();
        let servers =
            starting.into_iter().map(|start| start.join().map_err(|_| anyhow!("starting a broker panicked"))?);
        let brokers = servers.map(|server| Ok(Broker::of(server?))).collect::<Result<Vec<_>>>()?;
        let cluster = Self { brokers, proxy };
        cluster.brokers.iter().try_for_each(Broker::wait_until_ready)?;
        wait("the brokers to know each other", || Ok(cluster.metadata(None)?.brokers.len() == NODES as usize))?;
        Ok(cluster)
    }

    /// A node, by its number from 1.
    pub fn broker(&self, node: u32) -> &Broker {
        &self.brokers[node as usize - 1]
    }

    /// Before node 2.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// `host:port` of each.
    pub fn bootstrap(&self) -> Vec<String> {
        self.brokers.iter().map(|broker| broker.bootstrap().to_owned()).collect()
    }

    /// Creates a topic whose partitions all lie on `replicas`, led by the first of them.
    ///
    /// # Errors
    /// As [`Broker::create_topic`].
    pub fn create_topic(&self, name: &str, partitions: usize, replicas: &[i32], config: &[(&str, &str)]) -> Result<()> {
        self.broker(1).create_topic_on(name, &vec![replicas; partitions], config)
    }

    /// Makes the first of `replicas` the leader of all partitions, and waits until it is. They must be those that there are.
    ///
    /// # Errors
    /// When the controller refuses it.
    pub fn move_leader(&self, topic: &str, replicas: &[i32]) -> Result<()> {
        let name = || TopicName(StrBytes::from_string(topic.to_owned()));
        let numbers: Vec<i32> = self.partitions(topic)?.iter().map(|partition| partition.number).collect();
        let order = |&number: &i32| {
            let replicas = replicas.iter().copied().map(BrokerId).collect();
            ReassignablePartition::default().with_partition_index(number).with_replicas(Some(replicas))
        };
        let reordered =
            ReassignableTopic::default().with_name(name()).with_partitions(numbers.iter().map(order).collect());
        let reorder =
            AlterPartitionReassignmentsRequest::default().with_timeout_ms(10_000).with_topics(vec![reordered]);
        let answer = ask(self.broker(1).bootstrap(), &reorder, 0)?;
        let codes = answer.responses.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
        let codes: Vec<i16> = [answer.error_code].into_iter().chain(codes).collect();
        ensure!(codes.iter().all(|code| *code == 0), "the controller refused another order: codes {codes:?}");
        wait("the preferred leader", || {
            let partitions = TopicPartitions::default().with_topic(name()).with_partitions(numbers.clone());
            let elect =
                ElectLeadersRequest::default().with_topic_partitions(Some(vec![partitions])).with_timeout_ms(10_000);
            ask(self.broker(1).bootstrap(), &elect, 2)?;
            Ok(self.partitions(topic)?.iter().all(|partition| Some(&partition.leader) == replicas.first()))
        })
    }

    /// Waits until the leader of all partitions is this node.
    ///
    /// # Errors
    /// When it does not become it.
    pub fn wait_for_leader(&self, topic: &str, node: i32) -> Result<()> {
        wait("another leader", || Ok(self.partitions(topic)?.iter().all(|partition| partition.leader == node)))
            .with_context(|| format!("`{topic}` is led by {:?}", self.partitions(topic)))
    }

    /// Waits until so many replicas of each partition are in sync.
    ///
    /// # Errors
    /// When they do not come to be.
    pub fn wait_for_in_sync(&self, topic: &str, count: usize) -> Result<()> {
        wait("the replicas in sync", || Ok(self.partitions(topic)?.iter().all(|partition| partition.in_sync == count)))
            .with_context(|| format!("`{topic}` has {:?}", self.partitions(topic)))
    }

    fn partitions(&self, topic: &str) -> Result<Vec<Placed>> {
        let answer = self.metadata(Some(topic))?;
        let partitions = answer.topics.first().map_or(&[][..], |topic| &topic.partitions);
        let placed = partitions.iter().map(|partition| Placed {
            number: partition.partition_index,
            leader: partition.leader_id.0,
            in_sync: partition.isr_nodes.len(),
        });
        Ok(placed.collect())
    }

    fn metadata(&self, topic: Option<&str>) -> Result<kafka_protocol::messages::MetadataResponse> {
        let named = |topic: &str| {
            MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_string(topic.to_owned()))))
        };
        let request = MetadataRequest::default().with_topics(Some(topic.into_iter().map(named).collect()));
        ask(self.broker(1).bootstrap(), &request, 9)
    }
}

/// Where a partition is.
#[derive(Debug)]
struct Placed {
    number: i32,
    leader: i32,
    in_sync: usize,
}
