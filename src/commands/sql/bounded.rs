//! A bounded question: planned, asked about when it is dear, read with its progress shown, written.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, sync_channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use serde_json::json;
use tidemill_engine::EngineError;
use tidemill_jobs::sql::{Answer, AnswerError, Progress, Session, SqlError};

use super::{
    failed,
    output::{Output, Unfinished, Writer},
};
use crate::{
    cli::SqlArgs,
    failure::Failure,
    report::{grouped, size},
    terminal,
};

/// How often the status line is drawn, and how long a question may take before one is.
const DRAW_EVERY: Duration = Duration::from_millis(200);
const DRAW_AFTER: u32 = 5;

/// Answers one question.
pub(super) fn answer(session: &mut Session, args: &SqlArgs, text: &str, stop: &Arc<AtomicBool>) -> Result<(), Failure> {
    if args.duration.is_some() {
        terminal::say("error: `--for` is for questions that go on: with windows, or with `--follow`");
        return Err(Failure::InvalidAndShown);
    }
    let output = Output::new(args.format, args.output.as_deref()).map_err(|error| {
        terminal::say(&format!("error: {error}"));
        Failure::InvalidAndShown
    })?;
    session.check(text, &args.parameters).map_err(|error| failed(text, error, true))?;
    let answer = session.sql(text, &args.parameters).map_err(|error| failed(text, error, false))?;
    may_read(&answer, args)?;
    let rows = write(&answer, &output, stop).map_err(|error| failed(text, error, false))?;
    tell(&answer, args, rows);
    Ok(())
}

/// Asks before much is read.
pub(super) fn may_read(answer: &Answer, args: &SqlArgs) -> Result<(), Failure> {
    let bytes = answer.readings().iter().map(|reading| reading.bytes).fold(0, u64::saturating_add);
    if bytes <= args.max_bytes.bytes() {
        return Ok(());
    }
    let dear = format!("the question reads about {}, more than `--max-bytes {}`", size(bytes as f64), args.max_bytes);
    if !io::stdin().is_terminal() || !terminal::is_watched() {
        return Err(anyhow!(
            "{dear}; EXPLAIN shows what it reads; conditions on `_timestamp`, `_partition` and `_offset` narrow it"
        )
        .into());
    }
    let _ = write!(io::stderr(), "{dear}. Go on? [y/N] ");
    let mut said = String::new();
    io::stdin().read_line(&mut said).context("cannot read from the terminal")?;
    match said.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::AtRunTimeAndShown),
    }
}

/// Writes the rows and says how many they were.
pub(super) fn write(answer: &Answer, output: &Output, stop: &Arc<AtomicBool>) -> Result<u64, SqlError> {
    let (sink, file) = output.open().map_err(output_failed)?;
    let first_row = Arc::new(AtomicBool::new(false));
    let drawn =
        terminal::is_watched().then(|| Drawn::begin(answer, output.is_watched().then(|| Arc::clone(&first_row))));
    let written = write_rows(answer, output, sink, stop, &first_row);
    drop(drawn);
    match (written, file) {
        (Ok(rows), file) => {
            file.map_or(Ok(()), Unfinished::finish).map_err(output_failed)?;
            Ok(rows)
        }
        // Whoever read our rows has seen enough.
        (Err(SqlError::Engine(EngineError::ReaderGone { .. })), _) => Ok(0),
        (Err(error), file) => {
            if let Some(file) = file {
                file.discard();
            }
            Err(error)
        }
    }
}

fn write_rows(
    answer: &Answer,
    output: &Output,
    sink: Box<dyn Write + Send>,
    stop: &Arc<AtomicBool>,
    first_row: &AtomicBool,
) -> Result<u64, SqlError> {
    let rows = answer.rows(Arc::clone(stop))?;
    let mut writer = Writer::new(output.format, sink, &rows.schema())?;
    let mut count = 0;
    for batch in rows {
        let batch = batch?;
        if !first_row.swap(true, Ordering::Relaxed) && output.is_watched() && terminal::is_watched() {
            terminal::draw_status("");
        }
        count += batch.num_rows() as u64;
        writer.write(&batch)?;
    }
    writer.finish()?;
    Ok(count)
}

fn output_failed(error: anyhow::Error) -> SqlError {
    SqlError::Answer(AnswerError::Machine { message: format!("{error:#}") })
}

/// What is to be known beside the rows.
pub(super) fn tell(answer: &Answer, args: &SqlArgs, rows: u64) {
    let progress = answer.progress();
    let (bad, first) = progress.bad();
    if let Some(first) = first {
        terminal::say(&format!("{} records could not be decoded and are no rows; the first: {first}", grouped(bad)));
    }
    if args.approximate && !answer.is_explain() {
        terminal::say("approximate: COUNT(*) counts offsets, markers of transactions and compacted records among them");
    }
    if args.stats {
        let (records, bytes) = (progress.records(), progress.bytes());
        let stats = json!({
            "rows": rows, "records": records, "payload_bytes": bytes, "fetched_bytes": answer.fetched_bytes(), "bad": bad,
        });
        terminal::say(&stats.to_string());
    } else if terminal::is_watched() && args.output.is_some() {
        terminal::say(&format!("{} rows, {} records read", grouped(rows), grouped(progress.records())));
    }
}

/// A status line that is drawn while a question is read.
struct Drawn {
    over: Option<std::sync::mpsc::SyncSender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drawn {
    /// Not beyond `until`, if it is given.
    fn begin(answer: &Answer, until: Option<Arc<AtomicBool>>) -> Self {
        let progress = Arc::clone(answer.progress());
        let total: u64 = answer.readings().iter().filter_map(|reading| reading.records).sum();
        let (over, is_over) = sync_channel(0);
        let thread = thread::spawn(move || {
            let mut ticks = 0;
            while is_over.recv_timeout(DRAW_EVERY) == Err(RecvTimeoutError::Timeout) {
                if until.as_ref().is_some_and(|until| until.load(Ordering::Relaxed)) {
                    return;
                }
                ticks += 1;
                if ticks >= DRAW_AFTER {
                    terminal::draw_status(&line(&progress, total, DRAW_EVERY * ticks));
                }
            }
            if ticks >= DRAW_AFTER {
                terminal::draw_status("");
            }
        });
        Self { over: Some(over), thread: Some(thread) }
    }
}

impl Drop for Drawn {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it only draws
        }
    }
}

/// `[=====>    ] 52%  1,234,567 records  123 MB  8 s left`.
fn line(progress: &Progress, total: u64, passed: Duration) -> String {
    const WIDTH: usize = 24;
    let done = progress.offsets().min(total) as f64 / total.max(1) as f64;
    let full = (done * WIDTH as f64) as usize;
    let mut line = format!(
        "[{}{}] {:.0}%  {} records  {}",
        "=".repeat(full),
        " ".repeat(WIDTH - full),
        100.0 * done,
        grouped(progress.records()),
        size(progress.bytes() as f64)
    );
    if done > 0.0 {
        line += &format!("  {:.0} s left", passed.as_secs_f64() * (1.0 - done) / done);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_of_one_width() {
        let line = line(&Progress::default(), 0, Duration::from_secs(3));
        assert_eq!(line, format!("[{}] 0%  0 records  0 B", " ".repeat(24)));
    }
}
