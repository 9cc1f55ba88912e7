//! [`RawJob`] -> [`Job`]: what the types of [`super::raw`] cannot say. Collects every problem; a part with a problem comes
//! out as `None`, and then so does the job.

use std::{collections::HashMap, num::NonZeroUsize};

use tidemill_queries::{OnError, UserFunction, UserFunctions};

use super::{
    check::Check,
    job::{Input, InputTransport, Job, OnFunctionError, State, StateStore, Time},
    named::Named,
    problem::Path,
    query,
    raw::{RawFunction, RawJavaScript, RawJob},
    read_text, schedule, security, syntax, transport,
};

/// Checks all of it.
pub(super) fn validate(raw: &RawJob, check: &mut Check<'_>) -> Option<Job> {
    let root = Path::default();
    let name = job_name(check, &root, raw);
    let inputs = named(check, &root.key("inputs"), "input", &raw.inputs, |check, path, alias, input| {
        transport::input(check, path, alias, input, raw)
    });
    if let Some(inputs) = &inputs {
        own_offsets(check, &root.key("inputs"), inputs);
    }
    let outputs = named(check, &root.key("outputs"), "output", &raw.outputs, |check, path, alias, output| {
        transport::output(check, path, alias, output, raw)
    });
    let key_vault = security::key_vault(check, &root, raw.key_vault.as_ref());
    let functions = functions(check, &root.key("functions"), raw);
    let dead_letters = transport::dead_letters(check, &root, raw, inputs.as_deref());
    let state = state(check, &root, raw);
    let workers = workers(check, &root, raw);
    if raw.memory.bytes() == 0 {
        check.problem(&root.key("memory"), "expected a size above zero");
    }
    let schedule = schedule::schedule(check, &root, raw, inputs.as_deref(), outputs.as_deref());
    let query = query::query(check, &root, raw);
    Some(Job {
        name: name?,
        inputs: inputs?,
        outputs: outputs?,
        key_vault: key_vault?,
        functions: functions?,
        dead_letters: dead_letters?,
        time: Time::of(raw),
        clock_uncertainty: raw.clock_uncertainty,
        state: state?,
        workers: workers?,
        memory: raw.memory,
        compatibility: raw.compatibility,
        schedule: schedule?,
        query: query?,
    })
}

impl Time {
    /// As the spec has it.
    pub(super) fn of(raw: &RawJob) -> Self {
        Self {
            late_arrival: raw.time.late_arrival,
            out_of_order: raw.time.out_of_order.unwrap_or_default(),
            policy: raw.time.policy,
        }
    }
}

/// A group keeps one position for each partition: two inputs that read the same topic need groups of their own.
fn own_offsets(check: &mut Check<'_>, path: &Path, inputs: &[Input]) {
    let mut readers: HashMap<(&str, &str), &str> = HashMap::new();
    for input in inputs.iter().filter(|input| input.reference.is_none()) {
        let InputTransport::Kafka(kafka) = &input.transport else { continue };
        for topic in &kafka.topics {
            if let Some(other) = readers.insert((&kafka.group, topic), &input.name) {
                let message = format!(
                    "`{other}` reads `{topic}` in group `{}` too; give one of them its own `group`",
                    kafka.group
                );
                check.problem(&path.key(&input.name).key("kafka"), message);
            }
        }
    }
}

fn job_name(check: &mut Check<'_>, root: &Path, raw: &RawJob) -> Option<String> {
    let name = check.required(raw.name.as_ref(), root, "name")?;
    check.holds(&root.key("name"), syntax::job_name(name))?;
    Some(name.clone())
}

/// Each of the inputs or outputs: at least one, with names that differ in more than case.
pub(super) fn named<R, T>(
    check: &mut Check<'_>,
    path: &Path,
    what: &str,
    raw: &Named<R>,
    make: impl Fn(&mut Check<'_>, &Path, &str, &R) -> Option<T>,
) -> Option<Vec<T>> {
    if raw.is_empty() && !check.has_content(path) {
        check.problem(path, format!("at least one {what} is needed"));
    }
    let mut made = Vec::with_capacity(raw.len());
    let mut spellings = HashMap::new();
    for (name, value) in raw.iter() {
        let path = path.key(name);
        if name.is_empty() || name.chars().any(char::is_control) {
            check.problem(&path, format!("expected a name for the {what}"));
        }
        if let Some(other) = spellings.insert(name.to_lowercase(), name) {
            check.problem(&path, format!("`{name}` and `{other}` are the same name in a query"));
        }
        made.push(make(check, &path, name, value));
    }
    made.into_iter().collect()
}

pub(super) fn functions(check: &mut Check<'_>, root: &Path, raw: &RawJob) -> Option<UserFunctions> {
    let made: Vec<_> = raw.functions.iter().map(|(name, f)| function(check, &root.key(name), name, f)).collect();
    made.into_iter().collect::<Option<Vec<_>>>().map(UserFunctions::new)
}

/// Of a text that compiles.
fn function(check: &mut Check<'_>, path: &Path, name: &str, raw: &RawFunction) -> Option<UserFunction> {
    if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
        check.problem(path, "expected a name of letters, digits and `_`");
    }
    let script = check.required(raw.javascript.as_ref(), path, "javascript")?;
    let path = path.key("javascript");
    check.exactly_one(&path, &[("file", script.file.is_some()), ("source", script.source.is_some())]);
    let (file, source) = match script {
        RawJavaScript { file: Some(file), source: None, .. } => {
            let resolved = check.resolve(&path.key("file"), file)?;
            let read = read_text(&resolved).map_err(|error| format!("`{}`: {error}", resolved.display()));
            (file.clone(), check.holds_value(&path.key("file"), read)?)
        }
        RawJavaScript { file: None, source: Some(source), .. } => (format!("{name}.js"), source.clone()),
        _ => return None,
    };
    let on_error = match script.on_error {
        OnFunctionError::DeadLetter => OnError::DeadLetter,
        OnFunctionError::Fail => OnError::Fail,
        OnFunctionError::GiveNull => OnError::GiveNull,
    };
    check.holds_value(&path, UserFunction::javascript(name, &file, &source)).map(|f| f.on_error(on_error))
}

/// Kinds of buckets: Amazon S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.
const STORES: [&str; 5] = ["s3", "gs", "az", "abfss", "https"];

fn state(check: &mut Check<'_>, root: &Path, raw: &RawJob) -> Option<State> {
    let path = root.key("state");
    if raw.state.epoch.is_zero() {
        check.problem(&path.key("epoch"), "expected a duration above zero");
    }
    if raw.state.snapshot.is_zero() {
        check.problem(&path.key("snapshot"), "expected a duration above zero");
    }
    let at = path.key("store");
    let store = match raw.state.store.split_once("://") {
        None => StateStore::Directory(check.resolve(&at, &raw.state.store)?),
        Some((scheme, rest)) => {
            if !STORES.contains(&scheme) || rest.is_empty() {
                let message = format!(
                    "expected a directory or the address of a bucket such as `s3://bucket/folder`; available: {}",
                    STORES.join(", ")
                );
                check.problem(&at, message);
            }
            StateStore::Url(raw.state.store.clone())
        }
    };
    Some(State { store, epoch: raw.state.epoch, snapshot: raw.state.snapshot })
}

/// `Some(None)` is one for each core.
pub(super) fn workers(check: &mut Check<'_>, root: &Path, raw: &RawJob) -> Option<Option<NonZeroUsize>> {
    let Some(workers) = raw.workers else { return Some(None) };
    let valid = usize::try_from(workers).ok().filter(|workers| *workers <= MAX_WORKERS).and_then(NonZeroUsize::new);
    if valid.is_none() {
        check.problem(&root.key("workers"), format!("expected a number from 1 to {MAX_WORKERS}, found {workers}"));
    }
    valid.map(Some)
}

/// More threads than any machine has cores.
const MAX_WORKERS: usize = 1024;
