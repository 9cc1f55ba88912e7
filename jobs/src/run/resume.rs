//! Where a run begins: at `start`, or where an earlier run of the job left off.
//!
//! With each partition's committed offset goes a line of metadata: up to where records were taken, and the event time
//! below which each statement's rows were written. The committed offset itself is where reading has to begin for open
//! windows to be whole again, so records between the two are read twice and written once. Everything here but the calls
//! to the group is a pure function of what was found.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_connectors::kafka::{Committed, Start};
use tidemill_engine::{
    EventTime,
    dataflow::{
        merge::CompletedEpoch,
        plan::{Dataflow, OperatorPlan},
        stage::reach_back,
    },
    epoch::{Resume, Written},
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
    /// Of each input, where an earlier run has left the partitions.
    pub(super) resume: Vec<BTreeMap<PartitionId, Resume>>,
    /// For each statement the event time below which rows are not to be written (again).
    floors: Vec<EventTime>,
}

impl Begin {
    /// What each statement's output has.
    pub(super) fn written(&self) -> Vec<Written> {
        self.floors.iter().map(|&below| Written { below, covering: 0 }).collect()
    }
}

/// Asks the groups and decides.
pub(super) fn begin(
    connected: &[ConnectedInput],
    dataflow: &Dataflow,
    options: &RunOptions,
) -> Result<Begin, RunError> {
    let statements = statements(dataflow);
    let mut begin = Begin { floors: vec![EventTime::MIN; statements.len()], ..Begin::default() };
    for (index, input) in connected.iter().enumerate() {
        let (mut offsets, mut resume) = (vec![], BTreeMap::new());
        let taken_below = |next| Resume { covered: vec![next], readers: vec![] };
        if let Transport::Kafka { input, group, start } = &input.transport {
            let goes_on = !options.bounded && !options.from_start;
            let committed = if goes_on { group.committed()? } else { BTreeMap::new() };
            if committed.is_empty() {
                let (start_at, floor) = start_of(start, dataflow, options.clock.wall());
                offsets = input.resolve_start(&start_at, &committed)?;
                if start_at != *start {
                    let first = input.resolve_start(start, &committed)?;
                    resume = (0..).map(PartitionId).zip(first.into_iter().map(taken_below)).collect();
                }
                raise(&mut begin.floors, &statements, index, &vec![floor; statements.len()]);
            } else {
                offsets = input.resolve_start(start, &committed)?;
                for (partition, mark) in committed.iter().filter_map(|(&p, c)| Some((p, Mark::parse(&c.metadata)?))) {
                    raise(&mut begin.floors, &statements, index, &mark.written_below);
                    resume.insert(partition, taken_below(mark.next_offset));
                }
            }
        }
        begin.offsets.push(offsets);
        begin.resume.push(resume);
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

/// What an output node reads.
#[derive(Clone, Debug, Default)]
struct Statement {
    inputs: BTreeSet<usize>,
    /// Whether a window lies between: then its rows are told apart by event time, otherwise by the offsets of their records.
    windowed: bool,
}

fn statements(dataflow: &Dataflow) -> Vec<Statement> {
    let mut reads: Vec<Statement> = vec![];
    let mut statements = vec![];
    for node in &dataflow.nodes {
        let mut read = Statement::default();
        for &from in &node.inputs {
            read.inputs.extend(&reads[from].inputs);
            read.windowed |= reads[from].windowed;
        }
        read.windowed |= node.operator.waits_for_watermark();
        match &node.operator {
            OperatorPlan::Input(plan) => drop(read.inputs.insert(plan.input)),
            OperatorPlan::Output(_) => statements.push(read.clone()),
            _ => {}
        }
        reads.push(read);
    }
    statements
}

/// Raises the floors of the windowed statements that read this input. A list of another length comes from another query:
/// then its smallest entry holds for all, so that nothing is lost.
fn raise(floors: &mut [EventTime], statements: &[Statement], input: usize, written_below: &[EventTime]) {
    let smallest = written_below.iter().copied().min().unwrap_or(EventTime::MIN);
    let same_query = written_below.len() == statements.len();
    for (i, (floor, statement)) in floors.iter_mut().zip(statements).enumerate() {
        if statement.windowed && statement.inputs.contains(&input) {
            *floor = (*floor).max(if same_query { written_below[i] } else { smallest });
        }
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
    fn floors_rise_for_windows_over_the_input_alone() {
        let reads = |inputs: &[usize], windowed| Statement { inputs: inputs.iter().copied().collect(), windowed };
        let statements = [reads(&[0], true), reads(&[0, 1], true), reads(&[1], true), reads(&[0], false)];
        let mut floors = vec![EventTime::MIN; 4];
        raise(&mut floors, &statements, 0, &[EventTime(3), EventTime(2), EventTime(9), EventTime(9)]);
        assert_eq!(floors, [EventTime(3), EventTime(2), EventTime::MIN, EventTime::MIN]);
        raise(&mut floors, &statements, 1, &[EventTime(5), EventTime(7), EventTime(4), EventTime(5)]);
        assert_eq!(floors, [EventTime(3), EventTime(7), EventTime(4), EventTime::MIN]);
        raise(&mut floors, &statements, 0, &[EventTime(100), EventTime(6)]);
        assert_eq!(floors, [EventTime(6), EventTime(7), EventTime(4), EventTime::MIN], "another query's");
    }
}
