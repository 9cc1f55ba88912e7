//! The ways into a broker.

/// A listener of a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// No security.
    Plaintext,
    /// TLS; a client certificate is not asked for.
    Tls,
    /// TLS with a client certificate.
    Mtls,
    /// SASL over plain text: PLAIN and SCRAM.
    SaslPlaintext,
    /// SASL over TLS: those and OAUTHBEARER.
    SaslTls,
    /// SASL over TLS, PLAIN alone, with a server certificate that has expired.
    Expired,
    /// SASL over TLS, OAUTHBEARER alone, with tokens that are signed by the broker's issuer
    /// ([`Certificates::issuer_key`](super::Certificates::issuer_key)).
    Oidc,
}

impl Listener {
    /// All, in their order.
    pub const ALL: [Self; 7] =
        [Self::Plaintext, Self::Tls, Self::Mtls, Self::SaslPlaintext, Self::SaslTls, Self::Expired, Self::Oidc];

    /// Its name in the broker's settings.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Tls => "TLS",
            Self::Mtls => "MTLS",
            Self::SaslPlaintext => "SASLPLAINTEXT",
            Self::SaslTls => "SASLTLS",
            Self::Expired => "EXPIRED",
            Self::Oidc => "OIDC",
        }
    }

    /// Its protocol in Kafka's words.
    pub(super) fn protocol(self) -> &'static str {
        match self {
            Self::Plaintext => "PLAINTEXT",
            Self::Tls | Self::Mtls => "SSL",
            Self::SaslPlaintext => "SASL_PLAINTEXT",
            Self::SaslTls | Self::Expired | Self::Oidc => "SASL_SSL",
        }
    }
}
