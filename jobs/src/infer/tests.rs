use std::{fs, path::Path};

use tidemill_connectors::formats::encode::{
    AvroContainerEncoder, Codec, EncodedRows, JsonEncoder, PackingEncoder, ParquetMessageEncoder, RowEncoder,
};

use super::*;
use crate::spec;

/// What is printed for payloads of a topic; it must be the beginning of a spec.
fn printed(payloads: &[&[u8]]) -> String {
    let payloads: Vec<_> = payloads.iter().map(|payload| payload.to_vec()).collect();
    let text = yaml::of_topic(&["localhost:9092".to_owned()], "a-topic", &look(&payloads).unwrap());
    holds(&text, "`a-topic`");
    text
}

fn holds(text: &str, input: &str) {
    let input = input.replace('`', "\"");
    let job = format!("name: x\n{text}outputs: {{o: {{discard: {{}}}}}}\nquery: 'SELECT * FROM {input}'\n");
    spec::parse(&job, Path::new(""), "job.yaml").unwrap_or_else(|errors| panic!("{errors}\n{job}"));
}

#[test]
fn json_says_what_was_seen_of_each_field() {
    let text = printed(&[
        br#"{"user": "a", "n": 1, "at": {"lat": 1.5, "on": true}, "tags": ["x"], "no": null}"#,
        br#"{"user": "b", "n": 2.5, "at": {"lat": 2}, "rows": [{"a": 1}]}"#,
        br#"{"n": null}"#,
        b"{",
    ]);
    assert_eq!(
        text,
        r#"# 4 records were looked at; 1 of them are of another format
inputs:
  a-topic:
    kafka: {brokers: ["localhost:9092"], topic: a-topic}
    format: json
    schema:
      user: string  # in 2 of 3 records: 2 string
      "n": double  # 1 integer, 1 float, 1 null
      at:  # in 2 of 3 records: 2 object
        lat: double  # 1 integer, 1 float
        "on": bool  # 1 boolean
      tags: [string]  # in 1 of 3 records: 1 array
      "no": any  # in 1 of 3 records: 1 null
      rows: [{a: int}]  # in 1 of 3 records: 1 array
"#
    );
}

#[test]
fn formats_are_told_by_their_bytes() {
    let batch = arrow::record_batch::RecordBatch::try_from_iter([(
        "n",
        Arc::new(arrow::array::Int64Array::from(vec![1])) as arrow::array::ArrayRef,
    )])
    .unwrap();
    for (mut encoder, format) in [
        (Box::new(ParquetMessageEncoder) as Box<dyn RowEncoder>, "format: parquet\n"),
        (Box::new(AvroContainerEncoder::new(Codec::Null)), "format: avro\n"),
        (
            Box::new(PackingEncoder::each(Box::new(JsonEncoder), Compression::Zstd)),
            "format: json\n    compression: zstd\n",
        ),
        (Box::new(PackingEncoder::each(Box::new(JsonEncoder), Compression::Deflate)), "compression: deflate\n"),
    ] {
        let mut rows = EncodedRows::default();
        encoder.encode(&batch, &mut rows).unwrap();
        let text = printed(&[rows.row(0)]);
        assert!(text.contains(format) && text.contains("      \"n\": int"), "{text}");
    }
    let text = printed(&[b"a\tb\n1\t2\n"]);
    assert!(
        text.contains("format: {csv: {delimiter: \"\\t\"}}\n    schema:\n      a: string\n      b: string\n"),
        "{text}"
    );
    assert!(printed(&[b"\x00\x00\x00\x00\x07{\"a\": 1}"]).contains("format: {json: {framing: confluent}}"));
    let text = printed(&[b"\x00\x00\x00\x00\x07\x02\x02"]);
    assert!(text.contains("{avro: {registry: ") && text.contains("has id 7;"), "{text}");
    assert_eq!(look(&[]).unwrap_err(), "it has no records to look at");
    let error = look(&[b"\x08\x96\x01".to_vec()]).unwrap_err();
    assert!(error.contains("they begin with 089601"), "{error}");
}

#[test]
fn files_are_told_by_their_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let infer = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        infer_file(&path).unwrap()
    };
    assert!(
        infer("a.jsonl", b"{\"a\": 1}\n{\"a\": 2}\n")
            .contains("format: json\n    schema:\n      a: int  # 2 integer\n")
    );
    assert!(infer("b.csv", b"a,b\n1,2\n").contains("format: csv\n    schema:\n      a: string\n      b: string\n"));
    let text = infer("c.csv", b"a|b\n1|2\n");
    holds(&text, "c");
    assert!(text.contains("delimiter: \"|\""), "{text}");
    assert!(infer_file(&directory.path().join("none")).is_err());
}
