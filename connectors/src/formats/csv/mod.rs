//! CSV to Arrow.
//!
//! A payload is a header line and the rows below it, or rows alone whose names are given. A Kafka message is one as it comes; from a file, whose header stands
//! only once, [`crate::files`] puts it before each row, so that files with different headers mix and a dead letter can be
//! read on its own. A decoder keeps the header it saw last and compares bytes: the same one costs nothing.
//!
//! Rules: names in a header are unique, and fields without a name are passed over. They are matched exactly, else ignoring
//! case; a declared column that a header lacks is null. A row has as many fields as its header, else its payload is malformed. Nothing between two
//! delimiters is null, and so is the text that the options say; `""` is an empty text, and a type error in any other column. Values of
//! typed columns may have spaces around them. Empty lines are skipped.

mod column;
mod scan;

use std::collections::HashSet;

use arrow::{
    datatypes::{Schema, SchemaRef},
    record_batch::{RecordBatch, RecordBatchOptions},
};
use tidemill_engine::{
    EngineError, ErrorKind, Result,
    decoder::{BadClass, BadRecord, Decoder},
};

use column::Column;
pub use scan::Dialect;
use scan::{End, Field, field};
pub(crate) use scan::{blank_line, line_count, record_end};

pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How many characters of a value an error shows.
const MAX_SHOWN: usize = 80;

/// What CSV payloads look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsvOptions {
    /// What stands between and around fields.
    pub dialect: Dialect,
    /// The names of the fields, where payloads have no header; an empty name is passed over.
    pub names: Option<Vec<String>>,
    /// A text that is null where it stands without quotes, besides the empty one.
    pub null: Option<String>,
}

/// Builds the columns of a schema from CSV payloads.
pub struct CsvDecoder {
    schema: SchemaRef,
    options: CsvOptions,
    columns: Vec<Column>,
    header: Header,
    rows: usize,
    /// A field without its doubled quotes, reused.
    unquoted: Vec<u8>,
}

/// What the header line of the last payload means.
#[derive(Default)]
struct Header {
    line: Vec<u8>,
    /// For each field of a row, the column that it goes to.
    columns: Vec<Option<usize>>,
    /// Columns that no field goes to.
    missing: Vec<usize>,
}

impl Header {
    fn new(line: Vec<u8>, names: &[String], schema: &Schema) -> Self {
        let mut columns = vec![None; names.len()];
        let mut missing = Vec::new();
        for (column, wanted) in schema.fields().iter().enumerate() {
            let exact = names.iter().position(|name| name == wanted.name());
            let found = exact.or_else(|| names.iter().position(|name| name.eq_ignore_ascii_case(wanted.name())));
            match found {
                Some(field) if columns[field].is_none() => columns[field] = Some(column),
                _ => missing.push(column),
            }
        }
        Self { line, columns, missing }
    }
}

impl CsvDecoder {
    /// For these columns: `Utf8`, `Int64`, `Float64`, `Boolean` (`true`, `false`, `1`, `0`) and datetimes (ISO 8601; UTC
    /// where no zone is given). `input` is the input's name in the spec.
    ///
    /// # Errors
    /// [`EngineError::Source`] for a column of another type, a record or a list: CSV has none.
    pub fn new(input: &str, schema: SchemaRef, options: CsvOptions) -> Result<Self> {
        let columns = schema.fields().iter().map(|field| {
            Column::new(field.data_type()).ok_or_else(|| EngineError::Source {
                input: input.to_owned(),
                kind: ErrorKind::User,
                message: format!("column `{}` cannot be {} in CSV", field.name(), field.data_type()),
            })
        });
        let columns = columns.collect::<Result<_>>()?;
        let header = options.names.as_ref().map(|names| Header::new(Vec::new(), names, &schema)).unwrap_or_default();
        Ok(Self { schema, options, columns, header, rows: 0, unquoted: Vec::new() })
    }

    /// Makes the payload's header the current one and says where it ends.
    fn read_header(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        if self.options.names.is_some() {
            return Ok(if payload.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 });
        }
        let dialect = self.options.dialect;
        let known = &self.header.line;
        if !known.is_empty() && known.ends_with(b"\n") && payload.starts_with(known) {
            return Ok(known.len());
        }
        let end = record_end(payload, dialect, true).unwrap_or(payload.len());
        let names = header_names(&payload[..end], dialect)?;
        self.header = Header::new(payload[..end].to_vec(), &names, &self.schema);
        Ok(end)
    }

    /// Appends the record at `start` and says where the next one begins.
    fn read_row(&mut self, payload: &[u8], start: usize) -> Result<usize, BadRecord> {
        let Header { columns, missing, .. } = &self.header;
        let dialect = self.options.dialect;
        let mut position = start;
        let mut count = 0;
        loop {
            let (found, end, next) = field(payload, position, dialect);
            if let Field::Broken = found {
                return Err(malformed(format!("field {} has a quote that is not closed at its end", count + 1)));
            }
            if let Some(&Some(column)) = columns.get(count) {
                let (mut text, quoted) = unquote(found, dialect.quote, &mut self.unquoted);
                if !quoted && self.options.null.as_ref().is_some_and(|null| null.as_bytes() == text) {
                    text = b"";
                }
                self.columns[column].push(text, quoted).map_err(|expected| {
                    let name = self.schema.field(column).name();
                    let found: String = String::from_utf8_lossy(text).chars().take(MAX_SHOWN).collect();
                    BadRecord {
                        class: BadClass::Type,
                        message: format!("`{name}`: expected {expected}, found `{found}`"),
                    }
                })?;
            }
            count += 1;
            position = next;
            if end != End::Delimiter {
                break;
            }
        }
        if count != columns.len() {
            return Err(malformed(format!("{count} fields in a row, but {} in the header", columns.len())));
        }
        for &column in missing {
            self.columns[column].push_null();
        }
        Ok(position)
    }

    fn read(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        if let Err(error) = simdutf8::compat::from_utf8(payload) {
            return Err(malformed(format!("not UTF-8 at byte {}", error.valid_up_to())));
        }
        let mut position = self.read_header(payload)?;
        let mut rows = 0;
        while position < payload.len() {
            if let Some(blank) = blank_line(&payload[position..]) {
                position += blank;
                continue;
            }
            position = self.read_row(payload, position)?;
            rows += 1;
        }
        Ok(rows)
    }
}

impl Decoder for CsvDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn push(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        match self.read(payload) {
            Ok(rows) => {
                self.rows += rows;
                Ok(rows)
            }
            Err(bad) => {
                self.truncate(self.rows);
                Err(bad)
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
        self.rows = rows;
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        let columns = self.columns.iter_mut().map(Column::finish).collect::<Result<_, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(std::mem::take(&mut self.rows)));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

/// The column names of some payloads, each once, in the order in which they appear: what a schema is inferred from, as
/// every CSV value is a text until it is cast. Malformed payloads are passed over.
#[must_use]
pub fn column_names(payloads: &[Vec<u8>], dialect: Dialect) -> Vec<String> {
    let mut seen = HashSet::new();
    let headers = payloads.iter().filter_map(|payload| header_names(payload, dialect).ok());
    headers.flatten().filter(|name| !name.is_empty() && seen.insert(name.clone())).collect()
}

/// The names in the first line of a payload.
fn header_names(payload: &[u8], dialect: Dialect) -> Result<Vec<String>, BadRecord> {
    let payload = payload.strip_prefix(BYTE_ORDER_MARK).unwrap_or(payload);
    let mut names: Vec<String> = Vec::new();
    let mut unquoted = Vec::new();
    let mut position = 0;
    loop {
        let (found, end, next) = field(payload, position, dialect);
        if let Field::Broken = found {
            return Err(malformed(format!(
                "field {} of the header has a quote that is not closed at its end",
                names.len() + 1
            )));
        }
        let name = String::from_utf8_lossy(unquote(found, dialect.quote, &mut unquoted).0).into_owned();
        if !name.is_empty() && names.contains(&name) {
            return Err(malformed(format!("the header has `{name}` twice")));
        }
        names.push(name);
        position = next;
        if end != End::Delimiter {
            break;
        }
    }
    if names.iter().all(String::is_empty) { Err(malformed("the header has no names".to_owned())) } else { Ok(names) }
}

/// What a field says, and whether it was in quotes.
fn unquote<'a>(field: Field<'a>, quote: Option<u8>, unquoted: &'a mut Vec<u8>) -> (&'a [u8], bool) {
    match field {
        Field::Plain(text) => (text, false),
        Field::Quoted(text) => (text, true),
        Field::Doubled(text) => {
            unquoted.clear();
            let mut after_quote = false;
            for &byte in text {
                after_quote = Some(byte) == quote && !after_quote;
                if !after_quote {
                    unquoted.push(byte);
                }
            }
            (unquoted, true)
        }
        Field::Broken => (b"", true),
    }
}

fn malformed(message: String) -> BadRecord {
    BadRecord { class: BadClass::Malformed, message }
}

#[cfg(test)]
mod tests;
