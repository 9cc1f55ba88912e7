//! What a certificate says about itself.

use std::{fmt, time::Duration};

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
    time::ASN1Time,
};

use super::{
    error::{MaterialError, Part},
    in_words,
};

/// How long before its end a certificate is warned about, the shortest first, in seconds.
const WARN_BEFORE: [u64; 3] = [86_400, 7 * 86_400, 30 * 86_400];

/// What a certificate says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Whose it is, `CN=a, O=b`.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The host names and addresses that it is for.
    pub names: Vec<String>,
    /// From when it is valid, Unix seconds.
    pub not_before: u64,
    /// Until when, Unix seconds.
    pub not_after: u64,
    /// Whether it may sign other certificates.
    pub is_authority: bool,
    /// The purposes that it is bound to: `serverAuth`, `clientAuth` and so on; `None`: not bound.
    pub purposes: Option<Vec<String>>,
    /// Whether its key may sign what TLS needs signed.
    pub signs: bool,
}

impl CertificateFacts {
    /// Reads them; `None` when the bytes are no certificate.
    #[must_use]
    pub fn of(der: &CertificateDer<'_>) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let constraints = certificate.basic_constraints().ok().flatten();
        let purposes = certificate.extended_key_usage().ok().flatten().map(|usage| {
            let usage = usage.value;
            let named = [
                ("any", usage.any),
                ("serverAuth", usage.server_auth),
                ("clientAuth", usage.client_auth),
                ("codeSigning", usage.code_signing),
                ("emailProtection", usage.email_protection),
                ("timeStamping", usage.time_stamping),
                ("OCSPSigning", usage.ocsp_signing),
            ];
            let others = usage.other.iter().map(ToString::to_string);
            named.iter().filter(|(_, given)| *given).map(|(name, _)| (*name).to_owned()).chain(others).collect()
        });
        let signs = certificate.key_usage().ok().flatten().is_none_or(|usage| usage.value.digital_signature());
        Some(Self {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            names: alternative_names(&certificate),
            not_before: seconds(certificate.validity().not_before),
            not_after: seconds(certificate.validity().not_after),
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            purposes,
            signs,
        })
    }

    /// Until when it is valid, `2026-11-20 10:00 UTC`.
    #[must_use]
    pub fn valid_until(&self) -> String {
        date(self.not_after)
    }

    pub(super) fn parse(part: Part, der: &CertificateDer<'_>) -> Result<Self, MaterialError> {
        Self::of(der).ok_or_else(|| MaterialError::Damaged {
            part,
            number: 1,
            label: "CERTIFICATE".to_owned(),
            why: "is not a certificate",
        })
    }

    pub(super) fn expiry(&self, part: Part) -> Expiry {
        Expiry { part, subject: self.subject.clone(), not_after: self.not_after }
    }
}

/// When a certificate ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Which part it belongs to.
    pub part: Part,
    /// Whose it is.
    pub subject: String,
    /// Unix seconds.
    pub not_after: u64,
}

impl Expiry {
    /// Seconds that are left; negative when it is over.
    #[must_use]
    pub fn seconds_left(&self, now: UnixTime) -> i64 {
        let signed = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        signed(self.not_after).saturating_sub(signed(now.as_secs()))
    }

    /// What to say about it at `now`, when its end is 30, 7 or 1 days near; with how many were crossed, so that each is
    /// said once.
    #[must_use]
    pub fn warning(&self, now: UnixTime) -> Option<(usize, String)> {
        let Self { part, subject, not_after } = self;
        let Ok(left) = u64::try_from(self.seconds_left(now)) else {
            return Some((WARN_BEFORE.len() + 1, format!("`{part}` expired: `{subject}`, {}", date(*not_after))));
        };
        let crossed = WARN_BEFORE.iter().filter(|before| left <= **before).count();
        let left = in_words(Duration::from_secs(left));
        (crossed > 0).then(|| (crossed, format!("`{part}` expires in {left}: `{subject}`, {}", date(*not_after))))
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}` until {}", self.part, self.subject, date(self.not_after))
    }
}

/// Whose certificate it is, for messages.
pub(super) fn subject(der: &CertificateDer<'_>) -> String {
    CertificateFacts::of(der).map_or_else(|| "?".to_owned(), |facts| facts.subject)
}

/// `2026-11-20 10:00 UTC` of Unix seconds.
pub(crate) fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    at.map_or_else(
        || "at no date".to_owned(),
        |at| {
            let at = at.to_datetime();
            format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute())
        },
    )
}

fn seconds(time: ASN1Time) -> u64 {
    u64::try_from(time.timestamp()).unwrap_or(0)
}

fn name(name: &x509_parser::x509::X509Name<'_>) -> String {
    let text = name.to_string();
    if text.is_empty() { "a certificate without a subject".to_owned() } else { text }
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let mut names = vec![];
    for extension in certificate.extensions() {
        let ParsedExtension::SubjectAlternativeName(alternatives) = extension.parsed_extension() else { continue };
        for alternative in &alternatives.general_names {
            match alternative {
                GeneralName::DNSName(name) => names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.extend(address(bytes)),
                _ => {}
            }
        }
    }
    names
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string())
}
