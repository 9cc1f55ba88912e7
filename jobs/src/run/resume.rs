//! Where a run begins: at `start`, or where an earlier run of the job left off.
//!
//! With each partition's committed offset goes a line of metadata: up to where records were taken, and the event time
//! below which each statement's rows were written. The committed offset itself is where reading has to begin for open
//! windows to be whole again, so records between the two are read twice and written once. Everything here but the calls
//! to the group is a pure function of what was found.

use std::collections::BTreeMap;

use tidemill_connectors::kafka::{Committed, Start};
use tidemill_engine::{
    EventTime,
    dataflow::{merge::CompletedEpoch, plan::Dataflow, stage::reach_back},
    source::PartitionId,
};

use super::{
    RunOptions, before,
    error::RunError,
    inputs::{ConnectedInput, Transport},
};

/// Where a run begins.
#[derive(Debug, Default)]
pub(super) struct Begin {
    /// First offsets of each input, by partition; empty for files.
    pub(super) offsets: Vec<Vec<i64>>,
    /// Of each input, the partitions and the offsets below which an earlier run has taken the records.
    pub(super) replay_below: Vec<BTreeMap<PartitionId, i64>>,
    /// For each statement the event time below which rows are not to be written (again).
    pub(super) floors: Vec<EventTime>,
}

/// Asks the groups and decides.
pub(super) fn begin(
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    options: &RunOptions,
) -> Result<Begin, RunError> {
    let mut begin = Begin::default();
    for input in connected {
        let Transport::Kafka { input, group, start } = &input.transport else {
            begin.offsets.push(vec![]);
            begin.replay_below.push(BTreeMap::new());
            continue;
        };
        let resume = !options.bounded && !options.from_start;
        let committed = if resume { group.committed()? } else { BTreeMap::new() };
        if committed.is_empty() {
            let (start, floor) = start_of(start, dataflow, options.clock.wall());
            begin.offsets.push(input.resolve_start(&start, &committed)?);
            begin.replay_below.push(BTreeMap::new());
            raise(&mut begin.floors, &vec![floor; statements(dataflow)]);
        } else {
            begin.offsets.push(input.resolve_start(start, &committed)?);
            let marks = committed.iter().filter_map(|(&p, c)| Some((p, Mark::parse(&c.metadata)?)));
            let marks: BTreeMap<_, _> = marks.collect();
            marks.values().for_each(|mark| raise(&mut begin.floors, &mark.written_below));
            begin.replay_below.push(marks.into_iter().map(|(p, mark)| (p, mark.next_offset)).collect());
        }
    }
    Ok(begin)
}

/// Commits where an epoch's replay would begin.
pub(super) fn commit(connected: &[ConnectedInput], epoch: &CompletedEpoch) -> Result<(), RunError> {
    for (index, input) in connected.iter().enumerate() {
        let Transport::Kafka { group, .. } = &input.transport else { continue };
        let positions = epoch.positions.iter().filter(|p| p.input == index).map(|p| {
            let mark = Mark { next_offset: p.next_offset, written_below: epoch.written_below.clone() };
            (p.partition, Committed { offset: p.replay_offset, metadata: mark.to_string() })
        });
        group.commit(&positions.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// Where to start reading so that the first window is whole, and below which event time no row is written.
fn start_of(start: &Start, dataflow: &Dataflow, now: EventTime) -> (Start, EventTime) {
    match start {
        Start::Time(time) => (Start::Time(before(*time, dataflow)), *time),
        Start::Latest if reach_back(dataflow) > 0 => (Start::Time(before(now, dataflow)), now),
        other => (other.clone(), EventTime::MIN),
    }
}

fn statements(dataflow: &Dataflow) -> usize {
    dataflow
        .nodes
        .iter()
        .filter(|n| matches!(n.operator, tidemill_engine::dataflow::plan::OperatorPlan::Output(_)))
        .count()
}

/// Each floor becomes the larger one. Lists of different lengths come from different queries: then nothing is known to
/// have been written.
fn raise(floors: &mut Vec<EventTime>, other: &[EventTime]) {
    if floors.is_empty() {
        floors.extend_from_slice(other);
    } else if floors.len() == other.len() {
        floors.iter_mut().zip(other).for_each(|(floor, other)| *floor = (*floor).max(*other));
    }
}

/// The metadata beside a committed offset, as text: `tidemill/1 next=120 written=1700000000000000,-`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    /// Records below it were taken.
    next_offset: i64,
    /// For each statement the event time below which its rows were written.
    written_below: Vec<EventTime>,
}

/// First word of the metadata: whose it is, and its version.
const MARK: &str = "tidemill/1";

impl std::fmt::Display for Mark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{MARK} next={} written=", self.next_offset)?;
        for (i, t) in self.written_below.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match *t {
                EventTime::MIN => write!(f, "{comma}-")?,
                EventTime(t) => write!(f, "{comma}{t}")?,
            }
        }
        Ok(())
    }
}

impl Mark {
    /// `None` for another program's metadata.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix(MARK)?.split_whitespace();
        let next_offset = words.next()?.strip_prefix("next=")?.parse().ok()?;
        let written = words.next()?.strip_prefix("written=")?;
        let time = |t: &str| if t == "-" { Some(EventTime::MIN) } else { t.parse().ok().map(EventTime) };
        let written_below = written.split(',').filter(|t| !t.is_empty()).map(time).collect::<Option<_>>()?;
        Some(Self { next_offset, written_below })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_being_text_and_a_foreign_one_is_none() {
        for written_below in [vec![], vec![EventTime::MIN], vec![EventTime(5), EventTime::MIN, EventTime(-7)]] {
            let mark = Mark { next_offset: 120, written_below };
            assert_eq!(Mark::parse(&mark.to_string()), Some(mark));
        }
        for foreign in ["", "sarama", "tidemill/2 next=1 written=", "tidemill/1 next=x written=", "tidemill/1"] {
            assert_eq!(Mark::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn floors_rise_and_those_of_another_query_do_not_count() {
        let mut floors = vec![];
        raise(&mut floors, &[EventTime(3), EventTime::MIN]);
        raise(&mut floors, &[EventTime(2), EventTime(9)]);
        assert_eq!(floors, [EventTime(3), EventTime(9)]);
        raise(&mut floors, &[EventTime(100)]);
        assert_eq!(floors, [EventTime(3), EventTime(9)]);
    }
}
