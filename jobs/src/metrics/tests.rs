use std::{
    io::{Read, Write},
    net::TcpStream,
};

use tidemill_certs::{Expiry, Part};
use tidemill_connectors::kafka::{Fetch, ReadPath};
use tidemill_engine::{Monotonic, decoder::BadClass};

use super::*;
use crate::run::OutputStatus;

struct StoppedClock;

impl Clock for StoppedClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(0)
    }

    fn wall(&self) -> EventTime {
        EventTime(0)
    }
}

#[derive(Debug)]
struct Fixed(Status);

impl Collector for Fixed {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encode_status(&self.0, &mut encoder)?;
        encode_fetches(&self.0.inputs, &mut encoder)
    }
}

#[test]
fn names_and_labels_follow_the_conventions() {
    let at = EventTime(1_700_000_010_500_000);
    let partition =
        |number, lag, watermark| PartitionStatus { topic: "c\"l".into(), number, lag, watermark, fetched: None };
    let fetched = Fetched { records: 120, batches: 5, batch_bytes: 900, unpacked_bytes: 5_000, leader_changes: 1 };
    let first = partition(0, Some(7), EventTime(1_700_000_000_000_000));
    let input = InputStatus {
        name: "clicks".into(),
        records: 120,
        bytes: 4_800,
        tombstones: 1,
        adjusted: 3,
        stepped_back: 4,
        bad: [(BadClass::Malformed, 2), (BadClass::Late, 3)].into(),
        partitions: vec![PartitionStatus { fetched: Some(fetched), ..first }, partition(1, None, EventTime::MAX)],
        path: Some(ReadPath::planned(Fetch::Auto, false)),
        fetches: vec![FetchStatus { broker: 2, answers: 3, bytes: 950, waited_us: 250_000, failures: 1, in_flight: 1 }],
    };
    let outputs = vec![OutputStatus { name: "screen".into(), rows: 9 }];
    let status = Status {
        elapsed_us: 0,
        at,
        bounded: false,
        inputs: vec![input],
        outputs,
        late: 4,
        epochs: EpochStatus { committed: 8, snapshots: 2, snapshot_bytes: 960, longest_pause_us: 1_500 },
        function_failures: vec![("hex".into(), 2)],
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Fixed(status)));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(
        samples,
        [
            r#"tidemill_records_total{input="clicks"} 120"#,
            r#"tidemill_bytes_total{input="clicks"} 4800"#,
            r#"tidemill_tombstones_total{input="clicks"} 1"#,
            r#"tidemill_adjusted_rows_total{input="clicks"} 3"#,
            r#"tidemill_stepped_back_rows_total{input="clicks"} 4"#,
            r#"tidemill_bad_records_total{input="clicks",class="malformed"} 2"#,
            r#"tidemill_bad_records_total{input="clicks",class="late"} 3"#,
            r#"tidemill_late_rows_total{} 4"#,
            r#"tidemill_function_failures_total{function="hex"} 2"#,
            r#"tidemill_rows_out_total{output="screen"} 9"#,
            r#"tidemill_epochs_total{} 8"#,
            r#"tidemill_snapshots_total{} 2"#,
            r#"tidemill_snapshot_bytes{} 960.0"#,
            r#"tidemill_snapshot_pause_seconds{} 0.0015"#,
            r#"tidemill_partition_lag{input="clicks",topic="c\"l",partition="0"} 7.0"#,
            r#"tidemill_watermark_seconds{input="clicks",topic="c\"l",partition="0"} 1700000000.0"#,
            r#"tidemill_watermark_delay_seconds{} 10.5"#,
            r#"tidemill_fetch_path{input="clicks",path="own"} 1.0"#,
            r#"tidemill_fetch_answers_total{input="clicks",broker="2"} 3"#,
            r#"tidemill_fetch_bytes_total{input="clicks",broker="2"} 950"#,
            r#"tidemill_fetch_failures_total{input="clicks",broker="2"} 1"#,
            r#"tidemill_fetch_seconds_total{input="clicks",broker="2"} 0.25"#,
            r#"tidemill_fetches_in_flight{input="clicks",broker="2"} 1.0"#,
            r#"tidemill_fetched_records_total{input="clicks",topic="c\"l",partition="0"} 120"#,
            r#"tidemill_fetched_batches_total{input="clicks",topic="c\"l",partition="0"} 5"#,
            r#"tidemill_fetched_batch_bytes_total{input="clicks",topic="c\"l",partition="0"} 900"#,
            r#"tidemill_unpacked_bytes_total{input="clicks",topic="c\"l",partition="0"} 5000"#,
            r#"tidemill_leader_changes_total{input="clicks",topic="c\"l",partition="0"} 1"#,
        ]
    );
}

#[test]
fn the_end_of_certificates_is_told() {
    #[derive(Debug)]
    struct One(Certificate);
    impl Collector for One {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            encode_certificates(std::slice::from_ref(&self.0), EventTime(1_700_000_000_000_000), &mut encoder)
        }
    }
    let expiry = Expiry { part: Part::Certificate, subject: "CN=client".into(), not_after: 1_700_000_060 };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(One(Certificate { owner: "input `clicks`".into(), expiry })));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    assert!(
        text.contains(
            "tidemill_certificate_expiry_seconds{connection=\"input `clicks`\",part=\"certificate\",subject=\"CN=client\"} 60.0"
        ),
        "{text}"
    );
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_answers_until_it_is_dropped() {
    let server = serve("127.0.0.1:0", Arc::default(), Arc::new(StoppedClock)).unwrap();
    let address = server.address();
    let metrics = get(address, "/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK"), "{metrics}");
    assert!(metrics.contains(OPEN_METRICS), "{metrics}");
    assert!(
        metrics.contains(concat!("tidemill_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n")),
        "{metrics}"
    );
    assert!(metrics.contains("tidemill_late_rows_total{} 0\n"), "{metrics}");
    assert!(get(address, "/healthz").ends_with("ok\n"));
    assert!(get(address, "/other").starts_with("HTTP/1.1 404"));

    let taken = serve(&address.to_string(), Arc::default(), Arc::new(StoppedClock)).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}
