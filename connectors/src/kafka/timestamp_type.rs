//! Who stamped the records: LogAppendTime is checked at the topic's configuration and at each record, because batches
//! from before a switch keep their CreateTime.

use std::{sync::Arc, time::Duration};

use tidemill_engine::{EngineError, source::TimestampKind};

use super::{
    cluster::Cluster,
    fault::Fault,
    input::Shared,
    partition::Partition,
    range::{Range, deadline, read_ranges},
};

/// How long the search for the switch may take: the job stops anyway, the user waits for the message.
const SEARCH_WITHIN: Duration = Duration::from_secs(8);

/// Refuses a topic that is configured for CreateTime. A configuration that we may not see passes: its records tell.
pub(super) fn check_topics(cluster: &Cluster, topics: &[String], within: Duration) -> Result<(), Fault> {
    for (topic, kind) in topics.iter().zip(kinds(cluster, topics, within)?) {
        match kind.as_deref() {
            Some("CreateTime") => {
                let bootstrap = cluster.connection().bootstrap();
                return Err(Fault::CreateTimeTopic { topic: topic.clone(), bootstrap });
            }
            Some(_) => {}
            None => tracing::debug!(topic, "message.timestamp.type cannot be seen; each record is checked"),
        }
    }
    Ok(())
}

/// What each topic's settings say of it; `None` where we may not see them.
pub(super) fn kinds(cluster: &Cluster, topics: &[String], within: Duration) -> Result<Vec<Option<String>>, Fault> {
    cluster.settings(topics, "message.timestamp.type", within)
}

/// The fault of a CreateTime record, with the offsets at which its topic's partitions were switched.
pub(super) fn create_time_record(shared: &Arc<Shared>, partition: &Partition, offset: i64) -> Fault {
    let mut offsets = switches(shared, &partition.topic).unwrap_or_else(|fault| {
        tracing::debug!(%fault, "the switch to LogAppendTime was not found");
        Vec::new()
    });
    let switch = offsets.iter().find(|(number, _)| *number == partition.number).and_then(|(_, switch)| *switch);
    if offsets.iter().any(|(_, switch)| switch.is_none()) {
        offsets.clear();
    }
    Fault::CreateTimeRecord {
        topic: partition.topic.to_string(),
        number: partition.number,
        offset,
        switch,
        offsets: offsets.into_iter().filter_map(|(number, switch)| Some((number, switch?))).collect(),
    }
}

/// For each partition of a topic, the first offset from which on no record is CreateTime, if found in time.
fn switches(shared: &Arc<Shared>, topic: &str) -> Result<Vec<(i32, Option<i64>)>, EngineError> {
    let clock = &*shared.clock;
    let until = deadline(clock, SEARCH_WITHIN);
    let partitions: Vec<_> = shared.table.all().into_iter().filter(|p| *p.topic == *topic).collect();
    let bounds = shared.bounds(&partitions).map_err(|fault| shared.settings.error(fault))?;
    let mut found = Vec::with_capacity(partitions.len());
    for (partition, (earliest, end)) in partitions.iter().zip(bounds) {
        let probe = |from, to| {
            let mut record = None;
            let ranges = [Range { partition: partition.clone(), from, to, at_most: 1 }];
            let mut source = Shared::range_source(shared, &ranges)?;
            let complete = read_ranges(source.as_mut(), &ranges, clock, until, |read| {
                record = Some((read.offset, read.timestamp_kind));
            })?;
            Ok::<_, EngineError>(complete.then_some(record))
        };
        found.push((partition.number, switch_offset(earliest, end, probe)?));
    }
    Ok(found)
}

/// The first offset of `from..=end` from which on no record is CreateTime, by bisection: a log is switched once.
///
/// `probe(from, to)` gives the first record of `from..to` with its offset, or `None` where there is none; an outer `None`
/// ends the search without a result.
fn switch_offset<E>(
    mut from: i64,
    mut end: i64,
    mut probe: impl FnMut(i64, i64) -> Result<Option<Option<(i64, TimestampKind)>>, E>,
) -> Result<Option<i64>, E> {
    while from < end {
        let middle = from + (end - from) / 2;
        match probe(middle, end)? {
            None => return Ok(None),
            Some(Some((offset, kind))) if kind != TimestampKind::LogAppend => from = offset + 1,
            Some(_) => end = middle,
        }
    }
    Ok(Some(from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_is_found_by_bisection() {
        // Offsets 10 to 99, of which every third exists; before `switch` the producer stamped them.
        for switch in [10, 11, 12, 13, 50, 98, 100] {
            let mut probes = 0;
            let found = switch_offset(10, 100, |from, to| {
                probes += 1;
                let kind = |o| if o < switch { TimestampKind::Create } else { TimestampKind::LogAppend };
                Ok::<_, ()>(Some((from..to).find(|o| o % 3 == 1).map(|o| (o, kind(o)))))
            });
            let last_create = (10..switch).rfind(|o| o % 3 == 1);
            assert_eq!(found, Ok(Some(last_create.map_or(10, |o| o + 1))), "switch at {switch}");
            assert!(probes <= 7, "{probes} probes");
        }
        assert_eq!(switch_offset(0, 8, |_, _| Ok::<_, ()>(None)), Ok(None));
    }
}
