//! What a broker's clock showed at an instant of ours, estimated so that it is never ahead.
//!
//! A live record (its fetch left when the partition had been read to its end) was stamped at most a moment before it came
//! in. So `received - LogAppendTime` is the distance of the two clocks plus a delay that is never negative, and the
//! smallest of the last minutes is the best bound: our clock less that distance is at or behind the broker's. Records of
//! a backlog say nothing, they may have been stamped years ago.
//!
//! A smallest sample that is no longer true would put the estimate ahead of a clock that was set back, and rows would
//! come in late. Hence samples are forgotten
//! - after five minutes,
//! - when a partition moves away from the leader: it may come back as another machine,
//! - when a new sample differs from the estimate by more than [`STEP_US`] in either direction. A delayed answer
//!   looks like a clock set back; forgetting then is harmless: the estimate lags until the next live record,
//! - when our wall clock moves against our monotonic clock by more than [`STEP_US`] between two questions: it was set, or
//!   the machine slept, during which a monotonic clock may stand still.
//!
//! Without a sample the answer is our wall clock less `clock_uncertainty`.

use std::collections::{BTreeMap, VecDeque};

use crate::{Clock, EventTime, Monotonic, source::PartitionId};

/// Changes of a clock above this count as a step. Below the default `idle_margin` of 2 s, so that a smaller step that goes
/// unnoticed is covered by it; above what slewing (0.5 ms/s) and jitter of live fetches usually make.
pub const STEP_US: i64 = 1_000_000;

/// A sample counts for ten buckets: between 4.5 and 5 minutes.
const BUCKET_US: i64 = 30_000_000;
const BUCKETS: i64 = 10;

/// Both clocks of this machine, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock.
    pub monotonic: Monotonic,
    /// The wall clock at that instant.
    pub wall: EventTime,
}

impl Now {
    /// Reads a clock.
    #[must_use]
    pub fn of(clock: &dyn Clock) -> Self {
        Now { monotonic: clock.monotonic(), wall: clock.wall() }
    }

    fn wall_less_monotonic(self) -> i64 {
        self.wall.0.saturating_sub(self.monotonic.0)
    }
}

/// The clocks of the brokers of one input, as all its workers see them.
#[derive(Clone, Debug)]
pub struct BrokerClocks {
    clock_uncertainty_us: i64,
    samples: BTreeMap<i32, Samples>,
    leaders: BTreeMap<PartitionId, i32>,
    wall_less_monotonic: Option<i64>,
}

impl BrokerClocks {
    /// `clock_uncertainty_us`: by how much our wall clock may be ahead of a broker's, in microseconds.
    #[must_use]
    pub fn new(clock_uncertainty_us: i64) -> Self {
        BrokerClocks {
            clock_uncertainty_us,
            samples: BTreeMap::new(),
            leaders: BTreeMap::new(),
            wall_less_monotonic: None,
        }
    }

    /// Takes the LogAppendTime of a live record of `partition`, sent by `leader`. The newest record of an answer is
    /// enough. Never to be called with a backlog's records, nor with CreateTime stamps.
    pub fn sample(&mut self, partition: PartitionId, leader: i32, stamp: EventTime, received: Monotonic) {
        self.note_leader(partition, leader);
        let distance = received.0.saturating_sub(stamp.0);
        let samples = self.samples.entry(leader).or_default();
        if samples.smallest(received).is_some_and(|smallest| smallest.abs_diff(distance) > STEP_US.unsigned_abs()) {
            samples.buckets.clear();
        }
        samples.add(received, distance);
    }

    /// What the clock of `leader`, which answered for `partition`, showed at `at` or a little earlier. `at` may lie
    /// before `now`.
    pub fn broker_time(&mut self, partition: PartitionId, leader: i32, at: Monotonic, now: Now) -> EventTime {
        self.note_leader(partition, leader);
        self.note_clock(now);
        self.leader_time(leader, at, now)
    }

    /// The earliest that any known leader's clock showed at `at`: for statements about all brokers, such as "no other
    /// partition exists".
    pub fn topology_time(&mut self, at: Monotonic, now: Now) -> EventTime {
        self.note_clock(now);
        self.leaders
            .values()
            .map(|&leader| self.leader_time(leader, at, now))
            .min()
            .unwrap_or_else(|| self.wall_time(at, now))
    }

    fn leader_time(&self, leader: i32, at: Monotonic, now: Now) -> EventTime {
        match self.samples.get(&leader).and_then(|samples| samples.smallest(now.monotonic)) {
            Some(distance) => EventTime(at.0.saturating_sub(distance)),
            None => self.wall_time(at, now),
        }
    }

    fn wall_time(&self, at: Monotonic, now: Now) -> EventTime {
        EventTime(at.0.saturating_add(now.wall_less_monotonic()).saturating_sub(self.clock_uncertainty_us))
    }

    fn note_leader(&mut self, partition: PartitionId, leader: i32) {
        if let Some(previous) = self.leaders.insert(partition, leader)
            && previous != leader
        {
            self.samples.remove(&previous);
        }
    }

    fn note_clock(&mut self, now: Now) {
        let distance = now.wall_less_monotonic();
        if let Some(previous) = self.wall_less_monotonic.replace(distance)
            && previous.abs_diff(distance) > STEP_US.unsigned_abs()
        {
            self.samples.clear();
        }
    }
}

/// Distances of our clock to one broker's: the smallest of each half minute, oldest first.
#[derive(Clone, Debug, Default)]
struct Samples {
    buckets: VecDeque<(i64, i64)>,
}

impl Samples {
    fn add(&mut self, received: Monotonic, distance: i64) {
        let bucket = received.0.div_euclid(BUCKET_US);
        match self.buckets.back_mut() {
            Some((last, smallest)) if *last >= bucket => *smallest = distance.min(*smallest),
            _ => self.buckets.push_back((bucket, distance)),
        }
        while self.buckets.front().is_some_and(|(first, _)| first + BUCKETS <= bucket) {
            self.buckets.pop_front();
        }
    }

    fn smallest(&self, now: Monotonic) -> Option<i64> {
        let bucket = now.0.div_euclid(BUCKET_US);
        self.buckets.iter().filter(|(first, _)| first + BUCKETS > bucket).map(|(_, distance)| *distance).min()
    }
}

#[cfg(test)]
mod tests;
