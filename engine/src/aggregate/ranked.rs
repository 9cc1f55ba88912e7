//! Aggregates that keep rows in an order: TopOne, CollectTop, Collect, FIRST_VALUE and LAST_VALUE.
//!
//! Arguments are the value, then what orders the rows; a row is kept as the bytes of both, which compare as the columns do
//! (arrow's row format). Rows that are equal in all that orders them are ordered by their values, so that the result
//! depends on the set of rows alone.
//!
//! State: one column `rows` (Binary): for each row the lengths of its two parts as little-endian u32s, then the parts.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Int64Array, ListArray, StructArray, UInt32Array},
    buffer::OffsetBuffer,
    compute::{SortOptions, take},
    datatypes::{DataType, Field, FieldRef, Fields},
    row::{RowConverter, SortField},
};
use datafusion_common::{Result, internal_datafusion_err, internal_err, not_impl_err};
use datafusion_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
    function::{AccumulatorArgs, StateFieldsArgs},
    utils::format_state_name,
};

/// What is made of the rows of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ranked {
    /// The value of the first row, of the value's type; null without rows.
    First,
    /// The first rows as a list of `{rank: Int64, value}`, ranks from 1; empty without rows.
    Top(usize),
    /// The values of all rows as a list. `nulls`: of null values too.
    All {
        /// Whether rows whose value is null count.
        nulls: bool,
    },
}

/// An aggregate of rows in order: arguments are the value, then a column for each element of `descending`, of which null is
/// the smallest value.
#[must_use]
pub fn ranked(ranked: Ranked, descending: Vec<bool>) -> Arc<AggregateUDF> {
    let signature = Signature::user_defined(Volatility::Immutable);
    Arc::new(AggregateUDF::from(RankedAggregate { ranked, descending, signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RankedAggregate {
    ranked: Ranked,
    descending: Vec<bool>,
    signature: Signature,
}

fn top_fields(value: &DataType) -> Fields {
    [Field::new("rank", DataType::Int64, false), Field::new("value", value.clone(), true)].into_iter().collect()
}

impl AggregateUDFImpl for RankedAggregate {
    fn name(&self) -> &str {
        match self.ranked {
            Ranked::First => "top_one",
            Ranked::Top(_) => "collect_top",
            Ranked::All { .. } => "collect",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arguments.to_vec())
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let Some(value) = arguments.first() else { return internal_err!("`{}` without a value", self.name()) };
        Ok(match self.ranked {
            Ranked::First => value.clone(),
            Ranked::Top(_) => DataType::new_list(DataType::Struct(top_fields(value)), true),
            Ranked::All { .. } => DataType::new_list(value.clone(), true),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        Ok(vec![Arc::new(Field::new(format_state_name(args.name, "rows"), DataType::Binary, false))])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        not_impl_err!("`{}` is computed by groups only", args.name)
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let [value, order @ ..] = args.expr_fields else { return internal_err!("`{}` without a value", args.name) };
        let order = order.iter().zip(&self.descending).map(|(field, &descending)| {
            let options = SortOptions { descending, nulls_first: !descending };
            SortField::new_with_options(field.data_type().clone(), options)
        });
        Ok(Box::new(GroupedRows {
            ranked: self.ranked,
            order: RowConverter::new(order.collect())?,
            value: RowConverter::new(vec![SortField::new(value.data_type().clone())])?,
            value_type: value.data_type().clone(),
            groups: vec![],
        }))
    }
}

/// A kept row: what orders it, and its value.
type Entry = (Box<[u8]>, Box<[u8]>);

/// The rows of many groups; where only the first of them count, in order and no more than those.
struct GroupedRows {
    ranked: Ranked,
    order: RowConverter,
    value: RowConverter,
    value_type: DataType,
    groups: Vec<Vec<Entry>>,
}

impl GroupedRows {
    fn add(&mut self, group: usize, order: &[u8], value: &[u8]) {
        let rows = &mut self.groups[group];
        let most = match self.ranked {
            Ranked::All { .. } => return rows.push((order.into(), value.into())),
            Ranked::First => 1,
            Ranked::Top(n) => n,
        };
        let before = |(o, v): &Entry| (o.as_ref(), v.as_ref()) < (order, value);
        if rows.len() >= most && rows.last().is_none_or(before) {
            return;
        }
        let at = rows.partition_point(before);
        rows.truncate(most.saturating_sub(1).max(at));
        rows.insert(at, (order.into(), value.into()));
    }

    /// The values of these rows.
    fn values<'e>(&self, rows: impl Iterator<Item = &'e Entry>) -> Result<ArrayRef> {
        let parser = self.value.parser();
        let mut columns = self.value.convert_rows(rows.map(|(_, value)| parser.parse(value)))?;
        columns.pop().ok_or_else(|| internal_datafusion_err!("no value"))
    }
}

impl GroupsAccumulator for GroupedRows {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        ids: &[usize],
        filter: Option<&BooleanArray>,
        total_groups: usize,
    ) -> Result<()> {
        self.groups.resize_with(total_groups, Vec::new);
        let [value, order @ ..] = values else { return internal_err!("expected a value, found no column") };
        let only_values = self.ranked == Ranked::All { nulls: false };
        let values = self.value.convert_columns(std::slice::from_ref(value))?;
        let order = if order.is_empty() { None } else { Some(self.order.convert_columns(order)?) };
        for (row, &group) in ids.iter().enumerate() {
            let wanted = filter.is_none_or(|f| f.is_valid(row) && f.value(row));
            if wanted && !(only_values && value.is_null(row)) {
                let order = order.as_ref().map_or(&[][..], |order| order.row(row).data());
                self.add(group, order, values.row(row).data());
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], ids: &[usize], total_groups: usize) -> Result<()> {
        self.groups.resize_with(total_groups, Vec::new);
        let Some(states) = states.first().and_then(|s| s.as_binary_opt::<i32>()) else {
            return internal_err!("expected rows as Binary");
        };
        let cut = || internal_datafusion_err!("the state of an aggregate of rows is cut off");
        for (row, &group) in ids.iter().enumerate() {
            let mut rest = states.value(row);
            while !rest.is_empty() {
                let (lengths, parts) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
                let [a, b, c, d, e, f, g, h] = *lengths;
                let (order, value) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
                let (order, parts) = parts.split_at_checked(order as usize).ok_or_else(cut)?;
                let (value, behind) = parts.split_at_checked(value as usize).ok_or_else(cut)?;
                self.add(group, order, value);
                rest = behind;
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let mut groups = emit_to.take_needed(&mut self.groups);
        if self.ranked == Ranked::First {
            let first = self.values(groups.iter().filter_map(|rows| rows.first()))?;
            let mut next = 0;
            let places = groups.iter().map(|rows| {
                next += u32::from(!rows.is_empty());
                (!rows.is_empty()).then(|| next - 1)
            });
            return Ok(take(&first, &places.collect::<UInt32Array>(), None)?);
        }
        groups.iter_mut().for_each(|rows| rows.sort_unstable());
        let values = self.values(groups.iter().flatten())?;
        let offsets = OffsetBuffer::from_lengths(groups.iter().map(Vec::len));
        let (element, values): (DataType, ArrayRef) = match self.ranked {
            Ranked::Top(_) => {
                let fields = top_fields(&self.value_type);
                let ranks = groups.iter().flat_map(|rows| 1..=rows.len() as i64).collect::<Int64Array>();
                let rows = StructArray::try_new(fields.clone(), vec![Arc::new(ranks), values], None)?;
                (DataType::Struct(fields), Arc::new(rows))
            }
            _ => (self.value_type.clone(), values),
        };
        let element = Arc::new(Field::new_list_field(element, true));
        Ok(Arc::new(ListArray::try_new(element, offsets, values, None)?))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let groups = emit_to.take_needed(&mut self.groups);
        let mut column = BinaryBuilder::new();
        let mut bytes = vec![];
        for rows in &groups {
            bytes.clear();
            for (order, value) in rows {
                bytes.extend((order.len() as u32).to_le_bytes());
                bytes.extend((value.len() as u32).to_le_bytes());
                bytes.extend_from_slice(order);
                bytes.extend_from_slice(value);
            }
            column.append_value(&bytes);
        }
        Ok(vec![Arc::new(column.finish())])
    }

    fn convert_to_state(&self, _values: &[ArrayRef], _filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        not_impl_err!("states of single rows")
    }

    fn size(&self) -> usize {
        let rows = self.groups.iter().flatten();
        self.groups.capacity() * size_of::<Vec<Entry>>()
            + rows.map(|(order, value)| size_of::<Entry>() + order.len() + value.len()).sum::<usize>()
    }
}
