//! Fields of records and elements of arrays.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, StructArray, UInt32Array, make_array},
    buffer::NullBuffer,
    compute::take,
    datatypes::{DataType, Fields},
};
use datafusion_common::{Result, exec_datafusion_err};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use sqlparser::tokenizer::Span;

use super::{Args, rows::invoke};
use crate::{error::QueryError, scope::Scope, typed::Typed};

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
pub(super) fn array_element(args: &Args) -> Result<ArrayRef> {
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

pub(super) fn array_length(args: &Args) -> Result<ArrayRef> {
    let list = args.column(0).as_list::<i32>();
    args.to_ints(|row| {
        let at = args.index(0, row);
        Ok(list.is_valid(at).then(|| i64::from(list.value_length(at))))
    })
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
