//! A dataflow: what `queries` hands over, and the drivers that run it.

pub mod plan;
