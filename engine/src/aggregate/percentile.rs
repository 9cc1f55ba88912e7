//! Percentile_Cont and Percentile_Disc: every value of a group is kept, and sorted once.
//!
//! A value is kept as a number whose order is that of the values ([`rank_of_f64`], [`rank_of_i64`]). State: one column
//! `values` (Binary), these numbers as little-endian u64s in no particular order.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Float64Array, Int64Array},
    compute::cast,
    datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type},
};
use datafusion_common::{Result, internal_datafusion_err, internal_err, not_impl_err};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
    function::{AccumulatorArgs, StateFieldsArgs},
    utils::format_state_name,
};

/// Percentile_Cont: `Float64`, between the two values around the place, in proportion. Percentile_Disc: the first value, of
/// its own type, up to which at least this part of the values lies. Nulls do not count; null without values. The argument is
/// a `Float64`, or for Percentile_Disc also an `Int64` or a datetime.
#[must_use]
pub fn percentile(fraction: f64, continuous: bool, descending: bool) -> Arc<AggregateUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    let fraction = fraction.to_bits();
    Arc::new(AggregateUDF::from(Percentile { fraction, continuous, descending, signature }))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Percentile {
    /// Bits of the fraction, from 0 to 1.
    fraction: u64,
    continuous: bool,
    descending: bool,
    signature: Signature,
}

/// A number that orders as `x` does; NaN is the largest.
#[must_use]
pub fn rank_of_f64(x: f64) -> u64 {
    let bits = if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// The float of a [`rank_of_f64`].
#[must_use]
pub fn f64_of_rank(rank: u64) -> f64 {
    f64::from_bits(if rank >> 63 == 1 { rank & !(1 << 63) } else { !rank })
}

/// A number that orders as `x` does.
#[must_use]
pub fn rank_of_i64(x: i64) -> u64 {
    x as u64 ^ 1 << 63
}

/// The whole number of a [`rank_of_i64`].
#[must_use]
pub fn i64_of_rank(rank: u64) -> i64 {
    (rank ^ 1 << 63) as i64
}

impl Percentile {
    /// Of the values of one group, of which there is one at least.
    fn of(&self, ranks: &mut [u64], value: impl Fn(u64) -> f64) -> Found {
        ranks.sort_unstable();
        if self.descending {
            ranks.reverse();
        }
        let (last, fraction) = (ranks.len() - 1, f64::from_bits(self.fraction));
        if !self.continuous {
            // What rounding adds to the product must not move the place.
            let place = (fraction * ranks.len() as f64 - 1e-9).ceil() as usize;
            return Found::Rank(ranks[place.saturating_sub(1).min(last)]);
        }
        let place = fraction * last as f64;
        let below = (place.floor() as usize).min(last);
        let (low, high) = (value(ranks[below]), value(ranks[(below + 1).min(last)]));
        let part = place - below as f64;
        Found::Between(if part == 0.0 { low } else { low + (high - low) * part })
    }
}

enum Found {
    Rank(u64),
    Between(f64),
}

impl AggregateUDFImpl for Percentile {
    fn name(&self) -> &str {
        if self.continuous { "percentile_cont" } else { "percentile_disc" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [value] if !self.continuous => Ok(value.clone()),
            [_] => Ok(DataType::Float64),
            _ => internal_err!("`{}` takes one column", self.name()),
        }
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "values"), DataType::Binary, false))])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("`{}` is computed by groups only", args.name)
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let [value] = args.expr_fields else { return internal_err!("`{}` takes one column", args.name) };
        Ok(Box::new(GroupedValues { percentile: self.clone(), value_type: value.data_type().clone(), groups: vec![] }))
    }
}

struct GroupedValues {
    percentile: Percentile,
    value_type: DataType,
    groups: Vec<Vec<u64>>,
}

impl GroupsAccumulator for GroupedValues {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_groups, Vec::new);
        let [values] = values else { return internal_err!("expected one column, found {}", values.len()) };
        let ranks: Vec<u64> = match values.data_type() {
            DataType::Float64 => {
                values.as_primitive::<Float64Type>().values().iter().map(|x| rank_of_f64(*x)).collect()
            }
            _ => {
                let whole = cast(values, &DataType::Int64)?;
                whole.as_primitive::<Int64Type>().values().iter().map(|x| rank_of_i64(*x)).collect()
            }
        };
        for (row, &group) in ids.iter().enumerate() {
            if values.is_valid(row) && filter.is_none_or(|f| f.is_valid(row) && f.value(row)) {
                self.groups[group].push(ranks[row]);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], ids: &[usize], total_groups: usize) -> Result<()> {
        self.groups.resize_with(total_groups, Vec::new);
        let Some(states) = states.first().and_then(|s| s.as_binary_opt::<i32>()) else {
            return internal_err!("expected values as Binary");
        };
        for (row, &group) in ids.iter().enumerate() {
            let (ranks, rest) = states.value(row).as_chunks::<8>();
            if !rest.is_empty() {
                return Err(internal_datafusion_err!("the state of a percentile is cut off"));
            }
            self.groups[group].extend(ranks.iter().map(|rank| u64::from_le_bytes(*rank)));
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let mut groups = emit_to.take_needed(&mut self.groups);
        let is_float = self.value_type == DataType::Float64;
        let value = |rank| if is_float { f64_of_rank(rank) } else { i64_of_rank(rank) as f64 };
        let found = groups.iter_mut().map(|ranks| (!ranks.is_empty()).then(|| self.percentile.of(ranks, value)));
        if self.percentile.continuous || is_float {
            let floats = found.map(|found| {
                found.map(|found| match found {
                    Found::Rank(rank) => value(rank),
                    Found::Between(x) => x,
                })
            });
            return Ok(Arc::new(floats.collect::<Float64Array>()));
        }
        let whole = found.map(|found| match found {
            Some(Found::Rank(rank)) => Some(i64_of_rank(rank)),
            _ => None,
        });
        Ok(cast(&whole.collect::<Int64Array>(), &self.value_type)?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = emit_to.take_needed(&mut self.groups);
        let mut column = BinaryBuilder::new();
        for ranks in &groups {
            column.append_value(ranks.iter().flat_map(|rank| rank.to_le_bytes()).collect::<Vec<u8>>());
        }
        Ok(vec![Arc::new(column.finish())])
    }

    fn convert_to_state(&self, _values: &[ArrayRef], _filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        not_impl_err!("states of single rows")
    }

    fn size(&self) -> usize {
        self.groups.iter().map(|ranks| size_of::<Vec<u64>>() + ranks.capacity() * size_of::<u64>()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_order_as_values_do_and_give_them_back() {
        let floats = [f64::NEG_INFINITY, -2.5, -0.0, 0.0, 1e-300, 7.0, f64::INFINITY];
        assert!(floats.windows(2).all(|w| rank_of_f64(w[0]) < rank_of_f64(w[1])));
        assert!(floats.iter().all(|x| f64_of_rank(rank_of_f64(*x)).to_bits() == x.to_bits()));
        assert!(rank_of_f64(f64::NAN) > rank_of_f64(f64::INFINITY));
        assert_eq!(rank_of_f64(-f64::NAN), rank_of_f64(f64::NAN));
        let whole = [i64::MIN, -1, 0, 1, i64::MAX];
        assert!(whole.windows(2).all(|w| rank_of_i64(w[0]) < rank_of_i64(w[1])));
        assert!(whole.iter().all(|x| i64_of_rank(rank_of_i64(*x)) == *x));
    }

    #[test]
    fn percentiles_lie_where_the_standard_puts_them() {
        let of = |fraction: f64, continuous, descending| {
            let signature = Signature::user_defined(Volatility::Immutable);
            let percentile = Percentile { fraction: fraction.to_bits(), continuous, descending, signature };
            let mut ranks: Vec<u64> = [40.0, 10.0, 30.0, 20.0].map(rank_of_f64).to_vec();
            match percentile.of(&mut ranks, f64_of_rank) {
                Found::Rank(rank) => f64_of_rank(rank),
                Found::Between(x) => x,
            }
        };
        assert_eq!([0.0, 0.5, 0.9, 1.0].map(|f| of(f, true, false)), [10.0, 25.0, 37.0, 40.0]);
        assert_eq!([0.0, 0.25, 0.26, 0.5, 1.0].map(|f| of(f, false, false)), [10.0, 10.0, 20.0, 20.0, 40.0]);
        assert_eq!([0.0, 0.25, 0.75].map(|f| of(f, true, true)), [40.0, 32.5, 17.5]);
        assert_eq!(of(0.5, false, true), 30.0);
    }
}
