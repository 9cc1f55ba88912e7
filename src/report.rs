//! How a run goes, on stderr: one status line that is drawn anew on a terminal, otherwise a log line each ten seconds;
//! in both cases a closing line.

use std::collections::VecDeque;

use tidemill_engine::{EventTime, decoder::BadClass};
use tidemill_jobs::{run::Status, spec::OutputTransport};

use crate::terminal;

/// How often a run is logged where there is no terminal.
const LOG_EVERY_US: i64 = 10_000_000;
/// Rates are means over this time.
const RATE_OVER_US: i64 = 3_000_000;

/// Shows one run.
pub(crate) struct Report {
    watched: bool,
    dead_letters: String,
    rates: Rates,
    logged_us: i64,
}

impl Report {
    /// `dead_letters` is where records are kept that could not be processed.
    pub(crate) fn new(dead_letters: &OutputTransport) -> Self {
        Self {
            watched: terminal::is_watched(),
            dead_letters: dead_letters.to_string(),
            rates: Rates::default(),
            logged_us: 0,
        }
    }

    /// Takes the run's status, a few times a second.
    pub(crate) fn show(&mut self, status: &Status) {
        self.rates.take(status);
        if self.watched {
            terminal::draw_status(&line(status, &self.rates));
        } else if status.elapsed_us - self.logged_us >= LOG_EVERY_US {
            self.logged_us = status.elapsed_us;
            log(status, &self.rates);
        }
    }

    /// Takes the last status.
    pub(crate) fn close(&mut self, status: &Status, stopped: bool) {
        let text = closing(status, stopped, &self.dead_letters);
        if self.watched {
            terminal::say(&text);
        } else {
            tracing::info!(
                records = status.records(),
                bytes = status.bytes(),
                rows_out = status.rows_out(),
                late = late(status),
                bad = bad(status),
                "{text}"
            );
        }
    }
}

/// The latest statuses, as far as rates are made of them: elapsed time, records, bytes.
#[derive(Default)]
struct Rates(VecDeque<(i64, u64, u64)>);

impl Rates {
    fn take(&mut self, status: &Status) {
        self.0.push_back((status.elapsed_us, status.records(), status.bytes()));
        while self.0.get(1).is_some_and(|second| status.elapsed_us - second.0 >= RATE_OVER_US) {
            self.0.pop_front();
        }
    }

    /// Records and bytes a second.
    fn per_second(&self) -> (f64, f64) {
        let (Some(first), Some(last)) = (self.0.front(), self.0.back()) else { return (0.0, 0.0) };
        let seconds = (last.0 - first.0) as f64 / 1e6;
        let rate = |from: u64, to: u64| if seconds > 0.0 { to.saturating_sub(from) as f64 / seconds } else { 0.0 };
        (rate(first.1, last.1), rate(first.2, last.2))
    }
}

/// The status line.
fn line(status: &Status, rates: &Rates) -> String {
    let (records, bytes) = rates.per_second();
    let mut parts = vec![format!("{} events/s", grouped(records as u64)), format!("{}/s", size(bytes))];
    if let Some(lag) = status.lag() {
        parts.push(format!("lag {}", grouped(lag)));
    }
    if let Some(delay_us) = watermark_delay_us(status) {
        parts.push(format!("watermark {} behind", duration(delay_us)));
    }
    parts.push(format!("late {}", grouped(late(status))));
    parts.push(format!("bad {}", grouped(bad(status))));
    parts.push(format!("rows out {}", grouped(status.rows_out())));
    if let Some((taken, ahead)) = share(status) {
        parts.push(format!("{:.0}%", 100.0 * taken as f64 / (taken + ahead).max(1) as f64));
        if records >= 1.0 {
            parts.push(format!("{} left", duration((ahead as f64 / records * 1e6) as i64)));
        }
    }
    parts.join("  ")
}

/// The log line.
fn log(status: &Status, rates: &Rates) {
    let (records, bytes) = rates.per_second();
    let done = share(status).map(|(taken, ahead)| taken as f64 / (taken + ahead).max(1) as f64);
    tracing::info!(
        events_per_second = records.round() as u64,
        bytes_per_second = bytes.round() as u64,
        lag = status.lag(),
        watermark_delay_seconds = watermark_delay_us(status).map(|us| us as f64 / 1e6),
        late = late(status),
        bad = bad(status),
        rows_out = status.rows_out(),
        done,
        "running"
    );
}

/// Totals, by output and by class.
fn closing(status: &Status, stopped: bool, dead_letters: &str) -> String {
    let mut text = format!(
        "{}: {} records, {} in {}",
        if stopped { "stopped" } else { "done" },
        grouped(status.records()),
        size(status.bytes() as f64),
        duration(status.elapsed_us),
    );
    let rows: Vec<_> = status.outputs.iter().map(|out| format!("{} {}", out.name, grouped(out.rows))).collect();
    if !rows.is_empty() {
        text += &format!("; rows out: {}", rows.join(", "));
    }
    if status.late > 0 {
        text += &format!("; after their window: {} rows", grouped(status.late));
    }
    let bad = bad_by_class(status);
    if !bad.is_empty() {
        let classes: Vec<_> =
            bad.iter().map(|(class, count)| format!("{} {}", class.as_str(), grouped(*count))).collect();
        text += &format!("; bad records: {} (see `{}`)", classes.join(", "), dead_letters);
    }
    text
}

fn bad_by_class(status: &Status) -> Vec<(BadClass, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    for (class, count) in status.inputs.iter().flat_map(|input| &input.bad) {
        *sums.entry(*class).or_default() += count;
    }
    sums.into_iter().collect()
}

/// Rows after their windows, and records behind their watermark.
fn late(status: &Status) -> u64 {
    let records = status.inputs.iter().filter_map(|input| input.bad.get(&BadClass::Late));
    status.late + records.sum::<u64>()
}

/// Bad records of all classes but late.
fn bad(status: &Status) -> u64 {
    status.late + status.bad() - late(status)
}

fn watermark_delay_us(status: &Status) -> Option<i64> {
    status.watermark().map(|watermark| status.at.0 - watermark.0)
}

/// Of a bounded run, the records taken and those that lie ahead; `None` where an input does not know.
fn share(status: &Status) -> Option<(u64, u64)> {
    let unfinished = status.inputs.iter().flat_map(|input| &input.partitions).filter(|p| p.watermark < EventTime::MAX);
    let ahead = unfinished.map(|partition| partition.lag).sum::<Option<u64>>()?;
    status.bounded.then(|| (status.records(), ahead))
}

/// `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `2.4 MB`.
pub(crate) fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && value < 99.95);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `2.1s`, `1m05s`, `3h20m`, `9d04h`.
pub(crate) fn duration(us: i64) -> String {
    let sign = if us < 0 { "-" } else { "" };
    let us = us.unsigned_abs();
    let seconds = us / 1_000_000;
    match seconds {
        0..60 => format!("{sign}{:.1}s", us as f64 / 1e6),
        60..3_600 => format!("{sign}{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{sign}{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{sign}{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_jobs::run::{EpochStatus, InputStatus, OutputStatus, PartitionStatus};

    use super::*;

    fn status(elapsed_us: i64, records: u64, bad: &[(BadClass, u64)], bounded: bool) -> Status {
        let partition = |number, lag, watermark| PartitionStatus {
            topic: "t".into(),
            number,
            lag: Some(lag),
            watermark,
            fetched: None,
        };
        let at = EventTime(1_700_000_000_000_000);
        let partitions = vec![partition(0, 1_500, at.minus_micros(65_000_000)), partition(1, 9, EventTime::MAX)];
        let input = InputStatus {
            name: "clicks".into(),
            records,
            bytes: records * 200,
            tombstones: 0,
            adjusted: 3,
            stepped_back: 4,
            bad: bad.iter().copied().collect(),
            partitions,
            path: None,
            fetches: vec![],
        };
        let outputs = vec![OutputStatus { name: "screen".into(), rows: 1_234 }];
        Status {
            elapsed_us,
            at,
            bounded,
            inputs: vec![input],
            outputs,
            late: 2,
            epochs: EpochStatus::default(),
            function_failures: vec![],
        }
    }

    #[test]
    fn the_line_has_what_a_person_asks_for() {
        let mut rates = Rates::default();
        let bad = [(BadClass::Malformed, 7), (BadClass::Late, 3)];
        for second in 0..=10 {
            rates.take(&status(second * 1_000_000, second as u64 * 1_500, &[], true));
        }
        let now = status(10_000_000, 15_000, &bad, true);
        assert_eq!(
            line(&now, &rates),
            "1,500 events/s  300 kB/s  lag 1,509  watermark 1m05s behind  late 5  bad 7  rows out 1,234  91%  1.0s left"
        );
        assert_eq!(rates.0.len(), 4, "of three seconds");
        assert!(line(&status(10_000_000, 15_000, &bad, false), &rates).ends_with("rows out 1,234"));
    }

    #[test]
    fn the_closing_line_has_totals() {
        let bad = [(BadClass::Malformed, 7), (BadClass::Type, 1)];
        assert_eq!(
            closing(&status(61_000_000, 1_234_567, &bad, false), true, "dead-letters"),
            "stopped: 1,234,567 records, 247 MB in 1m01s; rows out: screen 1,234; after their window: 2 rows; bad records: \
             malformed 7, type 1 (see `dead-letters`)"
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 999.0, 1_000.0, 99_949.0, 999_600.0, 2.5e9].map(size),
            ["0 B", "999 B", "1.0 kB", "99.9 kB", "1.0 MB", "2.5 GB"]
        );
        assert_eq!(
            [0, 2_149_999, 59_000_000, 65_000_000, 12_000_000_000, 792_000_000_000, -1_500_000].map(duration),
            ["0.0s", "2.1s", "59.0s", "1m05s", "3h20m", "9d04h", "-1.5s"]
        );
    }
}
