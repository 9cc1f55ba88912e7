//! PEM, read as leniently as it is found in key vaults and environments, written strictly.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use zeroize::Zeroizing;

use super::error::{MaterialError, Note, Part};

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";
const LINE: usize = 64;

/// Padding is among what gets lost.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A block of PEM.
pub(super) struct Block {
    /// What stands behind `BEGIN`.
    pub(super) label: String,
    /// Its content, decoded; of an encrypted block of old kind, still encrypted.
    pub(super) der: Zeroizing<Vec<u8>>,
    /// Whether the block says `Proc-Type: 4,ENCRYPTED`.
    pub(super) is_encrypted_by_openssl: bool,
}

/// Whether there is a block in the text.
pub(super) fn is_pem(text: &str) -> bool {
    text.contains(BEGIN)
}

/// All blocks of the text; what is around them is left out, as `openssl -text` writes it.
///
/// # Errors
/// For a block without an end, or whose content is not base64.
pub(super) fn parse(part: Part, text: &str, notes: &mut Vec<Note>) -> Result<Vec<Block>, MaterialError> {
    let repaired;
    let mut rest = text;
    if text.contains("\\n") {
        notes.push(Note::LiteralLineBreaks(part));
        repaired = Zeroizing::new(text.replace("\\r", "").replace("\\n", "\n"));
        rest = &repaired;
    } else if text.contains('\r') {
        notes.push(Note::WindowsLineBreaks(part)); // carriage returns are skipped like other blanks
    }
    let mut blocks = vec![];
    let mut lines_are_missing = false;
    while let Some((_, from_label)) = rest.split_once(BEGIN) {
        let number = blocks.len() + 1;
        let cut_off = |label: &str| {
            let label = label.split('\n').next().unwrap_or_default().trim().chars().take(40).collect();
            MaterialError::CutOff { part, number, label }
        };
        let (label, body) = from_label.split_once(DASHES).ok_or_else(|| cut_off(from_label))?;
        let end = format!("-----END {label}-----");
        let (body, after) = body.split_once(&end).ok_or_else(|| cut_off(label))?;
        if body.contains(BEGIN) {
            return Err(cut_off(label));
        }
        lines_are_missing |= !body.contains('\n');
        blocks.push(block(part, number, label, body)?);
        rest = after;
    }
    if lines_are_missing {
        notes.push(Note::MissingLineBreaks(part));
    }
    Ok(blocks)
}

fn block(part: Part, number: usize, label: &str, body: &str) -> Result<Block, MaterialError> {
    let is_encrypted_by_openssl = body.contains("ENCRYPTED");
    // Headers, if any, end with an empty line.
    let has_headers = body.contains(':');
    let content = if has_headers { body.rsplit("\n\n").next().unwrap_or(body) } else { body };
    let digits: Zeroizing<String> = Zeroizing::new(content.chars().filter(|c| !c.is_whitespace()).collect());
    let damaged = |why| MaterialError::Damaged { part, number, label: label.to_owned(), why };
    let der = match LENIENT.decode(digits.as_bytes()) {
        Ok(der) if der.is_empty() => return Err(damaged("is empty")),
        Ok(der) => Zeroizing::new(der),
        Err(_) if is_encrypted_by_openssl => Zeroizing::new(vec![]), // it is refused by another name
        Err(_) => return Err(damaged("is not base64")),
    };
    Ok(Block { label: label.to_owned(), der, is_encrypted_by_openssl })
}

/// Base64 without dashes around it, as key vaults give PKCS#12.
pub(super) fn bare_base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits: Zeroizing<String> = Zeroizing::new(text.chars().filter(|c| !c.is_whitespace()).collect());
    LENIENT.decode(digits.as_bytes()).ok().filter(|der| !der.is_empty()).map(Zeroizing::new)
}

/// A block with lines of 64 characters and a closing line break.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    let digits = Zeroizing::new(STANDARD.encode(der));
    // Reserved whole, so that no half-written copy stays behind.
    let mut text = String::with_capacity(digits.len() + digits.len() / LINE + 2 * label.len() + 40);
    text.extend([BEGIN, label, DASHES, "\n"]);
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.extend([line, "\n"]);
        rest = after;
    }
    text.extend(["-----END ", label, DASHES, "\n"]);
    text
}
