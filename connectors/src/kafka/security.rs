//! How the connections to a cluster are secured: as a spec says it, with secrets by reference ([`SecuritySettings`]), and
//! ready to connect with ([`Security`]). One description configures librdkafka, here, and the own fetch path.

use std::{fmt, sync::Arc, time::Duration};

use rdkafka::ClientConfig;
use tidemill_certs::{
    MaterialError, MaterialSecrets, Secret, SecretError, SecretRef, SecretStore, TlsMaterial, UnixTime,
};
use tidemill_engine::Clock;

use super::token::{TokenError, TokenSettings, TokenSource};

/// Whether this build can do Kerberos.
pub const HAS_GSSAPI: bool = cfg!(feature = "gssapi");

/// What a spec says of security; the default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecuritySettings {
    /// TLS, if it is spoken.
    pub tls: Option<TlsSettings>,
    /// Who we say we are, if anybody.
    pub sasl: Option<SaslSettings>,
    /// How often whoever holds connections is to look whether the secrets have changed; `None`: never.
    pub refresh: Option<Duration>,
}

/// TLS, with material by reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The authorities that brokers are checked against; `None`: the system's.
    pub ca: Option<SecretRef>,
    /// Our certificate.
    pub certificate: Option<SecretRef>,
    /// Its key; `None` where `certificate` holds both.
    pub key: Option<SecretRef>,
    /// The password of the key.
    pub key_password: Option<SecretRef>,
}

/// A SASL mechanism and what it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaslSettings {
    /// Name and password, sent as they are.
    Plain {
        /// The name.
        username: String,
        /// The password.
        password: SecretRef,
    },
    /// Name and password, proved without sending it.
    Scram {
        /// The hash.
        hash: ScramHash,
        /// The name.
        username: String,
        /// The password.
        password: SecretRef,
    },
    /// A token.
    OauthBearer(TokenSettings),
    /// Kerberos.
    Gssapi {
        /// The service part of the brokers' principals.
        service: String,
        /// Who we are.
        principal: Option<String>,
        /// The file of our key.
        keytab: Option<std::path::PathBuf>,
    },
}

/// The hash of SCRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScramHash {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl ScramHash {
    /// The mechanism's name.
    #[must_use]
    pub fn mechanism(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }
}

/// Why a security description cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A reference leads nowhere.
    #[error("security `{field}`")]
    Secret {
        /// The field that holds it.
        field: &'static str,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// A secret that has to be text is not.
    #[error("security `{field}` is not UTF-8 text")]
    NotText {
        /// The field that leads to it.
        field: &'static str,
    },
    /// Certificates or a key cannot be used.
    #[error("security {0}")]
    Material(#[from] MaterialError),
    /// There is no token.
    #[error("security {0}")]
    Token(#[from] TokenError),
    /// The program was built without it.
    #[error("this build lacks {what}; rebuild with `cargo build --features {feature}`")]
    NotInThisBuild {
        /// The mechanism.
        what: &'static str,
        /// The cargo feature.
        feature: &'static str,
    },
}

impl SecurityError {
    /// Whether another try may succeed without anybody's doing.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Token(error) if error.may_pass())
    }
}

/// How connections are secured, secrets in hand. Its `Debug` shows none of them.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// Speak TLS, with this material.
    pub tls: Option<Arc<TlsMaterial>>,
    /// Say who we are.
    pub sasl: Option<Sasl>,
}

/// A SASL mechanism, secrets in hand.
#[derive(Clone)]
pub enum Sasl {
    /// Name and password, sent as they are.
    Plain {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// Name and password, proved without sending it.
    Scram {
        /// The hash.
        hash: ScramHash,
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A token, asked for whenever one is needed.
    OauthBearer(Arc<dyn TokenSource>),
    /// Kerberos; librdkafka's alone.
    Gssapi {
        /// The service part of the brokers' principals.
        service: String,
        /// Who we are.
        principal: Option<String>,
        /// The file of our key.
        keytab: Option<std::path::PathBuf>,
    },
}

impl Sasl {
    /// The mechanism's name.
    #[must_use]
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Plain { .. } => "PLAIN",
            Self::Scram { hash, .. } => hash.mechanism(),
            Self::OauthBearer(_) => "OAUTHBEARER",
            Self::Gssapi { .. } => "GSSAPI",
        }
    }

    fn password(&self) -> Option<&Secret> {
        match self {
            Self::Plain { password, .. } | Self::Scram { password, .. } => Some(password),
            Self::OauthBearer(_) | Self::Gssapi { .. } => None,
        }
    }

    /// Who we say we are, for messages; `None` where the token says it.
    #[must_use]
    pub fn principal(&self) -> Option<&str> {
        match self {
            Self::Plain { username, .. } | Self::Scram { username, .. } => Some(username),
            Self::Gssapi { principal, .. } => principal.as_deref(),
            Self::OauthBearer(_) => None,
        }
    }
}

impl Security {
    /// Whether both connect with the same certificates, key, authorities and password. Tokens do not count: they are asked for
    /// whenever one is needed.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let same_tls = match (&self.tls, &other.tls) {
            (Some(own), Some(other)) => own.is_same_as(other),
            (own, other) => own.is_none() && other.is_none(),
        };
        same_tls && self.sasl.as_ref().and_then(Sasl::password) == other.sasl.as_ref().and_then(Sasl::password)
    }
}

impl fmt::Debug for Sasl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(self.mechanism()).field("principal", &self.principal()).finish_non_exhaustive()
    }
}

impl SecuritySettings {
    /// All references that it holds.
    #[must_use]
    pub fn references(&self) -> Vec<&SecretRef> {
        let tls = self.tls.iter().flat_map(|tls| [&tls.ca, &tls.certificate, &tls.key, &tls.key_password]).flatten();
        let sasl = match &self.sasl {
            None | Some(SaslSettings::Gssapi { .. }) => vec![],
            Some(SaslSettings::Plain { password, .. } | SaslSettings::Scram { password, .. }) => vec![password],
            Some(SaslSettings::OauthBearer(tokens)) => tokens.references(),
        };
        tls.chain(sasl).collect()
    }

    /// Fetches what the references lead to, and checks it.
    ///
    /// # Errors
    /// When a reference leads nowhere, material cannot be used, or the mechanism is not in this build.
    pub fn resolve(&self, secrets: &Arc<SecretStore>, clock: &Arc<dyn Clock>) -> Result<Security, SecurityError> {
        let now = UnixTime::since_unix_epoch(Duration::from_micros(u64::try_from(clock.wall().0).unwrap_or(0)));
        let tls = self.tls.as_ref().map(|tls| tls.resolve(secrets, now)).transpose()?;
        let sasl = self.sasl.as_ref().map(|sasl| sasl.resolve(secrets, clock)).transpose()?;
        Ok(Security { tls: tls.map(Arc::new), sasl })
    }
}

impl TlsSettings {
    fn resolve(&self, secrets: &SecretStore, now: UnixTime) -> Result<TlsMaterial, SecurityError> {
        let fetch = |field, reference: &Option<SecretRef>| {
            reference.as_ref().map(|reference| fetch(secrets, field, reference)).transpose()
        };
        let found = MaterialSecrets {
            ca: fetch("ca", &self.ca)?,
            certificate: fetch("certificate", &self.certificate)?,
            key: fetch("key", &self.key)?,
            key_password: fetch("key_password", &self.key_password)?,
        };
        Ok(TlsMaterial::read(&found, now)?)
    }
}

impl SaslSettings {
    fn resolve(&self, secrets: &Arc<SecretStore>, clock: &Arc<dyn Clock>) -> Result<Sasl, SecurityError> {
        Ok(match self {
            Self::Plain { username, password } => {
                Sasl::Plain { username: username.clone(), password: fetch_text(secrets, "password", password)? }
            }
            Self::Scram { hash, username, password } => Sasl::Scram {
                hash: *hash,
                username: username.clone(),
                password: fetch_text(secrets, "password", password)?,
            },
            Self::OauthBearer(tokens) => Sasl::OauthBearer(tokens.open(secrets, clock)?),
            Self::Gssapi { .. } if !HAS_GSSAPI => {
                return Err(SecurityError::NotInThisBuild { what: "GSSAPI (Kerberos)", feature: "gssapi" });
            }
            Self::Gssapi { service, principal, keytab } => {
                Sasl::Gssapi { service: service.clone(), principal: principal.clone(), keytab: keytab.clone() }
            }
        })
    }
}

fn fetch(secrets: &SecretStore, field: &'static str, reference: &SecretRef) -> Result<Secret, SecurityError> {
    secrets.fetch(reference).map_err(|source| SecurityError::Secret { field, source })
}

fn fetch_text(secrets: &SecretStore, field: &'static str, reference: &SecretRef) -> Result<Secret, SecurityError> {
    let secret = fetch(secrets, field, reference)?;
    if secret.expose_str().is_some_and(|text| !text.contains('\0')) {
        Ok(secret)
    } else {
        Err(SecurityError::NotText { field })
    }
}

impl Security {
    /// The protocol in Kafka's words.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }

    /// Who brokers take us for, as their ACLs name it by default.
    #[must_use]
    pub fn principal(&self) -> String {
        let name = match &self.sasl {
            Some(Sasl::OauthBearer(tokens)) => tokens.token().ok().map(|token| token.principal),
            Some(sasl) => sasl.principal().map(str::to_owned),
            None => self.tls.as_ref().and_then(|tls| Some(tls.identity()?.distinguished_name())),
        };
        format!("User:{}", name.as_deref().unwrap_or("ANONYMOUS"))
    }

    /// Whether the mechanism is one that only librdkafka does.
    pub(super) fn takes_librdkafka(&self) -> bool {
        matches!(self.sasl, Some(Sasl::Gssapi { .. }))
    }

    /// Where tokens come from, if they are used.
    pub(super) fn tokens(&self) -> Option<&Arc<dyn TokenSource>> {
        match &self.sasl {
            Some(Sasl::OauthBearer(tokens)) => Some(tokens),
            _ => None,
        }
    }

    /// Puts it into the settings of a client of librdkafka, which keeps copies of the secrets for as long as it lives.
    pub(super) fn configure(&self, config: &mut ClientConfig) {
        config.set("security.protocol", self.protocol());
        if let Some(tls) = &self.tls {
            if let Some(ca) = tls.ca_pem() {
                config.set("ssl.ca.pem", ca);
            }
            if let Some(identity) = tls.identity() {
                config.set("ssl.certificate.pem", identity.chain_pem());
                config.set("ssl.key.pem", identity.key_pem().expose_str().unwrap_or_default());
            }
        }
        let Some(sasl) = &self.sasl else { return };
        config.set("sasl.mechanism", sasl.mechanism());
        match sasl {
            Sasl::Plain { username, password } | Sasl::Scram { username, password, .. } => {
                config.set("sasl.username", username);
                config.set("sasl.password", password.expose_str().unwrap_or_default());
            }
            Sasl::OauthBearer(_) => {}
            Sasl::Gssapi { service, principal, keytab } => {
                config.set("sasl.kerberos.service.name", service);
                if let Some(principal) = principal {
                    config.set("sasl.kerberos.principal", principal);
                }
                if let Some(keytab) = keytab {
                    config.set("sasl.kerberos.keytab", keytab.display().to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
