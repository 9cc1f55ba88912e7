//! Generated documents give what arrow-json gives.

use arrow::json::ReaderBuilder;

use super::{hostile::Random, *};

/// A random type, at most `depth` levels deep.
fn data_type(random: &mut Random, depth: usize) -> DataType {
    match random.below(if depth == 0 { 5 } else { 7 }) {
        0 => DataType::Utf8,
        1 => DataType::Int64,
        2 => DataType::Float64,
        3 => DataType::Boolean,
        4 => datetime_type(),
        5 => DataType::List(Arc::new(Field::new_list_field(data_type(random, depth - 1), true))),
        _ => DataType::Struct(fields(random, depth - 1)),
    }
}

fn fields(random: &mut Random, depth: usize) -> Fields {
    let count = 1 + random.below(6);
    (0..count)
        .map(|n| {
            let name = ["a", "the_name", "a name of more than sixteen bytes", "é", "x.y", "B"][n];
            Field::new(name, data_type(random, depth), true)
        })
        .collect()
}

fn space(random: &mut Random) -> &'static str {
    ["", "", "", " ", "\n ", "\t\r"][random.below(6)]
}

/// A value that a column of this type takes, in the reading that arrow-json shares.
fn value(random: &mut Random, data_type: &DataType, out: &mut String) {
    if random.below(8) == 0 {
        out.push_str("null");
        return;
    }
    match data_type {
        DataType::Utf8 => {
            out.push('"');
            for _ in 0..random.below(30) {
                out.push_str(
                    [
                        "a",
                        "plain",
                        " ",
                        "é",
                        "😀",
                        "\\n",
                        "\\\"",
                        "\\\\",
                        "\\u0041",
                        "\\ud83d\\ude00",
                        "{",
                        "]",
                        ",",
                        ":",
                        "a longer run of text to leave the short path",
                    ][random.below(15)],
                );
            }
            out.push('"');
        }
        DataType::Int64 => {
            let shift = random.below(64);
            let bits = random.below(usize::MAX) as i64;
            out.push_str(&(bits >> shift).to_string());
        }
        DataType::Float64 => {
            let digits = random.below(usize::MAX) as u64 >> random.below(64);
            match random.below(4) {
                0 => out.push_str(&digits.to_string()),
                1 => out.push_str(&format!("-{digits}.{}", random.below(100_000))),
                2 => out.push_str(&format!("0.{digits:05}")),
                _ => out.push_str(&format!("{digits}.5e{}", random.below(580) as i64 - 300)),
            }
        }
        DataType::Boolean => out.push_str(if random.below(2) == 0 { "true" } else { "false" }),
        DataType::Timestamp(..) => {
            let zone = ["", "Z", "+02:00", "-0530"][random.below(4)];
            let fraction = ["", ".5", ".123", ".123456", ".1234567", ".999999999"][random.below(6)];
            out.push_str(&format!(
                "\"{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{fraction}{zone}\"",
                1678 + random.below(580),
                1 + random.below(12),
                1 + random.below(28),
                ["T", " "][random.below(2)],
                random.below(24),
                random.below(60),
                random.below(60),
            ));
        }
        DataType::List(item) => {
            out.push('[');
            out.push_str(space(random));
            for n in 0..random.below(4) {
                out.push_str(if n > 0 { "," } else { "" });
                out.push_str(space(random));
                value(random, item.data_type(), out);
                out.push_str(space(random));
            }
            out.push(']');
        }
        DataType::Struct(fields) => object(random, fields, out),
        other => unreachable!("{other}"),
    }
}

/// An object with most of the fields, sometimes in another order, and members that no field names.
fn object(random: &mut Random, fields: &Fields, out: &mut String) {
    let mut members: Vec<String> = Vec::new();
    for field in fields {
        if random.below(5) > 0 {
            let mut member = format!("\"{}\"{}:{}", field.name(), space(random), space(random));
            value(random, field.data_type(), &mut member);
            members.push(member);
        }
    }
    for n in 0..random.below(3) {
        let mut member = format!("\"other {n}\":");
        let data_type = data_type(random, 2);
        value(random, &data_type, &mut member);
        members.push(member);
    }
    if random.below(4) == 0 {
        let middle = random.below(members.len() + 1);
        members.rotate_left(middle);
    }
    let comma = format!("{},{}", space(random), space(random));
    out.push_str(&format!("{{{}{}{}}}", space(random), members.join(&comma), space(random)));
}

#[test]
fn values_agree_with_arrow_json() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let fields = fields(&mut random, 3);
        let schema = Arc::new(Schema::new(fields.clone()));
        let mut reference = ReaderBuilder::new(schema.clone()).build_decoder().unwrap();
        let mut full = decoder(schema.clone(), Check::Full);
        let mut lax = decoder(schema, Check::Lax);
        let mut payloads = Vec::new();
        for _ in 0..40 {
            let mut payload = String::new();
            object(&mut random, &fields, &mut payload);
            assert_eq!(reference.decode(payload.as_bytes()).unwrap(), payload.len());
            assert_eq!(full.push(payload.as_bytes()), Ok(1), "seed {seed}: {payload}");
            assert_eq!(lax.push(payload.as_bytes()), Ok(1), "seed {seed}: {payload}");
            payloads.push(payload);
        }
        let expected = reference.flush().unwrap().unwrap();
        let batch = full.flush().unwrap();
        for (row, payload) in payloads.iter().enumerate() {
            assert_eq!(batch.slice(row, 1), expected.slice(row, 1), "seed {seed}, row {row}: {payload}");
        }
        assert_eq!(lax.flush().unwrap(), expected, "seed {seed}");
        // The same rows as one array, or one after the other.
        for joined in [format!("[{}]", payloads.join(",")), payloads.join("\n")] {
            assert_eq!(full.push(joined.as_bytes()), Ok(payloads.len()));
            assert_eq!(full.flush().unwrap(), expected, "seed {seed}");
        }
    }
}
