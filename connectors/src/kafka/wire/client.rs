//! Asks a cluster: its topology, offsets, settings of topics. Blocking; each question within a time given.
//!
//! A question for any broker goes to one that answered before, then to the others, then to those of the spec; each gets its
//! share of the time, so that one that is silent does not keep it from the others. What each of them said is kept in [`Brokers`], so that a fault can name every broker with its cause.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use kafka_protocol::{
    error::ResponseError,
    messages::{
        BrokerId, DescribeConfigsRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, TopicName,
        describe_configs_request::DescribeConfigsResource,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
    },
    protocol::StrBytes,
};
use tidemill_engine::{Clock, Monotonic};

use super::{Address, Connection, Protection, Topology, measure::Measured};
use crate::kafka::{
    client::Brokers,
    config::Isolation,
    fault::{Cause, Fault, may_pass},
    range::deadline,
};

/// In `DescribeConfigs`: a topic.
const TOPIC_RESOURCE: i8 = 2;
/// In requests: we are no broker.
const NO_REPLICA: BrokerId = BrokerId(-1);

/// A question for an offset, as `ListOffsets` codes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kafka) enum OffsetQuestion {
    /// Of the first record.
    Earliest,
    /// After the last: the high watermark, or the last stable offset under read_committed.
    End,
    /// Of the first record with this timestamp or a later one, in milliseconds.
    At(i64),
}

impl OffsetQuestion {
    fn code(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::End => -1,
            Self::At(ms) => ms,
        }
    }
}

/// See the module.
pub(in crate::kafka) struct Client {
    bootstrap: Vec<Address>,
    protection: Protection,
    isolation: Isolation,
    clock: Arc<dyn Clock>,
    brokers: Arc<Brokers>,
    topology: Arc<Topology>,
    connections: HashMap<Address, Connection>,
    /// Who answered last.
    favourite: Option<Address>,
}

impl Client {
    pub(in crate::kafka) fn new(
        bootstrap: Vec<Address>,
        protection: Protection,
        isolation: Isolation,
        clock: Arc<dyn Clock>,
        brokers: Arc<Brokers>,
        topology: Arc<Topology>,
    ) -> Self {
        let (connections, favourite) = (HashMap::new(), None);
        Self { bootstrap, protection, isolation, clock, brokers, topology, connections, favourite }
    }

    /// Asks for topics, all of them if `topics` is `None`, and notes what is said of leaders.
    pub(in crate::kafka) fn metadata(
        &mut self,
        topics: Option<&[String]>,
        within: Duration,
    ) -> Result<MetadataResponse, Fault> {
        let named = |topic: &String| {
            let name = TopicName(StrBytes::from_string(topic.clone()));
            MetadataRequestTopic::default().with_name(Some(name))
        };
        let topics = topics.map(|topics| topics.iter().map(named).collect());
        let request = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
        let doing = "read the topic's partitions";
        let answer = self.ask_any(doing, &request, within)?;
        match ResponseError::try_from_code(answer.error_code) {
            None => {}
            Some(error) if may_pass(error) => return Err(Fault::Request { doing, cause: Cause::Answered(error) }),
            Some(error) => return Err(Fault::RefusedForGood { doing, what: "the request".to_owned(), error }),
        }
        self.topology.update(&answer);
        Ok(answer)
    }

    /// Asks the leaders for offsets, one request to each. Answers in the order of the questions; `None` where there is no
    /// such record.
    pub(in crate::kafka) fn offsets(
        &mut self,
        questions: &[(&str, i32, OffsetQuestion)],
        within: Duration,
    ) -> Result<Vec<Option<i64>>, Fault> {
        const DOING: &str = "ask for offsets";
        let until = deadline(self.clock.as_ref(), within);
        let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (index, (topic, number, _)) in questions.iter().enumerate() {
            let leader = self.topology.leader(topic, *number);
            let leader = leader.ok_or(Fault::request_refused(DOING, topic, ResponseError::LeaderNotAvailable))?;
            by_leader.entry(leader.node).or_default().push(index);
        }
        let mut answers = vec![None; questions.len()];
        for (node, asked) in by_leader {
            let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
            for &index in &asked {
                let (topic, number, question) = questions[index];
                let partition = ListOffsetsPartition::default()
                    .with_partition_index(number)
                    .with_current_leader_epoch(-1)
                    .with_timestamp(question.code());
                topics.entry(topic).or_default().push(partition);
            }
            let topic = |(topic, partitions): (&str, Vec<ListOffsetsPartition>)| {
                let name = TopicName(StrBytes::from_string(topic.to_owned()));
                ListOffsetsTopic::default().with_name(name).with_partitions(partitions)
            };
            let request = ListOffsetsRequest::default()
                .with_replica_id(NO_REPLICA)
                .with_isolation_level(i8::from(self.isolation == Isolation::ReadCommitted))
                .with_topics(topics.into_iter().map(topic).collect());
            let Some(address) = self.topology.address(node) else {
                return Err(Fault::Request { doing: DOING, cause: Cause::NoAnswer });
            };
            let answer = self.ask_at(DOING, &address, &request, until)?;
            let mut found = HashMap::new();
            for topic in &answer.topics {
                for partition in &topic.partitions {
                    if let Some(error) = ResponseError::try_from_code(partition.error_code) {
                        return Err(Fault::request_refused(DOING, &topic.name.0, error));
                    }
                    found.insert((&*topic.name.0, partition.partition_index), partition.offset);
                }
            }
            for index in asked {
                let (topic, number, _) = questions[index];
                answers[index] = found.get(&(topic, number)).copied().filter(|&offset| offset >= 0);
            }
        }
        Ok(answers)
    }

    /// A setting of each topic; `None` where we may not see it.
    pub(in crate::kafka) fn settings(
        &mut self,
        topics: &[String],
        name: &'static str,
        within: Duration,
    ) -> Result<Vec<Option<String>>, Fault> {
        let resource = |topic: &String| {
            DescribeConfigsResource::default()
                .with_resource_type(TOPIC_RESOURCE)
                .with_resource_name(StrBytes::from_string(topic.clone()))
                .with_configuration_keys(Some(vec![StrBytes::from_static_str(name)]))
        };
        let request = DescribeConfigsRequest::default().with_resources(topics.iter().map(resource).collect());
        let answer = self.ask_any("read the topic's settings", &request, within)?;
        let value = |topic: &String| {
            let result = answer.results.iter().find(|result| *result.resource_name == **topic)?;
            let setting = result.configs.iter().find(|setting| &*setting.name == name)?;
            setting.value.as_ref().map(|value| value.to_string())
        };
        Ok(topics.iter().map(value).collect())
    }

    fn ask_any<R: Measured>(
        &mut self,
        doing: &'static str,
        request: &R,
        within: Duration,
    ) -> Result<R::Response, Fault> {
        let until = deadline(self.clock.as_ref(), within);
        let nodes = self.topology.nodes().into_iter().map(|(_, address)| address);
        let known = self.favourite.iter().cloned().chain(nodes).chain(self.bootstrap.iter().cloned());
        let mut candidates: Vec<Address> = vec![];
        for address in known {
            if !candidates.contains(&address) {
                candidates.push(address);
            }
        }
        let mut failure = Fault::Request { doing, cause: Cause::NoAnswer };
        let count = candidates.len();
        for (number, address) in candidates.into_iter().enumerate() {
            let share = self.left(until) / u32::try_from(count - number).unwrap_or(u32::MAX);
            match self.ask_at(doing, &address, request, deadline(self.clock.as_ref(), share)) {
                Ok(answer) => {
                    self.favourite = Some(address);
                    return Ok(answer);
                }
                Err(fault) => failure = fault,
            }
        }
        self.favourite = None;
        Err(failure)
    }

    fn ask_at<R: Measured>(
        &mut self,
        doing: &'static str,
        address: &Address,
        request: &R,
        until: Monotonic,
    ) -> Result<R::Response, Fault> {
        let kept = self.connections.remove(address).filter(|connection| !connection.is_stale());
        let was_kept = kept.is_some();
        let mut answer = self.try_at(kept, address, request, until);
        if was_kept && matches!(answer, Err(Cause::Disconnected)) {
            answer = self.try_at(None, address, request, until); // brokers close what is idle
        }
        answer.map_err(|cause| {
            self.brokers.failed(address, &cause);
            Fault::Request { doing, cause }
        })
    }

    fn try_at<R: Measured>(
        &mut self,
        kept: Option<Connection>,
        address: &Address,
        request: &R,
        until: Monotonic,
    ) -> Result<R::Response, Cause> {
        let left = self.left(until);
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(address, &self.protection, &self.clock, left)?,
        };
        let answer = connection.within(self.left(until)).ask(request)?;
        self.brokers.succeeded(address);
        self.connections.insert(address.clone(), connection);
        Ok(answer)
    }

    fn left(&self, until: Monotonic) -> Duration {
        Duration::from_micros(u64::try_from(until.0.saturating_sub(self.clock.monotonic().0)).unwrap_or(0))
    }
}
