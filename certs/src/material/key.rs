//! Private keys of every common form.

use pkcs8::{EncryptedPrivateKeyInfoRef, der::Decode};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use zeroize::Zeroizing;

use crate::Secret;

use super::{
    error::{MaterialError, Part},
    pem::Block,
};

/// What converts a key to the form that everybody reads.
const CONVERT: &str = "openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW";

/// The key of a block, decrypted.
///
/// # Errors
/// For an encrypted one without the right password, and for a label that is no key's.
pub(super) fn from_block(
    part: Part,
    number: usize,
    block: &Block,
    password: Option<&Secret>,
) -> Result<PrivateKeyDer<'static>, MaterialError> {
    if block.is_encrypted_by_openssl {
        let how = "the format of OpenSSL before PKCS#8";
        return Err(MaterialError::UnsupportedEncryption { part, how, command: CONVERT });
    }
    let der = &block.der;
    match block.label.as_str() {
        "PRIVATE KEY" => Ok(from_pkcs8(der.clone())),
        "RSA PRIVATE KEY" => Ok(PrivatePkcs1KeyDer::from(der.to_vec()).into()),
        "EC PRIVATE KEY" => Ok(PrivateSec1KeyDer::from(der.to_vec()).into()),
        "ENCRYPTED PRIVATE KEY" => decrypted(part, number, block, password).map(from_pkcs8),
        label => {
            let why = "is not a key of TLS: expected `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`";
            Err(MaterialError::Damaged { part, number, label: label.to_owned(), why })
        }
    }
}

/// A key of PKCS#8.
pub(super) fn from_pkcs8(mut der: Zeroizing<Vec<u8>>) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(std::mem::take(&mut *der)).into()
}

fn decrypted(
    part: Part,
    number: usize,
    block: &Block,
    password: Option<&Secret>,
) -> Result<Zeroizing<Vec<u8>>, MaterialError> {
    let damaged = |why| MaterialError::Damaged { part, number, label: block.label.clone(), why };
    let Ok(encrypted) = EncryptedPrivateKeyInfoRef::from_der(&block.der) else {
        let how = "a cipher that is not PBES2";
        return Err(match is_sequence(&block.der) {
            true => MaterialError::UnsupportedEncryption { part, how, command: CONVERT },
            false => damaged("is not an encrypted key"),
        });
    };
    let password = password.ok_or(MaterialError::PasswordMissing { part })?;
    match encrypted.encryption_algorithm.decrypt(password.expose(), encrypted.encrypted_data.as_bytes()) {
        // A wrong password gives valid padding now and then.
        Ok(der) if is_sequence(&der) => Ok(Zeroizing::new(der)),
        Ok(_) | Err(pkcs5::Error::DecryptFailed | pkcs5::Error::EncryptFailed) => {
            Err(MaterialError::WrongPassword { part })
        }
        Err(_) => {
            let how = "an outdated cipher";
            Err(MaterialError::UnsupportedEncryption { part, how, command: CONVERT })
        }
    }
}

/// Whether DER holds one sequence and nothing behind it.
fn is_sequence(der: &[u8]) -> bool {
    let (length, header) = match der {
        [0x30, length, ..] if *length < 0x80 => (usize::from(*length), 2),
        [0x30, 0x81, length, ..] => (usize::from(*length), 3),
        [0x30, 0x82, high, low, ..] => (usize::from(*high) << 8 | usize::from(*low), 4),
        _ => return false,
    };
    der.len() == header + length
}
