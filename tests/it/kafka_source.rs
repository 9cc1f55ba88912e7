//! The Kafka source and sink on a real Kafka: what librdkafka's mock does not have (LogAppendTime, topic configurations,
//! offsets by time, transactions, new partitions, a broker that is stopped).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, StringArray},
    record_batch::RecordBatch,
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tidemill_connectors::{
    formats::encode::JsonEncoder,
    kafka::{
        Fetch, Isolation, KafkaConnection, KafkaInput, KafkaSink, OnRejected, Security, SinkSettings, SourceSettings,
        Start,
    },
};
use tidemill_engine::{
    EngineError, ErrorKind, EventTime,
    sink::Sink,
    source::{Source, SourceEvent, TimestampKind},
};
use xtask::{
    clock::machine_clock,
    kafka::{Broker, BrokerOptions, Record, shared},
    paths::on_both,
};

/// Far longer than any of this takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

fn connection(broker: &Broker) -> KafkaConnection {
    KafkaConnection { brokers: vec![broker.bootstrap().to_owned()], security: Security::default() }
}

fn settings(fetch: Fetch, broker: &Broker, topic: &str) -> SourceSettings {
    SourceSettings {
        input: "clicks".into(),
        connection: connection(broker),
        topics: vec![topic.to_owned()],
        isolation: Isolation::ReadCommitted,
        accept_create_time: false,
        queue_kib: 16_384,
        fetch,
        rack: None,
    }
}

/// Both implementations share a broker, not a topic.
fn topic_of(fetch: Fetch, name: &str) -> String {
    format!("{name}-{fetch:?}").to_lowercase()
}

fn connect(settings: SourceSettings) -> Result<KafkaInput, EngineError> {
    KafkaInput::connect(settings, machine_clock(), PATIENCE)
}

fn numbered(partition: i32, range: std::ops::Range<i64>) -> impl Iterator<Item = Record> {
    range.map(move |n| Record::new(partition, n.to_string()))
}

/// What a source reported, without its topologies.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Record(u32, i64, String),
    Live(u32),
    Position(u32, i64),
    End(u32, i64),
    Joined(u32, i64),
    Finished(u32),
}

/// Polls in turns until `done` likes what was seen, at most for [`PATIENCE`].
fn poll_until(sources: &mut [Box<dyn Source>], done: impl Fn(&[Seen]) -> bool) -> Result<Vec<Seen>, EngineError> {
    let start = Instant::now();
    let mut seen = Vec::new();
    while !done(&seen) {
        assert!(start.elapsed() < PATIENCE, "seen so far: {seen:?}");
        for source in &mut *sources {
            source.poll(Duration::from_millis(20), &mut |event| {
                match event {
                    SourceEvent::Records { partition, records, live_from, .. } => {
                        seen.extend(live_from.map(|_| Seen::Live(partition.0)));
                        seen.extend(records.iter().map(|record| {
                            assert_eq!(record.timestamp_kind, TimestampKind::LogAppend);
                            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                            Seen::Record(partition.0, record.offset, value)
                        }));
                    }
                    SourceEvent::Position { partition, next_offset } => {
                        seen.push(Seen::Position(partition.0, next_offset));
                    }
                    SourceEvent::End { partition, end_offset, .. } => seen.push(Seen::End(partition.0, end_offset)),
                    SourceEvent::Joined { partition, start_offset, .. } => {
                        seen.push(Seen::Joined(partition.0, start_offset));
                    }
                    SourceEvent::Finished { partition } => seen.push(Seen::Finished(partition.0)),
                    SourceEvent::Topology { .. } => {}
                }
                Ok(())
            })?;
        }
    }
    Ok(seen)
}

/// Reads a topic from `starts` to its end, bounded, and gives the records.
fn read_bounded(input: &KafkaInput, starts: &[i64]) -> Result<Vec<Seen>, EngineError> {
    let ends = input.end_offsets()?;
    let mut sources = input.open(1, starts, Some(&ends), false)?;
    let seen = poll_until(&mut sources, |seen| {
        seen.iter().filter(|event| matches!(event, Seen::Finished(_))).count() == ends.len()
    })?;
    Ok(seen.into_iter().filter(|event| matches!(event, Seen::Record(..))).collect())
}

fn message(error: &EngineError) -> (ErrorKind, &str) {
    match error {
        EngineError::Source { kind, message, .. } | EngineError::Sink { kind, message, .. } => (*kind, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_compression_is_read_with_the_brokers_timestamps() {
    on_both(|fetch| {
        let kafka = shared();
        let topic = &topic_of(fetch, "source-codecs");
        kafka.create_topic(topic, 1, &[]).unwrap();
        for (index, codec) in ["none", "gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
            let first = index as i64 * 100;
            let records = numbered(0, first..first + 100);
            kafka.produce_with(&[("compression.type", codec)], topic, records).unwrap();
        }
        let input = connect(settings(fetch, kafka, topic)).unwrap();
        let expected: Vec<_> = (0..500).map(|n| Seen::Record(0, n, n.to_string())).collect();
        assert_eq!(read_bounded(&input, &[0]).unwrap(), expected);
    });
}

#[test]
fn a_create_time_topic_is_refused_with_the_command_that_fixes_it() {
    on_both(|fetch| {
        let kafka = shared();
        let topic = &topic_of(fetch, "source-create-time");
        kafka.create_topic(topic, 1, &[("message.timestamp.type", "CreateTime")]).unwrap();
        let refused = connect(settings(fetch, kafka, topic)).unwrap_err();
        let text = format!(
            "topic `{topic}` carries the producers' timestamps (CreateTime); let the broker stamp its records \
         with: kafka-configs --bootstrap-server {} --alter --entity-type topics --entity-name {topic} \
         --add-config message.timestamp.type=LogAppendTime; or accept them with `timestamp: create_time`",
            kafka.bootstrap()
        );
        assert_eq!(message(&refused), (ErrorKind::User, &text[..]));
        connect(SourceSettings { accept_create_time: true, ..settings(fetch, kafka, topic) }).unwrap();
    });
}

#[test]
fn records_from_before_the_switch_stop_the_job_with_the_offsets_to_paste() {
    on_both(|fetch| {
        let kafka = shared();
        let topic = &topic_of(fetch, "source-switched");
        kafka.create_topic(topic, 3, &[("message.timestamp.type", "CreateTime")]).unwrap();
        kafka.produce(topic, numbered(0, 0..137).chain(numbered(1, 0..9))).unwrap();
        kafka.configure_topic(topic, &[("message.timestamp.type", "LogAppendTime")]).unwrap();
        kafka.produce(topic, numbered(0, 137..300).chain(numbered(2, 0..5))).unwrap();
        let input = connect(settings(fetch, kafka, topic)).unwrap();
        let refused = read_bounded(&input, &[100, 9, 0]).unwrap_err();
        let text = format!(
            "record 100 of topic `{topic}` partition 0 carries its producer's timestamp (CreateTime): it is \
         older than the topic's switch to LogAppendTime; the first LogAppendTime offset is 137: begin there with \
         `start: {{offsets: {{0: 137, 1: 9, 2: 0}}}}`"
        );
        assert_eq!(message(&refused), (ErrorKind::User, &text[..]));
        let pasted = Start::Offsets([(0, 137), (1, 9), (2, 0)].into());
        let starts = input.resolve_start(&pasted, &BTreeMap::new()).unwrap();
        assert_eq!(read_bounded(&input, &starts).unwrap().len(), 163 + 5);
    });
}

#[test]
fn a_start_by_time_is_the_first_record_then_or_later() {
    on_both(|fetch| {
        let kafka = shared();
        let topic = &topic_of(fetch, "source-time");
        kafka.create_topic(topic, 2, &[("message.timestamp.type", "CreateTime")]).unwrap();
        let at = |n: i64| Record { timestamp_ms: Some(1_700_000_000_000 + n * 1_000), ..Record::new(0, n.to_string()) };
        kafka.produce(topic, (0..10).map(at)).unwrap();
        let input = connect(SourceSettings { accept_create_time: true, ..settings(fetch, kafka, topic) }).unwrap();
        let start = |micros: i64| {
            let time = Start::Time(EventTime(1_700_000_000_000_000 + micros));
            input.resolve_start(&time, &BTreeMap::new()).unwrap()
        };
        assert_eq!(start(4_000_000), [4, 0]);
        assert_eq!(start(4_000_001), [5, 0]);
        assert_eq!(start(-1_000_000), [0, 0]);
        assert_eq!(start(9_000_001), [10, 0], "none is so late: the partition's end");
    });
}

fn transaction(kafka: &Broker, id: &str) -> BaseProducer {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).set("transactional.id", id).create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer
}

fn send(producer: &BaseProducer, topic: &str, value: &str) {
    producer.send(BaseRecord::<str, str>::to(topic).payload(value).partition(0)).map_err(|(error, _)| error).unwrap();
    producer.flush(PATIENCE).unwrap();
}

#[test]
fn positions_count_past_control_and_aborted_records() {
    on_both(|fetch| {
        let kafka = shared();
        let topic = &topic_of(fetch, "source-transactions");
        kafka.create_topic(topic, 1, &[]).unwrap();
        let producer = transaction(kafka, topic);
        let commit = |value: &str| {
            producer.begin_transaction().unwrap();
            send(&producer, topic, value);
            producer.commit_transaction(PATIENCE).unwrap();
        };
        commit("a"); // offset 0, its marker at 1
        producer.begin_transaction().unwrap();
        send(&producer, topic, "aborted"); // offset 2
        producer.abort_transaction(PATIENCE).unwrap(); // marker at 3
        commit("b"); // offset 4, marker at 5
        let committed = [Seen::Record(0, 0, "a".into()), Seen::Record(0, 4, "b".into())];
        let input = connect(settings(fetch, kafka, topic)).unwrap();
        assert_eq!(input.end_offsets().unwrap(), [6]);
        assert_eq!(read_bounded(&input, &[0]).unwrap(), committed);
        // Unbounded: the position stands behind the last marker, where the leader attests the end.
        let unbounded = connect(settings(fetch, kafka, topic)).unwrap();
        let mut sources = unbounded.open(1, &[0], None, false).unwrap();
        poll_until(&mut sources, |seen| seen.contains(&Seen::Position(0, 6)) && seen.contains(&Seen::End(0, 6)))
            .unwrap();
        // An open transaction: a bounded read ends before it, and the evidence is the high watermark behind it.
        producer.begin_transaction().unwrap();
        send(&producer, topic, "open"); // offset 6
        assert_eq!(input.end_offsets().unwrap(), [6]);
        assert_eq!(read_bounded(&input, &[0]).unwrap(), committed);
        let seen = poll_until(&mut sources, |seen| seen.contains(&Seen::End(0, 7))).unwrap();
        assert!(!seen.iter().any(|event| matches!(event, Seen::Record(..) | Seen::Position(_, 7..))), "{seen:?}");
        producer.commit_transaction(PATIENCE).unwrap(); // marker at 7
        let open = Seen::Record(0, 6, "open".into());
        poll_until(&mut sources, |seen| {
            [&open, &Seen::Position(0, 8), &Seen::End(0, 8)].into_iter().all(|wanted| seen.contains(wanted))
        })
        .unwrap();
        // All records are there for those who want them.
        let all =
            connect(SourceSettings { isolation: Isolation::ReadUncommitted, ..settings(fetch, kafka, topic) }).unwrap();
        assert_eq!(read_bounded(&all, &[0]).unwrap().len(), 4);
    });
}

#[test]
fn a_new_partition_is_read_from_its_beginning() {
    on_both(|fetch| {
        let kafka = shared();
        let topic = &topic_of(fetch, "source-grows");
        kafka.create_topic(topic, 1, &[]).unwrap();
        kafka.produce(topic, numbered(0, 0..5)).unwrap();
        let input = connect(settings(fetch, kafka, topic)).unwrap();
        let starts = input.resolve_start(&Start::Latest, &BTreeMap::new()).unwrap();
        let mut sources = input.open(2, &starts, None, false).unwrap();
        poll_until(&mut sources, |seen| seen.contains(&Seen::End(0, 5))).unwrap();
        kafka.grow_topic(topic, 3).unwrap();
        kafka.produce(topic, numbered(1, 0..7).chain(numbered(2, 0..8))).unwrap();
        let seen = poll_until(&mut sources, |seen| {
            [Seen::Position(1, 7), Seen::Position(2, 8)].iter().all(|wanted| seen.contains(wanted))
        })
        .unwrap();
        for (id, count) in [(1, 7), (2, 8)] {
            let joined = seen.iter().position(|event| *event == Seen::Joined(id, 0)).unwrap();
            let records: Vec<_> = (0..count).map(|n| Seen::Record(id, n, n.to_string())).collect();
            let read: Vec<_> = seen[joined..].iter().filter(|e| matches!(e, Seen::Record(p, ..) if *p == id)).collect();
            assert_eq!(read, records.iter().collect::<Vec<_>>());
        }
        let partitions = input.partitions();
        assert_eq!(partitions.iter().map(|p| (p.id.0, p.number)).collect::<Vec<_>>(), [(0, 0), (1, 1), (2, 2)]);
    });
}

#[test]
fn a_deleted_topic_stops_the_job_by_name() {
    on_both(|fetch| {
        let kafka = shared();
        let topic = &topic_of(fetch, "source-deleted");
        kafka.create_topic(topic, 1, &[]).unwrap();
        let input = connect(settings(fetch, kafka, topic)).unwrap();
        let mut sources = input.open(1, &[0], None, false).unwrap();
        poll_until(&mut sources, |seen| seen.contains(&Seen::End(0, 0))).unwrap();
        kafka.delete_topic(topic).unwrap();
        let gone = poll_until(&mut sources, |_| false).unwrap_err();
        assert_eq!(message(&gone), (ErrorKind::User, &format!("topic `{topic}` was deleted while the job ran")[..]));
    });
}

/// The sources of an input.
type Reader = Vec<Box<dyn Source>>;

/// Polls until nothing came for `quiet`.
fn poll_until_quiet(source: &mut dyn Source, quiet: Duration) {
    let mut last = Instant::now();
    while last.elapsed() < quiet {
        let visit = &mut |_: SourceEvent<'_>| {
            last = Instant::now();
            Ok(())
        };
        source.poll(Duration::from_millis(20), visit).unwrap();
    }
}

#[test]
fn a_paused_or_killed_broker_attests_nothing_and_reading_goes_on_behind_it() {
    const QUIET: Duration = Duration::from_secs(2); // longer than three ticks: without the pause, each attests the end
    let kafka = Broker::start(BrokerOptions { secured: false, ..BrokerOptions::default() }).unwrap();
    kafka.create_topic("t", 1, &[]).unwrap();
    kafka.produce("t", numbered(0, 0..3)).unwrap();
    let mut readers = [Fetch::Own, Fetch::Librdkafka].map(|fetch| {
        let input = connect(settings(fetch, &kafka, "t")).unwrap();
        input.open(1, &[0], None, false).unwrap()
    });
    let mut each = |read: &mut dyn FnMut(&mut Reader)| readers.iter_mut().for_each(read);
    let ends_at_3 = &mut |reader: &mut Reader| {
        poll_until(reader, |seen| seen.contains(&Seen::End(0, 3))).unwrap();
    };
    let falls_quiet = &mut |reader: &mut Reader| poll_until_quiet(reader[0].as_mut(), QUIET);
    each(ends_at_3);
    kafka.pause().unwrap();
    each(falls_quiet);
    kafka.resume().unwrap();
    each(ends_at_3);
    kafka.kill().unwrap();
    each(falls_quiet);
    kafka.restart().unwrap();
    kafka.produce("t", numbered(0, 3..5)).unwrap();
    each(&mut |reader| {
        let seen = poll_until(reader, |seen| seen.contains(&Seen::End(0, 5))).unwrap();
        let expected: Vec<_> = (3..5).map(|n| Seen::Record(0, n, n.to_string())).collect();
        let read: Vec<_> = seen.into_iter().filter(|event| matches!(event, Seen::Record(..))).collect();
        assert_eq!(read, expected);
    });
}

#[test]
fn a_row_above_the_topics_limit_harms_no_other() {
    let kafka = shared();
    let topic = "sink-limit";
    kafka.create_topic(topic, 2, &[("max.message.bytes", "2000")]).unwrap();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let on_rejected = OnRejected::DeadLetter(Box::new(move |row| {
        keep.lock().unwrap().push((String::from_utf8(row.key.unwrap().to_vec()).unwrap(), row.cause.to_owned()));
        Ok(())
    }));
    let settings = SinkSettings {
        output: "alerts".into(),
        connection: connection(kafka),
        topic: topic.into(),
        key: Some("user".into()),
        queue_kib: 16_384,
    };
    let clock = machine_clock();
    let mut sink = KafkaSink::connect(settings, Box::new(JsonEncoder), on_rejected, &*clock, PATIENCE).unwrap();
    // Hardly compressible, so that compression does not bring it below the limit.
    let mut state = 1_u32;
    let letters = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (state >> 24) as u8 % 90)
    });
    let long: String = letters.filter(|letter| !matches!(letter, '"' | '\\')).take(6_000).collect();
    for block in 0..20 {
        let users: Vec<_> = (0..10).map(|n| format!("u{}", block * 10 + n)).collect();
        let texts = (0..10).map(|n| if block == 7 && n == 3 { long.as_str() } else { "short" });
        let columns: [(&str, ArrayRef); 2] =
            [("user", Arc::new(StringArray::from(users))), ("text", Arc::new(StringArray::from_iter_values(texts)))];
        sink.write(&RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        sink.flush().unwrap();
    }
    sink.close().unwrap();
    let kept = kept.lock().unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].0, "u73");
    assert!(kept[0].1.starts_with("too large for topic `sink-limit` (6"), "{}", kept[0].1);
    assert_eq!(kafka.read(topic).unwrap().len(), 199);
}
