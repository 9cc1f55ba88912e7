//! Runs a job: connects, learns the schemas, plans, and drives worker threads and the merge thread to the end.
//!
//! What a run is made of is in [`attempt`]; here is what is known without a connection, and when another attempt follows.

mod attempt;
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
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arrow::datatypes::SchemaRef;
use tidemill_engine::{
    Clock, EngineError, ErrorKind, EventTime,
    dataflow::{
        plan::{Dataflow, LateAction, OperatorPlan, TimeBounds},
        stage::reach_back,
    },
    sink::Sink,
};
use tidemill_queries::{CompatibilityLevel, InputTable, QueryError, QueryErrors, Script, Settings};

pub use crate::epoch::decide::Stop;
use crate::{
    schedule,
    spec::{Compatibility, Job, LatePolicy, OutputTransport},
};
use attempt::{Attempt, Ended, Rotating, run_once};
pub use doctor::{Finding, doctor};
pub use error::RunError;
pub use explain::{Columns, Explanation, InputExplanation, Origin, explain};
pub use replay::{Mended, OutdatedRows, ReplaySummary, Replayed, replay};
pub use stamped::Stamps;
pub use status::{
    Certificate, EpochStatus, FetchStatus, Fetched, InputStatus, OutputStatus, PartitionStatus, SecretsStatus, Stats,
    Status,
};
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
