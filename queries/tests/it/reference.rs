//! The reference page: up to date, its examples true, and no function of ASA's reference unknown.

use std::{fs, path::Path};

use chrono::{DateTime, Utc};
use serde_json::Value;
use tidemill_queries::{EXAMPLE_COLUMN, EXAMPLE_ROW, function_docs, function_reference};

use crate::run::{Input, query_rows};

/// The column `x` of the rows that a query gives.
fn results(query: &str, rows: &str) -> Result<Vec<Value>, String> {
    let rows = query_rows(query, Input::new("t", rows, &[]))?;
    Ok(rows.iter().map(|row| serde_json::from_str::<Value>(row).unwrap()["x"].clone()).collect())
}

/// That of the one row that a query gives.
fn result(query: &str, rows: &str) -> Result<Value, String> {
    let [value] = results(query, rows)?.try_into().map_err(|rows| format!("expected one row, found {rows:?}"))?;
    Ok(value)
}

#[test]
fn examples_of_the_reference_page_are_true() {
    let column = EXAMPLE_COLUMN.iter().map(|x| format!("{{\"x\": {x}}}")).collect::<Vec<_>>().join("\n");
    for (group, docs) in function_docs() {
        for doc in docs {
            assert!(!doc.examples.is_empty(), "{} has no example", doc.signature);
            for (expression, expected) in doc.examples {
                let (query, rows) = match group {
                    "Aggregates" => (
                        format!(
                            "SELECT {expression} AS x FROM t GROUP BY TumblingWindow(Duration(minute, 1), Offset(second, 30))"
                        ),
                        column.as_str(),
                    ),
                    _ => (format!("SELECT {expression} AS x FROM t"), EXAMPLE_ROW),
                };
                let found = match group {
                    "Over the rows before" => results(&query, &column).map(Value::Array),
                    _ => result(&query, rows),
                };
                let found = found.unwrap_or_else(|e| panic!("{expression}: {e}"));
                let expected: Value = serde_json::from_str(expected).unwrap();
                let same_instant = || Some(instant(&found)? == instant(&expected)?);
                assert!(
                    found == expected || same_instant() == Some(true),
                    "{expression} gives {found}, not {expected}"
                );
            }
        }
    }
}

/// arrow's writer prints as many fractional digits as there are; ours prints seven.
fn instant(value: &Value) -> Option<DateTime<Utc>> {
    value.as_str()?.parse().ok()
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/functions.md");
    if std::env::var_os("TIDEMILL_UPDATE").is_some() {
        fs::write(&path, function_reference()).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == function_reference(),
        "docs/functions.md is stale: TIDEMILL_UPDATE=1 cargo test the_reference_page"
    );
}

/// The built-in functions of ASA's reference, by name: each is planned, or refused by name.
#[test]
fn no_function_of_the_language_is_missing() {
    for name in include_str!("../asa_functions.txt").lines() {
        let error = result(&format!("SELECT {name}() AS x FROM t"), EXAMPLE_ROW).err().unwrap_or_default();
        assert!(!error.contains("unknown function"), "{name} is missing");
    }
}
