//! Reads a table from a source, to the end of the source.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::{concat_batches, filter_record_batch},
    datatypes::{Decimal128Type, Schema},
};

use crate::{
    Result, Signal,
    dataflow::{
        order::order_of,
        plan::{Dataflow, InputColumns, InputPlan, Node, OperatorPlan, TimePolicy},
    },
    decoder::DecoderFactory,
    intake::{Intake, IntakeOptions},
    source::{PartitionId, Source, SourceEvent, Visit},
};

/// The rows of a table, by `source`, which ends. Of records with a key, the last one of a key alone counts, and none where
/// that has no payload (a compacted topic); the others all do.
///
/// # Errors
/// Of the source and of the intake.
pub fn load(
    columns: &InputColumns,
    source: Box<dyn Source>,
    decoders: &DecoderFactory,
    options: IntakeOptions,
    keyed: bool,
) -> Result<RecordBatch> {
    let columns = InputColumns { ordered: true, ..columns.clone() };
    let node = Node {
        operator: OperatorPlan::Input(InputPlan { input: 0, time: TimePolicy::Arrival }),
        inputs: vec![],
        schema: Arc::new(Schema::empty()),
    };
    let name = columns.name.clone();
    let reading = Dataflow { nodes: vec![node], inputs: vec![columns], tables: vec![], outputs: vec![name] };
    let last: Arc<Mutex<Latest>> = Arc::default();
    let source: Box<dyn Source> = match keyed {
        true => Box::new(Keyed { source, latest: Arc::clone(&last) }),
        false => source,
    };
    let mut intake = Intake::new(&reading, 0, source, decoders, options);
    let mut batches = vec![];
    while !intake.finished() {
        intake.poll(Duration::from_millis(100), &mut |_, signal, _| {
            if let Signal::Batch(batch) = signal {
                batches.push(batch);
            }
            Ok(vec![])
        })?;
    }
    let schema = intake.schema();
    let mut rows = concat_batches(&schema, &batches)?;
    if keyed {
        let keep = last.lock().unwrap_or_else(PoisonError::into_inner).keep(&rows);
        rows = filter_record_batch(&rows, &keep)?;
    }
    // The order has served.
    Ok(rows.project(&(1..rows.num_columns()).collect::<Vec<_>>())?)
}

/// Of each key its last record.
#[derive(Default)]
struct Latest {
    /// Partition, offset, whether it has a payload.
    of_key: HashMap<Box<[u8]>, (PartitionId, i64, bool)>,
    /// Records without a key.
    others: Vec<(PartitionId, i64)>,
}

impl Latest {
    /// Which rows are of records that count.
    fn keep(&self, rows: &RecordBatch) -> BooleanArray {
        let last = self.of_key.values().filter(|(.., payload)| *payload).map(|(p, offset, _)| (*p, *offset));
        let mut places: Vec<i128> =
            last.chain(self.others.iter().copied()).map(|(p, offset)| record_of(order_of(0, p, offset, 0))).collect();
        places.sort_unstable();
        let order = rows.column(0).as_primitive::<Decimal128Type>();
        order.values().iter().map(|place| Some(places.binary_search(&record_of(*place)).is_ok())).collect()
    }
}

/// The place of a row's record.
fn record_of(order: i128) -> i128 {
    order >> 24
}

/// A source that notes keys on the way.
struct Keyed {
    source: Box<dyn Source>,
    latest: Arc<Mutex<Latest>>,
}

impl Source for Keyed {
    fn poll(&mut self, wait: Duration, visit: &mut Visit<'_>) -> Result<()> {
        let Self { source, latest } = self;
        source.poll(wait, &mut |event| {
            if let SourceEvent::Records { partition, records, .. } = event {
                let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
                for record in records {
                    match record.key {
                        Some(key) => {
                            latest.of_key.insert(key.into(), (partition, record.offset, record.value.is_some()));
                        }
                        None => latest.others.push((partition, record.offset)),
                    }
                }
            }
            visit(event)
        })
    }

    fn finished(&self) -> bool {
        self.source.finished()
    }
}
