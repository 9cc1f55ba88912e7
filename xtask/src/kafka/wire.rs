//! Requests that rdkafka has no call for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// Far above what a healthy broker takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks the broker at `host:port` over a connection of its own.
///
/// # Errors
/// When it does not answer, or not this; what the answer says is the caller's concern.
pub(super) fn ask<R: Request>(broker: &str, request: &R, version: i16) -> Result<R::Response> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(StrBytes::from_static_str("xtask")));
    let mut frame = BytesMut::zeroed(4);
    header.encode(&mut frame, R::header_version(version))?;
    request.encode(&mut frame, version)?;
    let length = i32::try_from(frame.len() - 4)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());

    let mut socket = TcpStream::connect(broker).with_context(|| format!("cannot reach `{broker}`"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(&frame)?;
    let mut length = [0; 4];
    socket.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length))?];
    socket.read_exact(&mut answer)?;
    let mut answer = Bytes::from(answer);
    ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
    let decoded = R::Response::decode(&mut answer, version)?;
    ensure!(answer.is_empty(), "the answer goes on behind its end");
    Ok(decoded)
}
