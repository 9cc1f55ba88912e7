//! Mistakes in a query, each with its place in the text.

use std::fmt::{self, Write};

use datafusion_common::DataFusionError;
use sqlparser::tokenizer::{Location, Span};
use tidemill_engine::ErrorKind;

/// One mistake in a query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct QueryError {
    /// What was found, what was expected and what exists.
    pub message: String,
    /// Line in the text, from 1; 0 when the mistake has no place.
    pub line: u64,
    /// Column in characters, from 1; 0 when the mistake has no place.
    pub column: u64,
    /// What to do about it.
    pub help: Option<String>,
}

impl QueryError {
    pub(crate) fn at(span: Span, message: impl Into<String>) -> Self {
        Self::at_location(span.start, message)
    }

    pub(crate) fn at_location(place: Location, message: impl Into<String>) -> Self {
        Self { message: message.into(), line: place.line, column: place.column, help: None }
    }

    /// Named refusal of something that the language has and this version does not.
    pub(crate) fn unsupported(span: Span, what: impl fmt::Display) -> Self {
        Self::at(span, format!("{what} is not supported yet"))
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// For a name that is not among `known`: says what exists and the nearest name.
    pub(crate) fn unknown(span: Span, what: &str, name: &str, known: &[&str]) -> Self {
        const LISTED: usize = 20;
        let mut message = format!("unknown {what} `{name}`");
        if !known.is_empty() {
            let _ = write!(message, "; available: {}", known[..known.len().min(LISTED)].join(", "));
            if known.len() > LISTED {
                let _ = write!(message, " and {} more", known.len() - LISTED);
            }
        }
        let error = Self::at(span, message);
        match nearest(name, known) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error,
        }
    }
}

/// The name most like `name`, if one is near enough to be meant.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .iter()
        .map(|k| (strsim::jaro_winkler(&name, &k.to_lowercase()), *k))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

/// All mistakes found in a query, in the order of the text; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryErrors(Vec<QueryError>);

impl QueryErrors {
    /// The mistakes.
    #[must_use]
    pub fn errors(&self) -> &[QueryError] {
        &self.0
    }

    /// What a caller can do: change the query.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::User
    }

    /// All mistakes as text of several lines: message, place, the line with a caret below it, help. `text` is the query
    /// that was parsed, `file_name` names it.
    #[must_use]
    pub fn render(&self, text: &str, file_name: &str) -> String {
        let mut out = String::new();
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                out.push('\n');
            }
            render_one(error, text, file_name, &mut out);
        }
        out
    }

    /// For what fails only because of a mistake that is reported elsewhere.
    pub(crate) fn reported() -> Self {
        Self(vec![])
    }

    /// In the order of the text.
    pub(crate) fn sorted(mut self) -> Self {
        self.0.sort_by_key(|e| (e.line, e.column));
        self
    }

    pub(crate) fn extend(&mut self, other: QueryErrors) {
        self.0.extend(other.0);
    }
}

fn render_one(error: &QueryError, text: &str, file_name: &str, out: &mut String) {
    const WIDTH: usize = 160;
    let _ = writeln!(out, "error: {}", error.message);
    let line = usize::try_from(error.line).ok().and_then(|n| text.lines().nth(n.checked_sub(1)?));
    let margin = " ".repeat(error.line.to_string().len());
    if let Some(line) = line {
        let column = usize::try_from(error.column).unwrap_or(1).max(1);
        // A very long line is shown from shortly before the place.
        let skip = if column > WIDTH { column - WIDTH / 2 } else { 0 };
        let shown: String = line.chars().skip(skip).take(WIDTH).collect();
        let pad: String =
            line.chars().skip(skip).take(column - 1 - skip).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let word = line.chars().skip(column - 1).take_while(|c| c.is_alphanumeric() || *c == '_').count();
        let carets = "^".repeat(word.clamp(1, WIDTH));
        let _ = writeln!(out, "{margin}--> {file_name}:{}:{}", error.line, error.column);
        let _ = writeln!(out, "{margin} |\n{} | {shown}\n{margin} | {pad}{carets}", error.line);
    } else {
        let _ = writeln!(out, "{margin}--> {file_name}");
    }
    if let Some(help) = &error.help {
        let _ = writeln!(out, "{margin} = help: {help}");
    }
}

impl fmt::Display for QueryErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            let newline = if i > 0 { "\n" } else { "" };
            write!(f, "{newline}{}:{}: {error}", error.line, error.column)?;
        }
        Ok(())
    }
}

impl std::error::Error for QueryErrors {}

impl From<QueryError> for QueryErrors {
    fn from(error: QueryError) -> Self {
        Self(vec![error])
    }
}

/// DataFusion's reason without its own prefixes.
pub(crate) fn reason(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let text = ["Execution error: ", "Arrow error: "]
        .iter()
        .fold(text.as_str(), |t, prefix| t.strip_prefix(prefix).unwrap_or(t));
    text.to_owned()
}

/// Gathers results so that all mistakes of a list are reported, not only the first.
pub(crate) fn all<T, E: Into<QueryErrors>>(
    results: impl IntoIterator<Item = Result<T, E>>,
) -> Result<Vec<T>, QueryErrors> {
    let mut good = Vec::new();
    let mut bad: Option<QueryErrors> = None;
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(error) => match &mut bad {
                Some(bad) => bad.extend(error.into()),
                None => bad = Some(error.into()),
            },
        }
    }
    match bad {
        Some(bad) => Err(bad),
        None => Ok(good),
    }
}

/// Both values, or the mistakes of both.
pub(crate) fn both<A, B>(
    a: Result<A, impl Into<QueryErrors>>,
    b: Result<B, impl Into<QueryErrors>>,
) -> Result<(A, B), QueryErrors> {
    match (a, b) {
        (Ok(a), Ok(b)) => Ok((a, b)),
        (Err(a), Err(b)) => {
            let mut errors = a.into();
            errors.extend(b.into());
            Err(errors)
        }
        (Err(a), Ok(_)) => Err(a.into()),
        (Ok(_), Err(b)) => Err(b.into()),
    }
}
