//! `tidemill sql`: one question, or a prompt for many.

mod bounded;
mod output;
mod shell;

use std::{
    fs,
    io::{self, IsTerminal, Read},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, anyhow};
use tidemill_engine::{EngineError, ErrorKind};
use tidemill_jobs::{
    run::{RowSink, RunOptions, Stats},
    spec,
    sql::{AnswerSink, Session, SessionOptions, Source, SqlError, is_continuous},
};

use super::run;
use crate::{
    cli::{LogFormat, RowFormat, SqlArgs},
    clock::MachineClock,
    failure::Failure,
    logging, signals, terminal,
};
use output::{Output, Unfinished};

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
    let refused = match (&args.output, args.format) {
        (None, Some(RowFormat::Parquet)) => {
            Some("Parquet can be read when it is whole: a question that goes on gives it with `-o FILE`")
        }
        (None, Some(format)) if format != RowFormat::Table && io::stdout().is_terminal() => {
            Some("a question that goes on gives a table on a terminal; other formats are for pipes and `-o FILE`")
        }
        _ if args.stats => Some("`--stats` is for bounded questions"),
        _ => None,
    };
    if let Some(refused) = refused {
        terminal::say(&format!("error: {refused}"));
        return Err(Failure::InvalidAndShown);
    }
    let output = Output::new(args.format, args.output.as_deref()).map_err(|error| {
        terminal::say(&format!("error: {error}"));
        Failure::InvalidAndShown
    })?;
    let directory = std::env::temp_dir().join(format!("tidemill-sql-{}", std::process::id()));
    let job = session.job(text, &args.parameters, &directory).map_err(|error| failed(text, error, false))?;
    let (rows, file) = rows(&output)?;
    let options = RunOptions { rows, ..session.run_options(Arc::clone(stop), Arc::new(Stats::default())) };
    let outcome = run::execute(&job, &options, &mut |status| {
        if args.duration.is_some_and(|duration| status.elapsed_us >= duration.micros()) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    // Nothing in it is of use any more, and mostly it was not made.
    let _ = fs::remove_dir_all(&directory);
    match (outcome, file) {
        (Ok(()), Some(file)) => Ok(file.finish()?),
        (outcome, file) => {
            file.into_iter().for_each(Unfinished::discard);
            outcome
        }
    }
}

/// Where the rows of a question that goes on are written, and the file that is whole when it ends; `None` for stdout as any job has it.
fn rows(output: &Output) -> Result<(Option<RowSink>, Option<Unfinished>), Failure> {
    if output.is_of_jobs() {
        return Ok((None, None));
    }
    let (writer, file) = output.open()?;
    let (format, writer) = (output.format, Mutex::new(Some(writer)));
    let make: RowSink = Arc::new(move |schema| {
        let Some(writer) = writer.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            // Connections are made anew when secrets have changed, or a broker was away.
            let message = "the question would begin again, and give its rows a second time".to_owned();
            return Err(EngineError::Sink { output: "answer".to_owned(), kind: ErrorKind::User, message });
        };
        Ok(Box::new(AnswerSink::new(format, writer, schema)?))
    });
    Ok((Some(make), file))
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
