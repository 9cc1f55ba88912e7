//! `tidemill`: windowed SQL over Kafka in one binary.
//!
//! Everything that belongs to a process and not to a job is here: the command line ([`cli`], [`commands`]), the clock, the
//! signals, what is logged and shown ([`logging`], [`report`]), and how it ends ([`failure`]). The work is done in
//! `tidemill-jobs`.

mod cli;
mod clock;
mod commands;
mod failure;
mod logging;
mod report;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    failure::hush_panics();
    match commands::execute(cli::Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
