//! Positions of a consumer group, kept at the broker, with what a job puts beside them: its epochs.

use std::{collections::BTreeMap, sync::Arc, thread, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};
use tidemill_engine::{Result, source::PartitionId};

use super::{
    client::{Brokers, Reporter},
    config::{KafkaConnection, SourceSettings},
    fault::Fault,
    partition::{Partition, PartitionTable},
};

/// How long reading the committed positions may take; a new group's coordinator is looked up first.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A broker that has just started or taken over names a coordinator that does not serve the group yet: it is asked again, this
/// often and this far apart.
const COORDINATOR_TRIES: u32 = 50;
const COORDINATOR_PAUSE: Duration = Duration::from_millis(200);

/// Errors that librdkafka has to say of a group; it says each once.
const SAID_AT_MOST: usize = 16;

/// A committed position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// What was stored with it; empty if nothing was.
    pub metadata: String,
}

/// A consumer group's positions in an input. It never joins the group: only its offsets are used.
pub struct Group {
    name: String,
    input: String,
    connection: Box<KafkaConnection>,
    table: Arc<PartitionTable>,
    consumer: BaseConsumer<Reporter>,
}

impl Group {
    pub(super) fn new(
        name: &str,
        settings: &SourceSettings,
        table: Arc<PartitionTable>,
        brokers: Arc<Brokers>,
    ) -> Result<Self, Fault> {
        let mut config = settings.connection.client_config();
        config.set("group.id", name).set("enable.auto.commit", "false");
        let consumer: BaseConsumer<_> = config.create_with_context(Reporter(brokers.clone())).map_err(Fault::Client)?;
        brokers.authenticate(consumer.client().native_ptr())?;
        let (input, connection) = (settings.input.clone(), Box::new(settings.connection.clone()));
        Ok(Self { name: name.to_owned(), input, connection, table, consumer })
    }

    /// What the group has committed; partitions without a position are left out.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: no right on the group, no answer.
    pub fn committed(&self) -> Result<BTreeMap<PartitionId, Committed>> {
        let partitions = self.table.all();
        let mut tries = 1;
        let list = loop {
            match self.ask(&partitions) {
                Ok(list) => break list,
                Err(error) if tries < COORDINATOR_TRIES && has_no_coordinator_yet(&error) => {
                    tries += 1;
                    thread::sleep(COORDINATOR_PAUSE);
                }
                Err(error) => return Err(self.fault("read the group's offsets", &error)),
            }
        };
        let mut found = BTreeMap::new();
        for (answer, partition) in list.elements().iter().zip(&partitions) {
            if let Offset::Offset(offset) = answer.offset() {
                found.insert(partition.id, Committed { offset, metadata: answer.metadata().to_owned() });
            }
        }
        Ok(found)
    }

    /// Asks once; an error of one partition is an error of all.
    fn ask(&self, partitions: &[Arc<Partition>]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&partition.topic, partition.number);
        }
        let list = self.consumer.committed_offsets(list, ANSWER_WITHIN)?;
        list.elements().iter().try_for_each(|answer| answer.error())?;
        Ok(list)
    }

    /// Commits positions and returns when the broker has them.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]; of kind `Unavailable` when a later try may succeed.
    pub fn commit(&self, positions: &[(PartitionId, Committed)]) -> Result<()> {
        let list = self.list(positions)?;
        if list.count() == 0 {
            return Ok(());
        }
        self.consumer.commit(&list, CommitMode::Sync).map_err(|error| self.fault("commit offsets", &error))
    }

    /// Positions, and in whose name they are, for a transaction that they become part of.
    pub(super) fn for_transaction(
        &self,
        positions: &[(PartitionId, Committed)],
    ) -> Result<(TopicPartitionList, ConsumerGroupMetadata)> {
        let metadata = self.consumer.group_metadata().expect("a consumer with a `group.id` has it");
        Ok((self.list(positions)?, metadata))
    }

    fn list(&self, positions: &[(PartitionId, Committed)]) -> Result<TopicPartitionList> {
        let partitions = self.table.all();
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (id, position) in positions {
            let partition: &Partition = &partitions[id.0 as usize];
            let mut element = list.add_partition(&partition.topic, partition.number);
            let set = element.set_offset(Offset::Offset(position.offset));
            set.map_err(|error| self.fault("commit offsets", &error))?;
            if !position.metadata.is_empty() {
                element.set_metadata(&position.metadata);
            }
        }
        Ok(list)
    }

    /// Whether the group's coordinator was not told to us for want of a right: librdkafka says so as it would of a record, and
    /// goes on asking until the time is over.
    fn was_refused(&self) -> bool {
        let said = std::iter::from_fn(|| self.consumer.poll(Duration::ZERO)).take(SAID_AT_MOST);
        said.filter_map(Result::err)
            .any(|error| error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed))
    }

    fn fault(&self, doing: &'static str, error: &KafkaError) -> tidemill_engine::EngineError {
        use RDKafkaErrorCode as Code;
        let fault = match error.rdkafka_error_code() {
            Some(Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress) => {
                Fault::GroupInUse { group: self.name.clone() }
            }
            Some(Code::OperationTimedOut | Code::RequestTimedOut) if self.was_refused() => {
                Fault::not_allowed(format!("group `{}`", self.name))
            }
            _ => Fault::request(doing, &format!("group `{}`", self.name), error),
        };
        fault.by(&self.connection, "Read").of_input(&self.input)
    }
}

fn has_no_coordinator_yet(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let codes = [Code::NotCoordinator, Code::CoordinatorNotAvailable, Code::CoordinatorLoadInProgress];
    error.rdkafka_error_code().is_some_and(|code| codes.contains(&code))
}
