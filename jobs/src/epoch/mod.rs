//! Epochs as they are kept, and what a start makes of them.
//!
//! - [`record`]: an epoch as data: where each partition stood, the advances without a record, what was written.
//! - [`mark`]: the same as text beside a consumer group's committed offsets, a partition's share each.
//! - [`store`]: the state store: the log of generations and epochs, snapshots with their manifests, pinned schemas.
//! - [`basis`]: what a restart would begin on, as a run goes.
//! - [`steps`]: the order of a commit.
//! - [`decide`]: from what a start finds to what it does, without any I/O.
//!
//! The runner (`crate::run`) gathers the facts, obeys the decision, and commits.

pub(crate) mod basis;
pub(crate) mod decide;
pub(crate) mod mark;
pub(crate) mod record;
pub(crate) mod steps;
pub(crate) mod store;
