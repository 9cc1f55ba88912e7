//! Letters come back from lines, Parquet and messages as they were put.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidemill_engine::{
    dead_letter::{DeadLetter, DeadLetters},
    decoder::BadClass,
    sink::Sink,
    source::{Header, Record, TimestampKind},
};

use super::*;
use crate::{
    files::{FileSink, FixedClock, OutputFormat, Rolling},
    formats::{
        encode::{EncodedRows, RowEncoder},
        registry::WireFormat,
    },
};

fn letter(value: Option<&[u8]>) -> DeadLetter<'_> {
    DeadLetter {
        input: "clicks",
        topic: "clicks-v1",
        partition: 3,
        offset: 42,
        timestamp_ms: 1_583_333_425_120,
        key: Some(b"k\xff"),
        value,
        headers: &[Header { name: "trace", value: Some(b"\xff") }, Header { name: "none", value: None }],
        class: BadClass::Malformed,
        message: "expected `}` at byte 7",
        covering: 0,
    }
}

fn letter_box(covering: u8) -> LetterBox {
    let clicks = LetterOrigin { format: "avro", wire: Some(WireFormat::Confluent) };
    let orders = LetterOrigin { format: "csv", wire: None };
    let origins = LetterOrigins {
        job: "job".to_owned(),
        inputs: [("clicks".to_owned(), clicks)].into(),
        outputs: [("orders".to_owned(), orders)].into(),
    };
    LetterBox::new(Arc::new(origins), covering, Arc::new(FixedClock::default()))
}

const VALUES: [Option<&[u8]>; 3] = [Some(b"\x00\x00\x00\x00\x07\xfe"), Some("{\"a\": ü\n".as_bytes()), None];

fn write(format: OutputFormat, directory: &std::path::Path) {
    let rolling = Rolling { size: u64::MAX, every: Duration::MAX };
    let mut sink =
        FileSink::open("job.dead_letters", "r", directory, format, rolling, Arc::new(FixedClock::default())).unwrap();
    let mut letters = letter_box(0);
    for value in VALUES {
        letters.put(&letter(value)).unwrap();
    }
    let refused = DeadLetter { input: "orders", class: BadClass::Output, offset: -1, ..letter(Some(b"1,2")) };
    letters.put(&refused).unwrap();
    for batch in letters.take() {
        sink.write(&batch).unwrap();
    }
    sink.close().unwrap();
}

fn read(directory: &std::path::Path) -> (std::path::PathBuf, Vec<KeptLetter>) {
    let path = std::fs::read_dir(directory).unwrap().next().unwrap().unwrap().path();
    let mut kept = vec![];
    KeptLetter::each_of_file(&path, &mut |letter| kept.push(letter)).unwrap();
    (path, kept)
}

#[track_caller]
fn assert_is_as_put(kept: &[KeptLetter]) {
    assert_eq!(kept.len(), 4);
    for (kept, value) in kept.iter().zip(VALUES) {
        let KeptLetter { time_us, job, input, format, class, error, record, .. } = kept;
        assert_eq!((*time_us, job.as_str(), input.as_str(), format.as_deref()), (0, "job", "clicks", Some("avro")));
        assert_eq!((class.as_str(), error.as_str()), ("malformed", "expected `}` at byte 7"));
        assert_eq!((record.topic.as_str(), record.partition, record.offset), ("clicks-v1", 3, 42));
        assert_eq!((record.timestamp_ms, record.key.as_deref()), (1_583_333_425_120, Some(b"k\xff".as_slice())));
        assert_eq!(record.value.as_deref(), value);
        assert_eq!(record.headers, [("trace".to_owned(), Some(b"\xff".to_vec())), ("none".to_owned(), None)]);
    }
    assert_eq!(kept.iter().map(|kept| kept.schema_id).collect::<Vec<_>>(), [Some(7), None, None, None]);
    assert_eq!((kept[3].input.as_str(), kept[3].format.as_deref()), ("orders", Some("csv")));
}

#[test]
fn lines_keep_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    let encoder = Box::new(|| -> Box<dyn RowEncoder> { Box::new(LetterLines) });
    write(OutputFormat::Rows { extension: "jsonl".to_owned(), encoder }, directory.path());
    let (path, kept) = read(directory.path());
    assert_is_as_put(&kept);
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        lines[0],
        json!({
            "time": "1970-01-01T00:00:00.0000000Z", "job": "job", "input": "clicks", "topic": "clicks-v1",
            "partition": 3, "offset": 42, "timestamp": "2020-03-04T14:50:25.1200000Z", "format": "avro", "schema_id": 7,
            "class": "malformed", "error": "expected `}` at byte 7", "key": null, "key_base64": "a/8=", "value": null,
            "value_base64": "AAAAAAf+",
            "headers": [
                {"name": "trace", "value": null, "value_base64": "/w=="},
                {"name": "none", "value": null, "value_base64": null},
            ],
        })
    );
    assert_eq!(lines[1]["value"], "{\"a\": ü\n");
    assert_eq!(lines[2]["value_base64"], Value::Null);
}

#[test]
fn parquet_keeps_every_byte() {
    let directory = tempfile::tempdir().unwrap();
    write(OutputFormat::Parquet, directory.path());
    assert_is_as_put(&read(directory.path()).1);
}

#[test]
fn a_message_is_the_record_with_what_is_known_of_it_behind_its_own_headers() {
    let mut letters = letter_box(0);
    // The record was a letter of another job before.
    let before = [Header { name: "tidemill.job", value: Some(b"other") }, Header { name: "none", value: None }];
    letters.put(&DeadLetter { headers: &before, ..letter(VALUES[0]) }).unwrap();
    let batch = letters.take().remove(0);
    let mut rows = EncodedRows::default();
    LetterMessages.encode(&batch, &mut rows).unwrap();
    assert_eq!(rows.row(0), VALUES[0].unwrap());
    let headers = LetterMessages.message_headers(&batch).unwrap().remove(0);
    let headers: Vec<_> = headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
    let record = Record {
        offset: 0,
        timestamp_ms: 0,
        timestamp_kind: TimestampKind::Create,
        key: Some(b"k\xff"),
        value: Some(rows.row(0)),
        headers: &headers,
        unread_headers: None,
    };
    let kept = KeptLetter::of_message(&record).unwrap();
    assert_eq!((kept.job.as_str(), kept.input.as_str(), kept.schema_id), ("job", "clicks", Some(7)));
    assert_eq!((kept.class.as_str(), kept.error.as_str()), ("malformed", "expected `}` at byte 7"));
    assert_eq!((kept.record.topic.as_str(), kept.record.partition, kept.record.offset), ("clicks-v1", 3, 42));
    assert_eq!((kept.record.timestamp_ms, kept.record.headers.len()), (1_583_333_425_120, 2));
    assert_eq!(KeptLetter::of_message(&Record { headers: &headers[2..4], ..record }), None, "no letter");
}

#[test]
fn what_an_earlier_run_has_kept_is_left_out_and_batches_are_bounded() {
    let mut letters = letter_box(1);
    letters.put(&DeadLetter { covering: 2, ..letter(None) }).unwrap();
    assert!(letters.take().is_empty());
    for _ in 0..5_000 {
        letters.put(&DeadLetter { covering: 1, ..letter(None) }).unwrap();
    }
    let taken: Vec<_> = letters.take().iter().map(|batch| batch.num_rows()).collect();
    assert_eq!(taken, [4_096, 904]);
}
