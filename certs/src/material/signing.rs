//! A key that signs statements about us: who has the certificate of it knows that they are ours.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeyPair as RsaKeyPair,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256},
};
use rustls::pki_types::PrivateKeyDer;

use super::{
    container,
    error::{MaterialError, Part},
};
use crate::Secret;

/// A private key, RSA or P-256, as JSON Web Signatures use it. Its `Debug` shows the algorithm alone.
pub struct SigningKey(Pair);

enum Pair {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
}

impl SigningKey {
    /// Reads a key of any form that TLS takes.
    ///
    /// # Errors
    /// When it is no key, needs another password, or is of another kind.
    pub fn read(key: &Secret, password: Option<&Secret>) -> Result<Self, MaterialError> {
        let part = Part::Key;
        let mut content = container::read(part, key, password, &mut vec![])?;
        let found = content.key.take().ok_or_else(|| MaterialError::NoKey { part, found: content.found() })?;
        let p256 = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = match &found {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).map(Pair::Rsa),
            PrivateKeyDer::Sec1(der) => EcdsaKeyPair::from_private_key_der(p256, der.secret_sec1_der()).map(Pair::P256),
            other => RsaKeyPair::from_pkcs8(other.secret_der())
                .map(Pair::Rsa)
                .or_else(|_| EcdsaKeyPair::from_pkcs8(p256, other.secret_der()).map(Pair::P256)),
        };
        pair.map(Self).map_err(|_| MaterialError::CannotSign { part })
    }

    /// The algorithm's name in JSON Web Signatures.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.0 {
            Pair::Rsa(_) => "RS256",
            Pair::P256(_) => "ES256",
        }
    }

    /// The signature; `None` when the machine has no randomness for it.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match &self.0 {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Pair::P256(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
        }
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData};

    use super::*;

    fn read(pair: &KeyPair) -> Result<SigningKey, MaterialError> {
        SigningKey::read(&Secret::new(pair.serialize_pem().into_bytes()), None)
    }

    #[test]
    fn what_is_signed_is_known_by_the_public_key() {
        let pair = KeyPair::generate().unwrap();
        let key = read(&pair).unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey { algorithm: \"ES256\", .. }");
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.der_bytes());
        public.verify(b"we", &key.sign(b"we").unwrap()).unwrap();
        assert!(public.verify(b"they", &key.sign(b"we").unwrap()).is_err());

        let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let key = read(&pair).unwrap();
        assert_eq!(key.algorithm(), "RS256");
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.der_bytes());
        public.verify(b"we", &key.sign(b"we").unwrap()).unwrap();
    }

    #[test]
    fn other_keys_are_named() {
        let error = read(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "`key` cannot sign a statement: expected RSA (2048 bits or more) or P-256");
        let error = SigningKey::read(&Secret::new(b"hunter2!".to_vec()), None).unwrap_err();
        assert_eq!(error.to_string(), "`key` is not PEM: expected `-----BEGIN PRIVATE KEY-----`, found other text");
    }
}
