//! The job that cannot be invalid: what `parse` makes of a spec, and what the runner runs.
//!
//! Paths are resolved against the spec's directory, defaults are filled in, names and addresses are well-formed. What
//! only a connection or the disk can tell (does the topic exist, can the directory be written) is not known yet.

use std::{collections::BTreeMap, fmt, num::NonZeroUsize, path::PathBuf};

use arrow::datatypes::SchemaRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemill_certs::KeyVaultSettings;
use tidemill_connectors::{
    files::Layout,
    formats::{LeftOut, compression::Compression},
    kafka::SecuritySettings,
};
use tidemill_engine::EventTime;
use tidemill_queries::{Script, UserFunctions};

use super::{
    format::{InputFormat, OutputFormat},
    problem::Position,
    units::{ByteSize, Duration},
};
use crate::schedule::Pipeline;

/// A job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Job {
    /// Its name: letters, digits, `.`, `_`, `-`.
    pub name: String,
    /// The inputs in the order of the spec; at least one.
    pub inputs: Vec<Input>,
    /// The outputs in the order of the spec; at least one.
    pub outputs: Vec<Output>,
    /// Where `{key_vault: NAME}` references lead.
    pub key_vault: Option<KeyVaultSettings>,
    /// The functions that the query calls beside those of the language.
    pub functions: UserFunctions,
    /// Where dead letters go, as the output `dead_letters`: files or a topic.
    pub dead_letters: Output,
    /// The policies for `TIMESTAMP BY`.
    pub time: Time,
    /// How far the wall clock may be off where no record told the broker's time.
    pub clock_uncertainty: Duration,
    /// Where the job's state is kept.
    pub state: State,
    /// Worker threads; `None`: one for each core.
    pub workers: Option<NonZeroUsize>,
    /// The budget for queues, decode buffers and state.
    pub memory: ByteSize,
    /// The level of compatibility that the query was written for.
    pub compatibility: Compatibility,
    /// When it is run, where that is not for the user to say.
    pub schedule: Option<Pipeline>,
    /// The query.
    pub query: Query,
}

impl Job {
    /// The input of this name.
    #[must_use]
    pub fn input(&self, name: &str) -> Option<&Input> {
        self.inputs.iter().find(|input| input.name == name)
    }

    /// The outputs, and behind them that of the dead letters.
    pub fn destinations(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().chain([&self.dead_letters])
    }

    /// The output of this name.
    #[must_use]
    pub fn output(&self, name: &str) -> Option<&Output> {
        self.outputs.iter().find(|output| output.name == name)
    }
}

/// An input.
#[derive(Clone, Debug)]
pub struct Input {
    /// Its name in the query; no two differ only in case.
    pub name: String,
    /// Where its records come from.
    pub transport: InputTransport,
    /// How its records are decoded.
    pub format: InputFormat,
    /// How its records, or its files as wholes, are packed.
    pub compression: Option<Compression>,
    /// What a packed record, an Avro block or a Parquet record may hold.
    pub max_unpacked: ByteSize,
    /// The declared columns, or those that the format's own schema makes, all nullable; `None`: they are learned at start.
    pub schema: Option<SchemaRef>,
    /// Fields of the format's own schema that can be no column.
    pub left_out: Vec<LeftOut>,
    /// What becomes of a record that cannot be decoded.
    pub on_bad_record: OnBadRecord,
    /// The job stops when more records in a million are bad.
    pub max_bad_ppm: Option<u64>,
    /// Set when it is reference data.
    pub reference: Option<Reference>,
}

/// How reference data is kept.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// How often it is read again.
    pub refresh: Option<Duration>,
}

/// Where an input's records come from.
#[derive(Clone, Debug)]
pub enum InputTransport {
    /// Topics.
    Kafka(KafkaInput),
    /// Files.
    File(FileInput),
}

/// Topics as an input.
#[derive(Clone, Debug)]
pub struct KafkaInput {
    /// `host:port`; at least one.
    pub brokers: Vec<String>,
    /// At least one, without repetition.
    pub topics: Vec<String>,
    /// Where to start when there is nothing to resume from.
    pub start: Start,
    /// The consumer group.
    pub group: String,
    /// Which records of transactions are read.
    pub isolation: Isolation,
    /// Which implementation fetches.
    pub fetch: Fetch,
    /// By which rule the producers chose the partition of a key.
    pub partitioner: Option<Partitioner>,
    /// Where we are, as the brokers' `broker.rack` says it.
    pub rack: Option<String>,
    /// How the connection is secured.
    pub security: Box<SecuritySettings>,
    /// Whose timestamp is a record's arrival.
    pub timestamp: Timestamp,
    /// How far the watermark of an idle partition stays behind the broker's clock.
    pub idle_margin: Duration,
}

/// Files as an input.
#[derive(Clone, Debug)]
pub struct FileInput {
    /// A file, a directory, or a pattern: the last part may hold `*` and `?`.
    pub path: PathBuf,
}

/// Where reading starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    Earliest,
    /// Behind the newest record.
    Latest,
    /// At the first record whose timestamp is this or later.
    Time(EventTime),
    /// At these offsets by partition, each not negative; partitions that are not named are read from their beginning.
    /// There is one topic.
    Offsets(BTreeMap<i32, i64>),
}

/// Whose timestamp is a record's arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timestamp {
    /// The broker's, when it appended the record; a record with any other is refused.
    LogAppendTime,
    /// The producer's.
    CreateTime {
        /// How far behind the largest timestamp a record may come.
        out_of_order: Duration,
    },
}

/// An output.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its name in the query; no two differ only in case.
    pub name: String,
    /// Where its rows go.
    pub transport: OutputTransport,
    /// How its rows are encoded; of no effect on the terminal and nowhere.
    pub format: OutputFormat,
    /// How its records, or its files as wholes, are packed.
    pub compression: Option<Compression>,
    /// What happens when a row cannot be delivered.
    pub on_output_error: OnOutputError,
}

/// Where an output's rows go.
#[derive(Clone, Debug)]
pub enum OutputTransport {
    /// A topic.
    Kafka(KafkaOutput),
    /// Files.
    File(FileOutput),
    /// The terminal: a table, or JSON lines when piped.
    Stdout,
    /// Nowhere; rows are counted.
    Discard,
}

impl fmt::Display for OutputTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kafka(kafka) => write!(f, "topic {}", kafka.topic),
            Self::File(file) => file.path.display().fmt(f),
            Self::Stdout => f.write_str("the terminal"),
            Self::Discard => f.write_str("nowhere"),
        }
    }
}

/// A topic as an output.
#[derive(Clone, Debug)]
pub struct KafkaOutput {
    /// `host:port`; at least one.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// The column whose value is the record's key; `None`: no key.
    pub key: Option<String>,
    /// What a crash may do to it.
    pub delivery: Delivery,
    /// How the connection is secured.
    pub security: Box<SecuritySettings>,
}

/// Files as an output.
#[derive(Clone, Debug)]
pub struct FileOutput {
    /// The directory.
    pub path: PathBuf,
    /// A file is closed when it is this large.
    pub roll_size: ByteSize,
    /// A file is closed when it is this old.
    pub roll_every: Duration,
    /// Its folders, and the order of its rows.
    pub layout: Layout,
}

/// The policies for `TIMESTAMP BY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// A row whose event time is older than its arrival by more is late.
    pub late_arrival: Duration,
    /// How far behind the largest event time a row may come.
    pub out_of_order: Duration,
    /// What becomes of rows that are late or out of order.
    pub policy: LatePolicy,
}

/// Where the job's state is kept.
#[derive(Clone, Debug)]
pub struct State {
    /// Where.
    pub store: StateStore,
    /// How often an epoch is committed.
    pub epoch: Duration,
    /// How often state is written, where a restart would have much to read again.
    pub snapshot: Duration,
}

/// The place of the state store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateStore {
    /// A directory.
    Directory(PathBuf),
    /// A bucket and a folder in it, as an address: `s3://bucket/folder`.
    Url(String),
}

impl fmt::Display for StateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(url),
        }
    }
}

/// What a crash may do to an output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Each row comes once, in transactions; readers with `read_committed` see it when its epoch is committed.
    #[default]
    ExactlyOnce,
    /// Rows come as soon as they are there, and may come twice.
    AtLeastOnce,
}

/// The query: well-formed, and with the names of inputs and outputs that exist. Its columns are not looked at yet.
#[derive(Clone, Debug)]
pub struct Query {
    /// Its text.
    pub text: String,
    /// The text, parsed.
    pub script: Script,
    /// The spec's file, or the query's own, as it is to be named in messages.
    pub file: String,
    /// Where in that file its text begins.
    pub(super) start: Position,
    /// Where in that file each of its lines begins; empty where YAML has folded them.
    pub(super) lines: Vec<Position>,
}

/// Which records of transactions are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Those of committed transactions.
    #[default]
    ReadCommitted,
    /// All, those of open and aborted transactions too.
    ReadUncommitted,
}

/// Which implementation fetches records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fetch {
    /// The best that the brokers and the security allow.
    #[default]
    Auto,
    /// Our own fetch requests.
    Own,
    /// librdkafka.
    Rdkafka,
}

/// By which rule producers choose the partition of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// Java's clients, and librdkafka's `murmur2` and `murmur2_random`.
    Murmur2,
    /// librdkafka's default, `consistent_random`, and `consistent`.
    Crc32,
}

/// How much of a JSON record must be well-formed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// All of it.
    #[default]
    Full,
    /// What stands before the last column that the query names; faster.
    Lax,
}

/// What becomes of a call of a function that fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnFunctionError {
    /// The row's record goes where the input's bad records go (`on_bad_record`), as class `function`, and the job goes on.
    /// Behind a window or a join there is no record: then the dead letter holds the row.
    #[default]
    DeadLetter,
    /// The job stops, as for a CAST.
    Fail,
    /// The result is NULL, and the failure is counted.
    GiveNull,
}

/// What becomes of a record that cannot be decoded; it is counted in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnBadRecord {
    /// It is kept with its cause, and the job goes on.
    #[default]
    DeadLetter,
    /// The job stops.
    Fail,
    /// It is only counted.
    Drop,
}

/// What happens when a row cannot be delivered (too large, refused, not encodable).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOutputError {
    /// The job stops and names the row's key and the cause.
    #[default]
    Stop,
    /// The row is kept with its cause, and the job goes on.
    DeadLetter,
}

/// A level of Azure Stream Analytics' compatibility.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Compatibility {
    /// Booleans are 0 and 1; columns of outputs are named in lower case.
    #[serde(rename = "1.0")]
    V1_0,
    /// Booleans are 0 and 1.
    #[serde(rename = "1.1")]
    V1_1,
    /// Booleans are bits.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
}

/// What becomes of rows that are late or out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LatePolicy {
    /// Their event time moves up to the bound.
    #[default]
    Adjust,
    /// They are dropped, counted, and kept as dead letters of class `late`.
    Drop,
}
