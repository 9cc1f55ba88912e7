//! The `stdout` output: a table on a terminal, JSON lines in a pipe. At least once: rows after the last commit are printed
//! again when a job resumes.

mod table;

use std::io::{self, IsTerminal, Write};

use arrow::record_batch::RecordBatch;
use tidemill_engine::{EngineError, ErrorKind, Result, sink::Sink};

use crate::formats::encode::{EncodedRows, JsonEncoder, RowEncoder};
use table::Table;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// For a reader: aligned columns under a header, short datetimes, rounded floats.
    Table,
    /// For a program: one JSON object a line, as [`JsonEncoder`] writes it.
    JsonLines,
}

/// To the beginning of a terminal's line, and its text away: a status line may stand there.
const CLEAR_LINE: &[u8] = b"\r\x1b[K";

/// Prints rows as they come; each batch is flushed.
pub struct StdoutSink<W = io::Stdout> {
    output: String,
    writer: W,
    printer: Printer,
    /// Comes before each batch.
    before: &'static [u8],
    /// The bytes of one batch, reused.
    rows: EncodedRows,
    text: Vec<u8>,
}

enum Printer {
    Table(Table),
    JsonLines(JsonEncoder),
}

impl StdoutSink {
    /// Prints to stdout, as a table when that is a terminal. `output` is the output's name in the spec.
    #[must_use]
    pub fn new(output: &str) -> Self {
        let stdout = io::stdout();
        if stdout.is_terminal() {
            Self { before: CLEAR_LINE, ..Self::with_writer(output, Layout::Table, stdout) }
        } else {
            Self::with_writer(output, Layout::JsonLines, stdout)
        }
    }
}

impl<W: Write + Send> StdoutSink<W> {
    /// Prints to a given writer.
    #[must_use]
    pub fn with_writer(output: &str, layout: Layout, writer: W) -> Self {
        let printer = match layout {
            Layout::Table => Printer::Table(Table::default()),
            Layout::JsonLines => Printer::JsonLines(JsonEncoder),
        };
        Self { output: output.to_owned(), writer, printer, before: b"", rows: EncodedRows::default(), text: Vec::new() }
    }
}

impl<W: Write + Send> Sink for StdoutSink<W> {
    /// # Errors
    /// [`EngineError::ReaderGone`] when the reader closed the pipe.
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let bytes = match &mut self.printer {
            Printer::Table(table) => {
                self.text.clear();
                self.text.extend_from_slice(self.before);
                table.print(batch, &mut self.text)?;
                &self.text
            }
            Printer::JsonLines(encoder) => {
                self.rows.clear();
                encoder.encode(batch, &mut self.rows)?;
                self.rows.lines()
            }
        };
        self.writer.write_all(bytes).and_then(|()| self.writer.flush()).map_err(|error| failure(&self.output, &error))
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

fn failure(output: &str, error: &io::Error) -> EngineError {
    let output = output.to_owned();
    match error.kind() {
        io::ErrorKind::BrokenPipe => EngineError::ReaderGone { output },
        _ => EngineError::Sink { output, kind: ErrorKind::User, message: format!("cannot write to stdout: {error}") },
    }
}

#[cfg(test)]
mod tests;
