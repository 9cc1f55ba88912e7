//! What is in the dead letters of a job: by class how many, since when, and some of them; and which of them are to run through
//! their inputs once more.
//!
//! Called by `tidemill dead-letters` and `tidemill replay`. It reads what [`tidemill_connectors::dead_letters`] writes, of all runs; a line that is being
//! written is passed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};
use tidemill_connectors::replay::KeptRecord;

/// Letters of a class that are shown.
const SAMPLES: usize = 3;

/// The letters of one class.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct ClassSummary {
    /// The class.
    pub class: String,
    /// How many there are.
    pub count: u64,
    /// When the first one was put, in ISO 8601.
    pub first: String,
    /// When the last one was.
    pub last: String,
    /// The first ones.
    pub samples: Vec<Letter>,
}

/// A letter, without its bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// When it was put.
    pub time: String,
    /// The input whose record it was.
    pub input: String,
    /// The topic, or the file.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Why it is here.
    pub class: String,
    /// The same in words.
    pub error: String,
}

/// Which letters are replayed.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only those of this class.
    pub class: Option<String>,
    /// Only those put at this time or later.
    pub since: Option<DateTime<FixedOffset>>,
}

/// Letters to be replayed, by input, and the ledger that keeps each of them from being replayed again.
#[derive(Debug)]
pub struct Replay {
    /// The records.
    pub records: BTreeMap<String, Vec<KeptRecord>>,
    ledger: PathBuf,
}

/// A line of the ledger: a record's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    input: String,
    topic: String,
    partition: i32,
    offset: i64,
}

/// A letter with its bytes.
#[derive(Deserialize)]
struct WholeLetter {
    #[serde(flatten)]
    letter: Letter,
    timestamp: String,
    key_base64: Option<String>,
    value_base64: Option<String>,
    headers: Vec<WholeHeader>,
}

#[derive(Deserialize)]
struct WholeHeader {
    name: String,
    value_base64: Option<String>,
}

impl WholeLetter {
    /// The record; `None` for bytes that are not base64, which nobody has written.
    fn record(self) -> Option<KeptRecord> {
        let bytes = |text: Option<String>| text.map(|text| BASE64_STANDARD.decode(text)).transpose().ok();
        let headers = self.headers.into_iter().map(|header| Some((header.name, bytes(header.value_base64)?)));
        Some(KeptRecord {
            timestamp_ms: DateTime::parse_from_rfc3339(&self.timestamp).ok()?.timestamp_millis(),
            key: bytes(self.key_base64)?,
            value: bytes(self.value_base64)?,
            headers: headers.collect::<Option<_>>()?,
            topic: self.letter.topic,
            partition: self.letter.partition,
            offset: self.letter.offset,
        })
    }
}

/// The letters of a job's inputs that a selection means and that were not replayed before. A record that was put several times is
/// one. Rows that an output refused are none of an input.
///
/// # Errors
/// A file that cannot be read.
pub fn select(directory: &Path, job: &str, selection: &Selection) -> Result<Replay, UnreadableLetters> {
    let ledger = directory.join(format!("{job}-replayed.jsonl"));
    let mut taken: BTreeSet<Place> = BTreeSet::new();
    for_each_line(&ledger, |line| taken.extend(serde_json::from_slice::<Place>(line)))?;
    let mut records: BTreeMap<String, Vec<KeptRecord>> = BTreeMap::new();
    for path in files(directory, job)? {
        for_each_line(&path, |line| {
            let Ok(whole) = serde_json::from_slice::<WholeLetter>(line) else { return };
            let Letter { time, input, topic, partition, offset, class, .. } = whole.letter.clone();
            let put = DateTime::parse_from_rfc3339(&time).ok();
            let meant =
                selection.class.as_ref().map_or(class != "output", |wanted| *wanted == class && class != "output")
                    && selection.since.is_none_or(|since| put.is_some_and(|put| put >= since));
            if meant
                && taken.insert(Place { input: input.clone(), topic, partition, offset })
                && let Some(record) = whole.record()
            {
                records.entry(input).or_default().push(record);
            }
        })?;
    }
    Ok(Replay { records, ledger })
}

impl Replay {
    /// Writes all records into the ledger; before they run, since each is to run at most once.
    ///
    /// # Errors
    /// A ledger that cannot be written.
    pub fn enter(&self) -> Result<(), UnreadableLetters> {
        let mut lines = Vec::new();
        for (input, records) in &self.records {
            for KeptRecord { topic, partition, offset, .. } in records {
                let (input, topic) = (input.clone(), topic.clone());
                let place = Place { input, topic, partition: *partition, offset: *offset };
                serde_json::to_writer(&mut lines, &place).expect("memory takes every byte");
                lines.push(b'\n');
            }
        }
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.ledger)?;
            file.write_all(&lines)?;
            file.sync_all()
        };
        write().map_err(|source| UnreadableLetters { path: self.ledger.clone(), source })
    }
}

/// Why the letters, or the ledger of those that were replayed, cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use dead letters in `{}`", path.display())]
pub struct UnreadableLetters {
    /// The file or directory.
    pub path: PathBuf,
    /// The system's reason.
    #[source]
    pub source: std::io::Error,
}

/// The letters of all runs of a job, by class, in the order of classes.
///
/// # Errors
/// A file that cannot be read. A directory that does not exist has no letters.
pub fn summarize(directory: &Path, job: &str) -> Result<Vec<ClassSummary>, UnreadableLetters> {
    let mut classes: BTreeMap<String, ClassSummary> = BTreeMap::new();
    for path in files(directory, job)? {
        for_each_line(&path, |line| {
            let Ok(letter) = serde_json::from_slice::<Letter>(line) else { return };
            let summary = classes.entry(letter.class.clone()).or_default();
            if summary.count == 0 {
                summary.class.clone_from(&letter.class);
                summary.first.clone_from(&letter.time);
            }
            summary.count += 1;
            summary.last.clone_from(&letter.time);
            if summary.samples.len() < SAMPLES {
                summary.samples.push(letter);
            }
        })?;
    }
    Ok(classes.into_values().collect())
}

/// A file that does not exist has no lines.
fn for_each_line(path: &Path, mut take: impl FnMut(&[u8])) -> Result<(), UnreadableLetters> {
    let unreadable = |source| UnreadableLetters { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(unreadable)?,
    };
    for line in BufReader::new(file).split(b'\n') {
        take(&line.map_err(unreadable)?);
    }
    Ok(())
}

/// The files of a job's runs, the oldest first: their names begin with the time.
fn files(directory: &Path, job: &str) -> Result<Vec<PathBuf>, UnreadableLetters> {
    let unreadable = |source| UnreadableLetters { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(unreadable)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let run = name.strip_prefix(job).and_then(|rest| rest.strip_prefix('-')?.strip_suffix(".jsonl"));
        // A run's id begins with its time; a job `a` must not show the letters of a job `a-b`.
        if run.is_some_and(|run| run.starts_with(|first: char| first.is_ascii_digit())) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_counted_by_class_over_all_runs_of_the_job() {
        let directory = tempfile::tempdir().unwrap();
        let letter = |n: u32, class: &str| {
            format!(
                r#"{{"time": "2026-01-0{n}", "job": "a", "input": "in", "topic": "t", "partition": 1, "offset": {n}, "timestamp": "x",
                    "class": "{class}", "error": "why {n}", "key": null, "value_base64": "eA==", "headers": []}}"#
            )
            .replace('\n', "")
        };
        let write = |name: &str, text: String| fs::write(directory.path().join(name), text).unwrap();
        write("a-0002_1.jsonl", format!("{}\n{}\n{{\"time", letter(4, "type"), letter(5, "malformed")));
        write("a-0001_1.jsonl", [1, 2, 3].map(|n| letter(n, "type") + "\n").concat());
        write("a-b-0001_1.jsonl", letter(9, "bug"));
        write("other.txt", letter(9, "bug"));
        let found = summarize(directory.path(), "a").unwrap();
        let counts: Vec<_> = found.iter().map(|class| (class.class.as_str(), class.count)).collect();
        assert_eq!(counts, [("malformed", 1), ("type", 4)]);
        assert_eq!((found[1].first.as_str(), found[1].last.as_str()), ("2026-01-01", "2026-01-04"));
        assert_eq!(found[1].samples.iter().map(|letter| letter.offset).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(summarize(&directory.path().join("none"), "a").unwrap(), []);
    }

    #[test]
    fn a_letter_is_selected_once() {
        let directory = tempfile::tempdir().unwrap();
        let letter = |offset: u32, class: &str| {
            format!(
                r#"{{"time": "2026-01-0{offset}T00:00:00.0000000Z", "input": "in", "topic": "t", "partition": 1, "offset": {offset},
                    "timestamp": "1970-01-01T00:00:01.5000000Z", "class": "{class}", "error": "", "key_base64": null,
                    "value_base64": "eA==", "headers": [{{"name": "h", "value": "v", "value_base64": "dg=="}}]}}"#
            )
            .replace('\n', "")
                + "\n"
        };
        let lines = [letter(1, "type"), letter(2, "type"), letter(2, "type"), letter(3, "bug"), letter(4, "output")];
        fs::write(directory.path().join("a-0001_1.jsonl"), lines.concat()).unwrap();
        let offsets = |class: Option<&str>, since: Option<&str>| {
            let since = since.map(|since| DateTime::parse_from_rfc3339(since).unwrap());
            let selection = Selection { class: class.map(str::to_owned), since };
            let replay = select(directory.path(), "a", &selection).unwrap();
            let offsets: Vec<_> = replay.records.values().flatten().map(|record| record.offset).collect();
            (replay, offsets)
        };
        assert_eq!(offsets(None, None).1, [1, 2, 3]);
        assert_eq!(offsets(Some("output"), None).1, [0; 0]);
        assert_eq!(offsets(None, Some("2026-01-02T00:00:00Z")).1, [2, 3]);
        let (replay, found) = offsets(Some("type"), None);
        assert_eq!(found, [1, 2]);
        assert_eq!(
            replay.records["in"][0],
            KeptRecord {
                topic: "t".to_owned(),
                partition: 1,
                offset: 1,
                timestamp_ms: 1_500,
                key: None,
                value: Some(b"x".to_vec()),
                headers: vec![("h".to_owned(), Some(b"v".to_vec()))],
            }
        );
        replay.enter().unwrap();
        assert_eq!(offsets(None, None).1, [3]);
        assert_eq!(summarize(directory.path(), "a").unwrap().len(), 3, "the ledger is no letter");
    }
}
