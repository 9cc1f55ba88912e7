//! tidemill as a library: a question to a stream of Arrow batches, and a job.
//!
//! `cargo run --example embedding -- CONTEXT.yaml 'SELECT ...'` prints the rows of a bounded question over the inputs of a spec, each batch
//! as it comes. A job runs in the same way as `tidemill run` runs it, by `tidemill_jobs::run::run`.

use std::{
    error::Error,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant, SystemTime},
};

use tidemill_engine::{Clock, EventTime, Monotonic};
use tidemill_jobs::{
    spec,
    sql::{AnswerFormat, AnswerWriter, Session, SessionOptions, Source},
};

/// The libraries ask for no time by themselves, so that they can be simulated: whoever embeds them hands it in.
struct MachineClock(Instant);

#[expect(clippy::disallowed_methods, reason = "this is where time is handed in from")]
impl Clock for MachineClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn wall(&self) -> EventTime {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        EventTime(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where time is handed in from")]
fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(context), Some(question)) = (arguments.next(), arguments.next()) else {
        return Err("expected a file with `inputs`, and a question".into());
    };
    let context = spec::load_context(Path::new(&context))?;
    let clock = Arc::new(MachineClock(Instant::now()));
    let options = SessionOptions { wait: Duration::from_secs(15), clock, approximate: false };
    let mut session = Session::new(Source::Context(Box::new(context)), options)?;

    let answer = session.sql(&question, &[])?;
    for reading in answer.readings() {
        eprintln!("reads about {} bytes of `{}`", reading.bytes, reading.table);
    }
    let rows = answer.rows(Arc::new(AtomicBool::new(false)))?;
    let mut writer = AnswerWriter::new(AnswerFormat::Json, std::io::stdout(), &rows.schema())?;
    for batch in rows {
        writer.write(&batch?)?;
    }
    Ok(writer.finish()?)
}
