//! A real schema registry for tests: Apicurio's, by its API that is Confluent's, with its schemas in memory.
//!
//! Its files come from Maven Central, once, into the user's cache. It takes some 7 s to start and 250 MB, so a test process shares
//! one, [`shared`], and each test has subjects of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    cache::{cached, maven_copy},
    http::ask,
    keeper::{Kept, free_ports},
};

/// The last release that runs on Java 17.
const VERSION: &str = "3.0.9";
/// Where its API is that is Confluent's.
const API: &str = "/apis/ccompat/v7";
/// Far longer than it takes to start.
const PATIENCE: Duration = Duration::from_secs(90);
const LOG: &str = "registry.log";

/// A running registry; stopped, and forgotten with all its schemas, when dropped.
#[derive(Debug)]
pub struct Registry {
    port: u16,
    // Before `dir`: fields are dropped in this order, and the process goes before its directory.
    process: Mutex<Kept>,
    dir: TempDir,
}

/// The registry that all tests of this process share, started by the first that asks.
///
/// # Panics
/// When it cannot be started: a test without its registry has failed, not passed.
pub fn shared() -> &'static Registry {
    static SHARED: OnceLock<Registry> = OnceLock::new();
    SHARED.get_or_init(|| Registry::start().expect("the real registry must start"))
}

impl Registry {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When Java or its files are missing and cannot be had, or it ends or does not answer in time; with the end of its log.
    pub fn start() -> Result<Self> {
        let files = cached(&format!("apicurio-{VERSION}"), |download| {
            fetch(download).with_context(|| format!("cannot fetch Apicurio Registry {VERSION}"))
        })?;
        let dir = tempfile::Builder::new().prefix("tidemill-registry-").tempdir()?;
        let [port] = free_ports()?;
        let mut java = Command::new("java");
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        java.args([format!("-Dquarkus.http.port={port}"), "-Dquarkus.http.host=127.0.0.1".to_owned()]);
        let runner = files.join(format!("apicurio-registry-app-{VERSION}-runner.jar"));
        java.arg("-cp").arg(format!("{}:{}", runner.display(), files.join("lib/*").display()));
        java.arg("io.quarkus.runner.GeneratedMain");
        let process = Mutex::new(Kept::start(dir.path(), &java, LOG)?);
        let registry = Self { port, process, dir };
        registry.wait_until_ready()?;
        Ok(registry)
    }

    /// The address that clients are given.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{API}", self.port)
    }

    /// Registers a schema, as a producer does; gives its id.
    ///
    /// # Errors
    /// When it refuses it.
    pub fn register(&self, subject: &str, kind: &str, schema: &str) -> Result<u32> {
        let body = json!({"schemaType": kind, "schema": schema});
        let answer = self.ask("POST", &format!("/subjects/{subject}/versions"), Some(&body))?;
        let id = answer["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        id.with_context(|| format!("no id: {answer}"))
    }

    /// Has it refuse schemas of a subject that are not compatible with those before, `BACKWARD` and the like.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn demand(&self, subject: &str, compatibility: &str) -> Result<()> {
        self.ask("PUT", &format!("/config/{subject}"), Some(&json!({"compatibility": compatibility}))).map(drop)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let started = Instant::now();
        while self.ask("GET", "/subjects", None).is_err() {
            let ended = self.process.lock().unwrap_or_else(PoisonError::into_inner).keeper.try_wait()?.is_some();
            if ended || started.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.dir.path().join(LOG)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                bail!("the registry does not answer:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        ask(self.port, method, &format!("{API}{path}"), body)
    }
}

/// Has maven copy the archive and unpacks it.
fn fetch(download: &Path) -> Result<PathBuf> {
    eprintln!("fetching Apicurio Registry {VERSION} through maven, once (some 110 MB) ...");
    maven_copy(&format!("io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"), download)?;
    let unpacked = download.join("unpacked");
    fs::create_dir(&unpacked)?;
    let archive = download.join(format!("apicurio-registry-app-{VERSION}-all.tar.gz"));
    let tar = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked).output()?;
    ensure!(tar.status.success(), "cannot unpack it: {}", String::from_utf8_lossy(&tar.stderr));
    Ok(unpacked)
}
