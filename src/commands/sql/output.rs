//! Where the rows of an answer go, and how they are written.

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tidemill_jobs::sql::{AnswerFormat, AnswerWriter};

use crate::cli::RowFormat;

/// What the command line says of it.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) format: AnswerFormat,
    path: Option<PathBuf>,
}

/// A file under a name that says that it is not whole.
pub(super) struct Unfinished {
    aside: PathBuf,
    path: PathBuf,
}

impl Output {
    /// # Errors
    /// In words, for bytes on a terminal.
    pub(super) fn new(format: Option<RowFormat>, path: Option<&Path>) -> Result<Self> {
        let to_terminal = path.is_none() && io::stdout().is_terminal();
        let of_name = match path.and_then(Path::extension).and_then(|extension| extension.to_str()) {
            Some("csv") => RowFormat::Csv,
            Some("parquet") => RowFormat::Parquet,
            Some("arrow" | "ipc" | "feather") => RowFormat::Arrow,
            _ if to_terminal => RowFormat::Table,
            _ => RowFormat::Json,
        };
        let format = match (format.unwrap_or(of_name), path) {
            (RowFormat::Parquet | RowFormat::Arrow, None) if to_terminal => {
                bail!("the format is not for a terminal; give `-o FILE`, or a pipe")
            }
            (RowFormat::Table, _) => AnswerFormat::Table,
            (RowFormat::Json, _) => AnswerFormat::Json,
            (RowFormat::Csv, _) => AnswerFormat::Csv,
            (RowFormat::Parquet, _) => AnswerFormat::Parquet,
            (RowFormat::Arrow, None) => AnswerFormat::ArrowStream,
            (RowFormat::Arrow, Some(_)) => AnswerFormat::ArrowFile,
        };
        Ok(Self { format, path: path.map(Path::to_owned) })
    }

    /// Whether rows and the status line share the terminal.
    pub(super) fn is_watched(&self) -> bool {
        self.path.is_none() && io::stdout().is_terminal()
    }

    /// Whether rows are written as a job's output to stdout has them.
    pub(super) fn is_of_jobs(&self) -> bool {
        self.is_watched() || self.path.is_none() && self.format == AnswerFormat::Json
    }

    /// Something to write to, and what has to be done when it is whole.
    pub(super) fn open(&self) -> Result<(Box<dyn Write + Send>, Option<Unfinished>)> {
        let Some(path) = &self.path else { return Ok((Box::new(BufWriter::new(io::stdout())), None)) };
        let mut name = path.file_name().context("`-o` needs the name of a file")?.to_owned();
        name.push(".part");
        let aside = path.with_file_name(name);
        let file = File::create(&aside).with_context(|| format!("cannot write `{}`", aside.display()))?;
        Ok((Box::new(BufWriter::new(file)), Some(Unfinished { aside, path: path.clone() })))
    }
}

impl Unfinished {
    /// Gives it its name.
    pub(super) fn finish(self) -> Result<()> {
        fs::rename(&self.aside, &self.path).with_context(|| format!("cannot write `{}`", self.path.display()))
    }

    /// It will not be whole.
    pub(super) fn discard(self) {
        let _ = fs::remove_file(&self.aside); // what cannot be removed keeps its name, which says so
    }
}

/// The writer of all answers.
pub(super) type Writer = AnswerWriter<Box<dyn Write + Send>>;
