//! Windows: their shapes, their slices, and the aggregation over them.
//!
//! A row enters one slice in its worker ([`partial`]); when the worker's watermark has passed the slice, its groups go to
//! the merge thread as one state batch; there a window is the merge of its slices over all workers ([`merge`]) and is
//! emitted once, when the watermark of the whole input has passed its end.

mod assign;
mod groups;
mod merge;
mod partial;
pub mod shape;
pub mod slices;

pub(crate) use assign::AssignWindows;
pub(crate) use merge::MergeWindows;
pub(crate) use partial::{PartialAggregate, WindowAggregate};
