//! What a spec may say (DESIGN 9) and this version cannot do yet: refused by name, never ignored. All of it is here; when
//! something gets built, its lines go.

use tidemill_connectors::kafka::HAS_GSSAPI;

use super::{
    check::Check,
    problem::Path,
    raw::{Mechanism, RawInput, RawJob, RawKafkaOutput, RawOutput, RawSecurity},
};

/// Reports each thing that is not built.
pub(super) fn refuse(job: &RawJob, check: &mut Check<'_>) {
    let root = Path::default();
    refuse_inputs(job, check);
    for (name, output) in job.outputs.iter() {
        refuse_output(output, &root.key("outputs").key(name), check);
    }
    if let Some(output) = job.dead_letters.as_ref().and_then(|dead_letters| dead_letters.kafka.as_ref()) {
        refuse_kafka_output(output, &root.key("dead_letters").key("kafka"), check);
    }
}

/// The same of the inputs alone.
pub(super) fn refuse_inputs(job: &RawJob, check: &mut Check<'_>) {
    for (name, input) in job.inputs.iter() {
        refuse_input(input, &Path::default().key("inputs").key(name), check);
    }
}

fn refuse_one(check: &mut Check<'_>, path: &Path, what: &str, instead: &str) {
    check.problem(path, format!("{what} is not built yet; {instead}"));
}

fn refuse_input(input: &RawInput, path: &Path, check: &mut Check<'_>) {
    if let Some(kafka) = &input.kafka {
        let path = path.key("kafka");
        refuse_security(kafka.security.as_ref(), &path, check);
    }
}

fn refuse_output(output: &RawOutput, path: &Path, check: &mut Check<'_>) {
    if let Some(kafka) = &output.kafka {
        refuse_kafka_output(kafka, &path.key("kafka"), check);
    }
}

fn refuse_kafka_output(output: &RawKafkaOutput, path: &Path, check: &mut Check<'_>) {
    refuse_security(output.security.as_ref(), path, check);
}

fn refuse_security(security: Option<&RawSecurity>, path: &Path, check: &mut Check<'_>) {
    if let Some(Mechanism::Gssapi) = security.and_then(|security| security.mechanism)
        && !HAS_GSSAPI
    {
        let path = path.key("security").key("mechanism");
        check.problem(&path, "this build lacks GSSAPI (Kerberos); rebuild with `cargo build --features gssapi`");
    }
}
