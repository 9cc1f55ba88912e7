//! `cargo xtask`: the developer commands.
#![allow(clippy::print_stdout, reason = "a developer command")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::{bench, conformance, kafka, test};

/// tidemill's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run everything that must hold before a change lands; what `./x test` ends in.
    Test,
    /// Run worked examples of the SQL dialects. Exits 1 when one fails, 2 when a file cannot be read.
    Conformance {
        /// JSON arrays of cases.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Measure what jobs cost on a real Kafka, against a consumer that decodes nothing. Needs some 3 GB of disk.
    Bench(bench::Options),
    /// Start a real Apache Kafka on free ports, print its address, and keep it until this command ends.
    Kafka,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether all that was asked for holds.
///
/// # Errors
/// When it could not be found out.
fn run(command: Command) -> Result<bool> {
    match command {
        Command::Test => Ok(test::run()?.ok()),
        Command::Conformance { files } => {
            let counts = conformance::run_files(&files)?;
            println!("{} passed, {} failed", counts.passed, counts.failed);
            Ok(counts.failed == 0)
        }
        Command::Bench(options) => bench::run(&options),
        Command::Kafka => kafka::serve().map(|()| true),
    }
}
