//! Collects letters as rows.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{
        ArrayBuilder, ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, ListBuilder, StringBuilder, StructBuilder,
        TimestampMicrosecondBuilder,
    },
    datatypes::{DataType, Field},
    record_batch::RecordBatch,
};
use tidemill_engine::{
    Clock, EventTime, Result,
    dead_letter::{DeadLetter, DeadLetters},
    decoder::BadClass,
};

use super::{header_fields, schema};
use crate::formats::registry::WireFormat;

/// Letters of a batch, at most.
const BATCH_LETTERS: usize = 4_096;
/// Letters that a batch has space for at first: of a batch of records one in a hundred, and some more.
const EXPECTED_LETTERS: usize = 128;
/// Bytes of a batch after which no more letters are put into it.
const BATCH_BYTES: usize = 4 << 20;

/// What is known of the records of an input, or of the rows of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterOrigin {
    /// The format's name in the spec.
    pub format: &'static str,
    /// How a schema id stands before a value.
    pub wire: Option<WireFormat>,
}

/// What is known of all inputs and outputs of a job, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterOrigins {
    /// The job's name.
    pub job: String,
    /// Of inputs.
    pub inputs: BTreeMap<String, LetterOrigin>,
    /// Of outputs, for rows that they refused.
    pub outputs: BTreeMap<String, LetterOrigin>,
}

/// Collects letters as rows of [`schema`], in the order in which they are put.
pub struct LetterBox {
    origins: Arc<LetterOrigins>,
    clock: Arc<dyn Clock>,
    /// Letters of records that are part of more epochs than this are kept already.
    covering: u8,
    columns: Columns,
    full: Vec<RecordBatch>,
}

impl LetterBox {
    /// An empty one. Letters of records that are part of more than `covering` epochs were written by an earlier run, and are left out
    /// ([`tidemill_engine::epoch::Written`]).
    #[must_use]
    pub fn new(origins: Arc<LetterOrigins>, covering: u8, clock: Arc<dyn Clock>) -> Self {
        Self { origins, clock, covering, columns: Columns::default(), full: vec![] }
    }

    fn finish_batch(&mut self) {
        if self.columns.letters > 0 {
            self.full.push(std::mem::take(&mut self.columns).finish());
        }
    }
}

impl DeadLetters for LetterBox {
    fn put(&mut self, letter: &DeadLetter<'_>) -> Result<()> {
        if letter.covering > self.covering {
            return Ok(());
        }
        let LetterOrigins { job, inputs, outputs } = &*self.origins;
        let origin = if letter.class == BadClass::Output { outputs } else { inputs }.get(letter.input).copied();
        self.columns.append(letter, job, origin, self.clock.wall());
        if self.columns.letters >= BATCH_LETTERS || self.columns.bytes >= BATCH_BYTES {
            self.finish_batch();
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<RecordBatch> {
        self.finish_batch();
        std::mem::take(&mut self.full)
    }
}

/// The builders of [`schema`].
struct Columns {
    time: TimestampMicrosecondBuilder,
    job: StringBuilder,
    input: StringBuilder,
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    timestamp: TimestampMicrosecondBuilder,
    format: StringBuilder,
    schema_id: Int64Builder,
    class: StringBuilder,
    error: StringBuilder,
    key: BinaryBuilder,
    value: BinaryBuilder,
    headers: ListBuilder<StructBuilder>,
    letters: usize,
    bytes: usize,
}

impl Default for Columns {
    fn default() -> Self {
        let text = |bytes_each: usize| StringBuilder::with_capacity(EXPECTED_LETTERS, EXPECTED_LETTERS * bytes_each);
        let bytes = |bytes_each: usize| BinaryBuilder::with_capacity(EXPECTED_LETTERS, EXPECTED_LETTERS * bytes_each);
        let datetime = || TimestampMicrosecondBuilder::with_capacity(EXPECTED_LETTERS).with_timezone("UTC");
        let header_values: Vec<Box<dyn ArrayBuilder>> =
            vec![Box::new(StringBuilder::with_capacity(0, 0)), Box::new(BinaryBuilder::with_capacity(0, 0))];
        let header = StructBuilder::new(header_fields(), header_values);
        let item = Field::new("item", DataType::Struct(header_fields()), false);
        Self {
            time: datetime(),
            job: text(16),
            input: text(16),
            topic: text(16),
            partition: Int32Builder::with_capacity(EXPECTED_LETTERS),
            offset: Int64Builder::with_capacity(EXPECTED_LETTERS),
            timestamp: datetime(),
            format: text(8),
            schema_id: Int64Builder::with_capacity(EXPECTED_LETTERS),
            class: text(16),
            error: text(64),
            key: bytes(0),
            value: bytes(64),
            headers: ListBuilder::with_capacity(header, EXPECTED_LETTERS).with_field(item),
            letters: 0,
            bytes: 0,
        }
    }
}

impl Columns {
    fn append(&mut self, letter: &DeadLetter<'_>, job: &str, origin: Option<LetterOrigin>, now: EventTime) {
        let id = || letter.value.and_then(|value| origin?.wire?.id(value));
        self.time.append_value(now.0);
        self.job.append_value(job);
        self.input.append_value(letter.input);
        self.topic.append_value(letter.topic);
        self.partition.append_value(letter.partition);
        self.offset.append_value(letter.offset);
        self.timestamp.append_value(EventTime::from_millis(letter.timestamp_ms).0);
        self.format.append_option(origin.map(|origin| origin.format));
        self.schema_id.append_option(id().and_then(|id| i64::try_from(id).ok()));
        self.class.append_value(letter.class.as_str());
        self.error.append_value(letter.message);
        self.key.append_option(letter.key);
        self.value.append_option(letter.value);
        for header in letter.headers {
            let builders = self.headers.values();
            if let Some(names) = builders.field_builder::<StringBuilder>(0) {
                names.append_value(header.name);
            }
            if let Some(values) = builders.field_builder::<BinaryBuilder>(1) {
                values.append_option(header.value);
            }
            builders.append(true);
            self.bytes += header.name.len() + header.value.map_or(0, <[u8]>::len);
        }
        self.headers.append(true);
        self.letters += 1;
        self.bytes += letter.value.map_or(0, <[u8]>::len) + letter.key.map_or(0, <[u8]>::len) + letter.message.len();
    }

    fn finish(mut self) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.time.finish()),
            Arc::new(self.job.finish()),
            Arc::new(self.input.finish()),
            Arc::new(self.topic.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.timestamp.finish()),
            Arc::new(self.format.finish()),
            Arc::new(self.schema_id.finish()),
            Arc::new(self.class.finish()),
            Arc::new(self.error.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.headers.finish()),
        ];
        RecordBatch::try_new(schema(), columns).expect("the builders are those of the schema")
    }
}
