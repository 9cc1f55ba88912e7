//! `uda.name(x)`: an aggregate of a window in JavaScript.
//!
//! Its state is the values of the window with their event times: JavaScript aggregates have no method that merges two, and
//! an object in an engine could not be saved. When the window is over they are handed over by event time; values of one
//! instant in the order of their JSON, so that a result does not depend on who brought them. `deaccumulate` is never called.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, LargeStringArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, FieldRef, Int64Type, TimestampMicrosecondType},
};
use datafusion_common::{DataFusionError, Result, ScalarValue};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility,
    function::{AccumulatorArgs, StateFieldsArgs},
};
use tidemill_engine::any::any_type;

use super::{OnError, Script, engine};

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
        match engine::aggregate(&self.script, values) {
            Ok(result) => Ok(ScalarValue::LargeUtf8(result)),
            Err(_) if self.on_error == OnError::GiveNull => {
                self.script.failures.fetch_add(1, Relaxed);
                Ok(ScalarValue::LargeUtf8(None))
            }
            Err(error) => Err(DataFusionError::Execution(error)),
        }
    }

    fn size(&self) -> usize {
        let texts: usize = self.values.iter().map(|(_, v)| v.as_ref().map_or(0, String::capacity)).sum();
        size_of_val(self) + self.values.capacity() * size_of::<(i64, Option<String>)>() + texts
    }
}
