//! The query: read, parsed, and held against the names of the spec. A mistake in it is shown where it was typed, be that
//! the spec or a file of its own.

use saphyr_parser::ScalarStyle;
use tidemill_queries::{QueryError, Script};

use super::{
    check::{Check, MAX_PROBLEMS},
    job::Query,
    problem::{Path, Position},
    raw::RawJob,
    read_text,
    yaml::{Node, Value},
};

impl Query {
    /// Where in [`Query::file`] a place of the text stands, both counted from 1. Where YAML has folded the lines, and for
    /// places that do not exist, it is where the text begins.
    #[must_use]
    pub fn locate(&self, line: u64, column: u64) -> Position {
        let source = Source { file: &self.file, text: &self.text, start: self.start, lines: &self.lines };
        source.locate((line, column))
    }
}

/// The query of the spec, or of the file that it names.
pub(super) fn query(check: &mut Check<'_>, root: &Path, raw: &RawJob) -> Option<Query> {
    check.exactly_one(root, &[("query", raw.query.is_some()), ("query_file", raw.query_file.is_some())]);
    match (&raw.query, &raw.query_file) {
        (Some(text), None) => {
            let path = root.key("query");
            let node = check.root.find(&path)?;
            let (start, lines) = (node.at, lines_in_spec(check.text, node));
            parse(check, &path, raw, Source { file: check.file, text, start, lines: &lines })
        }
        (None, Some(file)) => {
            let path = root.key("query_file");
            let file = check.resolve(&path, file)?;
            let read = read_text(&file).map_err(|error| format!("`{}`: {error}", file.display()));
            let text = read.map_err(|error| check.problem(&path, error)).ok()?;
            let lines: Vec<_> = (1..=text.lines().count()).map(|line| Position { line, column: 1 }).collect();
            let start = Position { line: 1, column: 1 };
            parse(check, &path, raw, Source { file: &file.display().to_string(), text: &text, start, lines: &lines })
        }
        _ => None,
    }
}

/// A query's text and where it stands.
#[derive(Clone, Copy)]
struct Source<'a> {
    file: &'a str,
    text: &'a str,
    start: Position,
    lines: &'a [Position],
}

/// Line and column in a query's text, from 1.
type Place = (u64, u64);
/// The mistake has no place of its own.
const NOWHERE: Place = (0, 0);

impl Source<'_> {
    fn locate(&self, (line, column): Place) -> Position {
        let from_zero = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).checked_sub(1);
        match (from_zero(line).and_then(|line| self.lines.get(line)), from_zero(column)) {
            (Some(start), Some(column)) => Position { column: start.column.saturating_add(column), ..*start },
            _ => self.start,
        }
    }

    fn report(&self, check: &mut Check<'_>, path: &Path, place: Place, message: String) {
        let path = if self.file == check.file { path } else { &Path::default() };
        let text = if self.file == check.file { check.text } else { self.text };
        check.report(self.file, text, self.locate(place), path, message);
    }

    /// The place of a name behind one of some keywords.
    fn place(&self, name: &str, keywords: &[&str]) -> Place {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        for (number, line) in self.text.lines().enumerate() {
            for (at, _) in line.char_indices() {
                let (before, from) = line.split_at(at);
                let is_name = from.get(..name.len()).is_some_and(|text| text.eq_ignore_ascii_case(name));
                if !is_name || before.ends_with(is_word) || from[name.len()..].starts_with(is_word) {
                    continue;
                }
                let before = before.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '[' | '"'));
                let keyword = before.rsplit(|c| !is_word(c)).next().unwrap_or_default();
                if keywords.iter().any(|known| known.eq_ignore_ascii_case(keyword)) {
                    return (number as u64 + 1, line[..at].chars().count() as u64 + 1);
                }
            }
        }
        NOWHERE
    }
}

fn parse(check: &mut Check<'_>, path: &Path, raw: &RawJob, source: Source<'_>) -> Option<Query> {
    if source.text.trim().is_empty() {
        check.problem(path, "expected a query, found an empty text");
        return None;
    }
    let script = match Script::parse(source.text) {
        Ok(script) => script,
        Err(errors) => {
            for QueryError { message, line, column, help } in errors.errors() {
                let help = help.as_ref().map_or(String::new(), |help| format!("; {help}"));
                source.report(check, path, (*line, *column), format!("{message}{help}"));
            }
            return None;
        }
    };
    check_names(check, path, raw, source, &script);
    Some(Query {
        text: source.text.to_owned(),
        script,
        file: source.file.to_owned(),
        start: source.start,
        lines: source.lines.to_vec(),
    })
}

/// Each name behind FROM and INTO is one of the spec.
fn check_names(check: &mut Check<'_>, path: &Path, raw: &RawJob, source: Source<'_>, script: &Script) {
    let inputs = check.names_in("inputs");
    // No more than are shown: the search for the place of each reads the text.
    for name in script.inputs().iter().filter(|name| !is_among(name, &inputs)).take(MAX_PROBLEMS + 1) {
        let message = format!("unknown input `{name}`; available: {}", inputs.join(", "));
        source.report(check, path, source.place(name, &["from", "join"]), message);
    }
    let outputs = check.names_in("outputs");
    let is_known = |output: &Option<String>| match output {
        Some(name) => is_among(name, &outputs),
        None => raw.outputs.len() <= 1 || is_among("output", &outputs),
    };
    for output in script.outputs().iter().filter(|output| !is_known(output)).take(MAX_PROBLEMS + 1) {
        let (place, what) = match output {
            Some(name) => (source.place(name, &["into"]), format!("unknown output `{name}`")),
            None => (NOWHERE, "a SELECT without INTO needs a single output, or one named `output`".to_owned()),
        };
        source.report(check, path, place, format!("{what}; available: {}", outputs.join(", ")));
    }
}

fn is_among(name: &str, names: &[String]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Where each line of a scalar begins: known of a literal block (`|`) and of a text within one line.
fn lines_in_spec(spec: &str, node: &Node) -> Vec<Position> {
    let Value::Text { text, style } = &node.value else { return Vec::new() };
    if *style == ScalarStyle::Literal {
        let indent = |source: &str, line: &str| source.chars().count().saturating_sub(line.chars().count());
        // The position is that of the first line with anything on it.
        let blank = text.lines().take_while(|line| line.trim().is_empty()).count();
        let source = spec.lines().enumerate().skip((node.at.line - 1).saturating_sub(blank));
        return source
            .zip(text.lines())
            .map(|((index, source), line)| Position { line: index + 1, column: indent(source, line) + 1 })
            .collect();
    }
    let quote = usize::from(matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted));
    let column = node.at.column + quote;
    let source: String = spec.lines().nth(node.at.line - 1).unwrap_or_default().chars().skip(column - 1).collect();
    if source.starts_with(text.as_str()) { vec![Position { column, ..node.at }] } else { Vec::new() }
}
