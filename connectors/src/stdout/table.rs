//! A table that grows downwards: columns keep their width from batch to batch, as far as the values allow.

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use tidemill_engine::Result;

use crate::formats::encode::{Column, datetime_text, push_json};

/// The header comes again after this many rows, to be on the screen.
const ROWS_PER_HEADER: usize = 40;
/// A longer text is cut, so that one value does not spoil the table.
const MAX_WIDTH: usize = 48;
const GAP: &str = "  ";

/// What was printed so far, as far as the next rows depend on it.
#[derive(Default)]
pub(super) struct Table {
    schema: Option<SchemaRef>,
    names: Vec<String>,
    /// In characters. They only grow; when one does, the header comes again, so that each block is aligned.
    widths: Vec<usize>,
    rows_since_header: usize,
}

impl Table {
    /// Appends the rows, under a header when one is due.
    pub(super) fn print(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let columns = batch.columns().iter().map(|values| Column::resolve(values));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let cells: Vec<Vec<String>> =
            (0..batch.num_rows()).map(|row| columns.iter().map(|column| cell(column, row)).collect()).collect();
        let mut header_due = self.widen(batch, &cells);
        for row in &cells {
            if header_due || self.rows_since_header >= ROWS_PER_HEADER {
                self.print_header(&columns, out);
                header_due = false;
            }
            self.print_row(&columns, row.iter().map(String::as_str), out);
            self.rows_since_header += 1;
        }
        Ok(())
    }

    /// Makes room for the batch; whether the columns look different now.
    fn widen(&mut self, batch: &RecordBatch, cells: &[Vec<String>]) -> bool {
        let mut changed = false;
        if self.schema.as_ref() != Some(batch.schema_ref()) {
            self.schema = Some(batch.schema());
            self.names = batch.schema_ref().fields().iter().map(|field| printable(field.name())).collect();
            self.widths = self.names.iter().map(|name| name.chars().count()).collect();
            changed = true;
        }
        for (column, width) in self.widths.iter_mut().enumerate() {
            let needed = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            changed |= needed > *width;
            *width = needed.max(*width);
        }
        changed
    }

    fn print_header(&mut self, columns: &[Column], out: &mut Vec<u8>) {
        if self.rows_since_header > 0 {
            out.push(b'\n');
        }
        self.rows_since_header = 0;
        self.print_row(columns, self.names.iter().map(String::as_str), out);
        let lines: Vec<String> = self.widths.iter().map(|&width| "─".repeat(width)).collect();
        self.print_row(columns, lines.iter().map(String::as_str), out);
    }

    fn print_row<'a>(&self, columns: &[Column], cells: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
        let mut line = String::new();
        for ((column, cell), &width) in columns.iter().zip(cells).zip(&self.widths) {
            let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
            let numeric = matches!(column, Column::Int(_) | Column::Float(_));
            let (before, after) = if numeric { (padding.as_str(), "") } else { ("", padding.as_str()) };
            line.extend([before, cell, after, GAP]);
        }
        out.extend_from_slice(line.trim_end().as_bytes());
        out.push(b'\n');
    }
}

/// One value for a reader.
fn cell(column: &Column, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    let text = match column {
        Column::Int(values) => values.value(row).to_string(),
        Column::Float(values) => short_float(values.value(row)),
        Column::Text(values) => values.value(row).to_owned(),
        Column::Any(values) => values.value(row).to_owned(),
        Column::Datetime(values) => short_datetime(values.value(row)),
        Column::Null | Column::Boolean(_) | Column::Record(..) | Column::List(..) => {
            let mut json = Vec::new();
            push_json(&mut json, column, row);
            String::from_utf8_lossy(&json).into_owned()
        }
    };
    printable(&text)
}

/// `2026-11-20 10:00:00`, with as many fractional digits as there are.
fn short_datetime(micros: i64) -> String {
    datetime_text(micros).replace('T', " ").trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// At most six decimals; exponents for what is very large or very small.
fn short_float(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() || size >= 1e15 || (size > 0.0 && size < 1e-4) {
        return format!("{value:?}");
    }
    let text = format!("{value:.6}");
    let short = text.trim_end_matches('0');
    if short.ends_with('.') { format!("{short}0") } else { short.to_owned() }
}

/// Cut to [`MAX_WIDTH`]; control characters are escaped, for a record must not steer the terminal.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(MAX_WIDTH));
    for (count, character) in text.chars().enumerate() {
        if count == MAX_WIDTH {
            shown.pop();
            shown.push('…');
            break;
        }
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_short_and_harmless() {
        assert_eq!(short_datetime(1_583_333_425_000_000), "2020-03-04 14:50:25");
        assert_eq!(short_datetime(1_583_333_400_000_000), "2020-03-04 14:50:00");
        assert_eq!(short_datetime(1_583_333_425_120_000), "2020-03-04 14:50:25.12");
        assert_eq!(short_float(95.0), "95.0");
        assert_eq!(short_float(0.1 + 0.2), "0.3");
        assert_eq!(short_float(1e300), "1e300");
        assert_eq!(short_float(f64::NAN), "NaN");
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable(&"x".repeat(60)).chars().count(), MAX_WIDTH);
    }
}
