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
use crate::formats::csv::Dialect;

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
    assert_eq!(lines(&mut CsvEncoder::new(Dialect::default()), &written), "1\n\"a, b\"\nRecord\n\"\"\n");
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
    for encoder in [&mut JsonEncoder as &mut dyn RowEncoder, &mut CsvEncoder::new(Dialect::default())] {
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
        let mut encoder = CsvEncoder::new(Dialect { delimiter, ..Dialect::default() });
        let mut text = encoder.header(written.schema_ref()).unwrap();
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
    let mut encoder = CsvEncoder::new(Dialect::default());
    assert_eq!(lines(&mut encoder, &batch(vec![("t", texts.clone()), ("x", numbers)])), ",95.0\n\"\",\na,NaN\n");
    assert_eq!(lines(&mut encoder, &batch(vec![("t", texts)])), "\"\"\n\"\"\na\n");
    assert_eq!(lines(&mut encoder, &batch(nested())), "Record,Array\nRecord,Array\n,\nRecord,Array\n");
    assert_eq!(encoder.header(batch(vec![("a,b", Arc::new(NullArray::new(0)))]).schema_ref()).unwrap(), b"\"a,b\"\n");
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

mod round_trips {
    use proptest::{prelude::*, test_runner::RngSeed};
    use tidemill_engine::decoder::Decoder;

    use super::*;
    use crate::formats::{
        avro::{self, AvroDecoder, AvroOptions},
        compression::{Compression, UnpackingDecoder},
        csv::{CsvDecoder, CsvOptions},
        json::{JsonDecoder, JsonOptions},
        parquet::ParquetDecoder,
        protobuf::{self, Prefix, ProtobufDecoder, ProtobufOptions, ProtobufSchema},
        registry::{Registered, Schemas, WireFormat},
    };

    /// A registry of one schema.
    #[derive(Clone, Default)]
    struct Registry(Arc<std::sync::Mutex<Option<Registered>>>);

    impl Registrar for Registry {
        fn register(&self, kind: SchemaKind, text: &str) -> Result<u64> {
            let registered = Registered { id: 42, kind, text: text.to_owned(), references: vec![] };
            *self.0.lock().unwrap() = Some(registered);
            Ok(42)
        }
    }

    impl Schemas for Registry {
        fn by_id(
            &self,
            id: u64,
        ) -> std::result::Result<std::result::Result<Registered, String>, Box<tidemill_engine::decoder::BadRecord>>
        {
            Ok(self.0.lock().unwrap().clone().filter(|known| known.id == id).ok_or_else(|| "none".to_owned()))
        }
    }

    /// An error's cause in words.
    fn cause(error: &tidemill_engine::EngineError) -> String {
        std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
    }

    type Pair = (Box<dyn RowEncoder>, Box<dyn Decoder>);

    fn avro(batch: &RecordBatch, framing: avro::Framing, encoder: Box<dyn RowEncoder>, registry: Registry) -> Pair {
        let options = AvroOptions { framing, schema: None, schemas: Some(Arc::new(registry)), max_unpacked: 1 << 20 };
        (encoder, Box::new(AvroDecoder::new(batch.schema(), options).unwrap()))
    }

    /// Everything that carries nulls and nesting.
    fn all(batch: &RecordBatch) -> Vec<Pair> {
        let registry = Registry::default();
        let mut pairs: Vec<Pair> = vec![
            (Box::new(JsonEncoder), Box::new(JsonDecoder::new(batch.schema(), JsonOptions::default()).unwrap())),
            (Box::new(ParquetMessageEncoder), Box::new(ParquetDecoder::new(batch.schema(), 1 << 20))),
            avro(
                batch,
                avro::Framing::Registry(WireFormat::Apicurio),
                Box::new(AvroEncoder::new(WireFormat::Apicurio, Box::new(registry.clone()))),
                registry,
            ),
        ];
        for codec in [Codec::Null, Codec::Deflate, Codec::Snappy, Codec::Zstandard] {
            let encoder = Box::new(AvroContainerEncoder::new(codec));
            pairs.push(avro(batch, avro::Framing::Container, encoder, Registry::default()));
        }
        for compression in [Compression::Gzip, Compression::Deflate, Compression::Zstd] {
            let decoder = Box::new(JsonDecoder::new(batch.schema(), JsonOptions::default()).unwrap());
            pairs.push((
                Box::new(PackingEncoder::each(Box::new(JsonEncoder), compression)),
                Box::new(UnpackingDecoder::new(decoder, compression, 1 << 20)),
            ));
        }
        pairs
    }

    fn read_back(batch: &RecordBatch, (mut encoder, mut decoder): Pair) -> RecordBatch {
        let rows = encode(encoder.as_mut(), batch);
        assert_eq!(rows.len(), batch.num_rows());
        for row in 0..rows.len() {
            assert_eq!(decoder.push(rows.row(row)), Ok(1), "{:?}", rows.row(row));
        }
        decoder.flush().unwrap()
    }

    /// Without names that only JSON has.
    fn plain_nested() -> Vec<(&'static str, ArrayRef)> {
        let mut columns = nested();
        let record = columns[0].1.as_any().downcast_ref::<StructArray>().unwrap().clone();
        let (_, members, nulls) = record.into_parts();
        let fields = vec![Field::new("id", DataType::Int64, true)].into();
        columns[0].1 = Arc::new(StructArray::new(fields, members, nulls));
        columns
    }

    #[test]
    fn every_format_keeps_nulls_and_nested_types() {
        let batch = batch([scalars(), plain_nested()].concat());
        for pair in all(&batch) {
            assert_eq!(read_back(&batch, pair), batch);
        }
    }

    #[test]
    fn csv_messages_bring_their_header() {
        let batch = batch(scalars());
        let encoder = Box::new(HeaderEncoder::new(Box::new(CsvEncoder::new(Dialect::default()))));
        let decoder = Box::new(CsvDecoder::new("in", batch.schema(), CsvOptions::default()).unwrap());
        assert_eq!(read_back(&batch, (encoder, decoder)), batch);
    }

    /// A name, what makes messages, and what reads them: each format as it comes in topics.
    fn by_format(batch: &RecordBatch) -> Vec<(&'static str, Pair)> {
        let (avro_registry, protobuf_registry) = (Registry::default(), Registry::default());
        let protobuf_options = ProtobufOptions {
            framing: protobuf::Framing::Registry(WireFormat::Confluent),
            message: None,
            schemas: Some(Arc::new(protobuf_registry.clone())),
        };
        vec![
            (
                "json",
                (Box::new(JsonEncoder), Box::new(JsonDecoder::new(batch.schema(), JsonOptions::default()).unwrap())),
            ),
            (
                "csv",
                (
                    Box::new(HeaderEncoder::new(Box::new(CsvEncoder::new(Dialect::default())))),
                    Box::new(CsvDecoder::new("in", batch.schema(), CsvOptions::default()).unwrap()),
                ),
            ),
            (
                "avro",
                avro(
                    batch,
                    avro::Framing::Registry(WireFormat::Confluent),
                    Box::new(AvroEncoder::new(WireFormat::Confluent, Box::new(avro_registry.clone()))),
                    avro_registry,
                ),
            ),
            (
                "avro container",
                avro(
                    batch,
                    avro::Framing::Container,
                    Box::new(AvroContainerEncoder::new(Codec::Snappy)),
                    Registry::default(),
                ),
            ),
            ("parquet", (Box::new(ParquetMessageEncoder), Box::new(ParquetDecoder::new(batch.schema(), 1 << 20)))),
            (
                "protobuf",
                (
                    Box::new(ProtobufEncoder::registered(WireFormat::Confluent, Box::new(protobuf_registry))),
                    Box::new(ProtobufDecoder::new(batch.schema(), protobuf_options).unwrap()),
                ),
            ),
        ]
    }

    /// Cut off, overwritten, emptied, or followed by garbage.
    fn spoil(message: &mut Vec<u8>, row: usize) {
        let at = row * 31 % message.len().max(1);
        match row % 4 {
            0 => message.truncate(at),
            1 => message[at..].fill(0xff),
            2 => message.clear(),
            _ => message.iter_mut().for_each(|byte| *byte ^= row as u8 | 1),
        }
    }

    #[test]
    fn of_corrupt_messages_each_is_a_row_or_a_bad_record_and_the_others_are_untouched() {
        const ROWS: usize = 2_000;
        let texts = (0..ROWS).map(|n| (n % 7 != 0).then(|| format!("text, \"{n}\"")));
        let batch = batch(vec![
            ("n", Arc::new(Int64Array::from_iter_values(0..ROWS as i64))),
            ("x", Arc::new(Float64Array::from_iter((0..ROWS).map(|n| (n % 5 != 0).then_some(n as f64 / 3.0))))),
            ("text", Arc::new(StringArray::from_iter(texts))),
        ]);
        for each in [100, 1] {
            for (name, (mut encoder, mut decoder)) in by_format(&batch) {
                let messages = encode(encoder.as_mut(), &batch);
                // Of each message that was left as it is, where its row should be.
                let (mut rows, mut taken, mut bad, mut untouched) = (0, 0, 0, vec![]);
                for row in 0..ROWS {
                    let mut message = messages.row(row).to_vec();
                    let is_spoiled = row % each == 7 % each;
                    if is_spoiled {
                        spoil(&mut message, row);
                    } else {
                        untouched.push((row, rows));
                    }
                    match decoder.push(&message) {
                        Ok(decoded) => {
                            assert!(is_spoiled || decoded == 1, "{name}: row {row}");
                            // A line that was broken is two, and a header that lost its row a message without any.
                            assert!(decoded == 1 || name == "csv", "{name}: row {row} became {decoded}");
                            (rows, taken) = (rows + decoded, taken + 1);
                        }
                        Err(_) => {
                            assert!(is_spoiled, "{name}: row {row} was not touched");
                            bad += 1;
                        }
                    }
                }
                let decoded = decoder.flush().unwrap();
                assert_eq!((decoded.num_rows(), taken + bad), (rows, ROWS), "{name}: counted equal");
                assert_eq!(untouched.len(), ROWS - ROWS / each);
                for (row, at) in untouched {
                    assert_eq!(decoded.slice(at, 1), batch.slice(row, 1), "{name}: row {row}");
                }
                assert!(bad >= ROWS / each / 4, "{name}: only {bad} of {} are bad", ROWS / each);
                assert_eq!(decoder.push(messages.row(0)), Ok(1), "{name}: the next one is read as if nothing had been");
                assert_eq!(decoder.flush().unwrap(), batch.slice(0, 1));
            }
        }
    }

    #[test]
    fn avro_values_are_made_by_a_given_schema() {
        let text = r#"{"type": "record", "name": "r", "fields": [
            {"name": "list", "type": ["null", {"type": "array", "items": ["long", "null"]}]},
            {"name": "kind", "type": {"type": "enum", "name": "k", "symbols": ["A", "B"]}, "default": "B"},
            {"name": "unused", "type": ["null", "string"]},
            {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-millis"}]},
            {"name": "text", "type": ["string", "null"]},
            {"name": "n", "type": ["null", "long"]},
            {"name": "x", "type": ["null", "double"]},
            {"name": "yes", "type": ["null", "boolean"]},
            {"name": "record", "type": ["null", {"type": "record", "name": "inner", "fields": [{"name": "id", "type": ["null", "int"]}]}]}
        ]}"#;
        let schema = || avro::AvroSchema::parse(text, &[]).unwrap();
        let mut columns = [scalars(), plain_nested()].concat();
        let times = [Some(1_583_333_425_000_000), Some(-1_000), None, Some(0)];
        columns[4].1 = Arc::new(TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC"));
        let written = batch(columns);
        let registry = Registry::default();
        registry.register(SchemaKind::Avro, text).unwrap();
        let read = |columns: &RecordBatch, encoder: AvroEncoder| {
            let framing = avro::Framing::Registry(WireFormat::Confluent);
            let (mut encoder, mut decoder) = avro(columns, framing, Box::new(encoder), registry.clone());
            let rows = encode(encoder.as_mut(), &written);
            (0..rows.len()).for_each(|row| assert_eq!(decoder.push(rows.row(row)), Ok(1)));
            decoder.flush().unwrap()
        };
        assert_eq!(read(&written, AvroEncoder::of_schema(WireFormat::Confluent, 42, schema())), written);

        let refused = |column: (&'static str, ArrayRef)| {
            let mut columns: Vec<(&str, ArrayRef)> = vec![("n", Arc::new(Int64Array::from(vec![1])))];
            columns.retain(|(name, _)| *name != column.0);
            columns.push(column);
            let mut encoder = AvroEncoder::of_schema(WireFormat::Confluent, 42, schema());
            cause(&encoder.encode(&batch(columns), &mut EncodedRows::default()).unwrap_err())
        };
        let text = refused(("other", Arc::new(Int64Array::from(vec![1]))));
        assert!(
            text.contains("latest schema: it has no field for column `other`; available: `list`, `kind`, "),
            "{text}"
        );
        let text = refused(("yes", Arc::new(StringArray::from(vec!["true"]))));
        assert!(text.contains("field `yes` is of type boolean, the column of type Utf8"), "{text}");
        let text = refused(("kind", Arc::new(StringArray::from(vec!["C"]))));
        assert!(text.contains("field `kind` cannot hold `C`; available: A, B"), "{text}");
        let text = refused(("kind", Arc::new(StringArray::from(vec![None::<&str>]))));
        assert!(text.contains("field `kind` cannot hold null"), "{text}");
        let needed = avro::AvroSchema::parse(
            r#"{"type": "record", "name": "r", "fields": [{"name": "n", "type": "int"}, {"name": "must", "type": "int"}]}"#,
            &[],
        );
        let mut encoder = AvroEncoder::of_schema(WireFormat::Confluent, 42, needed.unwrap());
        let one = batch(vec![("n", Arc::new(Int64Array::from(vec![1])))]);
        let text = cause(&encoder.encode(&one, &mut EncodedRows::default()).unwrap_err());
        assert!(text.contains("field `must` has no default, and the rows have no such column"), "{text}");
    }

    #[test]
    fn protobuf_messages_say_which_of_their_file_they_are() {
        let text = "syntax = \"proto3\"; message A { message B { optional int64 n = 1; } } message C { optional int64 n = 1; }";
        let written = batch(vec![("n", Arc::new(Int64Array::from(vec![5])))]);
        for (name, head) in [("A.B", &b"\x00\x00\x00\x00\x2a\x04\x00\x00"[..]), ("C", b"\x00\x00\x00\x00\x2a\x02\x02")]
        {
            let message = ProtobufSchema::of_texts(text, &[]).unwrap().message(Some(name)).unwrap();
            let mut encoder = ProtobufEncoder::of_registered(WireFormat::Confluent, 42, message);
            assert_eq!(encode(&mut encoder, &written).row(0), [head, b"\x08\x05"].concat());
        }
    }

    /// Protobuf has no null lists and no nulls in them.
    fn without_null_lists() -> RecordBatch {
        let lists = [Some(vec![Some(1), Some(2)]), Some(vec![]), Some(vec![Some(3)]), Some(vec![])];
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
        batch([scalars(), vec![plain_nested().remove(0), ("list", list)]].concat())
    }

    #[test]
    fn protobuf_messages_are_made_of_columns() {
        let batch = without_null_lists();
        let registry = Registry::default();
        let encoder = Box::new(ProtobufEncoder::registered(WireFormat::Confluent, Box::new(registry.clone())));
        let options = ProtobufOptions {
            framing: protobuf::Framing::Registry(WireFormat::Confluent),
            message: None,
            schemas: Some(Arc::new(registry)),
        };
        let decoder = Box::new(ProtobufDecoder::new(batch.schema(), options).unwrap());
        assert_eq!(read_back(&batch, (encoder, decoder)), batch);
    }

    #[test]
    fn protobuf_messages_are_filled_as_given() {
        let text = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";
            message M {
                google.protobuf.Int64Value n = 7; optional double x = 3; optional bool yes = 1; optional string text = 5;
                google.protobuf.Timestamp at = 2; R record = 9; repeated sint64 list = 8; optional int32 unused = 4;
            }
            message R { optional sfixed64 id = 1; }"#;
        let message = ProtobufSchema::of_texts(text, &[]).unwrap().message(Some("M")).unwrap();
        let batch = without_null_lists();
        for prefix in [None, Some(Prefix::Base128), Some(Prefix::Fixed32BigEndian)] {
            let encoder = Box::new(ProtobufEncoder::of_message(message.clone(), prefix));
            let framing = prefix.map_or(protobuf::Framing::Message, protobuf::Framing::Prefixed);
            let options = ProtobufOptions { framing, message: Some(message.clone()), schemas: None };
            let decoder = Box::new(ProtobufDecoder::new(batch.schema(), options).unwrap());
            assert_eq!(read_back(&batch, (encoder, decoder)), batch);
        }
        let other = super::batch(vec![("other", Arc::new(NullArray::new(1)))]);
        let error = ProtobufEncoder::of_message(message.clone(), None).encode(&other, &mut EncodedRows::default());
        let text = cause(&error.unwrap_err());
        assert!(text.contains("message `M` has no field for column `other`; available: "), "{text}");
        let nulls = super::batch(vec![nested().remove(1)]);
        let error = ProtobufEncoder::of_message(message, None).encode(&nulls, &mut EncodedRows::default());
        let text = cause(&error.unwrap_err());
        assert!(text.contains("column `list` has a null in an array"), "{text}");
    }

    #[test]
    fn names_that_a_format_lacks_are_refused() {
        let batch = batch(vec![("window end", Arc::new(NullArray::new(1)))]);
        let error = AvroContainerEncoder::new(Codec::Null).encode(&batch, &mut EncodedRows::default()).unwrap_err();
        assert!(cause(&error).contains("column `window end` cannot be a field of Avro"), "{error}");
        let mut encoder = ProtobufEncoder::registered(WireFormat::Confluent, Box::new(Registry::default()));
        let error = encoder.encode(&batch, &mut EncodedRows::default()).unwrap_err();
        assert!(cause(&error).contains("column `window end` cannot be a field of Protobuf"), "{error}");
    }

    #[test]
    fn files_of_blocks_are_files() {
        let batch = batch(scalars());
        let mut encoder = AvroBlockEncoder::new(Codec::Snappy);
        let mut file = encoder.header(batch.schema_ref()).unwrap();
        file.extend_from_slice(encode(&mut encoder, &batch).lines());
        file.extend_from_slice(encode(&mut encoder, &batch).lines());
        let options =
            AvroOptions { framing: avro::Framing::Container, schema: None, schemas: None, max_unpacked: 1 << 20 };
        let mut decoder = AvroDecoder::new(batch.schema(), options).unwrap();
        assert_eq!(decoder.push(&file), Ok(8));
        let columns = avro::container_columns(&file).unwrap();
        assert_eq!((columns.schema, columns.left_out), (batch.schema(), vec![]));

        let mut encoder = PackingEncoder::together(Box::new(JsonEncoder), Compression::Gzip);
        let packed = encode(&mut encoder, &batch).lines().repeat(2);
        let mut plain = Vec::new();
        Compression::Gzip.unpack(&packed, &mut plain, 1 << 20).unwrap();
        assert_eq!(plain, encode(&mut JsonEncoder, &batch).lines().repeat(2));
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::with_cases(32) })]

        #[test]
        fn rows_read_back_equal(
            rows in prop::collection::vec(
                (any::<Option<i64>>(), any::<Option<f64>>().prop_filter("JSON has no NaN", |x| x.is_none_or(f64::is_finite)),
                 any::<Option<bool>>(), any::<Option<String>>(),
                 prop::option::of(-62_135_596_800_000_000i64..253_402_300_800_000_000),
                 prop::option::of(prop::collection::vec(any::<Option<i64>>(), 0..3))), 1..6)
        ) {
            let column = |values: ArrayRef| values;
            let batch = batch(vec![
                ("n", column(Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0))))),
                ("x", column(Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.1))))),
                ("yes", column(Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.2))))),
                ("text", column(Arc::new(StringArray::from_iter(rows.iter().map(|row| row.3.as_deref()))))),
                ("at", column(Arc::new(
                    TimestampMicrosecondArray::from_iter(rows.iter().map(|row| row.4)).with_timezone("UTC")))),
                ("list", column(Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows.iter().map(|row| row.5.clone()))))),
            ]);
            for pair in all(&batch) {
                prop_assert_eq!(&read_back(&batch, pair), &batch);
            }
        }
    }
}
