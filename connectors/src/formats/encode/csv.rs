//! CSV: one line a row.

use std::io::Write;

use arrow::{datatypes::Schema, record_batch::RecordBatch};
use serde_json::Value;
use tidemill_engine::Result;

use super::{Column, EncodedRows, RowEncoder, push_datetime};
use crate::formats::csv::Dialect;

/// Writes RFC 4180 with line feeds and a header.
///
/// A null is nothing between two delimiters, an empty text is `""`, so that [`crate::formats::csv`] tells them apart when
/// it reads the file; only the null of a table of one column is `""` too, since an empty line is no record. Records and
/// lists are the words `Record` and `Array`, as in Azure Stream Analytics; the rest is as in JSON, without quotes.
#[derive(Debug)]
pub struct CsvEncoder {
    dialect: Dialect,
    header: bool,
}

impl CsvEncoder {
    /// With these delimiters and quotes. Without quotes, texts that would need them are written with the mark of RFC 4180
    /// nevertheless: what is read back wrongly can be seen, what is lost cannot.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        Self { dialect, header: true }
    }

    /// Without the names above the rows.
    #[must_use]
    pub fn without_header(self) -> Self {
        Self { header: false, ..self }
    }

    fn push_text(&self, out: &mut Vec<u8>, text: &str) {
        let Dialect { delimiter, quote } = self.dialect;
        let mark = quote.unwrap_or(b'"');
        let quoted = |byte: u8| byte == delimiter || byte == mark || matches!(byte, b'\n' | b'\r');
        if !text.is_empty() && !text.bytes().any(quoted) {
            return out.extend_from_slice(text.as_bytes());
        }
        out.push(mark);
        for byte in text.bytes() {
            if byte == mark {
                out.push(mark);
            }
            out.push(byte);
        }
        out.push(mark);
    }

    fn push_value(&self, out: &mut Vec<u8>, column: &Column, row: usize) {
        if column.is_null(row) {
            return;
        }
        match column {
            Column::Null => {}
            Column::Boolean(values) => push_display(out, values.value(row)),
            Column::Int(values) => push_display(out, values.value(row)),
            Column::Float(values) => push_float(out, values.value(row)),
            Column::Text(values) => self.push_text(out, values.value(row)),
            Column::Any(values) => match serde_json::from_str(values.value(row)) {
                Ok(Value::String(text)) => self.push_text(out, &text),
                Ok(Value::Object(_)) => out.extend_from_slice(b"Record"),
                Ok(Value::Array(_)) => out.extend_from_slice(b"Array"),
                _ => out.extend_from_slice(values.value(row).as_bytes()),
            },
            Column::Datetime(values) => push_datetime(out, values.value(row)),
            Column::Record(..) => out.extend_from_slice(b"Record"),
            Column::List(..) => out.extend_from_slice(b"Array"),
        }
    }
}

impl RowEncoder for CsvEncoder {
    fn header(&self, schema: &Schema) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        if !self.header {
            return Ok(out);
        }
        for (index, field) in schema.fields().iter().enumerate() {
            if index > 0 {
                out.push(self.dialect.delimiter);
            }
            self.push_text(&mut out, field.name());
        }
        out.push(b'\n');
        Ok(out)
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let columns = batch.columns().iter().map(|values| Column::resolve(values));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            rows.push(|out| {
                for (index, column) in columns.iter().enumerate() {
                    if index > 0 {
                        out.push(self.dialect.delimiter);
                    }
                    self.push_value(out, column, row);
                }
                if columns.len() == 1 && columns[0].is_null(row) {
                    self.push_text(out, "");
                }
            });
        }
        Ok(())
    }
}

fn push_display(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("memory takes every byte");
}

/// The shortest text that reads back as the same number: `95.0`, `1e300`, `NaN`, `inf`.
fn push_float(out: &mut Vec<u8>, value: f64) {
    write!(out, "{value:?}").expect("memory takes every byte");
}
