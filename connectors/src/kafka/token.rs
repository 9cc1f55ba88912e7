//! Tokens of SASL OAUTHBEARER: where they come from, and how librdkafka gets them.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, c_char},
    fmt, ptr,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::bindings as native;
use serde_json::Value;
use tidemill_certs::{Secret, SecretError, SecretRef, SecretStore};

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
    /// The reference leads nowhere.
    #[error("OAUTHBEARER `token`")]
    Secret(#[from] SecretError),
    /// What is there is no token that says when it ends.
    #[error("OAUTHBEARER `token` {reference} is no JSON Web Token with an `exp`: {why}")]
    NotAToken {
        /// Where it is.
        reference: SecretRef,
        /// What is wrong with it.
        why: &'static str,
    },
    /// librdkafka does not take it.
    #[error("librdkafka refused the token: {0}")]
    Refused(String),
}

impl TokenError {
    /// With its cause, in one line.
    pub(super) fn explain(&self) -> String {
        match self {
            Self::Secret(cause) => format!("{self}: {cause}"),
            other => other.to_string(),
        }
    }
}

/// A token that something else puts where a reference leads, such as a sidecar into a file.
#[derive(Debug)]
pub(super) struct GivenToken {
    secrets: Arc<SecretStore>,
    reference: SecretRef,
}

impl GivenToken {
    pub(super) fn new(secrets: Arc<SecretStore>, reference: SecretRef) -> Self {
        Self { secrets, reference }
    }
}

impl TokenSource for GivenToken {
    fn token(&self) -> Result<Token, TokenError> {
        let value = self.secrets.fetch(&self.reference)?;
        let claims = claims(&value).map_err(|why| TokenError::NotAToken { reference: self.reference.clone(), why })?;
        Ok(Token { value, principal: claims.subject, expires_ms: claims.expires_ms })
    }
}

struct Claims {
    subject: String,
    expires_ms: i64,
}

/// What a JSON Web Token says of itself; whether it is true is the broker's concern.
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
    use super::*;

    fn secret(claims: &str) -> Secret {
        Secret::new(format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims)).into_bytes())
    }

    #[test]
    fn a_token_says_whose_it_is_and_when_it_ends() {
        let claims = claims(&secret(r#"{"sub":"alice","exp":1795132800.5}"#)).unwrap();
        assert_eq!((claims.subject.as_str(), claims.expires_ms), ("alice", 1_795_132_800_500));
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
