//! Inputs and outputs: the part of [`super::validate`] below `inputs` and `outputs`.

use std::{path::PathBuf, str::FromStr, sync::Arc};

use arrow::datatypes::{Schema, SchemaRef};
use tidemill_connectors::files::Layout;
use tidemill_engine::{EVENT_TIME, EventTime};

use super::{
    check::Check,
    columns::{ColumnType, fields},
    format::{self, OutputFormat},
    job::{
        FileInput, FileOutput, Input, InputTransport, KafkaInput, KafkaOutput, OnOutputError, Output, OutputTransport,
        Reference, Start, Timestamp,
    },
    named::Named,
    problem::Path,
    raw::{
        LetterFormat, RawDeadLetters, RawFileInput, RawFileOutput, RawInput, RawJob, RawKafkaInput, RawKafkaOutput,
        RawOutput, RawStart, RawTimestamp, roll_size,
    },
    security, syntax,
    units::{ByteSize, Duration},
};

/// How far behind the largest timestamp a record may come on an input with `timestamp: create_time`.
const CREATE_TIME_OUT_OF_ORDER: Duration = Duration::from_secs(5);
/// Beam's LogAppendTimePolicy has the same.
const IDLE_MARGIN: Duration = Duration::from_secs(2);
/// How old a file gets.
const ROLL_EVERY: Duration = Duration::from_secs(60);
/// A quarter of the memory that a job has by default.
const MAX_UNPACKED: ByteSize = ByteSize::from_mib(256);

/// An input.
pub(super) fn input(check: &mut Check<'_>, path: &Path, name: &str, raw: &RawInput, job: &RawJob) -> Option<Input> {
    check.exactly_one(path, &[("kafka", raw.kafka.is_some()), ("file", raw.file.is_some())]);
    let kafka = raw.kafka.as_ref().and_then(|kafka| kafka_input(check, path, kafka, raw, job));
    let file = raw.file.as_ref().and_then(|file| file_input(check, path, file, raw));
    let transport = kafka.map(InputTransport::Kafka).or(file.map(InputTransport::File));
    let format = format::input_format(check, path, raw);
    let compression = format::compression(check, path, raw.compression, raw.format.as_ref(), raw.file.is_some());
    let max_bad_ppm = max_bad_ppm(check, &path.key("max_bad"), raw.max_bad.as_deref());
    let max_unpacked = raw.max_unpacked.unwrap_or(MAX_UNPACKED);
    if max_unpacked.bytes() == 0 {
        check.problem(&path.key("max_unpacked"), "expected a size above zero");
    }
    let schema = raw.schema.as_ref().map(|columns| declared(check, &path.key("schema"), columns));
    let reference = reference(check, path, raw);
    let format = format?;
    let own = format.columns(check, &path.key("format"))?;
    Some(Input {
        name: name.to_owned(),
        transport: transport?,
        compression,
        max_unpacked,
        schema: schema.or(own.as_ref().map(|own| own.schema.clone())),
        left_out: own.map(|own| own.left_out).unwrap_or_default(),
        format,
        on_bad_record: raw.on_bad_record,
        max_bad_ppm: max_bad_ppm?,
        reference,
    })
}

/// What concerns time and positions has no effect on reference data, which has neither.
fn reference(check: &mut Check<'_>, path: &Path, raw: &RawInput) -> Option<Reference> {
    if !raw.reference {
        if raw.refresh.is_some() {
            check.problem(&path.key("refresh"), "`refresh` has no effect without `reference: true`");
        }
        return None;
    }
    if raw.refresh.is_some_and(|refresh| refresh.is_zero()) {
        check.problem(&path.key("refresh"), "expected a duration above zero");
    }
    let kafka = path.key("kafka");
    let fields = [
        (path.key("timestamp"), "timestamp", raw.timestamp.is_some()),
        (path.key("idle_margin"), "idle_margin", raw.idle_margin.is_some()),
        (kafka.key("start"), "start", raw.kafka.as_ref().is_some_and(|k| !matches!(k.start, RawStart::Earliest))),
        (kafka.key("group"), "group", raw.kafka.as_ref().is_some_and(|k| k.group.is_some())),
    ];
    for (path, field, _) in fields.iter().filter(|(.., given)| *given) {
        check.problem(path, format!("`{field}` has no effect on reference data, which is read whole"));
    }
    Some(Reference { refresh: raw.refresh })
}

/// A share such as `1%` or `0.05%`, in a million.
fn max_bad_ppm(check: &mut Check<'_>, path: &Path, written: Option<&str>) -> Option<Option<u64>> {
    let Some(written) = written else { return Some(None) };
    let percent = written.strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
    match percent.filter(|percent| (0.0..=100.0).contains(percent)) {
        Some(percent) => Some(Some((percent * 10_000.0).round() as u64)),
        None => {
            check.problem(path, format!("expected a share such as `1%`, found `{written}`"));
            None
        }
    }
}

fn kafka_input(
    check: &mut Check<'_>,
    parent: &Path,
    raw: &RawKafkaInput,
    input: &RawInput,
    job: &RawJob,
) -> Option<KafkaInput> {
    let path = parent.key("kafka");
    let brokers = brokers(check, &path, &raw.brokers);
    let topics = topics(check, &path, raw);
    let start = start(check, &path.key("start"), &raw.start, &topics);
    let group = raw.group.clone().or_else(|| job.name.clone());
    if raw.group.as_deref() == Some("") {
        check.problem(&path.key("group"), "expected a consumer group, found an empty text");
    }
    let security = security::security(check, &path, raw.security.as_ref(), &raw.brokers, job);
    let timestamp = match input.timestamp {
        None | Some(RawTimestamp::LogAppendTime) => Timestamp::LogAppendTime,
        Some(RawTimestamp::CreateTime) => {
            Timestamp::CreateTime { out_of_order: job.time.out_of_order.unwrap_or(CREATE_TIME_OUT_OF_ORDER) }
        }
    };
    Some(KafkaInput {
        brokers: brokers?,
        topics,
        start: start?,
        group: group?,
        isolation: raw.isolation,
        fetch: raw.fetch,
        partitioner: raw.partitioner,
        rack: raw.rack.clone(),
        security: Box::new(security?),
        timestamp,
        idle_margin: input.idle_margin.unwrap_or(IDLE_MARGIN),
    })
}

fn brokers(check: &mut Check<'_>, parent: &Path, brokers: &[String]) -> Option<Vec<String>> {
    let path = parent.key("brokers");
    if brokers.is_empty() && !check.has_content(&path) {
        check.problem(parent, "`brokers` is missing: a list of `host:port`");
    }
    for (i, broker) in brokers.iter().enumerate() {
        check.holds(&path.index(i), syntax::broker(broker));
    }
    Some(brokers.to_vec()).filter(|brokers| !brokers.is_empty())
}

fn topics(check: &mut Check<'_>, path: &Path, raw: &RawKafkaInput) -> Vec<String> {
    check.exactly_one(path, &[("topic", raw.topic.is_some()), ("topics", raw.topics.is_some())]);
    if let Some(topic) = &raw.topic {
        check.holds(&path.key("topic"), syntax::topic(topic));
    }
    let topics = raw.topics.as_deref().unwrap_or_default();
    let path = path.key("topics");
    if raw.topics.is_some() && topics.is_empty() && !check.has_content(&path) {
        check.problem(&path, "expected at least one topic");
    }
    for (i, topic) in topics.iter().enumerate() {
        check.holds(&path.index(i), syntax::topic(topic));
        if topics[..i].contains(topic) {
            check.problem(&path.index(i), format!("`{topic}` is listed twice"));
        }
    }
    raw.topic.iter().chain(topics).cloned().collect()
}

fn start(check: &mut Check<'_>, path: &Path, raw: &RawStart, topics: &[String]) -> Option<Start> {
    Some(match raw {
        RawStart::Earliest => Start::Earliest,
        RawStart::Latest => Start::Latest,
        RawStart::Time(instant) => Start::Time(EventTime(instant.0.timestamp_micros())),
        RawStart::Offsets(offsets) => {
            let path = path.key("offsets");
            if topics.len() > 1 {
                check.problem(&path, "`offsets` is for a single topic: make an input of each topic");
            }
            if offsets.is_empty() && !check.has_content(&path) {
                check.problem(&path, "expected offsets by partition, `{0: 120, 1: 98}`");
            }
            for (partition, offset) in offsets.iter().filter(|(partition, offset)| **partition < 0 || **offset < 0) {
                let message = format!("expected a partition and an offset from 0, found {partition}: {offset}");
                check.problem(&path.key(&partition.to_string()), message);
            }
            Start::Offsets(offsets.clone())
        }
    })
}

fn file_input(check: &mut Check<'_>, parent: &Path, raw: &RawFileInput, input: &RawInput) -> Option<FileInput> {
    for (field, given) in [("timestamp", input.timestamp.is_some()), ("idle_margin", input.idle_margin.is_some())] {
        if given {
            check.problem(&parent.key(field), format!("`{field}` has no effect on a `file`"));
        }
    }
    let path = check.required_path(&parent.key("file"), raw.path.as_deref())?;
    let directory = raw.path.as_deref().and_then(|path| path.trim_end_matches('/').rsplit_once('/'));
    if directory.is_some_and(|(directory, _)| directory.contains(['*', '?'])) {
        check.problem(&parent.key("file").key("path"), "a pattern can only stand for file names, not for directories");
    }
    Some(FileInput { path })
}

/// The name of the output of dead letters, which no other has.
const DEAD_LETTERS: &str = "dead_letters";

/// The output of dead letters.
pub(super) fn dead_letters(
    check: &mut Check<'_>,
    root: &Path,
    job: &RawJob,
    inputs: Option<&[Input]>,
) -> Option<Output> {
    let path = root.key("dead_letters");
    let none = RawDeadLetters { file: None, kafka: None, format: None };
    let raw = job.dead_letters.as_ref().unwrap_or(&none);
    if job.dead_letters.is_some() {
        check.exactly_one(&path, &[("file", raw.file.is_some()), ("kafka", raw.kafka.is_some())]);
    }
    let transport = match raw {
        RawDeadLetters { kafka: Some(kafka), .. } => letters_topic(check, &path, kafka, raw, job, inputs)?,
        RawDeadLetters { file: Some(file), .. } => {
            for (field, _) in file.layout().iter().filter(|(_, given)| *given) {
                let message = format!("dead letters are kept in the order in which they come: leave `{field}` out");
                check.problem(&path.key("file").key(field), message);
            }
            OutputTransport::File(file_output(check, &path, file)?)
        }
        _ => return check.resolve(root, "./dead-letters").map(dead_letters_in),
    };
    let format = match raw.format {
        Some(LetterFormat::Parquet) => OutputFormat::Parquet,
        Some(LetterFormat::Json) | None => OutputFormat::Json,
    };
    Some(letters_output(transport, format))
}

/// The output of dead letters that go to a directory as JSON lines.
pub(super) fn dead_letters_in(path: PathBuf) -> Output {
    let file = FileOutput { path, roll_size: roll_size(), roll_every: ROLL_EVERY, layout: Layout::default() };
    letters_output(OutputTransport::File(file), OutputFormat::Json)
}

fn letters_output(transport: OutputTransport, format: OutputFormat) -> Output {
    let name = DEAD_LETTERS.to_owned();
    Output { name, transport, format, compression: None, on_output_error: OnOutputError::Stop }
}

fn letters_topic(
    check: &mut Check<'_>,
    path: &Path,
    kafka: &RawKafkaOutput,
    raw: &RawDeadLetters,
    job: &RawJob,
    inputs: Option<&[Input]>,
) -> Option<OutputTransport> {
    if raw.format.is_some() {
        check.problem(&path.key("format"), "a topic gets the records as they came: leave `format` out");
    }
    let path = path.key("kafka");
    if kafka.key.is_some() {
        check.problem(&path.key("key"), "a dead letter has the key of its record: leave `key` out");
    }
    let output = kafka_output(check, &path, kafka, job)?;
    for input in inputs.unwrap_or_default() {
        let InputTransport::Kafka(read) = &input.transport else { continue };
        if read.topics.contains(&output.topic) && read.brokers.iter().any(|broker| output.brokers.contains(broker)) {
            let message =
                format!("input `{}` reads `{}`: its dead letters would come in again", input.name, output.topic);
            check.problem(&path.key("topic"), message);
        }
    }
    Some(OutputTransport::Kafka(KafkaOutput { key: Some("key".to_owned()), ..output }))
}

/// An output.
pub(super) fn output(check: &mut Check<'_>, path: &Path, name: &str, raw: &RawOutput, job: &RawJob) -> Option<Output> {
    if name == DEAD_LETTERS {
        check.problem(path, "`dead_letters` is the output of records that became no rows; name this one otherwise");
    }
    let (kafka, file) = (("kafka", raw.kafka.is_some()), ("file", raw.file.is_some()));
    check.exactly_one(path, &[kafka, file, ("stdout", raw.stdout.is_some()), ("discard", raw.discard.is_some())]);
    let transport = match raw {
        RawOutput { kafka: Some(kafka), .. } => {
            kafka_output(check, &path.key("kafka"), kafka, job).map(OutputTransport::Kafka)
        }
        RawOutput { file: Some(file), .. } => file_output(check, path, file).map(OutputTransport::File),
        RawOutput { stdout: Some(_), .. } => {
            no_format(check, path, raw, "`stdout` is a table on a terminal and JSON lines when piped");
            Some(OutputTransport::Stdout)
        }
        RawOutput { discard: Some(_), .. } => {
            no_format(check, path, raw, "`discard` writes nothing");
            Some(OutputTransport::Discard)
        }
        _ => None,
    };
    let format = format::output_format(check, path, raw);
    let compression = format::compression(check, path, raw.compression, raw.format.as_ref(), raw.file.is_some());
    Some(Output {
        name: name.to_owned(),
        transport: transport?,
        format: format?,
        compression,
        on_output_error: raw.on_output_error,
    })
}

fn kafka_output(check: &mut Check<'_>, path: &Path, raw: &RawKafkaOutput, job: &RawJob) -> Option<KafkaOutput> {
    let brokers = brokers(check, path, &raw.brokers);
    let topic = check.required(raw.topic.as_ref(), path, "topic");
    if let Some(topic) = topic {
        check.holds(&path.key("topic"), syntax::topic(topic));
    }
    if raw.key.as_deref() == Some("") {
        check.problem(&path.key("key"), "expected a column, found an empty text");
    }
    let security = security::security(check, path, raw.security.as_ref(), &raw.brokers, job);
    let (key, delivery) = (raw.key.clone(), raw.delivery);
    Some(KafkaOutput { brokers: brokers?, topic: topic?.clone(), key, delivery, security: Box::new(security?) })
}

fn file_output(check: &mut Check<'_>, parent: &Path, raw: &RawFileOutput) -> Option<FileOutput> {
    let path = parent.key("file");
    if raw.roll_size.bytes() == 0 {
        check.problem(&path.key("roll_size"), "expected a size above zero");
    }
    let roll_every = raw.roll_every.unwrap_or(ROLL_EVERY);
    if roll_every.is_zero() {
        check.problem(&path.key("roll_every"), "expected a duration above zero");
    }
    let partition_by = entries(check, &path.key("partition_by"), &raw.partition_by);
    let sort_by = entries(check, &path.key("sort_by"), &raw.sort_by);
    let path = check.required_path(&path, raw.path.as_deref());
    let layout = Layout { partition_by: partition_by?, sort_by: sort_by? };
    Some(FileOutput { path: path?, roll_size: raw.roll_size, roll_every, layout })
}

fn entries<T: FromStr<Err = String>>(check: &mut Check<'_>, path: &Path, written: &[String]) -> Option<Vec<T>> {
    let read: Vec<_> =
        written.iter().enumerate().map(|(i, entry)| check.holds_value(&path.index(i), entry.parse())).collect();
    read.into_iter().collect()
}

fn no_format(check: &mut Check<'_>, parent: &Path, raw: &RawOutput, why: &str) {
    for (field, given) in [("format", raw.format.is_some()), ("compression", raw.compression.is_some())] {
        if given {
            check.problem(&parent.key(field), format!("{why}: leave `{field}` out"));
        }
    }
}

fn declared(check: &mut Check<'_>, path: &Path, columns: &Named<ColumnType>) -> SchemaRef {
    if columns.is_empty() && !check.has_content(path) {
        check.problem(path, "expected columns, `{user: string}`; leave `schema` out to have them inferred");
    }
    if columns.iter().any(|(name, _)| name == EVENT_TIME) {
        check.problem(&path.key(EVENT_TIME), format!("`{EVENT_TIME}` is the name of the hidden event time"));
    }
    Arc::new(Schema::new(fields(columns)))
}
