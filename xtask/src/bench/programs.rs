//! The programs that are measured: built, found, run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Options;
use super::process::{self, Usage};
use crate::kafka::Broker;
use crate::repository::cargo;

/// What a question took.
pub(super) struct Asked {
    pub(super) usage: Usage,
    pub(super) records: u64,
    /// What brokers sent, whoever wanted it.
    pub(super) fetched_bytes: u64,
}

/// Where the programs are, by name.
pub(super) struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// Builds the programs of these names, in release unless the options say debug. Of the whole workspace: it decides on the
    /// features, and so what is built already.
    pub(super) fn build(options: &Options, names: &[&str]) -> Result<Self> {
        eprintln!("building {} ...", names.join(", "));
        let mut cargo = cargo(&["build", "--quiet", "--workspace", "--message-format=json-render-diagnostics"]);
        if !options.debug {
            cargo.arg("--release");
        }
        let output = cargo.args(names.iter().flat_map(|name| ["--bin", name])).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "not all programs build");
        let messages = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
        let programs = messages.filter_map(|message| {
            let path = PathBuf::from(message.ok()?.get("executable")?.as_str()?);
            Some((path.file_name()?.to_str()?.to_owned(), path))
        });
        Ok(Self(programs.collect()))
    }

    pub(super) fn path(&self, name: &str) -> Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("no program `{name}` was built"))
    }

    /// One run of a consumer over a topic, which must have seen every event.
    pub(super) fn consume(&self, name: &str, kafka: &Broker, topic: &str, events: u64) -> Result<Usage> {
        self.decode(name, kafka, topic, &[], events)
    }

    /// The same by a consumer that decodes `columns`, each `NAME:TYPE`.
    pub(super) fn decode(
        &self,
        name: &str,
        kafka: &Broker,
        topic: &str,
        columns: &[&str],
        events: u64,
    ) -> Result<Usage> {
        let run = process::measure(Command::new(self.path(name)?).args([kafka.bootstrap(), topic]).args(columns))?;
        let seen: u64 = run.stdout.trim().parse().with_context(|| format!("`{name}` prints a number"))?;
        ensure!(seen == events, "`{name}` saw {seen} of {events} events");
        Ok(run.usage)
    }

    /// A question to the inputs of a spec.
    pub(super) fn ask(&self, spec: &Path, question: &str) -> Result<Asked> {
        let mut tidemill = Command::new(self.path("tidemill")?);
        let run = process::measure(tidemill.args(["sql", "--stats", "--context"]).arg(spec).arg(question))?;
        let stats: Option<Value> = run.stderr.lines().find_map(|line| serde_json::from_str(line).ok());
        let stats = stats.with_context(|| format!("`tidemill sql --stats` tells none:\n{}", run.stderr))?;
        let figure = |name: &str| stats[name].as_u64().with_context(|| format!("no `{name}` in {stats}"));
        Ok(Asked { usage: run.usage, records: figure("records")?, fetched_bytes: figure("fetched_bytes")? })
    }

    /// One bounded run of a job, which must have read every event.
    pub(super) fn bounded(&self, spec: &Path, workers: u32, events: u64) -> Result<Usage> {
        let mut tidemill = Command::new(self.path("tidemill")?);
        let run =
            process::measure(tidemill.arg("run").arg(spec).args(["--bounded", "--workers", &workers.to_string()]))?;
        let read_all = run.stderr.contains(&format!(" records={events} "));
        ensure!(read_all, "`tidemill run` does not say that it read {events} records:\n{}", run.stderr);
        Ok(run.usage)
    }
}
