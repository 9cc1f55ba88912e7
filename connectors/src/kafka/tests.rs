//! Source, control thread and sink against librdkafka's in-process broker, which keeps CreateTime and knows no offsets by
//! time. What needs LogAppendTime, transactions or more partitions is tested on a real Kafka in tests/it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use rdkafka::{
    ClientConfig,
    bindings::rd_kafka_resp_err_t as Code,
    message::{Header as NewHeader, OwnedHeaders},
    mocking::MockCluster,
    producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer},
    types::RDKafkaApiKey,
};
use tidemill_engine::{
    Clock, EngineError, ErrorKind, EventTime, Monotonic,
    sink::Sink,
    source::{PartitionId, Source, SourceEvent, TimestampKind},
};

use super::*;
use crate::formats::encode::JsonEncoder;

mod error_codes;
mod scripted;

/// Far longer than any of this takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct MachineClock(Instant);

#[expect(clippy::disallowed_methods, reason = "the tests' one clock")]
fn machine_clock() -> Arc<dyn Clock> {
    Arc::new(MachineClock(Instant::now()))
}

impl Clock for MachineClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.elapsed().as_micros() as i64)
    }

    #[expect(clippy::disallowed_methods, reason = "the tests' one clock")]
    fn wall(&self) -> EventTime {
        EventTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as i64)
    }
}

/// Every test of the source runs on both implementations.
macro_rules! on_both_paths {
    ($($test:ident,)*) => {
        mod own {
            $(#[test] fn $test() { super::$test(super::Fetch::Own); })*
        }
        mod librdkafka {
            $(#[test] fn $test() { super::$test(super::Fetch::Librdkafka); })*
        }
    };
}

on_both_paths! {
    a_bounded_run_reads_each_partition_to_its_end_and_no_further,
    the_end_of_an_idle_partition_is_attested_by_its_leader,
    a_broker_that_is_away_attests_nothing_and_is_waited_for,
    latest_starts_behind_the_last_record_and_committed_offsets_count_more,
    offsets_that_are_not_there_are_refused,
    keys_headers_and_tombstones_come_through,
    a_record_with_its_producers_timestamp_stops_the_job,
    a_sample_comes_from_both_ends_of_each_partition,
    an_unknown_topic_is_named_with_its_neighbours,
    a_topic_that_is_deleted_stops_the_job,
    brokers_that_refuse_are_named_within_the_wait,
    a_silent_broker_and_a_slow_line_do_not_keep_it_from_the_first_contact,
    errors_of_a_fetch_that_pass_lose_and_double_nothing,
    a_leader_that_moves_and_a_broker_that_restarts_lose_and_double_nothing,
}

/// A broker with one topic `t`.
struct Broker {
    fetch: Fetch,
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Broker {
    fn new(partitions: i32, fetch: Fetch) -> Self {
        Self::of(1, partitions, fetch)
    }

    /// With several nodes, each of which has every partition.
    fn of(nodes: i32, partitions: i32, fetch: Fetch) -> Self {
        let cluster = MockCluster::new(nodes).unwrap();
        cluster.create_topic("t", partitions, nodes).unwrap();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("linger.ms", "0")
            .create()
            .unwrap();
        Self { fetch, cluster, producer }
    }

    fn connection(&self) -> KafkaConnection {
        let brokers = self.cluster.bootstrap_servers().split(',').map(str::to_owned).collect();
        KafkaConnection { brokers, security: Security::default() }
    }

    fn produce(&self, partition: i32, values: impl IntoIterator<Item = String>) {
        for value in values {
            self.producer.send(BaseRecord::<str, str>::to("t").partition(partition).payload(&value)).unwrap();
        }
        self.producer.flush(PATIENCE).unwrap();
    }

    fn settings(&self) -> SourceSettings {
        SourceSettings {
            input: "clicks".into(),
            connection: self.connection(),
            topics: vec!["t".into()],
            isolation: Isolation::ReadCommitted,
            accept_create_time: true,
            queue_kib: 16_384,
            fetch: self.fetch,
            rack: None,
        }
    }

    fn input(&self) -> KafkaInput {
        KafkaInput::connect(self.settings(), machine_clock(), PATIENCE).unwrap()
    }
}

/// A report of a source, owned.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Record { partition: u32, offset: i64, value: String, live: bool },
    Position(u32, i64),
    End(u32, i64),
    Topology,
    Joined(u32, i64),
    Finished(u32),
}

/// Polls the sources in turns until `done` likes what was seen.
fn poll_until(sources: &mut [Box<dyn Source>], done: impl Fn(&[Seen]) -> bool) -> Result<Vec<Seen>, EngineError> {
    let clock = machine_clock();
    let mut seen = Vec::new();
    while !done(&seen) {
        assert!(clock.monotonic().0 < PATIENCE.as_micros() as i64, "seen so far: {seen:?}");
        for source in &mut *sources {
            source.poll(Duration::from_millis(20), &mut |event| {
                match event {
                    SourceEvent::Records { partition, records, live_from, .. } => {
                        assert!(!records.is_empty());
                        seen.extend(records.iter().map(|record| Seen::Record {
                            partition: partition.0,
                            offset: record.offset,
                            value: String::from_utf8(record.value.unwrap().to_vec()).unwrap(),
                            live: live_from.is_some(),
                        }));
                    }
                    SourceEvent::Position { partition, next_offset } => {
                        seen.push(Seen::Position(partition.0, next_offset));
                    }
                    SourceEvent::End { partition, end_offset, leader, .. } => {
                        assert!((1..=3).contains(&leader));
                        seen.push(Seen::End(partition.0, end_offset));
                    }
                    SourceEvent::Topology { .. } => seen.push(Seen::Topology),
                    SourceEvent::Joined { partition, topic, number, start_offset } => {
                        assert_eq!((topic, number), ("t", partition.0 as i32));
                        seen.push(Seen::Joined(partition.0, start_offset));
                    }
                    SourceEvent::Finished { partition } => seen.push(Seen::Finished(partition.0)),
                }
                Ok(())
            })?;
        }
    }
    Ok(seen)
}

fn values_of(seen: &[Seen], wanted: u32) -> Vec<(i64, String)> {
    let of = |seen: &Seen| match seen {
        Seen::Record { partition, offset, value, .. } if *partition == wanted => Some((*offset, value.clone())),
        _ => None,
    };
    seen.iter().filter_map(of).collect()
}

fn source_message(error: &EngineError) -> (ErrorKind, &str) {
    let EngineError::Source { input, kind, message } = error else { panic!("{error:?}") };
    assert_eq!(input, "clicks");
    (*kind, message)
}

fn numbered(range: Range<i64>) -> impl Iterator<Item = String> {
    range.map(|n| n.to_string())
}

fn a_bounded_run_reads_each_partition_to_its_end_and_no_further(fetch: Fetch) {
    let broker = Broker::new(4, fetch);
    for partition in [0, 1, 3] {
        broker.produce(partition, numbered(0..1_000));
    }
    let input = broker.input();
    let starts = input.resolve_start(&Start::Offsets([(1, 400)].into()), &BTreeMap::new()).unwrap();
    let ends = input.end_offsets().unwrap();
    assert_eq!((&starts[..], &ends[..]), (&[0, 400, 0, 0][..], &[1_000, 1_000, 0, 1_000][..]));
    broker.produce(0, numbered(1_000..1_100));
    let mut sources = input.open(3, &starts, Some(&ends), false).unwrap();
    let seen =
        poll_until(&mut sources, |seen| seen.iter().filter(|s| matches!(s, Seen::Finished(_))).count() == 4).unwrap();
    assert!(sources.iter().all(|source| source.finished()));
    for (id, start) in [(0, 0), (1, 400), (2, 0), (3, 0)] {
        let joined = seen.iter().position(|s| *s == Seen::Joined(id, start)).unwrap();
        let first = seen.iter().position(|s| matches!(s, Seen::Record { partition, .. } if *partition == id));
        assert!(first.is_none_or(|first| joined < first));
        let expected: Vec<_> = (start..ends[id as usize]).map(|n| (n, n.to_string())).collect();
        assert_eq!(values_of(&seen, id), expected, "partition {id}");
        assert_eq!(input.partitions()[id as usize].next_offset(), ends[id as usize]);
    }
    // Finished sources return at once and report nothing.
    poll_until(&mut sources, |seen| {
        assert_eq!(seen, []);
        true
    })
    .unwrap();
}

fn the_end_of_an_idle_partition_is_attested_by_its_leader(fetch: Fetch) {
    let broker = Broker::new(2, fetch);
    broker.produce(0, numbered(0..10));
    let input = broker.input();
    let starts = input.resolve_start(&Start::Earliest, &BTreeMap::new()).unwrap();
    let mut sources = input.open(2, &starts, None, false).unwrap();
    let wanted = [Seen::Position(0, 10), Seen::End(0, 10), Seen::End(1, 0)];
    let seen = poll_until(&mut sources, |seen| {
        wanted.iter().all(|wanted| seen.contains(wanted))
            && seen.iter().filter(|event| **event == Seen::Topology).count() > 3
    })
    .unwrap();
    let backlog = seen.iter().filter(|s| matches!(s, Seen::Record { live: false, .. })).count();
    assert_eq!(backlog, 10, "records from before the start are no samples of the leader's clock");
    // A record that comes in after the end was seen is such a sample.
    broker.produce(0, ["late".to_owned()]);
    let late = Seen::Record { partition: 0, offset: 10, value: "late".into(), live: true };
    poll_until(&mut sources, |seen| seen.contains(&late) && seen.contains(&Seen::End(0, 11))).unwrap();
    let partition = &input.partitions()[0];
    assert_eq!((partition.next_offset(), partition.log_end()), (11, 11));
}

fn a_broker_that_is_away_attests_nothing_and_is_waited_for(fetch: Fetch) {
    let broker = Broker::new(1, fetch);
    broker.produce(0, numbered(0..1));
    let input = broker.input();
    let mut sources = input.open(1, &[0], None, false).unwrap();
    poll_until(&mut sources, |seen| seen.contains(&Seen::End(0, 1))).unwrap();
    broker.cluster.broker_down(-1).unwrap();
    // What was under way arrives; then nothing does for more than two ticks of the control thread.
    let clock = machine_clock();
    let mut silent_since = clock.monotonic().0;
    while clock.monotonic().0 < silent_since + 700_000 {
        let mut any = false;
        sources[0]
            .poll(Duration::from_millis(20), &mut |_| {
                any = true;
                Ok(())
            })
            .unwrap();
        if any {
            silent_since = clock.monotonic().0;
        }
        assert!(clock.monotonic().0 < PATIENCE.as_micros() as i64);
    }
    broker.cluster.broker_up(-1).unwrap();
    broker.produce(0, ["back".to_owned()]);
    poll_until(&mut sources, |seen| seen.contains(&Seen::End(0, 2))).unwrap();
}

fn latest_starts_behind_the_last_record_and_committed_offsets_count_more(fetch: Fetch) {
    let broker = Broker::new(2, fetch);
    broker.produce(0, numbered(0..5));
    let input = broker.input();
    let group = input.group("clicks-per-minute").unwrap();
    assert_eq!(group.committed().unwrap(), BTreeMap::new());
    assert_eq!(input.resolve_start(&Start::Latest, &BTreeMap::new()).unwrap(), [5, 0]);
    let position = Committed { offset: 3, metadata: "epoch 7".into() };
    group.commit(&[(PartitionId(0), position.clone())]).unwrap();
    let committed = group.committed().unwrap();
    assert_eq!(committed, [(PartitionId(0), position)].into());
    // Partition 1 is new to the group: it is read from its beginning.
    broker.produce(1, numbered(0..5));
    assert_eq!(input.resolve_start(&Start::Latest, &committed).unwrap(), [3, 0]);
}

fn offsets_that_are_not_there_are_refused(fetch: Fetch) {
    let broker = Broker::new(1, fetch);
    broker.produce(0, numbered(0..5));
    let input = broker.input();
    let gone = "offset 9 of topic `t` partition 0 is not in the log, which has 0 to 5; start elsewhere with \
                `--from-start` or `start`";
    let refused = input.resolve_start(&Start::Offsets([(0, 9)].into()), &BTreeMap::new()).unwrap_err();
    assert_eq!(source_message(&refused), (ErrorKind::User, gone));
    let refused = input.resolve_start(&Start::Offsets([(4, 0)].into()), &BTreeMap::new()).unwrap_err();
    let unknown = "`start` gives an offset for partition 4; the input has partitions 0 to 0";
    assert_eq!(source_message(&refused), (ErrorKind::User, unknown));
    // The same when the log loses them while it is read.
    let mut sources = input.open(1, &[9], None, false).unwrap();
    let refused = poll_until(&mut sources, |_| false).unwrap_err();
    assert_eq!(source_message(&refused), (ErrorKind::User, gone));
}

fn keys_headers_and_tombstones_come_through(fetch: Fetch) {
    let broker = Broker::new(1, fetch);
    let headers = OwnedHeaders::new()
        .insert(NewHeader { key: "trace", value: Some("abc") })
        .insert(NewHeader { key: "empty", value: None::<&str> });
    let send = |record| broker.producer.send::<str, str>(record).map_err(|(error, _)| error).unwrap();
    send(BaseRecord::to("t").partition(0).key("k").payload("v").timestamp(1_234).headers(headers));
    send(BaseRecord::to("t").partition(0).key("dead").timestamp(1_235));
    broker.producer.flush(PATIENCE).unwrap();
    let settings = broker.settings();
    let input = KafkaInput::connect(settings, machine_clock(), PATIENCE).unwrap();
    let mut source = input.open(1, &[0], Some(&[2]), true).unwrap().remove(0);
    let mut records = 0;
    while !source.finished() {
        source
            .poll(Duration::from_millis(20), &mut |event| {
                let SourceEvent::Records { records: run, .. } = event else { return Ok(()) };
                for record in run {
                    records += 1;
                    assert_eq!(record.timestamp_kind, TimestampKind::Create);
                    let headers: Vec<_> = record.headers.iter().map(|header| (header.name, header.value)).collect();
                    if record.offset == 0 {
                        assert_eq!((record.key, record.value), (Some(&b"k"[..]), Some(&b"v"[..])));
                        assert_eq!(headers, [("trace", Some(&b"abc"[..])), ("empty", None)]);
                        assert_eq!(record.timestamp_ms, 1_234);
                    } else {
                        assert_eq!((record.key, record.value), (Some(&b"dead"[..]), None));
                        assert_eq!((headers, record.timestamp_ms), (vec![], 1_235));
                    }
                }
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(records, 2);
}

fn a_record_with_its_producers_timestamp_stops_the_job(fetch: Fetch) {
    let broker = Broker::new(2, fetch);
    broker.produce(0, numbered(0..5));
    broker.produce(1, numbered(0..7));
    // The mock answers no question about the topic's configuration: the records tell.
    let settings = SourceSettings { accept_create_time: false, ..broker.settings() };
    let input = KafkaInput::connect(settings, machine_clock(), Duration::from_secs(1)).unwrap();
    let mut sources = input.open(1, &[2, 7], None, false).unwrap();
    let refused = poll_until(&mut sources, |_| false).unwrap_err();
    let text = "record 2 of topic `t` partition 0 carries its producer's timestamp (CreateTime): it is older than the \
                topic's switch to LogAppendTime; the first LogAppendTime offset is 5: begin there with `start: {offsets: \
                {0: 5, 1: 7}}`";
    assert_eq!(source_message(&refused), (ErrorKind::User, text));
}

fn a_sample_comes_from_both_ends_of_each_partition(fetch: Fetch) {
    let broker = Broker::new(2, fetch);
    let input = broker.input();
    assert_eq!(input.sample(100, PATIENCE).unwrap(), Vec::<Vec<u8>>::new());
    broker.produce(0, numbered(0..100));
    broker.produce(1, numbered(500..503));
    let sample = input.sample(20, PATIENCE).unwrap();
    let sample: Vec<_> = sample.into_iter().map(|value| String::from_utf8(value).unwrap()).collect();
    let found: BTreeSet<_> = sample.iter().map(|value| value.parse::<i64>().unwrap()).collect();
    assert_eq!(found.len(), sample.len(), "no record twice");
    assert_eq!(found, (0..5).chain(95..100).chain(500..503).collect());
}

fn an_unknown_topic_is_named_with_its_neighbours(fetch: Fetch) {
    let broker = Broker::new(1, fetch);
    broker.cluster.create_topic("clicks", 1, 1).unwrap();
    let settings = SourceSettings { topics: vec!["t".into(), "cliks".into()], ..broker.settings() };
    let refused = KafkaInput::connect(settings, machine_clock(), PATIENCE).unwrap_err();
    let (kind, message) = source_message(&refused);
    assert_eq!(kind, ErrorKind::User);
    assert!(
        message.starts_with("topic `cliks` does not exist (there are `clicks`, `t`); create it with: "),
        "{message}"
    );
}

fn a_topic_that_is_deleted_stops_the_job(fetch: Fetch) {
    let broker = Broker::new(1, fetch);
    let input = broker.input();
    let mut sources = input.open(1, &[0], None, false).unwrap();
    poll_until(&mut sources, |seen| seen.contains(&Seen::Topology)).unwrap();
    broker.cluster.topic_error("t", Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let gone = poll_until(&mut sources, |_| false).unwrap_err();
    assert_eq!(source_message(&gone), (ErrorKind::User, "topic `t` was deleted while the job ran"));
}

fn brokers_that_refuse_are_named_within_the_wait(fetch: Fetch) {
    let broker = Broker::new(1, fetch);
    // Closes each connection at its first byte, as a TLS listener does to a client that speaks plain text.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closing = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().for_each(|stream| drop(stream.unwrap().read(&mut [0; 1_000]))));
    let brokers = vec!["127.0.0.1:1".into(), "no-such-host.invalid:9092".into(), closing.clone()];
    let connection = KafkaConnection { brokers, security: Security::default() };
    let settings = SourceSettings { connection, ..broker.settings() };
    let clock = machine_clock();
    let refused = KafkaInput::connect(settings, clock.clone(), Duration::from_secs(2)).unwrap_err();
    assert!(clock.monotonic().0 < 5_000_000);
    let text = format!(
        "no Kafka broker answered within 2s: `127.0.0.1:1`: connection refused; `no-such-host.invalid:9092`: the host name \
         does not resolve; `{closing}`: closed the connection at the first request: a TLS listener, or not a Kafka broker"
    );
    assert_eq!(source_message(&refused), (ErrorKind::Unavailable, &text[..]));
}

/// Passes bytes on, in each direction so much later.
fn slow_line_to(broker: &str, delay: Duration) -> String {
    let (listener, broker) = (TcpListener::bind("127.0.0.1:0").unwrap(), broker.to_owned());
    let address = listener.local_addr().unwrap().to_string();
    let pass_on = move |mut from: TcpStream, mut to: TcpStream| {
        std::thread::spawn(move || {
            let mut bytes = [0; 16_384];
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                std::thread::sleep(delay);
                if to.write_all(&bytes[..read]).is_err() {
                    break;
                }
            }
        })
    };
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let far = TcpStream::connect(&broker).unwrap();
            pass_on(near.try_clone().unwrap(), far.try_clone().unwrap());
            pass_on(far, near);
        }
    });
    address
}

fn a_silent_broker_and_a_slow_line_do_not_keep_it_from_the_first_contact(fetch: Fetch) {
    let broker = Broker::new(1, fetch);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap(); // takes connections, says nothing
    let slow = slow_line_to(&broker.connection().brokers[0], Duration::from_millis(300));
    let brokers = vec![silent.local_addr().unwrap().to_string(), slow];
    let connection = KafkaConnection { brokers, security: Security::default() };
    let settings = SourceSettings { connection, ..broker.settings() };
    KafkaInput::connect(settings, machine_clock(), PATIENCE).unwrap();
}

/// What was read of partition 0 so far.
#[derive(Default)]
struct ReadOn {
    offset: i64,
    written: HashSet<String>,
}

impl ReadOn {
    /// Reads to the record of the last of `numbers`: the offsets go on without a gap or a step back, and the values are the
    /// numbers, those apart that the producer wrote again because a broker went before it had acknowledged.
    fn read_to_the_end_of(&mut self, sources: &mut [Box<dyn Source>], numbers: Range<i64>) {
        let last = (numbers.end - 1).to_string();
        let seen = poll_until(sources, |seen| values_of(seen, 0).iter().any(|(_, value)| *value == last)).unwrap();
        let (offsets, mut values): (Vec<_>, Vec<_>) = values_of(&seen, 0).into_iter().unzip();
        let next = self.offset + offsets.len() as i64;
        assert_eq!(offsets, (self.offset..next).collect::<Vec<_>>());
        self.offset = next;
        values.retain(|value| self.written.insert(value.clone()));
        assert_eq!(values, numbered(numbers).collect::<Vec<_>>());
    }
}

fn errors_of_a_fetch_that_pass_lose_and_double_nothing(fetch: Fetch) {
    let broker = Broker::new(1, fetch);
    let mut sources = broker.input().open(1, &[0], None, false).unwrap();
    let codes = [
        Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Code::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE,
        Code::RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE,
        Code::RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
        Code::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        Code::RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
        Code::RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE,
    ];
    let mut read = ReadOn::default();
    for (round, code) in codes.into_iter().enumerate() {
        let from = round as i64 * 20;
        broker.produce(0, numbered(from..from + 10));
        broker.cluster.request_errors(RDKafkaApiKey::Fetch, &[code; 3]);
        broker.produce(0, numbered(from + 10..from + 20));
        read.read_to_the_end_of(&mut sources, from..from + 20);
    }
}

fn a_leader_that_moves_and_a_broker_that_restarts_lose_and_double_nothing(fetch: Fetch) {
    let broker = Broker::of(3, 1, fetch);
    let mut sources = broker.input().open(1, &[0], None, false).unwrap();
    let mut read = ReadOn::default();
    for (round, leader) in [1, 2, 3, 1].into_iter().enumerate() {
        let from = round as i64 * 30;
        broker.cluster.partition_leader("t", 0, Some(leader)).unwrap();
        broker.produce(0, numbered(from..from + 15));
        broker.cluster.broker_down(leader).unwrap();
        broker.cluster.broker_up(leader).unwrap();
        broker.produce(0, numbered(from + 15..from + 30));
        read.read_to_the_end_of(&mut sources, from..from + 30);
    }
}

fn rows(users: &[Option<&str>]) -> RecordBatch {
    let clicks: ArrayRef = Arc::new(Int64Array::from_iter_values(0..users.len() as i64));
    let users: ArrayRef = Arc::new(StringArray::from(users.to_vec()));
    RecordBatch::try_from_iter([("user", users), ("clicks", clicks)]).unwrap()
}

fn sink(broker: &Broker, on_rejected: OnRejected) -> KafkaSink {
    let settings = SinkSettings {
        output: "alerts".into(),
        connection: broker.connection(),
        topic: "t".into(),
        key: Some("user".into()),
        queue_kib: 16_384,
    };
    // The mock answers no question about the topic's settings: a short wait for them.
    let wait = Duration::from_millis(500);
    KafkaSink::connect(settings, Box::new(JsonEncoder), on_rejected, &*machine_clock(), wait).unwrap()
}

#[test]
fn rows_are_acknowledged_and_keys_land_where_java_puts_them() {
    let broker = Broker::new(7, Fetch::Auto);
    let mut sink = sink(&broker, OnRejected::Stop);
    // Hashes from the tests of Kafka's own murmur2.
    let hashes = [("21", -973_932_308), ("foobar", -790_332_482), ("abc", 479_470_107_i32)];
    sink.write(&rows(&hashes.map(|(key, _)| Some(key)))).unwrap();
    sink.write(&rows(&[None])).unwrap();
    sink.close().unwrap();
    let input = broker.input();
    let ends = input.end_offsets().unwrap();
    assert_eq!(ends.iter().sum::<i64>(), 4);
    let mut sources = input.open(1, &[0; 7], Some(&ends), false).unwrap();
    let mut found = BTreeMap::new();
    while !sources[0].finished() {
        sources[0]
            .poll(Duration::from_millis(20), &mut |event| {
                if let SourceEvent::Records { partition, records, .. } = event {
                    found.extend(records.iter().map(|r| {
                        let [key, value] =
                            [r.key, r.value].map(|bytes| bytes.map(|b| String::from_utf8(b.to_vec()).unwrap()));
                        (key, (partition.0, value.unwrap()))
                    }));
                }
                Ok(())
            })
            .unwrap();
    }
    for (row, (key, hash)) in hashes.into_iter().enumerate() {
        let expected = ((hash & 0x7fff_ffff) as u32 % 7, format!(r#"{{"user":"{key}","clicks":{row}}}"#));
        assert_eq!(found[&Some(key.to_owned())], expected);
    }
    assert_eq!(found[&None].1, r#"{"user":null,"clicks":0}"#);
}

#[test]
fn a_row_that_is_too_large_stops_the_job_or_goes_to_the_dead_letters() {
    let broker = Broker::new(1, Fetch::Auto);
    // Refused twice: in its batch, and alone.
    let too_large = [Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE; 2];
    let mut stopping = sink(&broker, OnRejected::Stop);
    broker.cluster.request_errors(RDKafkaApiKey::Produce, &too_large);
    let refused = stopping.write(&rows(&[Some("ann")])).and_then(|()| stopping.flush()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "output `alerts`: a row with key `ann` is too large for topic `t` (25 bytes; its limit is `max.message.bytes`)"
    );
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = kept.clone();
    let on_rejected = OnRejected::DeadLetter(Box::new(move |row| {
        keep.lock().unwrap().push((row.key.map(<[u8]>::to_vec), row.value.to_vec()));
        Ok(())
    }));
    let mut keeping = sink(&broker, on_rejected);
    broker.cluster.request_errors(RDKafkaApiKey::Produce, &too_large);
    keeping.write(&rows(&[Some("ann")])).and_then(|()| keeping.flush()).unwrap();
    assert_eq!(kept.lock().unwrap()[..], [(Some(b"ann".to_vec()), br#"{"user":"ann","clicks":0}"#.to_vec())]);
}

#[test]
fn rows_that_are_refused_for_a_neighbour_are_sent_again_alone() {
    let broker = Broker::new(1, Fetch::Auto);
    let mut sink = sink(&broker, OnRejected::Stop);
    broker.cluster.request_errors(RDKafkaApiKey::Produce, &[Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    sink.write(&rows(&[Some("ann"), Some("bob"), None])).unwrap();
    sink.close().unwrap();
    assert_eq!(broker.input().end_offsets().unwrap(), [3]);
}

#[test]
fn a_key_column_must_exist() {
    let broker = Broker::new(1, Fetch::Auto);
    let mut sink = sink(&broker, OnRejected::Stop);
    let nameless = RecordBatch::try_from_iter([("clicks", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    let refused = sink.write(&nameless).unwrap_err();
    assert_eq!(refused.to_string(), "output `alerts`: unknown key column `user`; available: `clicks`");
}
