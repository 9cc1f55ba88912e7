//! Keys and accumulators of the groups of one slice or window: [`Keys`] and DataFusion's `GroupsAccumulator`s, driven directly
//! (no plan, no channel).

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt32Array},
    compute::take,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimestampMicrosecondType},
};
use datafusion_expr::{EmitTo, GroupsAccumulator};
use datafusion_physical_expr::{
    GroupsAccumulatorAdapter,
    aggregate::{AggregateFunctionExpr, LoweredAggregate},
};

use super::keys::Keys;
use crate::Result;

/// What is computed for each group, and the layout of its state columns.
#[derive(Debug)]
pub(super) struct GroupsPlan {
    key_schema: SchemaRef,
    aggregates: Vec<Arc<LoweredAggregate>>,
    /// For each aggregate the range of its columns behind the keys in a state batch.
    state_ranges: Vec<std::ops::Range<usize>>,
    state_fields: Vec<Field>,
    /// For sessions: rows of one key that are further apart than this are of different groups. Each group's [`Extent`] is kept
    /// then; its columns are the last of a state batch.
    gap: Option<i64>,
}

/// Where the rows of a group lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Event time of the earliest row.
    pub(super) first: i64,
    /// Event time of the latest row.
    pub(super) last: i64,
    /// How many rows.
    pub(super) rows: i64,
}

impl Extent {
    /// Whether rows of the two are of one session.
    pub(super) fn touches(self, other: Extent, gap: i64) -> bool {
        other.first.saturating_sub(gap) <= self.last && self.first.saturating_sub(gap) <= other.last
    }

    fn add(&mut self, other: Extent) {
        *self =
            Self { first: self.first.min(other.first), last: self.last.max(other.last), rows: self.rows + other.rows };
    }
}

/// Groups of sessions: the rows of a key, cut where the gap lies between them.
#[derive(Default)]
struct Chains {
    /// Of each group.
    extents: Vec<Extent>,
    /// The key of each group. A key's first group has its number, if no key before it has several.
    keys: Vec<u32>,
    /// The last group of each key.
    current: Vec<u32>,
}

impl Chains {
    /// Puts groups in the place of keys, of which there are so many; returns how many groups there are.
    fn assign(&mut self, ids: &mut [usize], keys: usize, extent: impl Fn(usize) -> Extent, gap: i64) -> usize {
        self.current.resize(keys, NO_GROUP);
        for (row, id) in ids.iter_mut().enumerate() {
            let (extent, key) = (extent(row), *id);
            let group = self.current[key] as usize;
            *id = match self.extents.get_mut(group) {
                Some(chain) if chain.touches(extent, gap) => {
                    chain.add(extent);
                    group
                }
                _ => {
                    self.current[key] = self.extents.len() as u32;
                    self.extents.push(extent);
                    self.keys.push(key as u32);
                    self.extents.len() - 1
                }
            };
        }
        self.extents.len()
    }

    fn held_bytes(&self) -> usize {
        let Self { extents, keys, current } = self;
        extents.capacity() * size_of::<Extent>() + (keys.capacity() + current.capacity()) * size_of::<u32>()
    }
}

/// Of a key without rows.
const NO_GROUP: u32 = u32::MAX;

/// Columns of extents as `[first, last, rows]`.
pub(super) fn extent_columns(columns: &[ArrayRef]) -> impl Fn(usize) -> Extent + '_ {
    let values = [0, 1, 2].map(|c| columns[c].as_primitive::<Int64Type>().values());
    move |row| Extent { first: values[0][row], last: values[1][row], rows: values[2][row] }
}

impl GroupsPlan {
    /// `gap`: how far apart, in microseconds, rows of one key may be that are of one group; any distance if there is none.
    pub(super) fn try_new(keys: Vec<Field>, aggregates: &[Arc<LoweredAggregate>], gap: Option<i64>) -> Result<Self> {
        let mut state_fields = keys.clone();
        let mut state_ranges = vec![];
        for (i, lowered) in aggregates.iter().enumerate() {
            let start = state_fields.len();
            for (j, field) in lowered.aggregate.state_fields()?.into_iter().enumerate() {
                state_fields.push(field.as_ref().clone().with_name(format!("__state_{i}_{j}")).with_nullable(true));
            }
            state_ranges.push(start..state_fields.len());
        }
        if gap.is_some() {
            state_fields.extend(["__first", "__last", "__rows"].map(|name| Field::new(name, DataType::Int64, false)));
        }
        let key_schema = Arc::new(Schema::new(keys));
        Ok(Self { key_schema, aggregates: aggregates.to_vec(), state_ranges, state_fields, gap })
    }

    /// Fields of a state batch: keys, then each aggregate's state, then the extent if wanted.
    pub(super) fn state_fields(&self) -> &[Field] {
        &self.state_fields
    }

    fn key_count(&self) -> usize {
        self.key_schema.fields().len()
    }
}

/// Argument and filter columns of one aggregate, evaluated on a batch.
pub(super) struct Arguments {
    pub(super) values: Vec<ArrayRef>,
    pub(super) filter: Option<ArrayRef>,
}

/// Rows for the groups: everything evaluated, each column as long as `times`.
pub(super) struct Piece {
    pub(super) keys: Vec<ArrayRef>,
    pub(super) arguments: Vec<Arguments>,
    pub(super) times: ArrayRef,
}

impl Piece {
    /// The piece with each of its columns changed alike.
    pub(super) fn map(&self, change: impl Fn(&ArrayRef) -> Result<ArrayRef>) -> Result<Self> {
        let arguments = self.arguments.iter().map(|a| {
            let values = a.values.iter().map(&change).collect::<Result<_>>()?;
            Ok(Arguments { values, filter: a.filter.as_ref().map(&change).transpose()? })
        });
        Ok(Self {
            keys: self.keys.iter().map(&change).collect::<Result<_>>()?,
            arguments: arguments.collect::<Result<_>>()?,
            times: change(&self.times)?,
        })
    }
}

/// An accumulator of groups for any aggregate.
pub(super) fn accumulator(aggregate: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    if aggregate.groups_accumulator_supported() {
        return Ok(aggregate.create_groups_accumulator()?);
    }
    let aggregate = Arc::clone(aggregate);
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator())))
}

/// The groups of one slice or window.
pub(super) struct Groups {
    plan: Arc<GroupsPlan>,
    keys: Keys,
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    chains: Chains,
    /// Scratch: the group of each row at hand.
    ids: Vec<usize>,
    /// Rows taken.
    rows: usize,
    /// The bytes that these took when they were looked at last, and at how many rows they are next.
    held_bytes: usize,
    look_at_rows: usize,
}

impl Groups {
    /// There is room for the keys of so many groups; more may come.
    pub(super) fn try_new(plan: Arc<GroupsPlan>, room: usize) -> Result<Self> {
        let keys = Keys::try_new(&plan.key_schema, room)?;
        let accumulators =
            plan.aggregates.iter().map(|lowered| accumulator(&lowered.aggregate)).collect::<Result<_>>()?;
        let (chains, ids) = (Chains::default(), vec![]);
        Ok(Self { plan, keys, accumulators, chains, ids, rows: 0, held_bytes: 0, look_at_rows: 0 })
    }

    /// Adds rows.
    pub(super) fn update(&mut self, piece: &Piece) -> Result<()> {
        let mut groups = self.keys.assign(&piece.keys, piece.times.len(), &mut self.ids)?;
        if let Some(gap) = self.plan.gap {
            let times = piece.times.as_primitive::<TimestampMicrosecondType>().values();
            let extent = |row| Extent { first: times[row], last: times[row], rows: 1 };
            groups = self.chains.assign(&mut self.ids, groups, extent, gap);
        }
        for (accumulator, arguments) in self.accumulators.iter_mut().zip(&piece.arguments) {
            let filter: Option<&BooleanArray> = arguments.filter.as_ref().map(|f| f.as_boolean());
            accumulator.update_batch(&arguments.values, &self.ids, filter, groups)?;
        }
        self.grown(piece.times.len());
        Ok(())
    }

    /// What the groups take, not counted what the last rows have added, at most half as many as those before.
    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Accumulators look at each of their groups to say what they take: so they are asked at ever greater distances.
    fn grown(&mut self, rows: usize) {
        self.rows += rows;
        if self.rows < self.look_at_rows {
            return;
        }
        self.look_at_rows = self.rows + self.rows / 2 + 1;
        let states: usize = self.accumulators.iter().map(|accumulator| accumulator.size()).sum();
        let ids = self.ids.capacity() * size_of::<usize>();
        self.held_bytes = self.keys.held_bytes() + states + self.chains.held_bytes() + ids;
    }

    /// Adds the groups of a state batch.
    pub(super) fn merge(&mut self, state: &[ArrayRef], rows: usize) -> Result<()> {
        let mut groups = self.keys.assign(&state[..self.plan.key_count()], rows, &mut self.ids)?;
        if let Some(gap) = self.plan.gap {
            let extent = extent_columns(&state[self.plan.state_fields.len() - 3..]);
            groups = self.chains.assign(&mut self.ids, groups, extent, gap);
        }
        for (accumulator, range) in self.accumulators.iter_mut().zip(&self.plan.state_ranges) {
            accumulator.merge_batch(&state[range.clone()], &self.ids, groups)?;
        }
        self.grown(rows);
        Ok(())
    }

    /// Adds states to groups that have numbers in the place of keys: each to the one that `of` says, of `groups`.
    pub(super) fn merge_numbered(&mut self, state: &[ArrayRef], of: &[usize], groups: usize) -> Result<()> {
        debug_assert!(matches!(self.keys, Keys::None), "groups are found by their keys");
        for (accumulator, range) in self.accumulators.iter_mut().zip(&self.plan.state_ranges) {
            accumulator.merge_batch(&state[range.clone()], of, groups)?;
        }
        Ok(())
    }

    /// Takes keys and states out: (keys, states). The groups are empty afterwards.
    pub(super) fn take_state(&mut self) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        (self.rows, self.held_bytes, self.look_at_rows) = (0, 0, 0);
        let (mut keys, mut columns) = (self.keys.take()?, vec![]);
        for accumulator in &mut self.accumulators {
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        if self.plan.gap.is_some() {
            let Chains { extents, keys: of, current } = std::mem::take(&mut self.chains);
            if of.len() > current.len() {
                let of = UInt32Array::from(of);
                keys = keys.iter().map(|key| take(key, &of, None)).collect::<Result<_, _>>()?;
            }
            let column = |of: fn(&Extent) -> i64| Arc::new(extents.iter().map(of).collect::<Int64Array>()) as ArrayRef;
            columns.extend([column(|e| e.first), column(|e| e.last), column(|e| e.rows)]);
        }
        Ok((keys, columns))
    }

    /// Takes keys and results out: (keys, aggregates). The groups are empty afterwards.
    pub(super) fn take_results(&mut self) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        let keys = self.keys.take()?;
        let results = self.accumulators.iter_mut().map(|a| a.evaluate(EmitTo::All)).collect::<Result<_, _>>()?;
        Ok((keys, results))
    }
}
