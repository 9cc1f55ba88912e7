//! Reading stretches of partitions once, beside the job: for samples and for probing single records.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tidemill_engine::{
    Clock, Monotonic, Result,
    source::{PartitionId, Record, Source, SourceEvent},
};

use super::partition::Partition;

/// Records of a partition from `from` to before `to`, at most so many.
pub(super) struct Range {
    pub(super) partition: Arc<Partition>,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) at_most: usize,
}

/// How long one poll waits.
const POLL: Duration = Duration::from_millis(50);

/// When a clock will be past `within` from now.
pub(super) fn deadline(clock: &dyn Clock, within: Duration) -> Monotonic {
    let micros = i64::try_from(within.as_micros()).unwrap_or(i64::MAX);
    Monotonic(clock.monotonic().0.saturating_add(micros))
}

/// Hands over the records of stretches of different partitions from a bounded source that reads just these. Returns whether
/// all were read to their end before the deadline.
pub(super) fn read_ranges(
    source: &mut dyn Source,
    ranges: &[Range],
    clock: &dyn Clock,
    deadline: Monotonic,
    mut each: impl FnMut(&Record<'_>),
) -> Result<bool> {
    let left = |range: &Range| if range.from < range.to { range.at_most } else { 0 };
    let mut left: HashMap<PartitionId, usize> = ranges.iter().map(|range| (range.partition.id, left(range))).collect();
    let any_left = |left: &HashMap<PartitionId, usize>| left.values().any(|&left| left > 0);
    while any_left(&left) && !source.finished() && clock.monotonic() < deadline {
        source.poll(POLL, &mut |event| {
            match event {
                SourceEvent::Records { partition, records, .. } => {
                    let left = left.entry(partition).or_default();
                    let wanted = &records[..records.len().min(*left)];
                    wanted.iter().for_each(&mut each);
                    *left -= wanted.len();
                }
                SourceEvent::Finished { partition } => drop(left.insert(partition, 0)),
                _ => {}
            }
            Ok(())
        })?;
    }
    Ok(source.finished() || !any_left(&left))
}
