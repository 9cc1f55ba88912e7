//! `raw-consume HOST:PORT TOPIC`: reads a topic from its beginning to its end by librdkafka's batch call, with the
//! settings of tidemill's Kafka source, decodes nothing, and prints how many records there were.
//!
//! A crate of its own, so that building it in release takes seconds.
#![allow(unsafe_code, clippy::print_stdout, reason = "the batch call has no safe binding")]

use std::ffi::CString;
use std::ptr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer};

/// More than this many messages in a call gain nothing.
const BATCH: usize = 4_096;

/// How long a call may wait for its array to be full.
const WAIT_MS: i32 = 20;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [brokers, topic] = &args[..] else { bail!("usage: raw-consume HOST:PORT TOPIC") };
    println!("{}", consume(brokers, topic)?);
    Ok(())
}

fn consume(brokers: &str, topic: &str) -> Result<u64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .set("fetch.queue.backoff.ms", "1")
        .set("fetch.wait.max.ms", "50")
        .set("queued.min.messages", "100000")
        .set("queued.max.messages.kbytes", "65536")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
    ensure!(!partitions.is_empty(), "there is no topic `{topic}`");

    let name = CString::new(topic)?;
    // SAFETY: the client outlives topic and queue, which are used by this thread alone; the process ends with them.
    let (handle, queue) = unsafe {
        let client = consumer.client().native_ptr();
        (native::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut()), native::rd_kafka_queue_new(client))
    };
    ensure!(!handle.is_null(), "librdkafka makes no handle of `{topic}`");
    for partition in partitions {
        // SAFETY: as above; each partition is started once.
        let started = unsafe {
            let beginning = i64::from(native::RD_KAFKA_OFFSET_BEGINNING);
            native::rd_kafka_consume_start_queue(handle, partition.id(), beginning, queue)
        };
        ensure!(started == 0, "cannot start reading partition {}", partition.id());
    }

    let mut messages = vec![ptr::null_mut(); BATCH];
    let (mut records, mut bytes, mut touched, mut unfinished) = (0_u64, 0_usize, 0_i64, partitions.len());
    while unfinished > 0 {
        // SAFETY: the array has room for `BATCH` pointers, of which the call fills as many as it returns.
        let received = unsafe { native::rd_kafka_consume_batch_queue(queue, WAIT_MS, messages.as_mut_ptr(), BATCH) };
        for &message in &messages[..usize::try_from(received).context("librdkafka's batch call failed")?] {
            // SAFETY: a message of the batch, alive until it is destroyed, once, at the end of this block.
            unsafe {
                match (*message).err {
                    native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                        // What a consumer of any use reads: timestamp, offset, and the payload's memory (the topic's
                        // records all have one).
                        let middle = *(*message).payload.cast::<u8>().add((*message).len / 2);
                        let timestamp = native::rd_kafka_message_timestamp(message, ptr::null_mut());
                        touched = touched.wrapping_add(timestamp + (*message).offset + i64::from(middle));
                        records += 1;
                        bytes += (*message).len;
                    }
                    native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => unfinished -= 1,
                    error => bail!("librdkafka says {error:?}"),
                }
                native::rd_kafka_message_destroy(message);
            }
        }
    }
    std::hint::black_box(touched);
    ensure!(bytes > 0 || records == 0, "records without a byte");
    Ok(records)
}
