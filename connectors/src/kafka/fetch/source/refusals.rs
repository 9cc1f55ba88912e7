//! Where an answer has no records of a partition but an error, or records that cannot be read: whether they are asked for
//! again, and when.

use std::{mem, sync::Arc};

use kafka_protocol::error::ResponseError;
use tidemill_engine::{Monotonic, Result};

use super::{DOING, FetchSource};
use crate::kafka::{
    fault::{Cause, Fault, may_pass},
    fetch::answer::FetchedPartition,
    records::BadBatch,
    wire::Leader,
};

/// The first pause before a partition is asked for again after an error, and the longest.
const PAUSES_US: (i64, i64) = (50_000, 1_000_000);
/// How often a batch with a wrong CRC is asked for again.
const BAD_BATCH_TRIES: u32 = 3;

impl FetchSource {
    /// A partition was answered with an error: it is asked for again after a pause, or the job ends.
    pub(super) fn refused(
        &mut self,
        index: usize,
        partition: &FetchedPartition,
        error: ResponseError,
        now: Monotonic,
    ) -> Result<()> {
        use ResponseError as E;
        let slot = &mut self.slots[index];
        let (topic, number) = (Arc::clone(&slot.partition.topic), slot.partition.number);
        tracing::debug!(%topic, number, %error, "a fetch was refused");
        match error {
            E::OffsetOutOfRange if !slot.follower => self.out_of_range(index)?,
            // A follower's trouble is not the topic's: the leader is asked next.
            error if !may_pass(error) && !slot.follower => {
                return Err(self.error(Fault::request_refused(DOING, &topic, error)));
            }
            E::NotLeaderOrFollower | E::FencedLeaderEpoch => {
                if let Some((node, epoch)) = partition.leader {
                    self.own.topology.heard_of(&topic, number, Leader { node, epoch });
                }
            }
            _ => {}
        }
        let slot = &mut self.slots[index];
        // A follower that does not serve is left for the leader.
        if mem::take(&mut slot.follower) {
            slot.node = None;
            self.topology_version = u64::MAX;
        }
        let pause = PAUSES_US.0.saturating_mul(1 << slot.failures.min(10)).min(PAUSES_US.1);
        slot.failures += 1;
        slot.retry_at = Monotonic(now.0.saturating_add(pause));
        slot.fetch_offset = slot.next_offset;
        Ok(())
    }

    /// The broker says that the offset to read next is not in the log: retention was faster, or the log was cut. Or it no
    /// longer knows the epoch that was read last: then it is asked without.
    fn out_of_range(&mut self, index: usize) -> Result<()> {
        let slot = &mut self.slots[index];
        let (topic, number, wanted) = (slot.partition.topic.to_string(), slot.partition.number, slot.next_offset);
        let had_epoch = mem::replace(&mut slot.fetched_epoch, -1) >= 0;
        let fault = match self.shared.bounds_of(&self.slots[index].partition) {
            Ok((earliest, end)) if had_epoch && (earliest..=end).contains(&wanted) => return Ok(()),
            Ok((_, end)) if had_epoch && wanted > end => {
                Fault::Truncated { topic, number, log_end: end, read_to: wanted }
            }
            Ok((earliest, end)) => Fault::OffsetsGone { topic, number, wanted, earliest, end },
            Err(fault) => fault,
        };
        Err(self.error(fault))
    }

    /// A batch that cannot be read: bytes that were damaged on the way come whole the next time.
    pub(super) fn bad_batch(&mut self, index: usize, bad: BadBatch) -> Result<std::result::Result<(), Cause>> {
        let slot = &mut self.slots[index];
        slot.failures += 1;
        if matches!(bad, BadBatch::Checksum { .. }) && slot.failures < BAD_BATCH_TRIES {
            return Ok(Err(Cause::Unnamed(bad.to_string())));
        }
        let (topic, number) = (slot.partition.topic.to_string(), slot.partition.number);
        let offset = slot.next_offset;
        Err(self.error(Fault::Unreadable { topic, number, offset, text: bad.to_string() }))
    }
}
