//! Arguments and results of a function, row by row. A constant argument stays one value, whatever the number of rows.

use std::{borrow::Cow, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array, Int64Array, PrimitiveArray,
        StringArray, StringBuilder, TimestampMicrosecondArray,
    },
    datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType},
};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs};

/// The arguments of one call over a batch.
pub(crate) struct Args {
    columns: Vec<ArrayRef>,
    constant: Vec<bool>,
    rows: usize,
}

/// Evaluates a rule over columns; constants alone give a constant.
pub(crate) fn invoke(args: &ScalarFunctionArgs, evaluate: impl Fn(&Args) -> Result<ArrayRef>) -> Result<ColumnarValue> {
    let constant: Vec<bool> = args.args.iter().map(|a| matches!(a, ColumnarValue::Scalar(_))).collect();
    let once = constant.iter().all(|c| *c);
    let columns = args
        .args
        .iter()
        .map(|a| match a {
            ColumnarValue::Array(array) => Ok(Arc::clone(array)),
            ColumnarValue::Scalar(value) => value.to_array(),
        })
        .collect::<Result<_>>()?;
    let result = evaluate(&Args { columns, constant, rows: if once { 1 } else { args.number_rows } })?;
    if once {
        ScalarValue::try_from_array(&result, 0).map(ColumnarValue::Scalar)
    } else {
        Ok(ColumnarValue::Array(result))
    }
}

/// A column of primitive values.
pub(crate) struct Values<'a, T: ArrowPrimitiveType>(&'a PrimitiveArray<T>, bool);

impl<T: ArrowPrimitiveType> Values<'_, T> {
    pub(crate) fn get(&self, row: usize) -> Option<T::Native> {
        let row = if self.1 { 0 } else { row };
        self.0.is_valid(row).then(|| self.0.value(row))
    }
}

/// A column of text.
pub(crate) struct Texts<'a>(&'a StringArray, bool);

impl<'a> Texts<'a> {
    pub(crate) fn get(&self, row: usize) -> Option<&'a str> {
        let row = if self.1 { 0 } else { row };
        self.0.is_valid(row).then(|| self.0.value(row))
    }

    /// The value, when it is one for all rows.
    pub(crate) fn constant(&self) -> Option<Option<&'a str>> {
        self.1.then(|| self.get(0))
    }
}

impl Args {
    /// One column, with a value for each row.
    pub(crate) fn of(column: ArrayRef) -> Self {
        Self { rows: column.len(), columns: vec![column], constant: vec![false] }
    }

    /// Number of arguments.
    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    pub(crate) fn data_type(&self, arg: usize) -> &DataType {
        self.columns[arg].data_type()
    }

    pub(crate) fn column(&self, arg: usize) -> &ArrayRef {
        &self.columns[arg]
    }

    /// Where the value of `row` lies in the column of `arg`.
    pub(crate) fn index(&self, arg: usize, row: usize) -> usize {
        if self.constant[arg] { 0 } else { row }
    }

    /// Whether an argument is one value for all rows.
    pub(crate) fn is_constant(&self, arg: usize) -> bool {
        self.constant[arg]
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn text(&self, arg: usize) -> Texts<'_> {
        Texts(self.columns[arg].as_string(), self.constant[arg])
    }

    pub(crate) fn int(&self, arg: usize) -> Values<'_, Int64Type> {
        Values(self.columns[arg].as_primitive(), self.constant[arg])
    }

    pub(crate) fn float(&self, arg: usize) -> Values<'_, Float64Type> {
        Values(self.columns[arg].as_primitive(), self.constant[arg])
    }

    /// Microseconds since the epoch.
    pub(crate) fn time(&self, arg: usize) -> Values<'_, TimestampMicrosecondType> {
        Values(self.columns[arg].as_primitive(), self.constant[arg])
    }

    pub(crate) fn bit(&self, arg: usize) -> impl Fn(usize) -> Option<bool> {
        let (array, constant) = (self.columns[arg].as_boolean(), self.constant[arg]);
        move |row| {
            let row = if constant { 0 } else { row };
            array.is_valid(row).then(|| array.value(row))
        }
    }

    pub(crate) fn to_text<'a>(&self, mut rule: impl FnMut(usize) -> Result<Option<Cow<'a, str>>>) -> Result<ArrayRef> {
        let mut out = StringBuilder::with_capacity(self.rows, self.rows * 16);
        for row in 0..self.rows {
            out.append_option(rule(row)?);
        }
        Ok(Arc::new(out.finish()))
    }

    pub(crate) fn to_ints(&self, rule: impl FnMut(usize) -> Result<Option<i64>>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.rows).map(rule).collect::<Result<Int64Array>>()?))
    }

    pub(crate) fn to_floats(&self, rule: impl FnMut(usize) -> Result<Option<f64>>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.rows).map(rule).collect::<Result<Float64Array>>()?))
    }

    pub(crate) fn to_bits(&self, rule: impl FnMut(usize) -> Result<Option<bool>>) -> Result<ArrayRef> {
        Ok(Arc::new((0..self.rows).map(rule).collect::<Result<BooleanArray>>()?))
    }

    /// From microseconds since the epoch.
    pub(crate) fn to_times(&self, rule: impl FnMut(usize) -> Result<Option<i64>>) -> Result<ArrayRef> {
        let times = (0..self.rows).map(rule).collect::<Result<TimestampMicrosecondArray>>()?;
        Ok(Arc::new(times.with_timezone("UTC")))
    }
}
