//! Topics: made, grown, configured, described.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use kafka_protocol::messages::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::protocol::StrBytes;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use std::path::Path;

use super::{Broker, Listener, wire::ask};

/// Far above what a healthy broker takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Broker {
    /// Creates a topic with configurations such as `("message.timestamp.type", "CreateTime")`, and waits until each of its
    /// partitions has a leader.
    ///
    /// # Errors
    /// When the topic exists or the broker refuses it.
    pub fn create_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> Result<()> {
        self.create(name, partitions, TopicReplication::Fixed(1), config)
    }

    /// As [`Broker::create_topic`], with the nodes that each partition lies on, its leader first.
    pub(super) fn create_topic_on(&self, name: &str, replicas: &[&[i32]], config: &[(&str, &str)]) -> Result<()> {
        self.create(name, i32::try_from(replicas.len())?, TopicReplication::Variable(replicas), config)
    }

    fn create(
        &self,
        name: &str,
        partitions: i32,
        replication: TopicReplication<'_>,
        config: &[(&str, &str)],
    ) -> Result<()> {
        let topic = NewTopic { name, num_partitions: partitions, replication, config: config.to_vec() };
        let created = block_on(self.admin()?.create_topics([&topic], &options()))??;
        created.into_iter().try_for_each(|topic| topic.map(drop).map_err(refused))?;
        self.wait_for_partitions(name, partitions)
    }

    /// Deletes the records of a partition below `offset`, as retention does.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub fn delete_records(&self, topic: &str, partition: i32, offset: i64) -> Result<()> {
        let mut before = TopicPartitionList::new();
        before.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        let deleted = block_on(self.admin()?.delete_records(&before, &options()))??;
        deleted.elements().iter().try_for_each(|element| Ok(element.error()?))
    }

    /// Gives a topic more partitions, `partitions` in all, and waits until each has a leader.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub fn grow_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let grown = NewPartitions::new(name, usize::try_from(partitions)?);
        let grown = block_on(self.admin()?.create_partitions([&grown], &options()))??;
        grown.into_iter().try_for_each(|topic| topic.map(drop).map_err(refused))?;
        self.wait_for_partitions(name, partitions)
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub fn delete_topic(&self, name: &str) -> Result<()> {
        let deleted = block_on(self.admin()?.delete_topics(&[name], &options()))??;
        deleted.into_iter().try_for_each(|topic| topic.map(drop).map_err(refused))
    }

    /// Sets a topic's configuration to exactly this: what is not named returns to its default.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub fn configure_topic(&self, name: &str, config: &[(&str, &str)]) -> Result<()> {
        let altered = config
            .iter()
            .fold(AlterConfig::new(ResourceSpecifier::Topic(name)), |altered, (name, value)| altered.set(name, value));
        let altered = block_on(self.admin()?.alter_configs([&altered], &options()))??;
        altered.into_iter().try_for_each(|topic| {
            topic.map(drop).map_err(|(topic, code)| anyhow!("the broker refused {topic:?}: {code}"))
        })
    }

    /// A topic's configuration, defaults included.
    ///
    /// # Errors
    /// When there is no such topic.
    pub fn describe_topic(&self, name: &str) -> Result<BTreeMap<String, Option<String>>> {
        let described = block_on(self.admin()?.describe_configs([&ResourceSpecifier::Topic(name)], &options()))??;
        let described = described.into_iter().next().context("the broker described nothing")?;
        let described = described.map_err(|code| anyhow!("cannot describe `{name}`: {code}"))?;
        Ok(described.entries.into_iter().map(|entry| (entry.name, entry.value)).collect())
    }

    /// Lets a listener trust the client certificates of this authority alone, from the next connection on; those that stand stay.
    ///
    /// # Errors
    /// When the broker refuses it.
    pub fn trust(&self, listener: Listener, ca: &Path) -> Result<()> {
        const BROKER: i8 = 4;
        const ONLY_NODE: &str = "1";
        let setting = format!("listener.name.{}.ssl.truststore.location", listener.name().to_lowercase());
        let altered = AlterableConfig::default()
            .with_name(StrBytes::from_string(setting))
            .with_value(Some(StrBytes::from_string(ca.display().to_string())));
        let resource = AlterConfigsResource::default()
            .with_resource_type(BROKER)
            .with_resource_name(StrBytes::from_static_str(ONLY_NODE))
            .with_configs(vec![altered]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let answer = ask(self.bootstrap(), &request, 1)?;
        let refusal = answer.responses.iter().find(|response| response.error_code != 0);
        ensure!(refusal.is_none(), "the broker refused another truststore: {refusal:?}");
        Ok(())
    }

    /// The offsets that a consumer group has committed for a topic, by partition; none where it has not.
    ///
    /// # Errors
    /// When there is no such topic, or no answer.
    pub fn committed(&self, group: &str, topic: &str) -> Result<Vec<Option<i64>>> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create()?;
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
        let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(topic, 0, i32::try_from(partitions.len())? - 1);
        let answers = consumer.committed_offsets(asked, PATIENCE)?;
        Ok(answers.elements().iter().map(|answer| answer.offset().to_raw().filter(|offset| *offset >= 0)).collect())
    }

    /// Waits until the broker is one that clients find: it answers a metadata request with itself.
    pub(super) fn wait_until_ready(&self) -> Result<()> {
        let admin = self.admin()?;
        wait("the broker to answer", || {
            self.server().check_alive()?;
            Ok(admin.inner().fetch_metadata(None, Duration::from_millis(500)).is_ok_and(|it| !it.brokers().is_empty()))
        })
        .with_context(|| format!("the broker's log ends with:\n{}", self.server().log_tail()))
    }

    fn wait_for_partitions(&self, topic: &str, partitions: i32) -> Result<()> {
        let admin = self.admin()?;
        wait("the topic's leaders", || {
            let metadata = admin.inner().fetch_metadata(Some(topic), Duration::from_secs(5))?;
            let found = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
            Ok(found.len() == usize::try_from(partitions)? && found.iter().all(|partition| partition.leader() >= 0))
        })
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client().create()?)
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
}

fn refused((topic, code): (String, rdkafka::types::RDKafkaErrorCode)) -> anyhow::Error {
    anyhow!("the broker refused `{topic}`: {code}")
}

/// The admin client answers by futures, from a thread of its own; all here is synchronous.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().build()?.block_on(future))
}

/// Asks until the answer is yes.
pub(super) fn wait(what: &str, mut is_done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_done()? {
        ensure!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
