//! The broker's process and its directory.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tempfile::TempDir;

use super::{BrokerOptions, Version, jars, listeners::Listener, security};
use crate::keeper::{Kept, free_ports};

/// The name of its settings in its directory.
const SETTINGS: &str = "server.properties";
/// The name of its log there.
const LOG: &str = "broker.log";

/// A broker's place in its cluster.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Its number, from 1.
    pub(super) id: u32,
    /// Of each listener.
    pub(super) ports: [u16; Listener::ALL.len()],
    /// Node 1 is the controller too, and listens to the others here; before KRaft that is ZooKeeper's.
    pub(super) controller_port: u16,
}

impl Node {
    /// The only one.
    pub(super) fn alone() -> Result<Self> {
        let [controller_port] = free_ports()?;
        Ok(Self { id: 1, ports: free_ports()?, controller_port })
    }

    /// One of as many that have the first as their controller.
    pub(super) fn several(count: u32) -> Result<Vec<Self>> {
        let [controller_port] = free_ports()?;
        (1..=count).map(|id| Ok(Self { id, ports: free_ports()?, controller_port })).collect()
    }

    /// The same for all of a cluster, another one for each cluster that runs.
    fn cluster_id(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("tidemill-kf{:05}", self.controller_port))
    }

    fn is_controller(&self) -> bool {
        self.id == 1
    }
}

/// One broker: its directory (settings, records, log) and the process that runs on it.
#[derive(Debug)]
pub(super) struct Server {
    options: BrokerOptions,
    node: Node,
    // Before `dir`: fields are dropped in this order, and the processes go before their directory.
    process: Kept,
    _zookeeper: Option<Kept>,
    dir: TempDir,
}

impl Server {
    /// Writes the settings, formats the storage and starts the process; it does not answer yet.
    pub(super) fn start(options: BrokerOptions, node: Node) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("tidemill-kafka-").tempdir()?;
        security::write_certificates(dir.path())?;
        fs::write(dir.path().join(SETTINGS), properties(&options, &node, dir.path())?)?;
        let zookeeper = match options.version {
            Version::V2_8 => Some(start_zookeeper(dir.path(), &options, &node)?),
            Version::V4_1 | Version::V3_9 => {
                format_storage(dir.path(), &options, &node)?;
                None
            }
        };
        let process = start(dir.path(), &options, ["kafka.Kafka", SETTINGS])?;
        Ok(Self { options, node, process, _zookeeper: zookeeper, dir })
    }

    pub(super) fn address(&self, listener: Listener) -> String {
        format!("127.0.0.1:{}", self.node.ports[listener as usize])
    }

    pub(super) fn version(&self) -> Version {
        self.options.version
    }

    pub(super) fn is_secured(&self) -> bool {
        is_secured(&self.options)
    }

    pub(super) fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Sends the broker a signal, named as `kill` names it.
    pub(super) fn signal(&self, name: &str) -> Result<()> {
        let kill = format!("kill -{name} {}", self.process.server);
        ensure!(Command::new("sh").args(["-c", &kill]).status()?.success(), "`{kill}` failed");
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.signal("KILL")?;
        self.process.keeper.wait()?;
        Ok(())
    }

    /// Kills what still runs and starts a process on the same directory and port.
    pub(super) fn restart(&mut self) -> Result<()> {
        if self.process.keeper.try_wait()?.is_none() {
            self.kill()?;
        }
        self.process = start(self.dir.path(), &self.options, ["kafka.Kafka", SETTINGS])?;
        Ok(())
    }

    /// # Errors
    /// When the process has ended, with the end of its log.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        if self.process.keeper.try_wait()?.is_some() {
            bail!("the broker has ended:\n{}", self.log_tail());
        }
        Ok(())
    }

    /// The last lines of the broker's log.
    pub(super) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Starts a program of Kafka's jars.
fn start(dir: &Path, options: &BrokerOptions, program: [&str; 2]) -> Result<Kept> {
    let mut java = java(dir, options)?;
    java.args(program);
    Kept::start(dir, &java, LOG)
}

/// `java` on Kafka's jars, in the broker's directory.
fn java(dir: &Path, options: &BrokerOptions) -> Result<Command> {
    let mut command = Command::new("java");
    command.arg(format!("-Xmx{}m", options.heap_mib)).arg("-XX:+UseSerialGC");
    if !options.long_run {
        command.arg("-XX:TieredStopAtLevel=1");
    }
    command.arg(format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={}", security::issuer_keys(dir)));
    command.arg("-cp").arg(jars::directory(options.version)?.join("*")).current_dir(dir);
    Ok(command)
}

/// Makes the directory of records one that KRaft takes, with the users of SCRAM.
fn format_storage(dir: &Path, options: &BrokerOptions, node: &Node) -> Result<()> {
    let format = java(dir, options)?
        .args(["kafka.tools.StorageTool", "format", "-t", &node.cluster_id(), "-c", SETTINGS])
        .args(security::scram_users().iter().flat_map(|user| ["--add-scram", user]))
        .stdin(Stdio::null())
        .output()
        .context("cannot run `java` (Debian package `default-jre-headless`)")?;
    ensure!(format.status.success(), "cannot format the storage:\n{}", String::from_utf8_lossy(&format.stderr));
    Ok(())
}

fn start_zookeeper(dir: &Path, options: &BrokerOptions, node: &Node) -> Result<Kept> {
    const ZOOKEEPER_SETTINGS: &str = "zookeeper.properties";
    let text = format!(
        "dataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
        dir.join("zookeeper").display(),
        node.controller_port
    );
    fs::write(dir.join(ZOOKEEPER_SETTINGS), text)?;
    start(dir, options, ["org.apache.zookeeper.server.quorum.QuorumPeerMain", ZOOKEEPER_SETTINGS])
}

fn is_secured(options: &BrokerOptions) -> bool {
    options.secured && options.version != Version::V2_8
}

/// `server.properties` of a node.
fn properties(options: &BrokerOptions, node: &Node, dir: &Path) -> Result<String> {
    let &Node { id, ports, controller_port } = node;
    let timestamp_type = if options.log_append_time { "LogAppendTime" } else { "CreateTime" };
    let secured = is_secured(options);
    let offered = if secured { &Listener::ALL[..] } else { &[Listener::Plaintext] };
    let mut listeners: Vec<_> =
        offered.iter().zip(ports).map(|(listener, port)| format!("{}://127.0.0.1:{port}", listener.name())).collect();
    let mut text = String::new();
    if options.version == Version::V2_8 {
        writeln!(text, "broker.id={id}\nzookeeper.connect=127.0.0.1:{controller_port}")?;
    } else {
        let roles = if node.is_controller() { "broker,controller" } else { "broker" };
        writeln!(text, "process.roles={roles}\nnode.id={id}\ncontroller.listener.names=CONTROLLER")?;
        writeln!(text, "controller.quorum.voters=1@127.0.0.1:{controller_port}")?;
        if node.is_controller() {
            listeners.push(format!("CONTROLLER://127.0.0.1:{controller_port}"));
        }
        text += &security::listener_properties();
    }
    write!(
        text,
        "listeners={}
inter.broker.listener.name=PLAINTEXT
log.dirs={}
log.message.timestamp.type={timestamp_type}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
",
        listeners.join(","),
        dir.join("records").display()
    )?;
    if secured {
        text += &security::properties(dir);
    }
    for (name, value) in &options.properties {
        writeln!(text, "{name}={value}")?;
    }
    Ok(text)
}
