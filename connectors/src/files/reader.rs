//! One file as runs of records, read through one buffer.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    ops::Range,
    path::Path,
    time::UNIX_EPOCH,
};

use memchr::memchr;

use super::{Content, InputFormat};
use crate::formats::{
    avro::container,
    csv::{Dialect, blank_line, line_count, record_end},
    parquet::RowGroups,
    protobuf::Prefix,
};

/// The least that is read at once; the buffer doubles while a record does not fit.
const CHUNK_BYTES: usize = 1 << 20;
/// A longer record ends the reading: it would not fit into memory.
const MAX_RECORD_BYTES: usize = 256 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads one file, up to the length that it had when it was opened.
pub(super) struct FileReader {
    modified_ms: i64,
    body: Body,
}

enum Body {
    Records(RecordReader),
    RowGroups(RowGroups),
}

impl FileReader {
    /// Opens the file and looks at its beginning.
    pub(super) fn open(path: &Path, format: InputFormat) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let modified_ms = match metadata.modified()?.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        };
        let body = if format.content == Content::RowGroups {
            Body::RowGroups(RowGroups::open(file)?)
        } else {
            let file = file.take(metadata.len());
            let bytes: Box<dyn Read + Send> = match format.compression {
                Some(compression) => compression.reader(BufReader::with_capacity(CHUNK_BYTES, file))?,
                None => Box::new(file),
            };
            Body::Records(RecordReader::open(bytes, format.content)?)
        };
        Ok(Self { modified_ms, body })
    }

    /// When the file was last modified, in milliseconds since the epoch.
    pub(super) fn modified_ms(&self) -> i64 {
        self.modified_ms
    }

    /// What will be the offset of the next record, if one follows.
    pub(super) fn next_offset(&self) -> i64 {
        match &self.body {
            Body::Records(records) => records.line,
            Body::RowGroups(groups) => groups.next_index() as i64,
        }
    }

    /// The next records, at most `max`, each with its offset; none at the end of the file. Empty lines are passed over.
    pub(super) fn next_run(&mut self, max: usize) -> io::Result<Vec<(i64, &[u8])>> {
        match &mut self.body {
            Body::Records(records) => Ok(records.next_run(max)?.collect()),
            Body::RowGroups(groups) => {
                let index = groups.next_index() as i64;
                Ok(groups.next()?.map(|payload| (index, payload)).into_iter().collect())
            }
        }
    }
}

/// Reads records that lie one behind the other.
struct RecordReader {
    file: Box<dyn Read + Send>,
    framing: Framing,
    buffer: Vec<u8>,
    /// Where the first record begins that was not handed over.
    start: usize,
    /// Whether nothing follows what is in the buffer.
    at_end: bool,
    /// Number of the next line, or record, from 0.
    line: i64,
    /// CSV: the first record, with a line feed. Avro: what stands before the blocks.
    header: Vec<u8>,
    /// The records of this run, each behind a copy of the header.
    payloads: Vec<u8>,
    /// The records of this run: their first lines, and where they are in `payloads` or, without a header, in `buffer`.
    spans: Vec<(i64, Range<usize>)>,
}

#[derive(Clone, Copy)]
enum Framing {
    Lines,
    Csv {
        dialect: Dialect,
        header: bool,
    },
    AvroBlocks,
    Prefixed(Prefix),
    /// The whole file is one record, white space at its end apart.
    Array,
    /// The whole file is one record, every byte of it.
    Whole,
}

impl RecordReader {
    /// Looks at the beginning: JSON that begins with `[` is one record.
    fn open(file: Box<dyn Read + Send>, content: Content) -> io::Result<Self> {
        let mut reader = Self {
            file,
            framing: Framing::Whole,
            buffer: Vec::new(),
            start: 0,
            at_end: false,
            line: 0,
            header: Vec::new(),
            payloads: Vec::new(),
            spans: Vec::new(),
        };
        reader.fill()?;
        let is_text = matches!(content, Content::Json | Content::Csv { .. });
        if is_text && reader.buffer.starts_with(BYTE_ORDER_MARK) {
            reader.start = BYTE_ORDER_MARK.len();
        }
        reader.framing = match content {
            Content::Csv { dialect, header } => Framing::Csv { dialect, header },
            Content::Json if reader.buffer[reader.start..].trim_ascii_start().starts_with(b"[") => Framing::Array,
            Content::Json => Framing::Lines,
            Content::AvroBlocks => Framing::AvroBlocks,
            Content::Prefixed(prefix) => Framing::Prefixed(prefix),
            Content::Whole | Content::RowGroups => Framing::Whole,
        };
        if content == Content::AvroBlocks && !(reader.at_end && reader.buffer.is_empty()) {
            reader.read_header()?;
        }
        Ok(reader)
    }

    /// Reads what stands before an Avro file's blocks.
    fn read_header(&mut self) -> io::Result<()> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        loop {
            if let Some(length) = container::header_length(&self.buffer).map_err(invalid)? {
                self.header = self.buffer[..length].to_vec();
                self.start = length;
                return Ok(());
            }
            if self.at_end {
                return Err(invalid("its header is not whole".to_owned()));
            }
            self.fill()?;
        }
    }

    /// The next records, at most `max`, each with the line in which it begins; none at the end of the file. Empty lines are
    /// passed over.
    fn next_run(&mut self, max: usize) -> io::Result<impl ExactSizeIterator<Item = (i64, &[u8])>> {
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
            Framing::Csv { dialect, .. } => record_end(rest, dialect, self.at_end),
            Framing::AvroBlocks => self.whole(container::block_length(rest)),
            Framing::Prefixed(prefix) => self.whole(prefix.message_length(rest)),
            Framing::Array | Framing::Whole => self.at_end.then_some(rest.len()),
        };
        let Some(end) = end else { return false };
        let (record, span, line) = (&rest[..end], self.start..self.start + end, self.line);
        self.start = span.end;
        match self.framing {
            Framing::Prefixed(_) | Framing::Whole => {
                self.spans.push((line, span));
                self.line += 1;
            }
            Framing::AvroBlocks => {
                self.push_behind_header(line, span);
                self.line += 1;
            }
            Framing::Lines | Framing::Array => {
                self.line += 1;
                let text = record.trim_ascii_end().len();
                if text > 0 {
                    self.spans.push((line, span.start..span.start + text));
                }
            }
            Framing::Csv { header, .. } => {
                self.line += line_count(record).max(1) as i64;
                if blank_line(record).is_some() {
                    return true;
                }
                if !header {
                    self.spans.push((line, span));
                } else if self.header.is_empty() {
                    self.header = record.to_vec();
                    if !record.ends_with(b"\n") {
                        self.header.push(b'\n');
                    }
                } else {
                    self.push_behind_header(line, span);
                }
            }
        }
        true
    }

    fn push_behind_header(&mut self, line: i64, record: Range<usize>) {
        let start = self.payloads.len();
        self.payloads.extend_from_slice(&self.header);
        self.payloads.extend_from_slice(&self.buffer[record]);
        self.spans.push((line, start..self.payloads.len()));
    }

    /// Where a record of this length ends, if it is whole; what is left at the end of the file is one, for the decoder to
    /// refuse.
    fn whole(&self, length: Option<usize>) -> Option<usize> {
        let rest = self.buffer.len() - self.start;
        length.filter(|length| *length <= rest).or(self.at_end.then_some(rest))
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
