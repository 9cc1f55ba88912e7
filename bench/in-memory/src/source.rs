//! A source over captured answers: read, checked and walked as those of a broker.

use std::time::Duration;

use tidemill_connectors::kafka::{
    answer::FetchAnswer,
    records::{BadBatch, Unpacker, WalkedRecord, batches},
};
use tidemill_engine::{
    EngineError, ErrorKind, Monotonic, Result,
    source::{PartitionId, Record, Source, SourceEvent, TimestampKind, Visit},
};

use crate::capture::{Captured, VERSION};

/// Records that are handed over at once, as a job's.
const RUN: usize = 512;

/// A worker's partitions, an answer of each in turn.
pub(crate) struct Answers {
    topic: String,
    /// With the next answer of each; one more than there are: finished.
    partitions: Vec<(Captured, usize)>,
    joined: bool,
    answer: FetchAnswer,
    unpacker: Unpacker,
}

impl Answers {
    pub(crate) fn new(topic: &str, captured: &[Captured], (worker, workers): (usize, usize)) -> Self {
        let own = captured.iter().filter(|partition| partition.number as usize % workers == worker);
        Self {
            topic: topic.to_owned(),
            partitions: own.map(|partition| (partition.clone(), 0)).collect(),
            joined: false,
            answer: FetchAnswer::default(),
            unpacker: Unpacker::default(),
        }
    }
}

impl Source for Answers {
    fn poll(&mut self, _wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        let Self { topic, partitions, joined, answer, unpacker } = self;
        let id = |captured: &Captured| PartitionId(captured.number as u32);
        if !std::mem::replace(joined, true) {
            for (captured, _) in partitions.iter() {
                let (partition, number) = (id(captured), captured.number);
                visit(SourceEvent::Joined { partition, topic, number, start_offset: 0 })?;
            }
        }
        for (captured, next) in partitions.iter_mut().filter(|(captured, next)| *next <= captured.answers.len()) {
            match captured.answers.get(*next) {
                Some(bytes) => hand_over(id(captured), bytes, answer, unpacker, visit)?,
                None => visit(SourceEvent::Finished { partition: id(captured) })?,
            }
            *next += 1;
        }
        Ok(())
    }

    fn finished(&self) -> bool {
        self.joined && self.partitions.iter().all(|(captured, next)| *next > captured.answers.len())
    }
}

fn hand_over(
    partition: PartitionId,
    bytes: &[u8],
    answer: &mut FetchAnswer,
    unpacker: &mut Unpacker,
    visit: &mut Visit<'_>,
) -> Result<()> {
    answer.read(bytes, VERSION).map_err(|bad| refused(&bad))?;
    for fetched in &answer.partitions {
        for batch in batches(&bytes[fetched.records.clone()]) {
            let batch = batch.map_err(|bad| refused(&bad))?;
            let walked = unpacker.records(&batch).map_err(|bad| refused(&bad))?;
            let walked: Vec<WalkedRecord<'_>> = walked.collect::<Result<_, BadBatch>>().map_err(|bad| refused(&bad))?;
            for run in walked.chunks(RUN) {
                let records: Vec<Record<'_>> = run.iter().map(record).collect();
                let (records, received) = (&records[..], Monotonic(0));
                visit(SourceEvent::Records { partition, records, received, live_from: None })?;
            }
        }
    }
    Ok(())
}

fn record<'a>(walked: &WalkedRecord<'a>) -> Record<'a> {
    let WalkedRecord { offset, timestamp_ms, key, value, .. } = *walked;
    let timestamp_kind = TimestampKind::LogAppend;
    Record { offset, timestamp_ms, timestamp_kind, key, value, headers: &[], unread_headers: None }
}

fn refused(bad: &dyn std::error::Error) -> EngineError {
    EngineError::Source { input: "events".to_owned(), kind: ErrorKind::Bug, message: bad.to_string() }
}
