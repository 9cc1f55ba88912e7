//! What a job says about Kafka, and how it is said to librdkafka.

use std::collections::BTreeMap;

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use tidemill_engine::{EngineError, EventTime};

use super::{fault::Fault, security::Security};

/// librdkafka's own limit of a batch; Kafka's default limit of a record is a little more.
const BATCH_BYTES: usize = 1_000_000;

/// Where a cluster is and how to talk to it.
#[derive(Clone, Debug, Default)]
pub struct KafkaConnection {
    /// `host:port` of brokers to ask first.
    pub brokers: Vec<String>,
    /// How the connection is protected.
    pub security: Security,
}

impl KafkaConnection {
    /// The brokers as tools take them: `a:9092,b:9092`.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        self.brokers.join(",")
    }

    /// What every client of this cluster has in common.
    pub(super) fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        self.security.configure(&mut config);
        config
            .set("bootstrap.servers", self.bootstrap())
            .set("client.id", "tidemill")
            // A broker that comes back is found within a second, not ten.
            .set("reconnect.backoff.max.ms", "1000")
            // A connection closed at its first request, which names its cause, is logged at this level.
            .set_log_level(RDKafkaLogLevel::Info);
        config
    }
}

/// Which records of transactions are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Those of committed transactions only.
    #[default]
    ReadCommitted,
    /// All, of open and aborted ones too.
    ReadUncommitted,
}

impl Isolation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ReadCommitted => "read_committed",
            Self::ReadUncommitted => "read_uncommitted",
        }
    }
}

/// Where reading starts when the group has no committed offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is still there.
    Earliest,
    /// Behind the last record.
    Latest,
    /// At the first record of each partition whose timestamp is this or later; at its end where there is none.
    Time(EventTime),
    /// At these offsets by partition number, in each topic of the input; a partition that is not named is read from its
    /// beginning.
    Offsets(BTreeMap<i32, i64>),
}

/// An input of a job, as the source needs it.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// Name of the input in the spec, for messages.
    pub input: String,
    /// The cluster.
    pub connection: KafkaConnection,
    /// One or more topics.
    pub topics: Vec<String>,
    /// Which records of transactions are read.
    pub isolation: Isolation,
    /// Whether records that the producer stamped are accepted. Otherwise a topic or a record without LogAppendTime is
    /// refused.
    pub accept_create_time: bool,
    /// KiB that may be fetched ahead for each worker; one fetch answer may go beyond it.
    pub queue_kib: usize,
    /// Which implementation fetches.
    pub fetch: Fetch,
    /// Where we are, as the brokers' `broker.rack` says it: records are read from the nearest replica.
    pub rack: Option<String>,
}

/// Which implementation fetches records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fetch {
    /// Ours, and librdkafka where ours does not reach; the log says why.
    #[default]
    Auto,
    /// Our own fetch requests.
    Own,
    /// librdkafka.
    Librdkafka,
}

impl SourceSettings {
    /// A fault as the engine's error of this input; a missing right with whom it is missing to.
    pub(super) fn error(&self, fault: Fault) -> EngineError {
        fault.by(&self.connection, "Read").of_input(&self.input)
    }

    /// Settings of a client that fetches records.
    pub(super) fn fetch_config(&self) -> ClientConfig {
        let mut config = self.connection.client_config();
        config
            .set("isolation.level", self.isolation.as_str())
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            // Offsets that are gone are the user's decision, not ours.
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            // The default makes fetching sleep a second whenever the queue is full.
            .set("fetch.queue.backoff.ms", "1")
            .set("fetch.wait.max.ms", "50")
            .set("client.rack", self.rack.as_deref().unwrap_or_default())
            .set("queued.min.messages", "100000")
            .set("queued.max.messages.kbytes", self.queue_kib.clamp(64, 2_097_151).to_string());
        config
    }
}

/// An output to a topic, as the sink needs it.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    /// Name of the output in the spec, for messages.
    pub output: String,
    /// The cluster.
    pub connection: KafkaConnection,
    /// The topic; it must exist.
    pub topic: String,
    /// Column whose value, as text, is the key of each record. A null is no key.
    pub key: Option<String>,
    /// KiB of rows that may wait for their acknowledgement; more make `write` wait.
    pub queue_kib: usize,
}

/// Settings of a producer; `limit` is the largest record that the topics take, if known.
pub(super) fn produce_config(connection: &KafkaConnection, queue_kib: usize, limit: Option<usize>) -> ClientConfig {
    let mut config = connection.client_config();
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        // Keys land where Java's producers put them.
        .set("partitioner", "murmur2_random")
        // The topic's own limit decides what is too large.
        .set("message.max.bytes", "100000000")
        // It holds for batches too, which are refused whole.
        .set("batch.size", limit.map_or(BATCH_BYTES, |limit| limit.clamp(1, BATCH_BYTES)).to_string())
        // A broker that is away is waited for; back-pressure holds the job meanwhile.
        .set("message.timeout.ms", "0")
        .set("queue.buffering.max.kbytes", queue_kib.clamp(64, 2_097_151).to_string());
    config
}
