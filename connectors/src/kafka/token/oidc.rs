//! Tokens that an identity provider gives for a client's credentials: OAuth 2.0, RFC 6749 section 4.4. The client proves itself by
//! a secret (section 2.3.1) or by a statement that it signs (RFC 7523 section 2.2).

use std::{fmt, sync::Arc, time::Duration};

use aws_lc_rs::rand;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::{Certificate, Client, StatusCode};
use serde_json::{Value, json};
use tidemill_certs::{Secret, SecretRef, SecretStore, SigningKey};
use tidemill_engine::Clock;

use super::{Token, TokenError, TokenSource, claims, percent_encoded};

/// How long the provider may take.
const WITHIN: Duration = Duration::from_secs(10);
/// How long what we sign holds.
const ASSERTION_S: i64 = 300;
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How an identity provider is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcSettings {
    /// The address of its token endpoint.
    pub token_url: String,
    /// Who we are to it.
    pub client_id: String,
    /// How we prove it.
    pub proof: ClientProof,
    /// What the token is to allow.
    pub scope: Option<String>,
    /// For whom the token is to be.
    pub audience: Option<String>,
    /// The authorities that it is checked against, as PEM; without them the system's.
    pub ca: Option<SecretRef>,
}

/// How a client proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientProof {
    /// By a secret that both know.
    Secret(SecretRef),
    /// By a statement signed with a key, of which the provider has the public half.
    Key {
        /// It.
        key: SecretRef,
        /// Its password.
        password: Option<SecretRef>,
        /// Its name at the provider.
        id: Option<String>,
    },
}

/// See the module.
pub(super) struct OidcTokens {
    settings: OidcSettings,
    secrets: Arc<SecretStore>,
    clock: Arc<dyn Clock>,
    client: Client,
}

impl fmt::Debug for OidcTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcTokens").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl OidcTokens {
    pub(super) fn new(
        settings: &OidcSettings,
        secrets: Arc<SecretStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TokenError> {
        let unreachable = |why: String| TokenError::Unreachable { url: settings.token_url.clone(), why };
        let mut builder = Client::builder().timeout(WITHIN);
        if let Some(ca) = &settings.ca {
            let ca = fetch(&secrets, "oidc.ca", ca)?;
            let certificates = Certificate::from_pem_bundle(ca.expose())
                .map_err(|error| unreachable(format!("`ca` is no PEM certificate: {error}")))?;
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| unreachable(chain(&error)))?;
        Ok(Self { settings: settings.clone(), secrets, clock, client })
    }

    /// The form that is sent, and the secret that goes beside it.
    fn question(&self) -> Result<(String, Option<Secret>), TokenError> {
        let OidcSettings { client_id, proof, scope, audience, .. } = &self.settings;
        let mut fields = vec![("grant_type", "client_credentials".to_owned())];
        let secret = match proof {
            ClientProof::Secret(secret) => Some(fetch(&self.secrets, "oidc.client_secret", secret)?),
            ClientProof::Key { key, password, id } => {
                let key = fetch(&self.secrets, "oidc.key", key)?;
                let password = password
                    .as_ref()
                    .map(|password| fetch(&self.secrets, "oidc.key_password", password))
                    .transpose()?;
                let key = SigningKey::read(&key, password.as_ref())?;
                fields.push(("client_id", client_id.clone()));
                fields.push(("client_assertion_type", JWT_BEARER.to_owned()));
                fields.push(("client_assertion", self.assertion(&key, id.as_deref())?));
                None
            }
        };
        fields.extend(scope.iter().map(|scope| ("scope", scope.clone())));
        fields.extend(audience.iter().map(|audience| ("audience", audience.clone())));
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
        Ok((fields.join("&"), secret))
    }

    /// A statement that it is us who ask, signed.
    fn assertion(&self, key: &SigningKey, key_id: Option<&str>) -> Result<String, TokenError> {
        let no_randomness = || TokenError::Machine("it has no randomness".to_owned());
        let mut once = [0; 16];
        rand::fill(&mut once).map_err(|_| no_randomness())?;
        let mut header = json!({"alg": key.algorithm(), "typ": "JWT"});
        if let Some(id) = key_id {
            header["kid"] = id.into();
        }
        let (now, client) = (self.clock.wall().0 / 1_000_000, &self.settings.client_id);
        let claims = json!({
            "iss": client, "sub": client, "aud": self.settings.token_url,
            "iat": now, "nbf": now, "exp": now + ASSERTION_S, "jti": URL_SAFE_NO_PAD.encode(once),
        });
        let part = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let statement = format!("{}.{}", part(header), part(claims));
        let signature = key.sign(statement.as_bytes()).ok_or_else(no_randomness)?;
        Ok(format!("{statement}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    async fn ask(&self, form: String, secret: Option<Secret>) -> Result<(StatusCode, Vec<u8>), reqwest::Error> {
        let mut request = self
            .client
            .post(&self.settings.token_url)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json");
        if let Some(secret) = secret {
            let secret = percent_encoded(&String::from_utf8_lossy(secret.expose()));
            request = request.basic_auth(percent_encoded(&self.settings.client_id), Some(secret));
        }
        let answer = request.body(form).send().await?;
        Ok((answer.status(), answer.bytes().await?.to_vec()))
    }

    fn judge(&self, status: StatusCode, answer: &[u8]) -> Result<Token, TokenError> {
        let OidcSettings { token_url, client_id, .. } = &self.settings;
        let unreachable = |why: String| TokenError::Unreachable { url: token_url.clone(), why };
        let refused = |why: String| TokenError::NoGrant { url: token_url.clone(), client: client_id.clone(), why };
        let parsed: Option<Value> = serde_json::from_slice(answer).ok();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(unreachable(status.to_string()));
        }
        if !status.is_success() {
            let said = |name: &str| parsed.as_ref()?.get(name)?.as_str().map(str::to_owned);
            let words: Vec<_> = [said("error"), said("error_description")].into_iter().flatten().collect();
            return Err(refused(if words.is_empty() { status.to_string() } else { words.join(": ") }));
        }
        let parsed = parsed.ok_or_else(|| refused("its answer is not JSON: is this a token endpoint?".to_owned()))?;
        let token =
            parsed["access_token"].as_str().ok_or_else(|| refused("its answer has no `access_token`".to_owned()))?;
        let value = Secret::new(token.as_bytes().to_vec());
        let claims = claims(&value).ok();
        let now_ms = self.clock.wall().0 / 1_000;
        let lasts_s = parsed["expires_in"].as_i64().or_else(|| parsed["expires_in"].as_str()?.parse().ok());
        let expires_ms = lasts_s
            .map(|seconds| now_ms.saturating_add(seconds.saturating_mul(1_000)))
            .or_else(|| claims.as_ref().map(|claims| claims.expires_ms))
            .ok_or_else(|| refused("its answer does not say when the token ends (`expires_in`)".to_owned()))?;
        let principal = claims.map_or_else(|| client_id.clone(), |claims| claims.subject);
        Ok(Token { value, principal, expires_ms })
    }
}

impl TokenSource for OidcTokens {
    fn token(&self) -> Result<Token, TokenError> {
        let unreachable = |why: String| TokenError::Unreachable { url: self.settings.token_url.clone(), why };
        let (form, secret) = self.question()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| TokenError::Machine(error.to_string()))?;
        let (status, answer) =
            runtime.block_on(self.ask(form, secret)).map_err(|error| unreachable(chain(&error.without_url())))?;
        self.judge(status, &answer)
    }
}

fn fetch(secrets: &SecretStore, field: &'static str, reference: &SecretRef) -> Result<Secret, TokenError> {
    secrets.fetch(reference).map_err(|source| TokenError::Secret { field, source })
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
    causes.collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests;
