//! Why a key vault did not give a secret, in sentences that say what to change.

use std::{error::Error, time::Duration};

use azure_core::error::ErrorKind;

use super::{AzureIdentity, KeyVaultSettings};

/// Why a key vault did not give a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The address cannot be used.
    #[error("`{address}` is no key vault: {why}")]
    Address {
        /// It.
        address: String,
        /// Why.
        why: String,
    },
    /// No answer to the question who we are.
    #[error("no answer within {}s for {identity}: {}", within.as_secs(), identity.check())]
    NoIdentity {
        /// Who we wanted to be.
        identity: AzureIdentity,
        /// How long was waited.
        within: Duration,
    },
    /// There is no token for the identity.
    #[error("no token for {identity}: {why}; {}", identity.check())]
    IdentityRefused {
        /// Who we wanted to be.
        identity: AzureIdentity,
        /// Azure's words.
        why: String,
    },
    /// The vault's name leads nowhere.
    #[error("key vault `{vault}` does not exist: `{host}` does not resolve; check `vault`")]
    NoSuchVault {
        /// Its name.
        vault: String,
        /// The host looked for.
        host: String,
    },
    /// The vault cannot be reached.
    #[error("key vault `{vault}` cannot be reached: {why}")]
    Unreachable {
        /// Its name.
        vault: String,
        /// Why.
        why: String,
    },
    /// The vault's certificate is not trusted.
    #[error("the certificate of key vault `{vault}` is not trusted ({why}): does a proxy read along?")]
    Untrusted {
        /// Its name.
        vault: String,
        /// Why.
        why: String,
    },
    /// No end within the deadline.
    #[error("key vault `{vault}` gave no answer within {}s", within.as_secs())]
    Slow {
        /// Its name.
        vault: String,
        /// How long was waited.
        within: Duration,
    },
    /// 401.
    #[error(
        "key vault `{vault}` does not accept the token of {identity} (401): is the vault in the identity's tenant?"
    )]
    TokenRefused {
        /// Its name.
        vault: String,
        /// Who we are.
        identity: AzureIdentity,
    },
    /// 403 for want of a role or policy.
    #[error(
        "key vault `{vault}` does not let {identity}{} read secrets (403): give it the role `Key Vault Secrets User`, or an \
         access policy with `Get` on secrets",
        seen_as(.principal.as_deref())
    )]
    NotAllowed {
        /// Its name.
        vault: String,
        /// Who we are.
        identity: AzureIdentity,
        /// The object id that the vault saw.
        principal: Option<String>,
    },
    /// 403 of the vault's firewall.
    #[error(
        "the firewall of key vault `{vault}` does not let this machine in (403): allow its network, or use a private endpoint"
    )]
    Firewall {
        /// Its name.
        vault: String,
    },
    /// 404.
    #[error(
        "key vault `{vault}` has no secret `{secret}`; if it was deleted: az keyvault secret recover --vault-name {vault} \
         --name {secret}"
    )]
    NoSuchSecret {
        /// The vault's name.
        vault: String,
        /// The secret's.
        secret: String,
    },
    /// 429 to the end.
    #[error(
        "key vault `{vault}` is throttling (429){}: who else reads it? `refresh` says how often this job does",
        wants_patience(*.retry_after)
    )]
    Throttled {
        /// Its name.
        vault: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The secret is switched off.
    #[error("secret `{secret}` of key vault `{vault}` is disabled: enable it, or name another version")]
    Disabled {
        /// The vault's name.
        vault: String,
        /// The secret's.
        secret: String,
    },
    /// The secret's own date.
    #[error("secret `{secret}` of key vault `{vault}` expired {at}: set a new one")]
    Expired {
        /// The vault's name.
        vault: String,
        /// The secret's.
        secret: String,
        /// The date.
        at: String,
    },
    /// The secret's own date.
    #[error("secret `{secret}` of key vault `{vault}` is not to be used before {at}")]
    NotYet {
        /// The vault's name.
        vault: String,
        /// The secret's.
        secret: String,
        /// The date.
        at: String,
    },
    /// The secret has no value.
    #[error("secret `{secret}` of key vault `{vault}` is empty")]
    Empty {
        /// The vault's name.
        vault: String,
        /// The secret's.
        secret: String,
    },
    /// Another answer.
    #[error("key vault `{vault}` answered {why}")]
    Unexpected {
        /// Its name.
        vault: String,
        /// What.
        why: String,
    },
}

fn seen_as(id: Option<&str>) -> String {
    id.map_or_else(String::new, |id| format!(" (principal `{id}`)"))
}

impl VaultError {
    /// Whether it may pass by itself.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Slow { .. } | Self::Throttled { .. } | Self::NoIdentity { .. })
    }

    /// No credential, or none that Azure gives a token to.
    pub(super) fn of_identity(identity: &AzureIdentity, error: &azure_core::Error) -> Self {
        Self::IdentityRefused { identity: identity.clone(), why: first_line(&innermost(error)) }
    }

    /// What the vault answered to a question about a secret.
    pub(super) fn of_vault(settings: &KeyVaultSettings, secret: &str, error: &azure_core::Error) -> Self {
        let vault = settings.vault.clone();
        let identity = settings.identity.clone();
        let ErrorKind::HttpResponse { status, error_code, raw_response } = error.kind() else {
            return Self::of_connection(settings, error);
        };
        let body =
            raw_response.as_ref().map(|raw| String::from_utf8_lossy(raw.body()).into_owned()).unwrap_or_default();
        let secret = secret.to_owned();
        match u16::from(*status) {
            401 => Self::TokenRefused { vault, identity },
            403 if body.contains("SecretDisabled") || body.contains("disabled secret") => {
                Self::Disabled { vault, secret }
            }
            403 if body.contains("ForbiddenByFirewall") || body.contains("ForbiddenByConnection") => {
                Self::Firewall { vault }
            }
            403 => Self::NotAllowed { vault, identity, principal: object_id(&body) },
            404 => Self::NoSuchSecret { vault, secret },
            429 => Self::Throttled { vault, retry_after: retry_after(error) },
            status => {
                let code = error_code.as_deref().unwrap_or("no code");
                Self::Unexpected { vault, why: format!("{status} ({code})") }
            }
        }
    }

    fn of_connection(settings: &KeyVaultSettings, error: &azure_core::Error) -> Self {
        let vault = settings.vault.clone();
        let why = innermost(error);
        let all = chain(error);
        if all.contains("dns error") || all.contains("failed to lookup address") {
            let host = settings.address().trim_start_matches("https://").trim_end_matches('/').to_owned();
            Self::NoSuchVault { vault, host }
        } else if all.contains("invalid peer certificate") {
            Self::Untrusted { vault, why }
        } else {
            Self::Unreachable { vault, why }
        }
    }
}

fn wants_patience(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |wait| format!(" and wants to be asked again in {}s", wait.as_secs()))
}

/// Whether the vault is worth asking again.
pub(super) fn is_passing(error: &azure_core::Error) -> bool {
    match error.kind() {
        ErrorKind::HttpResponse { status, .. } => matches!(u16::from(*status), 408 | 429 | 500..),
        ErrorKind::Connection | ErrorKind::Io => {
            let all = chain(error);
            !all.contains("invalid peer certificate") && !all.contains("failed to lookup address")
        }
        _ => false,
    }
}

/// When the vault wants to be asked again.
pub(super) fn retry_after(error: &azure_core::Error) -> Option<Duration> {
    let ErrorKind::HttpResponse { raw_response: Some(raw), .. } = error.kind() else { return None };
    let seconds = raw.headers().get_optional_str(&"retry-after".into())?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// `oid=...` in the vault's explanation of who asked.
fn object_id(body: &str) -> Option<String> {
    let (_, rest) = body.split_once("oid=")?;
    let id: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    (!id.is_empty()).then_some(id)
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Azure's texts may go on with troubleshooting links.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().trim_end_matches('.').to_owned()
}
