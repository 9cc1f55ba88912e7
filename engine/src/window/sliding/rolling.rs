//! Aggregates of rows that come in and drop out, one state for each key ([`Rolling`]).

use std::{collections::VecDeque, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, new_empty_array},
    compute::{cast, concat},
    datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType},
};
use datafusion_expr::EmitTo;
use datafusion_physical_expr::aggregate::AggregateFunctionExpr;

use crate::{
    EngineError, Result,
    aggregate::{
        function::{RollingSum, rolling_sum},
        percentile::{f64_of_rank, i64_of_rank, rank_of_f64, rank_of_i64},
        power_sums::{Finish, PowerSums},
    },
    window::groups::accumulator,
};

/// A row: the columns of its arguments, where it lies in them, and its number in the order of all rows.
pub(super) struct Row<'a> {
    pub(super) arguments: &'a [ArrayRef],
    pub(super) row: usize,
    pub(super) number: u64,
}

impl Row<'_> {
    /// Whether no argument is null.
    fn counts(&self) -> bool {
        self.arguments.iter().all(|a| a.is_valid(self.row))
    }
}

/// One aggregate over all keys, which are numbered from 0 and used again after [`Rolling::clear`].
pub(super) trait Rolling: Send {
    /// A row comes in. Rows come in order.
    fn enter(&mut self, key: usize, row: &Row<'_>);
    /// The oldest row of the key drops out.
    fn leave(&mut self, key: usize, row: &Row<'_>);
    /// Takes the key's result as it is now.
    fn emit(&mut self, key: usize) -> Result<()>;
    /// The key has no rows any more.
    fn clear(&mut self, key: usize);
    /// The results taken since the last time, in order.
    fn finish(&mut self) -> Result<ArrayRef>;
}

/// The best way to keep this aggregate.
pub(super) fn rolling(aggregate: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn Rolling>> {
    let result = aggregate.field().data_type().clone();
    let name = aggregate.fun().name();
    // A user's aggregate may have any name, and has the time as a second argument.
    if aggregate.is_distinct() || aggregate.expressions().len() != 1 {
        return Ok(Box::new(Recomputed::new(aggregate)));
    }
    if let Some(sum) = rolling_sum(aggregate) {
        return Ok(match sum {
            RollingSum::Sum(finish) => Box::new(Sums::new(finish)),
            RollingSum::Squares(finish) => Box::new(Sums::new(finish)),
        });
    }
    let is_number = matches!(result, DataType::Int64 | DataType::Float64 | DataType::Timestamp(..));
    Ok(match name {
        "count" => Box::new(Counts::default()),
        "min" | "max" if is_number => Box::new(Extremes::new(name == "max", result)),
        _ => Box::new(Recomputed::new(aggregate)),
    })
}

/// The state of a key, which is made when it is first asked for.
fn state<T: Default>(states: &mut Vec<T>, key: usize) -> &mut T {
    if states.len() <= key {
        states.resize_with(key + 1, T::default);
    }
    &mut states[key]
}

/// COUNT.
#[derive(Default)]
struct Counts {
    counts: Vec<i64>,
    results: Vec<i64>,
}

impl Rolling for Counts {
    fn enter(&mut self, key: usize, row: &Row<'_>) {
        *state(&mut self.counts, key) += i64::from(row.counts());
    }

    fn leave(&mut self, key: usize, row: &Row<'_>) {
        *state(&mut self.counts, key) -= i64::from(row.counts());
    }

    fn emit(&mut self, key: usize) -> Result<()> {
        self.results.push(*state(&mut self.counts, key));
        Ok(())
    }

    fn clear(&mut self, key: usize) {
        *state(&mut self.counts, key) = 0;
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok(Arc::new(Int64Array::from(std::mem::take(&mut self.results))))
    }
}

/// SUM, AVG, STDEV and the like: exact sums give back exactly what they took.
struct Sums<const N: usize> {
    sums: Vec<PowerSums<N>>,
    results: Vec<PowerSums<N>>,
    finish: Finish<N>,
}

impl<const N: usize> Sums<N> {
    fn new(finish: Finish<N>) -> Self {
        Self { sums: vec![], results: vec![], finish }
    }

    fn change(&mut self, key: usize, row: &Row<'_>, enters: bool) {
        let Some(values) = row.arguments.first().filter(|a| a.is_valid(row.row)) else { return };
        let sums = state(&mut self.sums, key);
        if let Some(values) = values.as_primitive_opt::<Float64Type>() {
            let x = values.value(row.row);
            if enters { sums.add(x) } else { sums.retract(x) }
        } else if let Some(values) = values.as_primitive_opt::<Int64Type>() {
            let n = values.value(row.row);
            if enters { sums.add(n) } else { sums.retract(n) }
        }
    }
}

impl<const N: usize> Rolling for Sums<N> {
    fn enter(&mut self, key: usize, row: &Row<'_>) {
        self.change(key, row, true);
    }

    fn leave(&mut self, key: usize, row: &Row<'_>) {
        self.change(key, row, false);
    }

    fn emit(&mut self, key: usize) -> Result<()> {
        self.results.push(state(&mut self.sums, key).clone());
        Ok(())
    }

    fn clear(&mut self, key: usize) {
        *state(&mut self.sums, key) = PowerSums::default();
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        Ok((self.finish)(&std::mem::take(&mut self.results))?)
    }
}

/// MIN and MAX of numbers and datetimes: of each key the values of which each beats all that follow.
struct Extremes {
    max: bool,
    data_type: DataType,
    /// (number of the row, rank of the value), oldest first.
    candidates: Vec<VecDeque<(u64, u64)>>,
    results: Vec<Option<u64>>,
}

impl Extremes {
    fn new(max: bool, data_type: DataType) -> Self {
        Self { max, data_type, candidates: vec![], results: vec![] }
    }

    fn rank(&self, row: &Row<'_>) -> Option<u64> {
        let values = row.arguments.first().filter(|a| a.is_valid(row.row))?;
        let at = row.row;
        if let Some(values) = values.as_primitive_opt::<Float64Type>() {
            return Some(rank_of_f64(values.value(at)));
        }
        if let Some(values) = values.as_primitive_opt::<Int64Type>() {
            return Some(rank_of_i64(values.value(at)));
        }
        Some(rank_of_i64(values.as_primitive_opt::<TimestampMicrosecondType>()?.value(at)))
    }
}

impl Rolling for Extremes {
    fn enter(&mut self, key: usize, row: &Row<'_>) {
        let Some(rank) = self.rank(row) else { return };
        let max = self.max;
        let candidates = state(&mut self.candidates, key);
        while candidates.back().is_some_and(|(_, last)| if max { *last <= rank } else { *last >= rank }) {
            candidates.pop_back();
        }
        candidates.push_back((row.number, rank));
    }

    fn leave(&mut self, key: usize, row: &Row<'_>) {
        let candidates = state(&mut self.candidates, key);
        if candidates.front().is_some_and(|(number, _)| *number == row.number) {
            candidates.pop_front();
        }
    }

    fn emit(&mut self, key: usize) -> Result<()> {
        self.results.push(state(&mut self.candidates, key).front().map(|(_, rank)| *rank));
        Ok(())
    }

    fn clear(&mut self, key: usize) {
        state(&mut self.candidates, key).clear();
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let results = std::mem::take(&mut self.results).into_iter();
        if self.data_type == DataType::Float64 {
            return Ok(Arc::new(results.map(|rank| rank.map(f64_of_rank)).collect::<Float64Array>()));
        }
        let whole = results.map(|rank| rank.map(i64_of_rank)).collect::<Int64Array>();
        Ok(cast(&whole, &self.data_type)?)
    }
}

/// Any other aggregate: computed from all rows of the window each time.
struct Recomputed {
    aggregate: Arc<AggregateFunctionExpr>,
    /// Arguments of each row, oldest first.
    rows: Vec<VecDeque<Vec<ArrayRef>>>,
    results: Vec<ArrayRef>,
}

impl Recomputed {
    fn new(aggregate: &Arc<AggregateFunctionExpr>) -> Self {
        Self { aggregate: Arc::clone(aggregate), rows: vec![], results: vec![] }
    }
}

impl Rolling for Recomputed {
    fn enter(&mut self, key: usize, row: &Row<'_>) {
        let arguments = row.arguments.iter().map(|a| a.slice(row.row, 1)).collect();
        state(&mut self.rows, key).push_back(arguments);
    }

    fn leave(&mut self, key: usize, _row: &Row<'_>) {
        state(&mut self.rows, key).pop_front();
    }

    fn emit(&mut self, key: usize) -> Result<()> {
        let rows = state(&mut self.rows, key);
        let arguments = rows.front().map_or(0, Vec::len);
        let column = |c: usize| concat(&rows.iter().map(|row| row[c].as_ref()).collect::<Vec<_>>());
        let columns = (0..arguments).map(column).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut of_one_group = accumulator(&self.aggregate)?;
        of_one_group.update_batch(&columns, &vec![0; rows.len()], None, 1)?;
        self.results.push(of_one_group.evaluate(EmitTo::All)?);
        Ok(())
    }

    fn clear(&mut self, key: usize) {
        state(&mut self.rows, key).clear();
    }

    fn finish(&mut self) -> Result<ArrayRef> {
        let results = std::mem::take(&mut self.results);
        let results: Vec<&dyn Array> = results.iter().map(AsRef::as_ref).collect();
        if results.is_empty() {
            return Ok(new_empty_array(self.aggregate.field().data_type()));
        }
        concat(&results).map_err(EngineError::from)
    }
}
