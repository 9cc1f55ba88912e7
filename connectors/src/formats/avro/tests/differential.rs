//! Generated schemas and values, hostile bytes included: our walk against apache-avro's values.

use std::io::Cursor;

use apache_avro::{Decimal, schema::InnerDecimalSchema};
use proptest::{prelude::*, test_runner::RngSeed};

use super::*;
use crate::formats::tests::Dice;

fn record_schema(dice: &mut Dice, depth: u64, names: &mut u64) -> Json {
    *names += 1;
    let name = format!("r{names}");
    let count = 1 + dice.roll(5);
    let fields: Vec<_> =
        (0..count).map(|n| json!({"name": format!("f{n}"), "type": any_schema(dice, depth, names)})).collect();
    json!({"type": "record", "name": name, "fields": fields})
}

fn any_schema(dice: &mut Dice, depth: u64, names: &mut u64) -> Json {
    match dice.roll(if depth == 0 { 14 } else { 18 }) {
        0 => json!("boolean"),
        1 => json!("int"),
        2 => json!("float"),
        3 => json!("double"),
        4 => json!("bytes"),
        5 => json!("string"),
        6 => {
            *names += 1;
            json!({"type": "enum", "name": format!("e{names}"), "symbols": ["A", "B", "C"]})
        }
        7 => {
            *names += 1;
            json!({"type": "fixed", "name": format!("x{names}"), "size": dice.roll(5)})
        }
        8 => json!({"type": "int", "logicalType": "date"}),
        9 => json!({"type": "long", "logicalType": "timestamp-micros"}),
        10 => json!({"type": "long", "logicalType": "timestamp-millis"}),
        11 => json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": dice.roll(4)}),
        12 => json!(["null", "long"]),
        13 => json!("long"),
        14 => json!({"type": "array", "items": any_schema(dice, depth - 1, names)}),
        15 => json!({"type": "map", "values": any_schema(dice, depth - 1, names)}),
        16 => json!(["null", record_schema(dice, depth - 1, names), "string"]),
        _ => record_schema(dice, depth - 1, names),
    }
}

fn value(schema: &Schema, dice: &mut Dice) -> Value {
    match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => Value::Boolean(dice.roll(2) == 0),
        Schema::Int => Value::Int(dice.long() as i32),
        Schema::Long => Value::Long(dice.long()),
        Schema::Float => Value::Float(dice.long() as f32 / 8.0),
        Schema::Double => Value::Double(dice.long() as f64 / 1024.0),
        Schema::Bytes => Value::Bytes((0..dice.roll(5)).map(|_| dice.roll(256) as u8).collect()),
        Schema::String => {
            Value::String((0..dice.roll(20)).map(|_| ['a', '"', 'ü', '\u{1F600}'][dice.roll(4) as usize]).collect())
        }
        Schema::Enum(symbols) => {
            let index = dice.roll(symbols.symbols.len() as u64) as u32;
            Value::Enum(index, symbols.symbols[index as usize].clone())
        }
        Schema::Fixed(fixed) => Value::Fixed(fixed.size, (0..fixed.size).map(|_| dice.roll(256) as u8).collect()),
        Schema::Date => Value::Date(dice.long() as i32 % 3_000_000),
        Schema::TimestampMicros => Value::TimestampMicros(dice.long()),
        Schema::TimestampMillis => Value::TimestampMillis(dice.long() % 253_402_300_800_000),
        Schema::Decimal(decimal) => {
            assert!(matches!(decimal.inner, InnerDecimalSchema::Bytes));
            Value::Decimal(Decimal::from((dice.long() as i32).to_be_bytes()))
        }
        Schema::Array(array) => Value::Array((0..dice.roll(4)).map(|_| value(&array.items, dice)).collect()),
        Schema::Map(map) => Value::Map((0..dice.roll(4)).map(|n| (n.to_string(), value(&map.types, dice))).collect()),
        Schema::Union(union) => {
            let index = dice.roll(union.variants().len() as u64) as u32;
            Value::Union(index, Box::new(value(&union.variants()[index as usize], dice)))
        }
        Schema::Record(record) => {
            Value::Record(record.fields.iter().map(|field| (field.name.clone(), value(&field.schema, dice))).collect())
        }
        other => panic!("{other:?} is not generated"),
    }
}

/// A value as our rows show it.
fn expected(value: &Value, schema: &Schema) -> Json {
    match (value, schema) {
        (Value::Union(index, value), Schema::Union(union)) => {
            let schema = &union.variants()[*index as usize];
            let wide = union.variants().iter().any(|variant| matches!(variant, Schema::Record(_)));
            if !wide || **value == Value::Null {
                return expected(value, schema);
            }
            let mut members = serde_json::Map::new();
            for variant in union.variants().iter().filter(|variant| !matches!(variant, Schema::Null)) {
                let value = if variant == schema { expected(value, schema) } else { Json::Null };
                members.insert(schema::branch_name(variant).to_owned(), value);
            }
            Json::Object(members)
        }
        (Value::Boolean(value), _) => json!(value),
        (Value::Int(value), _) => json!(value),
        (Value::Long(value), _) => json!(value),
        (Value::Float(value), _) => json!(f64::from(*value)),
        (Value::Double(value), _) => json!(value),
        (Value::Bytes(bytes) | Value::Fixed(_, bytes), _) => json!(base64(bytes)),
        (Value::String(text) | Value::Enum(_, text), _) => json!(text),
        (Value::Date(days), _) => json!(datetime(i64::from(*days).saturating_mul(86_400_000_000))),
        (Value::TimestampMicros(micros), _) => json!(datetime(*micros)),
        (Value::TimestampMillis(millis), _) => json!(datetime(millis.saturating_mul(1_000))),
        (Value::Decimal(decimal), Schema::Decimal(schema)) => {
            let bytes: Vec<u8> = decimal.try_into().unwrap();
            let fill = if bytes.first().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
            let mut number = [fill; 16];
            number[16 - bytes.len()..].copy_from_slice(&bytes);
            json!(i128::from_be_bytes(number) as f64 / 10f64.powi(schema.scale as i32))
        }
        (Value::Array(items), Schema::Array(array)) => items.iter().map(|item| expected(item, &array.items)).collect(),
        (Value::Map(entries), Schema::Map(map)) => {
            let mut entries: Vec<_> =
                entries.iter().map(|(key, value)| json!({"key": key, "value": expected(value, &map.types)})).collect();
            entries.sort_by_key(|entry| entry["key"].to_string());
            entries.into()
        }
        (Value::Record(fields), Schema::Record(record)) => {
            let fields = fields.iter().zip(&record.fields);
            fields.map(|((name, value), field)| (name.clone(), expected(value, &field.schema))).collect()
        }
        _ => Json::Null,
    }
}

fn base64(bytes: &[u8]) -> String {
    use ::base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(bytes)
}

fn datetime(micros: i64) -> String {
    crate::formats::encode::datetime_text(micros)
}

/// apache-avro's maps have no order.
fn sorted(row: Json) -> Json {
    match row {
        Json::Array(items) => {
            let mut items: Vec<_> = items.into_iter().map(sorted).collect();
            if items.iter().all(|item| item.get("key").is_some()) {
                items.sort_by_key(|entry| entry["key"].to_string());
            }
            Json::Array(items)
        }
        Json::Object(members) => members.into_iter().map(|(name, value)| (name, sorted(value))).collect(),
        other => other,
    }
}

/// As our rows are read, which rounds the last digit of some floats.
fn read_back(row: &Json) -> Json {
    serde_json::from_str(&row.to_string()).unwrap()
}

/// Floats that JSON does not have are null in our rows.
fn finite(row: &Json) -> bool {
    !row.to_string().contains("null")
}

/// What only we refuse: what our types cannot hold, and what ends too early: apache-avro passes a string that is shorter than
/// it says, a union without its index as null, and blocks of another length than they say.
fn is_ours_alone(message: &str) -> bool {
    let reasons = ["290,000 years", "at most 38 digits", "bytes at byte", "a variable-length number", "as it says"];
    reasons.iter().any(|reason| message.contains(reason))
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn same_rows_and_same_refusals_as_apache_avro(seed in 1u64..) {
        let mut dice = Dice(seed);
        let text = record_schema(&mut dice, 3, &mut 0);
        let schema = Schema::parse(&text).unwrap();
        let mut decoder = decoder(&text);
        for _ in 0..8 {
            let written = value(&schema, &mut dice);
            let bytes = write(&schema, written.clone());
            prop_assert_eq!(decoder.push(&bytes), Ok(1));
            prop_assert_eq!(sorted(rows(&mut decoder).remove(0)), read_back(&expected(&written, &schema)));

            let mut spoiled = bytes.clone();
            match dice.roll(3) {
                0 => spoiled.truncate(dice.roll(bytes.len() as u64 + 1) as usize),
                1 => spoiled.push(dice.roll(256) as u8),
                _ => if let Some(length) = u64::try_from(spoiled.len()).ok().filter(|length| *length > 0) {
                    spoiled[dice.roll(length) as usize] = dice.roll(256) as u8;
                },
            }
            let mut cursor = Cursor::new(&spoiled);
            let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
            let theirs = reader.read_value(&mut cursor).ok()
                .filter(|_| cursor.position() == spoiled.len() as u64);
            match (decoder.push(&spoiled), theirs) {
                (Ok(1), Some(theirs)) => {
                    let ours = sorted(rows(&mut decoder).remove(0));
                    let theirs = read_back(&expected(&theirs, &schema));
                    prop_assert!(ours == theirs || !finite(&ours), "{ours} {theirs}");
                }
                (Err(bad), theirs) => prop_assert!(
                    theirs.is_none() || is_ours_alone(&bad.message),
                    "{bad}: {spoiled:?} of {text}"
                ),
                (ours, theirs) => prop_assert!(false, "{ours:?} {theirs:?}: {spoiled:?} of {text}"),
            }
        }
    }
}
