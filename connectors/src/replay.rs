//! Records that were kept, as a source: dead letters that run through their input once more. And a source that leaves them out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tidemill_engine::{
    Clock, Result,
    source::{Header, PartitionId, Record, Source, SourceEvent, TimestampKind, Visit},
};

/// A record with its place, as it once came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// Its topic; a file's path.
    pub topic: String,
    /// Its partition; 0 for a file.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Key, if any.
    pub key: Option<Vec<u8>>,
    /// Payload; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Names and values.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Hands over kept records, partition by partition in the order of their offsets, and ends.
pub struct KeptSource {
    records: Vec<KeptRecord>,
    clock: Arc<dyn Clock>,
    done: bool,
}

impl KeptSource {
    /// For these records, in any order.
    #[must_use]
    pub fn new(mut records: Vec<KeptRecord>, clock: Arc<dyn Clock>) -> Self {
        records.sort_by(|a, b| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
        Self { records, clock, done: false }
    }
}

impl Source for KeptSource {
    fn poll(&mut self, _wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(());
        }
        let partitions = self.records.chunk_by(|a, b| (&a.topic, a.partition) == (&b.topic, b.partition));
        // All are announced before the first ends, so that no watermark passes records of another.
        for (id, kept) in (0..).map(PartitionId).zip(partitions.clone()) {
            let Some(KeptRecord { topic, partition, offset, .. }) = kept.first() else { continue };
            visit(SourceEvent::Joined { partition: id, topic, number: *partition, start_offset: *offset })?;
        }
        for (id, kept) in (0..).map(PartitionId).zip(partitions) {
            for one in kept {
                let headers: Vec<_> =
                    one.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
                let record = Record {
                    offset: one.offset,
                    timestamp_ms: one.timestamp_ms,
                    timestamp_kind: TimestampKind::LogAppend,
                    key: one.key.as_deref(),
                    value: one.value.as_deref(),
                    headers: &headers,
                    unread_headers: None,
                };
                let (records, received) = (std::slice::from_ref(&record), self.clock.monotonic());
                visit(SourceEvent::Records { partition: id, records, received, live_from: None })?;
            }
            visit(SourceEvent::Finished { partition: id })?;
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.done
    }
}

/// Offsets by topic (a file's path) and partition.
pub type Places = BTreeMap<(String, i32), BTreeSet<i64>>;

/// A source without some of its records.
pub struct Without {
    source: Box<dyn Source>,
    places: Arc<Places>,
    /// The partitions that have such records, by their places.
    partitions: HashMap<PartitionId, (String, i32)>,
}

impl Without {
    /// Leaves out the records in these places.
    #[must_use]
    pub fn new(source: Box<dyn Source>, places: Arc<Places>) -> Self {
        Self { source, places, partitions: HashMap::new() }
    }
}

impl Source for Without {
    fn poll(&mut self, wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        let Self { source, places, partitions } = self;
        source.poll(wait, &mut |event| {
            if let SourceEvent::Joined { partition, topic, number, .. } = event {
                let place = (topic.to_owned(), number);
                if places.contains_key(&place) {
                    partitions.insert(partition, place);
                }
            }
            let SourceEvent::Records { partition, records, received, live_from } = event else { return visit(event) };
            let Some(left_out) = partitions.get(&partition).and_then(|place| places.get(place)) else {
                return visit(event);
            };
            let runs = records.split(|record| left_out.contains(&record.offset)).filter(|run| !run.is_empty());
            for records in runs {
                visit(SourceEvent::Records { partition, records, received, live_from })?;
            }
            Ok(())
        })
    }

    fn finished(&self) -> bool {
        self.source.finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::FixedClock;

    #[test]
    fn kept_records_come_as_they_came() {
        let record = |partition, offset| KeptRecord {
            topic: "t".to_owned(),
            partition,
            offset,
            timestamp_ms: offset * 10,
            key: None,
            value: Some(vec![offset as u8]),
            headers: vec![("h".to_owned(), None)],
        };
        let records = || vec![record(1, 3), record(0, 9), record(0, 2)];
        let kept = || KeptSource::new(records(), Arc::new(FixedClock::default()));
        let told = |mut source: Box<dyn Source>| {
            let mut seen = Vec::new();
            let polled = source.poll(Duration::ZERO, &mut |event| {
                seen.push(match event {
                    SourceEvent::Joined { partition, number, .. } => format!("joined {} {number}", partition.0),
                    SourceEvent::Records { partition, records: [record], .. } => {
                        assert_eq!((record.timestamp_ms, record.headers.len()), (record.offset * 10, 1));
                        format!("{} at {}", partition.0, record.offset)
                    }
                    SourceEvent::Finished { partition } => format!("finished {}", partition.0),
                    other => format!("{other:?}"),
                });
                Ok(())
            });
            polled.unwrap();
            assert!(source.finished());
            seen
        };
        let all = ["joined 0 0", "joined 1 1", "0 at 2", "0 at 9", "finished 0", "1 at 3", "finished 1"];
        assert_eq!(told(Box::new(kept())), all);
        let places: Places = [(("t".to_owned(), 0), [2, 3].into()), (("u".to_owned(), 1), [3].into())].into();
        let fewer = ["joined 0 0", "joined 1 1", "0 at 9", "finished 0", "1 at 3", "finished 1"];
        assert_eq!(told(Box::new(Without::new(Box::new(kept()), Arc::new(places)))), fewer);
    }
}
