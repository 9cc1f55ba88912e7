//! What a decoder learned from the records before changes nothing in the next one.

use super::{hostile::Random, *};

/// Records of one shape, long enough in a row that every length in them is counted on.
const STEADY: usize = 200;

/// A record whose members, names and lengths are the same for every `n` below ten.
fn steady(n: usize) -> String {
    format!(
        r#"{{"bigint":10{n},"a longer name than sixteen":3{n}.5,"float":4{n}.25,"text":"word-{n}","bit":true,"more":false,"at":"2026-01-02T03:04:0{n}Z","user":{{"id":7{n},"tags":["t{n}"]}},"unwanted":{{"kind":"k{n}","deep":{{"x":{n}}},"size":-{n}}},"none":null,"items":[{{"sku":"s{n}","price":1.{n}}}],"last":"z{n}"}}"#
    )
}

/// Something of it changes: a byte, a piece or a token.
fn change(random: &mut Random, record: &str) -> Vec<u8> {
    const TOKENS: [&str; 20] = [
        "\"", "\\", "\\n", ",", ":", "{", "}", "[", "]", "null", "true", "-", "0", "00", ".", "e5", " ", "\n", "é",
        "\u{1}",
    ];
    let mut payload = record.as_bytes().to_vec();
    for _ in 0..=random.below(2) {
        let at = random.below(payload.len());
        let end = at + random.below(payload.len() - at).min(8);
        match random.below(4) {
            0 => payload[at] = b" 0a\"-.,}"[random.below(8)],
            1 => drop(payload.drain(at..end)),
            2 => drop(payload.splice(at..at, TOKENS[random.below(TOKENS.len())].bytes())),
            _ => {
                let piece = payload[at..end].to_vec();
                payload.splice(at..at, piece);
            }
        }
    }
    payload
}

#[test]
fn a_record_is_read_as_if_it_were_the_first() {
    let mut random = Random(3);
    let (mut good, mut bad) = (0, 0);
    for (check, is_narrow) in [(Check::Full, false), (Check::Lax, false), (Check::Full, true)] {
        let mut learned = decoder(schema(), check);
        learned.root.is_wide &= !is_narrow;
        for n in 0..STEADY {
            learned.push(steady(n % 10).as_bytes()).unwrap();
        }
        for n in 0..10_000 {
            learned.flush().unwrap();
            let payload = change(&mut random, &steady(n % 10));
            let mut fresh = decoder(schema(), check);
            let expected = fresh.push(&payload);
            assert_eq!(learned.push(&payload), expected, "{}", String::from_utf8_lossy(&payload));
            assert_eq!(learned.flush().unwrap(), fresh.flush().unwrap(), "{}", String::from_utf8_lossy(&payload));
            *(if expected.is_ok() { &mut good } else { &mut bad }) += 1;
            if n % 100 == 0 {
                // Lengths that changed are counted on again.
                for n in 0..STEADY {
                    learned.push(steady(n % 10).as_bytes()).unwrap();
                }
            }
        }
    }
    assert!(good > 5_000 && bad > 5_000, "{good} good, {bad} bad");
}

#[test]
fn members_that_come_and_go_are_found() {
    let mut learned = decoder(schema(), Check::Full);
    for n in 0..400 {
        let mut members = vec![format!(r#""other {}":{n}"#, n % 7)];
        members.extend((n % 2 == 0).then(|| format!(r#""bigint":{n}"#)));
        members.extend((n % 3 == 0).then(|| r#""text":null"#.to_owned()));
        members.extend((n % 5 != 0).then(|| format!(r#""float":{n}.5"#)));
        let middle = n % members.len();
        members.rotate_left(middle);
        let payload = format!("{{{}}}", members.join(if n % 4 == 0 { ", " } else { "," }));
        learned.push(payload.as_bytes()).unwrap();
        let batch = learned.flush().unwrap();
        let (bigint, float) =
            (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_primitive::<Float64Type>());
        assert_eq!(bigint.iter().next().unwrap(), (n % 2 == 0).then_some(n as i64), "{payload}");
        assert_eq!(float.iter().next().unwrap(), (n % 5 != 0).then_some(n as f64 + 0.5), "{payload}");
    }
}
