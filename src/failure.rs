//! How a command fails: what is said about it, once, on stderr, and the exit code.

use std::{error::Error, panic, path::Path, process::ExitCode, thread};

use tidemill_jobs::spec::{Problem, Query, SpecErrors};
use tidemill_queries::QueryErrors;

use crate::terminal;

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The job has mistakes that can be seen without a connection.
    Invalid(SpecErrors),
    /// The same, and the command has shown them.
    InvalidAndShown,
    /// Anything that took a connection or the disk.
    AtRunTime(anyhow::Error),
    /// The same, and the command has shown it.
    AtRunTimeAndShown,
}

impl From<SpecErrors> for Failure {
    fn from(errors: SpecErrors) -> Self {
        Self::Invalid(errors)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::AtRunTime(error)
    }
}

impl Failure {
    /// Says it, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Invalid(errors) => {
                let count = match errors.problems.len() {
                    1 => "1 mistake".to_owned(),
                    count => format!("{count} mistakes"),
                };
                terminal::say(&format!("{errors}\nerror: {count}"));
                ExitCode::from(2)
            }
            Self::InvalidAndShown => ExitCode::from(2),
            Self::AtRunTimeAndShown => ExitCode::from(1),
            Self::AtRunTime(error) => {
                terminal::say(&format!("error: {}", with_sources(error.as_ref())));
                ExitCode::from(1)
            }
        }
    }
}

/// An error and its sources. Some errors say what their source says: that is left out.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}

/// Mistakes of a query, in the file that it is written in.
pub(crate) fn in_file(query: &Query, errors: &QueryErrors) -> SpecErrors {
    let problem = |error: &tidemill_queries::QueryError| {
        let position = query.locate(error.line, error.column);
        let help = error.help.as_ref().map_or(String::new(), |help| format!("; {help}"));
        let line = usize::try_from(error.line).ok().and_then(|line| query.text.lines().nth(line.checked_sub(1)?));
        let indent = usize::try_from(error.column).ok().and_then(|column| position.column.checked_sub(column));
        Problem {
            file: query.file.clone(),
            position: Some(position),
            path: String::new(),
            message: format!("{}{help}", error.message),
            source_line: line.zip(indent).map(|(line, indent)| format!("{}{line}", " ".repeat(indent))),
        }
    };
    SpecErrors { problems: errors.errors().iter().map(problem).collect() }
}

/// A mistake of a file as a whole.
pub(crate) fn of_file(path: &Path, message: &str) -> Failure {
    let (file, message) = (path.display().to_string(), message.to_owned());
    let problem = Problem { file, position: None, path: String::new(), message, source_line: None };
    Failure::Invalid(SpecErrors { problems: vec![problem] })
}

/// Keeps panics to a line. Those of a run's threads are caught and reported by the run; their place goes to the log.
pub(crate) fn hush_panics() {
    panic::set_hook(Box::new(|panic| match thread::current().name() {
        Some("main") => terminal::say(&format!("error: {panic}; please report this as a bug")),
        name => tracing::debug!("thread {}: {panic}", name.unwrap_or("without name")),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_once() {
        let error = anyhow::anyhow!("no space left").context("disk: no space left").context("cannot write");
        assert_eq!(with_sources(error.as_ref()), "cannot write: disk: no space left");
    }
}
