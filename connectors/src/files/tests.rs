use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use arrow::{
    array::{ArrayRef, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tidemill_engine::{
    Clock, ErrorKind, EventTime, Monotonic,
    signal::EpochId,
    sink::Sink,
    source::{PartitionId, Source, SourceEvent},
};

use super::*;
use crate::formats::{
    compression::Compression,
    csv::Dialect,
    encode::{CsvEncoder, JsonEncoder},
    protobuf::Prefix,
};

/// A clock that only a test moves; wall and monotonic time are the same.
#[derive(Default)]
pub(crate) struct FixedClock(AtomicI64);

impl FixedClock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_micros() as i64, Ordering::Relaxed);
    }
}

impl Clock for FixedClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> EventTime {
        EventTime(self.0.load(Ordering::Relaxed))
    }
}

fn numbers(values: std::ops::Range<i64>) -> RecordBatch {
    RecordBatch::try_from_iter([("n", Arc::new(Int64Array::from_iter_values(values)) as ArrayRef)]).unwrap()
}

const ROLLING: Rolling = Rolling { size: 1 << 20, every: Duration::from_secs(60) };

struct Out {
    directory: tempfile::TempDir,
    clock: Arc<FixedClock>,
}

impl Out {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), clock: Arc::default() }
    }

    fn open(&self, run: &str, format: OutputFormat, rolling: Rolling) -> FileSink {
        FileSink::open("archive", run, self.directory.path(), format, rolling, self.clock.clone()).unwrap()
    }

    /// Names in the directory, sorted.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap()
    }
}

#[test]
fn a_file_appears_when_it_is_whole() {
    let out = Out::new();
    let mut sink = out.open("r1", json(), ROLLING);
    assert!(out.names().is_empty());
    sink.write(&numbers(0..0)).unwrap();
    sink.flush().unwrap();
    assert!(out.names().is_empty(), "no rows, no file");

    sink.write(&numbers(0..2)).unwrap();
    assert_eq!(out.names(), [".archive-r1-000001.jsonl.part"]);
    assert!(sink.has_unflushed());
    sink.write(&numbers(2..3)).unwrap();
    sink.flush().unwrap();
    assert!(!sink.has_unflushed());
    assert_eq!(out.names(), ["archive-r1-000001.jsonl"]);
    assert_eq!(out.read("archive-r1-000001.jsonl"), "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");

    sink.write(&numbers(3..4)).unwrap();
    assert_eq!(out.names(), [".archive-r1-000002.jsonl.part", "archive-r1-000001.jsonl"]);
    sink.close().unwrap();
    assert_eq!(out.names(), ["archive-r1-000001.jsonl", "archive-r1-000002.jsonl"]);
}

#[test]
fn a_file_is_rolled_by_size_by_age_and_for_another_schema() {
    let out = Out::new();
    let rolling = Rolling { size: 100, every: Duration::from_secs(60) };
    let mut sink = out.open("r1", csv(), rolling);
    sink.write(&numbers(0..100)).unwrap();
    assert_eq!(out.names(), ["archive-r1-000001.csv"], "100 bytes are reached");

    sink.write(&numbers(0..1)).unwrap();
    out.clock.advance(Duration::from_secs(59));
    sink.tick().unwrap();
    assert_eq!(out.names().len(), 2);
    assert!(out.names()[0].ends_with(".part"));
    out.clock.advance(Duration::from_secs(1));
    sink.tick().unwrap();
    assert_eq!(out.names(), ["archive-r1-000001.csv", "archive-r1-000002.csv"]);

    sink.write(&numbers(0..1)).unwrap();
    let other = RecordBatch::try_from_iter([("t", Arc::new(StringArray::from(vec!["x"])) as ArrayRef)]).unwrap();
    sink.write(&other).unwrap();
    sink.close().unwrap();
    assert_eq!(out.read("archive-r1-000003.csv"), "n\n0\n");
    assert_eq!(out.read("archive-r1-000004.csv"), "t\nx\n");
}

#[test]
fn parquet_files_read_back() {
    let out = Out::new();
    let mut sink = out.open("r1", OutputFormat::Parquet, ROLLING);
    sink.write(&numbers(0..10)).unwrap();
    sink.write(&numbers(10..30)).unwrap();
    sink.close().unwrap();
    let file = File::open(out.directory.path().join("archive-r1-000001.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    assert_eq!(reader.map(Result::unwrap).collect::<Vec<_>>(), [numbers(0..30)]);
}

#[test]
fn only_leftovers_of_dead_runs_of_this_output_are_removed() {
    let out = Out::new();
    for name in
        [".archive-r0-000007.jsonl.part", ".archive-eu-r0-000001.jsonl.part", ".other", "archive-r0-000006.jsonl"]
    {
        fs::write(out.directory.path().join(name), "{").unwrap();
    }
    let mut alive = out.open("r1", json(), ROLLING);
    alive.write(&numbers(0..1)).unwrap();
    let mut next = out.open("r-2", json(), ROLLING);
    assert_eq!(
        out.names(),
        [".archive-eu-r0-000001.jsonl.part", ".archive-r1-000001.jsonl.part", ".other", "archive-r0-000006.jsonl"],
        "that of the dead run r0 is gone; another output's and a living run's stay"
    );
    alive.close().unwrap();

    fs::write(out.directory.path().join("archive-r_2-000001.jsonl"), "kept\n").unwrap();
    next.write(&numbers(0..1)).unwrap();
    next.close().unwrap();
    assert_eq!(out.read("archive-r_2-000001.jsonl"), "kept\n", "a file is never overwritten");
    assert_eq!(out.read("archive-r_2-000002.jsonl"), "{\"n\":0}\n");
}

#[test]
fn a_start_that_was_frozen_takes_nothing_from_its_successor() {
    let out = Out::new();
    let start = |generation, committed| {
        let (directory, clock) = (out.directory.path(), out.clock.clone());
        FileSink::in_epochs("archive", ("job", generation), Some(committed), directory, (json(), ROLLING), clock)
            .unwrap()
    };
    let mut successor = start(7, (5, 3));
    successor.write(&numbers(0..1)).unwrap();
    successor.prepare(EpochId(4)).unwrap();
    successor.write(&numbers(1..2)).unwrap();
    successor.flush().unwrap();
    let hidden =
        [".job.archive-0000000007-000000000004-000001.jsonl.ready", ".job.archive-0000000007-000002.jsonl.part"];
    assert_eq!(out.names(), hidden);

    drop(start(6, (5, 3)));
    assert_eq!(out.names(), hidden, "it claimed the job before, and woke up late");

    drop(successor);
    drop(start(8, (7, 4)));
    assert_eq!(out.names(), ["archive-0000000007-000000000004-000001.jsonl"], "what belongs to no epoch is gone");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let out = Out::new();
    fs::write(out.directory.path().join("file"), "").unwrap();
    let directory = out.directory.path().join("file/out");
    let error = FileSink::open("archive", "r1", &directory, json(), ROLLING, out.clock.clone());
    let error = error.err().unwrap();
    assert!(error.to_string().starts_with("output `archive`: cannot write to directory `"), "{error}");
    assert!(error.to_string().contains("file/out`: Not a directory"), "{error}");
    assert_eq!(error.kind(), ErrorKind::User);
}

/// What a source reported, as text, one event a line.
fn json() -> OutputFormat {
    OutputFormat::Rows { extension: "jsonl".to_owned(), encoder: Box::new(|| Box::new(JsonEncoder)) }
}

fn csv() -> OutputFormat {
    let encoder: EncoderFactory = Box::new(|| Box::new(CsvEncoder::new(Dialect::default())));
    OutputFormat::Rows { extension: "csv".to_owned(), encoder }
}

const JSON: InputFormat = InputFormat { content: Content::Json, compression: None };
const CSV: InputFormat = InputFormat {
    content: Content::Csv { dialect: Dialect { delimiter: b',', quote: Some(b'"') }, header: true },
    compression: None,
};

fn read(files: &[PathBuf], format: InputFormat) -> Vec<String> {
    let partitions = files.iter().enumerate().map(|(index, path)| (PartitionId(index as u32), path.clone()));
    let mut source = FileSource::new("in", partitions, format, Arc::new(FixedClock::default()));
    let mut events = Vec::new();
    while !source.finished() {
        source
            .poll(Duration::ZERO, &mut |event| {
                match event {
                    SourceEvent::Joined { partition, topic, start_offset, .. } => {
                        let name = Path::new(topic).file_name().unwrap().to_string_lossy().into_owned();
                        events.push(format!("{} joined {name} at {start_offset}", partition.0));
                    }
                    SourceEvent::Records { partition, records, .. } => events.extend(records.iter().map(|record| {
                        let payload = String::from_utf8_lossy(record.value.unwrap()).into_owned();
                        format!("{}/{} @{} {payload:?}", partition.0, record.offset, record.timestamp_ms)
                    })),
                    SourceEvent::Position { partition, next_offset } => {
                        events.push(format!("{} position {next_offset}", partition.0));
                    }
                    SourceEvent::Finished { partition } => events.push(format!("{} finished", partition.0)),
                    other => panic!("{other:?}"),
                }
                Ok(())
            })
            .unwrap();
    }
    events
}

fn write_file(directory: &Path, name: &str, text: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(UNIX_EPOCH + Duration::from_millis(5)).unwrap();
    path
}

#[test]
fn lines_are_records_with_their_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let one = write_file(directory.path(), "a.jsonl", b"\xef\xbb\xbf{\"a\":1}\r\n\n  \n{\"a\":2}\nlast");
    let two = write_file(directory.path(), "b.jsonl", b"");
    let expected = [
        "0 joined a.jsonl at 0",
        "1 joined b.jsonl at 0",
        "0/0 @5 \"{\\\"a\\\":1}\"",
        "0/3 @5 \"{\\\"a\\\":2}\"",
        "0/4 @5 \"last\"",
        "0 position 5",
        "0 finished",
        "1 finished",
    ];
    assert_eq!(read(&[one, two], JSON), expected);
}

#[test]
fn an_array_is_one_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = write_file(directory.path(), "a.json", b"\n [{\"a\":1},\n {\"a\":2}]\n");
    let events = read(&[path], JSON);
    assert_eq!(events[1], "0/0 @5 \"\\n [{\\\"a\\\":1},\\n {\\\"a\\\":2}]\"");
    assert_eq!(events[2..], ["0 position 1", "0 finished"]);
}

#[test]
fn csv_rows_come_behind_their_header() {
    let directory = tempfile::tempdir().unwrap();
    let path = write_file(directory.path(), "a.csv", b"a,b\r\n1,\"x\ny\"\n\n2,z");
    let expected = ["0/1 @5 \"a,b\\r\\n1,\\\"x\\ny\\\"\\n\"", "0/4 @5 \"a,b\\r\\n2,z\"", "0 position 5", "0 finished"];
    assert_eq!(read(&[path], CSV)[1..], expected);
}

#[test]
fn a_quote_that_is_never_closed_costs_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = write_file(directory.path(), "a.csv", b"a,b\n\"1,x\n2,y\n3,z\n");
    let events = read(&[path], CSV);
    assert_eq!(events[1..4], ["0/1 @5 \"a,b\\n\\\"1,x\\n\"", "0/2 @5 \"a,b\\n2,y\\n\"", "0/3 @5 \"a,b\\n3,z\\n\""]);
}

#[test]
fn long_lines_and_long_files_go_through_one_buffer() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = vec![b'x'; 10 << 20];
    for line in 0..200_000 {
        text.extend_from_slice(format!("\n{line}").as_bytes());
    }
    let path = write_file(directory.path(), "a.jsonl", &text);
    let mut source = FileSource::new("in", [(PartitionId(0), path)], JSON, Arc::new(FixedClock::default()));
    let mut next = 0;
    while !source.finished() {
        source
            .poll(Duration::ZERO, &mut |event| {
                if let SourceEvent::Records { records, .. } = event {
                    assert!(records.len() <= 4096);
                    for record in records {
                        let payload = record.value.unwrap();
                        assert_eq!(record.offset, next);
                        match next {
                            0 => assert_eq!(payload.len(), 10 << 20),
                            _ => assert_eq!(payload, (next - 1).to_string().as_bytes()),
                        }
                        next += 1;
                    }
                }
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(next, 200_001);
}

#[test]
fn a_sample_comes_from_every_file() {
    let directory = tempfile::tempdir().unwrap();
    let files = [
        write_file(directory.path(), "a.jsonl", b"1\n2\n3\n"),
        write_file(directory.path(), "b.jsonl", b"4\n"),
        write_file(directory.path(), "c.jsonl", b"5\n6\n7\n"),
    ];
    let payloads = sample("in", &files, JSON, 5).unwrap();
    assert_eq!(payloads, [b"1", b"2", b"4", b"5", b"6"]);
    let error = sample("in", &["/no/such/file".into()], JSON, 5).unwrap_err();
    assert!(error.to_string().starts_with("input `in`: cannot read `/no/such/file`: No such file"), "{error}");
}

/// The payloads of a file, with their offsets.
fn payloads(bytes: &[u8], content: Content, compression: Option<Compression>) -> Vec<(i64, Vec<u8>)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, bytes).unwrap();
    let mut reader = reader::FileReader::open(&path, InputFormat { content, compression }).unwrap();
    let mut all = Vec::new();
    loop {
        let run = reader.next_run(2).unwrap();
        if run.is_empty() {
            return all;
        }
        all.extend(run.into_iter().map(|(offset, payload)| (offset, payload.to_vec())));
    }
}

#[test]
fn packed_and_binary_files_are_read_record_by_record() {
    let lines = [(0, b"{}".to_vec()), (2, b"[1]".to_vec())];
    for compression in [Compression::Gzip, Compression::Deflate, Compression::Zstd] {
        let mut packed = Vec::new();
        compression.pack(b"{}\n\n[1]", &mut packed);
        assert_eq!(payloads(&packed, Content::Json, Some(compression)), lines);
    }
    // What is left at the end is a record too, for the decoder to refuse.
    let expected = [(0, b"\x02ab".to_vec()), (1, b"\x00".to_vec()), (2, b"\x01c".to_vec()), (3, b"\x05x".to_vec())];
    assert_eq!(payloads(b"\x02ab\x00\x01c\x05x", Content::Prefixed(Prefix::Base128), None), expected);
    assert_eq!(payloads(b" \n", Content::Whole, None), [(0, b" \n".to_vec())]);
    assert_eq!(payloads(b"", Content::Whole, None), []);
    let rows = [(0, b"a,b\n".to_vec()), (1, b"\"c\nd\"\n".to_vec()), (3, b"e".to_vec())];
    let csv = Content::Csv { dialect: Dialect::default(), header: false };
    assert_eq!(payloads(b"a,b\n\"c\nd\"\ne", csv, None), rows);
    assert_eq!(payloads(b"", Content::AvroBlocks, None), []);
}
