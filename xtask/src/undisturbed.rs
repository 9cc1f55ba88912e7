//! Jobs that are disturbed while they run, held against an undisturbed run over the same records: what [`torture`],
//! [`rotation`] and [`schedule`] share.
//!
//! [`torture`]: crate::torture
//! [`rotation`]: crate::rotation
//! [`schedule`]: crate::schedule

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rdkafka::Message;

use crate::{
    kafka::Broker,
    repository::{cargo, root},
};

/// Where the undisturbed run writes, a folder each output, beside its spec.
const FOLDER: &str = "undisturbed";

/// The program, built as it is.
pub(crate) fn build() -> Result<PathBuf> {
    ensure!(
        cargo(&["build", "--quiet", "--workspace", "--bin", "tidemill"]).status()?.success(),
        "cannot build tidemill"
    );
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("debug/tidemill"))
}

/// An output of the undisturbed run, as a line of its spec.
pub(crate) fn output(name: &str) -> String {
    format!("  {name}: {{file: {{path: {FOLDER}/{name}/}}, format: json}}\n")
}

/// What the undisturbed run of a spec with such outputs writes.
pub(crate) fn rows(binary: &Path, spec: &Path) -> Result<Rows> {
    let ran = Command::new(binary).args(["run", "--bounded"]).arg(spec).stdin(Stdio::null()).output()?;
    ensure!(ran.status.success(), "the undisturbed run failed: {}", String::from_utf8_lossy(&ran.stderr));
    let mut rows = Rows::default();
    for entry in fs::read_dir(spec.with_file_name(FOLDER))? {
        let entry = entry?;
        rows.add_files(&entry.file_name().to_string_lossy(), &entry.path())?;
    }
    Ok(rows)
}

/// A job that runs; killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Running {
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status()?;
        ensure!(status.success(), "the job is not there to get SIG{name}: {}", self.said());
        Ok(())
    }

    pub(crate) fn kill(mut self) -> Result<()> {
        self.still_runs()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the job has ended by itself ({status}): {}", self.said()),
        }
    }

    pub(crate) fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(started.elapsed() < within, "the job has not ended within {within:?}: {}", self.said());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until nothing of what an undisturbed run wrote is missing, or `patience` is at an end, then asks the job to stop.
    /// Says what differs, and shows it.
    pub(crate) fn come_to_the_end(
        &mut self,
        expected: &Rows,
        found: impl Fn() -> Result<Rows>,
        patience: Duration,
    ) -> Result<Difference> {
        let started = Instant::now();
        let difference = loop {
            let rows = found()?;
            let difference = expected.compare(&rows);
            self.still_runs()?;
            if difference.ok() {
                break difference;
            }
            if difference.lost == 0 || started.elapsed() > patience {
                expected.show_differences(&rows);
                break difference;
            }
            thread::sleep(Duration::from_millis(300));
        };
        self.signal("TERM")?;
        ensure!(self.wait(patience)?.success(), "asked to stop it ends with 0: {}", self.said());
        Ok(difference)
    }

    /// The end of its log.
    pub(crate) fn said(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Rows of each output, as text, with how often they are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows(BTreeMap<(String, String), usize>);

impl Rows {
    /// What is committed in topics that are named as the outputs are.
    pub(crate) fn of_topics(broker: &Broker, topics: &[&str]) -> Result<Self> {
        let mut rows = Self::default();
        for topic in topics {
            for message in broker.read(topic)? {
                rows.add(topic, &String::from_utf8_lossy(message.payload().unwrap_or_default()));
            }
        }
        Ok(rows)
    }

    /// Adds the rows of an output's files.
    pub(crate) fn add_files(&mut self, output: &str, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue; // of an epoch that is not committed
            }
            fs::read_to_string(&path)?.lines().for_each(|row| self.add(output, row));
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, output: &str, row: &str) {
        *self.0.entry((output.to_owned(), row.to_owned())).or_default() += 1;
    }

    /// What is other in `found`.
    pub(crate) fn compare(&self, found: &Self) -> Difference {
        let mut difference = Difference::default();
        for (row, count) in &self.0 {
            let there = found.0.get(row).copied().unwrap_or(0);
            difference.lost += count.saturating_sub(there);
            difference.duplicated += there.saturating_sub(*count);
        }
        difference.different = found.0.iter().filter(|(row, _)| !self.0.contains_key(row)).map(|(_, n)| n).sum();
        difference
    }

    pub(crate) fn show_differences(&self, found: &Self) {
        let missing = self.0.iter().filter(|(row, count)| found.0.get(row).copied().unwrap_or(0) < **count);
        missing.take(10).for_each(|((output, row), _)| println!("lost        {output}: {row}"));
        let more = found.0.iter().filter(|(row, count)| self.0.get(row).is_some_and(|expected| *count > expected));
        more.take(10).for_each(|((output, row), count)| println!("{count} times     {output}: {row}"));
        let other = found.0.keys().filter(|row| !self.0.contains_key(row));
        other.take(10).for_each(|(output, row)| println!("different   {output}: {row}"));
    }
}

/// How the rows of a disturbed run differ from those of an undisturbed one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows of the undisturbed run that are missing.
    pub lost: usize,
    /// Rows that are there more than once.
    pub duplicated: usize,
    /// Rows that the undisturbed run does not have.
    pub different: usize,
}

impl Difference {
    /// Whether exactly the rows of the undisturbed run are there.
    #[must_use]
    pub fn ok(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, duplicated, different } = self;
        write!(f, "{lost} lost, {duplicated} duplicated, {different} different")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_there_twice_or_other_is_counted() {
        let rows = |rows: &[(&str, usize)]| {
            let mut all = Rows::default();
            rows.iter().for_each(|(row, count)| (0..*count).for_each(|_| all.add("out", row)));
            all
        };
        let expected = rows(&[("a", 1), ("b", 2), ("c", 1)]);
        assert!(expected.compare(&expected).ok());
        let difference = expected.compare(&rows(&[("a", 3), ("b", 1), ("d", 1)]));
        assert_eq!(difference.to_string(), "2 lost, 2 duplicated, 1 different");
    }
}
