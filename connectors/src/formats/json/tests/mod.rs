//! What the module's documentation says, case by case.

mod differential;
mod hostile;
mod learned;

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray},
    datatypes::{DataType, Field, Fields, Float64Type, Int64Type, Schema, TimestampMicrosecondType},
    util::{display::FormatOptions, pretty::pretty_format_batches_with_options},
};
use tidemill_engine::datetime_type;

use super::*;

/// `bigint`, `float`, `text`, `bit`, `at`, a record `user` with `id` and `tags`, an array `items` of records.
fn schema() -> SchemaRef {
    let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, true)));
    let user =
        Fields::from(vec![Field::new("id", DataType::Int64, true), Field::new("tags", list(DataType::Utf8), true)]);
    let item =
        Fields::from(vec![Field::new("sku", DataType::Utf8, true), Field::new("price", DataType::Float64, true)]);
    Arc::new(Schema::new(vec![
        Field::new("bigint", DataType::Int64, true),
        Field::new("float", DataType::Float64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("bit", DataType::Boolean, true),
        Field::new("at", datetime_type(), true),
        Field::new("user", DataType::Struct(user), true),
        Field::new("items", list(DataType::Struct(item)), true),
    ]))
}

fn column(name: &str, data_type: DataType) -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new(name, data_type, true)]))
}

fn decoder(schema: SchemaRef, check: Check) -> JsonDecoder {
    JsonDecoder::new(schema, JsonOptions { check, exact: false }).unwrap()
}

fn decode(schema: SchemaRef, payload: &str) -> Result<RecordBatch, BadRecord> {
    let mut decoder = decoder(schema, Check::Full);
    decoder.push(payload.as_bytes())?;
    Ok(decoder.flush().unwrap())
}

/// The value that a column of this type gets.
fn value(data_type: DataType, json: &str) -> Result<RecordBatch, BadRecord> {
    decode(column("a", data_type), &format!(r#"{{"a":{json}}}"#))
}

fn table(batch: &RecordBatch) -> String {
    pretty_format_batches_with_options(std::slice::from_ref(batch), &FormatOptions::new().with_null("-"))
        .unwrap()
        .to_string()
}

#[test]
fn every_type_missing_and_null() {
    let batch = decode(
        schema(),
        r#"{"bigint":1,"float":2.5,"text":"x","bit":true,"at":"2024-01-02T03:04:05Z",
            "user":{"id":7,"tags":["a",null,"b"]},"items":[{"sku":"s","price":1},{"price":2.5e0}]}
           {}
           {"bigint":null,"float":null,"text":null,"bit":null,"at":null,"user":null,"items":null}
           {"user":{"tags":[]},"items":[]}"#,
    )
    .unwrap();
    let expected = "\
+--------+-------+------+------+----------------------+---------------------------+--------------------------------------------+
| bigint | float | text | bit  | at                   | user                      | items                                      |
+--------+-------+------+------+----------------------+---------------------------+--------------------------------------------+
| 1      | 2.5   | x    | true | 2024-01-02T03:04:05Z | {id: 7, tags: [a, -, b]}  | [{sku: s, price: 1.0}, {sku: -, price: 2.5}] |
| -      | -     | -    | -    | -                    | -                         | -                                          |
| -      | -     | -    | -    | -                    | -                         | -                                          |
| -      | -     | -    | -    | -                    | {id: -, tags: []}         | []                                         |
+--------+-------+------+------+----------------------+---------------------------+--------------------------------------------+";
    let cells = |text: &str| -> Vec<Vec<String>> {
        text.lines()
            .filter(|line| line.starts_with('|'))
            .map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect())
            .collect()
    };
    assert_eq!(cells(&table(&batch)), cells(expected), "{}", table(&batch));
}

#[test]
fn a_payload_is_an_object_an_array_or_several_objects() {
    let rows = |payload: &str| decode(column("a", DataType::Int64), payload).map(|batch| batch.num_rows()).ok();
    for (payload, expected) in [
        (r#"{"a":1}"#, Some(1)),
        (" \r\n\t{ \"a\" : 1 , \"b\" : [ 1 , { } ] } \n", Some(1)),
        (r#"[{"a":1},{"a":2} , {}]"#, Some(3)),
        ("[]", Some(0)),
        (" [ ] ", Some(0)),
        ("{\"a\":1}\n{\"a\":2}\r\n\n{\"a\":3}\n", Some(3)),
        (r#"{"a":1} {"a":2}{"a":3}"#, Some(3)),
        ("", None),
        (" \n", None),
        ("null", None),
        ("7", None),
        (r#""{}""#, None),
        (r#"[1]"#, None),
        (r#"[{},null]"#, None),
        (r#"[[{}]]"#, None),
        (r#"[{}"#, None),
        (r#"[{},]"#, None),
        (r#"[{}]{}"#, None),
        (r#"[{}][{}]"#, None),
        (r#"{}[{}]"#, None),
        (r#"{},{}"#, None),
        (r#"{} x"#, None),
        ("{}\0", None),
        ("\u{feff}{}", None),
    ] {
        assert_eq!(rows(payload), expected, "{payload}");
    }
}

#[test]
fn no_columns_still_count_rows() {
    for check in [Check::Full, Check::Lax] {
        let mut decoder = decoder(Arc::new(Schema::empty()), check);
        assert_eq!(decoder.push(br#"[{"a":1},{"b":{"c":"}"}}]"#), Ok(2));
        assert_eq!(decoder.push(br#"{}"#), Ok(1));
        assert_eq!(decoder.flush().unwrap().num_rows(), 3);
        assert_eq!(decoder.flush().unwrap().num_rows(), 0);
    }
}

#[test]
fn text_takes_strings_and_the_json_text_of_anything_else() {
    let text = |json: &str| {
        let batch = value(DataType::Utf8, json).unwrap();
        let column = batch.column(0).as_string::<i32>();
        column.is_valid(0).then(|| column.value(0).to_owned())
    };
    assert_eq!(text(r#""""#).as_deref(), Some(""));
    assert_eq!(text(r#""plain text of more than thirty-two bytes, which is copied""#).unwrap().len(), 57);
    assert_eq!(text(r#""\"\\\/\b\f\n\r\t""#).as_deref(), Some("\"\\/\u{8}\u{c}\n\r\t"));
    assert_eq!(text(r#""a\u0041\u00e9\u20AC\ud83d\uDE00z""#).as_deref(), Some("aAé€😀z"));
    assert_eq!(text(r#""é€😀\u0000""#).as_deref(), Some("é€😀\0"));
    for json in ["-1.50", "true", "false", r#"{"b" : [1, "\n"]}"#, "[]"] {
        assert_eq!(text(json).as_deref(), Some(json));
    }
    assert_eq!(text("null"), None);
}

#[test]
fn numbers_come_bare_or_in_quotes() {
    let int =
        |json: &str| value(DataType::Int64, json).map(|batch| batch.column(0).as_primitive::<Int64Type>().value(0));
    let float =
        |json: &str| value(DataType::Float64, json).map(|batch| batch.column(0).as_primitive::<Float64Type>().value(0));
    for (json, expected) in [
        ("7", 7),
        ("7.0", 7),
        ("\"7\"", 7),
        ("\"-1e3\"", -1000),
        ("-9223372036854775808", i64::MIN),
        (r#""\u0037""#, 7),
    ] {
        assert_eq!(int(json), Ok(expected), "{json}");
        assert_eq!(float(json), Ok(expected as f64), "{json}");
    }
    assert_eq!(float("0.1"), Ok(0.1));
    assert_eq!(float("\"1.5e300\""), Ok(1.5e300));
    for json in
        ["1.5", "9223372036854775808", "1e999", "\"\"", "\"1 \"", "\"0x1\"", "\"NaN\"", "true", "[1]", "{}", "\"007\""]
    {
        assert_eq!(int(json).unwrap_err().class, BadClass::Type, "{json}");
    }
    for json in ["1e999", "\"Infinity\"", "\"1,5\"", "\"\"", "false", "[1.5]"] {
        assert_eq!(float(json).unwrap_err().class, BadClass::Type, "{json}");
    }
}

#[test]
fn datetimes_are_text_or_milliseconds() {
    let at = |json: &str| {
        value(datetime_type(), json).map(|batch| batch.column(0).as_primitive::<TimestampMicrosecondType>().value(0))
    };
    assert_eq!(at(r#""1970-01-01T00:00:01.5Z""#), Ok(1_500_000));
    assert_eq!(at(r#""1970-01-01 00\u003a00:01""#), Ok(1_000_000));
    assert_eq!(at("1500"), Ok(1_500_000));
    assert_eq!(at("-1"), Ok(-1_000));
    for json in ["\"soon\"", "\"1500\"", "9223372036854775807", "1.5", "true", "{}"] {
        assert_eq!(at(json).unwrap_err().class, BadClass::Type, "{json}");
    }
}

#[test]
fn names_match_exactly_then_without_case_and_the_first_wins() {
    let both =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("ID", DataType::Int64, true)]));
    let ids = |schema: SchemaRef, payload: &str| -> Vec<Option<i64>> {
        let batch = decode(schema, payload).unwrap();
        batch.columns().iter().map(|c| c.is_valid(0).then(|| c.as_primitive::<Int64Type>().value(0))).collect()
    };
    let one = || column("Id", DataType::Int64);
    assert_eq!(ids(both.clone(), r#"{"ID":2,"id":1}"#), [Some(1), Some(2)]);
    assert_eq!(ids(both, r#"{"Id":3}"#), [Some(3), None]);
    assert_eq!(ids(one(), r#"{"ID":1}"#), [Some(1)]);
    assert_eq!(ids(one(), r#"{"Id":1,"Id":2,"id":3}"#), [Some(1)]);
    assert_eq!(ids(one(), r#"{"Id":null,"Id":2}"#), [None]);
    assert_eq!(ids(one(), r#"{"\u0049d":1}"#), [Some(1)]);
    assert_eq!(ids(column("é", DataType::Int64), r#"{"É":1,"é":2}"#), [Some(2)]);
    // A duplicate is not kept, but must be well-formed.
    assert!(decode(one(), r#"{"Id":1,"Id":01}"#).is_err());
}

#[test]
fn members_may_come_in_any_order_and_spacing() {
    let names: Vec<String> = (0..300).map(|n| format!("a member with a longer name {n}")).collect();
    let schema =
        Arc::new(Schema::new(names.iter().map(|name| Field::new(name, DataType::Int64, true)).collect::<Vec<_>>()));
    let mut decoder = decoder(schema, Check::Full);
    for step in [1, 7, 299, 1] {
        for space in ["", " "] {
            let members: Vec<String> =
                (0..300).map(|n| n * step % 300).map(|n| format!("{space}\"{}\"{space}:{n}", names[n])).collect();
            decoder.push(format!("{{\"x{step}\":{{}},{}}}", members.join(",")).as_bytes()).unwrap();
        }
    }
    let batch = decoder.flush().unwrap();
    for (n, column) in batch.columns().iter().enumerate() {
        assert_eq!(column.as_primitive::<Int64Type>().values()[..], [n as i64; 8]);
    }
}

#[test]
fn a_column_that_must_not_be_null_takes_no_null() {
    let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
    for payload in ["{}", r#"{"a":null}"#] {
        let bad = decode(schema.clone(), payload).unwrap_err();
        assert_eq!(
            (bad.class, bad.message.as_str()),
            (BadClass::Type, "column `a`: expected a value, found null or nothing")
        );
    }
    assert_eq!(decode(schema, r#"{"a":1}"#).unwrap().num_rows(), 1);
}

#[test]
fn errors_name_the_place_and_what_was_found() {
    for (payload, class, message) in [
        ("", BadClass::Malformed, "expected an object or an array of objects at byte 0, found the end of the payload"),
        ("7", BadClass::Malformed, "expected an object or an array of objects at byte 0, found '7'"),
        (r#"{"x":1;}"#, BadClass::Malformed, "expected `,` or `}` at byte 6, found ';'"),
        (r#"{"x":01}"#, BadClass::Malformed, "expected a number without leading zeros at byte 6, found '1'"),
        (r#"{"x":"\q"}"#, BadClass::Malformed, "expected a valid escape at byte 6, found '\\\\'"),
        (r#"{"x" 1}"#, BadClass::Malformed, "expected `:` at byte 5, found '1'"),
        (r#"{"x":nul}"#, BadClass::Malformed, "expected a value at byte 5, found 'n'"),
        (r#"{"bigint":"abc"}"#, BadClass::Type, "column `bigint`: expected bigint, found string `\"abc\"` at byte 10"),
        (r#"{"user":[]}"#, BadClass::Type, "column `user`: expected record, found array `[]` at byte 8"),
        (
            r#"{"user":{"tags":"x"}}"#,
            BadClass::Type,
            "column `user.tags`: expected array, found string `\"x\"` at byte 16",
        ),
        (
            r#"{"items":[{"price":[]}]}"#,
            BadClass::Type,
            "column `items[].price`: expected float, found array `[]` at byte 19",
        ),
        (r#"{"bit":"true"}"#, BadClass::Type, "column `bit`: expected bit, found string `\"true\"` at byte 7"),
    ] {
        let bad = decode(schema(), payload).unwrap_err();
        assert_eq!((bad.class, bad.message.as_str()), (class, message), "{payload}");
    }
}

#[test]
fn lax_leaves_a_record_behind_its_last_wanted_column() {
    let sloppy = [
        (r#"{"a":1,"b":tru}"#, 1),
        (r#"{"b":{"c" 1 "}"},"a":1,"#, 0),
        (r#"{"b":{"c" 1 "}"},"a":1}"#, 1),
        (r#"[{"a":1,"x":01},{"a":2,,}]"#, 2),
        ("{\"a\":1,\"b\":{\"c\":\"}\\\"}\"}}\n{\"a\":2}\n", 2),
        (r#"{"a":1,"b":2}}"#, 0),
        (r#"{"a":1,"b":"2}"#, 0),
    ];
    for (payload, rows) in sloppy {
        let mut lax = decoder(column("a", DataType::Int64), Check::Lax);
        assert_eq!(lax.push(payload.as_bytes()).unwrap_or(0), rows, "{payload}");
        let batch = lax.flush().unwrap();
        let expected: Vec<i64> = (1..=rows as i64).collect();
        assert_eq!(batch.column(0).as_primitive::<Int64Type>().values()[..], expected, "{payload}");
    }
}

#[test]
fn a_type_that_is_not_decoded_is_refused() {
    assert!(JsonDecoder::new(column("a", DataType::Int32), JsonOptions::default()).is_err());
}

#[test]
fn exact_columns_take_values_of_their_own_types_alone() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("i", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("t", datetime_type(), true),
        Field::new("l", DataType::new_list(DataType::Int64, true), true),
    ]));
    let options = JsonOptions { exact: true, ..JsonOptions::default() };
    let mut decoder = JsonDecoder::new(schema, options).unwrap();
    for good in [r#"{"i":1,"f":2,"s":"x","t":"2024-01-01","l":[1]}"#, r#"{"f":2.5,"i":null}"#, "{}"] {
        decoder.push(good.as_bytes()).unwrap();
    }
    for bad in [r#"{"i":"1"}"#, r#"{"i":1.5}"#, r#"{"f":"2.5"}"#, r#"{"s":5}"#, r#"{"t":5}"#, r#"{"l":["1"]}"#] {
        assert_eq!(decoder.push(bad.as_bytes()).unwrap_err().class, BadClass::Type, "{bad}");
    }
    assert_eq!(decoder.flush().unwrap().num_rows(), 3);
}
