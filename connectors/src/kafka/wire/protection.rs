//! How connections are protected: TLS, SASL, both or neither.

use std::{fmt, sync::Arc};

use rustls::ClientConfig;

use super::sasl::Credentials;

/// What every connection to a cluster is made with. Cheap to clone; shows no secret.
#[derive(Clone, Default)]
pub(in crate::kafka) struct Protection {
    /// Roots, client certificate, versions; `None`: plain text.
    pub(in crate::kafka) tls: Option<Arc<ClientConfig>>,
    /// Who we are; `None`: nobody.
    pub(in crate::kafka) sasl: Option<Credentials>,
}

impl fmt::Debug for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mechanism = self.sasl.as_ref().map(Credentials::mechanism);
        f.debug_struct("Protection").field("tls", &self.tls.is_some()).field("sasl", &mechanism).finish()
    }
}
