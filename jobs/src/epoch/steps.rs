//! The order in which an epoch is committed.
//!
//! Each step may be the last one of a run, and the next run has to find something that it can go on from. So rows are safe
//! before anything says that they are, and what a reader sees comes after what the job remembers: a part of a file is shown when
//! the log has its epoch, and the offsets of at-least-once outputs come last of all.

/// A step of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Rows are safe in each output, dead letters last, and not visible where an output can hold them back.
    Prepare,
    /// The store's log has the epoch, when it is that of files.
    Log,
    /// A cluster has rows and epoch, in one transaction.
    Transaction(usize),
    /// What was held back is visible.
    Publish,
    /// Groups whose offsets are part of no transaction have them.
    Groups,
}

/// The steps, for so many clusters with transactions.
pub(crate) fn steps(clusters: usize) -> Vec<Step> {
    let mut steps = vec![Step::Prepare, Step::Log];
    steps.extend((0..clusters).map(Step::Transaction));
    steps.extend([Step::Publish, Step::Groups]);
    steps
}
