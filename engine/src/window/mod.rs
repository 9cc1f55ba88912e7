//! Windows: their shapes, their slices, and the aggregation over them.

pub mod shape;
