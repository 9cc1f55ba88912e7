//! A dataflow: what `queries` hands over ([`plan`]), and the two halves that run it ([`stage`]).

pub mod plan;
pub mod stage;
mod stateless;
