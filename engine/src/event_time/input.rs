//! The event time of a worker's share of an input: the smallest of its partitions', and no further than it is certain that
//! no unknown partition exists.
//!
//! A new partition is read from its beginning, and its first record may have been stamped as soon as it existed. So the
//! watermark passes t only when a metadata answer, to a request sent after t, showed no unknown partition.

use std::collections::BTreeMap;

use super::partition::{PartitionTime, TimeCounters, TimeRule};
use crate::{EventTime, epoch::TimeMark, source::PartitionId};

/// A decision that depended on when answers came in. An epoch records it, so that a replay repeats it ([`InputTime::apply`])
/// at the same offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeFact {
    /// The partition is read from `offset` on, and none of its rows is placed below `watermark`.
    Joined {
        /// Which.
        partition: PartitionId,
        /// The first offset that is read.
        offset: i64,
        /// Where its watermark starts.
        watermark: EventTime,
    },
    /// The partition's watermark moved without a record.
    IdleAdvance {
        /// Which.
        partition: PartitionId,
        /// The offset that it stood before: records below came in before the advance.
        offset: i64,
        /// Where it moved.
        watermark: EventTime,
    },
}

/// Event time of a worker's share of an input, under one time rule. Its watermark never goes back.
#[derive(Clone, Debug)]
pub struct InputTime {
    rule: TimeRule,
    idle_margin_us: i64,
    growing: bool,
    topology: EventTime,
    partitions: BTreeMap<PartitionId, Share>,
}

#[derive(Clone, Debug)]
struct Share {
    time: PartitionTime,
    finished: bool,
}

impl Share {
    fn watermark(&self) -> EventTime {
        if self.finished { EventTime::MAX } else { self.time.watermark() }
    }
}

impl InputTime {
    /// An input without partitions yet. `growing`: partitions may appear while it runs, and `Topology` answers say up to
    /// where they have not; otherwise (bounded runs, files) all partitions join before the first record, and their
    /// watermarks alone count.
    #[must_use]
    pub fn new(rule: TimeRule, idle_margin_us: i64, growing: bool) -> Self {
        InputTime { rule, idle_margin_us, growing, topology: EventTime::MIN, partitions: BTreeMap::new() }
    }

    /// A partition is read from `offset` on. It starts at the input's watermark, which the topology bound has kept below
    /// the partition's creation: none of its records is late, and the input's watermark does not go back.
    pub fn joined(&mut self, partition: PartitionId, offset: i64) -> TimeFact {
        let watermark = if self.growing { self.watermark() } else { EventTime::MIN };
        let fact = TimeFact::Joined { partition, offset, watermark };
        self.apply(&fact);
        fact
    }

    /// A partition is read on from where an earlier run stood.
    pub fn resumed(&mut self, partition: PartitionId, at: TimeMark) {
        let time = PartitionTime::restore(self.rule, at.largest, at.watermark);
        self.partitions.insert(partition, Share { time, finished: false });
    }

    /// Where the time of a partition stands; the start before it joined.
    #[must_use]
    pub fn mark(&self, partition: PartitionId) -> TimeMark {
        self.partitions.get(&partition).map_or(TimeMark::START, |share| share.time.mark())
    }

    /// The partition was read to its end; no row of it follows.
    pub fn finished(&mut self, partition: PartitionId) {
        if let Some(share) = self.partitions.get_mut(&partition) {
            share.finished = true;
        }
    }

    /// A metadata answer, to a request sent at `broker_time` ([`super::BrokerClocks::topology_time`]), showed no unknown
    /// partition.
    pub fn topology(&mut self, broker_time: EventTime) {
        self.topology = self.topology.max(self.rule.topology_bound(broker_time));
    }

    /// The time of one partition, to place its rows; `None` before it joined.
    pub fn partition(&mut self, partition: PartitionId) -> Option<&mut PartitionTime> {
        self.partitions.get_mut(&partition).map(|share| &mut share.time)
    }

    /// Takes a leader's answer, to a request sent at `broker_time` by its clock, that the log ends at `end_offset`, while
    /// all offsets below `position` have been read. Gives the fact to be recorded when that moves the watermark.
    pub fn end_evidence(
        &mut self,
        partition: PartitionId,
        position: i64,
        end_offset: i64,
        broker_time: EventTime,
    ) -> Option<TimeFact> {
        let margin = self.idle_margin_us;
        let watermark = self.partition(partition)?.end_evidence(position, end_offset, broker_time, margin)?;
        Some(TimeFact::IdleAdvance { partition, offset: position, watermark })
    }

    /// Repeats a recorded fact. The caller does so where it stood: before the record at its offset.
    pub fn apply(&mut self, fact: &TimeFact) {
        match *fact {
            TimeFact::Joined { partition, watermark, .. } => {
                let time = PartitionTime::new(self.rule, watermark);
                self.partitions.insert(partition, Share { time, finished: false });
            }
            TimeFact::IdleAdvance { partition, watermark, .. } => {
                if let Some(time) = self.partition(partition) {
                    time.advance(watermark);
                }
            }
        }
    }

    /// No later row of this share is placed below it. `MAX` when every partition is finished and none can appear; `MIN`
    /// while nothing is known. A worker without partitions follows the topology alone.
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        match self.partitions.values().map(Share::watermark).min() {
            Some(watermark) if self.growing => watermark.min(self.topology),
            Some(watermark) => watermark,
            None => self.topology,
        }
    }

    /// Watermark of each partition, in the order of their numbers; `MAX` when finished.
    pub fn watermarks(&self) -> impl Iterator<Item = (PartitionId, EventTime)> {
        self.partitions.iter().map(|(&partition, share)| (partition, share.watermark()))
    }

    /// Watermark of one partition, `MAX` when finished; `None` before it joined.
    #[must_use]
    pub fn watermark_of(&self, partition: PartitionId) -> Option<EventTime> {
        self.partitions.get(&partition).map(Share::watermark)
    }

    /// What happened in all partitions together.
    #[must_use]
    pub fn counters(&self) -> TimeCounters {
        let mut sum = TimeCounters::default();
        for share in self.partitions.values() {
            sum += share.time.counters;
        }
        sum
    }
}

#[cfg(test)]
mod tests;
