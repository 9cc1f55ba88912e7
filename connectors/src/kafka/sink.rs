//! Rows as records of a topic, at least once or in a transaction: a flush returns when the cluster has acknowledged them all.

use std::{
    error::Error,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use arrow::{
    array::{Array, AsArray, BinaryArray},
    compute::cast,
    datatypes::DataType,
    record_batch::RecordBatch,
};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use tidemill_engine::{Clock, EngineError, ErrorKind, Result, sink::Sink};

use crate::formats::encode::{EncodedRows, MessageHeader, RowEncoder};

use super::{
    client::{Brokers, Reporter},
    cluster::Cluster,
    config::{Isolation, SinkSettings, produce_config},
    fault::Fault,
    transaction::Transaction,
};

/// Rows between two looks at the acknowledgements.
const SERVE_EVERY: usize = 1_000;
/// How long to wait for acknowledgements at a time.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);
/// What a batch and a record need beside key and value.
const OVERHEAD: usize = 128;

/// A row that Kafka did not take, as it was sent.
#[derive(Clone, Copy, Debug)]
pub struct RejectedRow<'a> {
    /// Key, if any.
    pub key: Option<&'a [u8]>,
    /// The encoded row.
    pub value: &'a [u8],
    /// Why.
    pub cause: &'a str,
}

/// Keeps a rejected row; called on the sink's thread. An error stops the job.
pub type KeepRejected = Box<dyn FnMut(&RejectedRow<'_>) -> Result<()> + Send>;

/// What to do with a row that is at fault itself (too large, refused by the topic's rules).
pub enum OnRejected {
    /// Stop the job with the row's key and the cause.
    Stop,
    /// Keep the row elsewhere and go on.
    DeadLetter(KeepRejected),
}

impl fmt::Debug for OnRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "Stop",
            Self::DeadLetter(_) => "DeadLetter",
        })
    }
}

/// Writes rows to a topic.
pub struct KafkaSink {
    settings: SinkSettings,
    producing: Producing,
    /// Sends rows one by one; made when a batch is refused for the sake of one of its rows.
    alone: Option<BaseProducer<Deliveries>>,
    brokers: Arc<Brokers>,
    encoder: Box<dyn RowEncoder>,
    /// Kept for its allocation.
    rows: EncodedRows,
    on_rejected: OnRejected,
}

/// How rows are sent.
enum Producing {
    /// By a producer of the sink's own: at least once.
    AtLeastOnce(BaseProducer<Deliveries>),
    /// In the transaction of the job's outputs on the cluster.
    InTransaction(Arc<Transaction>),
}

impl Producing {
    fn producer(&self) -> &BaseProducer<Deliveries> {
        match self {
            Self::AtLeastOnce(producer) => producer,
            Self::InTransaction(transaction) => &transaction.producer,
        }
    }
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, on_rejected, .. } = self;
        f.debug_struct("KafkaSink")
            .field("settings", settings)
            .field("on_rejected", on_rejected)
            .finish_non_exhaustive()
    }
}

impl KafkaSink {
    /// Contacts the cluster, and gives a sink that sends at least once.
    ///
    /// # Errors
    /// As [`KafkaSink::contact`] and [`KafkaSink::at_least_once`].
    pub fn connect(
        settings: SinkSettings,
        encoder: Box<dyn RowEncoder>,
        on_rejected: OnRejected,
        clock: &dyn Clock,
        wait: Duration,
    ) -> Result<Self> {
        let limit = Self::contact(&settings, clock, wait)?.limit;
        Self::at_least_once(settings, limit, encoder, on_rejected)
    }

    /// A sink that sends at least once; `limit` is the largest record that the topic takes, if known ([`KafkaSink::contact`]).
    ///
    /// # Errors
    /// [`EngineError::Sink`] when a client cannot be made.
    pub fn at_least_once(
        settings: SinkSettings,
        limit: Option<usize>,
        encoder: Box<dyn RowEncoder>,
        on_rejected: OnRejected,
    ) -> Result<Self> {
        let brokers = Brokers::new(format!("output `{}`", settings.output), &settings.connection);
        let config = produce_config(&settings.connection, settings.queue_kib, limit);
        let producer = Deliveries::producer(&config, &brokers).map_err(|fault| fault.of_output(&settings.output))?;
        brokers.contacted();
        let (producing, rows) = (Producing::AtLeastOnce(producer), EncodedRows::default());
        Ok(Self { settings, producing, alone: None, brokers, encoder, rows, on_rejected })
    }

    /// A sink whose rows are part of a transaction. A row that is larger than every topic of the transaction allows is rejected
    /// before it is sent, by its size before compression: a refusal by the broker would void its neighbours.
    #[must_use]
    pub fn in_transaction(
        settings: SinkSettings,
        transaction: Arc<Transaction>,
        encoder: Box<dyn RowEncoder>,
        on_rejected: OnRejected,
    ) -> Self {
        let brokers = Brokers::new(format!("output `{}`", settings.output), &settings.connection);
        let (producing, rows) = (Producing::InTransaction(transaction), EncodedRows::default());
        Self { settings, producing, alone: None, brokers, encoder, rows, on_rejected }
    }

    /// Contacts the cluster and checks that the topic exists. Gives the largest record that it takes, if it tells.
    ///
    /// # Errors
    /// [`EngineError::Sink`]: of kind `Unavailable` when no broker answered within `wait`, saying what each said; of kind
    /// `User` for an unknown topic or a missing right.
    pub fn contact(settings: &SinkSettings, clock: &dyn Clock, wait: Duration) -> Result<Contact> {
        let brokers = Brokers::new(format!("output `{}`", settings.output), &settings.connection);
        let contact = || {
            // Asked through a consumer, because a producer's question could create the topic.
            let cluster = Cluster::librdkafka(&settings.connection, Isolation::ReadUncommitted, brokers.clone())?;
            let topics = std::slice::from_ref(&settings.topic);
            cluster.contact(topics, clock, wait)?;
            let limit = cluster.settings(topics, "max.message.bytes", wait)?.into_iter().flatten().next();
            Ok(Contact { limit: limit.and_then(|limit| limit.parse().ok()), cluster_id: cluster.id() })
        };
        contact().map_err(|fault: Fault| fault.by(&settings.connection, "Write").of_output(&settings.output))
    }

    fn send(&mut self, key: Option<&[u8]>, row: usize, headers: &[MessageHeader]) -> Result<()> {
        let limit = match &self.producing {
            Producing::InTransaction(transaction) => transaction.limit.unwrap_or(usize::MAX),
            Producing::AtLeastOnce(_) => usize::MAX,
        };
        let beside: usize = headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum();
        let headers = (!headers.is_empty()).then(|| to_headers(headers));
        if self.rows.row(row).len() + key.map_or(0, <[u8]>::len) + beside + OVERHEAD > limit {
            let (topic, code) = (self.settings.topic.clone(), RDKafkaErrorCode::MessageSizeTooLarge);
            let (key, value) = (key.map(<[u8]>::to_vec), self.rows.row(row).to_vec());
            return self.reject(&Failure { topic, code, key, value, headers });
        }
        loop {
            let value = self.rows.row(row);
            match enqueue(self.producing.producer(), &self.settings.topic, key, value, headers.as_ref()) {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::QueueFull) => self.serve(PATIENCE)?,
                Err(code) => {
                    let (topic, key) = (self.settings.topic.clone(), key.map(<[u8]>::to_vec));
                    return self.reject(&Failure { topic, code, key, value: value.to_vec(), headers });
                }
            }
        }
    }

    /// Sends a row again, in a batch of its own: a refusal is then its own.
    fn send_alone(&mut self, row: &Failure) -> Result<()> {
        if self.alone.is_none() {
            let mut config = produce_config(&self.settings.connection, self.settings.queue_kib, None);
            config.set("batch.num.messages", "1");
            let producer = Deliveries::producer(&config, &self.brokers);
            self.alone = Some(producer.map_err(|fault| fault.of_output(&self.settings.output))?);
        }
        let Some(alone) = &self.alone else { return Ok(()) };
        loop {
            match enqueue(alone, &self.settings.topic, row.key.as_deref(), &row.value, row.headers.as_ref()) {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::QueueFull) => alone.poll(PATIENCE),
                Err(_) => return self.reject(row),
            }
        }
    }

    /// Takes in acknowledgements, waiting at most `wait` for one, and acts on rows that were not taken.
    fn serve(&mut self, wait: Duration) -> Result<()> {
        let producer = match &self.producing {
            Producing::InTransaction(transaction) => return transaction.serve(wait),
            Producing::AtLeastOnce(producer) => producer,
        };
        producer.poll(wait);
        for failure in producer.context().take_failures() {
            if failure.may_be_a_neighbours() { self.send_alone(&failure)? } else { self.reject(&failure)? }
        }
        if let Some(alone) = &self.alone {
            alone.poll(Duration::ZERO);
            for failure in alone.context().take_failures() {
                self.reject(&failure)?;
            }
        }
        for producer in self.producers() {
            if let Some((_, text)) = producer.client().fatal_error() {
                return Err(self.error(ErrorKind::Unavailable, format!("the producer cannot go on: {text}")));
            }
        }
        self.brokers.refusal().map_or(Ok(()), |refusal| Err(refusal.of_output(&self.settings.output)))
    }

    fn producers(&self) -> impl Iterator<Item = &BaseProducer<Deliveries>> {
        std::iter::once(self.producing.producer()).chain(&self.alone)
    }

    fn reject(&mut self, failure: &Failure) -> Result<()> {
        use RDKafkaErrorCode as Code;
        let Failure { topic, code, key, value, .. } = failure;
        let cause = match code {
            Code::MessageSizeTooLarge => {
                format!("too large for topic `{topic}` ({} bytes; its limit is `max.message.bytes`)", value.len())
            }
            Code::InvalidRecord | Code::InvalidTimestamp | Code::PolicyViolation => {
                format!("refused by topic `{topic}`: {code}")
            }
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                return Err(Fault::not_allowed(format!("topic `{topic}`"))
                    .by(&self.settings.connection, "Write")
                    .of_output(&self.settings.output));
            }
            Code::UnknownTopic | Code::UnknownTopicOrPartition => {
                return Err(Fault::TopicGone { topic: topic.clone() }.of_output(&self.settings.output));
            }
            code => {
                return Err(self.error(ErrorKind::Unavailable, format!("topic `{topic}` did not take a row: {code}")));
            }
        };
        match &mut self.on_rejected {
            OnRejected::DeadLetter(keep) => keep(&RejectedRow { key: key.as_deref(), value, cause: &cause }),
            OnRejected::Stop => {
                let key = key.as_ref().map_or("no key".into(), |key| format!("key `{}`", String::from_utf8_lossy(key)));
                Err(self.error(ErrorKind::Data, format!("a row with {key} is {cause}")))
            }
        }
    }

    /// The key column: bytes as they are, other types as text.
    fn keys(&self, batch: &RecordBatch) -> Result<Option<BinaryArray>> {
        let Some(name) = &self.settings.key else { return Ok(None) };
        let Some(column) = batch.column_by_name(name) else {
            let schema = batch.schema();
            let names: Vec<_> = schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
            let message = format!("unknown key column `{name}`; available: {}", names.join(", "));
            return Err(self.error(ErrorKind::User, message));
        };
        if let Some(bytes) = column.as_binary_opt::<i32>() {
            return Ok(Some(bytes.clone()));
        }
        let text = cast(&cast(column, &DataType::Utf8)?, &DataType::Binary)?;
        Ok(text.as_binary_opt().cloned())
    }

    fn error(&self, kind: ErrorKind, message: String) -> EngineError {
        EngineError::Sink { output: self.settings.output.clone(), kind, message }
    }
}

impl Sink for KafkaSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.keys(batch)?;
        if let Producing::InTransaction(transaction) = &self.producing {
            transaction.ensure_open()?;
        }
        self.rows.clear();
        self.encoder.encode(batch, &mut self.rows)?;
        let headers = self.encoder.message_headers(batch)?;
        for row in 0..self.rows.len() {
            if row % SERVE_EVERY == 0 {
                self.serve(Duration::ZERO)?;
            }
            let key = keys.as_ref().filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row));
            self.send(key, row, headers.get(row).map_or(&[], Vec::as_slice))?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        loop {
            self.serve(Duration::ZERO)?;
            if self.producers().all(|producer| producer.context().is_settled()) {
                return Ok(());
            }
            self.serve(PATIENCE)?;
        }
    }

    fn tick(&mut self) -> Result<()> {
        self.serve(Duration::ZERO)
    }

    fn close(&mut self) -> Result<()> {
        self.flush()
    }
}

/// Puts a row into a producer's queue.
pub(super) fn enqueue(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    key: Option<&[u8]>,
    value: &[u8],
    headers: Option<&OwnedHeaders>,
) -> Result<(), RDKafkaErrorCode> {
    let mut record = BaseRecord::to(topic).payload(value);
    (record.key, record.headers) = (key, headers.cloned());
    let deliveries = producer.context();
    deliveries.waiting.fetch_add(1, Ordering::Relaxed);
    producer.send(record).map_err(|(error, _record)| {
        deliveries.waiting.fetch_sub(1, Ordering::Relaxed);
        error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
    })
}

fn to_headers(headers: &[MessageHeader]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
        all.insert(Header { key, value: value.as_deref() })
    })
}

/// What is known of a cluster and its topic before rows are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The largest record that the topic takes.
    pub limit: Option<usize>,
    /// The cluster's own name; empty when it does not tell.
    pub cluster_id: String,
}

/// A row that was not delivered.
pub(super) struct Failure {
    pub(super) topic: String,
    pub(super) code: RDKafkaErrorCode,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    headers: Option<OwnedHeaders>,
}

impl Failure {
    /// Whether the broker may have refused the row for another one of its batch.
    fn may_be_a_neighbours(&self) -> bool {
        use RDKafkaErrorCode as Code;
        matches!(
            self.code,
            Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidTimestamp | Code::PolicyViolation
        )
    }
}

/// The producer's context: counts rows on their way and keeps those that failed.
pub(super) struct Deliveries {
    reporter: Reporter,
    waiting: AtomicUsize,
    /// Bounded by the producer's queue, to which they belonged.
    failures: Mutex<Vec<Failure>>,
}

impl Deliveries {
    pub(super) fn producer(config: &ClientConfig, brokers: &Arc<Brokers>) -> Result<BaseProducer<Self>, Fault> {
        let reporter = Reporter(brokers.clone());
        let deliveries = Self { reporter, waiting: AtomicUsize::new(0), failures: Mutex::default() };
        let producer: BaseProducer<Self> = config.create_with_context(deliveries).map_err(Fault::Client)?;
        brokers.authenticate(producer.client().native_ptr())?;
        Ok(producer)
    }

    /// Whether every row was acknowledged, or taken up as a failure.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.failures().is_empty()
    }

    fn failures(&self) -> MutexGuard<'_, Vec<Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_failures(&self) -> Vec<Failure> {
        std::mem::take(&mut *self.failures())
    }
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.reporter.generate_oauth_token(config)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.reporter.log(level, facility, text);
    }

    fn error(&self, error: KafkaError, text: &str) {
        self.reporter.error(error, text);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.reporter.0.answered(),
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                let (key, value) = (message.key().map(<[u8]>::to_vec), message.payload().unwrap_or_default().to_vec());
                let headers = message.headers().map(|headers| headers.detach());
                let failure = Failure { topic: message.topic().to_owned(), code, key, value, headers };
                self.failures().push(failure);
            }
        }
        self.waiting.fetch_sub(1, Ordering::Release);
    }
}
