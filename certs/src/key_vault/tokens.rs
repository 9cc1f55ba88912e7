//! Tokens of an Azure identity for services that are no key vault, such as Event Hubs.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use azure_core::credentials::{AccessToken, TokenCredential};
use tokio::{runtime::Runtime, time};

use super::{AzureIdentity, IDENTITY_WITHIN, VaultError};
use crate::Secret;

/// Gets tokens for an identity.
pub struct AzureTokens {
    identity: AzureIdentity,
    credential: Arc<dyn TokenCredential>,
    /// Of its own: tokens are asked for by threads that have no runtime.
    runtime: Mutex<Runtime>,
}

impl AzureTokens {
    /// Prepares it; nothing is asked yet.
    ///
    /// # Errors
    /// When the identity lacks something on this machine.
    pub fn open(identity: &AzureIdentity) -> Result<Self, VaultError> {
        let credential = identity.credential(None)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime
            .map_err(|error| VaultError::IdentityRefused { identity: identity.clone(), why: error.to_string() })?;
        Ok(Self { identity: identity.clone(), credential, runtime: Mutex::new(runtime) })
    }

    /// A token for a scope, `https://my-namespace.servicebus.windows.net/.default`, and its end in Unix seconds.
    ///
    /// # Errors
    /// When there is none, or nobody answers.
    pub fn token(&self, scope: &str) -> Result<(Secret, i64), VaultError> {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let AccessToken { token, expires_on, .. } = runtime.block_on(token(&self.identity, &self.credential, scope))?;
        Ok((Secret::new(token.secret().as_bytes().to_vec()), expires_on.unix_timestamp()))
    }
}

impl fmt::Debug for AzureTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureTokens").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A token, within the time that an identity has.
pub(super) async fn token(
    identity: &AzureIdentity,
    credential: &Arc<dyn TokenCredential>,
    scope: &str,
) -> Result<AccessToken, VaultError> {
    match time::timeout(IDENTITY_WITHIN, credential.get_token(&[scope], None)).await {
        Ok(Ok(token)) => Ok(token),
        Ok(Err(error)) => Err(VaultError::of_identity(identity, &error)),
        Err(_) => Err(VaultError::NoIdentity { identity: identity.clone(), within: IDENTITY_WITHIN }),
    }
}
