//! From an input's format to its decoders: the schemas that a registry has, columns that are inferred, and how files are cut into
//! records.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_connectors::{
    files,
    formats::{
        Declared, LeftOut,
        avro::{self, AvroDecoder, AvroOptions, AvroSchema},
        compression::UnpackingDecoder,
        csv::{CsvDecoder, column_names},
        infer::SchemaSample,
        json::{self, JsonDecoder},
        parquet::{self, ParquetDecoder},
        protobuf::{self, ProtobufDecoder, ProtobufMessage, ProtobufOptions},
        registry::{Registered, RegistryClient, RegistryError, Schemas, UnframingDecoder},
    },
};
use tidemill_engine::{
    EngineError, ErrorKind,
    dataflow::plan::InputColumns,
    decoder::{Decoder, DecoderFactory},
};

use super::{RunOptions, registry, security::Secrets};
use crate::spec::{self, AvroInput, Check, InputFormat, ProtobufInput};

/// What the decoders of an input know of schemas beside the columns.
#[derive(Clone, Default)]
pub(crate) struct FormatSchemas {
    client: Option<Arc<RegistryClient>>,
    /// The reader's schema, whose defaults and aliases count.
    avro: Option<Arc<AvroSchema>>,
    message: Option<ProtobufMessage>,
}

impl FormatSchemas {
    /// Asks the registry for the latest schema of the input's subject, if the spec gives none.
    ///
    /// # Errors
    /// A registry that cannot be reached, or whose schema cannot be read.
    pub(crate) fn learn(input: &spec::Input, secrets: &Secrets, options: &RunOptions) -> Result<Self, EngineError> {
        let failure = |kind, message| EngineError::Source { input: input.name.clone(), kind, message };
        let (registry, given) = match &input.format {
            InputFormat::Avro(AvroInput { registry, schema, .. }) => (registry, schema.is_some()),
            InputFormat::Protobuf(ProtobufInput { registry, message, .. }) => (registry, message.is_some()),
            _ => return Ok(Self::default()),
        };
        let mut learned = match &input.format {
            InputFormat::Avro(avro) => Self { avro: avro.schema.clone(), ..Self::default() },
            InputFormat::Protobuf(protobuf) => Self { message: protobuf.message.clone(), ..Self::default() },
            _ => Self::default(),
        };
        let Some(registry) = registry else { return Ok(learned) };
        let client =
            registry::client(registry, secrets, options).map_err(|message| failure(ErrorKind::User, message))?;
        learned.client = Some(Arc::clone(&client));
        if given {
            return Ok(learned);
        }
        let latest = match client.latest(&registry.subject) {
            Ok(latest) => latest,
            // Columns that are declared need no schema before the first record.
            Err(RegistryError::Absent { .. }) if input.schema.is_some() => return Ok(learned),
            Err(error) => return Err(failure(error.kind(), error.to_string())),
        };
        learned.take(&latest, &input.format).map_err(|problem| {
            failure(ErrorKind::User, format!("the latest schema of `{}`: {problem}", registry.subject))
        })?;
        if let Ok(Some(Declared { left_out, .. })) = learned.declared() {
            for LeftOut { path, reason } in left_out {
                tracing::warn!("input `{}`: field `{path}` is no column: {reason}", input.name);
            }
        }
        Ok(learned)
    }

    fn take(&mut self, latest: &Registered, format: &InputFormat) -> Result<(), String> {
        match format {
            InputFormat::Protobuf(protobuf) => {
                let schema = latest.protobuf()?;
                let first = || schema.first_message().ok_or_else(|| "it has no message".to_owned());
                self.message = Some(match &protobuf.name {
                    Some(name) => schema.message(Some(name))?,
                    None => first()?,
                });
            }
            _ => self.avro = Some(Arc::new(latest.avro()?)),
        }
        Ok(())
    }

    fn declared(&self) -> Result<Option<Declared>, String> {
        match (&self.avro, &self.message) {
            (Some(schema), _) => schema.columns().map(Some),
            (None, Some(message)) => message.columns().map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The columns that the schema makes, if there is one.
    ///
    /// # Errors
    /// A schema that makes none, in words.
    pub(crate) fn columns(&self) -> Result<Option<SchemaRef>, String> {
        Ok(self.declared()?.map(|declared| declared.schema))
    }
}

/// The columns of sampled payloads; `None` without records.
///
/// # Errors
/// Payloads of another format, in words.
pub(crate) fn infer(format: &InputFormat, payloads: &[Vec<u8>]) -> Result<Option<SchemaRef>, String> {
    let of_first = |columns: &dyn Fn(&[u8]) -> Result<Declared, String>| {
        let mut last = None;
        for payload in payloads {
            match columns(payload) {
                Ok(declared) => return Ok(Some(declared.schema)),
                Err(problem) => last = Some(problem),
            }
        }
        last.map_or(Ok(None), |problem| {
            Err(format!("none of {} sampled records has a schema: {problem}; check `format`", payloads.len()))
        })
    };
    match format {
        InputFormat::Json(options) => {
            let mut sample = SchemaSample::default();
            let mut bad = None;
            for payload in payloads {
                let unframed = options.framing.map_or(Ok(payload.as_slice()), |wire| wire.unframed(payload));
                if let Err(error) = unframed.and_then(|payload| sample.add_json(payload)) {
                    bad = Some(error);
                }
            }
            match bad {
                Some(bad) if sample.records() == 0 => Err(format!(
                    "none of {} sampled records is JSON: {bad}; check `format`, or declare `schema`",
                    payloads.len()
                )),
                _ => Ok((sample.records() > 0).then(|| sample.schema())),
            }
        }
        InputFormat::Csv(csv) => {
            let names = match &csv.names {
                Some(names) => names.iter().filter(|name| !name.is_empty()).cloned().collect(),
                None => column_names(payloads, csv.dialect),
            };
            let fields = names.into_iter().map(|name| Field::new(name, DataType::Utf8, true));
            let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
            Ok((!payloads.is_empty()).then_some(schema))
        }
        InputFormat::Avro(AvroInput { framing: avro::Framing::Container, .. }) => {
            of_first(&|payload| avro::container_columns(payload))
        }
        InputFormat::Parquet => of_first(&|payload| parquet::columns(payload).map_err(|bad| bad.to_string())),
        InputFormat::Avro(_) | InputFormat::Protobuf(_) => Ok(None),
    }
}

/// How an input's files are cut into records.
pub(crate) fn file_format(input: &spec::Input) -> files::InputFormat {
    use files::Content;
    let content = match &input.format {
        InputFormat::Json(_) => Content::Json,
        InputFormat::Csv(csv) => Content::Csv { dialect: csv.dialect, header: csv.names.is_none() },
        InputFormat::Avro(_) => Content::AvroBlocks,
        InputFormat::Parquet => Content::RowGroups,
        InputFormat::Protobuf(protobuf) => match protobuf.framing {
            protobuf::Framing::Prefixed(prefix) => Content::Prefixed(prefix),
            protobuf::Framing::Message | protobuf::Framing::Registry(_) => Content::Whole,
        },
    };
    files::InputFormat { content, compression: input.compression }
}

/// A sampled payload without its packing; `None` if it is not packed so.
pub(crate) fn unpack(input: &spec::Input, payload: Vec<u8>) -> Option<Vec<u8>> {
    let Some(compression) = input.compression else { return Some(payload) };
    let mut plain = Vec::new();
    compression.unpack(&payload, &mut plain, max_unpacked(input)).ok().map(|()| plain)
}

fn max_unpacked(input: &spec::Input) -> usize {
    usize::try_from(input.max_unpacked.bytes()).unwrap_or(usize::MAX)
}

/// Makes decoders of the columns that the query names.
///
/// # Errors
/// Columns that the format cannot be decoded to.
pub(crate) fn decoders(
    input: &spec::Input,
    schemas: &FormatSchemas,
    columns: &InputColumns,
) -> Result<DecoderFactory, EngineError> {
    let (input, schemas, columns) = (input.clone(), schemas.clone(), columns.clone());
    let make = move || decoder(&input, &schemas, &columns.payload, columns.exact);
    make()?; // a schema that the format cannot decode is found here
    Ok(Arc::new(move || make().expect("the same schema was accepted before")))
}

/// One decoder of these columns; `exact` as in [`InputColumns::exact`].
///
/// # Errors
/// Columns that the format cannot be decoded to.
pub(crate) fn decoder(
    input: &spec::Input,
    schemas: &FormatSchemas,
    columns: &SchemaRef,
    exact: bool,
) -> Result<Box<dyn Decoder>, EngineError> {
    let columns = Arc::clone(columns);
    let failure = |message| EngineError::Source { input: input.name.clone(), kind: ErrorKind::User, message };
    let client = || schemas.client.clone().map(|client| client as Arc<dyn Schemas>);
    let is_file = matches!(input.transport, spec::InputTransport::File(_));
    let decoder: Box<dyn Decoder> = match &input.format {
        InputFormat::Json(options) => {
            let check = match options.check {
                Check::Full => json::Check::Full,
                Check::Lax => json::Check::Lax,
            };
            let decoder = Box::new(JsonDecoder::new(columns, json::JsonOptions { check, exact })?);
            match options.framing {
                Some(wire) => Box::new(UnframingDecoder::new(decoder, wire)),
                None => decoder,
            }
        }
        InputFormat::Csv(options) => Box::new(CsvDecoder::new(&input.name, columns, options.clone())?),
        InputFormat::Avro(avro) => {
            let options = AvroOptions {
                framing: avro.framing,
                schema: schemas.avro.clone(),
                schemas: client(),
                max_unpacked: max_unpacked(input),
            };
            Box::new(AvroDecoder::new(columns, options).map_err(failure)?)
        }
        InputFormat::Parquet => Box::new(ParquetDecoder::new(columns, max_unpacked(input))),
        InputFormat::Protobuf(protobuf) => {
            // A file source takes the lengths for the ends of records and leaves them in place.
            let (framing, message) = (protobuf.framing, schemas.message.clone());
            Box::new(
                ProtobufDecoder::new(columns, ProtobufOptions { framing, message, schemas: client() })
                    .map_err(failure)?,
            )
        }
    };
    Ok(match input.compression {
        // Files are unpacked as they are read.
        Some(compression) if !is_file => Box::new(UnpackingDecoder::new(decoder, compression, max_unpacked(input))),
        _ => decoder,
    })
}
