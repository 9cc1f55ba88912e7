//! A worker's share of a Kafka input: batches of librdkafka become runs of records, ends of partitions become positions.

use std::{
    collections::HashMap,
    fmt, mem,
    sync::{Arc, atomic::AtomicU64, mpsc::Receiver},
    time::Duration,
};

use rdkafka::error::RDKafkaErrorCode;
use tidemill_engine::{
    EngineError, Monotonic, Result,
    source::{Header, Record, Source, SourceEvent, TimestampKind, Visit},
};

use super::{
    batch::{Fetcher, Message, Said},
    control::{ControlEvent, ControlThread},
    fault::Fault,
    input::Shared,
    partition::Partition,
    timestamp_type,
};

/// Messages of one poll: enough to make the cost of a call vanish, little enough to stay in the cache.
const BATCH: usize = 8_192;

/// A partition to be read from now on.
pub(super) struct Join {
    pub(super) partition: Arc<Partition>,
    pub(super) start_offset: i64,
    /// Bounded: where to stop.
    pub(super) end_offset: Option<i64>,
}

/// How records are to be handed over.
#[derive(Clone, Default)]
pub(super) struct ReadTerms {
    /// Whether records that their producer stamped are handed over, or end the job.
    pub(super) accept_create_time: bool,
    /// Whether records come with their headers. Only where a query names them: reading them costs librdkafka an allocation a
    /// record, a quarter of a stateless job.
    pub(super) with_headers: bool,
    /// Records that were counted in the headers of their batches, in the place of being handed over: where only their number is
    /// wanted. librdkafka hands all of them over.
    pub(super) counted: Option<Arc<AtomicU64>>,
    /// Bytes of an answer at most, where little is wanted.
    pub(super) answer_bytes: Option<usize>,
}

/// Reads its partitions through one client of librdkafka.
pub(super) struct KafkaSource {
    shared: Arc<Shared>,
    fetcher: Fetcher,
    accept_create_time: bool,
    /// Partitions not announced yet.
    joins: Vec<Join>,
    slots: Vec<Slot>,
    /// Index in `slots` by topic and number.
    slot_of: HashMap<Box<[u8]>, HashMap<i32, usize>>,
    /// From the control thread; a bounded source has none.
    events: Option<Receiver<ControlEvent>>,
    buffers: Buffers,
    /// Held so that it ends with the last source.
    control: Option<Arc<ControlThread>>,
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let partitions: Vec<_> = self.slots.iter().map(|slot| &slot.partition).collect();
        f.debug_struct("KafkaSource").field("partitions", &partitions).finish_non_exhaustive()
    }
}

impl KafkaSource {
    pub(super) fn new(
        shared: Arc<Shared>,
        fetcher: Fetcher,
        joins: Vec<Join>,
        events: Option<Receiver<ControlEvent>>,
        terms: ReadTerms,
    ) -> Self {
        let ReadTerms { accept_create_time, with_headers, .. } = terms;
        let (slots, slot_of) = (Vec::new(), HashMap::new());
        let buffers = Buffers { with_headers, ..Buffers::default() };
        Self { shared, fetcher, accept_create_time, joins, slots, slot_of, events, buffers, control: None }
    }

    /// Holds the control thread for as long as this source lives.
    pub(super) fn hold(&mut self, control: Arc<ControlThread>) {
        self.control = Some(control);
    }

    /// Announces a partition and starts reading it; a bounded one that is empty is finished at once.
    fn join(&mut self, join: Join, visit: &mut Visit<'_>) -> Result<()> {
        let Join { partition, start_offset, end_offset } = join;
        let (topic, number) = (&*partition.topic, partition.number);
        visit(SourceEvent::Joined { partition: partition.id, topic, number, start_offset })?;
        let finished = end_offset.is_some_and(|end| start_offset >= end);
        if finished {
            visit(SourceEvent::Finished { partition: partition.id })?;
        } else {
            self.fetcher.start(topic, number, start_offset).map_err(|fault| self.error(fault))?;
        }
        self.slot_of.entry(topic.as_bytes().into()).or_default().insert(number, self.slots.len());
        let next_offset = start_offset;
        self.slots.push(Slot { partition, next_offset, end_offset, finished, live: false, touched: false });
        Ok(())
    }

    /// Announces what waits to be read and passes on what the control thread found. Returns whether anything was reported.
    fn report_control(&mut self, visit: &mut Visit<'_>) -> Result<bool> {
        let mut any = !self.joins.is_empty();
        for join in mem::take(&mut self.joins) {
            self.join(join, visit)?;
        }
        while let Some(event) = self.events.as_ref().and_then(|events| events.try_recv().ok()) {
            any = true;
            if let Some(join) = event.report(&self.shared.settings, visit)? {
                self.join(join, visit)?;
            }
        }
        Ok(any)
    }

    /// Takes a batch and reports its runs of messages of one partition.
    fn report_batch(&mut self, wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        let Self { shared, fetcher, accept_create_time, slots, slot_of, buffers, .. } = self;
        let mut trouble = None;
        let batch = fetcher.receive(BATCH, wait);
        let received = shared.clock.monotonic();
        let mut rest = batch.messages();
        while let Some(first) = rest.first() {
            let same_run = |message: &Message<'_>| message.is_record() && message.same_partition(first);
            let length = rest.iter().position(|message| !same_run(message)).unwrap_or(rest.len()).max(1);
            let (run, behind) = rest.split_at(length);
            rest = behind;
            let slot = slot_of.get(first.topic()).and_then(|numbers| numbers.get(&first.number()));
            let Some(slot) = slot.map(|&index| &mut slots[index]).filter(|slot| !slot.finished) else { continue };
            slot.touched = true;
            let wrong = match first.said() {
                Said::Record => {
                    let run = slot.wanted(run);
                    let refused = slot.hand_over(run, received, *accept_create_time, buffers, visit)?;
                    slot.finish_if_read(run.len() < length, visit)?;
                    refused.map(|offset| (offset, Trouble::CreateTime))
                }
                Said::EndOfPartition => {
                    slot.reach(first.offset(), visit)?;
                    slot.live = true;
                    slot.finish_if_read(false, visit)?;
                    None
                }
                Said::Error(code, text) if passes(code) => {
                    tracing::debug!(?code, text, "fetching is tried again");
                    None
                }
                Said::Error(code, text) => Some((slot.next_offset, Trouble::Said(code, text))),
            };
            if let Some((offset, wrong)) = wrong {
                trouble = Some((slot.partition.clone(), offset, wrong));
                break;
            }
        }
        drop(batch);
        match trouble {
            Some((partition, offset, trouble)) => Err(self.error(self.fault(&partition, offset, trouble))),
            None => Ok(()),
        }
    }

    /// After a batch: finished partitions are stopped, the others compared with the end of their logs.
    fn settle(&mut self) {
        let mut any = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.touched) {
            let partition = &slot.partition;
            (slot.touched, any) = (false, true);
            partition.read_to(slot.next_offset);
            if slot.finished {
                self.fetcher.stop(&partition.topic, partition.number);
            } else if let Some(end) = self.fetcher.log_end(&partition.topic, partition.number) {
                partition.heard_end(end);
                slot.live |= slot.next_offset >= end;
                partition.set_at_end(slot.live);
            }
        }
        if any && self.control.is_none() {
            self.shared.brokers.answered();
        }
    }

    fn fault(&self, partition: &Partition, offset: i64, trouble: Trouble) -> Fault {
        use RDKafkaErrorCode as Code;
        let (topic, number) = (partition.topic.to_string(), partition.number);
        match trouble {
            Trouble::CreateTime => timestamp_type::create_time_record(&self.shared, partition, offset),
            Trouble::Said(Code::AutoOffsetReset | Code::OffsetOutOfRange, _) => {
                match self.shared.bounds_of(partition) {
                    Ok((earliest, end)) => Fault::OffsetsGone { topic, number, wanted: offset, earliest, end },
                    Err(fault) => fault,
                }
            }
            Trouble::Said(Code::TopicAuthorizationFailed, _) => Fault::not_allowed(format!("topic `{topic}`")),
            Trouble::Said(Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition, _) => {
                Fault::TopicGone { topic }
            }
            Trouble::Said(_, text) => Fault::Unreadable { topic, number, offset, text },
        }
    }

    fn error(&self, fault: Fault) -> EngineError {
        self.shared.settings.error(fault)
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        let reported = self.report_control(visit)?;
        if self.finished() {
            return Ok(());
        }
        // Serves a callback of librdkafka, if one waits; records never come this way.
        while self.fetcher.consumer().poll(Duration::ZERO).is_some() {}
        if let Some(refusal) = self.shared.brokers.refusal() {
            return Err(self.error(refusal));
        }
        self.report_batch(if reported { Duration::ZERO } else { wait }, visit)?;
        self.settle();
        Ok(())
    }

    fn finished(&self) -> bool {
        self.events.is_none() && self.joins.is_empty() && self.slots.iter().all(|slot| slot.finished)
    }
}

/// Why reading of a partition cannot go on.
enum Trouble {
    Said(RDKafkaErrorCode, String),
    CreateTime,
}

/// Whether librdkafka tries again by itself after this error.
pub(super) fn passes(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Code::Unknown | Code::RequestTimedOut | Code::NetworkException | Code::ThrottlingQuotaExceeded)
}

/// A partition that is read.
struct Slot {
    partition: Arc<Partition>,
    next_offset: i64,
    end_offset: Option<i64>,
    finished: bool,
    /// Whether what comes next was asked for when the partition had been read to its end.
    live: bool,
    /// Whether something of it came in this poll.
    touched: bool,
}

impl Slot {
    /// The records of a run that lie before the end.
    fn wanted<'r, 'b>(&self, run: &'r [Message<'b>]) -> &'r [Message<'b>] {
        let end = self.end_offset.unwrap_or(i64::MAX);
        &run[..run.partition_point(|message| message.offset() < end)]
    }

    /// Reports a run; or nothing of it, when it holds a record that its producer stamped and that is not accepted, whose
    /// offset is returned.
    fn hand_over(
        &mut self,
        run: &[Message<'_>],
        received: Monotonic,
        accept_create_time: bool,
        buffers: &mut Buffers,
        visit: &mut Visit<'_>,
    ) -> Result<Option<i64>> {
        let [Some(first), Some(last)] = [run.first(), run.last()] else { return Ok(None) };
        let mut headers = emptied(mem::take(&mut buffers.headers));
        let ends = &mut buffers.header_ends;
        ends.clear();
        if buffers.with_headers {
            ends.extend(run.iter().map(|message| {
                message.headers(&mut headers);
                headers.len()
            }));
        }
        let headers_of = |index: usize| match ends.get(index) {
            Some(&end) => &headers[index.checked_sub(1).map_or(0, |before| ends[before])..end],
            None => &[],
        };
        let mut records: Vec<Record<'_>> = emptied(mem::take(&mut buffers.records));
        records.extend(run.iter().enumerate().map(|(index, message)| {
            let (timestamp_ms, timestamp_kind) = message.timestamp();
            let (offset, key, value, headers) = (message.offset(), message.key(), message.value(), headers_of(index));
            Record { offset, timestamp_ms, timestamp_kind, key, value, headers, unread_headers: None }
        }));
        let unfit = |record: &&Record<'_>| record.timestamp_kind != TimestampKind::LogAppend;
        if !accept_create_time && let Some(record) = records.iter().find(unfit) {
            return Ok(Some(record.offset));
        }
        let live_from = Some(first.broker()).filter(|&broker| mem::take(&mut self.live) && broker >= 0);
        visit(SourceEvent::Records { partition: self.partition.id, records: &records, received, live_from })?;
        self.next_offset = last.offset() + 1;
        self.partition.handed_over(records.len());
        buffers.records = emptied(records);
        buffers.headers = emptied(headers);
        Ok(None)
    }

    /// Everything below `offset` was handed over or does not exist.
    fn reach(&mut self, offset: i64, visit: &mut Visit<'_>) -> Result<()> {
        self.next_offset = self.next_offset.max(offset);
        visit(SourceEvent::Position { partition: self.partition.id, next_offset: self.next_offset })
    }

    /// Finishes a bounded partition that was read to its end, or of which records `beyond` the end came.
    fn finish_if_read(&mut self, beyond: bool, visit: &mut Visit<'_>) -> Result<()> {
        let Some(end) = self.end_offset.filter(|&end| beyond || self.next_offset >= end) else { return Ok(()) };
        if self.next_offset < end {
            self.reach(end, visit)?;
        }
        self.finished = true;
        visit(SourceEvent::Finished { partition: self.partition.id })
    }
}

/// Vectors kept from run to run for their allocations; always empty in between.
#[derive(Default)]
struct Buffers {
    records: Vec<Record<'static>>,
    headers: Vec<Header<'static>>,
    /// Where each record's headers end.
    header_ends: Vec<usize>,
    /// Whether records come with their headers at all.
    with_headers: bool,
}

/// An empty vector in the allocation of another, whose items may have borrowed something else: a collect in place.
pub(super) fn emptied<A, B>(mut items: Vec<A>) -> Vec<B> {
    items.clear();
    items.into_iter().map(|_| unreachable!("the vector is empty")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_vector_keeps_its_allocation() {
        let mut records: Vec<Record<'static>> = Vec::with_capacity(100);
        let [offset, timestamp_ms] = [1, 2];
        let timestamp_kind = TimestampKind::Create;
        let (key, value, headers, unread_headers) = (None, None, &[][..], None);
        records.push(Record { offset, timestamp_ms, timestamp_kind, key, value, headers, unread_headers });
        let before = records.as_ptr();
        let after: Vec<Record<'_>> = emptied(records);
        assert_eq!((after.len(), after.capacity(), after.as_ptr()), (0, 100, before));
    }
}
