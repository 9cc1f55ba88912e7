mod differential;
mod hostile;

use std::{collections::HashMap, sync::Mutex};

use apache_avro::{Codec, DeflateSettings, Schema, Writer, types::Value};
use arrow::{
    array::AsArray,
    datatypes::{DataType, Float64Type, Int64Type},
};
use serde_json::{Value as Json, json};
use tidemill_engine::datetime_type;

use super::*;
use crate::formats::{
    registry::{Registered, SchemaKind},
    tests::{columns, rows},
};

fn options(framing: Framing) -> AvroOptions {
    AvroOptions { framing, schema: None, schemas: None, max_unpacked: 1 << 20 }
}

/// A decoder of plain values of a schema, with the columns that it makes.
fn decoder(schema: &Json) -> AvroDecoder {
    let schema = Arc::new(AvroSchema::parse(&schema.to_string(), &[]).unwrap());
    let columns = schema.columns().unwrap();
    AvroDecoder::new(columns.schema, AvroOptions { schema: Some(schema), ..options(Framing::Datum) }).unwrap()
}

fn datum(schema: &Json, value: Value) -> Vec<u8> {
    let schema = Schema::parse(schema).unwrap();
    write(&schema, value)
}

fn write(schema: &Schema, value: Value) -> Vec<u8> {
    apache_avro::writer::datum::GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value).unwrap()
}

fn record(fields: &[(&str, Value)]) -> Value {
    Value::Record(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
}

/// Schemas by id, as a registry has them; ids above 100 cannot be known now.
struct Known(Mutex<HashMap<u64, String>>);

impl Schemas for Known {
    fn by_id(&self, id: u64) -> Result<Result<Registered, String>, Box<BadRecord>> {
        if id > 100 {
            return Err(fault(BadClass::Unavailable, "the registry is away".to_owned()));
        }
        let known = self.0.lock().unwrap();
        let registered =
            |text: &String| Registered { id, kind: SchemaKind::Avro, text: text.clone(), references: vec![] };
        Ok(known.get(&id).map(registered).ok_or_else(|| "404 Not Found: Schema not found".to_owned()))
    }
}

fn known(schemas: &[(u64, Json)]) -> Option<Arc<dyn Schemas>> {
    let schemas = schemas.iter().map(|(id, schema)| (*id, schema.to_string()));
    Some(Arc::new(Known(Mutex::new(schemas.collect()))))
}

#[test]
fn logical_types_become_the_types_of_the_table() {
    let schema = json!({"type": "record", "name": "r", "fields": [
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "millis", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "micros", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "nanos", "type": {"type": "long", "logicalType": "timestamp-nanos"}},
        {"name": "time", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "raw", "type": "bytes"},
        {"name": "color", "type": {"type": "enum", "name": "c", "symbols": ["RED", "GREEN"]}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
        {"name": "maybe", "type": ["null", "long"], "default": null},
        {"name": "number", "type": ["int", "double"]},
        {"name": "mixed", "type": ["long", "string"]},
    ]});
    let mut decoder = decoder(&schema);
    assert_eq!(*decoder.schema().field_with_name("millis").unwrap().data_type(), datetime_type());
    // Written by hand: what apache-avro makes of these is another test's concern.
    let mut bytes = Vec::new();
    for value in [2, 1_583_333_425_120, -1, -1, 53_425_120] {
        schema::put_long(value, &mut bytes);
    }
    schema::put_bytes(&(-1250i16).to_be_bytes(), &mut bytes);
    schema::put_bytes(b"f81d4fae-7dec-11d0-a765-00a0c91e6bf6", &mut bytes);
    schema::put_bytes(b"\xff\x00", &mut bytes);
    schema::put_long(1, &mut bytes);
    bytes.extend(b"\x02\x02k\x0e\x00"); // {k: 7}
    bytes.extend(b"\x00"); // null
    bytes.extend(b"\x02");
    bytes.extend(0.5f64.to_le_bytes());
    bytes.extend(b"\x02\x04hi");
    assert_eq!(decoder.push(&bytes), Ok(1));
    assert_eq!(
        rows(&mut decoder),
        [json!({
            "day": "1970-01-03T00:00:00.0000000Z", "millis": "2020-03-04T14:50:25.1200000Z",
            "micros": "1969-12-31T23:59:59.9999990Z", "nanos": "1969-12-31T23:59:59.9999990Z", "time": "14:50:25.120",
            "price": -12.5, "id": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "raw": "/wA=", "color": "GREEN",
            "counts": [{"key": "k", "value": 7}], "maybe": null, "number": 0.5, "mixed": "hi",
        })]
    );
}

#[test]
fn only_wanted_columns_are_read_and_bad_ones_harm_nobody() {
    let schema = json!({"type": "record", "name": "r", "fields": [
        {"name": "a", "type": "string"}, {"name": "b", "type": {"type": "array", "items": "string"}},
        {"name": "C", "type": "long"},
    ]});
    let parsed = Arc::new(AvroSchema::parse(&schema.to_string(), &[]).unwrap());
    let wanted = columns(&[("c", DataType::Int64), ("absent", DataType::Utf8)]);
    let options = AvroOptions { schema: Some(parsed), ..options(Framing::Datum) };
    let mut decoder = AvroDecoder::new(wanted, options).unwrap();
    let good = datum(&schema, record(&[("a", "x".into()), ("b", Value::Array(vec!["y".into()])), ("C", 7i64.into())]));
    assert_eq!(decoder.push(&good), Ok(1));
    for cut in 0..good.len() {
        assert_eq!(decoder.push(&good[..cut]).unwrap_err().class, BadClass::Malformed, "{cut}");
    }
    let longer = decoder.push(&[&good[..], b"\x00"].concat()).unwrap_err();
    assert_eq!(longer.message, format!("expected the end of the value at byte {}", good.len()));
    assert_eq!(decoder.push(&good), Ok(1));
    let batch = decoder.flush().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[7, 7]);
    assert_eq!(batch.column(1).null_count(), 2);
}

#[test]
fn evolution_follows_the_readers_schema() {
    let v1 = json!({"type": "record", "name": "r", "fields": [
        {"name": "old", "type": "int"}, {"name": "gone", "type": "string"}, {"name": "n", "type": "int"},
    ]});
    let v2 = json!({"type": "record", "name": "r", "fields": [
        {"name": "n", "type": "double"},
        {"name": "renamed", "type": "long"},
        {"name": "added", "type": {"type": "array", "items": ["null", "string"]}},
    ]});
    let reader = json!({"type": "record", "name": "r", "fields": [
        {"name": "renamed", "type": "long", "aliases": ["old"]},
        {"name": "n", "type": "double"},
        {"name": "added", "type": {"type": "array", "items": ["null", "string"]}, "default": [null, "d"]},
        {"name": "nested", "type": {"type": "record", "name": "s", "fields": [{"name": "x", "type": "int", "default": 3}]},
         "default": {}},
    ]});
    let broken =
        json!({"type": "record", "name": "r", "fields": [{"name": "n", "type": {"type": "map", "values": "int"}}]});
    let schema = Arc::new(AvroSchema::parse(&reader.to_string(), &[]).unwrap());
    let wanted = schema.columns().unwrap().schema;
    let mut decoder = AvroDecoder::new(
        wanted,
        AvroOptions {
            schema: Some(schema),
            schemas: known(&[(1, v1.clone()), (2, v2.clone()), (3, broken.clone())]),
            ..options(Framing::Registry(WireFormat::Confluent))
        },
    )
    .unwrap();
    let mut push = |id: u32, schema: &Json, value: Value| {
        let payload = [&[0][..], &id.to_be_bytes(), &datum(schema, value)].concat();
        decoder.push(&payload)
    };
    let first = record(&[("old", 1.into()), ("gone", "x".into()), ("n", 5.into())]);
    let array = Value::Array(vec![Value::Union(1, Box::new("a".into()))]);
    let second = record(&[("n", 0.5.into()), ("renamed", 2i64.into()), ("added", array)]);
    assert_eq!(push(1, &v1, first.clone()), Ok(1));
    assert_eq!(push(2, &v2, second), Ok(1));
    assert_eq!(push(1, &v1, first.clone()), Ok(1));
    // What cannot be read says why; what cannot be known now is no bad record.
    let map = record(&[("n", Value::Map(HashMap::new()))]);
    let misfit = push(3, &broken, map).unwrap_err();
    assert_eq!((misfit.class, &*misfit.message), (BadClass::Type, "column `n`: expected float, found map"));
    let unknown = push(9, &v1, first.clone()).unwrap_err();
    assert_eq!((unknown.class, &*unknown.message), (BadClass::Schema, "schema 9: 404 Not Found: Schema not found"));
    assert_eq!(push(101, &v1, first).unwrap_err().class, BadClass::Unavailable);
    let nested = json!({"x": 3});
    assert_eq!(
        rows(&mut decoder),
        [
            json!({"renamed": 1, "n": 5.0, "added": [null, "d"], "nested": nested}),
            json!({"renamed": 2, "n": 0.5, "added": ["a"], "nested": nested}),
            json!({"renamed": 1, "n": 5.0, "added": [null, "d"], "nested": nested}),
        ]
    );
}

#[test]
fn ids_stand_before_values_in_two_ways() {
    let schema = json!({"type": "record", "name": "r", "fields": [{"name": "n", "type": "int"}]});
    for (wire, id) in [(WireFormat::Confluent, &[0, 0, 0, 7][..]), (WireFormat::Apicurio, &[0, 0, 0, 0, 0, 0, 0, 7])] {
        let options = AvroOptions { schemas: known(&[(7, schema.clone())]), ..options(Framing::Registry(wire)) };
        let mut decoder = AvroDecoder::new(columns(&[("n", DataType::Int64)]), options).unwrap();
        assert_eq!(decoder.push(&[&[0], id, &[4]].concat()), Ok(1));
        assert!(
            decoder
                .push(&[&[1], id, &[4]].concat())
                .unwrap_err()
                .message
                .starts_with("expected a zero and a schema id")
        );
        assert!(decoder.push(b"\x00\x00").is_err());
        let mut put = Vec::new();
        wire.put(7, &mut put);
        assert_eq!(put, [&[0], id].concat());
    }
    let error = AvroDecoder::new(columns(&[]), options(Framing::Registry(WireFormat::Confluent))).err().unwrap();
    assert_eq!(error, "schema ids need a `registry`");
}

#[test]
fn unions_with_insides_are_records_of_their_types() {
    let reader = json!({"type": "record", "name": "r", "fields": [{"name": "u", "type": [
        "null", "long",
        {"type": "record", "name": "ns.point", "fields": [{"name": "x", "type": "int"}]},
        {"type": "array", "items": "string"},
    ]}]});
    let mut decoder = decoder(&reader);
    let point = record(&[("x", 3.into())]);
    for (index, value) in [(0, Value::Null), (1, 5i64.into()), (2, point.clone()), (3, Value::Array(vec!["a".into()]))]
    {
        let bytes = datum(&reader, record(&[("u", Value::Union(index, Box::new(value)))]));
        assert_eq!(decoder.push(&bytes), Ok(1));
    }
    let nothing = json!({"long": null, "point": null, "array": null});
    let with = |name: &str, value: Json| {
        let mut one = nothing.clone();
        one[name] = value;
        json!({"u": one})
    };
    let expected = [with("long", 5.into()), with("point", json!({"x": 3})), with("array", json!(["a"]))];
    let found = rows(&mut decoder);
    assert_eq!(found[0], json!({"u": null}));
    assert_eq!(found[1..], expected);

    // A writer that had only one of the types goes into its member.
    let writer = json!({"type": "record", "name": "r", "fields": [{"name": "u", "type":
        {"type": "record", "name": "ns.point", "fields": [{"name": "x", "type": "int"}]}}]});
    let schema = Arc::new(AvroSchema::parse(&reader.to_string(), &[]).unwrap());
    let wanted = schema.columns().unwrap().schema;
    let mut decoder = AvroDecoder::new(
        wanted,
        AvroOptions {
            schema: Some(schema),
            schemas: known(&[(1, writer.clone())]),
            ..options(Framing::Registry(WireFormat::Confluent))
        },
    )
    .unwrap();
    let bytes = datum(&writer, record(&[("u", point)]));
    assert_eq!(decoder.push(&[&[0, 0, 0, 0, 1], &bytes[..]].concat()), Ok(1));
    assert_eq!(rows(&mut decoder), [with("point", json!({"x": 3}))]);
}

#[test]
fn types_that_contain_themselves_are_left_out_by_name_and_passed_over() {
    let schema = json!({"type": "record", "name": "r", "fields": [
        {"name": "tree", "type": {"type": "record", "name": "ns.node", "fields": [
            {"name": "label", "type": "string"},
            {"name": "next", "type": ["null", "ns.node"]},
        ]}},
        {"name": "n", "type": "int"},
    ]});
    let parsed = AvroSchema::parse(&schema.to_string(), &[]).unwrap();
    let declared = parsed.columns().unwrap();
    let reason = "its type `ns.node` contains itself".to_owned();
    assert_eq!(declared.left_out, [crate::formats::LeftOut { path: "tree.next".to_owned(), reason }]);
    let wanted = columns(&[("n", DataType::Int64)]);
    let options = AvroOptions { schema: Some(Arc::new(parsed)), ..options(Framing::Datum) };
    let mut decoder = AvroDecoder::new(wanted, options).unwrap();
    assert_eq!(decoder.push(b"\x02a\x02\x02b\x00\x0e"), Ok(1));
    assert_eq!(rows(&mut decoder), [json!({"n": 7})]);
}

#[test]
fn references_come_from_other_texts() {
    let inner = json!({"type": "record", "name": "ns.inner", "fields": [{"name": "x", "type": "int"}]}).to_string();
    let outer = json!({"type": "record", "name": "outer", "fields": [{"name": "i", "type": "ns.inner"}]}).to_string();
    assert!(AvroSchema::parse(&outer, &[]).is_err());
    let schema = AvroSchema::parse(&outer, &[inner]).unwrap();
    assert_eq!(schema.columns().unwrap().schema.field(0).data_type().to_string(), "Struct(\"x\": Int64)");
}

#[test]
fn a_schema_that_is_no_record_is_refused() {
    let error = AvroSchema::parse("\"string\"", &[]).unwrap().columns().err().unwrap();
    assert_eq!(error, "the schema's top is string, expected a record");
    assert!(AvroSchema::parse("{", &[]).err().unwrap().starts_with("not an Avro schema: "));
}

/// A container file of ten values in blocks of three or so.
fn container(codec: Codec) -> (Json, Vec<u8>) {
    let schema = json!({"type": "record", "name": "r", "fields": [
        {"name": "n", "type": "long"}, {"name": "text", "type": "string"},
    ]});
    let parsed = Schema::parse(&schema).unwrap();
    let mut writer = Writer::with_codec(&parsed, Vec::new(), codec).unwrap();
    for n in 0..10i64 {
        writer.append_value(record(&[("n", n.into()), ("text", "x".repeat(20).into())])).unwrap();
        if n % 3 == 2 {
            writer.flush().unwrap();
        }
    }
    (schema, writer.into_inner().unwrap())
}

#[test]
fn container_files_bring_their_schema() {
    for codec in [Codec::Null, Codec::Deflate(DeflateSettings::default())] {
        let (_, file) = container(codec);
        let wanted = columns(&[("n", DataType::Float64)]);
        let mut decoder = AvroDecoder::new(wanted, options(Framing::Container)).unwrap();
        assert_eq!(decoder.push(&file), Ok(10));
        assert_eq!(decoder.push(&file), Ok(10));
        // Piece by piece, as a file source hands it over.
        let header = container::header_length(&file).unwrap().unwrap();
        let (mut at, mut pieces) = (header, 0);
        while at < file.len() {
            let length = container::block_length(&file[at..]).unwrap();
            pieces += decoder.push(&[&file[..header], &file[at..at + length]].concat()).unwrap();
            at += length;
        }
        assert_eq!(pieces, 10);
        let mut damaged = file.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        assert_eq!(decoder.push(&damaged).unwrap_err().class, BadClass::Malformed);
        let batch = decoder.flush().unwrap();
        assert_eq!(batch.num_rows(), 30);
        assert_eq!(batch.column(0).as_primitive::<Float64Type>().value(29), 9.0);
    }
}

#[test]
fn container_codecs_of_arrows_writer() {
    use arrow_avro::{compression::CompressionCodec, writer::WriterBuilder};
    let batch = arrow::record_batch::RecordBatch::try_from_iter([(
        "n",
        Arc::new(arrow::array::Int64Array::from_iter_values(0..1000)) as arrow::array::ArrayRef,
    )])
    .unwrap();
    for codec in [CompressionCodec::Snappy, CompressionCodec::ZStandard, CompressionCodec::Deflate] {
        let builder = WriterBuilder::new(batch.schema().as_ref().clone()).with_compression(Some(codec));
        let mut writer = builder.build::<_, arrow_avro::writer::format::AvroOcfFormat>(Vec::new()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        let file = writer.into_inner();
        let mut decoder = AvroDecoder::new(batch.schema(), options(Framing::Container)).unwrap();
        assert_eq!(decoder.push(&file), Ok(1000));
        assert_eq!(decoder.flush().unwrap(), batch);
    }
}
