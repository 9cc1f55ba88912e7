//! Answers to fetches: any bytes are read or refused, what is read points into them, and no partition's records are another's.

use tidemill_connectors::kafka::{
    answer::{FETCH_VERSIONS, FetchAnswer},
    records::Unpacker,
};

use super::{Target, records::walk};

/// The first byte of an input is the version, the rest the answer.
#[derive(Default)]
pub(crate) struct Fetch {
    answer: FetchAnswer,
    unpacker: Unpacker,
}

impl Target for Fetch {
    fn name(&self) -> &'static str {
        "fetch"
    }

    fn tokens(&self) -> &'static [&'static str] {
        &["\u{0}\u{0}\u{0}\u{1}", "\u{7f}", "\u{0}\u{0}", "\u{2}", "t"]
    }

    fn check(&mut self, input: &[u8]) -> Result<(), String> {
        let Some((&version, bytes)) = input.split_first() else { return Ok(()) };
        let version = i16::from(version).clamp(FETCH_VERSIONS.min, FETCH_VERSIONS.max);
        if self.answer.read(bytes, version).is_err() {
            return Ok(());
        }
        let mut end = 0;
        for partition in &self.answer.partitions {
            // Out of bounds, these two panic.
            let _ = (self.answer.topic(bytes, partition), self.answer.aborted(partition).count());
            if partition.records.start < end {
                return Err("the records of two partitions overlap".to_owned());
            }
            end = partition.records.end;
            walk(&bytes[partition.records.clone()], &mut self.unpacker)?;
        }
        Ok(())
    }
}
