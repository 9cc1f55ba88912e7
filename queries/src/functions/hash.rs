//! Digests of text, and identifiers that are computed rather than drawn: the same record gives the same one on every
//! reading.

use std::fmt::Write;

use arrow::array::ArrayRef;
use datafusion_common::{Result, exec_err};
use md5::{Digest, Md5};
use sha2::{Sha256, Sha512};

use super::{
    Arg::{Int, Text},
    Args, Function, Returns, function,
};

pub(super) static FUNCTIONS: &[Function] = &[function("hashbytes", &[Text, Text], Returns::Text, hash_bytes).doc_of(
    "HASHBYTES(algorithm, text)",
    "digest of the text's UTF-8 in hexadecimal digits; algorithms are MD5, SHA2_256 and SHA2_512",
    &[("HASHBYTES('MD5', 'abc')", "\"900150983cd24fb0d6963f7d28e17f72\"")],
)];

/// NEWGUID and the metadata property EventId, from topic, partition, offset and the number of the call in its SELECT.
pub(crate) static GUID: Function = function("newguid", &[Text, Int, Int, Int], Returns::Text, guid);

fn hash_bytes(args: &Args) -> Result<ArrayRef> {
    let (algorithm, text) = (args.text(0), args.text(1));
    args.to_text(|i| {
        let Some((algorithm, text)) = algorithm.get(i).zip(text.get(i)) else { return Ok(None) };
        let digest = match algorithm.to_ascii_uppercase().as_str() {
            "MD5" => hexadecimal(&Md5::digest(text)),
            "SHA2_256" => hexadecimal(&Sha256::digest(text)),
            "SHA2_512" => hexadecimal(&Sha512::digest(text)),
            _ => return exec_err!("unknown algorithm `{algorithm}`; available: MD5, SHA2_256, SHA2_512"),
        };
        Ok(Some(digest.into()))
    })
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A UUID of version 8 (RFC 9562): the first bytes of a SHA-256.
fn guid(args: &Args) -> Result<ArrayRef> {
    let (topic, partition, offset, call) = (args.text(0), args.int(1), args.int(2), args.int(3));
    args.to_text(|i| {
        let mut hash = Sha256::new();
        hash.update(topic.get(i).unwrap_or_default());
        for number in [&partition, &offset, &call] {
            hash.update(number.get(i).unwrap_or(-1).to_be_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let digits = hexadecimal(&bytes);
        let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
        Ok(Some(parts.join("-").into()))
    })
}
