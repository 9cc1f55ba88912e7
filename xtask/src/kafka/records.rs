//! Records: produced fast, read back whole.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use super::Broker;

/// Of one answer, not of the whole: a broker that says nothing for this long has hung.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record to produce.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The partition it goes to.
    pub partition: i32,
    /// None is Kafka's null key.
    pub key: Option<Vec<u8>>,
    /// None is a tombstone.
    pub value: Option<Vec<u8>>,
    /// In this order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970, what a CreateTime topic keeps; none: the producer's clock.
    pub timestamp_ms: Option<i64>,
}

impl Record {
    /// A value for a partition; no key, no headers.
    pub fn new(partition: i32, value: impl Into<Vec<u8>>) -> Self {
        Self { partition, value: Some(value.into()), ..Self::default() }
    }

    /// The same with a key.
    #[must_use]
    pub fn with_key(self, key: impl Into<Vec<u8>>) -> Self {
        Self { key: Some(key.into()), ..self }
    }
}

impl Broker {
    /// Produces records, each partition's in this order and none twice; returns when all are acknowledged.
    ///
    /// # Errors
    /// When a record is refused; the others may have been written.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = Record>) -> Result<()> {
        self.produce_with(&[], topic, records)
    }

    /// [`Broker::produce`] with producer settings of its own, such as `("compression.type", "zstd")`.
    ///
    /// # Errors
    /// As [`Broker::produce`], and when a setting is wrong.
    pub fn produce_with(
        &self,
        settings: &[(&str, &str)],
        topic: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<()> {
        let mut config = self.client();
        config
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("message.max.bytes", "100000000")
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "262144");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer: BaseProducer<FirstFailure> = config.create_with_context(FirstFailure::default())?;
        for (i, record) in records.into_iter().enumerate() {
            enqueue(&producer, topic, &record)?;
            if i % 1_000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(PATIENCE).context("not all records were acknowledged")?;
        match producer.context().take() {
            Some(failure) => Err(failure).with_context(|| format!("`{topic}` refused a record")),
            None => Ok(()),
        }
    }

    /// All that a `read_committed` consumer sees of a topic up to its end, ordered by partition and offset.
    ///
    /// # Errors
    /// When there is no such topic or the broker stops answering.
    pub fn read(&self, topic: &str) -> Result<Vec<OwnedMessage>> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", "xtask-read")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "50")
            .set("fetch.message.max.bytes", "100000000")
            .create()?;
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
        let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
        ensure!(!partitions.is_empty(), "there is no topic `{topic}`");
        let mut assignment = TopicPartitionList::new();
        for partition in partitions {
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;

        let mut messages = Vec::new();
        let mut unfinished = partitions.len();
        while unfinished > 0 {
            match consumer.poll(PATIENCE).context("the broker stopped answering")? {
                Ok(message) => messages.push(message.detach()),
                Err(KafkaError::PartitionEOF(_)) => unfinished -= 1,
                Err(error) => bail!(error),
            }
        }
        messages.sort_by_key(|message| (message.partition(), message.offset()));
        Ok(messages)
    }
}

/// Hands a record to the producer, waiting while its queue is full.
fn enqueue(producer: &BaseProducer<FirstFailure>, topic: &str, record: &Record) -> Result<()> {
    let mut base = BaseRecord::to(topic).partition(record.partition);
    base.key = record.key.as_deref();
    base.payload = record.value.as_deref();
    base.timestamp = record.timestamp_ms;
    if !record.headers.is_empty() {
        let headers = record.headers.iter().map(|(key, value)| Header { key, value: Some(value) });
        base.headers = Some(headers.fold(OwnedHeaders::new(), OwnedHeaders::insert));
    }
    loop {
        match producer.send(base) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                base = refused;
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => return Err(error).with_context(|| format!("`{topic}` refused a record")),
        }
    }
}

/// Remembers the first record that was not delivered.
#[derive(Default)]
struct FirstFailure(Mutex<Option<KafkaError>>);

impl FirstFailure {
    fn take(&self) -> Option<KafkaError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for FirstFailure {}

impl ProducerContext<NoCustomPartitioner> for FirstFailure {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}
