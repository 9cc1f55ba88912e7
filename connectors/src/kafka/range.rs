//! Reading stretches of partitions once, beside the job: for samples and for probing single records.

use std::{sync::Arc, time::Duration};

use tidemill_engine::{Clock, Monotonic};

use super::{
    batch::{Fetcher, Message, Said},
    fault::Fault,
    partition::Partition,
    source::passes,
};

/// Records of a partition from `from` to before `to`, at most so many.
pub(super) struct Range {
    pub(super) partition: Arc<Partition>,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) at_most: usize,
}

/// Messages taken in one call; a stretch is short.
const BATCH: usize = 1_000;

/// When a clock will be past `within` from now.
pub(super) fn deadline(clock: &dyn Clock, within: Duration) -> Monotonic {
    let micros = i64::try_from(within.as_micros()).unwrap_or(i64::MAX);
    Monotonic(clock.monotonic().0.saturating_add(micros))
}

/// Reads stretches of different partitions and hands over their records with the stretch's index. Returns whether all
/// were read to their end before the deadline.
pub(super) fn read_ranges(
    fetcher: &mut Fetcher,
    ranges: &[Range],
    clock: &dyn Clock,
    deadline: Monotonic,
    mut each: impl FnMut(usize, &Message<'_>),
) -> Result<bool, Fault> {
    let mut left: Vec<usize> =
        ranges.iter().map(|range| if range.from < range.to { range.at_most } else { 0 }).collect();
    for (range, _) in ranges.iter().zip(&left).filter(|(_, left)| **left > 0) {
        fetcher.start(&range.partition.topic, range.partition.number, range.from)?;
    }
    while left.iter().any(|&left| left > 0) && clock.monotonic() < deadline {
        let batch = fetcher.receive(BATCH, Duration::from_millis(50));
        for message in batch.messages() {
            let of = |range: &Range| {
                range.partition.number == message.number() && range.partition.topic.as_bytes() == message.topic()
            };
            let Some(index) = ranges.iter().position(of) else { continue };
            let range = &ranges[index];
            match message.said() {
                Said::Record if left[index] > 0 && message.offset() < range.to => {
                    each(index, message);
                    left[index] = if message.offset() + 1 < range.to { left[index] - 1 } else { 0 };
                }
                Said::Record | Said::EndOfPartition => left[index] = 0,
                Said::Error(code, _) if passes(code) => {}
                Said::Error(_, text) => {
                    return Err(Fault::Unreadable {
                        topic: range.partition.topic.to_string(),
                        number: range.partition.number,
                        offset: message.offset(),
                        text,
                    });
                }
            }
        }
    }
    for range in ranges {
        fetcher.stop(&range.partition.topic, range.partition.number);
    }
    Ok(left.iter().all(|&left| left == 0))
}
