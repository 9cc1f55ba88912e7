//! The instants of a schedule.
//!
//! They are defined forwards: [`Timing::after`] says which comes next. A local time that daylight saving skips is run at the next time that
//! there is; one that it repeats is run once.

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidemill_engine::EventTime;

use crate::spec::Duration;

/// How a pipeline is run.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// When.
    pub timing: Timing,
    /// What becomes of runs that were missed.
    pub catch_up: CatchUp,
    /// So many runs are in the ledger one by one; of older ones it has the period that they make up.
    pub keep_runs: usize,
}

/// What becomes of runs that were missed: of ranges whose successor's end has passed as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// All are run, in order.
    #[default]
    All,
    /// Of those that were missed only the last is run.
    Latest,
    /// None of them is run.
    None,
}

/// When a pipeline is run.
#[derive(Clone, Debug)]
pub enum Timing {
    /// At multiples of a distance, since 1970 in UTC.
    Every(Duration),
    /// At local times of a zone.
    Cron(Box<Cron>, Tz),
}

/// How far the forward search for an earlier instant begins before where the backward one ended: daylight saving moves instants by hours.
const BEFORE_US: i64 = 2 * 86_400_000_000;

impl Timing {
    /// Of a pattern of five fields, and the name of a zone.
    ///
    /// # Errors
    /// What is wrong with the pattern.
    pub fn cron(pattern: &str, zone: Tz) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).build();
        let cron = parser.parse(pattern).map_err(|error| format!("`{pattern}`: {error}"))?;
        Ok(Self::Cron(Box::new(cron), zone))
    }

    /// The first instant behind `time`; `None` when there is none any more.
    #[must_use]
    pub fn after(&self, time: EventTime) -> Option<EventTime> {
        match self {
            Self::Every(distance) => {
                let distance = distance.micros();
                time.0.div_euclid(distance).checked_add(1)?.checked_mul(distance).map(EventTime)
            }
            Self::Cron(cron, zone) => {
                // Instants are whole seconds; the search is for one behind the second of `time`.
                let next = cron.find_next_occurrence(&local(time, *zone)?, false).ok()?;
                Some(EventTime(next.with_timezone(&Utc).timestamp_micros()))
            }
        }
    }

    /// The last instant at or before `time`.
    #[must_use]
    pub fn at_or_before(&self, time: EventTime) -> Option<EventTime> {
        match self {
            Self::Every(distance) => Some(EventTime(time.0.div_euclid(distance.micros()) * distance.micros())),
            Self::Cron(cron, zone) => {
                let near = cron.find_previous_occurrence(&local(time, *zone)?, true).ok()?;
                let near = EventTime(near.with_timezone(&Utc).timestamp_micros());
                let mut found = None;
                let mut next = self.after(EventTime(near.0 - BEFORE_US));
                while let Some(instant) = next.filter(|instant| *instant <= time) {
                    found = Some(instant);
                    next = self.after(instant);
                }
                found
            }
        }
    }
}

fn local(time: EventTime, zone: Tz) -> Option<DateTime<Tz>> {
    let seconds = time.0.div_euclid(1_000_000);
    zone.timestamp_opt(seconds, 0).single()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> EventTime {
        EventTime(DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros())
    }

    fn text(time: EventTime) -> String {
        DateTime::from_timestamp_micros(time.0).unwrap().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }

    fn following(timing: &Timing, from: &str, count: usize) -> Vec<String> {
        let mut time = at(from);
        let next = std::iter::from_fn(|| {
            time = timing.after(time)?;
            assert_eq!(timing.at_or_before(time), Some(time));
            assert_eq!(timing.at_or_before(EventTime(time.0 + 1)), Some(time));
            Some(text(time))
        });
        next.take(count).collect()
    }

    #[test]
    fn a_distance_counts_from_1970() {
        let timing = Timing::Every(Duration::from_secs(900));
        assert_eq!(following(&timing, "2026-11-27T10:07:00Z", 2), ["2026-11-27T10:15:00Z", "2026-11-27T10:30:00Z"]);
        assert_eq!(timing.at_or_before(at("2026-11-27T10:14:59Z")), Some(at("2026-11-27T10:00:00Z")));
    }

    #[test]
    fn a_local_time_that_is_skipped_comes_late_and_one_that_is_repeated_once() {
        let timing = Timing::cron("30 2 * * *", Tz::Europe__Paris).unwrap();
        // On 29 March 2026 two o'clock is followed by three.
        assert_eq!(
            following(&timing, "2026-03-27T12:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]
        );
        // On 25 October 2026 half past two comes twice.
        assert_eq!(following(&timing, "2026-10-24T12:00:00Z", 2), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        // An hourly job runs each hour of that day.
        let hourly = Timing::cron("0 * * * *", Tz::Europe__Paris).unwrap();
        let hours = following(&hourly, "2026-10-24T22:00:00Z", 5);
        assert_eq!(hours.last().unwrap(), "2026-10-25T03:00:00Z");
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        assert!(Timing::cron("61 * * * *", Tz::UTC).is_err());
        assert!(Timing::cron("* * * * * *", Tz::UTC).is_err());
    }
}
