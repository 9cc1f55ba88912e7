//! The spec as it is typed. The comments here are what editors show (`tidemill schema`).
//!
//! No field is required by serde, so that [`super::deserialize`] can go on after a mistake; what must be there is marked
//! `required` for the JSON Schema and checked in [`super::validate`].

mod format;

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use tidemill_certs::SecretRef;

use super::{
    columns::ColumnType,
    job::{
        Compatibility, Delivery, Fetch, Isolation, LatePolicy, OnBadRecord, OnFunctionError, OnOutputError, Partitioner,
    },
    named::Named,
    units::{ByteSize, Duration},
};
use crate::schedule::CatchUp;

pub(super) use format::{
    AvroCodec, AvroFraming, IdFraming, ProtobufFraming, RawAvro, RawCompression, RawCsv, RawFormat, RawJson,
    RawProtobuf, RawRegistry,
};

/// A tidemill job: inputs, outputs and a query.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(title = "tidemill job", rename = "Job", extend("required" = ["name", "inputs", "outputs"]))]
pub(super) struct RawJob {
    /// The job's name: letters, digits, `.`, `_`, `-`. Default consumer group, label of metrics.
    pub(super) name: Option<String>,
    /// What the query reads, by the name it has in the query.
    #[serde(default)]
    pub(super) inputs: Named<RawInput>,
    /// What the query writes, by the name it has in the query.
    #[serde(default)]
    pub(super) outputs: Named<RawOutput>,
    /// The Azure key vault of `{key_vault: NAME}` references.
    pub(super) key_vault: Option<RawKeyVault>,
    /// Where records go that could not be processed. Default: the directory `./dead-letters`.
    pub(super) dead_letters: Option<RawDeadLetters>,
    /// Functions in JavaScript, called as `udf.name(x)` or, where they make aggregates, as `uda.name(x)`.
    #[serde(default)]
    pub(super) functions: Named<RawFunction>,
    /// The policies for `TIMESTAMP BY`.
    #[serde(default)]
    pub(super) time: RawTime,
    /// How far this machine's clock may be off; used where no record has told the broker's time yet.
    #[serde(default = "clock_uncertainty")]
    pub(super) clock_uncertainty: Duration,
    /// Where the job's state is kept.
    #[serde(default)]
    pub(super) state: RawState,
    /// Worker threads. Default: one for each core.
    #[schemars(range(min = 1))]
    pub(super) workers: Option<i64>,
    /// The budget for queues, batches and state. What is on its way is bounded by pauses: at the limit partitions are not read; what
    /// windows and joins keep may take half of it: a job that has to keep more ends and says which step.
    #[serde(default = "memory")]
    pub(super) memory: ByteSize,
    /// When `tidemill schedule` runs the job: each time over the records that came in since the time before.
    pub(super) schedule: Option<RawSchedule>,
    /// The range of time that a scheduled run reads; `[previous, now)` is the only one.
    pub(super) range: Option<String>,
    /// The level of Azure Stream Analytics' compatibility that the query was written for, in quotes: below "1.2" booleans of
    /// payloads are 0 and 1, and by "1.0" the columns of outputs are named in lower case.
    #[serde(default)]
    pub(super) compatibility: Compatibility,
    /// The query.
    pub(super) query: Option<String>,
    /// The file of the query, in the place of `query`.
    pub(super) query_file: Option<String>,
}

/// An input: one of `kafka`, `file`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Input")]
pub(super) struct RawInput {
    /// Topics of a Kafka cluster.
    pub(super) kafka: Option<RawKafkaInput>,
    /// Files.
    pub(super) file: Option<RawFileInput>,
    /// Whose timestamp is a record's arrival, the event time unless the query says `TIMESTAMP BY`. Default:
    /// `log_append_time`, which makes results repeatable.
    pub(super) timestamp: Option<RawTimestamp>,
    /// How far the watermark of a partition without records stays behind the broker's clock; covers replication lag up to
    /// that.
    #[schemars(extend("default" = "2s"))]
    pub(super) idle_margin: Option<Duration>,
    /// How records are decoded. Default: `json`.
    pub(super) format: Option<RawFormat>,
    /// The columns and their types, `{user: string, amount: double}`. Default: inferred from a sample, for the columns
    /// that the query names.
    pub(super) schema: Option<Named<ColumnType>>,
    /// How records, or whole files, are packed. Default: not at all.
    pub(super) compression: Option<RawCompression>,
    /// What a packed record, an Avro block or a Parquet record may hold; more is a bad record.
    #[schemars(extend("default" = "256MiB"))]
    pub(super) max_unpacked: Option<ByteSize>,
    /// What becomes of a record that cannot be decoded.
    #[serde(default)]
    pub(super) on_bad_record: OnBadRecord,
    /// Whether it is reference data: a table, read whole before the first row, that streams are joined with. Of a topic's
    /// records the last one of a key counts, and none where that has no value.
    #[serde(default)]
    pub(super) reference: bool,
    /// How often reference data is read again. Default: never.
    pub(super) refresh: Option<Duration>,
    /// The share of bad records above which the job stops, `1%`; judged from 1,000 records on. Default: none.
    pub(super) max_bad: Option<String>,
}

/// A function of the query.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Function")]
pub(super) struct RawFunction {
    /// Its text.
    #[schemars(required)]
    pub(super) javascript: Option<RawJavaScript>,
}

/// A JavaScript text that declares the function to call: `main`, or the only one. One of `file`, `source`. A call may take
/// 1 s, and the function may hold 64 MiB in each thread.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "JavaScript")]
pub(super) struct RawJavaScript {
    /// The file of the text, relative to the spec.
    pub(super) file: Option<String>,
    /// The text.
    pub(super) source: Option<String>,
    /// What becomes of a call that throws or takes too long.
    #[serde(default)]
    pub(super) on_error: OnFunctionError,
}

/// Topics of a Kafka cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "KafkaInput", extend("required" = ["brokers"]))]
pub(super) struct RawKafkaInput {
    /// Some of the cluster's brokers, `host:port`; the others are found.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) brokers: Vec<String>,
    /// The topic.
    pub(super) topic: Option<String>,
    /// The topics, in the place of `topic`.
    pub(super) topics: Option<Vec<String>>,
    /// Where to start when there is nothing to resume from.
    #[serde(default)]
    pub(super) start: RawStart,
    /// The consumer group. Default: the job's name.
    pub(super) group: Option<String>,
    /// Which records of transactions are read.
    #[serde(default)]
    pub(super) isolation: Isolation,
    /// Which implementation fetches.
    #[serde(default)]
    pub(super) fetch: Fetch,
    /// By which rule the producers chose the partition of a key, and always have, with the partitions there are: then `tidemill sql`
    /// reads one partition for `_key = 'x'`. Default: all are read.
    pub(super) partitioner: Option<Partitioner>,
    /// Where this job runs, as the brokers' `broker.rack` says it: records are read from the nearest replica. Default: from
    /// the leaders.
    pub(super) rack: Option<String>,
    /// How connections are secured. Default: not at all.
    pub(super) security: Option<RawSecurity>,
}

/// Files.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "FileInput")]
pub(super) struct RawFileInput {
    /// A path, relative to the spec; the file's name may be a pattern such as `*.jsonl`.
    #[schemars(required)]
    pub(super) path: Option<String>,
}

/// Where reading starts.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Start")]
pub(super) enum RawStart {
    /// At the oldest record.
    #[default]
    Earliest,
    /// Behind the newest record.
    Latest,
    /// At the first record of this time (RFC 3339, `2026-11-20T10:00:00Z`) or later.
    #[serde(skip_serializing)]
    Time(Instant),
    /// At these offsets by partition; partitions that are not named are read from their beginning.
    #[serde(skip_serializing)]
    Offsets(BTreeMap<i32, i64>),
}

/// An instant in RFC 3339.
#[derive(Debug, JsonSchema)]
pub(super) struct Instant(#[schemars(with = "String")] pub(super) DateTime<FixedOffset>);

impl<'de> Deserialize<'de> for Instant {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text).map(Instant).map_err(|_| {
            serde::de::Error::custom(format!("expected a time such as `2026-11-20T10:00:00Z`, found `{text}`"))
        })
    }
}

/// How connections are secured. A broker's certificate is always checked: that cannot be switched off.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Security")]
pub(super) struct RawSecurity {
    /// What is spoken. Default: `none`.
    pub(super) protocol: Option<Protocol>,
    /// The SASL mechanism, for `sasl_plaintext` and `sasl_ssl`.
    pub(super) mechanism: Option<Mechanism>,
    /// The user, for `PLAIN` and `SCRAM`.
    pub(super) username: Option<String>,
    /// The user's password, by reference.
    pub(super) password: Option<SecretRef>,
    /// The authorities that the brokers' certificates are checked against, as PEM. Default: those of the system.
    pub(super) ca: Option<SecretRef>,
    /// Our certificate with its issuers, as PEM or PKCS#12; for `mtls`, and for `sasl_ssl` where brokers want both.
    pub(super) certificate: Option<SecretRef>,
    /// The certificate's key, as PEM. Default: the one that `certificate` holds.
    pub(super) key: Option<SecretRef>,
    /// The password of `key`, or of a `certificate` that is PKCS#12.
    pub(super) key_password: Option<SecretRef>,
    /// For `OAUTHBEARER`: a token (JWT) that something else puts there; read again when it nears its end.
    pub(super) token: Option<SecretRef>,
    /// For `OAUTHBEARER`: tokens from an identity provider.
    pub(super) oidc: Option<RawOidc>,
    /// For `OAUTHBEARER`: tokens of an Azure identity, as Event Hubs takes them.
    pub(super) azure: Option<RawAzure>,
    /// For `AWS_MSK_IAM`. Default: the region that the brokers' names tell, the keys of the environment, the machine or the pod.
    pub(super) aws: Option<RawAws>,
    /// For `GSSAPI`.
    pub(super) kerberos: Option<RawKerberos>,
    /// How often the secrets are fetched again; when they have changed and brokers take them, connections are made anew with them.
    /// Default: `1h`.
    pub(super) refresh: Option<Duration>,
}

/// Tokens that an identity provider gives for a client's credentials (OAuth 2.0).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Oidc")]
pub(super) struct RawOidc {
    /// The provider's token endpoint, `https://...`.
    #[schemars(required)]
    pub(super) token_url: Option<String>,
    /// Who we are to it.
    #[schemars(required)]
    pub(super) client_id: Option<String>,
    /// The client's secret, by reference.
    pub(super) client_secret: Option<SecretRef>,
    /// In its place: a private key, RSA or P-256, that signs a statement of who we are.
    pub(super) key: Option<SecretRef>,
    /// The password of `key`.
    pub(super) key_password: Option<SecretRef>,
    /// The name of `key` at the provider.
    pub(super) key_id: Option<String>,
    /// What the token is to allow.
    pub(super) scope: Option<String>,
    /// For whom the token is to be.
    pub(super) audience: Option<String>,
    /// The authorities that the provider's certificate is checked against, as PEM. Default: those of the system.
    pub(super) ca: Option<SecretRef>,
}

/// Tokens of an Azure identity.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Azure")]
pub(super) struct RawAzure {
    /// Who we are. Default: `system`.
    #[serde(default)]
    pub(super) identity: RawIdentity,
    /// What the token is for. Default: the brokers' namespace of Event Hubs.
    pub(super) scope: Option<String>,
}

/// Options of `AWS_MSK_IAM`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Aws")]
pub(super) struct RawAws {
    /// The cluster's region, `eu-west-1`. Default: the one in the brokers' names.
    pub(super) region: Option<String>,
    /// Whose key it is. Default: the keys of the environment (`AWS_ACCESS_KEY_ID` and the like), of a web identity, a container
    /// or the machine, in this order.
    pub(super) access_key_id: Option<String>,
    /// The secret key, by reference.
    pub(super) secret_access_key: Option<SecretRef>,
    /// The token of a session, by reference.
    pub(super) session_token: Option<SecretRef>,
}

/// Options of `GSSAPI`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Kerberos")]
pub(super) struct RawKerberos {
    /// The service part of the brokers' principals.
    #[serde(default = "kerberos_service")]
    pub(super) service: String,
    /// Who we are. Default: who the machine is logged in as.
    pub(super) principal: Option<String>,
    /// The file of the principal's key, relative to the spec. Default: the machine's own.
    pub(super) keytab: Option<String>,
}

/// The security protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Protocol {
    /// Plain text, no authentication.
    None,
    /// SASL over plain text.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
    /// TLS with a client certificate.
    Mtls,
}

/// The SASL mechanism.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(super) enum Mechanism {
    /// User and password, sent as they are.
    #[serde(rename = "PLAIN")]
    Plain,
    /// User and password, proved without being sent.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with a longer hash.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// A token.
    #[serde(rename = "OAUTHBEARER")]
    OauthBearer,
    /// Tokens that are signed with keys of AWS, for Amazon MSK.
    #[serde(rename = "AWS_MSK_IAM")]
    AwsMskIam,
    /// Kerberos; takes a build with the feature `gssapi`.
    #[serde(rename = "GSSAPI")]
    Gssapi,
}

/// Whose timestamp is a record's arrival.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Timestamp")]
pub(super) enum RawTimestamp {
    /// The broker's, when it appended the record.
    LogAppendTime,
    /// The producer's.
    CreateTime,
}

/// An output: one of `kafka`, `file`, `stdout`, `discard`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Output")]
pub(super) struct RawOutput {
    /// A topic of a Kafka cluster.
    pub(super) kafka: Option<RawKafkaOutput>,
    /// Files in a directory; a reader never sees a half-written one.
    pub(super) file: Option<RawFileOutput>,
    /// The terminal: a table, or JSON lines when piped.
    #[serde(default, deserialize_with = "even_if_empty")]
    pub(super) stdout: Option<Nothing>,
    /// Nowhere; rows are counted.
    #[serde(default, deserialize_with = "even_if_empty")]
    pub(super) discard: Option<Nothing>,
    /// How rows are encoded. Default: `json`.
    pub(super) format: Option<RawFormat>,
    /// How records, or whole files, are packed. Default: not at all.
    pub(super) compression: Option<RawCompression>,
    /// What happens when a row cannot be delivered.
    #[serde(default)]
    pub(super) on_output_error: OnOutputError,
}

/// `{}`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "`{}`")]
pub(super) struct Nothing {}

/// `stdout:` alone means `stdout: {}`.
fn even_if_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Nothing>, D::Error> {
    Ok(Some(Option::deserialize(deserializer)?.unwrap_or_default()))
}

/// A topic of a Kafka cluster.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "KafkaOutput", extend("required" = ["brokers", "topic"]))]
pub(super) struct RawKafkaOutput {
    /// Some of the cluster's brokers, `host:port`; the others are found.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(super) brokers: Vec<String>,
    /// The topic.
    pub(super) topic: Option<String>,
    /// The column whose value is the record's key. Default: no key.
    pub(super) key: Option<String>,
    /// What a crash may do to it.
    #[serde(default)]
    pub(super) delivery: Delivery,
    /// How connections are secured. Default: not at all.
    pub(super) security: Option<RawSecurity>,
}

/// Files in a directory.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "FileOutput")]
pub(super) struct RawFileOutput {
    /// The directory, relative to the spec.
    #[schemars(required)]
    pub(super) path: Option<String>,
    /// A file is closed when it is this large.
    #[serde(default = "roll_size")]
    pub(super) roll_size: ByteSize,
    /// A file is closed when it is this old; not for `schedule`, whose runs show their files together.
    #[schemars(extend("default" = "1m"))]
    pub(super) roll_every: Option<Duration>,
    /// Folders of the names that Hive gives them (`country=FR/day=2026-11-28/`), for `schedule`: columns, and units of times in UTC, `year(at)`, `month(at)`, `day(at)`, `hour(at)`.
    #[serde(default)]
    pub(super) partition_by: Vec<String>,
    /// The order of rows in each file, for `schedule`: columns, `at desc`. What waits to be put in order takes an eighth of `memory`: a file may be smaller than `roll_size` for it.
    #[serde(default)]
    pub(super) sort_by: Vec<String>,
}

impl RawFileOutput {
    /// The fields that say how rows are laid out, and whether they are given.
    pub(super) fn layout(&self) -> [(&'static str, bool); 2] {
        [("partition_by", !self.partition_by.is_empty()), ("sort_by", !self.sort_by.is_empty())]
    }
}

/// Where dead letters go: one of `file`, `kafka`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "DeadLetters")]
pub(super) struct RawDeadLetters {
    /// Files in a directory.
    pub(super) file: Option<RawFileOutput>,
    /// A topic, which gets the records themselves, with what is known of them in headers `tidemill.*`; `key` has no place in it.
    pub(super) kafka: Option<RawKafkaOutput>,
    /// How files hold them. Default: JSON lines.
    pub(super) format: Option<LetterFormat>,
}

/// How files hold dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum LetterFormat {
    /// An object a line; bytes as text and as base64.
    Json,
    /// Columns.
    Parquet,
}

/// The policies for `TIMESTAMP BY`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Time")]
pub(super) struct RawTime {
    /// A row whose event time is older than its arrival by more is late.
    pub(super) late_arrival: Duration,
    /// How far behind the largest event time a row may come. Default: `0s`; on inputs with `timestamp: create_time` `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) out_of_order: Option<Duration>,
    /// What becomes of rows that are late or out of order.
    pub(super) policy: LatePolicy,
}

impl Default for RawTime {
    fn default() -> Self {
        RawTime { late_arrival: Duration::from_secs(5), out_of_order: None, policy: LatePolicy::Adjust }
    }
}

/// Where the job's state is kept.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "State")]
pub(super) struct RawState {
    /// A directory, relative to the spec; or a bucket, `s3://bucket/folder`, `gs://bucket/folder`, `az://container/folder`,
    /// `abfss://container@account.dfs.core.windows.net/folder`. Who we are there comes from the environment
    /// (`AWS_ACCESS_KEY_ID`, `AZURE_STORAGE_ACCOUNT_NAME`, `GOOGLE_SERVICE_ACCOUNT` and the like).
    pub(super) store: String,
    /// How often an epoch is committed; bounds the latency of outputs with `exactly_once`, and what others repeat after a
    /// crash.
    pub(super) epoch: Duration,
    /// How often state is written, where a restart would otherwise read much again.
    pub(super) snapshot: Duration,
}

impl Default for RawState {
    fn default() -> Self {
        RawState { store: "./state".to_owned(), epoch: Duration::from_secs(1), snapshot: Duration::from_secs(60) }
    }
}

/// The key vault.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "KeyVault")]
pub(super) struct RawKeyVault {
    /// The vault's name, or its address, `https://my-vault.vault.azure.net`.
    #[schemars(required)]
    pub(super) vault: Option<String>,
    /// Who we are there. Default: `system`.
    #[serde(default)]
    pub(super) identity: RawIdentity,
}

/// An Azure identity.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Identity")]
pub(super) enum RawIdentity {
    /// The machine's own managed identity.
    #[default]
    System,
    /// The workload identity of a pod.
    Workload,
    /// Whoever is logged in.
    AzureCli,
    /// The user-assigned identity of this client.
    ClientId(String),
    /// The user-assigned identity of this object.
    ObjectId(String),
    /// The user-assigned identity of this resource.
    ResourceId(String),
}

/// When the job runs: one of `cron`, `every`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Schedule")]
pub(super) struct RawSchedule {
    /// Five fields: minute, hour, day, month, day of the week.
    pub(super) cron: Option<String>,
    /// A fixed distance.
    pub(super) every: Option<Duration>,
    /// The zone of `cron`, `Europe/Paris`. Default: UTC.
    pub(super) zone: Option<String>,
    /// What becomes of runs that were missed.
    #[serde(default)]
    pub(super) catch_up: CatchUp,
    /// So many runs are kept in the ledger one by one, with offsets and counts. Of older ones it has the periods that they make up, so that none is ever run twice.
    #[serde(default = "keep_runs")]
    #[schemars(range(min = 1))]
    pub(super) keep_runs: u32,
}

fn keep_runs() -> u32 {
    1_000
}

fn kerberos_service() -> String {
    "kafka".to_owned()
}

fn clock_uncertainty() -> Duration {
    Duration::from_secs(5)
}

fn memory() -> ByteSize {
    ByteSize::from_mib(1024)
}

pub(super) fn roll_size() -> ByteSize {
    ByteSize::from_mib(128)
}
