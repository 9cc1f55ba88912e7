//! Unpacks the records of a batch into a buffer that is used again for the next one.

use std::io::Read;

use flate2::bufread::GzDecoder;
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, ResetDirective, get_error_name, get_frame_content_size};

use super::{BadBatch, Batch, Records, old};

/// Bytes that a batch may unpack to. Brokers take batches of 1 MiB unless told otherwise, which hold less than this by far;
/// a few KiB that claim to hold gigabytes do not get them.
const UNPACKED_LIMIT: usize = 256 << 20;
/// Room that is made at once where nothing says how much is to come.
const STEP: usize = 1 << 20;
/// Bytes that a byte of snappy can stand for, rounded up: an element of 3 bytes copies 64.
const SNAPPY_MOST: usize = 22;
/// Bytes that a byte of zstd may well stand for.
const ZSTD_LIKELY: usize = 64;
/// A buffer above this is given back with the next batch.
const KEPT: usize = 32 << 20;
/// How a snappy stream of Java's library begins; two version numbers follow.
const XERIAL: &[u8] = b"\x82SNAPPY\0";
/// How an LZ4 frame begins.
const LZ4_MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// How far back a linked LZ4 block may refer.
const LZ4_DISTANCE: usize = 64 << 10;

/// Unpacks batches; one for each source.
pub struct Unpacker {
    buffer: Buffer,
    /// Old messages as records.
    rewritten: Vec<u8>,
    snappy: snap::raw::Decoder,
    zstd: DCtx<'static>,
}

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacker").field("buffer_bytes", &self.buffer.bytes.len()).finish_non_exhaustive()
    }
}

impl Default for Unpacker {
    fn default() -> Self {
        Self::with_limit(UNPACKED_LIMIT)
    }
}

impl Unpacker {
    pub(super) fn with_limit(limit: usize) -> Self {
        let buffer = Buffer { bytes: Vec::new(), filled: 0, limit };
        Self { buffer, rewritten: Vec::new(), snappy: snap::raw::Decoder::new(), zstd: DCtx::create() }
    }

    /// The records of a batch, checked against its CRC32C.
    ///
    /// # Errors
    /// A CRC that does not match, or what is compressed and cannot be unpacked.
    pub fn records<'b>(&'b mut self, batch: &Batch<'b>) -> Result<Records<'b>, BadBatch> {
        if batch.magic < 2 {
            return self.old_messages(batch);
        }
        batch.check()?;
        let packed = batch.body();
        if batch.codec() == 0 {
            return Ok(Records::new(batch, packed));
        }
        self.unpack(batch.codec(), packed)?;
        Ok(Records::new(batch, &self.buffer.bytes[..self.buffer.filled]))
    }

    fn old_messages<'b>(&'b mut self, batch: &Batch<'b>) -> Result<Records<'b>, BadBatch> {
        let packed = old::packed(batch)?;
        if let Some(packed) = packed {
            self.unpack(batch.codec(), packed)?;
        }
        let unpacked = packed.map(|_| &self.buffer.bytes[..self.buffer.filled]);
        let count = old::rewrite(batch, unpacked, &mut self.rewritten)?;
        Ok(Records::counted(batch, count, &self.rewritten))
    }

    /// Unpacks into the buffer.
    fn unpack(&mut self, codec: i16, packed: &[u8]) -> Result<(), BadBatch> {
        self.buffer.filled = 0;
        if self.buffer.bytes.len() > KEPT {
            self.buffer.bytes = Vec::new();
        }
        let (codec, unpacked) = match codec {
            1 => ("gzip", self.gzip(packed)),
            2 => ("snappy", self.snappy(packed)),
            3 => ("lz4", self.lz4(packed)),
            4 => ("zstd", self.zstd(packed)),
            _ => ("unknown", Err("there is no such codec".into())),
        };
        unpacked.map_err(|refusal| match refusal {
            Refusal::TooLarge => BadBatch::TooLarge { limit: self.buffer.limit },
            Refusal::Malformed(reason) => BadBatch::Compression { codec, reason },
        })
    }

    fn gzip(&mut self, packed: &[u8]) -> Result<(), Refusal> {
        let mut decoder = GzDecoder::new(packed);
        loop {
            let (_, room) = self.buffer.room(STEP)?;
            match decoder.read(room)? {
                0 => return Ok(()),
                read => self.buffer.filled += read,
            }
        }
    }

    fn snappy(&mut self, packed: &[u8]) -> Result<(), Refusal> {
        let Some(mut rest) = packed.strip_prefix(XERIAL) else { return self.snappy_block(packed) };
        rest = rest.get(8..).ok_or("cut off")?;
        while !rest.is_empty() {
            let (length, behind) = rest.split_first_chunk().ok_or("cut off")?;
            let (block, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or("cut off")?;
            self.snappy_block(block)?;
            rest = behind;
        }
        Ok(())
    }

    fn snappy_block(&mut self, block: &[u8]) -> Result<(), Refusal> {
        let said = snap::raw::decompress_len(block)?;
        if said / SNAPPY_MOST > block.len() {
            return Err("it claims to hold more than it can".into());
        }
        let (_, room) = self.buffer.room(said)?;
        self.buffer.filled += self.snappy.decompress(block, room)?;
        Ok(())
    }

    /// An LZ4 frame, block by block: the libraries' frame readers copy through a window of their own, 2.5 times slower.
    fn lz4(&mut self, packed: &[u8]) -> Result<(), Refusal> {
        let rest = packed.strip_prefix(&LZ4_MAGIC).ok_or("it does not begin like a frame")?;
        let (&[flags, descriptor], rest) = rest.split_first_chunk().ok_or("cut off")?;
        if flags >> 6 != 1 || flags & 0x01 != 0 {
            return Err("a frame of an unknown version, or with a dictionary".into());
        }
        let (linked, block_checksum, size_said) = (flags & 0x20 == 0, flags & 0x10 != 0, flags & 0x08 != 0);
        let block_bytes = match descriptor >> 4 & 0x07 {
            size @ 4..=7 => 1usize << (8 + 2 * u32::from(size)),
            _ => return Err("unknown size of blocks".into()),
        };
        // The content's size, then a byte of checksum, which old producers of Kafka computed wrongly.
        let mut rest = rest.get(if size_said { 9 } else { 1 }..).ok_or("cut off")?;
        loop {
            let (word, behind) = rest.split_first_chunk().ok_or("cut off")?;
            let word = u32::from_le_bytes(*word);
            if word == 0 {
                return Ok(()); // the content's checksum may follow: the batch has its own
            }
            let (stored, length) = (word >> 31 == 1, (word & 0x7fff_ffff) as usize);
            let (block, behind) = behind.split_at_checked(length).ok_or("cut off")?;
            rest = if block_checksum { behind.get(4..).ok_or("cut off")? } else { behind };
            let (before, room) = self.buffer.room(if stored { length } else { block_bytes })?;
            self.buffer.filled += if stored {
                room[..length].copy_from_slice(block);
                length
            } else if linked {
                let dictionary = &before[before.len().saturating_sub(LZ4_DISTANCE)..];
                lz4_flex::block::decompress_into_with_dict(block, room, dictionary)?
            } else {
                lz4_flex::block::decompress_into(block, room)?
            };
        }
    }

    fn zstd(&mut self, packed: &[u8]) -> Result<(), Refusal> {
        let said = get_frame_content_size(packed).ok().flatten();
        let said = said.map_or(STEP, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        // Room for what is said, as far as the bytes at hand make it likely.
        let mut room_wanted = said.min(STEP + packed.len().saturating_mul(ZSTD_LIKELY));
        self.zstd.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
        let mut input = InBuffer::around(packed);
        loop {
            let (_, room) = self.buffer.room(room_wanted)?;
            let mut output = OutBuffer::around(room);
            let frame_left = self.zstd.decompress_stream(&mut output, &mut input).map_err(zstd_error)?;
            let (written, full) = (output.pos(), output.pos() == output.capacity());
            self.buffer.filled += written;
            if input.pos == packed.len() {
                match (frame_left, full) {
                    (0, _) => return Ok(()),
                    (_, true) => {} // the decoder may hold more than there was room for
                    (_, false) => return Err("cut off".into()),
                }
            }
            room_wanted = STEP;
        }
    }
}

/// Why a batch is not unpacked.
enum Refusal {
    TooLarge,
    Malformed(String),
}

impl<E: ToString> From<E> for Refusal {
    fn from(reason: E) -> Self {
        Self::Malformed(reason.to_string())
    }
}

fn zstd_error(code: usize) -> &'static str {
    get_error_name(code)
}

/// Memory that is initialised once and filled again and again.
struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    limit: usize,
}

impl Buffer {
    /// What is filled, and room for `wanted` bytes behind it.
    fn room(&mut self, wanted: usize) -> Result<(&[u8], &mut [u8]), Refusal> {
        let end = self.filled.checked_add(wanted).filter(|&end| end <= self.limit).ok_or(Refusal::TooLarge)?;
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        let (before, room) = self.bytes.split_at_mut(self.filled);
        Ok((before, &mut room[..wanted]))
    }
}
