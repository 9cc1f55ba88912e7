//! Formats: bytes to Arrow and back. They know nothing of where the bytes come from.

use arrow::datatypes::SchemaRef;

pub mod avro;
mod builder;
pub mod compression;
pub mod csv;
pub mod encode;
pub mod infer;
pub mod json;
pub mod parquet;
pub mod protobuf;
pub mod registry;
#[cfg(test)]
mod tests;
mod varint;

/// The columns that a format's own schema makes.
#[derive(Clone, Debug)]
pub struct Declared {
    /// The columns, all nullable.
    pub schema: SchemaRef,
    /// What can be no column.
    pub left_out: Vec<LeftOut>,
}

/// A field that can be no column, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name, behind those of what it lies in.
    pub path: String,
    /// Why, in words.
    pub reason: String,
}
