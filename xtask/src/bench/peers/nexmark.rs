//! `cargo xtask bench nexmark`: the queries of the Nexmark benchmark that the language carries, on the events of its generator.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nexmark::{
    EventGenerator,
    config::NexmarkConfig,
    event::{Event, EventType},
};

use super::query::{Input, Query, STATELESS, TUMBLING};
use super::{Bench, EVENTS_PER_SECOND, document, flink};
use crate::bench::report::Measure;
use crate::bench::{Options, PARTITIONS, Programs, events};
use crate::kafka::{Broker, BrokerOptions, Record};

const PERSONS: &str = "persons";
const AUCTIONS: &str = "auctions";
const BIDS: &str = "bids";

/// The topics, what they hold, and how many of [`ALL_SHARES`] events are theirs: the generator's own proportions.
const TOPICS: [(&str, EventType, u64); 3] =
    [(PERSONS, EventType::Person, 1), (AUCTIONS, EventType::Auction, 3), (BIDS, EventType::Bid, 46)];
const ALL_SHARES: u64 = 50;

const WHOLE_BIDS: Input = Input {
    name: BIDS,
    topic: BIDS,
    columns: &[
        ("auction", "bigint"),
        ("bidder", "bigint"),
        ("price", "bigint"),
        ("date_time", "bigint"),
        ("extra", "string"),
    ],
};
const BIDDERS: Input = Input { columns: &[("bidder", "bigint")], ..WHOLE_BIDS };
const PRICES: &[(&str, &str)] = &[("auction", "bigint"), ("bidder", "bigint"), ("price", "bigint")];

/// All of them.
const QUERIES: &[Query] = &[
    Query {
        name: "q0, as it is",
        sql: "SELECT auction, bidder, price, date_time, extra FROM bids",
        inputs: &[WHOLE_BIDS],
        ..STATELESS
    },
    Query {
        name: "q1, currency",
        sql: "SELECT auction, bidder, 0.908E0 * price AS price, date_time, extra FROM bids",
        inputs: &[WHOLE_BIDS],
        ..STATELESS
    },
    Query {
        name: "q2, selection",
        sql: "SELECT auction, price FROM bids WHERE auction % 123 = 0",
        inputs: &[Input { columns: &[("auction", "bigint"), ("price", "bigint")], ..WHOLE_BIDS }],
        ..STATELESS
    },
    Query {
        name: "q7, highest bid",
        sql: "SELECT b.auction, b.price, b.bidder, b.window_end FROM \
              (SELECT auction, bidder, price, window_start, window_end \
              FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(_timestamp), INTERVAL '10' SECOND))) b JOIN \
              (SELECT MAX(price) AS most, window_start, window_end \
              FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(_timestamp), INTERVAL '10' SECOND)) GROUP BY window_start, window_end) m \
              ON b.price = m.most AND b.window_start = m.window_start AND b.window_end = m.window_end",
        inputs: &[Input { columns: PRICES, ..WHOLE_BIDS }],
        ..TUMBLING
    },
    Query {
        name: "q8, new users",
        sql: "SELECT p.id, p.[name], p.window_start FROM \
              (SELECT id, [name], window_start, window_end \
              FROM TABLE(TUMBLE(TABLE persons, DESCRIPTOR(_timestamp), INTERVAL '10' SECOND)) \
              GROUP BY id, [name], window_start, window_end) p JOIN \
              (SELECT seller, window_start, window_end \
              FROM TABLE(TUMBLE(TABLE auctions, DESCRIPTOR(_timestamp), INTERVAL '10' SECOND)) \
              GROUP BY seller, window_start, window_end) a \
              ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end",
        inputs: &[
            Input { name: PERSONS, topic: PERSONS, columns: &[("id", "bigint"), ("name", "string")] },
            Input { name: AUCTIONS, topic: AUCTIONS, columns: &[("seller", "bigint")] },
        ],
        ..TUMBLING
    },
    Query {
        name: "q11, sessions of users",
        sql: "SELECT bidder, window_start, window_end, COUNT(*) AS bids \
              FROM TABLE(SESSION(TABLE bids PARTITION BY bidder, DESCRIPTOR(_timestamp), INTERVAL '10' SECOND)) \
              GROUP BY bidder, window_start, window_end",
        inputs: &[BIDDERS],
        strategies: STATELESS.strategies,
        ..TUMBLING
    },
    Query {
        name: "q12, windows of users",
        sql: "SELECT bidder, window_start, window_end, COUNT(*) AS bids \
              FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(_timestamp), INTERVAL '10' SECOND)) \
              GROUP BY bidder, window_start, window_end",
        inputs: &[BIDDERS],
        ..TUMBLING
    },
];

/// Measures, writes the document, and prints it. Nothing is asked for, so there are no measures.
///
/// # Errors
/// As [`super::run`].
pub(in crate::bench) fn run(options: &Options) -> Result<Vec<Measure>> {
    flink::files().context("Flink was not run")?;
    let programs = Programs::build(options, &["tidemill"])?;
    let kafka = Broker::start(BrokerOptions { long_run: true, heap_mib: 1_024, ..BrokerOptions::default() })?;
    let loading = load(&kafka, options.events)?;
    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let counts = TOPICS.map(|(topic, _, share)| (topic, options.events * share / ALL_SHARES)).into();
    let flink = flink::Flink::start()?;
    let bench = Bench { counts, programs: &programs, kafka: &kafka, flink, dir: dir.path() };
    println!("{}", document::of_nexmark(&bench.compare(QUERIES)?, options, loading)?);
    Ok(vec![])
}

/// All topics side by side, each at its part of the rate; says how long that took.
fn load(kafka: &Broker, events: u64) -> Result<Duration> {
    eprintln!("loading {events} events of Nexmark ...");
    let start = Instant::now();
    let load = |topic: &str, kind, share: u64| {
        kafka.create_topic(topic, PARTITIONS, &[])?;
        let generator = EventGenerator::new(NexmarkConfig::default()).with_type_filter(kind);
        let record = |(n, event): (usize, Event)| Record::new(n as i32 % PARTITIONS, json(&event));
        let records = generator.take((events * share / ALL_SHARES) as usize).enumerate().map(record);
        kafka.produce(topic, events::paced(records, EVENTS_PER_SECOND * share as f64 / ALL_SHARES as f64))
    };
    thread::scope(|scope| {
        let load = &load;
        let loads = TOPICS.map(|(topic, kind, share)| scope.spawn(move || load(topic, kind, share)));
        loads.into_iter().try_for_each(|load| load.join().map_err(|_| anyhow!("loading panicked"))?)
    })?;
    Ok(start.elapsed())
}

fn json(event: &Event) -> Vec<u8> {
    match event {
        Event::Person(person) => serde_json::to_vec(person),
        Event::Auction(auction) => serde_json::to_vec(auction),
        Event::Bid(bid) => serde_json::to_vec(bid),
    }
    .expect("numbers and texts are JSON")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;

    #[test]
    fn each_topic_has_the_members_that_its_queries_declare() {
        for (topic, kind, _) in TOPICS {
            let event = EventGenerator::new(NexmarkConfig::default()).with_type_filter(kind).next().unwrap();
            let members: BTreeMap<String, Value> = serde_json::from_slice(&json(&event)).unwrap();
            for (name, kind) in
                QUERIES.iter().flat_map(|q| q.inputs).filter(|i| i.topic == topic).flat_map(|i| i.columns)
            {
                assert_eq!(members[*name].is_string(), *kind == "string", "{topic}.{name}");
            }
        }
    }

    #[test]
    fn kinds_are_as_frequent_as_the_generator_makes_them() {
        let all: Vec<Event> = EventGenerator::new(NexmarkConfig::default()).take(10 * ALL_SHARES as usize).collect();
        for (topic, kind, share) in TOPICS {
            let count = all.iter().filter(|event| event.event_type() == kind).count() as u64;
            assert_eq!(count, 10 * share, "{topic}");
        }
    }
}
