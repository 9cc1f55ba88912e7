//! Slices: the pieces into which window boundaries cut the time line. A row enters one slice; a window is the merge of
//! its slices. Boundaries lie at each start and each end of a window, so there are at most two slices per hop, whatever
//! `size` and `hop` have in common.
//!
//! Everything here is half-open in microseconds: ASA's (s, e] is [s + 1, e + 1), since event times are whole
//! microseconds. A half-open window is complete at a watermark >= its end, in both conventions.

use super::shape::{Closed, WindowShape};
use crate::EventTime;

/// What the event time of a standard window's result lies before its end: `window_time` is `window_end` - 1 ms (Flink
/// SQL's rowtime), so that windows over windows nest.
const WINDOW_TIME_BEFORE_END_US: i64 = 1_000;

/// A half-open piece of the time line that no window boundary cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice {
    /// First microsecond in it.
    pub start: i64,
    /// First microsecond after it.
    pub end: i64,
}

/// Geometry of a [`WindowShape`].
#[derive(Clone, Copy, Debug)]
pub struct Slices {
    shape: WindowShape,
    origin: i64,
    /// Where in a hop the windows end that started earlier; 0 when they end on a start.
    cut: i64,
}

impl Slices {
    /// For `shape`, whose `size` and `hop` are above 0.
    #[must_use]
    pub fn new(shape: WindowShape) -> Self {
        let shift = i64::from(shape.closed == Closed::End);
        let origin = (shape.offset + shift).rem_euclid(shape.hop);
        Self { shape, origin, cut: shape.size.rem_euclid(shape.hop) }
    }

    /// The latest window start <= `t`.
    fn start_at_or_before(&self, t: i64) -> i64 {
        t - (t - self.origin).rem_euclid(self.shape.hop)
    }

    /// The slice that `t` lies in.
    #[must_use]
    pub fn slice_of(&self, t: i64) -> Slice {
        let start = self.start_at_or_before(t);
        if self.cut == 0 {
            Slice { start, end: start + self.shape.hop }
        } else if t < start + self.cut {
            Slice { start, end: start + self.cut }
        } else {
            Slice { start: start + self.cut, end: start + self.shape.hop }
        }
    }

    /// Start of the first window that contains the slice and ends after `closed_to`; `None` when there is none.
    #[must_use]
    pub fn first_open_window(&self, slice: Slice, closed_to: i64) -> Option<i64> {
        let last = self.start_at_or_before(slice.start);
        let hop = self.shape.hop;
        // The first start for which start + size >= slice.end, and start + size > closed_to.
        let reach = slice.end.max(closed_to.saturating_add(1)).saturating_sub(self.shape.size);
        let first = last - (last.saturating_sub(reach)).div_euclid(hop) * hop;
        (first <= last).then_some(first)
    }

    /// End of the last window that contains the slice; `None` when no window does (hop above size).
    #[must_use]
    pub fn last_window_end(&self, slice: Slice) -> Option<i64> {
        let end = self.start_at_or_before(slice.start) + self.shape.size;
        (end >= slice.end).then_some(end)
    }

    /// Half-open end of the window with this half-open start.
    #[must_use]
    pub fn window_end(&self, start: i64) -> i64 {
        start + self.shape.size
    }

    /// `window_start` and `window_end` as the language shows them, and the event time of the window's result.
    #[must_use]
    pub fn shown(&self, start: i64) -> (i64, i64, EventTime) {
        let end = self.window_end(start);
        match self.shape.closed {
            Closed::Start => (start, end, EventTime(end - WINDOW_TIME_BEFORE_END_US)),
            Closed::End => (start - 1, end - 1, EventTime(end - 1)),
        }
    }

    /// A lower bound for the event times of results still to come once every window that ends at or before `watermark`
    /// has been emitted.
    #[must_use]
    pub fn result_watermark(&self, watermark: EventTime) -> EventTime {
        match self.shape.closed {
            Closed::Start => watermark.minus_micros(WINDOW_TIME_BEFORE_END_US - 1),
            Closed::End => watermark,
        }
    }

    /// How far before a watermark the rows of open windows may reach back.
    #[must_use]
    pub fn reach_back(&self) -> i64 {
        self.shape.size + WINDOW_TIME_BEFORE_END_US
    }

    /// Starts of all windows that contain `t`, ascending.
    pub fn windows_of(&self, t: i64) -> impl Iterator<Item = i64> + use<> {
        let (hop, size) = (self.shape.hop, self.shape.size);
        let last = self.start_at_or_before(t);
        let count = if t - last < size { (size - 1 - (t - last)) / hop + 1 } else { 0 };
        (0..count).rev().map(move |k| last - k * hop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(size: i64, hop: i64, offset: i64, closed: Closed) -> Slices {
        Slices::new(WindowShape { size, hop, offset, closed })
    }

    /// Brute force over all window starts: every claim of `Slices` follows from the definition of a window.
    #[test]
    fn slices_agree_with_the_definition_of_windows() {
        for (size, hop, offset) in
            [(10, 10, 0), (10, 5, 3), (10, 3, -4), (7, 2, 100), (3, 10, 1), (1, 1, 0), (10, 7, 9)]
        {
            for closed in [Closed::Start, Closed::End] {
                let s = slices(size, hop, offset, closed);
                let shift = i64::from(closed == Closed::End);
                let starts: Vec<i64> = (-200..200).map(|k| k * hop + offset + shift).collect();
                for t in -40..40 {
                    let slice = s.slice_of(t);
                    assert!(slice.start <= t && t < slice.end);
                    let of_t: Vec<i64> = starts.iter().copied().filter(|w| *w <= t && t < w + size).collect();
                    assert_eq!(s.windows_of(t).collect::<Vec<_>>(), of_t, "{size} {hop} {offset} {t}");
                    for u in slice.start..slice.end {
                        assert!(
                            starts.iter().filter(|w| **w <= u && u < *w + size).eq(of_t.iter()),
                            "one slice, one set"
                        );
                    }
                    assert_eq!(s.last_window_end(slice), of_t.last().map(|w| w + size));
                    for closed_to in -60..60 {
                        let expected = of_t.iter().copied().find(|w| w + size > closed_to);
                        assert_eq!(
                            s.first_open_window(slice, closed_to),
                            expected,
                            "{size} {hop} {offset} {t} {closed_to}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn asa_windows_own_their_end_and_standard_windows_their_start() {
        let asa = slices(10, 10, 0, Closed::End);
        assert_eq!(asa.windows_of(10).map(|w| asa.shown(w)).collect::<Vec<_>>(), [(0, 10, EventTime(10))]);
        assert_eq!(asa.windows_of(11).map(|w| asa.shown(w).1).collect::<Vec<_>>(), [20]);
        let standard = slices(10_000, 10_000, 0, Closed::Start);
        assert_eq!(
            standard.windows_of(10_000).map(|w| standard.shown(w)).collect::<Vec<_>>(),
            [(10_000, 20_000, EventTime(19_000))]
        );
    }
}
