//! Tokens of an Azure identity, which Event Hubs takes at its Kafka endpoint.

use tidemill_certs::{AzureIdentity, AzureTokens};

use super::{Token, TokenError, TokenSource, claims};

/// See the module.
#[derive(Debug)]
pub(super) struct AzureToken {
    tokens: AzureTokens,
    identity: AzureIdentity,
    scope: String,
}

impl AzureToken {
    pub(super) fn open(identity: &AzureIdentity, scope: &str) -> Result<Self, TokenError> {
        let tokens = AzureTokens::open(identity)?;
        Ok(Self { tokens, identity: identity.clone(), scope: scope.to_owned() })
    }
}

impl TokenSource for AzureToken {
    fn token(&self) -> Result<Token, TokenError> {
        let (value, expires) = self.tokens.token(&self.scope)?;
        // What Azure puts into its tokens is its own business: the subject is for messages alone.
        let principal = claims(&value).map_or_else(|_| self.identity.to_string(), |claims| claims.subject);
        Ok(Token { value, principal, expires_ms: expires.saturating_mul(1_000) })
    }
}
