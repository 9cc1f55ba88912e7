//! A cursor over one payload: the grammar of JSON, and of what a payload may be.
//!
//! The payload is checked to be UTF-8 before anything else, so that every run of bytes between ASCII marks is text.

use tidemill_engine::decoder::{BadClass, BadRecord};

use super::{Check, number::Number, padded::Padded, plain, scan};

/// What every step of the way fails with. Boxed, so that the good path returns in registers.
pub(in crate::formats) type Fault = Box<BadRecord>;

/// How many arrays and objects may lie in one another; as many as serde_json reads back.
pub(in crate::formats) const MAX_DEPTH: usize = 127;

/// Reads one payload from front to back.
pub(in crate::formats) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    check: Check,
    /// The payload, or nothing.
    padded: Padded<'a>,
    /// Text of the last string that had escapes.
    scratch: &'a mut Vec<u8>,
}

impl<'a> Reader<'a> {
    /// At the payload's first byte. `scratch` is only room to work in.
    ///
    /// # Errors
    /// When the payload is not UTF-8.
    pub(in crate::formats) fn new(bytes: &'a [u8], check: Check, scratch: &'a mut Vec<u8>) -> Result<Self, Fault> {
        if !bytes.is_ascii() {
            check_utf8(bytes)?;
        }
        Ok(Reader { bytes, at: 0, depth: 0, check, padded: Padded::EMPTY, scratch })
    }

    /// [`Reader::new`] for a payload of which there is such a copy: what is plain in it is read by whole blocks.
    pub(super) fn of_padded(padded: Padded<'a>, check: Check, scratch: &'a mut Vec<u8>) -> Result<Self, Fault> {
        let bytes = padded.payload();
        if !padded.is_ascii() {
            check_utf8(bytes)?;
        }
        Ok(Reader { bytes, at: 0, depth: 0, check, padded, scratch })
    }

    /// Calls `row` at each object of the payload: the only one, the elements of the only array, or objects one after the
    /// other. Says how many there were.
    ///
    /// # Errors
    /// What `row` fails with, and anything else than such objects, `MAX_DEPTH` levels deep at most.
    pub(in crate::formats) fn objects(
        &mut self,
        mut row: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<usize, Fault> {
        let mut rows = 0;
        self.space();
        if self.peek() == Some(b'[') {
            let mut more = self.open(b']')?;
            while more {
                self.expect(b'{', "an object")?;
                row(self)?;
                rows += 1;
                more = self.more(b']')?;
            }
            self.space();
            return if self.at == self.bytes.len() { Ok(rows) } else { Err(self.malformed("the end of the payload")) };
        }
        self.expect(b'{', "an object or an array of objects")?;
        loop {
            row(self)?;
            rows += 1;
            self.space();
            if self.at == self.bytes.len() {
                return Ok(rows);
            }
            self.expect(b'{', "another object or the end of the payload")?;
        }
    }

    /// The payload for blocks, or nothing.
    #[inline]
    pub(super) fn blocks(&self) -> Padded<'a> {
        self.padded
    }

    /// Puts the cursor at what the caller has read up to.
    #[inline]
    pub(super) fn go_on_at(&mut self, at: usize) {
        debug_assert!(at <= self.bytes.len());
        self.at = at;
    }

    /// What lies at the cursor and behind it.
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// The next byte.
    #[inline]
    pub(in crate::formats) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Whether a record may be left after the last wanted column.
    #[inline]
    pub(super) fn is_lax(&self) -> bool {
        self.check == Check::Lax
    }

    /// Where the cursor stands.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// What was read since `start`.
    #[inline]
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// Passes white space.
    #[inline]
    pub(super) fn space(&mut self) {
        if self.peek().is_some_and(|byte| byte <= b' ') {
            let is_space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\t' | b'\r');
            self.at += self.rest().iter().take_while(|byte| is_space(byte)).count();
        }
    }

    fn expect(&self, byte: u8, what: &str) -> Result<(), Fault> {
        if self.peek() == Some(byte) { Ok(()) } else { Err(self.malformed(what)) }
    }

    /// Passes the bracket at the cursor, and its partner `close` if nothing lies between them. Says whether a member or an
    /// element follows.
    #[inline]
    pub(in crate::formats) fn open(&mut self, close: u8) -> Result<bool, Fault> {
        self.enter()?;
        self.at += 1;
        self.space();
        let is_empty = self.peek() == Some(close);
        if is_empty {
            self.leave();
        }
        Ok(!is_empty)
    }

    /// Goes a level deeper; the cursor stays at the bracket.
    #[inline]
    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        if self.depth == MAX_DEPTH {
            return Err(self.too_deep());
        }
        self.depth += 1;
        Ok(())
    }

    /// Passes the bracket at the cursor that closes the innermost open container.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// Behind a member or an element: passes the comma, or the bracket that closes the container. Says whether another one
    /// follows.
    #[inline]
    pub(in crate::formats) fn more(&mut self, close: u8) -> Result<bool, Fault> {
        self.space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.leave();
                Ok(false)
            }
            _ => Err(self.malformed(if close == b'}' { "`,` or `}`" } else { "`,` or `]`" })),
        }
    }

    /// Reads a member's name and the colon; returns the name's text, with escapes resolved. The cursor then stands at the
    /// value.
    pub(in crate::formats) fn key(&mut self) -> Result<&[u8], Fault> {
        self.expect(b'"', "a name in quotes")?;
        let start = self.at;
        self.skip_string()?;
        let token = self.since(start);
        self.space();
        self.expect(b':', "`:`")?;
        self.at += 1;
        self.space();
        let plain = &token[1..token.len() - 1];
        if !plain.contains(&b'\\') {
            return Ok(plain);
        }
        let value = std::mem::replace(&mut self.at, start);
        self.unescape_into_scratch()?;
        self.at = value;
        Ok(self.scratch)
    }

    /// Passes `null` if it is the next value.
    #[inline]
    pub(in crate::formats) fn null(&mut self) -> bool {
        self.word(b"null")
    }

    /// Passes `word` if it lies at the cursor; a longer word fails at whatever is expected behind it.
    #[inline]
    pub(super) fn word(&mut self, word: &[u8]) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Reads the number at the cursor.
    #[inline(always)]
    pub(in crate::formats) fn number(&mut self) -> Result<Number<'a>, Fault> {
        match Number::read(self.rest()) {
            Ok(number) => {
                self.at += number.len();
                Ok(number)
            }
            Err(offset) => {
                self.at += offset;
                Err(self.malformed("a number without leading zeros"))
            }
        }
    }

    /// Reads the string at the cursor; its text is good until the next call.
    #[inline]
    pub(super) fn string(&mut self) -> Result<&[u8], Fault> {
        let start = self.at + 1;
        let stop = scan::string_stop(self.bytes, start);
        if self.bytes.get(stop) == Some(&b'"') {
            self.at = stop + 1;
            return Ok(&self.bytes[start..stop]);
        }
        self.unescape_into_scratch()?;
        Ok(self.scratch)
    }

    fn unescape_into_scratch(&mut self) -> Result<(), Fault> {
        let mut text = std::mem::take(self.scratch);
        text.clear();
        let result = self.append_string(&mut text);
        *self.scratch = text;
        result
    }

    /// Reads the string at the cursor; its text goes to the end of `text`.
    #[inline]
    pub(super) fn append_string(&mut self, text: &mut Vec<u8>) -> Result<(), Fault> {
        let start = self.at + 1;
        let stop = scan::string_stop(self.bytes, start);
        append_short(text, self.bytes, start, stop);
        self.at = stop;
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(());
        }
        self.append_escaped(text)
    }

    #[cold]
    fn append_escaped(&mut self, text: &mut Vec<u8>) -> Result<(), Fault> {
        while self.peek() != Some(b'"') {
            let character = self.escape()?;
            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            let start = self.at;
            self.at = scan::string_stop(self.bytes, start);
            text.extend_from_slice(self.since(start));
        }
        self.at += 1;
        Ok(())
    }

    /// Passes the value at the cursor: all of it is checked, or by [`Check::Lax`] only where it ends.
    #[inline]
    pub(super) fn skip(&mut self) -> Result<(), Fault> {
        match (self.check, self.peek()) {
            (Check::Lax, Some(b'{' | b'[')) => {
                self.at += 1;
                self.depth += 1;
                self.skip_to_close()
            }
            (Check::Full, Some(b'{' | b'[')) if self.skip_plain_container() => Ok(()),
            _ => self.skip_checked(),
        }
    }

    fn skip_plain_container(&mut self) -> bool {
        let is_shallow = self.depth + plain::PLAIN_DEPTH <= MAX_DEPTH;
        let end = if is_shallow { plain::plain_container(self.padded, self.at) } else { None };
        self.at = end.unwrap_or(self.at);
        end.is_some()
    }

    /// Passes the rest of the innermost open container, which is not looked at.
    pub(super) fn skip_to_close(&mut self) -> Result<(), Fault> {
        self.depth -= 1;
        match scan::container_end(self.bytes, self.at) {
            Some(end) => self.at = end,
            None => {
                self.at = self.bytes.len();
                return Err(self.malformed("`}` or `]`"));
            }
        }
        Ok(())
    }

    /// Passes the value at the cursor and checks all of it, without recursion.
    pub(in crate::formats) fn skip_checked(&mut self) -> Result<(), Fault> {
        let outside = self.depth;
        let mut objects = 0u128; // a bit for each open container, the innermost lowest: whether it is an object
        loop {
            let mut more = match self.peek() {
                Some(b'{') => {
                    objects = objects << 1 | 1;
                    self.open(b'}')?
                }
                Some(b'[') => {
                    objects <<= 1;
                    self.open(b']')?
                }
                _ => {
                    objects <<= 1;
                    self.skip_scalar()?;
                    false
                }
            };
            while !more {
                objects >>= 1;
                if self.depth == outside {
                    return Ok(());
                }
                more = self.more(if objects & 1 == 1 { b'}' } else { b']' })?;
            }
            if objects & 1 == 1 {
                self.expect(b'"', "a name in quotes")?;
                self.skip_string()?;
                self.space();
                self.expect(b':', "`:`")?;
                self.at += 1;
                self.space();
            }
        }
    }

    #[inline]
    fn skip_scalar(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => self.skip_string(),
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            _ if self.word(b"true") || self.word(b"false") || self.null() => Ok(()),
            _ => Err(self.malformed("a value")),
        }
    }

    #[inline]
    pub(super) fn skip_string(&mut self) -> Result<(), Fault> {
        self.at = scan::string_stop(self.bytes, self.at + 1);
        while self.peek() != Some(b'"') {
            self.escape()?;
            self.at = scan::string_stop(self.bytes, self.at);
        }
        self.at += 1;
        Ok(())
    }

    /// Reads the escape at the cursor. Surrogates must come in pairs: alone they are no text.
    #[cold]
    fn escape(&mut self) -> Result<char, Fault> {
        if self.peek() != Some(b'\\') {
            return Err(self.malformed("the end of the string or an escaped control character"));
        }
        let start = self.at;
        self.at += 2;
        let character = match self.bytes.get(start + 1) {
            Some(b'u') => {
                let first = self.hex_digits()?;
                if (0xd800..0xdc00).contains(&first) && self.word(b"\\u") {
                    let second = self.hex_digits()?;
                    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400);
                    low.and_then(|low| char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + low))
                } else {
                    char::from_u32(first)
                }
            }
            Some(b'n') => Some('\n'),
            Some(b't') => Some('\t'),
            Some(b'r') => Some('\r'),
            Some(b'b') => Some('\u{8}'),
            Some(b'f') => Some('\u{c}'),
            Some(byte @ (b'"' | b'\\' | b'/')) => Some(char::from(*byte)),
            _ => None,
        };
        character.ok_or_else(|| {
            self.at = start;
            self.malformed("a valid escape")
        })
    }

    fn hex_digits(&mut self) -> Result<u32, Fault> {
        let digits = self.rest().first_chunk::<4>().filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.ok_or_else(|| self.malformed("four hexadecimal digits"))?;
        self.at += 4;
        Ok(digits.iter().fold(0, |code, digit| code << 4 | char::from(*digit).to_digit(16).unwrap_or(0)))
    }

    /// The fault that something else than `expected` lies at the cursor.
    #[cold]
    pub(in crate::formats) fn malformed(&self, expected: &str) -> Fault {
        let at = self.at.min(self.bytes.len());
        let next = &self.bytes[at..];
        let found = match String::from_utf8_lossy(&next[..next.len().min(4)]).chars().next() {
            Some(character) => format!("{character:?}"),
            None => "the end of the payload".to_owned(),
        };
        fault(BadClass::Malformed, format!("expected {expected} at byte {at}, found {found}"))
    }

    #[cold]
    fn too_deep(&self) -> Fault {
        fault(BadClass::Malformed, format!("nested deeper than {MAX_DEPTH} levels at byte {}", self.at))
    }

    /// The fault that the value from `start` on does not fit `column` of SQL type `expected`.
    #[cold]
    pub(super) fn misfit(&mut self, column: &str, expected: &str, start: usize) -> Fault {
        self.at = start;
        let kind = match self.peek() {
            Some(b'"') => "string",
            Some(b'{') => "record",
            Some(b'[') => "array",
            Some(b't' | b'f') => "bit",
            Some(b'n') => "null",
            _ => "number",
        };
        if let Err(malformed) = self.skip_checked() {
            return malformed;
        }
        let found = excerpt(self.since(start));
        fault(BadClass::Type, format!("column `{column}`: expected {expected}, found {kind} `{found}` at byte {start}"))
    }
}

/// Appends `bytes[start..end]`. Short runs are copied as 32 bytes and cut: a copy of fixed length is cheaper.
#[inline]
pub(super) fn append_short(text: &mut Vec<u8>, bytes: &[u8], start: usize, end: usize) {
    match bytes[start..].first_chunk::<32>() {
        Some(chunk) if end - start <= 32 => {
            let length = text.len() + (end - start);
            text.extend_from_slice(chunk);
            text.truncate(length);
        }
        _ => text.extend_from_slice(&bytes[start..end]),
    }
}

/// The first forty characters of UTF-8 text, on one line.
fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(164)]);
    let mut characters = text.chars();
    let mut short: String =
        characters.by_ref().take(40).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    short
}

#[inline(never)]
fn check_utf8(bytes: &[u8]) -> Result<(), Fault> {
    if simdutf8::basic::from_utf8(bytes).is_ok() {
        return Ok(());
    }
    let at = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    Err(fault(BadClass::Malformed, format!("not UTF-8 at byte {at}")))
}

pub(in crate::formats) fn fault(class: BadClass, message: String) -> Fault {
    Box::new(BadRecord { class, message })
}
