//! Stretches of partitions that are read for themselves, beside any job: where they lie, what they hold, and sources of them.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tidemill_engine::{
    Clock, EngineError, Result,
    source::{PartitionId, Source, TimestampKind},
};

use super::{
    client::Brokers,
    cluster::{ANSWER_WITHIN, Cluster},
    config::{Isolation, KafkaConnection},
    fault::{Cause, Fault},
    input::{KafkaInput, Own, Shared},
    range::{Range, deadline, read_ranges},
    source::{Join, ReadTerms},
    timestamp_type,
    wire::{OffsetQuestion, Protection},
};

/// How long looking at single records may take.
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// Records of a partition from `from` to before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadStretch {
    /// Whose.
    pub partition: PartitionId,
    /// The first offset.
    pub from: i64,
    /// The offset behind the last.
    pub to: i64,
}

impl KafkaInput {
    /// Of each partition the first offset whose record has this timestamp or a later one, in milliseconds; `None` where there is none.
    ///
    /// # Errors
    /// [`EngineError::Source`]: no answer.
    pub fn offsets_at(&self, time_ms: i64) -> Result<Vec<Option<i64>>> {
        let partitions = self.partitions();
        let question = OffsetQuestion::At(time_ms.max(0));
        let questions: Vec<_> = partitions.iter().map(|p| (&*p.topic, p.number, question)).collect();
        self.shared.cluster.offsets(&questions, ANSWER_WITHIN).map_err(|fault| self.error(fault))
    }

    /// Whether the settings of all topics say that the broker stamps records. Those from before a switch have their producer's stamps.
    ///
    /// # Errors
    /// [`EngineError::Source`]: no client.
    pub fn stamps_log_append(&self) -> Result<bool> {
        let kinds = timestamp_type::kinds(&self.shared.cluster, &self.shared.settings.topics, ANSWER_WITHIN);
        Ok(kinds.map_err(|fault| self.error(fault))?.iter().all(|kind| kind.as_deref() == Some("LogAppendTime")))
    }

    /// Who stamped the first record at or behind each of these offsets, by partition; nothing of one without such a record.
    ///
    /// # Errors
    /// [`EngineError::Source`]: records that cannot be read, or not within some seconds.
    pub fn stamped_by(&self, stretches: &[ReadStretch]) -> Result<HashMap<PartitionId, TimestampKind>> {
        let partitions = self.partitions();
        let mut found = HashMap::new();
        for stretch in stretches {
            let Some(partition) = partitions.get(stretch.partition.0 as usize) else { continue };
            let ranges = [Range { partition: Arc::clone(partition), from: stretch.from, to: stretch.to, at_most: 1 }];
            let mut source = Shared::range_source(&self.shared, &ranges)?;
            let until = deadline(&*self.shared.clock, LOOK_WITHIN);
            let whole = read_ranges(source.as_mut(), &ranges, &*self.shared.clock, until, |record| {
                found.insert(stretch.partition, record.timestamp_kind);
            })?;
            if !whole {
                return Err(self.error(Fault::Request { doing: "look at a record", cause: Cause::NoAnswer }));
            }
        }
        Ok(found)
    }

    /// A source of stretches of different partitions, whoever stamped their records; finished at their ends. With `counted`, records
    /// whose batch lies in a stretch as a whole are counted there and not handed over.
    ///
    /// # Errors
    /// [`EngineError::Source`] when a client cannot be made.
    pub fn open_stretches(
        &self,
        stretches: &[ReadStretch],
        with_headers: bool,
        counted: Option<Arc<AtomicU64>>,
    ) -> Result<Box<dyn Source>> {
        let partitions = self.partitions();
        let joins = stretches.iter().filter_map(|stretch| {
            let partition = Arc::clone(partitions.get(stretch.partition.0 as usize)?);
            Some(Join { partition, start_offset: stretch.from, end_offset: Some(stretch.to) })
        });
        let terms = ReadTerms { accept_create_time: true, with_headers, counted, answer_bytes: None };
        let sources = Shared::sources(&self.shared, vec![joins.collect()], true, terms);
        Ok(sources.map_err(|fault| self.error(fault))?.remove(0))
    }
}

/// The names of all topics that may be seen, without the cluster's own.
///
/// # Errors
/// [`EngineError::Source`] as [`KafkaInput::connect`]; `input` names the cluster in it.
pub fn list_topics(
    input: &str,
    connection: &KafkaConnection,
    clock: &Arc<dyn Clock>,
    wait: Duration,
) -> Result<Vec<String>> {
    let list = || {
        let brokers = Brokers::new(format!("input `{input}`"), connection);
        let cluster = if connection.security.takes_librdkafka() {
            Cluster::librdkafka(connection, Isolation::ReadCommitted, brokers)?
        } else {
            let own = Own {
                connection: connection.clone(),
                protection: Protection::of(&connection.security)?,
                clock: Arc::clone(clock),
                brokers,
                topology: Arc::default(),
            };
            Cluster::own(&own, Isolation::ReadCommitted)
        };
        cluster.contact(&[], &**clock, wait)?;
        cluster.names()
    };
    let names: Result<Vec<String>, Fault> = list();
    let mut names: Vec<String> =
        names.map_err(|fault| -> EngineError { fault.by(connection, "Read").of_input(input) })?;
    names.retain(|name| !name.starts_with("__"));
    names.sort();
    Ok(names)
}
