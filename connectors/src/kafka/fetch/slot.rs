//! A partition that is read, and how its records are handed over.

use std::{mem, sync::Arc};

use tidemill_engine::{
    Monotonic, Result,
    source::{Header, Record, SourceEvent, TimestampKind, Visit},
};
use uuid::Uuid;

use crate::kafka::{
    partition::Partition,
    records::{BadBatch, Batch, Records, WalkedRecord},
    source::emptied,
};

/// Records that are handed over at once: enough that a call does not show, few enough to stay in the first-level cache.
const RUN: usize = 256;
/// How often the end of an idle partition is reported; more often says nothing new.
const END_EVERY_US: i64 = 50_000;

/// What is known of one partition.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) partition: Arc<Partition>,
    pub(super) topic_id: Uuid,
    /// The next offset to be handed over.
    pub(super) next_offset: i64,
    /// The next offset to be asked for: ahead of the other only while an answer is walked.
    pub(super) fetch_offset: i64,
    /// Bounded: where to stop.
    pub(super) end_offset: Option<i64>,
    pub(super) finished: bool,
    /// Whom it is read from; `None` while nobody is known.
    pub(super) node: Option<i32>,
    /// Whether that is a follower, whose word on the end of the log does not count.
    pub(super) follower: bool,
    pub(super) leader_epoch: i32,
    /// Epoch of the last batch read; -1: none yet.
    pub(super) fetched_epoch: i32,
    /// As the last answer had it; -1: none yet.
    pub(super) high_watermark: i64,
    /// What the last answer says of it ([`FetchedPartition::readable_to`](super::answer::FetchedPartition)); -1: none yet.
    pub(super) readable_to: i64,
    /// Whether the request under way left when everything known had been read.
    pub(super) asked_at_end: bool,
    /// Whether the request of the answer at hand did.
    pub(super) live: bool,
    /// The last answer that was about it.
    pub(super) turn: u64,
    /// Not asked for before, after an error.
    pub(super) retry_at: Monotonic,
    /// Errors in a row.
    pub(super) failures: u32,
    end_said_at: Monotonic,
}

impl Slot {
    pub(super) fn new(partition: Arc<Partition>, topic_id: Uuid, start_offset: i64, end_offset: Option<i64>) -> Self {
        Self {
            partition,
            topic_id,
            next_offset: start_offset,
            fetch_offset: start_offset,
            end_offset,
            finished: false,
            node: None,
            follower: false,
            leader_epoch: -1,
            fetched_epoch: -1,
            high_watermark: -1,
            readable_to: -1,
            asked_at_end: false,
            live: false,
            turn: 0,
            retry_at: Monotonic(i64::MIN),
            failures: 0,
            end_said_at: Monotonic(i64::MIN),
        }
    }

    /// Whether there is something to ask for.
    pub(super) fn wants(&self, now: Monotonic) -> bool {
        !self.finished && now >= self.retry_at && self.end_offset.is_none_or(|end| self.fetch_offset < end)
    }

    /// Whether the next request will find records: it has not been read as far as the last answer lets it be.
    pub(super) fn is_behind(&self) -> bool {
        self.fetch_offset < self.readable_to
    }

    /// Hands over the records of a batch that have not been, and lie before the end. Returns the offset of a record that its
    /// producer stamped, if such records are refused.
    pub(super) fn hand_over(
        &mut self,
        records: Records<'_>,
        timestamp_kind: TimestampKind,
        received: Monotonic,
        live_from: &mut Option<i32>,
        buffers: &mut RunBuffers,
        visit: &mut Visit<'_>,
    ) -> Result<Result<(), BadBatch>> {
        let (from, to) = (self.next_offset, self.end_offset.unwrap_or(i64::MAX));
        let mut walk = records.filter(|record| record.as_ref().map_or(true, |r| (from..to).contains(&r.offset)));
        loop {
            let mut headers = emptied(mem::take(&mut buffers.headers));
            let mut records: Vec<Record<'_>> = emptied(mem::take(&mut buffers.records));
            buffers.header_ends.clear();
            for walked in walk.by_ref().take(RUN) {
                let walked = match walked {
                    Ok(walked) => walked,
                    Err(bad) => return Ok(Err(bad)),
                };
                let unread_headers = (!buffers.with_headers).then(|| walked.unread_headers());
                if buffers.with_headers {
                    if let Err(bad) = walked.headers(&mut headers) {
                        return Ok(Err(bad));
                    }
                    buffers.header_ends.push(headers.len());
                }
                let WalkedRecord { offset, timestamp_ms, key, value, .. } = walked;
                records.push(Record { offset, timestamp_ms, timestamp_kind, key, value, headers: &[], unread_headers });
            }
            let Some(last) = records.last() else {
                (buffers.records, buffers.headers) = (emptied(records), emptied(headers));
                return Ok(Ok(()));
            };
            let (next_offset, count, live_from) = (last.offset + 1, records.len(), live_from.take());
            let mut start = 0;
            for (record, &end) in records.iter_mut().zip(&buffers.header_ends) {
                record.headers = &headers[start..end];
                start = end;
            }
            visit(SourceEvent::Records { partition: self.partition.id, records: &records, received, live_from })?;
            self.next_offset = next_offset;
            self.partition.handed_over(count);
            (buffers.records, buffers.headers) = (emptied(records), emptied(headers));
        }
    }

    /// Whether none of a batch's records was handed over, and all of them are wanted.
    pub(super) fn takes_whole(&self, batch: &Batch<'_>) -> bool {
        batch.base_offset >= self.next_offset && self.end_offset.is_none_or(|end| batch.next_offset <= end)
    }

    /// Everything below `offset` was handed over or does not exist; reported where records do not say it.
    pub(super) fn reach(&mut self, offset: i64, visit: &mut Visit<'_>) -> Result<()> {
        let offset = self.end_offset.map_or(offset, |end| offset.min(end.max(self.next_offset)));
        if offset <= self.next_offset {
            return Ok(());
        }
        self.next_offset = offset;
        visit(SourceEvent::Position { partition: self.partition.id, next_offset: offset })
    }

    /// Finishes a bounded partition that was read to its end.
    pub(super) fn finish_if_read(&mut self, visit: &mut Visit<'_>) -> Result<()> {
        if self.finished || self.end_offset.is_none_or(|end| self.next_offset < end) {
            return Ok(());
        }
        self.finished = true;
        visit(SourceEvent::Finished { partition: self.partition.id })
    }

    /// The leader's answer to a request that left at `asked` says where the log ends: evidence, if nothing more came with it.
    pub(super) fn report_end(&mut self, node: i32, asked: Monotonic, came: bool, visit: &mut Visit<'_>) -> Result<()> {
        let read = self.next_offset >= self.high_watermark;
        let at_end = self.high_watermark >= 0 && (read || !came);
        self.partition.set_at_end(at_end && self.follower);
        if !at_end || self.follower || asked.0.saturating_sub(self.end_said_at.0) < END_EVERY_US {
            return Ok(());
        }
        self.end_said_at = asked;
        let (partition, end_offset) = (self.partition.id, self.high_watermark);
        visit(SourceEvent::End { partition, leader: node, asked, end_offset })
    }
}

/// Vectors kept from run to run for their allocations; always empty in between.
#[derive(Debug, Default)]
pub(super) struct RunBuffers {
    records: Vec<Record<'static>>,
    headers: Vec<Header<'static>>,
    /// Where each record's headers end.
    header_ends: Vec<usize>,
    /// Whether records come with their headers at all.
    with_headers: bool,
}

impl RunBuffers {
    pub(super) fn new(with_headers: bool) -> Self {
        Self { with_headers, ..Self::default() }
    }
}
