//! Runs a job: connects, learns the schemas, plans, and drives worker threads and the merge thread to the end.
//!
//! ```text
//! Job -> inputs (connect, sample) -> plan -> outputs, dead letters -> reference data -> start or resume -> pipeline -> Summary
//! ```
//! The calling thread supervises: it starts epochs, commits what they reached, reports, and ends the run.

mod decoding;
mod doctor;
mod error;
mod inputs;
mod outputs;
mod pinned;
mod pipeline;
mod reference;
mod registry;
mod resume;
mod security;
mod status;

use std::{
    collections::BTreeMap,
    num::NonZero,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tidemill_certs::SecretStore;
use tidemill_connectors::{dead_letters::DeadLetterFile, replay::KeptRecord};
use tidemill_engine::{
    Clock, EngineError, ErrorKind, EventTime,
    dataflow::{
        plan::{Dataflow, LateAction, TimeBounds},
        stage::reach_back,
    },
    dead_letter::DeadLetters,
};
use tidemill_queries::{InputTable, QueryErrors, Script, Settings};

use crate::spec::{Job, LatePolicy};
pub use doctor::{Finding, doctor};
pub use error::RunError;
use inputs::ConnectedInput;
use pipeline::Pipeline;
use reference::References;
pub use status::{Certificate, InputStatus, OutputStatus, PartitionStatus, Stats, Status};

/// ASA's fixed bound on how far an event time may lie ahead of its arrival: 5 minutes.
const EARLY_ARRIVAL_US: i64 = 5 * 60 * 1_000_000;

/// How a run is to go.
#[derive(Clone)]
pub struct RunOptions {
    /// Reads each input from `start` to its end as it stands at start; neither reads nor writes committed offsets or state.
    pub bounded: bool,
    /// Begins at `start` even where there is something to resume from.
    pub from_start: bool,
    /// Infers the schemas of inputs again that were pinned by an earlier start.
    pub reinfer: bool,
    /// In the place of all inputs: by input, kept records that are read once more. The run is bounded then.
    pub replay: Option<Arc<BTreeMap<String, Vec<KeptRecord>>>>,
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
    let script = Script::parse(&job.query.text)?;
    let declared = job.inputs.iter().map(|input| {
        input.schema.as_ref().map(|schema| InputTable {
            name: input.name.clone(),
            schema: Arc::clone(schema),
            sampled: None,
            time_column: None,
            reference: input.reference.is_some(),
        })
    });
    match declared.collect::<Option<Vec<_>>>() {
        Some(tables) => plan(job, &script, &tables).map(Some),
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
    let settings = Settings { time: Some(bounds), functions, ..Settings::default() };
    tidemill_queries::plan(script, tables, &outputs, &settings)
}

fn late_action(job: &Job) -> LateAction {
    match job.time.policy {
        LatePolicy::Adjust => LateAction::Adjust,
        LatePolicy::Drop => LateAction::Drop,
    }
}

/// Runs the job to the end of its inputs, or until `options.stop`. `each` is called about five times a second.
///
/// # Errors
/// Whatever makes going on impossible; rows that were not acknowledged are read again by the next run.
pub fn run(job: &Job, options: &RunOptions, each: &mut dyn FnMut(&Status)) -> Result<Summary, RunError> {
    let query_error = |errors| RunError::Query { query: Box::new(job.query.clone()), errors };
    let script = Script::parse(&job.query.text).map_err(query_error)?;
    check(job).map_err(query_error)?; // what can be said without a connection is said before one is made

    let read = script.inputs();
    let secrets = Arc::new(SecretStore::new(job.key_vault.clone()));
    let mut connected = vec![];
    for input in job.inputs.iter().filter(|input| read.iter().any(|name| name.eq_ignore_ascii_case(&input.name))) {
        connected.push(ConnectedInput::connect(job, input, &secrets, options)?);
    }
    let Some(tables) = inputs::tables(job, &script, &connected, options)? else {
        let status = options.stats.status(options.clock.as_ref(), true);
        return Ok(Summary { status, stopped: options.stop.load(Ordering::Relaxed) });
    };
    options.stats.watch_functions(&job.functions);
    let dataflow = plan(job, &script, &tables).map_err(query_error)?;
    // A step that no statement reads is not run, nor are inputs that only it reads.
    let (references, mut connected): (Vec<_>, Vec<_>) =
        connected.into_iter().partition(|input| input.spec.reference.is_some());
    connected.retain(|input| dataflow.inputs.iter().any(|columns| columns.name == input.spec.name));

    let run_id = run_id(options.clock.as_ref());
    let letters = DeadLetterFile::open(&job.dead_letters, &job.name, &run_id, Arc::clone(&options.clock))?;
    let letters: Arc<Mutex<dyn DeadLetters>> = Arc::new(Mutex::new(letters));
    let outputs = outputs::open(job, &run_id, &secrets, options, &letters)?;

    let references = References::read(references, &dataflow, options, &letters)?;
    let begin = resume::begin(&connected, &dataflow, options)?;
    let intakes = inputs::intakes(job, &connected, &dataflow, &begin, workers(job, options), options, &letters)?;
    let pipeline = Pipeline::start(&dataflow, intakes, outputs, &begin.written(), Arc::clone(&options.stats))?;
    supervise(job, options, &connected, references, &letters, pipeline, each)
}

/// Starts epochs, commits what they reached, and ends the run.
fn supervise(
    job: &Job,
    options: &RunOptions,
    connected: &[ConnectedInput],
    mut references: References,
    letters: &Arc<Mutex<dyn DeadLetters>>,
    mut pipeline: Pipeline,
    each: &mut dyn FnMut(&Status),
) -> Result<Summary, RunError> {
    const TICK: Duration = Duration::from_millis(50);
    const REPORT_US: i64 = 200_000;
    let clock = options.clock.as_ref();
    let beat = if options.bounded { i64::MAX } else { job.state.epoch.micros() };
    let (mut reported, mut begun) = (clock.monotonic(), clock.monotonic());
    let mut stopped = false;
    loop {
        let epoch = match pipeline.wait(TICK) {
            // Whoever read our rows has seen enough.
            Err(RunError::Engine(EngineError::ReaderGone { .. })) => {
                pipeline.join();
                letters.lock().unwrap_or_else(PoisonError::into_inner).flush()?;
                return Ok(Summary { status: options.stats.status(clock, options.bounded), stopped: true });
            }
            other => other?,
        };
        if let Some(epoch) = epoch {
            references.forget_below(epoch.written_below.iter().copied().min().unwrap_or(EventTime::MIN));
            letters.lock().unwrap_or_else(PoisonError::into_inner).flush()?;
            match resume::commit(connected, &epoch) {
                // The next epoch commits a later position; what comes between is only read again.
                Err(error) if error.kind() == ErrorKind::Unavailable && !stopped => {
                    tracing::warn!("offsets were not committed: {error}; the next epoch tries again");
                }
                other => other?,
            }
        }
        if pipeline.ended() {
            break;
        }
        let now = clock.monotonic();
        references.tend(now)?;
        if options.stop.load(Ordering::Relaxed) && !stopped {
            stopped = pipeline.stop(!options.bounded);
        } else if now.0 - begun.0 >= beat && !stopped && pipeline.begin_epoch() {
            begun = now;
        }
        if now.0 - reported.0 >= REPORT_US {
            reported = now;
            options.stats.warn_of_expiries(security::unix_time(clock));
            each(&options.stats.status(clock, options.bounded));
        }
    }
    pipeline.join();
    letters.lock().unwrap_or_else(PoisonError::into_inner).flush()?;
    let status = options.stats.status(clock, options.bounded);
    Ok(Summary { status, stopped })
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
