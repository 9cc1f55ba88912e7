//! REGEXMATCH: the search for an ECMAScript pattern, without regard to case, in time that is linear in the text.

use std::collections::HashMap;

use arrow::array::ArrayRef;
use datafusion_common::{Result, exec_err};
use regex::{Regex, RegexBuilder};

use super::Args;

/// Patterns that come from a column are kept compiled up to this many.
const KEPT: usize = 100;
/// A pattern that compiles to more is treated as none.
const MAX_BYTES: usize = 1 << 20;

/// Position of the first match in characters from 1; 0 without one, or when the pattern is no regular expression.
pub(super) fn regexmatch(args: &Args) -> Result<ArrayRef> {
    let (text, pattern) = (args.text(0), args.text(1));
    let constant = pattern.constant().flatten().map(compile).transpose()?;
    let mut kept = HashMap::new();
    args.to_ints(|i| {
        let Some((text, pattern)) = text.get(i).zip(pattern.get(i)) else { return Ok(None) };
        let compiled = match &constant {
            Some(compiled) => compiled,
            None => {
                if kept.len() >= KEPT && !kept.contains_key(pattern) {
                    kept.clear();
                }
                match kept.entry(pattern) {
                    std::collections::hash_map::Entry::Occupied(found) => &*found.into_mut(),
                    std::collections::hash_map::Entry::Vacant(place) => &*place.insert(compile(pattern)?),
                }
            }
        };
        let found = compiled.as_ref().and_then(|r| r.find(text));
        Ok(Some(found.map_or(0, |found| text[..found.start()].chars().count() as i64 + 1)))
    })
}

/// None when it is no regular expression.
fn compile(pattern: &str) -> Result<Option<Regex>> {
    let found = ["(?=", "(?!", "(?<=", "(?<!"].iter().find(|look| pattern.contains(**look));
    if let Some(look) = found {
        return exec_err!("the regular expression `{pattern}` looks around by `{look}`, which is not supported");
    }
    if refers_back(pattern) {
        return exec_err!("the regular expression `{pattern}` refers back to a group, which is not supported");
    }
    Ok(RegexBuilder::new(&translated(pattern)).case_insensitive(true).size_limit(MAX_BYTES).build().ok())
}

/// `\1` to `\9`, and `\k<name>`.
fn refers_back(pattern: &str) -> bool {
    let mut escaped = false;
    pattern.chars().any(|c| {
        let refers = escaped && (('1'..='9').contains(&c) || c == 'k');
        escaped = c == '\\' && !escaped;
        refers
    })
}

/// What ECMAScript writes in another way: its classes know ASCII alone, a slash may be escaped, and `[^]` is any
/// character.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        if c != '\\' {
            // What a class of the other syntax would take for an operator or a class inside.
            match c {
                '[' if in_class => out.push_str("\\["),
                '&' | '~' if in_class => out.extend(['\\', c]),
                _ => out.push(c),
            }
            in_class = (in_class || c == '[') && c != ']';
            continue;
        }
        match chars.next() {
            Some('d') => out.push_str(if in_class { "0-9" } else { "[0-9]" }),
            Some('w') => out.push_str(if in_class { "A-Za-z0-9_" } else { "[A-Za-z0-9_]" }),
            Some('D') => out.push_str("[^0-9]"),
            Some('W') => out.push_str("[^A-Za-z0-9_]"),
            Some('b') if !in_class => out.push_str("(?-u:\\b)"),
            Some('/') => out.push('/'),
            Some(other) => out.extend(['\\', other]),
            None => out.push('\\'),
        }
    }
    out.replace("[^]", "[\\s\\S]")
}
