//! librdkafka's batch call: many records in one call, borrowed from its fetch buffers.
//!
//! A [`Fetcher`] is a consumer without a group that reads given partitions into one queue (librdkafka's "simple
//! consumer"); its [`Fetcher::receive`] hands over a [`MessageBatch`] that gives the buffers back when it is dropped. That
//! costs a third of a poll for each record.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char, c_void},
    ptr, slice,
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    bindings::{self as native, rd_kafka_resp_err_t as Code},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tidemill_engine::source::{Header, TimestampKind};

use super::{
    client::{Brokers, Reporter},
    config::SourceSettings,
    fault::Fault,
};

/// A consumer that reads given partitions into one queue.
pub(super) struct Fetcher {
    queue: *mut native::rd_kafka_queue_t,
    topics: Vec<Topic>,
    /// Index of the topic and partition number of what is being read.
    started: Vec<(usize, i32)>,
    /// Filled by `receive`, emptied by the batch's drop; kept for its allocation.
    messages: Vec<*mut native::rd_kafka_message_t>,
    /// The client behind all pointers above: they are released in `drop`, before it.
    consumer: Arc<BaseConsumer<Reporter>>,
}

struct Topic {
    name: CString,
    handle: *mut native::rd_kafka_topic_t,
}

// SAFETY: librdkafka's handles may be used from any thread; the queue and the messages are only touched through `&mut`.
unsafe impl Send for Fetcher {}

impl Fetcher {
    /// A client of its own; it connects in the background.
    pub(super) fn new(settings: &SourceSettings, brokers: Arc<Brokers>) -> Result<Self, Fault> {
        let consumer: BaseConsumer<Reporter> =
            settings.fetch_config().create_with_context(Reporter(brokers.clone())).map_err(Fault::Client)?;
        brokers.authenticate(consumer.client().native_ptr())?;
        // SAFETY: the client is alive; the queue is released in `drop`.
        let queue = unsafe { native::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Ok(Self { queue, topics: Vec::new(), started: Vec::new(), messages: Vec::new(), consumer: Arc::new(consumer) })
    }

    /// The client, for requests beside the fetching.
    pub(super) fn consumer(&self) -> &Arc<BaseConsumer<Reporter>> {
        &self.consumer
    }

    /// Starts reading a partition at `offset`; an offset that is not there comes back as an error message.
    pub(super) fn start(&mut self, topic: &str, number: i32, offset: i64) -> Result<(), Fault> {
        let index = self.topic(topic)?;
        // SAFETY: topic and queue belong to the living client.
        let started =
            unsafe { native::rd_kafka_consume_start_queue(self.topics[index].handle, number, offset, self.queue) };
        if started != 0 {
            return Err(last_error());
        }
        self.started.push((index, number));
        Ok(())
    }

    /// Stops reading a partition; what was fetched of it and not yet received is thrown away.
    pub(super) fn stop(&mut self, topic: &str, number: i32) {
        let found = self.started.iter().position(|&(index, n)| n == number && self.topics[index].is(topic));
        if let Some(position) = found {
            let (index, number) = self.started.swap_remove(position);
            // SAFETY: the topic belongs to the living client and the partition was started on it.
            unsafe { native::rd_kafka_consume_stop(self.topics[index].handle, number) };
        }
    }

    /// Waits at most `wait` for a first message, then takes those that are there, up to `at_most`.
    pub(super) fn receive(&mut self, at_most: usize, wait: Duration) -> MessageBatch<'_> {
        self.messages.reserve(at_most);
        // The call returns when its array is full: waiting for more than one message would hold the first ones back.
        if self.take(1, wait) == 1 {
            self.take(at_most - 1, Duration::ZERO);
        }
        MessageBatch { messages: &mut self.messages }
    }

    fn take(&mut self, at_most: usize, wait: Duration) -> usize {
        let length = self.messages.len();
        let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the vector has room for `at_most` more pointers (reserved in `receive`), of which the call writes as
        // many as it returns, or returns -1.
        unsafe {
            let room = self.messages.as_mut_ptr().add(length);
            let taken = native::rd_kafka_consume_batch_queue(self.queue, wait_ms, room, at_most);
            let taken = usize::try_from(taken).unwrap_or(0);
            self.messages.set_len(length + taken);
            taken
        }
    }

    /// The partition's high watermark in the newest fetch answer, if there was one.
    pub(super) fn log_end(&self, topic: &str, number: i32) -> Option<i64> {
        let topic = self.topics.iter().find(|t| t.is(topic))?;
        let [mut low, mut high] = [-1, -1];
        // SAFETY: the name lives; both out-parameters are ours.
        let code = unsafe {
            let client = self.consumer.client().native_ptr();
            native::rd_kafka_get_watermark_offsets(client, topic.name.as_ptr(), number, &raw mut low, &raw mut high)
        };
        (code == Code::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
    }

    fn topic(&mut self, name: &str) -> Result<usize, Fault> {
        if let Some(index) = self.topics.iter().position(|topic| topic.is(name)) {
            return Ok(index);
        }
        let name = CString::new(name).map_err(|error| Fault::Client(KafkaError::Nul(error)))?;
        // SAFETY: the client and the name are alive; without a configuration the client's default holds.
        let handle =
            unsafe { native::rd_kafka_topic_new(self.consumer.client().native_ptr(), name.as_ptr(), ptr::null_mut()) };
        if handle.is_null() {
            return Err(last_error());
        }
        self.topics.push(Topic { name, handle });
        Ok(self.topics.len() - 1)
    }
}

impl Topic {
    fn is(&self, name: &str) -> bool {
        self.name.as_bytes() == name.as_bytes()
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // SAFETY: the order that librdkafka asks for: partitions stopped, topics and queue released, then (by the field's
        // drop) the client. No message is alive: a batch borrows the fetcher.
        unsafe {
            for &(index, number) in &self.started {
                native::rd_kafka_consume_stop(self.topics[index].handle, number);
            }
            for topic in &self.topics {
                native::rd_kafka_topic_destroy(topic.handle);
            }
            native::rd_kafka_queue_destroy(self.queue);
        }
    }
}

fn last_error() -> Fault {
    // SAFETY: reads a thread-local code.
    let code = unsafe { native::rd_kafka_last_error() };
    Fault::Client(KafkaError::MessageConsumption(code.into()))
}

/// Messages of one call, in the order of their partitions. Gives the fetch buffers back when dropped.
pub(super) struct MessageBatch<'f> {
    messages: &'f mut Vec<*mut native::rd_kafka_message_t>,
}

impl MessageBatch<'_> {
    /// The messages, which live as long as the batch.
    pub(super) fn messages(&self) -> &[Message<'_>] {
        // SAFETY: `Message` is a transparent wrapper of a reference, and each pointer is a message that librdkafka gave
        // to us and that stays valid until it is destroyed in `drop`.
        unsafe { slice::from_raw_parts(self.messages.as_ptr().cast(), self.messages.len()) }
    }
}

impl Drop for MessageBatch<'_> {
    fn drop(&mut self) {
        for message in self.messages.drain(..) {
            // SAFETY: ours, and nothing borrows it any more.
            unsafe { native::rd_kafka_message_destroy(message) };
        }
    }
}

/// One message: a record, or an event of its partition.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Message<'b>(&'b native::rd_kafka_message_t);

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is a record.
    Record,
    /// The partition was read to its end; the message's offset is the next one.
    EndOfPartition,
    /// Something went wrong with the partition.
    Error(RDKafkaErrorCode, String),
}

impl<'b> Message<'b> {
    pub(super) fn said(&self) -> Said {
        match self.0.err {
            Code::RD_KAFKA_RESP_ERR_NO_ERROR => Said::Record,
            Code::RD_KAFKA_RESP_ERR__PARTITION_EOF => Said::EndOfPartition,
            code => Said::Error(code.into(), String::from_utf8_lossy(self.value().unwrap_or_default()).into_owned()),
        }
    }

    pub(super) fn is_record(&self) -> bool {
        self.0.err == Code::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    /// Whether both are of one partition.
    pub(super) fn same_partition(&self, other: &Message<'_>) -> bool {
        self.0.partition == other.0.partition && ptr::eq(self.0.rkt, other.0.rkt)
    }

    /// Name of the topic; empty for an event that belongs to none.
    pub(super) fn topic(&self) -> &'b [u8] {
        if self.0.rkt.is_null() {
            return &[];
        }
        // SAFETY: the message holds a reference to its topic, whose name is a C string that lives as long.
        unsafe { CStr::from_ptr(native::rd_kafka_topic_name(self.0.rkt)).to_bytes() }
    }

    pub(super) fn number(&self) -> i32 {
        self.0.partition
    }

    pub(super) fn offset(&self) -> i64 {
        self.0.offset
    }

    /// The broker that sent it.
    pub(super) fn broker(&self) -> i32 {
        // SAFETY: reads a field behind a valid message.
        unsafe { native::rd_kafka_message_broker_id(self.0) }
    }

    /// Milliseconds since the epoch, and who stamped them.
    pub(super) fn timestamp(&self) -> (i64, TimestampKind) {
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: reads fields behind a valid message; the out-parameter is ours.
        let timestamp_ms = unsafe { native::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        let kind = match kind {
            native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => TimestampKind::LogAppend,
            native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_CREATE_TIME => TimestampKind::Create,
            native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => TimestampKind::None,
        };
        (timestamp_ms, kind)
    }

    pub(super) fn key(&self) -> Option<&'b [u8]> {
        bytes(self.0.key, self.0.key_len)
    }

    /// The payload; of an error, its text.
    pub(super) fn value(&self) -> Option<&'b [u8]> {
        bytes(self.0.payload, self.0.len)
    }

    /// Appends the headers. A name that is not UTF-8 comes as U+FFFD.
    pub(super) fn headers(&self, headers: &mut Vec<Header<'b>>) {
        let mut list = ptr::null_mut();
        // SAFETY: the list, its names and its values belong to the message and live as long; each out-parameter is ours
        // and is set when the call returns no error.
        unsafe {
            let message = ptr::from_ref(self.0);
            if native::rd_kafka_message_headers(message, &raw mut list) != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            for index in 0.. {
                let mut name: *const c_char = ptr::null();
                let mut value: *const c_void = ptr::null();
                let mut length = 0;
                let code = native::rd_kafka_header_get_all(list, index, &raw mut name, &raw mut value, &raw mut length);
                if code != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
                    return;
                }
                let name: &'b CStr = CStr::from_ptr(name);
                headers.push(Header { name: name.to_str().unwrap_or("\u{fffd}"), value: bytes(value, length) });
            }
        }
    }
}

/// A field of a message.
fn bytes<'b>(start: *const c_void, length: usize) -> Option<&'b [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: called with fields of a message only; they live until it is destroyed, and the callers bind `'b` to that.
    Some(unsafe { slice::from_raw_parts(start.cast(), length) })
}
