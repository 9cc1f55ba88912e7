//! `tidemill explain JOB`: the plan of a job, in words or as JSON; with `--why-not-closed`, what keeps its windows open.

mod watermarks;

use std::fmt::Write;

use serde_json::{Value, json};
use tidemill_engine::dataflow::describe::StepDescription;
use tidemill_jobs::{
    run::{self, Columns, Explanation, InputExplanation, RunError},
    spec::{self, Job, OutputTransport},
};

use super::print;
use crate::{
    cli::{ExplainArgs, ReportFormat},
    failure::{self, Failure},
};

pub(super) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let job = spec::load(&args.job)?;
    let explanation = run::explain(&job).map_err(|error| match error {
        RunError::Query { query, errors } => failure::in_file(&query, &errors).into(),
        other => Failure::AtRunTime(other.into()),
    })?;
    if let Some(address) = &args.why_not_closed {
        let held = watermarks::read(address)?;
        return print(
            match args.format {
                ReportFormat::Text => held.as_text(&explanation),
                ReportFormat::Json => format!("{}\n", held.as_json()),
            }
            .as_bytes(),
        );
    }
    print(
        match args.format {
            ReportFormat::Text => as_text(&job, &explanation),
            ReportFormat::Json => format!("{}\n", as_json(&job, &explanation)),
        }
        .as_bytes(),
    )
}

fn as_text(job: &Job, explanation: &Explanation) -> String {
    let mut text = format!("{}\n\ninputs\n", job.name);
    for input in &explanation.inputs {
        text += &input_as_text(input);
    }
    text += "\nsteps\n";
    match &explanation.steps {
        Some(steps) => steps.iter().for_each(|step| text += &step_as_text(step)),
        None => {
            let unknown = explanation.inputs.iter().filter(|i| i.known.is_empty()).map(|i| i.name.as_str());
            let unknown = unknown.collect::<Vec<_>>().join(", ");
            let _ = writeln!(
                text,
                "  are planned when the columns of {unknown} are known: declare `schema`, or run the job once"
            );
        }
    }
    text += "\noutputs\n";
    for output in &job.outputs {
        let _ = writeln!(text, "  {}: {}", output.name, delivery(&output.transport));
    }
    let _ = writeln!(text, "\nparallelism\n  {}\n\nrestart\n  {}", explanation.parallelism, explanation.restart);
    text
}

fn input_as_text(input: &InputExplanation) -> String {
    let reference = if input.reference { ", reference data" } else { "" };
    let mut text = format!("  {}{reference}\n", input.name);
    let _ = writeln!(text, "    columns {}: {}", input.origin.as_str(), columns(&input.known));
    let metadata = input.metadata.iter().map(|name| (*name).to_owned());
    let decoded: Vec<_> = input.decoded.iter().map(|(name, _)| name.clone()).chain(metadata).collect();
    let decoded = if decoded.is_empty() { "none".to_owned() } else { decoded.join(", ") };
    let _ = writeln!(text, "    decoded: {decoded}");
    if let Some(fetch) = &input.fetch {
        let _ = writeln!(text, "    fetched by {fetch}");
    }
    text
}

fn columns(columns: &Columns) -> String {
    match columns.as_slice() {
        [] => "not known".to_owned(),
        known => known.iter().map(|(name, of)| format!("{name} {of}")).collect::<Vec<_>>().join(", "),
    }
}

fn step_as_text(step: &StepDescription) -> String {
    let from: Vec<_> = step.inputs.iter().map(ToString::to_string).collect();
    let from = if from.is_empty() { String::new() } else { format!(" <- {}", from.join(", ")) };
    let mut text = format!("  {}{from} {}: {}\n", step.id, step.kind, step.what);
    if !step.keys.is_empty() {
        let _ = writeln!(text, "      by {}", step.keys.join(", "));
    }
    if let Some(state) = &step.state {
        let _ = writeln!(text, "      keeps {}, until {}", state.holds, state.until);
    }
    let _ = writeln!(text, "      {}; columns {}", step.runs.as_str(), step.columns.join(", "));
    text
}

fn delivery(transport: &OutputTransport) -> &'static str {
    match transport {
        OutputTransport::Kafka(kafka) if kafka.delivery == spec::Delivery::ExactlyOnce => {
            "exactly once, in transactions"
        }
        OutputTransport::File(_) => "exactly once, published by epochs",
        OutputTransport::Kafka(_) | OutputTransport::Stdout => "at least once",
        OutputTransport::Discard => "counted only",
    }
}

fn as_json(job: &Job, explanation: &Explanation) -> Value {
    let named =
        |columns: &Columns| -> Value { columns.iter().map(|(name, of)| json!({"name": name, "type": of})).collect() };
    let input = |input: &InputExplanation| {
        json!({
            "name": input.name,
            "reference": input.reference,
            "columns_are": input.origin.as_str(),
            "columns": named(&input.known),
            "decoded": input.decoded.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            "metadata": input.metadata,
            "fetched_by": input.fetch,
        })
    };
    let step = |step: &StepDescription| {
        json!({
            "id": step.id,
            "inputs": step.inputs,
            "kind": step.kind,
            "what": step.what,
            "keys": step.keys,
            "runs_in": step.runs.as_str(),
            "columns": step.columns,
            "state": step.state.as_ref().map(|state| json!({"keeps": state.holds, "until": state.until})),
        })
    };
    let outputs = job.outputs.iter().map(|o| json!({"name": o.name, "delivery": delivery(&o.transport)}));
    json!({
        "job": job.name,
        "inputs": explanation.inputs.iter().map(input).collect::<Vec<_>>(),
        "steps": explanation.steps.as_ref().map(|steps| steps.iter().map(step).collect::<Vec<_>>()),
        "outputs": outputs.collect::<Vec<_>>(),
        "parallelism": explanation.parallelism,
        "restart": explanation.restart,
    })
}
