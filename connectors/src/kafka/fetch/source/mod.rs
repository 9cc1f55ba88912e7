//! A worker's share of a Kafka input, over our own fetch requests.
//!
//! Each poll reports what the control thread found, asks the brokers that lead ([`requests`]), and hands over what has come
//! ([`answers`]). What a broker refuses is asked for again, or ends the job ([`refusals`]).

mod answers;
mod refusals;
mod requests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io, mem,
    sync::{Arc, atomic::AtomicU64, mpsc::Receiver},
    time::Duration,
};

use mio::{Events, Poll};
use tidemill_engine::{
    EngineError, Result,
    source::{Source, SourceEvent, Visit},
};
use uuid::Uuid;

use crate::kafka::{
    control::{ControlEvent, ControlThread},
    fault::Fault,
    fetch::{
        answer::FetchAnswer,
        link::Link,
        session::FetchTerms,
        slot::{RunBuffers, Slot},
    },
    input::{Own, Shared},
    records::Unpacker,
    source::{Join, ReadTerms},
};

/// Bytes of an answer, at most: what is larger leaves the cache before it is decoded.
const ANSWER_BYTES: usize = 4 << 20;
/// Less would make each answer a few records.
const ANSWER_BYTES_MIN: usize = 256 << 10;
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
