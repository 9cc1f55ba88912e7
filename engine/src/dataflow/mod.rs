//! A dataflow: what `queries` hands over ([`plan`]), the two halves that run it ([`stage`]), and
//! their drivers ([`worker`], [`merge`]). Operators to which the order of rows matters get them through [`order`]; what all of them keep
//! is bounded by one [`budget`].

pub mod budget;
pub mod describe;
pub mod difference;
pub mod merge;
pub mod order;
pub mod plan;
mod rank;
pub mod stage;
mod stateless;
#[cfg(test)]
mod tests;
mod unnest;
pub mod worker;
