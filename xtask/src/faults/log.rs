//! A topic that is written and read at once, each by a thread of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::message::Message;
use tidemill_connectors::kafka::{Fetch, Isolation, KafkaConnection, KafkaInput, Security, SourceSettings};
use tidemill_engine::source::{Source, SourceEvent};

use crate::clock::machine_clock;
use crate::kafka::{Cluster, Record};

/// Far longer than any of this takes: what has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one look at the source may take.
const POLL: Duration = Duration::from_millis(20);
/// KiB that are fetched ahead; small, so that a backlog takes many answers.
const QUEUE_KIB: usize = 256;
/// Records of a portion of the writer.
const PORTION: usize = 200;

/// The topic `name` of a cluster, while it is read and, by [`Topic::write`], written.
pub(super) struct Topic<'c> {
    cluster: &'c Cluster,
    name: String,
    partitions: i32,
    written: usize,
    state: Arc<State>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// What the reader saw.
#[derive(Default)]
struct Seen {
    /// By partition: offset and value, in the order in which they came.
    records: BTreeMap<i32, Vec<(i64, Vec<u8>)>>,
    /// Why it stopped.
    stopped: Option<String>,
    /// Whether it is to rest, and whether it does.
    hold: bool,
    at_rest: bool,
}

impl<'c> Topic<'c> {
    /// Reads a topic that exists, from its beginning.
    pub(super) fn read(cluster: &'c Cluster, name: &str, partitions: i32) -> Result<Self> {
        let settings = SourceSettings {
            input: name.to_owned(),
            connection: KafkaConnection { brokers: cluster.bootstrap(), security: Security::default() },
            topics: vec![name.to_owned()],
            isolation: Isolation::ReadCommitted,
            accept_create_time: false,
            queue_kib: QUEUE_KIB,
            fetch: Fetch::Own,
            rack: None,
        };
        let input = KafkaInput::connect(settings, machine_clock(), PATIENCE)?;
        let mut sources = input.open(1, &vec![0; usize::try_from(partitions)?], None, false)?;
        let (mut source, state) = (sources.remove(0), Arc::<State>::default());
        let shared = Arc::clone(&state);
        let reader = thread::Builder::new().name(format!("read {name}")).spawn(move || shared.poll(source.as_mut()))?;
        Ok(Self { cluster, name: name.to_owned(), partitions, written: 0, state, reader: Some(reader) })
    }

    /// Writes numbered records over all partitions; each is acknowledged when this returns.
    pub(super) fn write(&mut self, records: usize) -> Result<()> {
        let numbers = self.written..self.written + records;
        self.written = numbers.end;
        let partitions = self.partitions;
        let record = |n: usize| Record::new(n as i32 % partitions, format!("{n:>120}"));
        self.cluster.broker(1).produce(&self.name, numbers.map(record))
    }

    /// Writes on and on while `hurt` does what it does, then some more.
    pub(super) fn write_while<T>(&mut self, hurt: impl FnOnce() -> Result<T> + Send) -> Result<T>
    where
        T: Send,
    {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let hurting = scope.spawn(|| {
                let outcome = hurt();
                done.store(true, SeqCst);
                outcome
            });
            while !done.load(SeqCst) {
                self.write(PORTION)?;
            }
            let outcome = hurting.join().unwrap_or_else(|_| bail!("what hurts the cluster panicked"));
            self.write(PORTION)?;
            outcome
        })
    }

    /// Waits until so many records were read.
    pub(super) fn wait_for_records(&self, count: usize) -> Result<()> {
        self.wait("records", |seen| {
            seen.records.values().map(Vec::len).sum::<usize>() >= count || seen.stopped.is_some()
        })
    }

    /// Lets the reader rest, once it has seen something.
    pub(super) fn hold(&self) -> Result<()> {
        self.wait("the first records", |seen| !seen.records.is_empty())?;
        self.state.seen().hold = true;
        self.wait("the reader to rest", |seen| seen.at_rest)
    }

    /// Lets it go on.
    pub(super) fn go_on(&self) {
        self.state.seen().hold = false;
        self.state.changed.notify_all();
    }

    /// Waits until the reader has all that the log holds now: each record once, in order.
    pub(super) fn expect_all(&self) -> Result<()> {
        let log = self.cluster.broker(1).read(&self.name)?;
        let mut expected: BTreeMap<i32, Vec<(i64, Vec<u8>)>> = BTreeMap::new();
        for message in &log {
            let value = message.payload().unwrap_or_default().to_vec();
            expected.entry(message.partition()).or_default().push((message.offset(), value));
        }
        ensure!(log.len() >= self.written, "the log of `{}` has {} of {} records", self.name, log.len(), self.written);
        let has_come = |seen: &Seen| seen.records.values().map(Vec::len).sum::<usize>() >= log.len();
        self.wait("all records", |seen| has_come(seen) || seen.stopped.is_some())?;
        let seen = self.state.seen();
        if let Some(reason) = &seen.stopped {
            bail!("the reader of `{}` stopped: {reason}", self.name);
        }
        for (partition, expected) in &expected {
            let read = seen.records.get(partition).map_or(&[][..], Vec::as_slice);
            let differs = |index: &usize| expected.get(*index) != read.get(*index);
            if let Some(index) = (0..expected.len().max(read.len())).find(differs) {
                let offset = |log: &[(i64, Vec<u8>)]| log.get(index).map(|(offset, _)| *offset);
                let (of_log, of_reader) = (offset(expected), offset(read));
                bail!(
                    "`{}` partition {partition} differs at record {index}: offset {of_log:?}, read {of_reader:?}",
                    self.name
                );
            }
        }
        Ok(())
    }

    /// Waits until the reader has stopped for a reason that says one of these.
    pub(super) fn expect_stop(&self, sentences: &[&str]) -> Result<()> {
        self.wait("the reader to stop", |seen| seen.stopped.is_some())?;
        let seen = self.state.seen();
        let reason = seen.stopped.as_deref().unwrap_or_default();
        ensure!(sentences.iter().any(|sentence| reason.contains(sentence)), "it stopped for another reason: {reason}");
        Ok(())
    }

    fn wait(&self, what: &str, is_there: impl Fn(&Seen) -> bool) -> Result<()> {
        let start = Instant::now();
        let mut seen = self.state.seen();
        while !is_there(&seen) {
            let read: usize = seen.records.values().map(Vec::len).sum();
            let left = PATIENCE.checked_sub(start.elapsed());
            let left = left.with_context(|| {
                let stopped = seen.stopped.as_deref().unwrap_or("and goes on");
                format!("waited {PATIENCE:?} for {what}; the reader of `{}` has {read} records, {stopped}", self.name)
            })?;
            seen = self.state.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        self.state.ended.store(true, SeqCst);
        self.go_on();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join(); // what it had to say is in `seen`
        }
    }
}

impl State {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls until the end, or until the source stops.
    fn poll(&self, source: &mut dyn Source) {
        while !self.ended.load(SeqCst) {
            let mut seen = self.seen();
            while seen.hold && !self.ended.load(SeqCst) {
                seen.at_rest = true;
                self.changed.notify_all();
                seen = self.changed.wait(seen).unwrap_or_else(PoisonError::into_inner);
            }
            seen.at_rest = false;
            drop(seen);
            let polled = source.poll(POLL, &mut |event| {
                if let SourceEvent::Records { partition, records, .. } = event {
                    let mut seen = self.seen();
                    let known = seen.records.entry(partition.0 as i32).or_default();
                    known.extend(records.iter().map(|r| (r.offset, r.value.unwrap_or_default().to_vec())));
                    self.changed.notify_all();
                }
                Ok(())
            });
            if let Err(error) = polled {
                self.seen().stopped = Some(error.to_string());
                self.changed.notify_all();
                return;
            }
        }
    }
}
