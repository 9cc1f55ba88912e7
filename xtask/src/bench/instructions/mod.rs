//! `cargo xtask bench instructions`: how many instructions a record takes in four inner loops, counted by callgrind.
//!
//! Each loop of `bench/instructions` runs twice over the same events, once in twice as many rounds: the difference is that of the rounds
//! alone, exactly, without a word about where they begin. Instructions do not depend on what else the machine does, so that a few
//! percent show; they say nothing of caches and of what the processor does at once. They are held against those in
//! `bench/instructions/counts.json` ([`counts`]), where compiler, CPU features and C library are the same.
//!
//! The processor is the one that valgrind plays: of an older one it knows no AVX-512, and whoever looks for that takes AVX2.

mod counts;

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, str};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

use self::counts::{Counted, Counts, Machine};
use super::events::{self, Spread};
use super::{Options, Programs};
use crate::repository::root;

const VALGRIND: &str = "valgrind";
const PROGRAM: &str = "bench-instructions";
const RECORDED: &str = "bench/instructions/counts.json";

/// As [`PROGRAM`] names them.
const LOOPS: [&str; 4] = ["walk", "decode", "tumble", "encode"];
/// Some three of each of 10,000 keys, in four batches.
const EVENTS: u64 = 32_768;
/// Rounds of the shorter run. In the first one buffers grow.
const ROUNDS: u64 = 2;

/// What the program says of itself.
#[derive(Deserialize)]
struct Said {
    records: u64,
    cpu_features: Vec<String>,
}

/// Counts, prints a line for each loop, and says whether none takes more than what is recorded for it allows; or records.
pub(super) fn run(options: &Options) -> Result<bool> {
    let reason = options.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty());
    ensure!(!(options.record && options.debug), "a debug build's counts say nothing: `--record` without `--debug`");
    first_line(Command::new(VALGRIND).arg("--version")).context(
        "`valgrind` counts the instructions and cannot be run; it is Debian's package valgrind: `apt-get install valgrind`",
    )?;
    let programs = Programs::build(options, &[PROGRAM])?;
    let counted = count(programs.path(PROGRAM)?, if options.debug { "debug" } else { "release" })?;
    let path = root().join(RECORDED);
    let recorded = match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| format!("`{RECORDED}` cannot be read"))?,
        Err(error) if error.kind() == ErrorKind::NotFound => Counts::default(),
        Err(error) => return Err(error.into()),
    };
    if options.record {
        let recorded = recorded.record(&counted, reason).map_err(|refused| anyhow!(refused))?;
        fs::write(&path, serde_json::to_string_pretty(&recorded)? + "\n")?;
        println!("recorded in {RECORDED}");
        return Ok(true);
    }
    let judged = recorded.judge(&counted);
    judged.iter().for_each(|verdict| println!("{verdict}"));
    Ok(judged.iter().all(counts::Verdict::ok))
}

/// All loops.
fn count(program: &Path, profile: &str) -> Result<Counted> {
    let dir = tempfile::Builder::new().prefix("tidemill-bench-").tempdir()?;
    let input = dir.path().join("events");
    fs::write(&input, events()?)?;
    let mut instructions = vec![];
    let mut cpu_features = vec![];
    for name in LOOPS {
        eprintln!("counting {name} ...");
        let (few, said) = callgrind(program, name, &input, ROUNDS, dir.path())?;
        let (many, _) = callgrind(program, name, &input, 2 * ROUNDS, dir.path())?;
        instructions.push((name.to_owned(), per_record(few, many, ROUNDS * said.records)?));
        cpu_features = said.cpu_features;
    }
    let machine = Machine { rustc: rustc()?, profile: profile.to_owned(), cpu_features, libc: libc()? };
    Ok(Counted { machine, instructions })
}

/// The events of all benches, one a line.
fn events() -> Result<Vec<u8>> {
    let mut lines = vec![];
    for event in events::generate(EVENTS, 1, Spread::ByUser) {
        lines.write_all(&event.value.context("an event has a value")?)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Instructions of a run of the program, and what it said.
fn callgrind(program: &Path, name: &str, input: &Path, rounds: u64, dir: &Path) -> Result<(u64, Said)> {
    let file = dir.join(format!("{name}.{rounds}"));
    let output = Command::new(VALGRIND)
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .arg(name)
        .arg(input)
        .arg(rounds.to_string())
        .stdin(Stdio::null())
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{PROGRAM} {name}` failed under valgrind:\n{errors}");
    let said = serde_json::from_slice(&output.stdout).with_context(|| format!("`{PROGRAM} {name}` says no JSON"))?;
    let total = total(&fs::read_to_string(&file)?).with_context(|| format!("callgrind's account of {name}"))?;
    Ok((total, said))
}

/// The instructions of a whole run, by callgrind's account of it.
fn total(account: &str) -> Result<u64> {
    let line = |name: &str| account.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let events = line("events:").context("no line `events:`")?;
    ensure!(events == "Ir", "it counts `{events}`, and not instructions (`Ir`) alone");
    let total = line("summary:").or_else(|| line("totals:")).context("neither a line `summary:` nor `totals:`")?;
    total.parse().with_context(|| format!("`{total}` is no number of instructions"))
}

/// What a record takes, to a hundredth of an instruction, where the longer run has so many `records` more.
fn per_record(few: u64, many: u64, records: u64) -> Result<f64> {
    ensure!(many > few && records > 0, "{many} instructions in twice the rounds that take {few}");
    Ok(((many - few) as f64 / records as f64 * 100.0).round() / 100.0)
}

fn rustc() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    first_line(Command::new(rustc).arg("--version"))
}

/// Copying, comparing and allocating are its own.
fn libc() -> Result<String> {
    first_line(Command::new("ldd").arg("--version"))
}

/// The first line that a command prints.
fn first_line(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?} cannot be run"))?;
    let text = str::from_utf8(&output.stdout)?;
    Ok(text.lines().next().with_context(|| format!("{command:?} says nothing"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_an_account_is_its_summary() {
        let account = "# callgrind format\nversion: 1\npart: 1\npositions: line\nevents: Ir\nsummary: 104729\n\nfn=(1) main\n12 5\n\ntotals: 104729\n";
        assert_eq!(total(account).unwrap(), 104_729);
        assert_eq!(total("events: Ir\n12 5\ntotals: 7\n").unwrap(), 7);
    }

    #[test]
    fn an_account_without_a_total_of_instructions_is_refused() {
        for (account, why) in [
            ("", "no line `events:`"),
            ("events: Ir\nfn=(1) main\n", "neither a line `summary:` nor `totals:`"),
            ("events: Ir Dr\nsummary: 5 6\n", "counts `Ir Dr`"),
            ("events: Ir\nsummary: many\n", "`many` is no number"),
        ] {
            let refused = format!("{:#}", total(account).unwrap_err());
            assert!(refused.contains(why), "{account:?}: {refused}");
        }
    }

    #[test]
    fn a_record_takes_what_the_longer_run_took_more() {
        // 900 before the first round, 12.34 a record.
        assert_eq!(per_record(900 + 12_340, 900 + 24_680, 1_000).unwrap(), 12.34);
        assert!(per_record(500, 500, 1_000).is_err());
        assert!(per_record(500, 900, 0).is_err());
    }

    #[test]
    fn the_events_are_one_a_line() {
        let events = events().unwrap();
        assert_eq!(str::from_utf8(&events).unwrap().lines().count() as u64, EVENTS);
    }
}
