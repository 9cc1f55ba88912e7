//! What is in the dead letters of a job: by class how many, since when, and some of them; and which of them are to run through
//! their inputs once more.
//!
//! Called by `tidemill dead-letters` and `tidemill replay`. It reads what the job's runs have committed to its files or its topic of
//! dead letters ([`tidemill_connectors::dead_letters`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};
use tidemill_connectors::{
    dead_letters::KeptLetter,
    formats::encode::datetime_text,
    replay::{KeptRecord, Places},
};
use tidemill_engine::decoder::BadClass;

use crate::{
    epoch::store::Store,
    run::{Mended, RunError, RunOptions, outputs::letter_files, security::Secrets, written::each_record_of},
    spec::{Job, OutputTransport},
};

/// Letters of a class that are shown.
const SAMPLES: usize = 3;
/// The folder of the ledger in the state store.
const LEDGER: &str = "replayed";

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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
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
    /// How the input's records are decoded.
    pub format: Option<String>,
    /// The registry's id before its value.
    pub schema_id: Option<i64>,
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

/// Letters to be replayed. The ledger in the job's state store keeps each of them from being replayed again.
#[derive(Debug)]
pub struct Replay {
    /// The letters.
    pub mended: Mended,
    /// The next document of the ledger.
    entry: String,
}

/// A record's place, as the ledger has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Place {
    input: String,
    topic: String,
    partition: i32,
    offset: i64,
}

impl Place {
    fn of(input: &str, record: &KeptRecord) -> Self {
        let KeptRecord { topic, partition, offset, .. } = record;
        Self { input: input.to_owned(), topic: topic.clone(), partition: *partition, offset: *offset }
    }
}

/// Why the letters, or the ledger of those that were replayed, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// A file or directory of letters.
    #[error("cannot use dead letters in `{}`", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The topic of letters, or the state store.
    #[error(transparent)]
    Away(#[from] RunError),
    /// Somebody replays the same job.
    #[error("another `replay` of this job has just begun; run it again for what that one leaves")]
    Contended,
}

/// The letters of a job's inputs that a selection means and that were not replayed before. A record that was put several times is
/// one. What was no record, but a row, is none: those that an output refused, those that a function failed on behind a window.
///
/// # Errors
/// Letters or a state store that cannot be read.
pub fn select(job: &Job, selection: &Selection, options: &RunOptions) -> Result<Replay, LettersError> {
    let store = Store::open(&job.state.store, &job.name).map_err(RunError::from)?;
    let entries = store.names(LEDGER).map_err(RunError::from)?;
    let mut taken: BTreeSet<Place> = BTreeSet::new();
    for name in &entries {
        let places: Option<Vec<Place>> = store.read_document(&format!("{LEDGER}/{name}")).map_err(RunError::from)?;
        taken.extend(places.into_iter().flatten());
    }
    let (mut records, mut others) = (BTreeMap::<String, Vec<KeptRecord>>::new(), BTreeSet::new());
    each_letter(job, options, &mut |letter| {
        let is_record = letter.class != BadClass::Output.as_str() && letter.record.partition >= 0;
        let place = Place::of(&letter.input, &letter.record);
        if !is_record || taken.contains(&place) {
            return;
        }
        let is_meant = selection.class.as_ref().is_none_or(|class| *class == letter.class)
            && selection.since.is_none_or(|since| letter.time_us >= since.timestamp_micros());
        if is_meant {
            taken.insert(place);
            records.entry(letter.input).or_default().push(letter.record);
        } else {
            others.insert(place);
        }
    })?;
    let mut mended = Mended { records, others: BTreeMap::new() };
    // A record that was put several times may be meant as one of them alone.
    for Place { input, topic, partition, offset } in others.difference(&taken).cloned() {
        let places: &mut Places = mended.others.entry(input).or_default();
        places.entry((topic, partition)).or_default().insert(offset);
    }
    Ok(Replay { mended, entry: format!("{LEDGER}/{:010}.json", entries.len() + 1) })
}

impl Replay {
    /// Writes all records into the ledger; before they run, since each is to run at most once.
    ///
    /// # Errors
    /// A ledger that cannot be written.
    pub fn enter(&self, job: &Job) -> Result<(), LettersError> {
        let records = self.mended.records.iter();
        let records = records.flat_map(|(input, records)| records.iter().map(|r| Place::of(input, r)));
        let store = Store::open(&job.state.store, &job.name).map_err(RunError::from)?;
        match store.put_new_document(&self.entry, &records.collect::<Vec<_>>()).map_err(RunError::from)? {
            true => Ok(()),
            false => Err(LettersError::Contended),
        }
    }
}

/// The letters of all runs of a job, by class, in the order of classes.
///
/// # Errors
/// Letters that cannot be read. A directory that does not exist has none.
pub fn summarize(job: &Job, options: &RunOptions) -> Result<Vec<ClassSummary>, LettersError> {
    let mut classes: BTreeMap<String, ClassSummary> = BTreeMap::new();
    each_letter(job, options, &mut |letter| {
        let summary = classes.entry(letter.class.clone()).or_default();
        let time = datetime_text(letter.time_us);
        if summary.count == 0 {
            (summary.class, summary.first, summary.last) = (letter.class.clone(), time.clone(), time.clone());
        }
        summary.count += 1;
        if time < summary.first {
            summary.first.clone_from(&time);
        }
        if time > summary.last {
            summary.last.clone_from(&time);
        }
        if summary.samples.len() < SAMPLES {
            let KeptRecord { topic, partition, offset, .. } = letter.record;
            let KeptLetter { input, format, schema_id, class, error, .. } = letter;
            summary.samples.push(Letter { time, input, topic, partition, offset, format, schema_id, class, error });
        }
    })?;
    Ok(classes.into_values().collect())
}

/// Hands over the job's letters, those of a file or a partition in the order in which they were put.
fn each_letter(job: &Job, options: &RunOptions, each: &mut dyn FnMut(KeptLetter)) -> Result<(), LettersError> {
    match &job.dead_letters.transport {
        OutputTransport::File(file) => {
            for path in files(&file.path, &letter_files(job))? {
                let read = KeptLetter::each_of_file(&path, each);
                read.map_err(|source| LettersError::Unreadable { path, source })?;
            }
            Ok(())
        }
        OutputTransport::Kafka(kafka) => {
            let secrets = Secrets::new(job.key_vault.clone());
            let read = each_record_of(&job.dead_letters.name, kafka, true, &secrets, options, &mut |record| {
                // Jobs may share a topic.
                if let Some(letter) = KeptLetter::of_message(record).filter(|letter| letter.job == job.name) {
                    each(letter);
                }
            });
            Ok(read?)
        }
        OutputTransport::Stdout | OutputTransport::Discard => Ok(()),
    }
}

/// The visible files of a job's runs, by name.
fn files(directory: &Path, begin: &str) -> Result<Vec<PathBuf>, LettersError> {
    let unreadable = |source| LettersError::Unreadable { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other.map_err(unreadable)?,
    };
    let mut files = vec![];
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let rest = name.strip_prefix(begin).and_then(|rest| rest.strip_prefix('-'));
        if rest.is_some_and(|rest| rest.ends_with(".jsonl") || rest.ends_with(".parquet")) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_engine::{Clock, EventTime, Monotonic};

    use super::*;
    use crate::spec;

    struct NoClock;

    impl Clock for NoClock {
        fn monotonic(&self) -> Monotonic {
            Monotonic(0)
        }

        fn wall(&self) -> EventTime {
            EventTime(0)
        }
    }

    fn options() -> RunOptions {
        RunOptions::of_a_look(std::time::Duration::ZERO, Arc::new(NoClock))
    }

    fn job(directory: &Path) -> Job {
        let text = "name: a\ninputs: {in: {file: {path: x}}}\noutputs: {o: {discard: {}}}\nquery: SELECT * FROM in\n";
        spec::parse(text, directory, "job.yaml").unwrap()
    }

    fn letter(time: &str, offset: u32, class: &str) -> String {
        format!(
            r#"{{"time": "{time}", "job": "a", "input": "in", "topic": "t", "partition": 1, "offset": {offset},
                "timestamp": "1970-01-01T00:00:01.5000000Z", "format": "json", "schema_id": null, "class": "{class}",
                "error": "why {offset}", "key_base64": null, "value_base64": "eA==",
                "headers": [{{"name": "h", "value": "v", "value_base64": "dg=="}}]}}"#
        )
        .replace('\n', "")
            + "\n"
    }

    fn write(job: &Job, name: &str, text: String) {
        let OutputTransport::File(file) = &job.dead_letters.transport else { panic!("files by default") };
        fs::create_dir_all(&file.path).unwrap();
        fs::write(file.path.join(name), text).unwrap();
    }

    #[test]
    fn letters_are_counted_by_class_over_all_runs_of_the_job() {
        let directory = tempfile::tempdir().unwrap();
        let job = job(directory.path());
        assert_eq!(summarize(&job, &options()).unwrap(), []);
        let letter = |n: u32, class: &str| letter(&format!("2026-01-0{n}T00:00:00.0000000Z"), n, class);
        write(&job, "a.dead_letters-0002-1-1.jsonl", letter(4, "type") + &letter(5, "malformed"));
        write(&job, "a.dead_letters-0001-1-1.jsonl", [1, 2, 3].map(|n| letter(n, "type")).concat());
        write(&job, ".a.a.dead_letters-0001-1-2.jsonl.ready", letter(9, "bug"));
        write(&job, "a-b.dead_letters-0001-1-1.jsonl", letter(9, "bug"));
        write(&job, "other.txt", letter(9, "bug"));
        let found = summarize(&job, &options()).unwrap();
        let counts: Vec<_> = found.iter().map(|class| (class.class.as_str(), class.count)).collect();
        assert_eq!(counts, [("malformed", 1), ("type", 4)]);
        let (first, last) = ("2026-01-01T00:00:00.0000000Z", "2026-01-04T00:00:00.0000000Z");
        assert_eq!((found[1].first.as_str(), found[1].last.as_str()), (first, last));
        assert_eq!(found[1].samples.iter().map(|letter| letter.offset).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_letter_is_selected_once() {
        let directory = tempfile::tempdir().unwrap();
        let job = job(directory.path());
        let letter = |n: u32, class: &str| letter(&format!("2026-01-0{n}T00:00:00.0000000Z"), n, class);
        let lines = [letter(1, "type"), letter(2, "type"), letter(2, "type"), letter(3, "bug"), letter(4, "output")];
        write(&job, "a.dead_letters-0001-1-1.jsonl", lines.concat());
        let offsets = |class: Option<&str>, since: Option<&str>| {
            let since = since.map(|since| DateTime::parse_from_rfc3339(since).unwrap());
            let selection = Selection { class: class.map(str::to_owned), since };
            let replay = select(&job, &selection, &options()).unwrap();
            let offsets: Vec<_> = replay.mended.records.values().flatten().map(|record| record.offset).collect();
            (replay, offsets)
        };
        assert_eq!(offsets(None, None).1, [1, 2, 3]);
        assert_eq!(offsets(Some("output"), None).1, [0; 0]);
        assert_eq!(offsets(None, Some("2026-01-02T00:00:00Z")).1, [2, 3]);
        let (replay, found) = offsets(Some("type"), None);
        assert_eq!(found, [1, 2]);
        let others: Places = [(("t".to_owned(), 1), [3].into())].into();
        assert_eq!(replay.mended.others, [("in".to_owned(), others)].into(), "of class `output` is no record");
        assert_eq!(
            replay.mended.records["in"][0],
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
        let other = offsets(Some("bug"), None).0;
        replay.enter(&job).unwrap();
        assert_eq!(offsets(None, None).1, [3]);
        let contended = other.enter(&job).unwrap_err().to_string();
        assert!(contended.starts_with("another `replay` of this job has just begun"), "{contended}");
    }
}
