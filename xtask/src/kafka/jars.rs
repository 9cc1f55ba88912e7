//! Where Kafka's jars are, and how they get there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::cache::{cached, maven};

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
    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::V4_1 => "4.1.0",
            Self::V3_9 => "3.9.1",
            Self::V2_8 => "2.8.2",
        }
    }
}

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
    let number = version.number();
    cached(&format!("kafka-{number}"), |download| {
        fetch(number, download).with_context(|| format!("cannot fetch Apache Kafka {number}"))
    })
}

/// Has maven copy the jars.
fn fetch(number: &str, download: &Path) -> Result<PathBuf> {
    eprintln!("fetching Apache Kafka {number} through maven, once (some 55 MB) ...");
    let pom = download.join("pom.xml");
    fs::write(&pom, include_str!("pom.xml").replace("KAFKA-VERSION", number))?;
    let jars = download.join("libs");
    maven(&[
        "dependency:copy-dependencies".to_owned(),
        "-DincludeScope=runtime".to_owned(),
        format!("-DoutputDirectory={}", jars.display()),
        "-f".to_owned(),
        pom.display().to_string(),
    ])?;
    Ok(jars)
}
