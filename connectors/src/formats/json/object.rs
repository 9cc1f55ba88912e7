//! The members of an object. The order in which they come is learned, and with it the text between their values.

use arrow::{array::ArrayRef, datatypes::Fields, error::ArrowError};

use super::{
    column::Column,
    padded::Padded,
    plain::{self, Shape},
    reader::{Fault, Reader},
    scan::{self, Blocks},
};

/// Members that are kept for prediction; those beyond them are looked up each time.
const MAX_LEARNED: usize = 256;

/// An object that no column wants learns so many times fewer than the one it lies in: a producer may send any names.
const FEWER_LEARNED: usize = 8;

/// Longest text of a member that is learned: white space may be of any length.
const MAX_TEXT: usize = 256;

/// The columns that are members of one kind of object: the record itself, a struct column, or an object that none wants.
pub(super) struct Object {
    columns: Vec<Column>,
    /// Members seen so far, in the order in which they came: the next one is usually the next here.
    learned: Vec<Member>,
    max_learned: usize,
    /// Whether the processor has what [`scan::Wide`] takes.
    pub(super) is_wide: bool,
}

/// A member that was seen.
struct Member {
    /// What lies between the comma and its value: `"name":` with white space.
    text: Box<[u8]>,
    /// The first 16 bytes of the text, as a number, and which bits of it count.
    head: u128,
    mask: u128,
    /// The column that it names.
    column: Option<usize>,
    /// The members of its value, where that is an object and no column wants it.
    unwanted: Option<Box<Object>>,
    shape: Shape,
}

impl Object {
    /// # Errors
    /// A column of a type that is not decoded.
    pub(super) fn new(fields: &Fields, path: &str, exact: bool) -> Result<Self, ArrowError> {
        let columns = fields.iter().map(|field| Column::new(field, path, exact)).collect::<Result<_, _>>()?;
        Ok(Object { columns, learned: Vec::new(), max_learned: MAX_LEARNED, is_wide: scan::is_wide() })
    }

    /// Reads the object at the cursor as row number `row`.
    ///
    /// # Errors
    /// What is malformed, or does not fit its column.
    pub(super) fn read(&mut self, reader: &mut Reader<'_>, row: usize) -> Result<(), Fault> {
        #[cfg(target_arch = "x86_64")]
        if self.is_wide {
            // SAFETY: `is_wide` says that the processor has AVX2, BMI1 and BMI2.
            #[allow(unsafe_code, reason = "the only way to code for a processor that is found at run time")]
            return unsafe { self.read_wide(reader, row) };
        }
        self.read_narrow(reader, row)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn read_wide(&mut self, reader: &mut Reader<'_>, row: usize) -> Result<(), Fault> {
        self.read_members::<scan::Wide>(reader, row)
    }

    #[inline(never)]
    fn read_narrow(&mut self, reader: &mut Reader<'_>, row: usize) -> Result<(), Fault> {
        self.read_members::<scan::Narrow>(reader, row)
    }

    /// [`Object::read`]. A member whose text was learned and whose value is as most are is read without the reader, whose place
    /// in memory would be waited for. All else is read with care.
    #[inline(always)]
    fn read_members<B: Blocks>(&mut self, reader: &mut Reader<'_>, row: usize) -> Result<(), Fault> {
        let padded = reader.blocks();
        let enough = if reader.is_lax() { self.columns.len() } else { usize::MAX };
        let (mut found, mut next) = (0, 0);
        let start = reader.position();
        let mut at = start;
        reader.enter()?;
        loop {
            // At the brace, or behind a value.
            if found == enough {
                reader.go_on_at(at + usize::from(at == start));
                return reader.skip_to_close();
            }
            match padded.byte(at) {
                Some(b',') => at += 1,
                Some(b'{') if at == start => at += 1,
                Some(b'}') => {
                    reader.go_on_at(at);
                    reader.leave();
                    break;
                }
                _ => {
                    reader.go_on_at(at);
                    if !reader.more(b'}')? {
                        break;
                    }
                    at = reader.position();
                }
            }
            let is_behind_value;
            (at, next, is_behind_value) = skip_plain::<B>(&mut self.learned, next, padded, at);
            if is_behind_value {
                continue;
            }
            let known = match self.learned.get(next) {
                Some(member) if member.is_at(padded, at) => Some(next),
                _ => other_member(&self.learned, next, padded, at),
            };
            if let Some(known) = known {
                let member = &mut self.learned[known];
                next = known + 1;
                at += member.text.len();
                let end;
                if let Some(column) = member.column
                    && let Some(column) = self.columns.get_mut(column)
                    && column.rows() == row
                {
                    found += 1;
                    end = column.read_plain::<B>(padded, at, &mut member.shape);
                    if end.is_none() {
                        reader.go_on_at(at);
                        reader.space();
                        column.read(reader)?;
                    }
                } else {
                    end = plain::plain_scalar::<B>(padded, at, &mut member.shape);
                    if end.is_none() {
                        reader.go_on_at(at);
                        reader.space();
                        member.skip_with_care(reader, self.max_learned / FEWER_LEARNED)?;
                    }
                }
                at = end.unwrap_or(reader.position());
            } else {
                reader.go_on_at(at);
                match self.member_with_care(reader, &mut next, row, at == start + 1)? {
                    Some(is_wanted) => found += usize::from(is_wanted),
                    None => break,
                }
                at = reader.position();
            }
        }
        if found < self.columns.len() {
            for column in self.columns.iter_mut().filter(|column| column.rows() == row) {
                column.append_missing()?;
            }
        }
        Ok(())
    }

    /// Reads a member that was not learned, and learns it. Says whether it is one that a column waits for; nothing at the end
    /// of an empty object, which only the first may be.
    #[inline(never)]
    fn member_with_care(
        &mut self,
        reader: &mut Reader<'_>,
        next: &mut usize,
        row: usize,
        is_first: bool,
    ) -> Result<Option<bool>, Fault> {
        let start = reader.position();
        reader.space();
        if is_first && reader.peek() == Some(b'}') {
            reader.leave();
            return Ok(None);
        }
        let column = self.column(reader.key()?);
        let text = reader.since(start);
        if self.learned.len() < self.max_learned && text.len() <= MAX_TEXT {
            self.learned.insert(*next, Member::new(text, column));
            *next += 1;
        }
        match column.map(|column| &mut self.columns[column]).filter(|column| column.rows() == row) {
            Some(column) => column.read(reader).map(|()| Some(true)),
            None => reader.skip().map(|()| Some(false)),
        }
    }

    /// The column of this name, else the first whose name differs only in ASCII case.
    fn column(&self, key: &[u8]) -> Option<usize> {
        let find =
            |matches: fn(&[u8], &[u8]) -> bool| self.columns.iter().position(|c| matches(c.name().as_bytes(), key));
        find(|name, key| name == key).or_else(|| find(<[u8]>::eq_ignore_ascii_case))
    }

    pub(super) fn append_null(&mut self) {
        self.columns.iter_mut().for_each(Column::append_null);
    }

    /// Drops all rows from `rows` on, finished or half read.
    pub(super) fn truncate(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.truncate(rows);
        }
    }

    /// Takes all rows.
    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns.iter_mut().map(Column::finish).collect()
    }
}

/// Passes learned members from number `next` on that are plain and that no column wants; the first begins at `at`. Returns
/// where that ends, the number of the member after them, and whether a value ends there: otherwise that member may begin.
#[inline(always)]
fn skip_plain<B: Blocks>(
    learned: &mut [Member],
    mut next: usize,
    padded: Padded<'_>,
    mut at: usize,
) -> (usize, usize, bool) {
    while let Some(member) = learned.get_mut(next)
        && member.column.is_none()
        && member.is_at(padded, at)
        && let Some(end) = plain::plain_scalar::<B>(padded, at + member.text.len(), &mut member.shape)
    {
        next += 1;
        if padded.byte(end) != Some(b',') {
            return (end, next, true);
        }
        at = end + 1;
    }
    (at, next, false)
}

/// The learned member that lies at `at`, where it is not number `next`: those behind are more probable.
#[inline(never)]
fn other_member(learned: &[Member], next: usize, padded: Padded<'_>, at: usize) -> Option<usize> {
    let others = (next + 1..learned.len()).chain(0..next.min(learned.len()));
    others.into_iter().find(|other| learned[*other].is_at(padded, at))
}

impl Member {
    fn new(text: &[u8], column: Option<usize>) -> Self {
        let known = text.len().min(16);
        let mut head = [0; 16];
        head[..known].copy_from_slice(&text[..known]);
        let mask = if known == 16 { u128::MAX } else { (1 << (8 * known)) - 1 };
        Member {
            text: text.into(),
            head: u128::from_le_bytes(head),
            mask,
            column,
            unwanted: None,
            shape: Shape::default(),
        }
    }

    /// Whether its text lies at `at`.
    #[inline(always)]
    fn is_at(&self, padded: Padded<'_>, at: usize) -> bool {
        let Some(block) = padded.block(at) else { return false };
        (u128::from_le_bytes(*block) ^ self.head) & self.mask == 0
            && (self.text.len() <= 16 || padded.between(at, at + self.text.len()) == Some(&self.text))
    }

    /// Passes the value at the cursor, which no column wants. Its names, if it is an object, are learned up to so many.
    #[inline(never)]
    fn skip_with_care(&mut self, reader: &mut Reader<'_>, max_learned: usize) -> Result<(), Fault> {
        if reader.peek() != Some(b'{') || reader.is_lax() || max_learned == 0 {
            return reader.skip();
        }
        let new =
            || Box::new(Object { columns: Vec::new(), learned: Vec::new(), max_learned, is_wide: scan::is_wide() });
        self.unwanted.get_or_insert_with(new).read(reader, 0)
    }
}
