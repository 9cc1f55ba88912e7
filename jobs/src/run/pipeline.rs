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

use tidemill_engine::{
    EngineError, ErrorKind, EventTime,
    dataflow::{
        merge::{CompletedEpoch, FromWorker, Merge, Output},
        plan::Dataflow,
        worker::{Step, Worker},
    },
    epoch::Written,
    intake::Intake,
    signal::EpochId,
};

use super::{error::RunError, status::Stats};

/// Messages of a worker that may wait for the merge thread: batches of up to 2 MiB of payload, so 64 MiB at most; enough that
/// a worker does not wait while a window closes or an epoch is committed.
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
    Epoch(EpochId),
    /// One command, so that nothing is taken between the last epoch and the end.
    Stop(Option<EpochId>),
}

enum Event {
    Epoch(CompletedEpoch),
    Ended,
    Failed(EngineError),
    Panicked { thread: String, message: String },
}

/// A running dataflow.
pub(super) struct Pipeline {
    commands: Vec<SyncSender<Command>>,
    events: Receiver<Event>,
    threads: Vec<JoinHandle<()>>,
    abort: Arc<AtomicBool>,
    /// The epoch under way.
    epoch: Option<EpochId>,
    last_epoch: u64,
    ended: bool,
}

impl Pipeline {
    /// Starts the threads. `intakes` by worker, then by input.
    pub(super) fn start(
        dataflow: &Dataflow,
        intakes: Vec<Vec<Intake>>,
        outputs: Vec<Output>,
        written: &[Written],
        stats: Arc<Stats>,
    ) -> Result<Self, RunError> {
        let workers = intakes.len();
        let (bell, rings) = sync_channel(BELL_CAPACITY);
        let (event, events) = sync_channel(EVENT_CAPACITY);
        let abort = Arc::new(AtomicBool::new(false));
        let closed_below = Arc::new(AtomicI64::new(EventTime::MIN.0));
        let merge = Merge::try_new(dataflow, outputs, written, workers, &stats.late)?;
        let (mut commands, mut threads, mut from_workers) = (vec![], vec![], vec![]);
        for (index, intakes) in intakes.into_iter().enumerate() {
            let worker = Worker::try_new(dataflow, intakes, &stats.late)?;
            let (command, inbox) = sync_channel(COMMAND_CAPACITY);
            commands.push(command);
            let (exchange, from_worker) = sync_channel(EXCHANGE_CAPACITY);
            from_workers.push(Some(from_worker));
            let thread = WorkerThread {
                worker,
                inbox,
                exchange,
                bell: bell.clone(),
                closed_below: Arc::clone(&closed_below),
                abort: Arc::clone(&abort),
            };
            let event = event.clone();
            threads.push(spawn(format!("worker-{index}"), move || thread.run(), event)?);
        }
        drop(bell);
        let thread =
            MergeThread { merge, from_workers, rings, event: event.clone(), closed_below, abort: Arc::clone(&abort) };
        threads.push(spawn("merge".to_owned(), move || thread.run(), event)?);
        Ok(Self { commands, events, threads, abort, epoch: None, last_epoch: 0, ended: false })
    }

    /// Begins an epoch unless one is under way; whether it did.
    pub(super) fn begin_epoch(&mut self) -> bool {
        if self.epoch.is_some() {
            return false;
        }
        self.last_epoch += 1;
        let id = EpochId(self.last_epoch);
        self.epoch = Some(id);
        for command in &self.commands {
            let _ = command.send(Command::Epoch(id)); // a worker that is gone has sent an event
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

    /// Waits at most `wait` for something to happen; gives a completed epoch, whose rows are safe.
    ///
    /// # Errors
    /// Of any thread; the others are told to leave.
    pub(super) fn wait(&mut self, wait: Duration) -> Result<Option<CompletedEpoch>, RunError> {
        match self.events.recv_timeout(wait) {
            Ok(Event::Epoch(epoch)) => {
                self.epoch = None;
                return Ok(Some(epoch));
            }
            Ok(Event::Ended) => self.ended = true,
            Ok(Event::Failed(error)) => {
                self.abort.store(true, Ordering::Relaxed);
                return Err(error.into());
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
    body: impl FnOnce() -> Result<(), EngineError> + Send + 'static,
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
    exchange: SyncSender<FromWorker>,
    bell: SyncSender<()>,
    closed_below: Arc<AtomicI64>,
    abort: Arc<AtomicBool>,
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
        let Self { worker, inbox, exchange, bell, closed_below, abort } = self;
        let mut send = |message| {
            exchange.send(message).map_err(|_| {
                merge_left.set(true);
                let message = "the merge thread has left".to_owned();
                EngineError::Source { input: String::new(), kind: ErrorKind::Bug, message }
            })?;
            let _ = bell.try_send(()); // it has rung already, or nobody listens: then the next message says so
            Ok(())
        };
        let mut done = false;
        while !abort.load(Ordering::Relaxed) {
            let command = if done { inbox.recv().map_err(|_| TryRecvError::Disconnected) } else { inbox.try_recv() };
            match command {
                Ok(Command::Epoch(id)) => {
                    worker.epoch(id, EventTime(closed_below.load(Ordering::Acquire)), false, &mut send)?;
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
    /// Of each worker; `None` once it has ended and left.
    from_workers: Vec<Option<Receiver<FromWorker>>>,
    rings: Receiver<()>,
    event: SyncSender<Event>,
    closed_below: Arc<AtomicI64>,
    abort: Arc<AtomicBool>,
}

impl MergeThread {
    fn run(mut self) -> Result<(), EngineError> {
        let worked = self.work();
        if matches!(worked, Ok(true) | Err(EngineError::ReaderGone { .. })) {
            // Also when a reader has left: the other outputs end as if the job had been asked to.
            let closed = self.merge.close();
            worked.and(closed)?;
            let _ = self.event.send(Event::Ended);
            return Ok(());
        }
        worked.map(drop)
    }

    /// Takes messages until every worker has ended (true) or the run is given up.
    fn work(&mut self) -> Result<bool, EngineError> {
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
    fn take_from_each(&mut self) -> Result<Option<bool>, EngineError> {
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
                self.complete(epoch)?;
            }
        }
        Ok(Some(any))
    }

    fn complete(&mut self, epoch: CompletedEpoch) -> Result<(), EngineError> {
        for output in self.merge.outputs() {
            output.sink.flush()?;
        }
        let written = epoch.written_below.iter().map(|t| t.0).min().unwrap_or(i64::MIN);
        self.closed_below.store(written, Ordering::Release);
        let _ = self.event.send(Event::Epoch(epoch));
        Ok(())
    }
}
