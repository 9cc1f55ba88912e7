//! Transactions: the rows of all outputs of a job on one cluster, and what the job knows about them, become visible together.
//!
//! One producer, one transaction at a time. It is begun by the first row and committed with the epoch: with the offsets of the
//! inputs' groups when these are on the same cluster, with a record of the job's epochs topic otherwise. A second copy of the job
//! takes the same `transactional.id`, and from then on this one can commit nothing.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, Producer},
};
use tidemill_engine::{Clock, EngineError, ErrorKind, Result, source::PartitionId};

use super::{
    client::Brokers,
    config::{KafkaConnection, produce_config},
    fault::Fault,
    group::{Committed, Group},
    range::deadline,
    sink::{Deliveries, PATIENCE, enqueue},
};

/// After so long the cluster ends a transaction by itself: a job that is frozen for longer begins its epoch anew. Kafka's own
/// default.
const TIMEOUT: Duration = Duration::from_secs(60);
/// One try of a request of the transaction protocol.
const TRY: Duration = Duration::from_secs(5);

/// What a transactional producer needs to know.
#[derive(Clone, Debug)]
pub struct TransactionSettings {
    /// Names of the outputs in the spec, for messages.
    pub outputs: Vec<String>,
    /// The cluster.
    pub connection: KafkaConnection,
    /// The same for every run of a job.
    pub transactional_id: String,
    /// KiB of rows that may wait for their acknowledgement.
    pub queue_kib: usize,
    /// The largest record that every topic takes, if known.
    pub limit: Option<usize>,
}

/// The offsets of a group as part of a transaction.
pub struct GroupOffsets<'g> {
    /// The group.
    pub group: &'g Group,
    /// Its positions.
    pub positions: Vec<(PartitionId, Committed)>,
}

/// The producer of a job on one cluster.
pub struct Transaction {
    outputs: String,
    transactional_id: String,
    cluster_id: String,
    connection: KafkaConnection,
    pub(super) producer: BaseProducer<Deliveries>,
    brokers: Arc<Brokers>,
    pub(super) limit: Option<usize>,
    clock: Arc<dyn Clock>,
    open: AtomicBool,
    /// When it was begun, in microseconds of the monotonic clock.
    begun_us: AtomicI64,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outputs, transactional_id, cluster_id, .. } = self;
        let mut shown = f.debug_struct("Transaction");
        shown.field("outputs", outputs).field("transactional_id", transactional_id).field("cluster_id", cluster_id);
        shown.finish_non_exhaustive()
    }
}

impl Transaction {
    /// Takes over from whoever had this `transactional_id`: what it had not committed is void, and what it had is there.
    ///
    /// # Errors
    /// [`EngineError::Sink`]: of kind `User` when the cluster has no transactions or we may not use them; of kind
    /// `Unavailable` when no answer came within `wait`.
    pub fn begin(settings: &TransactionSettings, clock: Arc<dyn Clock>, wait: Duration) -> Result<Arc<Self>> {
        let outputs = settings.outputs.join("`, `");
        let brokers = Brokers::new(format!("output `{outputs}`"), &settings.connection);
        let begun = || -> Result<Self, Fault> {
            let TransactionSettings { connection, transactional_id, queue_kib, limit, .. } = settings;
            let mut config = produce_config(connection, *queue_kib, *limit);
            // How long rows may take is bounded by the transaction.
            config.remove("message.timeout.ms");
            config.set("transactional.id", transactional_id);
            config.set("transaction.timeout.ms", TIMEOUT.as_millis().to_string());
            let producer = Deliveries::producer(&config, &brokers)?;
            let until = deadline(&*clock, wait);
            loop {
                match producer.init_transactions(TRY.min(wait)) {
                    Ok(()) => break,
                    Err(error) if is_retriable(&error) && clock.monotonic() < until => {}
                    Err(error) => return Err(refused(&error, transactional_id)),
                }
                producer.poll(Duration::ZERO);
                brokers.refusal().map_or(Ok(()), Err)?;
            }
            brokers.contacted();
            let cluster_id = producer.client().fetch_cluster_id(wait).unwrap_or_default();
            Ok(Self {
                outputs: outputs.clone(),
                transactional_id: transactional_id.clone(),
                cluster_id,
                connection: connection.clone(),
                producer,
                brokers: brokers.clone(),
                limit: *limit,
                clock: clock.clone(),
                open: AtomicBool::new(false),
                begun_us: AtomicI64::new(0),
            })
        };
        begun().map(Arc::new).map_err(|fault| fault.by(&settings.connection, "Write").of_output(&outputs))
    }

    /// The cluster's own name.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Whether rows wait for a commit.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Begins a transaction unless one is under way.
    pub(super) fn ensure_open(&self) -> Result<()> {
        if !self.is_open() {
            self.producer.begin_transaction().map_err(|error| self.lost(&error))?;
            self.begun_us.store(self.clock.monotonic().0, Ordering::Relaxed);
            self.open.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Adds a record, as an output adds its rows.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`], or [`EngineError::Sink`] when another run has taken over.
    pub fn send(&self, topic: &str, key: &str, value: &[u8]) -> Result<()> {
        self.ensure_open()?;
        loop {
            match enqueue(&self.producer, topic, Some(key.as_bytes()), value, None) {
                Ok(()) => return Ok(()),
                Err(RDKafkaErrorCode::QueueFull) => {
                    self.producer.poll(PATIENCE);
                }
                Err(code) => return Err(self.lost(&KafkaError::MessageProduction(code))),
            }
        }
    }

    /// Waits until the cluster has every row of the transaction.
    ///
    /// # Errors
    /// As [`Transaction::send`].
    pub(super) fn settle(&self) -> Result<()> {
        loop {
            self.serve(Duration::ZERO)?;
            if self.producer.context().is_settled() {
                return Ok(());
            }
            self.serve(PATIENCE)?;
        }
    }

    /// Takes in acknowledgements, waiting at most `wait` for one.
    pub(super) fn serve(&self, wait: Duration) -> Result<()> {
        self.producer.poll(wait);
        if let Some(failure) = self.producer.context().take_failures().into_iter().next() {
            return Err(self.row_lost(&failure.topic, failure.code));
        }
        if let Some((code, text)) = self.producer.client().fatal_error() {
            return Err(self.fatal(code, text));
        }
        self.brokers.refusal().map_or(Ok(()), |refusal| Err(refusal.of_output(&self.outputs)))
    }

    /// Commits what was sent since the last commit, with the offsets; what both say is then true at once, or neither.
    ///
    /// # Errors
    /// [`EngineError::Interrupted`] when it was aborted, also by its time-out; [`EngineError::Sink`] when another run of the
    /// job has taken over.
    pub fn commit(&self, offsets: &[GroupOffsets<'_>]) -> Result<()> {
        self.ensure_open()?;
        self.settle()?;
        for GroupOffsets { group, positions } in offsets {
            let (list, metadata) = group.for_transaction(positions)?;
            self.retry(|| self.producer.send_offsets_to_transaction(&list, &metadata, TRY))?;
        }
        self.retry(|| self.producer.commit_transaction(TRY))?;
        self.open.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn retry(&self, mut request: impl FnMut() -> Result<(), KafkaError>) -> Result<()> {
        loop {
            match request() {
                Ok(()) => return Ok(()),
                Err(error) if is_retriable(&error) => {
                    tracing::debug!(%error, "the transaction is tried again");
                    self.serve(PATIENCE)?;
                }
                Err(error) => return Err(self.lost(&error)),
            }
        }
    }

    /// The transaction cannot be committed any more.
    fn lost(&self, error: &KafkaError) -> EngineError {
        match (self.producer.client().fatal_error(), error) {
            (Some((code, text)), _) => self.fatal(code, text),
            (None, KafkaError::Transaction(error)) if error.is_fatal() => self.fatal(error.code(), error.to_string()),
            (None, error) => self.interrupted(format!("the transaction was aborted ({error})")),
        }
    }

    fn row_lost(&self, topic: &str, code: RDKafkaErrorCode) -> EngineError {
        use RDKafkaErrorCode as Code;
        if let Some((code, text)) = self.producer.client().fatal_error() {
            return self.fatal(code, text);
        }
        match code {
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                let fault = Fault::not_allowed(format!("topic `{topic}`"));
                fault.by(&self.connection, "Write").of_output(&self.outputs)
            }
            Code::UnknownTopic | Code::UnknownTopicOrPartition => {
                Fault::TopicGone { topic: topic.to_owned() }.of_output(&self.outputs)
            }
            Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidTimestamp | Code::PolicyViolation => {
                let message = format!("topic `{topic}` refuses a row: {code}");
                EngineError::Sink { output: self.outputs.clone(), kind: ErrorKind::Data, message }
            }
            code => self.interrupted(format!("topic `{topic}` did not take a row: {code}")),
        }
    }

    /// The producer is of no use any more. A transaction that was open for longer than its time-out was ended by that;
    /// otherwise somebody else has our name.
    fn fatal(&self, code: RDKafkaErrorCode, text: String) -> EngineError {
        use RDKafkaErrorCode as Code;
        let taken_over = matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch);
        let age_us = self.clock.monotonic().0 - self.begun_us.load(Ordering::Relaxed);
        if taken_over && !(self.is_open() && age_us >= TIMEOUT.as_micros() as i64) {
            let fault = Fault::TakenOver { transactional_id: self.transactional_id.clone() };
            return EngineError::TakenOver { output: self.outputs.clone(), message: fault.to_string() };
        }
        self.interrupted(format!("the transaction was ended by the cluster ({text})"))
    }

    fn interrupted(&self, message: String) -> EngineError {
        EngineError::Interrupted { output: self.outputs.clone(), message }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}

/// Why there is no transactional producer.
fn refused(error: &KafkaError, transactional_id: &str) -> Fault {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::UnsupportedFeature | Code::UnsupportedVersion | Code::InvalidRequest) => Fault::NoTransactions,
        Some(Code::TransactionalIdAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            Fault::not_allowed(format!("transactional id `{transactional_id}`"))
        }
        Some(Code::OperationTimedOut | Code::CoordinatorNotAvailable | Code::RequestTimedOut) => Fault::NoCoordinator,
        _ => Fault::request("begin transactions", "transactions", error),
    }
}
