//! The control thread of an unbounded input: it asks the leaders where their logs end, and the brokers for new partitions.
//!
//! Each tick it asks first for ends (of the partitions whose source has read all it knows of, so that a backlog costs
//! nothing), then for the partitions and their leaders. An end counts only when the same leader stands in the metadata
//! before and after: then it is that leader's answer. What it finds goes to the workers through bounded channels; ends and
//! topologies are renewed each tick and dropped when a channel is full, a joined partition waits for room, and no topology
//! is reported before it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::consumer::{BaseConsumer, Consumer};
use tidemill_engine::{
    Monotonic,
    source::{PartitionId, SourceEvent, Visit},
};

use super::{
    client::Reporter,
    cluster::{Cluster, TopicAnswer, number},
    config::{Isolation, SourceSettings},
    fault::{Cause, Fault},
    input::Shared,
    partition::Partition,
    source::Join,
    wire::OffsetQuestion,
};

/// Events that may wait for a worker: some ticks' ends of a hundred partitions. A worker that is behind needs no more, for
/// the next ones say it better.
const EVENTS: usize = 1_024;
/// How often is asked. Every window waits for the answer that no partition is new, and the last one for `idle_margin` as well.
const TICK: Duration = Duration::from_millis(100);
/// How long one question may take; a leader that is away must not hold up the others for long.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Ticks in a row in which a topic must be unknown before it counts as deleted: a broker that just started may not know it.
const GONE_AFTER: u32 = 10;

/// What a worker's source is told.
pub(super) enum ControlEvent {
    /// Read this partition from now on.
    Join(Join),
    /// An end, as its leader says.
    End { partition: PartitionId, leader: i32, asked: Monotonic, end_offset: i64 },
    /// No partition is unknown.
    Topology { asked: Monotonic },
    /// The job cannot go on.
    Stop(Fault),
}

impl ControlEvent {
    /// Passes it on; gives back what the source itself has to do.
    pub(super) fn report(
        self,
        settings: &SourceSettings,
        visit: &mut Visit<'_>,
    ) -> tidemill_engine::Result<Option<Join>> {
        match self {
            Self::Join(join) => return Ok(Some(join)),
            Self::End { partition, leader, asked, end_offset } => {
                visit(SourceEvent::End { partition, leader, asked, end_offset })?;
            }
            Self::Topology { asked } => visit(SourceEvent::Topology { asked })?,
            Self::Stop(fault) => return Err(settings.error(fault)),
        }
        Ok(None)
    }
}

/// The way to a worker.
pub(super) struct Worker {
    events: SyncSender<ControlEvent>,
    /// librdkafka's client of its source, which must know a partition before it can read it.
    client: Option<Arc<BaseConsumer<Reporter>>>,
    /// What must not be lost and found no room yet.
    waiting: VecDeque<ControlEvent>,
}

impl Worker {
    pub(super) fn new(client: Option<Arc<BaseConsumer<Reporter>>>) -> (Self, Receiver<ControlEvent>) {
        let (events, receiver) = sync_channel(EVENTS);
        (Self { events, client, waiting: VecDeque::new() }, receiver)
    }

    /// Hands over what waits, as far as there is room. Returns whether nothing is left.
    fn deliver(&mut self) -> bool {
        while let Some(event) = self.waiting.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.waiting.push_front(event);
                return false;
            }
        }
        true
    }

    /// Hands over what may be lost; behind what may not.
    fn offer(&mut self, event: ControlEvent) {
        if self.waiting.is_empty() {
            // Full: the next tick says it again. Disconnected: the source is gone, and soon this thread.
            let _ = self.events.try_send(event);
        }
    }
}

/// Ends the thread when dropped.
pub(super) struct ControlThread {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the Kafka control thread panicked");
        }
    }
}

/// Starts the thread. With a `bounded` input it only follows the leaders.
pub(super) fn start(shared: Arc<Shared>, workers: Vec<Worker>, bounded: bool) -> Result<Arc<ControlThread>, Fault> {
    // High watermarks, whatever the job's isolation: an open transaction's records would come in behind its stable end.
    let cluster = shared.cluster_of(Isolation::ReadUncommitted)?;
    let (leaders, unknown_ticks) = (Leaders::new(), HashMap::new());
    let mut control = Control { shared, cluster, workers, bounded, leaders, unknown_ticks };
    let (stop, stopped) = sync_channel(1);
    let thread = thread::spawn(move || {
        while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            if let Err(fault) = control.tick() {
                return control.stop_workers(&fault, &stopped);
            }
        }
    });
    Ok(Arc::new(ControlThread { stop: Some(stop), thread: Some(thread) }))
}

/// Leader by topic and partition number.
type Leaders = HashMap<(Arc<str>, i32), i32>;

struct Control {
    shared: Arc<Shared>,
    cluster: Cluster,
    workers: Vec<Worker>,
    bounded: bool,
    leaders: Leaders,
    /// For each topic that is unknown at the moment, for how many ticks.
    unknown_ticks: HashMap<Arc<str>, u32>,
}

/// An answer to the question for an end.
struct End {
    partition: Arc<Partition>,
    leader: i32,
    asked: Monotonic,
    end_offset: i64,
}

impl Control {
    /// One round of questions.
    ///
    /// # Errors
    /// What no retry cures.
    fn tick(&mut self) -> Result<(), Fault> {
        let (ends, mut failure) = self.ask_ends()?;
        let asked = self.shared.clock.monotonic();
        let complete = match self.ask_topology() {
            Ok(complete) => complete,
            Err(Fault::Request { cause, .. }) => {
                failure = failure.or(Some(cause));
                false
            }
            Err(fault) => return Err(fault),
        };
        let leaders = &self.leaders;
        let same_leader =
            |end: &End| leaders.get(&(end.partition.topic.clone(), end.partition.number)) == Some(&end.leader);
        for end in ends.into_iter().filter(same_leader) {
            let End { partition, leader, asked, end_offset } = end;
            partition.heard_end(end_offset);
            let worker = worker_of(partition.id, self.workers.len());
            self.workers[worker].offer(ControlEvent::End { partition: partition.id, leader, asked, end_offset });
        }
        if self.deliver() && complete && !self.bounded {
            self.workers.iter_mut().for_each(|worker| worker.offer(ControlEvent::Topology { asked }));
        }
        self.cluster.serve_callbacks();
        match failure {
            Some(cause) => self.shared.brokers.lost(&cause),
            None => self.shared.brokers.answered(),
        }
        Ok(())
    }

    /// Asks each leader for the ends of those of its partitions that were read to their end. A leader that does not answer
    /// leaves the others' answers as they are.
    ///
    /// # Errors
    /// What no retry cures.
    fn ask_ends(&self) -> Result<(Vec<End>, Option<Cause>), Fault> {
        let mut by_leader: BTreeMap<i32, Vec<Arc<Partition>>> = BTreeMap::new();
        for partition in self.shared.table.all().into_iter().filter(|partition| partition.at_end()) {
            if let Some(&leader) = self.leaders.get(&(partition.topic.clone(), partition.number)) {
                by_leader.entry(leader).or_default().push(partition);
            }
        }
        let mut ends = Vec::new();
        let mut failure = None;
        for (leader, partitions) in by_leader {
            let asked = self.shared.clock.monotonic();
            let questions: Vec<_> = partitions.iter().map(|p| (&*p.topic, p.number, OffsetQuestion::End)).collect();
            match self.cluster.offsets(&questions, ANSWER_WITHIN) {
                Ok(answers) => ends.extend(partitions.into_iter().zip(answers).filter_map(|(partition, answer)| {
                    Some(End { partition, leader, asked, end_offset: number(answer).ok()? })
                })),
                Err(Fault::Request { cause, .. }) => failure = Some(cause),
                Err(fault) => return Err(fault),
            }
        }
        Ok((ends, failure))
    }

    /// Asks for the partitions and leaders of each topic and lets new partitions join. Returns whether every partition in
    /// the answers is known now.
    fn ask_topology(&mut self) -> Result<bool, Fault> {
        let mut complete = true;
        let topics = self.shared.settings.topics.clone();
        let answers = self.cluster.topics(&topics, ANSWER_WITHIN)?;
        for (topic, answer) in topics.into_iter().zip(answers) {
            let topic: Arc<str> = topic.into();
            match answer {
                TopicAnswer::Partitions(partitions) => {
                    self.unknown_ticks.remove(&topic);
                    for (number, leader) in partitions {
                        complete &= self.note_partition(&topic, number, leader);
                    }
                }
                TopicAnswer::NotYet => complete = false,
                TopicAnswer::Unknown => {
                    complete = false;
                    let ticks = self.unknown_ticks.entry(topic.clone()).or_default();
                    *ticks += 1;
                    if *ticks >= GONE_AFTER {
                        return Err(Fault::TopicGone { topic: topic.to_string() });
                    }
                }
            }
        }
        Ok(complete)
    }

    /// Remembers a partition's leader and lets it join if it is new. Returns whether it is known now.
    fn note_partition(&mut self, topic: &Arc<str>, number: i32, leader: i32) -> bool {
        if self.bounded || self.shared.table.contains(topic, number) {
            self.leaders.insert((topic.clone(), number), leader);
            return true;
        }
        match self.join(topic, number) {
            Ok(()) => true,
            Err(fault) => {
                tracing::debug!(%topic, number, %fault, "a new partition cannot be read yet");
                false
            }
        }
    }

    /// A new partition is read from its beginning, whatever the start position was.
    fn join(&mut self, topic: &Arc<str>, number: i32) -> Result<(), Fault> {
        let answers = self.cluster.offsets(&[(&**topic, number, OffsetQuestion::Earliest)], ANSWER_WITHIN)?;
        let start_offset = answers.into_iter().try_fold(0, |_, answer| super::cluster::number(answer))?;
        let worker = worker_of(self.shared.table.next_id(), self.workers.len());
        let worker = &mut self.workers[worker];
        if let Some(client) = &worker.client {
            client
                .fetch_metadata(Some(topic), ANSWER_WITHIN)
                .map_err(|error| Fault::request("read the topic's partitions", "the topic", &error))?;
        }
        let partition = self.shared.table.add(topic.clone(), number);
        partition.read_to(start_offset);
        tracing::info!(%topic, number, start_offset, "new partition");
        worker.waiting.push_back(ControlEvent::Join(Join { partition, start_offset, end_offset: None }));
        Ok(())
    }

    /// Hands every worker what waits for it. Returns whether nothing is left.
    fn deliver(&mut self) -> bool {
        self.workers.iter_mut().map(Worker::deliver).filter(|delivered| !delivered).count() == 0
    }

    /// Tells every worker why the job cannot go on; gives up when asked to stop.
    fn stop_workers(&mut self, fault: &Fault, stopped: &Receiver<()>) {
        for worker in &mut self.workers {
            worker.waiting.push_back(ControlEvent::Stop(fault.clone()));
        }
        while !self.deliver() {
            if stopped.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }
}

/// Which worker reads a partition.
pub(super) fn worker_of(partition: PartitionId, workers: usize) -> usize {
    partition.0 as usize % workers
}
