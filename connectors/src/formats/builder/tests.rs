use arrow::array::AsArray;

use super::*;

fn builder(data_type: DataType) -> Builder {
    Builder::new(&Field::new("x", data_type, true), "x".to_owned()).unwrap()
}

#[test]
fn values_are_converted_where_nothing_is_lost() {
    let mut text = builder(DataType::Utf8);
    text.push_int(-7).unwrap();
    text.push_unsigned(u64::MAX).unwrap();
    text.push_float(1.5).unwrap();
    text.push_boolean(true).unwrap();
    text.push_datetime(1_583_333_425_120_000).unwrap();
    text.push_bytes(b"\xff\x00").unwrap();
    text.push_text("ü".as_bytes()).unwrap();
    text.push_null().unwrap();
    let array = text.finish().unwrap();
    let expected = ["-7", "18446744073709551615", "1.5", "true", "2020-03-04T14:50:25.1200000Z", "/wA=", "ü"];
    let expected: Vec<_> = expected.into_iter().map(Some).chain([None]).collect();
    assert_eq!(array.as_string::<i32>().iter().collect::<Vec<_>>(), expected);

    let mut int = builder(DataType::Int64);
    int.push_float(7.0).unwrap();
    int.push_text(b"12").unwrap();
    int.push_datetime(5_000).unwrap();
    assert_eq!(int.push_float(0.5), Err(Misfit { found: "a float" }));
    assert_eq!(int.push_unsigned(1 << 63), Err(Misfit { found: "an integer above 2^63 - 1" }));
    assert_eq!(int.push_text(b"x"), Err(Misfit { found: "a text that is no integer" }));
    assert_eq!(int.push_datetime(1), Err(Misfit { found: "a datetime" }));
    assert!(int.push_boolean(true).is_err() && int.items().is_err() && int.members().is_err());
    assert_eq!(int.rows(), 3);

    let mut at = builder(datetime_type());
    at.push_int(1).unwrap();
    at.push_text(b"1970-01-01").unwrap();
    assert_eq!(at.push_int(i64::MAX), Err(Misfit { found: "an integer" }));
    assert_eq!(at.misfit(Misfit { found: "a float" }).message, "column `x`: expected datetime, found a float");
}

#[test]
fn half_a_row_is_cut_off() {
    let item = Field::new_list_field(DataType::Int64, true);
    let fields = Fields::from(vec![Field::new("n", DataType::Utf8, true), Field::new_list("l", item, true)]);
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![Field::new("r", DataType::Struct(fields), true)]));
    let mut builders = Builders::new(schema).unwrap();
    for row in 0..2 {
        let members = builders.columns[0].members().unwrap();
        members[0].push_text(b"abc").unwrap();
        members[1].items().unwrap().push_int(row).unwrap();
        members[1].close_list();
        builders.columns[0].close_record();
        builders.rows += 1;
    }
    let members = builders.columns[0].members().unwrap();
    members[0].push_text(b"half").unwrap();
    members[1].items().unwrap().push_int(9).unwrap();
    builders.truncate(1);
    let batch = builders.flush().unwrap();
    assert_eq!(batch.num_rows(), 1);
    let record = batch.column(0).as_struct();
    assert_eq!(record.column(0).as_string::<i32>().value(0), "abc");
    assert_eq!(record.column(1).as_list::<i32>().values().len(), 1);
    assert_eq!(builders.flush().unwrap().num_rows(), 0);
}

#[test]
fn columns_that_must_have_values_take_no_null() {
    let field = Field::new("x", DataType::Int64, false);
    let mut column = Builder::new(&field, "x".to_owned()).unwrap();
    assert_eq!(column.push_null(), Err(Misfit { found: "null or nothing" }));
    assert!(Builder::new(&Field::new("x", DataType::Int32, true), "x".to_owned()).is_err());
}
