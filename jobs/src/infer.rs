//! Looks at a topic or a file and writes the input of a spec for it: what packs its records, their format, their columns, and what
//! was seen of each.
//!
//! Called by `tidemill infer`. The format is told from the bytes alone; what bytes cannot tell (the schema behind an id) is left
//! to the reader, in a comment.

#[cfg(test)]
mod tests;
mod yaml;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use arrow::datatypes::SchemaRef;
use tidemill_connectors::{
    files::{self, Content},
    formats::{
        avro::container_columns,
        compression::Compression,
        csv::{Dialect, column_names},
        infer::{FieldStatistics, SchemaSample},
        parquet,
    },
    kafka::{Fetch, Isolation, KafkaConnection, KafkaInput, Security, SourceSettings},
};
use tidemill_engine::{Clock, EngineError, ErrorKind};

use crate::{
    run::{
        RunOptions,
        security::{self, Owner, Secrets},
    },
    spec::{self, Context, InputTransport},
};

pub(crate) use yaml::type_name;

/// Records that are looked at, at most.
const SAMPLE_RECORDS: usize = 1_000;
/// How long sampling may take.
const SAMPLE_WITHIN: Duration = Duration::from_secs(10);
/// Bytes that a packed record may hold.
const MAX_UNPACKED: usize = 256 << 20;
/// Delimiters that are tried, the likeliest first.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// What was found of records.
#[derive(Debug)]
struct Found {
    compression: Option<Compression>,
    format: Format,
    /// `None` where the bytes do not tell.
    schema: Option<SchemaRef>,
    statistics: HashMap<String, FieldStatistics>,
    records: usize,
    /// Records that are not of this format.
    others: usize,
}

/// A format as a spec names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json {
        ids: bool,
    },
    Csv(Dialect),
    AvroContainer,
    /// Avro or Protobuf behind an id.
    Registered {
        id: u32,
    },
    Parquet,
}

/// Samples a topic; gives the YAML of an input that reads it.
///
/// # Errors
/// A cluster or topic that cannot be read, an empty topic, records of no known format.
pub fn infer_topic(
    brokers: &[String],
    topic: &str,
    clock: &Arc<dyn Clock>,
    wait: Duration,
) -> Result<String, EngineError> {
    let connection = KafkaConnection { brokers: brokers.to_vec(), security: Security::default() };
    of_connection(connection, topic, clock, wait)
}

/// The same of a topic on the cluster of a spec, with its security: that of the input that reads the topic or has its name, or of the
/// only cluster there.
///
/// # Errors
/// As [`infer_topic`]; a spec from which no cluster can be told.
pub fn infer_of_context(
    context: &Context,
    topic: &str,
    clock: &Arc<dyn Clock>,
    wait: Duration,
) -> Result<String, EngineError> {
    let (input, kafka, topic) = find(context, topic).map_err(|problem| failure(topic, problem))?;
    let (secrets, options) = (Secrets::new(context.key_vault.clone()), RunOptions::of_a_look(wait, Arc::clone(clock)));
    let security = security::resolve(Owner::Input(&input.name), &kafka.brokers, &kafka.security, &secrets, &options)?;
    let yaml = of_connection(KafkaConnection { brokers: kafka.brokers.clone(), security }, topic, clock, wait)?;
    Ok(format!("# `security` is that of input `{}`, and stands there\n{yaml}", input.name))
}

/// The input whose cluster has the topic, and the topic's name.
fn find<'c>(context: &'c Context, topic: &'c str) -> Result<(&'c spec::Input, &'c spec::KafkaInput, &'c str), String> {
    let of_kafka = |input: &'c spec::Input| match &input.transport {
        InputTransport::Kafka(kafka) => Some((input, kafka)),
        InputTransport::File(_) => None,
    };
    let inputs: Vec<_> = context.inputs.iter().filter_map(of_kafka).collect();
    if let Some(&(input, kafka)) = inputs.iter().find(|(_, kafka)| kafka.topics.iter().any(|own| own == topic)) {
        return Ok((input, kafka, topic));
    }
    if let Some(&(input, kafka)) = inputs.iter().find(|(input, _)| input.name == topic) {
        return match &kafka.topics[..] {
            [only] => Ok((input, kafka, only)),
            several => Err(format!("input `{topic}` reads several topics: name one of {}", several.join(", "))),
        };
    }
    match &inputs[..] {
        [] => Err("the spec has no input that is a topic".to_owned()),
        [(input, kafka), others @ ..] if others.iter().all(|(_, other)| other.brokers == kafka.brokers) => {
            Ok((*input, *kafka, topic))
        }
        several => {
            let names: Vec<_> = several.iter().map(|(input, _)| format!("`{}`", input.name)).collect();
            let inputs = names.join(", ");
            Err(format!(
                "the spec has several clusters, and no input reads `{topic}`; available: {inputs} and their topics"
            ))
        }
    }
}

fn of_connection(
    connection: KafkaConnection,
    topic: &str,
    clock: &Arc<dyn Clock>,
    wait: Duration,
) -> Result<String, EngineError> {
    let brokers = connection.brokers.clone();
    let settings = SourceSettings {
        input: topic.to_owned(),
        connection,
        topics: vec![topic.to_owned()],
        isolation: Isolation::ReadCommitted,
        accept_create_time: true,
        queue_kib: 16 * 1024,
        fetch: Fetch::Auto,
        rack: None,
    };
    let input = KafkaInput::connect(settings, Arc::clone(clock), wait)?;
    let payloads = input.sample(SAMPLE_RECORDS, SAMPLE_WITHIN)?;
    let found = look(&payloads).map_err(|problem| failure(topic, problem))?;
    Ok(yaml::of_topic(&brokers, topic, &found))
}

/// The YAML of an input for a topic with these payloads.
///
/// # Errors
/// In words, when there are none or they are of no known format.
pub(crate) fn of_payloads(brokers: &[String], topic: &str, payloads: &[Vec<u8>]) -> Result<String, String> {
    look(payloads).map(|found| yaml::of_topic(brokers, topic, &found))
}

/// Samples a file; gives the YAML of an input that reads it.
///
/// # Errors
/// A file that cannot be read, or holds records of no known format.
pub fn infer_file(path: &Path) -> Result<String, EngineError> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let list = files::list_files(&name, path)?;
    let whole =
        |compression, content, count| files::sample(&name, &list, files::InputFormat { content, compression }, count);
    // A file is told by its beginning: the first line is enough, and a binary file has few.
    let first = whole(None, Content::Json, 1)?;
    let compression = first.first().and_then(|bytes| packed_by(bytes));
    let first = if compression.is_some() { whole(compression, Content::Json, 1)? } else { first };
    let beginning = first.first().map_or(&[][..], Vec::as_slice);
    let content = if beginning.starts_with(b"PAR1") {
        Content::RowGroups
    } else if beginning.starts_with(b"Obj\x01") {
        Content::AvroBlocks
    } else if beginning.first().is_some_and(|byte| matches!(byte, b'{' | b'[')) {
        Content::Json
    } else {
        let lines = whole(compression, Content::Json, SAMPLE_RECORDS)?;
        let text = lines.join(&b'\n');
        let dialect = dialect_of(&text).ok_or_else(|| failure(&name, unknown(&text)))?;
        Content::Csv { dialect, header: true }
    };
    let compression = compression.filter(|_| content != Content::RowGroups);
    let payloads = whole(compression, content, SAMPLE_RECORDS)?;
    let found = look(&payloads).map_err(|problem| failure(&name, problem))?;
    Ok(yaml::of_file(path, &name, &Found { compression, ..found }))
}

fn failure(input: &str, message: String) -> EngineError {
    EngineError::Source { input: input.to_owned(), kind: ErrorKind::User, message }
}

/// Tells what payloads hold.
///
/// # Errors
/// In words, when there are none or they are of no known format.
fn look(payloads: &[Vec<u8>]) -> Result<Found, String> {
    let Some(first) = payloads.iter().find(|payload| !payload.is_empty()) else {
        return Err("it has no records to look at".to_owned());
    };
    let compression = packed_by(first);
    let mut unpacked = Vec::new();
    if let Some(compression) = compression {
        for payload in payloads {
            let mut plain = Vec::new();
            if compression.unpack(payload, &mut plain, MAX_UNPACKED).is_ok() {
                unpacked.push(plain);
            }
        }
    }
    let plain = if compression.is_some() { &unpacked } else { payloads };
    let Some(first) = plain.first() else { return Err("no record could be unpacked".to_owned()) };
    let found = |format, schema, statistics, records: usize| Found {
        compression,
        format,
        schema,
        statistics,
        records,
        others: payloads.len() - records,
    };
    if first.starts_with(b"PAR1") {
        let columns = parquet::columns(first).map_err(|bad| bad.to_string())?;
        return Ok(found(Format::Parquet, Some(columns.schema), HashMap::new(), plain.len()));
    }
    if first.starts_with(b"Obj\x01") {
        let columns = container_columns(first)?;
        return Ok(found(Format::AvroContainer, Some(columns.schema), HashMap::new(), plain.len()));
    }
    let id = match first.as_slice() {
        [0, a, b, c, d, _, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    };
    let mut sample = SchemaSample::default();
    let skipped = if id.is_some() { 5 } else { 0 };
    let good = plain.iter().filter(|payload| payload.get(skipped..).is_some_and(|json| sample.add_json(json).is_ok()));
    let good = good.count();
    if good * 2 > plain.len() {
        let statistics = sample.statistics().into_iter().map(|field| (field.path.clone(), field)).collect();
        return Ok(found(Format::Json { ids: id.is_some() }, Some(sample.schema()), statistics, good));
    }
    if let Some(id) = id {
        return Ok(found(Format::Registered { id }, None, HashMap::new(), plain.len()));
    }
    let dialect = dialect_of(first).ok_or_else(|| unknown(first))?;
    let fields = column_names(plain, dialect)
        .into_iter()
        .map(|name| arrow::datatypes::Field::new(name, arrow::datatypes::DataType::Utf8, true));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()));
    Ok(found(Format::Csv(dialect), Some(schema), HashMap::new(), plain.len()))
}

/// What packed these bytes, by the magic numbers with which they begin.
fn packed_by(bytes: &[u8]) -> Option<Compression> {
    match bytes {
        [0x1f, 0x8b, ..] => Some(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Some(Compression::Deflate),
        _ => None,
    }
}

/// The delimiter that stands equally often in the first lines of a text.
fn dialect_of(text: &[u8]) -> Option<Dialect> {
    let text = std::str::from_utf8(text).ok()?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).take(10).collect();
    if lines.len() < 2 || text.contains('\0') {
        return None;
    }
    let count = |line: &str, delimiter: u8| line.bytes().filter(|byte| *byte == delimiter).count();
    let fits = |delimiter: &u8| {
        let first = count(lines[0], *delimiter);
        first > 0 && lines.iter().all(|line| line.contains('"') || count(line, *delimiter) == first)
    };
    let delimiter = DELIMITERS.into_iter().find(|delimiter| fits(delimiter))?;
    Some(Dialect { delimiter, ..Dialect::default() })
}

fn unknown(bytes: &[u8]) -> String {
    let beginning: String = bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!(
        "its records are of no format that their bytes tell (they begin with {beginning}); plain Avro and Protobuf \
         need a schema: give `format: {{avro: {{schema_file: FILE}}}}` or `{{protobuf: {{files: [FILE]}}}}`"
    )
}
