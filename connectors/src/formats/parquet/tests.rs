use std::io::Write;

use ::parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use arrow::{
    array::{
        AsArray, BinaryArray, Date32Array, Decimal128Array, DictionaryArray, Int32Array, Int64Array, LargeListArray,
        MapBuilder, StringArray, StringBuilder, TimestampNanosecondArray, UInt64Array,
    },
    datatypes::{DataType, Int32Type, Int64Type},
};
use serde_json::{Value as Json, json};

use super::*;
use crate::formats::tests::rows;

fn file(columns: Vec<(&str, ArrayRef)>, row_group: usize) -> Vec<u8> {
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, values)| (name, values, true)))
            .unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(row_group)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

fn everything() -> Vec<u8> {
    let mut map = MapBuilder::new(None, StringBuilder::new(), arrow::array::Int32Builder::new());
    map.keys().append_value("k");
    map.values().append_value(7);
    map.append(true).unwrap();
    map.append(false).unwrap();
    let lists = [Some(vec![Some(1), None]), None];
    let dictionary: DictionaryArray<Int32Type> = [Some("a"), None].into_iter().collect();
    let decimals = Decimal128Array::from(vec![Some(1250), None]).with_precision_and_scale(10, 2).unwrap();
    file(
        vec![
            ("Small", Arc::new(Int32Array::from(vec![Some(1), None]))),
            ("price", Arc::new(decimals)),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![Some(1_500), None]))),
            ("day", Arc::new(Date32Array::from(vec![Some(1), None]))),
            ("raw", Arc::new(BinaryArray::from(vec![Some(&b"\xff\x00"[..]), None]))),
            ("word", Arc::new(dictionary)),
            ("map", Arc::new(map.finish())),
            ("list", Arc::new(LargeListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
        ],
        100,
    )
}

#[test]
fn types_become_those_of_the_table() {
    let payload = everything();
    let declared = columns(&payload).unwrap();
    assert_eq!(declared.left_out, []);
    let mut decoder = ParquetDecoder::new(declared.schema, 1 << 20);
    assert_eq!(decoder.push(&payload), Ok(2));
    let found = rows(&mut decoder);
    assert_eq!(
        found[0],
        json!({"Small": 1, "price": 12.5, "at": "1970-01-01T00:00:00.0000010Z", "day": "1970-01-02T00:00:00.0000000Z",
            "raw": "/wA=", "word": "a", "map": [{"key": "k", "value": 7}], "list": [1, null]})
    );
    assert!(found[1].as_object().unwrap().values().all(Json::is_null), "{}", found[1]);
}

#[test]
fn columns_are_found_by_name_and_others_are_not_read() {
    let fields = [("absent", DataType::Utf8), ("PRICE", DataType::Utf8), ("small", DataType::Float64)];
    let fields: Vec<_> = fields.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect();
    let mut decoder = ParquetDecoder::new(Arc::new(Schema::new(fields)), 1 << 20);
    assert_eq!(decoder.push(&everything()), Ok(2));
    assert_eq!(rows(&mut decoder)[0], json!({"absent": null, "PRICE": "12.50", "small": 1.0}));
    let mut decoder = ParquetDecoder::new(Arc::new(Schema::empty()), 1 << 20);
    assert_eq!(decoder.push(&everything()), Ok(2));
    assert_eq!(decoder.flush().unwrap().num_rows(), 2);
}

#[test]
fn a_bad_payload_leaves_nothing_behind() {
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let mut decoder = ParquetDecoder::new(schema, 1 << 20);
    let good = file(vec![("n", Arc::new(Int64Array::from(vec![1, 2, 3])))], 2);
    assert_eq!(decoder.push(&good), Ok(3));
    for cut in [0, 4, good.len() / 2, good.len() - 1] {
        assert_eq!(decoder.push(&good[..cut]).unwrap_err().class, BadClass::Malformed);
    }
    let large = file(vec![("n", Arc::new(UInt64Array::from(vec![1, u64::MAX])))], 1);
    assert_eq!(decoder.push(&large).unwrap_err().class, BadClass::Type, "the second row group");
    let text = file(vec![("n", Arc::new(StringArray::from(vec!["x"])))], 1);
    assert!(decoder.push(&text).unwrap_err().message.starts_with("column `n`: "));
    decoder.truncate(2);
    assert_eq!(decoder.push(&good), Ok(3));
    let batch = decoder.flush().unwrap();
    assert_eq!(batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 1, 2, 3]);
}

#[test]
fn more_than_the_limit_is_refused() {
    let zeros = file(vec![("n", Arc::new(Int64Array::from(vec![0; 1_000_000])))], 1_000_000);
    assert!(zeros.len() < 10_000, "a bomb: {} bytes", zeros.len());
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let mut decoder = ParquetDecoder::new(schema, 1 << 20);
    assert_eq!(decoder.push(&zeros).unwrap_err().message, "its columns take more than 1048576 bytes");
    assert_eq!(decoder.flush().unwrap().num_rows(), 0);
}

#[test]
fn row_groups_are_files() {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10));
    let words: ArrayRef = Arc::new(StringArray::from_iter_values((0..10).map(|n| format!("w{n}"))));
    let mut stored = tempfile::tempfile().unwrap();
    stored.write_all(&file(vec![("n", numbers), ("w", words)], 4)).unwrap();
    let mut groups = RowGroups::open(stored).unwrap();
    let mut decoder = None;
    let mut counts = Vec::new();
    while let Some(payload) = groups.next().unwrap() {
        let columns = columns(payload).unwrap().schema;
        let decoder = decoder.get_or_insert_with(|| ParquetDecoder::new(columns, 1 << 20));
        counts.push(decoder.push(payload).unwrap());
    }
    assert_eq!((counts, groups.next_index()), (vec![4, 4, 2], 3));
    let found = rows(&mut decoder.unwrap());
    assert_eq!(found[9], json!({"n": 9, "w": "w9"}));
}
