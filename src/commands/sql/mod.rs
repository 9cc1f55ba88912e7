//! `tidemill sql`: one question, or a prompt for many.

mod bounded;
mod output;
mod shell;

use std::{
    fs,
    io::{self, IsTerminal, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, anyhow};
use tidemill_jobs::{
    run::Stats,
    spec,
    sql::{Session, SessionOptions, Source, SqlError, is_continuous},
};

use super::run;
use crate::{
    cli::{LogFormat, RowFormat, SqlArgs},
    clock::MachineClock,
    failure::Failure,
    logging, signals, terminal,
};

pub(super) fn sql(args: &SqlArgs) -> Result<(), Failure> {
    logging::init(LogFormat::Text);
    let source = match &args.context {
        Some(path) => Source::Context(Box::new(spec::load_context(path)?)),
        None => Source::Cluster { brokers: args.kafka.clone(), format: args.input_format.clone() },
    };
    let clock = MachineClock::start();
    let options = SessionOptions { wait: args.wait.get(), clock: MachineClock::start(), approximate: args.approximate };
    let mut session = Session::new(source, options).map_err(|error| failed("", error, true))?;
    let text = match &args.query {
        Some(text) => text.clone(),
        None if io::stdin().is_terminal() => return shell::run(session, args, &clock),
        None => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read the question from stdin")?;
            text
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    signals::set_on_signal(Arc::clone(&stop)).context("cannot wait for signals")?;
    if args.follow || is_continuous(&text) {
        follow(&mut session, args, &text, &stop)
    } else {
        bounded::answer(&mut session, args, &text, &stop)
    }
}

/// Runs a question that goes on as a job.
fn follow(session: &mut Session, args: &SqlArgs, text: &str, stop: &Arc<AtomicBool>) -> Result<(), Failure> {
    let to_terminal = io::stdout().is_terminal();
    let refused = match (&args.output, args.format) {
        (Some(_), _) => Some("`-o` is for bounded questions; a question with windows writes to stdout"),
        (None, Some(RowFormat::Csv | RowFormat::Parquet | RowFormat::Arrow)) => {
            Some("a question that goes on gives a table on a terminal and JSON lines in a pipe")
        }
        (None, Some(RowFormat::Table)) if !to_terminal => Some("a question that goes on gives JSON lines in a pipe"),
        (None, Some(RowFormat::Json)) if to_terminal => Some("a question that goes on gives a table on a terminal"),
        _ if args.stats => Some("`--stats` is for bounded questions"),
        _ if !args.parameters.is_empty() => Some("`--param` is for bounded questions"),
        _ => None,
    };
    if let Some(refused) = refused {
        terminal::say(&format!("error: {refused}"));
        return Err(Failure::InvalidAndShown);
    }
    let directory = std::env::temp_dir().join(format!("tidemill-sql-{}", std::process::id()));
    let job = session.job(text, &directory).map_err(|error| failed(text, error, false))?;
    let options = session.run_options(Arc::clone(stop), Arc::new(Stats::default()));
    let outcome = run::execute(&job, &options, &mut |status| {
        if args.duration.is_some_and(|duration| status.elapsed_us >= duration.micros()) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    // Nothing in it is of use any more, and mostly it was not made.
    let _ = fs::remove_dir_all(&directory);
    outcome
}

/// Says what is wrong, with its place in the question.
fn failed(text: &str, error: SqlError, before_contact: bool) -> Failure {
    if let SqlError::Spec(errors) = error {
        return Failure::Invalid(errors);
    }
    match error.mistakes() {
        Some(mistakes) => {
            terminal::say(mistakes.render(text, "question").trim_end());
            if before_contact || matches!(error, SqlError::Question(_)) {
                Failure::InvalidAndShown
            } else {
                Failure::AtRunTimeAndShown
            }
        }
        None => anyhow!(error).into(),
    }
}
