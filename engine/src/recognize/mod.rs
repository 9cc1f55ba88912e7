//! MATCH_RECOGNIZE: runs of rows that match a pattern.
//!
//! [`Recognize`] sees the rows in order ([`crate::dataflow::order`]). At each row an attempt begins; it follows all ways in
//! which its rows can match, the preferred first, and ends when none is left or its time is over. Then it gives one row
//! with the measures of the preferred match, at the event time of that match's last row. Attempts overlap: after a match
//! the next row is tried, as `AFTER MATCH SKIP TO NEXT ROW` says.

pub mod pattern;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, StringArray, new_null_array},
    buffer::OffsetBuffer,
    compute::concat_batches,
    datatypes::{DataType, Field, Schema, SchemaRef, TimestampMicrosecondType},
    row::{RowConverter, SortField},
};
use datafusion_common::{ScalarValue, exec_datafusion_err};

use pattern::{Next, Program};

use crate::{
    EngineError, EventTime, Result,
    dataflow::{
        order::{Sequential, times},
        plan::{MatchPlan, Reference, ReferenceKind},
    },
    operator::{Emit, evaluate},
    user_code::{CallFailed, FailedRow},
};

/// Ways in which one attempt may still match; a pattern that opens more is too ambiguous to follow.
const MAX_WAYS: usize = 1_000;

/// See the module.
pub(crate) struct Recognize {
    plan: MatchPlan,
    program: Program,
    partition: Option<RowConverter>,
    /// Columns of the rows, then those of the references: what conditions and measures read.
    context: SchemaRef,
    /// Measures, event time.
    schema: SchemaRef,
    /// By partition, in an order, so that results come in one.
    partitions: BTreeMap<Box<[u8]>, Partition>,
}

/// Rows, and what is computed of them once.
struct Batch {
    rows: RecordBatch,
    /// The argument of each reference.
    arguments: Vec<ArrayRef>,
    /// Of each variable its condition, where that refers to no other row.
    conditions: Vec<Option<BooleanArray>>,
}

/// A row that an attempt has taken or may take.
struct Kept {
    time: i64,
    batch: Arc<Batch>,
    row: usize,
}

#[derive(Default)]
struct Partition {
    rows: VecDeque<Kept>,
    /// Number of the first row that is kept.
    first: u64,
    attempts: VecDeque<Attempt>,
}

struct Attempt {
    /// Number of its first row.
    start: u64,
    time: i64,
    /// The preferred first.
    ways: Vec<Way>,
    /// The variables of the rows of the preferred complete match.
    matched: Option<Vec<u16>>,
}

/// A way to match the rows so far.
struct Way {
    /// The step that takes the next row.
    step: usize,
    /// The variable of each row.
    labels: Vec<u16>,
}

impl Recognize {
    pub(crate) fn try_new(plan: &MatchPlan, input: &Schema, schema: SchemaRef) -> Result<Self> {
        let fields = plan.partition.iter().map(|k| Ok(SortField::new(k.data_type(input)?)));
        let fields = fields.collect::<Result<Vec<_>>>()?;
        let mut context: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        for (i, reference) in plan.references.iter().enumerate() {
            context.push(Field::new(format!("reference_{i}"), reference.data_type.clone(), true));
        }
        Ok(Self {
            program: Program::new(&plan.pattern),
            partition: if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) },
            context: Arc::new(Schema::new(context)),
            schema,
            partitions: BTreeMap::new(),
            plan: plan.clone(),
        })
    }

    /// Takes rows in order. An attempt begins at each row for which `begins` holds.
    fn take(&mut self, rows: &RecordBatch, begins: impl Fn(usize) -> bool, found: &mut Found) -> Result<()> {
        let keys = match &self.partition {
            Some(converter) => {
                let columns = self.plan.partition.iter().map(|k| evaluate(k, rows)).collect::<Result<Vec<_>>>()?;
                Some(converter.convert_columns(&columns)?)
            }
            None => None,
        };
        let width = rows.num_columns();
        let arguments = self.plan.references.iter().map(|r| evaluate(&r.argument, rows)).collect::<Result<_>>()?;
        let conditions = self.plan.variables.iter().map(|variable| match &variable.condition {
            Some(condition) if variable.reads.is_empty() => {
                let columns = (width..self.context.fields().len())
                    .map(|i| new_null_array(self.context.field(i).data_type(), rows.num_rows()));
                let columns = rows.columns().iter().cloned().chain(columns).collect();
                let context = RecordBatch::try_new(Arc::clone(&self.context), columns)?;
                Ok(Some(evaluate(condition, &context)?.as_boolean().clone()))
            }
            _ => Ok(None),
        });
        let conditions = conditions.collect::<Result<_>>()?;
        let batch = Arc::new(Batch { rows: rows.clone(), arguments, conditions });
        for (row, &time) in times(rows).iter().enumerate() {
            let key: &[u8] = keys.as_ref().map_or(&[], |keys| keys.row(row).data());
            if !self.partitions.contains_key(key) {
                self.partitions.insert(key.into(), Partition::default());
            }
            let rules =
                Rules { plan: &self.plan, program: &self.program, context: &self.context, schema: &self.schema };
            if let Some(partition) = self.partitions.get_mut(key) {
                let kept = Kept { time, batch: Arc::clone(&batch), row };
                partition.row(&rules, kept, begins(row), found)?;
            }
        }
        Ok(())
    }

    fn emit(&self, found: Found, out: &mut dyn Emit) -> Result<()> {
        found.failed.into_iter().try_for_each(|row| out.failed(row))?;
        if found.matches.is_empty() { Ok(()) } else { out.batch(concat_batches(&self.schema, &found.matches)?) }
    }
}

impl Sequential for Recognize {
    fn rows(&mut self, batches: &[RecordBatch], _order: &[(usize, usize)], out: &mut dyn Emit) -> Result<()> {
        let [batch] = batches else { return Ok(()) };
        let mut found = Found::default();
        self.take(batch, |_| true, &mut found)?;
        self.emit(found, out)
    }

    fn advance(&mut self, t: EventTime, out: &mut dyn Emit) -> Result<EventTime> {
        let mut found = Found::default();
        let mut promise = t;
        let rules = Rules { plan: &self.plan, program: &self.program, context: &self.context, schema: &self.schema };
        for partition in self.partitions.values_mut() {
            partition.close(&rules, t.0, &mut found)?;
            promise = promise.min(EventTime(partition.earliest_match()));
        }
        self.partitions.retain(|_, partition| !partition.attempts.is_empty());
        self.emit(found, out)?;
        Ok(promise)
    }

    /// The rows of open attempts in their order, and whether an open attempt began at each.
    fn snapshot(&mut self) -> Result<Vec<RecordBatch>> {
        let mut rows = vec![];
        let mut begins = vec![];
        for partition in self.partitions.values() {
            for (number, kept) in (partition.first..).zip(&partition.rows) {
                rows.push(kept.batch.rows.slice(kept.row, 1));
                begins.push(partition.attempts.iter().any(|a| a.start == number));
            }
        }
        let Some(schema) = rows.first().map(RecordBatch::schema) else { return Ok(vec![]) };
        let begins = BooleanArray::from(begins);
        let flags = Schema::new(vec![Field::new("begins", DataType::Boolean, false)]);
        Ok(vec![concat_batches(&schema, &rows)?, RecordBatch::try_new(Arc::new(flags), vec![Arc::new(begins)])?])
    }

    fn restore(&mut self, state: Vec<RecordBatch>) -> Result<()> {
        let foreign =
            |message: &str| EngineError::State { operator: "match_recognize".to_owned(), message: message.to_owned() };
        match state.as_slice() {
            [] => Ok(()),
            [rows, flags] => {
                let begins = flags.columns().first().and_then(|c| c.as_boolean_opt());
                let begins = begins.filter(|b| b.len() == rows.num_rows());
                let begins = begins.ok_or_else(|| foreign("expected where attempts begin"))?;
                let mut found = Found::default();
                self.take(rows, |row| begins.value(row), &mut found)?;
                // Rows that failed were given when they came.
                if found.matches.is_empty() { Ok(()) } else { Err(foreign("an open attempt is complete")) }
            }
            _ => Err(foreign("expected rows and where attempts begin")),
        }
    }
}

/// What comes of rows.
#[derive(Default)]
struct Found {
    /// Of each match its row.
    matches: Vec<RecordBatch>,
    failed: Vec<FailedRow>,
}

impl Found {
    /// User code failed on a row, maybe in several attempts. Gives back what is no such failure.
    fn failed(&mut self, kept: &Kept, error: EngineError) -> Result<()> {
        let Some(CallFailed(message)) = error.failed_call() else { return Err(error) };
        let row = kept.batch.rows.slice(kept.row, 1);
        if !self.failed.iter().any(|known| known.message == *message && known.row == row) {
            self.failed.push(FailedRow { row, message: message.clone() });
        }
        Ok(())
    }
}

/// What a partition needs to know.
struct Rules<'a> {
    plan: &'a MatchPlan,
    program: &'a Program,
    context: &'a SchemaRef,
    schema: &'a SchemaRef,
}

impl Partition {
    fn row(&mut self, rules: &Rules<'_>, kept: Kept, begins: bool, found: &mut Found) -> Result<()> {
        let (time, number) = (kept.time, self.first + self.rows.len() as u64);
        self.close(rules, time, found)?;
        if self.attempts.is_empty() {
            self.first = number;
            self.rows.clear();
        }
        self.rows.push_back(kept);
        if begins {
            let ways = rules.program.start().iter().filter_map(|next| match next {
                Next::Take(step) => Some(Way { step: *step, labels: vec![] }),
                // No row is no match.
                Next::Match => None,
            });
            self.attempts.push_back(Attempt { start: number, time, ways: ways.collect(), matched: None });
        }
        let mut attempts = std::mem::take(&mut self.attempts);
        for attempt in &mut attempts {
            attempt.row(rules, &self.rows, self.first, found)?;
        }
        self.attempts = attempts;
        self.finish(rules, |attempt| attempt.ways.is_empty(), found)
    }

    /// Ends the attempts that no row at or after `t` can be part of.
    fn close(&mut self, rules: &Rules<'_>, t: i64, found: &mut Found) -> Result<()> {
        let within = rules.plan.within_us;
        self.finish(rules, |attempt| t.saturating_sub(attempt.time) >= within, found)
    }

    fn finish(&mut self, rules: &Rules<'_>, is_over: impl Fn(&Attempt) -> bool, found: &mut Found) -> Result<()> {
        let mut open = VecDeque::with_capacity(self.attempts.len());
        for attempt in std::mem::take(&mut self.attempts) {
            if !is_over(&attempt) {
                open.push_back(attempt);
            } else if let Some(labels) = &attempt.matched {
                self.measures(rules, attempt.start, labels, found)?;
            }
        }
        self.attempts = open;
        let needed = self.attempts.front().map_or(self.first + self.rows.len() as u64, |a| a.start);
        while self.first < needed && self.rows.pop_front().is_some() {
            self.first += 1;
        }
        Ok(())
    }

    /// The event time of the earliest row that open attempts may still give; never when there is none.
    fn earliest_match(&self) -> i64 {
        let end = |a: &Attempt| {
            let last = a.start + a.matched.as_ref()?.len() as u64 - 1;
            Some(self.rows.get((last - self.first) as usize)?.time)
        };
        self.attempts.iter().filter_map(end).min().unwrap_or(i64::MAX)
    }

    fn measures(&self, rules: &Rules<'_>, start: u64, labels: &[u16], found: &mut Found) -> Result<()> {
        let rows: Vec<&Kept> = self.rows.iter().skip((start - self.first) as usize).take(labels.len()).collect();
        let all: Vec<usize> = (0..rules.plan.references.len()).collect();
        let context = rules.context_of(&rows, labels, &all)?;
        let last = rows.last().ok_or_else(|| EngineError::State {
            operator: "match_recognize".to_owned(),
            message: "a match without rows".to_owned(),
        })?;
        let columns = rules.plan.measures.iter().map(|m| evaluate(m, &context)).collect::<Result<Vec<_>>>();
        let mut columns = match columns {
            Ok(columns) => columns,
            Err(error) => return found.failed(last, error),
        };
        let time = last.batch.rows.column(last.batch.rows.num_columns() - 1);
        columns.push(Arc::new(time.as_primitive::<TimestampMicrosecondType>().slice(last.row, 1)));
        found.matches.push(RecordBatch::try_new(Arc::clone(rules.schema), columns)?);
        Ok(())
    }
}

impl Attempt {
    /// Follows all ways over the newest row.
    fn row(&mut self, rules: &Rules<'_>, rows: &VecDeque<Kept>, first: u64, found: &mut Found) -> Result<()> {
        let mut ways = vec![];
        'ways: for way in std::mem::take(&mut self.ways) {
            let variable = rules.program.variable(way.step);
            let mut labels = way.labels;
            labels.push(variable as u16);
            if !rules.holds(variable, rows, (self.start - first) as usize, &labels, found)? {
                continue;
            }
            for next in rules.program.behind(way.step) {
                match next {
                    Next::Take(step) => ways.push(Way { step: *step, labels: labels.clone() }),
                    // What is preferred less is given up.
                    Next::Match => {
                        self.matched = Some(labels);
                        break 'ways;
                    }
                }
            }
        }
        if ways.len() > MAX_WAYS {
            return Err(EngineError::Evaluate {
                expression: "MATCH_RECOGNIZE".to_owned(),
                source: exec_datafusion_err!(
                    "the pattern can match these rows in more than {MAX_WAYS} ways; make it less ambiguous"
                ),
            });
        }
        self.ways = ways;
        Ok(())
    }
}

impl Rules<'_> {
    /// Whether the newest row can be one of a variable, after the rows of `labels` before it. Not if the condition fails on it.
    fn holds(
        &self,
        variable: usize,
        rows: &VecDeque<Kept>,
        start: usize,
        labels: &[u16],
        found: &mut Found,
    ) -> Result<bool> {
        let definition = &self.plan.variables[variable];
        let Some(condition) = &definition.condition else { return Ok(true) };
        let Some(newest) = rows.back() else { return Ok(false) };
        if let Some(known) = &newest.batch.conditions[variable] {
            return Ok(known.is_valid(newest.row) && known.value(newest.row));
        }
        let rows: Vec<&Kept> = rows.iter().skip(start).collect();
        let context = self.context_of(&rows, labels, &definition.reads)?;
        let result = match evaluate(condition, &context) {
            Ok(result) => result,
            Err(error) => return found.failed(newest, error).map(|()| false),
        };
        let result = result.as_boolean();
        Ok(result.is_valid(0) && result.value(0))
    }

    /// One row: the newest of `rows`, and what these references are over all of them.
    fn context_of(&self, rows: &[&Kept], labels: &[u16], references: &[usize]) -> Result<RecordBatch> {
        let newest = rows.last().map(|kept| kept.batch.rows.slice(kept.row, 1));
        let mut columns = newest.map(|row| row.columns().to_vec()).unwrap_or_default();
        for (i, reference) in self.plan.references.iter().enumerate() {
            columns.push(match references.contains(&i) {
                true => reference.value(i, rows, labels, self.plan)?,
                false => new_null_array(&reference.data_type, 1),
            });
        }
        Ok(RecordBatch::try_new(Arc::clone(self.context), columns)?)
    }
}

impl Reference {
    /// Over the rows of a match, as an array of one.
    fn value(&self, index: usize, rows: &[&Kept], labels: &[u16], plan: &MatchPlan) -> Result<ArrayRef> {
        let mut own = (0..labels.len()).filter(|at| self.variable.is_none_or(|v| v == usize::from(labels[*at])));
        let one = |at: usize| rows[at].batch.arguments[index].slice(rows[at].row, 1);
        let found = match self.kind {
            ReferenceKind::First => own.next().map(one),
            ReferenceKind::Last => own.next_back().map(one),
            ReferenceKind::Min | ReferenceKind::Max => {
                let mut best: Option<ScalarValue> = None;
                for at in own {
                    let value = ScalarValue::try_from_array(&rows[at].batch.arguments[index], rows[at].row)?;
                    let better = best.as_ref().is_none_or(|best| match self.kind {
                        ReferenceKind::Min => value < *best,
                        _ => value > *best,
                    });
                    if !value.is_null() && better {
                        best = Some(value);
                    }
                }
                best.map(|value| value.to_array()).transpose()?
            }
            ReferenceKind::Classifier => {
                let names = own.map(|at| plan.variables[usize::from(labels[at])].name.as_str());
                let names = StringArray::from_iter_values(names);
                let item = Arc::new(Field::new_list_field(DataType::Utf8, true));
                let offsets = OffsetBuffer::from_lengths([names.len()]);
                Some(Arc::new(ListArray::try_new(item, offsets, Arc::new(names), None)?) as ArrayRef)
            }
        };
        Ok(found.unwrap_or_else(|| new_null_array(&self.data_type, 1)))
    }
}
