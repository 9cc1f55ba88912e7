//! `uda.name(x)`: an aggregate of a window in JavaScript.
//!
//! Its state is the values of the window with their event times: JavaScript aggregates have no method that merges two, and
//! an object in an engine could not be saved. When the window is over they are handed over by event time; values of one
//! instant in the order of their JSON, so that a result does not depend on who brought them. `deaccumulate` is never called.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, LargeStringArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, FieldRef, Int64Type, TimestampMicrosecondType},
};
use datafusion_common::{Result, ScalarValue};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
    function::{AccumulatorArgs, StateFieldsArgs},
};
use tidemill_engine::{
    any::any_type,
    user_code::{CallFailed, FAILED_VALUE},
};

use super::{OnError, Script, engine};
use crate::{error::QueryError, typed::Typed};

/// Of a value of any type and its event time.
pub(super) fn function(script: &Arc<Script>, on_error: OnError) -> Arc<AggregateUDF> {
    let signature = Signature::any(2, Volatility::Immutable);
    Arc::new(AggregateUDF::new_from_impl(Aggregate { script: Arc::clone(script), on_error, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Aggregate {
    script: Arc<Script>,
    on_error: OnError,
    signature: Signature,
}

fn list(item: DataType) -> DataType {
    DataType::new_list(item, true)
}

impl AggregateUDFImpl for Aggregate {
    fn name(&self) -> &str {
        &self.script.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(any_type())
    }

    fn accumulator(&self, _args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Values { script: Arc::clone(&self.script), on_error: self.on_error, values: vec![] }))
    }

    fn state_fields(&self, _args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let field = |name, item| Arc::new(Field::new(name, list(item), true));
        Ok(vec![field("times", DataType::Int64), field("values", any_type())])
    }
}

#[derive(Debug)]
struct Values {
    script: Arc<Script>,
    on_error: OnError,
    values: Vec<(i64, Option<String>)>,
}

impl Values {
    fn add(&mut self, times: &Int64Array, values: &LargeStringArray) {
        self.values.extend(times.values().iter().zip(values).map(|(t, v)| (*t, v.map(str::to_owned))));
    }
}

/// One list of all values.
fn one_list(values: ArrayRef) -> ScalarValue {
    let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    ScalarValue::List(Arc::new(arrow::array::ListArray::new(item, offsets, values, None)))
}

impl Accumulator for Values {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let times = values[1].as_primitive::<TimestampMicrosecondType>().reinterpret_cast::<Int64Type>();
        self.add(&times, values[0].as_string());
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (times, values) = (states[0].as_list::<i32>(), states[1].as_list::<i32>());
        for row in (0..times.len()).filter(|row| times.is_valid(*row)) {
            self.add(times.value(row).as_primitive(), values.value(row).as_string());
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let times: Int64Array = self.values.iter().map(|(t, _)| Some(*t)).collect();
        let values: LargeStringArray = self.values.iter().map(|(_, v)| v.as_deref()).collect();
        Ok(vec![one_list(Arc::new(times)), one_list(Arc::new(values))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.values.sort();
        let values = self.values.iter().map(|(t, v)| (*t, v.as_deref()));
        let result = match engine::aggregate(&self.script, values) {
            Ok(result) => result,
            Err(message) if self.on_error == OnError::DeadLetter => Some(format!("{FAILED_VALUE}{message}")),
            Err(message) => self.script.failed(self.on_error, message).map(|()| None)?,
        };
        Ok(ScalarValue::LargeUtf8(result))
    }

    fn size(&self) -> usize {
        let texts: usize = self.values.iter().map(|(_, v)| v.as_ref().map_or(0, String::capacity)).sum();
        size_of_val(self) + self.values.capacity() * size_of::<(i64, Option<String>)>() + texts
    }
}

/// The result of an aggregate where it is used: a row whose aggregate failed fails there.
pub(super) fn checked(result: Typed) -> std::result::Result<Typed, QueryError> {
    let (data_type, span) = (result.data_type.clone(), result.span);
    let function = ScalarUDF::new_from_impl(Checked { signature: Signature::any(1, Volatility::Immutable) });
    Typed::call(function, vec![result], data_type, span)
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Checked {
    signature: Signature,
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &'static str {
        "result"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(any_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let results = args.args[0].to_array(args.number_rows)?;
        match results.as_string::<i64>().iter().flatten().find_map(|result| result.strip_prefix(FAILED_VALUE)) {
            Some(message) => Err(CallFailed(message.to_owned()).into()),
            None => Ok(ColumnarValue::Array(results)),
        }
    }
}
