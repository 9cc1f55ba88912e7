//! Messages of the formats before v2, which Kafka before 0.11 wrote and which stay in a log for as long as it keeps them.
//!
//! They are rewritten as records of v2 into a buffer, so that all behind it knows one format: a copy that only such logs pay.
//! librdkafka does not read them from brokers since 2.7 (it takes their lengths for varints there), so it is no way out. Source:
//! Apache Kafka, "Message format", "Old message format".

use super::{BadBatch, Batch, LENGTH_END, array, varint};

/// Bytes before what the CRC covers: offset, size, the CRC itself.
const CRC_END: usize = 16;
/// Bytes of a message without key and value, by format.
const LEAST: [usize; 2] = [CRC_END + 10, CRC_END + 18];
/// Attributes: who stamped it.
const LOG_APPEND: u8 = 0x08;
/// Attributes: how its value is compressed.
const CODEC: u8 = 0x07;

/// A message, or one that holds others, packed.
#[derive(Clone, Copy, Debug)]
struct Message<'a> {
    offset: i64,
    magic: i8,
    attributes: u8,
    /// -1: none.
    timestamp_ms: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first of `bytes` and what follows it; an inner `None` when it does not end there.
    fn read(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, BadBatch> {
        const PART: BadBatch = BadBatch::Truncated { part: "message" };
        if bytes.len() < LEAST[0] {
            return Ok(None);
        }
        let magic = i8::from_be_bytes(array(bytes, CRC_END));
        let least = *usize::try_from(magic).ok().and_then(|magic| LEAST.get(magic)).ok_or(PART)?;
        let size = usize::try_from(i32::from_be_bytes(array(bytes, 8))).map_err(|_| PART)?;
        if size + LENGTH_END < least {
            return Err(PART);
        }
        let Some((bytes, rest)) = bytes.split_at_checked(size + LENGTH_END) else { return Ok(None) };
        let timestamp_ms = if magic == 0 { -1 } else { i64::from_be_bytes(array(bytes, CRC_END + 2)) };
        let (key, behind) = sized(&bytes[least - 8..]).ok_or(PART)?;
        let (value, behind) = sized(behind).ok_or(PART)?;
        if !behind.is_empty() {
            return Err(PART);
        }
        let (offset, attributes) = (i64::from_be_bytes(array(bytes, 0)), bytes[CRC_END + 1]);
        Ok(Some((Self { offset, magic, attributes, timestamp_ms, key, value, bytes }, rest)))
    }

    fn check(&self) -> Result<(), BadBatch> {
        let found = u32::from_be_bytes(array(self.bytes, 12));
        let mut crc = flate2::Crc::new();
        crc.update(&self.bytes[CRC_END..]);
        let (base_offset, computed) = (self.offset, crc.sum());
        if found == computed { Ok(()) } else { Err(BadBatch::Checksum { base_offset, found, computed }) }
    }

    /// Appends it as a record of a batch that begins at `base_offset`.
    fn append(&self, offset: i64, base_offset: i64, into: &mut Vec<u8>) {
        let start = into.len();
        into.push(0); // attributes
        varint::write(into, self.timestamp_ms);
        varint::write(into, offset.wrapping_sub(base_offset));
        for bytes in [self.key, self.value] {
            varint::write(into, bytes.map_or(-1, |bytes| bytes.len() as i64));
            into.extend(bytes.unwrap_or_default());
        }
        into.push(0); // no headers
        let mut length = Vec::new();
        varint::write(&mut length, (into.len() - start) as i64);
        into.splice(start..start, length);
    }
}

/// Bytes behind their length of four bytes; a length of -1 stands for none.
fn sized(bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    match i32::from_be_bytes(*length) {
        -1 => Some((None, rest)),
        length => rest.split_at_checked(usize::try_from(length).ok()?).map(|(bytes, rest)| (Some(bytes), rest)),
    }
}

/// The message at the front of `bytes` as a batch, and what follows it; `None` when it was cut off.
pub(super) fn batch(bytes: &[u8]) -> Result<Option<(Batch<'_>, &[u8])>, BadBatch> {
    let Some((message, rest)) = Message::read(bytes)? else { return Ok(None) };
    let next_offset = message.offset.checked_add(1).ok_or(BadBatch::Truncated { part: "offsets" })?;
    let batch = Batch {
        base_offset: message.offset,
        next_offset,
        leader_epoch: -1,
        producer_id: -1,
        magic: message.magic,
        attributes: i16::from(message.attributes & (CODEC | LOG_APPEND)),
        // Records carry their timestamps whole.
        base_timestamp_ms: 0,
        max_timestamp_ms: message.timestamp_ms,
        count: 1,
        bytes: message.bytes,
    };
    Ok(Some((batch, rest)))
}

/// What a message packs, after its CRC was checked; `None` when it packs nothing.
pub(super) fn packed<'a>(batch: &Batch<'a>) -> Result<Option<&'a [u8]>, BadBatch> {
    let message = whole(batch)?;
    message.check()?;
    Ok(if batch.codec() == 0 { None } else { Some(message.value.unwrap_or_default()) })
}

/// Rewrites a message, or those that it held, as records into `into`; says how many they are.
pub(super) fn rewrite(batch: &Batch<'_>, unpacked: Option<&[u8]>, into: &mut Vec<u8>) -> Result<i32, BadBatch> {
    into.clear();
    let Some(mut rest) = unpacked else {
        whole(batch)?.append(batch.base_offset, batch.base_offset, into);
        return Ok(1);
    };
    let mut messages = Vec::new();
    while let Some((message, behind)) = Message::read(rest)? {
        if message.attributes & CODEC != 0 {
            return Err(BadBatch::Truncated { part: "nested message" });
        }
        messages.push(message);
        rest = behind;
    }
    // Since v1 offsets in there count from the first one, and the whole has that of the last one.
    let first = match messages.last() {
        Some(last) if batch.magic > 0 => batch.base_offset.wrapping_sub(last.offset),
        _ => 0,
    };
    for message in &messages {
        message.append(first.wrapping_add(message.offset), batch.base_offset, into);
    }
    i32::try_from(messages.len()).map_err(|_| BadBatch::Truncated { part: "messages" })
}

fn whole<'a>(batch: &Batch<'a>) -> Result<Message<'a>, BadBatch> {
    let read = Message::read(batch.bytes)?;
    read.map(|(message, _)| message).ok_or(BadBatch::Truncated { part: "message" })
}
