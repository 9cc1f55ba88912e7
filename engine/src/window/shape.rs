//! Which windows there are: aligned windows of one size, started every hop.

/// Which of its two ends belongs to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// [start, end): the standard table functions. Such a window is complete at a watermark >= end.
    Start,
    /// (start, end]: ASA's windows. Such a window is complete only at a watermark > end, since equal may come.
    End,
}

/// Tumbling windows (`hop == size`) and hopping windows, aligned to the epoch plus `offset`. All in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WindowShape {
    /// Length, > 0.
    pub size: i64,
    /// Distance of starts, > 0; above `size` some rows lie in no window.
    pub hop: i64,
    /// Shift of all boundaries; any sign and size.
    pub offset: i64,
    /// Which end belongs to the window.
    pub closed: Closed,
}
