//! What the ledger forgets of old runs, and in which order.
//!
//! Of runs beyond those that are kept ([`Pipeline::keep_runs`](super::Pipeline)) there remain periods, of which every record is in a file, without
//! what each run had read. Two runs that meet make one period, so there are as many as the schedule has gaps. Boundaries within a period go: no
//! run can begin or end there any more. Those at its ends stay, for whoever fills the gap.
//!
//! Invariants: periods lie in slots, each created once, of which the last counts, like those of the store's log; each is made of the one before, so
//! none of two that trim at a time can lose what the other has noted. Something is removed only after a slot that covers it is the last one,
//! so whoever reads runs first and periods then sees every range that was run. A trimming that died is done by the next one.

use serde::{Deserialize, Serialize};
use tidemill_engine::EventTime;

use super::advance::Range;

/// Slots of periods that are kept beside the last, for whoever is about to read one.
const SLOTS_KEPT: u64 = 3;

/// Periods of which everything was run, in order; between two of them there is a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Periods(Vec<(i64, i64)>);

impl Periods {
    /// With runs that do not overlap them.
    fn with(&self, ranges: &[Range]) -> Self {
        let mut all = self.0.clone();
        all.extend(ranges.iter().map(|range| (range.from.0, range.to.0)));
        all.sort_unstable();
        let mut merged: Vec<(i64, i64)> = vec![];
        for (from, to) in all {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        Self(merged)
    }

    /// The first period that ends behind `from`.
    pub(super) fn first_behind(&self, from: EventTime) -> Option<Range> {
        let &(from, to) = self.0.iter().find(|(_, to)| *to > from.0)?;
        Some(Range { from: EventTime(from), to: EventTime(to) })
    }

    /// Whether a range that ends at `to` is a part of one of them.
    fn has_end(&self, to: EventTime) -> bool {
        self.0.iter().any(|(from, end)| *from < to.0 && to.0 <= *end)
    }

    /// Whether `at` lies in one of them, neither at its begin nor at its end.
    fn has_within(&self, at: EventTime) -> bool {
        self.0.iter().any(|(from, to)| *from < at.0 && at.0 < *to)
    }
}

/// What is in the ledger, as far as it matters here.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The slots of periods, in order.
    pub(super) slots: Vec<u64>,
    /// What the last of them says.
    pub(super) periods: Periods,
    /// The ends of runs, in order.
    pub(super) runs: Vec<EventTime>,
    /// Of those, the ranges of the ones that are [`Found::too_many`].
    pub(super) old: Vec<Range>,
    /// The ends of ranges that failed.
    pub(super) failures: Vec<EventTime>,
    pub(super) boundaries: Vec<EventTime>,
}

/// One operation of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Creates a slot; somebody else may have done so, or be further: then nothing may be removed.
    Note { slot: u64, periods: Periods },
    /// Removes a run.
    Run(EventTime),
    /// Removes a failure.
    Failure(EventTime),
    /// Removes a boundary.
    Boundary(EventTime),
    /// Removes a slot.
    Slot(u64),
}

impl Found {
    /// The runs that are to be trimmed when so many are kept, in order.
    pub(super) fn too_many(&self, keep: usize) -> &[EventTime] {
        &self.runs[..self.runs.len().saturating_sub(keep.max(1))]
    }

    /// What is to be done, in order.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = vec![];
        let last = self.slots.last().copied().unwrap_or(0);
        let new: Vec<Range> = self.old.iter().copied().filter(|range| !self.periods.has_end(range.to)).collect();
        let periods = self.periods.with(&new);
        let slot = if new.is_empty() { last } else { last + 1 };
        if slot > last {
            steps.push(Step::Note { slot, periods: periods.clone() });
        }
        let gone = |times: &[EventTime], is_gone: &dyn Fn(EventTime) -> bool| {
            times.iter().copied().filter(|time| is_gone(*time)).collect::<Vec<_>>()
        };
        steps.extend(gone(&self.runs, &|to| periods.has_end(to)).into_iter().map(Step::Run));
        let first_kept = self.runs.iter().find(|to| !periods.has_end(**to)).copied();
        let is_old = |to| periods.has_end(to) || first_kept.is_some_and(|first| to < first && slot > 0);
        steps.extend(gone(&self.failures, &is_old).into_iter().map(Step::Failure));
        steps.extend(gone(&self.boundaries, &|at| periods.has_within(at)).into_iter().map(Step::Boundary));
        steps.extend(self.slots.iter().filter(|old| **old + SLOTS_KEPT < slot).map(|old| Step::Slot(*old)));
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: i64, to: i64) -> Range {
        Range { from: EventTime(from), to: EventTime(to) }
    }

    #[test]
    fn runs_that_meet_make_one_period_and_a_gap_keeps_its_boundaries() {
        let times = |times: &[i64]| times.iter().copied().map(EventTime).collect::<Vec<_>>();
        let found = Found {
            slots: vec![1, 2, 3, 4, 5],
            periods: Periods(vec![(0, 2)]),
            runs: times(&[2, 3, 4, 6, 7]),
            old: vec![range(1, 2), range(2, 3), range(3, 4), range(5, 6)],
            failures: times(&[1, 5, 7, 8]),
            boundaries: times(&[0, 1, 2, 3, 4, 5, 6, 7]),
        };
        assert_eq!(found.too_many(1), times(&[2, 3, 4, 6]));
        let periods = Periods(vec![(0, 4), (5, 6)]);
        let steps = [
            vec![Step::Note { slot: 6, periods: periods.clone() }],
            times(&[2, 3, 4, 6]).into_iter().map(Step::Run).collect(),
            times(&[1, 5]).into_iter().map(Step::Failure).collect(),
            times(&[1, 2, 3]).into_iter().map(Step::Boundary).collect(),
            vec![Step::Slot(1), Step::Slot(2)],
        ];
        assert_eq!(found.steps(), steps.concat());
        assert_eq!(periods.first_behind(EventTime(3)), Some(range(0, 4)));
        assert_eq!(periods.first_behind(EventTime(4)), Some(range(5, 6)));
        assert_eq!(periods.first_behind(EventTime(6)), None);
    }

    #[test]
    fn what_was_noted_is_removed_without_being_noted_again() {
        let found = Found {
            slots: vec![7],
            periods: Periods(vec![(0, 3)]),
            runs: vec![EventTime(2), EventTime(4)],
            old: vec![range(1, 2)],
            ..Found::default()
        };
        assert_eq!(found.steps(), [Step::Run(EventTime(2))]);
        assert_eq!(Found { runs: vec![EventTime(4)], ..Found::default() }.steps(), []);
    }
}
