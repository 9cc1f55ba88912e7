//! Reference data: tables that streams are joined with.
//!
//! A [`ReferenceTable`] holds versions of its rows, each valid from an event time on; before the first, the first is. A
//! row sees the version of its own time, so that results depend on the records and the versions, not on when a version was
//! read. [`load`] reads one from a source; [`lookup`] joins rows with it, in the workers, each with an index of its own.

mod load;
mod lookup;

use std::sync::{Arc, PoisonError, RwLock};

use arrow::record_batch::RecordBatch;

pub use load::load;
pub(crate) use lookup::Lookup;

use crate::EventTime;

/// The rows of a table from an event time on.
#[derive(Debug)]
pub(crate) struct Version {
    from: EventTime,
    /// The columns of [`crate::dataflow::plan::TablePlan::columns`] and the event time, which means nothing.
    rows: RecordBatch,
}

/// See the module. Shared between whoever reads it and the operators that look rows up.
#[derive(Debug, Default)]
pub struct ReferenceTable {
    versions: RwLock<Vec<Arc<Version>>>,
}

impl ReferenceTable {
    /// Adds a version of the rows: all of them, valid from `from` on. One of the same time takes the other's place.
    pub fn put(&self, from: EventTime, rows: RecordBatch) {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        let at = versions.partition_point(|v| v.from < from);
        let version = Arc::new(Version { from, rows });
        match versions.get_mut(at) {
            Some(same) if same.from == from => *same = version,
            _ => versions.insert(at, version),
        }
    }

    /// Forgets versions that no row at or above `t` sees.
    pub fn forget_below(&self, t: EventTime) {
        let mut versions = self.versions.write().unwrap_or_else(PoisonError::into_inner);
        let seen = versions.partition_point(|v| v.from <= t).saturating_sub(1);
        versions.drain(..seen);
    }

    /// How many rows the latest version has; `None` before one was read.
    #[must_use]
    pub fn rows(&self) -> Option<usize> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        versions.last().map(|v| v.rows.num_rows())
    }

    /// The version that a row of this time sees, and the first time that sees another one.
    fn at(&self, t: EventTime) -> Option<(Arc<Version>, EventTime)> {
        let versions = self.versions.read().unwrap_or_else(PoisonError::into_inner);
        let next = versions.partition_point(|v| v.from <= t).max(1);
        let version = versions.get(next - 1)?;
        Some((Arc::clone(version), versions.get(next).map_or(EventTime::MAX, |v| v.from)))
    }
}
