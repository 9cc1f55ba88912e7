//! A log as DataFusion reads it: the table that narrows a question to stretches, and the node of a plan that reads them.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use async_trait::async_trait;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{
        Column, DFSchema, DataFusionError, Result, Statistics, internal_err,
        stats::Precision,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{SendableRecordBatchStream, TaskContext},
    logical_expr::{Expr, TableProviderFilterPushDown, TableType},
    physical_expr::{EquivalenceProperties, PhysicalExpr},
    physical_plan::{
        DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
        execution_plan::{Boundedness, EmissionType},
        stream::RecordBatchReceiverStreamBuilder,
    },
};
use tidemill_engine::EngineError;

use super::{
    bounds::{Condition, Interval},
    log::{LogTable, Stretch, Stretches, Wanted},
};

/// Batches that wait for who computes with them: one in hand and one ahead.
const AHEAD: usize = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) log: Arc<dyn LogTable>,
    /// Whether offsets may be taken for a count of records.
    pub(super) approximate: bool,
}

impl Table {
    /// What the conditions leave of the log.
    fn wanted(&self, state: &dyn Session, filters: &[Expr]) -> Result<Wanted> {
        let partitions = self.log.partitions();
        let mut wanted = Wanted {
            partitions: vec![true; partitions.len()],
            offsets: Interval::ALL,
            times: Interval::ALL,
            key: None,
        };
        for filter in filters {
            match Condition::of(filter) {
                Condition::Partition => {
                    let holds = self.of_partitions(state, filter)?;
                    wanted.partitions.iter_mut().zip(holds).for_each(|(wanted, holds)| *wanted &= holds);
                }
                Condition::Offsets(interval) => wanted.offsets = wanted.offsets.meet(interval),
                Condition::Times(interval) => wanted.times = wanted.times.meet(interval),
                Condition::Key(key) => wanted.key = Some(key),
                Condition::Other => {}
            }
        }
        Ok(wanted)
    }

    /// Whether a condition holds for each partition.
    fn of_partitions(&self, state: &dyn Session, filter: &Expr) -> Result<Vec<bool>> {
        let partitions = self.log.partitions();
        let schema = Schema::new(vec![
            Field::new("_partition", DataType::Int64, false),
            Field::new("_topic", DataType::Utf8, false),
        ]);
        let numbers: Int64Array = partitions.iter().map(|p| Some(i64::from(p.number))).collect();
        let topics: StringArray = partitions.iter().map(|p| Some(&*p.topic)).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(numbers), Arc::new(topics)];
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), columns)?;
        let unqualified = filter.clone().transform(|expr| {
            Ok(match expr {
                Expr::Column(column) => Transformed::yes(Expr::Column(Column::new_unqualified(column.name))),
                other => Transformed::no(other),
            })
        })?;
        let expression = state.create_physical_expr(unqualified.data, &DFSchema::try_from(schema)?)?;
        let holds = expression.evaluate(&batch)?.into_array(partitions.len())?;
        let holds = holds.as_boolean();
        Ok((0..partitions.len()).map(|row| holds.is_valid(row) && holds.value(row)).collect())
    }
}

#[async_trait]
impl TableProvider for Table {
    fn schema(&self) -> SchemaRef {
        self.log.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match Condition::of(filter) {
            Condition::Partition => TableProviderFilterPushDown::Exact,
            Condition::Offsets(_) if self.log.seeks() => TableProviderFilterPushDown::Exact,
            Condition::Offsets(_) | Condition::Times(_) | Condition::Key(_) => TableProviderFilterPushDown::Inexact,
            Condition::Other => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted = self.wanted(state, filters)?;
        let found = match wanted.offsets.is_empty() || wanted.times.is_empty() {
            true => Stretches { stretches: vec![], notes: vec!["no record can fulfil the conditions".to_owned()] },
            false => self.log.stretches(&wanted).map_err(external)?,
        };
        let columns = projection.cloned().unwrap_or_else(|| (0..self.log.schema().fields().len()).collect());
        // What stops early is read one after the other.
        let parallel = if limit.is_some() { 1 } else { state.config().target_partitions() };
        Ok(Arc::new(LogScan::new(Arc::clone(&self.log), columns, found, parallel, limit, self.approximate)?))
    }
}

pub(super) fn external(error: EngineError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Reads stretches of a log, some of them at the same time.
#[derive(Clone, Debug)]
pub(super) struct LogScan {
    pub(super) log: Arc<dyn LogTable>,
    columns: Vec<usize>,
    pub(super) found: Stretches,
    /// Which of them are read together; each is a partition of the plan.
    groups: Vec<Vec<Stretch>>,
    /// Enough rows.
    pub(super) limit: Option<usize>,
    /// Of each stretch only its end is wanted, with this many rows at least.
    pub(super) newest: Option<usize>,
    approximate: bool,
    properties: Arc<PlanProperties>,
}

impl LogScan {
    fn new(
        log: Arc<dyn LogTable>,
        columns: Vec<usize>,
        found: Stretches,
        parallel: usize,
        limit: Option<usize>,
        approximate: bool,
    ) -> Result<Self> {
        let schema = Arc::new(log.schema().project(&columns)?);
        let groups = divide(&found.stretches, parallel);
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(groups.len()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self { log, columns, found, groups, limit, newest: None, approximate, properties: Arc::new(properties) })
    }

    /// The same, for the last `rows` rows of each partition.
    pub(super) fn of_newest(&self, rows: usize) -> Self {
        Self { newest: Some(rows), ..self.clone() }
    }

    /// Whether only records are counted.
    pub(super) fn counts(&self) -> bool {
        self.columns.is_empty() && self.log.counts_records()
    }

    /// Records that are read at most, where offsets say it, and about how many bytes.
    pub(super) fn size(&self) -> (Option<u64>, u64) {
        let sizes = self.found.stretches.iter().map(|stretch| {
            let wanted = self.newest.and_then(|rows| u64::try_from(rows).ok());
            share(stretch, wanted)
        });
        let (records, bytes) = sizes.fold((Some(0u64), 0u64), |(records, bytes), (more, size)| {
            (records.zip(more).map(|(a, b)| a.saturating_add(b)), bytes.saturating_add(size))
        });
        match (records, self.limit.and_then(|rows| u64::try_from(rows).ok())) {
            (Some(records), Some(limit)) if limit < records => (Some(limit), scaled(bytes, limit, records)),
            _ => (records, bytes),
        }
    }
}

/// Of a stretch, so many records at most.
fn share(stretch: &Stretch, wanted: Option<u64>) -> (Option<u64>, u64) {
    match (stretch.records, wanted) {
        (Some(records), Some(wanted)) if wanted < records => (Some(wanted), scaled(stretch.bytes, wanted, records)),
        (records, _) => (records, stretch.bytes),
    }
}

fn scaled(bytes: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(part) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

/// At least one group, and of about the same size. A stretch is cut where a group is full, so that no group has two of one partition; one that cannot
/// be cut counts as a whole.
fn divide(stretches: &[Stretch], parallel: usize) -> Vec<Vec<Stretch>> {
    let size = |stretch: &Stretch| stretch.records.unwrap_or(stretch.bytes).max(1);
    let total: u64 = stretches.iter().map(size).sum();
    let share = total.div_ceil(parallel.max(1) as u64).max(SMALLEST_GROUP);
    let mut groups: Vec<Vec<Stretch>> = vec![vec![]];
    let mut room = share;
    for stretch in stretches {
        let mut rest = stretch.clone();
        while rest.records.is_some_and(|records| records > room) {
            let (head, tail) = cut(&rest, room);
            groups.last_mut().expect("there is always a last group").push(head);
            groups.push(vec![]);
            (rest, room) = (tail, share);
        }
        room = room.saturating_sub(size(&rest));
        groups.last_mut().expect("there is always a last group").push(rest);
        if room == 0 {
            groups.push(vec![]);
            room = share;
        }
    }
    if groups.len() > 1 {
        groups.retain(|group| !group.is_empty());
    }
    groups
}

/// Less is not worth a thread and its connections.
const SMALLEST_GROUP: u64 = 10_000;

/// The first `records` offsets of a stretch, and the rest.
fn cut(stretch: &Stretch, records: u64) -> (Stretch, Stretch) {
    let all = stretch.records.unwrap_or(1);
    let middle = stretch.from.saturating_add(i64::try_from(records).unwrap_or(i64::MAX)).min(stretch.to);
    let bytes = scaled(stretch.bytes, records, all);
    let head = Stretch { to: middle, records: Some(records), bytes, ..stretch.clone() };
    let tail = Stretch { from: middle, records: Some(all - records), bytes: stretch.bytes - bytes, ..stretch.clone() };
    (head, tail)
}

impl DisplayAs for LogScan {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogScan: {}, ", self.log.name())?;
        if self.counts() {
            write!(f, "counting records")?;
        } else {
            let schema = self.schema();
            let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            write!(f, "columns=[{}]", names.join(", "))?;
        }
        if let Some(rows) = self.newest {
            write!(f, ", the last {rows} of each partition")?;
        }
        if let Some(rows) = self.limit {
            write!(f, ", until there are {rows} rows")?;
        }
        write!(f, ", in {} parts", self.groups.len())
    }
}

impl ExecutionPlan for LogScan {
    fn name(&self) -> &'static str {
        "LogScan"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("a LogScan has no children") }
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut stream = RecordBatchReceiverStreamBuilder::new(self.schema(), AHEAD);
        let out = stream.tx();
        let reader = Reader {
            log: Arc::clone(&self.log),
            columns: self.columns.clone(),
            stretches: self.groups[partition].clone(),
            limit: self.limit,
        };
        let newest = self.newest;
        stream.spawn_blocking(move || {
            // Whoever reads has seen enough when its end of the channel is gone.
            let outcome = match newest {
                Some(rows) => {
                    reader.newest(rows, &mut |batch| out.blocking_send(Ok(batch)).is_ok(), &|| out.is_closed())
                }
                None => reader.all(&mut |batch| out.blocking_send(Ok(batch)).is_ok(), &|| out.is_closed()),
            };
            outcome.map_err(external)
        });
        Ok(stream.build())
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema());
        let (records, _) = self.size();
        let records = records.and_then(|records| usize::try_from(records).ok());
        if let (Some(records), None) = (records, partition) {
            statistics.num_rows = match self.approximate && self.newest.is_none() {
                true => Precision::Exact(records),
                false => Precision::Inexact(records),
            };
        }
        Ok(Arc::new(statistics))
    }
}

/// Reads the stretches of a group in a thread of its own.
struct Reader {
    log: Arc<dyn LogTable>,
    columns: Vec<usize>,
    stretches: Vec<Stretch>,
    limit: Option<usize>,
}

/// Takes a batch; `false` when no more is wanted.
type Take<'t> = dyn FnMut(RecordBatch) -> bool + 't;

impl Reader {
    fn all(&self, take: &mut Take<'_>, is_over: &dyn Fn() -> bool) -> tidemill_engine::Result<()> {
        if self.stretches.is_empty() {
            return Ok(());
        }
        let mut left = self.limit.unwrap_or(usize::MAX);
        let mut scan = self.log.open(&self.columns, &self.stretches)?;
        while left > 0 && !is_over() {
            let Some(batch) = scan.next()? else { break };
            let batch = batch.slice(0, batch.num_rows().min(left));
            left -= batch.num_rows();
            if batch.num_rows() > 0 && !take(batch) {
                break;
            }
        }
        Ok(())
    }

    /// From the end of each stretch backwards, until there are enough rows or no more.
    fn newest(&self, rows: usize, take: &mut Take<'_>, is_over: &dyn Fn() -> bool) -> tidemill_engine::Result<()> {
        for stretch in &self.stretches {
            let mut width = i64::try_from(rows).unwrap_or(i64::MAX).max(1);
            let batches = loop {
                let from = match stretch.records {
                    Some(_) => stretch.from.max(stretch.to.saturating_sub(width)),
                    None => stretch.from,
                };
                let mut scan = self.log.open(&self.columns, &[Stretch { from, ..stretch.clone() }])?;
                let mut batches = vec![];
                while let Some(batch) = scan.next()? {
                    if is_over() {
                        return Ok(());
                    }
                    batches.extend((batch.num_rows() > 0).then_some(batch));
                }
                let found: usize = batches.iter().map(RecordBatch::num_rows).sum();
                if found >= rows || from == stretch.from {
                    break batches;
                }
                // Not every offset has a record: markers of transactions, compaction.
                width = width.saturating_mul(4);
            };
            for batch in batches {
                if !take(batch) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// The scans in a plan.
pub(super) fn scans_of(plan: &Arc<dyn ExecutionPlan>, into: &mut Vec<LogScan>) {
    if let Some(scan) = plan.downcast_ref::<LogScan>() {
        into.push(scan.clone());
    }
    for child in plan.children() {
        scans_of(child, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(partition: usize, from: i64, to: i64) -> Stretch {
        let records = u64::try_from(to - from).unwrap();
        Stretch { partition, from, to, whole: (0, to), records: Some(records), bytes: records * 10 }
    }

    fn divided(stretches: &[Stretch], parallel: usize) -> Vec<Vec<(usize, i64, i64)>> {
        let group = |group: Vec<Stretch>| group.iter().map(|s| (s.partition, s.from, s.to)).collect();
        divide(stretches, parallel).into_iter().map(group).collect()
    }

    #[test]
    fn stretches_are_divided_evenly_and_none_is_twice_in_a_group() {
        assert_eq!(divided(&[], 4), [vec![]]);
        assert_eq!(divided(&[stretch(0, 5, 9), stretch(1, 0, 20)], 4), [vec![(0, 5, 9), (1, 0, 20)]]);
        assert_eq!(divided(&[stretch(0, 0, 40_000)], 2), [vec![(0, 0, 20_000)], vec![(0, 20_000, 40_000)]]);
        assert_eq!(
            divided(&[stretch(0, 0, 30_000), stretch(1, 0, 10_000)], 2),
            [vec![(0, 0, 20_000)], vec![(0, 20_000, 30_000), (1, 0, 10_000)]]
        );
        let uncut = Stretch { records: None, bytes: 90_000, ..stretch(0, 0, 1) };
        let mut other = uncut.clone();
        other.partition = 1;
        assert_eq!(divided(&[uncut, other], 2).len(), 2);
    }

    #[test]
    fn a_share_of_a_stretch_has_its_share_of_bytes() {
        assert_eq!(share(&stretch(0, 0, 100), Some(10)), (Some(10), 100));
        assert_eq!(share(&stretch(0, 0, 100), None), (Some(100), 1_000));
        let (head, tail) = cut(&stretch(0, 50, 150), 30);
        assert_eq!((head.to, tail.from, head.bytes + tail.bytes, tail.records), (80, 80, 1_000, Some(70)));
    }
}
