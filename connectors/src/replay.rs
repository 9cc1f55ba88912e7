//! Records that were kept, as a source: dead letters that run through their input once more.

use std::time::Duration;

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
    clock: std::sync::Arc<dyn Clock>,
    done: bool,
}

impl KeptSource {
    /// For these records, in any order.
    #[must_use]
    pub fn new(mut records: Vec<KeptRecord>, clock: std::sync::Arc<dyn Clock>) -> Self {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
        let records = vec![record(1, 3), record(0, 9), record(0, 2)];
        let mut source = KeptSource::new(records, Arc::new(FixedClock::default()));
        let mut seen = Vec::new();
        source
            .poll(Duration::ZERO, &mut |event| {
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
            })
            .unwrap();
        assert!(source.finished());
        assert_eq!(seen, ["joined 0 0", "joined 1 1", "0 at 2", "0 at 9", "finished 0", "1 at 3", "finished 1"]);
    }
}
