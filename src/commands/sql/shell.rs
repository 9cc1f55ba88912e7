//! The prompt: questions one after the other, with history, completion, and commands that begin with a backslash.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use rustyline::{
    CompletionType, Config, Context, Editor, Helper, Highlighter, Hinter,
    completion::{Completer, Pair},
    error::ReadlineError,
    history::DefaultHistory,
    validate::{ValidationContext, ValidationResult, Validator},
};
use tidemill_engine::{Clock, Monotonic};
use tidemill_jobs::sql::{ColumnDescription, Session, SqlError, is_continuous};

use super::{bounded, failed, follow, output::Output};
use crate::{
    cli::SqlArgs,
    failure::Failure,
    report::{duration, grouped},
    signals, terminal,
};

const HELP: &str = "\
A question ends with `;` and may have several lines. A name with other characters than letters, digits and _ goes in double quotes.
  \\d          the topics
  \\d TOPIC    the columns of a topic, with values of a sample
  \\refresh    look again at which topics there are, and at their columns
  \\q          leave (also Ctrl-D)
Ctrl-C ends the question that is running, or forgets the line.";

/// Words of the language that are completed.
const KEYWORDS: [&str; 36] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "JOIN",
    "LEFT JOIN",
    "ON",
    "USING",
    "UNION ALL",
    "WITH",
    "AS",
    "AND",
    "OR",
    "NOT",
    "IN",
    "IS NULL",
    "IS NOT NULL",
    "BETWEEN",
    "LIKE",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "DISTINCT",
    "DESC",
    "ASC",
    "OVER",
    "PARTITION BY",
    "INTERVAL",
    "EXPLAIN",
    "VALUES",
];

/// Asks until the user leaves.
pub(super) fn run(mut session: Session, args: &SqlArgs, clock: &Arc<dyn Clock>) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    signals::set_on_each_interrupt(Arc::clone(&stop)).context("cannot wait for signals")?;
    let config = Config::builder().completion_type(CompletionType::List).auto_add_history(false).build();
    let mut editor: Editor<Prompt, DefaultHistory> = Editor::with_config(config).context("cannot use the terminal")?;
    editor.set_helper(Some(Prompt { words: Words::of(&mut session) }));
    let history = history_file();
    if let Some(history) = &history {
        let _ = editor.load_history(history); // there is none before the first time
    }
    terminal::say("tidemill sql: questions end with `;`, \\? helps, \\d lists topics, Ctrl-D leaves");
    loop {
        let line = match editor.readline("sql> ") {
            Ok(line) => line,
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => continue,
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(anyhow::Error::from(error).context("cannot read from the terminal").into()),
        };
        let text = line.trim();
        if text.is_empty() {
            continue;
        }
        let _ = editor.add_history_entry(text); // a question is answered also when it is not remembered
        if let Some(history) = &history {
            let _ = editor.append_history(history);
        }
        stop.store(false, Ordering::Relaxed);
        let begun = clock.monotonic();
        match text.strip_prefix('\\') {
            Some(command) if matches!(command.trim(), "q" | "quit") => break,
            Some(command) => say_failure(obey(&mut session, command.trim())),
            None => say_failure(ask(&mut session, args, text.trim_end_matches(';'), &stop, (clock.as_ref(), begun))),
        }
        if let Some(prompt) = editor.helper_mut() {
            prompt.words = Words::of(&mut session);
        }
    }
    Ok(())
}

/// A failed question ends nothing.
fn say_failure(outcome: Result<(), Failure>) {
    if let Err(failure) = outcome {
        let _ = failure.report(); // of no use here: the prompt goes on
    }
}

fn ask(
    session: &mut Session,
    args: &SqlArgs,
    text: &str,
    stop: &Arc<AtomicBool>,
    (clock, begun): (&dyn Clock, Monotonic),
) -> Result<(), Failure> {
    if args.follow || is_continuous(text) {
        return follow(session, args, text, stop);
    }
    let output = Output::new(args.format, None)?;
    let answer = session.sql(text, &args.parameters).map_err(|error| failed(text, error, false))?;
    bounded::may_read(&answer, args)?;
    let rows = bounded::write(&answer, &output, stop).map_err(|error| failed(text, error, false))?;
    bounded::tell(&answer, args, rows);
    let took = duration(clock.monotonic().0 - begun.0);
    terminal::say(&format!("{} rows in {took}; {} records read", grouped(rows), grouped(answer.progress().records())));
    Ok(())
}

/// A command without its backslash.
fn obey(session: &mut Session, command: &str) -> Result<(), Failure> {
    let failed = |error: SqlError| failed("", error, false);
    let name = |rest: &str| rest.trim().trim_end_matches(';').trim_matches('"').to_owned();
    match command.split_once(char::is_whitespace).unwrap_or((command, "")) {
        ("d" | "dt", "") => {
            let tables = session.tables().map_err(failed)?;
            terminal::print((tables.join("\n") + "\n").as_bytes()).context("cannot write to stdout")?;
        }
        ("d", rest) => match session.describe(&name(rest)).map_err(failed)? {
            Some(columns) => terminal::print(described(&columns).as_bytes()).context("cannot write to stdout")?,
            None => terminal::say(&format!("error: there is no topic `{}`; \\d lists them", name(rest))),
        },
        ("refresh", _) => session.refresh(),
        ("?" | "help" | "h", _) => terminal::say(HELP),
        _ => terminal::say(&format!("error: unknown command `\\{command}`\n{HELP}")),
    }
    Ok(())
}

/// Columns with their types and samples, aligned.
fn described(columns: &[ColumnDescription]) -> String {
    const SHOWN: usize = 60;
    let width = |of: &dyn Fn(&ColumnDescription) -> usize| columns.iter().map(of).max().unwrap_or(0);
    let names = width(&|column| column.name.chars().count());
    let types = width(&|column| column.data_type.chars().count());
    let line = |column: &ColumnDescription| {
        let samples: String = column.samples.join(", ").chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        let line = format!("{:names$}  {:types$}  {samples}", column.name, column.data_type);
        line.trim_end().to_owned() + "\n"
    };
    columns.iter().map(line).collect()
}

/// Beside other state of the user's programs; `None` where there is no home.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let directory = state.join("tidemill");
    fs::create_dir_all(&directory).ok()?;
    Some(directory.join("sql_history"))
}

/// What the line editor asks.
#[derive(Helper, Highlighter, Hinter)]
struct Prompt {
    words: Words,
}

/// What can be completed.
#[derive(Clone, Debug, Default)]
struct Words {
    topics: Vec<String>,
    columns: Vec<String>,
    functions: Vec<String>,
}

impl Words {
    /// A cluster that cannot be reached has no topics; the first question says why.
    fn of(session: &mut Session) -> Self {
        let topics = session.tables().unwrap_or_default();
        let (columns, functions) = session.words();
        Self { topics, columns, functions }
    }

    /// What the word at the end of `line` may become, and where it begins.
    fn candidates(&self, line: &str) -> (usize, Vec<String>) {
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '"');
        let start = line.char_indices().rev().take_while(|(_, c)| is_part(*c)).last().map_or(line.len(), |(at, _)| at);
        let word = line[start..].trim_start_matches('"').to_lowercase();
        let before = line[..start].trim_end().rsplit(|c: char| !c.is_alphanumeric() && c != '\\').next();
        let after_from =
            before.is_some_and(|word| ["from", "join", "\\d"].iter().any(|keyword| keyword.eq_ignore_ascii_case(word)));
        if word.is_empty() && !after_from {
            return (start, vec![]);
        }
        let quoted = |name: &String| {
            let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if plain { name.clone() } else { format!("\"{name}\"") }
        };
        let topics = self.topics.iter().map(quoted);
        let mut all: Vec<String> = match after_from {
            true => topics.collect(),
            false => {
                let functions = self.functions.iter().map(|name| format!("{name}("));
                let keywords = KEYWORDS.iter().map(|keyword| (*keyword).to_owned());
                self.columns.iter().map(quoted).chain(topics).chain(functions).chain(keywords).collect()
            }
        };
        all.retain(|name| name.trim_start_matches('"').to_lowercase().starts_with(&word));
        (start, all)
    }
}

impl Completer for Prompt {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, names) = self.words.candidates(&line[..pos]);
        Ok((start, names.into_iter().map(|name| Pair { display: name.clone(), replacement: name }).collect()))
    }
}

impl Validator for Prompt {
    /// A command is a line; a question ends with a semicolon.
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = context.input().trim();
        Ok(match text.is_empty() || text.starts_with('\\') || text.ends_with(';') {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Words {
            topics: owned(&["clicks", "click-rates"]),
            columns: owned(&["userId", "amount"]),
            functions: owned(&["upper"]),
        }
    }

    #[test]
    fn the_last_word_is_completed() {
        let candidates = |line: &str| words().candidates(line);
        assert_eq!(candidates("SELECT us"), (7, vec!["userId".to_owned(), "USING".to_owned()]));
        assert_eq!(candidates("SELECT UPP"), (7, vec!["upper(".to_owned()]));
        assert_eq!(candidates("SELECT * FROM "), (14, vec!["clicks".to_owned(), "\"click-rates\"".to_owned()]));
        assert_eq!(candidates("SELECT * from \"click-"), (14, vec!["\"click-rates\"".to_owned()]));
        assert_eq!(candidates("\\d cl").1.len(), 2);
        assert_eq!(candidates("SELECT ").1.len(), 0);
    }

    #[test]
    fn columns_are_aligned() {
        let column = |name: &str, data_type: &str, samples: &[&str]| ColumnDescription {
            name: name.to_owned(),
            data_type: data_type.to_owned(),
            samples: samples.iter().map(|s| (*s).to_owned()).collect(),
        };
        let text = described(&[column("n", "int", &["1", "2\u{1b}"]), column("_offset", "int", &[])]);
        assert_eq!(text, "n        int  1, 2\n_offset  int\n");
    }
}
