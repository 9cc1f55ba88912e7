//! Rows as records of a topic, at least once: a flush returns when the cluster has acknowledged them all.

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
    array::{Array, StringArray},
    compute::cast,
    datatypes::DataType,
    record_batch::RecordBatch,
};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use tidemill_engine::{Clock, EngineError, ErrorKind, Result, sink::Sink};

use crate::formats::encode::{EncodedRows, RowEncoder};

use super::{
    client::{Brokers, Reporter},
    cluster::Cluster,
    config::{Isolation, SinkSettings},
    fault::Fault,
};

/// Rows between two looks at the acknowledgements.
const SERVE_EVERY: usize = 1_000;
/// How long to wait for acknowledgements at a time.
const PATIENCE: Duration = Duration::from_millis(5);

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
    producer: BaseProducer<Deliveries>,
    /// Sends rows one by one; made when a batch is refused for the sake of one of its rows.
    alone: Option<BaseProducer<Deliveries>>,
    brokers: Arc<Brokers>,
    encoder: Box<dyn RowEncoder>,
    /// Kept for its allocation.
    rows: EncodedRows,
    on_rejected: OnRejected,
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
    /// Contacts the cluster and checks that the topic exists.
    ///
    /// # Errors
    /// [`EngineError::Sink`]: of kind `Unavailable` when no broker answered within `wait`, saying what each said; of kind
    /// `User` for an unknown topic or a missing right.
    pub fn connect(
        settings: SinkSettings,
        encoder: Box<dyn RowEncoder>,
        on_rejected: OnRejected,
        clock: &dyn Clock,
        wait: Duration,
    ) -> Result<Self> {
        let brokers = Brokers::new(format!("output `{}`", settings.output), &settings.connection);
        let contact = || {
            // Asked through a consumer, because a producer's question could create the topic.
            let cluster = Cluster::librdkafka(&settings.connection, Isolation::ReadUncommitted, brokers.clone())?;
            let topics = std::slice::from_ref(&settings.topic);
            cluster.contact(topics, clock, wait)?;
            let limit = cluster.settings(topics, "max.message.bytes", wait)?.into_iter().flatten().next();
            Deliveries::producer(&settings.produce_config(limit.and_then(|limit| limit.parse().ok())), &brokers)
        };
        let producer =
            contact().map_err(|fault| fault.by(&settings.connection, "Write").of_output(&settings.output))?;
        Ok(Self { settings, producer, alone: None, brokers, encoder, rows: EncodedRows::default(), on_rejected })
    }

    fn send(&mut self, key: Option<&[u8]>, row: usize) -> Result<()> {
        loop {
            let value = self.rows.row(row);
            match enqueue(&self.producer, &self.settings.topic, key, value) {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::QueueFull) => self.serve(PATIENCE)?,
                Err(code) => {
                    let failure = Failure { code, key: key.map(<[u8]>::to_vec), value: value.to_vec() };
                    return self.reject(&failure);
                }
            }
        }
    }

    /// Sends a row again, in a batch of its own: a refusal is then its own.
    fn send_alone(&mut self, row: &Failure) -> Result<()> {
        if self.alone.is_none() {
            let mut config = self.settings.produce_config(None);
            config.set("batch.num.messages", "1");
            let producer = Deliveries::producer(&config, &self.brokers);
            self.alone = Some(producer.map_err(|fault| fault.of_output(&self.settings.output))?);
        }
        let Some(alone) = &self.alone else { return Ok(()) };
        loop {
            match enqueue(alone, &self.settings.topic, row.key.as_deref(), &row.value) {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::QueueFull) => alone.poll(PATIENCE),
                Err(_) => return self.reject(row),
            }
        }
    }

    /// Takes in acknowledgements, waiting at most `wait` for one, and acts on rows that were not taken.
    fn serve(&mut self, wait: Duration) -> Result<()> {
        self.producer.poll(wait);
        for failure in self.producer.context().take_failures() {
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
        std::iter::once(&self.producer).chain(&self.alone)
    }

    fn reject(&mut self, failure: &Failure) -> Result<()> {
        use RDKafkaErrorCode as Code;
        let Failure { code, key, value } = failure;
        let topic = &self.settings.topic;
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

    /// The key column as text.
    fn keys(&self, batch: &RecordBatch) -> Result<Option<StringArray>> {
        let Some(name) = &self.settings.key else { return Ok(None) };
        let Some(column) = batch.column_by_name(name) else {
            let schema = batch.schema();
            let names: Vec<_> = schema.fields().iter().map(|field| format!("`{}`", field.name())).collect();
            let message = format!("unknown key column `{name}`; available: {}", names.join(", "));
            return Err(self.error(ErrorKind::User, message));
        };
        let text = cast(column, &DataType::Utf8)?;
        Ok(text.as_any().downcast_ref::<StringArray>().cloned())
    }

    fn error(&self, kind: ErrorKind, message: String) -> EngineError {
        EngineError::Sink { output: self.settings.output.clone(), kind, message }
    }
}

impl Sink for KafkaSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let keys = self.keys(batch)?;
        self.rows.clear();
        self.encoder.encode(batch, &mut self.rows)?;
        for row in 0..self.rows.len() {
            if row % SERVE_EVERY == 0 {
                self.serve(Duration::ZERO)?;
            }
            let key = keys.as_ref().filter(|keys| keys.is_valid(row)).map(|keys| keys.value(row).as_bytes());
            self.send(key, row)?;
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
fn enqueue(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    key: Option<&[u8]>,
    value: &[u8],
) -> Result<(), RDKafkaErrorCode> {
    let mut record = BaseRecord::to(topic).payload(value);
    record.key = key;
    let deliveries = producer.context();
    deliveries.waiting.fetch_add(1, Ordering::Relaxed);
    producer.send(record).map_err(|(error, _record)| {
        deliveries.waiting.fetch_sub(1, Ordering::Relaxed);
        error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
    })
}

/// A row that was not delivered.
struct Failure {
    code: RDKafkaErrorCode,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
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
struct Deliveries {
    reporter: Reporter,
    waiting: AtomicUsize,
    /// Bounded by the producer's queue, to which they belonged.
    failures: Mutex<Vec<Failure>>,
}

impl Deliveries {
    fn producer(config: &ClientConfig, brokers: &Arc<Brokers>) -> Result<BaseProducer<Self>, Fault> {
        let reporter = Reporter(brokers.clone());
        let deliveries = Self { reporter, waiting: AtomicUsize::new(0), failures: Mutex::default() };
        let producer: BaseProducer<Self> = config.create_with_context(deliveries).map_err(Fault::Client)?;
        brokers.authenticate(producer.client().native_ptr())?;
        Ok(producer)
    }

    /// Whether every row was acknowledged, or taken up as a failure.
    fn is_settled(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0 && self.failures().is_empty()
    }

    fn failures(&self) -> MutexGuard<'_, Vec<Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_failures(&self) -> Vec<Failure> {
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
                let failure = Failure { code, key, value };
                self.failures().push(failure);
            }
        }
        self.waiting.fetch_sub(1, Ordering::Release);
    }
}
