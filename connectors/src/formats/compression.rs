//! Packed payloads: gzip, deflate, zstd, unpacked within a limit before they are decoded.

use std::io::{self, BufRead, Read, Write};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use flate2::{bufread::MultiGzDecoder, bufread::ZlibDecoder, write::GzEncoder, write::ZlibEncoder};
use tidemill_engine::{
    Result,
    decoder::{BadClass, BadRecord, Decoder},
};

/// How payloads are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Gzip; several members one after the other are one text.
    Gzip,
    /// Deflate with zlib's frame, as HTTP and Azure mean it.
    Deflate,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// What the names of packed files end with.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Gzip => "gz",
            Self::Deflate => "zz",
            Self::Zstd => "zst",
        }
    }

    /// Unpacks into `out`, which holds at most `limit` bytes afterwards.
    ///
    /// # Errors
    /// Bytes that are not packed so, or more than `limit`.
    pub fn unpack(self, packed: &[u8], out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
        out.clear();
        read_within(self.reader(packed)?, out, limit)
    }

    /// Unpacks a stream as it is read.
    pub(crate) fn reader<'r>(self, packed: impl BufRead + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Deflate => Box::new(ZlibDecoder::new(packed)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
        })
    }

    /// Packs `plain` behind what is in `out`.
    pub(crate) fn pack(self, plain: &[u8], out: &mut Vec<u8>) {
        let level = flate2::Compression::default();
        let packed = match self {
            Self::Gzip => {
                let mut encoder = GzEncoder::new(out, level);
                encoder.write_all(plain).and_then(|()| encoder.finish().map(drop))
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(out, level);
                encoder.write_all(plain).and_then(|()| encoder.finish().map(drop))
            }
            Self::Zstd => zstd::stream::copy_encode(plain, out, zstd::DEFAULT_COMPRESSION_LEVEL),
        };
        packed.expect("memory takes every byte");
    }
}

/// Reads to the end, if that comes within `limit` bytes.
pub(super) fn read_within(reader: impl Read, out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    let read = reader.take(limit as u64 + 1).read_to_end(out)?;
    if read > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {limit} bytes")));
    }
    Ok(())
}

/// A decoder of packed payloads.
pub struct UnpackingDecoder {
    inner: Box<dyn Decoder>,
    compression: Compression,
    limit: usize,
    plain: Vec<u8>,
}

impl UnpackingDecoder {
    /// Gives `inner` what payloads hold, if that is at most `limit` bytes.
    #[must_use]
    pub fn new(inner: Box<dyn Decoder>, compression: Compression, limit: usize) -> Self {
        Self { inner, compression, limit, plain: Vec::new() }
    }
}

impl Decoder for UnpackingDecoder {
    fn schema(&self) -> SchemaRef {
        self.inner.schema()
    }

    fn push(&mut self, payload: &[u8]) -> Result<usize, BadRecord> {
        self.compression.unpack(payload, &mut self.plain, self.limit).map_err(|error| BadRecord {
            class: BadClass::Malformed,
            message: format!("cannot be unpacked as {:?}: {error}", self.compression).to_lowercase(),
        })?;
        self.inner.push(&self.plain)
    }

    fn truncate(&mut self, rows: usize) {
        self.inner.truncate(rows);
    }

    fn flush(&mut self) -> Result<RecordBatch> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_unpacks_within_the_limit() {
        let plain = vec![b'a'; 100_000];
        for compression in [Compression::Gzip, Compression::Deflate, Compression::Zstd] {
            let (mut packed, mut out) = (Vec::new(), Vec::new());
            compression.pack(&plain, &mut packed);
            assert!(packed.len() < 1_000);
            compression.unpack(&packed, &mut out, plain.len()).unwrap();
            assert_eq!(out, plain);
            // A bomb is refused, having cost no more than the limit.
            let error = compression.unpack(&packed, &mut out, plain.len() - 1).unwrap_err();
            assert!(error.to_string().contains("more than 99999 bytes"), "{error}");
            assert!(compression.unpack(&packed[..packed.len() - 6], &mut out, plain.len()).is_err());
            assert!(compression.unpack(b"{\"a\": 1}", &mut out, plain.len()).is_err());
        }
    }
}
