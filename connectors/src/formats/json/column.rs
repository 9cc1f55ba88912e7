//! Column buffers that values are parsed into.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, BooleanBufferBuilder, Float64Array, Int64Array, LargeStringArray, ListArray,
        NullBufferBuilder, OffsetSizeTrait, StringArray, StructArray, TimestampMicrosecondArray,
    },
    buffer::{Buffer, OffsetBuffer},
    datatypes::{DataType, Field, FieldRef, Fields},
    error::ArrowError,
};
use tidemill_engine::{
    any::{any_type, compact},
    datetime_type,
    decoder::BadClass,
};

use super::{
    datetime::parse_datetime,
    number::Number,
    object::Object,
    padded::Padded,
    plain::{self, Shape},
    reader::{Fault, Reader, append_short, fault},
    scan::Blocks,
};

/// Rows of one column.
pub(super) struct Column {
    name: String,
    /// With the names of what it lies in: `user.address.city`, `tags[]`.
    path: String,
    nullable: bool,
    /// Whether values of other types are faults that could be converted.
    exact: bool,
    rows: usize,
    nulls: NullBufferBuilder,
    values: Values,
}

/// With a tag of its own (by `repr`), which is read at once.
#[repr(u8)]
enum Values {
    Utf8 {
        offsets: Vec<i32>,
        text: Vec<u8>,
    },
    /// Values as they stand, of whatever type.
    Any {
        offsets: Vec<i64>,
        text: Vec<u8>,
    },
    Int64(Vec<i64>),
    Float64(Vec<f64>),
    Boolean(BooleanBufferBuilder),
    Timestamp(Vec<i64>),
    Struct {
        fields: Fields,
        object: Object,
    },
    List {
        field: FieldRef,
        offsets: Vec<i32>,
        items: Box<Column>,
    },
}

impl Values {
    /// What is expected where a value that begins with this byte could only be converted.
    fn refused(&self, first: Option<u8>) -> Option<&'static str> {
        let is_string = first == Some(b'"');
        match self {
            Self::Utf8 { .. } if !is_string => Some("a string"),
            Self::Timestamp(_) if !is_string => Some("a datetime"),
            Self::Int64(_) if is_string => Some("bigint"),
            Self::Float64(_) if is_string => Some("float"),
            _ => None,
        }
    }
}

impl Column {
    /// The column of `field` in what lies at `path`.
    ///
    /// # Errors
    /// A type that is not decoded.
    pub(super) fn new(field: &Field, path: &str, exact: bool) -> Result<Self, ArrowError> {
        Self::at(field, format!("{path}{}", field.name()), exact)
    }

    fn at(field: &Field, path: String, exact: bool) -> Result<Self, ArrowError> {
        let values = match field.data_type() {
            DataType::Utf8 => Values::Utf8 { offsets: vec![0], text: Vec::new() },
            any if *any == any_type() => Values::Any { offsets: vec![0], text: Vec::new() },
            DataType::Int64 => Values::Int64(Vec::new()),
            DataType::Float64 => Values::Float64(Vec::new()),
            DataType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            datetime if *datetime == datetime_type() => Values::Timestamp(Vec::new()),
            DataType::Struct(fields) => {
                Values::Struct { fields: fields.clone(), object: Object::new(fields, &format!("{path}."), exact)? }
            }
            DataType::List(item) => Values::List {
                field: item.clone(),
                offsets: vec![0],
                items: Box::new(Column::at(item, format!("{path}[]"), exact)?),
            },
            other => return Err(ArrowError::SchemaError(format!("JSON column `{path}` cannot be of type {other}"))),
        };
        let (name, nullable) = (field.name().clone(), field.is_nullable());
        Ok(Column { name, path, nullable, exact, rows: 0, nulls: NullBufferBuilder::new(0), values })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Appends the value at `at` and says where it ends, if it is plain: see [`plain::plain_scalar`]. `None` says only that
    /// it has to be read with care.
    #[inline(always)]
    pub(super) fn read_plain<B: Blocks>(&mut self, padded: Padded<'_>, at: usize, shape: &mut Shape) -> Option<usize> {
        let first = padded.byte(at)?;
        let end = match &mut self.values {
            Values::Utf8 { offsets, text } if first == b'"' => {
                let stop = plain::plain_string::<B>(padded, at + 1, shape)?;
                append_short(text, padded.with_zeros(), at + 1, stop);
                offsets.push(text.len() as i32);
                stop + 1
            }
            Values::Int64(values) => {
                let number = Number::plain(padded, at, shape)?;
                values.push(number.to_i64()?);
                at + number.len()
            }
            Values::Float64(values) => {
                let number = Number::plain(padded, at, shape)?;
                values.push(number.to_f64()?);
                at + number.len()
            }
            Values::Boolean(values) if first != b'n' => {
                let end = plain::plain_word(padded, at)?;
                values.append(first == b't');
                end
            }
            Values::Timestamp(values) if first == b'"' => {
                let stop = plain::plain_string::<B>(padded, at + 1, shape)?;
                values.push(parse_datetime(padded.between(at + 1, stop)?)?);
                stop + 1
            }
            _ => return None,
        };
        self.nulls.append_non_null();
        self.rows += 1;
        Some(end)
    }

    /// Appends the value at the cursor.
    pub(super) fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        let next = reader.peek();
        if next == Some(b'n') && reader.null() {
            return self.append_missing();
        }
        let path = &self.path;
        if self.exact
            && let Some(expected) = self.values.refused(next)
        {
            return Err(reader.misfit(path, expected, reader.position()));
        }
        match &mut self.values {
            Values::Utf8 { offsets, text } => {
                if next == Some(b'"') {
                    reader.append_string(text)?;
                } else {
                    let start = reader.position();
                    reader.skip_checked()?;
                    text.extend_from_slice(reader.since(start));
                }
                offsets.push(text.len() as i32);
            }
            Values::Any { offsets, text } => {
                let start = reader.position();
                reader.skip_checked()?;
                match std::str::from_utf8(reader.since(start).trim_ascii_end()) {
                    Ok(json) => text.extend_from_slice(compact(json).as_bytes()),
                    Err(_) => return Err(reader.misfit(path, "UTF-8", start)),
                }
                offsets.push(text.len() as i64);
            }
            Values::Int64(values) => values.push(number(reader, path, "bigint", |number| number.to_i64())?),
            Values::Float64(values) => values.push(number(reader, path, "float", |number| number.to_f64())?),
            Values::Boolean(values) => {
                let value = reader.word(b"true");
                if !value && !reader.word(b"false") {
                    return Err(reader.misfit(path, "bit", reader.position()));
                }
                values.append(value);
            }
            Values::Timestamp(values) => values.push(datetime(reader, path)?),
            Values::Struct { object, .. } => {
                if next != Some(b'{') {
                    return Err(reader.misfit(path, "record", reader.position()));
                }
                object.read(reader, self.rows)?;
            }
            Values::List { offsets, items, .. } => {
                if next != Some(b'[') {
                    return Err(reader.misfit(path, "array", reader.position()));
                }
                let mut more = reader.open(b']')?;
                while more {
                    items.read(reader)?;
                    more = reader.more(b']')?;
                }
                offsets.push(items.rows as i32);
            }
        }
        self.nulls.append_non_null();
        self.rows += 1;
        Ok(())
    }

    pub(super) fn append_missing(&mut self) -> Result<(), Fault> {
        if !self.nullable {
            return Err(fault(
                BadClass::Type,
                format!("column `{}`: expected a value, found null or nothing", self.path),
            ));
        }
        self.append_null();
        Ok(())
    }

    pub(super) fn append_null(&mut self) {
        match &mut self.values {
            Values::Utf8 { offsets, text } => offsets.push(text.len() as i32),
            Values::Any { offsets, text } => offsets.push(text.len() as i64),
            Values::Int64(values) | Values::Timestamp(values) => values.push(0),
            Values::Float64(values) => values.push(0.0),
            Values::Boolean(values) => values.append(false),
            Values::Struct { object, .. } => object.append_null(),
            Values::List { offsets, items, .. } => offsets.push(items.rows as i32),
        }
        self.nulls.append_null();
        self.rows += 1;
    }

    pub(super) fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Utf8 { offsets, text } => {
                offsets.truncate(rows + 1);
                text.truncate(offsets[rows] as usize);
            }
            Values::Any { offsets, text } => {
                offsets.truncate(rows + 1);
                text.truncate(offsets[rows] as usize);
            }
            Values::Int64(values) | Values::Timestamp(values) => values.truncate(rows),
            Values::Float64(values) => values.truncate(rows),
            Values::Boolean(values) => values.truncate(rows),
            Values::Struct { object, .. } => object.truncate(rows),
            Values::List { offsets, items, .. } => {
                offsets.truncate(rows + 1);
                items.truncate(offsets[rows] as usize);
            }
        }
        self.nulls.truncate(rows);
        self.rows = self.rows.min(rows);
    }

    /// Takes the rows; room for as many again stays behind.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        let nulls = self.nulls.finish();
        Ok(match &mut self.values {
            Values::Utf8 { offsets, text } => {
                let text = Buffer::from_vec(take(text));
                Arc::new(StringArray::try_new(take_offsets(offsets), text, nulls)?)
            }
            Values::Any { offsets, text } => {
                let text = Buffer::from_vec(take(text));
                Arc::new(LargeStringArray::try_new(take_offsets(offsets), text, nulls)?)
            }
            Values::Int64(values) => Arc::new(Int64Array::try_new(take(values).into(), nulls)?),
            Values::Float64(values) => Arc::new(Float64Array::try_new(take(values).into(), nulls)?),
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Timestamp(values) => {
                let values = TimestampMicrosecondArray::try_new(take(values).into(), nulls)?;
                Arc::new(values.with_timezone("UTC"))
            }
            Values::Struct { fields, object } => {
                Arc::new(StructArray::try_new_with_length(fields.clone(), object.finish()?, nulls, rows)?)
            }
            Values::List { field, offsets, items } => {
                Arc::new(ListArray::try_new(field.clone(), take_offsets(offsets), items.finish()?, nulls)?)
            }
        })
    }
}

/// The number at the cursor, or in the string at the cursor.
#[inline]
fn number<T>(
    reader: &mut Reader<'_>,
    path: &str,
    expected: &str,
    convert: impl Fn(&Number<'_>) -> Option<T>,
) -> Result<T, Fault> {
    let start = reader.position();
    let value = match reader.peek() {
        Some(b'-' | b'0'..=b'9') => convert(&reader.number()?),
        Some(b'"') => Number::whole(reader.string()?).as_ref().and_then(convert),
        _ => None,
    };
    value.ok_or_else(|| reader.misfit(path, expected, start))
}

/// The ISO 8601 string at the cursor, or the number of milliseconds since the epoch.
#[inline]
fn datetime(reader: &mut Reader<'_>, path: &str) -> Result<i64, Fault> {
    let start = reader.position();
    let value = match reader.peek() {
        Some(b'"') => parse_datetime(reader.string()?),
        Some(b'-' | b'0'..=b'9') => reader.number()?.to_i64().and_then(|millis| millis.checked_mul(1_000)),
        _ => None,
    };
    value.ok_or_else(|| reader.misfit(path, "datetime", start))
}

fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len() + values.len() / 8);
    std::mem::replace(values, room)
}

fn take_offsets<O: OffsetSizeTrait>(offsets: &mut Vec<O>) -> OffsetBuffer<O> {
    let taken = take(offsets);
    offsets.push(O::usize_as(0));
    OffsetBuffer::new(taken.into())
}
