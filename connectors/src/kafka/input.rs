//! A Kafka input from the first contact to the sources of its workers.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use rdkafka::Offset;
use tidemill_engine::{Clock, Result, source::PartitionId};

use super::{
    batch::Fetcher,
    client::Brokers,
    cluster::{self, ANSWER_WITHIN, Cluster},
    config::{SourceSettings, Start},
    control::{self, Worker, worker_of},
    fault::Fault,
    group::{Committed, Group},
    partition::{Partition, PartitionTable},
    range::{Range, deadline, read_ranges},
    source::{Join, KafkaSource},
    timestamp_type,
};

/// What the parts of an input have in common.
pub(super) struct Shared {
    pub(super) settings: SourceSettings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) brokers: Arc<Brokers>,
    pub(super) table: Arc<PartitionTable>,
    /// Asks for ends as the job's isolation sees them.
    pub(super) cluster: Cluster,
}

impl Shared {
    /// First offset and end of each partition.
    pub(super) fn bounds(&self, partitions: &[Arc<Partition>]) -> Result<Vec<(i64, i64)>, Fault> {
        let earliest = self.cluster.bounds(partitions, Offset::Beginning)?;
        let ends = self.cluster.bounds(partitions, Offset::End)?;
        Ok(earliest.into_iter().zip(ends).collect())
    }

    /// First offset and end of one partition.
    pub(super) fn bounds_of(&self, partition: &Partition) -> Result<(i64, i64), Fault> {
        let of = |question| {
            let answers = self.cluster.offsets([(&*partition.topic, partition.number, question)], ANSWER_WITHIN)?;
            answers.into_iter().try_fold(0, |_, answer| cluster::number(answer))
        };
        Ok((of(Offset::Beginning)?, of(Offset::End)?))
    }
}

/// A Kafka input with which contact was made.
#[derive(Clone)]
pub struct KafkaInput {
    shared: Arc<Shared>,
}

impl fmt::Debug for KafkaInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaInput").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl KafkaInput {
    /// Contacts the cluster: its brokers answer, the topics exist, and they carry LogAppendTime unless the settings accept
    /// CreateTime.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: of kind `Unavailable` when no broker answered within `wait`, saying what
    /// each said; of kind `User` for an unknown topic, a missing right, a CreateTime topic.
    pub fn connect(settings: SourceSettings, clock: Arc<dyn Clock>, wait: Duration) -> Result<Self> {
        let input = settings.input.clone();
        Self::contact(settings, clock, wait).map_err(|fault| fault.of_input(&input))
    }

    fn contact(settings: SourceSettings, clock: Arc<dyn Clock>, wait: Duration) -> Result<Self, Fault> {
        let brokers = Brokers::new(format!("input `{}`", settings.input));
        let cluster = Cluster::new(&settings.connection, settings.isolation, brokers.clone())?;
        let layouts = cluster.contact(&settings.topics, &*clock, wait)?;
        if !settings.accept_create_time {
            timestamp_type::check_topics(&cluster, &settings.topics, wait)?;
        }
        let table = Arc::new(PartitionTable::default());
        for (topic, partitions) in settings.topics.iter().zip(layouts) {
            let topic: Arc<str> = topic.as_str().into();
            for (number, _leader) in partitions {
                table.add(topic.clone(), number);
            }
        }
        Ok(Self { shared: Arc::new(Shared { settings, clock, brokers, table, cluster }) })
    }

    /// All partitions known so far, by [`PartitionId`]: those of the first contact and those that joined since.
    #[must_use]
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.shared.table.all()
    }

    /// The consumer group in whose name positions are read and committed.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`] when librdkafka refuses the name.
    pub fn group(&self, name: &str) -> Result<Group> {
        let Shared { settings, table, brokers, .. } = &*self.shared;
        Group::new(name, settings, table.clone(), brokers.clone()).map_err(|fault| self.error(fault))
    }

    /// Where reading starts, by partition. Where the group has committed positions they count and `start` does not; a
    /// partition without one is new to the group and read from its beginning.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: a given or committed offset that the log does not have, an offset for a
    /// partition that does not exist, no answer.
    pub fn resolve_start(&self, start: &Start, committed: &BTreeMap<PartitionId, Committed>) -> Result<Vec<i64>> {
        self.starts(start, committed).map_err(|fault| self.error(fault))
    }

    fn starts(&self, start: &Start, committed: &BTreeMap<PartitionId, Committed>) -> Result<Vec<i64>, Fault> {
        let partitions = self.partitions();
        let bounds = self.shared.bounds(&partitions)?;
        let at = |wanted: &dyn Fn(&Partition) -> Option<i64>| {
            let pairs = partitions.iter().zip(&bounds);
            pairs.map(|(p, &bounds)| within(p, bounds, wanted(p))).collect::<Result<Vec<_>, _>>()
        };
        if !committed.is_empty() {
            return at(&|partition| committed.get(&partition.id).map(|c| c.offset));
        }
        match start {
            Start::Earliest => Ok(bounds.iter().map(|(earliest, _)| *earliest).collect()),
            Start::Latest => Ok(bounds.iter().map(|(_, end)| *end).collect()),
            Start::Offsets(offsets) => {
                let last = partitions.iter().map(|p| p.number).max().unwrap_or(0);
                match offsets.keys().find(|number| partitions.iter().all(|p| p.number != **number)) {
                    Some(&number) => Err(Fault::UnknownPartition { number, last }),
                    None => at(&|partition| offsets.get(&partition.number).copied()),
                }
            }
            Start::Time(time) => {
                // The first millisecond that is not before the time.
                let ms = time.0.div_euclid(1_000) + i64::from(time.0.rem_euclid(1_000) > 0);
                let questions = partitions.iter().map(|p| (&*p.topic, p.number, Offset::Offset(ms.max(0))));
                let answers = self.shared.cluster.offsets(questions, ANSWER_WITHIN)?;
                let offset = |(answer, (_, end)): (Offset, (i64, i64))| match answer {
                    Offset::Offset(offset) => offset,
                    _ => end,
                };
                Ok(answers.into_iter().zip(bounds).map(offset).collect())
            }
        }
    }

    /// Where each partition ends now, as the job's isolation sees it: under read_committed, before the first record of an
    /// open transaction.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: no answer.
    pub fn end_offsets(&self) -> Result<Vec<i64>> {
        self.shared.cluster.bounds(&self.partitions(), Offset::End).map_err(|fault| self.error(fault))
    }

    /// Payloads from the beginning and the end of each partition, about `records` in all, for inference; fewer when the
    /// topic holds fewer or `within` is over. Waits for nothing when it is empty.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: no answer, unreadable records.
    pub fn sample(&self, records: usize, within: Duration) -> Result<Vec<Vec<u8>>> {
        self.read_sample(records, within).map_err(|fault| self.error(fault))
    }

    fn read_sample(&self, records: usize, within: Duration) -> Result<Vec<Vec<u8>>, Fault> {
        let Shared { settings, clock, brokers, .. } = &*self.shared;
        let until = deadline(&**clock, within);
        let partitions = self.partitions();
        let bounds = self.shared.bounds(&partitions)?;
        let share = records.div_ceil(2 * partitions.len().max(1));
        let mut fetcher = Fetcher::new(settings, brokers.clone())?;
        let mut payloads = Vec::new();
        let ranges = |of: &dyn Fn(i64, i64) -> (i64, i64)| {
            let pairs = partitions.iter().zip(&bounds).map(|(partition, &(earliest, end))| {
                let (from, to) = of(earliest, end);
                Range { partition: partition.clone(), from, to, at_most: share }
            });
            pairs.collect::<Vec<_>>()
        };
        // The middle is where the stretch from the end begins, so that no record is taken twice.
        let near_end = |earliest: i64, end: i64| earliest.max(end - i64::try_from(share).unwrap_or(i64::MAX));
        let stretches = [
            ranges(&|earliest, end| (earliest, near_end(earliest, end))),
            ranges(&|earliest, end| (near_end(earliest, end), end)),
        ];
        for ranges in stretches {
            read_ranges(&mut fetcher, &ranges, &**clock, until, |_, message| {
                payloads.extend(message.value().map(<[u8]>::to_vec));
            })?;
        }
        Ok(payloads)
    }

    /// One source for each of `workers`, partition `id` for worker `id % workers`, reading from `starts` (by partition).
    /// With `ends` (by partition) each partition is [`tidemill_engine::source::SourceEvent::Finished`] there. Without, the
    /// control thread runs until the last source is dropped: it asks for ends and hands out new partitions. The sources
    /// of one call at a time: they share the [`Partition`]s.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`] when a client cannot be made.
    pub fn open(&self, workers: usize, starts: &[i64], ends: Option<&[i64]>) -> Result<Vec<KafkaSource>> {
        self.sources(workers.max(1), starts, ends).map_err(|fault| self.error(fault))
    }

    fn sources(&self, workers: usize, starts: &[i64], ends: Option<&[i64]>) -> Result<Vec<KafkaSource>, Fault> {
        let Shared { settings, brokers, .. } = &*self.shared;
        let mut sources = Vec::with_capacity(workers);
        let mut told = Vec::with_capacity(workers);
        for worker in 0..workers {
            let fetcher = Fetcher::new(settings, brokers.clone())?;
            let (worker_side, events) = Worker::new(fetcher.consumer().clone());
            told.push(worker_side);
            let own = self.partitions().into_iter().zip(starts).enumerate();
            let own = own.filter(|(_, (partition, _))| worker_of(partition.id, workers) == worker);
            let joins = own.map(|(index, (partition, &start_offset))| {
                partition.read_to(start_offset);
                Join { partition, start_offset, end_offset: ends.map(|ends| ends[index]) }
            });
            sources.push(KafkaSource::new(
                self.shared.clone(),
                fetcher,
                joins.collect(),
                ends.is_none().then_some(events),
            ));
        }
        if ends.is_none() {
            let control = control::start(self.shared.clone(), told)?;
            sources.iter_mut().for_each(|source| source.hold(control.clone()));
        }
        Ok(sources)
    }

    fn error(&self, fault: Fault) -> tidemill_engine::EngineError {
        fault.of_input(&self.shared.settings.input)
    }
}

/// A wanted offset, if the log has it; the log's beginning where none is wanted.
fn within(partition: &Partition, (earliest, end): (i64, i64), wanted: Option<i64>) -> Result<i64, Fault> {
    match wanted {
        None => Ok(earliest),
        Some(wanted) if (earliest..=end).contains(&wanted) => Ok(wanted),
        Some(wanted) => {
            let topic = partition.topic.to_string();
            Err(Fault::OffsetsGone { topic, number: partition.number, wanted, earliest, end })
        }
    }
}
