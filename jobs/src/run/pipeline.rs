//! The threads of a run: one for each worker, one for the merge, and the channels between them and the supervisor.
//!
//! ```text
//! supervisor --commands(2)--> worker --exchange(32)--> merge --events(4)--> supervisor
//! ```

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use arrow::array::RecordBatch;
use tidemill_engine::{
    Clock, EngineError, ErrorKind, EventTime,
    dataflow::{
        merge::{CompletedEpoch, Merge},
        plan::Dataflow,
        worker::{Step, Worker},
    },
    intake::Intake,
    signal::EpochId,
};

use super::{
    budget::Budget,
    error::RunError,
    exchange::{FromOneWorker, MergeLeft, ToMerge, exchange},
    status::{EpochCounters, Stats},
};

/// Messages of a worker that may wait for the merge thread, and no more than their share of the memory ([`Budget::exchange_bytes`]);
/// enough that a worker does not wait while a window closes or an epoch is committed.
const EXCHANGE_CAPACITY: usize = 32;
/// Workers ring when they have sent something; one ring is as good as many.
const BELL_CAPACITY: usize = 1;
/// Commands that may wait for a worker: an epoch and a stop.
const COMMAND_CAPACITY: usize = 2;
/// Events that may wait for the supervisor: it takes them at least each 50 ms, and there is one epoch at a time.
const EVENT_CAPACITY: usize = 4;
/// How long a worker waits for records, and the merge thread for messages, before looking at other things.
const WAIT: Duration = Duration::from_millis(20);

enum Command {
    /// Whether the worker seals its state first, for a snapshot.
    Epoch(EpochId, bool),
    /// One command, so that nothing is taken between the last epoch and the end.
    Stop(Option<EpochId>),
}

enum Event {
    /// An epoch is over: the event time below which all rows were handed to the sinks.
    Committed(EventTime),
    Ended,
    Failed(RunError),
    Panicked {
        thread: String,
        message: String,
    },
}

/// Commits an epoch on the merge thread; with the operators' state when they were sealed for it. Whether it did: otherwise the
/// epoch becomes part of the next one.
pub(super) type Commit =
    Box<dyn FnMut(&CompletedEpoch, &mut Merge, Option<Vec<Vec<RecordBatch>>>) -> Result<bool, RunError> + Send>;

/// Flushes the sinks and remembers nothing: a bounded run.
pub(super) fn flush_only() -> Commit {
    Box::new(|_, merge, _| {
        merge.outputs().iter_mut().try_for_each(|output| output.sink.flush())?;
        Ok(true)
    })
}

/// What a run's threads tell the time by, and where they count.
pub(super) struct Watch<'w> {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) stats: &'w Stats,
}

/// A running dataflow.
pub(super) struct Pipeline {
    commands: Vec<SyncSender<Command>>,
    events: Receiver<Event>,
    threads: Vec<JoinHandle<()>>,
    abort: Arc<AtomicBool>,
    /// Whether the epoch under way is to give a snapshot; until it is committed.
    sealing: Arc<AtomicBool>,
    /// The epoch under way.
    epoch: Option<EpochId>,
    last_epoch: u64,
    ended: bool,
}

impl Pipeline {
    /// Starts the threads. `intakes` by worker, then by input; what they keep is bounded by `budget`; `abort` ends them when it is
    /// set. Epochs are counted on from `last_epoch`.
    pub(super) fn start(
        dataflow: &Dataflow,
        intakes: Vec<Vec<Intake>>,
        mut merge: Merge,
        (last_epoch, commit): (u64, Commit),
        (budget, abort): (Budget, Arc<AtomicBool>),
        watch: &Watch<'_>,
    ) -> Result<Self, RunError> {
        merge.count_from(EpochId(last_epoch));
        let (state, exchange_bytes) = (Arc::new(budget.state()), budget.exchange_bytes(intakes.len()));
        merge.bound_state(&state)?;
        let (bell, rings) = sync_channel(BELL_CAPACITY);
        let (event, events) = sync_channel(EVENT_CAPACITY);
        let closed_below = Arc::new(AtomicI64::new(EventTime::MIN.0));
        let (mut commands, mut threads, mut from_workers) = (vec![], vec![], vec![]);
        let sealing = Arc::new(AtomicBool::new(false));
        for (index, intakes) in intakes.into_iter().enumerate() {
            let mut worker = Worker::try_new(dataflow, intakes, &watch.stats.late)?;
            worker.bound_state(&state)?;
            let (command, inbox) = sync_channel(COMMAND_CAPACITY);
            commands.push(command);
            let (to_merge, from_worker) = exchange(EXCHANGE_CAPACITY, exchange_bytes, Arc::clone(&abort));
            from_workers.push(Some(from_worker));
            let thread = WorkerThread {
                worker,
                inbox,
                to_merge,
                bell: bell.clone(),
                sealing: Arc::clone(&sealing),
                closed_below: Arc::clone(&closed_below),
                abort: Arc::clone(&abort),
                clock: Arc::clone(&watch.clock),
                counters: Arc::clone(&watch.stats.epochs),
            };
            let event = event.clone();
            threads.push(spawn(format!("worker-{index}"), move || Ok(thread.run()?), event)?);
        }
        drop(bell);
        let thread = MergeThread {
            merge,
            commit,
            sealing: Arc::clone(&sealing),
            from_workers,
            rings,
            event: event.clone(),
            closed_below,
            abort: Arc::clone(&abort),
        };
        threads.push(spawn("merge".to_owned(), move || thread.run(), event)?);
        Ok(Self { commands, events, threads, abort, sealing, epoch: None, last_epoch, ended: false })
    }

    /// Begins an epoch unless one is under way; whether it did. With `seal` the commit gets the operators' state.
    pub(super) fn begin_epoch(&mut self, seal: bool) -> bool {
        if self.epoch.is_some() {
            return false;
        }
        self.last_epoch += 1;
        let id = EpochId(self.last_epoch);
        self.epoch = Some(id);
        self.sealing.store(seal, Ordering::Release);
        for command in &self.commands {
            let _ = command.send(Command::Epoch(id, seal)); // a worker that is gone has sent an event
        }
        true
    }

    /// Makes the workers finish the batch in hand and end, after a last epoch if `commit`; whether it did. It does not
    /// while an epoch is under way.
    pub(super) fn stop(&mut self, commit: bool) -> bool {
        if self.epoch.is_some() {
            return false;
        }
        if commit {
            self.last_epoch += 1;
            self.epoch = Some(EpochId(self.last_epoch));
        }
        for command in &self.commands {
            let _ = command.send(Command::Stop(self.epoch));
        }
        true
    }

    /// Waits at most `wait` for something to happen. After an epoch gives the event time below which all rows were handed to
    /// the sinks.
    ///
    /// # Errors
    /// Of any thread; the others are told to leave.
    pub(super) fn wait(&mut self, wait: Duration) -> Result<Option<EventTime>, RunError> {
        match self.events.recv_timeout(wait) {
            Ok(Event::Committed(below)) => {
                self.epoch = None;
                return Ok(Some(below));
            }
            Ok(Event::Ended) => self.ended = true,
            Ok(Event::Failed(error)) => {
                self.abort.store(true, Ordering::Relaxed);
                return Err(error);
            }
            Ok(Event::Panicked { thread, message }) => {
                self.abort.store(true, Ordering::Relaxed);
                return Err(RunError::Panicked { thread, message });
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.ended = true, // without an end only after a failure was reported
        }
        Ok(None)
    }

    /// Whether everything was processed and the sinks are closed.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// Waits for the threads, which have nothing left to do.
    pub(super) fn join(mut self) {
        self.commands.clear(); // workers that are done wait for a command
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // panics were caught and reported
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.abort.store(true, Ordering::Relaxed);
    }
}

/// Runs `body` in a thread of this name; an error becomes an event.
fn spawn(
    name: String,
    body: impl FnOnce() -> Result<(), RunError> + Send + 'static,
    event: SyncSender<Event>,
) -> Result<JoinHandle<()>, RunError> {
    let in_message = name.clone();
    let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
        let report = match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Event::Failed(error),
            Err(panic) => {
                let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
                let message = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
                Event::Panicked { thread: in_message, message }
            }
        };
        let _ = event.send(report); // nobody listens any more: another error came first
    });
    thread.map_err(|error| RunError::Panicked { thread: name, message: format!("cannot start: {error}") })
}

struct WorkerThread {
    worker: Worker,
    inbox: Receiver<Command>,
    to_merge: ToMerge,
    bell: SyncSender<()>,
    sealing: Arc<AtomicBool>,
    closed_below: Arc<AtomicI64>,
    abort: Arc<AtomicBool>,
    clock: Arc<dyn Clock>,
    counters: Arc<EpochCounters>,
}

impl WorkerThread {
    fn run(mut self) -> Result<(), EngineError> {
        let merge_left = Cell::new(false);
        match self.work(&merge_left) {
            // The merge thread has left, or the run is being given up: somebody else reports why.
            Err(_) if merge_left.get() || self.abort.load(Ordering::Relaxed) => Ok(()),
            result => result,
        }
    }

    fn work(&mut self, merge_left: &Cell<bool>) -> Result<(), EngineError> {
        let Self { worker, inbox, to_merge, bell, sealing, closed_below, abort, clock, counters } = self;
        let mut send = |message| {
            let of_snapshot = sealing.load(Ordering::Acquire).then(|| clock.monotonic());
            to_merge.send(message).map_err(|MergeLeft| {
                merge_left.set(true);
                let message = "the merge thread has left".to_owned();
                EngineError::Source { input: String::new(), kind: ErrorKind::Bug, message }
            })?;
            if let Some(begun) = of_snapshot {
                counters.paused(begun, clock.monotonic()); // the merge thread was writing state, and its queue is full
            }
            let _ = bell.try_send(()); // it has rung already, or nobody listens: then the next message says so
            Ok(())
        };
        let mut done = false;
        while !abort.load(Ordering::Relaxed) {
            let command = if done { inbox.recv().map_err(|_| TryRecvError::Disconnected) } else { inbox.try_recv() };
            match command {
                Ok(Command::Epoch(id, seal)) => {
                    let begun = clock.monotonic();
                    worker.epoch(id, EventTime(closed_below.load(Ordering::Acquire)), seal, &mut send)?;
                    if seal {
                        counters.paused(begun, clock.monotonic());
                    }
                }
                Ok(Command::Stop(epoch)) => {
                    if let Some(id) = epoch {
                        worker.epoch(id, EventTime(closed_below.load(Ordering::Acquire)), false, &mut send)?;
                    }
                    return if done { Ok(()) } else { worker.end(&mut send) };
                }
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => done = worker.step(WAIT, &mut send)? == Step::Done,
            }
        }
        Ok(())
    }
}

struct MergeThread {
    merge: Merge,
    commit: Commit,
    sealing: Arc<AtomicBool>,
    /// Of each worker; `None` once it has ended and left.
    from_workers: Vec<Option<FromOneWorker>>,
    rings: Receiver<()>,
    event: SyncSender<Event>,
    closed_below: Arc<AtomicI64>,
    abort: Arc<AtomicBool>,
}

impl MergeThread {
    fn run(mut self) -> Result<(), RunError> {
        let worked = self.work().and_then(|ended| {
            if ended && let Some(epoch) = self.merge.finish() {
                self.complete(&epoch)?;
            }
            Ok(ended)
        });
        if matches!(worked, Ok(true) | Err(RunError::Engine(EngineError::ReaderGone { .. }))) {
            // Also when a reader has left: the other outputs end as if the job had been asked to.
            let closed = self.merge.close();
            worked?;
            closed?;
            let _ = self.event.send(Event::Ended);
            return Ok(());
        }
        worked.map(drop)
    }

    /// Takes messages until every worker has ended (true) or the run is given up.
    fn work(&mut self) -> Result<bool, RunError> {
        while !self.merge.ended() {
            if self.abort.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let Some(any) = self.take_from_each()? else { return Ok(false) };
            self.merge.tick()?;
            if !any {
                let _ = self.rings.recv_timeout(WAIT); // whatever came of it, the workers are looked at
            }
        }
        Ok(true)
    }

    /// Takes a message of each worker that is not waiting; whether there was any, `None` when a worker has left without an
    /// end: it has reported why.
    fn take_from_each(&mut self) -> Result<Option<bool>, RunError> {
        let mut any = false;
        for worker in 0..self.from_workers.len() {
            let Some(from_worker) = self.from_workers[worker].as_ref().filter(|_| !self.merge.is_waiting(worker))
            else {
                continue;
            };
            let message = match from_worker.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Empty) => continue,
                Err(TryRecvError::Disconnected) if self.merge.has_ended(worker) => {
                    self.from_workers[worker] = None;
                    continue;
                }
                Err(TryRecvError::Disconnected) => return Ok(None),
            };
            any = true;
            if let Some(epoch) = self.merge.take(worker, message)? {
                self.complete(&epoch)?;
                let below = epoch.written_below.iter().min().copied().unwrap_or(EventTime::MIN);
                let _ = self.event.send(Event::Committed(below));
            }
        }
        Ok(Some(any))
    }

    fn complete(&mut self, epoch: &CompletedEpoch) -> Result<(), RunError> {
        let state = match self.sealing.load(Ordering::Acquire) {
            true => Some(self.merge.snapshot()?),
            false => None,
        };
        let committed = (self.commit)(epoch, &mut self.merge, state)?;
        self.sealing.store(false, Ordering::Release);
        if committed {
            let written = epoch.written_below.iter().map(|t| t.0).min().unwrap_or(i64::MIN);
            self.closed_below.store(written, Ordering::Release);
        }
        Ok(())
    }
}
