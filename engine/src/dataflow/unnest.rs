//! Elements of lists as rows of their own.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, Int64Array, UInt32Array},
    compute::{take, take_record_batch},
    datatypes::SchemaRef,
    record_batch::RecordBatch,
};

use crate::{
    Result,
    operator::{Emit, Stateless},
};

/// Repeats each row for each element of the list in its column before the event time, which gives way to the element's
/// position (from 0) and value. With `outer` a row whose list is empty or null stays, with nulls.
pub(super) struct Unnest {
    pub(super) outer: bool,
    pub(super) schema: SchemaRef,
}

impl Stateless for Unnest {
    fn rows(&mut self, batch: RecordBatch, out: &mut dyn Emit) -> Result<()> {
        let list_at = batch.num_columns() - 2;
        let list = batch.column(list_at).as_list::<i32>();
        let (mut rows, mut positions, mut elements) = (vec![], vec![], vec![]);
        for row in 0..batch.num_rows() {
            let first = list.value_offsets()[row];
            let length = if list.is_null(row) { 0 } else { list.value_length(row) };
            for position in 0..length {
                rows.push(row as u32);
                positions.push(Some(i64::from(position)));
                elements.push(Some((first + position) as u32));
            }
            if length == 0 && self.outer {
                rows.push(row as u32);
                positions.push(None);
                elements.push(None);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        let others: Vec<usize> = (0..batch.num_columns()).filter(|c| *c != list_at).collect();
        let mut columns = take_record_batch(&batch.project(&others)?, &UInt32Array::from(rows))?.columns().to_vec();
        let values = take(list.values(), &UInt32Array::from(elements), None)?;
        columns.splice(list_at..list_at, [Arc::new(Int64Array::from(positions)) as _, values]);
        out.batch(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use arrow::{array::ListArray, datatypes::Int64Type};

    use super::*;

    struct Rows(Vec<RecordBatch>);

    impl Emit for Rows {
        fn batch(&mut self, batch: RecordBatch) -> Result<()> {
            self.0.push(batch);
            Ok(())
        }

        fn watermark(&mut self, _t: crate::EventTime) -> Result<()> {
            Ok(())
        }

        fn failed(&mut self, row: crate::user_code::FailedRow) -> Result<()> {
            panic!("{row:?}")
        }
    }

    fn unnested(outer: bool) -> Vec<(i64, Option<i64>, Option<i64>)> {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(7), None]),
            None,
            Some(vec![]),
            Some(vec![Some(9)]),
        ]);
        let ids = Int64Array::from(vec![1, 2, 3, 4]);
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(ids.clone()) as _),
            ("list", Arc::new(list) as _),
            ("time", Arc::new(ids) as _),
        ]);
        let column = |name| arrow::datatypes::Field::new(name, arrow::datatypes::DataType::Int64, true);
        let schema = arrow::datatypes::Schema::new(["id", "index", "value", "time"].map(column).to_vec());
        let mut rows = Rows(vec![]);
        Unnest { outer, schema: Arc::new(schema) }.rows(batch.unwrap(), &mut rows).unwrap();
        let batch = &rows.0[0];
        let at = |c: usize| batch.column(c).as_primitive::<Int64Type>().iter().collect::<Vec<_>>();
        let (ids, indexes, values) = (at(0), at(1), at(2));
        (0..ids.len()).map(|i| (ids[i].unwrap(), indexes[i], values[i])).collect()
    }

    #[test]
    fn each_element_becomes_a_row() {
        assert_eq!(unnested(false), [(1, Some(0), Some(7)), (1, Some(1), None), (4, Some(0), Some(9))]);
    }

    #[test]
    fn outer_keeps_rows_without_elements() {
        let with_nulls =
            [(1, Some(0), Some(7)), (1, Some(1), None), (2, None, None), (3, None, None), (4, Some(0), Some(9))];
        assert_eq!(unnested(true), with_nulls);
    }
}
