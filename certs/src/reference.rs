//! Where a secret is kept.

use std::{fmt, fs, io, path::Path, path::PathBuf};

use schemars::JsonSchema;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};

use crate::{Secret, VaultError};

/// The text for somebody who wrote the secret itself.
const BY_REFERENCE: &str =
    "a secret is given by reference, never in the spec: write `{env: NAME}`, `{file: PATH}` or `{key_vault: NAME}`";

/// A reference to a secret: `{env: NAME}`, `{file: PATH}` or `{key_vault: NAME}`.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum SecretRef {
    /// The environment variable of this name.
    Env(String),
    /// The content of this file, without a closing line break; relative to the spec's directory.
    File(PathBuf),
    /// The secret of this name in the job's key vault, `NAME/VERSION` for one version of it. A certificate's name gives the
    /// certificate with its key.
    KeyVault(String),
}

/// Why a reference led nowhere.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable does not exist.
    #[error("environment variable `{0}` is not set")]
    NotSet(String),
    /// The variable exists and is empty.
    #[error("environment variable `{0}` is empty")]
    EmptyVariable(String),
    /// The file cannot be read.
    #[error("cannot read secret file `{}`", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file has no content.
    #[error("secret file `{}` is empty", .0.display())]
    EmptyFile(PathBuf),
    /// The job names no key vault.
    #[error("`{{key_vault: {0}}}` needs a vault: give the job `key_vault: {{vault: NAME}}`")]
    NoVault(String),
    /// The key vault did not give it.
    #[error("`{{key_vault: {name}}}`: {source}")]
    Vault {
        /// The secret's name.
        name: String,
        /// Why.
        source: VaultError,
    },
}

impl SecretRef {
    /// The same reference with a relative file path put below `dir`.
    #[must_use]
    pub fn below(self, dir: &Path) -> Self {
        match self {
            Self::File(path) => Self::File(dir.join(path)),
            other => other,
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "{{env: {name}}}"),
            Self::File(path) => write!(f, "{{file: {}}}", path.display()),
            Self::KeyVault(name) => write!(f, "{{key_vault: {name}}}"),
        }
    }
}

pub(crate) fn from_environment(name: &str) -> Result<Secret, SecretError> {
    use std::os::unix::ffi::OsStringExt;
    let value = std::env::var_os(name).ok_or_else(|| SecretError::NotSet(name.to_owned()))?;
    if value.is_empty() {
        return Err(SecretError::EmptyVariable(name.to_owned()));
    }
    Ok(Secret::new(value.into_vec()))
}

pub(crate) fn from_file(path: &Path) -> Result<Secret, SecretError> {
    let mut bytes = fs::read(path).map_err(|source| SecretError::Unreadable { path: path.to_owned(), source })?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(SecretError::EmptyFile(path.to_owned()));
    }
    Ok(Secret::new(bytes))
}

/// By hand, because the derived one would quote an inline secret as an unknown variant.
impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RefVisitor)
    }
}

struct RefVisitor;

impl<'de> Visitor<'de> for RefVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`{env: NAME}`, `{file: PATH}` or `{key_vault: NAME}`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretRef, A::Error> {
        // The name is read as text, so that a wrong one is a mistake of the whole reference and not of a field.
        let Some(kind) = map.next_key::<String>()? else {
            return Err(de::Error::invalid_value(Unexpected::Map, &self));
        };
        let secret = match kind.as_str() {
            "env" => SecretRef::Env(map.next_value()?),
            "file" => SecretRef::File(map.next_value()?),
            "key_vault" => SecretRef::KeyVault(map.next_value()?),
            _ => {
                let message = format!("unknown kind of reference `{kind}`; available: env, file, key_vault");
                return Err(de::Error::custom(message));
            }
        };
        if map.next_key::<String>()?.is_some() {
            return Err(de::Error::custom("expected one reference, found several"));
        }
        let empty = match &secret {
            SecretRef::Env(name) | SecretRef::KeyVault(name) => name.is_empty(),
            SecretRef::File(path) => path.as_os_str().is_empty(),
        };
        if empty { Err(de::Error::custom("a reference needs a name")) } else { Ok(secret) }
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretRef, E> {
        Err(E::custom(BY_REFERENCE))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<SecretRef, A::Error> {
        Err(de::Error::custom(BY_REFERENCE))
    }
}

#[cfg(test)]
mod tests;
