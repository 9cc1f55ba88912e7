//! A broker of one topic, `t`, with one partition, that answers as it is told: every error in every place, and hostile bytes.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeConfigsRequest, DescribeConfigsResponse,
        FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
        ResponseHeader, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse,
        TopicName,
        api_versions_response::ApiVersion,
        describe_configs_response::DescribeConfigsResult,
        fetch_response::{FetchableTopicResponse, PartitionData},
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
        metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    },
    protocol::{Encodable, HeaderVersion, Request, StrBytes, VersionRange, decode_request_header_from_buffer},
};
use uuid::Uuid;

use crate::kafka::records::tests::{batch, body, old_message};

const TOPIC_ID: Uuid = Uuid::from_u128(77);
/// How long a fetch waits for records that are not there.
const PAUSE: Duration = Duration::from_millis(5);

/// Where in an answer an error stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Whole,
    Topic,
    Partition,
}

/// See the module. It goes when it is dropped.
pub(super) struct Scripted {
    pub(super) address: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    log: Mutex<Vec<Bytes>>,
    /// By request: where, which code, and how many answers still have it.
    errors: Mutex<HashMap<ApiKey, (Place, i16, usize)>>,
}

impl Scripted {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap().to_string(), Arc::<State>::default());
        let (port, shared) = (listener.local_addr().unwrap().port(), Arc::clone(&state));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if shared.ended.load(SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || while serve(&socket, port, &shared).is_some() {});
            }
        });
        Self { address, state }
    }

    /// The next `times` answers to this request have this error.
    pub(super) fn answer(&self, request: ApiKey, place: Place, code: i16, times: usize) {
        self.state.errors.lock().unwrap().insert(request, (place, code, times));
    }

    /// Appends a record, in a batch of its own.
    pub(super) fn append(&self, value: &str) {
        let body = body(&[(0, None, Some(value.as_bytes().to_vec()), vec![])]);
        let mut log = self.state.log.lock().unwrap();
        let offset = log.len() as i64;
        log.push(batch(offset, 0, 1, -1, &body).into());
    }

    /// Appends a record as Kafka before 0.11 wrote it.
    pub(super) fn append_old(&self, value: &str) {
        let mut log = self.state.log.lock().unwrap();
        let bytes = old_message(1, log.len() as i64, 0, 1_000, value.as_bytes());
        log.push(bytes.into());
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.state.ended.store(true, SeqCst);
        let _ = TcpStream::connect(&self.address); // wakes the listener
    }
}

/// Answers one request; `None` ends the connection.
fn serve(mut socket: &TcpStream, port: u16, state: &State) -> Option<()> {
    let mut length = [0; 4];
    socket.read_exact(&mut length).ok()?;
    let mut request = vec![0; u32::from_be_bytes(length) as usize];
    socket.read_exact(&mut request).ok()?;
    if state.ended.load(SeqCst) {
        return None;
    }
    let mut request = Bytes::from(request);
    let header = decode_request_header_from_buffer(&mut request).ok()?;
    let (version, correlation) = (header.request_api_version, header.correlation_id);
    let key = ApiKey::try_from(header.request_api_key).ok()?;
    let error = |place| state.error(key, place);
    let answer = match key {
        ApiKey::ApiVersions => reply::<ApiVersionsRequest>(&mut request, version, correlation, |_| api_versions(error)),
        ApiKey::Metadata => {
            reply::<MetadataRequest>(&mut request, version, correlation, |_| metadata(version, port, error))
        }
        ApiKey::ListOffsets => {
            reply::<ListOffsetsRequest>(&mut request, version, correlation, |asked| list_offsets(&asked, state, error))
        }
        ApiKey::DescribeConfigs => {
            reply::<DescribeConfigsRequest>(&mut request, version, correlation, |_| describe_configs(error))
        }
        ApiKey::Fetch => reply::<FetchRequest>(&mut request, version, correlation, |asked| fetch(&asked, state, error)),
        ApiKey::SaslHandshake => reply::<SaslHandshakeRequest>(&mut request, version, correlation, |_| {
            let mechanisms = vec![StrBytes::from_static_str("PLAIN")];
            SaslHandshakeResponse::default().with_error_code(error(Place::Whole)).with_mechanisms(mechanisms)
        }),
        ApiKey::SaslAuthenticate => reply::<SaslAuthenticateRequest>(&mut request, version, correlation, |_| {
            SaslAuthenticateResponse::default().with_error_code(error(Place::Whole))
        }),
        _ => return None,
    };
    socket.write_all(&answer).ok()
}

impl State {
    /// The error that an answer to this request is to have in this place; 0: none.
    fn error(&self, key: ApiKey, place: Place) -> i16 {
        match self.errors.lock().unwrap().get_mut(&key) {
            Some((wanted, code, times @ 1..)) if *wanted == place => {
                *times -= 1;
                *code
            }
            _ => 0,
        }
    }
}

/// An answer with its length in front.
fn reply<R: Request>(
    request: &mut Bytes,
    version: i16,
    correlation: i32,
    answer: impl FnOnce(R) -> R::Response,
) -> BytesMut {
    let answer = answer(R::decode(request, version).unwrap());
    let mut frame = BytesMut::zeroed(4);
    let header = ResponseHeader::default().with_correlation_id(correlation);
    header.encode(&mut frame, R::Response::header_version(version)).unwrap();
    answer.encode(&mut frame, version).unwrap();
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

fn api_versions(error: impl Fn(Place) -> i16) -> ApiVersionsResponse {
    let spoken = [
        (ApiKey::ApiVersions, VersionRange { min: 0, max: 3 }),
        (ApiKey::Metadata, VersionRange { min: 0, max: 13 }),
        (ApiKey::ListOffsets, VersionRange { min: 1, max: 7 }),
        (ApiKey::DescribeConfigs, VersionRange { min: 1, max: 4 }),
        (ApiKey::Fetch, VersionRange { min: 4, max: 16 }),
        (ApiKey::SaslHandshake, VersionRange { min: 0, max: 1 }),
        (ApiKey::SaslAuthenticate, VersionRange { min: 0, max: 2 }),
    ];
    let api = |(key, range): (ApiKey, VersionRange)| {
        ApiVersion::default().with_api_key(key as i16).with_min_version(range.min).with_max_version(range.max)
    };
    ApiVersionsResponse::default()
        .with_error_code(error(Place::Whole))
        .with_api_keys(spoken.into_iter().map(api).collect())
}

fn topic_name() -> TopicName {
    TopicName(StrBytes::from_static_str("t"))
}

fn metadata(version: i16, port: u16, error: impl Fn(Place) -> i16) -> MetadataResponse {
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(1))
        .with_host(StrBytes::from_static_str("127.0.0.1"))
        .with_port(i32::from(port));
    let whole = if version >= 13 { error(Place::Whole) } else { 0 };
    let (of_topic, of_partition) = (error(Place::Topic), error(Place::Partition));
    let partition = MetadataResponsePartition::default()
        .with_error_code(of_partition)
        .with_leader_id(BrokerId(if of_partition == 0 { 1 } else { -1 }))
        .with_leader_epoch(3);
    let topic = MetadataResponseTopic::default()
        .with_error_code(of_topic)
        .with_name(Some(topic_name()))
        .with_topic_id(TOPIC_ID)
        .with_partitions(if of_topic == 0 { vec![partition] } else { vec![] });
    MetadataResponse::default().with_error_code(whole).with_brokers(vec![broker]).with_topics(vec![topic])
}

fn list_offsets(asked: &ListOffsetsRequest, state: &State, error: impl Fn(Place) -> i16) -> ListOffsetsResponse {
    let question = asked.topics[0].partitions[0].timestamp;
    let end = state.log.lock().unwrap().len() as i64;
    let partition = ListOffsetsPartitionResponse::default()
        .with_error_code(error(Place::Partition))
        .with_offset(if question == -2 { 0 } else { end });
    let topic = ListOffsetsTopicResponse::default().with_name(topic_name()).with_partitions(vec![partition]);
    ListOffsetsResponse::default().with_topics(vec![topic])
}

fn describe_configs(error: impl Fn(Place) -> i16) -> DescribeConfigsResponse {
    let result = DescribeConfigsResult::default()
        .with_error_code(error(Place::Topic))
        .with_resource_type(2)
        .with_resource_name(StrBytes::from_static_str("t"));
    DescribeConfigsResponse::default().with_results(vec![result])
}

fn fetch(asked: &FetchRequest, state: &State, error: impl Fn(Place) -> i16) -> FetchResponse {
    let whole = error(Place::Whole);
    let Some(from) = asked.topics.first().and_then(|topic| topic.partitions.first()) else {
        return FetchResponse::default().with_error_code(whole);
    };
    let (code, log) = (error(Place::Partition), state.log.lock().unwrap().clone());
    let next = usize::try_from(from.fetch_offset).unwrap().min(log.len());
    let records = if whole == 0 && code == 0 { log[next..].concat() } else { vec![] };
    if records.is_empty() {
        thread::sleep(PAUSE);
    }
    let partition = PartitionData::default()
        .with_error_code(code)
        .with_high_watermark(log.len() as i64)
        .with_last_stable_offset(log.len() as i64)
        .with_preferred_read_replica(BrokerId(-1))
        .with_records(Some(records.into()));
    let topic = FetchableTopicResponse::default()
        .with_topic(topic_name())
        .with_topic_id(TOPIC_ID)
        .with_partitions(vec![partition]);
    FetchResponse::default().with_error_code(whole).with_responses(if whole == 0 { vec![topic] } else { vec![] })
}
