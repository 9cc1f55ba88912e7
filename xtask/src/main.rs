//! `cargo xtask`: the developer commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// tidemill's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a real Apache Kafka on free ports, print its address, and keep it until this command ends.
    Kafka,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Kafka => xtask::kafka::serve().map(|()| ExitCode::SUCCESS),
    }
}
