//! The event times of rows, by the policy of each statement that reads the input.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray},
    compute::{cast, filter_record_batch},
    datatypes::TimestampMicrosecondType,
    record_batch::RecordBatch,
};
use datafusion_physical_expr::PhysicalExpr;

use super::{EmitInput, IntakeOptions, Rows, datetimes, substreams::Substreams};
use crate::{
    EventTime, Result, Signal,
    dataflow::plan::{LateAction, NodeId, TimeBounds, TimePolicy},
    datetime_type,
    decoder::{BadClass, BadRecord},
    event_time::{InputTime, Placement, TimeRule},
    source::{PartitionId, Record},
    user_code::{FailedRow, evaluate_or_null},
};

/// Microseconds of the years 1 to 9999: what datetimes can be. A time outside of them is no event time.
const EVENT_TIMES: std::ops::Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;

/// One statement's view of the input.
pub(super) struct Reader {
    pub(super) node: NodeId,
    pub(super) time: InputTime,
    /// `TIMESTAMP BY`; otherwise event time is the arrival.
    expression: Option<Arc<dyn PhysicalExpr>>,
    /// `TIMESTAMP BY ... OVER`.
    substreams: Option<Substreams>,
    /// Rows that keep an event time behind the watermark need it sent before them.
    keeps_late: bool,
    drops_late: bool,
    pub(super) sent: EventTime,
}

impl Reader {
    pub(super) fn new(node: NodeId, policy: &TimePolicy, options: &IntakeOptions) -> Self {
        let (rule, expression, substream) = match policy {
            TimePolicy::Arrival => (options.arrival, None, &[][..]),
            TimePolicy::Column { expression, bounds, substream } => {
                let bounds = bounds.map(|bounds| match options.judge_arrival {
                    true => bounds,
                    false => TimeBounds { late_arrival: None, early_arrival: None, ..bounds },
                });
                let rule = bounds.map_or(TimeRule::Unbounded, TimeRule::Bounded);
                (rule, Some(Arc::clone(expression)), substream.as_slice())
            }
        };
        Self {
            node,
            time: InputTime::new(rule, options.idle_margin_us, options.growing),
            expression,
            substreams: (!substream.is_empty()).then(|| Substreams::new(substream)),
            keeps_late: matches!(rule, TimeRule::Bounded(bounds) if bounds.action == LateAction::Keep),
            drops_late: matches!(rule, TimeRule::Bounded(bounds) if bounds.action == LateAction::Drop),
            sent: EventTime::MIN,
        }
    }

    /// Whether a row of this partition may be left out, so that its record must still be at hand when it is placed. With
    /// LogAppendTime only after an idle advance.
    pub(super) fn may_leave_out(&mut self, partition: PartitionId) -> bool {
        self.expression.is_some()
            || self.drops_late
            || self.time.partition(partition).is_some_and(|time| time.watermark() > time.largest())
    }
}

impl Rows {
    /// Gives the rows their event times by one reader's policy and emits them.
    pub(super) fn place(
        &mut self,
        (index, reader): (usize, &mut Reader),
        batch: &RecordBatch,
        arrivals: &[i64],
        runs: &[(PartitionId, usize)],
        records: Option<(&[Record<'_>], &[u32])>,
        emit: &mut EmitInput<'_>,
    ) -> Result<()> {
        let at_hand = records.map(|(records, _)| records);
        let mut failed = BTreeMap::new();
        let events = reader.expression.as_ref().map(|e| event_times(e, batch, &mut failed)).transpose()?;
        let events = events.as_ref().map(|e| e.as_primitive::<TimestampMicrosecondType>());
        let keys = reader.substreams.as_ref().map(|s| s.keys(batch, &mut failed)).transpose()?;
        let mut times = Vec::with_capacity(arrivals.len());
        let mut left_out: Vec<usize> = vec![];
        let mut emitted = 0;
        for (i, &(partition, start)) in runs.iter().enumerate() {
            let end = runs.get(i + 1).map_or(arrivals.len(), |next| next.1);
            let Some(time) = reader.time.partition(partition) else { continue };
            let progress = self.partitions.get_mut(&partition);
            let mut journal =
                progress.map(|progress| std::mem::take(&mut progress.journals[index])).unwrap_or_default();
            let mut largest = EventTime::MIN;
            let mut row = start;
            while row < end {
                let arrival = EventTime(arrivals[row]);
                let event = match events {
                    None => Some(arrival),
                    Some(events) => events.is_valid(row).then(|| EventTime(events.value(row))),
                };
                let event = event.filter(|event| EVENT_TIMES.contains(&event.0));
                // A run of rows with one stamp is placed at once.
                let same = match events {
                    None => arrivals[row..end].iter().take_while(|&&a| a == arrival.0).count(),
                    Some(_) => 1,
                };
                if reader.keeps_late && event.is_some_and(|e| e < time.watermark()) && row > emitted {
                    // Windows decide by the watermark whether this row is late: it has to be there first.
                    let before = batch.slice(emitted, row - emitted);
                    let watermark = time.watermark();
                    let failed = emit_rows(
                        reader.node,
                        &before,
                        times.split_off(0),
                        &shifted(&mut left_out, emitted),
                        self.covering,
                        emit,
                    )?;
                    self.failed_rows(failed, at_hand)?;
                    if watermark > reader.sent && runs.len() == 1 && self.partitions.len() == 1 {
                        emit(reader.node, Signal::Watermark(watermark), 0)?;
                        reader.sent = watermark;
                    }
                    emitted = row;
                }
                let placement = match (&mut reader.substreams, &keys) {
                    (Some(substreams), Some(keys)) => {
                        let key = keys[row].as_deref();
                        event.zip(key).map(|(event, key)| substreams.place(time, (partition, key), event, arrival))
                    }
                    _ => event.map(|event| time.place_run(event, arrival, same as u64)),
                };
                if let (Some(watermark), Some(event), Some(placement)) = (journal.open(), event, placement)
                    && placement != Placement::Early
                {
                    journal.settle(time.outgrew(watermark, event, placement));
                }
                let at = match placement {
                    Some(Placement::At(t)) => {
                        largest = largest.max(t);
                        t
                    }
                    other => {
                        left_out.extend(row..row + same);
                        let bad = match failed.remove(&row) {
                            Some(message) => BadRecord { class: BadClass::Function, message },
                            None => left_out_record(other),
                        };
                        if let Some((records, record_of_row)) = records {
                            // Rows with one stamp may be those of several records: each of them is bad.
                            for rows in record_of_row[row..row + same].chunk_by(PartialEq::eq) {
                                self.bad_record(partition, &records[rows[0] as usize], &bad)?;
                            }
                        } else if self.covering == 0 {
                            (0..same).for_each(|_| self.options.counters.bad(bad.class));
                        }
                        arrival
                    }
                };
                times.extend(std::iter::repeat_n(at.0, same));
                row += same;
            }
            if let Some(progress) = self.partitions.get_mut(&partition) {
                progress.journals[index] = journal;
                progress.took_rows(largest);
            }
        }
        let rest = batch.slice(emitted, batch.num_rows() - emitted);
        let failed = emit_rows(reader.node, &rest, times, &shifted(&mut left_out, emitted), self.covering, emit)?;
        self.failed_rows(failed, at_hand)
    }
}

/// The value of a `TIMESTAMP BY` for each row; null where it cannot be computed (ASA: such an event is dropped), with the
/// cause of user code that failed.
fn event_times(
    expression: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
    failed: &mut BTreeMap<usize, String>,
) -> Result<ArrayRef> {
    let times = evaluate_or_null(expression, batch, |row, error| {
        failed.extend(error.failed_call().map(|call| (row, call.to_string())));
        Ok(())
    });
    Ok(cast(&times?, &datetime_type())?)
}

/// Emits rows with `times` as their event time, without those at the indices `left_out`. Gives those that failed.
fn emit_rows(
    node: NodeId,
    batch: &RecordBatch,
    times: Vec<i64>,
    left_out: &[usize],
    covering: u8,
    emit: &mut EmitInput<'_>,
) -> Result<Vec<FailedRow>> {
    let mut columns = batch.columns().to_vec();
    columns.pop();
    columns.push(datetimes(times));
    let mut placed = RecordBatch::try_new(batch.schema(), columns)?;
    if !left_out.is_empty() {
        let mut keep = vec![true; placed.num_rows()];
        left_out.iter().for_each(|&row| keep[row] = false);
        placed = filter_record_batch(&placed, &BooleanArray::from(keep))?;
    }
    if placed.num_rows() == 0 { Ok(vec![]) } else { emit(node, Signal::Batch(placed), covering) }
}

/// Takes the indices out, counted from `start`.
fn shifted(rows: &mut Vec<usize>, start: usize) -> Vec<usize> {
    std::mem::take(rows).into_iter().map(|row| row - start).collect()
}

fn left_out_record(placement: Option<Placement>) -> BadRecord {
    let (class, message) = match placement {
        None => (BadClass::EventTime, "its event time, or the key that it is `OVER`, is null or cannot be read"),
        Some(Placement::Early) => (BadClass::Early, "its event time lies too far ahead of its arrival"),
        Some(_) => (BadClass::Late, "it came behind the watermark"),
    };
    BadRecord { class, message: message.to_owned() }
}
