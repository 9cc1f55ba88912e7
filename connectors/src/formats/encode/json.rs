//! JSON: one object a row.

use arrow::{array::StructArray, datatypes::Schema, record_batch::RecordBatch};
use serde::Serialize;
use tidemill_engine::Result;

use super::{Column, EncodedRows, RowEncoder, push_datetime};

/// Writes each row as one JSON object on one line, a member for each column in order.
///
/// A null is written as `null`, so that every row has all members. Floats are the shortest text that reads back as the
/// same number and always show that they are floats (`95.0`); NaN and infinities, which JSON does not have, are `null`.
/// Datetimes are ISO 8601 in UTC with seven fractional digits. Records are objects, lists are arrays.
#[derive(Debug, Default)]
pub struct JsonEncoder;

impl RowEncoder for JsonEncoder {
    fn header(&self, _schema: &Schema) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn encode(&mut self, batch: &RecordBatch, rows: &mut EncodedRows) -> Result<()> {
        let record = Column::resolve(&StructArray::from(batch.clone()))?;
        for row in 0..batch.num_rows() {
            rows.push(|out| push_json(out, &record, row));
        }
        Ok(())
    }
}

/// Appends one value as JSON.
pub(crate) fn push_json(out: &mut Vec<u8>, column: &Column, row: usize) {
    if column.is_null(row) {
        return out.extend_from_slice(b"null");
    }
    match column {
        Column::Null => {}
        Column::Boolean(values) => push_scalar(out, &values.value(row)),
        Column::Int(values) => push_scalar(out, &values.value(row)),
        Column::Float(values) => push_scalar(out, &values.value(row)),
        Column::Text(values) => push_scalar(out, values.value(row)),
        Column::Any(values) => out.extend_from_slice(values.value(row).as_bytes()),
        Column::Datetime(values) => {
            out.push(b'"');
            push_datetime(out, values.value(row));
            out.push(b'"');
        }
        Column::Record(_, members) => {
            push_separated(out, b"{}", members.iter(), |out, member| {
                out.extend_from_slice(&member.key);
                push_json(out, &member.values, row);
            });
        }
        Column::List(list, items) => {
            let [start, end] = [list.value_offsets()[row], list.value_offsets()[row + 1]];
            push_separated(out, b"[]", start as usize..end as usize, |out, item| push_json(out, items, item));
        }
    }
}

/// Appends a scalar as serde_json writes it: escaped, shortest floats, `null` for NaN and infinities.
fn push_scalar<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("memory takes every byte");
}

fn push_separated<T>(
    out: &mut Vec<u8>,
    brackets: &[u8; 2],
    items: impl Iterator<Item = T>,
    mut push: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(brackets[0]);
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        push(out, item);
    }
    out.push(brackets[1]);
}
