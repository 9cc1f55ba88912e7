//! Columns in the making, which can be cut back to the rows before a bad record.

use std::{mem, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, TimeUnit},
    error::ArrowError,
};

use crate::formats::json::datetime::parse_datetime;

/// The values of one column, one for each row, null or not.
pub(super) struct Column {
    values: Values,
    valid: Vec<bool>,
}

enum Values {
    /// Each value's end, and all texts.
    Text(Vec<i32>, Vec<u8>),
    Int(Vec<i64>),
    Float(Vec<f64>),
    Boolean(Vec<bool>),
    /// Microseconds since 1970, and the zone.
    Datetime(Vec<i64>, Arc<str>),
}

impl Column {
    /// An empty column; `None` for a type that CSV does not have.
    pub(super) fn new(data_type: &DataType) -> Option<Self> {
        let values = match data_type {
            DataType::Utf8 => Values::Text(Vec::new(), Vec::new()),
            DataType::Int64 => Values::Int(Vec::new()),
            DataType::Float64 => Values::Float(Vec::new()),
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) => Values::Datetime(Vec::new(), zone.clone()),
            _ => return None,
        };
        Some(Self { values, valid: Vec::new() })
    }

    /// Appends a value, or a null for nothing without quotes. A text that does not fit gives what was expected, and leaves
    /// nothing behind.
    pub(super) fn push(&mut self, text: &[u8], quoted: bool) -> Result<(), &'static str> {
        if text.is_empty() && !quoted {
            self.push_null();
            return Ok(());
        }
        let trimmed = text.trim_ascii();
        match &mut self.values {
            Values::Text(ends, texts) => {
                let end = i32::try_from(texts.len() + text.len()).map_err(|_| "at most 2 GiB of text in a batch")?;
                texts.extend_from_slice(text);
                ends.push(end);
            }
            Values::Int(values) => values.push(parse(trimmed).ok_or("an integer of 64 bits")?),
            Values::Float(values) => values.push(fast_float2::parse(trimmed).map_err(|_| "a number")?),
            Values::Boolean(values) => values.push(boolean(trimmed).ok_or("true or false")?),
            Values::Datetime(values, _) => values.push(parse_datetime(trimmed).ok_or("an ISO 8601 datetime")?),
        }
        self.valid.push(true);
        Ok(())
    }

    pub(super) fn push_null(&mut self) {
        match &mut self.values {
            Values::Text(ends, texts) => ends.push(texts.len() as i32),
            Values::Int(values) | Values::Datetime(values, _) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Boolean(values) => values.push(false),
        }
        self.valid.push(false);
    }

    /// Drops all values behind the first `rows`.
    pub(super) fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Text(ends, texts) => {
                ends.truncate(rows);
                texts.truncate(ends.last().map_or(0, |&end| end as usize));
            }
            Values::Int(values) | Values::Datetime(values, _) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Boolean(values) => values.truncate(rows),
        }
        self.valid.truncate(rows);
    }

    /// Takes the values and leaves an empty column.
    pub(super) fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let nulls = Some(NullBuffer::from(mem::take(&mut self.valid))).filter(|nulls| nulls.null_count() > 0);
        Ok(match &mut self.values {
            Values::Text(ends, texts) => {
                let offsets = std::iter::once(0).chain(mem::take(ends)).collect::<Vec<i32>>();
                Arc::new(StringArray::try_new(OffsetBuffer::new(offsets.into()), mem::take(texts).into(), nulls)?)
            }
            Values::Int(values) => Arc::new(Int64Array::try_new(mem::take(values).into(), nulls)?),
            Values::Float(values) => Arc::new(Float64Array::try_new(mem::take(values).into(), nulls)?),
            Values::Boolean(values) => Arc::new(BooleanArray::new(mem::take(values).into(), nulls)),
            Values::Datetime(values, zone) => {
                let values = TimestampMicrosecondArray::try_new(mem::take(values).into(), nulls)?;
                Arc::new(values.with_timezone(zone.clone()))
            }
        })
    }
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"1" => Some(true),
        b"0" => Some(false),
        _ if text.eq_ignore_ascii_case(b"true") => Some(true),
        _ if text.eq_ignore_ascii_case(b"false") => Some(false),
        _ => None,
    }
}
