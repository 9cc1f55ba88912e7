//! Of a source, the records of a time: a scheduled run reads those of its range apart from those that came in late.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidemill_engine::{
    Result,
    source::{Record, Source, SourceEvent, Visit},
};

/// Which timestamps are read.
#[derive(Debug)]
pub struct Stamps {
    range_ms: Range<i64>,
    left_out: AtomicU64,
}

impl Stamps {
    /// From milliseconds since 1970 to before others.
    #[must_use]
    pub fn new(range_ms: Range<i64>) -> Arc<Self> {
        Arc::new(Self { range_ms, left_out: AtomicU64::new(0) })
    }

    /// Records so far that have others.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Relaxed)
    }

    fn are_of(&self, record: &Record<'_>) -> bool {
        self.range_ms.contains(&record.timestamp_ms)
    }
}

/// A source without the records that have other timestamps: they are passed as offsets that hold nothing.
pub(super) struct Stamped {
    pub(super) source: Box<dyn Source>,
    pub(super) stamps: Arc<Stamps>,
}

impl Source for Stamped {
    fn poll(&mut self, wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        let stamps = &self.stamps;
        self.source.poll(wait, &mut |event| {
            let SourceEvent::Records { partition, records, received, live_from } = event else { return visit(event) };
            for records in records.chunk_by(|one, next| stamps.are_of(one) == stamps.are_of(next)) {
                match records {
                    [.., last] if !stamps.are_of(last) => {
                        stamps.left_out.fetch_add(records.len() as u64, Relaxed);
                        visit(SourceEvent::Position { partition, next_offset: last.offset + 1 })?;
                    }
                    _ => visit(SourceEvent::Records { partition, records, received, live_from })?,
                }
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
    use tidemill_engine::{
        Monotonic,
        source::{PartitionId, TimestampKind},
    };

    use super::*;

    /// Records of these timestamps, in one run.
    struct Of(Vec<i64>);

    impl Source for Of {
        fn poll(&mut self, _: Duration, visit: &mut Visit<'_>) -> Result<()> {
            let record = |(offset, timestamp_ms)| Record {
                offset,
                timestamp_ms,
                timestamp_kind: TimestampKind::LogAppend,
                key: None,
                value: None,
                headers: &[],
                unread_headers: None,
            };
            let records: Vec<_> = (0..).zip(self.0.drain(..)).map(record).collect();
            let partition = PartitionId(0);
            visit(SourceEvent::Records { partition, records: &records, received: Monotonic(0), live_from: None })?;
            visit(SourceEvent::Finished { partition })
        }

        fn finished(&self) -> bool {
            self.0.is_empty()
        }
    }

    #[test]
    fn records_of_other_timestamps_are_passed_and_counted() {
        let stamps = Stamps::new(10..20);
        let source = Box::new(Of(vec![9, 10, 19, 20, 8, 12, 9]));
        let (mut source, mut seen) = (Stamped { source, stamps: Arc::clone(&stamps) }, vec![]);
        let visit = &mut |event: SourceEvent<'_>| {
            seen.push(match event {
                SourceEvent::Records { records, .. } => records.iter().map(|record| record.offset).collect(),
                SourceEvent::Position { next_offset, .. } => vec![-next_offset],
                _ => vec![],
            });
            Ok(())
        };
        source.poll(Duration::ZERO, visit).unwrap();
        assert!(source.finished());
        assert_eq!(seen, [vec![-1], vec![1, 2], vec![-5], vec![5], vec![-7], vec![]]);
        assert_eq!(stamps.left_out(), 4);
    }
}
