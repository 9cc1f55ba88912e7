//! The query's text and where each of its lines stands, so that a mistake in it is shown where it was typed.

use std::fs;

use saphyr_parser::ScalarStyle;

use super::{
    check::Check,
    job::Query,
    problem::{Path, Position},
    raw::RawJob,
    yaml::{Node, Value},
};

impl Query {
    /// Where in [`Query::file`] a place of the text stands; `line` and `column` count from 1.
    #[must_use]
    pub fn locate(&self, line: usize, column: usize) -> Position {
        match self.lines.get(line.saturating_sub(1)) {
            Some(start) => Position { line: start.line, column: start.column + column.saturating_sub(1) },
            None => self.lines.first().copied().unwrap_or(Position { line: 1, column: 1 }),
        }
    }
}

/// The query of the spec, or of the file that it names.
pub(super) fn query(check: &mut Check<'_>, root: &Path, raw: &RawJob) -> Option<Query> {
    check.exactly_one(root, &["query", "query_file"]);
    match (&raw.query, &raw.query_file) {
        (Some(text), None) => {
            let path = root.key("query");
            let lines = check.root.find(&path).map_or(Vec::new(), |node| lines_in_spec(check.text, node));
            not_empty(Query { text: text.clone(), file: check.file.to_owned(), lines }, &path, check)
        }
        (None, Some(file)) => {
            let path = root.key("query_file");
            let full = check.resolve(&path, file)?;
            match fs::read_to_string(&full) {
                Ok(text) => {
                    let lines = (1..=text.lines().count()).map(|line| Position { line, column: 1 }).collect();
                    not_empty(Query { text, file: full.display().to_string(), lines }, &path, check)
                }
                Err(error) => {
                    check.problem(&path, format!("cannot read `{}`: {error}", full.display()));
                    None
                }
            }
        }
        _ => None,
    }
}

fn not_empty(query: Query, path: &Path, check: &mut Check<'_>) -> Option<Query> {
    if query.text.trim().is_empty() {
        check.problem(path, "expected a query, found an empty text");
        return None;
    }
    Some(query)
}

/// Where each line of a scalar begins. Only a literal block (`|`) keeps its lines; of other styles it is known where they
/// begin, and that is where everything is then said to be.
fn lines_in_spec(spec: &str, node: &Node) -> Vec<Position> {
    let Value::Text { text, style } = &node.value else { return vec![node.at] };
    match style {
        ScalarStyle::Literal => {
            let source = spec.lines().enumerate().skip(node.at.line);
            let indented = |line: &str, source: &str| source.chars().count().saturating_sub(line.chars().count());
            text.lines()
                .zip(source)
                .map(|(line, (index, source))| Position { line: index + 1, column: indented(line, source) + 1 })
                .collect()
        }
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
            vec![Position { column: node.at.column + 1, ..node.at }]
        }
        ScalarStyle::Plain | ScalarStyle::Folded => vec![node.at],
    }
}
