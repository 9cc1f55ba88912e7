//! The rows of an answer as a table, JSON lines, CSV, Parquet or Arrow IPC.

use std::io::{self, Write};

use arrow::{
    datatypes::{FieldRef, SchemaRef},
    error::ArrowError,
    ipc::writer::{FileWriter, StreamWriter},
    record_batch::RecordBatch,
};
use tidemill_connectors::{
    formats::{
        csv::Dialect,
        encode::{CsvEncoder, EncodedRows, ParquetEncoder, RowEncoder},
    },
    stdout::{Layout, StdoutSink},
};
use tidemill_engine::{EngineError, ErrorKind, Result, sink::Sink};

/// What stands in messages for where rows go.
const OUTPUT: &str = "answer";

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerFormat {
    /// Aligned columns, for a reader.
    Table,
    /// One JSON object a line.
    Json,
    /// A header and a line a row.
    Csv,
    /// One Parquet file.
    Parquet,
    /// Arrow IPC, one batch after the other; for pipes.
    ArrowStream,
    /// Arrow IPC with an index of its batches; for files.
    ArrowFile,
}

/// Writes the rows of one answer.
pub struct AnswerWriter<W: Write + Send> {
    body: Body<W>,
}

enum Body<W: Write + Send> {
    Lines(StdoutSink<W>),
    Csv { encoder: CsvEncoder, rows: EncodedRows, writer: W },
    Parquet(Box<ParquetEncoder<W>>),
    Stream(Box<StreamWriter<W>>),
    File(Box<FileWriter<W>>),
}

impl<W: Write + Send> AnswerWriter<W> {
    /// Writes what comes before the rows.
    ///
    /// # Errors
    /// [`EngineError::ReaderGone`] when the reader closed the pipe; columns that the format cannot carry; a disk that is full.
    pub fn new(format: AnswerFormat, mut writer: W, schema: &SchemaRef) -> Result<Self> {
        let body = match format {
            AnswerFormat::Table => Body::Lines(StdoutSink::with_writer(OUTPUT, Layout::Table, writer)),
            AnswerFormat::Json => Body::Lines(StdoutSink::with_writer(OUTPUT, Layout::JsonLines, writer)),
            AnswerFormat::Csv => {
                let encoder = CsvEncoder::new(Dialect::default());
                writer.write_all(&encoder.header(schema)?).map_err(failure)?;
                Body::Csv { encoder, rows: EncodedRows::default(), writer }
            }
            AnswerFormat::Parquet => {
                Body::Parquet(Box::new(ParquetEncoder::new(writer, schema.clone()).map_err(failure)?))
            }
            AnswerFormat::ArrowStream => Body::Stream(Box::new(StreamWriter::try_new(writer, schema)?)),
            AnswerFormat::ArrowFile => Body::File(Box::new(FileWriter::try_new(writer, schema)?)),
        };
        Ok(Self { body })
    }

    /// Writes rows.
    ///
    /// # Errors
    /// As [`AnswerWriter::new`].
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.body {
            Body::Lines(sink) => sink.write(batch),
            Body::Csv { encoder, rows, writer } => {
                rows.clear();
                encoder.encode(batch, rows)?;
                writer.write_all(rows.lines()).map_err(failure)
            }
            Body::Parquet(encoder) => encoder.write(batch).map_err(failure),
            Body::Stream(writer) => writer.write(batch).map_err(arrow_failure),
            Body::File(writer) => writer.write(batch).map_err(arrow_failure),
        }
    }

    /// Hands over what was written, to whoever reads along; of files with an index there is nothing to be read before they are whole.
    fn flush(&mut self) -> Result<()> {
        match &mut self.body {
            Body::Lines(sink) => sink.flush(),
            Body::Csv { writer, .. } => writer.flush().map_err(failure),
            Body::Stream(writer) => writer.flush().map_err(arrow_failure),
            Body::Parquet(_) | Body::File(_) => Ok(()),
        }
    }

    /// Writes what comes behind the rows.
    ///
    /// # Errors
    /// As [`AnswerWriter::new`].
    pub fn finish(self) -> Result<()> {
        match self.body {
            Body::Lines(mut sink) => sink.close(),
            Body::Csv { mut writer, .. } => writer.flush().map_err(failure),
            Body::Parquet(encoder) => encoder.finish().and_then(|mut writer| writer.flush()).map_err(failure),
            Body::Stream(writer) => writer.into_inner().map_err(arrow_failure)?.flush().map_err(failure),
            Body::File(writer) => writer.into_inner().map_err(arrow_failure)?.flush().map_err(failure),
        }
    }
}

/// Writes the rows of a question that goes on, each batch as it comes ([`RunOptions::rows`](crate::run::RunOptions)).
pub struct AnswerSink<W: Write + Send> {
    /// `None` when it is closed.
    writer: Option<AnswerWriter<W>>,
    /// What all rows have, where the format wants that.
    columns: Option<SchemaRef>,
}

impl<W: Write + Send> AnswerSink<W> {
    /// Writes what comes before the rows.
    ///
    /// # Errors
    /// As [`AnswerWriter::new`].
    pub fn new(format: AnswerFormat, writer: W, schema: &SchemaRef) -> Result<Self> {
        let is_of_lines = matches!(format, AnswerFormat::Table | AnswerFormat::Json);
        let columns = (!is_of_lines).then(|| SchemaRef::clone(schema));
        Ok(Self { writer: Some(AnswerWriter::new(format, writer, schema)?), columns })
    }
}

impl<W: Write + Send> Sink for AnswerSink<W> {
    /// # Errors
    /// As [`AnswerWriter::write`]; rows of a statement with other columns than the first one's.
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        if self.columns.as_ref().is_some_and(|columns| !has_columns(batch, columns)) {
            let message =
                "the statements give different columns, and the format holds those of one; take json".to_owned();
            return Err(EngineError::Sink { output: OUTPUT.to_owned(), kind: ErrorKind::User, message });
        }
        writer.write(batch)?;
        writer.flush()
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.writer.take().map_or(Ok(()), AnswerWriter::finish)
    }
}

fn has_columns(batch: &RecordBatch, columns: &SchemaRef) -> bool {
    let (found, expected) = (batch.schema_ref().fields(), columns.fields());
    let is_same = |(a, b): (&FieldRef, &FieldRef)| a.name() == b.name() && a.data_type() == b.data_type();
    found.len() == expected.len() && found.iter().zip(expected).all(is_same)
}

fn arrow_failure(error: ArrowError) -> EngineError {
    match error {
        ArrowError::IoError(_, error) => failure(error),
        error => error.into(),
    }
}

fn failure(error: io::Error) -> EngineError {
    let output = OUTPUT.to_owned();
    match error.kind() {
        io::ErrorKind::BrokenPipe => EngineError::ReaderGone { output },
        _ => EngineError::Sink { output, kind: ErrorKind::User, message: format!("cannot write: {error}") },
    }
}
