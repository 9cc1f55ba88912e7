//! A Kafka broker inside the process, for `tidemill demo` and for tests: librdkafka's mock cluster.
//!
//! It keeps the records as the producer sent them, so their timestamps are CreateTime; it knows no topic configurations
//! and no offsets by time, and keeps about 5 MB of each partition.

use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
};
use std::time::Duration;

use super::fault::Fault;

/// How long a full queue, or the last records, may take to be taken by the broker in the same process.
const PATIENCE: Duration = Duration::from_secs(5);

/// A cluster of one broker; it ends when this is dropped.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl EmbeddedBroker {
    /// Starts the broker on a free port.
    ///
    /// # Errors
    /// [`Fault::Client`] when librdkafka cannot.
    pub fn start() -> Result<Self, Fault> {
        Ok(Self { cluster: MockCluster::new(1).map_err(Fault::Client)? })
    }

    /// Its `host:port`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// [`Fault::Client`] when it exists.
    pub fn create_topic(&self, topic: &str, partitions: i32) -> Result<(), Fault> {
        self.cluster.create_topic(topic, partitions, 1).map_err(Fault::Client)
    }

    /// Something to fill a topic with; it may go to another thread.
    ///
    /// # Errors
    /// [`Fault::Client`] when librdkafka cannot make it.
    pub fn producer(&self, topic: &str) -> Result<TopicProducer, Fault> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap()).set("linger.ms", "5");
        Ok(TopicProducer { topic: topic.to_owned(), producer: config.create().map_err(Fault::Client)? })
    }
}

/// Produces to one topic.
pub struct TopicProducer {
    topic: String,
    producer: BaseProducer,
}

impl TopicProducer {
    /// Sends a record; its key chooses the partition. `timestamp_ms` is its CreateTime, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`Fault::Client`] when the broker takes nothing any more.
    pub fn send(&self, key: &str, payload: &[u8], timestamp_ms: i64) -> Result<(), Fault> {
        let mut record = BaseRecord::to(&self.topic).key(key).payload(payload).timestamp(timestamp_ms);
        loop {
            match self.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.producer.flush(PATIENCE).map_err(Fault::Client)?;
                    record = back;
                }
                Err((error, _)) => return Err(Fault::Client(error)),
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(())
    }

    /// Returns when the broker has every record.
    ///
    /// # Errors
    /// [`Fault::Client`] when it takes longer than a few seconds.
    pub fn flush(&self) -> Result<(), Fault> {
        self.producer.flush(PATIENCE).map_err(Fault::Client)
    }
}
