//! Fields of records and elements of arrays.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, ListArray, StringBuilder, StructArray, UInt32Array, make_array, new_empty_array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    compute::{interleave, take},
    datatypes::{DataType, Fields},
};
use datafusion_common::{Result, exec_datafusion_err, exec_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use sqlparser::tokenizer::Span;
use tidemill_engine::any::any_type;

use super::{
    Arg::{Any, Array as List, Int, Text},
    Args, Function,
    Returns::{self, Element},
    function,
    json::{self, Json, Values},
    rows::invoke,
};
use crate::{
    coercion::mismatch,
    error::QueryError,
    scope::{Scope, ScopeColumn},
    typed::Typed,
};

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

/// A record of columns or of other values.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    fields: Fields,
    signature: Signature,
}

impl Row {
    /// Of all columns that `*` gives, or of those of one relation.
    pub(crate) fn of(scope: &Scope, relation: Option<usize>, span: Span) -> std::result::Result<Typed, QueryError> {
        let columns = scope.columns.iter().filter(|c| c.visible && relation.is_none_or(|r| c.relation == r));
        let column = |c: &ScopeColumn| (c.name.clone(), Typed::column(&c.name, c.index, c.data_type.clone(), span));
        Self::with(columns.map(column).collect(), span)
    }

    /// Of these fields.
    pub(crate) fn with(fields: Vec<(String, Typed)>, span: Span) -> std::result::Result<Typed, QueryError> {
        let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
        let typed = names.into_iter().zip(&values);
        let fields: Fields =
            typed.map(|(name, value)| arrow::datatypes::Field::new(name, value.data_type.clone(), true)).collect();
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

/// Fields of the records that [`properties`] gives.
pub(crate) const PROPERTY: [&str; 2] = ["PropertyName", "PropertyValue"];

/// The array of a record's fields, each a record of [`PROPERTY`]. A record whose fields are known by type has no way to say
/// that it lacks a field: one that is null is left out.
pub(crate) fn properties(record: Typed) -> std::result::Result<Typed, QueryError> {
    let value = match &record.data_type {
        DataType::Struct(fields) => {
            let mut types = fields.iter().map(|f| f.data_type());
            let first = types.next().cloned();
            first.filter(|first| types.all(|other| other == first)).unwrap_or_else(any_type)
        }
        DataType::LargeUtf8 => any_type(),
        _ => return Err(mismatch(&record, "a record")),
    };
    let [name, property] = PROPERTY;
    let fields: Fields =
        [arrow::datatypes::Field::new(name, DataType::Utf8, true), arrow::datatypes::Field::new(property, value, true)]
            .into_iter()
            .collect();
    let data_type = DataType::new_list(DataType::Struct(fields.clone()), true);
    let function = Properties { fields, signature: Signature::any(1, Volatility::Immutable) };
    let span = record.span;
    Typed::call(ScalarUDF::new_from_impl(function), vec![record], data_type, span)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Properties {
    fields: Fields,
    signature: Signature,
}

impl ScalarUDFImpl for Properties {
    fn name(&self) -> &str {
        "properties"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::new_list(DataType::Struct(self.fields.clone()), true))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        invoke(&args, |args| match args.data_type(0) {
            DataType::LargeUtf8 => self.of_any(args),
            _ => self.of_record(args.column(0).as_struct()),
        })
    }
}

impl Properties {
    fn of_any(&self, args: &Args) -> Result<ArrayRef> {
        let values = Values::of(args, 0);
        let (mut names, mut texts, mut lengths) = (StringBuilder::new(), vec![], vec![]);
        let mut is_record = vec![];
        for row in 0..args.rows() {
            let before = texts.len();
            let record = values.get(row).filter(|value| value.kind() == "record");
            is_record.push(record.is_some());
            for (name, value) in record.iter().flat_map(|record| record.members()) {
                names.append_value(name);
                texts.push(Some(value.compact()));
            }
            lengths.push(texts.len() - before);
        }
        self.list(Arc::new(names.finish()), json::collect(texts.into_iter()), lengths, Some(is_record.into()))
    }

    /// The fields of each row, in the order of the type.
    fn of_record(&self, record: &StructArray) -> Result<ArrayRef> {
        let value = self.fields[1].data_type();
        let columns = record.columns().iter().map(|column| match column.data_type() {
            same if same == value => Ok(Arc::clone(column)),
            _ => json::from_typed(column),
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let (mut names, mut picked, mut lengths) = (StringBuilder::new(), vec![], vec![]);
        for row in 0..record.len() {
            let before = picked.len();
            let there = (0..columns.len()).filter(|field| record.is_valid(row) && columns[*field].is_valid(row));
            for field in there {
                names.append_value(record.fields()[field].name());
                picked.push((field, row));
            }
            lengths.push(picked.len() - before);
        }
        let columns: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
        let values = match columns.is_empty() {
            true => new_empty_array(value),
            false => interleave(&columns, &picked)?,
        };
        self.list(Arc::new(names.finish()), values, lengths, record.nulls().cloned())
    }

    fn list(
        &self,
        names: ArrayRef,
        values: ArrayRef,
        lengths: Vec<usize>,
        nulls: Option<NullBuffer>,
    ) -> Result<ArrayRef> {
        let properties: ArrayRef = Arc::new(StructArray::try_new(self.fields.clone(), vec![names, values], None)?);
        let element = Arc::new(arrow::datatypes::Field::new_list_field(properties.data_type().clone(), true));
        Ok(Arc::new(ListArray::try_new(element, OffsetBuffer::from_lengths(lengths), properties, nulls)?))
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

/// All headers as a record; of several with one name the first.
pub(super) fn headers(args: &Args) -> Result<ArrayRef> {
    let list = args.column(0).as_list::<i32>();
    let headers = list.values().as_struct();
    let (names, values) = (headers.column(0).as_string::<i32>(), headers.column(1).as_string::<i32>());
    let record = |row: usize| {
        let at = args.index(0, row);
        let mut record = serde_json::Map::new();
        let all = list.value_offsets()[at] as usize..list.value_offsets()[at + 1] as usize;
        for i in all.filter(|i| names.is_valid(*i)) {
            let value = values.is_valid(i).then(|| values.value(i));
            record.entry(names.value(i)).or_insert(value.into());
        }
        list.is_valid(at).then(|| serde_json::Value::Object(record).to_string().into())
    };
    Ok(json::collect((0..args.rows()).map(record)))
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
