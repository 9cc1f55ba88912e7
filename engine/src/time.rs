//! Instants: event time (what records say) and monotonic time (what our clock says), as types that cannot be swapped.

use std::fmt;

/// An instant of event time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTime(pub i64);

impl EventTime {
    /// Before every record.
    pub const MIN: EventTime = EventTime(i64::MIN);
    /// After every record: the watermark at the end of an input.
    pub const MAX: EventTime = EventTime(i64::MAX);

    /// From Kafka's milliseconds since the epoch; saturates.
    #[must_use]
    pub fn from_millis(ms: i64) -> Self {
        EventTime(ms.saturating_mul(1_000))
    }

    /// Earlier by `micros`; `MIN` and `MAX` stay what they are.
    #[must_use]
    pub fn minus_micros(self, micros: i64) -> Self {
        if self == Self::MIN || self == Self::MAX { self } else { EventTime(self.0.saturating_sub(micros)) }
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MIN => f.write_str("-inf"),
            Self::MAX => f.write_str("+inf"),
            EventTime(us) => match arrow::temporal_conversions::timestamp_us_to_datetime(us) {
                Some(t) => write!(f, "{}Z", t.format("%Y-%m-%dT%H:%M:%S%.6f")),
                None => write!(f, "{us}us"),
            },
        }
    }
}

/// An instant of our own monotonic clock, in microseconds since an arbitrary start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub i64);

/// Where the engine gets the time from; the simulator hands in its own.
pub trait Clock: Send + Sync {
    /// Never goes back.
    fn monotonic(&self) -> Monotonic;
    /// The machine's wall clock; may be wrong by `clock_uncertainty`, may step.
    fn wall(&self) -> EventTime;
}
