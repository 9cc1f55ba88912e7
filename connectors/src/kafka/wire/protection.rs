//! How connections are protected: TLS, SASL, both or neither.

use std::{fmt, sync::Arc};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use tidemill_certs::TlsMaterial;

use super::sasl::Credentials;
use crate::kafka::{
    fault::{Cause, Fault},
    security::{Sasl, Security},
};

/// What every connection to a cluster is made with. Cheap to clone; shows no secret.
#[derive(Clone, Default)]
pub(in crate::kafka) struct Protection {
    /// Roots, client certificate, versions; `None`: plain text.
    pub(in crate::kafka) tls: Option<Arc<ClientConfig>>,
    /// Who we are; `None`: nobody.
    pub(in crate::kafka) sasl: Option<Credentials>,
}

impl Protection {
    /// What a security description comes to.
    ///
    /// # Errors
    /// When rustls cannot do it: a key of an old kind, a machine without certificates of its own, Kerberos.
    pub(in crate::kafka) fn of(security: &Security) -> Result<Self, Fault> {
        let tls = security.tls.as_deref().map(tls).transpose()?.map(Arc::new);
        let sasl = match &security.sasl {
            None => None,
            Some(sasl @ (Sasl::Plain { username, password } | Sasl::Scram { username, password, .. })) => {
                let (username, password) = (username.clone(), password.clone());
                Some(Credentials::Password { mechanism: sasl.mechanism(), username, password })
            }
            Some(Sasl::OauthBearer(tokens)) => {
                let tokens = Arc::clone(tokens);
                Some(Credentials::Token(Arc::new(move || {
                    tokens
                        .token()
                        .map_err(|error| Cause::NoToken { why: error.to_string(), may_pass: error.may_pass() })
                })))
            }
            Some(Sasl::Gssapi { .. }) => {
                return Err(Fault::Protection("`fetch: own` cannot do GSSAPI: leave `fetch` out".to_owned()));
            }
        };
        Ok(Self { tls, sasl })
    }
}

/// The authorities that brokers are checked against: the description's, else the machine's.
///
/// # Errors
/// When there are none.
pub(in crate::kafka) fn roots(material: &TlsMaterial) -> Result<RootCertStore, Fault> {
    let fault = |error: rustls::Error| Fault::Protection(format!("TLS: {error}"));
    let mut roots = RootCertStore::empty();
    match material.ca() {
        Some(ca) => ca.iter().try_for_each(|certificate| roots.add(certificate.clone())).map_err(fault)?,
        None => {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        let text = "this machine has no CA certificates: install `ca-certificates`, or give `ca`";
        return Err(Fault::Protection(text.to_owned()));
    }
    Ok(roots)
}

fn tls(material: &TlsMaterial) -> Result<ClientConfig, Fault> {
    let fault = |error: rustls::Error| Fault::Protection(format!("TLS: {error}"));
    let roots = roots(material)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(fault)?
        .with_root_certificates(roots);
    match material.identity() {
        None => Ok(config.with_no_client_auth()),
        Some(identity) => {
            config.with_client_auth_cert(identity.chain().to_vec(), identity.key().clone_key()).map_err(fault)
        }
    }
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mechanism = self.sasl.as_ref().map(Credentials::mechanism);
        f.debug_struct("Protection").field("tls", &self.tls.is_some()).field("sasl", &mechanism).finish()
    }
}
