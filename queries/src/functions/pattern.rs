//! LIKE patterns: `%` any text, `_` any character, `[a-f]` and `[^a-f]` a character of a set.

use arrow::{array::ArrayRef, datatypes::DataType};
use datafusion_common::Result;
use datafusion_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::rows::{self, Args};

#[derive(Debug)]
enum Item {
    Any,
    One,
    Char(char),
    Set { negated: bool, ranges: Vec<(char, char)> },
}

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<Item>);

impl Pattern {
    pub(crate) fn new(pattern: &str, escape: Option<char>) -> Self {
        let mut items = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            let item = match c {
                c if Some(c) == escape => Item::Char(chars.next().unwrap_or(c)),
                '%' if matches!(items.last(), Some(Item::Any)) => continue,
                '%' => Item::Any,
                '_' => Item::One,
                '[' => {
                    let rest: String = chars.clone().collect();
                    // A set holds at least one character, so that `[]]` is a bracket; without an end it is none.
                    let start = usize::from(rest.starts_with('^'));
                    match rest.char_indices().skip(start + 1).find(|(_, c)| *c == ']') {
                        Some((end, _)) => {
                            let set = &rest[start..end];
                            for _ in rest[..=end].chars() {
                                chars.next();
                            }
                            Item::Set { negated: start == 1, ranges: ranges(set) }
                        }
                        None => Item::Char(c),
                    }
                }
                c => Item::Char(c),
            };
            items.push(item);
        }
        Self(items)
    }

    /// Whether all of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        matches(&self.0, text)
    }

    /// Byte of the first match as PATINDEX sees it: a leading `%` skips text, a missing one ties the match to the start.
    pub(crate) fn find(&self, text: &str) -> Option<usize> {
        let Some((Item::Any, rest)) = self.0.split_first() else { return self.matches(text).then_some(0) };
        text.char_indices().map(|(at, _)| at).find(|at| matches(rest, &text[*at..]))
    }
}

fn ranges(set: &str) -> Vec<(char, char)> {
    let chars: Vec<char> = set.chars().collect();
    let mut ranges = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        if i + 2 < chars.len() && chars[i + 1] == '-' {
            ranges.push((chars[i], chars[i + 2]));
            i += 3;
        } else {
            ranges.push((chars[i], chars[i]));
            i += 1;
        }
    }
    ranges
}

impl Item {
    fn takes(&self, c: char) -> bool {
        match self {
            Item::Any | Item::One => true,
            Item::Char(wanted) => *wanted == c,
            Item::Set { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

/// Glob matching that goes back only to the last `%`, so it is at worst quadratic.
fn matches(items: &[Item], text: &str) -> bool {
    let (mut item, mut rest) = (0, text);
    let mut retry: Option<(usize, &str)> = None;
    loop {
        match items.get(item) {
            Some(Item::Any) => {
                item += 1;
                retry = Some((item, rest));
                continue;
            }
            Some(wanted) if rest.chars().next().is_some_and(|c| wanted.takes(c)) => {
                item += 1;
                rest = tail(rest);
                continue;
            }
            None if rest.is_empty() => return true,
            _ => {}
        }
        match retry {
            Some((after, from)) if !from.is_empty() => {
                rest = tail(from);
                item = after;
                retry = Some((after, rest));
            }
            _ => return false,
        }
    }
}

fn tail(text: &str) -> &str {
    let mut chars = text.chars();
    chars.next();
    chars.as_str()
}

/// `text LIKE pattern [ESCAPE c]` for patterns that arrow's kernel does not read as the language does.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Like {
    escape: Option<char>,
    signature: Signature,
}

impl Like {
    pub(crate) fn function(escape: Option<char>) -> ScalarUDF {
        ScalarUDF::new_from_impl(Self { escape, signature: Signature::any(2, Volatility::Immutable) })
    }

    fn evaluate(&self, args: &Args) -> Result<ArrayRef> {
        let (text, pattern) = (args.text(0), args.text(1));
        let compiled = pattern.constant().flatten().map(|p| Pattern::new(p, self.escape));
        args.to_bits(|i| {
            let Some((text, pattern)) = text.get(i).zip(pattern.get(i)) else { return Ok(None) };
            Ok(Some(match &compiled {
                Some(compiled) => compiled.matches(text),
                None => Pattern::new(pattern, self.escape).matches(text),
            }))
        })
    }
}

impl ScalarUDFImpl for Like {
    fn name(&self) -> &str {
        "like"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        rows::invoke(&args, |args| self.evaluate(args))
    }
}
