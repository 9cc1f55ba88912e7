//! The two ways to read a topic, our own fetch requests and librdkafka, hand over the same records, byte by byte.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tidemill_connectors::kafka::{Fetch, Isolation, KafkaConnection, KafkaInput, SourceSettings};
use tidemill_engine::source::{Source, SourceEvent, TimestampKind};
use xtask::kafka::{Broker, Record, shared};

use crate::clock::machine_clock;

/// Far longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A record as it was handed over.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    offset: i64,
    timestamp_ms: i64,
    kind: TimestampKind,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// All of a topic up to its end, by partition.
fn read(settings: SourceSettings) -> BTreeMap<u32, Vec<Read>> {
    let input = KafkaInput::connect(settings, machine_clock(), PATIENCE).unwrap();
    let ends = input.end_offsets().unwrap();
    let mut sources = input.open(2, &vec![0; ends.len()], Some(&ends), true).unwrap();
    let mut read: BTreeMap<u32, Vec<Read>> = BTreeMap::new();
    while !sources.iter().all(|source| source.finished()) {
        for source in &mut sources {
            take(source.as_mut(), &mut read);
        }
    }
    read
}

fn take(source: &mut dyn Source, read: &mut BTreeMap<u32, Vec<Read>>) {
    let visit = &mut |event: SourceEvent<'_>| {
        if let SourceEvent::Records { partition, records, .. } = event {
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            read.entry(partition.0).or_default().extend(records.iter().map(|record| Read {
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                kind: record.timestamp_kind,
                key: owned(record.key),
                value: owned(record.value),
                headers: record.headers.iter().map(|h| (h.name.to_owned(), owned(h.value))).collect(),
            }));
        }
        Ok(())
    };
    source.poll(Duration::from_millis(20), visit).unwrap();
}

fn settings(kafka: &Broker, topic: &str, fetch: Fetch, isolation: Isolation) -> SourceSettings {
    SourceSettings {
        input: "t".into(),
        connection: KafkaConnection { brokers: vec![kafka.bootstrap().to_owned()], ..KafkaConnection::default() },
        topics: vec![topic.to_owned()],
        isolation,
        accept_create_time: true,
        queue_kib: 16_384,
        fetch,
        rack: None,
    }
}

/// Both give the same under both isolations; says how many records of committed transactions there were.
#[track_caller]
fn both_read_the_same(kafka: &Broker, topic: &str) -> usize {
    let counts = [Isolation::ReadUncommitted, Isolation::ReadCommitted].map(|isolation| {
        let of = |fetch| read(settings(kafka, topic, fetch, isolation));
        let (own, librdkafka) = (of(Fetch::Own), of(Fetch::Librdkafka));
        assert!(own == librdkafka, "`{topic}` differs under {isolation:?}: {}", first_difference(&own, &librdkafka));
        own.values().map(Vec::len).sum()
    });
    counts[1]
}

fn first_difference(own: &BTreeMap<u32, Vec<Read>>, librdkafka: &BTreeMap<u32, Vec<Read>>) -> String {
    let short = |read: Option<&Read>| format!("{read:?}").chars().take(300).collect::<String>();
    for (partition, theirs) in librdkafka {
        let ours = own.get(partition).map_or(&[][..], Vec::as_slice);
        let differs = |index: &usize| ours.get(*index) != theirs.get(*index);
        if let Some(index) = (0..ours.len().max(theirs.len())).find(differs) {
            return format!(
                "partition {partition}: own {}, librdkafka {}",
                short(ours.get(index)),
                short(theirs.get(index))
            );
        }
    }
    "partitions that only our own path has".to_owned()
}

/// Records of every shape, the same for the same seed.
fn mixed(count: usize, partitions: i32, seed: usize) -> impl Iterator<Item = Record> {
    (0..count).map(move |i| {
        let n = i.wrapping_mul(2_654_435_761).wrapping_add(seed);
        let value = match n % 7 {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(n % 500)).into_bytes()),
        };
        let headers = (0..n % 3).map(|h| (format!("h{h}"), vec![b'v'; h * 40])).collect();
        Record {
            partition: (n % partitions as usize) as i32,
            key: (n % 2 == 0).then(|| format!("key-{}", n % 50).into_bytes()),
            value,
            headers,
            timestamp_ms: None,
        }
    })
}

#[test]
fn every_codec_and_shape_of_record() {
    let kafka = shared();
    kafka.create_topic("paths-codecs", 3, &[]).unwrap();
    for (seed, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        // A small and a large batch each, two producers in turns.
        for batch in ["1000", "900000"] {
            let settings = [("compression.type", codec), ("batch.size", batch)];
            kafka.produce_with(&settings, "paths-codecs", mixed(1_500, 3, seed)).unwrap();
        }
    }
    assert_eq!(both_read_the_same(kafka, "paths-codecs"), 15_000);
}

#[test]
fn producers_timestamps() {
    let kafka = shared();
    kafka.create_topic("paths-create-time", 1, &[("message.timestamp.type", "CreateTime")]).unwrap();
    let at = |n: i64| Record {
        timestamp_ms: Some(1_700_000_000_000 + (n * 7_919) % 10_000),
        ..Record::new(0, n.to_string())
    };
    kafka.produce("paths-create-time", (0..2_000).map(at)).unwrap();
    assert_eq!(both_read_the_same(kafka, "paths-create-time"), 2_000);
}

#[test]
fn transactions_with_aborts_of_several_producers() {
    let kafka = shared();
    let topic = "paths-transactions";
    kafka.create_topic(topic, 2, &[]).unwrap();
    let producers: Vec<BaseProducer> = (0..3)
        .map(|n| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", kafka.bootstrap()).set("transactional.id", format!("{topic}-{n}"));
            let producer: BaseProducer = config.create().unwrap();
            producer.init_transactions(PATIENCE).unwrap();
            producer
        })
        .collect();
    let mut committed = 0;
    for round in 0..12_usize {
        producers.iter().for_each(|producer| producer.begin_transaction().unwrap());
        for n in 0..5_usize {
            for (p, producer) in producers.iter().enumerate() {
                let value = format!("{round}-{n}-{p}");
                let record = BaseRecord::<str, str>::to(topic).payload(&value).partition((n % 2) as i32);
                producer.send(record).map_err(|(error, _)| error).unwrap();
                producer.flush(PATIENCE).unwrap();
            }
        }
        kafka.produce(topic, [Record::new(0, format!("plain {round}"))]).unwrap();
        committed += 1;
        for (p, producer) in producers.iter().enumerate() {
            if (round + p) % 3 == 0 {
                producer.abort_transaction(PATIENCE).unwrap();
            } else {
                producer.commit_transaction(PATIENCE).unwrap();
                committed += 5;
            }
        }
    }
    assert_eq!(both_read_the_same(kafka, topic), committed);
}

#[test]
fn a_record_of_ten_megabytes_among_small_ones() {
    let kafka = shared();
    kafka.create_topic("paths-large", 2, &[("max.message.bytes", "12000000")]).unwrap();
    let large = Record::new(0, (0..10_000_000_u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    let small = |from: usize| mixed(300, 2, from);
    kafka.produce("paths-large", small(1).chain([large]).chain(small(2))).unwrap();
    assert_eq!(both_read_the_same(kafka, "paths-large"), 601);
}

#[test]
fn two_hundred_partitions() {
    let kafka = shared();
    kafka.create_topic("paths-many", 200, &[]).unwrap();
    kafka.produce("paths-many", mixed(20_000, 150, 9)).unwrap(); // fifty stay empty
    assert_eq!(both_read_the_same(kafka, "paths-many"), 20_000);
}

#[test]
fn gaps_of_compaction() {
    let kafka = shared();
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("min.compaction.lag.ms", "0"),
        ("max.compaction.lag.ms", "100"),
        ("delete.retention.ms", "60000"),
    ];
    let topic = "paths-compacted";
    kafka.create_topic(topic, 1, &settings).unwrap();
    let keyed =
        |round: usize| (0..200).map(move |n| Record::new(0, format!("{round}")).with_key(format!("{}", n % 20)));
    let records = |fetch| read(settings_of(kafka, topic, fetch)).remove(&0).unwrap_or_default().len();
    let mut written = 0;
    let has_gaps = (0..200).any(|round| {
        kafka.produce(topic, keyed(round)).unwrap();
        written += 200;
        records(Fetch::Own) < written
    });
    assert!(has_gaps, "the cleaner has not run");
    both_read_the_same_now(kafka, topic);
}

fn settings_of(kafka: &Broker, topic: &str, fetch: Fetch) -> SourceSettings {
    settings(kafka, topic, fetch, Isolation::ReadCommitted)
}

/// While the cleaner is at work two reads may differ: they agree soon, or the test waits in vain.
#[track_caller]
fn both_read_the_same_now(kafka: &Broker, topic: &str) {
    let agree = (0..50).any(|_| {
        let of = |fetch| read(settings_of(kafka, topic, fetch));
        of(Fetch::Own) == of(Fetch::Librdkafka)
    });
    assert!(agree, "the paths never agreed on `{topic}`");
}
