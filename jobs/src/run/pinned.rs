//! Inferred schemas are pinned: what the first start learned from a sample holds until `--reinfer`, so that a result does
//! not depend on which records a later start happens to look at. One Arrow IPC file without rows an input.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use arrow::{
    datatypes::SchemaRef,
    ipc::{reader::StreamReader, writer::StreamWriter},
};

use super::error::RunError;
use crate::spec::Job;

fn path(job: &Job, input: &str) -> PathBuf {
    job.state.store.join(&job.name).join(format!("{input}.schema.arrow"))
}

fn failure(path: &Path, message: impl std::fmt::Display) -> RunError {
    RunError::State { path: path.display().to_string(), message: message.to_string() }
}

/// The pinned schema of an input; `None` before the first start.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn load(job: &Job, input: &str) -> Result<Option<SchemaRef>, RunError> {
    let path = path(job, input);
    match File::open(&path) {
        Ok(file) => {
            let reader = StreamReader::try_new(file, None)
                .map_err(|error| failure(&path, format!("{error}; `--reinfer` makes a new one")))?;
            Ok(Some(reader.schema()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure(&path, error)),
    }
}

/// Pins a schema: written aside, then renamed.
///
/// # Errors
/// A directory that cannot be written.
pub(super) fn store(job: &Job, input: &str, schema: &SchemaRef) -> Result<(), RunError> {
    let path = path(job, input);
    let aside = path.with_extension("part");
    let write = || -> Result<(), Box<dyn std::error::Error>> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        let mut writer = StreamWriter::try_new(File::create(&aside)?, schema)?;
        writer.finish()?;
        writer.into_inner()?.sync_all()?;
        fs::rename(&aside, &path)?;
        Ok(())
    };
    write().map_err(|error| failure(&path, error))
}
