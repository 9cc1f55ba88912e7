use std::{fs::File, io::Cursor, sync::Arc};

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, Date32Array, Float64Array, Int32Array, Int64Array, LargeStringArray, ListArray,
        MapArray, NullArray, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array, make_array,
    },
    csv::ReaderBuilder as CsvReaderBuilder,
    datatypes::{DataType, Field, Int64Type, SchemaRef},
    json::ReaderBuilder as JsonReaderBuilder,
    record_batch::RecordBatch,
};

use super::*;

/// One column of each scalar type, each with a null and values that are easy to spoil.
fn scalars() -> Vec<(&'static str, ArrayRef)> {
    let times = [Some(1_583_333_425_000_000), Some(-1), None, Some(253_402_300_799_999_999)];
    vec![
        ("n", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(i64::MAX), None, Some(0)]))),
        ("x", Arc::new(Float64Array::from(vec![Some(0.1 + 0.2), Some(5e-324), None, Some(-0.0)]))),
        ("yes", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]))),
        ("text", Arc::new(StringArray::from(vec![Some("a \"b\"\r\n,;é\u{1}"), Some("x"), None, Some("NULL")]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"))),
    ]
}

fn nested() -> Vec<(&'static str, ArrayRef)> {
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4)]));
    let record = StructArray::try_new(
        vec![Field::new("id \"1\"", DataType::Int64, true)].into(),
        vec![ids],
        Some(vec![true, true, false, true].into()),
    );
    let lists = [Some(vec![Some(1), None]), Some(vec![]), None, Some(vec![Some(2)])];
    vec![
        ("record", Arc::new(record.unwrap())),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists))),
    ]
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, values)| (name, values, true))).unwrap()
}

fn encode(encoder: &mut dyn RowEncoder, batch: &RecordBatch) -> EncodedRows {
    let mut rows = EncodedRows::default();
    encoder.encode(batch, &mut rows).unwrap();
    rows
}

fn lines(encoder: &mut dyn RowEncoder, batch: &RecordBatch) -> String {
    String::from_utf8(encode(encoder, batch).lines().to_vec()).unwrap()
}

#[test]
fn values_of_any_type_are_written_by_their_own() {
    let values = [Some("1"), Some("\"a, b\""), Some("{\"c\":[2.0]}"), None];
    let written = batch(vec![("v", Arc::new(LargeStringArray::from(values.to_vec())))]);
    let json = "{\"v\":1}\n{\"v\":\"a, b\"}\n{\"v\":{\"c\":[2.0]}}\n{\"v\":null}\n";
    assert_eq!(lines(&mut JsonEncoder, &written), json);
    assert_eq!(lines(&mut CsvEncoder::new(b','), &written), "1\n\"a, b\"\nRecord\n\"\"\n");
}

#[test]
fn json_reads_back_equal() {
    let written = batch([scalars(), nested()].concat());
    let text = lines(&mut JsonEncoder, &written);
    let mut reader = JsonReaderBuilder::new(written.schema()).build(Cursor::new(text)).unwrap();
    assert_eq!(reader.next().unwrap().unwrap(), written);
}

#[test]
fn json_has_one_object_a_row() {
    let rows = encode(&mut JsonEncoder, &batch([scalars(), nested()].concat()));
    assert_eq!(rows.len(), 4);
    assert_eq!(
        str::from_utf8(rows.row(0)).unwrap(),
        r#"{"n":-9223372036854775808,"x":0.30000000000000004,"yes":true,"text":"a \"b\"\r\n,;é\u0001","at":"2020-03-04T14:50:25.0000000Z","record":{"id \"1\"":1},"list":[1,null]}"#
    );
    assert_eq!(
        str::from_utf8(rows.row(2)).unwrap(),
        r#"{"n":null,"x":null,"yes":null,"text":null,"at":null,"record":null,"list":null}"#
    );
    let joined: Vec<u8> = (0..4).flat_map(|row| [rows.row(row), b"\n"].concat()).collect();
    assert_eq!(joined, rows.lines());
}

#[test]
fn json_has_no_nan_and_keeps_floats_floats() {
    let values = Float64Array::from(vec![f64::NAN, f64::INFINITY, 95.0, 1e300]);
    let text = lines(&mut JsonEncoder, &batch(vec![("x", Arc::new(values))]));
    assert_eq!(text, "{\"x\":null}\n{\"x\":null}\n{\"x\":95.0}\n{\"x\":1e+300}\n");
}

#[test]
fn a_slice_is_encoded_as_its_rows() {
    let whole = batch([scalars(), nested()].concat());
    for encoder in [&mut JsonEncoder as &mut dyn RowEncoder, &mut CsvEncoder::new(b',')] {
        let all = encode(encoder, &whole);
        let part = encode(encoder, &whole.slice(1, 2));
        assert_eq!((part.row(0), part.row(1)), (all.row(1), all.row(2)));
    }
}

#[test]
fn other_types_become_the_nearest() {
    let other = batch(vec![
        ("small", Arc::new(Int32Array::from(vec![-1]))),
        ("unsigned", Arc::new(UInt64Array::from(vec![7]))),
        ("day", Arc::new(Date32Array::from(vec![0]))),
        ("none", Arc::new(NullArray::new(1))),
    ]);
    assert_eq!(lines(&mut JsonEncoder, &other), "{\"small\":-1,\"unsigned\":7,\"day\":\"1970-01-01\",\"none\":null}\n");
    let large = batch(vec![("unsigned", Arc::new(UInt64Array::from(vec![u64::MAX])))]);
    assert!(JsonEncoder.encode(&large, &mut EncodedRows::default()).is_err());
    let map = MapArray::from(arrow::array::new_empty_array(&map_type()).to_data());
    assert!(JsonEncoder.encode(&batch(vec![("m", make_array(map.to_data()))]), &mut EncodedRows::default()).is_err());
}

fn map_type() -> DataType {
    let entries = vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8, true)];
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries.into()), false)), false)
}

#[test]
fn csv_reads_back_equal() {
    let written = batch(scalars());
    for delimiter in [b',', b';', b'\t', b'|'] {
        let mut encoder = CsvEncoder::new(delimiter);
        let mut text = encoder.header(written.schema_ref());
        text.extend_from_slice(encode(&mut encoder, &written).lines());
        let builder = CsvReaderBuilder::new(written.schema()).with_header(true).with_delimiter(delimiter);
        let mut reader = builder.build(Cursor::new(text)).unwrap();
        assert_eq!(reader.next().unwrap().unwrap(), written);
    }
}

#[test]
fn csv_tells_null_from_empty_and_names_what_it_cannot_hold() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![None, Some(""), Some("a")]));
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![Some(95.0), None, Some(f64::NAN)]));
    let mut encoder = CsvEncoder::new(b',');
    assert_eq!(lines(&mut encoder, &batch(vec![("t", texts.clone()), ("x", numbers)])), ",95.0\n\"\",\na,NaN\n");
    assert_eq!(lines(&mut encoder, &batch(vec![("t", texts)])), "\"\"\n\"\"\na\n");
    assert_eq!(lines(&mut encoder, &batch(nested())), "Record,Array\nRecord,Array\n,\nRecord,Array\n");
    assert_eq!(encoder.header(batch(vec![("a,b", Arc::new(NullArray::new(0)))]).schema_ref()), b"\"a,b\"\n");
}

#[test]
fn parquet_reads_back_equal() {
    let written = batch([scalars(), nested()].concat());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.parquet");
    let mut encoder = ParquetEncoder::new(File::create(&path).unwrap(), written.schema()).unwrap();
    encoder.write(&written).unwrap();
    assert!(encoder.size() > 0);
    encoder.finish().unwrap();
    assert_eq!(read_parquet(&path), (written.schema(), vec![written]));
}

fn read_parquet(path: &std::path::Path) -> (SchemaRef, Vec<RecordBatch>) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    (builder.schema().clone(), builder.build().unwrap().map(Result::unwrap).collect())
}
