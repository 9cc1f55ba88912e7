//! Columns in the making for formats whose values have types of their own (Avro, Protobuf, CSV): a value is appended by
//! what it is, converted where its column is of another type, and all that a bad record left is cut off again.
//!
//! | appended | goes into |
//! |---|---|
//! | integer | `Int64`; `Float64`, rounded; text, as digits; datetime, as milliseconds since 1970 |
//! | float | `Float64`; `Int64`, if whole and at most 2^53 in size; text |
//! | boolean | `Boolean`; text, `true` or `false` |
//! | text | text; numbers and datetimes that it holds and nothing else |
//! | datetime | datetime; text, as ISO 8601; `Int64`, as milliseconds since 1970 if it has no smaller part |
//! | bytes | text, as base64 |
//!
//! Anything else is a [`Misfit`]. Records and lists are open while their insides are appended: a list is closed by
//! [`Builder::close_list`], a record by [`Builder::close_record`].

#[cfg(test)]
mod tests;

use std::{fmt::Display, io::Write, sync::Arc};

use arrow::{
    array::{
        ArrayRef, BooleanArray, BooleanBufferBuilder, Float64Array, Int64Array, ListArray, NullBufferBuilder,
        StringArray, StructArray, TimestampMicrosecondArray,
    },
    buffer::{Buffer, OffsetBuffer},
    datatypes::{DataType, Field, FieldRef, Fields, SchemaRef},
    error::ArrowError,
    record_batch::{RecordBatch, RecordBatchOptions},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use tidemill_engine::{Result, datetime_type, decoder::BadClass};

use super::{
    encode::push_datetime,
    json::{
        datetime::parse_datetime,
        number::{MAX_EXACT, Number},
        reader::{Fault, fault},
    },
};

/// Text bytes that a column may hold between two flushes: they are addressed by 32 bits.
const MAX_TEXT: usize = i32::MAX as usize;

/// A value that its column does not take. Small, so that the good path returns in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    /// What kind of value it was.
    pub(super) found: &'static str,
}

type Fits = Result<(), Misfit>;

/// The rows of one column.
pub(super) struct Builder {
    /// Its name behind the names of what it lies in: `user.address.city`, `tags[]`.
    path: String,
    nullable: bool,
    rows: usize,
    nulls: NullBufferBuilder,
    values: Values,
}

enum Values {
    Utf8 {
        offsets: Vec<i32>,
        text: Vec<u8>,
    },
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Boolean(BooleanBufferBuilder),
    Datetime(Vec<i64>),
    /// Whether a record was begun that is not closed.
    Record {
        fields: Fields,
        members: Vec<Builder>,
        open: bool,
    },
    List {
        field: FieldRef,
        offsets: Vec<i32>,
        items: Box<Builder>,
    },
}

/// The columns of a schema, filled row by row.
pub(super) struct Builders {
    schema: SchemaRef,
    pub(super) columns: Vec<Builder>,
    pub(super) rows: usize,
}

impl Builders {
    /// # Errors
    /// A column of a type that no format decodes to.
    pub(super) fn new(schema: SchemaRef) -> Result<Self> {
        let columns = schema.fields().iter().map(|field| Builder::new(field, field.name().clone()));
        Ok(Self { columns: columns.collect::<Result<_, ArrowError>>()?, schema, rows: 0 })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// Cuts every column back to the first `rows` rows, whole or half read.
    pub(super) fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        for column in &mut self.columns {
            column.truncate(self.rows);
        }
    }

    /// Takes all rows.
    pub(super) fn flush(&mut self) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let columns = self.columns.iter_mut().map(Builder::finish).collect::<Result<_, ArrowError>>()?;
        self.rows = 0;
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

impl Builder {
    fn new(field: &Field, path: String) -> Result<Self, ArrowError> {
        let values = match field.data_type() {
            DataType::Utf8 => Values::Utf8 { offsets: vec![0], text: Vec::new() },
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            datetime if *datetime == datetime_type() => Values::Datetime(Vec::new()),
            DataType::Struct(fields) => {
                let members = fields.iter().map(|member| Builder::new(member, format!("{path}.{}", member.name())));
                Values::Record { fields: fields.clone(), members: members.collect::<Result<_, _>>()?, open: false }
            }
            DataType::List(item) => Values::List {
                field: item.clone(),
                offsets: vec![0],
                items: Box::new(Builder::new(item, format!("{path}[]"))?),
            },
            other => return Err(ArrowError::SchemaError(format!("column `{path}` cannot be of type {other}"))),
        };
        Ok(Self { path, nullable: field.is_nullable(), rows: 0, nulls: NullBufferBuilder::new(0), values })
    }

    #[inline]
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// What a bad record says of a value that this column does not take.
    #[cold]
    pub(super) fn misfit(&self, misfit: Misfit) -> Fault {
        self.values.misfit(&self.path, misfit.found)
    }

    #[inline]
    fn appended(&mut self) -> Fits {
        self.nulls.append_non_null();
        self.rows += 1;
        Ok(())
    }

    #[inline]
    pub(super) fn push_int(&mut self, value: i64) -> Fits {
        match &mut self.values {
            Values::Int64(values) => values.push(value),
            Values::Float64(values) => values.push(value as f64),
            Values::Datetime(values) => values.push(value.checked_mul(1_000).ok_or(Misfit { found: "an integer" })?),
            Values::Utf8 { offsets, text } => push_display(offsets, text, value)?,
            _ => return Err(Misfit { found: "an integer" }),
        }
        self.appended()
    }

    /// An integer above 2^63 - 1 fits floats and texts.
    #[inline]
    pub(super) fn push_unsigned(&mut self, value: u64) -> Fits {
        if let Ok(value) = i64::try_from(value) {
            return self.push_int(value);
        }
        match &mut self.values {
            Values::Float64(values) => values.push(value as f64),
            Values::Utf8 { offsets, text } => push_display(offsets, text, value)?,
            _ => return Err(Misfit { found: "an integer above 2^63 - 1" }),
        }
        self.appended()
    }

    #[inline]
    pub(super) fn push_float(&mut self, value: f64) -> Fits {
        match &mut self.values {
            Values::Float64(values) => values.push(value),
            Values::Int64(values) if value.fract() == 0.0 && value.abs() <= MAX_EXACT as f64 => {
                values.push(value as i64);
            }
            Values::Utf8 { offsets, text } => push_with(offsets, text, |text| write!(text, "{value:?}"))?,
            _ => return Err(Misfit { found: "a float" }),
        }
        self.appended()
    }

    #[inline]
    pub(super) fn push_boolean(&mut self, value: bool) -> Fits {
        match &mut self.values {
            Values::Boolean(values) => values.append(value),
            Values::Utf8 { offsets, text } => push_display(offsets, text, value)?,
            _ => return Err(Misfit { found: "a boolean" }),
        }
        self.appended()
    }

    /// Microseconds since 1970.
    #[inline]
    pub(super) fn push_datetime(&mut self, micros: i64) -> Fits {
        match &mut self.values {
            Values::Datetime(values) => values.push(micros),
            Values::Int64(values) if micros % 1_000 == 0 => values.push(micros / 1_000),
            Values::Utf8 { offsets, text } => push_with(offsets, text, |text| {
                push_datetime(text, micros);
                Ok(())
            })?,
            _ => return Err(Misfit { found: "a datetime" }),
        }
        self.appended()
    }

    /// Text that the caller has checked to be UTF-8.
    #[inline]
    pub(super) fn push_text(&mut self, value: &[u8]) -> Fits {
        match &mut self.values {
            Values::Utf8 { offsets, text } => {
                let end = text.len() + value.len();
                if end > MAX_TEXT {
                    return Err(Misfit { found: "more than 2 GiB of text in a batch" });
                }
                text.extend_from_slice(value);
                offsets.push(end as i32);
            }
            values => convert_text(values, value)?,
        }
        self.appended()
    }

    pub(super) fn push_bytes(&mut self, value: &[u8]) -> Fits {
        match &mut self.values {
            Values::Utf8 { offsets, text } => {
                push_with(offsets, text, |text| text.write_all(BASE64_STANDARD.encode(value).as_bytes()))?;
            }
            _ => return Err(Misfit { found: "bytes" }),
        }
        self.appended()
    }

    /// Begins a record, or goes on with it: its members, to be filled with one more row each before
    /// [`Builder::close_record`].
    #[inline]
    pub(super) fn members(&mut self) -> Result<&mut [Builder], Fault> {
        match &mut self.values {
            Values::Record { members, open, .. } => {
                *open = true;
                Ok(members)
            }
            other => Err(other.misfit(&self.path, "a record")),
        }
    }

    /// Whether a record was begun that is not closed.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        matches!(self.values, Values::Record { open: true, .. })
    }

    /// Ends a record whose members have been filled.
    #[inline]
    pub(super) fn close_record(&mut self) {
        if let Values::Record { open, .. } = &mut self.values {
            *open = false;
        }
        self.nulls.append_non_null();
        self.rows += 1;
    }

    /// Where the items of the list go that [`Builder::close_list`] will end.
    #[inline]
    pub(super) fn items(&mut self) -> Result<&mut Builder, Fault> {
        match &mut self.values {
            Values::List { items, .. } => Ok(items),
            other => Err(other.misfit(&self.path, "an array")),
        }
    }

    /// Ends a list: its items are those appended since the last one.
    pub(super) fn close_list(&mut self) {
        if let Values::List { offsets, items, .. } = &mut self.values {
            offsets.push(items.rows as i32);
        }
        self.nulls.append_non_null();
        self.rows += 1;
    }

    /// A null; a misfit where the column must have a value.
    #[inline]
    pub(super) fn push_null(&mut self) -> Fits {
        if !self.nullable {
            return Err(Misfit { found: "null or nothing" });
        }
        self.append_null();
        Ok(())
    }

    fn append_null(&mut self) {
        match &mut self.values {
            Values::Utf8 { offsets, text } => offsets.push(text.len() as i32),
            Values::Int64(values) | Values::Datetime(values) => values.push(0),
            Values::Float64(values) => values.push(0.0),
            Values::Boolean(values) => values.append(false),
            Values::Record { members, .. } => members.iter_mut().for_each(Builder::append_null),
            Values::List { offsets, items, .. } => offsets.push(items.rows as i32),
        }
        self.nulls.append_null();
        self.rows += 1;
    }

    /// Drops all rows behind the first `rows`, and what was appended for the next one: of an open record or list too.
    pub(super) fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Utf8 { offsets, text } => {
                offsets.truncate(rows + 1);
                text.truncate(offsets.last().map_or(0, |end| *end as usize));
            }
            Values::Int64(values) | Values::Datetime(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Boolean(values) => values.truncate(rows),
            Values::Record { members, open, .. } => {
                *open = false;
                members.iter_mut().for_each(|member| member.truncate(rows));
            }
            Values::List { offsets, items, .. } => {
                offsets.truncate(rows + 1);
                items.truncate(offsets.last().map_or(0, |end| *end as usize));
            }
        }
        self.nulls.truncate(rows);
        self.rows = self.rows.min(rows);
    }

    /// Takes the rows; room for as many again stays behind.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        let nulls = self.nulls.finish();
        Ok(match &mut self.values {
            Values::Utf8 { offsets, text } => {
                let text = Buffer::from_vec(take(text));
                Arc::new(StringArray::try_new(take_offsets(offsets), text, nulls)?)
            }
            Values::Int64(values) => Arc::new(Int64Array::try_new(take(values).into(), nulls)?),
            Values::Float64(values) => Arc::new(Float64Array::try_new(take(values).into(), nulls)?),
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Datetime(values) => {
                let values = TimestampMicrosecondArray::try_new(take(values).into(), nulls)?;
                Arc::new(values.with_timezone("UTC"))
            }
            Values::Record { fields, members, .. } => {
                let members = members.iter_mut().map(Builder::finish).collect::<Result<_, _>>()?;
                Arc::new(StructArray::try_new_with_length(fields.clone(), members, nulls, rows)?)
            }
            Values::List { field, offsets, items } => {
                Arc::new(ListArray::try_new(field.clone(), take_offsets(offsets), items.finish()?, nulls)?)
            }
        })
    }
}

impl Values {
    #[cold]
    fn misfit(&self, path: &str, found: &str) -> Fault {
        let expected = match self {
            Values::Utf8 { .. } => "nvarchar(max)",
            Values::Int64(_) => "bigint",
            Values::Float64(_) => "float",
            Values::Boolean(_) => "bit",
            Values::Datetime(_) => "datetime",
            Values::Record { .. } => "record",
            Values::List { .. } => "array",
        };
        fault(BadClass::Type, format!("column `{path}`: expected {expected}, found {found}"))
    }
}

/// A text that a column of another type may take.
fn convert_text(values: &mut Values, text: &[u8]) -> Fits {
    match values {
        Values::Int64(values) => {
            let number = Number::whole(text).and_then(|number| number.to_i64());
            values.push(number.ok_or(Misfit { found: "a text that is no integer" })?);
        }
        Values::Float64(values) => {
            let number = Number::whole(text).and_then(|number| number.to_f64());
            values.push(number.ok_or(Misfit { found: "a text that is no number" })?);
        }
        Values::Datetime(values) => {
            values.push(parse_datetime(text).ok_or(Misfit { found: "a text that is no ISO 8601 datetime" })?);
        }
        _ => return Err(Misfit { found: "a text" }),
    }
    Ok(())
}

fn push_display(offsets: &mut Vec<i32>, text: &mut Vec<u8>, value: impl Display) -> Fits {
    push_with(offsets, text, |text| write!(text, "{value}"))
}

fn push_with(
    offsets: &mut Vec<i32>,
    text: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>,
) -> Fits {
    write(text).expect("memory takes every byte");
    let end = i32::try_from(text.len()).map_err(|_| Misfit { found: "more than 2 GiB of text in a batch" })?;
    offsets.push(end);
    Ok(())
}

fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len() + values.len() / 8);
    std::mem::replace(values, room)
}

fn take_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    let taken = take(offsets);
    offsets.push(0);
    OffsetBuffer::new(taken.into())
}
