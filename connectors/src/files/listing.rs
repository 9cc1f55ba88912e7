//! From the path in a spec to the files that it means.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tidemill_engine::{EngineError, ErrorKind, Result};

/// How many names an error lists.
const NEIGHBOURS: usize = 5;

/// The files that `path` means, sorted: one file, all files of a directory, or those of one directory whose names match a
/// pattern (`in/*.jsonl`; `*` is any text, `?` one character). Hidden files, whose names begin with a dot, are only taken
/// when they are asked for by name. `input` is the input's name in the spec.
///
/// # Errors
/// [`EngineError::Source`] when there is none, with the names that exist.
pub fn list_files(input: &str, path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let failure = |message| EngineError::Source { input: input.to_owned(), kind: ErrorKind::User, message };
    let is_directory = path.is_dir();
    let (directory, pattern) = if is_directory { (path, "*".into()) } else { split(path) };
    let names = visible_files(directory).map_err(|error| {
        failure(format!("cannot read directory `{}`: {error}{}", directory.display(), nearest_parent(directory)))
    })?;
    let mut files: Vec<PathBuf> =
        names.iter().filter(|name| matches(&pattern, name)).map(|name| directory.join(name)).collect();
    if files.is_empty() {
        let what = if is_directory || pattern.contains(['*', '?']) { "no file matches" } else { "there is no file" };
        let there = if names.is_empty() { "the directory has no files".to_owned() } else { available(names) };
        return Err(failure(format!("{what} `{}`; {there}", path.display())));
    }
    files.sort();
    Ok(files)
}

/// The directory and the pattern for names in it.
fn split(path: &Path) -> (&Path, String) {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    (directory, path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

fn visible_files(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_file() {
            names.push(name);
        }
    }
    Ok(names)
}

fn available(mut names: Vec<String>) -> String {
    names.sort();
    let more = names.len().saturating_sub(NEIGHBOURS);
    names.truncate(NEIGHBOURS);
    let list = names.join("`, `");
    if more > 0 { format!("available: `{list}` and {more} more") } else { format!("available: `{list}`") }
}

/// Where the path stops to exist.
fn nearest_parent(directory: &Path) -> String {
    match directory.ancestors().skip(1).find(|parent| parent.is_dir()) {
        Some(parent) => format!("; `{}` exists", parent.display()),
        None => String::new(),
    }
}

/// Whether a name matches a pattern of literal characters, `*` and `?`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut pattern_rest = pattern.chars();
    match pattern_rest.next() {
        None => name.is_empty(),
        Some('*') => {
            let mut tails = name.char_indices().map(|(index, _)| &name[index..]).chain([""]);
            tails.any(|tail| matches(pattern_rest.as_str(), tail))
        }
        Some(wanted) => {
            let mut name_rest = name.chars();
            name_rest.next().is_some_and(|found| wanted == '?' || wanted == found)
                && matches(pattern_rest.as_str(), name_rest.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", ".jsonl", true),
            ("*.jsonl", "a.json", false),
            ("a?c*", "äbc", false),
            ("?bc*", "äbc", true),
            ("a*b*c", "a-b-b-c", true),
            ("*", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn lists_sorted_visible_files_or_says_what_exists() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["b.jsonl", "a.jsonl", "c.csv", ".a.jsonl.part"] {
            fs::write(root.join(name), "").unwrap();
        }
        let names = |path: PathBuf| {
            let files = list_files("in", &path).unwrap();
            files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(root.join("*.jsonl")), ["a.jsonl", "b.jsonl"]);
        assert_eq!(names(root.to_owned()), ["a.jsonl", "b.jsonl", "c.csv"]);
        assert_eq!(names(root.join(".a.jsonl.part")), [".a.jsonl.part"]);

        let error = |path: PathBuf| list_files("old", &path).unwrap_err().to_string();
        let missing = error(root.join("d.csv"));
        assert!(missing.starts_with("input `old`: there is no file `"), "{missing}");
        assert!(missing.ends_with("available: `a.jsonl`, `b.jsonl`, `c.csv`"), "{missing}");
        assert!(error(root.join("*.txt")).contains("no file matches"));
        let nowhere = error(root.join("x/y/*.csv"));
        assert!(
            nowhere.contains("No such file") && nowhere.ends_with(&format!("`{}` exists", root.display())),
            "{nowhere}"
        );
    }
}
