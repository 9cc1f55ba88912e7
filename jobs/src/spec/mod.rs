//! The job spec: YAML on one side, a [`Job`] that cannot be invalid on the other.
//!
//! ```text
//! text --yaml--> Node --deserialize--> RawJob --validate--> Job
//! ```
//! - [`yaml`] makes a tree of nodes that know their positions, with bounds on depth and size;
//! - [`deserialize`] turns it into the types of [`raw`], which are what the JSON Schema is generated from;
//! - [`validate`] checks what types cannot say and makes the [`Job`].
//!
//! Every stage reports all that it finds, and a mistake found in one is not reported again by the next: a spec with five
//! mistakes lists five ([`SpecErrors`]). Nothing here connects to anything; the only files read are the spec, its
//! `query_file` and the schemas that formats name. No text makes it panic.

mod check;
mod columns;
mod context;
mod deserialize;
mod format;
mod job;
mod json_schema;
mod named;
mod problem;
mod query;
mod raw;
mod reference;
mod schedule;
mod security;
mod syntax;
mod tokens;
mod transport;
mod units;
mod validate;
mod yaml;

use std::{fs::File, io::Read, path::Path as FilePath};

pub use context::Context;
pub use format::{
    AvroInput, AvroOutput, InputFormat, JsonOptions, OutputFormat, ProtobufInput, ProtobufOutput, Registry,
};
pub use job::{
    Check, Compatibility, Delivery, Fetch, FileInput, FileOutput, Input, InputTransport, Isolation, Job, KafkaInput,
    KafkaOutput, LatePolicy, OnBadRecord, OnOutputError, Output, OutputTransport, Partitioner, Query, Start, State,
    StateStore, Time, Timestamp,
};
pub use json_schema::json_schema;
pub use problem::{Position, Problem, SpecErrors};
pub use reference::reference;
pub use units::{ByteSize, Duration, UnitError};

use problem::Path;
use raw::RawJob;

/// Largest text of a spec or a query, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the spec in a file.
///
/// # Errors
/// Every problem of the spec, or that the file cannot be read.
pub fn load(path: &FilePath) -> Result<Job, SpecErrors> {
    let file = path.display().to_string();
    let text = read_text(path).map_err(|error| SpecErrors::of_file(&file, error))?;
    let directory = path.parent().unwrap_or(FilePath::new(""));
    parse(&text, directory, &file)
}

/// Reads a spec from its text. Relative paths in it are put below `directory`; `file` is its name in messages.
///
/// # Errors
/// Every problem of the spec.
pub fn parse(text: &str, directory: &FilePath, file: &str) -> Result<Job, SpecErrors> {
    checked(text, directory, file, |raw, check| validate::validate(raw, check))
}

/// Reads what questions can be asked of from a file: the `inputs` of a spec, and what they need of it.
///
/// # Errors
/// Every problem of these, or that the file cannot be read.
pub fn load_context(path: &FilePath) -> Result<Context, SpecErrors> {
    let file = path.display().to_string();
    let text = read_text(path).map_err(|error| SpecErrors::of_file(&file, error))?;
    parse_context(&text, path.parent().unwrap_or(FilePath::new("")), &file)
}

/// The same from its text; see [`parse`].
///
/// # Errors
/// Every problem of the inputs.
pub fn parse_context(text: &str, directory: &FilePath, file: &str) -> Result<Context, SpecErrors> {
    checked(text, directory, file, context::context)
}

/// Text to raw spec to what `validate` makes of it, with all problems on the way.
fn checked<T>(
    text: &str,
    directory: &FilePath,
    file: &str,
    validate: impl FnOnce(&mut RawJob, &mut check::Check<'_>) -> Option<T>,
) -> Result<T, SpecErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (root, yaml_faults) = yaml::parse(text);
    let mut root = root.unwrap_or(yaml::Node { at: Position { line: 1, column: 1 }, value: yaml::Value::Removed });
    if yaml_faults.is_empty() && matches!(root.value, yaml::Value::Null | yaml::Value::Removed) {
        return Err(SpecErrors::of_file(file, "is empty; expected a job".to_owned()));
    }
    let outcome = match root.value {
        yaml::Value::Removed => deserialize::Outcome { value: None, faults: Vec::new(), meant: Vec::new() },
        _ => deserialize::deserialize::<RawJob>(&mut root),
    };
    let mut check = check::Check { file, directory, text, root: &root, meant: outcome.meant, problems: Vec::new() };
    for fault in yaml_faults {
        check.problem_at(fault.at, &Path::default(), fault.message);
    }
    for fault in outcome.faults {
        check.problem_at(fault.at.unwrap_or(Position { line: 1, column: 1 }), &fault.path, fault.message);
    }
    let valid = outcome.value.and_then(|mut raw| validate(&mut raw, &mut check));
    match valid {
        Some(valid) if check.problems.is_empty() => Ok(valid),
        _ => Err(SpecErrors::new(file, check.problems)),
    }
}

/// The text of a file.
///
/// # Errors
/// Why there is none.
fn read_text(path: &FilePath) -> Result<String, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("larger than {}", ByteSize::from_mib(1)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        format!("line {} is not UTF-8", 1 + good.iter().filter(|byte| **byte == b'\n').count())
    })
}

#[cfg(test)]
mod tests;
