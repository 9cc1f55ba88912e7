//! Aggregate functions whose results depend on nothing but the set of values: not on their order, on how they were cut into
//! batches, nor on how many workers and slices they went through.
//!
//! Adding floats rounds at each step, so another order gives another sum; DataFusion's own accumulators even add in lanes.
//! Ours keep sums exactly ([`exact::ExactSum`]) and round once, when a window closes. COUNT, MIN and MAX have no such
//! problem: DataFusion's are used as they are.
//!
//! Aggregates that keep rows take the order of rows as arguments ([`ranked`]), so that they depend on no other.
//!
//! [`function`] are the functions as the planner sees them, `power_sums` the state of a group and the accumulators over it.

pub mod exact;
pub mod function;
pub mod percentile;
pub(crate) mod power_sums;
pub mod ranked;

pub use function::{all, avg, stdev, stdevp, sum, var, varp};
pub use percentile::percentile;
pub use ranked::{Ranked, ranked};

#[cfg(test)]
mod tests;
