//! What the benches print: a table for people, one object a measure for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::process::Usage;

/// A figure as a ratio: to the baseline, or to what its name says.
#[derive(Clone, Debug)]
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) ratio: f64,
    /// The most it may be; none: it is only told.
    pub(super) limit: Option<f64>,
}

impl Measure {
    pub(super) fn ok(&self) -> bool {
        self.limit.is_none_or(|limit| self.ratio <= limit)
    }
}

impl From<&Measure> for Value {
    fn from(measure: &Measure) -> Self {
        let ratio = (measure.ratio * 1_000.0).round() / 1_000.0;
        json!({"name": measure.name, "ratio": ratio, "limit": measure.limit, "ok": measure.ok()})
    }
}

/// A line for each of `names`, in this order; the first is the baseline.
pub(super) fn print_table(names: &[&str], medians: &BTreeMap<String, Usage>, events: u64) {
    println!("{:<18}{:>12}{:>14}{:>10}{:>10}{:>8}", "", "events/s", "CPU ns/event", "wall s", "peak MB", "ratio");
    let baseline = medians[names[0]].cpu.as_secs_f64();
    for name in names {
        let usage = medians[*name];
        let (cpu, wall) = (usage.cpu.as_secs_f64(), usage.wall.as_secs_f64());
        println!(
            "{name:<18}{:>12.0}{:>14.0}{wall:>10.2}{:>10}{:>8.2}",
            events as f64 / wall,
            cpu * 1e9 / events as f64,
            usage.peak_bytes / 1_000_000,
            cpu / baseline,
        );
    }
}
