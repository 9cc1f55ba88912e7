//! `docs/benchmarks.md`: each bench that has something to say there writes a section of its own.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::kafka::Version;
use crate::repository::root;

const PATH: &str = "docs/benchmarks.md";

/// What stands before the first section of a new page.
const HEAD: &str = "# Benchmarks

Each section is written by the command that it names. Absolute figures are of that machine in that hour; ratios travel.
";

/// Puts a section in the place of the one with the same title, or behind all others.
///
/// # Errors
/// When the page cannot be read or written.
pub(super) fn put(title: &str, text: &str) -> Result<()> {
    let path = root().join(PATH);
    let page = match path.exists() {
        true => fs::read_to_string(&path).with_context(|| format!("cannot read `{PATH}`"))?,
        false => HEAD.to_owned(),
    };
    fs::write(&path, with_section(&page, title, text)).with_context(|| format!("cannot write `{PATH}`"))
}

fn with_section(page: &str, title: &str, text: &str) -> String {
    let heading = format!("\n## {title}\n");
    let (before, behind) = page.split_once(&heading).unwrap_or((page, ""));
    let behind = behind.find("\n## ").map_or("", |at| &behind[at..]);
    format!("{}\n{heading}\n{}\n{behind}", before.trim_end(), text.trim_end())
}

/// The machine and the versions of what every bench runs, as a list.
///
/// # Errors
/// When the machine does not say what it is.
pub(super) fn machine() -> Result<String> {
    let line = |path: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(path)?;
        let line =
            text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no `{name}` in {path}"))?;
        Ok(line.split_once(':').map_or(line, |(_, value)| value).trim().to_owned())
    };
    let memory = line("/proc/meminfo", "MemTotal")?;
    let memory: f64 = memory.trim_end_matches(" kB").parse().context("`MemTotal` is a number")?;
    Ok(format!(
        "- Machine: {}, {} cores, {:.0} GiB, Linux {}.\n- tidemill {} ({}), Kafka {}.\n",
        line("/proc/cpuinfo", "model name").unwrap_or_else(|_| std::env::consts::ARCH.to_owned()),
        std::thread::available_parallelism()?,
        memory / f64::from(1 << 20),
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        said(Command::new("git").args(["rev-parse", "--short", "HEAD"]).current_dir(root()))?,
        said(Command::new("rustc").arg("--version"))?,
        Version::default().number(),
    ))
}

/// The first line that a program says.
pub(super) fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_takes_the_place_of_its_older_self_alone() {
        let page = with_section(HEAD, "One", "1\n### part\n");
        let page = with_section(&page, "Two", "2");
        assert_eq!(page, format!("{HEAD}\n## One\n\n1\n### part\n\n## Two\n\n2\n"));
        let page = with_section(&page, "One", "one");
        assert_eq!(page, format!("{HEAD}\n## One\n\none\n\n## Two\n\n2\n"));
    }
}
