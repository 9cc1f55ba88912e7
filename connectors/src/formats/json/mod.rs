//! JSON to Arrow in one pass, driven by the schema: values go from the payload straight into column buffers.
//!
//! A payload is an object, an array of objects (each a row; an empty array is no row), or objects one after the other,
//! with or without white space between them. Anything else, and a payload of nothing but white space, is malformed. One
//! fault anywhere in a payload takes back all its rows, and no row of another payload.
//!
//! By [`Check::Full`] the whole payload must be well-formed: UTF-8 without a byte order mark, nested at most 127 levels
//! deep, surrogates only in pairs, also in members that no column wants. By [`Check::Lax`] a record may be left after the
//! last wanted column; from there, and in containers that no column wants, only strings and brackets are followed.
//!
//! # Values
//! A member belongs to the column of its name, else to the first column whose name differs only in ASCII case. The first
//! of several members for one column counts. A missing member is null, as is `null`; null for a column that must not be
//! null is a fault of [`BadClass::Type`], and so is every value that its column does not take:
//!
//! | column | takes |
//! |---|---|
//! | `Utf8` | strings as they are; numbers, booleans and containers as their JSON text in the payload |
//! | `Int64` | integers of its range; numbers with fraction or exponent that, as a double, are whole and at most 2^53 in size (`7.0`, `1e3`); strings that are such a number and nothing else |
//! | `Float64` | numbers, rounded to the nearest finite double; strings that are a number and nothing else |
//! | `Boolean` | `true`, `false` |
//! | `Timestamp(Microsecond, "UTC")` | ISO 8601 strings (`T` or space, no zone is UTC, digits beyond microseconds are cut off, a date alone is its midnight); integers as milliseconds since the epoch |
//! | `Struct` | objects, by these rules |
//! | `List` | arrays, whose elements go by these rules |
//!
//! By [`JsonOptions::exact`] a `Utf8` and a `Timestamp` take strings only, an `Int64` and a `Float64` none.
//!
//! # Speed
//! A member whose name was learned and whose value is plain (a string without escapes, a short number, a word) is read by
//! blocks of 16 and 32 bytes, AVX2 where the processor has it. What is passed over is read the same way, and the members of
//! objects that no column wants are learned too. Where a value ends is computed from its bytes, which takes longer than to
//! read on: a length that stays the same is counted on, and the processor goes ahead. All else is read member by member by a
//! cursor. No tape, no allocation for a good record.

mod column;
pub(in crate::formats) mod datetime;
pub(in crate::formats) mod number;
mod object;
mod padded;
mod plain;
pub(in crate::formats) mod reader;
mod scan;
#[cfg(test)]
mod tests;

use arrow::{
    datatypes::SchemaRef,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use tidemill_engine::{
    Result,
    decoder::{BadClass, BadRecord, Decoder},
};

use self::{
    object::Object,
    padded::Padded,
    reader::{Fault, Reader, fault},
};

/// How much of a record is checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// All of it: a record that is not JSON from end to end is bad.
    #[default]
    Full,
    /// What the wanted columns need.
    Lax,
}

/// Options of a [`JsonDecoder`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonOptions {
    /// How much of a record is checked; all of it unless told otherwise, since a truncated record that happens to hold the
    /// wanted columns is still a fault of its producer.
    pub check: Check,
    /// Whether a value must be of its column's type as it stands: no number in a string, no text of a number.
    pub exact: bool,
}

/// Decodes JSON payloads; the module says how.
///
/// Between two flushes it takes payloads of 2 GiB in all (a column's text is addressed by 32 bits): a caller flushes by
/// bytes as well as by rows.
pub struct JsonDecoder {
    schema: SchemaRef,
    check: Check,
    root: Object,
    rows: usize,
    /// Of the payloads since the last flush.
    bytes: usize,
    padded: Vec<u8>,
    scratch: Vec<u8>,
}

impl JsonDecoder {
    /// A decoder of these columns.
    ///
    /// # Errors
    /// A column of another type than the module lists.
    pub fn new(schema: SchemaRef, options: JsonOptions) -> Result<Self> {
        let root = Object::new(schema.fields(), "", options.exact)?;
        Ok(JsonDecoder {
            schema,
            check: options.check,
            root,
            rows: 0,
            bytes: 0,
            padded: Vec::new(),
            scratch: Vec::new(),
        })
    }

    fn read(&mut self, payload: &[u8]) -> Result<usize, Fault> {
        if self.bytes + payload.len() > i32::MAX as usize {
            return Err(fault(BadClass::Malformed, "more than 2 GiB of payloads in one batch".to_owned()));
        }
        let (root, mut row) = (&mut self.root, self.rows);
        let padded = Padded::copy(payload, &mut self.padded);
        Reader::of_padded(padded, self.check, &mut self.scratch)?.objects(|reader| {
            root.read(reader, row)?;
            row += 1;
            Ok(())
        })
    }
}

impl Decoder for JsonDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn push(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        match self.read(payload) {
            Ok(rows) => {
                self.rows += rows;
                self.bytes += payload.len();
                Ok(rows)
            }
            Err(fault) => {
                self.root.truncate(self.rows);
                Err(*fault)
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        self.root.truncate(self.rows);
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), self.root.finish()?, &options)?;
        (self.rows, self.bytes) = (0, 0);
        Ok(batch)
    }
}
