//! What is wrong with a spec: one [`Problem`] a mistake, all of them in one [`SpecErrors`].
//!
//! A problem is shown as a compiler shows it: `file:line:column path: text`, then the line and a caret. Lines are shown
//! as they are typed, except that a value behind a key that sounds like a secret is masked.

use std::fmt;

use tidemill_engine::ErrorKind;

/// A place in the spec's text, counted in characters from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// One step from a node of the spec to a node below it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
}

/// The way from the spec's root to a node, shown as `inputs.clicks.kafka.brokers[1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Path(pub(super) Vec<Segment>);

impl Path {
    /// The field of this name below.
    pub(super) fn key(&self, key: &str) -> Path {
        self.with(Segment::Key(key.to_owned()))
    }

    /// The list element of this index below.
    pub(super) fn index(&self, index: usize) -> Path {
        self.with(Segment::Index(index))
    }

    /// Whether a value at this path may be a secret.
    fn sounds_secret(&self) -> bool {
        self.0.iter().any(|segment| match segment {
            Segment::Key(key) => key == "security" || SECRET_KEYS.iter().any(|word| key.contains(word)),
            Segment::Index(_) => false,
        })
    }

    fn with(&self, segment: Segment) -> Path {
        let mut segments = self.0.clone();
        segments.push(segment);
        Path(segments)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Key(key) => {
                    let dot = if i == 0 { "" } else { "." };
                    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
                    if plain { write!(f, "{dot}{key}")? } else { write!(f, "{dot}{key:?}")? }
                }
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// One mistake in a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in, as it was named on the command line; the query's own file when it is in there.
    pub file: String,
    /// Where; `None` when it concerns the file as a whole.
    pub position: Option<Position>,
    /// The way to the field, `inputs.clicks.kafka`; empty at the top.
    pub path: String,
    /// What was expected, what was found, what to do.
    pub message: String,
    /// The line at `position`, masked; `None` when there is none or it must not be shown.
    pub source_line: Option<String>,
}

impl Problem {
    /// A problem with a file as a whole.
    pub(super) fn of_file(file: &str, message: String) -> Self {
        Problem { file: file.to_owned(), position: None, path: String::new(), message, source_line: None }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if self.path.is_empty() {
            f.write_str(": ")?
        } else {
            write!(f, " {}: ", self.path)?
        }
        f.write_str(&self.message)?;
        let (Some(Position { line, column }), Some(source)) = (self.position, &self.source_line) else {
            return Ok(());
        };
        let (shown, column) = excerpt(source, column);
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        write!(f, "\n  {number} | {shown}\n  {margin} | {caret:>column$}", caret = "^")
    }
}

/// Every problem of a spec, in the order of the text, those in the query's own file last. Its `Display` is the whole
/// report, without a closing line break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecErrors {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl SpecErrors {
    /// Puts the problems of the spec `file` in order.
    pub(super) fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.file != file, problem.position));
        SpecErrors { problems }
    }

    /// A single problem with a file as a whole.
    pub(super) fn of_file(file: &str, message: String) -> Self {
        SpecErrors { problems: vec![Problem::of_file(file, message)] }
    }

    /// Always [`ErrorKind::User`]: the spec must be changed.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::User
    }
}

impl std::error::Error for SpecErrors {}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// The longest excerpt of a line that is shown, in characters.
const EXCERPT: usize = 120;

/// The part of a line around a column, fit for a terminal, and the column in that part.
fn excerpt(line: &str, column: usize) -> (String, usize) {
    let skipped = column.saturating_sub(EXCERPT - 20);
    let shown = line.chars().skip(skipped).take(EXCERPT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    (shown, column - skipped)
}

/// The line of `text` with this number from 1, masked; `None` where it may be nothing but a secret.
pub(super) fn source_line(text: &str, line: usize, path: &Path) -> Option<String> {
    let line = text.lines().nth(line.checked_sub(1)?)?;
    if path.sounds_secret() && !line.contains(':') { None } else { Some(mask(line)) }
}

/// Words that make a key sound like a secret.
const SECRET_KEYS: [&str; 4] = ["password", "passphrase", "secret", "token"];

/// Replaces what stands behind a key that sounds like a secret by `***`, unless it is a reference in braces. Works on the
/// text alone, because a line is also shown when the spec could not be parsed.
fn mask(line: &str) -> String {
    let (mut rest, hidden) = match line.find("-----BEGIN") {
        Some(pem) => (&line[..pem], "***"),
        None => (line, ""),
    };
    let mut masked = String::with_capacity(line.len());
    while let Some(colon) = rest.find(':') {
        let (key, value) = rest.split_at(colon + 1);
        masked.push_str(key);
        let word = key.rsplit(['{', ',', ' ']).find(|word| *word != ":" && !word.is_empty()).unwrap_or_default();
        let word = word.to_ascii_lowercase();
        let spaces = value.len() - value.trim_start().len();
        let is_secret = SECRET_KEYS.iter().any(|secret| word.contains(secret)) && !value[spaces..].starts_with('{');
        rest = value;
        if is_secret && spaces < value.len() {
            // A secret may hold any character: nothing after it is shown.
            masked.push_str(&value[..spaces]);
            masked.push_str("***");
            rest = "";
        }
    }
    masked + rest + hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_quotes_odd_names() {
        let path = Path::default().key("inputs").key("a.b").key("brokers").index(2);
        assert_eq!(path.to_string(), "inputs.\"a.b\".brokers[2]");
    }

    #[test]
    fn secrets_are_masked() {
        for (line, masked) in [
            ("  password: hunter2", "  password: ***"),
            ("{user: a, key_password: 'x:y', z: 1}", "{user: a, key_password: ***"),
            ("password: {env: NAME}, topic: a", "password: {env: NAME}, topic: a"),
            ("\"clientSecret\" : abc", "\"clientSecret\" : ***"),
            ("topic: passwords", "topic: passwords"),
            ("password:", "password:"),
            ("key: \"-----BEGIN PRIVATE KEY", "key: \"***"),
        ] {
            assert_eq!(mask(line), masked);
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_column() {
        let (shown, column) = excerpt(&format!("{}X{}", "a".repeat(500), "b".repeat(500)), 501);
        assert_eq!(shown.chars().count(), EXCERPT);
        assert_eq!(shown.chars().nth(column - 1), Some('X'));
    }
}
