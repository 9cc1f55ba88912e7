//! A connection to one broker: opened, authenticated, its versions agreed on, then asked.
//!
//! It is opened and asked in blocking mode ([`Connection::ask`]); the fetch path then takes it over with
//! [`Connection::into_parts`] and drives it without blocking.

use std::{
    collections::HashMap,
    io::{Read, Write},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    error::ResponseError,
    messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, FetchRequest, RequestHeader, ResponseHeader},
    protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes, VersionRange},
};
use tidemill_engine::{Clock, Monotonic};

use super::{
    Address, Protection, Transport,
    measure::{self, Measured},
    sasl,
    transport::cause_of,
};
use crate::kafka::{answer::FETCH_VERSIONS, fault::Cause};

/// Our name in the brokers' logs and quotas.
pub(in crate::kafka) const CLIENT_ID: &str = "tidemill";
/// An answer to one of our questions is smaller than this: a hundred thousand partitions take some MiB.
const ANSWER_LIMIT: usize = 64 << 20;
/// The version of `ApiVersions` that every broker answers.
const FIRST_VERSION: i16 = 0;
/// The share of a session's life after which it is renewed, in per cent: soon enough for a slow handshake.
const RENEW_AT_PERCENT: i64 = 80;

/// What a broker speaks: by request, its lowest and highest version.
#[derive(Clone, Debug, Default)]
struct Versions(HashMap<i16, (i16, i16)>);

impl Versions {
    /// The highest version of a request that both sides speak.
    ///
    /// # Errors
    /// When there is none: [`Cause::TooOld`].
    fn of<R: Request>(&self, ours: VersionRange) -> Result<i16, Cause> {
        let (low, high) = self.0.get(&R::KEY).copied().unwrap_or((0, -1));
        let version = high.min(ours.max);
        if version >= low.max(ours.min) {
            return Ok(version);
        }
        let request = ApiKey::try_from(R::KEY).map_or_else(|()| R::KEY.to_string(), |key| format!("{key:?}"));
        Err(Cause::TooOld { request, offered: (low, high), needed: (ours.min, ours.max) })
    }
}

/// See the module.
pub(in crate::kafka) struct Connection {
    transport: Transport,
    versions: Versions,
    correlation: i32,
    clock: Arc<dyn Clock>,
    deadline: Monotonic,
    renew_at: Option<Monotonic>,
    fetch_version: i16,
}

/// A connection that somebody else drives from now on.
pub(in crate::kafka) struct Parts {
    /// The byte stream.
    pub(in crate::kafka) transport: Transport,
    /// The version of a fetch that the broker takes.
    pub(in crate::kafka) fetch_version: i16,
    /// When its authentication should be renewed, by a new connection.
    pub(in crate::kafka) renew_at: Option<Monotonic>,
}

impl Connection {
    /// Opens a connection within `within`: TCP, TLS, versions, authentication.
    ///
    /// # Errors
    /// The cause by name; [`Cause::TooOld`] when the broker knows no fetch that we do.
    pub(in crate::kafka) fn open(
        address: &Address,
        protection: &Protection,
        clock: &Arc<dyn Clock>,
        within: Duration,
    ) -> Result<Self, Cause> {
        let deadline = after(clock.monotonic(), within);
        let left = || time_left(clock.as_ref(), deadline);
        let transport = Transport::open(address, protection.tls.as_ref(), &left)?;
        let mut connection = Self {
            transport,
            versions: Versions::default(),
            correlation: 0,
            clock: Arc::clone(clock),
            deadline,
            renew_at: None,
            fetch_version: 0,
        };
        connection.agree_on_versions().map_err(|cause| match cause {
            Cause::Disconnected => Cause::WrongProtocol,
            cause => cause,
        })?;
        connection.fetch_version = connection.versions.of::<FetchRequest>(FETCH_VERSIONS)?;
        if let Some(credentials) = &protection.sasl {
            let lifetime_ms = sasl::authenticate(&mut connection, credentials)?;
            let renew_in = lifetime_ms.saturating_mul(1_000) / 100 * RENEW_AT_PERCENT;
            connection.renew_at = (lifetime_ms > 0).then(|| Monotonic(clock.monotonic().0.saturating_add(renew_in)));
        }
        Ok(connection)
    }

    /// How long the questions from now on may take together.
    pub(in crate::kafka) fn within(&mut self, within: Duration) -> &mut Self {
        self.deadline = after(self.clock.monotonic(), within);
        self
    }

    /// Asks a question in the highest version that both sides speak.
    ///
    /// # Errors
    /// The cause by name; the connection is of no use afterwards.
    pub(super) fn ask<R: Measured>(&mut self, request: &R) -> Result<R::Response, Cause> {
        // A question that cannot be asked is no fault of the connection.
        let version = self.versions.of::<R>(R::VERSIONS).map_err(malformed)?;
        self.ask_in(request, version)
    }

    /// The version in which [`Connection::ask`] asks.
    ///
    /// # Errors
    /// When both sides speak none.
    pub(super) fn version<R: Measured>(&self) -> Result<i16, Cause> {
        self.versions.of::<R>(R::VERSIONS)
    }

    fn ask_in<R: Measured>(&mut self, request: &R, version: i16) -> Result<R::Response, Cause> {
        self.correlation = self.correlation.wrapping_add(1);
        let frame = frame(request, version, self.correlation)?;
        self.transport.wait_at_most(time_left(self.clock.as_ref(), self.deadline))?;
        self.transport.write_all(&frame).and_then(|()| self.transport.flush()).map_err(|error| cause_of(&error))?;
        let mut length = [0; 4];
        self.read(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > ANSWER_LIMIT {
            return Err(Cause::WrongProtocol); // no Kafka broker: the length is text, or a TLS alert
        }
        let mut answer = vec![0; length];
        self.read(&mut answer)?;
        let mut answer = Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version)).map_err(malformed)?;
        if header.correlation_id != self.correlation {
            return Err(Cause::Unnamed("it answered another question than the one asked".to_owned()));
        }
        measure::check::<R>(&answer, version).map_err(malformed)?;
        R::Response::decode(&mut answer, version).map_err(malformed)
    }

    /// Fills the buffer, within the deadline: a peer that sends a byte now and then does not hold us up.
    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Cause> {
        let mut filled = 0;
        while filled < buffer.len() {
            let left = time_left(self.clock.as_ref(), self.deadline);
            if left.is_zero() {
                return Err(Cause::NoAnswer);
            }
            self.transport.wait_at_most(left)?;
            match self.transport.read(&mut buffer[filled..]) {
                Ok(0) => return Err(Cause::Disconnected),
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cause_of(&error)),
            }
        }
        Ok(())
    }

    fn agree_on_versions(&mut self) -> Result<(), Cause> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str(CLIENT_ID))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        // Version 3 is known since Kafka 2.4; an older broker answers it with an error, in the first version.
        let answer = match self.ask_in(&request, 3) {
            Ok(answer) if answer.error_code == 0 => answer,
            Ok(_) | Err(Cause::Unnamed(_)) => self.ask_in(&ApiVersionsRequest::default(), FIRST_VERSION)?,
            Err(cause) => return Err(cause),
        };
        if let Some(error) = ResponseError::try_from_code(answer.error_code) {
            return Err(Cause::Answered(error));
        }
        self.versions = versions(&answer);
        Ok(())
    }

    /// When the authentication should be renewed.
    pub(in crate::kafka) fn is_stale(&self) -> bool {
        self.renew_at.is_some_and(|renew_at| self.clock.monotonic() >= renew_at)
    }

    /// Gives the connection away.
    pub(in crate::kafka) fn into_parts(self) -> Parts {
        Parts { transport: self.transport, fetch_version: self.fetch_version, renew_at: self.renew_at }
    }
}

fn versions(answer: &ApiVersionsResponse) -> Versions {
    Versions(answer.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect())
}

/// A request as it goes over the wire, with its length in front.
pub(in crate::kafka) fn frame<R: Request>(request: &R, version: i16, correlation: i32) -> Result<BytesMut, Cause> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
    let mut frame = BytesMut::zeroed(4);
    header.encode(&mut frame, R::header_version(version)).map_err(malformed)?;
    request.encode(&mut frame, version).map_err(malformed)?;
    let length = i32::try_from(frame.len() - 4).map_err(malformed)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in `map_err`")]
fn malformed(error: impl ToString) -> Cause {
    Cause::Unnamed(error.to_string())
}

fn after(now: Monotonic, within: Duration) -> Monotonic {
    Monotonic(now.0.saturating_add(i64::try_from(within.as_micros()).unwrap_or(i64::MAX)))
}

fn time_left(clock: &dyn Clock, deadline: Monotonic) -> Duration {
    Duration::from_micros(u64::try_from(deadline.0.saturating_sub(clock.monotonic().0)).unwrap_or(0))
}
