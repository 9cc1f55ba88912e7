//! Where Kafka's jars are, and how they get there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// A release of Apache Kafka.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Version {
    /// The newest.
    #[default]
    #[value(name = "4.1")]
    V4_1,
    /// The last that could do without KRaft.
    #[value(name = "3.9")]
    V3_9,
    /// The oldest that still runs on this Java, on a ZooKeeper; it writes the old message formats where a topic says so.
    #[value(name = "2.8")]
    V2_8,
}

impl Version {
    /// In full, as Maven Central has it; `./x` names them too.
    fn number(self) -> &'static str {
        match self {
            Self::V4_1 => "4.1.0",
            Self::V3_9 => "3.9.1",
            Self::V2_8 => "2.8.2",
        }
    }
}

/// Downloads break; more than this many in a row is no accident.
const ATTEMPTS: usize = 3;

/// The directory of a release's jars: `TIDEMILL_KAFKA_LIBS` for the newest, or the user's cache, filled by maven when it is not
/// there.
///
/// # Errors
/// When the named directory does not exist, maven is missing or fails, or the cache cannot be written.
pub(super) fn directory(version: Version) -> Result<PathBuf> {
    if let Some(libs) = std::env::var_os("TIDEMILL_KAFKA_LIBS").filter(|_| version == Version::default()) {
        let libs = PathBuf::from(libs);
        ensure!(libs.is_dir(), "`TIDEMILL_KAFKA_LIBS` names `{}`, which is no directory", libs.display());
        return Ok(libs);
    }
    let cache = cache()?;
    let number = version.number();
    let libs = cache.join(format!("kafka-{number}"));
    if !libs.is_dir() {
        fs::create_dir_all(&cache)?;
        // Held until the end of this scope, so that of two processes only one fetches.
        let lock = File::create(cache.join("kafka.lock"))?;
        lock.lock()?;
        if !libs.is_dir() {
            fetch(number, &cache, &libs).with_context(|| format!("cannot fetch Apache Kafka {number}"))?;
        }
    }
    Ok(libs)
}

/// The user's cache directory of tidemill, as in `./x`.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("neither `XDG_CACHE_HOME` nor `HOME` is set")?)
            .join(".cache"),
    };
    Ok(base.join("tidemill"))
}

/// Has maven copy the jars next to `libs`, then puts them in place at once: `libs` is whole or is not there.
fn fetch(number: &str, cache: &Path, libs: &Path) -> Result<()> {
    eprintln!("fetching Apache Kafka {number} through maven, once (some 55 MB) ...");
    let download = tempfile::Builder::new().prefix("kafka-download-").tempdir_in(cache)?;
    let pom = download.path().join("pom.xml");
    fs::write(&pom, include_str!("pom.xml").replace("KAFKA-VERSION", number))?;
    let jars = download.path().join("libs");

    maven(&[
        "dependency:copy-dependencies".to_owned(),
        "-DincludeScope=runtime".to_owned(),
        format!("-DoutputDirectory={}", jars.display()),
        "-f".to_owned(),
        pom.display().to_string(),
    ])?;
    fs::rename(&jars, libs)?;
    Ok(())
}

/// Runs maven, again when it fails.
pub(crate) fn maven(arguments: &[String]) -> Result<()> {
    let mut failure = String::new();
    for _ in 0..ATTEMPTS {
        let output = Command::new("mvn")
            .args(["-q", "-B"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("cannot run `mvn` (Debian package `maven`)")?;
        if output.status.success() {
            return Ok(());
        }
        failure = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    }
    bail!("`mvn` failed {ATTEMPTS} times, at last with:\n{}", failure.trim())
}
