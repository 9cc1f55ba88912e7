//! The collector that validation reports to: where a path stands in the text, and what is wrong there.

use std::path::PathBuf;

use tidemill_certs::SecretRef;

use super::{
    problem::{Path, Position, Problem, source_line},
    yaml::{Node, Value},
};

/// More than anybody reads at once; the rest shows when these are gone.
pub(super) const MAX_PROBLEMS: usize = 100;

/// A spec's text, its tree, and the problems so far.
pub(super) struct Check<'a> {
    /// The spec's name in messages.
    pub(super) file: &'a str,
    /// Relative paths are relative to this.
    pub(super) directory: &'a std::path::Path,
    pub(super) text: &'a str,
    pub(super) root: &'a Node,
    /// Fields that somebody tried to give under another name.
    pub(super) meant: Vec<Path>,
    pub(super) problems: Vec<Problem>,
}

impl Check<'_> {
    /// A mistake at a path; where there is no such node, at the last one on the way.
    pub(super) fn problem(&mut self, path: &Path, message: impl Into<String>) {
        let (path, position) = self.root.locate(path);
        self.problem_at(position, &path, message.into());
    }

    /// A mistake at a position.
    pub(super) fn problem_at(&mut self, position: Position, path: &Path, message: String) {
        let (file, text) = (self.file, self.text);
        self.report(file, text, position, path, message);
    }

    /// A mistake in the spec or in the query's own file, whose text is `text`.
    pub(super) fn report(&mut self, file: &str, text: &str, position: Position, path: &Path, message: String) {
        match self.problems.len() {
            ..MAX_PROBLEMS => self.problems.push(Problem {
                file: file.to_owned(),
                position: Some(position),
                path: path.to_string(),
                message,
                source_line: source_line(text, position.line, path),
            }),
            MAX_PROBLEMS => {
                let message = format!("more than {MAX_PROBLEMS} mistakes; these are some of them");
                self.problems.push(Problem::of_file(self.file, message));
            }
            _ => {}
        }
    }

    /// Whether something was written there: rightly, wrongly (and reported), or under a wrong name (and reported).
    pub(super) fn given(&self, path: &Path) -> bool {
        let node = self.root.find(path);
        node.is_some_and(|node| !matches!(node.value, Value::Null)) || self.meant.contains(path)
    }

    /// The value of a required field.
    pub(super) fn required<'v, T>(&mut self, value: Option<&'v T>, parent: &Path, field: &str) -> Option<&'v T> {
        if value.is_none() && !self.given(&parent.key(field)) {
            self.problem(parent, format!("`{field}` is missing"));
        }
        value
    }

    /// Holds that one of some fields, each with whether it has a value, is given, and no more.
    pub(super) fn exactly_one(&mut self, parent: &Path, fields: &[(&str, bool)]) {
        let is_given = |(field, has_value): &&(&str, bool)| *has_value || self.given(&parent.key(field));
        let given: Vec<_> = fields.iter().filter(is_given).map(|(field, _)| *field).collect();
        match given.as_slice() {
            [] => {
                let names: Vec<_> = fields.iter().map(|(field, _)| *field).collect();
                self.problem(parent, format!("one of `{}` is missing", names.join("`, `")));
            }
            [first, others @ ..] => {
                for other in others {
                    self.problem(
                        &parent.key(other),
                        format!("`{other}` cannot stand beside `{first}`: give one of them"),
                    );
                }
            }
        }
    }

    /// The names of the spec's inputs or outputs, wrong ones included.
    pub(super) fn names_in(&self, field: &str) -> Vec<String> {
        match self.root.find(&Path::default().key(field)).map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.iter().map(|entry| entry.key.clone()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the list or map there has anything in it, be it wrong (and reported).
    pub(super) fn has_content(&self, path: &Path) -> bool {
        let written = self.root.find(path).is_some_and(|node| match &node.value {
            Value::List(items) => !items.is_empty(),
            Value::Map(entries) => !entries.is_empty(),
            other => !matches!(other, Value::Null),
        });
        written || self.meant.contains(path)
    }

    /// Reports what a check of syntax found; `None` when it did.
    pub(super) fn holds(&mut self, path: &Path, result: Result<(), String>) -> Option<()> {
        self.holds_value(path, result)
    }

    /// The value that was made, or `None` when that failed, which is reported.
    pub(super) fn holds_value<T>(&mut self, path: &Path, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.problem(path, message)).ok()
    }

    /// A reference with the path of a file put below the spec's directory.
    pub(super) fn below(&self, reference: &SecretRef) -> SecretRef {
        reference.clone().below(self.directory)
    }

    /// The path in the field `path` of `parent`, resolved.
    pub(super) fn required_path(&mut self, parent: &Path, written: Option<&str>) -> Option<PathBuf> {
        let written = self.required(written.as_ref(), parent, "path").copied()?;
        self.resolve(&parent.key("path"), written)
    }

    /// A path of the spec, put below its directory unless it is absolute.
    pub(super) fn resolve(&mut self, path: &Path, written: &str) -> Option<PathBuf> {
        if written.is_empty() || written.contains('\0') {
            self.problem(path, "expected a path, found an empty text");
            return None;
        }
        Some(self.directory.join(written))
    }
}
