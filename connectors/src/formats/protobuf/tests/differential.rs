//! Generated messages and values, hostile bytes included: our walk against prost-reflect's `DynamicMessage`.

use std::fmt::Write as _;

use proptest::{prelude::*, test_runner::RngSeed};
use prost_reflect::{Kind, MapKey, ReflectMessage};

use super::*;
use crate::formats::tests::Dice;

const SCALARS: [&str; 16] = [
    "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64", "float",
    "double", "bool", "string", "bytes", "E",
];

/// Messages `M0` to `M3`, each of which may contain those behind it.
fn schema(dice: &mut Dice) -> String {
    let mut text = "syntax = \"proto3\"; enum E { ZERO = 0; ONE = 1; TWO = -2; }".to_owned();
    for message in 0..4 {
        write!(text, " message M{message} {{ oneof o {{ {} a = 500; {} b = 501; }}", scalar(dice), scalar(dice))
            .unwrap();
        for field in 1..2 + dice.roll(6) {
            let field_type = match dice.roll(3) {
                0 if message < 3 => format!("M{}", message + 1 + dice.roll(3 - message)),
                _ => scalar(dice),
            };
            let name = format!("f{field} = {}", if dice.roll(5) == 0 { field + 1000 } else { field });
            match dice.roll(5) {
                0 => write!(text, "repeated {field_type} {name};").unwrap(),
                1 => write!(text, "map<{}, {field_type}> {name};", ["string", "int32", "bool"][dice.roll(3) as usize])
                    .unwrap(),
                2 => write!(text, "optional {field_type} {name};").unwrap(),
                _ => write!(text, "{field_type} {name};").unwrap(),
            }
        }
        text.push('}');
    }
    text
}

fn scalar(dice: &mut Dice) -> String {
    SCALARS[dice.roll(SCALARS.len() as u64) as usize].to_owned()
}

fn value(kind: &Kind, dice: &mut Dice) -> Value {
    match kind {
        Kind::Double => Value::F64(dice.long() as f64 / 1024.0),
        Kind::Float => Value::F32(dice.long() as f32 / 8.0),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(dice.long() as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(dice.long()),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(dice.long() as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(dice.long().unsigned_abs() >> 1),
        Kind::Bool => Value::Bool(dice.roll(2) == 0),
        Kind::String => {
            Value::String((0..dice.roll(5)).map(|_| ['a', 'ü', '\u{1F600}'][dice.roll(3) as usize]).collect())
        }
        Kind::Bytes => Value::Bytes((0..dice.roll(5)).map(|_| dice.roll(256) as u8).collect::<Vec<_>>().into()),
        Kind::Enum(_) => Value::EnumNumber([0, 1, -2, 9][dice.roll(4) as usize]),
        Kind::Message(message) => Value::Message(filled(message, dice)),
    }
}

fn filled(message: &prost_reflect::MessageDescriptor, dice: &mut Dice) -> DynamicMessage {
    let mut filled = DynamicMessage::new(message.clone());
    for field in message.fields() {
        if dice.roll(4) == 0 {
            continue;
        }
        let value = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let (key, kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
                let entry = |_| {
                    let key = match value(&key, dice) {
                        Value::Bool(key) => MapKey::Bool(key),
                        Value::I32(key) => MapKey::I32(key),
                        Value::String(key) => MapKey::String(key),
                        other => panic!("{other:?} is no key"),
                    };
                    (key, value(&kind, dice))
                };
                Value::Map((0..2).map(entry).collect())
            }
            kind if field.is_list() => Value::List((0..dice.roll(4)).map(|_| value(&kind, dice)).collect()),
            kind => value(&kind, dice),
        };
        filled.set_field(&field, value);
    }
    filled
}

/// A message as our rows show it.
fn expected(message: &DynamicMessage) -> Json {
    let descriptor = message.descriptor();
    let fields = descriptor.fields().map(|field| {
        let absent = field.supports_presence() && !message.has_field(&field);
        let value = message.get_field(&field);
        let json = match (&*value, field.kind()) {
            _ if absent => Json::Null,
            (Value::List(items), kind) => items.iter().map(|item| one(item, &kind)).collect(),
            (Value::Map(entries), Kind::Message(entry)) => {
                let kind = entry.map_entry_value_field().kind();
                let key = |key: &MapKey| match key {
                    MapKey::Bool(key) => key.to_string(),
                    MapKey::I32(key) => key.to_string(),
                    MapKey::String(key) => key.clone(),
                    other => panic!("{other:?} is no key"),
                };
                let entries = entries.iter().map(|(k, value)| json!({"key": key(k), "value": one(value, &kind)}));
                let mut entries: Vec<_> = entries.collect();
                entries.sort_by_key(|entry| entry["key"].to_string());
                entries.into()
            }
            (value, kind) => one(value, &kind),
        };
        (field.name().to_owned(), json)
    });
    fields.collect()
}

fn one(value: &Value, kind: &Kind) -> Json {
    match (value, kind) {
        (Value::Bool(value), _) => json!(value),
        (Value::I32(value), _) => json!(value),
        (Value::I64(value), _) => json!(value),
        (Value::U32(value), _) => json!(value),
        (Value::U64(value), _) => json!(value),
        (Value::F32(value), _) => json!(f64::from(*value)),
        (Value::F64(value), _) => json!(value),
        (Value::String(value), _) => json!(value),
        (Value::Bytes(value), _) => {
            use ::base64::{Engine, prelude::BASE64_STANDARD};
            json!(BASE64_STANDARD.encode(value))
        }
        (Value::EnumNumber(number), Kind::Enum(values)) => match values.get_value(*number) {
            Some(value) => json!(value.name()),
            None => json!(number.to_string()),
        },
        (Value::Message(message), _) => expected(message),
        (other, _) => panic!("{other:?}"),
    }
}

/// Members and entries in one order, floats as they are read back.
fn sorted(row: &Json) -> String {
    fn sort(row: Json) -> Json {
        match row {
            Json::Array(items) => {
                let mut items: Vec<_> = items.into_iter().map(sort).collect();
                if items.iter().all(|item| item.get("key").is_some()) {
                    items.sort_by_key(|entry| entry["key"].to_string());
                }
                Json::Array(items)
            }
            Json::Object(members) => {
                let mut members: Vec<_> = members.into_iter().map(|(name, value)| (name, sort(value))).collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                members.into_iter().collect()
            }
            other => other,
        }
    }
    sort(serde_json::from_str(&row.to_string()).unwrap()).to_string()
}

/// Whether a map came with one key twice: ours keeps both entries.
fn has_equal_keys(row: &Json) -> bool {
    match row {
        Json::Array(items) => {
            let keys: Vec<_> = items.iter().filter_map(|item| item.get("key")).collect();
            let twice = keys.iter().enumerate().any(|(at, key)| keys[..at].contains(key));
            twice || items.iter().any(has_equal_keys)
        }
        Json::Object(members) => members.values().any(has_equal_keys),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn same_rows_and_same_refusals_as_dynamic_messages(seed in 1u64..) {
        let mut dice = Dice(seed);
        let text = schema(&mut dice);
        let message = message(&text, Some("M0"));
        let mut decoder = decoder(&message);
        for _ in 0..8 {
            let written = filled(&message.0, &mut dice);
            let bytes = written.encode_to_vec();
            prop_assert_eq!(decoder.push(&bytes), Ok(1));
            prop_assert_eq!(sorted(&rows(&mut decoder).remove(0)), sorted(&expected(&written)), "{}", text);

            let mut spoiled = bytes.clone();
            match dice.roll(4) {
                0 => spoiled.truncate(dice.roll(bytes.len() as u64 + 1) as usize),
                1 => spoiled.push(dice.roll(256) as u8),
                2 => spoiled.extend(filled(&message.0, &mut dice).encode_to_vec()),
                _ => if let Some(length) = u64::try_from(spoiled.len()).ok().filter(|length| *length > 0) {
                    spoiled[dice.roll(length) as usize] = dice.roll(256) as u8;
                },
            }
            match (decoder.push(&spoiled), DynamicMessage::decode(message.0.clone(), &spoiled[..])) {
                (Ok(1), Ok(theirs)) => {
                    let ours = rows(&mut decoder).remove(0);
                    let theirs = sorted(&expected(&theirs));
                    prop_assert!(
                        sorted(&ours) == theirs || has_equal_keys(&ours) || theirs.contains("null"),
                        "{} {theirs} {spoiled:?} of {text}", sorted(&ours)
                    );
                }
                (Err(bad), theirs) => prop_assert!(
                    theirs.is_err() || bad.message.contains("above 2^63"),
                    "{bad}: {spoiled:?} of {text}"
                ),
                // What it does not want it does not look into: prost refuses unknown fields of a wrong kind no more than we do.
                (ours, theirs) => prop_assert!(false, "{ours:?} {theirs:?}: {spoiled:?} of {text}"),
            }
        }
    }
}
