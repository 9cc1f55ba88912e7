//! The columns of a topic as a table: those of its payloads, then those of its records.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use tidemill_engine::{dataflow::plan::MetadataColumn, intake::metadata_field};

/// What every record has.
const OF_RECORDS: [MetadataColumn; 5] = [
    MetadataColumn::Key,
    MetadataColumn::Timestamp,
    MetadataColumn::Partition,
    MetadataColumn::Offset,
    MetadataColumn::Headers,
];

/// Where a column of a table comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The field of this index of the payload.
    Payload(usize),
    Metadata(MetadataColumn),
}

/// The columns of a table.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    pub(super) schema: SchemaRef,
    pub(super) payload: SchemaRef,
    pub(super) origins: Vec<Origin>,
}

impl Columns {
    /// A payload's column that is named like one of the record is hidden by it.
    pub(super) fn new(payload: SchemaRef, with_topic: bool) -> Self {
        let metadata: Vec<_> = OF_RECORDS.into_iter().chain(with_topic.then_some(MetadataColumn::Topic)).collect();
        let mut fields: Vec<FieldRef> = vec![];
        let mut origins = vec![];
        for (index, field) in payload.fields().iter().enumerate() {
            if metadata.iter().all(|column| column.name() != field.name()) {
                fields.push(Arc::clone(field));
                origins.push(Origin::Payload(index));
            }
        }
        for column in metadata {
            fields.push(Arc::new(metadata_field(column)));
            origins.push(Origin::Metadata(column));
        }
        Self { schema: Arc::new(Schema::new(fields)), payload, origins }
    }
}
