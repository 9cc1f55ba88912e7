//! A byte stream to a broker: TCP, with or without TLS.

use std::{
    io::{self, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, InvalidMessage, RootCertStore, Stream,
    pki_types::ServerName,
};
use socket2::{SockRef, TcpKeepalive};

use super::Address;
use crate::kafka::fault::Cause;

/// After how long a silent connection is probed, so that a peer that vanished is noticed while nothing is asked of it.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What is read from a socket under TLS at once: rustls asks for 4 KiB at a time, each of which would be a system call.
const TLS_READ: usize = 128 << 10;

/// See the module.
pub(in crate::kafka) struct Transport {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
}

/// Reads ahead, where it is asked to; writes at once.
struct Socket(BufReader<TcpStream>);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.get_mut().flush()
    }
}

impl Transport {
    /// Connects and, with `tls`, shakes hands. Blocking; each step may take as long as `left` says is left.
    pub(in crate::kafka) fn open(
        address: &Address,
        tls: Option<&Arc<ClientConfig>>,
        left: &dyn Fn() -> Duration,
    ) -> Result<Self, Cause> {
        let found = (address.host.as_str(), address.port).to_socket_addrs().map_err(|_| Cause::Unresolved)?;
        let mut failure = Cause::Unresolved;
        let mut socket = None;
        for candidate in found {
            match TcpStream::connect_timeout(&candidate, nonzero(left())) {
                Ok(connected) => {
                    socket = Some(connected);
                    break;
                }
                Err(error) => failure = cause_of(&error),
            }
        }
        let socket = socket.ok_or(failure)?;
        let prepare = || {
            socket.set_nodelay(true)?;
            SockRef::from(&socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
        };
        prepare().map_err(|error| cause_of(&error))?;
        let read_ahead = if tls.is_some() { TLS_READ } else { 0 };
        let mut transport = Self { socket: Socket(BufReader::with_capacity(read_ahead, socket)), tls: None };
        if let Some(config) = tls {
            let name = ServerName::try_from(address.host.clone())
                .map_err(|_| Cause::Unnamed(format!("`{}` is no host name for TLS", address.host)))?;
            let mut connection =
                ClientConnection::new(Arc::clone(config), name).map_err(|error| Cause::Unnamed(error.to_string()))?;
            transport.wait_at_most(left())?;
            while connection.is_handshaking() {
                connection.complete_io(&mut transport.socket).map_err(|error| handshake_cause(&error))?;
            }
            transport.tls = Some(Box::new(connection));
        }
        Ok(transport)
    }

    /// How long a blocking read or write may take from now on.
    pub(super) fn wait_at_most(&self, wait: Duration) -> Result<(), Cause> {
        let set = || {
            self.tcp().set_read_timeout(Some(nonzero(wait)))?;
            self.tcp().set_write_timeout(Some(nonzero(wait)))
        };
        set().map_err(|error| cause_of(&error))
    }

    /// From now on reads and writes return at once, with `WouldBlock` when there is nothing to do.
    pub(in crate::kafka) fn set_nonblocking(&self) -> io::Result<()> {
        self.tcp().set_nonblocking(true)
    }

    fn tcp(&self) -> &TcpStream {
        self.socket.0.get_ref()
    }

    /// Whether bytes that were written wait for the socket.
    pub(in crate::kafka) fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }
}

impl AsRawFd for Transport {
    fn as_raw_fd(&self) -> RawFd {
        self.tcp().as_raw_fd()
    }
}

impl Read for Transport {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => Stream::new(&mut **tls, &mut self.socket).read(buffer),
        }
    }
}

impl Write for Transport {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.write(buffer),
            Some(tls) => Stream::new(&mut **tls, &mut self.socket).write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => self.socket.flush(),
            Some(tls) => Stream::new(&mut **tls, &mut self.socket).flush(),
        }
    }
}

/// Whether a listener answers a greeting of TLS in kind. The handshake is not gone through: nobody is trusted.
pub(in crate::kafka) fn speaks_tls(broker: &str, within: Duration) -> bool {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let Ok(builder) = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions() else {
        return false;
    };
    let config = builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let opened = Transport::open(&Address::parse(broker), Some(&Arc::new(config)), &|| within);
    matches!(
        opened,
        Err(Cause::UnknownIssuer
            | Cause::WrongName(_)
            | Cause::CertificateExpired
            | Cause::CertificateNotYetValid
            | Cause::CertificateWanted)
    )
}

/// A socket takes no time-out of zero.
fn nonzero(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(1))
}

/// Why reading or writing failed.
pub(in crate::kafka) fn cause_of(error: &io::Error) -> Cause {
    use io::ErrorKind as Kind;
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return tls_cause(tls);
    }
    match error.kind() {
        Kind::ConnectionRefused => Cause::Refused,
        Kind::TimedOut | Kind::WouldBlock => Cause::NoAnswer,
        Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => Cause::Disconnected,
        _ => Cause::Unnamed(error.to_string()),
    }
}

/// As [`cause_of`], during the handshake: a plain-text listener takes our greeting for a length it does not like and closes.
fn handshake_cause(error: &io::Error) -> Cause {
    match cause_of(error) {
        Cause::Disconnected => Cause::PlaintextListener,
        cause => cause,
    }
}

fn tls_cause(error: &rustls::Error) -> Cause {
    use AlertDescription as Alert;
    use CertificateError as Certificate;
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            Certificate::UnknownIssuer => Cause::UnknownIssuer,
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                Cause::WrongName(certificate.to_string())
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => Cause::CertificateExpired,
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => Cause::CertificateNotYetValid,
            other => Cause::Unnamed(format!("its certificate is not accepted: {other}")),
        },
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::UnsupportedCertificate
            | Alert::HandshakeFailure,
        ) => Cause::CertificateWanted,
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Cause::PlaintextListener,
        other => Cause::Unnamed(format!("TLS: {other}")),
    }
}
