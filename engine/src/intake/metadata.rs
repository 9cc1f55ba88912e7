//! Metadata columns of a batch: what a record carries outside its payload.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Builder, ListBuilder, StringBuilder, StructBuilder, TimestampMicrosecondBuilder},
    datatypes::{DataType, Field, Fields},
};

use crate::{EventTime, dataflow::plan::MetadataColumn, datetime_type, source::Record};

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("name", DataType::Utf8, true), Field::new("value", DataType::Utf8, true)])
}

/// The field of a metadata column.
#[must_use]
pub fn metadata_field(column: MetadataColumn) -> Field {
    let (data_type, nullable) = match column {
        MetadataColumn::Key => (DataType::Utf8, true),
        MetadataColumn::Headers => (DataType::new_list(DataType::Struct(header_fields()), true), false),
        MetadataColumn::Topic => (DataType::Utf8, false),
        MetadataColumn::Partition | MetadataColumn::Offset => (DataType::Int64, false),
        MetadataColumn::Timestamp => (datetime_type(), false),
    };
    Field::new(column.name(), data_type, nullable)
}

enum Builder {
    Key(StringBuilder),
    Headers(ListBuilder<StructBuilder>),
    Topic(StringBuilder),
    Partition(Int64Builder),
    Offset(Int64Builder),
    Timestamp(TimestampMicrosecondBuilder),
}

/// Builders of the columns that the query names.
pub struct MetadataBuilders(Vec<Builder>);

impl MetadataBuilders {
    /// Of these columns.
    #[must_use]
    pub fn new(columns: &[MetadataColumn]) -> Self {
        Self(
            columns
                .iter()
                .map(|column| match column {
                    MetadataColumn::Key => Builder::Key(StringBuilder::new()),
                    MetadataColumn::Headers => {
                        Builder::Headers(ListBuilder::new(StructBuilder::from_fields(header_fields(), 0)))
                    }
                    MetadataColumn::Topic => Builder::Topic(StringBuilder::new()),
                    MetadataColumn::Partition => Builder::Partition(Int64Builder::new()),
                    MetadataColumn::Offset => Builder::Offset(Int64Builder::new()),
                    MetadataColumn::Timestamp => {
                        Builder::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC"))
                    }
                })
                .collect(),
        )
    }

    /// Whether there is no column.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the record's values for each of its rows; it comes from partition `number` of `topic`.
    pub fn append(&mut self, record: &Record<'_>, topic: &str, number: i32, rows: usize) {
        for builder in &mut self.0 {
            for _ in 0..rows {
                match builder {
                    Builder::Key(b) => b.append_option(record.key.map(String::from_utf8_lossy)),
                    Builder::Topic(b) => b.append_value(topic),
                    Builder::Partition(b) => b.append_value(i64::from(number)),
                    Builder::Offset(b) => b.append_value(record.offset),
                    Builder::Timestamp(b) => b.append_value(EventTime::from_millis(record.timestamp_ms).0),
                    Builder::Headers(b) => {
                        for header in record.headers {
                            let pair = b.values();
                            let values = [Some(header.name.into()), header.value.map(String::from_utf8_lossy)];
                            for (i, value) in values.into_iter().enumerate() {
                                if let Some(text) = pair.field_builder::<StringBuilder>(i) {
                                    text.append_option(value);
                                }
                            }
                            pair.append(true);
                        }
                        b.append(true);
                    }
                }
            }
        }
    }

    /// Takes the columns, in their order.
    pub fn finish(&mut self) -> impl Iterator<Item = ArrayRef> {
        self.0.iter_mut().map(|builder| -> ArrayRef {
            match builder {
                Builder::Key(b) | Builder::Topic(b) => Arc::new(b.finish()),
                Builder::Headers(b) => Arc::new(b.finish()),
                Builder::Partition(b) | Builder::Offset(b) => Arc::new(b.finish()),
                Builder::Timestamp(b) => Arc::new(b.finish()),
            }
        })
    }
}
