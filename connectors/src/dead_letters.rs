//! The dead-letter file: one JSON object a line for each record that could not become rows.
//!
//! `<directory>/<job>-<run>.jsonl` is created by the first letter and only ever grows, a whole line at a time: a reader may
//! follow it. Letters reach it at the latest when the job commits (the job flushes this file first), so that no offset is
//! committed past a bad record that is not on disk; after a crash the letters since then are written again by the next
//! run, into its own file.
//!
//! Members of a line: `time` (when it was put), `job`, `input`, `topic`, `partition`, `offset`, `timestamp` (the
//! record's), `class`, `error`, then `key` and `value` as text where they are UTF-8, `key_base64` and `value_base64`
//! always and complete, and `headers` as a list of `{name, value, value_base64}`. What a record does not have is `null`.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;
use tidemill_engine::{
    Clock, EngineError, ErrorKind, EventTime, Result,
    dead_letter::{DeadLetter, DeadLetters},
    decoder::BadClass,
};

use crate::{files::prepare_directory, formats::encode::datetime_text};

/// Letters are held back up to this many bytes between flushes, so that a topic full of garbage does not cost a system
/// call a record.
const BUFFER_BYTES: usize = 64 << 10;

/// Writes dead letters into one file of this run.
pub struct DeadLetterFile {
    job: String,
    path: PathBuf,
    clock: Arc<dyn Clock>,
    file: Option<File>,
    /// Whole lines that are not in the file yet.
    lines: Vec<u8>,
    counts: BTreeMap<BadClass, u64>,
}

impl DeadLetterFile {
    /// Prepares the directory, which is created where it is missing. `run` must be unique among the runs of the job.
    ///
    /// # Errors
    /// [`EngineError::Sink`] when the directory cannot be created or written.
    pub fn open(directory: &Path, job: &str, run: &str, clock: Arc<dyn Clock>) -> Result<Self> {
        prepare_directory(directory)
            .map_err(|error| failure(format!("cannot write to directory `{}`: {error}", directory.display())))?;
        Ok(Self {
            job: job.to_owned(),
            path: directory.join(format!("{job}-{run}.jsonl")),
            clock,
            file: None,
            lines: Vec::new(),
            counts: BTreeMap::new(),
        })
    }

    /// The file; it exists as soon as there is a letter in it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Letters put so far, by class.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<BadClass, u64> {
        &self.counts
    }

    /// Hands the whole lines over to the operating system.
    fn write_lines(&mut self) -> Result<()> {
        let written = open_file(&mut self.file, &self.path).and_then(|file| file.write_all(&self.lines));
        self.lines.clear();
        written.map_err(|error| failure(format!("cannot write `{}`: {error}", self.path.display())))
    }
}

impl DeadLetters for DeadLetterFile {
    fn put(&mut self, letter: &DeadLetter<'_>) -> Result<()> {
        *self.counts.entry(letter.class).or_default() += 1;
        let line = Line::new(letter, &self.job, self.clock.wall());
        serde_json::to_writer(&mut self.lines, &line).expect("memory takes every byte");
        self.lines.push(b'\n');
        if self.lines.len() >= BUFFER_BYTES { self.write_lines() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.lines.is_empty() {
            self.write_lines()?;
        }
        let synced = self.file.as_ref().map_or(Ok(()), File::sync_data);
        synced.map_err(|error| failure(format!("cannot sync `{}`: {error}", self.path.display())))
    }
}

fn open_file<'f>(file: &'f mut Option<File>, path: &Path) -> io::Result<&'f mut File> {
    if file.is_none() {
        *file = Some(OpenOptions::new().create(true).append(true).open(path)?);
        // The file's own name must survive a loss of power as its lines do.
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
    }
    Ok(file.as_mut().expect("was opened above"))
}

fn failure(message: String) -> EngineError {
    EngineError::Sink { output: "dead_letters".to_owned(), kind: ErrorKind::User, message }
}

/// One line, members in the order of the file.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    job: &'a str,
    input: &'a str,
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: String,
    class: &'a str,
    error: &'a str,
    key: Option<&'a str>,
    key_base64: Option<String>,
    value: Option<&'a str>,
    value_base64: Option<String>,
    headers: Vec<HeaderLine<'a>>,
}

#[derive(Serialize)]
struct HeaderLine<'a> {
    name: &'a str,
    value: Option<&'a str>,
    value_base64: Option<String>,
}

impl<'a> Line<'a> {
    fn new(letter: &DeadLetter<'a>, job: &'a str, now: EventTime) -> Self {
        let headers = letter.headers.iter().map(|header| HeaderLine {
            name: header.name,
            value: text(header.value),
            value_base64: base64(header.value),
        });
        Self {
            time: datetime_text(now.0),
            job,
            input: letter.input,
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            timestamp: datetime_text(EventTime::from_millis(letter.timestamp_ms).0),
            class: letter.class.as_str(),
            error: letter.message,
            key: text(letter.key),
            key_base64: base64(letter.key),
            value: text(letter.value),
            value_base64: base64(letter.value),
            headers: headers.collect(),
        }
    }
}

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    bytes.and_then(|bytes| std::str::from_utf8(bytes).ok())
}

fn base64(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| BASE64_STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemill_engine::source::Header;

    use super::*;
    use crate::files::FixedClock;

    fn letter(value: Option<&[u8]>) -> DeadLetter<'_> {
        DeadLetter {
            input: "clicks",
            topic: "clicks-v1",
            partition: 3,
            offset: 42,
            timestamp_ms: 1_583_333_425_120,
            key: Some(b"k"),
            value,
            headers: &[Header { name: "trace", value: Some(b"\xff") }],
            class: BadClass::Malformed,
            message: "expected `}` at byte 7",
        }
    }

    #[test]
    fn a_letter_keeps_every_byte() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(FixedClock::default());
        let mut letters = DeadLetterFile::open(&directory.path().join("new"), "job", "r1", clock).unwrap();
        assert!(!letters.path().exists(), "no letter, no file");
        letters.flush().unwrap();
        letters.put(&letter(Some(b"{\"a\": \xfe"))).unwrap();
        letters.put(&letter(Some("{\"a\": ü\n".as_bytes()))).unwrap();
        letters.put(&letter(None)).unwrap();
        letters.flush().unwrap();

        let text = std::fs::read_to_string(letters.path()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[0],
            json!({
                "time": "1970-01-01T00:00:00.0000000Z", "job": "job", "input": "clicks", "topic": "clicks-v1",
                "partition": 3, "offset": 42, "timestamp": "2020-03-04T14:50:25.1200000Z", "class": "malformed",
                "error": "expected `}` at byte 7", "key": "k", "key_base64": "aw==", "value": null,
                "value_base64": "eyJhIjog/g==",
                "headers": [{"name": "trace", "value": null, "value_base64": "/w=="}],
            })
        );
        assert_eq!(lines[1]["value"], "{\"a\": ü\n");
        assert_eq!(lines[2]["value_base64"], Value::Null);
        assert_eq!(letters.counts(), &BTreeMap::from([(BadClass::Malformed, 3)]));
    }

    #[test]
    fn many_letters_are_written_before_the_flush_in_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let clock = Arc::new(FixedClock::default());
        let mut letters = DeadLetterFile::open(directory.path(), "job", "r1", clock).unwrap();
        while !letters.path().exists() {
            letters.put(&letter(Some(&[b'x'; 1000]))).unwrap();
        }
        let written = std::fs::read(letters.path()).unwrap();
        assert!(written.len() >= BUFFER_BYTES && written.ends_with(b"\n"));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error =
            DeadLetterFile::open(&file.join("sub"), "job", "r1", Arc::new(FixedClock::default())).err().unwrap();
        assert!(error.to_string().contains("file/sub`: Not a directory"), "{error}");
        assert_eq!(error.kind(), ErrorKind::User);
    }
}
