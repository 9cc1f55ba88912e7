//! What can be wrong with material, and what was put right.

use std::fmt;

use super::certificate::date;

/// The part of the material that something is said about; named as in a spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The authorities.
    Ca,
    /// Our certificate and its issuers.
    Certificate,
    /// The certificate's key.
    Key,
}

impl Part {
    /// Its name in a spec.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Certificate => "certificate",
            Self::Key => "key",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why material cannot be used. Texts name what was found, never its bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MaterialError {
    /// Neither PEM, PKCS#12 nor DER.
    #[error(
        "`{part}` is not PEM: expected `-----BEGIN {}-----`, found {found}",
        if *.part == Part::Key { "PRIVATE KEY" } else { "CERTIFICATE" }
    )]
    NotPem {
        /// Which.
        part: Part,
        /// What it looks like.
        found: &'static str,
    },
    /// A block begins and does not end.
    #[error("`{part}` is cut off: block {number}, `{label}`, begins and has no `-----END {label}-----`")]
    CutOff {
        /// Which.
        part: Part,
        /// Place of the block, from 1.
        number: usize,
        /// Its label.
        label: String,
    },
    /// A block whose content cannot be decoded.
    #[error("`{part}` is damaged: block {number}, `{label}`, {why}")]
    Damaged {
        /// Which.
        part: Part,
        /// Place of the block, from 1.
        number: usize,
        /// Its label.
        label: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Blocks, and no certificate among them.
    #[error("`{part}` holds no certificate, only {found}")]
    NoCertificate {
        /// Which.
        part: Part,
        /// What is there.
        found: String,
    },
    /// Blocks, and no key among them.
    #[error("`{part}` holds no private key, only {found}")]
    NoKey {
        /// Which.
        part: Part,
        /// What is there.
        found: String,
    },
    /// More keys than one.
    #[error("`{part}` holds {count} private keys; leave the one that belongs to the certificate")]
    SeveralKeys {
        /// Which.
        part: Part,
        /// How many.
        count: usize,
    },
    /// A certificate alone.
    #[error("a `certificate` without its key: give `key`, or a `certificate` that holds both")]
    CertificateWithoutKey,
    /// A key alone.
    #[error("a `key` without its `certificate`")]
    KeyWithoutCertificate,
    /// An encrypted key and no password.
    #[error("`{part}` is encrypted: give its password as `key_password`")]
    PasswordMissing {
        /// Which.
        part: Part,
    },
    /// An encrypted key and another password.
    #[error("`key_password` does not open `{part}`")]
    WrongPassword {
        /// Which.
        part: Part,
    },
    /// Encrypted in a way that is not read.
    #[error("`{part}` is encrypted in a way that is not supported ({how}); convert it with: {command}")]
    UnsupportedEncryption {
        /// Which.
        part: Part,
        /// The scheme.
        how: &'static str,
        /// What converts it.
        command: &'static str,
    },
    /// A kind of key that TLS does not sign with here.
    #[error(
        "`{part}` is a private key that is not supported: expected RSA (2048 to 8192 bits), P-256, P-384, P-521 or Ed25519"
    )]
    UnsupportedKey {
        /// Which.
        part: Part,
    },
    /// A kind of key that statements are not signed with here.
    #[error("`{part}` cannot sign a statement: expected RSA (2048 bits or more) or P-256")]
    CannotSign {
        /// Which.
        part: Part,
    },
    /// The key belongs to no certificate of the chain.
    #[error("`key` does not belong to `certificate`: none of {} has its public key", subjects(.0))]
    KeyMismatch(Vec<String>),
    /// Its time is over.
    #[error("`{part}` has expired: `{subject}` was valid until {}", date(*.not_after))]
    Expired {
        /// Which.
        part: Part,
        /// Whose.
        subject: String,
        /// Unix seconds.
        not_after: u64,
    },
    /// Its time has not come.
    #[error("`{part}` is not valid yet: `{subject}` begins {}; is this machine's clock right?", date(*.not_before))]
    NotYetValid {
        /// Which.
        part: Part,
        /// Whose.
        subject: String,
        /// Unix seconds.
        not_before: u64,
    },
    /// Not meant for clients of TLS.
    #[error("`certificate` is not for clients: `{subject}` allows {allowed} only; have it issued with {needed}")]
    WrongUsage {
        /// Whose.
        subject: String,
        /// What it allows.
        allowed: String,
        /// What it would take.
        needed: &'static str,
    },
}

fn subjects(subjects: &[String]) -> String {
    let names: Vec<_> = subjects.iter().map(|subject| format!("`{subject}`")).collect();
    names.join(", ")
}

/// What was repaired in material, and what is doubtful about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Line breaks were written as the two characters `\n`.
    LiteralLineBreaks(Part),
    /// Line breaks were missing or blanks.
    MissingLineBreaks(Part),
    /// Line breaks were those of Windows.
    WindowsLineBreaks(Part),
    /// PKCS#12 in the place of PEM.
    Pkcs12(Part),
    /// DER in the place of PEM.
    Der(Part),
    /// Certificates stood in another order than each before its issuer.
    Reordered {
        /// Whose chain.
        subject: String,
    },
    /// A certificate that is not part of the chain was left out.
    Unrelated {
        /// Whose.
        subject: String,
    },
    /// The chain ends below an authority that is not in `ca`: right where brokers trust another one.
    IssuerNotInCa {
        /// The last certificate of the chain.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// The names fit and the signatures do not.
    ChainNotVerified {
        /// Whose chain.
        subject: String,
        /// In rustls' words.
        why: String,
    },
    /// An authority of `ca` whose time is over, beside others.
    ExpiredAuthority {
        /// Whose.
        subject: String,
        /// Unix seconds.
        not_after: u64,
    },
    /// A certificate of `ca` that may not sign others.
    NotAnAuthority {
        /// Whose.
        subject: String,
    },
}

impl Note {
    /// Whether it tells of a repair; otherwise of a doubt.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        matches!(
            self,
            Self::LiteralLineBreaks(_)
                | Self::MissingLineBreaks(_)
                | Self::WindowsLineBreaks(_)
                | Self::Pkcs12(_)
                | Self::Der(_)
                | Self::Reordered { .. }
        )
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LiteralLineBreaks(part) => write!(f, "`{part}` had literal `\\n` for line breaks; repaired"),
            Self::MissingLineBreaks(part) => write!(f, "`{part}` had its line breaks missing; repaired"),
            Self::WindowsLineBreaks(part) => write!(f, "`{part}` had Windows line ends; repaired"),
            Self::Pkcs12(part) => write!(f, "`{part}` is PKCS#12; converted"),
            Self::Der(part) => write!(f, "`{part}` is DER; converted"),
            Self::Reordered { subject } => {
                write!(f, "`certificate` was not in order; now `{subject}` first, each before its issuer")
            }
            Self::Unrelated { subject } => {
                write!(f, "`certificate` also holds `{subject}`, which did not issue it; left out")
            }
            Self::IssuerNotInCa { subject, issuer } => write!(
                f,
                "`certificate` ends with `{subject}`, issued by `{issuer}`, which is neither in it nor in `ca`: brokers \
                 have to know it"
            ),
            Self::ChainNotVerified { subject, why } => write!(f, "the chain of `{subject}` does not verify: {why}"),
            Self::ExpiredAuthority { subject, not_after } => {
                write!(f, "`ca` holds `{subject}`, which expired {}", date(*not_after))
            }
            Self::NotAnAuthority { subject } => {
                write!(f, "`ca` holds `{subject}`, which may not sign certificates: is it a broker's own?")
            }
        }
    }
}
