//! `cargo xtask conformance FILE...`: worked examples of the SQL dialects, run through the planner and the engine.
//!
//! A case is rows in, a query, rows out ([`Case`]); it passes when the rows are equal ([`compare`]). A query that is
//! refused, a panic, and a run of more than [`TIME_LIMIT`] fail that case alone.

mod case;
mod compare;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

pub use self::case::{Case, Row, Settings, TimestampColumn};
pub use self::compare::difference;

/// What one case may take; a case that takes longer waits for something that does not come.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// As the main thread of the product: planning recurses, and unoptimised code takes wide frames.
const STACK_BYTES: usize = 8 << 20;

/// The cases of a file, a JSON array of them.
///
/// # Errors
/// When the file cannot be read or is not of that format.
pub fn read(file: &Path) -> Result<Vec<Case>> {
    let text = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("`{}` is no file of cases", file.display()))
}

/// Runs the cases of all files as the caller asks for the next: a case's name, and the error `expected ..., got ...` when
/// it failed.
///
/// # Errors
/// When a file cannot be read; then nothing is run.
pub fn run_files(files: &[PathBuf]) -> Result<impl Iterator<Item = (String, Result<(), String>)>> {
    let cases = files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    Ok(cases.into_iter().flatten().map(|case| {
        let case = Arc::new(case);
        (case.id.clone(), check(&case, run::run_case))
    }))
}

/// Runs a case on a thread of its own and compares its rows; the error is `expected ..., got ...` on one line.
fn check(case: &Arc<Case>, run: fn(&Case) -> Result<Vec<Row>>) -> Result<(), String> {
    let got = match isolated(Arc::clone(case), run) {
        Ok(rows) => match difference(case, &rows) {
            None => return Ok(()),
            Some(difference) => difference,
        },
        Err(failure) => failure,
    };
    let expected = serde_json::to_string(&case.expected).expect("rows of JSON values");
    Err(format!("expected {expected}, got {}", got.replace('\n', " ")))
}

/// The rows of a case, or what became of it instead. A thread that runs on past the limit is left behind.
fn isolated(case: Arc<Case>, run: fn(&Case) -> Result<Vec<Row>>) -> Result<Vec<Row>, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let thread = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .name(case.id.clone())
        // The receiver is gone only when the time is up, and then nobody asks.
        .spawn(move || drop(sender.send(run(&case))))
        .map_err(|error| format!("no thread: {error}"))?;
    match receiver.recv_timeout(TIME_LIMIT) {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(error)) => Err(format!("an error: {error:#}")),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("nothing within {} s", TIME_LIMIT.as_secs())),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = thread.join().expect_err("it sends, or it panics");
            Err(format!("a panic: {}", panic_text(&*panic)))
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}

#[cfg(test)]
mod tests;
