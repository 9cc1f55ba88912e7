//! Avro object container files: a header with the writer's schema, then blocks of values.

use flate2::bufread::DeflateDecoder;
use tidemill_engine::decoder::BadClass;

use super::input::Input;
use crate::formats::{
    compression::read_within,
    json::reader::{Fault, fault},
};

/// First bytes of a file.
pub(crate) const MAGIC: &[u8] = b"Obj\x01";
/// Bytes of the mark behind each block.
const SYNC: usize = 16;
/// A header longer than this is refused by who reads files piece by piece.
pub(crate) const MAX_HEADER: usize = 16 << 20;

/// How the values of a block are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Null,
    Deflate,
    Snappy,
    Zstandard,
}

/// What stands at a file's beginning.
pub(super) struct Header<'a> {
    pub(super) schema: &'a str,
    pub(super) codec: Codec,
    pub(super) sync: [u8; SYNC],
    /// Length in bytes.
    pub(super) length: usize,
}

impl<'a> Header<'a> {
    /// Reads a header.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut input = Input::new(bytes);
        if !bytes.starts_with(MAGIC) {
            return Err(input.malformed("`Obj` and 1, with which an Avro container file begins,"));
        }
        input.take(MAGIC.len())?;
        let (mut schema, mut codec) = (None, Codec::Null);
        loop {
            let (count, _) = input.block()?;
            if count == 0 {
                break;
            }
            for _ in 0..count {
                let (key, value) = (input.sized()?, input.sized()?);
                match key {
                    b"avro.schema" => {
                        schema = Some(std::str::from_utf8(value).map_err(|_| input.malformed("a schema in UTF-8"))?);
                    }
                    b"avro.codec" => codec = Self::codec(value)?,
                    _ => {}
                }
            }
        }
        let schema = schema.ok_or_else(|| input.malformed("a header with `avro.schema`"))?;
        let sync = input.array()?;
        Ok(Self { schema, codec, sync, length: bytes.len() - input.rest().len() })
    }

    fn codec(name: &[u8]) -> Result<Codec, Fault> {
        Ok(match name {
            b"null" | b"" => Codec::Null,
            b"deflate" => Codec::Deflate,
            b"snappy" => Codec::Snappy,
            b"zstandard" => Codec::Zstandard,
            other => {
                let other = String::from_utf8_lossy(other);
                let message = format!("unknown codec `{other}`; available: null, deflate, snappy, zstandard");
                return Err(fault(BadClass::Malformed, message));
            }
        })
    }
}

/// One block: how many values it has, and their packed bytes.
pub(super) struct Block<'a> {
    pub(super) values: usize,
    pub(super) packed: &'a [u8],
}

impl<'a> Block<'a> {
    /// The next block and the mark behind it.
    pub(super) fn read(input: &mut Input<'a>, sync: &[u8; SYNC]) -> Result<Self, Fault> {
        let (values, packed) = (input.length()?, input.sized()?);
        if input.array::<SYNC>()? != *sync {
            return Err(input.malformed("the file's sync mark before this"));
        }
        Ok(Self { values, packed })
    }

    /// Unpacks the values into `out`, which holds at most `limit` bytes afterwards.
    pub(super) fn unpack(&self, codec: Codec, out: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
        out.clear();
        let unpacked = match codec {
            Codec::Null => {
                out.extend_from_slice(self.packed);
                Ok(())
            }
            Codec::Deflate => read_within(DeflateDecoder::new(self.packed), out, limit),
            Codec::Snappy => unsnap(self.packed, out, limit),
            Codec::Zstandard => zstd::stream::read::Decoder::with_buffer(self.packed)
                .and_then(|decoder| read_within(decoder, out, limit)),
        };
        unpacked.map_err(|error| fault(BadClass::Malformed, format!("a block cannot be unpacked: {error}")))
    }
}

/// Snappy, with a big-endian CRC-32 behind it.
fn unsnap(packed: &[u8], out: &mut Vec<u8>, limit: usize) -> std::io::Result<()> {
    let invalid = |message: String| std::io::Error::new(std::io::ErrorKind::InvalidData, message);
    let (packed, checksum) =
        packed.split_last_chunk::<4>().ok_or_else(|| invalid("shorter than its checksum".to_owned()))?;
    let length = snap::raw::decompress_len(packed).map_err(|error| invalid(error.to_string()))?;
    if length > limit {
        return Err(invalid(format!("more than {limit} bytes")));
    }
    out.resize(length, 0);
    snap::raw::Decoder::new().decompress(packed, out).map_err(|error| invalid(error.to_string()))?;
    let mut crc = flate2::Crc::new();
    crc.update(out);
    if crc.sum() != u32::from_be_bytes(*checksum) {
        return Err(invalid("its checksum is wrong".to_owned()));
    }
    Ok(())
}

/// How long the header at the beginning of a file is; `None` when more bytes are needed to know.
///
/// # Errors
/// Bytes that begin no container file.
pub(crate) fn header_length(bytes: &[u8]) -> Result<Option<usize>, String> {
    if !bytes.starts_with(MAGIC) && bytes.len() >= MAGIC.len() {
        return Err("no Avro container file: it does not begin with `Obj` and 1".to_owned());
    }
    match Header::read(bytes) {
        Ok(header) => Ok(Some(header.length)),
        Err(fault) if bytes.len() > MAX_HEADER => Err(fault.message),
        Err(_) => Ok(None),
    }
}

/// How long the block at the beginning of `bytes` is, with the mark behind it; `None` when its head is not whole.
pub(crate) fn block_length(bytes: &[u8]) -> Option<usize> {
    let mut input = Input::new(bytes);
    let length = input.length().and_then(|_| input.length()).ok()?;
    let head = bytes.len() - input.rest().len();
    head.checked_add(length)?.checked_add(SYNC)
}
