//! Functions on text.

use std::borrow::Cow;

use arrow::array::ArrayRef;
use datafusion_common::{Result, exec_datafusion_err, exec_err};

use super::{
    Arg::{Int, Text},
    Args, Function,
    Returns::{self, Any},
    function, json,
    pattern::Pattern,
    regular_expression,
};

pub(super) static FUNCTIONS: &[Function] = &[
    function("charindex", &[Text, Text, Int], Returns::Int, charindex)
        .optional(1)
        .doc_of("CHARINDEX(find, text[, start])", "position of the first `find` in the text, from `start` on; 0 without one", &[("CHARINDEX('cd', 'abcd')", "3")])
        .page("charindex-azure-stream-analytics"),
    function("concat", &[Text], Returns::Text, concat)
        .repeats()
        .doc_of("CONCAT(a, b, ...)", "the values as text, one after the other", &[("CONCAT('a', NULL, 1, 2.5)", "\"a12.5\"")])
        .nulls("NULL counts as empty text")
        .page("concat-azure-stream-analytics"),
    function("concat_ws", &[Text, Text], Returns::Text, concat_ws)
        .repeats()
        .doc_of("CONCAT_WS(separator, a, b, ...)", "the values as text with the separator between them", &[("CONCAT_WS('-', 'a', NULL, 'b')", "\"a-b\"")])
        .nulls("NULLs are skipped; a NULL separator is empty")
        .page("concat-ws-azure-stream-analytics"),
    function("json_parse", &[Text], Any, json::parse)
        .doc_of("JSON_PARSE(text)", "the record that the text is as JSON; NULL when it is none", &[("JSON_PARSE('{\"a\": {\"b\": 1}}').a.b", "1"), ("JSON_PARSE('[1')", "null")])
        .page("json-parse-azure-stream-analytics"),
    function("left", &[Text, Int], Returns::Text, left)
        .doc_of("LEFT(text, n)", "the first n characters; a negative n is an error", &[("LEFT('abcdefg', 2)", "\"ab\"")])
        .page("left-azure-stream-analytics"),
    function("len", &[Text], Returns::Int, len)
        .doc_of("LEN(text)", "number of characters without trailing blanks", &[("LEN('ab  ')", "2")])
        .page("len-azure-stream-analytics"),
    function("lower", &[Text], Returns::Text, lower)
        .doc_of("LOWER(text)", "in small letters", &[("LOWER('AB')", "\"ab\"")])
        .page("lower-azure-stream-analytics"),
    function("ltrim", &[Text], Returns::Text, ltrim)
        .doc_of("LTRIM(text)", "without leading white space", &[("LTRIM('  x ')", "\"x \"")])
        .page("ltrim-azure-stream-analytics"),
    function("nchar", &[Int], Returns::Text, nchar)
        .doc_of("NCHAR(n)", "the character of that Unicode number; NULL outside 0 to 1114111 and for surrogates", &[("NCHAR(233)", "\"é\""), ("NCHAR(-1)", "null")])
        .page("nchar-azure-stream-analytics"),
    function("patindex", &[Text, Text], Returns::Int, patindex)
        .doc_of("PATINDEX(pattern, text)", "position of the first match of a LIKE pattern; 0 without one", &[("PATINDEX('%c_e%', 'abcdef')", "3")])
        .page("patindex-azure-stream-analytics"),
    function("regexmatch", &[Text, Text], Returns::Int, regular_expression::regexmatch)
        .doc_of("REGEXMATCH(text, pattern)", "position of the first match of a regular expression, without regard to case; 0 without one or when the pattern is none; look-around and back references are refused", &[("REGEXMATCH('ABC-123', '[0-9]{3}')", "5"), ("REGEXMATCH('ABC', '^b')", "0"), ("REGEXMATCH('ABC', 'b')", "2")])
        .page("regexmatch-azure-stream-analytics"),
    function("replace", &[Text, Text, Text], Returns::Text, replace)
        .doc_of("REPLACE(text, find, with)", "with every `find` replaced; an empty one changes nothing", &[("REPLACE('abcde', 'cd', 'xx')", "\"abxxe\"")])
        .page("replace-azure-stream-analytics"),
    function("replicate", &[Text, Int], Returns::Text, replicate)
        .doc_of("REPLICATE(text, n)", "the text n times; NULL for a negative n", &[("REPLICATE('ab', 2)", "\"abab\"")])
        .page("replicate-azure-stream-analytics"),
    function("reverse", &[Text], Returns::Text, reverse)
        .doc_of("REVERSE(text)", "the characters from the last to the first", &[("REVERSE('abc')", "\"cba\"")])
        .page("reverse-azure-stream-analytics"),
    function("right", &[Text, Int], Returns::Text, right)
        .doc_of("RIGHT(text, n)", "the last n characters; a negative n is an error", &[("RIGHT('abcdefg', 2)", "\"fg\"")])
        .page("right-azure-stream-analytics"),
    function("rtrim", &[Text], Returns::Text, rtrim)
        .doc_of("RTRIM(text)", "without trailing white space", &[("RTRIM(' x  ')", "\" x\"")])
        .page("rtrim-azure-stream-analytics"),
    function("space", &[Int], Returns::Text, space)
        .doc_of("SPACE(n)", "n blanks; NULL for a negative n", &[("SPACE(2)", "\"  \"")])
        .page("space-azure-stream-analytics"),
    function("stuff", &[Text, Int, Int, Text], Returns::Text, stuff)
        .doc_of("STUFF(text, start, n, insert)", "with n characters from `start` on replaced, from the first one on when `start` is below 1; empty when it lies behind the text", &[("STUFF('abcdef', 2, 3, 'X')", "\"aXef\"")])
        .nulls("NULL when an argument is; a NULL `insert` is empty")
        .page("stuff-azure-stream-analytics"),
    function("substring", &[Text, Int, Int], Returns::Text, substring)
        .doc_of("SUBSTRING(text, start, n)", "n characters from `start` on; a start below 1 shortens the result by as much", &[("SUBSTRING('abcdefg', 2, 4)", "\"bcde\""), ("SUBSTRING('abc', 0, 2)", "\"a\"")])
        .page("substring-azure-stream-analytics"),
    function("translate", &[Text, Text, Text], Returns::Text, translate)
        .doc_of("TRANSLATE(text, from, to)", "each character of `from` replaced by the one at its place in `to`; both are of one length", &[("TRANSLATE('2*[3+4]', '[]', '()')", "\"2*(3+4)\"")])
        .page("translate-azure-stream-analytics"),
    function("trim", &[Text], Returns::Text, trim)
        .doc_of("TRIM(text)", "without white space around it", &[("TRIM('  x ')", "\"x\"")])
        .page("trim-azure-stream-analytics"),
    function("unicode", &[Text], Returns::Int, unicode)
        .doc_of("UNICODE(text)", "Unicode number of the first character; NULL for an empty text", &[("UNICODE('茶')", "33590")])
        .page("unicode-azure-stream-analytics"),
    function("upper", &[Text], Returns::Text, upper)
        .doc_of("UPPER(text)", "in capital letters", &[("UPPER('é')", "\"É\"")])
        .page("upper-azure-stream-analytics"),
];

/// Longest text that REPLICATE and SPACE make, in bytes.
const MAX_TEXT: usize = 16 << 20;

fn text(args: &Args, rule: impl Fn(&str) -> Cow<'_, str>) -> Result<ArrayRef> {
    let s = args.text(0);
    args.to_text(|i| Ok(s.get(i).map(&rule)))
}

fn upper(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.to_uppercase().into())
}

fn lower(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.to_lowercase().into())
}

fn trim(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.trim().into())
}

fn ltrim(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.trim_start().into())
}

fn rtrim(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.trim_end().into())
}

fn reverse(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.chars().rev().collect::<String>().into())
}

/// Trailing blanks do not count.
fn len(args: &Args) -> Result<ArrayRef> {
    let s = args.text(0);
    args.to_ints(|i| Ok(s.get(i).map(|s| s.trim_end_matches(' ').chars().count() as i64)))
}

/// Byte at which the character number `n` (from 0) starts, or the end.
fn byte_of(s: &str, n: usize) -> usize {
    s.char_indices().nth(n).map_or(s.len(), |(at, _)| at)
}

/// The part of `n` characters from character `start`, both from 0.
fn slice(s: &str, start: usize, n: usize) -> &str {
    let rest = &s[byte_of(s, start)..];
    &rest[..byte_of(rest, n)]
}

fn length(n: i64, function: &str) -> Result<usize> {
    usize::try_from(n).map_err(|_| exec_datafusion_err!("negative length {n} in {function}"))
}

fn left(args: &Args) -> Result<ArrayRef> {
    let (s, n) = (args.text(0), args.int(1));
    args.to_text(|i| {
        let Some((s, n)) = s.get(i).zip(n.get(i)) else { return Ok(None) };
        Ok(Some(slice(s, 0, length(n, "left")?).into()))
    })
}

fn right(args: &Args) -> Result<ArrayRef> {
    let (s, n) = (args.text(0), args.int(1));
    args.to_text(|i| {
        let Some((s, n)) = s.get(i).zip(n.get(i)) else { return Ok(None) };
        let skip = s.chars().count().saturating_sub(length(n, "right")?);
        Ok(Some(s[byte_of(s, skip)..].into()))
    })
}

/// A start before the first character shortens the result by as much.
fn substring(args: &Args) -> Result<ArrayRef> {
    let (s, start, n) = (args.text(0), args.int(1), args.int(2));
    args.to_text(|i| {
        let (Some(s), Some(start), Some(n)) = (s.get(i), start.get(i), n.get(i)) else { return Ok(None) };
        length(n, "substring")?;
        let end = start.saturating_add(n).max(1);
        let start = start.max(1);
        Ok(Some(slice(s, (start - 1) as usize, end.saturating_sub(start).max(0) as usize).into()))
    })
}

/// Null when `start` lies outside the text.
fn stuff(args: &Args) -> Result<ArrayRef> {
    let (s, start, n, insert) = (args.text(0), args.int(1), args.int(2), args.text(3));
    args.to_text(|i| {
        let (Some(s), Some(start), Some(n)) = (s.get(i), start.get(i), n.get(i)) else { return Ok(None) };
        let n = length(n, "stuff")?;
        let at = byte_of(s, usize::try_from(start.saturating_sub(1)).unwrap_or(0));
        if at == s.len() {
            return Ok(Some("".into()));
        }
        let end = at + byte_of(&s[at..], n);
        Ok(Some([&s[..at], insert.get(i).unwrap_or(""), &s[end..]].concat().into()))
    })
}

fn charindex(args: &Args) -> Result<ArrayRef> {
    let (find, s) = (args.text(0), args.text(1));
    args.to_ints(|i| {
        let start = if args.len() > 2 { args.int(2).get(i) } else { Some(1) };
        let (Some(find), Some(s), Some(start)) = (find.get(i), s.get(i), start) else { return Ok(None) };
        let from = byte_of(s, usize::try_from(start.saturating_sub(1)).unwrap_or(0));
        Ok(Some(if find.is_empty() { 0 } else { s[from..].find(find).map_or(0, |at| position(s, from + at)) }))
    })
}

/// Number of the character at a byte, from 1.
fn position(s: &str, byte: usize) -> i64 {
    s[..byte].chars().count() as i64 + 1
}

fn patindex(args: &Args) -> Result<ArrayRef> {
    let (pattern, s) = (args.text(0), args.text(1));
    args.to_ints(|i| {
        let Some((pattern, s)) = pattern.get(i).zip(s.get(i)) else { return Ok(None) };
        Ok(Some(Pattern::new(pattern, None).find(s).map_or(0, |at| position(s, at))))
    })
}

/// An empty pattern changes nothing.
fn replace(args: &Args) -> Result<ArrayRef> {
    let (s, from, to) = (args.text(0), args.text(1), args.text(2));
    args.to_text(|i| {
        let (Some(s), Some(from), Some(to)) = (s.get(i), from.get(i), to.get(i)) else { return Ok(None) };
        Ok(Some(if from.is_empty() || !s.contains(from) { s.into() } else { s.replace(from, to).into() }))
    })
}

fn translate(args: &Args) -> Result<ArrayRef> {
    let (s, from, to) = (args.text(0), args.text(1), args.text(2));
    args.to_text(|i| {
        let (Some(s), Some(from), Some(to)) = (s.get(i), from.get(i), to.get(i)) else { return Ok(None) };
        if from.chars().count() != to.chars().count() {
            return exec_err!("the second and third argument of translate differ in length: `{from}`, `{to}`");
        }
        let swap = |c| from.chars().position(|f| f == c).and_then(|at| to.chars().nth(at)).unwrap_or(c);
        Ok(Some(s.chars().map(swap).collect::<String>().into()))
    })
}

/// A negative number of times gives null.
fn replicate(args: &Args) -> Result<ArrayRef> {
    let (s, n) = (args.text(0), args.int(1));
    args.to_text(|i| {
        let Some((s, n)) = s.get(i).zip(n.get(i)) else { return Ok(None) };
        repeated(s, n)
    })
}

fn space(args: &Args) -> Result<ArrayRef> {
    let n = args.int(0);
    args.to_text(|i| n.get(i).map_or(Ok(None), |n| repeated(" ", n)))
}

fn repeated(s: &str, n: i64) -> Result<Option<Cow<'static, str>>> {
    let Ok(n) = usize::try_from(n) else { return Ok(None) };
    match s.len().checked_mul(n) {
        Some(size) if size <= MAX_TEXT => Ok(Some(s.repeat(n).into())),
        _ => exec_err!("a text repeated {n} times is longer than {MAX_TEXT} bytes"),
    }
}

/// Null counts as empty.
fn concat(args: &Args) -> Result<ArrayRef> {
    let parts: Vec<_> = (0..args.len()).map(|a| args.text(a)).collect();
    args.to_text(|i| Ok(Some(parts.iter().filter_map(|p| p.get(i)).collect::<String>().into())))
}

/// Nulls are skipped.
fn concat_ws(args: &Args) -> Result<ArrayRef> {
    let separator = args.text(0);
    let parts: Vec<_> = (1..args.len()).map(|a| args.text(a)).collect();
    args.to_text(|i| {
        let present: Vec<_> = parts.iter().filter_map(|p| p.get(i)).collect();
        Ok(Some(present.join(separator.get(i).unwrap_or("")).into()))
    })
}

/// Code of the first character; null for an empty text.
fn unicode(args: &Args) -> Result<ArrayRef> {
    let s = args.text(0);
    args.to_ints(|i| Ok(s.get(i).and_then(|s| s.chars().next()).map(|c| i64::from(u32::from(c)))))
}

/// Null outside 0..=1114111, and for surrogates.
fn nchar(args: &Args) -> Result<ArrayRef> {
    let n = args.int(0);
    args.to_text(|i| {
        Ok(n.get(i).and_then(|n| u32::try_from(n).ok()).and_then(char::from_u32).map(|c| String::from(c).into()))
    })
}
