//! One file as runs of records, read through one buffer.

use std::{
    fs::File,
    io::{self, Read, Take},
    ops::Range,
    path::Path,
    time::UNIX_EPOCH,
};

use memchr::memchr;

use super::InputFormat;
use crate::formats::csv::{blank_line, line_count, record_end};

/// The least that is read at once; the buffer doubles while a record does not fit.
const CHUNK_BYTES: usize = 1 << 20;
/// A longer record ends the reading: it would not fit into memory.
const MAX_RECORD_BYTES: usize = 256 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads one file, up to the length that it had when it was opened.
pub(super) struct RecordReader {
    file: Take<File>,
    framing: Framing,
    modified_ms: i64,
    buffer: Vec<u8>,
    /// Where the first record begins that was not handed over.
    start: usize,
    /// Whether nothing follows what is in the buffer.
    at_end: bool,
    line: i64,
    /// CSV: the first record, with a line feed.
    header: Vec<u8>,
    /// CSV: the records of this run, each behind a copy of the header.
    payloads: Vec<u8>,
    /// The records of this run: their first lines, and where they are in `payloads` or, without a header, in `buffer`.
    spans: Vec<(i64, Range<usize>)>,
}

#[derive(Clone, Copy)]
enum Framing {
    Lines,
    Csv {
        delimiter: u8,
    },
    /// The whole file is one record.
    Whole,
}

impl RecordReader {
    /// Opens the file and looks at its beginning: JSON that begins with `[` is one record.
    pub(super) fn open(path: &Path, format: InputFormat) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let modified_ms = match metadata.modified()?.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        };
        let mut reader = Self {
            file: file.take(metadata.len()),
            framing: Framing::Lines,
            modified_ms,
            buffer: Vec::new(),
            start: 0,
            at_end: false,
            line: 0,
            header: Vec::new(),
            payloads: Vec::new(),
            spans: Vec::new(),
        };
        reader.fill()?;
        if reader.buffer.starts_with(BYTE_ORDER_MARK) {
            reader.start = BYTE_ORDER_MARK.len();
        }
        reader.framing = match format {
            InputFormat::Csv { delimiter } => Framing::Csv { delimiter },
            InputFormat::Json if reader.buffer[reader.start..].trim_ascii_start().starts_with(b"[") => Framing::Whole,
            InputFormat::Json => Framing::Lines,
        };
        Ok(reader)
    }

    /// When the file was last modified, in milliseconds since the epoch.
    pub(super) fn modified_ms(&self) -> i64 {
        self.modified_ms
    }

    /// Number of the next line, from 0.
    pub(super) fn line(&self) -> i64 {
        self.line
    }

    /// The next records, at most `max`, each with the line in which it begins; none at the end of the file. Empty lines are
    /// passed over.
    pub(super) fn next_run(&mut self, max: usize) -> io::Result<impl ExactSizeIterator<Item = (i64, &[u8])>> {
        self.spans.clear();
        self.payloads.clear();
        loop {
            while self.spans.len() < max && self.take_record() {}
            if !self.spans.is_empty() || self.at_end {
                break;
            }
            self.fill()?;
        }
        let bytes = if self.header.is_empty() { &self.buffer } else { &self.payloads };
        Ok(self.spans.iter().map(|(line, span)| (*line, &bytes[span.clone()])))
    }

    /// Takes one record or empty line that is whole in the buffer; `false` when there is none.
    fn take_record(&mut self) -> bool {
        let rest = &self.buffer[self.start..];
        let end = match self.framing {
            _ if rest.is_empty() => None,
            Framing::Lines => memchr(b'\n', rest).map(|end| end + 1).or(self.at_end.then_some(rest.len())),
            Framing::Csv { delimiter } => record_end(rest, delimiter, self.at_end),
            Framing::Whole => self.at_end.then_some(rest.len()),
        };
        let Some(end) = end else { return false };
        let (record, span, line) = (&rest[..end], self.start..self.start + end, self.line);
        self.start = span.end;
        match self.framing {
            Framing::Lines | Framing::Whole => {
                self.line += 1;
                let text = record.trim_ascii_end().len();
                if text > 0 {
                    self.spans.push((line, span.start..span.start + text));
                }
            }
            Framing::Csv { .. } => {
                self.line += line_count(record).max(1) as i64;
                if blank_line(record).is_some() {
                    return true;
                }
                if self.header.is_empty() {
                    self.header = record.to_vec();
                    if !record.ends_with(b"\n") {
                        self.header.push(b'\n');
                    }
                } else {
                    let start = self.payloads.len();
                    self.payloads.extend_from_slice(&self.header);
                    self.payloads.extend_from_slice(record);
                    self.spans.push((line, start..self.payloads.len()));
                }
            }
        }
        true
    }

    /// Reads on, keeping what was not handed over.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        if self.buffer.len() > MAX_RECORD_BYTES {
            let message = format!("line {} begins a record of more than {MAX_RECORD_BYTES} bytes", self.line + 1);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let wanted = self.buffer.len().max(CHUNK_BYTES);
        let read = (&mut self.file).take(wanted as u64).read_to_end(&mut self.buffer)?;
        self.at_end = read < wanted;
        Ok(())
    }
}
