//! Runs a job: connects, learns the schemas, plans, and drives worker threads and the merge thread to the end.
//!
//! ```text
//! Job -> inputs (connect, sample) -> plan -> reference data -> claim -> outputs (contact) -> begin or go on -> pipeline -> Summary
//! ```
//! The calling thread supervises: it starts epochs, reports, and ends the run. The merge thread commits them ([`commit`]).

pub(crate) mod budget;
mod commit;
pub(crate) mod decoding;
mod doctor;
mod error;
mod exchange;
mod explain;
pub(crate) mod inputs;
pub(crate) mod outputs;
mod pinned;
mod pipeline;
mod reference;
mod registry;
mod replay;
mod resume;
mod rotation;
pub(crate) mod security;
mod stamped;
mod status;
mod verify;
pub(crate) mod written;

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arrow::datatypes::SchemaRef;
use tidemill_connectors::dead_letters::{LetterBox, LetterOrigins};
use tidemill_engine::{
    Clock, EngineError, ErrorKind, EventTime, Monotonic,
    dataflow::{
        merge::{Merge, Output},
        plan::{Dataflow, LateAction, OperatorPlan, TimeBounds},
        stage::reach_back,
    },
    dead_letter::DeadLetters,
    sink::Sink,
};
use tidemill_queries::{CompatibilityLevel, InputTable, QueryError, QueryErrors, Script, Settings};

pub use crate::epoch::decide::Stop;
use crate::{
    epoch::{
        basis::Basis,
        record::{self, InputName},
        store::{Entry, Log, Store},
    },
    schedule,
    spec::{Compatibility, Job, LatePolicy, OutputTransport},
};
use budget::Budget;
use commit::{CommittedInput, Committer, Progress, RestartBy, SnapshotNeed};
pub use doctor::{Finding, doctor};
pub use error::RunError;
pub use explain::{Columns, Explanation, InputExplanation, Origin, explain};
use inputs::{ConnectedInput, Transport};
use outputs::Naming;
use pipeline::{Commit, Pipeline, Watch};
use reference::References;
pub use replay::{Mended, OutdatedRows, ReplaySummary, Replayed, replay};
use resume::Begin;
use rotation::Rotation;
use security::Secrets;
pub use stamped::Stamps;
pub use status::{
    Certificate, EpochStatus, FetchStatus, Fetched, InputStatus, OutputStatus, PartitionStatus, SecretsStatus, Stats,
    Status,
};
use verify::NoLetters;
pub use verify::{Period, Verdict, Verified, verify};

/// ASA's fixed bound on how far an event time may lie ahead of its arrival: 5 minutes.
const EARLY_ARRIVAL_US: i64 = 5 * 60 * 1_000_000;

/// How a run is to go.
#[derive(Clone)]
pub struct RunOptions {
    /// Reads each input from `start` to its end as it stands at start; neither reads nor writes committed offsets or state.
    pub bounded: bool,
    /// Begins at `start` even where there is something to resume from.
    pub from_start: bool,
    /// Goes on from the committed offsets without the state of windows that were open, where that state does not fit, cannot be
    /// read, or needs records that are gone.
    pub discard_state: bool,
    /// Keeps nothing of the run, which ends when it is stopped: neither offsets nor state nor schemas.
    pub ephemeral: bool,
    /// Infers the schemas of inputs again that were pinned by an earlier start.
    pub reinfer: bool,
    /// In the place of all inputs, or of all that their logs hold: kept records that are read once more ([`replay`]). The run is
    /// bounded then.
    pub replay: Option<Replayed>,
    /// In the place of `start` and of the logs' ends: the offsets that are read, by input, topic and partition. The run is bounded then.
    pub stretches: Option<Arc<Stretches>>,
    /// Of streams only records with these timestamps are read.
    pub stamps: Option<Arc<Stamps>>,
    /// Worker threads, above the spec's.
    pub workers: Option<usize>,
    /// How long to wait for the first contact with a broker.
    pub wait: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Set by whoever wants the run to finish what it has in hand, commit, and end.
    pub stop: Arc<AtomicBool>,
    /// What is shown of the run.
    pub stats: Arc<Stats>,
    /// Makes what takes the rows of outputs to stdout in its place, of these columns.
    pub rows: Option<RowSink>,
}

/// See [`RunOptions::rows`].
pub type RowSink = Arc<dyn Fn(&SchemaRef) -> Result<Box<dyn Sink>, EngineError> + Send + Sync>;

/// By input, topic and partition the first offset to be read and the one behind the last. Partitions that are not named are not read.
pub type Stretches = BTreeMap<String, BTreeMap<String, BTreeMap<i32, (i64, i64)>>>;

impl RunOptions {
    /// Of a run that goes on from where the one before left off, until it is stopped.
    #[must_use]
    pub fn new(wait: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            bounded: false,
            from_start: false,
            discard_state: false,
            ephemeral: false,
            reinfer: false,
            stretches: None,
            stamps: None,
            replay: None,
            workers: None,
            wait,
            clock,
            stop: Arc::default(),
            stats: Arc::default(),
            rows: None,
        }
    }

    /// Of a look that goes to the inputs' ends, or that runs nothing, and leaves nothing behind for another run.
    #[must_use]
    pub fn of_a_look(wait: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { bounded: true, ..Self::new(wait, clock) }
    }
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The last status.
    pub status: Status,
    /// Whether it was stopped before its inputs ended.
    pub stopped: bool,
}

/// Plans what can be planned without a connection: the whole query when every input has a declared schema, else its syntax
/// and names of inputs and outputs.
///
/// # Errors
/// The mistakes of the query.
pub fn check(job: &Job) -> Result<Option<Dataflow>, QueryErrors> {
    let script = &job.query.script;
    let declared = job.inputs.iter().map(|input| {
        input.schema.as_ref().map(|schema| InputTable {
            name: input.name.clone(),
            schema: Arc::clone(schema),
            sampled: None,
            time_column: None,
            exact: false,
            reference: input.reference.is_some(),
        })
    });
    match declared.collect::<Option<Vec<_>>>() {
        Some(tables) => plan(job, script, &tables).map(Some),
        None => Ok(None),
    }
}

fn plan(job: &Job, script: &Script, tables: &[InputTable]) -> Result<Dataflow, QueryErrors> {
    let outputs: Vec<String> = job.outputs.iter().map(|o| o.name.clone()).collect();
    let bounds = TimeBounds {
        late_arrival: Some(job.time.late_arrival.micros()),
        out_of_order: job.time.out_of_order.micros(),
        early_arrival: Some(EARLY_ARRIVAL_US),
        action: late_action(job),
    };
    let functions = job.functions.clone();
    let compatibility = match job.compatibility {
        Compatibility::V1_0 => CompatibilityLevel::V1_0,
        Compatibility::V1_1 => CompatibilityLevel::V1_1,
        Compatibility::V1_2 => CompatibilityLevel::V1_2,
    };
    let settings = Settings { time: Some(bounds), functions, compatibility, ..Settings::default() };
    let dataflow = tidemill_queries::plan(script, tables, &outputs, &settings)?;
    check_layouts(job, &dataflow)?;
    Ok(dataflow)
}

/// The files of outputs are laid out by columns that each statement gives.
fn check_layouts(job: &Job, dataflow: &Dataflow) -> Result<(), QueryErrors> {
    for node in &dataflow.nodes {
        let OperatorPlan::Output(output) = node.operator else { continue };
        let Some(output) = job.outputs.iter().find(|known| known.name == dataflow.outputs[output]) else { continue };
        let OutputTransport::File(file) = &output.transport else { continue };
        let checked = file.layout.check(&node.schema).and_then(|()| schedule::check_names(&file.layout, &node.schema));
        checked.map_err(|problem| {
            let message = format!("output `{}`: {problem}", output.name);
            QueryError { message, line: 1, column: 1, help: None } // the spec's text is not at hand any more
        })?;
    }
    Ok(())
}

fn late_action(job: &Job) -> LateAction {
    match job.time.policy {
        LatePolicy::Adjust => LateAction::Adjust,
        LatePolicy::Drop => LateAction::Drop,
    }
}

/// Runs the job to the end of its inputs, or until `options.stop`. `each` is called about five times a second.
///
/// A run whose outputs cannot take the epoch under way any more (a transaction that timed out, a full disk) begins again at the
/// last epoch, for as long as it takes.
///
/// # Errors
/// Whatever makes going on impossible; rows that were not committed are read again by the next run.
pub fn run(job: &Job, options: &RunOptions, each: &mut dyn FnMut(&Status)) -> Result<Summary, RunError> {
    let mut attempt = Attempt::default();
    let mut options = options.clone();
    loop {
        let error = match run_once(job, &options, &mut attempt, each) {
            Ok(Ended { rotating: Some(Rotating { since, connections }), .. }) => {
                (options.from_start, options.discard_state, options.reinfer) = (false, false, false);
                attempt.rotating_since = Some(since);
                attempt.prepared = connections;
                continue;
            }
            Ok(ended) => return Ok(ended.summary),
            Err(error) if !options.bounded && !options.stop.load(Ordering::Relaxed) => error,
            // Nothing is lost, and whoever wants to stop need not wait for another try.
            Err(error) if !options.bounded && error.is_interruption() => {
                tracing::warn!("{error}; the next run repeats what was not committed");
                let status = options.stats.status(options.clock.as_ref(), false);
                return Ok(Summary { status, stopped: true });
            }
            Err(error) => return Err(error),
        };
        if attempt.has_new_secrets(job, &options) {
            tracing::warn!("{error}; secrets have changed since: beginning again with them at the last epoch");
            continue;
        }
        // A cluster also fences a producer whose requests it lost track of: the log tells whether there is another run. One
        // that keeps its log elsewhere is believed the second time.
        let taken_over = matches!(error, RunError::Engine(EngineError::TakenOver { .. }));
        let doubted = taken_over && !std::mem::replace(&mut attempt.was_taken_over, true);
        if doubted {
            attempt.check()?;
        }
        let is_away = error.kind() == ErrorKind::Unavailable
            && (attempt.has_begun || attempt.has_contact && error.is_of_an_input());
        let goes_on = doubted || error.is_interruption() || is_away;
        if !goes_on {
            return Err(error);
        }
        attempt.number += 1;
        if attempt.said.as_deref() != Some(&error.to_string()) {
            tracing::warn!("{error}; beginning again at the last epoch");
            attempt.said = Some(error.to_string());
        }
        if attempt.has_begun {
            (options.from_start, options.discard_state, options.reinfer) = (false, false, false);
        }
        attempt.pause(&options);
    }
}

/// A run within a run: what the one before leaves to the next.
#[derive(Default)]
struct Attempt {
    number: u32,
    was_taken_over: bool,
    said: Option<String>,
    /// The log as the last attempt claimed it: it must not have been claimed by another run since.
    log: Option<Arc<Mutex<Log>>>,
    /// Whether all clusters have answered: one that goes away after that is waited for.
    has_contact: bool,
    /// Whether an attempt came to know where it begins; from then on there is something to go on from.
    has_begun: bool,
    /// The secrets of the last attempt that came to run, until new ones were tried because it failed.
    secrets: Option<Arc<Secrets>>,
    /// When the last attempt began to end, to go on with new secrets.
    rotating_since: Option<Monotonic>,
    /// Connections with secrets that brokers take, for the next attempt.
    prepared: Vec<security::Connection>,
}

impl Attempt {
    /// Whether an attempt that failed is worth another one, with other secrets: once for each attempt that came to run.
    fn has_new_secrets(&mut self, job: &Job, options: &RunOptions) -> bool {
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
    fn pause(&self, options: &RunOptions) {
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
    fn check(&self) -> Result<(), RunError> {
        match &self.log {
            Some(log) => Ok(log.lock().unwrap_or_else(PoisonError::into_inner).check()?),
            None => Ok(()),
        }
    }
}

/// How an attempt ended.
struct Ended {
    summary: Summary,
    /// It is to go on with new secrets.
    rotating: Option<Rotating>,
}

/// The end of an attempt for the sake of new secrets.
struct Rotating {
    /// When it began to end.
    since: Monotonic,
    /// All connections, with the new ones.
    connections: Vec<security::Connection>,
}

fn run_once(
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
struct Letters {
    origins: Arc<LetterOrigins>,
    /// Takes those that concern no worker.
    aside: Arc<Mutex<dyn DeadLetters>>,
    /// Counts those that their output was handed.
    count: Arc<AtomicU64>,
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
fn supervise(
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

fn workers(job: &Job, options: &RunOptions) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
    options.workers.or(job.workers.map(NonZero::get)).unwrap_or_else(cores)
}

/// Unique among the runs of a job, and sorts by time: the wall clock in milliseconds, and the process.
fn run_id(clock: &dyn Clock) -> String {
    format!("{:013}_{}", clock.wall().0 / 1_000, std::process::id())
}

/// The reach of the dataflow's windows before a time, at which reading has to begin for windows to be whole.
fn before(time: EventTime, dataflow: &Dataflow) -> EventTime {
    time.minus_micros(reach_back(dataflow))
}
