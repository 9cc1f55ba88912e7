//! `format`: what each of them is by the spec, and the part of [`super::validate`] below it. The schemas that a format names are
//! read here, so that their columns are known without a connection.

use std::{fs, path::PathBuf, sync::Arc};

use tidemill_certs::SecretRef;
use tidemill_connectors::formats::{
    Declared,
    avro::{self, AvroSchema},
    compression::Compression,
    csv::{CsvOptions, Dialect},
    encode::Codec,
    protobuf::{self, Prefix, ProtobufMessage, ProtobufSchema},
    registry::WireFormat,
};

use super::{
    check::Check,
    job,
    problem::Path,
    raw::{
        AvroCodec, AvroFraming, IdFraming, ProtobufFraming, RawAvro, RawCompression, RawCsv, RawFormat, RawInput,
        RawJson, RawOutput, RawProtobuf, RawRegistry,
    },
};

/// How an input's payloads are decoded.
#[derive(Clone, Debug)]
pub enum InputFormat {
    /// JSON: an object, an array of objects, or an object a line.
    Json(JsonOptions),
    /// Values between delimiters.
    Csv(CsvOptions),
    /// Avro.
    Avro(AvroInput),
    /// A Parquet file.
    Parquet,
    /// Protobuf.
    Protobuf(ProtobufInput),
}

impl InputFormat {
    /// Where it has schemas from, if it does.
    #[must_use]
    pub fn registry(&self) -> Option<&Registry> {
        match self {
            Self::Avro(avro) => avro.registry.as_ref(),
            Self::Protobuf(protobuf) => protobuf.registry.as_ref(),
            Self::Json(_) | Self::Csv(_) | Self::Parquet => None,
        }
    }
}

/// Options of the JSON decoder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JsonOptions {
    /// How much of a record must be well-formed.
    pub check: job::Check,
    /// A schema id that is passed over.
    pub framing: Option<WireFormat>,
}

/// How Avro payloads are decoded.
#[derive(Clone, Debug)]
pub struct AvroInput {
    /// How a payload holds values.
    pub framing: avro::Framing,
    /// The schema that was given.
    pub schema: Option<Arc<AvroSchema>>,
    /// Where ids' schemas are; there is one if the framing has ids.
    pub registry: Option<Registry>,
}

/// How Protobuf payloads are decoded.
#[derive(Clone, Debug)]
pub struct ProtobufInput {
    /// How a payload holds messages.
    pub framing: protobuf::Framing,
    /// The message that was given; there is one if there is no registry.
    pub message: Option<ProtobufMessage>,
    /// The name that was given for a registry's message.
    pub name: Option<String>,
    /// Where ids' schemas are.
    pub registry: Option<Registry>,
}

/// A schema registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// Its address.
    pub url: String,
    /// The subject.
    pub subject: String,
    /// Whether an output's rows are written by its latest schema.
    pub use_latest: bool,
    /// The user and the password.
    pub basic: Option<(String, SecretRef)>,
    /// A bearer token.
    pub token: Option<SecretRef>,
    /// The authorities that its certificate is checked against.
    pub ca: Option<SecretRef>,
    /// Our certificate and its key.
    pub certificate: Option<SecretRef>,
}

impl Registry {
    /// All references that it holds.
    #[must_use]
    pub fn references(&self) -> Vec<&SecretRef> {
        let password = self.basic.as_ref().map(|(_, password)| password);
        [password, self.token.as_ref(), self.ca.as_ref(), self.certificate.as_ref()].into_iter().flatten().collect()
    }
}

/// How an output's rows are encoded.
#[derive(Clone, Debug)]
pub enum OutputFormat {
    /// An object a row.
    Json,
    /// Values between delimiters.
    Csv {
        /// What stands between and around values.
        dialect: Dialect,
        /// Whether the names come first.
        header: bool,
    },
    /// Avro.
    Avro(AvroOutput),
    /// Parquet.
    Parquet,
    /// Protobuf.
    Protobuf(ProtobufOutput),
}

impl OutputFormat {
    /// Where it registers schemas, if it does.
    #[must_use]
    pub fn registry(&self) -> Option<&Registry> {
        match self {
            Self::Avro(AvroOutput { ids: Some((_, registry)), .. }) => Some(registry),
            Self::Protobuf(ProtobufOutput::Registry(_, registry, _)) => Some(registry),
            _ => None,
        }
    }
}

/// How rows become Avro.
#[derive(Clone, Debug)]
pub struct AvroOutput {
    /// How the blocks of container files are packed.
    pub codec: Codec,
    /// In the place of container files: values behind the id under which their schema is registered. Only for topics.
    pub ids: Option<(WireFormat, Registry)>,
}

/// How rows become Protobuf.
#[derive(Clone, Debug)]
pub enum ProtobufOutput {
    /// Messages of a type that was given.
    Message {
        /// The type.
        message: ProtobufMessage,
        /// How its length stands before a message; there is one in files.
        prefix: Option<Prefix>,
    },
    /// Messages that are made of the columns, behind the id under which they are registered; or those of the subject's latest schema, of
    /// this name or the first. Only for topics.
    Registry(WireFormat, Box<Registry>, Option<String>),
}

impl InputFormat {
    /// The columns that the format's own schema makes; `Some(None)` where it has none yet.
    pub(super) fn columns(&self, check: &mut Check<'_>, path: &Path) -> Option<Option<Declared>> {
        let (columns, path) = match self {
            Self::Avro(AvroInput { schema: Some(schema), .. }) => {
                (schema.columns(), path.key("avro").key("schema_file"))
            }
            Self::Protobuf(ProtobufInput { message: Some(message), .. }) => {
                (message.columns(), path.key("protobuf").key("message"))
            }
            _ => return Some(None),
        };
        columns.map_err(|problem| check.problem(&path, problem)).ok().map(Some)
    }
}

/// An input's format.
pub(super) fn input_format(check: &mut Check<'_>, parent: &Path, raw: &RawInput) -> Option<InputFormat> {
    let path = parent.key("format");
    let topic = raw.kafka.as_ref().and_then(|kafka| kafka.topic.as_deref());
    match &raw.format {
        None => Some(InputFormat::Json(JsonOptions::default())),
        Some(RawFormat::Json(RawJson { check, framing })) => {
            Some(InputFormat::Json(JsonOptions { check: check.unwrap_or_default(), framing: framing.map(wire_format) }))
        }
        Some(RawFormat::Csv(csv)) => csv_options(check, &path.key("csv"), csv).map(InputFormat::Csv),
        Some(RawFormat::Avro(raw_avro)) => {
            avro_input(check, &path.key("avro"), raw_avro, raw.file.is_some(), topic).map(InputFormat::Avro)
        }
        Some(RawFormat::Parquet(_)) => Some(InputFormat::Parquet),
        Some(RawFormat::Protobuf(protobuf)) => {
            protobuf_input(check, &path.key("protobuf"), protobuf, raw.file.is_some(), topic).map(InputFormat::Protobuf)
        }
    }
}

/// An output's format.
pub(super) fn output_format(check: &mut Check<'_>, parent: &Path, raw: &RawOutput) -> Option<OutputFormat> {
    let path = parent.key("format");
    let topic = raw.kafka.as_ref().and_then(|kafka| kafka.topic.as_deref());
    match &raw.format {
        None => Some(OutputFormat::Json),
        Some(RawFormat::Json(json)) => {
            let fields = [("check", json.check.is_some()), ("framing", json.framing.is_some())];
            for_inputs(check, &path.key("json"), &fields)?;
            Some(OutputFormat::Json)
        }
        Some(RawFormat::Csv(csv)) => {
            let path = path.key("csv");
            for_inputs(check, &path, &[("columns", csv.columns.is_some()), ("null", csv.null.is_some())])?;
            let dialect = dialect(check, &path, csv)?;
            // A message without its names would be read as names.
            Some(OutputFormat::Csv { dialect, header: csv.header.unwrap_or(true) })
        }
        Some(RawFormat::Avro(avro)) => avro_output(check, &path.key("avro"), avro, topic).map(OutputFormat::Avro),
        Some(RawFormat::Parquet(_)) => Some(OutputFormat::Parquet),
        Some(RawFormat::Protobuf(protobuf)) => {
            protobuf_output(check, &path.key("protobuf"), protobuf, topic).map(OutputFormat::Protobuf)
        }
    }
}

/// How records are packed. Parquet and Avro files pack their parts themselves.
pub(super) fn compression(
    check: &mut Check<'_>,
    parent: &Path,
    raw: Option<RawCompression>,
    format: Option<&RawFormat>,
    is_file: bool,
) -> Option<Compression> {
    let raw = raw?;
    if let (true, Some(RawFormat::Parquet(_) | RawFormat::Avro(_))) = (is_file, format) {
        check.problem(&parent.key("compression"), "such files are packed inside: leave `compression` out");
    }
    Some(match raw {
        RawCompression::Gzip => Compression::Gzip,
        RawCompression::Deflate => Compression::Deflate,
        RawCompression::Zstd => Compression::Zstd,
    })
}

/// Reports fields that have no meaning on an output.
fn for_inputs(check: &mut Check<'_>, path: &Path, fields: &[(&str, bool)]) -> Option<()> {
    let given: Vec<_> = fields.iter().filter(|(_, given)| *given).collect();
    for (field, _) in &given {
        check.problem(&path.key(field), format!("`{field}` is for inputs"));
    }
    given.is_empty().then_some(())
}

fn wire_format(framing: IdFraming) -> WireFormat {
    match framing {
        IdFraming::Confluent => WireFormat::Confluent,
        IdFraming::Apicurio => WireFormat::Apicurio,
    }
}

fn dialect(check: &mut Check<'_>, path: &Path, raw: &RawCsv) -> Option<Dialect> {
    let mut one = |field: &str, text: Option<&str>, example: &str, default: u8, taken: Option<u8>| match text {
        None => Some(default),
        Some(text) => match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'\r' | b'\n' | 0) && Some(*byte) != taken => Some(*byte),
            _ => {
                let message = format!("expected one ASCII character such as `{example}`, found {text:?}");
                check.problem(&path.key(field), message);
                None
            }
        },
    };
    let quote = match raw.quote.as_deref() {
        Some("") => Some(None),
        text => one("quote", text, "'", b'"', None).map(Some),
    };
    let delimiter = one("delimiter", raw.delimiter.as_deref(), ";", b',', quote.flatten());
    Some(Dialect { delimiter: delimiter?, quote: quote? })
}

fn csv_options(check: &mut Check<'_>, path: &Path, raw: &RawCsv) -> Option<CsvOptions> {
    let dialect = dialect(check, path, raw)?;
    let names = raw.columns.clone();
    match (raw.header, &names) {
        (Some(true), Some(_)) => {
            check.problem(&path.key("header"), "`header: true` cannot stand beside `columns`: give one of them");
            return None;
        }
        (Some(false), None) if !check.given(&path.key("columns")) => {
            check.problem(path, "`columns` is missing: without a header the names are given");
            return None;
        }
        _ => {}
    }
    let repeated = names
        .iter()
        .flatten()
        .enumerate()
        .find(|(index, name)| !name.is_empty() && names.iter().flatten().take(*index).any(|other| other == *name));
    if let Some((index, name)) = repeated {
        check.problem(&path.key("columns").index(index), format!("`{name}` is listed twice"));
        return None;
    }
    Some(CsvOptions { dialect, names, null: raw.null.clone() })
}

fn avro_input(
    check: &mut Check<'_>,
    path: &Path,
    raw: &RawAvro,
    is_file: bool,
    topic: Option<&str>,
) -> Option<AvroInput> {
    if raw.codec.is_some() {
        check.problem(&path.key("codec"), "`codec` is for outputs: a container file says its own");
    }
    let registry = raw.registry.as_ref().map(|raw| input_registry(check, &path.key("registry"), raw, topic));
    let schema = match &raw.schema_file {
        Some(file) => {
            let path = path.key("schema_file");
            let text = read_text(check, &path, file)?;
            let schema = AvroSchema::parse(&text, &[]).map_err(|problem| check.problem(&path, problem)).ok()?;
            Some(Arc::new(schema))
        }
        None => None,
    };
    let framing = raw.framing.unwrap_or(match (&raw.registry, &raw.schema_file) {
        (Some(_), _) => AvroFraming::Confluent,
        (None, Some(_)) if !is_file => AvroFraming::Datum,
        _ => AvroFraming::Container,
    });
    let framing = match framing {
        AvroFraming::Datum => avro::Framing::Datum,
        AvroFraming::Container => avro::Framing::Container,
        AvroFraming::Confluent => avro::Framing::Registry(WireFormat::Confluent),
        AvroFraming::Apicurio => avro::Framing::Registry(WireFormat::Apicurio),
    };
    if is_file && framing != avro::Framing::Container {
        check.problem(&path.key("framing"), "Avro in files comes in containers: leave `framing` and `registry` out");
        return None;
    }
    match framing {
        avro::Framing::Datum if raw.schema_file.is_none() && !check.given(&path.key("schema_file")) => {
            check.problem(path, "`schema_file` is missing: plain values do not say their schema");
        }
        avro::Framing::Registry(_) if registry.is_none() && !check.given(&path.key("registry")) => {
            check.problem(path, "`registry` is missing: it has the schemas of ids");
        }
        avro::Framing::Datum | avro::Framing::Container if registry.is_some() => {
            check.problem(&path.key("registry"), "`registry` has no effect on a `framing` without ids");
        }
        _ => {}
    }
    Some(AvroInput { framing, schema, registry: registry.map_or(Some(None), |registry| registry.map(Some))? })
}

fn avro_output(check: &mut Check<'_>, path: &Path, raw: &RawAvro, topic: Option<&str>) -> Option<AvroOutput> {
    for_inputs(check, path, &[("schema_file", raw.schema_file.is_some())])?;
    let wire = match (raw.framing, &raw.registry) {
        (Some(AvroFraming::Datum), _) => {
            let message = "`datum` is for inputs: nobody could read rows without their schema; available: container, confluent, apicurio";
            check.problem(&path.key("framing"), message);
            return None;
        }
        (Some(AvroFraming::Container), _) | (None, None) => None,
        (Some(AvroFraming::Apicurio), _) => Some(WireFormat::Apicurio),
        (Some(AvroFraming::Confluent), _) | (None, Some(_)) => Some(WireFormat::Confluent),
    };
    match (wire, &raw.registry) {
        (Some(wire), Some(raw_registry)) => {
            if raw.codec.is_some() {
                check.problem(&path.key("codec"), "`codec` is for container files");
            }
            let registry = registry(check, &path.key("registry"), raw_registry, topic)?;
            if topic.is_none() {
                check.problem(&path.key("registry"), "schema ids are for topics: files bring their schema");
                return None;
            }
            Some(AvroOutput { codec: Codec::Null, ids: Some((wire, registry)) })
        }
        (Some(_), None) => {
            if !check.given(&path.key("registry")) {
                check.problem(path, "`registry` is missing: rows' schemas are registered there");
            }
            None
        }
        (None, Some(_)) => {
            check.problem(&path.key("registry"), "`registry` has no effect on container files");
            None
        }
        (None, None) => {
            let codec = match raw.codec.unwrap_or(AvroCodec::Zstandard) {
                AvroCodec::Null => Codec::Null,
                AvroCodec::Deflate => Codec::Deflate,
                AvroCodec::Snappy => Codec::Snappy,
                AvroCodec::Zstandard => Codec::Zstandard,
            };
            Some(AvroOutput { codec, ids: None })
        }
    }
}

fn protobuf_framing(raw: &RawProtobuf, is_file: bool) -> protobuf::Framing {
    let default = match &raw.registry {
        Some(_) => ProtobufFraming::Confluent,
        None if is_file => ProtobufFraming::Base128,
        None => ProtobufFraming::Message,
    };
    match raw.framing.unwrap_or(default) {
        ProtobufFraming::Message => protobuf::Framing::Message,
        ProtobufFraming::Base128 => protobuf::Framing::Prefixed(Prefix::Base128),
        ProtobufFraming::Fixed32 => protobuf::Framing::Prefixed(Prefix::Fixed32),
        ProtobufFraming::Fixed32BigEndian => protobuf::Framing::Prefixed(Prefix::Fixed32BigEndian),
        ProtobufFraming::Confluent => protobuf::Framing::Registry(WireFormat::Confluent),
        ProtobufFraming::Apicurio => protobuf::Framing::Registry(WireFormat::Apicurio),
    }
}

/// The message that `files` or `descriptor_set` define; `Some(None)` where neither is given.
fn protobuf_message(check: &mut Check<'_>, path: &Path, raw: &RawProtobuf) -> Option<Option<ProtobufMessage>> {
    let schema = match (&raw.files, &raw.descriptor_set) {
        (Some(_), Some(_)) => {
            check
                .problem(&path.key("descriptor_set"), "`descriptor_set` cannot stand beside `files`: give one of them");
            return None;
        }
        (Some(files), None) => {
            let at = path.key("files");
            if files.is_empty() && !check.has_content(&at) {
                check.problem(&at, "expected at least one file");
            }
            let includes = raw.includes.as_deref().unwrap_or_default();
            let mut paths = |field: &str, written: &[String]| -> Option<Vec<PathBuf>> {
                let resolve =
                    |(index, written): (usize, &String)| check.resolve(&path.key(field).index(index), written);
                written.iter().enumerate().map(resolve).collect()
            };
            let (files, includes) = (paths("files", files)?, paths("includes", includes)?);
            ProtobufSchema::of_files(&files, &includes).map_err(|problem| check.problem(&at, problem)).ok()?
        }
        (None, Some(file)) => {
            let at = path.key("descriptor_set");
            let bytes = read_bytes(check, &at, file)?;
            ProtobufSchema::of_descriptor_set(&bytes).map_err(|problem| check.problem(&at, problem)).ok()?
        }
        (None, None) => return Some(None),
    };
    let message = schema.message(raw.message.as_deref());
    message.map_err(|problem| check.problem(&path.key("message"), problem)).ok().map(Some)
}

fn protobuf_input(
    check: &mut Check<'_>,
    path: &Path,
    raw: &RawProtobuf,
    is_file: bool,
    topic: Option<&str>,
) -> Option<ProtobufInput> {
    let registry = raw.registry.as_ref().map(|raw| input_registry(check, &path.key("registry"), raw, topic));
    let framing = protobuf_framing(raw, is_file);
    let message = protobuf_message(check, path, raw)?;
    if message.is_none() && registry.is_none() && !check.given(&path.key("files")) {
        check.problem(path, "one of `files`, `descriptor_set`, `registry` is missing");
        return None;
    }
    if registry.is_some() && !matches!(framing, protobuf::Framing::Registry(_)) {
        check.problem(&path.key("registry"), "`registry` has no effect on a `framing` without ids");
    }
    if is_file && matches!(framing, protobuf::Framing::Registry(_)) {
        check.problem(
            &path.key("framing"),
            "schema ids are for topics; available here: message, base128, fixed32, fixed32_big_endian",
        );
    }
    let registry = registry.map_or(Some(None), |registry| registry.map(Some))?;
    Some(ProtobufInput { framing, message, name: raw.message.clone(), registry })
}

fn protobuf_output(
    check: &mut Check<'_>,
    path: &Path,
    raw: &RawProtobuf,
    topic: Option<&str>,
) -> Option<ProtobufOutput> {
    let message = protobuf_message(check, path, raw)?;
    let registry = match &raw.registry {
        Some(raw) => Some(registry(check, &path.key("registry"), raw, topic)?),
        None => None,
    };
    let prefix = match protobuf_framing(raw, topic.is_none()) {
        protobuf::Framing::Registry(wire) => {
            return match (registry, message) {
                (Some(registry), None) if topic.is_some() => {
                    if raw.message.is_some() && !registry.use_latest {
                        let message = "a message that is made of the columns is called `Row`: leave `message` out";
                        check.problem(&path.key("message"), message);
                    }
                    Some(ProtobufOutput::Registry(wire, Box::new(registry), raw.message.clone()))
                }
                (Some(_), None) => {
                    let message = "schema ids are for topics: give `files` and leave `registry` out";
                    check.problem(&path.key("registry"), message);
                    None
                }
                (Some(_), Some(_)) => {
                    let message =
                        "with a `registry` rows become a message that is made of their columns: leave `files` out";
                    check.problem(path, message);
                    None
                }
                (None, _) => {
                    check.problem(path, "`registry` is missing: rows' schemas are registered there");
                    None
                }
            };
        }
        protobuf::Framing::Prefixed(prefix) => Some(prefix),
        protobuf::Framing::Message if topic.is_none() => {
            let message = "a file has many rows; available here: base128, fixed32, fixed32_big_endian";
            check.problem(&path.key("framing"), message);
            return None;
        }
        protobuf::Framing::Message => None,
    };
    if registry.is_some() {
        check.problem(&path.key("registry"), "`registry` has no effect on a `framing` without ids");
    }
    if message.is_none() && !check.given(&path.key("files")) {
        check.problem(path, "one of `files`, `descriptor_set`, `registry` is missing");
    }
    Some(ProtobufOutput::Message { message: message?, prefix })
}

fn input_registry(check: &mut Check<'_>, path: &Path, raw: &RawRegistry, topic: Option<&str>) -> Option<Registry> {
    if raw.use_latest {
        check.problem(
            &path.key("use_latest"),
            "`use_latest` has no effect on an input, which reads by the ids of its records",
        );
    }
    registry(check, path, raw, topic)
}

fn registry(check: &mut Check<'_>, path: &Path, raw: &RawRegistry, topic: Option<&str>) -> Option<Registry> {
    let url = check.required(raw.url.as_ref(), path, "url").cloned();
    if let Some(url) = &url
        && !(url.starts_with("http://") || url.starts_with("https://"))
    {
        check.problem(&path.key("url"), format!("expected an address such as `http://host:8081`, found `{url}`"));
    }
    let subject = raw.subject.clone().or_else(|| topic.map(|topic| format!("{topic}-value")));
    if subject.is_none() {
        check.problem(path, "`subject` is missing: there is no single topic that it could be named after");
    }
    let below = |secret: &Option<SecretRef>| secret.clone().map(|secret| secret.below(check.directory));
    let (password, token) = (below(&raw.password), below(&raw.token));
    let (ca, certificate) = (below(&raw.ca), below(&raw.certificate));
    if raw.username.is_some() && token.is_some() {
        check.problem(&path.key("token"), "`token` cannot stand beside `username`: give one of them");
    }
    let basic = match (raw.username.clone(), password) {
        (Some(username), Some(password)) => Some((username, password)),
        (Some(_), None) => {
            check.required::<SecretRef>(None, path, "password");
            None
        }
        (None, Some(_)) => {
            check.required::<String>(None, path, "username");
            None
        }
        (None, None) => None,
    };
    let use_latest = raw.use_latest;
    Some(Registry { url: url?, subject: subject?, use_latest, basic, token, ca, certificate })
}

fn read_bytes(check: &mut Check<'_>, path: &Path, written: &str) -> Option<Vec<u8>> {
    let file = check.resolve(path, written)?;
    let read = fs::read(&file);
    read.map_err(|error| check.problem(path, format!("cannot read `{}`: {error}", file.display()))).ok()
}

fn read_text(check: &mut Check<'_>, path: &Path, written: &str) -> Option<String> {
    let bytes = read_bytes(check, path, written)?;
    String::from_utf8(bytes).map_err(|_| check.problem(path, format!("`{written}` is not UTF-8"))).ok()
}
