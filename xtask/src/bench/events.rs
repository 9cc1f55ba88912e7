//! The events of the benches: JSON of about 200 bytes, the same on every machine.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::kafka::Record;
use crate::random::Random;

/// How many users there are, evenly drawn.
const KEYS: u64 = 10_000;

const PAGES: [&str; 4] = ["/", "/catalogue/winter/boots", "/basket", "/checkout/payment"];
const COUNTRIES: [&str; 10] = ["FR", "DE", "US", "JP", "BR", "IN", "ZA", "NO", "CA", "KE"];

/// How events go over partitions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spread {
    /// Each to the partition of its user.
    ByUser,
    /// So many to one partition, then as many to the next.
    Runs(u64),
}

impl Spread {
    fn partition(self, event: u64, user: u64, partitions: i32) -> i32 {
        let place = match self {
            Self::ByUser => user,
            Self::Runs(run) => event / run,
        };
        (place % partitions as u64) as i32
    }
}

/// `count` events.
pub(super) fn generate(count: u64, partitions: i32, spread: Spread) -> impl Iterator<Item = Record> {
    of_keys(count, KEYS, partitions, spread)
}

/// `count` events of so many users.
pub(super) fn of_keys(count: u64, keys: u64, partitions: i32, spread: Spread) -> impl Iterator<Item = Record> {
    let mut random = Random(1);
    (0..count).map(move |i| {
        let user = random.below(keys);
        let mut event = Vec::with_capacity(256);
        write!(
            event,
            r#"{{"id":{i},"user":"user-{user:06}","page":"{}","amount":{}.{:02},"quantity":{},"country":"{}","device":{{"kind":"mobile","os":"14.2.1","memory":{}}},"session":"{:016x}{:08x}","member":{}}}"#,
            PAGES[random.below(4) as usize],
            random.below(100),
            random.below(100),
            1 + random.below(9),
            COUNTRIES[random.below(10) as usize],
            1_024 << random.below(4),
            random.number(),
            random.below(1 << 32),
            random.below(2) == 0,
        )
        .expect("memory takes all");
        Record::new(spread.partition(i, user, partitions), event)
    })
}

/// `count` events in Avro, of the schema `bench/events.avsc`, as bare values.
pub(super) fn in_avro(count: u64, partitions: i32) -> impl Iterator<Item = Record> {
    let mut random = Random(1);
    (0..count).map(move |i| {
        let user = random.below(KEYS);
        let mut event = Vec::with_capacity(128);
        avro_long(&mut event, i);
        avro_string(&mut event, &format!("user-{user:06}"));
        avro_string(&mut event, PAGES[random.below(4) as usize]);
        event.extend_from_slice(&(random.below(10_000) as f64 / 100.0).to_le_bytes());
        avro_long(&mut event, 1 + random.below(9));
        avro_string(&mut event, COUNTRIES[random.below(10) as usize]);
        avro_string(&mut event, &format!("{:016x}{:08x}", random.number(), random.below(1 << 32)));
        Record::new(Spread::ByUser.partition(i, user, partitions), event)
    })
}

/// The same events, so many a second at most.
pub(super) fn paced(events: impl Iterator<Item = Record>, rate: f64) -> impl Iterator<Item = Record> {
    let start = Instant::now();
    events.enumerate().map(move |(before, event)| {
        let due = Duration::from_secs_f64(before as f64 / rate);
        thread::sleep(due.saturating_sub(start.elapsed()));
        event
    })
}

/// A number that is not negative: doubled (zigzag), seven bits a byte, the lowest first.
fn avro_long(event: &mut Vec<u8>, number: u64) {
    let mut left = number << 1;
    while left > 0x7f {
        event.push(left as u8 | 0x80);
        left >>= 7;
    }
    event.push(left as u8);
}

fn avro_string(event: &mut Vec<u8>, text: &str) {
    avro_long(event, text.len() as u64);
    event.extend_from_slice(text.as_bytes());
}

/// `count` events of so many bytes, most of them in a member that no job needs.
pub(super) fn of_size(count: u64, bytes: usize, partitions: i32) -> impl Iterator<Item = Record> {
    let mut random = Random(1);
    (0..count).map(move |i| {
        let user = random.below(KEYS);
        let amount = random.below(100);
        let mut event = Vec::with_capacity(bytes);
        write!(event, r#"{{"user":"user-{user:06}","amount":{amount}.25,"text":""#).expect("memory takes all");
        event.resize(bytes.saturating_sub(2), b'x');
        event.extend_from_slice(b"\"}");
        Record::new(Spread::ByUser.partition(i, user, partitions), event)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json_of_about_200_bytes_and_always_the_same() {
        let events: Vec<_> = generate(1_000, 4, Spread::ByUser).map(|record| record.value.unwrap()).collect();
        let mean = events.iter().map(Vec::len).sum::<usize>() / events.len();
        assert!((190..=215).contains(&mean), "{mean} bytes");
        for event in &events {
            serde_json::from_slice::<serde_json::Value>(event).unwrap();
        }
        assert!(generate(1_000, 4, Spread::ByUser).map(|record| record.value.unwrap()).eq(events));
    }

    #[test]
    fn events_of_a_size_are_json_of_that_size() {
        for bytes in [100, 1_000] {
            for event in of_size(20, bytes, 4).map(|record| record.value.unwrap()) {
                assert_eq!(event.len(), bytes);
                serde_json::from_slice::<serde_json::Value>(&event).unwrap();
            }
        }
    }
}
