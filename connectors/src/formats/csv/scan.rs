//! Where fields and records end: RFC 4180, with line feeds as well as CRLF. A quote is one only at the beginning of a field;
//! elsewhere it is an ordinary character (`5" disk`).

use memchr::{memchr, memchr_iter, memchr2};

/// What stands between and around fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The character between two fields.
    pub delimiter: u8,
    /// The character around fields that hold delimiters or line breaks; `None`: no field can.
    pub quote: Option<u8>,
}

impl Default for Dialect {
    /// RFC 4180.
    fn default() -> Self {
        Self { delimiter: b',', quote: Some(b'"') }
    }
}

/// A quote that is not closed within this many bytes was no quote: the record ends with its line, so that one stray quote
/// costs one record and not the rest of the file.
const MAX_OPEN_QUOTE: usize = 16 << 20;

/// One field as it stands between two delimiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    /// Without quotes.
    Plain(&'a [u8]),
    /// What stands between the quotes.
    Quoted(&'a [u8]),
    /// What stands between the quotes, in which each quote is still doubled.
    Doubled(&'a [u8]),
    /// Something stands behind the closing quote, or there is none.
    Broken,
}

/// What ended a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Delimiter,
    Line,
    Input,
}

/// The field that begins at `start`, what ended it, and where the next one begins.
pub(super) fn field(bytes: &[u8], start: usize, dialect: Dialect) -> (Field<'_>, End, usize) {
    let Dialect { delimiter, quote: mark } = dialect;
    let Some(mark) = mark.filter(|mark| bytes.get(start) == Some(mark)) else {
        let length = memchr2(delimiter, b'\n', &bytes[start..]);
        let (end, kind, next) = boundary(bytes, start, length, delimiter);
        return (Field::Plain(&bytes[start..end]), kind, next);
    };
    let text = start + 1;
    let mut doubled = false;
    let mut position = text;
    let close = loop {
        let Some(length) = memchr(mark, &bytes[position..]) else { return (Field::Broken, End::Input, bytes.len()) };
        let quote = position + length;
        if bytes.get(quote + 1) != Some(&mark) {
            break quote;
        }
        doubled = true;
        position = quote + 2;
    };
    let (end, kind, next) = boundary(bytes, close + 1, memchr2(delimiter, b'\n', &bytes[close + 1..]), delimiter);
    let field = match doubled {
        _ if end != close + 1 => Field::Broken,
        true => Field::Doubled(&bytes[text..close]),
        false => Field::Quoted(&bytes[text..close]),
    };
    (field, kind, next)
}

/// Given how far from `from` the field's end was found: where its bytes end (without a carriage return), by what, and where
/// the next field begins.
fn boundary(bytes: &[u8], from: usize, length: Option<usize>, delimiter: u8) -> (usize, End, usize) {
    let (end, kind, next) = match length {
        None => (bytes.len(), End::Input, bytes.len()),
        Some(length) if bytes[from + length] == delimiter => return (from + length, End::Delimiter, from + length + 1),
        Some(length) => (from + length, End::Line, from + length + 1),
    };
    let end = if end > from && bytes[end - 1] == b'\r' { end - 1 } else { end };
    (end, kind, next)
}

/// Where the record at the beginning of `bytes` ends, its line feed included; `None` when more bytes are needed to know.
/// `whole` says that none follow.
pub(crate) fn record_end(bytes: &[u8], dialect: Dialect, whole: bool) -> Option<usize> {
    // Most lines have no quotes, so that their end is the record's.
    let line_end = match memchr2(b'\n', dialect.quote.unwrap_or(b'\n'), bytes) {
        Some(found) if bytes[found] == b'\n' => return Some(found + 1),
        Some(_) => memchr(b'\n', bytes),
        None => return whole.then_some(bytes.len()),
    };
    let mut position = 0;
    loop {
        let (field, end, next) = field(bytes, position, dialect);
        match end {
            End::Delimiter => position = next,
            End::Line => return Some(next),
            End::Input if field != Field::Broken => return whole.then_some(bytes.len()),
            End::Input if whole || bytes.len() - position > MAX_OPEN_QUOTE => {
                return line_end.map_or(whole.then_some(bytes.len()), |line_end| Some(line_end + 1));
            }
            End::Input => return None,
        }
    }
}

/// Length of the empty line at the beginning, if there is one.
pub(crate) fn blank_line(bytes: &[u8]) -> Option<usize> {
    match bytes {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}

/// Number of line feeds.
pub(crate) fn line_count(bytes: &[u8]) -> usize {
    memchr_iter(b'\n', bytes).count()
}
