//! Whether two results are the same, by the rules of the cases.
//!
//! Rows are multisets unless the case says `ordered`; names compare without regard to case, numbers by value, strings as
//! strings unless both are datetimes, and a missing column is null.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use serde_json::{Number, Value};

use super::Case;
use super::case::{Row, UnorderedArrays};

/// None when `got` is what the case expects, else `got` as JSON.
pub fn difference(case: &Case, got: &[Row]) -> Option<String> {
    let rules = Rules { tolerance: case.float_tolerance.unwrap_or(0.0), case };
    let equal = |expected: &Row, got: &Row| rules.rows_equal(expected, got);
    let same = if case.ordered {
        equal_in_order(&case.expected, got, equal)
    } else {
        equal_in_any_order(&case.expected, got, equal)
    };
    (!same).then(|| serde_json::to_string(got).expect("rows of JSON values"))
}

struct Rules<'a> {
    case: &'a Case,
    tolerance: f64,
}

impl Rules<'_> {
    fn rows_equal(&self, a: &Row, b: &Row) -> bool {
        names(a, b).into_iter().filter(|name| self.counts(name)).all(|name| {
            let any_order = self.any_order(&name);
            self.values_equal(field(a, &name), field(b, &name), any_order)
        })
    }

    fn counts(&self, column: &str) -> bool {
        self.case.compare_columns.as_ref().is_none_or(|columns| contains(columns, column))
    }

    fn any_order(&self, column: &str) -> bool {
        match &self.case.unordered_arrays {
            None => false,
            Some(UnorderedArrays::All(all)) => *all,
            Some(UnorderedArrays::Columns(columns)) => contains(columns, column),
        }
    }

    fn values_equal(&self, a: &Value, b: &Value, any_order: bool) -> bool {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => self.numbers_equal(a, b),
            (Value::String(a), Value::String(b)) => a == b || instant(a).is_some_and(|a| Some(a) == instant(b)),
            (Value::Object(a), Value::Object(b)) => {
                names(a, b).iter().all(|name| self.values_equal(field(a, name), field(b, name), any_order))
            }
            (Value::Array(a), Value::Array(b)) => {
                let equal = |a: &Value, b: &Value| self.values_equal(a, b, any_order);
                if any_order { equal_in_any_order(a, b, equal) } else { equal_in_order(a, b, equal) }
            }
            (a, b) => a == b,
        }
    }

    fn numbers_equal(&self, a: &Number, b: &Number) -> bool {
        if let (Some(a), Some(b)) = (a.as_i128(), b.as_i128()) {
            return a == b || a.abs_diff(b) as f64 <= self.tolerance;
        }
        matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a == b || (a - b).abs() <= self.tolerance)
    }
}

fn contains(columns: &[String], column: &str) -> bool {
    columns.iter().any(|name| name.to_lowercase() == column)
}

/// The names of both, in lower case.
fn names(a: &Row, b: &Row) -> BTreeSet<String> {
    a.keys().chain(b.keys()).map(|name| name.to_lowercase()).collect()
}

/// A field by its name in lower case; null when missing.
fn field<'a>(row: &'a Row, name: &str) -> &'a Value {
    row.iter().find(|(key, _)| key.to_lowercase() == name).map_or(&Value::Null, |(_, value)| value)
}

/// The instant of an ISO 8601 text, in nanoseconds since 1970; without a zone it is UTC.
fn instant(text: &str) -> Option<i128> {
    let since_epoch =
        |time: DateTime<Utc>| i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos());
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(since_epoch(time.to_utc()));
    }
    let date_time = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%MZ", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let date_time = date_time.or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))?;
    Some(since_epoch(date_time.and_utc()))
}

fn equal_in_order<T>(a: &[T], b: &[T], equal: impl Fn(&T, &T) -> bool) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
}

/// Whether there is a one-to-one match. With a tolerance, equality is not transitive and the first match may be a wrong
/// one, so matches made are undone where that helps (Kuhn's algorithm).
fn equal_in_any_order<T>(a: &[T], b: &[T], equal: impl Fn(&T, &T) -> bool) -> bool {
    fn place(
        i: usize,
        free: &mut [bool],
        taken_by: &mut [Option<usize>],
        equal: &dyn Fn(usize, usize) -> bool,
    ) -> bool {
        for j in 0..free.len() {
            if free[j] && equal(i, j) {
                free[j] = false;
                if taken_by[j].is_none_or(|other| place(other, free, taken_by, equal)) {
                    taken_by[j] = Some(i);
                    return true;
                }
            }
        }
        false
    }
    let mut taken_by = vec![None; b.len()];
    let equal = |i: usize, j: usize| equal(&a[i], &b[j]);
    a.len() == b.len() && (0..a.len()).all(|i| place(i, &mut vec![true; b.len()], &mut taken_by, &equal))
}
