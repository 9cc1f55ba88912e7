//! `format` and what stands beside it, as it is typed.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use tidemill_certs::SecretRef;

use super::super::job::Check;

/// A format; its bare name means all defaults.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Format", transform = bare_names)]
pub(in crate::spec) enum RawFormat {
    /// JSON: an object, an array of objects, or an object a line.
    Json(RawJson),
    /// Values between delimiters, with a header or with given names.
    Csv(RawCsv),
    /// Avro: container files, or values whose schema is given or in a registry.
    Avro(RawAvro),
    /// Parquet: a record is a whole file.
    Parquet(RawParquet),
    /// Protobuf, by `.proto` files, a descriptor set or a registry.
    Protobuf(RawProtobuf),
}

/// Options of `json`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Json")]
pub(in crate::spec) struct RawJson {
    /// How much of a record must be well-formed; for inputs. Default: `full`.
    pub(in crate::spec) check: Option<Check>,
    /// A schema id that stands before each record and is passed over; for inputs. Default: none.
    pub(in crate::spec) framing: Option<IdFraming>,
}

/// How a schema id stands before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::spec) enum IdFraming {
    /// A zero and 4 bytes.
    Confluent,
    /// A zero and 8 bytes.
    Apicurio,
}

/// Options of `csv`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Csv")]
pub(in crate::spec) struct RawCsv {
    /// One ASCII character. Default: a comma.
    pub(in crate::spec) delimiter: Option<String>,
    /// One ASCII character around values that hold delimiters or line breaks; empty: there is none. Default: `"`.
    pub(in crate::spec) quote: Option<String>,
    /// Whether the first line of a record or file holds the names. Default: `true`; `false` where `columns` are given.
    pub(in crate::spec) header: Option<bool>,
    /// The names of the values in their order, where there is no header; for inputs. An empty name is passed over.
    pub(in crate::spec) columns: Option<Vec<String>>,
    /// A text without quotes that means null, besides the empty one; for inputs.
    pub(in crate::spec) null: Option<String>,
}

/// Options of `avro`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Avro")]
pub(in crate::spec) struct RawAvro {
    /// How a record holds values. Default: `confluent` with a `registry`, `datum` in Kafka with a `schema_file`, else
    /// `container`.
    pub(in crate::spec) framing: Option<AvroFraming>,
    /// A file with the schema (`.avsc`), relative to the spec; for inputs. With `datum` it is the writer's; in any case its columns,
    /// aliases and defaults are what the query sees.
    pub(in crate::spec) schema_file: Option<String>,
    /// The registry that has the schemas of ids.
    pub(in crate::spec) registry: Option<RawRegistry>,
    /// How blocks of container files are packed; for outputs. Default: `zstandard`.
    pub(in crate::spec) codec: Option<AvroCodec>,
}

/// How a record holds Avro values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::spec) enum AvroFraming {
    /// One value and nothing else.
    Datum,
    /// An object container file.
    Container,
    /// A zero, a schema id of 4 bytes, one value.
    Confluent,
    /// A zero, a schema id of 8 bytes, one value.
    Apicurio,
}

/// How blocks of container files are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::spec) enum AvroCodec {
    /// Not at all.
    Null,
    /// By deflate.
    Deflate,
    /// By snappy.
    Snappy,
    /// By zstandard.
    Zstandard,
}

/// `parquet` has no options.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Parquet")]
pub(in crate::spec) struct RawParquet {}

/// Options of `protobuf`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Protobuf")]
pub(in crate::spec) struct RawProtobuf {
    /// How a record holds messages. Default: `confluent` with a `registry`, `base128` in files, else `message`.
    pub(in crate::spec) framing: Option<ProtobufFraming>,
    /// The `.proto` files, relative to the spec; for inputs.
    pub(in crate::spec) files: Option<Vec<String>>,
    /// Where imports are looked for. Default: beside `files`.
    pub(in crate::spec) includes: Option<Vec<String>>,
    /// A compiled `FileDescriptorSet` with its imports, in the place of `files`.
    pub(in crate::spec) descriptor_set: Option<String>,
    /// The full name of the message, `shop.Order`. Default: the only one.
    pub(in crate::spec) message: Option<String>,
    /// The registry that has the schemas of ids.
    pub(in crate::spec) registry: Option<RawRegistry>,
}

/// How a record holds Protobuf messages; the names of lengths are those of Azure Stream Analytics' prefix styles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::spec) enum ProtobufFraming {
    /// One message and nothing else.
    Message,
    /// Messages, each behind its length as a varint.
    Base128,
    /// Messages, each behind its length in 4 bytes, little-endian.
    Fixed32,
    /// Messages, each behind its length in 4 bytes, big-endian.
    Fixed32BigEndian,
    /// A zero, a schema id of 4 bytes, the message's indexes, one message.
    Confluent,
    /// A zero, a schema id of 8 bytes, the message's indexes, one message.
    Apicurio,
}

/// A schema registry with Confluent's API: Confluent's own, Apicurio, Karapace, Redpanda.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
#[schemars(rename = "Registry", extend("required" = ["url"]))]
pub(in crate::spec) struct RawRegistry {
    /// Its address, up to and without `/subjects`.
    pub(in crate::spec) url: Option<String>,
    /// The subject whose latest schema the query sees, or under which an output's is registered. Default: `TOPIC-value`.
    pub(in crate::spec) subject: Option<String>,
    /// For outputs: rows are written by the subject's latest schema, as it is when the job starts; otherwise by one of their columns,
    /// which is registered.
    #[serde(default)]
    pub(in crate::spec) use_latest: bool,
    /// The user.
    pub(in crate::spec) username: Option<String>,
    /// The user's password, by reference.
    pub(in crate::spec) password: Option<SecretRef>,
    /// A bearer token, by reference, in the place of `username`.
    pub(in crate::spec) token: Option<SecretRef>,
    /// The authorities that its certificate is checked against, as PEM. Default: the system's.
    pub(in crate::spec) ca: Option<SecretRef>,
    /// Our certificate and its key, as PEM, one behind the other.
    pub(in crate::spec) certificate: Option<SecretRef>,
}

/// How payloads are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::spec) enum RawCompression {
    /// Gzip.
    Gzip,
    /// Deflate, in zlib's frame.
    Deflate,
    /// Zstandard.
    Zstd,
}

/// Adds to the forms `{json: {...}}` of an enum the bare names.
fn bare_names(schema: &mut Schema) {
    let Some(forms) = schema.get_mut("oneOf").and_then(|forms| forms.as_array_mut()) else { return };
    let names: Vec<_> = forms.iter().filter_map(|form| form.get("required")?.get(0)).cloned().collect();
    forms.insert(0, serde_json::json!({"type": "string", "enum": names}));
}
