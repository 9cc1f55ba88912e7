//! Files that tests and benches need and the repository does not hold: fetched once, into the user's cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Downloads break; more than this many in a row is no accident.
const ATTEMPTS: usize = 3;

/// A directory in the user's cache. When it is not there, `fetch` makes what it gives in the directory that it is handed, and this is
/// put in place at once: it is whole or is not there.
///
/// # Errors
/// When `fetch` fails or the cache cannot be written.
pub(crate) fn cached(name: &str, fetch: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
    let cache = directory()?;
    let place = cache.join(name);
    if !place.is_dir() {
        fs::create_dir_all(&cache)?;
        // Held until the end of this scope, so that of two processes only one fetches.
        let lock = File::create(cache.join("fetch.lock"))?;
        lock.lock()?;
        if !place.is_dir() {
            let download = tempfile::Builder::new().prefix("download-").tempdir_in(&cache)?;
            fs::rename(fetch(download.path())?, &place)?;
        }
    }
    Ok(place)
}

/// The user's cache directory of tidemill, as in `./x`.
fn directory() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("neither `XDG_CACHE_HOME` nor `HOME` is set")?)
            .join(".cache"),
    };
    Ok(base.join("tidemill"))
}

/// Has maven copy one file, `group:artifact:version` with what else tells it from others.
pub(crate) fn maven_copy(artifact: &str, into: &Path) -> Result<()> {
    maven(&[
        "dependency:copy".to_owned(),
        format!("-Dartifact={artifact}"),
        format!("-DoutputDirectory={}", into.display()),
    ])
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
