//! A partition's share of an epoch as text, for the metadata beside its committed offset:
//! `tidemill/2 g=7 e=120 a=119 p=a1b2 s=- t=<topic id> n=480 w=1700000000000000,- r=L:W,+3:W|L:W`.
//!
//! Offsets of advances count from the committed offset, watermarks are microseconds, `-` is "before everything". What a
//! partition does not depend on (generation, epoch, plan, snapshot, what was written) is in each of them, so that any one says
//! it.

use std::fmt::{self, Write};

use super::record::{EpochRecord, PartitionRecord, ReaderRecord};

/// First word of the metadata: whose it is, and its version.
const NAME: &str = "tidemill/2";

/// What brokers take of metadata beside an offset by default (`offset.metadata.max.bytes`).
pub(crate) const LIMIT: usize = 4_096;

/// The text of a partition.
pub(crate) fn write(record: &EpochRecord, partition: &PartitionRecord) -> String {
    let mut text = String::new();
    // Writing to a text does not fail.
    let _ = put(&mut text, record, partition);
    text
}

/// The length of an epoch's longest text.
pub(crate) fn longest(record: &EpochRecord) -> usize {
    record.partitions.iter().map(|partition| write(record, partition).len()).max().unwrap_or(0)
}

fn put(text: &mut String, record: &EpochRecord, partition: &PartitionRecord) -> fmt::Result {
    let EpochRecord { generation, epoch, after, plan, snapshot, written_below, .. } = record;
    write!(text, "{NAME} g={generation} e={epoch} a={after} p={plan} s=")?;
    match snapshot {
        Some(snapshot) => write!(text, "{snapshot}")?,
        None => text.push('-'),
    }
    write!(text, " t={} n={} w=", partition.topic_id.as_deref().unwrap_or("-"), partition.next)?;
    for (i, &time) in written_below.iter().enumerate() {
        text.push_str(if i > 0 { "," } else { "" });
        put_time(text, time)?;
    }
    text.push_str(" r=");
    for (i, reader) in partition.readers.iter().enumerate() {
        text.push_str(if i > 0 { "|" } else { "" });
        put_time(text, reader.base.0)?;
        text.push(':');
        put_time(text, reader.base.1)?;
        for &(offset, watermark) in &reader.advances {
            write!(text, ",+{}:", offset - partition.replay)?;
            put_time(text, watermark)?;
        }
    }
    Ok(())
}

fn put_time(text: &mut String, time: i64) -> fmt::Result {
    if time == i64::MIN { text.write_char('-') } else { write!(text, "{time}") }
}

fn time(text: &str) -> Option<i64> {
    if text == "-" { Some(i64::MIN) } else { text.parse().ok() }
}

/// The epoch, with this partition alone in it; `None` for another program's metadata.
pub(crate) fn read(text: &str, input: &str, topic: &str, number: i32, committed: i64) -> Option<EpochRecord> {
    let mut words = text.strip_prefix(NAME)?.split_whitespace();
    let mut word = |name: &str| words.next()?.strip_prefix(name);
    let generation = word("g=")?.parse().ok()?;
    let epoch = word("e=")?.parse().ok()?;
    let after = word("a=")?.parse().ok()?;
    let plan = word("p=")?.to_owned();
    let snapshot = match word("s=")? {
        "-" => None,
        number => Some(number.parse().ok()?),
    };
    let topic_id = Some(word("t=")?).filter(|id| *id != "-").map(str::to_owned);
    let next = word("n=")?.parse().ok()?;
    let times = word("w=")?.split(',').filter(|t| !t.is_empty());
    let written_below = times.map(time).collect::<Option<_>>()?;
    let readers = word("r=")?.split('|').filter(|r| !r.is_empty()).map(|text| reader(text, committed));
    let readers = readers.collect::<Option<_>>()?;
    let (input, topic) = (input.to_owned(), topic.to_owned());
    let partition = PartitionRecord { input, topic, number, topic_id, next, replay: committed, readers };
    Some(EpochRecord { generation, epoch, after, plan, snapshot, written_below, partitions: vec![partition] })
}

fn reader(text: &str, committed: i64) -> Option<ReaderRecord> {
    let mut parts = text.split(',');
    let (largest, watermark) = parts.next()?.split_once(':')?;
    let base = (time(largest)?, time(watermark)?);
    let advance = |part: &str| {
        let (offset, watermark) = part.strip_prefix('+')?.split_once(':')?;
        Some((committed.checked_add(offset.parse().ok()?)?, time(watermark)?))
    };
    Some(ReaderRecord { base, advances: parts.map(advance).collect::<Option<_>>()? })
}

/// One epoch of the shares of its partitions; `None` without any. A group whose inputs were committed one after the other may
/// hold shares of two epochs: what either has written is written, since outputs are flushed before any is committed.
pub(crate) fn join(shares: Vec<EpochRecord>) -> Option<EpochRecord> {
    let newest = shares.iter().max_by_key(|share| share.epoch)?;
    let mut joined = EpochRecord { partitions: vec![], ..newest.clone() };
    for share in shares {
        if share.written_below.len() == joined.written_below.len() {
            for (joined, written) in joined.written_below.iter_mut().zip(share.written_below) {
                *joined = written.max(*joined);
            }
        }
        joined.partitions.extend(share.partitions);
    }
    Some(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(readers: Vec<ReaderRecord>) -> EpochRecord {
        let (input, topic, topic_id) = ("clicks".into(), "t".into(), Some("b8tRS7h4TJ2Vt43Dp85v2A".into()));
        let partition = PartitionRecord { input, topic, number: 3, topic_id, next: 480, replay: 460, readers };
        EpochRecord {
            generation: 7,
            epoch: 120,
            after: 119,
            plan: "a1b2".into(),
            snapshot: None,
            written_below: vec![5, i64::MIN, -7],
            partitions: vec![partition],
        }
    }

    #[test]
    fn a_share_survives_being_text_and_a_foreign_one_is_none() {
        let readers = [
            ReaderRecord { base: (i64::MIN, i64::MIN), advances: vec![] },
            ReaderRecord { base: (10, 12), advances: vec![(460, 20), (479, 1_700_000_000_000_000)] },
        ];
        let reread = |record: &EpochRecord| {
            let text = write(record, &record.partitions[0]);
            read(&text, "clicks", "t", 3, 460).unwrap_or_else(|| panic!("{text}"))
        };
        for count in 0..=2 {
            let mut record = record(readers[..count].to_vec());
            assert_eq!(reread(&record), record);
            record.snapshot = Some(118);
            record.written_below.clear();
            record.partitions[0].topic_id = None;
            assert_eq!(reread(&record), record);
        }
        let foreign = ["", "sarama", "tidemill/1 next=1 written=", "tidemill/2", "tidemill/2 g=x", "tidemill/3 g=1"];
        for text in foreign {
            assert_eq!(read(text, "clicks", "t", 3, 460), None, "{text}");
        }
    }

    #[test]
    fn shares_of_two_epochs_make_the_newer_one_with_what_either_has_written() {
        let (older, mut newer) = (record(vec![]), record(vec![]));
        (newer.epoch, newer.written_below) = (121, vec![4, 9, 9]);
        newer.partitions[0].number = 4;
        let joined = join(vec![older, newer]).unwrap();
        assert_eq!((joined.epoch, &joined.written_below[..]), (121, &[5, 9, 9][..]));
        assert_eq!(joined.partitions.iter().map(|p| p.number).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(join(vec![]), None);
    }
}
