//! Certificates and keys for TLS: read from whatever form they come in, checked before use.
//!
//! [`TlsMaterial::read`] is the one way in. It takes the bytes that secret references led to and gives DER, ready for
//! rustls, and normalised PEM, ready for librdkafka; what it had to repair or finds doubtful comes as [`Note`]s, what
//! makes the material useless as a [`MaterialError`]. So a broker is never asked with material that it must refuse.
//!
//! ```text
//! Secret --container--> certificates, key --chain--> leaf first, issuers behind it --check--> TlsMaterial
//! ```

mod certificate;
mod chain;
mod container;
mod error;
mod key;
mod pem;
mod signing;

use std::{fmt, time::Duration};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use zeroize::Zeroize;

pub use certificate::{CertificateFacts, Expiry};
pub use error::{MaterialError, Note, Part};
pub use signing::SigningKey;

use crate::Secret;

/// What the references of a security description led to.
#[derive(Clone, Debug, Default)]
pub struct MaterialSecrets {
    /// Certificates of the authorities that peers are checked against.
    pub ca: Option<Secret>,
    /// Our certificate and its issuers; may hold the key too, as key vaults' certificates do.
    pub certificate: Option<Secret>,
    /// The certificate's key.
    pub key: Option<Secret>,
    /// The password of the key, or of a PKCS#12 `certificate`.
    pub key_password: Option<Secret>,
}

/// Checked material for TLS connections. Its `Debug` shows subjects, never the key.
#[derive(Debug)]
pub struct TlsMaterial {
    ca: Option<Vec<CertificateDer<'static>>>,
    identity: Option<Identity>,
    notes: Vec<Note>,
}

/// Who we are: a certificate, its issuers and its key. The key is overwritten on drop.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl TlsMaterial {
    /// Reads and checks; `now` decides about dates.
    ///
    /// # Errors
    /// For what no peer would accept: bytes that hold no certificate or key, a key that belongs to another certificate,
    /// a certificate that is expired, not valid yet, or not meant for clients.
    pub fn read(secrets: &MaterialSecrets, now: UnixTime) -> Result<Self, MaterialError> {
        let mut notes = vec![];
        let ca = secrets.ca.as_ref().map(|secret| read_ca(secret, now, &mut notes)).transpose()?;
        let identity = match (&secrets.certificate, &secrets.key) {
            (None, None) => None,
            (None, Some(_)) => return Err(MaterialError::KeyWithoutCertificate),
            (Some(certificate), key) => {
                let identity = read_identity(certificate, key.as_ref(), secrets.key_password.as_ref(), &mut notes)?;
                chain::check(&identity, ca.as_deref(), now, &mut notes)?;
                Some(identity)
            }
        };
        Ok(Self { ca, identity, notes })
    }

    /// The authorities to check peers against, unless the system's are to be used.
    #[must_use]
    pub fn ca(&self) -> Option<&[CertificateDer<'static>]> {
        self.ca.as_deref()
    }

    /// Our certificate and key, if any were given.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// What was repaired, and what is doubtful.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The authorities as PEM.
    #[must_use]
    pub fn ca_pem(&self) -> Option<String> {
        self.ca.as_ref().map(|certificates| certificates_pem(certificates))
    }

    /// When each certificate ends: our own and its issuers, then the authorities.
    #[must_use]
    pub fn expiries(&self) -> Vec<Expiry> {
        let own = self.identity.iter().flat_map(|identity| &identity.chain).map(|der| (Part::Certificate, der));
        let ca = self.ca.iter().flatten().map(|der| (Part::Ca, der));
        own.chain(ca).filter_map(|(part, der)| Some(CertificateFacts::of(der)?.expiry(part))).collect()
    }

    /// Whether both hold the same certificates and keys.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let identity = |material: &Self| {
            let identity = material.identity.as_ref()?;
            Some((identity.chain.clone(), Secret::new(identity.key.secret_der().to_vec())))
        };
        self.ca == other.ca && identity(self) == identity(other)
    }
}

impl Identity {
    /// The certificate, then its issuers, each signed by the next.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Whose the certificate is, as Kafka names it: `CN=client,O=here`, the most particular part first.
    #[must_use]
    pub fn distinguished_name(&self) -> String {
        let subject = certificate::subject(&self.chain[0]);
        let parts: Vec<_> = subject.split(", ").collect();
        parts.into_iter().rev().collect::<Vec<_>>().join(",")
    }

    /// The key, decrypted.
    #[must_use]
    pub fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }

    /// The chain as PEM.
    #[must_use]
    pub fn chain_pem(&self) -> String {
        certificates_pem(&self.chain)
    }

    /// The key as PEM, decrypted.
    #[must_use]
    pub fn key_pem(&self) -> Secret {
        let label = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        Secret::new(pem::encode(label, self.key.secret_der()).into_bytes())
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subjects: Vec<_> = self.chain.iter().map(certificate::subject).collect();
        f.debug_struct("Identity").field("chain", &subjects).finish_non_exhaustive()
    }
}

fn certificates_pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|der| pem::encode("CERTIFICATE", der)).collect()
}

fn read_ca(
    secret: &Secret,
    now: UnixTime,
    notes: &mut Vec<Note>,
) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let content = container::read(Part::Ca, secret, None, notes)?;
    if content.certificates.is_empty() {
        return Err(MaterialError::NoCertificate { part: Part::Ca, found: content.found() });
    }
    let mut valid = 0;
    for der in &content.certificates {
        let facts = CertificateFacts::parse(Part::Ca, der)?;
        if now.as_secs() > facts.not_after {
            notes.push(Note::ExpiredAuthority { subject: facts.subject, not_after: facts.not_after });
        } else {
            valid += 1;
            if !facts.is_authority {
                notes.push(Note::NotAnAuthority { subject: facts.subject });
            }
        }
    }
    match (valid, notes.pop()) {
        (0, Some(Note::ExpiredAuthority { subject, not_after })) => {
            Err(MaterialError::Expired { part: Part::Ca, subject, not_after })
        }
        (_, note) => {
            notes.extend(note);
            Ok(content.certificates)
        }
    }
}

fn read_identity(
    certificate: &Secret,
    key: Option<&Secret>,
    password: Option<&Secret>,
    notes: &mut Vec<Note>,
) -> Result<Identity, MaterialError> {
    let mut content = container::read(Part::Certificate, certificate, password, notes)?;
    if content.certificates.is_empty() {
        return Err(MaterialError::NoCertificate { part: Part::Certificate, found: content.found() });
    }
    let key = match key {
        Some(key) => {
            let mut from_key = container::read(Part::Key, key, password, notes)?;
            from_key.key.take().ok_or_else(|| MaterialError::NoKey { part: Part::Key, found: from_key.found() })?
        }
        None => content.key.take().ok_or(MaterialError::CertificateWithoutKey)?,
    };
    chain::order(std::mem::take(&mut content.certificates), key, notes)
}

/// Days, hours or minutes, whichever a person would say.
pub(crate) fn in_words(duration: Duration) -> String {
    let (count, unit) = match duration.as_secs() {
        seconds if seconds >= 2 * 86_400 => (seconds / 86_400, "days"),
        seconds if seconds >= 2 * 3_600 => (seconds / 3_600, "hours"),
        seconds => (seconds / 60, "minutes"),
    };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests;
