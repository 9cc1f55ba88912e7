//! The `file` output: files that appear only when they are whole.
//!
//! Rows go into a hidden file next to its final place; it is synced and renamed when it is large enough or old enough, and
//! at each [`Sink::flush`], that is, whenever the job commits what it has read. So a file is never longer than a commit
//! interval of rows: with a short interval, files are small. Names are `<output>-<run>-<sequence>.<extension>`: they sort in
//! the order in which they were written, within a run, and across runs when the run's id begins with its time.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use tidemill_engine::{Clock, EngineError, ErrorKind, Monotonic, Result, sink::Sink};

use super::prepare_directory;
use crate::formats::encode::{EncodedRows, ParquetEncoder, RowEncoder};

/// Makes the encoder of one file.
pub type EncoderFactory = Box<dyn Fn() -> Box<dyn RowEncoder> + Send>;

/// What an output file holds.
pub enum OutputFormat {
    /// Rows, lines or blocks, with a header.
    Rows {
        /// What the files' names end with, `jsonl`.
        extension: String,
        /// Makes their encoder.
        encoder: EncoderFactory,
    },
    /// Parquet with zstd, `.parquet`.
    Parquet,
}

impl OutputFormat {
    fn extension(&self) -> &str {
        match self {
            Self::Rows { extension, .. } => extension,
            Self::Parquet => "parquet",
        }
    }

    fn row_encoder(&self) -> Option<Box<dyn RowEncoder>> {
        match self {
            Self::Rows { encoder, .. } => Some(encoder()),
            Self::Parquet => None,
        }
    }
}

/// When a file is complete, whichever comes first; a flush comes before both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rolling {
    /// When it has at least this many bytes. A file is longer by at most one batch.
    pub size: u64,
    /// When its first row was written this long ago.
    pub every: Duration,
}

/// Writes the rows of one output into files of one directory.
pub struct FileSink {
    output: String,
    run: String,
    directory: PathBuf,
    format: OutputFormat,
    rolling: Rolling,
    clock: Arc<dyn Clock>,
    /// Number of the next file.
    sequence: u64,
    current: Option<OpenFile>,
    /// The bytes of one batch, reused.
    rows: EncodedRows,
}

/// A file that nobody sees yet. The lock on it lives as long as it is open: whoever finds the file without a lock knows
/// that its run is dead.
struct OpenFile {
    hidden: PathBuf,
    path: PathBuf,
    schema: SchemaRef,
    since: Monotonic,
    body: Body,
}

enum Body {
    Lines { file: File, encoder: Box<dyn RowEncoder>, size: u64 },
    Parquet(Box<ParquetEncoder>),
}

impl FileSink {
    /// Prepares the directory, which is created where it is missing, and removes what dead runs of this output left
    /// unfinished. `run` is this run's id; it must be unique, and a `-` in it
    /// becomes `_` in the file names.
    ///
    /// # Errors
    /// [`EngineError::Sink`] when the directory cannot be created or written.
    pub fn open(
        output: &str,
        run: &str,
        directory: &Path,
        format: OutputFormat,
        rolling: Rolling,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let failure = |error| failure(output, "write to directory", directory, &error);
        prepare_directory(directory).map_err(failure)?;
        remove_leftovers(directory, output).map_err(failure)?;
        Ok(Self {
            output: output.to_owned(),
            run: run.replace('-', "_"),
            directory: directory.to_owned(),
            format,
            rolling,
            clock,
            sequence: 1,
            current: None,
            rows: EncodedRows::default(),
        })
    }

    /// Whether there are rows that [`Sink::flush`] would publish.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        self.current.is_some()
    }

    fn open_file(&self, path: PathBuf, schema: SchemaRef) -> Result<OpenFile> {
        let hidden = hidden(&path);
        let encoder = self.format.row_encoder();
        let header = encoder.as_ref().map_or(Ok(Vec::new()), |encoder| encoder.header(&schema))?;
        let create = || -> io::Result<Body> {
            let mut file = File::create_new(&hidden)?;
            // A file system without locks costs only the removal of leftovers, which then stay.
            let _ = file.try_lock();
            let Some(encoder) = encoder else {
                return Ok(Body::Parquet(Box::new(ParquetEncoder::new(file, schema.clone())?)));
            };
            file.write_all(&header)?;
            Ok(Body::Lines { file, encoder, size: header.len() as u64 })
        };
        let body = create().map_err(|error| failure(&self.output, "create", &hidden, &error))?;
        Ok(OpenFile { hidden, path, schema, since: self.clock.monotonic(), body })
    }

    /// A name that no file has.
    fn next_path(&mut self) -> PathBuf {
        loop {
            let (output, run, extension) = (&self.output, &self.run, self.format.extension());
            let path = self.directory.join(format!("{output}-{run}-{:06}.{extension}", self.sequence));
            self.sequence += 1;
            if !path.exists() {
                return path;
            }
        }
    }

    /// Gives the current file, if any, its name.
    fn publish(&mut self) -> Result<()> {
        let Some(OpenFile { hidden, path, body, .. }) = self.current.take() else { return Ok(()) };
        let finish = || -> io::Result<()> {
            let file = match body {
                Body::Lines { file, .. } => file,
                Body::Parquet(encoder) => encoder.finish()?,
            };
            file.sync_all()?;
            fs::rename(&hidden, &path)?;
            // The name itself is safe only when the directory is.
            File::open(&self.directory)?.sync_all()
        };
        finish().map_err(|error| failure(&self.output, "finish", &path, &error))
    }
}

impl Sink for FileSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.current.as_ref().is_some_and(|file| file.schema != *batch.schema_ref()) {
            self.publish()?;
        }
        if self.current.is_none() {
            let path = self.next_path();
            self.current = Some(self.open_file(path, batch.schema())?);
        }
        let Some(file) = &mut self.current else { return Ok(()) };
        let size = match &mut file.body {
            Body::Lines { file, encoder, size } => {
                self.rows.clear();
                encoder.encode(batch, &mut self.rows)?;
                *size += self.rows.lines().len() as u64;
                file.write_all(self.rows.lines()).map(|()| *size)
            }
            Body::Parquet(encoder) => encoder.write(batch).map(|()| encoder.size()),
        };
        match size {
            Ok(size) if size >= self.rolling.size => self.publish(),
            Ok(_) => Ok(()),
            Err(error) => {
                let error = failure(&self.output, "write", &file.hidden, &error);
                // Half a row may be in it: it must never get its name.
                self.current = None;
                Err(error)
            }
        }
    }

    /// Publishes the current file.
    fn flush(&mut self) -> Result<()> {
        self.publish()
    }

    fn tick(&mut self) -> Result<()> {
        let Some(file) = &self.current else { return Ok(()) };
        let age_micros = self.clock.monotonic().0.saturating_sub(file.since.0);
        if age_micros as u128 >= self.rolling.every.as_micros() { self.publish() } else { Ok(()) }
    }

    fn close(&mut self) -> Result<()> {
        self.publish()
    }
}

/// Where a file is until it is whole.
fn hidden(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.part"))
}

/// Removes hidden files of this output that no process holds.
fn remove_leftovers(directory: &Path, output: &str) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_hidden_file_of(output, &entry.file_name().to_string_lossy())
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether a name is `.<output>-<run>-<sequence>.<extension>.part`; not of output `clicks-eu` when `clicks` is asked for,
/// as a run has no `-`.
fn is_hidden_file_of(output: &str, name: &str) -> bool {
    let rest = name.strip_prefix('.').and_then(|name| name.strip_prefix(output)?.strip_prefix('-'));
    let Some((_run, rest)) = rest.and_then(|rest| rest.strip_suffix(".part")?.split_once('-')) else { return false };
    let sequence = rest.split('.').next().unwrap_or_default();
    !sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit())
}

fn failure(output: &str, action: &str, path: &Path, error: &io::Error) -> EngineError {
    EngineError::Sink {
        output: output.to_owned(),
        kind: ErrorKind::User,
        message: format!("cannot {action} `{}`: {error}", path.display()),
    }
}
