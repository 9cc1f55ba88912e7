//! The event time of one partition: places its rows, keeps its watermark, advances it on evidence.

use crate::{
    EventTime,
    dataflow::plan::{LateAction, TimeBounds},
    epoch::TimeMark,
};

/// Where event times come from and what bounds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeRule {
    /// Event time is the LogAppendTime. The watermark is the largest one; one below it (leader change, clock step) takes
    /// that largest one as event time.
    LogAppend,
    /// Event time is a CreateTime (`timestamp: create_time`) or a column (`TIMESTAMP BY`). The watermark is the largest
    /// one less `out_of_order`.
    Bounded(TimeBounds),
    /// `TIMESTAMP BY` without bounds: nothing is late or early; the watermark stays at the beginning until the end.
    Unbounded,
}

impl TimeRule {
    /// The watermark that an idle partition may take when the end of its log was confirmed at `broker_time`; `None` when
    /// no end of waiting was agreed. Waiting for `late_arrival` covers the margin, but never less than the margin is waited.
    fn idle_watermark(self, broker_time: EventTime, idle_margin_us: i64) -> Option<EventTime> {
        match self {
            Self::LogAppend => Some(broker_time.minus_micros(idle_margin_us)),
            Self::Bounded(bounds) => bounds.late_arrival.map(|late| broker_time.minus_micros(late.max(idle_margin_us))),
            Self::Unbounded => None,
        }
    }

    /// What a partition that did not exist at `broker_time` can deliver lies at or above this.
    pub(super) fn topology_bound(self, broker_time: EventTime) -> EventTime {
        match self {
            Self::LogAppend => broker_time,
            Self::Bounded(bounds) => bounds.late_arrival.map_or(EventTime::MIN, |late| broker_time.minus_micros(late)),
            Self::Unbounded => EventTime::MIN,
        }
    }
}

/// Where a row belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At this event time.
    At(EventTime),
    /// Nowhere: it came behind the watermark; a dead letter of class `late`.
    Late,
    /// Nowhere: it lies too far ahead of its arrival; a dead letter of class `early`.
    Early,
}

/// What happened to rows on the way to their event time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeCounters {
    /// Rows placed nowhere because they came behind the watermark.
    pub late: u64,
    /// Rows placed nowhere because they lay too far ahead of their arrival.
    pub early: u64,
    /// Rows whose event time was moved up to a bound ([`LateAction::Adjust`]).
    pub adjusted: u64,
    /// Rows whose LogAppendTime was below an earlier one of their partition.
    pub stepped_back: u64,
    /// How often evidence about a log's end moved a watermark.
    pub idle_advances: u64,
}

impl std::ops::AddAssign for TimeCounters {
    fn add_assign(&mut self, other: Self) {
        self.late += other.late;
        self.early += other.early;
        self.adjusted += other.adjusted;
        self.stepped_back += other.stepped_back;
        self.idle_advances += other.idle_advances;
    }
}

/// Event time of one partition. Its watermark never goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionTime {
    rule: TimeRule,
    largest: EventTime,
    watermark: EventTime,
    /// What happened so far.
    pub counters: TimeCounters,
}

impl PartitionTime {
    /// A partition of which no row was seen and none below `watermark` will come: [`EventTime::MIN`] at the start of a job.
    #[must_use]
    pub fn new(rule: TimeRule, watermark: EventTime) -> Self {
        Self::restore(rule, EventTime::MIN, watermark)
    }

    /// As it stood: see [`Self::largest`] and [`Self::watermark`].
    #[must_use]
    pub fn restore(rule: TimeRule, largest: EventTime, watermark: EventTime) -> Self {
        PartitionTime { rule, largest, watermark, counters: TimeCounters::default() }
    }

    /// The largest event time of its rows; `MIN` before the first.
    #[must_use]
    pub fn largest(&self) -> EventTime {
        self.largest
    }

    /// No later row is placed below it, except under [`LateAction::Keep`].
    #[must_use]
    pub fn watermark(&self) -> EventTime {
        self.watermark
    }

    /// Both, for an epoch.
    #[must_use]
    pub fn mark(&self) -> TimeMark {
        TimeMark { largest: self.largest, watermark: self.watermark }
    }

    /// Whether an advance to `watermark` has left no trace once the first row after it, of time `event`, was placed: with it
    /// and without it, that row and all that come are placed alike.
    #[must_use]
    pub(crate) fn outgrew(&self, watermark: EventTime, event: EventTime, placement: Placement) -> bool {
        match (self.rule, placement) {
            (TimeRule::LogAppend, Placement::At(_)) => true,
            (TimeRule::Bounded(bounds), Placement::At(placed)) => {
                placed == event && self.largest.minus_micros(bounds.out_of_order) >= watermark
            }
            _ => false,
        }
    }

    /// Places the next row. `arrival` is its record's timestamp; with [`TimeRule::LogAppend`] and CreateTime, `event` is the same.
    pub fn place(&mut self, event: EventTime, arrival: EventTime) -> Placement {
        self.place_run(event, arrival, 1)
    }

    /// Places the next `rows` rows, which share both times: the same as [`Self::place`] for each.
    pub fn place_run(&mut self, event: EventTime, arrival: EventTime, rows: u64) -> Placement {
        match self.rule {
            TimeRule::LogAppend => self.place_stamp(arrival, rows),
            TimeRule::Bounded(bounds) => self.place_bounded(event, arrival, bounds, rows),
            TimeRule::Unbounded => {
                self.largest = self.largest.max(event);
                Placement::At(event)
            }
        }
    }

    fn place_stamp(&mut self, stamp: EventTime, rows: u64) -> Placement {
        if stamp < self.largest {
            self.counters.stepped_back += rows;
        }
        self.largest = self.largest.max(stamp);
        if self.largest < self.watermark {
            self.counters.late += rows;
            return Placement::Late;
        }
        self.watermark = self.largest;
        Placement::At(self.largest)
    }

    /// ASA's order: early, late, out of order.
    fn place_bounded(&mut self, event: EventTime, arrival: EventTime, bounds: TimeBounds, rows: u64) -> Placement {
        if bounds.early_arrival.is_some_and(|early| event.0.saturating_sub(arrival.0) > early) {
            self.counters.early += rows;
            return Placement::Early;
        }
        let oldest = bounds.late_arrival.map_or(EventTime::MIN, |late| arrival.minus_micros(late));
        let mut placed = event;
        if event < oldest.max(self.watermark) {
            match bounds.action {
                LateAction::Adjust => {
                    self.counters.adjusted += rows;
                    placed = oldest.max(self.watermark);
                }
                LateAction::Drop => {
                    self.counters.late += rows;
                    return Placement::Late;
                }
                LateAction::Keep => {}
            }
        }
        self.largest = self.largest.max(placed);
        self.watermark = self.watermark.max(self.largest.minus_micros(bounds.out_of_order));
        Placement::At(placed)
    }

    /// Places the next row of a substream (`TIMESTAMP BY ... OVER key`), whose largest event time so far is `largest`: it is
    /// out of order among the rows of its own substream alone. What comes later than `late_arrival` is late everywhere, and
    /// that is what the partition's watermark follows.
    pub fn place_in_substream(&mut self, event: EventTime, arrival: EventTime, largest: &mut EventTime) -> Placement {
        let TimeRule::Bounded(bounds) = self.rule else { return self.place(event, arrival) };
        if bounds.late_arrival.is_some() {
            self.advance_to_arrival(arrival, bounds);
        }
        let of_key = self.watermark.max(Self::behind(*largest, bounds));
        let partition = std::mem::replace(&mut self.watermark, of_key);
        let before = std::mem::replace(&mut self.largest, *largest);
        let placement = self.place_bounded(event, arrival, bounds, 1);
        *largest = self.largest;
        self.largest = before.max(self.largest);
        self.watermark = partition;
        placement
    }

    /// Whether the substream whose largest event time this is places rows as one without any row does.
    #[must_use]
    pub fn is_settled(&self, largest: EventTime) -> bool {
        match self.rule {
            TimeRule::Bounded(bounds) => Self::behind(largest, bounds) <= self.watermark,
            TimeRule::LogAppend | TimeRule::Unbounded => true,
        }
    }

    fn behind(largest: EventTime, bounds: TimeBounds) -> EventTime {
        largest.minus_micros(bounds.out_of_order)
    }

    fn advance_to_arrival(&mut self, arrival: EventTime, bounds: TimeBounds) {
        let oldest = bounds.late_arrival.map_or(EventTime::MIN, |late| arrival.minus_micros(late));
        self.watermark = self.watermark.max(oldest);
    }

    /// Takes a leader's answer, to a request sent at `broker_time` by its clock, that the log ends at `end_offset`, while
    /// all offsets below `position` have been read. Gives the watermark when that moves it; it does not while records
    /// are still to be read.
    pub fn end_evidence(
        &mut self,
        position: i64,
        end_offset: i64,
        broker_time: EventTime,
        idle_margin_us: i64,
    ) -> Option<EventTime> {
        let watermark = self.rule.idle_watermark(broker_time, idle_margin_us)?;
        (position >= end_offset && self.advance(watermark)).then_some(watermark)
    }

    /// Moves the watermark up to one that was recorded; whether it moved.
    pub(super) fn advance(&mut self, watermark: EventTime) -> bool {
        let moves = watermark > self.watermark;
        if moves {
            self.watermark = watermark;
            self.counters.idle_advances += 1;
        }
        moves
    }
}

#[cfg(test)]
mod tests;
