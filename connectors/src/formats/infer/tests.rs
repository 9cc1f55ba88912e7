use super::*;
use crate::formats::json::{JsonDecoder, JsonOptions};
use tidemill_engine::decoder::Decoder;

fn infer(payloads: &[&str]) -> Vec<(String, DataType)> {
    let mut sample = SchemaSample::default();
    for payload in payloads {
        sample.add_json(payload.as_bytes()).unwrap();
    }
    // Whatever is inferred takes the whole sample.
    let mut decoder = JsonDecoder::new(sample.schema(), JsonOptions::default()).unwrap();
    let rows: usize = payloads.iter().map(|payload| decoder.push(payload.as_bytes()).unwrap()).sum();
    assert_eq!(rows as u64, sample.records());
    assert_eq!(decoder.flush().unwrap().num_rows(), rows);
    sample.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
}

/// The type inferred for these values of one field.
fn type_of(values: &[&str]) -> DataType {
    let payloads: Vec<String> = values.iter().map(|value| format!(r#"{{"a":{value}}}"#)).collect();
    let payloads: Vec<&str> = payloads.iter().map(String::as_str).collect();
    infer(&payloads).remove(0).1
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

#[test]
fn scalars() {
    assert_eq!(type_of(&["7", "null", "-9223372036854775808"]), DataType::Int64);
    assert_eq!(type_of(&["7.0"]), DataType::Float64);
    assert_eq!(type_of(&["1e3"]), DataType::Float64);
    assert_eq!(type_of(&["true", "false"]), DataType::Boolean);
    assert_eq!(type_of(&["\"7\""]), DataType::Utf8);
    assert_eq!(type_of(&["\"2024-01-01T00:00:00Z\""]), DataType::Utf8);
    assert_eq!(type_of(&["null"]), any_type());
}

#[test]
fn integers_widen_only_where_they_stay_exact() {
    assert_eq!(type_of(&["7", "0.5"]), DataType::Float64);
    assert_eq!(type_of(&["-9007199254740992", "0.5"]), DataType::Float64);
    assert_eq!(type_of(&["9007199254740993", "0.5"]), any_type());
    assert_eq!(type_of(&["9223372036854775808"]), DataType::Utf8);
    assert_eq!(type_of(&["123456789012345678901234567890", "1.5"]), any_type());
    assert_eq!(type_of(&["1e999"]), DataType::Utf8);
}

#[test]
fn mixed_kinds_keep_their_types() {
    for values in [["1", "\"1\""], ["true", "1"], ["{\"b\":1}", "[1]"], ["{\"b\":1}", "2"], ["\"a\"", "[]"]] {
        assert_eq!(type_of(&values), any_type(), "{values:?}");
    }
}

#[test]
fn containers() {
    assert_eq!(type_of(&["[1,2]", "[0.5,null]", "[]"]), list(DataType::Float64));
    assert_eq!(type_of(&["[]"]), list(any_type()));
    assert_eq!(type_of(&["[[1],[]]"]), list(list(DataType::Int64)));
    assert_eq!(type_of(&["{}"]), any_type());
    let fields = vec![Field::new("b", DataType::Int64, true), Field::new("c", list(DataType::Boolean), true)];
    assert_eq!(type_of(&[r#"{"b":1}"#, "null", r#"{"c":[true]}"#, "{}"]), DataType::Struct(fields.into()));
}

#[test]
fn fields_keep_the_order_and_spelling_first_seen() {
    let fields = infer(&[r#"[{"Id":1},{"name":"x","ID":2}]"#, r#"{"b":true} {"id":3.5}"#]);
    let expected = [("Id", DataType::Float64), ("name", DataType::Utf8), ("b", DataType::Boolean)];
    assert_eq!(fields, expected.map(|(name, data_type)| (name.to_owned(), data_type)));
    assert_eq!(infer(&[]), []);
}

#[test]
fn a_bad_payload_leaves_nothing() {
    let mut sample = SchemaSample::default();
    sample.add_json(br#"{"a":1}"#).unwrap();
    for payload in [r#"[{"b":1},{"c":2]"#, "", "7", r#"{"b":1}x"#, &"[".repeat(10_000)] {
        assert!(sample.add_json(payload.as_bytes()).is_err(), "{payload}");
    }
    assert_eq!(sample.records(), 1);
    assert_eq!(sample.schema().fields().len(), 1);
}

#[test]
fn statistics_say_what_was_seen() {
    let mut sample = SchemaSample::default();
    sample.add_json(br#"{"a":1,"u":{"tags":["x",null]}} {"a":null} {"a":"x","u":{"tags":[]}}"#).unwrap();
    let text: Vec<String> = sample
        .statistics()
        .iter()
        .map(|field| format!("{} {} {} {:?}", field.path, field.seen, field.nulls, field.kinds))
        .collect();
    let expected = [
        r#"a 3 1 [("integer", 1), ("string", 1)]"#,
        r#"u 2 0 [("object", 2)]"#,
        r#"u.tags 2 0 [("array", 2)]"#,
        r#"u.tags[] 2 1 [("string", 1)]"#,
    ];
    assert_eq!(text, expected);
}
