//! Schema inference: from sampled JSON payloads to the narrowest columns that take every sampled value.
//!
//! | sampled values, nulls apart | column |
//! |---|---|
//! | integers in the range of bigint | `Int64` |
//! | numbers, one of them with fraction or exponent, all integers at most 2^53 in size | `Float64` |
//! | booleans | `Boolean` |
//! | objects with members | `Struct`, of all members seen |
//! | arrays | `List` of what all elements need |
//! | mixed kinds, numbers with fraction among integers beyond 2^53 | values of any type |
//! | anything else: strings, numbers out of range, only nulls, only `{}` | `Utf8` |
//!
//! `7.0` is a float, `7` a bigint. Datetimes stay strings: the query says which of them it wants as such. Fields come in the
//! order and with the spelling first seen; names that differ only in ASCII case are one field, as for the decoder. A sample
//! accepts what [`super::json::Check::Full`] accepts.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use tidemill_engine::{any::any_type, decoder::BadRecord};

use super::json::{
    Check,
    number::MAX_EXACT,
    reader::{Fault, Reader},
};

/// What was seen so far.
#[derive(Debug, Default)]
pub struct SchemaSample {
    records: u64,
    members: Members,
    scratch: Vec<u8>,
}

/// What was seen of one field, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldStatistics {
    /// Its name, behind the names of what it lies in: `user.address.city`, `tags[]`.
    pub path: String,
    /// The type inferred.
    pub data_type: DataType,
    /// How many values there were, nulls among them.
    pub seen: u64,
    /// How many of them were null.
    pub nulls: u64,
    /// The kinds of the others in words (`integer`, `float`, `string`, `boolean`, `object`, `array`), with their counts.
    pub kinds: Vec<(&'static str, u64)>,
}

impl SchemaSample {
    /// Adds the records of one payload.
    ///
    /// # Errors
    /// When the payload is malformed; nothing of it is in the sample then.
    pub fn add_json(&mut self, payload: &[u8]) -> Result<(), BadRecord> {
        self.read(payload).map_err(|fault| *fault)
    }

    fn read(&mut self, payload: &[u8]) -> Result<(), Fault> {
        Reader::new(payload, Check::Full, &mut self.scratch)?.objects(Reader::skip_checked)?;
        let members = &mut self.members;
        let records = Reader::new(payload, Check::Full, &mut self.scratch)?.objects(|reader| members.read(reader))?;
        self.records += records as u64;
        Ok(())
    }

    /// How many records were added.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// The columns that take every record of the sample, all nullable; none without records.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.members.fields()))
    }

    /// Each field with those in it behind it, in the order of the schema.
    #[must_use]
    pub fn statistics(&self) -> Vec<FieldStatistics> {
        let mut all = Vec::new();
        self.members.describe("", &mut all);
        all
    }
}

/// Members of one kind of object, in the order first seen.
#[derive(Debug, Default)]
struct Members(Vec<(String, Values)>);

/// Values of one field.
#[derive(Debug, Default)]
struct Values {
    nulls: u64,
    integers: u64,
    floats: u64,
    strings: u64,
    booleans: u64,
    objects: u64,
    arrays: u64,
    /// Whether an integer is not exact in a double.
    inexact: bool,
    /// Whether a number fits neither bigint nor float.
    out_of_range: bool,
    members: Members,
    elements: Option<Box<Values>>,
}

impl Members {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let mut more = reader.open(b'}')?;
        while more {
            let position = self.position(reader.key()?);
            self.0[position].1.read(reader)?;
            more = reader.more(b'}')?;
        }
        Ok(())
    }

    fn position(&mut self, key: &[u8]) -> usize {
        let known = self.0.iter().position(|(name, _)| name.as_bytes().eq_ignore_ascii_case(key));
        known.unwrap_or_else(|| {
            self.0.push((String::from_utf8_lossy(key).into_owned(), Values::default()));
            self.0.len() - 1
        })
    }

    fn fields(&self) -> Fields {
        self.0.iter().map(|(name, values)| Field::new(name, values.data_type(), true)).collect()
    }

    fn describe(&self, prefix: &str, all: &mut Vec<FieldStatistics>) {
        for (name, values) in &self.0 {
            values.describe(format!("{prefix}{name}"), all);
        }
    }
}

impl Values {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        match reader.peek() {
            Some(b'{') => {
                self.objects += 1;
                return self.members.read(reader);
            }
            Some(b'[') => {
                self.arrays += 1;
                let elements = self.elements.get_or_insert_default();
                let mut more = reader.open(b']')?;
                while more {
                    elements.read(reader)?;
                    more = reader.more(b']')?;
                }
                return Ok(());
            }
            Some(b'"') => self.strings += 1,
            Some(b't' | b'f') => self.booleans += 1,
            Some(b'n') => self.nulls += 1,
            _ => {
                let number = reader.number()?;
                if number.is_integer() {
                    self.integers += 1;
                    let value = number.to_i64();
                    self.out_of_range |= value.is_none();
                    self.inexact |= value.is_none_or(|value| value.unsigned_abs() > MAX_EXACT as u64);
                } else {
                    self.floats += 1;
                    self.out_of_range |= number.to_f64().is_none();
                }
                return Ok(());
            }
        }
        reader.skip_checked()
    }

    /// The kinds of values seen, nulls apart.
    fn kinds(&self) -> Vec<(&'static str, u64)> {
        let counts = [
            ("integer", self.integers),
            ("float", self.floats),
            ("string", self.strings),
            ("boolean", self.booleans),
            ("object", self.objects),
            ("array", self.arrays),
        ];
        counts.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    fn data_type(&self) -> DataType {
        let kinds: Vec<_> = self.kinds().into_iter().map(|(kind, _)| kind).collect();
        match kinds[..] {
            ["integer"] if !self.out_of_range => DataType::Int64,
            ["float"] if !self.out_of_range => DataType::Float64,
            ["integer", "float"] if !self.out_of_range && !self.inexact => DataType::Float64,
            ["boolean"] => DataType::Boolean,
            ["object"] if !self.members.0.is_empty() => DataType::Struct(self.members.fields()),
            ["array"] => {
                let element = self.elements.as_ref().map_or_else(any_type, |elements| elements.data_type());
                DataType::List(Arc::new(Field::new_list_field(element, true)))
            }
            ["string"] | ["integer"] | ["float"] => DataType::Utf8,
            // Nothing was seen, an object without members, or kinds that no type holds.
            _ => any_type(),
        }
    }

    fn describe(&self, path: String, all: &mut Vec<FieldStatistics>) {
        let kinds = self.kinds();
        let seen = self.nulls + kinds.iter().map(|(_, count)| count).sum::<u64>();
        all.push(FieldStatistics { path: path.clone(), data_type: self.data_type(), seen, nulls: self.nulls, kinds });
        self.members.describe(&format!("{path}."), all);
        if let Some(elements) = &self.elements {
            elements.describe(format!("{path}[]"), all);
        }
    }
}
