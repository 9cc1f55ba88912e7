//! Slices: the pieces into which window boundaries cut the time line. A row enters one slice; a window is the merge of
//! its slices. Boundaries lie at each start and each end of a window, so there are at most two slices per hop, whatever
//! `size` and `hop` have in common.
//!
//! Everything here is half-open in microseconds: ASA's (s, e] is [s + 1, e + 1), since event times are whole
//! microseconds. A half-open window is complete at a watermark >= its end, in both conventions.

use super::shape::{Closed, SessionShape, WindowShape, Windows};
use crate::EventTime;

/// What the event time of a standard window's result lies before its end: `window_time` is `window_end` - 1 ms (Flink
/// SQL's rowtime), so that windows over windows nest.
pub const WINDOW_TIME_BEFORE_END_US: i64 = 1_000;

/// A half-open piece of the time line that no window boundary cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice {
    /// First microsecond in it.
    pub start: i64,
    /// First microsecond after it.
    pub end: i64,
}

/// A half-open window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// First microsecond in it.
    pub start: i64,
    /// First microsecond after it.
    pub end: i64,
}

/// Geometry of aligned and of cumulating windows.
#[derive(Clone, Copy, Debug)]
pub struct Slices {
    shape: WindowShape,
    origin: i64,
    /// Where in a hop the windows end that started earlier; 0 when they end on a start.
    cut: i64,
    /// Whether windows start each size and end each hop.
    cumulating: bool,
}

impl Slices {
    /// For `shape`, whose `size` and `hop` are above 0.
    #[must_use]
    pub fn new(shape: WindowShape) -> Self {
        let shift = i64::from(shape.closed == Closed::End);
        let origin = (shape.offset + shift).rem_euclid(shape.hop);
        Self { shape, origin, cut: shape.size.rem_euclid(shape.hop), cumulating: false }
    }

    /// For windows that grow by the shape's hop, which divides its size.
    #[must_use]
    pub fn cumulating(shape: WindowShape) -> Self {
        let shift = i64::from(shape.closed == Closed::End);
        Self { shape, origin: (shape.offset + shift).rem_euclid(shape.size), cut: 0, cumulating: true }
    }

    /// The latest window start <= `t`.
    fn start_at_or_before(&self, t: i64) -> i64 {
        let distance = if self.cumulating { self.shape.size } else { self.shape.hop };
        t - (t - self.origin).rem_euclid(distance)
    }

    /// The slice that `t` lies in.
    #[must_use]
    pub fn slice_of(&self, t: i64) -> Slice {
        let hop = self.shape.hop;
        let start = self.start_at_or_before(t);
        if self.cumulating {
            let start = t - (t - start).rem_euclid(hop);
            Slice { start, end: start + hop }
        } else if self.cut == 0 {
            Slice { start, end: start + hop }
        } else if t < start + self.cut {
            Slice { start, end: start + self.cut }
        } else {
            Slice { start: start + self.cut, end: start + hop }
        }
    }

    /// The first window that contains the slice and ends after `closed_to`; `None` when there is none.
    #[must_use]
    pub fn first_open_window(&self, slice: Slice, closed_to: i64) -> Option<Window> {
        let last = self.start_at_or_before(slice.start);
        let hop = self.shape.hop;
        if self.cumulating {
            let steps = closed_to.max(last).saturating_sub(last).div_euclid(hop).saturating_add(1);
            let end = slice.end.max(last.saturating_add(steps.saturating_mul(hop)));
            return (end <= last + self.shape.size).then_some(Window { start: last, end });
        }
        // The first start for which start + size >= slice.end, and start + size > closed_to.
        let reach = slice.end.max(closed_to.saturating_add(1)).saturating_sub(self.shape.size);
        let first = last - (last.saturating_sub(reach)).div_euclid(hop) * hop;
        (first <= last).then_some(Window { start: first, end: first + self.shape.size })
    }

    /// End of the last window that contains the slice; `None` when no window does (hop above size).
    #[must_use]
    pub fn last_window_end(&self, slice: Slice) -> Option<i64> {
        let end = self.start_at_or_before(slice.start) + self.shape.size;
        (end >= slice.end).then_some(end)
    }

    /// `window_start` and `window_end` as the language shows them, and the event time of the window's result.
    #[must_use]
    pub fn shown(&self, window: Window) -> (i64, i64, EventTime) {
        let Window { start, end } = window;
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

    /// All windows that contain `t`, in order of their ends.
    pub fn windows_of(&self, t: i64) -> impl Iterator<Item = Window> + use<> {
        let WindowShape { size, hop, .. } = self.shape;
        let last = self.start_at_or_before(t);
        let cumulating = self.cumulating;
        let count = match cumulating {
            true => size / hop - (t - last) / hop,
            false if t - last < size => (size - 1 - (t - last)) / hop + 1,
            false => 0,
        };
        (0..count).rev().map(move |k| match cumulating {
            true => Window { start: last, end: last + size - k * hop },
            false => Window { start: last - k * hop, end: last - k * hop + size },
        })
    }
}

/// Cells of sessions are as many gaps long.
const GAPS_OF_A_CELL: i64 = 4;

/// Longer cells would be fewer states, but a session is known to be over only when the cell of its end is complete: so much later
/// than the watermark a result may come.
const LONGEST_CELL_US: i64 = 200_000;

/// Stretches of time in which no session is cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells {
    shape: SessionShape,
}

impl Cells {
    pub(super) fn new(shape: SessionShape) -> Self {
        Self { shape }
    }

    /// Cells end with each instant at which a session may be cut.
    fn slice_of(self, t: i64) -> Slice {
        let cell = |length: i64| {
            let start = t - (t - 1).rem_euclid(length);
            Slice { start, end: start + length }
        };
        let by_gap = cell(self.longest());
        match self.shape.max.map(cell) {
            None => by_gap,
            Some(by_max) => Slice { start: by_gap.start.max(by_max.start), end: by_gap.end.min(by_max.end) },
        }
    }

    fn longest(self) -> i64 {
        self.shape.gap.saturating_mul(GAPS_OF_A_CELL).clamp(1, LONGEST_CELL_US)
    }

    /// Up to where all cells are complete at a watermark.
    pub(super) fn complete_to(self, watermark: EventTime) -> EventTime {
        match watermark {
            EventTime::MIN | EventTime::MAX => watermark,
            EventTime(t) => EventTime(self.slice_of(t).start),
        }
    }
}

/// How the rows of an aggregation are cut into pieces that each lie in the same windows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slicing {
    Windows(Slices),
    Sessions(Cells),
}

impl Slicing {
    pub(super) fn slice_of(&self, t: i64) -> Slice {
        match self {
            Self::Windows(slices) => slices.slice_of(t),
            Self::Sessions(cells) => cells.slice_of(t),
        }
    }

    /// When the last window of the slice ends; `None` when no window contains it. A session may go on for ever.
    pub(super) fn last_window_end(&self, slice: Slice) -> Option<i64> {
        match self {
            Self::Windows(slices) => slices.last_window_end(slice),
            Self::Sessions(_) => Some(i64::MAX),
        }
    }
}

impl Windows {
    /// How far before a watermark the rows of open windows may reach back.
    #[must_use]
    pub fn reach_back(&self) -> i64 {
        match self {
            Self::Aligned(shape) | Self::Cumulating(shape) => shape.size + WINDOW_TIME_BEFORE_END_US,
            // Cut at the second multiple, and known to be over a gap later, when its cell is complete.
            Self::Session(shape @ SessionShape { gap, max: Some(max), .. }) => {
                2 * max + gap + Cells::new(*shape).longest() + WINDOW_TIME_BEFORE_END_US
            }
            Self::Session(_) => i64::MAX,
            Self::Sliding { size } => *size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(size: i64, hop: i64, offset: i64, closed: Closed) -> Slices {
        Slices::new(WindowShape { size, hop, offset, closed })
    }

    /// Every claim of `Slices` follows from the list of all windows.
    fn check(s: Slices, windows: &[Window]) {
        for t in -40..40 {
            let slice = s.slice_of(t);
            assert!(slice.start <= t && t < slice.end);
            let of = |t: i64| windows.iter().copied().filter(move |w| w.start <= t && t < w.end).collect::<Vec<_>>();
            let of_t = of(t);
            assert_eq!(s.windows_of(t).collect::<Vec<_>>(), of_t, "{s:?} {t}");
            for u in slice.start..slice.end {
                assert_eq!(of(u), of_t, "one slice, one set");
            }
            assert_eq!(s.last_window_end(slice), of_t.last().map(|w| w.end));
            for closed_to in (-60..60).chain([i64::MIN]) {
                let expected = of_t.iter().copied().find(|w| w.end > closed_to);
                assert_eq!(s.first_open_window(slice, closed_to), expected, "{s:?} {t} {closed_to}");
            }
        }
    }

    #[test]
    fn slices_agree_with_the_definition_of_windows() {
        for (size, hop, offset) in
            [(10, 10, 0), (10, 5, 3), (10, 3, -4), (7, 2, 100), (3, 10, 1), (1, 1, 0), (10, 7, 9)]
        {
            for closed in [Closed::Start, Closed::End] {
                let shift = i64::from(closed == Closed::End);
                let starts = (-200..200).map(|k| k * hop + offset + shift);
                let windows: Vec<Window> = starts.map(|start| Window { start, end: start + size }).collect();
                check(slices(size, hop, offset, closed), &windows);
            }
        }
    }

    #[test]
    fn cumulating_windows_grow_by_a_step_from_one_start() {
        for (size, hop, offset) in [(10, 2, 0), (10, 5, 3), (9, 3, -4), (4, 4, 1), (6, 1, 100)] {
            let starts = (-200..200).map(|k| k * size + offset);
            let grown = |start| (1..=size / hop).map(move |step| Window { start, end: start + step * hop });
            let windows: Vec<Window> = starts.flat_map(grown).collect();
            check(Slices::cumulating(WindowShape { size, hop, offset, closed: Closed::Start }), &windows);
        }
    }

    #[test]
    fn no_session_is_cut_within_a_cell() {
        for (gap, max) in [(5, Some(10)), (7, Some(10)), (4, None), (1, Some(3)), (20, Some(6))] {
            let shape = SessionShape { gap, max, closed: Closed::End };
            let cells = Slicing::Sessions(Cells::new(shape));
            for t in -50..50i64 {
                let cell = cells.slice_of(t);
                assert!(cell.start <= t && t < cell.end && cell.end - cell.start <= 4 * gap);
                assert_eq!(cells.slice_of(cell.start), cell);
                assert_eq!(cells.slice_of(cell.end).start, cell.end);
                let check = |t: i64| max.map(|max| (t - 1).div_euclid(max));
                assert_eq!(check(cell.start), check(cell.end - 1), "a cut lies on the end of a cell");
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
