//! The two ways to read a topic hand over the same records: [`xtask::paths`] on the newest Kafka, and a part of it on an older
//! one. `cargo xtask paths` runs all of it on all.

use xtask::{
    kafka::{Broker, BrokerOptions, Version, shared},
    paths,
};

macro_rules! on_the_shared_kafka {
    ($($check:ident,)*) => {
        $(#[test] fn $check() { paths::$check(shared()).unwrap(); })*
    };
}

on_the_shared_kafka! {
    codecs,
    producers_timestamps,
    transactions,
    large_record,
    many_partitions,
    compaction,
    listeners,
}

#[test]
fn an_older_kafka() {
    let kafka = Broker::start(BrokerOptions { version: Version::V3_9, secured: false, ..BrokerOptions::default() });
    let kafka = kafka.unwrap();
    [paths::codecs, paths::transactions, paths::large_record].into_iter().try_for_each(|check| check(&kafka)).unwrap();
}
