//! What a call remembers of one partition. Times are event times in microseconds; a row counts while its time is above
//! a horizon, so that durations are (t - d, t], as windows are.

use std::collections::VecDeque;

use super::anomaly::{Series, Verdict};
use crate::{
    aggregate::exact::ExactSum,
    dataflow::plan::{AnalyticFunction, AnomalyPlan, RollingAggregate},
};

/// A number of a sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Int(i64),
    Float(f64),
}

/// See the module. Oldest first.
#[derive(Debug)]
pub(super) enum History {
    /// LAG, LAST: the last rows, as many as are looked back over. MIN, MAX: values of which each beats all that follow. What is
    /// gathered: all values.
    Values(VecDeque<(i64, Vec<u8>)>),
    /// ISFIRST: the interval in which a row was met last.
    Interval(i64),
    /// Detectors of anomalies.
    Series(Series),
    /// COUNT.
    Times(VecDeque<i64>),
    /// SUM, AVG.
    Numbers { numbers: VecDeque<(i64, Number)>, sum: ExactSum },
}

impl History {
    pub(super) fn new(function: &AnalyticFunction) -> Self {
        use RollingAggregate::{Avg, Count, Max, Min, Sum};
        match function {
            AnalyticFunction::Lag { .. } | AnalyticFunction::Gathered { .. } => Self::Values(VecDeque::new()),
            AnalyticFunction::Anomaly(_) => Self::Series(Series::default()),
            AnalyticFunction::First(_) => Self::Interval(i64::MIN),
            AnalyticFunction::Rolling { aggregate, .. } => match aggregate {
                Count => Self::Times(VecDeque::new()),
                Sum | Avg => Self::Numbers { numbers: VecDeque::new(), sum: ExactSum::default() },
                Min | Max => Self::Values(VecDeque::new()),
            },
        }
    }

    /// Remembers a value, and no more than the last `most`.
    pub(super) fn keep(&mut self, time: i64, value: &[u8], most: usize) {
        let Self::Values(rows) = self else { return };
        let mut bytes = match rows.len() >= most {
            true => rows.pop_front().map(|(_, bytes)| bytes).unwrap_or_default(),
            false => vec![],
        };
        bytes.clear();
        bytes.extend_from_slice(value);
        rows.push_back((time, bytes));
    }

    /// All values kept, oldest first.
    pub(super) fn values(&self) -> impl Iterator<Item = &[u8]> {
        let rows = match self {
            Self::Values(rows) => Some(rows),
            _ => None,
        };
        rows.into_iter().flatten().map(|(_, value)| value.as_slice())
    }

    /// The value `n` rows back (1: the last one kept), if its time is above `horizon`.
    pub(super) fn back(&self, n: usize, horizon: i64) -> Option<&[u8]> {
        let Self::Values(rows) = self else { return None };
        let (time, value) = rows.get(rows.len().checked_sub(n)?)?;
        (*time > horizon).then_some(value)
    }

    /// Notes that a row lies in an interval; whether it is the first one.
    pub(super) fn enter(&mut self, interval: i64) -> bool {
        let Self::Interval(last) = self else { return false };
        std::mem::replace(last, interval) != interval
    }

    /// Judges a value and adds it.
    pub(super) fn judge(&mut self, plan: &AnomalyPlan, time: i64, value: f64) -> Option<Verdict> {
        let Self::Series(series) = self else { return None };
        Some(series.judge(plan.anomaly, plan.confidence, plan.history, time, value))
    }

    pub(super) fn count(&mut self, time: i64) {
        if let Self::Times(times) = self {
            times.push_back(time);
        }
    }

    pub(super) fn add(&mut self, time: i64, number: Number) {
        let Self::Numbers { numbers, sum } = self else { return };
        match number {
            Number::Int(n) => sum.add_i64(n),
            Number::Float(x) => sum.add(x),
        }
        numbers.push_back((time, number));
    }

    /// Remembers a value until a better one comes, or its time is over.
    pub(super) fn extreme(&mut self, time: i64, value: &[u8], max: bool) {
        let Self::Values(rows) = self else { return };
        while rows.back().is_some_and(|(_, last)| if max { **last <= *value } else { **last >= *value }) {
            rows.pop_back();
        }
        rows.push_back((time, value.to_vec()));
    }

    /// Forgets the rows at or below `horizon`.
    pub(super) fn forget(&mut self, horizon: i64) {
        match self {
            Self::Values(rows) => {
                while rows.front().is_some_and(|(time, _)| *time <= horizon) {
                    rows.pop_front();
                }
            }
            Self::Interval(_) => {}
            Self::Series(series) => series.forget(horizon),
            Self::Times(times) => {
                while times.front().is_some_and(|time| *time <= horizon) {
                    times.pop_front();
                }
            }
            Self::Numbers { numbers, sum } => {
                while let Some((_, number)) = numbers.front().filter(|(time, _)| *time <= horizon) {
                    match *number {
                        Number::Int(n) => {
                            let mut off = ExactSum::default();
                            off.add_i64(n);
                            sum.retract(&off);
                        }
                        Number::Float(x) => sum.subtract(x),
                    }
                    numbers.pop_front();
                }
            }
        }
    }

    /// How many rows count.
    pub(super) fn len(&self) -> i64 {
        let rows = match self {
            Self::Values(rows) => rows.len(),
            Self::Interval(_) => 0,
            Self::Series(series) => series.values.len(),
            Self::Times(times) => times.len(),
            Self::Numbers { numbers, .. } => numbers.len(),
        };
        i64::try_from(rows).unwrap_or(i64::MAX)
    }

    /// The oldest value kept, which is the extreme one.
    pub(super) fn first(&self) -> Option<&[u8]> {
        let Self::Values(rows) = self else { return None };
        rows.front().map(|(_, value)| value.as_slice())
    }

    pub(super) fn sum(&self) -> Option<f64> {
        let Self::Numbers { numbers, sum } = self else { return None };
        (!numbers.is_empty()).then(|| sum.to_f64())
    }

    pub(super) fn average(&self) -> Option<f64> {
        Some(self.sum()? / self.len() as f64)
    }

    /// `Err` when it does not fit.
    pub(super) fn whole_sum(&self) -> Result<Option<i64>, ()> {
        match self {
            Self::Numbers { numbers, sum } if !numbers.is_empty() => sum.to_i64().map(Some).ok_or(()),
            _ => Ok(None),
        }
    }

    /// Time of the last row that counted.
    pub(super) fn newest(&self) -> i64 {
        match self {
            Self::Values(rows) => rows.back().map(|(time, _)| *time),
            Self::Interval(start) => Some(*start),
            Self::Series(series) => series.values.back().map(|(time, _)| *time),
            Self::Times(times) => times.back().copied(),
            Self::Numbers { numbers, .. } => numbers.back().map(|(time, _)| *time),
        }
        .unwrap_or(i64::MIN)
    }

    /// What [`Self::restore`] takes, in order.
    pub(super) fn entries(&self, each: &mut dyn FnMut(i64, &[u8])) {
        match self {
            Self::Values(rows) => rows.iter().for_each(|(time, value)| each(*time, value)),
            Self::Interval(start) => each(*start, &[]),
            Self::Series(series) => {
                for (time, value) in &series.values {
                    each(*time, &value.to_le_bytes());
                }
                // Behind the values, what the martingale stands at.
                each(i64::MAX, &series.bets.to_le_bytes());
            }
            Self::Times(times) => times.iter().for_each(|time| each(*time, &[])),
            Self::Numbers { numbers, .. } => {
                for (time, number) in numbers {
                    let (kind, bits) = match number {
                        Number::Int(n) => (0, n.to_le_bytes()),
                        Number::Float(x) => (1, x.to_bits().to_le_bytes()),
                    };
                    let mut value = [kind; 9];
                    value[1..].copy_from_slice(&bits);
                    each(*time, &value);
                }
            }
        }
    }

    /// Puts an entry back; `None` when it is not of this kind.
    pub(super) fn restore(&mut self, time: i64, value: &[u8]) -> Option<()> {
        match self {
            Self::Values(rows) => rows.push_back((time, value.to_vec())),
            Self::Interval(start) if value.is_empty() => *start = time,
            Self::Series(series) => {
                let number = f64::from_le_bytes(value.try_into().ok()?);
                match time {
                    i64::MAX => series.bets = number,
                    time => series.values.push_back((time, number)),
                }
            }
            Self::Times(times) if value.is_empty() => times.push_back(time),
            Self::Numbers { .. } => {
                let (kind, bits) = value.split_first()?;
                let bits: [u8; 8] = bits.try_into().ok()?;
                let number = match kind {
                    0 => Number::Int(i64::from_le_bytes(bits)),
                    _ => Number::Float(f64::from_bits(u64::from_le_bytes(bits))),
                };
                self.add(time, number);
            }
            Self::Interval(_) | Self::Times(_) => return None,
        }
        Some(())
    }
}
