//! `cargo xtask fuzz`: seeded mutations of a committed corpus, on stable Rust.
//!
//! A [`Target`] is a piece of code with properties that hold for every input; that it does not panic is one of all targets.
//! The same seed makes the same inputs in the same order. The input at hand is on disk before it runs, so that a stack
//! overflow or an endless loop leaves it behind as well.

pub(crate) mod decoding;
pub(crate) mod fetch;
pub(crate) mod json;
mod mutate;
pub(crate) mod query;
pub(crate) mod records;
pub(crate) mod spec;

use std::{
    fs::{self, File},
    io::{Seek, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};

use self::mutate::Mutator;

/// Inputs longer than this are not mutated further.
const MAX_INPUT: usize = 64 << 10;
/// Mutated inputs that are kept, to be mutated again.
const MAX_KEPT: usize = 256;

/// Code under test.
pub(crate) trait Target {
    /// Its word on the command line; its corpus lies in `fuzz/corpus/NAME`.
    fn name(&self) -> &'static str;

    /// Pieces of its language, to be put into inputs.
    fn tokens(&self) -> &'static [&'static str];

    /// Runs the code on one input.
    ///
    /// # Errors
    /// Which property does not hold, in a sentence.
    fn check(&mut self, input: &[u8]) -> Result<(), String>;
}

/// Mutates the corpus for `time` and checks each input; returns how many there were.
///
/// # Errors
/// The first input that breaks a property: its file, which [`replay`] takes. A corpus that is not there or empty.
pub(crate) fn run(target: &mut dyn Target, time: Duration, seed: u64) -> anyhow::Result<u64> {
    let corpus = read_corpus(target.name())?;
    let folder = target_folder().join("temp");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let path = folder.join(format!("fuzz-{}-{seed}", target.name()));
    let mut file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;

    let mut mutator = Mutator::new(seed, target.tokens());
    let mut kept = corpus.clone();
    let started = now();
    let mut count = 0;
    while started.elapsed() < time {
        let input = match corpus.get(count as usize) {
            Some(seed) => seed.clone(),
            None => mutator.mutate(&kept),
        };
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&input)?;
        if let Err(broken) = check(target, &input) {
            bail!("{}: input {count} of seed {seed}: {broken}\nthe input is {}", target.name(), path.display());
        }
        if input.len() < MAX_INPUT && mutator.below(8) == 0 {
            if kept.len() < corpus.len() + MAX_KEPT {
                kept.push(input);
            } else {
                let at = corpus.len() + mutator.below(MAX_KEPT);
                kept[at] = input;
            }
        }
        count += 1;
    }
    drop(file);
    fs::remove_file(&path)?;
    Ok(count)
}

/// Checks the input in a file once more.
///
/// # Errors
/// Which property does not hold.
pub(crate) fn replay(target: &mut dyn Target, path: &Path) -> anyhow::Result<()> {
    let input = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    check(target, &input).map_err(|broken| anyhow::anyhow!("{}: {broken}", target.name()))
}

fn check(target: &mut dyn Target, input: &[u8]) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| target.check(input))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref().copied());
        Err(format!("panicked: {}", text.unwrap_or("without a message")))
    })
}

/// The files of a corpus in the order of their names.
fn read_corpus(name: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let folder = repository().join("fuzz/corpus").join(name);
    let list = || -> std::io::Result<Vec<Vec<u8>>> {
        let mut paths = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        paths.iter().map(fs::read).collect()
    };
    let corpus = list().with_context(|| format!("cannot read the corpus {}", folder.display()))?;
    ensure!(!corpus.is_empty(), "the corpus {} is empty", folder.display());
    Ok(corpus)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

#[expect(clippy::disallowed_methods, reason = "the clock of a developer's command, which no result depends on")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks on inputs with two zeros.
    struct Zeros;

    impl Target for Zeros {
        fn name(&self) -> &'static str {
            "json"
        }
        fn tokens(&self) -> &'static [&'static str] {
            &["00"]
        }
        fn check(&mut self, input: &[u8]) -> Result<(), String> {
            assert!(!input.windows(3).any(|bytes| bytes == b"000"), "three zeros");
            if input.windows(2).any(|bytes| bytes == b"00") { Err("two zeros".to_owned()) } else { Ok(()) }
        }
    }

    #[test]
    fn a_broken_property_is_found_and_can_be_replayed() {
        let failure = |seed| run(&mut Zeros, Duration::from_secs(60), seed).unwrap_err().to_string();
        let text = failure(u64::MAX);
        assert!(text.contains("zeros") && text == failure(u64::MAX), "{text}");
        let path = text.rsplit_once("the input is ").unwrap().1;
        assert!(replay(&mut Zeros, Path::new(path)).unwrap_err().to_string().contains("zeros"));
        fs::remove_file(path).unwrap();
    }

    #[track_caller]
    fn holds_for_a_second(target: &mut dyn Target) {
        let count = run(target, Duration::from_secs(1), 0).unwrap();
        assert!(count > 100, "only {count} inputs in a second");
    }

    #[test]
    fn json_holds_for_a_second() {
        holds_for_a_second(&mut json::Json::new().unwrap());
    }

    #[test]
    fn avro_holds_for_a_second() {
        holds_for_a_second(&mut decoding::Decoding::avro().unwrap());
    }

    #[test]
    fn avro_containers_hold_for_a_second() {
        holds_for_a_second(&mut decoding::Decoding::avro_container().unwrap());
    }

    #[test]
    fn protobuf_holds_for_a_second() {
        holds_for_a_second(&mut decoding::Decoding::protobuf().unwrap());
    }

    #[test]
    fn csv_holds_for_a_second() {
        holds_for_a_second(&mut decoding::Decoding::csv().unwrap());
    }

    #[test]
    fn parquet_holds_for_a_second() {
        holds_for_a_second(&mut decoding::Decoding::parquet().unwrap());
    }

    #[test]
    fn spec_holds_for_a_second() {
        holds_for_a_second(&mut spec::Spec);
    }

    #[test]
    fn fetch_holds_for_a_second() {
        holds_for_a_second(&mut fetch::Fetch::default());
    }

    #[test]
    fn records_hold_for_a_second() {
        holds_for_a_second(&mut records::Records::default());
    }

    #[test]
    fn query_holds_for_a_second() {
        holds_for_a_second(&mut query::Query::new());
    }
}
