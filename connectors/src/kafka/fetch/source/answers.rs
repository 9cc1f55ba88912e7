//! What is done with an answer: its partitions are noted, the next request is sent, and then its records are handed over.

use std::{
    mem,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use kafka_protocol::error::ResponseError;
use tidemill_engine::{
    Monotonic, Result,
    source::{SourceEvent, TimestampKind, Visit},
};

use super::{DOING, FetchSource, Topic};
use crate::kafka::{
    fault::{Cause, Fault, may_pass},
    fetch::{
        answer::{FetchAnswer, FetchedPartition},
        link::{Asked, Link},
    },
    records::{AbortedTransactions, batches},
    timestamp_type,
};

impl FetchSource {
    /// Takes the answers that are there. Returns whether there was one.
    pub(super) fn take_answers(&mut self, visit: &mut Visit<'_>) -> Result<bool> {
        let nodes: Vec<i32> = self.links.keys().copied().collect();
        let mut any = false;
        for node in nodes {
            let Some(link) = self.links.get_mut(&node) else { continue };
            match link.receive(&*self.own.clock) {
                Ok(None) => {}
                Ok(Some((received, asked))) => {
                    any = true;
                    let outcome = self.take_answer(node, received.answer(), asked, visit);
                    if let Some(link) = self.links.get_mut(&node) {
                        link.give_back(received);
                    }
                    outcome?;
                }
                Err(cause) => {
                    link.fail(cause.clone(), self.own.clock.monotonic());
                    self.broke(node, &cause);
                }
            }
        }
        Ok(any)
    }

    /// Scans an answer, sends the next request, hands the records over.
    fn take_answer(&mut self, node: i32, bytes: &[u8], asked: Asked, visit: &mut Visit<'_>) -> Result<()> {
        let mut answer = mem::take(&mut self.answer);
        let taken = self.take_partitions(node, bytes, asked, &mut answer, visit);
        self.answer = answer;
        match taken? {
            Ok(()) => {
                if let Some(address) = self.own.topology.address(node) {
                    self.own.brokers.succeeded(&address);
                }
                self.own.brokers.answered();
            }
            Err(cause) => {
                if let Some(link) = self.links.get_mut(&node) {
                    link.fail(cause.clone(), self.own.clock.monotonic());
                }
                self.broke(node, &cause);
            }
        }
        Ok(())
    }

    /// As above; an inner error says why the link is of no use.
    fn take_partitions(
        &mut self,
        node: i32,
        bytes: &[u8],
        asked: Asked,
        answer: &mut FetchAnswer,
        visit: &mut Visit<'_>,
    ) -> Result<Result<(), Cause>> {
        let received = self.own.clock.monotonic();
        let Some(link) = self.links.get_mut(&node) else { return Ok(Ok(())) };
        if let Err(cause) = link.accept(bytes, asked, received, answer) {
            return Ok(Err(cause));
        }
        let unlisted: Vec<usize> = match asked.of_session && link.session.is_incremental() {
            true => link.session.slots().collect(),
            false => Vec::new(),
        };
        match ResponseError::try_from_code(answer.error_code) {
            None if asked.of_session => link.session.answered(answer.session_id),
            None => {}
            // Mostly its session is gone: the next request says everything.
            Some(error) if may_pass(error) => link.refused(received),
            Some(ResponseError::ClusterAuthorizationFailed) => {
                return Err(self.error(Fault::not_allowed("the cluster".to_owned())));
            }
            Some(error) => {
                return Err(self.error(Fault::RefusedForGood { doing: DOING, what: "the request".to_owned(), error }));
            }
        }
        self.turn += 1;
        let found: Vec<Option<usize>> = answer
            .partitions
            .iter()
            .map(|partition| self.slot_of(node, answer.topic(bytes, partition), partition))
            .collect();
        for (partition, slot) in answer.partitions.iter().zip(&found) {
            if let Some(slot) = *slot {
                self.scan(node, slot, partition, &bytes[partition.records.clone()], received)?;
            }
        }
        let full = answer.partitions.iter().zip(&found).rfind(|(partition, _)| !partition.records.is_empty());
        if let (Some((_, &Some(slot))), Some(link)) = (full, self.links.get_mut(&node)) {
            link.last_read = slot;
        }
        self.ask(node); // it travels while the records are decoded
        for (partition, slot) in answer.partitions.iter().zip(&found) {
            let Some(slot) = slot.filter(|_| partition.error_code == 0) else { continue };
            let records = &bytes[partition.records.clone()];
            if let Err(cause) = self.walk(node, slot, records, answer.aborted(partition), received, visit)? {
                return Ok(Err(cause));
            }
            self.slots[slot].report_end(node, asked.at, !records.is_empty(), visit)?;
        }
        for slot in unlisted {
            let slot = &mut self.slots[slot];
            if slot.turn != self.turn && slot.node == Some(node) && !slot.finished {
                slot.report_end(node, asked.at, false, visit)?;
            }
        }
        Ok(Ok(()))
    }

    /// The slot of a partition in an answer, if it is still read from this node.
    fn slot_of(&self, node: i32, name: &[u8], partition: &FetchedPartition) -> Option<usize> {
        let same = |topic: &&Topic| match partition.topic_id.is_nil() {
            true => topic.name.as_bytes() == name,
            false => topic.id == partition.topic_id,
        };
        let slot = *self.topics.iter().find(same)?.slots.get(&partition.number)?;
        Some(slot).filter(|&slot| self.slots[slot].node == Some(node) && !self.slots[slot].finished)
    }

    /// Notes what an answer says of a partition, and from where to go on.
    fn scan(
        &mut self,
        node: i32,
        index: usize,
        partition: &FetchedPartition,
        records: &[u8],
        now: Monotonic,
    ) -> Result<()> {
        let slot = &mut self.slots[index];
        slot.turn = self.turn;
        slot.live = slot.asked_at_end && !slot.follower;
        if let Some(error) = ResponseError::try_from_code(partition.error_code) {
            return self.refused(index, partition, error, now);
        }
        if let Some((_, log_end)) = partition.diverging {
            let (topic, number) = (slot.partition.topic.to_string(), slot.partition.number);
            let read_to = slot.next_offset;
            return Err(self.error(Fault::Truncated { topic, number, log_end, read_to }));
        }
        slot.high_watermark = partition.high_watermark;
        slot.readable_to = partition.readable_to();
        slot.partition.heard_end(partition.high_watermark);
        if let Some(last) = batches(records).map_while(std::result::Result::ok).last() {
            slot.fetch_offset = slot.fetch_offset.max(last.next_offset);
            slot.fetched_epoch = last.leader_epoch;
        } else {
            slot.failures = 0;
        }
        if partition.preferred_replica >= 0 && partition.preferred_replica != node {
            // A follower is nearer. What it says of the log's end is no evidence: the control thread asks the leader.
            (slot.follower, slot.node) = (true, Some(partition.preferred_replica));
            slot.fetch_offset = slot.next_offset;
            let replica = partition.preferred_replica;
            self.links.entry(replica).or_insert_with(|| Link::new(replica, self.shared.fetches.of(replica)));
        }
        Ok(())
    }

    /// Hands over the records of a partition in an answer. An inner error says why they must be asked for again.
    fn walk(
        &mut self,
        node: i32,
        index: usize,
        records: &[u8],
        aborted: impl Iterator<Item = (i64, i64)>,
        received: Monotonic,
        visit: &mut Visit<'_>,
    ) -> Result<std::result::Result<(), Cause>> {
        let slot = &mut self.slots[index];
        let mut live_from = slot.live.then_some(node);
        let mut aborted = AbortedTransactions::new(aborted);
        for batch in batches(records) {
            let walked = match batch {
                Ok(batch) if slot.finished || batch.next_offset <= slot.next_offset => {
                    aborted.leaves_out(&batch);
                    continue;
                }
                Ok(batch) if aborted.leaves_out(&batch) => {
                    slot.reach(batch.next_offset, visit)?;
                    Ok(())
                }
                Ok(batch) if !self.accept_create_time && batch.timestamp_kind() != TimestampKind::LogAppend => {
                    let offset = slot.next_offset.max(batch.base_offset);
                    let partition = Arc::clone(&slot.partition);
                    return Err(self.error(timestamp_type::create_time_record(&self.shared, &partition, offset)));
                }
                Ok(batch)
                    if let Some(counted) = &self.counted
                        && let Some(records) = batch.records().filter(|_| slot.takes_whole(&batch)) =>
                {
                    let checked = batch.check();
                    if checked.is_ok() {
                        counted.fetch_add(records, Relaxed);
                        slot.reach(batch.next_offset, visit)?;
                    }
                    checked
                }
                Ok(batch) => {
                    let kind = batch.timestamp_kind();
                    let walked = match self.unpacker.records(&batch) {
                        Ok(records) => {
                            slot.partition.fetched(batch.size(), records.size());
                            slot.hand_over(records, kind, received, &mut live_from, &mut self.buffers, visit)?
                        }
                        Err(bad) => Err(bad),
                    };
                    if walked.is_ok() {
                        slot.reach(batch.next_offset, visit)?;
                    }
                    walked
                }
                Err(bad) => Err(bad),
            };
            match walked {
                Ok(()) => slot.finish_if_read(visit)?,
                Err(bad) => return self.bad_batch(index, bad),
            }
        }
        slot.failures = 0;
        slot.partition.read_to(slot.next_offset);
        if !records.is_empty() && !slot.finished && slot.next_offset >= slot.high_watermark {
            visit(SourceEvent::Position { partition: slot.partition.id, next_offset: slot.next_offset })?;
        }
        Ok(Ok(()))
    }
}
