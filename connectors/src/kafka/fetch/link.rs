//! A connection to one broker over which fetches go, one at a time, without blocking.
//!
//! Opening blocks, so a thread of its own does it and hands the connection over. A link that fails is opened anew, with a
//! pause that doubles up to a second; whatever it was asked for is asked again.

use std::{
    io::{self, Read, Write},
    os::fd::AsRawFd,
    sync::{
        Arc,
        mpsc::{Receiver, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use kafka_protocol::messages::FetchRequest;
use mio::{Interest, Registry, Token, unix::SourceFd};
use tidemill_engine::{Clock, Monotonic};

use super::{
    answer::FetchAnswer,
    counters::BrokerFetches,
    session::{MAX_WAIT_MS, OUTSIDE, Session},
};
use crate::kafka::{
    fault::Cause,
    wire::{Address, Connection, Parts, Protection, Transport, cause_of, frame},
};

/// How long opening may take.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// How long after its wait an answer may take: a broker that is frozen or cut off is given up then.
const ANSWER_WITHIN_US: i64 = 10_000_000 + MAX_WAIT_MS as i64 * 1_000;
/// The first pause after a failure, and the longest.
const PAUSES_US: (i64, i64) = (50_000, 1_000_000);
/// A larger answer is taken for nonsense: topics take records of up to a gigabyte, whoever sets that.
const ANSWER_LIMIT: usize = 1 << 30;
/// What is read at first of an answer of any length: memory grows with what comes, not with what is announced.
const FIRST_READ: usize = 1 << 20;
/// Bytes of the length in front of an answer.
const LENGTH: usize = 4;
/// A buffer above this is given back after a large record.
const BUFFER_KEPT: usize = 32 << 20;

/// A fetch that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// When it left.
    pub(super) at: Monotonic,
    correlation: i32,
    version: i16,
    /// Whether it is a request of the session, which is about all partitions.
    pub(super) of_session: bool,
}

/// What a link is doing.
enum State {
    Down { retry_at: Monotonic },
    Opening(Receiver<Result<Up, Cause>>),
    Up(Box<Up>),
}

/// An open connection.
struct Up {
    transport: Transport,
    version: i16,
    renew_at: Option<Monotonic>,
    unsent: BytesMut,
    /// The answer that is coming in: its length in front, then as much as `filled`.
    filled: usize,
    /// Whether the socket may have something to read.
    readable: bool,
}

/// See the module.
pub(super) struct Link {
    pub(super) node: i32,
    pub(super) session: Session,
    /// When all partitions were asked for.
    pub(super) asked_all_at: Monotonic,
    /// The last slot of which an answer had records.
    pub(super) last_read: usize,
    state: State,
    asked: Option<Asked>,
    correlation: i32,
    failures: u32,
    /// The broker wants no request before.
    quiet_until: Monotonic,
    buffer: Vec<u8>,
    counters: Arc<BrokerFetches>,
}

/// What came of looking at a link.
pub(super) enum Progress {
    /// Nothing yet.
    Waiting,
    /// It can take a request.
    Ready,
    /// It broke; what it was asked for must be asked again.
    Broke(Cause),
}

impl Link {
    pub(super) fn new(node: i32, counters: Arc<BrokerFetches>) -> Self {
        Self {
            node,
            counters,
            session: Session::default(),
            asked_all_at: Monotonic(i64::MIN),
            last_read: 0,
            state: State::Down { retry_at: Monotonic(i64::MIN) },
            asked: None,
            correlation: 0,
            failures: 0,
            quiet_until: Monotonic(i64::MIN),
            buffer: Vec::new(),
        }
    }

    /// Opens what is closed, gives up what does not answer.
    pub(super) fn advance(
        &mut self,
        address: Option<&Address>,
        protection: &Protection,
        clock: &Arc<dyn Clock>,
        registry: &Registry,
    ) -> Progress {
        let now = clock.monotonic();
        match &mut self.state {
            State::Down { retry_at } if now >= *retry_at => match address {
                Some(address) => {
                    self.state = State::Opening(open(address.clone(), protection.clone(), Arc::clone(clock)));
                    Progress::Waiting
                }
                None => Progress::Waiting,
            },
            State::Down { .. } => Progress::Waiting,
            State::Opening(opened) => match opened.try_recv() {
                Ok(Ok(up)) => self.use_connection(up, registry),
                Ok(Err(cause)) => self.fail(cause, now),
                Err(TryRecvError::Empty) => Progress::Waiting,
                Err(TryRecvError::Disconnected) => self.fail(Cause::Disconnected, now),
            },
            State::Up(up) => {
                if let Err(error) = up.send() {
                    return self.fail(cause_of(&error), now);
                }
                match self.asked {
                    Some(asked) if now.0 - asked.at.0 > ANSWER_WITHIN_US => self.fail(Cause::NoAnswer, now),
                    Some(_) => Progress::Waiting,
                    None if up.renew_at.is_some_and(|renew_at| now >= renew_at) => {
                        // Between two fetches nothing is lost by going over to a new connection.
                        self.session.reset();
                        self.state = State::Down { retry_at: now };
                        Progress::Waiting
                    }
                    None if now < self.quiet_until => Progress::Waiting,
                    None => Progress::Ready,
                }
            }
        }
    }

    fn use_connection(&mut self, up: Up, registry: &Registry) -> Progress {
        let token = Token(usize::try_from(self.node).unwrap_or(usize::MAX));
        let fd = up.transport.as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = registry.register(&mut SourceFd(&fd), token, interest) {
            return Progress::Broke(cause_of(&error));
        }
        self.state = State::Up(Box::new(up));
        Progress::Ready
    }

    /// The connection is of no use: it is opened anew after a pause.
    pub(super) fn fail(&mut self, cause: Cause, now: Monotonic) -> Progress {
        let pause = PAUSES_US.0.saturating_mul(1 << self.failures.min(10)).min(PAUSES_US.1);
        self.failures += 1;
        self.counters.failed();
        self.state = State::Down { retry_at: Monotonic(now.0.saturating_add(pause)) };
        self.drop_request();
        self.session.reset();
        Progress::Broke(cause)
    }

    /// What was asked will not be answered.
    fn drop_request(&mut self) {
        if self.asked.take().is_some() {
            self.counters.dropped();
        }
    }

    /// Sends a fetch. Only when [`Progress::Ready`].
    pub(super) fn ask(&mut self, request: &FetchRequest, version: i16, now: Monotonic) -> Result<(), Cause> {
        let State::Up(up) = &mut self.state else { return Ok(()) };
        self.correlation = self.correlation.wrapping_add(1);
        up.unsent.extend_from_slice(&frame(request, version, self.correlation)?);
        let of_session = request.session_epoch != OUTSIDE;
        if of_session {
            self.asked_all_at = now;
        }
        self.asked = Some(Asked { at: now, correlation: self.correlation, version, of_session });
        self.counters.asked();
        up.send().map_err(|error| cause_of(&error))
    }

    /// The version of a fetch that the broker takes; `None` while it is not known.
    pub(super) fn version(&self) -> Option<i16> {
        match &self.state {
            State::Up(up) => Some(up.version),
            State::Down { .. } | State::Opening(_) => None,
        }
    }

    /// The socket has news.
    pub(super) fn set_readable(&mut self) {
        if let State::Up(up) = &mut self.state {
            up.readable = true;
        }
    }

    /// Reads what is there. Gives a whole answer and the request that it is for; the buffer must come back by
    /// [`Link::give_back`].
    pub(super) fn receive(&mut self, clock: &dyn Clock) -> Result<Option<(Received, Asked)>, Cause> {
        let State::Up(up) = &mut self.state else { return Ok(None) };
        if !up.readable || !up.read_answer(&mut self.buffer)? {
            return Ok(None);
        }
        let Some(asked) = self.asked.take() else {
            return Err(Cause::Unnamed("it answered what was not asked".to_owned()));
        };
        self.failures = 0;
        let received = Received { buffer: std::mem::take(&mut self.buffer), end: std::mem::take(&mut up.filled) };
        self.counters.answered(received.end, clock.monotonic().0 - asked.at.0);
        Ok(Some((received, asked)))
    }

    /// Reads an answer's frame into `answer`, and holds it against the request.
    pub(super) fn accept(
        &mut self,
        bytes: &[u8],
        asked: Asked,
        now: Monotonic,
        answer: &mut FetchAnswer,
    ) -> Result<(), Cause> {
        answer.read(bytes, asked.version).map_err(|bad| Cause::Unnamed(bad.to_string()))?;
        if answer.correlation != asked.correlation {
            return Err(Cause::Unnamed("it answered another fetch than the one sent".to_owned()));
        }
        self.quiet_until = Monotonic(now.0.saturating_add(i64::from(answer.throttle_ms.max(0)) * 1_000));
        Ok(())
    }

    /// A whole request was refused: the next one begins anew, after a pause.
    pub(super) fn refused(&mut self, now: Monotonic) {
        self.session.reset();
        self.quiet_until = self.quiet_until.max(Monotonic(now.0.saturating_add(PAUSES_US.0)));
    }

    /// Takes the buffer of an answer back.
    pub(super) fn give_back(&mut self, Received { buffer, .. }: Received) {
        if buffer.capacity() <= BUFFER_KEPT {
            self.buffer = buffer;
        }
    }

    /// Whether the next request may leave now.
    pub(super) fn may_ask(&self, now: Monotonic) -> bool {
        matches!(self.state, State::Up(_)) && self.asked.is_none() && now >= self.quiet_until
    }
}

/// An answer as it came, in the buffer of its link.
pub(super) struct Received {
    /// Longer than the answer: room that is not cleared each time.
    buffer: Vec<u8>,
    end: usize,
}

impl Received {
    /// The answer, without its length.
    pub(super) fn answer(&self) -> &[u8] {
        &self.buffer[LENGTH..self.end]
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.drop_request();
    }
}

impl Up {
    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.transport.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.unsent.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.transport.has_unsent() {
            match self.transport.flush() {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads on until the answer is whole (true) or the socket has nothing more.
    fn read_answer(&mut self, buffer: &mut Vec<u8>) -> Result<bool, Cause> {
        loop {
            let wanted = match buffer.first_chunk::<LENGTH>() {
                Some(length) if self.filled >= LENGTH => {
                    let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                    if length > ANSWER_LIMIT {
                        return Err(Cause::Unnamed(format!("it announced an answer of {length} bytes")));
                    }
                    LENGTH + length
                }
                _ => LENGTH,
            };
            if self.filled == wanted && wanted > LENGTH {
                return Ok(true);
            }
            let end = wanted.min((2 * self.filled).max(FIRST_READ));
            if buffer.len() < end {
                buffer.resize(end, 0);
            }
            match self.transport.read(&mut buffer[self.filled..end]) {
                Ok(0) => return Err(Cause::Disconnected),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(cause_of(&error)),
            }
        }
    }
}

/// Opens a connection in a thread of its own.
fn open(address: Address, protection: Protection, clock: Arc<dyn Clock>) -> Receiver<Result<Up, Cause>> {
    let (sender, receiver) = sync_channel(1);
    let body = move || {
        let opened = Connection::open(&address, &protection, &clock, OPEN_WITHIN).and_then(|connection| {
            let Parts { transport, fetch_version: version, renew_at } = connection.into_parts();
            transport.set_nonblocking().map_err(|error| cause_of(&error))?;
            Ok(Up { transport, version, renew_at, unsent: BytesMut::new(), filled: 0, readable: true })
        });
        let _ = sender.send(opened); // the source may be gone
    };
    // Without a thread the receiver is disconnected at once, which counts as a failure and is tried again.
    let _ = thread::Builder::new().name("kafka-open".to_owned()).spawn(body);
    receiver
}
