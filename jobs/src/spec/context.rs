//! What questions are asked of: the inputs of a spec, without a query of its own.

use std::{num::NonZeroUsize, path::PathBuf};

use tidemill_certs::KeyVaultSettings;
use tidemill_queries::{Script, UserFunctions};

use super::{
    check::Check,
    format::OutputFormat,
    job::{
        Compatibility, Input, Job, OnBadRecord, OnOutputError, Output, OutputTransport, Query, State, StateStore, Time,
    },
    problem::{Path, Position},
    raw::RawJob,
    security, transport,
    units::{ByteSize, Duration},
    validate::{functions, named, workers},
};

/// The name of the jobs that continuous questions are, where the spec has none.
const NAME: &str = "tidemill-sql";

/// Inputs, and what they need.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Context {
    /// The inputs in the order of the spec; at least one.
    pub inputs: Vec<Input>,
    /// Where `{key_vault: NAME}` references lead.
    pub key_vault: Option<KeyVaultSettings>,
    /// The functions that continuous questions can call beside those of the language.
    pub functions: UserFunctions,
    /// The policies for `TIMESTAMP BY`.
    pub time: Time,
    /// How far the wall clock may be off where no record told the broker's time.
    pub clock_uncertainty: Duration,
    /// Threads; `None`: one for each core.
    pub workers: Option<NonZeroUsize>,
    /// The budget for queues, decode buffers and state.
    pub memory: ByteSize,
}

/// Checks the inputs and what they need; the rest of the spec may be there.
pub(super) fn context(raw: &mut RawJob, check: &mut Check<'_>) -> Option<Context> {
    let root = Path::default();
    raw.name.get_or_insert_with(|| NAME.to_owned());
    let raw = &*raw;
    let inputs = named(check, &root.key("inputs"), "input", &raw.inputs, |check, path, alias, input| {
        transport::input(check, path, alias, input, raw)
    });
    let key_vault = security::key_vault(check, &root, raw.key_vault.as_ref());
    let functions = functions(check, &root.key("functions"), raw);
    let workers = workers(check, &root, raw);
    if raw.memory.bytes() == 0 {
        check.problem(&root.key("memory"), "expected a size above zero");
    }
    Some(Context {
        inputs: inputs?,
        key_vault: key_vault?,
        functions: functions?,
        time: Time::of(raw),
        clock_uncertainty: raw.clock_uncertainty,
        workers: workers?,
        memory: raw.memory,
    })
}

impl Context {
    /// The job of a continuous question, which was read from `question`: its rows go to the terminal. It reads every input from `start`, keeps nothing, and drops what cannot
    /// be decoded; whatever it must write lies below `directory`.
    #[must_use]
    pub fn job(&self, question: &str, script: Script, directory: PathBuf) -> Job {
        let lines = (1..=question.lines().count()).map(|line| Position { line, column: 1 });
        let mut inputs = self.inputs.clone();
        for input in &mut inputs {
            if input.on_bad_record == OnBadRecord::DeadLetter {
                input.on_bad_record = OnBadRecord::Drop;
            }
        }
        let output = Output {
            name: "output".to_owned(),
            transport: OutputTransport::Stdout,
            format: OutputFormat::Json,
            compression: None,
            on_output_error: OnOutputError::Stop,
        };
        let text = question.to_owned();
        let start = Position { line: 1, column: 1 };
        Job {
            name: NAME.to_owned(),
            inputs,
            outputs: vec![output],
            key_vault: self.key_vault.clone(),
            functions: self.functions.clone(),
            dead_letters: transport::dead_letters_in(directory.join("dead-letters")),
            time: self.time,
            clock_uncertainty: self.clock_uncertainty,
            state: State {
                store: StateStore::Directory(directory),
                epoch: Duration::from_secs(1),
                snapshot: Duration::from_secs(60),
            },
            workers: self.workers,
            memory: self.memory,
            compatibility: Compatibility::default(),
            schedule: None,
            query: Query { text, script, file: "question".to_owned(), start, lines: lines.collect() },
        }
    }
}
