//! Record batches: any bytes are walked or refused, also when their CRC is right, and always in the same way.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    mem::discriminant,
};

use tidemill_connectors::kafka::records::{BadBatch, Batch, Unpacker, batches};

use super::Target;

/// Where a batch says its length, its CRC, and where what the CRC covers begins.
const LENGTH: std::ops::Range<usize> = 8..12;
const CRC: std::ops::Range<usize> = 17..21;
/// The CRC of an old message, behind which its format stands.
const OLD_CRC: std::ops::Range<usize> = 12..16;

#[derive(Default)]
pub(crate) struct Records {
    unpacker: Unpacker,
}

impl Target for Records {
    fn name(&self) -> &'static str {
        "records"
    }

    fn tokens(&self) -> &'static [&'static str] {
        &["\u{0}\u{0}\u{0}\u{0}", "\u{1}", "\u{2}", "\u{7f}", "\u{82}SNAPPY\u{0}"]
    }

    fn check(&mut self, input: &[u8]) -> Result<(), String> {
        walk(input, &mut self.unpacker)?;
        // What lies behind the CRC is never reached by a mutated batch: the length and the CRC are put right.
        let mut mended = input.to_vec();
        if mended.len() > CRC.end
            && let Ok(length) = i32::try_from(mended.len() - LENGTH.end)
        {
            mended[LENGTH].copy_from_slice(&length.to_be_bytes());
            if mended[OLD_CRC.end] < 2 {
                let mut crc = flate2::Crc::new();
                crc.update(&mended[OLD_CRC.end..]);
                mended[OLD_CRC].copy_from_slice(&crc.sum().to_be_bytes());
            } else {
                let crc = crc32c::crc32c(&mended[CRC.end..]);
                mended[CRC].copy_from_slice(&crc.to_be_bytes());
            }
        }
        walk(&mended, &mut self.unpacker)
    }
}

/// Walks all there is, twice: buffers that were used before must not show.
pub(super) fn walk(bytes: &[u8], used: &mut Unpacker) -> Result<(), String> {
    if digest(bytes, used) == digest(bytes, &mut Unpacker::default()) {
        Ok(())
    } else {
        Err("a used buffer gives other records than a new one".to_owned())
    }
}

/// A number for everything that a walk gives, and for which errors; a codec's reason for refusing garbage may vary.
fn digest(bytes: &[u8], unpacker: &mut Unpacker) -> u64 {
    let mut digest = DefaultHasher::new();
    for batch in batches(bytes) {
        if let Err(bad) = batch.and_then(|batch| digest_batch(&batch, unpacker, &mut digest)) {
            discriminant(&bad).hash(&mut digest);
        }
    }
    digest.finish()
}

fn digest_batch(batch: &Batch<'_>, unpacker: &mut Unpacker, digest: &mut DefaultHasher) -> Result<(), BadBatch> {
    let mut headers = Vec::new();
    for record in unpacker.records(batch)? {
        let record = record?;
        (record.offset, record.timestamp_ms, record.key, record.value).hash(digest);
        headers.clear();
        record.headers(&mut headers)?;
        headers.iter().for_each(|header| (header.name, header.value).hash(digest));
    }
    Ok(())
}
