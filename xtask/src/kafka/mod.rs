//! A real Apache Kafka for tests and benches: one node in KRaft mode, one JVM, on free ports of the loopback; or three of them,
//! [`Cluster`].
//!
//! Its jars come from Maven Central, once, into the user's cache (`TIDEMILL_KAFKA_LIBS` names another directory that
//! holds them). It takes some 5 s to start and 500 MB, so a test process shares one, [`shared`], and each test makes
//! topics of its own. A broker ends with its owner however that ends, a SIGKILL included, and leaves nothing behind.
//!
//! It has a listener for each way to secure connections ([`Listener`]), with certificates made for it ([`Certificates`]).
//! Who comes without a name, `alice`, and the client certificate's owner may do everything; `bob` only what
//! [`Broker::allow`] says.
//!
//! ```no_run
//! use xtask::kafka::{Record, shared};
//!
//! let kafka = shared();
//! kafka.create_topic("clicks", 4, &[])?;
//! kafka.produce("clicks", (0..1_000).map(|i| Record::new(i % 4, format!(r#"{{"i":{i}}}"#))))?;
//! assert_eq!(kafka.read("clicks")?.len(), 1_000);
//! # anyhow::Ok(())
//! ```

mod acl;
mod admin;
mod cluster;
mod jars;
mod listeners;
mod proxy;
mod records;
mod security;
mod server;
mod wire;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::Result;
use rdkafka::ClientConfig;

pub use self::acl::{Operation, Resource};
pub use self::cluster::Cluster;
pub use self::jars::Version;
pub use self::listeners::Listener;
pub use self::proxy::Proxy;
pub use self::records::Record;
pub use self::security::{Certificates, PASSWORD, unsigned_token};
use self::server::{Node, Server};

/// How a broker differs from the usual one.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Whether the broker stamps records itself, unless a topic says otherwise. Kafka's own default is CreateTime;
    /// here it is LogAppendTime, as tidemill wants it.
    pub log_append_time: bool,
    /// Which release.
    pub version: Version,
    /// Whether it has all listeners; otherwise, and before 3.0, only the one without security.
    pub secured: bool,
    /// MiB that its JVM may take for objects.
    pub heap_mib: u32,
    /// Whether its JVM optimises for a long run. Tests are over before that pays, and need the cores themselves.
    pub long_run: bool,
    /// Further lines of `server.properties`; they win over ours.
    pub properties: Vec<(String, String)>,
}

impl Default for BrokerOptions {
    fn default() -> Self {
        Self {
            log_append_time: true,
            version: Version::default(),
            secured: true,
            heap_mib: 512,
            long_run: false,
            properties: Vec::new(),
        }
    }
}

/// A running broker; stopped and removed, with all its records, when dropped.
#[derive(Debug)]
pub struct Broker {
    bootstrap: String,
    server: Mutex<Server>,
}

/// The broker that all tests of this process share, started by the first that asks.
///
/// # Panics
/// When it cannot be started: a test without its Kafka has failed, not passed.
pub fn shared() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(|| Broker::start(BrokerOptions::default()).expect("the real Kafka must start"))
}

/// `cargo xtask kafka`: starts a broker, prints its address, and keeps it until the process ends.
///
/// # Errors
/// When the broker cannot be started.
pub fn serve() -> Result<()> {
    let broker = Broker::start(BrokerOptions::default())?;
    println!("{}", broker.bootstrap());
    loop {
        std::thread::park();
    }
}

impl Broker {
    /// Starts a broker and waits until it answers.
    ///
    /// # Errors
    /// When Java or the jars are missing and cannot be had, or the broker ends or does not answer within a minute; with
    /// the end of its log.
    pub fn start(options: BrokerOptions) -> Result<Self> {
        let broker = Self::of(Server::start(options, Node::alone()?)?);
        broker.wait_until_ready()?;
        Ok(broker)
    }

    /// Starts a broker with the plain listener alone, to which all clients come through a proxy: those that begin at
    /// [`Broker::bootstrap`], too, go on there.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_behind_proxy() -> Result<(Self, Proxy)> {
        let node = Node::alone()?;
        let proxy = Proxy::start(format!("127.0.0.1:{}", node.ports[Listener::Plaintext as usize]))?;
        let properties = vec![("advertised.listeners".to_owned(), format!("PLAINTEXT://{}", proxy.address()))];
        let options = BrokerOptions { secured: false, properties, ..BrokerOptions::default() };
        let broker = Self::of(Server::start(options, node)?);
        broker.wait_until_ready()?;
        Ok((broker, proxy))
    }

    fn of(server: Server) -> Self {
        Self { bootstrap: server.address(Listener::Plaintext), server: Mutex::new(server) }
    }

    /// `host:port` of its listener without security.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// `host:port` of a listener.
    pub fn address(&self, listener: Listener) -> String {
        self.server().address(listener)
    }

    /// Whether it has all listeners, or only the one without security.
    pub fn is_secured(&self) -> bool {
        self.server().is_secured()
    }

    /// Whether topics may have message formats from before 0.11.
    pub fn writes_old_formats(&self) -> bool {
        self.server().version() == Version::V2_8
    }

    /// The certificates and keys of its listeners and their clients.
    pub fn certificates(&self) -> Certificates {
        Certificates::in_directory(self.server().directory())
    }

    /// Stops the whole process where it stands (SIGSTOP): connections stay open and nothing answers.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn pause(&self) -> Result<()> {
        self.server().signal("STOP")
    }

    /// Lets a paused broker go on (SIGCONT).
    ///
    /// # Errors
    /// When there is no such process.
    pub fn resume(&self) -> Result<()> {
        self.server().signal("CONT")
    }

    /// Kills the broker (SIGKILL): connections break and new ones are refused. Its records stay for [`Broker::restart`].
    ///
    /// # Errors
    /// When there is no such process.
    pub fn kill(&self) -> Result<()> {
        self.server().kill()
    }

    /// Kills the broker unless [`Broker::kill`] did, starts it again on its records and port, and waits until it answers.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn restart(&self) -> Result<()> {
        self.server().restart()?;
        self.wait_until_ready()
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client's settings: this broker, and soon again at it after a fault.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap).set("reconnect.backoff.max.ms", "200");
        config
    }
}

#[cfg(test)]
mod tests;
