//! The repository tests itself: who imports whom, what the README promises, what no file may name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cargo_metadata::{Metadata, MetadataCommand};

/// Our crates, and those of ours that each may import. Direction: `src -> jobs -> {queries, connectors} -> engine`,
/// `connectors -> certs`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("tidemill", &["tidemill-jobs", "tidemill-queries", "tidemill-connectors", "tidemill-engine", "xtask"]),
    ("tidemill-jobs", &["tidemill-queries", "tidemill-connectors", "tidemill-engine", "tidemill-certs"]),
    ("tidemill-queries", &["tidemill-engine"]),
    ("tidemill-connectors", &["tidemill-engine", "tidemill-certs"]),
    ("tidemill-engine", &[]),
    ("tidemill-certs", &[]),
    ("raw-consume", &[]),
    ("xtask", &["tidemill-jobs", "tidemill-queries", "tidemill-connectors", "tidemill-engine", "tidemill-certs"]),
];

/// What a crate of ours is not to know, told by the crates it would take.
const MUST_NOT_KNOW: &[(&str, &[&str])] = &[
    ("tidemill-engine", &["rdkafka", "sqlparser", "datafusion-sql", "tokio", "chrono"]),
    ("tidemill-queries", &["rdkafka", "tokio"]),
    ("tidemill-connectors", &["sqlparser", "datafusion-sql"]),
    ("tidemill-certs", &["rdkafka", "arrow"]),
];

/// Paths of somebody's machine and hosts of package registries, which a mirror or a vendored build has elsewhere.
const NOT_IN_FILES: &[&str] = &[
    "/root/",
    "/work/",
    "repo.maven",
    "repo1.maven",
    "static.crates.io",
    "deb.debian.org",
    "files.pythonhosted",
    "pypi.org",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap()
}

/// The files that git tracks, without the lock file.
fn tracked_files() -> Vec<PathBuf> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    let files: Vec<_> =
        names.split_terminator('\0').filter(|name| *name != "Cargo.lock").map(|name| root().join(name)).collect();
    assert!(!files.is_empty(), "git tracks files here");
    files
}

#[test]
fn imports_run_one_way() {
    let packages = metadata().packages;
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let known: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    assert_eq!(ours, known.keys().copied().collect(), "every crate of the workspace has its line in MAY_IMPORT");
    for package in &packages {
        let imports = package.dependencies.iter().map(|dependency| dependency.name.as_str());
        let wrong: Vec<_> =
            imports.filter(|import| ours.contains(import) && !known[package.name.as_str()].contains(import)).collect();
        assert!(wrong.is_empty(), "`{}` must not import {wrong:?}", package.name);
    }
}

#[test]
fn rooms_know_only_their_business() {
    for package in metadata().packages {
        let Some((_, banned)) = MUST_NOT_KNOW.iter().find(|(name, _)| package.name == *name) else { continue };
        let known: Vec<_> = package.dependencies.iter().filter(|it| banned.contains(&it.name.as_str())).collect();
        assert!(
            known.is_empty(),
            "`{}` must not take {:?}",
            package.name,
            known.iter().map(|it| &it.name).collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_readme_names_both_commands() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for command in ["./x demo", "./x test"] {
        assert!(readme.contains(command), "README.md does not name `{command}`");
    }
}

#[test]
fn every_example_is_run_by_a_test_or_named_by_the_readme() {
    let readers: String = tracked_files()
        .iter()
        .filter(|file| file.starts_with(root().join("tests")) || file.ends_with("README.md"))
        .map(|file| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned())
        .collect();
    let examples: Vec<_> =
        tracked_files().into_iter().filter(|file| file.starts_with(root().join("examples"))).collect();
    assert!(!examples.is_empty(), "there are examples");
    for example in examples {
        let name = example.file_name().unwrap().to_str().unwrap();
        assert!(readers.contains(name), "`examples/{name}` is named neither by a test nor by the README");
    }
}

#[test]
fn no_file_names_a_machine_or_a_registry() {
    let this = root().join(file!());
    for file in tracked_files().into_iter().filter(|file| *file != this && file.is_file()) {
        let text = String::from_utf8_lossy(&fs::read(&file).unwrap()).into_owned();
        let found: Vec<_> = NOT_IN_FILES.iter().filter(|name| text.contains(**name)).collect();
        assert!(found.is_empty(), "`{}` names {found:?}", file.display());
    }
}
