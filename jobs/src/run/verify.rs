//! `tidemill verify JOB`: reads again what the job has read, and compares what its query makes of it with what the outputs hold.
//!
//! Nothing of the job is touched: no claim, no transaction, no committed offset, no dead letter. What cannot be repeated is when
//! answers came in: rows that were late in the job, behind an idle advance, are in their windows here. They are dead letters of
//! class `late` there, and explain as many differences.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
};

use arrow::record_batch::RecordBatch;
use tidemill_connectors::{
    files::each_parquet_batch,
    formats::encode::{EncodedRows, JsonEncoder, RowEncoder},
};
use tidemill_engine::{
    EngineError, ErrorKind, EventTime, Result,
    dataflow::{
        merge::{Merge, Output},
        plan::Dataflow,
    },
    dead_letter::{DeadLetter, DeadLetters},
    epoch::{Resume, Written},
    sink::Sink,
};

use super::{
    RunOptions,
    attempt::supervise,
    budget::Budget,
    error::RunError,
    inputs::{self, ConnectedInput, Transport},
    outputs,
    pipeline::{self, Watch},
    plan,
    reference::References,
    resume::{self, Begin},
    rotation::Rotation,
    security::Secrets,
    workers,
    written::each_record_of,
};
use crate::{
    epoch::{
        decide::GoOn,
        mark,
        record::{EpochRecord, PartitionKey},
        store::{Begun, Log, Store},
    },
    spec::{self, Delivery, Job, KafkaOutput, OutputFormat, OutputTransport},
};

/// Differences that are shown of an output.
const SHOWN: usize = 10;

/// Part of what a job has committed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Period {
    /// Rows of windows that ended before this event time are left out.
    pub from: Option<EventTime>,
    /// Rows at or above this event time are left out.
    pub to: Option<EventTime>,
}

/// What was found of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its name in the spec.
    pub output: String,
    /// How it compares.
    pub outcome: Verdict,
}

/// How an output compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was not looked at, and why.
    NotCompared(&'static str),
    /// It was.
    Compared {
        /// Rows that the query makes.
        rows: u64,
        /// Of these, missing in the output.
        missing: u64,
        /// In the output, and not or not so often made by the query.
        more: u64,
        /// The first differences, as text: `missing ...` or `more ...`.
        examples: Vec<String>,
    },
}

impl Verified {
    /// Whether nothing differs.
    #[must_use]
    pub fn ok(&self) -> bool {
        matches!(self.outcome, Verdict::NotCompared(_) | Verdict::Compared { missing: 0, more: 0, .. })
    }
}

/// Compares everything that the job has committed, or what lies in `period` of it. Of a period only missing rows are told: rows
/// do not say which event time they are of.
///
/// # Errors
/// Without a state, and when inputs or outputs cannot be read.
pub fn verify(job: &Job, period: Period, options: &RunOptions) -> Result<Vec<Verified>, RunError> {
    let query_error = |errors| RunError::Query { query: Box::new(job.query.clone()), errors };
    let script = &job.query.script;
    let read = script.inputs();
    let secrets = Arc::new(Secrets::new(job.key_vault.clone()));
    let mut connected = vec![];
    for input in job.inputs.iter().filter(|input| read.iter().any(|name| name.eq_ignore_ascii_case(&input.name))) {
        connected.push(ConnectedInput::connect(job, input, &secrets, options)?);
    }
    let store = Store::open(&job.state.store, &job.name)?;
    let history = Log::read(&store)?;
    let Some(begun) = history.begun else {
        let message = format!("job `{}` has committed nothing that could be compared", job.name);
        return Err(RunError::State { path: job.state.store.to_string(), message });
    };
    let Some(tables) = inputs::tables(Some(&store), script, &connected, options)? else { return Ok(vec![]) };
    let dataflow = plan(job, script, &tables).map_err(query_error)?;
    let (references, mut connected): (Vec<_>, Vec<_>) =
        connected.into_iter().partition(|input| input.spec.reference.is_some());
    connected.retain(|input| dataflow.inputs.iter().any(|columns| columns.name == input.spec.name));
    let last = last_epoch(&connected, history.epoch, &begun)?;

    let mut captured = vec![];
    let mut sinks = vec![];
    for output in &job.outputs {
        let rows = Arc::<Mutex<Rows>>::default();
        captured.push(Arc::clone(&rows));
        let encoder = encoder(output, &secrets, options)?;
        let sink = Captured { encoder, encoded: EncodedRows::default(), rows };
        sinks.push(Output { sink: Box::new(sink), rows: options.stats.add_output(&output.name) });
    }
    let letters = NoLetters::taker();
    let references = References::read(references, &dataflow, options, &letters)?;
    let begin = begin(&connected, &dataflow, &begun, &last, period, options)?;
    are_there(&connected, &begin)?;
    let workers = workers(job, options);
    let (intakes, bad_records) =
        inputs::intakes(job, &connected, &dataflow, &begin, workers, options, &|| Arc::clone(&letters))?;
    let mut merge = Merge::try_new(&dataflow, sinks, &begin.written, workers, &options.stats.late)?;
    merge.keep_below(&until(&dataflow, &last, period));
    merge.keep_failed(bad_records, inputs::row_text);
    let watch = Watch { clock: Arc::clone(&options.clock), stats: &options.stats };
    let flush = pipeline::flush_only();
    let bounds = (Budget::of(job), Arc::<AtomicBool>::default());
    let pipeline = pipeline::Pipeline::start(&dataflow, intakes, merge, (0, flush), bounds, &watch)?;
    let rotation = Rotation::new(job, &secrets, options);
    supervise(job, options, references, (pipeline, &Arc::default(), rotation), &mut |_| {})?;

    let mut verified = vec![];
    for (output, rows) in job.outputs.iter().zip(captured) {
        let mut rows = std::mem::take(&mut *rows.lock().unwrap_or_else(PoisonError::into_inner));
        let outcome = match add_found(job, output, &begun, &secrets, options, &mut rows)? {
            Some(why) => Verdict::NotCompared(why),
            None => compare(&rows, period.from.is_none() && period.to.is_none(), repeats(output)),
        };
        verified.push(Verified { output: output.name.clone(), outcome });
    }
    Ok(verified)
}

/// The last epoch that is committed everywhere it has to be: the groups' or the log's.
pub(super) fn last_epoch(
    connected: &[ConnectedInput],
    log: Option<EpochRecord>,
    begun: &Begun,
) -> Result<EpochRecord, EngineError> {
    let mut shares = vec![];
    for input in connected {
        let Transport::Kafka { input: kafka, group, .. } = &input.transport else { continue };
        let mut committed = group.committed()?;
        for partition in kafka.partitions() {
            let Some(beside) = committed.remove(&partition.id) else { continue };
            let (name, topic, number) = (&input.spec.name, &partition.topic, partition.number);
            shares.extend(mark::read(&beside.metadata, name, topic, number, beside.offset));
        }
    }
    let newest = mark::join(shares).into_iter().chain(log).max_by_key(|record| record.epoch);
    Ok(newest.unwrap_or_else(|| begun.record.clone()))
}

/// From where the job began, or early enough for the windows of the period, to where it stands.
pub(super) fn begin(
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    begun: &Begun,
    last: &EpochRecord,
    period: Period,
    options: &RunOptions,
) -> Result<Begin, RunError> {
    let mut begin = match period.from {
        Some(from) => resume::begin_at_start(connected, dataflow, Some(from), options)?,
        None => {
            let at_start = begun.record.partitions.iter().map(|partition| {
                let resume = Resume { covered: vec![partition.next], readers: vec![] };
                (partition.key(), (partition.replay, resume))
            });
            let written = begun.record.written_below.iter();
            let written = written.map(|&below| Written { below: EventTime(below), covering: 0 }).collect();
            resume::go_on_from(GoOn { partitions: at_start.collect(), written, ..GoOn::default() }, connected)?
        }
    };
    let stands = last.by_key();
    let mut ends = vec![];
    for (input, starts) in connected.iter().zip(&begin.offsets) {
        let Transport::Kafka { input: kafka, .. } = &input.transport else {
            ends.push(vec![]);
            continue;
        };
        let mut of_input = vec![];
        for (partition, start) in kafka.partitions().iter().zip(starts.iter()) {
            let key: PartitionKey = (input.spec.name.clone(), partition.topic.to_string(), partition.number);
            let end = stands.get(&key).map_or(*start, |partition| partition.next);
            of_input.push(end.max(*start));
        }
        ends.push(of_input);
    }
    begin.ends = Some(ends);
    Ok(begin)
}

/// # Errors
/// When records have gone from a log.
fn are_there(connected: &[ConnectedInput], begin: &Begin) -> Result<(), EngineError> {
    let inputs = connected.iter().zip(&begin.offsets).zip(begin.ends.iter().flatten());
    for ((input, starts), ends) in inputs {
        let Transport::Kafka { input: kafka, .. } = &input.transport else { continue };
        let offsets = starts.iter().zip(ends);
        for ((partition, (earliest, _)), (&start, &end)) in kafka.partitions().iter().zip(kafka.bounds()?).zip(offsets)
        {
            if start < earliest && earliest < end {
                let message = format!(
                    "topic `{}` partition {}: offsets {start} to {earliest} are no longer in the log; `--from TIME` compares what \
                     was made of the rest",
                    partition.topic, partition.number
                );
                return Err(EngineError::Source { input: input.spec.name.clone(), kind: ErrorKind::User, message });
            }
        }
    }
    Ok(())
}

/// The event time at which rows of each statement end: windows that were open at the last epoch have none yet.
pub(super) fn until(dataflow: &Dataflow, last: &EpochRecord, period: Period) -> Vec<EventTime> {
    let to = period.to.unwrap_or(EventTime::MAX);
    let statements = resume::statements(dataflow);
    let until = statements.iter().enumerate().map(|(index, statement)| match last.written_below.get(index) {
        Some(&below) if statement.windowed => EventTime(below).min(to),
        _ => to,
    });
    until.collect()
}

/// How often each row was made, and how often it was found.
type Rows = BTreeMap<Vec<u8>, (u64, u64)>;

/// Takes the rows of the query.
struct Captured {
    encoder: Box<dyn RowEncoder>,
    encoded: EncodedRows,
    rows: Arc<Mutex<Rows>>,
}

impl Sink for Captured {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encoded.clear();
        self.encoder.encode(batch, &mut self.encoded)?;
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        for index in 0..self.encoded.len() {
            rows.entry(self.encoded.row(index).to_vec()).or_default().0 += 1;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The job's own run has kept them.
pub(super) struct NoLetters;

impl NoLetters {
    pub(super) fn taker() -> Arc<Mutex<dyn DeadLetters>> {
        Arc::new(Mutex::new(Self))
    }
}

impl DeadLetters for NoLetters {
    fn put(&mut self, _letter: &DeadLetter<'_>) -> Result<()> {
        Ok(())
    }
}

/// How rows of an output are compared: as its messages, or as lines of its files.
fn encoder(output: &spec::Output, secrets: &Secrets, options: &RunOptions) -> Result<Box<dyn RowEncoder>, RunError> {
    match (&output.transport, &output.format) {
        (OutputTransport::Kafka(_), _) => outputs::message_encoder(output, secrets, options),
        (OutputTransport::File(_), OutputFormat::Csv { dialect, .. }) => Ok(outputs::csv_encoder(*dialect, false)),
        _ => Ok(Box::new(JsonEncoder)),
    }
}

/// Whether rows may be there more than once.
fn repeats(output: &spec::Output) -> bool {
    matches!(&output.transport, OutputTransport::Kafka(KafkaOutput { delivery: Delivery::AtLeastOnce, .. }))
}

/// Adds what an output holds; otherwise why it cannot be looked at.
fn add_found(
    job: &Job,
    output: &spec::Output,
    begun: &Begun,
    secrets: &Secrets,
    options: &RunOptions,
    rows: &mut Rows,
) -> Result<Option<&'static str>, RunError> {
    match (&output.transport, &output.format, output.compression) {
        (OutputTransport::Stdout | OutputTransport::Discard, ..) => Ok(Some("it keeps nothing")),
        (OutputTransport::Kafka(kafka), ..) => {
            topic(output, kafka, secrets, options, rows)?;
            Ok(None)
        }
        (OutputTransport::File(_), _, Some(_)) => Ok(Some("packed files are not compared")),
        (OutputTransport::File(_), OutputFormat::Avro(_) | OutputFormat::Protobuf(_), _) => {
            Ok(Some("of files, those in json, csv and parquet are compared"))
        }
        (OutputTransport::File(file), format, _) => {
            for part in parts(&file.path, &output.name, begun.record.epoch)? {
                add_file(&part, format, rows).map_err(|error| EngineError::Sink {
                    output: output.name.clone(),
                    kind: ErrorKind::User,
                    message: format!("job `{}`: cannot read `{}`: {error}", job.name, part.display()),
                })?;
            }
            Ok(None)
        }
    }
}

/// Every row that is committed in a topic.
fn topic(
    output: &spec::Output,
    kafka: &KafkaOutput,
    secrets: &Secrets,
    options: &RunOptions,
    rows: &mut Rows,
) -> Result<(), RunError> {
    each_record_of(&output.name, kafka, false, secrets, options, &mut |record| {
        if let Some(value) = record.value {
            rows.entry(value.to_vec()).or_default().1 += 1;
        }
    })
}

/// The visible parts of an output that epochs after `epoch` have published: `<output>-<generation>-<epoch>-<sequence>.<extension>`.
fn parts(directory: &Path, output: &str, epoch: u64) -> Result<Vec<std::path::PathBuf>, RunError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            let message = format!("cannot read directory `{}`: {error}", directory.display());
            return Err(EngineError::Sink { output: output.to_owned(), kind: ErrorKind::User, message }.into());
        }
    };
    let mut parts = vec![];
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = name.strip_prefix(output).and_then(|rest| rest.strip_prefix('-'));
        let of_epoch = rest.and_then(|rest| rest.split('-').nth(1)?.parse::<u64>().ok());
        if of_epoch.is_some_and(|of| of > epoch) {
            parts.push(path);
        }
    }
    parts.sort();
    Ok(parts)
}

fn add_file(path: &Path, format: &OutputFormat, rows: &mut Rows) -> std::io::Result<()> {
    if let OutputFormat::Parquet = format {
        let mut encoded = EncodedRows::default();
        return each_parquet_batch(path, &mut |batch| {
            encoded.clear();
            JsonEncoder.encode(batch, &mut encoded)?;
            for index in 0..encoded.len() {
                rows.entry(encoded.row(index).to_vec()).or_default().1 += 1;
            }
            Ok(())
        });
    }
    let bytes = fs::read(path)?;
    let header = usize::from(matches!(format, OutputFormat::Csv { header: true, .. }));
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    for line in lines.skip(header) {
        rows.entry(line.to_vec()).or_default().1 += 1;
    }
    Ok(())
}

fn compare(rows: &Rows, whole: bool, repeats: bool) -> Verdict {
    let (mut made_in_all, mut missing, mut more, mut examples) = (0, 0, 0, vec![]);
    for (row, &(made, found)) in rows {
        made_in_all += made;
        let lacks = made.saturating_sub(found);
        let exceeds = if whole && !(repeats && made > 0) { found.saturating_sub(made) } else { 0 };
        missing += lacks;
        more += exceeds;
        let what = match (lacks, exceeds) {
            (0, 0) => continue,
            (0, _) => "more   ",
            _ => "missing",
        };
        if examples.len() < SHOWN {
            examples.push(format!("{what} {}", String::from_utf8_lossy(row)));
        }
    }
    Verdict::Compared { rows: made_in_all, missing, more, examples }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_missing_or_more_are_told() {
        let rows: Rows =
            [(b"a".to_vec(), (1, 1)), (b"b".to_vec(), (2, 1)), (b"c".to_vec(), (0, 1)), (b"d".to_vec(), (1, 2))].into();
        let examples = ["missing b", "more    c", "more    d"];
        let shown = |examples: &[&str]| examples.iter().map(|&example| example.to_owned()).collect();
        assert_eq!(
            compare(&rows, true, false),
            Verdict::Compared { rows: 4, missing: 1, more: 2, examples: shown(&examples) }
        );
        let at_least_once = compare(&rows, true, true);
        assert_eq!(at_least_once, Verdict::Compared { rows: 4, missing: 1, more: 1, examples: shown(&examples[..2]) });
        assert_eq!(
            compare(&rows, false, false),
            Verdict::Compared { rows: 4, missing: 1, more: 0, examples: shown(&examples[..1]) }
        );
    }
}
