//! The frame: comparison and isolation, on cases written here.

use serde_json::{Value, json};

use super::*;

fn case(fields: Value) -> Case {
    let mut case = json!({"id": "c", "query": "", "inputs": {}, "timestamp_column": null, "ordered": false});
    for (name, value) in fields.as_object().unwrap() {
        case[name] = value.clone();
    }
    serde_json::from_value(case).unwrap()
}

fn rows(rows: Value) -> Vec<Row> {
    serde_json::from_value(rows).unwrap()
}

#[track_caller]
fn same(fields: Value, got: Value) {
    assert_eq!(difference(&case(fields), &rows(got)), None);
}

#[track_caller]
fn different(fields: Value, got: Value) {
    assert!(difference(&case(fields), &rows(got)).is_some());
}

#[test]
fn rows_are_multisets_unless_ordered() {
    let expected = json!([{"a": 1}, {"a": 1}, {"a": 2}]);
    same(json!({"expected": expected}), json!([{"a": 2}, {"a": 1}, {"a": 1}]));
    different(json!({"expected": expected}), json!([{"a": 2}, {"a": 2}, {"a": 1}]));
    different(json!({"expected": expected}), json!([{"a": 1}, {"a": 2}]));
    different(json!({"expected": expected, "ordered": true}), json!([{"a": 2}, {"a": 1}, {"a": 1}]));
    same(json!({"expected": []}), json!([]));
}

#[test]
fn names_ignore_case_and_missing_columns_are_null() {
    same(json!({"expected": [{"User": "x", "n": null}]}), json!([{"user": "x", "other": null}]));
    different(json!({"expected": [{"a": 1}]}), json!([{"a": 1, "b": 2}]));
    same(json!({"expected": [{"a": 1}], "compare_columns": ["A"]}), json!([{"a": 1, "b": 2}]));
}

#[test]
fn values_compare_by_their_kind() {
    same(json!({"expected": [{"a": 95}]}), json!([{"a": 95.0}]));
    different(json!({"expected": [{"a": 1}]}), json!([{"a": true}]));
    different(json!({"expected": [{"a": 1}]}), json!([{"a": "1"}]));
    different(json!({"expected": [{"a": 9_007_199_254_740_993_i64}]}), json!([{"a": 9_007_199_254_740_992_i64}]));
    different(json!({"expected": [{"a": 0.1}]}), json!([{"a": 0.100_000_001}]));
    same(json!({"expected": [{"a": 0.1}], "float_tolerance": 1e-6}), json!([{"a": 0.100_000_001}]));
    same(json!({"expected": [{"a": {"B": [1, {"c": 2}]}}]}), json!([{"a": {"b": [1.0, {"C": 2}]}}]));
}

#[test]
fn a_first_match_within_tolerance_is_undone_when_it_was_wrong() {
    let expected = json!([{"a": 1.0}, {"a": 1.4}]);
    same(json!({"expected": expected, "float_tolerance": 0.5}), json!([{"a": 1.2}, {"a": 0.6}]));
    different(json!({"expected": expected, "float_tolerance": 0.5}), json!([{"a": 0.6}, {"a": 0.6}]));
}

#[test]
fn datetimes_compare_as_instants() {
    let expected = json!([{"t": "2020-01-01T10:00:00.0000000Z"}]);
    for same_instant in [
        "2020-01-01T10:00:00Z",
        "2020-01-01T10:00:00",
        "2020-01-01 10:00:00.000",
        "2020-01-01T12:00:00+02:00",
        "2020-01-01T10:00",
    ] {
        same(json!({"expected": expected}), json!([{"t": same_instant}]));
    }
    different(json!({"expected": expected}), json!([{"t": "2020-01-01T10:00:00.001Z"}]));
    same(json!({"expected": [{"t": "2020-01-01"}]}), json!([{"t": "2020-01-01T00:00:00Z"}]));
    different(json!({"expected": [{"t": "2020"}]}), json!([{"t": "2020.0"}]));
}

#[test]
fn arrays_are_ordered_unless_the_case_says_otherwise() {
    let (expected, got) = (json!([{"a": [1, 2]}]), json!([{"a": [2, 1]}]));
    different(json!({"expected": expected}), got.clone());
    same(json!({"expected": expected, "unordered_arrays": true}), got.clone());
    same(json!({"expected": expected, "unordered_arrays": ["A"]}), got.clone());
    different(json!({"expected": expected, "unordered_arrays": ["b"]}), got);
}

#[test]
fn a_refusal_and_a_panic_fail_their_case_alone() {
    let case = Arc::new(case(json!({"expected": [{"a": 1}]})));
    assert_eq!(check(&case, |_| Ok(rows(json!([{"a": 1}])))), Ok(()));
    let text = |run| check(&case, run).unwrap_err();
    assert_eq!(text(|_| Ok(Vec::new())), r#"expected [{"a":1}], got []"#);
    assert_eq!(text(|_| anyhow::bail!("no such\nfunction")), r#"expected [{"a":1}], got an error: no such function"#);
    assert_eq!(text(|_| panic!("at {}", 7)), r#"expected [{"a":1}], got a panic: at 7"#);
}

#[test]
fn every_field_of_the_format_is_read() {
    let case = case(json!({
        "source": "s", "status": "derived", "notes": "", "features": ["x"], "expected": [], "output": "o",
        "timestamp_column": {"In": "t"}, "reference_inputs": ["r"], "compatibility_level": "1.1",
        "settings": {"late_arrival_tolerance_s": 5, "out_of_order_tolerance_s": 0.5, "policy": "Drop", "arrival_time_column": "at"},
        "functions": {"f": {"type": "JavaScriptUDF", "body": "function g(x) { return x }"}}, "requires": ["js-udf"],
        "input_format": "csv", "watermark_delay": "1 second"
    }));
    assert_eq!(case.timestamp_column.unwrap().of("in"), Some("t"));
    assert_eq!(case.settings.unwrap().out_of_order_tolerance_s, Some(0.5));
    assert_eq!(case.functions["f"].kind, "JavaScriptUDF");
}
