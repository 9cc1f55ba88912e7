//! What a spec may say (DESIGN 9) and this version cannot do yet: refused by name, never ignored. All of it is here; when
//! something gets built, its lines go.

use tidemill_certs::SecretRef;

use super::{
    check::Check,
    problem::Path,
    raw::{Delivery, Mechanism, Protocol, RawFormat, RawInput, RawJob, RawKafkaOutput, RawOutput, RawSecurity},
};

/// Reports each thing that is not built.
pub(super) fn refuse(job: &RawJob, check: &mut Check<'_>) {
    let root = Path::default();
    for (name, input) in job.inputs.iter() {
        refuse_input(input, &root.key("inputs").key(name), check);
    }
    for (name, output) in job.outputs.iter() {
        refuse_output(output, &root.key("outputs").key(name), check);
    }
    let mut fields = vec![
        (job.key_vault.is_some(), root.key("key_vault"), "`key_vault`", "secrets come from `env` and `file`"),
        (job.schedule.is_some(), root.key("schedule"), "`schedule`", "start the job with `tidemill run`"),
        (
            job.range.is_some(),
            root.key("range"),
            "`range`",
            "`start` and `tidemill run --bounded` read a finished topic",
        ),
    ];
    let state = root.key("state");
    fields.push((
        job.state.snapshot.is_some(),
        state.key("snapshot"),
        "`snapshot`",
        "a restart reads again from the oldest open window",
    ));
    fields.push((job.state.store.contains("://"), state.key("store"), "an object store", "give a directory"));
    if let Some(dead_letters) = &job.dead_letters {
        let kafka = root.key("dead_letters").key("kafka");
        fields.push((dead_letters.kafka.is_some(), kafka.clone(), "`kafka` for dead letters", "write to a `file`"));
        if let Some(output) = &dead_letters.kafka {
            refuse_kafka_output(output, &kafka, check);
        }
    }
    for (given, path, what, instead) in fields {
        if given {
            refuse_one(check, &path, what, instead);
        }
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
    let available = if input.file.is_some() { "json, csv" } else { "json" };
    refuse_format(input.format.as_ref(), available, path, check);
}

fn refuse_output(output: &RawOutput, path: &Path, check: &mut Check<'_>) {
    if let Some(kafka) = &output.kafka {
        refuse_kafka_output(kafka, &path.key("kafka"), check);
    }
    let available = match output {
        RawOutput { file: Some(_), .. } => "json, csv, parquet",
        RawOutput { kafka: Some(_), .. } => "json",
        _ => return,
    };
    refuse_format(output.format.as_ref(), available, path, check);
}

fn refuse_kafka_output(output: &RawKafkaOutput, path: &Path, check: &mut Check<'_>) {
    if output.delivery == Delivery::ExactlyOnce {
        refuse_one(check, &path.key("delivery"), "`exactly_once`", "available: at_least_once");
    }
    refuse_security(output.security.as_ref(), path, check);
}

fn refuse_format(format: Option<&RawFormat>, available: &str, path: &Path, check: &mut Check<'_>) {
    let Some(format) = format else { return };
    let name = format.name();
    if !available.split(", ").any(|built| built == name) {
        refuse_one(check, &path.key("format"), &format!("`{name}`"), &format!("available here: {available}"));
    }
}

/// Each field by itself, so that a spec for a later version is read to its end.
fn refuse_security(security: Option<&RawSecurity>, path: &Path, check: &mut Check<'_>) {
    let Some(security) = security else { return };
    let path = path.key("security");
    let protocol = match security.protocol {
        Protocol::None => None,
        Protocol::SaslPlaintext => Some("`sasl_plaintext`"),
        Protocol::SaslSsl => Some("`sasl_ssl`"),
        Protocol::Mtls => Some("`mtls`"),
    };
    if let Some(protocol) = protocol {
        refuse_one(check, &path.key("protocol"), protocol, "available: none");
    }
    if let Some(Mechanism::Gssapi) = security.mechanism {
        refuse_one(check, &path.key("mechanism"), "`GSSAPI`", "available: none");
    }
    let secrets = [
        ("password", &security.password),
        ("ca", &security.ca),
        ("certificate", &security.certificate),
        ("key", &security.key),
        ("key_password", &security.key_password),
    ];
    let mut fields = vec![("mechanism", security.mechanism.is_some()), ("username", security.username.is_some())];
    for (field, secret) in secrets {
        fields.push((field, secret.is_some()));
        if let Some(SecretRef::KeyVault(_)) = secret {
            refuse_one(check, &path.key(field), "`key_vault`", "available: env, file");
        }
    }
    if protocol.is_none() {
        for (field, _) in fields.into_iter().filter(|(_, given)| *given) {
            check.problem(&path.key(field), format!("`{field}` has no effect without a security `protocol`"));
        }
    }
}
