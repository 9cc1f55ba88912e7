//! SUM, AVG, STDEV, STDEVP, VAR and VARP as DataFusion's planner sees them.
//!
//! All take one column of Int64 or Float64 (narrower numbers are widened, others become Float64), ignore nulls and give
//! null when there is no value at all. SUM of Int64 is Int64, everything else Float64.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array},
    datatypes::{DataType, FieldRef},
};
use datafusion_common::{Result, exec_datafusion_err, not_impl_err, plan_err};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, Signature, Volatility,
    function::{AccumulatorArgs, StateFieldsArgs},
};
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use super::{
    exact::ExactSum,
    power_sums::{Finish, GroupedPowerSums, OnePowerSums, PowerSums, SQUARES, SUM, state_fields},
};

/// The exact sum, rounded once; of Int64 an Int64.
///
/// # Errors
/// At evaluation, when a sum of Int64 does not fit one.
#[must_use]
pub fn sum() -> Arc<AggregateUDF> {
    Function::Sum.udf()
}

/// The exact sum rounded to a float, divided by the count. Infinite when the sum is beyond the largest float.
#[must_use]
pub fn avg() -> Arc<AggregateUDF> {
    Function::Avg.udf()
}

/// The standard deviation of a sample: the root of [`var`].
#[must_use]
pub fn stdev() -> Arc<AggregateUDF> {
    Function::Stdev.udf()
}

/// The standard deviation of a population: the root of [`varp`].
#[must_use]
pub fn stdevp() -> Arc<AggregateUDF> {
    Function::Stdevp.udf()
}

/// The variance of a sample; null for fewer than two values, NaN when one is not finite.
#[must_use]
pub fn var() -> Arc<AggregateUDF> {
    Function::Var.udf()
}

/// The variance of a population; 0 for a single value, NaN when one is not finite.
#[must_use]
pub fn varp() -> Arc<AggregateUDF> {
    Function::Varp.udf()
}

/// All of them.
#[must_use]
pub fn all() -> Vec<Arc<AggregateUDF>> {
    vec![sum(), avg(), stdev(), stdevp(), var(), varp()]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Function {
    Sum,
    Avg,
    Stdev,
    Stdevp,
    Var,
    Varp,
}

impl Function {
    fn udf(self) -> Arc<AggregateUDF> {
        let signature = Signature::user_defined(Volatility::Immutable);
        Arc::new(AggregateUDF::from(ExactAggregate { function: self, signature }))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Stdev => "stdev",
            Self::Stdevp => "stdevp",
            Self::Var => "var",
            Self::Varp => "varp",
        }
    }

    fn needs_squares(self) -> bool {
        !matches!(self, Self::Sum | Self::Avg)
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactAggregate {
    function: Function,
    signature: Signature,
}

impl AggregateUDFImpl for ExactAggregate {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        use DataType::{Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32};
        let [argument] = arguments else {
            return plan_err!("`{}` takes one argument, found {}", self.name(), arguments.len());
        };
        match argument {
            Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => Ok(vec![Int64]),
            other if other.is_numeric() || other.is_null() => Ok(vec![DataType::Float64]),
            other => plan_err!("`{}` expects a number, found {other}", self.name()),
        }
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let whole = self.function == Function::Sum && arguments.first() == Some(&DataType::Int64);
        Ok(if whole { DataType::Int64 } else { DataType::Float64 })
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let squares = self.function.needs_squares();
        Ok(if squares { state_fields::<SQUARES>(args.name) } else { state_fields::<SUM>(args.name) })
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        refuse_distinct(&args)?;
        Ok(match self.function.needs_squares() {
            false => Box::new(OnePowerSums::new(finish_sum(self.function, whole(&args), args.name))),
            true => Box::new(OnePowerSums::new(finish_squares(self.function))),
        })
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        refuse_distinct(&args)?;
        Ok(match self.function.needs_squares() {
            false => Box::new(GroupedPowerSums::new(finish_sum(self.function, whole(&args), args.name))),
            true => Box::new(GroupedPowerSums::new(finish_squares(self.function))),
        })
    }
}

fn refuse_distinct(args: &AccumulatorArgs<'_>) -> Result<()> {
    if args.is_distinct { not_impl_err!("`{}`: DISTINCT is built for COUNT only", args.name) } else { Ok(()) }
}

/// Sums of one of these functions, for callers that add and retract values themselves.
pub(crate) enum RollingSum {
    /// Of the values.
    Sum(Finish<SUM>),
    /// Of the values and of their squares.
    Squares(Finish<SQUARES>),
}

/// The sums of an aggregate; `None` when it is none of these functions.
pub(crate) fn rolling_sum(aggregate: &AggregateFunctionExpr) -> Option<RollingSum> {
    use Function::{Avg, Stdev, Stdevp, Sum, Var, Varp};
    let name = aggregate.fun().name();
    let function = [Sum, Avg, Stdev, Stdevp, Var, Varp].into_iter().find(|f| f.name() == name)?;
    let whole = aggregate.field().data_type() == &DataType::Int64;
    Some(match function.needs_squares() {
        false => RollingSum::Sum(finish_sum(function, whole, aggregate.name())),
        true => RollingSum::Squares(finish_squares(function)),
    })
}

fn whole(args: &AccumulatorArgs<'_>) -> bool {
    args.return_field.data_type() == &DataType::Int64
}

fn finish_sum(function: Function, whole: bool, name: &str) -> Finish<SUM> {
    if whole {
        let name = name.to_owned();
        return Box::new(move |groups| {
            let sums = groups.iter().map(|group| whole_sum(group, &name));
            Ok(Arc::new(sums.collect::<Result<Int64Array>>()?))
        });
    }
    floats(move |PowerSums { count, sums: [sum] }| {
        let sum = sum.to_f64();
        Some(if function == Function::Avg { sum / *count as f64 } else { sum }).filter(|_| *count > 0)
    })
}

fn whole_sum(group: &PowerSums<SUM>, name: &str) -> Result<Option<i64>> {
    if group.count == 0 {
        return Ok(None);
    }
    let sum = group.sums[0].to_i64();
    sum.map(Some).ok_or_else(|| exec_datafusion_err!("`{name}`: sum of bigint exceeds its range"))
}

fn finish_squares(function: Function) -> Finish<SQUARES> {
    match function {
        Function::Stdev => floats(|group| variance(group, 1).map(f64::sqrt)),
        Function::Stdevp => floats(|group| variance(group, 0).map(f64::sqrt)),
        Function::Var => floats(|group| variance(group, 1)),
        _ => floats(|group| variance(group, 0)),
    }
}

/// (n Σx² - (Σx)²) / (n (n - taken)), the numerator exactly before it is rounded: no cancellation, never negative.
fn variance(group: &PowerSums<SQUARES>, taken: i64) -> Option<f64> {
    let PowerSums { count, sums: [sum, squares_high, squares_low] } = group;
    if *count <= taken {
        return None;
    }
    if !sum.is_finite() {
        return Some(f64::NAN);
    }
    let mut squares = squares_high.clone();
    squares.merge(squares_low);
    let mut n = ExactSum::default();
    n.add_i64(*count);
    let mut numerator = n.product(&squares);
    numerator.retract(&sum.product(sum));
    Some(numerator.to_f64() / (*count as f64 * (*count - taken) as f64))
}

fn floats<const N: usize>(finish: impl Fn(&PowerSums<N>) -> Option<f64> + Send + Sync + 'static) -> Finish<N> {
    Box::new(move |groups| Ok(Arc::new(groups.iter().map(&finish).collect::<Float64Array>()) as ArrayRef))
}
