//! `cargo xtask test`, which `./x test` ends in: everything that must hold before a change lands.
//!
//! Each step is a child process or a check of ours, runs once, and adds to one count: tests by their own closing lines,
//! everything else as one check. What cannot run here is skipped aloud.

use std::io::{BufRead, BufReader};
use std::iter::Sum;
use std::ops::Add;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::conformance;
use crate::repository::{cargo, root};

/// Cases of the language that pass today; raised as it grows, never lowered.
const CONFORMANCE_FLOOR: usize = 72;

/// What a step, or all of them, came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Held.
    pub passed: usize,
    /// Did not.
    pub failed: usize,
    /// Not run, with the reason in the output.
    pub skipped: usize,
}

impl Counts {
    const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };

    fn check(passed: bool) -> Self {
        if passed { Self::PASSED } else { Self::FAILED }
    }

    /// Whether something ran and nothing failed.
    pub fn ok(&self) -> bool {
        self.passed > 0 && self.failed == 0
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

type Step = fn() -> Result<Counts>;

/// Runs every step, whatever the others came to, and prints the counts alone on the last line.
///
/// # Errors
/// When a step cannot be run at all.
pub fn run() -> Result<Counts> {
    let steps: [(&str, Step); 5] = [
        ("format", format),
        ("clippy", clippy),
        ("dependencies", dependencies),
        ("tests", tests),
        ("conformance", conformance),
    ];
    let mut all = Vec::new();
    let mut times = Vec::new();
    for (name, step) in steps {
        println!("== {name}");
        let start = Instant::now();
        all.push(step()?);
        times.push(format!("{name} {:.0} s", start.elapsed().as_secs_f64()));
    }
    let sum: Counts = all.into_iter().sum();
    println!("== {}", times.join(", "));
    println!("{} passed, {} failed, {} skipped", sum.passed, sum.failed, sum.skipped);
    Ok(sum)
}

fn format() -> Result<Counts> {
    component("rustfmt", &["fmt", "--all", "--check"])
}

fn clippy() -> Result<Counts> {
    component("clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

/// Licences and advisories, by `deny.toml` and `.cargo/audit.toml`. The advisories come from the network, and are left out aloud
/// where it is not there.
fn dependencies() -> Result<Counts> {
    Ok(deny()? + audit()?)
}

fn deny() -> Result<Counts> {
    if !works(&["deny", "--version"])? {
        println!("skipped: cargo-deny is not installed; `cargo install cargo-deny` adds it");
        return Ok(Counts::SKIPPED);
    }
    let checked = Counts::check(cargo(&["deny", "check", "licenses", "bans", "sources"]).status()?.success());
    if !works(&["deny", "fetch"])? {
        println!("skipped: cargo-deny cannot reach the advisory database");
        return Ok(checked + Counts::SKIPPED);
    }
    Ok(checked + Counts::check(cargo(&["deny", "check", "advisories"]).status()?.success()))
}

fn audit() -> Result<Counts> {
    if !works(&["audit", "--version"])? {
        println!("skipped: cargo-audit is not installed; `cargo install cargo-audit` adds it");
        return Ok(Counts::SKIPPED);
    }
    let output = cargo(&["audit", "--quiet"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("couldn't fetch advisory database") || said.contains("error loading advisory database") {
        println!("skipped: cargo-audit cannot reach the advisory database");
        return Ok(Counts::SKIPPED);
    }
    println!("{}{said}", String::from_utf8_lossy(&output.stdout));
    Ok(Counts::check(output.status.success()))
}

/// Whether a cargo command succeeds, whatever it says.
fn works(arguments: &[&str]) -> Result<bool> {
    Ok(cargo(arguments).stderr(Stdio::null()).stdout(Stdio::null()).status()?.success())
}

/// A cargo command that rustup installs apart; skipped where it is not.
fn component(name: &str, args: &[&str]) -> Result<Counts> {
    if !works(&[args[0], "--version"])? {
        println!("skipped: not installed; `rustup component add {name}` adds it");
        return Ok(Counts::SKIPPED);
    }
    Ok(Counts::check(cargo(args).status()?.success()))
}

/// All tests of the workspace: units, documentation, whole programs, those on a real Kafka included.
fn tests() -> Result<Counts> {
    let mut child = cargo(&["test", "--quiet", "--workspace", "--no-fail-fast"]).stdout(Stdio::piped()).spawn()?;
    let mut counts = Counts::default();
    for line in BufReader::new(child.stdout.take().context("stdout is piped")?).lines() {
        let line = line?;
        counts = counts + test_result(&line).unwrap_or_default();
        println!("{line}");
    }
    // What does not compile, or dies on a signal, has no closing line.
    let silent_failure = !child.wait()?.success() && counts.failed == 0;
    Ok(if silent_failure { counts + Counts::FAILED } else { counts })
}

/// The counts of a test binary's closing line, `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn test_result(line: &str) -> Option<Counts> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let part = counts.split("; ").find_map(|part| part.strip_suffix(what));
        part.and_then(|number| number.trim().parse().ok())
    };
    Some(Counts { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

/// The cases beside the repository, where they are.
fn conformance() -> Result<Counts> {
    let mut files: Vec<PathBuf> = match root().join("../shared/conformance").read_dir() {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?,
        Err(_) => Vec::new(),
    };
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    if files.is_empty() {
        println!("skipped: no cases in ../shared/conformance");
        return Ok(Counts::SKIPPED);
    }
    let cases: Vec<bool> = conformance::run_files(&files)?.map(|(_, outcome)| outcome.is_ok()).collect();
    let passed = cases.iter().filter(|passed| **passed).count();
    println!("{passed} of {} cases pass, {CONFORMANCE_FLOOR} must; `cargo xtask conformance` tells which", cases.len());
    Ok(Counts::check(passed >= CONFORMANCE_FLOOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s";
        assert_eq!(test_result(line), Some(Counts { passed: 12, failed: 3, skipped: 1 }));
        assert_eq!(test_result("test a::b ... ok"), None);
        assert!(!Counts::default().ok(), "nothing ran");
    }
}
