//! Authentication by SASL over Kafka's own frames: `SaslHandshake` names the mechanism, `SaslAuthenticate` carries its messages.

use std::{fmt, sync::Arc};

use kafka_protocol::{
    error::ResponseError,
    messages::{SaslAuthenticateRequest, SaslHandshakeRequest},
    protocol::StrBytes,
};
use rsasl::{
    callback::{Context, Request, SessionCallback, SessionData},
    config::SASLConfig,
    mechname::Mechname,
    prelude::{MessageSent, SASLClient, SessionError, State},
    property::OAuthBearerToken,
};
use serde_json::Value;
use tidemill_certs::Secret;

use super::connection::Connection;
use crate::kafka::{fault::Cause, token::Token};

/// Gives a token that is valid now; called for each connection.
pub(in crate::kafka) type Tokens = Arc<dyn Fn() -> Result<Token, Cause> + Send + Sync>;

/// Who we are.
#[derive(Clone)]
pub(in crate::kafka) enum Credentials {
    /// A user and a password, by PLAIN or SCRAM.
    Password { mechanism: &'static str, username: String, password: Secret },
    /// OAUTHBEARER.
    Token(Tokens),
}

impl Credentials {
    /// Its name at Kafka.
    pub(in crate::kafka) fn mechanism(&self) -> &'static str {
        match self {
            Self::Password { mechanism, .. } => mechanism,
            Self::Token(_) => "OAUTHBEARER",
        }
    }

    /// The broker does not take them; of a token it may have said why.
    fn refused(&self, said: Option<&[u8]>) -> Cause {
        let Self::Token(_) = self else { return Cause::WrongCredentials };
        let said: Option<Value> = said.and_then(|said| serde_json::from_slice(said).ok());
        let status = said.as_ref().and_then(|said| said["status"].as_str());
        Cause::TokenRefused(status.unwrap_or_default().to_owned())
    }

    fn config(&self) -> Result<Arc<SASLConfig>, Cause> {
        let config = match self {
            Self::Password { username, password, .. } => {
                let password = password.expose_str().ok_or_else(|| sasl(&"the password is not UTF-8"))?;
                SASLConfig::with_credentials(None, username.clone(), password.to_owned())
            }
            Self::Token(token) => {
                let token = token()?.value;
                SASLConfig::builder().with_default_mechanisms().with_callback(Bearer(token))
            }
        };
        config.map_err(|error| sasl(&error))
    }
}

struct Bearer(Secret);

impl SessionCallback for Bearer {
    fn callback(&self, _: &SessionData, _: &Context<'_>, request: &mut Request<'_>) -> Result<(), SessionError> {
        if let Some(token) = self.0.expose_str() {
            request.satisfy::<OAuthBearerToken>(token.trim())?;
        }
        Ok(())
    }
}

/// Authenticates. Returns for how many milliseconds that holds; 0: for ever.
pub(super) fn authenticate(connection: &mut Connection, credentials: &Credentials) -> Result<i64, Cause> {
    let mechanism = credentials.mechanism();
    let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str(mechanism));
    let answer = connection.ask(&handshake)?;
    match ResponseError::try_from_code(answer.error_code) {
        None => {}
        Some(ResponseError::IllegalSaslState) => return Err(Cause::NoSasl),
        Some(ResponseError::UnsupportedSaslMechanism) => {
            let offered = answer.mechanisms.iter().map(|name| name.to_string()).collect();
            return Err(Cause::MechanismRefused { mechanism: mechanism.to_owned(), offered });
        }
        Some(other) => return Err(Cause::Answered(other)),
    }
    let name = Mechname::parse(mechanism.as_bytes()).map_err(|error| sasl(&error))?;
    let client = SASLClient::new(credentials.config()?);
    let mut session = client.start_suggested(&[name]).map_err(|error| sasl(&error))?;
    let mut said: Option<Vec<u8>> = None;
    let mut lifetime_ms = 0;
    loop {
        let mut message = Vec::new();
        // A server that does not know our password cannot prove that it does, and to a bad token it answers: the step fails.
        let state = session.step(said.as_deref(), &mut message).map_err(|_| credentials.refused(said.as_deref()))?;
        if state == State::Finished(MessageSent::No) {
            return Ok(lifetime_ms);
        }
        let answer = connection.ask(&SaslAuthenticateRequest::default().with_auth_bytes(message.into()))?;
        match ResponseError::try_from_code(answer.error_code) {
            None => {}
            Some(ResponseError::SaslAuthenticationFailed) => return Err(credentials.refused(None)),
            Some(other) => return Err(Cause::Answered(other)),
        }
        lifetime_ms = answer.session_lifetime_ms;
        // To a good token the server has nothing to say.
        let accepted = matches!(credentials, Credentials::Token(_)) && answer.auth_bytes.is_empty();
        if accepted || state == State::Finished(MessageSent::Yes) {
            return Ok(lifetime_ms);
        }
        said = Some(answer.auth_bytes.to_vec());
    }
}

fn sasl(error: &impl fmt::Display) -> Cause {
    Cause::Unnamed(format!("SASL: {error}"))
}
