//! Aggregate functions: which there are, and what they take.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate as df;
use datafusion_physical_expr::PhysicalExpr;
use sqlparser::tokenizer::Span;
use tidemill_engine::aggregate;

use crate::{
    coercion::{coerce, mismatch, to_number},
    error::QueryError,
    typed::Typed,
};

/// Whether the aggregate of this name calculates with its argument.
pub(crate) fn is_arithmetic(name: &str) -> bool {
    is_aggregate(name) && !["count", "min", "max"].contains(&name)
}

/// One call, over the columns of the aggregation's input.
#[derive(Clone, Debug)]
pub(crate) struct AggregateCall {
    pub(crate) function: Arc<AggregateUDF>,
    pub(crate) args: Vec<Arc<dyn PhysicalExpr>>,
    pub(crate) distinct: bool,
    pub(crate) name: String,
    pub(crate) data_type: DataType,
}

impl PartialEq for AggregateCall {
    fn eq(&self, other: &Self) -> bool {
        self.function.name() == other.function.name() && self.args == other.args && self.distinct == other.distinct
    }
}

const NAMES: &[&str] = &["count", "sum", "avg", "min", "max", "stdev", "stdevp", "var", "varp"];

/// Whether this lower-case name is that of an aggregate.
pub(crate) fn is_aggregate(name: &str) -> bool {
    NAMES.contains(&name)
}

/// A call of the aggregate `name`. `bare` says that the argument is a column as it stands: MIN and MAX read such a string
/// as a number, and compare it as text only where the query casts it.
pub(crate) fn call(
    name: &str,
    arg: Typed,
    distinct: bool,
    bare: bool,
    span: Span,
) -> Result<AggregateCall, QueryError> {
    if distinct && name != "count" {
        return Err(QueryError::unsupported(span, format!("`{name}(DISTINCT ...)`")));
    }
    let arg = match name {
        "count" => arg,
        "min" | "max" => match arg.data_type {
            DataType::Utf8 if bare => coerce(arg, &DataType::Float64)?,
            DataType::Struct(_) | DataType::List(_) => return Err(mismatch(&arg, "a number, text or datetime")),
            _ => arg,
        },
        _ => to_number(arg)?,
    };
    let data_type = match name {
        "count" => DataType::Int64,
        "sum" | "min" | "max" => arg.data_type.clone(),
        _ => DataType::Float64,
    };
    Ok(AggregateCall { function: function(name), args: vec![arg.expr], distinct, name: name.to_owned(), data_type })
}

fn function(name: &str) -> Arc<AggregateUDF> {
    match name {
        "count" => df::count::count_udaf(),
        "min" => df::min_max::min_udaf(),
        "max" => df::min_max::max_udaf(),
        // Sums of floats that do not depend on the order of the rows.
        "sum" => aggregate::sum(),
        "avg" => aggregate::avg(),
        "stdev" => aggregate::stdev(),
        "stdevp" => aggregate::stdevp(),
        "var" => aggregate::var(),
        _ => aggregate::varp(),
    }
}
