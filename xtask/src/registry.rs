//! A real schema registry for tests: Apicurio's, by its API that is Confluent's, with its schemas in memory.
//!
//! Its files come from Maven Central, once, into the user's cache. It takes some 7 s to start and 250 MB, so a test process shares
//! one, [`shared`], and each test has subjects of its own.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    kafka::jars::{cache, maven},
    keeper::Kept,
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
        let files = files()?;
        let dir = tempfile::Builder::new().prefix("tidemill-registry-").tempdir()?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
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
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {API}{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
        // In chunks or whole: the JSON is what lies between the outermost brackets.
        let is_bracket = |of: [char; 2]| move |c: char| of.contains(&c);
        let json = body.find(is_bracket(['{', '['])).zip(body.rfind(is_bracket(['}', ']'])));
        let (first, last) = json.with_context(|| format!("no JSON: {body}"))?;
        Ok(serde_json::from_str(&body[first..=last])?)
    }
}

/// The directory of its files, filled by maven when it is not there.
fn files() -> Result<PathBuf> {
    let cache = cache()?;
    let files = cache.join(format!("apicurio-{VERSION}"));
    if !files.is_dir() {
        fs::create_dir_all(&cache)?;
        // Held until the end of this scope, so that of two processes only one fetches.
        let lock = File::create(cache.join("apicurio.lock"))?;
        lock.lock()?;
        if !files.is_dir() {
            fetch(&cache, &files).with_context(|| format!("cannot fetch Apicurio Registry {VERSION}"))?;
        }
    }
    Ok(files)
}

/// Has maven copy the archive and unpacks it next to `files`, then puts them in place at once.
fn fetch(cache: &std::path::Path, files: &std::path::Path) -> Result<()> {
    eprintln!("fetching Apicurio Registry {VERSION} through maven, once (some 110 MB) ...");
    let download = tempfile::Builder::new().prefix("apicurio-download-").tempdir_in(cache)?;
    let path = download.path().display();
    maven(&[
        "dependency:copy".to_owned(),
        format!("-Dartifact=io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"),
        format!("-DoutputDirectory={path}"),
    ])?;
    let unpacked = download.path().join("unpacked");
    fs::create_dir(&unpacked)?;
    let archive = download.path().join(format!("apicurio-registry-app-{VERSION}-all.tar.gz"));
    let tar = Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked).output()?;
    ensure!(tar.status.success(), "cannot unpack it: {}", String::from_utf8_lossy(&tar.stderr));
    fs::rename(&unpacked, files)?;
    Ok(())
}
