//! Sessions while they are open: which there are of each partition, and what they are made of.
//!
//! A *piece* is a row of a batch that is kept here: a row itself, or the state of a group of rows ([`Piece`]). Pieces come in
//! any order; a session is a chain of pieces no further apart than the gap. Where sessions have a maximum duration, pieces
//! come in order of their first row and lie between two instants at which a session may be cut.
//!
//! Invariant: a session whose end the watermark has passed was closed, and cannot grow again.

use std::{collections::BTreeMap, hash::BuildHasher, iter, ops::Range, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, TimestampMicrosecondArray},
    compute::interleave,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
    row::{RowConverter, SortField},
};
use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;
use smallvec::{SmallVec, smallvec};

use super::{
    shape::{Closed, SessionShape},
    slices::WINDOW_TIME_BEFORE_END_US,
};
use crate::{EngineError, EventTime, Result, dataflow::budget::bytes_of_rows};

/// Rows that are kept beyond those that are still of use, before the latter are moved together.
const SPARE_ROWS: usize = 65_536;

/// Where a piece lies: batch and row.
pub(super) type Place = (usize, usize);

/// Batches of pieces of one schema.
pub(super) struct Pieces {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    /// Rows after they were moved together for the last time.
    compact_rows: usize,
}

impl Pieces {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self { schema, batches: vec![], rows: 0, bytes: 0, compact_rows: 0 }
    }

    /// Keeps a batch; its rows have the places (returned number, row).
    pub(super) fn push(&mut self, batch: RecordBatch) -> usize {
        self.rows += batch.num_rows();
        self.bytes += bytes_of_rows(&batch);
        self.batches.push(batch);
        self.batches.len() - 1
    }

    /// What they take.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Whether so many rows are kept that it is worth moving together those that are of use.
    pub(super) fn are_loose(&self) -> bool {
        self.rows > 2 * self.compact_rows + SPARE_ROWS
    }

    /// These columns of the pieces at these places.
    pub(super) fn gather(&self, places: &[Place], columns: Range<usize>) -> Result<Vec<ArrayRef>> {
        let column = |c: usize| {
            let columns: Vec<&dyn Array> = self.batches.iter().map(|b| b.column(c).as_ref()).collect();
            match columns.is_empty() {
                true => Ok(arrow::array::new_empty_array(self.schema.field(c).data_type())),
                false => interleave(&columns, places).map_err(EngineError::from),
            }
        };
        columns.map(column).collect()
    }

    /// Puts one batch in the place of all.
    fn replace(&mut self, batch: RecordBatch) {
        self.rows = batch.num_rows();
        self.bytes = bytes_of_rows(&batch);
        self.compact_rows = self.rows;
        self.batches = vec![batch];
    }
}

/// Which pieces there are of sessions: each knows the one before it.
#[derive(Debug, Default)]
struct Chains(Vec<Link>);

#[derive(Debug)]
struct Link {
    batch: u32,
    row: u32,
    before: u32,
}

/// The pieces of one session.
#[derive(Clone, Copy, Debug, Default)]
struct Chain {
    newest: u32,
    length: u32,
}

impl Chains {
    fn push(&mut self, chain: &mut Chain, (batch, row): Place) {
        self.0.push(Link { batch: batch as u32, row: row as u32, before: chain.newest });
        *chain = Chain { newest: self.0.len() as u32 - 1, length: chain.length + 1 };
    }

    /// Puts `more` behind a chain.
    fn join(&mut self, chain: &mut Chain, more: Chain) {
        let Some(first) = self.links(more).last() else { return };
        self.0[first].before = chain.newest;
        *chain = Chain { newest: more.newest, length: chain.length + more.length };
    }

    /// From the newest on.
    fn links(&self, chain: Chain) -> impl Iterator<Item = usize> + '_ {
        let links = iter::successors(Some(chain.newest as usize), |link| Some(self.0[*link].before as usize));
        links.take(chain.length as usize)
    }

    /// The pieces of chains, one chain after the other.
    fn places(&self, chains: impl Iterator<Item = Chain>) -> Vec<Place> {
        let mut places = vec![];
        for chain in chains {
            let start = places.len();
            places.extend(self.links(chain).map(|l| (self.0[l].batch as usize, self.0[l].row as usize)));
            places[start..].reverse();
        }
        places
    }
}

/// A window of a session.
#[derive(Debug)]
struct Session {
    first: i64,
    last: i64,
    /// Where it is cut at the latest.
    cut: i64,
    /// Empty once it was closed by its cut; it stays until no row can continue the session behind.
    pieces: Chain,
}

impl Session {
    /// When it is over if nothing follows, shown as the language does.
    fn end(&self, gap: i64) -> i64 {
        self.last.saturating_add(gap).min(self.cut)
    }
}

/// A partition's key as bytes; a short one is compared without a look elsewhere.
type Key = SmallVec<[u8; 24]>;

/// The sessions of one partition, in order of their first rows.
#[derive(Debug)]
struct Partition {
    key: Key,
    sessions: SmallVec<[Session; 1]>,
    /// When it is looked at next: at or before the end of each of its sessions.
    deadline: i64,
}

/// A window that was closed.
#[derive(Debug)]
pub(super) struct ClosedSession {
    first: i64,
    end: i64,
    pieces: Chain,
}

/// See the module.
pub(super) struct Sessions {
    shape: SessionShape,
    /// Partitions by their keys as bytes; one, of no bytes, where sessions are of all rows.
    keys: Option<RowConverter>,
    hasher: DefaultHashBuilder,
    /// Numbers of partitions, by their keys: one number is so small that the table of many keys stays in the cache.
    of_key: HashTable<u32>,
    /// By their numbers, which are given anew.
    partitions: Slab<Partition>,
    chains: Chains,
    /// Partitions by their deadlines; those that were moved forward or are gone are still here under their old ones.
    deadlines: BTreeMap<i64, Vec<usize>>,
    /// Sessions that ended before were closed.
    pub(super) closed_below: EventTime,
}

impl Sessions {
    pub(super) fn try_new(shape: SessionShape, keys: Vec<DataType>) -> Result<Self> {
        let keys = match keys.is_empty() {
            true => None,
            false => Some(RowConverter::new(keys.into_iter().map(SortField::new).collect())?),
        };
        let closed_below = EventTime::MIN;
        Ok(Self {
            shape,
            keys,
            hasher: DefaultHashBuilder::default(),
            of_key: HashTable::new(),
            partitions: Slab::new(),
            chains: Chains::default(),
            deadlines: BTreeMap::new(),
            closed_below,
        })
    }

    /// What they take without the rows of their pieces, about: few partitions have a long key, or more than one session.
    pub(super) fn held_bytes(&self) -> usize {
        const FOUND_BY: usize = size_of::<u32>() + size_of::<usize>(); // its key, and its deadline
        self.partitions.len() * (size_of::<Partition>() + FOUND_BY) + self.chains.0.len() * size_of::<Link>()
    }

    /// Lets go of the pieces if none is of use, and says whether that is so.
    pub(super) fn let_go(&mut self, pieces: &mut Pieces) -> bool {
        let none_is_open = self.partitions.is_empty();
        if none_is_open {
            *pieces = Pieces::new(Arc::clone(&pieces.schema));
            self.chains = Chains::default();
        }
        none_is_open
    }

    /// Adds pieces, each with its first and last event time. Gives the rows that came after their session was closed.
    pub(super) fn add(
        &mut self,
        keys: &[ArrayRef],
        rows: impl Iterator<Item = usize>,
        extent: impl Fn(usize) -> (i64, i64),
        batch: usize,
    ) -> Result<Vec<usize>> {
        let keys = self.keys.as_ref().map(|converter| converter.convert_columns(keys)).transpose()?;
        let mut late = vec![];
        for row in rows {
            let key = keys.as_ref().map_or(&[][..], |keys| keys.row(row).data());
            let (first, last) = extent(row);
            if !self.add_piece(key, first, last, (batch, row)) {
                late.push(row);
            }
        }
        Ok(late)
    }

    /// Whether the piece found an open session, or was in time to begin one.
    fn add_piece(&mut self, key: &[u8], first: i64, last: i64, place: Place) -> bool {
        let gap = self.shape.gap;
        let touches = |s: &Session| first.saturating_sub(gap) <= s.last && s.first.saturating_sub(gap) <= last;
        let is_late = last.saturating_add(gap) < self.closed_below.0;
        let new = |cut, chains: &mut Chains| {
            let mut pieces = Chain::default();
            chains.push(&mut pieces, place);
            Session { first, last, cut, pieces }
        };
        let number = match self.number(key) {
            Some(number) => number,
            None if is_late => return false,
            None => self.new_partition(key),
        };
        let Some(partition) = self.partitions.get_mut(number) else { return false };
        let (sessions, chains) = (&mut partition.sessions, &mut self.chains);
        // The last one that touches is the one that goes on.
        let added = match sessions.iter().rposition(touches) {
            None if is_late => return false,
            None => {
                let at = sessions.partition_point(|s| s.first < first);
                sessions.insert(at, new(self.shape.first_cut(first), chains));
                at
            }
            Some(at) if last > sessions[at].cut => {
                // It goes on behind the cut, or behind a later one.
                let (max, cut) = (self.shape.max.unwrap_or(1), sessions[at].cut);
                sessions.insert(at + 1, new(cut + (last - cut + max - 1).div_euclid(max) * max, chains));
                at + 1
            }
            Some(at) if sessions[at].end(gap) < self.closed_below.0 => return false,
            Some(mut at) => {
                let found = &mut sessions[at];
                (found.first, found.last) = (found.first.min(first), found.last.max(last));
                chains.push(&mut found.pieces, place);
                if self.shape.max.is_none() {
                    at = join_touching(sessions, chains, at, gap);
                }
                at
            }
        };
        let end = sessions[added].end(gap);
        if end < partition.deadline {
            partition.deadline = end;
            self.deadlines.entry(end).or_default().push(number);
        }
        true
    }

    fn number(&self, key: &[u8]) -> Option<usize> {
        let is_key = |number: &u32| *self.partitions[*number as usize].key == *key;
        self.of_key.find(self.hasher.hash_one(key), is_key).map(|number| *number as usize)
    }

    fn new_partition(&mut self, key: &[u8]) -> usize {
        let partition = Partition { key: key.into(), sessions: smallvec![], deadline: i64::MAX };
        let number = self.partitions.insert(partition);
        let hash_of = |number: &u32| self.hasher.hash_one(&*self.partitions[*number as usize].key);
        self.of_key.insert_unique(self.hasher.hash_one(key), number as u32, hash_of);
        number
    }

    /// Closes the sessions that ended before the watermark: in order of end and key.
    pub(super) fn close(&mut self, watermark: EventTime) -> Vec<ClosedSession> {
        let gap = self.shape.gap;
        let mut closed: Vec<(Key, ClosedSession)> = vec![];
        while let Some(entry) = self.deadlines.first_entry().filter(|e| *e.key() < watermark.0) {
            let deadline = *entry.key();
            for number in entry.remove() {
                let partition = self.partitions.get_mut(number).filter(|p| p.deadline == deadline);
                let Some(partition) = partition else { continue };
                for session in &mut partition.sessions {
                    let end = session.end(gap);
                    if end < watermark.0 && session.pieces.length > 0 {
                        let pieces = std::mem::take(&mut session.pieces);
                        closed.push((partition.key.clone(), ClosedSession { first: session.first, end, pieces }));
                    }
                }
                partition.sessions.retain(|s| s.last.saturating_add(gap) >= watermark.0);
                let over = |s: &Session| if s.pieces.length == 0 { s.last.saturating_add(gap) } else { s.end(gap) };
                match partition.sessions.iter().map(over).min() {
                    Some(next) => {
                        partition.deadline = next;
                        self.deadlines.entry(next).or_default().push(number);
                    }
                    None => {
                        let hash = self.hasher.hash_one(&*self.partitions.remove(number).key);
                        if let Ok(entry) = self.of_key.find_entry(hash, |other| *other as usize == number) {
                            entry.remove();
                        }
                    }
                }
            }
        }
        self.closed_below = self.closed_below.max(watermark);
        closed.sort_unstable_by(|(key_a, a), (key_b, b)| (a.end, key_a, a.first).cmp(&(b.end, key_b, b.first)));
        closed.into_iter().map(|(_, session)| session).collect()
    }

    /// Event time below which no session is closed any more.
    pub(super) fn result_watermark(&self) -> EventTime {
        match self.shape.closed {
            Closed::End => self.closed_below,
            Closed::Start => self.closed_below.minus_micros(WINDOW_TIME_BEFORE_END_US),
        }
    }

    /// `window_start`, `window_end` and event time of windows, each repeated as `of` says.
    pub(super) fn shown(&self, closed: &[ClosedSession], of: impl Iterator<Item = usize> + Clone) -> [ArrayRef; 3] {
        let column = |value: &dyn Fn(&ClosedSession) -> i64| -> ArrayRef {
            let values = of.clone().map(|session| value(&closed[session]));
            Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
        };
        let before_end = match self.shape.closed {
            Closed::End => 0,
            Closed::Start => WINDOW_TIME_BEFORE_END_US,
        };
        [column(&|s| s.first), column(&|s| s.end), column(&|s| s.end - before_end)]
    }

    /// The pieces of windows that were just closed, window by window, and the position of the window of each.
    pub(super) fn pieces_of(&self, closed: &[ClosedSession]) -> (Vec<Place>, Vec<i64>) {
        self.pieces(closed.iter().map(|s| s.pieces))
    }

    /// All pieces, session by session, and the number of the session of each.
    pub(super) fn all_pieces(&self) -> (Vec<Place>, Vec<i64>) {
        self.pieces(self.partitions.iter().flat_map(|(_, p)| &p.sessions).map(|s| s.pieces))
    }

    fn pieces(&self, chains: impl Iterator<Item = Chain> + Clone) -> (Vec<Place>, Vec<i64>) {
        let numbers = (0..).zip(chains.clone()).flat_map(|(n, chain)| iter::repeat_n(n, chain.length as usize));
        (self.chains.places(chains), numbers.collect())
    }

    /// Puts one batch in the place of all pieces; `numbers` are the sessions of its rows, as [`Self::all_pieces`] counts.
    pub(super) fn replace_pieces(&mut self, pieces: &mut Pieces, batch: RecordBatch, numbers: &[i64]) {
        let mut sessions: Vec<&mut Session> = self.partitions.iter_mut().flat_map(|(_, p)| &mut p.sessions).collect();
        sessions.iter_mut().for_each(|s| s.pieces = Chain::default());
        self.chains = Chains::default();
        for (row, &number) in numbers.iter().enumerate() {
            self.chains.push(&mut sessions[number as usize].pieces, (0, row));
        }
        pieces.replace(batch);
    }

    /// One row a session: partition, first, last, cut, and one more for how far sessions were closed.
    pub(super) fn snapshot(&self) -> Result<RecordBatch> {
        let (mut keys, mut values) = (vec![], [vec![], vec![], vec![]]);
        let rows = self.partitions.iter().flat_map(|(_, p)| p.sessions.iter().map(move |s| (&p.key, s)));
        for (key, session) in rows {
            keys.push(Some(key.as_slice()));
            for (column, value) in values.iter_mut().zip([session.first, session.last, session.cut]) {
                column.push(value);
            }
        }
        keys.push(None);
        values.iter_mut().for_each(|column| column.push(self.closed_below.0));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(BinaryArray::from(keys))];
        columns.extend(values.into_iter().map(|column| Arc::new(Int64Array::from(column)) as ArrayRef));
        Ok(RecordBatch::try_new(snapshot_schema(), columns)?)
    }

    /// Puts sessions back, with the pieces that belong to each by its number in the snapshot.
    pub(super) fn restore(&mut self, state: &RecordBatch, pieces: &[i64]) -> Result<()> {
        let foreign = |message: String| EngineError::State { operator: "sessions".to_owned(), message };
        if state.schema() != snapshot_schema() || state.num_rows() == 0 {
            return Err(foreign(format!("columns are {:?}, expected {:?}", state.schema(), snapshot_schema())));
        }
        let keys = state.column(0).as_binary::<i32>();
        let values = [1, 2, 3].map(|c| state.column(c).as_primitive::<Int64Type>().values());
        let count = state.num_rows() - 1;
        let mut of_sessions = vec![Chain::default(); count];
        for (row, &number) in pieces.iter().enumerate() {
            let of_session = usize::try_from(number).ok().and_then(|n| of_sessions.get_mut(n));
            let of_session = of_session.ok_or_else(|| foreign(format!("a piece of session {number} of {count}")))?;
            self.chains.push(of_session, (0, row));
        }
        self.closed_below = EventTime(values[0][count]);
        for (row, pieces) in of_sessions.into_iter().enumerate() {
            let session = Session { first: values[0][row], last: values[1][row], cut: values[2][row], pieces };
            let deadline = session.end(self.shape.gap);
            let key = keys.value(row);
            let number = self.number(key).unwrap_or_else(|| self.new_partition(key));
            let partition = &mut self.partitions[number];
            partition.sessions.push(session);
            if deadline < partition.deadline {
                partition.deadline = deadline;
                self.deadlines.entry(deadline).or_default().push(number);
            }
        }
        Ok(())
    }
}

/// Joins the session at `at`, which has grown, with those around it that it touches now; gives where it is then.
fn join_touching(sessions: &mut SmallVec<[Session; 1]>, chains: &mut Chains, mut at: usize, gap: i64) -> usize {
    let touch = |a: &Session, b: &Session| b.first.saturating_sub(gap) <= a.last;
    while at > 0 && touch(&sessions[at - 1], &sessions[at]) {
        at -= 1;
        join_next(sessions, chains, at);
    }
    while at + 1 < sessions.len() && touch(&sessions[at], &sessions[at + 1]) {
        join_next(sessions, chains, at);
    }
    at
}

fn join_next(sessions: &mut SmallVec<[Session; 1]>, chains: &mut Chains, at: usize) {
    let next = sessions.remove(at + 1);
    let session = &mut sessions[at];
    (session.first, session.last) = (session.first.min(next.first), session.last.max(next.last));
    chains.join(&mut session.pieces, next.pieces);
}

fn snapshot_schema() -> SchemaRef {
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    let key = Field::new("key", DataType::Binary, true);
    Arc::new(Schema::new(vec![key, number("first"), number("last"), number("cut")]))
}
