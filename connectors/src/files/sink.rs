//! The `file` output: files that appear only when they are whole, and in a job that goes on only when their epoch is committed.
//!
//! Rows go into a hidden `.part` next to its final place, which is synced when it is large enough or old enough. In a run by
//! itself ([`FileSink::open`]) it then gets its name, `<output>-<run>-<sequence>.<extension>`, and at each [`Sink::flush`]. In
//! epochs ([`FileSink::in_epochs`]) [`Sink::prepare`] makes it a hidden `.ready`, named by generation and epoch, and
//! [`Sink::publish`] gives it its name, `<output>-<generation>-<epoch>-<sequence>.<extension>`. A start publishes the parts of
//! the last epoch, should its run have died before it could, and removes the others of generations before its own: no epoch of theirs can
//! be committed any more. Those of later ones are not its to judge: it may have been frozen while they were made. So a file is never longer
//! than an epoch of rows. Names sort in the order in which they were written.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use tidemill_engine::{Clock, EngineError, ErrorKind, Monotonic, Result, signal::EpochId, sink::Sink};

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
    naming: Naming,
    directory: PathBuf,
    format: OutputFormat,
    rolling: Rolling,
    clock: Arc<dyn Clock>,
    /// Number of the next file.
    sequence: u64,
    current: Option<OpenFile>,
    /// Parts that are whole and belong to the epoch under way.
    whole: Vec<Part>,
    /// Parts of the epoch that is prepared.
    ready: Vec<Part>,
    /// The bytes of one batch, reused.
    rows: EncodedRows,
}

/// What is in the names of files.
enum Naming {
    /// The id of a run by itself.
    Run(String),
    /// The job and the generation of its run.
    Epochs { job: String, generation: u64 },
}

/// A hidden file, and its number.
struct Part {
    hidden: PathBuf,
    sequence: u64,
}

/// A file that nobody sees yet. The lock on it lives as long as it is open: whoever finds the file without a lock knows
/// that its run is dead.
struct OpenFile {
    part: Part,
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
        let naming = Naming::Run(run.replace('-', "_"));
        let failed = |error: io::Error| failure(output, "write to directory", directory, &error);
        let sink = Self::new(output, naming, directory, format, rolling, clock).map_err(failed)?;
        let removed = remove_leftovers(directory, &format!(".{output}-"), |_| true);
        removed.map_err(failed)?;
        Ok(sink)
    }

    /// Prepares the directory for a run of a job whose rows are committed in epochs. Parts of the last epoch of the job,
    /// `committed` (generation, epoch), get their names; what else was left over by generations before its own goes.
    ///
    /// # Errors
    /// As [`FileSink::open`].
    pub fn in_epochs(
        output: &str,
        (job, generation): (&str, u64),
        committed: Option<(u64, u64)>,
        directory: &Path,
        (format, rolling): (OutputFormat, Rolling),
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let naming = Naming::Epochs { job: job.to_owned(), generation };
        let sink = Self::new(output, naming, directory, format, rolling, clock);
        let sink = sink.map_err(|error| unavailable(output, directory, &error))?;
        let prefix = format!(".{job}.{output}-");
        let is_over = |run: &str| run.parse::<u64>().is_ok_and(|of| of < generation);
        let settled = settle_ready(directory, &prefix, output, (generation, committed))
            .and_then(|()| remove_leftovers(directory, &prefix, is_over))
            .and_then(|()| File::open(directory)?.sync_all());
        settled.map_err(|error| unavailable(output, directory, &error))?;
        Ok(sink)
    }

    fn new(
        output: &str,
        naming: Naming,
        directory: &Path,
        format: OutputFormat,
        rolling: Rolling,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        prepare_directory(directory)?;
        Ok(Self {
            output: output.to_owned(),
            naming,
            directory: directory.to_owned(),
            format,
            rolling,
            clock,
            sequence: 1,
            current: None,
            whole: vec![],
            ready: vec![],
            rows: EncodedRows::default(),
        })
    }

    /// Whether there are rows that [`Sink::flush`] would publish.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        self.current.is_some()
    }

    /// Writes what the current file has in memory, and leaves it open.
    pub(super) fn write_through(&mut self) -> Result<()> {
        let Some(OpenFile { body: Body::Parquet(encoder), part, .. }) = &mut self.current else { return Ok(()) };
        match encoder.end_row_group() {
            Ok(()) => Ok(()),
            Err(error) => {
                let hidden = part.hidden.clone();
                self.current = None;
                Err(self.failure("write", &hidden, &error))
            }
        }
    }

    fn open_file(&mut self, schema: SchemaRef) -> Result<OpenFile> {
        let part = self.next_part();
        let encoder = self.format.row_encoder();
        let header = encoder.as_ref().map_or(Ok(Vec::new()), |encoder| encoder.header(&schema))?;
        let create = || -> io::Result<Body> {
            let mut file = File::create_new(&part.hidden)?;
            // A file system without locks costs only the removal of leftovers, which then stay.
            let _ = file.try_lock();
            let Some(encoder) = encoder else {
                return Ok(Body::Parquet(Box::new(ParquetEncoder::new(file, schema.clone())?)));
            };
            file.write_all(&header)?;
            Ok(Body::Lines { file, encoder, size: header.len() as u64 })
        };
        let body = create().map_err(|error| self.failure("create", &part.hidden, &error))?;
        Ok(OpenFile { part, schema, since: self.clock.monotonic(), body })
    }

    /// A hidden file whose final name no file has.
    fn next_part(&mut self) -> Part {
        loop {
            let sequence = self.sequence;
            self.sequence += 1;
            let (output, extension) = (&self.output, self.format.extension());
            let hidden = match &self.naming {
                Naming::Run(run) => {
                    let name = format!("{output}-{run}-{sequence:06}.{extension}");
                    if self.directory.join(&name).exists() {
                        continue;
                    }
                    format!(".{name}.part")
                }
                Naming::Epochs { job, generation } => {
                    format!(".{job}.{output}-{generation:010}-{sequence:06}.{extension}.part")
                }
            };
            return Part { hidden: self.directory.join(hidden), sequence };
        }
    }

    /// Completes the current file, if any: in a run by itself it gets its name, otherwise it waits for its epoch.
    fn complete(&mut self) -> Result<()> {
        let Some(OpenFile { part, body, .. }) = self.current.take() else { return Ok(()) };
        let finish = || -> io::Result<()> {
            let file = match body {
                Body::Lines { file, .. } => file,
                Body::Parquet(encoder) => encoder.finish()?,
            };
            file.sync_all()
        };
        finish().map_err(|error| self.failure("finish", &part.hidden, &error))?;
        match &self.naming {
            Naming::Run(run) => {
                let (output, extension) = (&self.output, self.format.extension());
                let path = self.directory.join(format!("{output}-{run}-{:06}.{extension}", part.sequence));
                // The name itself is safe only when the directory is.
                let named = fs::rename(&part.hidden, &path).and_then(|()| File::open(&self.directory)?.sync_all());
                named.map_err(|error| failure(&self.output, "finish", &path, &error))
            }
            Naming::Epochs { .. } => {
                self.whole.push(part);
                Ok(())
            }
        }
    }

    /// Gives hidden parts of an epoch a name that tells it.
    fn make_ready(&mut self, epoch: EpochId) -> io::Result<()> {
        let Naming::Epochs { job, generation } = &self.naming else { return Ok(()) };
        let (output, extension) = (&self.output, self.format.extension());
        for Part { hidden, sequence } in self.whole.drain(..) {
            let name = format!(".{job}.{output}-{generation:010}-{:012}-{sequence:06}.{extension}.ready", epoch.0);
            let ready = self.directory.join(name);
            fs::rename(&hidden, &ready)?;
            self.ready.push(Part { hidden: ready, sequence });
        }
        File::open(&self.directory)?.sync_all()
    }

    /// A fault of the disk. What is not committed can be written again from the last epoch on, once there is room.
    fn failure(&self, action: &str, path: &Path, error: &io::Error) -> EngineError {
        match self.naming {
            Naming::Run(_) => failure(&self.output, action, path, error),
            Naming::Epochs { .. } => EngineError::Interrupted {
                output: self.output.clone(),
                message: format!("cannot {action} `{}`: {error}", path.display()),
            },
        }
    }

    fn publish_prepared(&mut self) -> io::Result<()> {
        let Naming::Epochs { job, .. } = &self.naming else { return Ok(()) };
        for Part { hidden, .. } in self.ready.drain(..) {
            show(&hidden, &format!(".{job}."))?;
        }
        File::open(&self.directory)?.sync_all()
    }
}

impl Sink for FileSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        if self.current.as_ref().is_some_and(|file| file.schema != *batch.schema_ref()) {
            self.complete()?;
        }
        if self.current.is_none() {
            self.current = Some(self.open_file(batch.schema())?);
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
            Ok(size) if size >= self.rolling.size => self.complete(),
            Ok(_) => Ok(()),
            Err(error) => {
                let hidden = file.part.hidden.clone();
                let error = self.failure("write", &hidden, &error);
                // Half a row may be in it: it must never get its name.
                self.current = None;
                Err(error)
            }
        }
    }

    /// Completes the current file.
    fn flush(&mut self) -> Result<()> {
        self.complete()
    }

    fn prepare(&mut self, epoch: EpochId) -> Result<()> {
        self.complete()?;
        if self.whole.is_empty() {
            return Ok(());
        }
        self.make_ready(epoch).map_err(|error| self.failure("prepare parts in", &self.directory, &error))
    }

    fn publish(&mut self) -> Result<()> {
        if self.ready.is_empty() {
            return Ok(());
        }
        self.publish_prepared().map_err(|error| self.failure("publish parts in", &self.directory, &error))
    }

    fn tick(&mut self) -> Result<()> {
        let Some(file) = &self.current else { return Ok(()) };
        let age_micros = self.clock.monotonic().0.saturating_sub(file.since.0);
        if age_micros as u128 >= self.rolling.every.as_micros() { self.complete() } else { Ok(()) }
    }

    /// Completes the current file; what belongs to no epoch by now is removed by the next start.
    fn close(&mut self) -> Result<()> {
        self.complete()
    }
}

/// Gives a `.ready` file its final name: its own without what hides it. It may have it already.
fn show(ready: &Path, hiding: &str) -> io::Result<()> {
    let name = ready.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix(hiding).and_then(|name| name.strip_suffix(".ready")).unwrap_or(&name);
    let path = ready.with_file_name(name);
    match (ready.exists(), path.exists()) {
        (true, true) => Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("`{}` exists", path.display()))),
        (false, true) => Ok(()),
        _ => fs::rename(ready, path),
    }
}

/// Publishes the ready parts of an output that belong to the committed epoch, and removes the others of generations before this one.
fn settle_ready(
    directory: &Path,
    prefix: &str,
    output: &str,
    (generation, committed): (u64, Option<(u64, u64)>),
) -> io::Result<()> {
    let hiding = prefix.strip_suffix(&format!("{output}-")).unwrap_or(prefix);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(prefix).filter(|rest| rest.ends_with(".ready")) else { continue };
        let mut numbers = rest.splitn(3, '-').map(|number| number.parse::<u64>().ok());
        match numbers.next().flatten().zip(numbers.next().flatten()) {
            Some(of) if Some(of) == committed => show(&entry.path(), hiding)?,
            Some((of, _)) if of < generation => fs::remove_file(entry.path())?,
            _ => {}
        }
    }
    Ok(())
}

/// Removes hidden parts whose names begin like this, of runs that are over, and that no process holds.
fn remove_leftovers(directory: &Path, prefix: &str, is_over: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if run_of_part(prefix, &entry.file_name().to_string_lossy()).is_some_and(&is_over)
            && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok())
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The run in a name `<prefix><run>-<sequence>.<extension>.part`; not of output `clicks-eu` when `clicks` is asked for, as a
/// run has no `-`.
fn run_of_part<'n>(prefix: &str, name: &'n str) -> Option<&'n str> {
    let (run, rest) = name.strip_prefix(prefix)?.strip_suffix(".part")?.split_once('-')?;
    let sequence = rest.split('.').next().unwrap_or_default();
    (!sequence.is_empty() && sequence.bytes().all(|byte| byte.is_ascii_digit())).then_some(run)
}

/// A directory that a job in epochs cannot use now: it may have been full for a while.
fn unavailable(output: &str, directory: &Path, error: &io::Error) -> EngineError {
    EngineError::Sink {
        output: output.to_owned(),
        kind: ErrorKind::Unavailable,
        message: format!("cannot write to directory `{}`: {error}", directory.display()),
    }
}

fn failure(output: &str, action: &str, path: &Path, error: &io::Error) -> EngineError {
    EngineError::Sink {
        output: output.to_owned(),
        kind: ErrorKind::User,
        message: format!("cannot {action} `{}`: {error}", path.display()),
    }
}
