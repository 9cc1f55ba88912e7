//! The `file` input: each file is a partition, each line, CSV row, message, block or row group a record ([`Content`]).
//!
//! A record's offset is its line, counted from 0 and with the CSV header, or its number in a file without lines; its timestamp
//! is when its file was last modified, which is when it arrived as far as anyone can know, and the same in every run. A JSON
//! file that begins with `[` is one record. Records are handed over with what their file says once (a CSV header, an Avro
//! schema), so that each can be read on its own. Files are read to the length that they had when they were opened; a file
//! input always ends.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tidemill_engine::{
    Clock, EngineError, ErrorKind, Result,
    source::{PartitionId, Record, Source, SourceEvent, TimestampKind, Visit},
};

use super::reader::FileReader;
use crate::formats::{compression::Compression, csv::Dialect, protobuf::Prefix};

/// Records handed over at once, at most.
const MAX_RUN: usize = 4096;

/// What an input file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// One JSON document a line, or one array.
    Json,
    /// CSV rows, with a header that goes before each of them, or without one.
    Csv {
        /// What stands between and around fields.
        dialect: Dialect,
        /// Whether the first row is a header.
        header: bool,
    },
    /// An Avro container file: a record is a block, behind a copy of the file's header.
    AvroBlocks,
    /// Messages, each behind its length.
    Prefixed(Prefix),
    /// A Parquet file: a record is a row group, as a file of its own.
    RowGroups,
    /// One record.
    Whole,
}

/// How an input's files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputFormat {
    /// What a file holds.
    pub content: Content,
    /// How it is packed as a whole; Parquet packs its parts itself.
    pub compression: Option<Compression>,
}

/// Reads one worker's share of the files of an input, one after the other.
pub struct FileSource {
    input: String,
    files: Vec<InputFile>,
    format: InputFormat,
    clock: Arc<dyn Clock>,
    joined: bool,
    /// Index of the file that is read or comes next.
    current: usize,
    reader: Option<FileReader>,
}

struct InputFile {
    partition: PartitionId,
    path: PathBuf,
    name: String,
}

impl FileSource {
    /// For these files, each with its number among all files of the input. `input` is the input's name in the spec. Files
    /// are opened when their turn comes.
    #[must_use]
    pub fn new(
        input: &str,
        files: impl IntoIterator<Item = (PartitionId, PathBuf)>,
        format: InputFormat,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let files = files.into_iter().map(|(partition, path)| {
            let name = path.display().to_string();
            InputFile { partition, path, name }
        });
        Self { input: input.to_owned(), files: files.collect(), format, clock, joined: false, current: 0, reader: None }
    }
}

impl Source for FileSource {
    fn poll(&mut self, _wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        if !self.joined {
            self.joined = true;
            for file in &self.files {
                let InputFile { partition, name, .. } = file;
                visit(SourceEvent::Joined { partition: *partition, topic: name, number: 0, start_offset: 0 })?;
            }
        }
        let Some(InputFile { partition, path, .. }) = self.files.get(self.current) else { return Ok(()) };
        let (partition, failure) = (*partition, |error| failure(&self.input, path, &error));
        let reader = match &mut self.reader {
            Some(reader) => reader,
            None => self.reader.insert(FileReader::open(path, self.format).map_err(failure)?),
        };
        let timestamp_ms = reader.modified_ms();
        let run = reader.next_run(MAX_RUN).map_err(failure)?.into_iter();
        let records = run.map(|(offset, payload)| Record {
            offset,
            timestamp_ms,
            timestamp_kind: TimestampKind::LogAppend,
            key: None,
            value: Some(payload),
            headers: &[],
            unread_headers: None,
        });
        let records: Vec<Record<'_>> = records.collect();
        if records.is_empty() {
            self.reader = None;
            self.current += 1;
            return visit(SourceEvent::Finished { partition });
        }
        let received = self.clock.monotonic();
        visit(SourceEvent::Records { partition, records: &records, received, live_from: None })?;
        visit(SourceEvent::Position { partition, next_offset: reader.next_offset() })
    }

    fn finished(&self) -> bool {
        self.joined && self.current == self.files.len()
    }
}

/// About `count` payloads from the beginnings of all files, for inferring a schema.
///
/// # Errors
/// [`EngineError::Source`] when a file cannot be read.
pub fn sample(input: &str, files: &[PathBuf], format: InputFormat, count: usize) -> Result<Vec<Vec<u8>>> {
    let share = count.div_ceil(files.len().max(1));
    let mut payloads = Vec::new();
    for path in files {
        let failure = |error| failure(input, path, &error);
        let mut reader = FileReader::open(path, format).map_err(failure)?;
        let mut wanted = share;
        while wanted > 0 {
            let run = reader.next_run(wanted).map_err(failure)?;
            if run.is_empty() {
                break;
            }
            wanted -= run.len();
            payloads.extend(run.into_iter().map(|(_, payload)| payload.to_vec()));
        }
    }
    Ok(payloads)
}

fn failure(input: &str, path: &Path, error: &io::Error) -> EngineError {
    EngineError::Source {
        input: input.to_owned(),
        kind: ErrorKind::User,
        message: format!("cannot read `{}`: {error}", path.display()),
    }
}
