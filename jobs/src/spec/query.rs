//! The query: read, parsed, and held against the names of the spec. A mistake in it is shown where it was typed, be that
//! the spec or a file of its own.

use saphyr_parser::ScalarStyle;
use tidemill_queries::{QueryError, Script};

use super::{
    check::Check,
    job::Query,
    problem::{Path, Position, Problem, source_line},
    raw::RawJob,
    read_text,
    yaml::{Node, Value},
};

impl Query {
    /// Where in [`Query::file`] a place of the text stands, both counted from 1. Where YAML has folded the lines, and for
    /// places that do not exist, it is where the text begins.
    #[must_use]
    pub fn locate(&self, line: u64, column: u64) -> Position {
        self.source().locate(line, column)
    }

    fn source(&self) -> Source<'_> {
        Source { file: &self.file, start: self.start, lines: &self.lines }
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
            parse(check, &path, raw, text, Source { file: check.file, start, lines: &lines })
        }
        (None, Some(file)) => {
            let path = root.key("query_file");
            let file = check.resolve(&path, file)?;
            let read = read_text(&file).map_err(|error| format!("`{}`: {error}", file.display()));
            let text = read.map_err(|error| check.problem(&path, error)).ok()?;
            let lines: Vec<_> = (1..=text.lines().count()).map(|line| Position { line, column: 1 }).collect();
            let source = Source { file: &file.display().to_string(), start: START, lines: &lines };
            parse(check, &path, raw, &text, source)
        }
        _ => None,
    }
}

const START: Position = Position { line: 1, column: 1 };

/// Where a query's text stands.
#[derive(Clone, Copy)]
struct Source<'a> {
    file: &'a str,
    start: Position,
    lines: &'a [Position],
}

impl Source<'_> {
    fn locate(&self, line: u64, column: u64) -> Position {
        let from_zero = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).checked_sub(1);
        match (from_zero(line).and_then(|line| self.lines.get(line)), from_zero(column)) {
            (Some(start), Some(column)) => Position { column: start.column.saturating_add(column), ..*start },
            _ => self.start,
        }
    }
}

fn parse(check: &mut Check<'_>, path: &Path, raw: &RawJob, text: &str, source: Source<'_>) -> Option<Query> {
    if text.trim().is_empty() {
        check.problem(path, "expected a query, found an empty text");
        return None;
    }
    let script = match Script::parse(text) {
        Ok(script) => script,
        Err(errors) => {
            for QueryError { message, line, column, help } in errors.errors() {
                let help = help.as_ref().map_or(String::new(), |help| format!("; {help}"));
                report(check, path, text, source, (*line, *column), format!("{message}{help}"));
            }
            return None;
        }
    };
    check_names(check, path, raw, text, source, &script);
    Some(Query {
        text: text.to_owned(),
        script,
        file: source.file.to_owned(),
        start: source.start,
        lines: source.lines.to_vec(),
    })
}

/// Each name behind FROM and INTO is one of the spec.
fn check_names(check: &mut Check<'_>, path: &Path, raw: &RawJob, text: &str, source: Source<'_>, script: &Script) {
    let inputs: Vec<_> = check.names_in("inputs");
    for name in script.inputs().iter().filter(|name| !is_among(name, &inputs)) {
        let message = format!("unknown input `{name}`; available: {}", inputs.join(", "));
        report(check, path, text, source, place(text, name, &["from", "join"]), message);
    }
    let outputs: Vec<_> = check.names_in("outputs");
    for output in script.outputs() {
        match output {
            Some(name) if is_among(&name, &outputs) => {}
            Some(name) => {
                let message = format!("unknown output `{name}`; available: {}", outputs.join(", "));
                report(check, path, text, source, place(text, &name, &["into"]), message);
            }
            None if raw.outputs.len() <= 1 || is_among("output", &outputs) => {}
            None => {
                let message = format!(
                    "a SELECT without INTO needs a single output, or one named `output`; available: {}",
                    outputs.join(", ")
                );
                report(check, path, text, source, (0, 0), message);
            }
        }
    }
}

fn is_among(name: &str, names: &[String]) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Line and column of a name behind one of some keywords; (0, 0) where it is not found.
fn place(text: &str, name: &str, keywords: &[&str]) -> (u64, u64) {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (number, line) in text.lines().enumerate() {
        for (at, _) in line.char_indices() {
            let (before, from) = line.split_at(at);
            let rest = from.get(name.len()..).filter(|_| from[..name.len()].eq_ignore_ascii_case(name));
            if before.ends_with(is_word) || !rest.is_some_and(|rest| !rest.starts_with(is_word)) {
                continue;
            }
            let before = before.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '[' | '"'));
            let keyword = before.rsplit(|c| !is_word(c)).next().unwrap_or_default();
            if keywords.iter().any(|known| known.eq_ignore_ascii_case(keyword)) {
                return (number as u64 + 1, line[..at].chars().count() as u64 + 1);
            }
        }
    }
    (0, 0)
}

fn report(check: &mut Check<'_>, path: &Path, text: &str, source: Source<'_>, place: (u64, u64), message: String) {
    let position = source.locate(place.0, place.1);
    if source.file == check.file {
        check.problem_at(position, path, message);
    } else {
        check.report(Problem {
            file: source.file.to_owned(),
            position: Some(position),
            path: String::new(),
            message,
            source_line: source_line(text, position.line, path),
        });
    }
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
