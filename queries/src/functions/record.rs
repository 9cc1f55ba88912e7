//! Fields of records and elements of arrays.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, StructArray, UInt32Array, make_array},
    buffer::NullBuffer,
    compute::take,
    datatypes::{DataType, Fields},
};
use datafusion_common::{Result, exec_datafusion_err, exec_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sqlparser::tokenizer::Span;

use super::{
    Arg::{Any, Array as List, Int, Text},
    Args, Function,
    Returns::{self, Element},
    function,
    json::{self, Json, Values},
    rows::invoke,
};
use crate::{error::QueryError, scope::Scope, typed::Typed};

pub(super) static FUNCTIONS: &[Function] = &[
    function("getarrayelement", &[List, Int], Element, array_element)
        .doc_of(
            "GetArrayElement(array, i)",
            "the element at position i, from 0; NULL outside the array",
            &[("GetArrayElement(list, 1)", "20"), ("GetArrayElement(list, 2)", "null")],
        )
        .page("getarrayelement-azure-stream-analytics"),
    function("getarraylength", &[List], Returns::Int, array_length)
        .doc_of("GetArrayLength(array)", "number of elements", &[("GetArrayLength(list)", "2")])
        .page("getarraylength-azure-stream-analytics"),
    function("getrecordpropertyvalue", &[Any, Text], Returns::Any, property)
        .doc_of(
            "GetRecordPropertyValue(record, name)",
            "the field of that name, which may be a column; NULL without one",
            &[
                ("GetRecordPropertyValue(r, 'a')", "1"),
                ("GetRecordPropertyValue(r, LOWER('B'))", "\"x\""),
                ("GetRecordPropertyValue(JSON_PARSE('{\"a\": 2.5}'), 'A')", "2.5"),
            ],
        )
        .page("getrecordpropertyvalue-azure-stream-analytics"),
];

/// `record.field`: null where the record is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Field {
    index: usize,
    data_type: DataType,
    signature: Signature,
}

impl Field {
    /// The field at `index` of a record.
    pub(crate) fn function(index: usize, data_type: DataType) -> ScalarUDF {
        ScalarUDF::new_from_impl(Self { index, data_type, signature: Signature::any(1, Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for Field {
    fn name(&self) -> &str {
        "field"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.data_type.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        invoke(&args, |args| {
            let record = args.column(0).as_struct();
            let field = record.column(self.index);
            if record.null_count() == 0 {
                return Ok(Arc::clone(field));
            }
            let nulls = NullBuffer::union(record.nulls(), field.nulls());
            Ok(make_array(field.to_data().into_builder().nulls(nulls).build()?))
        })
    }
}

/// A record of all columns that `*` gives.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    fields: Fields,
    signature: Signature,
}

impl Row {
    pub(crate) fn of(scope: &Scope, span: Span) -> std::result::Result<Typed, QueryError> {
        let visible = || scope.columns.iter().filter(|c| c.visible);
        let fields: Fields =
            visible().map(|c| arrow::datatypes::Field::new(&c.name, c.data_type.clone(), true)).collect();
        let values = visible().map(|c| Typed::column(&c.name, c.index, c.data_type.clone(), span)).collect();
        let data_type = DataType::Struct(fields.clone());
        let row = ScalarUDF::new_from_impl(Self { fields, signature: Signature::variadic_any(Volatility::Immutable) });
        Typed::call(row, values, data_type, span)
    }
}

impl ScalarUDFImpl for Row {
    fn name(&self) -> &str {
        "row"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Struct(self.fields.clone()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let columns = args.args.into_iter().map(|a| a.into_array(args.number_rows)).collect::<Result<Vec<_>>>()?;
        let row = StructArray::try_new_with_length(self.fields.clone(), columns, None, args.number_rows)?;
        Ok(ColumnarValue::Array(Arc::new(row)))
    }
}

/// The element at a position from 0; null outside the array.
fn array_element(args: &Args) -> Result<ArrayRef> {
    if *args.data_type(0) == DataType::LargeUtf8 {
        let (values, n) = (Values::of(args, 0), args.int(1));
        return Ok(json::collect((0..args.rows()).map(|row| {
            let (value, n) = (values.get(row)?, usize::try_from(n.get(row)?).ok()?);
            value.elements().nth(n).map(|element| element.text().into())
        })));
    }
    let (list, n) = (args.column(0).as_list::<i32>(), args.int(1));
    let positions: UInt32Array = (0..args.rows())
        .map(|row| {
            let at = args.index(0, row);
            let n = i32::try_from(n.get(row)?).ok().filter(|n| *n >= 0)?;
            let start = list.value_offsets()[at];
            (list.is_valid(at) && n < list.value_length(at)).then_some((start + n) as u32)
        })
        .collect();
    take(list.values(), &positions, None).map_err(|e| exec_datafusion_err!("{e}"))
}

fn array_length(args: &Args) -> Result<ArrayRef> {
    if *args.data_type(0) == DataType::LargeUtf8 {
        let values = Values::of(args, 0);
        let length = |value: Json<'_>| (value.kind() == "array").then(|| value.elements().count() as i64);
        return args.to_ints(|row| Ok(values.get(row).and_then(length)));
    }
    let list = args.column(0).as_list::<i32>();
    args.to_ints(|row| {
        let at = args.index(0, row);
        Ok(list.is_valid(at).then(|| i64::from(list.value_length(at))))
    })
}

/// The field of a record whose name is a value of the row. A record's fields may differ in type, so the result is of any.
fn property(args: &Args) -> Result<ArrayRef> {
    let name = args.text(1);
    match args.data_type(0) {
        DataType::LargeUtf8 => {
            let values = Values::of(args, 0);
            let member = |row| Some(values.get(row)?.member(name.get(row)?)?.text().into());
            Ok(json::collect((0..args.rows()).map(member)))
        }
        DataType::Struct(fields) => {
            let record = args.column(0).as_struct();
            let columns = record.columns().iter().map(json::encode).collect::<Result<Vec<_>>>()?;
            Ok(json::collect((0..args.rows()).map(|row| {
                let (at, name) = (args.index(0, row), name.get(row)?);
                let same = || fields.iter().position(|f| f.name().eq_ignore_ascii_case(name));
                let field = fields.iter().position(|f| f.name() == name).or_else(same)?;
                let text = columns[field][at].as_deref().filter(|_| record.is_valid(at))?;
                Some(String::from_utf8_lossy(text))
            })))
        }
        _ if args.column(0).null_count() == args.column(0).len() => Ok(json::collect((0..args.rows()).map(|_| None))),
        other => exec_err!("GetRecordPropertyValue expects a record, found {}", crate::coercion::type_name(other)),
    }
}

/// The value of the first header of a name; null without one.
pub(super) fn header(args: &Args) -> Result<ArrayRef> {
    let (list, name) = (args.column(0).as_list::<i32>(), args.text(1));
    let headers = list.values().as_struct();
    let (names, values) = (headers.column(0).as_string::<i32>(), headers.column(1).as_string::<i32>());
    args.to_text(|row| {
        let at = args.index(0, row);
        let Some(name) = name.get(row).filter(|_| list.is_valid(at)) else { return Ok(None) };
        let (start, end) = (list.value_offsets()[at] as usize, list.value_offsets()[at + 1] as usize);
        let found = (start..end).find(|i| names.is_valid(*i) && names.value(*i) == name);
        Ok(found.filter(|i| values.is_valid(*i)).map(|i| values.value(i).into()))
    })
}
