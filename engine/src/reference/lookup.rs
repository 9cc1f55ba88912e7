//! Rows of a stream with the rows of a table that match them.

use std::{collections::HashMap, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array},
    compute::{filter_record_batch, take, take_record_batch},
    datatypes::{Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use datafusion_physical_expr::PhysicalExpr;

use super::{ReferenceTable, Version};
use crate::{
    EngineError, ErrorKind, EventTime, Result,
    dataflow::{
        order::times,
        plan::{LookupPlan, TablePlan},
    },
    operator::{Emit, Stateless, evaluate},
    user_code::holds,
};

/// Pairs that are looked at together, at most, but for one row: a condition without an equality pairs a row with the whole
/// table.
const PAIRS: usize = 65_536;

/// See the module.
pub(crate) struct Lookup {
    plan: LookupPlan,
    name: String,
    table: Arc<ReferenceTable>,
    /// The columns that are kept of the row and of the table, event time.
    schema: SchemaRef,
    converter: RowConverter,
    /// Of the versions that were looked up last.
    indexes: Vec<Index>,
}

/// Rows of a version by key.
struct Index {
    version: Arc<Version>,
    /// Without keys, all rows lie under the empty key.
    rows: HashMap<Box<[u8]>, Vec<u32>>,
}

/// Versions whose indexes are kept: rows of neighbouring times alternate between two at most.
const INDEXES: usize = 2;

impl Lookup {
    pub(crate) fn try_new(plan: LookupPlan, table: &TablePlan, input: &Schema, schema: SchemaRef) -> Result<Self> {
        let fields = plan.keys.iter().map(|(key, _)| Ok(SortField::new(key.data_type(input)?)));
        let converter = RowConverter::new(fields.collect::<Result<_>>()?)?;
        let (name, table) = (table.columns.name.clone(), Arc::clone(&table.rows));
        Ok(Self { plan, name, table, schema, converter, indexes: vec![] })
    }

    /// Of each row its key, `None` where a part of it is null.
    fn keys(
        converter: &RowConverter,
        expressions: impl Iterator<Item = Arc<dyn PhysicalExpr>>,
        batch: &RecordBatch,
    ) -> Result<Vec<Option<Box<[u8]>>>> {
        let columns = expressions.map(|k| evaluate(&k, batch)).collect::<Result<Vec<_>>>()?;
        if columns.is_empty() {
            return Ok(vec![Some(Box::default()); batch.num_rows()]);
        }
        let rows = converter.convert_columns(&columns)?;
        let key = |row: usize| columns.iter().all(|c| c.is_valid(row)).then(|| rows.row(row).data().into());
        Ok((0..batch.num_rows()).map(key).collect())
    }

    fn index(&mut self, version: Arc<Version>) -> Result<&Index> {
        if let Some(known) = self.indexes.iter().position(|i| Arc::ptr_eq(&i.version, &version)) {
            return Ok(&self.indexes[known]);
        }
        let keys = Self::keys(&self.converter, self.plan.keys.iter().map(|(_, key)| Arc::clone(key)), &version.rows)?;
        let mut rows: HashMap<Box<[u8]>, Vec<u32>> = HashMap::new();
        for (row, key) in (0u32..).zip(keys) {
            if let Some(key) = key {
                rows.entry(key).or_default().push(row);
            }
        }
        if self.indexes.len() >= INDEXES {
            self.indexes.remove(0);
        }
        self.indexes.push(Index { version, rows });
        Ok(&self.indexes[self.indexes.len() - 1])
    }

    /// Rows that all see this version.
    fn look_up(&mut self, batch: &RecordBatch, version: Arc<Version>, out: &mut dyn Emit) -> Result<()> {
        let keys = Self::keys(&self.converter, self.plan.keys.iter().map(|(key, _)| Arc::clone(key)), batch)?;
        let index = self.index(version)?;
        let mut pieces = vec![];
        let (mut left, mut right, mut first) = (vec![], vec![], 0);
        for (row, key) in keys.iter().enumerate() {
            let found = key.as_ref().and_then(|key| index.rows.get(key));
            for &found in found.into_iter().flatten() {
                left.push(row as u32);
                right.push(found);
            }
            if left.len() >= PAIRS {
                pieces.push((first..row + 1, std::mem::take(&mut left), std::mem::take(&mut right)));
                first = row + 1;
            }
        }
        pieces.push((first..keys.len(), left, right));
        let rows = index.version.rows.clone();
        for (range, left, right) in pieces {
            self.emit(batch, range, left, right, &rows, out)?;
        }
        Ok(())
    }

    /// Emits the pairs that satisfy the condition; of an outer join also the rows of `range` without one, each in its place.
    fn emit(
        &self,
        batch: &RecordBatch,
        range: Range<usize>,
        left: Vec<u32>,
        right: Vec<u32>,
        table: &RecordBatch,
        out: &mut dyn Emit,
    ) -> Result<()> {
        let left = UInt32Array::from(left);
        let mut rows = self.pairs(batch, &left, Some(&UInt32Array::from(right)), table)?;
        let mut matched = left;
        if let Some(condition) = &self.plan.condition {
            let kept = holds(condition, &rows, out)?;
            rows = filter_record_batch(&rows, &kept)?;
            matched = arrow::compute::filter(&matched, &kept)?.as_primitive().clone();
        }
        if self.plan.outer {
            let mut has = vec![false; batch.num_rows()];
            matched.values().iter().for_each(|row| has[*row as usize] = true);
            let without = UInt32Array::from_iter_values(range.filter(|row| !has[*row]).map(|row| row as u32));
            if !without.is_empty() {
                let nulls = self.pairs(batch, &without, None, table)?;
                let mut order: Vec<(u32, u32)> = matched.values().iter().copied().zip(0u32..).collect();
                order.extend(without.values().iter().copied().zip(rows.num_rows() as u32..));
                order.sort_unstable();
                let all = arrow::compute::concat_batches(&self.schema, [&rows, &nulls])?;
                rows = take_record_batch(&all, &UInt32Array::from_iter_values(order.into_iter().map(|(_, at)| at)))?;
            }
        }
        if rows.num_rows() == 0 { Ok(()) } else { out.batch(rows) }
    }

    fn pairs(
        &self,
        batch: &RecordBatch,
        left: &UInt32Array,
        right: Option<&UInt32Array>,
        table: &RecordBatch,
    ) -> Result<RecordBatch> {
        let taken = |array: &ArrayRef, rows: &UInt32Array| take(array, rows, None);
        let mut columns = vec![];
        for &column in &self.plan.left_columns {
            columns.push(taken(batch.column(column), left)?);
        }
        for &column in &self.plan.table_columns {
            let column = table.column(column);
            columns.push(match right {
                Some(rows) => taken(column, rows)?,
                None => new_null_array(column.data_type(), left.len()),
            });
        }
        columns.push(taken(batch.column(batch.num_columns() - 1), left)?);
        let options = RecordBatchOptions::new().with_row_count(Some(left.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?)
    }

    fn version(&self, t: i64) -> Result<(Arc<Version>, EventTime)> {
        self.table.at(EventTime(t)).ok_or_else(|| EngineError::Source {
            input: self.name.clone(),
            kind: ErrorKind::Bug,
            message: "its reference data was not read before the streams".to_owned(),
        })
    }
}

impl Stateless for Lookup {
    fn rows(&mut self, batch: RecordBatch, out: &mut dyn Emit) -> Result<()> {
        let mut rest = batch;
        while rest.num_rows() > 0 {
            let at = times(&rest);
            let (version, until) = self.version(at[0])?;
            let from = version.from;
            let same = |t: i64| {
                t < until.0
                    && (t >= from.0 || self.table.at(EventTime(t)).is_some_and(|(v, _)| Arc::ptr_eq(&v, &version)))
            };
            let run = at.iter().take_while(|t| same(**t)).count().max(1);
            self.look_up(&rest.slice(0, run), version, out)?;
            rest = rest.slice(run, rest.num_rows() - run);
        }
        Ok(())
    }
}
