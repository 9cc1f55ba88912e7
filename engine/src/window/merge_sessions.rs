//! The merge thread's half of an aggregation over sessions: state batches of all workers' cells in, results of closed
//! sessions out, in order of their ends.
//!
//! The states of a session are kept as they come and merged once, when it is over; where it goes on for long, they are
//! merged in between, so that a session holds one state for each group.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int64Array, RecordBatch},
    compute::concat_batches,
    datatypes::{DataType, Field, Int64Type, Schema, SchemaRef},
};

use super::{
    groups::{Groups, GroupsPlan, extent_columns},
    partial::WindowAggregate,
    sessions::{ClosedSession, Pieces, Place, Sessions},
    shape::SessionShape,
    slices::Cells,
};
use crate::{
    EngineError, EventTime, Result,
    dataflow::budget::bytes_of_rows,
    operator::{Emit, Operator},
};

/// See the module.
pub(crate) struct MergeSessions {
    window: Arc<WindowAggregate>,
    /// Keys, `window_start`, `window_end`, aggregates, event time.
    schema: SchemaRef,
    all_cells: Cells,
    /// State batches by the start of their cell, until every worker has passed it.
    cells: BTreeMap<i64, Vec<RecordBatch>>,
    /// Of these.
    cell_bytes: usize,
    sessions: Sessions,
    /// Keys and states.
    states: Pieces,
    state_schema: SchemaRef,
    /// Whether pieces must come in order of their first rows.
    in_order: bool,
    /// Whether the keys are those of the partitions: then a session is one group.
    is_one_group: bool,
    /// By nothing where a session is one group, else by number of the session, then the keys.
    groups: Arc<GroupsPlan>,
}

/// Takes (keys, results or states) out of groups.
type Take = fn(&mut Groups) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)>;

impl MergeSessions {
    pub(crate) fn try_new(window: Arc<WindowAggregate>, shape: SessionShape, schema: SchemaRef) -> Result<Self> {
        let keys = window.plan.keys.len();
        let fields = window.state_schema.fields();
        let partition = window.plan.partition.iter().map(|k| fields[*k].data_type().clone()).collect();
        // Without first, last, rows and slice.
        let states = Arc::new(Schema::new(fields[..fields.len() - 4].to_vec()));
        let is_one_group = (0..keys).all(|key| window.plan.partition.contains(&key));
        let mut by_session = vec![];
        if !is_one_group {
            by_session.push(session_field());
            by_session.extend(fields[..keys].iter().map(|f| f.as_ref().clone()));
        }
        let groups = Arc::new(GroupsPlan::try_new(by_session, &window.plan.aggregates, None)?);
        Ok(Self {
            window,
            schema,
            all_cells: Cells::new(shape),
            cells: BTreeMap::new(),
            cell_bytes: 0,
            sessions: Sessions::try_new(shape, partition)?,
            states: Pieces::new(Arc::clone(&states)),
            state_schema: states,
            in_order: shape.max.is_some(),
            is_one_group,
            groups,
        })
    }

    /// Adds a cell's pieces to the sessions.
    fn add_cell(&mut self, batches: &[RecordBatch]) -> Result<()> {
        let cell = match batches {
            [one] => one.clone(),
            several => concat_batches(&self.window.state_schema, several)?,
        };
        let width = self.state_schema.fields().len();
        let (states, extents) = cell.columns().split_at(width);
        let extent = extent_columns(extents);
        let partition = &self.window.plan.partition;
        let mut rows: Vec<usize> = (0..cell.num_rows()).collect();
        if self.in_order {
            rows.sort_by_key(|row| extent(*row).first);
        }
        let keys: Vec<ArrayRef> = partition.iter().map(|k| Arc::clone(&states[*k])).collect();
        let batch = self.states.push(RecordBatch::try_new(Arc::clone(&self.state_schema), states.to_vec())?);
        let first_and_last = |row| (extent(row).first, extent(row).last);
        for late in self.sessions.add(&keys, rows.into_iter(), first_and_last, batch)? {
            self.window.count_late(extent(late).rows);
        }
        Ok(())
    }

    /// Merges pieces by session and key: (numbers of sessions and keys, what `take` makes of the groups). `numbers` are those of the pieces'
    /// sessions, and ascend.
    fn merged(&self, places: &[Place], numbers: Vec<i64>, take: Take) -> Result<(Vec<ArrayRef>, Vec<ArrayRef>)> {
        let mut groups = Groups::try_new(Arc::clone(&self.groups), 0)?;
        let (keys, width) = (self.window.plan.keys.len(), self.state_schema.fields().len());
        if !self.is_one_group {
            let mut state: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(numbers))];
            state.extend(self.states.gather(places, 0..width)?);
            groups.merge(&state, places.len())?;
            return take(&mut groups);
        }
        let (mut of, mut firsts) = (Vec::with_capacity(places.len()), vec![]);
        for piece in 0..places.len() {
            if piece == 0 || numbers[piece] != numbers[piece - 1] {
                firsts.push(piece);
            }
            of.push(firsts.len() - 1);
        }
        groups.merge_numbered(&self.states.gather(places, keys..width)?, &of, firsts.len())?;
        let first_places: Vec<Place> = firsts.iter().map(|piece| places[*piece]).collect();
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(firsts.iter().map(|piece| numbers[*piece]).collect::<Int64Array>())];
        columns.extend(self.states.gather(&first_places, 0..keys)?);
        Ok((columns, take(&mut groups)?.1))
    }

    fn results(&self, closed: &[ClosedSession]) -> Result<RecordBatch> {
        let (places, numbers) = self.sessions.pieces_of(closed);
        let (mut columns, results) = self.merged(&places, numbers, Groups::take_results)?;
        let numbers = columns.remove(0);
        let of = numbers.as_primitive::<Int64Type>().values().iter().map(|n| *n as usize);
        let [start, end, time] = self.sessions.shown(closed, of);
        columns.extend([start, end]);
        columns.extend(results);
        columns.push(time);
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// One state for each session and key; gives the session of each, which ascend.
    fn compact(&mut self) -> Result<Vec<i64>> {
        let (places, numbers) = self.sessions.all_pieces();
        let (mut columns, states) = self.merged(&places, numbers, Groups::take_state)?;
        columns.extend(states);
        let numbers = columns.remove(0).as_primitive::<Int64Type>().values().to_vec();
        let batch = RecordBatch::try_new(Arc::clone(&self.state_schema), columns)?;
        self.sessions.replace_pieces(&mut self.states, batch, &numbers);
        Ok(numbers)
    }
}

fn session_field() -> Field {
    Field::new("__session", DataType::Int64, false)
}

impl Operator for MergeSessions {
    fn on_batch(&mut self, _port: usize, state: RecordBatch, _out: &mut dyn Emit) -> Result<()> {
        self.cell_bytes += bytes_of_rows(&state);
        self.cells.entry(self.window.slice_start(&state)?).or_default().push(state);
        Ok(())
    }

    fn held_bytes(&self) -> usize {
        self.cell_bytes + self.sessions.held_bytes() + self.states.held_bytes()
    }

    fn on_watermark(&mut self, _port: usize, t: EventTime, out: &mut dyn Emit) -> Result<()> {
        let complete_to = self.all_cells.complete_to(t);
        while let Some(entry) = self.cells.first_entry().filter(|e| *e.key() < complete_to.0) {
            let batches = entry.remove();
            self.cell_bytes -= batches.iter().map(bytes_of_rows).sum::<usize>();
            self.add_cell(&batches)?;
        }
        let closed = self.sessions.close(complete_to);
        if !closed.is_empty() {
            out.batch(self.results(&closed)?)?;
        }
        if !self.sessions.let_go(&mut self.states) && self.states.are_loose() {
            self.compact()?;
        }
        out.watermark(self.sessions.result_watermark())
    }

    /// The sessions, then their states with the number of the session of each, then cells to come.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        let numbers = self.compact()?;
        let (places, _) = self.sessions.all_pieces();
        let mut fields = vec![Arc::new(session_field())];
        fields.extend(self.state_schema.fields().iter().cloned());
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(numbers))];
        columns.extend(self.states.gather(&places, 0..self.state_schema.fields().len())?);
        let mut state = vec![self.sessions.snapshot()?, RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?];
        state.extend(self.cells.values().flatten().cloned());
        Ok(state)
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        let mut batches = state.into_iter();
        let (Some(sessions), Some(states)) = (batches.next(), batches.next()) else {
            let message = "expected sessions and their states".to_owned();
            return Err(EngineError::State { operator: "sessions".to_owned(), message });
        };
        let numbers = states.columns().first().and_then(|c| c.as_primitive_opt::<Int64Type>());
        let Some(numbers) = numbers.filter(|_| states.num_columns() == self.state_schema.fields().len() + 1) else {
            let message = format!("states of {:?}, expected {:?}", states.schema(), self.state_schema);
            return Err(EngineError::State { operator: "sessions".to_owned(), message });
        };
        self.sessions.restore(&sessions, numbers.values())?;
        self.states.push(RecordBatch::try_new(Arc::clone(&self.state_schema), states.columns()[1..].to_vec())?);
        for batch in batches {
            self.cell_bytes += bytes_of_rows(&batch);
            self.cells.entry(self.window.slice_start(&batch)?).or_default().push(batch);
        }
        Ok(())
    }
}
