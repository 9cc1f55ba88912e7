//! Secrets and certificates in an Azure key vault, read by an identity that is named in the spec.
//!
//! Azure's crates do the talking. What they would leave to patience is done here: an identity that does not answer is
//! given up after [`IDENTITY_WITHIN`], a throttled or faltering vault is asked again within [`SECRET_WITHIN`], and every
//! refusal becomes a [`VaultError`] that says what to change.

mod error;
mod identity;
mod tokens;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azure_core::{
    credentials::TokenCredential,
    http::{ClientOptions, HttpClient, RetryOptions, Transport},
};
use azure_security_keyvault_secrets::{
    SecretClient, SecretClientOptions,
    models::{Secret as Found, SecretClientGetSecretOptions},
};
use tokio::{runtime::Runtime, time};

use crate::Secret;

pub use error::VaultError;
pub use identity::AzureIdentity;
pub use tokens::AzureTokens;

/// Azure's own answer takes 100 s where there is no identity.
const IDENTITY_WITHIN: Duration = Duration::from_secs(10);
/// For one secret, asked again when the vault throttles or falters.
const SECRET_WITHIN: Duration = Duration::from_secs(60);
/// Times that a vault is asked again that does not say when.
const TRIES: u32 = 4;
/// The first pause before it is; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(500);

/// Which vault, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyVaultSettings {
    /// Its name, `my-vault`, or address, `https://my-vault.vault.azure.cn`.
    pub vault: String,
    /// Who we are there.
    pub identity: AzureIdentity,
}

impl KeyVaultSettings {
    /// The vault's address, with a closing slash.
    #[must_use]
    pub fn address(&self) -> String {
        if self.vault.contains("://") {
            format!("{}/", self.vault.trim_end_matches('/'))
        } else {
            format!("https://{}.vault.azure.net/", self.vault)
        }
    }

    /// What a token for the vault is asked for: its domain without its own name.
    fn scope(&self) -> String {
        let address = self.address();
        let host = address.trim_start_matches("https://").split(['/', ':']).next().unwrap_or_default();
        let domain = host.split_once('.').map_or(host, |(_, domain)| domain);
        format!("https://{domain}/.default")
    }
}

/// A key vault and our identity there.
pub struct KeyVault {
    settings: KeyVaultSettings,
    client: SecretClient,
    credential: Arc<dyn TokenCredential>,
    /// For one secret, asked again when the vault throttles or falters.
    within: Duration,
    /// Of this thread's own: secrets are asked for by threads that have no runtime.
    runtime: Mutex<Runtime>,
}

impl fmt::Debug for KeyVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyVault").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl KeyVault {
    /// Prepares the clients; nothing is asked yet.
    ///
    /// # Errors
    /// When the identity lacks something on this machine, or the address is none.
    pub fn open(settings: &KeyVaultSettings) -> Result<Self, VaultError> {
        Self::open_through(settings, None, SECRET_WITHIN)
    }

    /// The same, through a transport of the caller's; `None` is the ordinary one.
    fn open_through(
        settings: &KeyVaultSettings,
        transport: Option<Arc<dyn HttpClient>>,
        within: Duration,
    ) -> Result<Self, VaultError> {
        let options = || ClientOptions {
            transport: transport.clone().map(Transport::new),
            // Retries are ours: Azure's would hide a vault's untrusted certificate for half a minute.
            retry: RetryOptions::none(),
            ..ClientOptions::default()
        };
        let credential = settings.identity.credential(transport.clone().map(Transport::new))?;
        let client_options = SecretClientOptions { client_options: options(), ..SecretClientOptions::default() };
        let address = settings.address();
        let client = SecretClient::new(&address, Arc::clone(&credential), Some(client_options))
            .map_err(|error| VaultError::Address { address, why: error.to_string() })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| VaultError::Address { address: settings.address(), why: error.to_string() })?;
        Ok(Self { settings: settings.clone(), client, credential, within, runtime: Mutex::new(runtime) })
    }

    /// Fetches a secret, or a certificate with its key; `NAME/VERSION` is one version of it.
    ///
    /// # Errors
    /// When the identity is none, lacks a right, or the vault does not have it, or not any more.
    pub fn secret(&self, name: &str) -> Result<Secret, VaultError> {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        runtime.block_on(async {
            self.log_in().await?;
            self.ask(name).await
        })
    }

    /// A token first, by itself: what is wrong with the identity is then not said of the vault.
    async fn log_in(&self) -> Result<(), VaultError> {
        let scope = self.settings.scope();
        tokens::token(&self.settings.identity, &self.credential, &scope).await.map(drop)
    }

    async fn ask(&self, name: &str) -> Result<Secret, VaultError> {
        let until = time::Instant::now() + self.within;
        let mut pause = PAUSE;
        let mut tries = 0;
        let found = loop {
            let Ok(answer) = time::timeout_at(until, self.get(name)).await else {
                return Err(VaultError::Slow { vault: self.settings.vault.clone(), within: self.within });
            };
            match answer {
                Ok(found) => break found,
                Err(error) => {
                    tries += 1;
                    let retry_after = error::retry_after(&error);
                    let again = time::Instant::now() + retry_after.unwrap_or(pause);
                    if !error::is_passing(&error) || retry_after.is_none() && tries >= TRIES || again >= until {
                        return Err(VaultError::of_vault(&self.settings, name, &error));
                    }
                    time::sleep_until(again).await;
                    pause *= 2;
                }
            }
        };
        let Found { value, attributes, .. } = found;
        let attributes = attributes.unwrap_or_default();
        let now = azure_core::time::OffsetDateTime::now_utc();
        let named = || (self.settings.vault.clone(), name.to_owned());
        if attributes.enabled == Some(false) {
            let (vault, secret) = named();
            return Err(VaultError::Disabled { vault, secret });
        }
        if let Some(at) = attributes.expires.filter(|at| *at < now) {
            let (vault, secret) = named();
            return Err(VaultError::Expired { vault, secret, at: at.date().to_string() });
        }
        if let Some(at) = attributes.not_before.filter(|at| *at > now) {
            let (vault, secret) = named();
            return Err(VaultError::NotYet { vault, secret, at: at.date().to_string() });
        }
        match value {
            Some(value) if !value.is_empty() => Ok(Secret::new(value.into_bytes())),
            _ => {
                let (vault, secret) = named();
                Err(VaultError::Empty { vault, secret })
            }
        }
    }

    async fn get(&self, name: &str) -> azure_core::Result<Found> {
        let (name, version) = name.split_once('/').map_or((name, None), |(name, version)| (name, Some(version)));
        let secret_version = version.map(str::to_owned);
        let options = SecretClientGetSecretOptions { secret_version, ..SecretClientGetSecretOptions::default() };
        self.client.get_secret(name, Some(options)).await?.into_model()
    }
}

#[cfg(test)]
mod tests;
