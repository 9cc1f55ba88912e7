//! Column buffers that values are parsed into, and the objects whose members they are.

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
    reader::{Fault, Reader, fault},
};

/// Member names that are kept for prediction; names beyond them are looked up each time.
const MAX_LEARNED: usize = 256;

/// The columns that are members of one kind of object: the record itself, or a struct column.
pub(super) struct Object {
    columns: Vec<Column>,
    /// Names seen so far, in the order in which they came: the next one is usually the next here.
    learned: Vec<Member>,
}

/// A member's name as it stands in payloads, compared at once.
struct Member {
    /// `"name":`, and its first 16 bytes as a number.
    text: Box<[u8]>,
    head: u128,
    mask: u128,
    /// The column that it names.
    column: Option<usize>,
}

/// Rows of one column.
struct Column {
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

impl Object {
    /// # Errors
    /// A column of a type that is not decoded.
    pub(super) fn new(fields: &Fields, path: &str, exact: bool) -> Result<Self, ArrowError> {
        let column = |field: &FieldRef| Column::new(field, format!("{path}{}", field.name()), exact);
        Ok(Object { columns: fields.iter().map(column).collect::<Result<_, _>>()?, learned: Vec::new() })
    }

    /// Reads the object at the cursor as row number `row`.
    pub(super) fn read(&mut self, reader: &mut Reader<'_>, row: usize) -> Result<(), Fault> {
        let mut found = 0;
        let mut next = 0;
        let mut more = reader.open(b'}')?;
        while more {
            if found == self.columns.len() && reader.is_lax() {
                reader.skip_to_close()?;
                break;
            }
            match self.member(reader, &mut next)? {
                Some(column) if self.columns[column].rows == row => {
                    self.columns[column].read(reader)?;
                    found += 1;
                }
                _ => reader.skip()?,
            }
            more = reader.more(b'}')?;
        }
        if found < self.columns.len() {
            for column in self.columns.iter_mut().filter(|column| column.rows == row) {
                column.append_missing()?;
            }
        }
        Ok(())
    }

    /// Reads a member's name up to its value; `next` is where it is looked for first. Returns the column that it names.
    #[inline]
    fn member(&mut self, reader: &mut Reader<'_>, next: &mut usize) -> Result<Option<usize>, Fault> {
        if let Some(member) = self.learned.get(*next)
            && member.is_at(reader.rest())
        {
            reader.advance(member.text.len());
            reader.space();
            *next += 1;
            return Ok(member.column);
        }
        self.other_member(reader, next)
    }

    /// [`Object::member`] where the prediction failed: the rest of the learned names, then a look at the columns.
    #[inline(never)]
    fn other_member(&mut self, reader: &mut Reader<'_>, next: &mut usize) -> Result<Option<usize>, Fault> {
        let count = self.learned.len();
        let others = (*next + 1..count).chain(0..count.min(*next));
        if let Some(at) = others.into_iter().find(|at| self.learned[*at].is_at(reader.rest())) {
            let member = &self.learned[at];
            reader.advance(member.text.len());
            reader.space();
            *next = at + 1;
            return Ok(member.column);
        }
        let start = reader.position();
        let column = self.column(reader.key()?);
        let text = reader.since(start).trim_ascii_end();
        if count < MAX_LEARNED && text.ends_with(b"\":") {
            self.learned.push(Member::new(text, column));
            *next = count + 1;
        }
        Ok(column)
    }

    /// The column of this name, else the first whose name differs only in ASCII case.
    fn column(&self, key: &[u8]) -> Option<usize> {
        let find =
            |matches: fn(&[u8], &[u8]) -> bool| self.columns.iter().position(|c| matches(c.name.as_bytes(), key));
        find(|name, key| name == key).or_else(|| find(<[u8]>::eq_ignore_ascii_case))
    }

    fn append_null(&mut self) {
        self.columns.iter_mut().for_each(Column::append_null);
    }

    /// Drops all rows from `rows` on, finished or half read.
    pub(super) fn truncate(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.truncate(rows);
        }
    }

    /// Takes all rows.
    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

impl Member {
    fn new(text: &[u8], column: Option<usize>) -> Self {
        let known = text.len().min(16);
        let mut head = [0; 16];
        head[..known].copy_from_slice(&text[..known]);
        let mask = if known == 16 { u128::MAX } else { (1 << (8 * known)) - 1 };
        Member { text: text.into(), head: u128::from_le_bytes(head), mask, column }
    }

    #[inline]
    fn is_at(&self, bytes: &[u8]) -> bool {
        match bytes.first_chunk() {
            Some(chunk) => {
                (u128::from_le_bytes(*chunk) ^ self.head) & self.mask == 0
                    && (self.text.len() <= 16 || bytes.starts_with(&self.text))
            }
            None => bytes.starts_with(&self.text),
        }
    }
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
    fn new(field: &Field, path: String, exact: bool) -> Result<Self, ArrowError> {
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
                items: Box::new(Column::new(item, format!("{path}[]"), exact)?),
            },
            other => return Err(ArrowError::SchemaError(format!("JSON column `{path}` cannot be of type {other}"))),
        };
        let (name, nullable) = (field.name().clone(), field.is_nullable());
        Ok(Column { name, path, nullable, exact, rows: 0, nulls: NullBufferBuilder::new(0), values })
    }

    /// Appends the value at the cursor.
    #[inline]
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
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

    fn append_missing(&mut self) -> Result<(), Fault> {
        if !self.nullable {
            return Err(fault(
                BadClass::Type,
                format!("column `{}`: expected a value, found null or nothing", self.path),
            ));
        }
        self.append_null();
        Ok(())
    }

    fn append_null(&mut self) {
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

    fn truncate(&mut self, rows: usize) {
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
    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
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
