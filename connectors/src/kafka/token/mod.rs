//! Tokens of SASL OAUTHBEARER: where they come from, and how librdkafka gets them.
//!
//! [`TokenSettings`] is what a spec says, [`TokenSource`] what connections ask, [`TokenError`] why there is none. A token is kept
//! for most of its life ([`kept`]) and then got anew: read where something else puts it ([`given`]), from an identity provider
//! ([`oidc`]), from Azure ([`azure`]), or signed here for AWS ([`aws`]).
#![allow(unsafe_code)]

mod aws;
mod azure;
mod given;
mod kept;
mod oidc;

use std::{
    ffi::{CStr, CString, c_char},
    fmt, ptr,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rdkafka::bindings as native;
use serde_json::Value;
use tidemill_certs::{AzureIdentity, MaterialError, Secret, SecretError, SecretRef, SecretStore, VaultError};
use tidemill_engine::Clock;

pub use aws::{AwsKeys, AwsSettings};
pub use oidc::{ClientProof, OidcSettings};

/// Where tokens come from, as a spec says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSettings {
    /// Something else puts them where this leads, such as a sidecar into a file.
    Given(SecretRef),
    /// An identity provider gives them for a client's credentials.
    Oidc(Box<OidcSettings>),
    /// Azure gives them for an identity.
    Azure {
        /// Who we are.
        identity: AzureIdentity,
        /// For what, `https://my-namespace.servicebus.windows.net/.default`.
        scope: String,
    },
    /// Signed here, for Amazon MSK.
    Aws(Box<AwsSettings>),
}

impl TokenSettings {
    /// All references that it holds.
    pub(super) fn references(&self) -> Vec<&SecretRef> {
        match self {
            Self::Given(token) => vec![token],
            Self::Azure { .. } => vec![],
            Self::Oidc(oidc) => {
                let proof = match &oidc.proof {
                    ClientProof::Secret(secret) => [Some(secret), None],
                    ClientProof::Key { key, password, .. } => [Some(key), password.as_ref()],
                };
                proof.into_iter().chain([oidc.ca.as_ref()]).flatten().collect()
            }
            Self::Aws(aws) => {
                let keys = aws.keys.iter();
                keys.flat_map(|keys| [Some(&keys.secret_access_key), keys.session_token.as_ref()]).flatten().collect()
            }
        }
    }

    /// Makes ready to give tokens, and gets the first.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn open(
        &self,
        secrets: &Arc<SecretStore>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Arc<dyn TokenSource>, TokenError> {
        let secrets = Arc::clone(secrets);
        let source: Box<dyn TokenSource> = match self {
            Self::Given(reference) => Box::new(given::GivenToken::new(secrets, reference.clone())),
            Self::Oidc(settings) => Box::new(oidc::OidcTokens::new(settings, secrets, Arc::clone(clock))?),
            Self::Azure { identity, scope } => Box::new(azure::AzureToken::open(identity, scope)?),
            Self::Aws(settings) => Box::new(aws::MskTokens::new(settings, secrets, Arc::clone(clock))?),
        };
        let kept = kept::Kept::new(source, Arc::clone(clock));
        kept.token()?;
        Ok(Arc::new(kept))
    }
}

/// A token with what the protocol wants to know of it.
#[derive(Clone)]
pub struct Token {
    /// The token itself.
    pub value: Secret,
    /// Whose it is.
    pub principal: String,
    /// Its end, Unix milliseconds.
    pub expires_ms: i64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { principal, expires_ms, .. } = self;
        f.debug_struct("Token").field("principal", principal).field("expires_ms", expires_ms).finish_non_exhaustive()
    }
}

/// Gives tokens, each valid for some time to come; asked from librdkafka's threads too.
pub trait TokenSource: fmt::Debug + Send + Sync {
    /// A token.
    ///
    /// # Errors
    /// When there is none.
    fn token(&self) -> Result<Token, TokenError>;
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A reference leads nowhere.
    #[error("`{field}`: {source}")]
    Secret {
        /// The field that holds it.
        field: &'static str,
        /// Why.
        source: SecretError,
    },
    /// What is there is no token that says when it ends.
    #[error("OAUTHBEARER `token` {reference} is no JSON Web Token with an `exp`: {why}")]
    NotAToken {
        /// Where it is.
        reference: SecretRef,
        /// What is wrong with it.
        why: &'static str,
    },
    /// What is there is over.
    #[error(
        "the token of `{principal}` ended {ended}: whoever gives it has to renew it; is this machine's clock right?"
    )]
    Expired {
        /// Whose it is.
        principal: String,
        /// When it ended.
        ended: String,
    },
    /// The key cannot sign.
    #[error("`oidc`: {0}")]
    Key(#[from] MaterialError),
    /// The identity provider cannot be asked.
    #[error("`oidc`: identity provider `{url}` cannot be asked: {why}")]
    Unreachable {
        /// Its address.
        url: String,
        /// Why.
        why: String,
    },
    /// The identity provider refused.
    #[error("`oidc`: identity provider `{url}` gives no token to client `{client}`: {why}")]
    NoGrant {
        /// Its address.
        url: String,
        /// Who we said we are.
        client: String,
        /// Its own words.
        why: String,
    },
    /// Azure gave none.
    #[error("`azure`: {0}")]
    Azure(#[from] VaultError),
    /// No keys for AWS.
    #[error(
        "`aws`: no credentials: {0}; give `access_key_id` and `secret_access_key`, set `AWS_ACCESS_KEY_ID` and \
         `AWS_SECRET_ACCESS_KEY`, or run on a machine or pod with a role"
    )]
    NoAwsKeys(String),
    /// librdkafka does not take it.
    #[error("librdkafka refused the token: {0}")]
    Refused(String),
    /// The machine fails us.
    #[error("cannot make a token: {0}")]
    Machine(String),
}

impl TokenError {
    /// Whether there may be one at another try, without anybody's doing.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::Azure(VaultError::NoIdentity { .. })
                | Self::NoAwsKeys(_)
                | Self::Machine(_)
        )
    }
}

struct Claims {
    subject: String,
    expires_ms: i64,
}

/// What a JSON Web Token says of itself; whether it is true is the broker's concern.
///
/// # Errors
/// Why it is none.
fn claims(token: &Secret) -> Result<Claims, &'static str> {
    let text = token.expose_str().ok_or("it is not text")?;
    let mut parts = text.trim().split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err("it does not have three parts");
    };
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|_| "its claims are not base64")?;
    let claims: Value = serde_json::from_slice(&payload).map_err(|_| "its claims are not JSON")?;
    let expires = claims["exp"].as_f64().ok_or("it has no `exp`")?;
    let subject = claims["sub"].as_str().unwrap_or("unknown").to_owned();
    Ok(Claims { subject, expires_ms: (expires * 1_000.0) as i64 })
}

/// What forms and AWS' signatures leave as it is, beside letters and digits.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn percent_encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Gives a client its token, so that its first connection has one; when it nears its end librdkafka asks the client's
/// context for another.
///
/// # Errors
/// When the token is none to librdkafka.
pub(super) fn set_token(client: *mut native::rd_kafka_t, token: &Token) -> Result<(), TokenError> {
    const TEXT: usize = 512;
    let refused = |why: &str| TokenError::Refused(why.to_owned());
    let value = token.value.expose_str().map(str::trim).ok_or_else(|| refused("it is not text"))?;
    let value = CString::new(value).map_err(|_| refused("it holds a zero byte"))?;
    let principal = CString::new(token.principal.as_str()).map_err(|_| refused("its subject holds a zero byte"))?;
    let mut text = [0 as c_char; TEXT];
    // SAFETY: `client` is that of a living client of the caller's; the strings outlive the call, which copies them;
    // `text` has the size that is given.
    let code = unsafe {
        native::rd_kafka_oauthbearer_set_token(
            client,
            value.as_ptr(),
            token.expires_ms,
            principal.as_ptr(),
            ptr::null_mut(),
            0,
            text.as_mut_ptr(),
            TEXT,
        )
    };
    if code == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    // SAFETY: librdkafka ends its text with a zero byte within the size given.
    let why = unsafe { CStr::from_ptr(text.as_ptr()) };
    Err(refused(&why.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        ClientConfig,
        consumer::{BaseConsumer, Consumer},
    };
    use tidemill_engine::{EventTime, Monotonic};

    use super::*;

    fn secret(claims: &str) -> Secret {
        Secret::new(format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims)).into_bytes())
    }

    #[test]
    fn a_token_says_whose_it_is_and_when_it_ends() {
        let claims = claims(&secret(r#"{"sub":"alice","exp":1795132800.5}"#)).unwrap();
        assert_eq!((claims.subject.as_str(), claims.expires_ms), ("alice", 1_795_132_800_500));
    }

    /// It takes a token by its form, which is not the same for all.
    #[test]
    fn librdkafka_takes_tokens_of_every_kind() {
        struct Stopped;
        impl Clock for Stopped {
            fn monotonic(&self) -> Monotonic {
                Monotonic(0)
            }
            fn wall(&self) -> EventTime {
                EventTime(4_000_000_000_000_000)
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2").unwrap();
        let keys = AwsKeys {
            access_key_id: "AKID".into(),
            secret_access_key: SecretRef::File(file.path().to_owned()),
            session_token: None,
        };
        let settings = AwsSettings { region: "eu-west-1".into(), keys: Some(keys) };
        let aws = aws::MskTokens::new(&settings, Arc::default(), Arc::new(Stopped)).unwrap().token().unwrap();
        let jwt = Token {
            value: secret(r#"{"sub":"alice"}"#),
            principal: "the managed identity with client id `1`".into(),
            expires_ms: 4_102_444_800_000,
        };
        let client: BaseConsumer = ClientConfig::new()
            .set("security.protocol", "sasl_plaintext")
            .set("sasl.mechanism", "OAUTHBEARER")
            .create()
            .unwrap();
        for token in [aws, jwt] {
            set_token(client.client().native_ptr(), &token).unwrap();
        }
    }

    #[test]
    fn what_is_no_token_is_named_without_its_bytes() {
        for (token, why) in [
            (secret(r#"{"sub":"alice"}"#), "it has no `exp`"),
            (secret("{"), "its claims are not JSON"),
            (Secret::new(b"a.!.c".to_vec()), "its claims are not base64"),
            (Secret::new(b"hunter2".to_vec()), "it does not have three parts"),
        ] {
            assert_eq!(claims(&token).err(), Some(why));
        }
    }
}
