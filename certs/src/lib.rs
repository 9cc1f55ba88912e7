//! Secret material by reference.
//!
//! A spec never holds a secret, only a [`SecretRef`]: `{env: NAME}`, `{file: PATH}` or `{key_vault: NAME}`. What a
//! reference leads to is a [`Secret`], which cannot be printed and wipes its bytes when it goes. Connectors resolve
//! references when they connect; validation never does, so that a spec can be checked on a machine without the secrets.
//!
//! Errors name the reference, never the value.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod reference;
mod secret;

pub use reference::{SecretError, SecretRef};
pub use secret::Secret;
