//! Functions on text.

use std::borrow::Cow;

use arrow::array::ArrayRef;
use datafusion_common::{Result, exec_datafusion_err, exec_err};

use super::{Args, pattern::Pattern};

/// Longest text that REPLICATE and SPACE make, in bytes.
const MAX_TEXT: usize = 16 << 20;

fn text(args: &Args, rule: impl Fn(&str) -> Cow<'_, str>) -> Result<ArrayRef> {
    let s = args.text(0);
    args.to_text(|i| Ok(s.get(i).map(&rule)))
}

pub(super) fn upper(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.to_uppercase().into())
}

pub(super) fn lower(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.to_lowercase().into())
}

pub(super) fn trim(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.trim().into())
}

pub(super) fn ltrim(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.trim_start().into())
}

pub(super) fn rtrim(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.trim_end().into())
}

pub(super) fn reverse(args: &Args) -> Result<ArrayRef> {
    text(args, |s| s.chars().rev().collect::<String>().into())
}

/// Trailing blanks do not count.
pub(super) fn len(args: &Args) -> Result<ArrayRef> {
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

pub(super) fn left(args: &Args) -> Result<ArrayRef> {
    let (s, n) = (args.text(0), args.int(1));
    args.to_text(|i| {
        let Some((s, n)) = s.get(i).zip(n.get(i)) else { return Ok(None) };
        Ok(Some(slice(s, 0, length(n, "left")?).into()))
    })
}

pub(super) fn right(args: &Args) -> Result<ArrayRef> {
    let (s, n) = (args.text(0), args.int(1));
    args.to_text(|i| {
        let Some((s, n)) = s.get(i).zip(n.get(i)) else { return Ok(None) };
        let skip = s.chars().count().saturating_sub(length(n, "right")?);
        Ok(Some(s[byte_of(s, skip)..].into()))
    })
}

/// A start before the first character shortens the result by as much.
pub(super) fn substring(args: &Args) -> Result<ArrayRef> {
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
pub(super) fn stuff(args: &Args) -> Result<ArrayRef> {
    let (s, start, n, insert) = (args.text(0), args.int(1), args.int(2), args.text(3));
    args.to_text(|i| {
        let (Some(s), Some(start), Some(n)) = (s.get(i), start.get(i), n.get(i)) else { return Ok(None) };
        let n = length(n, "stuff")?;
        let Some(start) = start.checked_sub(1).and_then(|n| usize::try_from(n).ok()) else { return Ok(None) };
        let at = byte_of(s, start);
        if at == s.len() {
            return Ok(None);
        }
        let end = at + byte_of(&s[at..], n);
        Ok(Some([&s[..at], insert.get(i).unwrap_or(""), &s[end..]].concat().into()))
    })
}

pub(super) fn charindex(args: &Args) -> Result<ArrayRef> {
    let (find, s) = (args.text(0), args.text(1));
    args.to_ints(|i| {
        let start = if args.len() > 2 { args.int(2).get(i) } else { Some(1) };
        let (Some(find), Some(s), Some(start)) = (find.get(i), s.get(i), start) else { return Ok(None) };
        let from = byte_of(s, usize::try_from(start - 1).unwrap_or(0));
        Ok(Some(if find.is_empty() { 0 } else { s[from..].find(find).map_or(0, |at| position(s, from + at)) }))
    })
}

/// Number of the character at a byte, from 1.
fn position(s: &str, byte: usize) -> i64 {
    s[..byte].chars().count() as i64 + 1
}

pub(super) fn patindex(args: &Args) -> Result<ArrayRef> {
    let (pattern, s) = (args.text(0), args.text(1));
    args.to_ints(|i| {
        let Some((pattern, s)) = pattern.get(i).zip(s.get(i)) else { return Ok(None) };
        Ok(Some(Pattern::new(pattern, None).find(s).map_or(0, |at| position(s, at))))
    })
}

/// An empty pattern changes nothing.
pub(super) fn replace(args: &Args) -> Result<ArrayRef> {
    let (s, from, to) = (args.text(0), args.text(1), args.text(2));
    args.to_text(|i| {
        let (Some(s), Some(from), Some(to)) = (s.get(i), from.get(i), to.get(i)) else { return Ok(None) };
        Ok(Some(if from.is_empty() || !s.contains(from) { s.into() } else { s.replace(from, to).into() }))
    })
}

pub(super) fn translate(args: &Args) -> Result<ArrayRef> {
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
pub(super) fn replicate(args: &Args) -> Result<ArrayRef> {
    let (s, n) = (args.text(0), args.int(1));
    args.to_text(|i| {
        let Some((s, n)) = s.get(i).zip(n.get(i)) else { return Ok(None) };
        repeated(s, n)
    })
}

pub(super) fn space(args: &Args) -> Result<ArrayRef> {
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
pub(super) fn concat(args: &Args) -> Result<ArrayRef> {
    let parts: Vec<_> = (0..args.len()).map(|a| args.text(a)).collect();
    args.to_text(|i| Ok(Some(parts.iter().filter_map(|p| p.get(i)).collect::<String>().into())))
}

/// Nulls are skipped.
pub(super) fn concat_ws(args: &Args) -> Result<ArrayRef> {
    let separator = args.text(0);
    let parts: Vec<_> = (1..args.len()).map(|a| args.text(a)).collect();
    args.to_text(|i| {
        let present: Vec<_> = parts.iter().filter_map(|p| p.get(i)).collect();
        Ok(Some(present.join(separator.get(i).unwrap_or("")).into()))
    })
}

/// Code of the first character; null for an empty text.
pub(super) fn unicode(args: &Args) -> Result<ArrayRef> {
    let s = args.text(0);
    args.to_ints(|i| Ok(s.get(i).and_then(|s| s.chars().next()).map(|c| i64::from(u32::from(c)))))
}

/// Null outside 0..=1114111, and for surrogates.
pub(super) fn nchar(args: &Args) -> Result<ArrayRef> {
    let n = args.int(0);
    args.to_text(|i| {
        Ok(n.get(i).and_then(|n| u32::try_from(n).ok()).and_then(char::from_u32).map(|c| String::from(c).into()))
    })
}
