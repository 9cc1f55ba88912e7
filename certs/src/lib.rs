//! Secret material by reference, and certificates as a life cycle.
//!
//! A spec never holds a secret, only a [`SecretRef`]: `{env: NAME}`, `{file: PATH}` or `{key_vault: NAME}`. What a
//! reference leads to is a [`Secret`], which cannot be printed and wipes its bytes when it goes. Connectors resolve
//! references through a [`SecretStore`] when they connect; validation never does, so that a spec can be checked on a machine
//! without the secrets. A [`KeyVault`] is asked through Azure's own crates, by an identity named in the spec.
//!
//! [`TlsMaterial`] is what certificates and keys become: parsed, repaired where that is safe, checked, and ready for
//! rustls (DER) and for librdkafka (PEM). It knows when each of its certificates ends ([`Expiry`]).
//!
//! Errors name the reference and what was found, never the value. The clock is handed in.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod key_vault;
mod material;
mod reference;
mod secret;
mod store;

pub use key_vault::{AzureIdentity, AzureTokens, KeyVault, KeyVaultSettings, VaultError};
pub use material::{
    CertificateFacts, Expiry, Identity, MaterialError, MaterialSecrets, Note, Part, SigningKey, TlsMaterial,
};
pub use reference::{SecretError, SecretRef};
pub use rustls::pki_types::UnixTime;
pub use secret::Secret;
pub use store::SecretStore;
