//! Inferred schemas are pinned: what the first start learned from a sample holds until `--reinfer`, so that a result does
//! not depend on which records a later start happens to look at. One Arrow IPC object without rows an input.

use std::io::Cursor;

use arrow::{
    datatypes::SchemaRef,
    ipc::{reader::StreamReader, writer::StreamWriter},
};

use super::error::RunError;
use crate::epoch::store::Store;

fn name(input: &str) -> String {
    format!("{input}.schema.arrow")
}

/// The pinned schema of an input; `None` before the first start.
///
/// # Errors
/// An object that cannot be read.
pub(super) fn load(store: &Store, input: &str) -> Result<Option<SchemaRef>, RunError> {
    let Some(bytes) = store.get(&name(input))? else { return Ok(None) };
    let reader = StreamReader::try_new(Cursor::new(bytes), None);
    let reader = reader.map_err(|error| RunError::State {
        path: name(input),
        message: format!("{error}; `--reinfer` makes a new one"),
    })?;
    Ok(Some(reader.schema()))
}

/// Pins a schema.
///
/// # Errors
/// A store that cannot be written.
pub(super) fn store(store: &Store, input: &str, schema: &SchemaRef) -> Result<(), RunError> {
    let mut bytes = vec![];
    let written = StreamWriter::try_new(&mut bytes, schema).and_then(|mut writer| writer.finish());
    written.map_err(|error| RunError::State { path: name(input), message: error.to_string() })?;
    Ok(store.put(&name(input), bytes)?)
}
