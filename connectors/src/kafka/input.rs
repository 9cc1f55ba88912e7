//! A Kafka input from the first contact to the sources of its workers.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use tidemill_engine::{
    Clock, EngineError, Result,
    source::{PartitionId, Source},
};

use super::{
    batch::Fetcher,
    client::Brokers,
    cluster::{self, Cluster},
    config::{Fetch, Isolation, KafkaConnection, SourceSettings, Start},
    control::{self, Worker, worker_of},
    fault::{Cause, Fault},
    fetch::{BrokerFetches, FetchOptions, FetchSource, FetchTable},
    group::{Committed, Group},
    partition::{Partition, PartitionTable},
    path::{Chosen, ReadPath},
    range::{Range, deadline, read_ranges},
    source::{Join, KafkaSource, ReadTerms},
    timestamp_type,
    wire::{OffsetQuestion, Protection, Topology},
};

/// Bytes of an answer where a few records are looked at.
const SMALL_ANSWER: usize = 64 << 10;

/// What our own connections of an input have in common.
#[derive(Clone)]
pub(super) struct Own {
    pub(super) connection: KafkaConnection,
    pub(super) protection: Protection,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) brokers: Arc<Brokers>,
    pub(super) topology: Arc<Topology>,
}

/// What the parts of an input have in common.
pub(super) struct Shared {
    pub(super) settings: SourceSettings,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) brokers: Arc<Brokers>,
    pub(super) table: Arc<PartitionTable>,
    /// `None`: librdkafka reads.
    pub(super) own: Option<Own>,
    /// The way by which records come, and why.
    path: ReadPath,
    /// What was fetched over our own connections.
    pub(super) fetches: FetchTable,
    /// Asks for ends as the job's isolation sees them.
    pub(super) cluster: Cluster,
}

impl Shared {
    /// First offset and end of each partition.
    pub(super) fn bounds(&self, partitions: &[Arc<Partition>]) -> Result<Vec<(i64, i64)>, Fault> {
        let earliest = self.cluster.bounds(partitions, OffsetQuestion::Earliest, &*self.clock)?;
        let ends = self.cluster.bounds(partitions, OffsetQuestion::End, &*self.clock)?;
        Ok(earliest.into_iter().zip(ends).collect())
    }

    /// First offset and end of one partition.
    pub(super) fn bounds_of(&self, partition: &Partition) -> Result<(i64, i64), Fault> {
        let of = |question| {
            let questions = [(&*partition.topic, partition.number, question)];
            let answers = self.cluster.offsets_surely(&questions, &*self.clock)?;
            answers.into_iter().try_fold(0, |_, answer| cluster::number(answer))
        };
        Ok((of(OffsetQuestion::Earliest)?, of(OffsetQuestion::End)?))
    }

    /// Another client that asks.
    pub(super) fn cluster_of(&self, isolation: Isolation) -> Result<Cluster, Fault> {
        match &self.own {
            Some(own) => Ok(Cluster::own(own, isolation)),
            None => Cluster::librdkafka(&self.settings.connection, isolation, self.brokers.clone()),
        }
    }

    /// A bounded source of these stretches alone, whoever stamped their records.
    pub(super) fn range_source(shared: &Arc<Self>, ranges: &[Range]) -> Result<Box<dyn Source>> {
        let join = |range: &Range| Join {
            partition: range.partition.clone(),
            start_offset: range.from,
            end_offset: Some(range.to),
        };
        let terms = ReadTerms { accept_create_time: true, answer_bytes: Some(SMALL_ANSWER), ..ReadTerms::default() };
        let joins = vec![ranges.iter().map(join).collect()];
        let sources = Self::sources(shared, joins, true, terms);
        let mut sources = sources.map_err(|fault| shared.settings.error(fault))?;
        Ok(sources.remove(0))
    }

    /// One source for each worker's partitions.
    pub(super) fn sources(
        shared: &Arc<Self>,
        joins: Vec<Vec<Join>>,
        bounded: bool,
        terms: ReadTerms,
    ) -> Result<Vec<Box<dyn Source>>, Fault> {
        match &shared.own {
            Some(own) => {
                let (told, events): (Vec<_>, Vec<_>) = joins.iter().map(|_| Worker::new(None)).unzip();
                let control = control::start(shared.clone(), told, bounded)?;
                let pairs = joins.into_iter().zip(events);
                let source = |(joins, events)| {
                    let options = FetchOptions { joins, events, bounded, terms: terms.clone() };
                    let source = FetchSource::new(shared.clone(), own.clone(), options, control.clone());
                    source.map(|source| Box::new(source) as Box<dyn Source>).map_err(|e| Fault::Io(e.to_string()))
                };
                pairs.map(source).collect()
            }
            None => {
                let mut sources = Vec::with_capacity(joins.len());
                let mut told = Vec::with_capacity(joins.len());
                for joins in joins {
                    let fetcher = Fetcher::new(&shared.settings, shared.brokers.clone())?;
                    let (worker_side, events) = Worker::new(Some(fetcher.consumer().clone()));
                    told.push(worker_side);
                    let events = (!bounded).then_some(events);
                    sources.push(KafkaSource::new(shared.clone(), fetcher, joins, events, terms.clone()));
                }
                if !bounded {
                    let control = control::start(shared.clone(), told, bounded)?;
                    sources.iter_mut().for_each(|source| source.hold(control.clone()));
                }
                Ok(sources.into_iter().map(|source| Box::new(source) as Box<dyn Source>).collect())
            }
        }
    }
}

/// A Kafka input with which contact was made.
#[derive(Clone)]
pub struct KafkaInput {
    pub(super) shared: Arc<Shared>,
}

impl fmt::Debug for KafkaInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaInput").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl KafkaInput {
    /// Contacts the cluster: its brokers answer, the topics exist, and they carry LogAppendTime unless the settings accept
    /// CreateTime. Over our own connections, unless the settings say librdkafka or, with [`Fetch::Auto`], the brokers are too
    /// old for them or the mechanism is librdkafka's alone.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: of kind `Unavailable` when no broker answered within `wait`, saying what
    /// each said; of kind `User` for an unknown topic, a missing right, a CreateTime topic.
    pub fn connect(settings: SourceSettings, clock: Arc<dyn Clock>, wait: Duration) -> Result<Self> {
        let input = settings.input.clone();
        let contact = |path| Self::contact(settings.clone(), clock.clone(), wait, path);
        let connection = settings.connection.clone();
        let kerberos = settings.connection.security.takes_librdkafka();
        let contacted = match contact(ReadPath::planned(settings.fetch, kerberos)) {
            Err(Fault::Refused { cause: cause @ Cause::TooOld { .. }, .. }) if settings.fetch == Fetch::Auto => {
                contact(ReadPath::Librdkafka(Chosen::OldBroker(cause)))
            }
            contacted => contacted,
        };
        contacted.map_err(|fault| fault.by(&connection, "Read").of_input(&input))
    }

    fn contact(settings: SourceSettings, clock: Arc<dyn Clock>, wait: Duration, path: ReadPath) -> Result<Self, Fault> {
        let brokers = Brokers::new(format!("input `{}`", settings.input), &settings.connection);
        let own = match path.is_own() {
            true => Some(Own {
                connection: settings.connection.clone(),
                protection: Protection::of(&settings.connection.security)?,
                clock: clock.clone(),
                brokers: brokers.clone(),
                topology: Arc::default(),
            }),
            false => None,
        };
        let cluster = match &own {
            Some(own) => Cluster::own(own, settings.isolation),
            None => Cluster::librdkafka(&settings.connection, settings.isolation, brokers.clone())?,
        };
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
        let fetches = FetchTable::default();
        Ok(Self { shared: Arc::new(Shared { settings, clock, brokers, table, own, path, fetches, cluster }) })
    }

    /// The way by which records come, and why.
    #[must_use]
    pub fn path(&self) -> &ReadPath {
        &self.shared.path
    }

    /// What was fetched over our own connections so far, by the brokers' node numbers.
    #[must_use]
    pub fn fetches(&self) -> Vec<(i32, Arc<BrokerFetches>)> {
        self.shared.fetches.all()
    }

    /// Its name in the spec.
    pub(super) fn name(&self) -> &str {
        &self.shared.settings.input
    }

    /// The cluster's own name, the same from whichever broker it is asked; empty when none answers.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        self.shared.cluster.id()
    }

    /// The cluster's id of each topic, as Kafka's tools print it; without those that it does not tell, and on librdkafka's path,
    /// where it is not asked.
    #[must_use]
    pub fn topic_ids(&self) -> BTreeMap<String, String> {
        let Some(own) = &self.shared.own else { return BTreeMap::new() };
        let id = |topic: &String| {
            let id = Some(own.topology.topic_id(topic)).filter(|id| !id.is_nil())?;
            Some((topic.clone(), URL_SAFE_NO_PAD.encode(id.as_bytes())))
        };
        self.shared.settings.topics.iter().filter_map(id).collect()
    }

    /// First offset and end of each partition, as the job's isolation sees them.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: no answer.
    pub fn bounds(&self) -> Result<Vec<(i64, i64)>> {
        self.shared.bounds(&self.partitions()).map_err(|fault| self.error(fault))
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
                let question = OffsetQuestion::At(ms.max(0));
                let questions: Vec<_> = partitions.iter().map(|p| (&*p.topic, p.number, question)).collect();
                let answers = self.shared.cluster.offsets_surely(&questions, &*self.shared.clock)?;
                let pairs = answers.into_iter().zip(bounds);
                Ok(pairs.map(|(answer, (_, end))| answer.unwrap_or(end)).collect())
            }
        }
    }

    /// Where each partition ends now, as the job's isolation sees it: under read_committed, before the first record of an
    /// open transaction.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: no answer.
    pub fn end_offsets(&self) -> Result<Vec<i64>> {
        let ends = self.shared.cluster.bounds(&self.partitions(), OffsetQuestion::End, &*self.shared.clock);
        ends.map_err(|fault| self.error(fault))
    }

    /// Payloads from the beginning and the end of each partition, about `records` in all, for inference; fewer when the
    /// topic holds fewer or `within` is over. Waits for nothing when it is empty.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`]: no answer, unreadable records.
    pub fn sample(&self, records: usize, within: Duration) -> Result<Vec<Vec<u8>>> {
        let clock = &*self.shared.clock;
        let until = deadline(clock, within);
        let partitions = self.partitions();
        let bounds = self.shared.bounds(&partitions).map_err(|fault| self.error(fault))?;
        let share = records.div_ceil(2 * partitions.len().max(1));
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
            let mut source = Shared::range_source(&self.shared, &ranges)?;
            read_ranges(source.as_mut(), &ranges, clock, until, |record| {
                payloads.extend(record.value.map(<[u8]>::to_vec));
            })?;
        }
        Ok(payloads)
    }

    /// One source for each of `workers`, partition `id` for worker `id % workers`, reading from `starts` (by partition).
    /// With `ends` (by partition) each partition is [`tidemill_engine::source::SourceEvent::Finished`] there. Without, the
    /// control thread runs until the last source is dropped: it asks for ends and hands out new partitions. The sources
    /// of one call at a time: they share the [`Partition`]s. Records come with their headers only if asked for: only where a
    /// query names them.
    ///
    /// # Errors
    /// [`tidemill_engine::EngineError::Source`] when a client cannot be made.
    pub fn open(
        &self,
        workers: usize,
        starts: &[i64],
        ends: Option<&[i64]>,
        with_headers: bool,
    ) -> Result<Vec<Box<dyn Source>>> {
        tracing::info!("input `{}`: read by {}", self.shared.settings.input, self.path());
        let workers = workers.max(1);
        let mut joins: Vec<Vec<Join>> = (0..workers).map(|_| Vec::new()).collect();
        for (index, (partition, &start_offset)) in self.partitions().into_iter().zip(starts).enumerate() {
            partition.read_to(start_offset);
            let end_offset = ends.map(|ends| ends[index]);
            joins[worker_of(partition.id, workers)].push(Join { partition, start_offset, end_offset });
        }
        let accept_create_time = self.shared.settings.accept_create_time;
        let terms = ReadTerms { accept_create_time, with_headers, ..ReadTerms::default() };
        Shared::sources(&self.shared, joins, ends.is_some(), terms).map_err(|fault| self.error(fault))
    }

    pub(super) fn error(&self, fault: Fault) -> EngineError {
        self.shared.settings.error(fault)
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
