//! The columns that an input can have, and those of them that its decoder is asked for.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use tidemill_engine::{
    dataflow::plan::{InputColumns, MetadataColumn, TablePlan},
    datetime_type,
};

use super::ORDER_COLUMN;
use crate::{InputTable, scope::schema_of};

/// All columns that an input can have: payload, metadata, event time.
pub(crate) fn input_schema(table: &InputTable) -> SchemaRef {
    let payload = table.schema.fields().iter().map(|f| (f.name().clone(), f.data_type().clone()));
    let metadata = MetadataColumn::ALL.iter().map(|m| (m.name().to_owned(), metadata_type(*m)));
    schema_of(payload.chain(metadata))
}

fn metadata_type(column: MetadataColumn) -> DataType {
    match column {
        MetadataColumn::Key | MetadataColumn::Topic => DataType::Utf8,
        MetadataColumn::Partition | MetadataColumn::Offset => DataType::Int64,
        MetadataColumn::Timestamp => datetime_type(),
        MetadataColumn::Headers => {
            let header = [Field::new("name", DataType::Utf8, true), Field::new("value", DataType::Utf8, true)];
            DataType::new_list(DataType::Struct(header.into_iter().collect()), true)
        }
    }
}

pub(super) fn input_columns(table: &InputTable, columns: &BTreeSet<usize>) -> InputColumns {
    let all = input_schema(table);
    let width = table.schema.fields().len();
    let payload: Vec<_> = columns.range(..width).map(|c| Arc::clone(&all.fields()[*c])).collect();
    InputColumns {
        name: table.name.clone(),
        payload: Arc::new(Schema::new(payload)),
        metadata: columns.range(width..).filter_map(|c| MetadataColumn::ALL.get(c - width).copied()).collect(),
        ordered: columns.contains(&ORDER_COLUMN),
        may_fail: false,
        exact: table.exact,
    }
}

pub(super) fn table_plan(table: &InputTable, columns: &BTreeSet<usize>) -> TablePlan {
    TablePlan { columns: input_columns(table, columns), rows: Arc::default() }
}
