//! A worker's share of a Kafka input, over our own fetch requests.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io, mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::Receiver,
    },
    time::Duration,
};

use kafka_protocol::error::ResponseError;
use mio::{Events, Poll};
use tidemill_engine::{
    EngineError, Monotonic, Result,
    source::{Source, SourceEvent, TimestampKind, Visit},
};
use uuid::Uuid;

use super::{
    answer::{BY_TOPIC_ID, FetchAnswer, FetchedPartition},
    link::{Asked, Link, Progress},
    session::{FetchTerms, Position, Wanted},
    slot::{RunBuffers, Slot},
};
use crate::kafka::{
    control::{ControlEvent, ControlThread},
    fault::{Cause, Fault, may_pass},
    input::{Own, Shared},
    records::{AbortedTransactions, BadBatch, Unpacker, batches},
    source::{Join, ReadTerms},
    timestamp_type,
    wire::Leader,
};

/// Bytes of an answer, at most: what is larger leaves the cache before it is decoded.
const ANSWER_BYTES: usize = 4 << 20;
/// Less would make each answer a few records.
const ANSWER_BYTES_MIN: usize = 256 << 10;
/// The first pause before a partition is asked for again after an error, and the longest.
const PAUSES_US: (i64, i64) = (50_000, 1_000_000);
/// How often a batch with a wrong CRC is asked for again.
const BAD_BATCH_TRIES: u32 = 3;
/// Sockets that may have news at once.
const EVENTS: usize = 64;
/// For messages.
const DOING: &str = "fetch records";

/// See the module.
pub(in crate::kafka) struct FetchSource {
    shared: Arc<Shared>,
    own: Own,
    terms: FetchTerms,
    accept_create_time: bool,
    counted: Option<Arc<AtomicU64>>,
    poll: Poll,
    ready: Events,
    links: BTreeMap<i32, Link>,
    slots: Vec<Slot>,
    topics: Vec<Topic>,
    /// Of the topology that `slots` follow.
    topology_version: u64,
    /// Partitions not announced yet.
    joins: Vec<Join>,
    events: Receiver<ControlEvent>,
    bounded: bool,
    answer: FetchAnswer,
    unpacker: Unpacker,
    buffers: RunBuffers,
    /// Counts answers.
    turn: u64,
    _control: Arc<ControlThread>,
}

/// Which slots a topic's partitions have.
struct Topic {
    name: Arc<str>,
    id: Uuid,
    slots: HashMap<i32, usize>,
}

impl fmt::Debug for FetchSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetchSource").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// What a source is opened with.
pub(in crate::kafka) struct FetchOptions {
    pub(in crate::kafka) joins: Vec<Join>,
    pub(in crate::kafka) events: Receiver<ControlEvent>,
    /// Whether each join has an end, and the source with them.
    pub(in crate::kafka) bounded: bool,
    pub(in crate::kafka) terms: ReadTerms,
}

impl FetchSource {
    /// `control` is held, so that it ends with the last source.
    pub(in crate::kafka) fn new(
        shared: Arc<Shared>,
        own: Own,
        options: FetchOptions,
        control: Arc<ControlThread>,
    ) -> io::Result<Self> {
        let FetchOptions { joins, events, bounded, terms } = options;
        let ReadTerms { accept_create_time, with_headers, counted, answer_bytes } = terms;
        let settings = &shared.settings;
        let budget = answer_bytes.unwrap_or_else(|| settings.queue_kib.saturating_mul(1024));
        let max_bytes = budget.clamp(ANSWER_BYTES_MIN, ANSWER_BYTES);
        let terms = FetchTerms {
            isolation: settings.isolation,
            rack: settings.rack.clone().unwrap_or_default(),
            max_bytes: i32::try_from(max_bytes).unwrap_or(i32::MAX),
        };
        Ok(Self {
            terms,
            accept_create_time,
            counted,
            poll: Poll::new()?,
            ready: Events::with_capacity(EVENTS),
            links: BTreeMap::new(),
            slots: Vec::new(),
            topics: Vec::new(),
            topology_version: u64::MAX,
            joins,
            events,
            bounded,
            answer: FetchAnswer::default(),
            unpacker: Unpacker::default(),
            buffers: RunBuffers::new(with_headers),
            turn: 0,
            _control: control,
            shared,
            own,
        })
    }

    /// Announces a partition and starts reading it; a bounded one that is empty is finished at once.
    fn join(&mut self, join: Join, visit: &mut Visit<'_>) -> Result<()> {
        let Join { partition, start_offset, end_offset } = join;
        let (topic, number) = (&*partition.topic, partition.number);
        visit(SourceEvent::Joined { partition: partition.id, topic, number, start_offset })?;
        let id = self.own.topology.topic_id(topic);
        let position = self.topics.iter().position(|known| *known.name == *topic).unwrap_or_else(|| {
            self.topics.push(Topic { name: Arc::clone(&partition.topic), id, slots: HashMap::new() });
            self.topics.len() - 1
        });
        self.topics[position].slots.insert(number, self.slots.len());
        let mut slot = Slot::new(partition, id, start_offset, end_offset);
        slot.finish_if_read(visit)?;
        self.slots.push(slot);
        self.topology_version = u64::MAX; // the new slot has no node yet
        Ok(())
    }

    /// Announces what waits to be read and passes on what the control thread found. Returns whether anything was reported.
    fn report_control(&mut self, visit: &mut Visit<'_>) -> Result<bool> {
        let mut any = !self.joins.is_empty();
        for join in mem::take(&mut self.joins) {
            self.join(join, visit)?;
        }
        while let Ok(event) = self.events.try_recv() {
            any = true;
            if let Some(join) = event.report(&self.shared.settings, visit)? {
                self.join(join, visit)?;
            }
        }
        Ok(any)
    }

    /// Gives each partition to the link of its leader.
    fn follow_topology(&mut self) -> Result<()> {
        let topology = &self.own.topology;
        let version = topology.version();
        if version == mem::replace(&mut self.topology_version, version) {
            return Ok(());
        }
        for slot in self.slots.iter_mut().filter(|slot| !slot.finished) {
            let (topic, number) = (&slot.partition.topic, slot.partition.number);
            let id = topology.topic_id(topic);
            if slot.topic_id.is_nil() {
                slot.topic_id = id;
            } else if !id.is_nil() && id != slot.topic_id {
                let replaced = Fault::TopicReplaced { topic: topic.to_string() };
                return Err(self.shared.settings.error(replaced));
            }
            let leader = topology.leader(topic, number);
            let node = leader.map(|leader| leader.node);
            if let Some(Leader { epoch, .. }) = leader {
                slot.leader_epoch = epoch;
            }
            if !slot.follower && slot.node != node {
                tracing::debug!(%topic, number, from = ?slot.node, to = ?node, "leader");
                slot.node = node;
                slot.fetch_offset = slot.next_offset;
            }
            if let Some(node) = slot.node {
                slot.partition.led_by(node);
                self.links.entry(node).or_insert_with(|| Link::new(node, self.shared.fetches.of(node)));
            }
        }
        for topic in &mut self.topics {
            topic.id = topology.topic_id(&topic.name);
        }
        let slots = &self.slots;
        self.links.retain(|node, _| slots.iter().any(|slot| !slot.finished && slot.node == Some(*node)));
        Ok(())
    }

    /// Opens links, gives up those that do not answer, sends where nothing is under way.
    fn drive(&mut self) {
        let nodes: Vec<i32> = self.links.keys().copied().collect();
        for node in nodes {
            let address = self.own.topology.address(node);
            let Some(link) = self.links.get_mut(&node) else { continue };
            match link.advance(address.as_ref(), &self.own.protection, &self.own.clock, self.poll.registry()) {
                Progress::Waiting => {}
                Progress::Ready => self.ask(node),
                Progress::Broke(cause) => self.broke(node, &cause),
            }
        }
    }

    /// What a broken link was asked for is asked for again.
    fn broke(&mut self, node: i32, cause: &Cause) {
        if let Some(address) = self.own.topology.address(node) {
            self.own.brokers.failed(&address, cause);
            self.own.brokers.lost(cause);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.node == Some(node)) {
            slot.fetch_offset = slot.next_offset;
            if slot.follower {
                (slot.follower, slot.node) = (false, None);
                self.topology_version = u64::MAX;
            }
        }
    }

    /// Sends the next fetch on a link.
    fn ask(&mut self, node: i32) {
        let now = self.own.clock.monotonic();
        let Some(link) = self.links.get_mut(&node) else { return };
        let Some(version) = link.version().filter(|_| link.may_ask(now)) else { return };
        let slots = self.slots.iter_mut().enumerate();
        let mut wanted = Vec::new();
        for (index, slot) in slots.filter(|(_, slot)| slot.node == Some(node) && slot.wants(now)) {
            slot.asked_at_end = slot.high_watermark >= 0 && slot.fetch_offset >= slot.high_watermark;
            let from = Position {
                offset: slot.fetch_offset,
                leader_epoch: slot.leader_epoch,
                fetched_epoch: slot.fetched_epoch,
            };
            let (topic_id, number) = (slot.topic_id, slot.partition.number);
            wanted.push(Wanted { slot: index, topic: &slot.partition.topic, topic_id, number, from });
        }
        if wanted.is_empty() {
            return;
        }
        let ids_known = wanted.iter().all(|want| !want.topic_id.is_nil());
        let version = if ids_known { version } else { version.min(BY_TOPIC_ID - 1) };
        let request = link.session.request(&wanted, &self.terms, version);
        if let Err(cause) = link.ask(&request, version, now) {
            link.fail(cause.clone(), now);
            self.broke(node, &cause);
        }
    }

    /// Takes the answers that are there. Returns whether there was one.
    fn take_answers(&mut self, visit: &mut Visit<'_>) -> Result<bool> {
        let nodes: Vec<i32> = self.links.keys().copied().collect();
        let mut any = false;
        for node in nodes {
            let Some(link) = self.links.get_mut(&node) else { continue };
            match link.receive(&*self.own.clock) {
                Ok(None) => {}
                Ok(Some((received, asked))) => {
                    any = true;
                    let outcome = self.take_answer(node, received.answer(), asked, visit);
                    if let Some(link) = self.links.get_mut(&node) {
                        link.give_back(received);
                    }
                    outcome?;
                }
                Err(cause) => {
                    link.fail(cause.clone(), self.own.clock.monotonic());
                    self.broke(node, &cause);
                }
            }
        }
        Ok(any)
    }

    /// Scans an answer, sends the next request, hands the records over.
    fn take_answer(&mut self, node: i32, bytes: &[u8], asked: Asked, visit: &mut Visit<'_>) -> Result<()> {
        let mut answer = mem::take(&mut self.answer);
        let taken = self.take_partitions(node, bytes, asked, &mut answer, visit);
        self.answer = answer;
        match taken? {
            Ok(()) => {
                if let Some(address) = self.own.topology.address(node) {
                    self.own.brokers.succeeded(&address);
                }
                self.own.brokers.answered();
            }
            Err(cause) => {
                if let Some(link) = self.links.get_mut(&node) {
                    link.fail(cause.clone(), self.own.clock.monotonic());
                }
                self.broke(node, &cause);
            }
        }
        Ok(())
    }

    /// As above; an inner error says why the link is of no use.
    fn take_partitions(
        &mut self,
        node: i32,
        bytes: &[u8],
        asked: Asked,
        answer: &mut FetchAnswer,
        visit: &mut Visit<'_>,
    ) -> Result<Result<(), Cause>> {
        let received = self.own.clock.monotonic();
        let Some(link) = self.links.get_mut(&node) else { return Ok(Ok(())) };
        if let Err(cause) = link.accept(bytes, asked, received, answer) {
            return Ok(Err(cause));
        }
        let unlisted: Vec<usize> = match link.session.is_incremental() {
            true => link.session.slots().collect(),
            false => Vec::new(),
        };
        match ResponseError::try_from_code(answer.error_code) {
            None => link.session.answered(answer.session_id),
            // Mostly its session is gone: the next request says everything.
            Some(error) if may_pass(error) => link.refused(received),
            Some(ResponseError::ClusterAuthorizationFailed) => {
                return Err(self.error(Fault::not_allowed("the cluster".to_owned())));
            }
            Some(error) => {
                return Err(self.error(Fault::RefusedForGood { doing: DOING, what: "the request".to_owned(), error }));
            }
        }
        self.turn += 1;
        let found: Vec<Option<usize>> = answer
            .partitions
            .iter()
            .map(|partition| self.slot_of(node, answer.topic(bytes, partition), partition))
            .collect();
        for (partition, slot) in answer.partitions.iter().zip(&found) {
            if let Some(slot) = *slot {
                self.scan(node, slot, partition, &bytes[partition.records.clone()], received)?;
            }
        }
        self.ask(node); // it travels while the records are decoded
        for (partition, slot) in answer.partitions.iter().zip(&found) {
            let Some(slot) = slot.filter(|_| partition.error_code == 0) else { continue };
            let records = &bytes[partition.records.clone()];
            if let Err(cause) = self.walk(node, slot, records, answer.aborted(partition), received, visit)? {
                return Ok(Err(cause));
            }
            self.slots[slot].report_end(node, asked.at, !records.is_empty(), visit)?;
        }
        for slot in unlisted {
            let slot = &mut self.slots[slot];
            if slot.turn != self.turn && slot.node == Some(node) && !slot.finished {
                slot.report_end(node, asked.at, false, visit)?;
            }
        }
        Ok(Ok(()))
    }

    /// The slot of a partition in an answer, if it is still read from this node.
    fn slot_of(&self, node: i32, name: &[u8], partition: &FetchedPartition) -> Option<usize> {
        let same = |topic: &&Topic| match partition.topic_id.is_nil() {
            true => topic.name.as_bytes() == name,
            false => topic.id == partition.topic_id,
        };
        let slot = *self.topics.iter().find(same)?.slots.get(&partition.number)?;
        Some(slot).filter(|&slot| self.slots[slot].node == Some(node) && !self.slots[slot].finished)
    }

    /// Notes what an answer says of a partition, and from where to go on.
    fn scan(
        &mut self,
        node: i32,
        index: usize,
        partition: &FetchedPartition,
        records: &[u8],
        now: Monotonic,
    ) -> Result<()> {
        let slot = &mut self.slots[index];
        slot.turn = self.turn;
        slot.live = slot.asked_at_end && !slot.follower;
        if let Some(error) = ResponseError::try_from_code(partition.error_code) {
            return self.refused(index, partition, error, now);
        }
        if let Some((_, log_end)) = partition.diverging {
            let (topic, number) = (slot.partition.topic.to_string(), slot.partition.number);
            let read_to = slot.next_offset;
            return Err(self.error(Fault::Truncated { topic, number, log_end, read_to }));
        }
        slot.high_watermark = partition.high_watermark;
        slot.partition.heard_end(partition.high_watermark);
        if let Some(last) = batches(records).map_while(std::result::Result::ok).last() {
            slot.fetch_offset = slot.fetch_offset.max(last.next_offset);
            slot.fetched_epoch = last.leader_epoch;
        } else {
            slot.failures = 0;
        }
        if partition.preferred_replica >= 0 && partition.preferred_replica != node {
            // A follower is nearer. What it says of the log's end is no evidence: the control thread asks the leader.
            (slot.follower, slot.node) = (true, Some(partition.preferred_replica));
            slot.fetch_offset = slot.next_offset;
            let replica = partition.preferred_replica;
            self.links.entry(replica).or_insert_with(|| Link::new(replica, self.shared.fetches.of(replica)));
        }
        Ok(())
    }

    /// A partition was answered with an error: it is asked for again after a pause, or the job ends.
    fn refused(
        &mut self,
        index: usize,
        partition: &FetchedPartition,
        error: ResponseError,
        now: Monotonic,
    ) -> Result<()> {
        use ResponseError as E;
        let slot = &mut self.slots[index];
        let (topic, number) = (Arc::clone(&slot.partition.topic), slot.partition.number);
        tracing::debug!(%topic, number, %error, "a fetch was refused");
        match error {
            E::OffsetOutOfRange if !slot.follower => self.out_of_range(index)?,
            // A follower's trouble is not the topic's: the leader is asked next.
            error if !may_pass(error) && !slot.follower => {
                return Err(self.error(Fault::request_refused(DOING, &topic, error)));
            }
            E::NotLeaderOrFollower | E::FencedLeaderEpoch => {
                if let Some((node, epoch)) = partition.leader {
                    self.own.topology.heard_of(&topic, number, Leader { node, epoch });
                }
            }
            _ => {}
        }
        let slot = &mut self.slots[index];
        // A follower that does not serve is left for the leader.
        if mem::take(&mut slot.follower) {
            slot.node = None;
            self.topology_version = u64::MAX;
        }
        let pause = PAUSES_US.0.saturating_mul(1 << slot.failures.min(10)).min(PAUSES_US.1);
        slot.failures += 1;
        slot.retry_at = Monotonic(now.0.saturating_add(pause));
        slot.fetch_offset = slot.next_offset;
        Ok(())
    }

    /// The broker says that the offset to read next is not in the log: retention was faster, or the log was cut. Or it no
    /// longer knows the epoch that was read last: then it is asked without.
    fn out_of_range(&mut self, index: usize) -> Result<()> {
        let slot = &mut self.slots[index];
        let (topic, number, wanted) = (slot.partition.topic.to_string(), slot.partition.number, slot.next_offset);
        let had_epoch = mem::replace(&mut slot.fetched_epoch, -1) >= 0;
        let fault = match self.shared.bounds_of(&self.slots[index].partition) {
            Ok((earliest, end)) if had_epoch && (earliest..=end).contains(&wanted) => return Ok(()),
            Ok((_, end)) if had_epoch && wanted > end => {
                Fault::Truncated { topic, number, log_end: end, read_to: wanted }
            }
            Ok((earliest, end)) => Fault::OffsetsGone { topic, number, wanted, earliest, end },
            Err(fault) => fault,
        };
        Err(self.error(fault))
    }

    /// Hands over the records of a partition in an answer. An inner error says why they must be asked for again.
    fn walk(
        &mut self,
        node: i32,
        index: usize,
        records: &[u8],
        aborted: impl Iterator<Item = (i64, i64)>,
        received: Monotonic,
        visit: &mut Visit<'_>,
    ) -> Result<std::result::Result<(), Cause>> {
        let slot = &mut self.slots[index];
        let mut live_from = slot.live.then_some(node);
        let mut aborted = AbortedTransactions::new(aborted);
        for batch in batches(records) {
            let walked = match batch {
                Ok(batch) if slot.finished || batch.next_offset <= slot.next_offset => {
                    aborted.leaves_out(&batch);
                    continue;
                }
                Ok(batch) if aborted.leaves_out(&batch) => {
                    slot.reach(batch.next_offset, visit)?;
                    Ok(())
                }
                Ok(batch) if !self.accept_create_time && batch.timestamp_kind() != TimestampKind::LogAppend => {
                    let offset = slot.next_offset.max(batch.base_offset);
                    let partition = Arc::clone(&slot.partition);
                    return Err(self.error(timestamp_type::create_time_record(&self.shared, &partition, offset)));
                }
                Ok(batch)
                    if let Some(counted) = &self.counted
                        && let Some(records) = batch.records().filter(|_| slot.takes_whole(&batch)) =>
                {
                    let checked = batch.check();
                    if checked.is_ok() {
                        counted.fetch_add(records, Relaxed);
                        slot.reach(batch.next_offset, visit)?;
                    }
                    checked
                }
                Ok(batch) => {
                    let kind = batch.timestamp_kind();
                    let walked = match self.unpacker.records(&batch) {
                        Ok(records) => {
                            slot.partition.fetched(batch.size(), records.size());
                            slot.hand_over(records, kind, received, &mut live_from, &mut self.buffers, visit)?
                        }
                        Err(bad) => Err(bad),
                    };
                    if walked.is_ok() {
                        slot.reach(batch.next_offset, visit)?;
                    }
                    walked
                }
                Err(bad) => Err(bad),
            };
            match walked {
                Ok(()) => slot.finish_if_read(visit)?,
                Err(bad) => return self.bad_batch(index, bad),
            }
        }
        slot.failures = 0;
        slot.partition.read_to(slot.next_offset);
        if !records.is_empty() && !slot.finished && slot.next_offset >= slot.high_watermark {
            visit(SourceEvent::Position { partition: slot.partition.id, next_offset: slot.next_offset })?;
        }
        Ok(Ok(()))
    }

    /// A batch that cannot be read: bytes that were damaged on the way come whole the next time.
    fn bad_batch(&mut self, index: usize, bad: BadBatch) -> Result<std::result::Result<(), Cause>> {
        let slot = &mut self.slots[index];
        slot.failures += 1;
        if matches!(bad, BadBatch::Checksum { .. }) && slot.failures < BAD_BATCH_TRIES {
            return Ok(Err(Cause::Unnamed(bad.to_string())));
        }
        let (topic, number) = (slot.partition.topic.to_string(), slot.partition.number);
        let offset = slot.next_offset;
        Err(self.error(Fault::Unreadable { topic, number, offset, text: bad.to_string() }))
    }

    /// Waits for news of any socket.
    fn wait(&mut self, wait: Duration) -> Result<()> {
        match self.poll.poll(&mut self.ready, Some(wait)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(self.error(Fault::Io(error.to_string()))),
        }
        for event in &self.ready {
            let node = i32::try_from(event.token().0).unwrap_or(-1);
            if let Some(link) = self.links.get_mut(&node) {
                link.set_readable();
            }
        }
        Ok(())
    }

    fn error(&self, fault: Fault) -> EngineError {
        self.shared.settings.error(fault)
    }
}

impl Source for FetchSource {
    fn poll(&mut self, wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        let reported = self.report_control(visit)?;
        if self.finished() {
            return Ok(());
        }
        self.follow_topology()?;
        self.drive();
        if self.take_answers(visit)? {
            return Ok(());
        }
        self.wait(if reported { Duration::ZERO } else { wait })?;
        self.take_answers(visit)?;
        match self.own.brokers.refusal() {
            Some(refusal) => Err(self.error(refusal)),
            None => Ok(()),
        }
    }

    fn finished(&self) -> bool {
        self.bounded && self.joins.is_empty() && self.slots.iter().all(|slot| slot.finished)
    }
}
