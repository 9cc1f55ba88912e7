//! The rows of an answer as a table, JSON lines, CSV, Parquet or Arrow IPC.

use std::io::{self, Write};

use arrow::{
    datatypes::SchemaRef,
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
            Body::Stream(writer) => Ok(writer.write(batch)?),
            Body::File(writer) => Ok(writer.write(batch)?),
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
            Body::Stream(writer) => writer.into_inner()?.flush().map_err(failure),
            Body::File(writer) => writer.into_inner()?.flush().map_err(failure),
        }
    }
}

fn failure(error: io::Error) -> EngineError {
    let output = OUTPUT.to_owned();
    match error.kind() {
        io::ErrorKind::BrokenPipe => EngineError::ReaderGone { output },
        _ => EngineError::Sink { output, kind: ErrorKind::User, message: format!("cannot write: {error}") },
    }
}
