//! What a secret holds: PEM blocks, PKCS#12, or bare DER.

use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::Secret;

use super::{
    certificate::CertificateFacts,
    error::{MaterialError, Note, Part},
    key, pem,
};

/// What was found in a secret, in its order.
#[derive(Default)]
pub(super) struct Content {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) key: Option<PrivateKeyDer<'static>>,
    /// Labels of all blocks, for messages.
    labels: Vec<String>,
}

impl Content {
    /// The labels of what is there, for messages.
    pub(super) fn found(&self) -> String {
        let labels: Vec<_> = self.labels.iter().map(|label| format!("`{label}`")).collect();
        if labels.is_empty() { "nothing".to_owned() } else { labels.join(", ") }
    }
}

/// Takes a secret apart.
///
/// # Errors
/// When it is none of the forms, damaged, or cannot be decrypted.
pub(super) fn read(
    part: Part,
    secret: &Secret,
    password: Option<&Secret>,
    notes: &mut Vec<Note>,
) -> Result<Content, MaterialError> {
    if let Some(text) = secret.expose_str() {
        if pem::is_pem(text) {
            return from_pem(part, text, password, notes);
        }
        if let Some(der) = pem::bare_base64(text) {
            return from_der(part, &der, password, notes);
        }
    }
    from_der(part, secret.expose(), password, notes)
}

fn from_pem(
    part: Part,
    text: &str,
    password: Option<&Secret>,
    notes: &mut Vec<Note>,
) -> Result<Content, MaterialError> {
    let mut content = Content::default();
    let mut keys = 0;
    for (i, block) in pem::parse(part, text, notes)?.into_iter().enumerate() {
        content.labels.push(block.label.clone());
        match block.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
                let der = CertificateDer::from(block.der.to_vec());
                if CertificateFacts::of(&der).is_none() {
                    let why = "is not a certificate";
                    return Err(MaterialError::Damaged { part, number: i + 1, label: block.label, why });
                }
                content.certificates.push(der);
            }
            label if label.ends_with("PRIVATE KEY") && part != Part::Ca => {
                keys += 1;
                content.key = Some(key::from_block(part, i + 1, &block, password)?);
            }
            _ => {}
        }
    }
    if keys > 1 {
        return Err(MaterialError::SeveralKeys { part, count: keys });
    }
    Ok(content)
}

fn from_der(
    part: Part,
    der: &[u8],
    password: Option<&Secret>,
    notes: &mut Vec<Note>,
) -> Result<Content, MaterialError> {
    let certificate = CertificateDer::from(der.to_vec());
    if CertificateFacts::of(&certificate).is_some() {
        notes.push(Note::Der(part));
        let labels = vec!["CERTIFICATE".to_owned()];
        return Ok(Content { certificates: vec![certificate], key: None, labels });
    }
    if part == Part::Key
        && let Ok(key) = PrivateKeyDer::try_from(der)
    {
        notes.push(Note::Der(part));
        return Ok(Content { key: Some(key.clone_key()), ..Content::default() });
    }
    if !is_pkcs12(der) {
        let found = match der {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16: save it as UTF-8",
            _ if std::str::from_utf8(der).is_ok_and(|text| text.starts_with("ssh-")) => "an SSH key",
            _ if std::str::from_utf8(der).is_ok() => "other text",
            _ => "other bytes",
        };
        return Err(MaterialError::NotPem { part, found });
    }
    from_pkcs12(part, der, password, notes)
}

/// A sequence that begins with version 3.
fn is_pkcs12(der: &[u8]) -> bool {
    let header = match der {
        [0x30, length, ..] if *length >= 0x80 => 2 + usize::from(length & 0x7f),
        [0x30, ..] => 2,
        _ => return false,
    };
    der.get(header..).is_some_and(|body| body.starts_with(&[2, 1, 3]))
}

fn from_pkcs12(
    part: Part,
    der: &[u8],
    password: Option<&Secret>,
    notes: &mut Vec<Note>,
) -> Result<Content, MaterialError> {
    let text = password.map_or(Some(""), Secret::expose_str).ok_or(MaterialError::WrongPassword { part })?;
    let store = KeyStore::from_pkcs12(der, text, Pkcs12ImportPolicy::Relaxed).map_err(|error| match error {
        p12_keystore::error::Error::UnsupportedEncryptionScheme => MaterialError::UnsupportedEncryption {
            part,
            how: "an old cipher of PKCS#12",
            command: "openssl pkcs12 -legacy -in FILE -nodes",
        },
        _ if password.is_none() => MaterialError::PasswordMissing { part },
        _ => MaterialError::WrongPassword { part },
    })?;
    notes.push(Note::Pkcs12(part));
    let mut content = Content::default();
    let mut keys = 0;
    for (_, entry) in store.entries() {
        match entry {
            KeyStoreEntry::PrivateKeyChain(chain) => {
                keys += 1;
                let certificates = chain.certs().iter().map(|certificate| certificate.as_der().to_vec().into());
                content.certificates.extend(certificates);
                let key = Zeroizing::new(chain.key().as_der().to_vec());
                content.key = Some(key::from_pkcs8(key));
                content.labels.push("PRIVATE KEY".to_owned());
            }
            KeyStoreEntry::Certificate(certificate) => {
                content.certificates.push(certificate.as_der().to_vec().into());
            }
            _ => {}
        }
    }
    content.labels.extend(content.certificates.iter().map(|_| "CERTIFICATE".to_owned()));
    if keys > 1 {
        return Err(MaterialError::SeveralKeys { part, count: keys });
    }
    Ok(content)
}
