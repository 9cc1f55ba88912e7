use std::sync::Arc;

use arrow::{
    array::AsArray,
    datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimestampMicrosecondType},
};
use proptest::{prelude::*, test_runner::RngSeed};
use tidemill_engine::datetime_type;

use super::*;
use crate::formats::encode::{CsvEncoder, EncodedRows, RowEncoder};

fn decoder(fields: &[(&str, DataType)]) -> CsvDecoder {
    let fields = fields.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true));
    CsvDecoder::new("in", Arc::new(Schema::new(fields.collect::<Vec<_>>())), CsvOptions::default()).unwrap()
}

fn texts(names: &[&str]) -> CsvDecoder {
    decoder(&names.iter().map(|name| (*name, DataType::Utf8)).collect::<Vec<_>>())
}

/// Column `index` of a batch of texts.
fn column(batch: &RecordBatch, index: usize) -> Vec<Option<&str>> {
    batch.column(index).as_string::<i32>().iter().collect()
}

#[test]
fn columns_are_found_by_name_whatever_the_header() {
    let mut decoder = texts(&["b", "gone", "A"]);
    assert_eq!(decoder.push(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,4\r\n"), Ok(2));
    assert_eq!(decoder.push(b"b,other,a\n5,x,6"), Ok(1));
    assert_eq!(decoder.push(b"b,a\n"), Ok(0), "a header alone");
    let batch = decoder.flush().unwrap();
    assert_eq!(column(&batch, 0), [Some("2"), Some("4"), Some("5")]);
    assert_eq!(column(&batch, 1), [None, None, None]);
    assert_eq!(column(&batch, 2), [Some("1"), Some("3"), Some("6")]);
}

#[test]
fn a_name_matches_exactly_first() {
    let mut decoder = texts(&["a", "A", "å"]);
    decoder.push(b"A,a\n1,2\n").unwrap();
    let batch = decoder.flush().unwrap();
    assert_eq!((column(&batch, 0), column(&batch, 1)), (vec![Some("2")], vec![Some("1")]));

    let mut decoder = texts(&["a", "A"]);
    decoder.push(b"a\n1\n").unwrap();
    let batch = decoder.flush().unwrap();
    assert_eq!((column(&batch, 0), column(&batch, 1)), (vec![Some("1")], vec![None]));
}

#[test]
fn quotes_nulls_and_empty_texts() {
    let mut decoder = texts(&["a", "b"]);
    decoder.push(b"a,b\n\"x,\"\"y\"\"\nz\",\n\"\",5\" disk\n\"\"\"\", a \n").unwrap();
    let batch = decoder.flush().unwrap();
    assert_eq!(column(&batch, 0), [Some("x,\"y\"\nz"), Some(""), Some("\"")]);
    assert_eq!(column(&batch, 1), [None, Some("5\" disk"), Some(" a ")]);
}

#[test]
fn values_have_the_declared_types() {
    let mut decoder = decoder(&[
        ("n", DataType::Int64),
        ("x", DataType::Float64),
        ("yes", DataType::Boolean),
        ("at", datetime_type()),
    ]);
    let payload = b"n,x,yes,at\n 7 ,1e3,TRUE,2020-03-04T14:50:25.0000000Z\n-1,-0.5,0,2020-03-04 15:50:25+01:00\n,,,\n";
    assert_eq!(decoder.push(payload), Ok(3));
    let batch = decoder.flush().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().iter().collect::<Vec<_>>(), [Some(7), Some(-1), None]);
    assert_eq!(batch.column(1).as_primitive::<Float64Type>().iter().collect::<Vec<_>>(), [Some(1e3), Some(-0.5), None]);
    assert_eq!(batch.column(2).as_boolean().iter().collect::<Vec<_>>(), [Some(true), Some(false), None]);
    let at = Some(1_583_333_425_000_000);
    let times = batch.column(3).as_primitive::<TimestampMicrosecondType>();
    assert_eq!(times.iter().collect::<Vec<_>>(), [at, at, None]);
}

#[test]
fn a_bad_payload_leaves_nothing_behind() {
    let mut decoder = decoder(&[("t", DataType::Utf8), ("n", DataType::Int64)]);
    assert_eq!(decoder.push(b"t,n\na,1\n"), Ok(1));
    for (payload, class, message) in [
        (&b"t,n\nb,2\nc,x"[..], BadClass::Type, "`n`: expected an integer of 64 bits, found `x`"),
        (b"t,n\nb,\"\"", BadClass::Type, "`n`: expected an integer of 64 bits, found ``"),
        (
            b"t,n\nb,9223372036854775808",
            BadClass::Type,
            "`n`: expected an integer of 64 bits, found `9223372036854775808`",
        ),
        (b"t,n\nb,2,3\n", BadClass::Malformed, "3 fields in a row, but 2 in the header"),
        (b"t,n\nb\n", BadClass::Malformed, "1 fields in a row, but 2 in the header"),
        (b"t,n\n\"b,2\n", BadClass::Malformed, "field 1 has a quote that is not closed at its end"),
        (b"t,n\n\"b\"c,2\n", BadClass::Malformed, "field 1 has a quote that is not closed at its end"),
        (b"t,n\nb\xff,2\n", BadClass::Malformed, "not UTF-8 at byte 5"),
        (b"t,t\nb,2\n", BadClass::Malformed, "the header has `t` twice"),
        (b"", BadClass::Malformed, "the header has no names"),
        (b"\n", BadClass::Malformed, "the header has no names"),
        (b"\"t", BadClass::Malformed, "field 1 of the header has a quote that is not closed at its end"),
    ] {
        assert_eq!(decoder.push(payload), Err(BadRecord { class, message: message.to_owned() }));
    }
    assert_eq!(decoder.push(b"t,n\nd,4\n"), Ok(1));
    let batch = decoder.flush().unwrap();
    assert_eq!(column(&batch, 0), [Some("a"), Some("d")]);
    assert_eq!(batch.column(1).as_primitive::<Int64Type>().values(), &[1, 4]);
}

#[test]
fn rows_are_counted_when_no_column_is_named() {
    let mut decoder = texts(&[]);
    assert_eq!(decoder.push(b"a,b\n1,2\n3,4\n"), Ok(2));
    assert_eq!(decoder.flush().unwrap().num_rows(), 2);
}

#[test]
fn types_that_csv_lacks_are_refused_by_name() {
    let schema = Schema::new(vec![Field::new_list("tags", Field::new_list_field(DataType::Utf8, true), true)]);
    let error = CsvDecoder::new("old", Arc::new(schema), CsvOptions::default()).err().unwrap();
    assert!(error.to_string().starts_with("input `old`: column `tags` cannot be List"), "{error}");
}

#[test]
fn names_delimiters_quotes_and_nulls_are_as_the_options_say() {
    let columns = ["a", "b"].map(|name| Field::new(name, DataType::Utf8, true));
    let schema = Arc::new(Schema::new(columns.to_vec()));
    let with = |delimiter, quote, null: Option<&str>| {
        let names = Some(vec!["b".to_owned(), String::new(), "A".to_owned()]);
        let options = CsvOptions { dialect: Dialect { delimiter, quote }, names, null: null.map(str::to_owned) };
        CsvDecoder::new("in", schema.clone(), options).unwrap()
    };
    let mut decoder = with(b'|', Some(b'\''), Some("NULL"));
    assert_eq!(decoder.push(b"NULL|x|'it''s'\n'NULL'|x|\"\"\n"), Ok(2));
    let batch = decoder.flush().unwrap();
    assert_eq!(column(&batch, 0), [Some("it's"), Some("\"\"")]);
    assert_eq!(column(&batch, 1), [None, Some("NULL")]);
    let mut decoder = with(b'\t', None, None);
    assert_eq!(decoder.push(b"\xef\xbb\xbf\"a\tb\tc\"\n"), Ok(1));
    assert_eq!(decoder.push(b"a\tb"), Err(malformed("2 fields in a row, but 3 in the header".to_owned())));
    let batch = decoder.flush().unwrap();
    assert_eq!((column(&batch, 0), column(&batch, 1)), (vec![Some("c\"")], vec![Some("\"a")]));
}

#[test]
fn names_of_a_sample() {
    let payloads = [b"a,b,\n1,2,3".to_vec(), b"\"b\",c\n1,2".to_vec(), b"x,x\n".to_vec()];
    assert_eq!(column_names(&payloads, Dialect::default()), ["a", "b", "c"]);
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// What our encoder writes is what the decoder reads, row by row through the scanner as from a file.
    #[test]
    fn written_rows_read_back(rows in prop::collection::vec(prop::collection::vec("[a\",;\r\n é]{0,4}", 2), 0..6)) {
        let columns = [0, 1].map(|column| arrow::array::StringArray::from_iter_values(rows.iter().map(|row| &row[column])));
        let [a, b] = columns.map(|column| Arc::new(column) as arrow::array::ArrayRef);
        let written = RecordBatch::try_from_iter_with_nullable([("a", a, true), ("b", b, true)]).unwrap();
        let mut encoder = CsvEncoder::new(Dialect::default());
        let mut encoded = EncodedRows::default();
        encoder.encode(&written, &mut encoded).unwrap();
        let header = encoder.header(written.schema_ref()).unwrap();

        let mut decoder = texts(&["a", "b"]);
        let mut rest = encoded.lines();
        while !rest.is_empty() {
            let (record, others) = rest.split_at(record_end(rest, Dialect::default(), true).unwrap());
            prop_assert_eq!(decoder.push(&[&header, record].concat()), Ok(1));
            rest = others;
        }
        prop_assert_eq!(decoder.flush().unwrap(), written);
    }

    /// On any bytes the csv crate finds the same fields, as long as we take them for well-formed: where we see a quote that
    /// is not closed, it reads on leniently.
    #[test]
    fn agrees_with_the_csv_crate(text in "[ab\",\n]{0,24}") {
        let payload = format!("x,y\n{text}");
        let mut decoder = texts(&["x", "y"]);
        if decoder.push(payload.as_bytes()).is_ok() {
            let batch = decoder.flush().unwrap();
            let ours = column(&batch, 0).into_iter().zip(column(&batch, 1));
            let ours: Vec<Vec<String>> =
                ours.map(|(x, y)| vec![x.unwrap_or_default().to_owned(), y.unwrap_or_default().to_owned()]).collect();
            let mut oracle = ::csv::Reader::from_reader(payload.as_bytes());
            let theirs: Vec<Vec<String>> = oracle.deserialize().map(Result::unwrap).collect();
            prop_assert_eq!(ours, theirs);
        }
    }

    /// Whatever the bytes, the scanner goes on and every byte belongs to one record.
    #[test]
    fn records_cover_the_input(bytes in prop::collection::vec(prop::sample::select(b"a\",\r\n".to_vec()), 0..64)) {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let end = record_end(rest, Dialect::default(), true).unwrap();
            prop_assert!(end > 0 && end <= rest.len());
            if let Some(early) = record_end(rest, Dialect::default(), false) {
                prop_assert!(early <= rest.len());
            }
            rest = &rest[end..];
        }
    }
}
