//! The worker's half of a tumbling window, driven as a worker drives it, with batches that are ready.

use std::{
    hint::black_box,
    sync::{Arc, atomic::AtomicU64},
};

use anyhow::Result;
use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate::{
    count::count_udaf,
    min_max::{max_udaf, min_udaf},
};
use datafusion_physical_expr::{
    aggregate::{AggregateExprBuilder, LoweredAggregate},
    expressions::col,
};
use tidemill_engine::{
    EVENT_TIME, EventTime, Signal,
    aggregate::sum,
    dataflow::{
        plan::{AggregatePlan, Dataflow, InputColumns, InputPlan, Node, OperatorPlan, TimePolicy},
        stage::Stage,
    },
    datetime_type,
    window::shape::{Closed, WindowShape, Windows},
};

use crate::{Loop, with_time};

/// Windows that a round fills and closes one after the other, each with all events.
pub(crate) const WINDOWS: usize = 4;
/// Their length.
const WINDOW_US: i64 = 1_000_000;

/// The node at which rows enter.
const INPUT: usize = 0;

/// COUNT, SUM, MIN and MAX of `amount` by `user`. A round is a new dataflow.
pub(crate) fn prepared(batches: &[RecordBatch]) -> Result<Loop> {
    let in_window = |window: usize| {
        let time = window as i64 * WINDOW_US;
        batches.iter().map(move |batch| with_time(batch, EVENT_TIME, time))
    };
    let windows: Vec<Vec<RecordBatch>> =
        (0..WINDOWS).map(|window| in_window(window).collect::<Result<_>>()).collect::<Result<_>>()?;
    let dataflow = dataflow(&windows[0][0].schema())?;
    Ok(Box::new(move || {
        let mut stage = Stage::worker(&dataflow, &Arc::new(AtomicU64::new(0)))?;
        let mut leave = |exchange| {
            black_box(exchange);
            Ok(())
        };
        let mut rows = 0;
        for (window, batches) in windows.iter().enumerate() {
            for batch in batches {
                rows += batch.num_rows();
                stage.push(INPUT, 0, Signal::Batch(batch.clone()), &mut leave)?;
            }
            let end = EventTime((window as i64 + 1) * WINDOW_US);
            stage.push(INPUT, 0, Signal::Watermark(end), &mut leave)?;
        }
        Ok(rows)
    }))
}

fn dataflow(rows: &SchemaRef) -> Result<Dataflow> {
    let aggregates = [count_udaf(), sum(), min_udaf(), max_udaf()];
    let aggregates: Vec<_> = aggregates.into_iter().map(|function| of_amount(function, rows)).collect::<Result<_>>()?;
    let mut fields = vec![Field::new("user", DataType::Utf8, true)];
    fields.extend(["window_start", "window_end"].map(|name| Field::new(name, datetime_type(), true)));
    fields.extend(aggregates.iter().map(|lowered| lowered.aggregate.field().as_ref().clone()));
    fields.push(Field::new(EVENT_TIME, datetime_type(), false));
    let results = Arc::new(Schema::new(fields));
    let plan = AggregatePlan {
        windows: Windows::Aligned(WindowShape { size: WINDOW_US, hop: WINDOW_US, offset: 0, closed: Closed::Start }),
        keys: vec![col("user", rows)?],
        partition: vec![],
        aggregates,
    };
    let input = OperatorPlan::Input(InputPlan { input: 0, time: TimePolicy::Arrival });
    let nodes = vec![
        Node { operator: input, inputs: vec![], schema: Arc::clone(rows) },
        Node { operator: OperatorPlan::Aggregate(plan), inputs: vec![INPUT], schema: Arc::clone(&results) },
        Node { operator: OperatorPlan::Output(0), inputs: vec![1], schema: results },
    ];
    let inputs = vec![InputColumns {
        name: "events".into(),
        payload: Arc::new(rows.project(&[0, 1])?),
        metadata: vec![],
        ordered: false,
        may_fail: false,
        exact: false,
    }];
    Ok(Dataflow { nodes, inputs, tables: vec![], outputs: vec!["results".into()] })
}

fn of_amount(function: Arc<AggregateUDF>, rows: &SchemaRef) -> Result<Arc<LoweredAggregate>> {
    let name = function.name().to_owned();
    let call = AggregateExprBuilder::new(function, vec![col("amount", rows)?]).schema(Arc::clone(rows)).alias(name);
    Ok(Arc::new(LoweredAggregate { aggregate: Arc::new(call.build()?), filter: None, order_bys: vec![] }))
}
