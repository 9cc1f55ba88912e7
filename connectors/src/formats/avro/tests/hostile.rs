use super::*;

#[test]
fn claims_of_more_than_there_is_are_refused() {
    for items in ["null", "long", "string"] {
        let schema = json!({"type": "record", "name": "r", "fields": [
            {"name": "a", "type": {"type": "array", "items": items}}, {"name": "n", "type": "int"},
        ]});
        let parsed = Arc::new(AvroSchema::parse(&schema.to_string(), &[]).unwrap());
        for wanted in [parsed.columns().unwrap().schema, columns(&[("n", DataType::Int64)])] {
            let options = AvroOptions { schema: Some(parsed.clone()), ..options(Framing::Datum) };
            let mut decoder = AvroDecoder::new(wanted, options).unwrap();
            for count in [1 << 62, i64::MAX, -(1 << 62), i64::MIN] {
                let mut bytes = Vec::new();
                schema::put_long(count, &mut bytes);
                bytes.extend(b"\x02\x02\x02");
                assert_eq!(decoder.push(&bytes).unwrap_err().class, BadClass::Malformed, "{items} {count}");
            }
        }
    }
}

#[test]
fn lengths_beyond_the_payload_are_refused() {
    let mut decoder = decoder(&json!({"type": "record", "name": "r", "fields": [{"name": "s", "type": "string"}]}));
    for length in [1 << 40, i64::MAX, -1, i64::MIN] {
        let mut bytes = Vec::new();
        schema::put_long(length, &mut bytes);
        assert!(decoder.push(&bytes).is_err());
    }
    assert!(decoder.push(&[0xff; 11]).is_err());
    assert!(decoder.push(b"\x02\xff").unwrap_err().message.starts_with("expected a string in UTF-8"));
}

#[test]
fn large_schemas_are_walked_or_refused() {
    let fields = |count| -> Vec<_> { (0..count).map(|n| json!({"name": format!("f{n}"), "type": "int"})).collect() };
    let wide = |count| json!({"type": "record", "name": "r", "fields": fields(count)}).to_string();
    let schema = AvroSchema::parse(&wide(10_000), &[]).unwrap();
    assert_eq!(schema.columns().unwrap().schema.fields().len(), 10_000);
    let schema = AvroSchema::parse(&wide(20_001), &[]).unwrap();
    assert_eq!(schema.columns().err().unwrap(), "the schema makes more than 10000 columns");
    let options = AvroOptions { schema: Some(Arc::new(schema)), ..options(Framing::Datum) };
    let error = AvroDecoder::new(columns(&[("f1", DataType::Int64)]), options).err().unwrap();
    assert_eq!(error, "the schema has more than 20000 parts");
}

#[test]
fn types_that_contain_each_other_twice_do_not_explode() {
    let level = |n: u32| {
        let inner = if n == 0 { json!("int") } else { json!(format!("r{}", n - 1)) };
        json!({"type": "record", "name": format!("r{n}"), "fields": [
            {"name": "a", "type": inner}, {"name": "b", "type": inner},
        ]})
        .to_string()
    };
    let references: Vec<String> = (0..60).map(level).collect();
    let schema = AvroSchema::parse(&level(60), &references).unwrap();
    assert!(schema.columns().is_err());
    let options = AvroOptions { schema: Some(Arc::new(schema)), ..options(Framing::Datum) };
    let mut decoder = AvroDecoder::new(columns(&[("c", DataType::Int64)]), options).unwrap();
    assert!(decoder.push(&[0; 100]).is_err());
}

#[test]
fn values_that_contain_themselves_for_ever_are_refused() {
    let schema = json!({"type": "record", "name": "r", "fields": [
        {"name": "n", "type": "int"}, {"name": "next", "type": ["null", "r"]},
    ]});
    let parsed = AvroSchema::parse(&schema.to_string(), &[]).unwrap();
    let options = AvroOptions { schema: Some(Arc::new(parsed)), ..options(Framing::Datum) };
    let mut decoder = AvroDecoder::new(columns(&[("n", DataType::Int64)]), options).unwrap();
    let nested = |depth| [b"\x02\x02".repeat(depth), b"\x02\x00".to_vec()].concat();
    assert_eq!(decoder.push(&nested(10)), Ok(1));
    assert_eq!(decoder.push(&nested(1_000)).unwrap_err().message, "values lie more than 128 levels deep");
}

#[test]
fn containers_that_lie_are_refused() {
    let mut decoder = AvroDecoder::new(columns(&[("n", DataType::Int64)]), options(Framing::Container)).unwrap();
    let (_, file) = container(Codec::Deflate(DeflateSettings::default()));
    for cut in [0, 3, 4, 20, file.len() - 1] {
        assert_eq!(decoder.push(&file[..cut]).unwrap_err().class, BadClass::Malformed, "{cut}");
    }
    // A block that unpacks to more than is allowed.
    let schema = json!({"type": "record", "name": "r", "fields": [{"name": "t", "type": "string"}]});
    let parsed = Schema::parse(&schema).unwrap();
    let mut writer = Writer::with_codec(&parsed, Vec::new(), Codec::Deflate(DeflateSettings::default())).unwrap();
    writer.append_value(record(&[("t", "x".repeat(2 << 20).into())])).unwrap();
    let bomb = writer.into_inner().unwrap();
    assert!(bomb.len() < 10_000);
    assert!(decoder.push(&bomb).unwrap_err().message.ends_with("more than 1048576 bytes"));
    // A block of 2^62 values without bytes.
    let empty = json!({"type": "record", "name": "r", "fields": []});
    let parsed = Schema::parse(&empty).unwrap();
    let mut writer = Writer::with_codec(&parsed, Vec::new(), Codec::Null).unwrap();
    writer.append_value(record(&[])).unwrap();
    let file = writer.into_inner().unwrap();
    let header = container::header_length(&file).unwrap().unwrap();
    let mut lie = file[..header].to_vec();
    schema::put_long(1 << 62, &mut lie);
    lie.push(0);
    lie.extend(&file[file.len() - 16..]);
    assert!(decoder.push(&lie).unwrap_err().message.starts_with("expected fewer than"));
    let codec = [b"Obj\x01\x04\x14avro.codec\x06bz2\x16avro.schema\x0e\"int\"\x00".to_vec(), vec![0; 18]].concat();
    let error = decoder.push(&codec).unwrap_err();
    assert!(error.message.starts_with("unknown codec `bz2`"), "{error}");
}
