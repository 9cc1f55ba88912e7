//! A dataflow: what `queries` hands over ([`plan`]), the two halves that run it ([`stage`]), and
//! their drivers ([`worker`], [`merge`]).

pub mod merge;
pub mod plan;
pub mod stage;
mod stateless;
#[cfg(test)]
mod tests;
mod unnest;
pub mod worker;
