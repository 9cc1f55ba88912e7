//! One module for each command.

mod completions;
mod dead_letters;
mod demo;
mod doctor;
mod explain;
mod infer;
mod replay;
mod run;
mod schedule;
mod schema;
mod sql;
mod validate;
mod verify;

use anyhow::Context;

use crate::{cli::Command, failure::Failure, terminal};

/// Does what the command line says.
pub(crate) fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Validate(args) => validate::validate(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::DeadLetters(args) => dead_letters::dead_letters(&args),
        Command::Infer(args) => infer::infer(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Verify(args) => verify::verify(&args),
        Command::Sql(args) => sql::sql(&args),
        Command::Schedule(args) => schedule::schedule(&args),
        Command::Schema => schema::schema(),
        Command::Completions { shell } => completions::completions(shell),
        Command::Demo(args) => demo::demo(&args),
    }
}

/// Writes a command's result to stdout.
fn print(data: &[u8]) -> Result<(), Failure> {
    Ok(terminal::print(data).context("cannot write to stdout")?)
}
