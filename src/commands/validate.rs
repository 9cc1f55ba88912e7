//! `tidemill validate JOB`: all mistakes that can be seen without a connection.

use serde_json::{Value, json};
use tidemill_jobs::{
    run,
    spec::{self, Input, InputTransport, Job, Output, OutputTransport, SpecErrors},
};

use super::print;
use crate::{
    cli::{ReportFormat, ValidateArgs},
    failure::{self, Failure},
};

pub(super) fn validate(args: &ValidateArgs) -> Result<(), Failure> {
    let checked = spec::load(&args.job).and_then(|job| match run::check(&job) {
        Ok(plan) => Ok((job, plan.is_some())),
        Err(errors) => Err(failure::in_file(&job.query, &errors)),
    });
    match (args.format, checked) {
        (ReportFormat::Text, Ok((job, planned))) => print(summary(&job, planned).as_bytes()),
        (ReportFormat::Text, Err(errors)) => Err(errors.into()),
        (ReportFormat::Json, Ok((job, planned))) => {
            print_json(&json!({"ok": true, "job": job.name, "columns_checked": planned}))
        }
        (ReportFormat::Json, Err(errors)) => {
            print_json(&problems(&errors))?;
            Err(Failure::InvalidAndShown)
        }
    }
}

fn print_json(value: &Value) -> Result<(), Failure> {
    print(format!("{value}\n").as_bytes())
}

fn problems(errors: &SpecErrors) -> Value {
    let problem = |problem: &spec::Problem| {
        json!({
            "file": problem.file,
            "line": problem.position.map(|position| position.line),
            "column": problem.position.map(|position| position.column),
            "path": problem.path,
            "message": problem.message,
        })
    };
    json!({"ok": false, "problems": errors.problems.iter().map(problem).collect::<Vec<_>>()})
}

fn summary(job: &Job, planned: bool) -> String {
    let mut text = format!("ok: {}\n", job.name);
    for Input { name, transport, .. } in &job.inputs {
        let from = match transport {
            InputTransport::Kafka(kafka) => format!("topic {} at {}", kafka.topics.join(", "), kafka.brokers.join(",")),
            InputTransport::File(file) => file.path.display().to_string(),
        };
        text += &format!("  reads {name}: {from}\n");
    }
    for Output { name, transport, .. } in &job.outputs {
        let to = match transport {
            OutputTransport::Kafka(kafka) => format!("topic {} at {}", kafka.topic, kafka.brokers.join(",")),
            OutputTransport::File(file) => file.path.display().to_string(),
            OutputTransport::Stdout => "stdout".to_owned(),
            OutputTransport::Discard => "nothing, counted only".to_owned(),
        };
        text += &format!("  writes {name}: {to}\n");
    }
    if !planned {
        let inferred = job.inputs.iter().filter(|input| input.schema.is_none()).map(|input| input.name.as_str());
        let inferred: Vec<_> = inferred.collect();
        text += &format!("  columns are checked at the start: no `schema` of {}\n", inferred.join(", "));
    }
    text
}
