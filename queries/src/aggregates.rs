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
    functions::reference::FunctionDoc,
    ranked,
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
    /// Types of the arguments.
    pub(crate) types: Vec<DataType>,
    pub(crate) distinct: bool,
    pub(crate) name: String,
    pub(crate) data_type: DataType,
}

impl AggregateCall {
    /// Of a user's function.
    pub(crate) fn of(function: Arc<AggregateUDF>, args: Vec<Typed>, data_type: DataType) -> Self {
        let types = args.iter().map(|a| a.data_type.clone()).collect();
        let args = args.into_iter().map(|a| a.expr).collect();
        Self { name: function.name().to_owned(), function, args, types, distinct: false, data_type }
    }
}

impl PartialEq for AggregateCall {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function && self.args == other.args && self.distinct == other.distinct
    }
}

const IGNORED: &str = "NULLs are left out; NULL when nothing is left";

/// Name, what is said of it.
static AGGREGATES: &[(&str, FunctionDoc)] = &[
    (
        "count",
        FunctionDoc {
            signature: "COUNT(*), COUNT(x), COUNT(DISTINCT x)",
            meaning: "number of rows, of values, of different values",
            nulls: "NULLs are left out; 0 when nothing is left",
            examples: &[("COUNT(*)", "4"), ("COUNT(DISTINCT x)", "3")],
            page: "count-azure-stream-analytics",
        },
    ),
    (
        "sum",
        doc("SUM(x)", "the sum, a bigint of bigints, else a float", &[("SUM(x)", "9")], "sum-azure-stream-analytics"),
    ),
    ("avg", doc("AVG(x)", "the mean, a float", &[("AVG(x)", "2.25")], "avg-azure-stream-analytics")),
    (
        "min",
        doc(
            "MIN(x)",
            "the smallest value; a column of text is read as numbers unless it is CAST to nvarchar(max)",
            &[("MIN(x)", "1")],
            "min-azure-stream-analytics",
        ),
    ),
    ("max", doc("MAX(x)", "the largest value, of text as MIN", &[("MAX(x)", "3")], "max-azure-stream-analytics")),
    (
        "stdev",
        doc(
            "STDEV(x)",
            "standard deviation of a sample; NULL for one value",
            &[("ROUND(STDEV(x), 3)", "0.957")],
            "stdev-azure-stream-analytics",
        ),
    ),
    (
        "stdevp",
        doc(
            "STDEVP(x)",
            "standard deviation of the whole",
            &[("ROUND(STDEVP(x), 3)", "0.829")],
            "stdevp-azure-stream-analytics",
        ),
    ),
    (
        "var",
        doc(
            "VAR(x)",
            "variance of a sample; NULL for one value",
            &[("ROUND(VAR(x), 3)", "0.917")],
            "var-azure-stream-analytics",
        ),
    ),
    ("varp", doc("VARP(x)", "variance of the whole", &[("VARP(x)", "0.6875")], "varp-azure-stream-analytics")),
];

const fn doc(
    signature: &'static str,
    meaning: &'static str,
    examples: &'static [(&'static str, &'static str)],
    page: &'static str,
) -> FunctionDoc {
    FunctionDoc { signature, meaning, nulls: IGNORED, examples, page }
}

/// What the reference page says of them.
pub(crate) fn docs() -> Vec<FunctionDoc> {
    AGGREGATES.iter().map(|(_, doc)| *doc).chain(ranked::docs()).collect()
}

/// Whether this lower-case name is that of an aggregate.
pub(crate) fn is_aggregate(name: &str) -> bool {
    AGGREGATES.iter().any(|(n, _)| *n == name)
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
            DataType::LargeUtf8 => coerce(arg, &DataType::Float64)?,
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
    let types = vec![arg.data_type];
    Ok(AggregateCall {
        function: function(name),
        args: vec![arg.expr],
        types,
        distinct,
        name: name.to_owned(),
        data_type,
    })
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
