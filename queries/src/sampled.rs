//! Fields that a query names and no sampled record has.
//!
//! In the language a field that a record lacks is NULL, and the types of a sample say only what was met. So a field below an
//! inferred record that the text names is decoded as well, as a value that has its own type in each row. A whole column
//! that the sample lacks stays a mistake: it is more often misspelt than rare.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema};
use tidemill_engine::any::any_type;

use crate::plan::InputTable;

/// The input with the fields of its records that these paths name: `column.field`, or `input.column.field` and deeper.
pub(crate) fn with_named_fields(input: &InputTable, paths: &BTreeSet<Vec<String>>) -> InputTable {
    if input.sampled.is_none() {
        return input.clone();
    }
    let mut columns: Vec<FieldRef> = input.schema.fields().iter().map(Arc::clone).collect();
    for path in paths {
        for start in 0..path.len().min(2) {
            let Some((column, fields)) = path[start..].split_first() else { continue };
            if let Some(at) = find(&columns, column) {
                columns[at] = with_field(&columns[at], fields);
            }
        }
    }
    InputTable { schema: Arc::new(Schema::new(columns)), ..input.clone() }
}

/// In this spelling, else in any case.
fn find(fields: &[FieldRef], name: &str) -> Option<usize> {
    let exact = fields.iter().position(|f| f.name() == name);
    exact.or_else(|| fields.iter().position(|f| f.name().eq_ignore_ascii_case(name)))
}

/// A record with a field at this path, as it is if it has one or is no record.
fn with_field(record: &FieldRef, path: &[String]) -> FieldRef {
    let (DataType::Struct(fields), Some((name, rest))) = (record.data_type(), path.split_first()) else {
        return Arc::clone(record);
    };
    let mut fields = fields.to_vec();
    match find(&fields, name) {
        Some(at) => fields[at] = with_field(&fields[at], rest),
        None => fields.push(Arc::new(Field::new(name, any_type(), true))),
    }
    Arc::new(record.as_ref().clone().with_data_type(DataType::Struct(Fields::from(fields))))
}
