//! Reads the fields of an answer where they lie, every length held against the bytes that are there.

use std::ops::Range;

/// Why bytes are not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer ends within its {part}")]
pub struct BadAnswer {
    part: &'static str,
}

/// Reads fields in their order.
pub(in crate::kafka) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub(in crate::kafka) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self { bytes, at: 0, flexible }
    }

    /// Bytes that are left.
    pub(in crate::kafka) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, length: usize, part: &'static str) -> Result<Range<usize>, BadAnswer> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len()).ok_or(BadAnswer { part })?;
        let start = std::mem::replace(&mut self.at, end);
        Ok(start..end)
    }

    pub(in crate::kafka) fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], BadAnswer> {
        let range = self.take(N, part)?;
        self.bytes[range].try_into().map_err(|_| BadAnswer { part })
    }

    pub(in crate::kafka) fn i16(&mut self, part: &'static str) -> Result<i16, BadAnswer> {
        self.array(part).map(i16::from_be_bytes)
    }

    pub(in crate::kafka) fn i32(&mut self, part: &'static str) -> Result<i32, BadAnswer> {
        self.array(part).map(i32::from_be_bytes)
    }

    pub(in crate::kafka) fn i64(&mut self, part: &'static str) -> Result<i64, BadAnswer> {
        self.array(part).map(i64::from_be_bytes)
    }

    fn unsigned(&mut self, part: &'static str) -> Result<u64, BadAnswer> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array(part)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BadAnswer { part })
    }

    /// A length or a count; none counts as 0.
    fn length(
        &mut self,
        fixed: impl FnOnce(&mut Self) -> Result<i64, BadAnswer>,
        part: &'static str,
    ) -> Result<usize, BadAnswer> {
        let length = if self.flexible {
            self.unsigned(part)?.saturating_sub(1)
        } else {
            u64::try_from(fixed(self)?).unwrap_or(0)
        };
        usize::try_from(length).map_err(|_| BadAnswer { part })
    }

    /// A count of things that take at least so many bytes each, at least one: more of them than there is room for is a lie.
    pub(in crate::kafka) fn count(&mut self, part: &'static str, least: usize) -> Result<usize, BadAnswer> {
        let count = self.length(|reader| reader.i32(part).map(i64::from), part)?;
        if count <= self.left() / least.max(1) { Ok(count) } else { Err(BadAnswer { part }) }
    }

    /// So many bytes, which say nothing here.
    pub(in crate::kafka) fn skip(&mut self, length: usize, part: &'static str) -> Result<(), BadAnswer> {
        self.take(length, part).map(drop)
    }

    pub(in crate::kafka) fn string(&mut self, part: &'static str) -> Result<Range<usize>, BadAnswer> {
        let length = self.length(|reader| reader.i16(part).map(i64::from), part)?;
        self.take(length, part)
    }

    /// Bytes behind their length; none counts as no bytes.
    pub(in crate::kafka) fn blob(&mut self, part: &'static str) -> Result<Range<usize>, BadAnswer> {
        let length = self.length(|reader| reader.i32(part).map(i64::from), part)?;
        self.take(length, part)
    }

    pub(in crate::kafka) fn tags(&mut self) -> Result<(), BadAnswer> {
        self.each_tag(|_, _| Ok(()))
    }

    /// Hands over each tagged field, bounded to its bytes.
    pub(in crate::kafka) fn each_tag(
        &mut self,
        mut each: impl FnMut(u64, &mut Reader<'_>) -> Result<(), BadAnswer>,
    ) -> Result<(), BadAnswer> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned("tags")? {
            let (tag, length) = (self.unsigned("tag")?, self.unsigned("tag")?);
            let length = usize::try_from(length).map_err(|_| BadAnswer { part: "tag" })?;
            let field = self.take(length, "tag")?;
            each(tag, &mut Reader::new(&self.bytes[field], true))?;
        }
        Ok(())
    }
}
