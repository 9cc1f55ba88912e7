//! Dead letters: the records that could not become rows, as the rows of an output of their own.
//!
//! ```text
//! DeadLetter -> LetterBox (one a worker) -> merge thread -> LetterSink -> files or topic
//! LetterBox (what concerns no worker) ----------------------^
//! ```
//! A [`LetterBox`] makes rows of [`schema`] out of letters; they travel with the rows of the query, so that each is part of the
//! epoch of its record, and come to a [`LetterSink`] over an ordinary sink of files or of a topic. Parquet holds the columns as they
//! are, JSON lines ([`LetterLines`]) the same with bytes as text and as base64, a topic ([`LetterMessages`]) the record itself, with
//! what is known of it in headers. [`KeptLetter`] is what is read back from any of them.

mod kept;
mod letter_box;
mod lines;
mod message;
mod row;
mod sink;
#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

pub use kept::KeptLetter;
pub use letter_box::{LetterBox, LetterOrigin, LetterOrigins};
pub use lines::LetterLines;
pub use message::LetterMessages;
pub use sink::LetterSink;

/// The columns of dead letters.
///
/// | column | |
/// |---|---|
/// | `time` | when it was put |
/// | `job`, `input` | whose; of class `output` the output |
/// | `topic`, `partition`, `offset`, `timestamp` | the record's; a file's path, 0, line and last modification; -1 of class `output` |
/// | `format` | how the input's records are decoded |
/// | `schema_id` | the registry's id before its value |
/// | `class`, `error` | why it is here |
/// | `key`, `value`, `headers` | the record's |
#[must_use]
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let datetime = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let header = DataType::Struct(header_fields());
        Arc::new(Schema::new(vec![
            Field::new("time", datetime(), false),
            Field::new("job", DataType::Utf8, false),
            Field::new("input", DataType::Utf8, false),
            Field::new("topic", DataType::Utf8, false),
            Field::new("partition", DataType::Int32, false),
            Field::new("offset", DataType::Int64, false),
            Field::new("timestamp", datetime(), false),
            Field::new("format", DataType::Utf8, true),
            Field::new("schema_id", DataType::Int64, true),
            Field::new("class", DataType::Utf8, false),
            Field::new("error", DataType::Utf8, false),
            Field::new("key", DataType::Binary, true),
            Field::new("value", DataType::Binary, true),
            Field::new("headers", DataType::List(Arc::new(Field::new("item", header, false))), false),
        ]))
    });
    Arc::clone(&SCHEMA)
}

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}
