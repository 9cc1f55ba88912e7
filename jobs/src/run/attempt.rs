//! One attempt of a run: what it finds, what it starts, and how it ends; [`super::run`] decides whether another follows.
//!
//! ```text
//! inputs (connect, sample) -> plan -> reference data -> claim -> outputs (contact) -> begin or go on -> pipeline -> Ended
//! ```
//! The calling thread supervises: it starts epochs, reports, and ends the attempt. The merge thread commits them
//! ([`super::commit`]).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tidemill_connectors::dead_letters::{LetterBox, LetterOrigins};
use tidemill_engine::{
    EngineError, Monotonic,
    dataflow::{
        merge::{Merge, Output},
        plan::Dataflow,
        stage::reach_back,
    },
    dead_letter::DeadLetters,
};

use super::{
    RunOptions, Status, Summary,
    budget::Budget,
    check,
    commit::{CommittedInput, Committer, Progress, RestartBy, SnapshotNeed},
    error::RunError,
    inputs::{self, ConnectedInput, Transport},
    outputs::{self, Naming},
    pipeline::{self, Commit, Pipeline, Watch},
    plan,
    reference::References,
    resume::{self, Begin},
    rotation::{self, Rotation},
    run_id,
    security::{self, Secrets},
    verify::NoLetters,
    workers,
};
use crate::{
    epoch::{
        basis::Basis,
        record::{self, InputName},
        store::{Entry, Log, Store},
    },
    spec::{Job, OutputTransport},
};

/// A run within a run: what the one before leaves to the next.
#[derive(Default)]
pub(super) struct Attempt {
    pub(super) number: u32,
    pub(super) was_taken_over: bool,
    pub(super) said: Option<String>,
    /// The log as the last attempt claimed it: it must not have been claimed by another run since.
    log: Option<Arc<Mutex<Log>>>,
    /// Whether all clusters have answered: one that goes away after that is waited for.
    pub(super) has_contact: bool,
    /// Whether an attempt came to know where it begins; from then on there is something to go on from.
    pub(super) has_begun: bool,
    /// The secrets of the last attempt that came to run, until new ones were tried because it failed.
    secrets: Option<Arc<Secrets>>,
    /// When the last attempt began to end, to go on with new secrets.
    pub(super) rotating_since: Option<Monotonic>,
    /// Connections with secrets that brokers take, for the next attempt.
    pub(super) prepared: Vec<security::Connection>,
}

impl Attempt {
    /// Whether an attempt that failed is worth another one, with other secrets: once for each attempt that came to run.
    pub(super) fn has_new_secrets(&mut self, job: &Job, options: &RunOptions) -> bool {
        let anew = self.secrets.take().and_then(|secrets| rotation::look(job, &secrets, options));
        let are_new = anew.is_some();
        self.prepared = anew.unwrap_or_default();
        are_new
    }

    /// The threads run.
    fn runs(&mut self, secrets: &Arc<Secrets>, options: &RunOptions) {
        self.secrets = Some(Arc::clone(secrets));
        if let Some(since) = self.rotating_since.take() {
            let pause_us = options.clock.monotonic().0 - since.0;
            options.stats.rotated(pause_us);
            tracing::info!("secrets have changed: connections were made anew within {} ms", pause_us / 1_000);
        }
    }

    /// Longer from time to time, up to ten seconds; less when the run is stopped.
    pub(super) fn pause(&self, options: &RunOptions) {
        const PIECE: Duration = Duration::from_millis(50);
        for _ in 0..(1 << self.number.min(8)).min(200) {
            if options.stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(PIECE);
        }
    }

    /// # Errors
    /// When another run has taken over.
    pub(super) fn check(&self) -> Result<(), RunError> {
        match &self.log {
            Some(log) => Ok(log.lock().unwrap_or_else(PoisonError::into_inner).check()?),
            None => Ok(()),
        }
    }
}

/// How an attempt ended.
pub(super) struct Ended {
    pub(super) summary: Summary,
    /// It is to go on with new secrets.
    pub(super) rotating: Option<Rotating>,
}

/// The end of an attempt for the sake of new secrets.
pub(super) struct Rotating {
    /// When it began to end.
    pub(super) since: Monotonic,
    /// All connections, with the new ones.
    pub(super) connections: Vec<security::Connection>,
}

/// From the contacts to the end of the threads.
///
/// # Errors
/// Whatever ends this attempt; the next may go on.
pub(super) fn run_once(
    job: &Job,
    options: &RunOptions,
    attempt: &mut Attempt,
    each: &mut dyn FnMut(&Status),
) -> Result<Ended, RunError> {
    let query_error = |errors| RunError::Query { query: Box::new(job.query.clone()), errors };
    let script = &job.query.script;
    check(job).map_err(query_error)?; // what can be said without a connection is said before one is made

    let read = script.inputs();
    let secrets = Arc::new(Secrets::with(job.key_vault.clone(), std::mem::take(&mut attempt.prepared)));
    let mut connected = vec![];
    for input in job.inputs.iter().filter(|input| read.iter().any(|name| name.eq_ignore_ascii_case(&input.name))) {
        connected.push(ConnectedInput::connect(job, input, &secrets, options)?);
    }
    let store = match (options.bounded && options.replay.is_none()) || options.ephemeral {
        true => None,
        false => Some(Arc::new(Store::open(&job.state.store, &job.name)?)),
    };
    let Some(tables) = inputs::tables(store.as_deref(), script, &connected, options)? else {
        let status = options.stats.status(options.clock.as_ref(), true);
        let summary = Summary { status, stopped: options.stop.load(Ordering::Relaxed) };
        return Ok(Ended { summary, rotating: None });
    };
    options.stats.watch_functions(&job.functions);
    let dataflow = plan(job, script, &tables).map_err(query_error)?;
    // A step that no statement reads is not run, nor are inputs that only it reads.
    let (references, mut connected): (Vec<_>, Vec<_>) =
        connected.into_iter().partition(|input| input.spec.reference.is_some());
    connected.retain(|input| dataflow.inputs.iter().any(|columns| columns.name == input.spec.name));

    let run_id = run_id(options.clock.as_ref());
    let letters = Letters::of(job, options);
    let references = References::read(references, &dataflow, options, &letters.aside)?;
    let compared = options.replay.as_ref().filter(|replayed| replayed.compares);
    let mut twice = None;
    let ready = match (compared, store) {
        (Some(replayed), _) => {
            let (begin, dataflow_twice) = replayed.begin(job, &connected, &dataflow, options)?;
            twice = Some(dataflow_twice);
            Ready { begin, ..from_start(job, &connected, &dataflow, (&run_id, &secrets), options, &letters)? }
        }
        (None, Some(store)) if !options.bounded => {
            attempt.check()?;
            going_on(job, &connected, &dataflow, (&store, &run_id, &secrets), options, attempt, &letters)?
        }
        _ => from_start(job, &connected, &dataflow, (&run_id, &secrets), options, &letters)?,
    };
    let Ready { begin, outputs, commit, need, abort } = ready;
    let dataflow = twice.unwrap_or(dataflow);
    let workers = workers(job, options);
    let of_worker = || match compared {
        Some(_) => NoLetters::taker(),
        None => letters.of_worker(begin.letters, options),
    };
    let (intakes, mut bad_records) = inputs::intakes(job, &connected, &dataflow, &begin, workers, options, &of_worker)?;
    let mut merge = Merge::try_new(&dataflow, outputs, &begin.written, workers, &options.stats.late)?;
    if let Some(replayed) = options.replay.as_ref().filter(|replayed| !replayed.compares) {
        merge.keep_below(&replayed.alone_below(&dataflow));
    }
    if compared.is_none() {
        bad_records = bad_records.into_iter().map(|of_input| of_input.kept_by(&letters.aside)).collect();
    }
    merge.keep_failed(bad_records, inputs::row_text);
    if let Some((store, manifest)) = &begin.snapshot {
        merge.restore(store.state(manifest)?)?;
    }
    let watch = Watch { clock: Arc::clone(&options.clock), stats: &options.stats };
    let pipeline = Pipeline::start(&dataflow, intakes, merge, (begin.epoch, commit), (Budget::of(job), abort), &watch)?;
    attempt.runs(&secrets, options);
    let rotation = Rotation::new(job, &secrets, options);
    supervise(job, options, references, (pipeline, &need, rotation), each)
}

/// The dead letters of a run on their way to their output.
pub(super) struct Letters {
    pub(super) origins: Arc<LetterOrigins>,
    /// Takes those that concern no worker.
    pub(super) aside: Arc<Mutex<dyn DeadLetters>>,
    /// Counts those that their output was handed.
    pub(super) count: Arc<AtomicU64>,
}

impl Letters {
    fn of(job: &Job, options: &RunOptions) -> Self {
        let origins = Arc::new(outputs::letter_origins(job));
        let aside = LetterBox::new(Arc::clone(&origins), 0, Arc::clone(&options.clock));
        Self { origins, aside: Arc::new(Mutex::new(aside)), count: Arc::default() }
    }

    /// Takes those of a worker; of records that are part of more epochs than `covering` they are kept.
    fn of_worker(&self, covering: u8, options: &RunOptions) -> Arc<Mutex<dyn DeadLetters>> {
        Arc::new(Mutex::new(LetterBox::new(Arc::clone(&self.origins), covering, Arc::clone(&options.clock))))
    }
}

/// What a run needs before its threads start.
struct Ready {
    begin: Begin,
    outputs: Vec<Output>,
    commit: Commit,
    need: Arc<SnapshotNeed>,
    /// Ends the threads.
    abort: Arc<AtomicBool>,
}

/// A run from `start` that leaves nothing to go on from.
fn from_start(
    job: &Job,
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    (run_id, secrets): (&str, &Secrets),
    options: &RunOptions,
    letters: &Letters,
) -> Result<Ready, RunError> {
    let contacts = outputs::contact(job, &[], false, secrets, options)?;
    let outputs = outputs::open((job, dataflow), &contacts, &Naming::Run(run_id), secrets, options, letters)?;
    let mut begin = resume::begin_at_start(connected, dataflow, None, options)?;
    if let Some(stretches) = &options.stretches {
        begin.read(stretches, connected);
    }
    Ok(Ready { begin, outputs, commit: pipeline::flush_only(), need: Arc::default(), abort: Arc::default() })
}

/// A run in epochs. It first makes sure that no other run of the job can commit, then looks where that one stood.
fn going_on(
    job: &Job,
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    (store, run_id, secrets): (&Arc<Store>, &str, &Secrets),
    options: &RunOptions,
    attempt: &mut Attempt,
    letters: &Letters,
) -> Result<Ready, RunError> {
    let (log, history) = Log::claim(store, run_id)?;
    let generation = log.generation();
    let log = Arc::new(Mutex::new(log));
    attempt.log = Some(Arc::clone(&log)); // also of an attempt that comes no further
    let (mut inputs, mut names, mut input_clusters) = (vec![], BTreeMap::new(), vec![]);
    for (input, connected) in connected.iter().enumerate() {
        let mut name = InputName { name: connected.spec.name.clone(), topic_ids: BTreeMap::new() };
        match &connected.transport {
            Transport::Kafka { input: kafka, group, .. } => {
                name.topic_ids = kafka.topic_ids();
                input_clusters.push(kafka.cluster_id());
                inputs.push(CommittedInput { input, group: Arc::clone(group) });
            }
            // No cluster has its positions.
            Transport::File { .. } | Transport::Kept(_) => input_clusters.push(String::new()),
        }
        names.insert(input, name);
    }
    let contacts = outputs::contact(job, &input_clusters, true, secrets, options)?;
    attempt.has_contact = true;
    let committed = history.epoch.as_ref().map(|epoch| (epoch.generation, epoch.epoch));
    let files_alone = inputs.is_empty() && attempt.number == 0;
    let options = &RunOptions { from_start: options.from_start || files_alone, ..options.clone() };
    let begin = resume::begin(job, connected, dataflow, &contacts, (store, history), options)?;
    if let Some(begun) = &begin.begun {
        log.lock().unwrap_or_else(PoisonError::into_inner).append(&Entry::Begun(begun.clone()))?;
    }
    let naming = Naming::Epochs { generation, committed };
    let outputs = outputs::open((job, dataflow), &contacts, &naming, secrets, options, letters)?;
    attempt.has_begun = true;
    let (need, abort) = (Arc::<SnapshotNeed>::default(), Arc::<AtomicBool>::default());
    let snapshot = begin.snapshot.as_ref().map(|(_, manifest)| manifest.standing.clone());
    let catch_up = record::to_be_reached(begin.kafka_partitions(connected));
    let mut committer = Committer {
        job: job.name.clone(),
        plan: dataflow.fingerprint(),
        names,
        inputs,
        clusters: contacts.clusters(),
        log_each: job.outputs.iter().any(|output| matches!(output.transport, OutputTransport::File(_))),
        store: Arc::clone(store),
        log,
        letters: Arc::clone(&letters.count),
        letters_in_log: matches!(job.dead_letters.transport, OutputTransport::File(_)),
        clock: Arc::clone(&options.clock),
        log_beat: job.state.snapshot.get(),
        need: Arc::clone(&need),
        counters: Arc::clone(&options.stats.epochs),
        stop: Arc::clone(&abort),
        progress: Progress::from(begin.after, catch_up, Basis::new(reach_back(dataflow), snapshot)),
    };
    let commit: Commit = Box::new(move |epoch, merge, state| committer.commit(epoch, merge, state));
    Ok(Ready { begin, outputs, commit, need, abort })
}

/// Starts epochs, and ends the run.
pub(super) fn supervise(
    job: &Job,
    options: &RunOptions,
    mut references: References,
    (mut pipeline, need, mut rotation): (Pipeline, &SnapshotNeed, Rotation),
    each: &mut dyn FnMut(&Status),
) -> Result<Ended, RunError> {
    const TICK: Duration = Duration::from_millis(50);
    const REPORT_US: i64 = 200_000;
    let clock = options.clock.as_ref();
    let beat = if options.bounded { i64::MAX } else { job.state.epoch.micros() };
    let started = clock.monotonic();
    let (mut reported, mut begun, mut sealed) = (started, started, started);
    let (mut stopped, mut rotating) = (false, None);
    loop {
        match pipeline.wait(TICK) {
            // Whoever read our rows has seen enough.
            Err(RunError::Engine(EngineError::ReaderGone { .. })) => {
                pipeline.join();
                let summary = Summary { status: options.stats.status(clock, options.bounded), stopped: true };
                return Ok(Ended { summary, rotating: None });
            }
            Err(error) => {
                // What the threads hold (producers, the log) is let go of before another attempt takes it.
                pipeline.join();
                return Err(error);
            }
            Ok(Some(below)) => references.forget_below(below),
            Ok(None) => {}
        }
        if pipeline.ended() {
            break;
        }
        let now = clock.monotonic();
        references.tend(now)?;
        if let Some(connections) = rotation.tick(now, &options.stats) {
            rotating.get_or_insert(Rotating { since: now, connections });
        }
        if (rotating.is_some() || options.stop.load(Ordering::Relaxed)) && !stopped {
            stopped = pipeline.stop(!options.bounded);
        } else if now.0 - begun.0 >= beat && !stopped {
            let seal = need.decide(now.0 - sealed.0 >= job.state.snapshot.micros()) == RestartBy::Snapshot;
            if pipeline.begin_epoch(seal) {
                begun = now;
                if seal {
                    sealed = now;
                }
            }
        }
        if now.0 - reported.0 >= REPORT_US {
            reported = now;
            options.stats.warn_of_expiries(security::unix_time(clock));
            each(&options.stats.status(clock, options.bounded));
        }
    }
    pipeline.join();
    let status = options.stats.status(clock, options.bounded);
    let rotating = rotating.filter(|_| !options.stop.load(Ordering::Relaxed));
    Ok(Ended { summary: Summary { status, stopped }, rotating })
}
