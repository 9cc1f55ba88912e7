//! Letters in a batch, row by row.

use arrow::{
    array::{Array, AsArray, BinaryArray, Int32Array, Int64Array, ListArray, StringArray, TimestampMicrosecondArray},
    datatypes::{Int32Type, Int64Type, TimestampMicrosecondType},
    error::ArrowError,
    record_batch::RecordBatch,
};

/// One letter.
pub(super) struct LetterRow<'a> {
    pub(super) time_us: i64,
    pub(super) job: &'a str,
    pub(super) input: &'a str,
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_us: i64,
    pub(super) format: Option<&'a str>,
    pub(super) schema_id: Option<i64>,
    pub(super) class: &'a str,
    pub(super) error: &'a str,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Vec<(&'a str, Option<&'a [u8]>)>,
}

/// The columns of a batch of [`super::schema`].
pub(super) struct LetterRows<'b> {
    time: &'b TimestampMicrosecondArray,
    job: &'b StringArray,
    input: &'b StringArray,
    topic: &'b StringArray,
    partition: &'b Int32Array,
    offset: &'b Int64Array,
    timestamp: &'b TimestampMicrosecondArray,
    format: &'b StringArray,
    schema_id: &'b Int64Array,
    class: &'b StringArray,
    error: &'b StringArray,
    key: &'b BinaryArray,
    value: &'b BinaryArray,
    headers: &'b ListArray,
    header_names: &'b StringArray,
    header_values: &'b BinaryArray,
}

impl<'b> LetterRows<'b> {
    /// # Errors
    /// Of a batch that has not these columns.
    pub(super) fn of(batch: &'b RecordBatch) -> Result<Self, ArrowError> {
        let column = |name: &str| {
            let column = batch.column_by_name(name);
            column.ok_or_else(|| ArrowError::SchemaError(format!("expected dead letters, found no column `{name}`")))
        };
        let other = |name: &str| ArrowError::SchemaError(format!("column `{name}` is not that of dead letters"));
        let text = |name: &str| column(name)?.as_string_opt::<i32>().ok_or_else(|| other(name));
        let bytes = |name: &str| column(name)?.as_binary_opt::<i32>().ok_or_else(|| other(name));
        let datetime =
            |name: &str| column(name)?.as_primitive_opt::<TimestampMicrosecondType>().ok_or_else(|| other(name));
        let bigint = |name: &str| column(name)?.as_primitive_opt::<Int64Type>().ok_or_else(|| other(name));
        let headers = column("headers")?.as_list_opt::<i32>().ok_or_else(|| other("headers"))?;
        let header = headers.values().as_struct_opt().filter(|header| header.num_columns() == 2);
        let header = header.ok_or_else(|| other("headers"))?;
        Ok(Self {
            time: datetime("time")?,
            job: text("job")?,
            input: text("input")?,
            topic: text("topic")?,
            partition: column("partition")?.as_primitive_opt::<Int32Type>().ok_or_else(|| other("partition"))?,
            offset: bigint("offset")?,
            timestamp: datetime("timestamp")?,
            format: text("format")?,
            schema_id: bigint("schema_id")?,
            class: text("class")?,
            error: text("error")?,
            key: bytes("key")?,
            value: bytes("value")?,
            headers,
            header_names: header.column(0).as_string_opt().ok_or_else(|| other("headers"))?,
            header_values: header.column(1).as_binary_opt().ok_or_else(|| other("headers"))?,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.time.len()
    }

    pub(super) fn row(&self, row: usize) -> LetterRow<'b> {
        let bytes = |of: &'b BinaryArray, row: usize| of.is_valid(row).then(|| of.value(row));
        let offsets = self.headers.value_offsets();
        let headers = offsets[row] as usize..offsets[row + 1] as usize;
        LetterRow {
            time_us: self.time.value(row),
            job: self.job.value(row),
            input: self.input.value(row),
            topic: self.topic.value(row),
            partition: self.partition.value(row),
            offset: self.offset.value(row),
            timestamp_us: self.timestamp.value(row),
            format: self.format.is_valid(row).then(|| self.format.value(row)),
            schema_id: self.schema_id.is_valid(row).then(|| self.schema_id.value(row)),
            class: self.class.value(row),
            error: self.error.value(row),
            key: bytes(self.key, row),
            value: bytes(self.value, row),
            headers: headers.map(|at| (self.header_names.value(at), bytes(self.header_values, at))).collect(),
        }
    }
}
