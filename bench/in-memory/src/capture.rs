//! Answers to fetches, kept as they came.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use kafka_protocol::{
    messages::{
        ApiKey, FetchRequest, RequestHeader, TopicName,
        fetch_request::{FetchPartition, FetchTopic},
    },
    protocol::{Encodable, HeaderVersion, StrBytes},
};
use tidemill_connectors::kafka::{answer::FetchAnswer, records::batches};

/// Of the fetches: the last that names topics and has no sessions.
pub(crate) const VERSION: i16 = 4;
/// Of an answer, at most, unless a single batch is larger.
const ANSWER_BYTES: i32 = 2 << 20;
/// Far above what a healthy broker takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// All of one partition.
#[derive(Clone)]
pub(crate) struct Captured {
    pub(crate) number: i32,
    /// Each without its length in front.
    pub(crate) answers: Arc<[Vec<u8>]>,
    pub(crate) records: u64,
}

/// Fetches a topic from its beginning to its end.
pub(crate) fn capture(broker: &str, topic: &str, partitions: i32) -> Result<Vec<Captured>> {
    let mut socket = TcpStream::connect(broker).with_context(|| format!("cannot reach `{broker}`"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    (0..partitions).map(|number| partition(&mut socket, topic, number)).collect()
}

fn partition(socket: &mut TcpStream, topic: &str, number: i32) -> Result<Captured> {
    let (mut next, mut answers, mut read) = (0, vec![], FetchAnswer::default());
    loop {
        let answer = ask(socket, topic, number, next)?;
        read.read(&answer, VERSION)?;
        let [partition] = &read.partitions[..] else { anyhow::bail!("an answer of other than one partition") };
        ensure!(partition.error_code == 0, "partition {number} of `{topic}`: error {}", partition.error_code);
        let records = partition.records.clone();
        let last = batches(&answer[records]).try_fold(None, |_, batch| batch.map(|batch| Some(batch.next_offset)))?;
        let Some(end) = last else {
            ensure!(next == partition.high_watermark, "partition {number} of `{topic}` ends at {next}");
            let records = u64::try_from(next)?;
            return Ok(Captured { number, answers: answers.into(), records });
        };
        next = end;
        answers.push(answer);
    }
}

fn ask(socket: &mut TcpStream, topic: &str, number: i32, offset: i64) -> Result<Vec<u8>> {
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::Fetch as i16)
        .with_request_api_version(VERSION)
        .with_client_id(Some(StrBytes::from_static_str("in-memory")));
    let partition = FetchPartition::default()
        .with_partition(number)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(ANSWER_BYTES);
    let topic = FetchTopic::default()
        .with_topic(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_bytes(ANSWER_BYTES).with_topics(vec![topic]);
    let mut frame = BytesMut::zeroed(4);
    header.encode(&mut frame, FetchRequest::header_version(VERSION))?;
    request.encode(&mut frame, VERSION)?;
    let length = i32::try_from(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    socket.write_all(&frame)?;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length))?];
    socket.read_exact(&mut answer)?;
    Ok(answer)
}
