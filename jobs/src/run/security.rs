//! Makes the security of an input's or output's connection ready: secrets fetched, certificates checked.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tidemill_certs::{KeyVaultSettings, SecretStore, UnixTime};
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

/// The secrets of a run, and the connections that are made with them.
#[derive(Default)]
pub(crate) struct Secrets {
    pub(super) store: Arc<SecretStore>,
    /// What was fetched, checked and taken by a broker before the run began; each is used once.
    prepared: Mutex<Vec<Connection>>,
    in_use: Mutex<Vec<Connection>>,
}

/// A secured connection, with what it was made with.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) owner: String,
    pub(super) brokers: Vec<String>,
    pub(super) settings: SecuritySettings,
    pub(super) security: Security,
}

impl Secrets {
    pub(crate) fn new(key_vault: Option<KeyVaultSettings>) -> Self {
        Self::with(key_vault, vec![])
    }

    /// With connections that were prepared: theirs are not fetched again, so that a rotation does not wait for a key vault.
    pub(super) fn with(key_vault: Option<KeyVaultSettings>, prepared: Vec<Connection>) -> Self {
        let store = Arc::new(SecretStore::new(key_vault));
        Self { store, prepared: Mutex::new(prepared), in_use: Mutex::default() }
    }

    fn take_prepared(&self, owner: &str, settings: &SecuritySettings) -> Option<Security> {
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        let place =
            prepared.iter().position(|connection| connection.owner == owner && connection.settings == *settings)?;
        Some(prepared.swap_remove(place).security)
    }

    pub(super) fn in_use(&self) -> Vec<Connection> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Fetches the secrets, checks certificates, and says what was repaired in them, what is doubtful, and what ends soon.
pub(crate) fn resolve(
    owner: Owner<'_>,
    brokers: &[String],
    settings: &SecuritySettings,
    secrets: &Secrets,
    options: &RunOptions,
) -> Result<Security, EngineError> {
    let security = match secrets.take_prepared(&owner.to_string(), settings) {
        Some(security) => security,
        None => settings.resolve(&secrets.store, &options.clock).map_err(|error| {
            let kind = if error.may_pass() { ErrorKind::Unavailable } else { ErrorKind::User };
            owner.error(kind, in_a_line(&error))
        })?,
    };
    if let Some(tls) = &security.tls {
        for note in tls.notes() {
            match note.is_repair() {
                true => tracing::info!("{owner}: {note}"),
                false => tracing::warn!("{owner}: {note}"),
            }
        }
        options.stats.add_certificates(&owner.to_string(), tls.expiries());
        options.stats.warn_of_expiries(unix_time(options.clock.as_ref()));
    }
    if settings.refresh.is_some() {
        let (owner, brokers) = (owner.to_string(), brokers.to_vec());
        let connection = Connection { owner, brokers, settings: settings.clone(), security: security.clone() };
        secrets.in_use.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
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
