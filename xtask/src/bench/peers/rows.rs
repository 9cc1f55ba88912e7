//! What a query gave, so that two engines can be held against each other: rows have no order, and each engine writes times and
//! numbers its own way.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use chrono::NaiveDateTime;
use serde_json::Value;

/// How many rows, and a checksum that does not depend on their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) count: u64,
    checksum: u64,
}

/// The rows in the files of a folder, JSON lines; hidden files are not whole yet.
///
/// # Errors
/// When one cannot be read or is no JSON.
pub(super) fn in_folder(folder: &Path) -> Result<Rows> {
    let mut rows = Rows::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") || entry.file_type()?.is_dir() {
            continue;
        }
        for line in BufReader::new(File::open(entry.path())?).lines() {
            let line = line?;
            rows.add(&serde_json::from_str(&line).with_context(|| format!("no row: {line}"))?);
        }
    }
    Ok(rows)
}

impl Rows {
    fn add(&mut self, row: &BTreeMap<String, Value>) {
        let mut hasher = DefaultHasher::new();
        for (name, value) in row {
            (name, canonical(value)).hash(&mut hasher);
        }
        self.count += 1;
        self.checksum = self.checksum.wrapping_add(hasher.finish());
    }
}

/// A value in one spelling. Amounts have two decimals and so have their sums; what differs behind them is how floats were added.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("{:.2}", number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => {
            let time = text.trim_end_matches('Z').replace(' ', "T");
            match NaiveDateTime::parse_from_str(&time, "%Y-%m-%dT%H:%M:%S%.f") {
                Ok(time) => time.and_utc().timestamp_micros().to_string(),
                Err(_) => text.clone(),
            }
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(files: &[&str]) -> Rows {
        let folder = tempfile::tempdir().unwrap();
        for (i, text) in files.iter().enumerate() {
            fs::write(folder.path().join(format!("part-{i}")), text).unwrap();
        }
        fs::write(folder.path().join(".part"), "not whole").unwrap();
        in_folder(folder.path()).unwrap()
    }

    #[test]
    fn spelling_and_order_make_no_difference() {
        let ours = rows(&[
            "{\"a\":\"user-1\",\"at\":\"2024-01-01T00:00:01.500Z\",\"n\":1,\"sum\":0.30000000000000004}\n{\"a\":\"é\"}\n",
        ]);
        let theirs =
            rows(&["{\"a\":\"é\"}\n", "{\"at\":\"2024-01-01 00:00:01.5\",\"sum\":0.3,\"n\":1,\"a\":\"user-1\"}\n"]);
        assert_eq!(ours, theirs);
        assert_eq!(ours.count, 2);
    }

    #[test]
    fn values_names_and_repetitions_do() {
        let one = rows(&["{\"a\":1.25}\n"]);
        for other in ["{\"a\":1.26}\n", "{\"b\":1.25}\n", "{\"a\":1.25}\n{\"a\":1.25}\n", ""] {
            assert_ne!(rows(&[other]), one, "{other}");
        }
    }
}
