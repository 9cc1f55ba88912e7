//! Record batches (message format v2) walked where they lie in a fetch answer, and what was written before them ([`old`]). All
//! bytes are untrusted.
//!
//! [`batches`] cuts an answer's bytes of one partition into whole batches; [`Unpacker::records`] checks a batch's CRC32C,
//! unpacks it into a reused buffer if it is compressed, and walks its records: each is a handful of slices of that memory.
//! Every length is held against the bytes that are there, so that hostile bytes give a [`BadBatch`] and never a read
//! outside of them. Source: Apache Kafka, "Record Batch" of the protocol guide.

mod aborted;
mod compression;
mod old;
#[cfg(test)]
pub(super) mod tests;
mod varint;

use tidemill_engine::source::{Header, ReadHeaders, TimestampKind, UnreadHeaders};

pub(super) use aborted::AbortedTransactions;
pub use compression::Unpacker;

/// Bytes of a batch before its records.
const HEADER_BYTES: usize = 61;
/// Bytes before what `batch_length` counts: the base offset and the length itself.
const LENGTH_END: usize = 12;
/// Bytes before what the CRC covers.
const CRC_END: usize = 21;

/// Why bytes are not a record batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    /// A message format after v2.
    #[error("message format v{magic} is not known")]
    UnknownFormat {
        /// As it stands in the batch.
        magic: i8,
    },
    /// The bytes are not those that the producer sent.
    #[error("CRC32C {found:08x} of the batch at offset {base_offset} does not match its bytes ({computed:08x})")]
    Checksum {
        /// First offset of the batch.
        base_offset: i64,
        /// As it stands in the batch.
        found: u32,
        /// Of its bytes.
        computed: u32,
    },
    /// A length or a count points outside of the batch.
    #[error("a batch ends within its {part}")]
    Truncated {
        /// What was being read.
        part: &'static str,
    },
    /// A compressed batch that cannot be unpacked.
    #[error("{codec} data cannot be unpacked: {reason}")]
    Compression {
        /// Name of the codec.
        codec: &'static str,
        /// What its library says.
        reason: String,
    },
    /// It would unpack to more than a batch may hold.
    #[error("a batch unpacks to more than {limit} bytes")]
    TooLarge {
        /// Bytes.
        limit: usize,
    },
}

/// What a batch says of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// First offset, also when that record was compacted away.
    pub base_offset: i64,
    /// Offset after the last.
    pub next_offset: i64,
    /// Epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// Of the producer; -1: not idempotent.
    pub producer_id: i64,
    /// Of the format: 2, or that of an old message.
    magic: i8,
    attributes: i16,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    count: i32,
    /// All of its bytes, header included.
    bytes: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Whether it holds markers of transactions and no records of users.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// Whether it belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Its bytes as they lie in the answer.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Who stamped its records.
    #[must_use]
    pub fn timestamp_kind(&self) -> TimestampKind {
        if self.attributes & 0x08 != 0 { TimestampKind::LogAppend } else { TimestampKind::Create }
    }

    /// How many records it holds; `None` for an old message, which says it only when it is unpacked.
    pub(super) fn records(&self) -> Option<u64> {
        u64::try_from(self.count).ok().filter(|_| self.magic == 2)
    }

    fn codec(&self) -> i16 {
        self.attributes & 0x07
    }

    fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// Holds that the bytes are those that the producer sent.
    pub(super) fn check(&self) -> Result<(), BadBatch> {
        let found = u32::from_be_bytes(array(self.bytes, 17));
        let computed = crc32c::crc32c(&self.bytes[CRC_END..]);
        if found == computed {
            Ok(())
        } else {
            Err(BadBatch::Checksum { base_offset: self.base_offset, found, computed })
        }
    }
}

/// `N` bytes at `at`, which the caller knows to be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

/// The whole batches at the front of `bytes`; the broker may cut the last one off, which is left out.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes }
}

/// See [`batches`]. Ends behind the first error.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BadBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.len() <= LENGTH_END + 4 {
            return None;
        }
        // The magic byte stands at the same place in every format.
        let magic = i8::from_be_bytes(array(self.rest, 16));
        if (0..2).contains(&magic) {
            let read = old::batch(self.rest).transpose()?;
            self.rest = read.as_ref().map_or(&[], |(_, rest)| rest);
            return Some(read.map(|(batch, _)| batch));
        }
        if magic != 2 {
            self.rest = &[];
            return Some(Err(BadBatch::UnknownFormat { magic }));
        }
        let length = i32::from_be_bytes(array(self.rest, 8));
        let Some(length) = usize::try_from(length).ok().filter(|&length| length + LENGTH_END >= HEADER_BYTES) else {
            self.rest = &[];
            return Some(Err(BadBatch::Truncated { part: "header" }));
        };
        let (bytes, rest) = self.rest.split_at_checked(LENGTH_END + length)?;
        self.rest = rest;
        let base_offset = i64::from_be_bytes(array(bytes, 0));
        let last_delta = i32::from_be_bytes(array(bytes, 23));
        let Some(next_offset) = base_offset.checked_add(i64::from(last_delta)).and_then(|last| last.checked_add(1))
        else {
            self.rest = &[];
            return Some(Err(BadBatch::Truncated { part: "offsets" }));
        };
        Some(Ok(Batch {
            base_offset,
            next_offset,
            leader_epoch: i32::from_be_bytes(array(bytes, 12)),
            producer_id: i64::from_be_bytes(array(bytes, 43)),
            magic,
            attributes: i16::from_be_bytes(array(bytes, 21)),
            base_timestamp_ms: i64::from_be_bytes(array(bytes, 27)),
            max_timestamp_ms: i64::from_be_bytes(array(bytes, 35)),
            count: i32::from_be_bytes(array(bytes, 57)),
            bytes,
        }))
    }
}

/// One record of a batch: slices of the batch's bytes, or of the buffer that it was unpacked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkedRecord<'a> {
    /// Position in the partition.
    pub offset: i64,
    /// Milliseconds since the epoch: the batch's for LogAppendTime.
    pub timestamp_ms: i64,
    /// Key, if any.
    pub key: Option<&'a [u8]>,
    /// Payload; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers as they lie there: their count and the rest.
    headers: &'a [u8],
}

impl<'a> WalkedRecord<'a> {
    /// Appends the headers. A name that is not UTF-8 comes as U+FFFD.
    ///
    /// # Errors
    /// When they do not end with the record.
    pub fn headers(&self, into: &mut Vec<Header<'a>>) -> Result<(), BadBatch> {
        headers(self.headers, into)
    }

    /// The headers for whoever may need them.
    pub(super) fn unread_headers(&self) -> UnreadHeaders<'a> {
        let read: ReadHeaders = |bytes, into| {
            let _ = headers(bytes, into); // what was read up to the fault is there
        };
        UnreadHeaders { bytes: self.headers, read }
    }
}

fn headers<'a>(bytes: &'a [u8], into: &mut Vec<Header<'a>>) -> Result<(), BadBatch> {
    let mut cursor = Cursor { rest: bytes };
    let count = cursor.count("header count")?;
    for _ in 0..count {
        let name = cursor.sized("header name")?.unwrap_or_default();
        let value = cursor.sized("header value")?;
        into.push(Header { name: std::str::from_utf8(name).unwrap_or("\u{fffd}"), value });
    }
    Ok(())
}

/// Walks the records of a batch.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    cursor: Cursor<'a>,
    left: i32,
    base_offset: i64,
    base_timestamp_ms: i64,
    /// The timestamp of all records, where the broker stamped them.
    append_timestamp_ms: Option<i64>,
}

impl<'a> Records<'a> {
    /// Of a batch whose records, unpacked, are `body`.
    fn new(batch: &Batch<'_>, body: &'a [u8]) -> Self {
        Self::counted(batch, batch.count, body)
    }

    /// Of so many of them.
    fn counted(batch: &Batch<'_>, count: i32, body: &'a [u8]) -> Self {
        let log_append = batch.timestamp_kind() == TimestampKind::LogAppend;
        Self {
            cursor: Cursor { rest: body },
            left: count,
            base_offset: batch.base_offset,
            base_timestamp_ms: batch.base_timestamp_ms,
            append_timestamp_ms: log_append.then_some(batch.max_timestamp_ms),
        }
    }

    /// Bytes of the records that are left, unpacked.
    #[must_use]
    pub fn size(&self) -> usize {
        self.cursor.rest.len()
    }

    #[inline]
    fn walk(&mut self) -> Result<WalkedRecord<'a>, BadBatch> {
        let mut record = Cursor { rest: self.cursor.sized("record")?.ok_or(BadBatch::Truncated { part: "record" })? };
        record.byte("attributes")?;
        let timestamp_delta = record.varint("timestamp")?;
        let offset_delta = record.varint("offset")?;
        let key = record.sized("key")?;
        let value = record.sized("value")?;
        let timestamp_ms = self.append_timestamp_ms.unwrap_or(self.base_timestamp_ms.wrapping_add(timestamp_delta));
        let offset = self.base_offset.wrapping_add(offset_delta);
        Ok(WalkedRecord { offset, timestamp_ms, key, value, headers: record.rest })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<WalkedRecord<'a>, BadBatch>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        let walked = self.walk();
        if walked.is_err() {
            self.left = 0;
        }
        Some(walked)
    }
}

/// What is left of some bytes.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    fn byte(&mut self, part: &'static str) -> Result<u8, BadBatch> {
        let (&byte, rest) = self.rest.split_first().ok_or(BadBatch::Truncated { part })?;
        self.rest = rest;
        Ok(byte)
    }

    #[inline]
    fn varint(&mut self, part: &'static str) -> Result<i64, BadBatch> {
        let (value, rest) = varint::read(self.rest).ok_or(BadBatch::Truncated { part })?;
        self.rest = rest;
        Ok(value)
    }

    /// A count that the bytes left can hold, at a byte each.
    fn count(&mut self, part: &'static str) -> Result<usize, BadBatch> {
        let count = self.varint(part)?;
        usize::try_from(count).ok().filter(|&count| count <= self.rest.len()).ok_or(BadBatch::Truncated { part })
    }

    /// Bytes behind their length; a length below zero stands for none.
    #[inline]
    fn sized(&mut self, part: &'static str) -> Result<Option<&'a [u8]>, BadBatch> {
        let length = self.varint(part)?;
        if length < 0 {
            return Ok(None);
        }
        let split = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let (bytes, rest) = split.ok_or(BadBatch::Truncated { part })?;
        self.rest = rest;
        Ok(Some(bytes))
    }
}
