use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray},
    record_batch::RecordBatch,
};

use super::*;

fn clicks(users: &[&str], counts: &[i64]) -> RecordBatch {
    let ends = TimestampMicrosecondArray::from(vec![1_583_333_425_000_000; users.len()]).with_timezone("UTC");
    RecordBatch::try_from_iter([
        ("window_end", Arc::new(ends) as ArrayRef),
        ("user", Arc::new(StringArray::from(users.to_vec()))),
        ("clicks", Arc::new(Int64Array::from(counts.to_vec()))),
    ])
    .unwrap()
}

fn print(layout: Layout, batches: &[RecordBatch]) -> String {
    let mut out = Vec::new();
    let mut sink = StdoutSink::with_writer("screen", layout, &mut out);
    for batch in batches {
        sink.write(batch).unwrap();
    }
    sink.close().unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_table_is_aligned_and_goes_on_under_its_header() {
    let text = print(Layout::Table, &[clicks(&["ann", "bertram"], &[1, 20]), clicks(&["cy"], &[7])]);
    let expected = "\
window_end           user     clicks
───────────────────  ───────  ──────
2020-03-04 14:50:25  ann           1
2020-03-04 14:50:25  bertram      20
2020-03-04 14:50:25  cy            7
";
    assert_eq!(text, expected);
}

#[test]
fn the_header_comes_again_for_a_wider_value_another_schema_and_each_forty_rows() {
    let headers = |text: &str| text.lines().filter(|line| line.starts_with('─')).count();
    assert_eq!(headers(&print(Layout::Table, &[clicks(&["ann"], &[1]), clicks(&["bertram"], &[1])])), 2);
    let other = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![0.5])) as ArrayRef)]).unwrap();
    assert_eq!(headers(&print(Layout::Table, &[clicks(&["ann"], &[1]), other])), 2);
    assert_eq!(headers(&print(Layout::Table, &[clicks(&["ann"; 41], &[1; 41])])), 2);
    assert_eq!(print(Layout::Table, &[clicks(&[], &[])]), "");
}

#[test]
fn a_pipe_gets_json_lines() {
    let text = print(Layout::JsonLines, &[clicks(&["ann"], &[1]), clicks(&["b\"x"], &[2])]);
    let expected = "\
{\"window_end\":\"2020-03-04T14:50:25.0000000Z\",\"user\":\"ann\",\"clicks\":1}
{\"window_end\":\"2020-03-04T14:50:25.0000000Z\",\"user\":\"b\\\"x\",\"clicks\":2}
";
    assert_eq!(text, expected);
}

/// A pipe whose reader went away.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_pipe_is_told_apart() {
    let mut sink = StdoutSink::with_writer("screen", Layout::JsonLines, Closed);
    let error = sink.write(&clicks(&["ann"], &[1])).unwrap_err();
    assert!(matches!(error, EngineError::ReaderGone { .. }), "{error}");
    assert_eq!(error.to_string(), "output `screen`: its reader is gone");
}
