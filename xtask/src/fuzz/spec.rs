//! The job spec: any text gives a job or a list of mistakes, each with its place in the text.

use std::path::Path;

use tidemill_jobs::spec;

use super::Target;

pub(crate) struct Spec;

impl Target for Spec {
    fn name(&self) -> &'static str {
        "spec"
    }

    fn tokens(&self) -> &'static [&'static str] {
        &[
            "inputs:",
            "outputs:",
            "kafka:",
            "file:",
            "stdout: {}",
            "discard: {}",
            "format: json",
            "schema:",
            "query: |",
            "start:",
            "{time: 2026-01-01T00:00:00Z}",
            "{offsets: {0: 1}}",
            "topics: [a, b]",
            "- ",
            ": ",
            "{",
            "}",
            "[",
            "]",
            "\n  ",
            "\n",
            "&a ",
            "*a",
            "!!str ",
            "|",
            ">",
            "\"",
            "'",
            "#",
            "64MiB",
            "10s",
            "-1",
            "1e99",
            "null",
            "\u{feff}",
            "\t",
        ]
    }

    fn check(&mut self, input: &[u8]) -> Result<(), String> {
        let Ok(text) = std::str::from_utf8(input) else { return Ok(()) };
        // A directory that is not there: no text may make it read a file of this machine.
        match spec::parse(text, Path::new("no-such-directory"), "job.yaml") {
            Ok(job) if job.inputs.is_empty() || job.outputs.is_empty() => {
                Err("a job without inputs or outputs".to_owned())
            }
            Ok(job) => tidemill_jobs::run::check(&job).map(drop).or(Ok(())),
            Err(errors) if errors.to_string().is_empty() => Err("refused without a mistake".to_owned()),
            Err(_) => Ok(()),
        }
    }
}
