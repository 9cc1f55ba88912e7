//! The state of a group under our aggregates: how many values, and exact sums of their powers; and DataFusion's two kinds of
//! accumulators over it.
//!
//! State columns, the same in each release: `count` (Int64), then `sum` and, for variances, `squares_high` and
//! `squares_low` (Binary, [`ExactSum::encode`]). None of them is ever null.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Int64Array, PrimitiveArray},
    buffer::NullBuffer,
    datatypes::{ArrowPrimitiveType, DataType, Field, FieldRef, Float64Type, Int64Type},
};
use datafusion_common::{Result, ScalarValue, exec_err, internal_datafusion_err, internal_err};
use datafusion_expr::{Accumulator, EmitTo, GroupsAccumulator, utils::format_state_name};

use super::exact::ExactSum;

/// Number of sums that a sum or an average needs.
pub(crate) const SUM: usize = 1;
/// Number of sums that a variance needs: of the values, and of the high and the low parts of their squares.
pub(crate) const SQUARES: usize = 3;

/// Count and sums of one group.
#[derive(Clone, Debug)]
pub(crate) struct PowerSums<const N: usize> {
    pub(crate) count: i64,
    pub(crate) sums: [ExactSum; N],
}

impl<const N: usize> Default for PowerSums<N> {
    fn default() -> Self {
        PowerSums { count: 0, sums: std::array::from_fn(|_| ExactSum::default()) }
    }
}

impl<const N: usize> PowerSums<N> {
    /// Adds a value.
    #[inline]
    pub(crate) fn add(&mut self, value: impl Number) {
        self.count += 1;
        value.add_to(&mut self.sums);
    }

    /// Takes a value off.
    pub(crate) fn retract(&mut self, value: impl Number) {
        let mut gone = Self::default();
        value.add_to(&mut gone.sums);
        self.count -= 1;
        self.sums.iter_mut().zip(&gone.sums).for_each(|(sum, gone)| sum.retract(gone));
    }
}

/// A type of input columns.
pub(crate) trait Number: Copy {
    /// Adds itself, and its square where that is wanted.
    fn add_to<const N: usize>(self, sums: &mut [ExactSum; N]);
}

impl Number for f64 {
    #[inline]
    fn add_to<const N: usize>(self, sums: &mut [ExactSum; N]) {
        sums[0].add(self);
        if let [_, high, low] = &mut sums[..] {
            ExactSum::add_square(self, high, low);
        }
    }
}

impl Number for i64 {
    #[inline]
    fn add_to<const N: usize>(self, sums: &mut [ExactSum; N]) {
        sums[0].add_i64(self);
        if let [_, high, _] = &mut sums[..] {
            high.add_square_i64(self);
        }
    }
}

/// Makes a column of results, one row for each group.
pub(crate) type Finish<const N: usize> = Box<dyn Fn(&[PowerSums<N>]) -> Result<ArrayRef> + Send + Sync>;

/// The names and types of the state columns.
pub(super) fn state_fields<const N: usize>(name: &str) -> Vec<FieldRef> {
    let sums = ["sum", "squares_high", "squares_low"].map(|sum| (sum, DataType::Binary));
    [("count", DataType::Int64)]
        .into_iter()
        .chain(sums.into_iter().take(N))
        .map(|(column, data_type)| Arc::new(Field::new(format_state_name(name, column), data_type, false)))
        .collect()
}

/// States of many groups.
pub(super) struct GroupedPowerSums<const N: usize> {
    groups: Vec<PowerSums<N>>,
    finish: Finish<N>,
}

impl<const N: usize> GroupedPowerSums<N> {
    pub(super) fn new(finish: Finish<N>) -> Self {
        GroupedPowerSums { groups: vec![], finish }
    }

    fn add<T: ArrowPrimitiveType>(&mut self, values: &PrimitiveArray<T>, ids: &[usize], filter: Option<&BooleanArray>)
    where
        T::Native: Number,
    {
        let mut add = |id: usize, value: T::Native| {
            let group = &mut self.groups[id];
            group.count += 1;
            value.add_to(&mut group.sums);
        };
        match NullBuffer::union(values.nulls(), filter.map(selected).as_ref()) {
            None => ids.iter().zip(values.values()).for_each(|(id, value)| add(*id, *value)),
            Some(wanted) => wanted.valid_indices().for_each(|row| add(ids[row], values.value(row))),
        }
    }
}

/// Rows for which a filter is true, which null is not.
fn selected(filter: &BooleanArray) -> NullBuffer {
    NullBuffer::new(match filter.nulls() {
        Some(nulls) => filter.values() & nulls.inner(),
        None => filter.values().clone(),
    })
}

fn state_columns<const N: usize>(groups: &[PowerSums<N>]) -> Vec<ArrayRef> {
    let mut columns: Vec<ArrayRef> = vec![Arc::new(groups.iter().map(|group| group.count).collect::<Int64Array>())];
    let mut bytes = vec![];
    for power in 0..N {
        let mut column = BinaryBuilder::with_capacity(groups.len(), groups.len() * 24);
        for group in groups {
            bytes.clear();
            group.sums[power].encode(&mut bytes);
            column.append_value(&bytes);
        }
        columns.push(Arc::new(column.finish()));
    }
    columns
}

impl<const N: usize> GroupsAccumulator for GroupedPowerSums<N> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_groups, PowerSums::default);
        let [values] = values else { return internal_err!("expected one column, found {}", values.len()) };
        match values.data_type() {
            DataType::Float64 => self.add(values.as_primitive::<Float64Type>(), ids, filter),
            DataType::Int64 => self.add(values.as_primitive::<Int64Type>(), ids, filter),
            other => return internal_err!("expected Float64 or Int64, found {other}"),
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], ids: &[usize], total_groups: usize) -> Result<()> {
        self.groups.resize_with(total_groups, PowerSums::default);
        let [counts, sums @ ..] = states else { return internal_err!("expected state columns, found none") };
        let Some(counts) = counts.as_primitive_opt::<Int64Type>() else {
            return internal_err!("expected counts as Int64, found {}", counts.data_type());
        };
        for (id, count) in ids.iter().zip(counts.values()) {
            self.groups[*id].count += count;
        }
        if sums.len() != N {
            return internal_err!("expected {N} columns of sums, found {}", sums.len());
        }
        for (power, column) in sums.iter().enumerate() {
            let Some(column) = column.as_binary_opt::<i32>() else {
                return internal_err!("expected sums as Binary, found {}", column.data_type());
            };
            for (row, id) in ids.iter().enumerate() {
                let sum = ExactSum::decode(column.value(row)).ok_or_else(|| internal_datafusion_err!("not a sum"))?;
                self.groups[*id].sums[power].merge(&sum);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        (self.finish)(&emit_to.take_needed(&mut self.groups))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(state_columns(&emit_to.take_needed(&mut self.groups)))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let rows = values.first().map_or(0, |column| column.len());
        let mut single = Self::new(Box::new(|_| exec_err!("never evaluated")));
        single.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        single.state(EmitTo::All)
    }

    /// Looks at each group: not for each batch.
    fn size(&self) -> usize {
        let sums = self.groups.iter().flat_map(|group| &group.sums);
        self.groups.capacity() * size_of::<PowerSums<N>>() + sums.map(ExactSum::heap_size).sum::<usize>()
    }
}

/// A single group, for callers without groups. Its `state` consumes nothing.
pub(super) struct OnePowerSums<const N: usize>(GroupedPowerSums<N>);

impl<const N: usize> OnePowerSums<N> {
    pub(super) fn new(finish: Finish<N>) -> Self {
        let mut one = GroupedPowerSums::new(finish);
        one.groups.push(PowerSums::default());
        OnePowerSums(one)
    }
}

impl<const N: usize> fmt::Debug for OnePowerSums<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.groups.fmt(f)
    }
}

impl<const N: usize> Accumulator for OnePowerSums<N> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let rows = values.first().map_or(0, |column| column.len());
        self.0.update_batch(values, &vec![0; rows], None, 1)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let rows = states.first().map_or(0, |column| column.len());
        self.0.merge_batch(states, &vec![0; rows], 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&(self.0.finish)(&self.0.groups)?, 0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        state_columns(&self.0.groups).iter().map(|column| ScalarValue::try_from_array(column, 0)).collect()
    }

    /// Exact sums give back exactly what they took.
    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let mut gone = Self::new(Box::new(|_| exec_err!("never evaluated")));
        gone.update_batch(values)?;
        let [own] = &mut self.0.groups[..] else { return internal_err!("expected one group") };
        for group in &gone.0.groups {
            own.count -= group.count;
            own.sums.iter_mut().zip(&group.sums).for_each(|(sum, gone)| sum.retract(gone));
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.0.size()
    }
}
