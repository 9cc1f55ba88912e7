//! The machine's time, handed to everything that needs it.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use tidemill_engine::{Clock, EventTime, Monotonic};

/// The one clock of the process.
pub(crate) struct MachineClock {
    start: Instant,
}

impl MachineClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time is handed in from")]
    pub(crate) fn start() -> Arc<dyn Clock> {
        Arc::new(Self { start: Instant::now() })
    }
}

impl Clock for MachineClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is where time is handed in from")]
    fn wall(&self) -> EventTime {
        let micros = |t: std::time::Duration| i64::try_from(t.as_micros()).unwrap_or(i64::MAX);
        EventTime(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => -micros(before.duration()),
        })
    }
}
