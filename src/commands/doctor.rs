//! `tidemill doctor JOB`: everything that a job connects to, step by step.

use serde_json::json;
use tidemill_jobs::{
    run::{self, Finding, RunOptions},
    spec,
};

use super::print;
use crate::{
    cli::{DoctorArgs, ReportFormat},
    clock::MachineClock,
    failure::{self, Failure},
};

pub(super) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let job = spec::load(&args.job)?;
    run::check(&job).map_err(|errors| failure::in_file(&job.query, &errors))?;
    let options = RunOptions::of_a_look(args.wait.get(), MachineClock::start());
    let mut printed = Ok(());
    let mut findings = vec![];
    let mut subject = String::new();
    let is_well = run::doctor(&job, &options, &mut |finding| match args.format {
        ReportFormat::Json => findings.push(as_json(&finding)),
        ReportFormat::Text if printed.is_ok() => {
            let heading = if finding.subject == subject { String::new() } else { format!("{}\n", finding.subject) };
            subject.clone_from(&finding.subject);
            printed = print(format!("{heading}{}\n", as_text(&finding)).as_bytes());
        }
        ReportFormat::Text => {}
    });
    printed?;
    if let ReportFormat::Json = args.format {
        print(format!("{}\n", json!({"ok": is_well, "job": job.name, "findings": findings})).as_bytes())?;
    }
    if is_well { Ok(()) } else { Err(Failure::AtRunTimeAndShown) }
}

fn as_text(finding: &Finding) -> String {
    let Finding { step, outcome, took, .. } = finding;
    let (mark, text) = match outcome {
        Ok(text) => ('\u{2713}', text),
        Err(text) => ('\u{2717}', text),
    };
    format!("  {mark} {step} ({} ms): {text}", took.as_millis())
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let Finding { subject, step, outcome, took } = finding;
    let text = outcome.as_ref().unwrap_or_else(|text| text);
    json!({
        "subject": subject,
        "step": step,
        "ok": outcome.is_ok(),
        "text": text,
        "ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    })
}
