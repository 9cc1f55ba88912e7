//! Windows: their shapes, their slices, and the aggregation over them.
//!
//! A row enters one slice in its worker ([`partial`]); when the worker's watermark has passed the slice, its groups go to
//! the merge thread as one state batch; there a window is the merge of its slices over all workers ([`merge`]) and is
//! emitted once, when the watermark of the whole input has passed its end. Sessions are no different: a slice is so short
//! that it cannot hold a gap, and a session is the merge of slices that follow one another ([`sessions`]). Only sliding windows
//! take the rows one by one, in the merge half ([`sliding`]).

mod assign;
mod assign_sessions;
mod groups;
mod keys;
mod merge;
mod merge_sessions;
mod partial;
mod sessions;
pub mod shape;
pub mod slices;
mod sliding;
#[cfg(test)]
mod tests;

pub(crate) use assign::AssignWindows;
pub(crate) use assign_sessions::AssignSessions;
pub(crate) use merge::MergeWindows;
pub(crate) use merge_sessions::MergeSessions;
pub(crate) use partial::{PartialAggregate, WindowAggregate};
pub(crate) use sliding::Sliding;
