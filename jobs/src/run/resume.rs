//! Where a run begins: gathers what the inputs' groups, the outputs and the store say, has `crate::epoch::decide` decide, and
//! turns the decision into offsets, times and what the outputs already have.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use tidemill_connectors::kafka::{Committed, Start, last_epoch};
use tidemill_engine::{
    EventTime,
    dataflow::{
        plan::{Dataflow, OperatorPlan},
        stage::reach_back,
    },
    epoch::{Resume, Written},
    source::PartitionId,
};

use super::{
    RunOptions, Stretches, before,
    error::RunError,
    inputs::{ConnectedInput, Transport},
    outputs::Contacts,
};
use crate::{
    epoch::{
        decide::{Decision, Facts, GoOn, InputFacts, Keeps, OutputFacts, PartitionFacts, Stop, decide},
        mark,
        record::{EpochRecord, PartitionKey, PartitionRecord, ReaderRecord},
        store::{Begun, History, Manifest, Store},
    },
    spec::{self, Job, OutputTransport},
};

/// A leader that has just come back may tell an end of before, until it knows which records its replicas have: the logs are looked
/// at again so often, and so long apart, before they count as cut.
const END_LOOKS: u32 = 40;
const END_PAUSE: Duration = Duration::from_millis(250);

/// Where a run begins.
#[derive(Default)]
pub(super) struct Begin {
    /// First offsets of each input, by partition; empty for files.
    pub(super) offsets: Vec<Vec<i64>>,
    /// Where each input ends, by partition, when that is not where its log ends.
    pub(super) ends: Option<Vec<Vec<i64>>>,
    /// Of each input, where an earlier run has left the partitions.
    pub(super) resume: Vec<BTreeMap<PartitionId, Resume>>,
    /// What each statement's output has.
    pub(super) written: Vec<Written>,
    /// Dead letters of records that are part of more epochs than this are kept.
    pub(super) letters: u8,
    /// The last epoch's number.
    pub(super) epoch: u64,
    /// The last epoch that every output has.
    pub(super) after: u64,
    /// The snapshot to be restored, and where it is.
    pub(super) snapshot: Option<(Arc<Store>, Manifest)>,
    /// The job begins: to be noted in the store's log.
    pub(super) begun: Option<Begun>,
}

impl Begin {
    /// Reads these offsets alone.
    pub(super) fn read(&mut self, stretches: &Stretches, connected: &[ConnectedInput]) {
        let offsets = connected.iter().map(|input| {
            let Transport::Kafka { input: kafka, .. } = &input.transport else { return (vec![], vec![]) };
            let of = |topic: &str, number: i32| stretches.get(&input.spec.name)?.get(topic)?.get(&number).copied();
            kafka.partitions().iter().map(|p| of(&p.topic, p.number).unwrap_or_default()).unzip()
        });
        let (offsets, ends) = offsets.unzip();
        (self.offsets, self.ends) = (offsets, Some(ends));
    }

    /// Where the partitions of Kafka inputs begin, by name.
    pub(super) fn kafka_partitions<'b>(
        &'b self,
        connected: &'b [ConnectedInput],
    ) -> impl Iterator<Item = (PartitionKey, i64, Option<&'b Resume>)> {
        let inputs = connected.iter().zip(self.offsets.iter().zip(&self.resume));
        inputs.flat_map(|(input, (offsets, resumes))| {
            let partitions = match &input.transport {
                Transport::Kafka { input, .. } => input.partitions(),
                Transport::File { .. } | Transport::Kept(_) => vec![],
            };
            partitions.into_iter().zip(offsets).map(move |(partition, &start)| {
                let key = (input.spec.name.clone(), partition.topic.to_string(), partition.number);
                (key, start, resumes.get(&partition.id))
            })
        })
    }
}

/// At `start`, or at an event time instead, whatever was before: for a bounded run, and where there is nothing to go on from.
pub(super) fn begin_at_start(
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    instead: Option<EventTime>,
    options: &RunOptions,
) -> Result<Begin, RunError> {
    let statements = statements(dataflow);
    let mut begin = Begin { written: vec![Written::NOTHING; statements.len()], ..Begin::default() };
    for (index, input) in connected.iter().enumerate() {
        let (mut offsets, mut resume) = (vec![], BTreeMap::new());
        if let Transport::Kafka { input, start, .. } = &input.transport {
            let none = BTreeMap::new();
            let start = &instead.map_or_else(|| start.clone(), Start::Time);
            let (start_at, floor) = start_of(start, dataflow, options.clock.wall());
            offsets = input.resolve_start(&start_at, &none)?;
            if start_at != *start {
                // Records before the start make its first windows whole; rows of their own they do not make.
                let before_start = |next| Resume { covered: vec![next], readers: vec![] };
                let first = input.resolve_start(start, &none)?;
                resume = (0..).map(PartitionId).zip(first.into_iter().map(before_start)).collect();
            }
            for (written, statement) in begin.written.iter_mut().zip(&statements) {
                if statement.inputs.contains(&index) {
                    written.covering = 0;
                    if statement.windowed {
                        written.below = written.below.max(floor);
                    }
                }
            }
        }
        begin.offsets.push(offsets);
        begin.resume.push(resume);
    }
    Ok(begin)
}

/// Where the last run left off, or at `start`.
pub(super) fn begin(
    job: &Job,
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    contacts: &Contacts,
    (store, history): (&Arc<Store>, History),
    options: &RunOptions,
) -> Result<Begin, RunError> {
    let mut facts = facts(job, connected, dataflow, contacts, (store, history), options)?;
    let mut decision = decide(&facts);
    for _ in 0..END_LOOKS {
        if !matches!(decision, Decision::Stop(Stop::LogIsShorter { .. })) || options.stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(END_PAUSE);
        look_at_the_logs_again(&mut facts, connected)?;
        decision = decide(&facts);
    }
    match decision {
        Decision::Begin => {
            let mut begin = begin_at_start(connected, dataflow, None, options)?;
            begin.epoch = facts.last_epoch().map_or(0, |last| last + 1);
            begin.after = begin.epoch;
            let record = beginning(&begin, &facts.plan, connected);
            begin.begun =
                Some(Begun { record, outputs: job.destinations().map(|output| output.name.clone()).collect() });
            Ok(begin)
        }
        Decision::GoOn(go_on) => {
            go_on.notes.iter().for_each(|note| tracing::warn!("{note}"));
            let manifest = |epoch: u64| facts.snapshots.into_iter().find(|(of, _)| *of == epoch)?.1.ok();
            let snapshot = go_on.snapshot.and_then(manifest).map(|manifest| (Arc::clone(store), manifest));
            Ok(Begin { snapshot, ..go_on_from(go_on, connected)? })
        }
        Decision::Stop(stop) => Err(RunError::Stopped(stop)),
    }
}

fn look_at_the_logs_again(facts: &mut Facts, connected: &[ConnectedInput]) -> Result<(), RunError> {
    for (input, facts) in connected.iter().zip(&mut facts.inputs) {
        let Transport::Kafka { input: kafka, .. } = &input.transport else { continue };
        for (partition, (earliest, end)) in facts.partitions.iter_mut().zip(kafka.bounds()?) {
            (partition.earliest, partition.end) = (earliest, end);
        }
    }
    Ok(())
}

fn facts(
    job: &Job,
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    contacts: &Contacts,
    (store, history): (&Store, History),
    options: &RunOptions,
) -> Result<Facts, RunError> {
    let mut facts = Facts {
        from_start: options.from_start,
        discard_state: options.discard_state,
        plan: dataflow.fingerprint(),
        statements: dataflow.statements(),
        begun: history.begun,
        log: history.epoch,
        ..Facts::default()
    };
    let mut shares = vec![];
    for input in connected {
        let Transport::Kafka { input: kafka, group, .. } = &input.transport else {
            facts.inputs.push(InputFacts { name: input.spec.name.clone(), partitions: files(input), files: true });
            continue;
        };
        let (name, bounds, mut committed) = (&input.spec.name, kafka.bounds()?, group.committed()?);
        let topic_ids = kafka.topic_ids();
        let mut partitions = vec![];
        for (partition, (earliest, end)) in kafka.partitions().iter().zip(bounds) {
            let (topic, number) = (partition.topic.to_string(), partition.number);
            if let Some(Committed { offset, metadata }) = committed.remove(&partition.id) {
                match mark::read(&metadata, name, &topic, number, offset) {
                    Some(share) => shares.push(share),
                    None => drop(facts.foreign.insert((name.clone(), topic.clone(), number), offset)),
                }
            }
            partitions.push(PartitionFacts { topic_id: topic_ids.get(&topic).cloned(), topic, number, earliest, end });
        }
        facts.inputs.push(InputFacts { name: name.clone(), partitions, files: false });
    }
    facts.group = mark::join(shares);
    facts.letters = Some(job.outputs.len());
    for (index, output) in job.destinations().enumerate() {
        let keeps = match &output.transport {
            OutputTransport::File(_) if facts.letters == Some(index) => Keeps::InLogWithRows,
            OutputTransport::File(_) => Keeps::InLog,
            OutputTransport::Kafka(kafka) if kafka.delivery == spec::Delivery::ExactlyOnce => {
                match contacts.epochs_topic(index) {
                    None => Keeps::WithOffsets,
                    Some((connection, topic)) => {
                        let json = last_epoch(&output.name, connection, topic, &options.clock)?;
                        Keeps::InTopic(json.map(|json| topic_record(topic, &json)).transpose()?)
                    }
                }
            }
            OutputTransport::Kafka(_) | OutputTransport::Stdout | OutputTransport::Discard => Keeps::Nowhere,
        };
        facts.outputs.push(OutputFacts { name: output.name.clone(), keeps });
    }
    let topics = facts.outputs.iter().filter_map(|output| match &output.keeps {
        Keeps::InTopic(record) => record.as_ref(),
        _ => None,
    });
    let needs_state = topics.chain(&facts.group).chain(&facts.log).any(|record| record.snapshot.is_some());
    facts.snapshots = store.snapshots(needs_state && !options.discard_state)?;
    Ok(facts)
}

/// The files of an input as partitions: they are complete, and each run reads them from their beginning.
fn files(input: &ConnectedInput) -> Vec<PartitionFacts> {
    let Transport::File { files } = &input.transport else { return vec![] };
    let file = |path: &PathBuf| {
        let (earliest, end) = (0, i64::MAX);
        PartitionFacts { topic: path.display().to_string(), number: 0, topic_id: None, earliest, end }
    };
    files.iter().map(file).collect()
}

fn topic_record(topic: &str, json: &[u8]) -> Result<EpochRecord, RunError> {
    serde_json::from_slice(json).map_err(|error| RunError::State {
        path: topic.to_owned(),
        message: format!("its last record is no epoch of this version ({error}); `--from-start` begins anew"),
    })
}

/// Looks up the partitions by the numbers that they have in this run.
pub(super) fn go_on_from(go_on: GoOn, connected: &[ConnectedInput]) -> Result<Begin, RunError> {
    let GoOn { written, letters, epoch, after, .. } = go_on;
    let mut begin = Begin { written, letters, epoch, after, ..Begin::default() };
    for input in connected {
        let (mut offsets, mut resume) = (vec![], BTreeMap::new());
        if let Transport::Kafka { input: kafka, .. } = &input.transport {
            for (partition, (earliest, _)) in kafka.partitions().iter().zip(kafka.bounds()?) {
                let key: PartitionKey = (input.spec.name.clone(), partition.topic.to_string(), partition.number);
                match go_on.partitions.get(&key) {
                    Some((offset, known)) => {
                        offsets.push(*offset);
                        resume.insert(partition.id, known.clone());
                    }
                    None => offsets.push(earliest),
                }
            }
        } else {
            for (id, file) in (0..).map(PartitionId).zip(files(input)) {
                let key: PartitionKey = (input.spec.name.clone(), file.topic, file.number);
                if let Some((_, Resume { covered, .. })) = go_on.partitions.get(&key) {
                    resume.insert(id, Resume { covered: covered.clone(), readers: vec![] });
                }
            }
        }
        begin.offsets.push(offsets);
        begin.resume.push(resume);
    }
    Ok(begin)
}

/// The start of a job as its first epoch, which has nothing: a run that dies before its first commit is repeated from here.
fn beginning(begin: &Begin, plan: &str, connected: &[ConnectedInput]) -> EpochRecord {
    let mut partitions = vec![];
    for ((input, offsets), resume) in connected.iter().zip(&begin.offsets).zip(&begin.resume) {
        let Transport::Kafka { input: kafka, .. } = &input.transport else { continue };
        let topic_ids = kafka.topic_ids();
        for (partition, &replay) in kafka.partitions().iter().zip(offsets) {
            let next = resume.get(&partition.id).and_then(|resume| resume.covered.first().copied()).unwrap_or(replay);
            let (topic, number) = (partition.topic.to_string(), partition.number);
            let readers: Vec<ReaderRecord> = vec![];
            let (input, topic_id) = (input.spec.name.clone(), topic_ids.get(&topic).cloned());
            partitions.push(PartitionRecord { input, topic, number, topic_id, next, replay, readers });
        }
    }
    EpochRecord {
        epoch: begin.epoch,
        after: begin.epoch,
        plan: plan.to_owned(),
        written_below: begin.written.iter().map(|written| written.below.0).collect(),
        partitions,
        ..EpochRecord::default()
    }
}

/// Where to start reading so that the first window is whole, and below which event time no row is written.
fn start_of(start: &Start, dataflow: &Dataflow, now: EventTime) -> (Start, EventTime) {
    match start {
        Start::Time(time) => (Start::Time(before(*time, dataflow)), *time),
        Start::Latest if reach_back(dataflow) > 0 => (Start::Time(before(now, dataflow)), now),
        other => (other.clone(), EventTime::MIN),
    }
}

/// What an output node reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Statement {
    inputs: std::collections::BTreeSet<usize>,
    /// Whether a window lies between: then its rows are told apart by event time, otherwise by the offsets of their records.
    pub(super) windowed: bool,
}

pub(super) fn statements(dataflow: &Dataflow) -> Vec<Statement> {
    let mut reads: Vec<Statement> = vec![];
    let mut statements = vec![];
    for node in &dataflow.nodes {
        let mut read = Statement::default();
        for &from in &node.inputs {
            read.inputs.extend(&reads[from].inputs);
            read.windowed |= reads[from].windowed;
        }
        read.windowed |= node.operator.waits_for_watermark();
        match &node.operator {
            OperatorPlan::Input(plan) => drop(read.inputs.insert(plan.input)),
            OperatorPlan::Output(_) => statements.push(read.clone()),
            _ => {}
        }
        reads.push(read);
    }
    statements
}
