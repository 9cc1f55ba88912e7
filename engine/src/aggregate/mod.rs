//! Aggregate functions whose results depend on nothing but the set of values: not on their order, on how they were cut into
//! batches, nor on how many workers and slices they went through.
//!
//! Adding floats rounds at each step, so another order gives another sum; DataFusion's own accumulators even add in lanes.
//! Ours keep sums exactly ([`exact::ExactSum`]) and round once, when a window closes. COUNT, MIN and MAX have no such
//! problem: DataFusion's are used as they are.
//!
//! [`function`] are the functions as the planner sees them, `power_sums` the state of a group and the accumulators over it.

pub mod exact;
pub mod function;
mod power_sums;

pub use function::{all, avg, stdev, stdevp, sum, var, varp};

#[cfg(test)]
mod tests;
