//! Letters as they are read back.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use tidemill_engine::source::Record;

use super::{
    lines, message,
    row::{LetterRow, LetterRows},
};
use crate::{files::each_parquet_batch, replay::KeptRecord};

/// A letter with its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLetter {
    /// When it was put, in microseconds since 1970.
    pub time_us: i64,
    /// The job.
    pub job: String,
    /// The input whose record it was; of class `output` the output that refused a row.
    pub input: String,
    /// The format's name in the spec.
    pub format: Option<String>,
    /// The registry's id before the value.
    pub schema_id: Option<i64>,
    /// Why it is here.
    pub class: String,
    /// The same in words.
    pub error: String,
    /// The record, with its place.
    pub record: KeptRecord,
}

impl KeptLetter {
    /// The letter in a record of a topic of dead letters, which was read with its headers; `None` for what is none.
    #[must_use]
    pub fn of_message(record: &Record<'_>) -> Option<Self> {
        message::parse(record)
    }

    /// Hands over the letters of a file of JSON lines or of Parquet, which its extension tells. Lines that are none are passed over.
    ///
    /// # Errors
    /// A file that cannot be read, or is of another extension.
    pub fn each_of_file(path: &Path, each: &mut dyn FnMut(Self)) -> io::Result<()> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => {
                for line in BufReader::new(File::open(path)?).split(b'\n') {
                    lines::parse(&line?).into_iter().for_each(&mut *each);
                }
                Ok(())
            }
            Some("parquet") => each_parquet_batch(path, &mut |batch| {
                let letters = LetterRows::of(batch)?;
                (0..letters.len()).for_each(|row| each(Self::of_row(&letters.row(row))));
                Ok(())
            }),
            _ => Err(io::Error::other("expected a file of dead letters, `.jsonl` or `.parquet`")),
        }
    }

    fn of_row(letter: &LetterRow<'_>) -> Self {
        let bytes = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let headers = letter.headers.iter().map(|&(name, value)| (name.to_owned(), bytes(value)));
        Self {
            time_us: letter.time_us,
            job: letter.job.to_owned(),
            input: letter.input.to_owned(),
            format: letter.format.map(str::to_owned),
            schema_id: letter.schema_id,
            class: letter.class.to_owned(),
            error: letter.error.to_owned(),
            record: KeptRecord {
                topic: letter.topic.to_owned(),
                partition: letter.partition,
                offset: letter.offset,
                timestamp_ms: letter.timestamp_us.div_euclid(1_000),
                key: bytes(letter.key),
                value: bytes(letter.value),
                headers: headers.collect(),
            },
        }
    }
}
