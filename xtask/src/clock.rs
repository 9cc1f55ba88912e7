//! The machine's clock, for what tests and commands drive by themselves.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use tidemill_engine::{Clock, EventTime, Monotonic};

struct MachineClock(Instant);

/// A clock that begins now.
pub fn machine_clock() -> Arc<dyn Clock> {
    Arc::new(MachineClock(Instant::now()))
}

impl Clock for MachineClock {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.elapsed().as_micros() as i64)
    }

    fn wall(&self) -> EventTime {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is not before 1970");
        EventTime(since.as_micros() as i64)
    }
}
