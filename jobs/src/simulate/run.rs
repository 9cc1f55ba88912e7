//! One run of the simulated job, from its claim to its crash.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arrow::array::RecordBatch;
use tidemill_connectors::formats::json::{JsonDecoder, JsonOptions};
use tidemill_engine::{
    EventTime,
    dataflow::{
        merge::{CompletedEpoch, FromWorker, Merge, Output},
        plan::Dataflow,
        stage::reach_back,
        worker::Worker,
    },
    decoder::DecoderFactory,
    epoch::{Resume, Written},
    event_time::{BrokerClocks, TimeRule},
    intake::{Intake, IntakeOptions, OnBadRecord},
    signal::EpochId,
    source::{PartitionId, Source},
};

use super::{
    LETTERS, Mutation, OUTPUTS,
    world::{Late, Letters, Pending, Random, SimSink, SimSource, World},
};
use crate::epoch::{
    basis::Basis,
    decide::{Decision, Facts, InputFacts, Keeps, OutputFacts, PartitionFacts, decide},
    mark,
    record::{self, EpochRecord, InputName, InputNames, PartitionKey, PartitionRecord},
    steps::{Step, steps},
    store::{Begun, Entry, Log},
};

const INPUT: &str = "events";
/// Of the idle margin and the clocks' uncertainty, in microseconds.
const MARGIN_US: i64 = 200_000;

/// A run.
pub(super) struct Run {
    plan: String,
    names: InputNames,
    producer_epochs: [u64; 2],
    log: Log,
    workers: Vec<Worker>,
    queues: Vec<VecDeque<FromWorker>>,
    merge: Merge,
    pending: Vec<Pending>,
    late: Arc<Mutex<Late>>,
    closed_below: EventTime,
    last_epoch: u64,
    /// The epoch under way: which workers have it still to send, and whether it gives a snapshot.
    under_way: Option<(EpochId, Vec<bool>, bool)>,
    basis: Basis,
    catch_up: BTreeMap<PartitionKey, i64>,
    /// The last epoch that every output has.
    after: u64,
    has_logged: bool,
}

/// A commit that stopped in the middle: what it had still to do.
pub(super) struct Frozen {
    pub(super) run: Run,
    record: EpochRecord,
    left: Vec<Step>,
}

/// How a commit ended.
pub(super) enum Committed {
    Whole,
    /// The process died, or froze with the rest of the steps before it.
    Broken {
        left: Vec<Step>,
        record: EpochRecord,
    },
}

impl Run {
    /// Claims the job, looks where it stands, and begins there.
    pub(super) fn start(world: &mut World, dataflow: &Dataflow, random: &mut Random) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (mut log, history) =
            Log::claim(&world.store, &format!("run-{}", random.below(u64::MAX))).map_err(|e| text(&e))?;
        for cluster in &mut world.clusters {
            cluster.producer_epoch += 1; // pending transactions are over
        }
        let producer_epochs = [world.clusters[0].producer_epoch, world.clusters[1].producer_epoch];
        let plan = dataflow.fingerprint();
        // What the file output does when it is opened.
        let committed = history.epoch.as_ref().map(|epoch| (epoch.generation, epoch.epoch));
        for (of, rows) in std::mem::take(&mut world.ready) {
            if Some(of) == committed {
                world.visible.extend(rows);
            }
        }
        for (of, letters) in std::mem::take(&mut world.letters_ready) {
            if Some(of) == committed {
                world.letters.extend(letters);
            }
        }
        let ends: Vec<i64> = world.brokers().logs.iter().map(|log| log.len() as i64).collect();
        let shares = world.clusters[0].offsets.iter();
        let shares = shares.filter_map(|(&number, (offset, text))| mark::read(text, INPUT, INPUT, number, *offset));
        let in_topic = world.clusters[1].record.as_ref().map(|json| serde_json::from_slice(json));
        let in_topic: Option<EpochRecord> = in_topic.transpose().map_err(|e| text(&e))?;
        let keeps = [Keeps::WithOffsets, Keeps::WithOffsets, Keeps::InTopic(in_topic), Keeps::InLog];
        let output = |(name, keeps): (&&str, Keeps)| OutputFacts { name: (*name).to_owned(), keeps };
        let letters = OutputFacts { name: LETTERS.to_owned(), keeps: Keeps::InLogWithRows };
        let partition = |(number, &end): (usize, &i64)| PartitionFacts {
            topic: INPUT.to_owned(),
            number: number as i32,
            topic_id: None,
            earliest: 0,
            end,
        };
        let facts = Facts {
            plan: plan.clone(),
            statements: dataflow.statements(),
            inputs: vec![InputFacts {
                name: INPUT.to_owned(),
                partitions: ends.iter().enumerate().map(partition).collect(),
                files: false,
            }],
            outputs: OUTPUTS.iter().zip(keeps).map(output).chain([letters]).collect(),
            letters: Some(OUTPUTS.len()),
            group: mark::join(shares.collect()),
            begun: history.begun,
            log: history.epoch,
            snapshots: world.store.snapshots(true).map_err(|e| text(&e))?,
            ..Facts::default()
        };
        let (mut starts, mut resume) = (BTreeMap::new(), BTreeMap::new());
        let (mut written, mut last_epoch, mut snapshot) = (vec![Written::NOTHING; OUTPUTS.len()], 0, None);
        let (mut after, mut covering) = (0, 0);
        match decide(&facts) {
            Decision::Begin => {
                let partitions = (0..ends.len()).map(|number| PartitionRecord {
                    input: INPUT.to_owned(),
                    topic: INPUT.to_owned(),
                    number: number as i32,
                    topic_id: None,
                    next: 0,
                    replay: 0,
                    readers: vec![],
                });
                let record = EpochRecord {
                    plan: plan.clone(),
                    written_below: vec![i64::MIN; OUTPUTS.len()],
                    partitions: partitions.collect(),
                    ..EpochRecord::default()
                };
                let outputs = OUTPUTS.iter().chain([&LETTERS]).map(|name| (*name).to_owned()).collect();
                log.append(&Entry::Begun(Begun { record, outputs })).map_err(|e| text(&e))?;
            }
            Decision::GoOn(go_on) => {
                for ((_, _, number), (start, known)) in go_on.partitions {
                    starts.insert(number as u32, start);
                    resume.insert(PartitionId(number as u32), known);
                }
                (written, last_epoch, after) = (go_on.written, go_on.epoch, go_on.after);
                covering = go_on.letters;
                snapshot = go_on.snapshot.and_then(|epoch| facts.snapshots.iter().find(|(of, _)| *of == epoch));
            }
            Decision::Stop(stop) => return Err(format!("it does not go on: {stop}")),
        }
        let manifest = snapshot.and_then(|(_, manifest)| manifest.as_ref().ok());
        let begins = (0..ends.len() as u32).map(|number| {
            let key = (INPUT.to_owned(), INPUT.to_owned(), number as i32);
            (key, starts.get(&number).copied().unwrap_or(0), resume.get(&PartitionId(number)))
        });
        let catch_up = record::to_be_reached(begins);
        let late: Arc<Mutex<Late>> = Arc::default();
        let workers = 1 + random.below(3) as usize;
        let letters = || Letters { late: Arc::clone(&late), covering, bad: vec![] };
        let intakes =
            (0..workers).map(|worker| intake(world, dataflow, (worker, workers), &starts, &resume, letters()));
        let intakes: Vec<Intake> = intakes.collect::<Result<_, _>>()?;
        let built = intakes.into_iter().map(|intake| Worker::try_new(dataflow, vec![intake], &Arc::default()));
        let built: Vec<Worker> = built.collect::<Result<_, _>>().map_err(|e| text(&e))?;
        let pending: Vec<Pending> = OUTPUTS.iter().chain([&LETTERS]).map(|_| Arc::default()).collect();
        let sinks =
            pending.iter().map(|rows| Output { sink: Box::new(SimSink(Arc::clone(rows))), rows: Arc::default() });
        let mut merge =
            Merge::try_new(dataflow, sinks.collect(), &written, workers, &Arc::default()).map_err(|e| text(&e))?;
        if let Some(manifest) = manifest {
            let state = world.store.state(manifest).map_err(|e| text(&e))?;
            merge.restore(state).map_err(|e| text(&e))?;
        }
        Ok(Self {
            plan,
            names: BTreeMap::from([(0, InputName { name: INPUT.to_owned(), topic_ids: BTreeMap::new() })]),
            producer_epochs,
            log,
            queues: (0..workers).map(|_| VecDeque::new()).collect(),
            workers: built,
            merge,
            pending,
            late,
            closed_below: EventTime::MIN,
            last_epoch,
            under_way: None,
            basis: Basis::new(reach_back(dataflow), manifest.map(|manifest| manifest.standing.clone())),
            catch_up,
            after,
            has_logged: false,
        })
    }

    /// A worker does something: it sends the epoch under way, or reads on.
    pub(super) fn step_worker(&mut self, worker: usize) -> Result<(), String> {
        let worker = worker % self.workers.len();
        let queue = &mut self.queues[worker];
        let mut send = |message| {
            queue.push_back(message);
            Ok(())
        };
        if let Some((id, left, seal)) = &mut self.under_way
            && std::mem::take(&mut left[worker])
        {
            return self.workers[worker].epoch(*id, self.closed_below, *seal, &mut send).map_err(|e| e.to_string());
        }
        self.workers[worker].step(Duration::ZERO, &mut send).map(drop).map_err(|e| e.to_string())
    }

    /// Begins an epoch unless one is under way.
    pub(super) fn begin_epoch(&mut self, seal: bool) {
        if self.under_way.is_none() {
            self.last_epoch += 1;
            self.under_way = Some((EpochId(self.last_epoch), vec![true; self.workers.len()], seal));
        }
    }

    /// The merge takes a message of a worker; an epoch that this completes is to be committed.
    pub(super) fn step_merge(&mut self, worker: usize) -> Result<Option<CompletedEpoch>, String> {
        let worker = worker % self.workers.len();
        if self.merge.is_waiting(worker) {
            return Ok(None);
        }
        let Some(message) = self.queues[worker].pop_front() else { return Ok(None) };
        self.merge.take(worker, message).map_err(|e| e.to_string())
    }

    /// Commits, as a run does; `breaks` says whether it ends before a step.
    pub(super) fn commit(
        &mut self,
        world: &mut World,
        epoch: &CompletedEpoch,
        mutation: Option<Mutation>,
        random: &mut Random,
        breaks: &mut dyn FnMut(&mut Random) -> bool,
    ) -> Result<Committed, String> {
        let seal = self.under_way.take().is_some_and(|(_, _, seal)| seal);
        let generation = self.log.generation();
        let pick = Some(random.one_in(2));
        let record = self.basis.record(generation, &self.plan, &self.names, epoch, pick);
        let record = EpochRecord { after: self.after, ..record };
        let state: Option<Vec<Vec<RecordBatch>>> = match seal {
            true => Some(self.merge.snapshot().map_err(|e| e.to_string())?),
            false => None,
        };
        if !record.has_reached(&self.catch_up) {
            return Ok(Committed::Whole);
        }
        self.closed_below = epoch.written_below.iter().min().copied().unwrap_or(EventTime::MIN);
        self.catch_up.clear();
        // As a run does where no output needs each epoch in the log: here those without rows of files, at times.
        let has_rows = |output: usize| !self.pending[output].lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        let is_to_be_logged = !self.has_logged || has_rows(3) || has_rows(4) || random.one_in(2);
        let steps = steps(2);
        for (index, &step) in steps.iter().enumerate() {
            if breaks(random) {
                return Ok(Committed::Broken { left: steps[index..].to_vec(), record });
            }
            if mutation == Some(Mutation::OffsetsBeforeRows) && step == Step::Transaction(0) {
                self.commit_offsets(world, &record);
                if breaks(random) {
                    return Ok(Committed::Broken { left: vec![], record });
                }
            }
            if step != Step::Log || is_to_be_logged {
                self.step(world, step, &record)?;
            }
        }
        self.has_logged = true;
        self.after = record.epoch;
        self.basis.committed(epoch, &record);
        if let Some(state) = state {
            let standing = record::standing(generation, &self.plan, &self.names, epoch);
            let of_manifest = self.basis.for_manifest(generation, &self.plan, &self.names, epoch);
            world.store.put_snapshot(of_manifest, standing.clone(), &state).map_err(|e| e.to_string())?;
            self.basis.took(standing);
        }
        Ok(Committed::Whole)
    }

    /// The rest of a commit, by a run that was frozen meanwhile. Whatever it still does must be of no consequence.
    pub(super) fn thaw(frozen: Frozen, world: &mut World) {
        let Frozen { mut run, record, left } = frozen;
        for step in left {
            if run.step(world, step, &record).is_err() {
                return; // it was replaced
            }
        }
    }

    pub(super) fn freeze(self, left: Vec<Step>, record: EpochRecord) -> Frozen {
        Frozen { run: self, record, left }
    }

    fn step(&mut self, world: &mut World, step: Step, record: &EpochRecord) -> Result<(), String> {
        match step {
            Step::Groups => {}
            Step::Prepare => {
                let rows = take(&self.pending[3]);
                if !rows.is_empty() {
                    world.ready.insert((record.generation, record.epoch), rows);
                }
                let letters = take(&self.pending[4]);
                if !letters.is_empty() {
                    world.letters_ready.insert((record.generation, record.epoch), letters);
                }
            }
            Step::Log => {
                self.log.append(&Entry::Epoch(record.clone())).map_err(|e| e.to_string())?;
                self.late_for_good(world, record);
            }
            Step::Transaction(cluster) => {
                if world.clusters[cluster].producer_epoch != self.producer_epochs[cluster] {
                    return Err("fenced".to_owned());
                }
                let outputs = if cluster == 0 { vec![0, 1] } else { vec![2] };
                for output in outputs {
                    let rows = take(&self.pending[output]).into_iter().map(|row| (output, row));
                    world.clusters[cluster].rows.extend(rows);
                }
                if cluster == 0 {
                    self.commit_offsets(world, record);
                } else {
                    world.clusters[1].record = Some(serde_json::to_vec(record).map_err(|e| e.to_string())?);
                }
                self.late_for_good(world, record);
            }
            Step::Publish => {
                let rows = world.ready.remove(&(record.generation, record.epoch));
                world.visible.extend(rows.unwrap_or_default());
                let letters = world.letters_ready.remove(&(record.generation, record.epoch));
                world.letters.extend(letters.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn commit_offsets(&self, world: &mut World, record: &EpochRecord) {
        for partition in &record.partitions {
            let offset = (partition.replay, mark::write(record, partition));
            world.clusters[0].offsets.insert(partition.number, offset);
        }
    }

    /// Of an epoch that is committed somewhere, what came in late is late; what was read behind its cut may come in time yet.
    fn late_for_good(&self, world: &mut World, record: &EpochRecord) {
        let next: BTreeMap<i32, i64> = record.partitions.iter().map(|p| (p.number, p.next)).collect();
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        let within = |(partition, offset): &(i32, i64)| next.get(partition).is_some_and(|next| offset < next);
        let (now, later) = late.0.drain(..).partition(within);
        let now: Vec<(i32, i64)> = now;
        late.0 = later;
        world.late.extend(now);
    }
}

fn take(rows: &Pending) -> Vec<String> {
    std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner))
}

/// An intake of the input for one worker.
fn intake(
    world: &World,
    dataflow: &Dataflow,
    (worker, workers): (usize, usize),
    starts: &BTreeMap<u32, i64>,
    resume: &BTreeMap<PartitionId, Resume>,
    letters: Letters,
) -> Result<Intake, String> {
    let source = SimSource {
        brokers: Arc::clone(&world.brokers),
        clock: Arc::clone(&world.clock),
        worker,
        workers,
        starts: starts.clone(),
        joined: BTreeMap::new(),
    };
    make_intake(dataflow, Box::new(source), true, world, resume.clone(), letters)
}

/// An intake over any source.
pub(super) fn make_intake(
    dataflow: &Dataflow,
    source: Box<dyn Source>,
    growing: bool,
    world: &World,
    resume: BTreeMap<PartitionId, Resume>,
    letters: Letters,
) -> Result<Intake, String> {
    let schema = Arc::clone(&dataflow.inputs[0].payload);
    JsonDecoder::new(Arc::clone(&schema), JsonOptions::default()).map_err(|e| e.to_string())?;
    let decoders: DecoderFactory = Arc::new(move || {
        Box::new(
            JsonDecoder::new(Arc::clone(&schema), JsonOptions::default()).expect("the same schema was accepted before"),
        )
    });
    let options = IntakeOptions {
        arrival: TimeRule::LogAppend,
        judge_arrival: true,
        idle_margin_us: MARGIN_US,
        clocks: Arc::new(Mutex::new(BrokerClocks::new(MARGIN_US))),
        growing,
        on_bad_record: OnBadRecord::DeadLetter,
        max_bad_ppm: None,
        dead_letters: Arc::new(Mutex::new(letters)),
        counters: Arc::default(),
        clock: world.clock.clone(),
        resume,
        batch_rows: 64,
    };
    Ok(Intake::new(dataflow, 0, source, &decoders, options))
}
