//! `TIMESTAMP BY ... OVER key`: each key of a partition has a time line of its own.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::{
    array::{Array, RecordBatch},
    row::{RowConverter, SortField},
};
use datafusion_physical_expr::PhysicalExpr;

use crate::{
    EngineError, EventTime, Result,
    event_time::{PartitionTime, Placement},
    source::PartitionId,
    user_code::{CallFailed, evaluate_or_null},
};

/// Keys after which the first look is taken for ones that can be forgotten.
const FIRST_LOOK: usize = 1_024;

/// The largest event time of each key of each partition, as long as it can matter.
pub(super) struct Substreams {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    largest: HashMap<PartitionId, HashMap<Box<[u8]>, EventTime>>,
    /// Keys of a partition at which it is looked through next.
    look_at: usize,
}

impl Substreams {
    pub(super) fn new(keys: &[Arc<dyn PhysicalExpr>]) -> Self {
        Self { keys: keys.to_vec(), largest: HashMap::new(), look_at: FIRST_LOOK }
    }

    /// The key of each row; `None` where a part of it is null, or user code fails on it, whose cause goes to `failed`.
    pub(super) fn keys(
        &self,
        batch: &RecordBatch,
        failed: &mut BTreeMap<usize, String>,
    ) -> Result<Vec<Option<Box<[u8]>>>> {
        let mut keep = |row, error: EngineError| match error.failed_call() {
            Some(CallFailed(message)) => {
                failed.insert(row, message.clone());
                Ok(())
            }
            None => Err(error),
        };
        let columns = self.keys.iter().map(|k| evaluate_or_null(k, batch, &mut keep)).collect::<Result<Vec<_>>>()?;
        let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
        let rows = RowConverter::new(fields)?.convert_columns(&columns)?;
        let key = |row: usize| columns.iter().all(|c| c.is_valid(row)).then(|| rows.row(row).data().into());
        Ok((0..batch.num_rows()).map(key).collect())
    }

    /// Places a row of a partition, whose time this is, by the time of its key.
    pub(super) fn place(
        &mut self,
        time: &mut PartitionTime,
        (partition, key): (PartitionId, &[u8]),
        event: EventTime,
        arrival: EventTime,
    ) -> Placement {
        let of_partition = self.largest.entry(partition).or_default();
        if let Some(largest) = of_partition.get_mut(key) {
            return time.place_in_substream(event, arrival, largest);
        }
        if of_partition.len() >= self.look_at {
            of_partition.retain(|_, largest| !time.is_settled(*largest));
            self.look_at = (2 * of_partition.len()).max(FIRST_LOOK);
        }
        let mut largest = EventTime::MIN;
        let placement = time.place_in_substream(event, arrival, &mut largest);
        of_partition.insert(key.into(), largest);
        placement
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataflow::plan::{LateAction, TimeBounds},
        event_time::TimeRule,
    };

    #[test]
    fn keys_are_out_of_order_by_themselves_and_late_together() {
        let bounds = TimeBounds {
            late_arrival: Some(100),
            out_of_order: 10,
            early_arrival: Some(50),
            action: LateAction::Adjust,
        };
        let mut time = PartitionTime::new(TimeRule::Bounded(bounds), EventTime::MIN);
        let mut substreams = Substreams::new(&[]);
        let mut place = |key: &[u8], event, arrival| {
            let placement = substreams.place(&mut time, (PartitionId(0), key), EventTime(event), EventTime(arrival));
            (placement, time.watermark().0)
        };
        let at = |t| Placement::At(EventTime(t));
        assert_eq!(place(b"a", 1_000, 1_000), (at(1_000), 900));
        assert_eq!(place(b"b", 950, 1_001), (at(950), 901), "another key may be behind");
        assert_eq!(place(b"a", 980, 1_002), (at(990), 902), "the same key moves up");
        assert_eq!(place(b"a", 992, 1_003), (at(992), 903), "within the tolerance");
        assert_eq!(place(b"b", 800, 1_004), (at(940), 904), "late, but further behind its key");
        assert_eq!(place(b"c", 800, 1_005), (at(905), 905), "late is late for a new key too");
        assert_eq!(place(b"c", 1_056, 1_005), (Placement::Early, 905));
    }

    #[test]
    fn keys_that_move_on_are_forgotten() {
        let bounds =
            TimeBounds { late_arrival: Some(100), out_of_order: 0, early_arrival: None, action: LateAction::Drop };
        let mut time = PartitionTime::new(TimeRule::Bounded(bounds), EventTime::MIN);
        let mut substreams = Substreams::new(&[]);
        for t in 0..100_000i64 {
            substreams.place(&mut time, (PartitionId(0), &t.to_le_bytes()), EventTime(t), EventTime(t));
        }
        assert!(substreams.largest[&PartitionId(0)].len() <= FIRST_LOOK);
    }
}
