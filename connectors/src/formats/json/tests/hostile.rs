//! Bad payloads: never a panic, never a lost or changed neighbour.

use serde::de::Deserialize;
use serde_json::Value;

use super::*;

const GOOD: [&str; 4] = [
    r#"{"bigint":1,"float":2.5,"text":"x\ny","bit":true,"at":"2024-01-02T03:04:05Z","user":{"id":7,"tags":["a",null]},"items":[{"sku":"s"}]}"#,
    r#"[{"bigint":-5,"items":[]},{"text":{"raw":[1,2]},"other":[[[{"deep":"\ud83d\ude00"}]]]}]"#,
    "{\"bigint\":3}\n{\"user\":{\"tags\":[\"é\"]},\"float\":1e-7}",
    r#"{"at":1700000000000,"bit":false,"float":"0.5"}"#,
];

/// A small generator of pseudo-random numbers (SplitMix64): the same each run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ bits >> 31) % bound as u64) as usize
    }
}

/// Whether serde_json takes it as a payload; none where it refuses a number that JSON's grammar allows.
pub(super) fn well_formed(payload: &[u8]) -> Option<bool> {
    fn check(payload: &[u8]) -> serde_json::Result<bool> {
        let mut rows = 0;
        let mut json = serde_json::Deserializer::from_slice(payload);
        if payload.trim_ascii_start().first() == Some(&b'[') {
            let values = Vec::<Value>::deserialize(&mut json)?;
            json.end()?;
            return Ok(values.iter().all(Value::is_object));
        }
        for value in json.into_iter::<Value>() {
            if !value?.is_object() {
                return Ok(false);
            }
            rows += 1;
        }
        Ok(rows > 0)
    }
    match check(payload) {
        Err(error) if error.to_string().starts_with("number out of range") => None,
        result => Some(result.unwrap_or(false)),
    }
}

/// All good payloads, with `bad` pushed before, between and behind them, give the rows that they give alone.
fn neighbours_stay(schema: &SchemaRef, bad: &[&[u8]]) {
    let mut alone = decoder(schema.clone(), Check::Full);
    let mut among = decoder(schema.clone(), Check::Full);
    let mut next = bad.iter().cycle();
    let mut push_bad = |decoder: &mut JsonDecoder| {
        for payload in next.by_ref().take(bad.len().div_ceil(2)) {
            assert!(decoder.push(payload).is_err(), "{:?}", String::from_utf8_lossy(payload));
        }
    };
    for round in 0..3 {
        push_bad(&mut among);
        for payload in GOOD {
            let rows = alone.push(payload.as_bytes()).unwrap();
            assert_eq!(among.push(payload.as_bytes()), Ok(rows));
            push_bad(&mut among);
        }
        if round == 1 {
            assert_eq!(among.flush().unwrap(), alone.flush().unwrap());
        }
    }
    let batch = among.flush().unwrap();
    assert_eq!(batch, alone.flush().unwrap());
    batch.columns().iter().for_each(|column| column.to_data().validate_full().unwrap());
}

#[test]
fn a_payload_cut_at_any_byte_is_bad_and_harms_nobody() {
    for payload in GOOD {
        let cut: Vec<&[u8]> = (0..payload.len())
            .map(|end| &payload.as_bytes()[..end])
            .filter(|cut| well_formed(cut) == Some(false))
            .collect();
        assert!(cut.len() >= payload.len() - 2);
        neighbours_stay(&schema(), &cut);
    }
}

#[test]
fn faults_late_in_a_payload_take_all_its_rows_back() {
    let late = [
        r#"[{"bigint":1,"text":"a"},{"text":"b","user":{"tags":["x"]}},{"user":{"id":1,"tags":["y","z"],"id":x}}]"#,
        r#"[{"items":[{"sku":"a"},{"sku":"b","price":"x"}]}]"#,
        r#"{"items":[{"sku":"a"}]} {"items":[{"sku":"a"},7]}"#,
        r#"{"text":"abc\u12"}"#,
        r#"{"text":"abc\n\ud800"}"#,
        r#"{"user":{"tags":["a","b""#,
        r#"{"bigint":1,"float":1,"bit":true} trailing"#,
    ];
    neighbours_stay(&schema(), &late.map(str::as_bytes));
    for payload in late {
        neighbours_stay(&schema(), &[payload.as_bytes()]);
    }
}

#[test]
fn not_utf8() {
    let bad: [&[u8]; 4] = [b"{\"text\":\"\xff\"}", b"{\"x\":\"\xc3\"}", b"\xfe\xff{}", b"{\"text\":\"\xed\xa0\x80\"}"];
    neighbours_stay(&schema(), &bad);
    for (payload, at) in bad.iter().zip([9, 6, 0, 9]) {
        let error = decoder(schema(), Check::Lax).push(payload).unwrap_err();
        assert_eq!((error.class, error.message), (BadClass::Malformed, format!("not UTF-8 at byte {at}")));
    }
}

#[test]
fn depth_has_a_limit_and_no_recursion() {
    for name in ["text", "x", "user"] {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let nested = |levels: usize| format!(r#"{{"{name}":{}1{}}}"#, open.repeat(levels), close.repeat(levels));
            assert_eq!(well_formed(nested(126).as_bytes()), Some(true));
            assert_eq!(well_formed(nested(127).as_bytes()), Some(false));
            if name != "user" {
                assert_eq!(decoder(schema(), Check::Full).push(nested(126).as_bytes()), Ok(1));
            }
            for levels in [127, 10_000] {
                let error = decoder(schema(), Check::Full).push(nested(levels).as_bytes()).unwrap_err();
                assert!(name == "user" || error.message.starts_with("nested deeper than 127 levels"), "{error}");
                neighbours_stay(&schema(), &[nested(levels).as_bytes()]);
            }
        }
    }
}

#[test]
fn ten_megabytes() {
    let long = "x".repeat(10 << 20);
    let mut decoder = decoder(schema(), Check::Full);
    assert_eq!(decoder.push(format!(r#"{{"text":"{long}","x":"{long}","bigint":1}}"#).as_bytes()), Ok(1));
    assert!(decoder.push(format!(r#"{{"text":"{long}"#).as_bytes()).is_err());
    assert!(decoder.push(format!(r#"{{"bigint":{}}}"#, "9".repeat(10 << 20)).as_bytes()).is_err());
    assert_eq!(decoder.push(format!(r#"{{"float":0.{}}}"#, "9".repeat(10 << 20)).as_bytes()), Ok(1));
    let batch = decoder.flush().unwrap();
    assert_eq!(batch.column(2).as_string::<i32>().value(0), long);
    assert_eq!(batch.column(1).as_primitive::<Float64Type>().value(1), 1.0);
}

/// Mutated payloads are accepted exactly when serde_json accepts them; if not, they harm nobody.
#[test]
fn acceptance_agrees_with_serde_json() {
    let tokens = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u",
        "d800",
        "null",
        "true",
        "-",
        "0",
        "1e9",
        ".",
        "\n",
        "\u{0}",
        "é",
        "\"bigint\":",
    ];
    let mut random = Random(1);
    let mut refused = Vec::new();
    let mut accepted = 0;
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let as_text = Arc::new(Schema::new(vec![text("text"), text("user"), text("items"), text("bigint")]));
    let mut decoders = [decoder(Arc::new(Schema::empty()), Check::Full), decoder(as_text.clone(), Check::Full)];
    let mut typed = decoder(schema(), Check::Full);
    for _ in 0..10_000 {
        let mut payload = GOOD[random.below(GOOD.len())].as_bytes().to_vec();
        for _ in 0..=random.below(2) {
            let at = random.below(payload.len());
            match random.below(4) {
                0 => payload[at] ^= 1 << random.below(8),
                1 => drop(payload.remove(at)),
                2 => {
                    let token = tokens[random.below(tokens.len())];
                    payload.splice(at..at, token.bytes());
                }
                _ => {
                    let end = at + random.below(payload.len() - at).min(20);
                    let to = random.below(payload.len());
                    let piece = payload[at..end].to_vec();
                    payload.splice(to..to, piece);
                }
            }
        }
        let Some(expected) = well_formed(&payload) else { continue };
        for decoder in &mut decoders {
            let result = decoder.push(&payload);
            assert_eq!(result.is_ok(), expected, "{:?}: {result:?}", String::from_utf8_lossy(&payload));
        }
        match typed.push(&payload) {
            Ok(_) => assert!(expected, "{:?}", String::from_utf8_lossy(&payload)),
            Err(bad) if bad.class == BadClass::Malformed => {
                assert!(!expected, "{bad}: {:?}", String::from_utf8_lossy(&payload))
            }
            Err(_) => {}
        }
        accepted += usize::from(expected);
        if !expected {
            refused.push(payload);
        }
    }
    assert!(accepted > 1_000 && refused.len() > 1_000, "{accepted} accepted, {} refused", refused.len());
    for decoder in decoders.iter_mut().chain([&mut typed]) {
        let batch = decoder.flush().unwrap();
        batch.columns().iter().for_each(|column| column.to_data().validate_full().unwrap());
    }
    for refused in refused.chunks(500) {
        let refused: Vec<&[u8]> = refused.iter().map(Vec::as_slice).collect();
        neighbours_stay(&as_text, &refused);
        neighbours_stay(&schema(), &refused);
    }
}
