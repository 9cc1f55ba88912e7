//! Which windows there are. All lengths are in microseconds.

/// Which of its two ends belongs to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closed {
    /// [start, end): the standard table functions. Such a window is complete at a watermark >= end.
    Start,
    /// (start, end]: ASA's windows. Such a window is complete only at a watermark > end, since equal may come.
    End,
}

/// Tumbling windows (`hop == size`) and hopping windows, aligned to the epoch plus `offset`.
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

/// Windows of rows that are no further apart than a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionShape {
    /// Two rows further apart than this, > 0, are in different sessions. A session ends this long after its last row.
    pub gap: i64,
    /// ASA's maximum duration, > 0: a session is cut at multiples of it, first at the one that lies at least so far behind
    /// its first row, then at each; it goes on behind the cut as a new window.
    pub max: Option<i64>,
    /// How the end and the event time of the result are told; a row at a cut belongs before it.
    pub closed: Closed,
}

impl SessionShape {
    /// Where a session that starts at `first` is cut for the first time.
    #[must_use]
    pub fn first_cut(&self, first: i64) -> i64 {
        let Some(max) = self.max else { return i64::MAX };
        let since_check = first.rem_euclid(max);
        first - since_check + if since_check == 0 { max } else { 2 * max }
    }
}

/// The windows of an aggregation or of a table function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Windows {
    /// Tumbling and hopping windows.
    Aligned(WindowShape),
    /// Windows that grow by a step (the shape's hop, which divides `size`) until they are `size` long, and then begin anew.
    Cumulating(WindowShape),
    /// Sessions, of all rows or of the rows of one partition.
    Session(SessionShape),
    /// (t - size, t] of each key, at each t at which a row comes in or drops out, unless it is empty.
    Sliding {
        /// Length, > 0.
        size: i64,
    },
}
