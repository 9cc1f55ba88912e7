//! The repository tests itself: who imports whom, what the README promises, what no file may name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Our crates, and those of ours that each may import. Direction: `src -> jobs -> {queries, connectors} -> engine`,
/// `connectors -> certs`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("bench-formats", &["tidemill-connectors", "tidemill-engine"]),
    ("bench-instructions", &["tidemill-connectors", "tidemill-engine"]),
    ("tidemill", &["tidemill-jobs", "tidemill-queries", "tidemill-connectors", "tidemill-engine", "stand-in", "xtask"]),
    ("tidemill-jobs", &["tidemill-queries", "tidemill-connectors", "tidemill-engine", "tidemill-certs"]),
    ("tidemill-queries", &["tidemill-engine"]),
    ("tidemill-connectors", &["tidemill-engine", "tidemill-certs", "stand-in"]),
    ("tidemill-engine", &[]),
    ("tidemill-certs", &["stand-in"]),
    ("in-memory", &["tidemill-connectors", "tidemill-engine", "tidemill-queries"]),
    ("own-consume", &["tidemill-connectors", "tidemill-engine"]),
    ("raw-consume", &[]),
    ("stand-in", &[]),
    (
        "xtask",
        &["tidemill-jobs", "tidemill-queries", "tidemill-connectors", "tidemill-engine", "tidemill-certs", "stand-in"],
    ),
];

/// What a crate of ours is not to know, told by the crates it would take.
const MUST_NOT_KNOW: &[(&str, &[&str])] = &[
    ("tidemill-engine", &["rdkafka", "sqlparser", "datafusion-sql", "tokio", "chrono"]),
    ("tidemill-queries", &["rdkafka"]),
    ("tidemill-connectors", &["sqlparser", "datafusion-sql"]),
    ("tidemill-certs", &["rdkafka", "arrow"]),
    ("bench-instructions", &["datafusion", "datafusion-sql"]),
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

/// Our packages, and the names of what each depends on in any way.
fn packages() -> BTreeMap<String, BTreeSet<String>> {
    let args = ["metadata", "--no-deps", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |of: &Value| of["name"].as_str().unwrap().to_owned();
    let dependencies = |package: &Value| package["dependencies"].as_array().unwrap().iter().map(name).collect();
    metadata["packages"].as_array().unwrap().iter().map(|package| (name(package), dependencies(package))).collect()
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
    let packages = packages();
    let known: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let ours: Vec<&str> = packages.keys().map(String::as_str).collect();
    assert!(ours.iter().eq(known.keys()), "every crate of the workspace has its line in MAY_IMPORT: {ours:?}");
    for (package, imports) in &packages {
        let wrong: Vec<_> = imports
            .iter()
            .filter(|import| packages.contains_key(*import) && !known[package.as_str()].contains(&import.as_str()))
            .collect();
        assert!(wrong.is_empty(), "`{package}` must not import {wrong:?}");
    }
}

#[test]
fn rooms_know_only_their_business() {
    let packages = packages();
    for (package, banned) in MUST_NOT_KNOW {
        let known: Vec<_> = banned.iter().filter(|crate_| packages[*package].contains(**crate_)).collect();
        assert!(known.is_empty(), "`{package}` must not take {known:?}");
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
fn every_file_of_tests_is_compiled() {
    for main in tracked_files().into_iter().filter(|file| file.ends_with("tests/it/main.rs")) {
        let modules = fs::read_to_string(&main).unwrap();
        for entry in main.parent().unwrap().read_dir().unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_stem().unwrap().to_str().unwrap();
            assert!(
                name == "main" || modules.contains(&format!("mod {name};")),
                "nothing compiles `{}`",
                file.display()
            );
        }
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

#[test]
fn the_diagram_carries_the_capacities_of_the_channels() {
    let pipeline = fs::read_to_string(root().join("jobs/src/run/pipeline.rs")).unwrap();
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (constant, edge) in [("EXCHANGE", "exchange"), ("COMMAND", "commands"), ("EVENT", "events")] {
        let (_, rest) = pipeline.split_once(&format!("const {constant}_CAPACITY: usize = ")).unwrap();
        let capacity = rest.split(';').next().unwrap();
        for text in [&architecture, &pipeline] {
            assert!(text.contains(&format!("{edge}({capacity})")), "{edge}: {capacity}");
        }
    }
}
