//! Makes the security of an input's or output's connection ready: secrets fetched, certificates checked.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use tidemill_certs::{SecretStore, UnixTime};
use tidemill_connectors::kafka::{Security, SecuritySettings};
use tidemill_engine::{Clock, EngineError, ErrorKind};

use super::RunOptions;

/// Whose connection it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner<'a> {
    Input(&'a str),
    Output(&'a str),
}

impl Owner<'_> {
    fn error(self, kind: ErrorKind, message: String) -> EngineError {
        match self {
            Self::Input(name) => EngineError::Source { input: name.to_owned(), kind, message },
            Self::Output(name) => EngineError::Sink { output: name.to_owned(), kind, message },
        }
    }
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(name) => write!(f, "input `{name}`"),
            Self::Output(name) => write!(f, "output `{name}`"),
        }
    }
}

/// Fetches the secrets, checks certificates, and says what was repaired in them, what is doubtful, and what ends soon.
pub(crate) fn resolve(
    owner: Owner<'_>,
    settings: &SecuritySettings,
    secrets: &Arc<SecretStore>,
    options: &RunOptions,
) -> Result<Security, EngineError> {
    let now = unix_time(options.clock.as_ref());
    let security = settings.resolve(secrets, now).map_err(|error| owner.error(ErrorKind::User, in_a_line(&error)))?;
    if let Some(tls) = &security.tls {
        for note in tls.notes() {
            match note.is_repair() {
                true => tracing::info!("{owner}: {note}"),
                false => tracing::warn!("{owner}: {note}"),
            }
        }
        options.stats.add_certificates(&owner.to_string(), tls.expiries());
        options.stats.warn_of_expiries(now);
    }
    Ok(security)
}

pub(super) fn unix_time(clock: &dyn Clock) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_micros(u64::try_from(clock.wall().0).unwrap_or(0)))
}

/// An error and its sources; some say what their source says, which is said once.
pub(super) fn in_a_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        source = error.source();
    }
    text
}
