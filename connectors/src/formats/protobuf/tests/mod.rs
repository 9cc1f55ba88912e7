mod differential;
mod hostile;

use std::{collections::HashMap, sync::Mutex};

use arrow::datatypes::DataType;
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use serde_json::{Value as Json, json};
use tidemill_engine::datetime_type;

use super::*;
use crate::formats::{
    LeftOut,
    registry::{Registered, SchemaKind},
    tests::{columns, rows},
};

fn message(text: &str, name: Option<&str>) -> ProtobufMessage {
    ProtobufSchema::of_texts(text, &[]).unwrap().message(name).unwrap()
}

fn options(framing: Framing, message: Option<ProtobufMessage>) -> ProtobufOptions {
    ProtobufOptions { framing, message, schemas: None }
}

/// A decoder of single messages, with the columns that they make.
fn decoder(message: &ProtobufMessage) -> ProtobufDecoder {
    let columns = message.columns().unwrap().schema;
    ProtobufDecoder::new(columns, options(Framing::Message, Some(message.clone()))).unwrap()
}

const ORDER: &str = r#"
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
enum Color { NONE = 0; RED = 1; }
message Order {
  int64 id = 1;
  optional string note = 2;
  Color color = 3;
  repeated int32 numbers = 4;
  map<string, Item> items = 5;
  oneof pay { string card = 6; Item gift = 7; }
  google.protobuf.Timestamp at = 8;
  google.protobuf.Duration took = 9;
  google.protobuf.Int64Value maybe = 10;
  bytes raw = 11;
  uint64 big = 12;
  Item first = 200;
  google.protobuf.Struct free = 201;
  message Item { string name = 1; double price = 2; Order parent = 3; }
}
"#;

#[test]
fn types_become_those_of_the_table() {
    let order = message(ORDER, Some("shop.Order"));
    let declared = order.columns().unwrap();
    let left_out: Vec<_> = declared.left_out.iter().map(|LeftOut { path, .. }| path.as_str()).collect();
    assert_eq!(left_out, ["items[].value.parent", "gift.parent", "first.parent", "free"]);
    assert_eq!(*declared.schema.field_with_name("at").unwrap().data_type(), datetime_type());
    let mut decoder = decoder(&order);
    let item = b"\x0a\x01n\x11\x00\x00\x00\x00\x00\x00\xe0\x3f"; // {name: n, price: 0.5}
    let mut bytes = b"\x08\x05\x18\x01\x22\x02\x01\x02\x20\x03\x28\x00".to_vec();
    assert!(decoder.push(&bytes).is_err(), "a map entry is no varint");
    bytes.truncate(10);
    bytes.extend(b"\x2a\x11\x0a\x01k\x12\x0c");
    bytes.extend(item);
    bytes.extend(b"\x32\x01c\x3a\x0c"); // card, then gift: the last of a oneof counts
    bytes.extend(item);
    bytes.extend(b"\x42\x08\x08\x01\x10\x80\x94\xeb\xdc\x03"); // 1.000000000
    bytes.extend(b"\x4a\x02\x08\x03\x52\x00\x5a\x02\xff\x00\x98\x06\x07\xc2\x0c\x0c");
    bytes.extend(item);
    assert_eq!(decoder.push(&bytes), Ok(1));
    assert_eq!(decoder.push(b""), Ok(1), "an empty message has all defaults");
    assert_eq!(decoder.push(b"\x60\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01").unwrap_err().class, BadClass::Type);
    let found = rows(&mut decoder);
    let item = json!({"name": "n", "price": 0.5});
    for (column, value) in [
        ("id", json!(5)),
        ("note", json!(null)),
        ("color", json!("RED")),
        ("numbers", json!([1, 2, 3])),
        ("items", json!([{"key": "k", "value": item}])),
        ("card", json!(null)),
        ("gift", item.clone()),
        ("at", json!("1970-01-01T00:00:02.0000000Z")),
        ("took", json!("3s")),
        ("maybe", json!(0)),
        ("raw", json!("/wA=")),
        ("first", item),
    ] {
        assert_eq!(found[0][column], value, "{column}");
    }
    let empty = json!({"id": 0, "note": null, "color": "NONE", "numbers": [], "items": [], "card": null, "gift": null,
        "at": null, "took": null, "maybe": null, "raw": "", "big": 0, "first": null});
    assert_eq!(found[1], empty);
}

#[test]
fn fields_that_come_twice_are_merged_or_replaced() {
    let both = message(
        "syntax = \"proto3\"; message M { int32 n = 1; S s = 2; repeated S l = 3; } message S { int32 a = 1; int32 b = 2; }",
        Some("M"),
    );
    let mut decoder = decoder(&both);
    assert_eq!(decoder.push(b"\x08\x01\x12\x02\x08\x01\x1a\x02\x08\x05\x08\x02\x12\x02\x10\x02\x1a\x00"), Ok(1));
    let expected = json!({"n": 2, "s": {"a": 1, "b": 2}, "l": [{"a": 5, "b": 0}, {"a": 0, "b": 0}]});
    assert_eq!(rows(&mut decoder), [expected]);
}

#[test]
fn proto2_has_groups_defaults_and_presence() {
    let old = message(
        r#"syntax = "proto2"; message M {
            optional int32 n = 1; optional string s = 2 [default = "d"]; required bool b = 3;
            optional group G = 4 { optional int32 x = 1; } repeated int32 plain = 5; repeated int32 tight = 6 [packed = true];
            enum E { A = 5; B = 7; } optional E e = 7;
        }"#,
        None,
    );
    let mut decoder = decoder(&old);
    assert_eq!(decoder.push(b"\x23\x08\x07\x24\x28\x01\x2a\x02\x02\x03\x30\x04\x38\x06"), Ok(1));
    assert_eq!(decoder.push(b"\x08\x01"), Ok(1));
    assert_eq!(
        rows(&mut decoder),
        [
            json!({"n": null, "s": "d", "b": null, "g": {"x": 7}, "plain": [1, 2, 3], "tight": [4], "e": "6"}),
            json!({"n": 1, "s": "d", "b": null, "g": null, "plain": [], "tight": [], "e": null}),
        ]
    );
}

#[test]
fn lengths_stand_before_messages_in_three_ways() {
    let one = message("syntax = \"proto3\"; message M { int32 n = 1; }", None);
    let wanted = columns(&[("n", DataType::Int64)]);
    for (prefix, length) in [
        (Prefix::Base128, &b"\x02"[..]),
        (Prefix::Fixed32, b"\x02\x00\x00\x00"),
        (Prefix::Fixed32BigEndian, b"\x00\x00\x00\x02"),
    ] {
        let options = options(Framing::Prefixed(prefix), Some(one.clone()));
        let mut decoder = ProtobufDecoder::new(wanted.clone(), options).unwrap();
        let message = [length, b"\x08\x07"].concat();
        assert_eq!(decoder.push(&message.repeat(3)), Ok(3));
        assert!(decoder.push(&message[1..]).is_err() && decoder.push(b"").is_err());
        assert!(decoder.push(&[&message[..], length].concat()).is_err());
        let mut put = Vec::new();
        prefix.put(2, &mut put);
        assert_eq!(put, length);
        assert_eq!(prefix.message_length(&message), Some(message.len()));
        assert_eq!(rows(&mut decoder).len(), 3);
    }
}

/// Schemas by id, as a registry has them.
struct Known(Mutex<HashMap<u64, Registered>>);

impl Schemas for Known {
    fn by_id(&self, id: u64) -> Result<Result<Registered, String>, Box<BadRecord>> {
        Ok(self.0.lock().unwrap().get(&id).cloned().ok_or_else(|| "404 Not Found".to_owned()))
    }
}

#[test]
fn ids_and_indexes_choose_the_message() {
    let v1 = r#"syntax = "proto3"; import "other.proto";
        message A { int32 n = 1; } message B { message C { string n = 1; other.O o = 2; } int32 x = 1; }"#;
    let v2 = "syntax = \"proto3\"; message A { reserved 1; string added = 3; int64 n = 7; }";
    let other = "syntax = \"proto3\"; package other; message O { int32 i = 1; }";
    let registered = |id, text: &str| {
        let references = vec![("other.proto".to_owned(), other.to_owned())];
        (id, Registered { id, kind: SchemaKind::Protobuf, text: text.to_owned(), references })
    };
    let mut known: HashMap<_, _> = [registered(1, v1), registered(2, v2), registered(3, "nonsense")].into();
    known.insert(4, Registered { id: 4, kind: SchemaKind::Avro, text: "\"int\"".to_owned(), references: vec![] });
    let mut decoder = ProtobufDecoder::new(
        columns(&[("n", DataType::Int64), ("added", DataType::Utf8)]),
        ProtobufOptions {
            framing: Framing::Registry(WireFormat::Confluent),
            message: None,
            schemas: Some(Arc::new(Known(Mutex::new(known)))),
        },
    )
    .unwrap();
    assert_eq!(decoder.push(b"\x00\x00\x00\x00\x01\x00\x08\x05"), Ok(1)); // A by the short form
    assert_eq!(decoder.push(b"\x00\x00\x00\x00\x01\x02\x00\x08\x06"), Ok(1)); // A by its index
    assert_eq!(decoder.push(b"\x00\x00\x00\x00\x01\x04\x02\x00\x0a\x017"), Ok(1)); // B.C, whose text is a number
    assert_eq!(decoder.push(b"\x00\x00\x00\x00\x02\x00\x38\x08\x1a\x01s"), Ok(1));
    for (payload, class, text) in [
        (&b"\x00\x00\x00\x00\x01\x02\x09"[..], BadClass::Malformed, "expected an index of a message"),
        (b"\x00\x00\x00\x00\x01\x02\x0a", BadClass::Schema, "schema 1: has no message at [5]"),
        (b"\x00\x00\x00\x00\x03\x00", BadClass::Schema, "schema 3: no Protobuf schema: "),
        (b"\x00\x00\x00\x00\x04\x00", BadClass::Schema, "schema 4: is of type AVRO, expected PROTOBUF"),
        (b"\x00\x00\x00\x00\x09\x00", BadClass::Schema, "schema 9: 404 Not Found"),
        (b"\x00\x00\x00\x00\x01\xff\xff\x03", BadClass::Malformed, "expected"),
        (b"\x08\x05", BadClass::Malformed, "expected a zero and a schema id"),
    ] {
        let bad = decoder.push(payload).unwrap_err();
        assert_eq!(bad.class, class, "{payload:?}: {bad}");
        assert!(bad.message.starts_with(text), "{bad}");
    }
    let expected = [(5, None), (6, None), (7, None), (8, Some("s"))];
    let found = rows(&mut decoder);
    for (row, (n, added)) in found.iter().zip(expected) {
        assert_eq!((&row["n"], &row["added"]), (&json!(n), &json!(added)));
    }
    assert_eq!(found.len(), 4);
}

#[test]
fn a_readers_message_reads_what_its_versions_wrote() {
    let text = |fields: &str| format!("syntax = \"proto3\"; message Other {{}} message M {{ {fields} }}");
    let registered =
        |id, fields: &str| (id, Registered { id, kind: SchemaKind::Protobuf, text: text(fields), references: vec![] });
    let known = [registered(1, "int32 number = 1;"), registered(2, "int64 n = 1; string added = 2; bytes more = 3;")];
    let reader = message(&text("int64 n = 1; string added = 2; optional string maybe = 9;"), Some("M"));
    let mut decoder = ProtobufDecoder::new(
        reader.columns().unwrap().schema,
        ProtobufOptions {
            framing: Framing::Registry(WireFormat::Confluent),
            message: Some(reader),
            schemas: Some(Arc::new(Known(Mutex::new(known.into())))),
        },
    )
    .unwrap();
    assert_eq!(decoder.push(b"\x00\x00\x00\x00\x01\x02\x02\x08\x05"), Ok(1));
    assert_eq!(decoder.push(b"\x00\x00\x00\x00\x02\x02\x02\x08\x06\x12\x01s"), Ok(1));
    let other = decoder.push(b"\x00\x00\x00\x00\x02\x00").unwrap_err();
    assert_eq!((other.class, &*other.message), (BadClass::Schema, "schema 2: is of message `Other`, expected `M`"));
    let expected = [json!({"n": 5, "added": "", "maybe": null}), json!({"n": 6, "added": "s", "maybe": null})];
    assert_eq!(rows(&mut decoder), expected);
}

#[test]
fn messages_are_found_by_name_or_alone() {
    let schema = ProtobufSchema::of_texts("syntax = \"proto3\"; message A {} message B {}", &[]).unwrap();
    assert_eq!(schema.message(None).err().unwrap(), "several messages: `message` says which; available: `A`, `B`");
    assert_eq!(schema.message(Some("C")).err().unwrap(), "unknown message `C`; available: `A`, `B`");
    assert!(ProtobufSchema::of_texts("message {", &[]).err().unwrap().starts_with("no Protobuf schema"));
    assert!(ProtobufSchema::of_descriptor_set(b"\xff").is_err());
    let wrong = columns(&[("s", DataType::Int64)]);
    let nested = message("syntax = \"proto3\"; message M { S s = 1; } message S { int32 a = 1; }", Some("M"));
    let error = ProtobufDecoder::new(wrong, options(Framing::Message, Some(nested))).err().unwrap();
    assert_eq!(error, "message `S` cannot go into Int64");
    let error = ProtobufDecoder::new(columns(&[]), options(Framing::Message, None)).err().unwrap();
    assert_eq!(error, "Protobuf needs `files` or a `descriptor_set`, or a `registry`");
}

#[test]
fn files_and_descriptor_sets_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (main, other) = (directory.path().join("main.proto"), directory.path().join("other.proto"));
    std::fs::write(&main, "syntax = \"proto3\"; import \"other.proto\"; message M { O o = 1; }").unwrap();
    std::fs::write(&other, "syntax = \"proto3\"; message O { int32 i = 1; }").unwrap();
    let files = ProtobufSchema::of_files(&[main], &[]).unwrap();
    let from_files = files.message(None).unwrap();
    let set = from_files.0.parent_pool().encode_to_vec();
    let from_set = ProtobufSchema::of_descriptor_set(&set).unwrap().message(Some("M")).unwrap();
    assert_eq!(from_files.columns().unwrap().schema, from_set.columns().unwrap().schema);
    assert_eq!(from_files.name(), "M");
    let missing = ProtobufSchema::of_files(&[directory.path().join("none.proto")], &[]).err().unwrap();
    assert!(missing.contains("none.proto"), "{missing}");
}
