//! State stays within its bounds: what was forgotten, and when.

use arrow::array::TimestampMicrosecondArray;
use datafusion_physical_expr::expressions::col;

use super::*;
use crate::{
    EVENT_TIME, datetime_type,
    window::shape::{Closed, WindowShape},
};

struct Nowhere;

impl Emit for Nowhere {
    fn batch(&mut self, _batch: RecordBatch) -> Result<()> {
        Ok(())
    }

    fn watermark(&mut self, _t: EventTime) -> Result<()> {
        Ok(())
    }

    fn failed(&mut self, row: crate::user_code::FailedRow) -> Result<()> {
        panic!("{row:?}")
    }
}

#[test]
fn partitions_that_move_on_are_forgotten() {
    const WITHIN: i64 = 1_000;
    let input =
        Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new(EVENT_TIME, datetime_type(), false)]);
    let k = col("k", &input).unwrap();
    let rolling = |aggregate| AnalyticFunction::Rolling { aggregate, within_us: WITHIN };
    let functions = [
        AnalyticFunction::Lag { offset: 3, default: None, within_us: WITHIN },
        AnalyticFunction::First(WindowShape { size: WITHIN, hop: WITHIN, offset: 0, closed: Closed::End }),
        rolling(RollingAggregate::Count),
        rolling(RollingAggregate::Sum),
        rolling(RollingAggregate::Max),
    ];
    let call = |function| AnalyticCall { function, argument: k.clone(), partition: vec![k.clone()], when: None };
    let mut fields = input.fields().to_vec();
    let time = fields.pop().unwrap();
    fields.extend((0..functions.len()).map(|i| Arc::new(Field::new(i.to_string(), DataType::Int64, true))));
    fields.push(time);
    let calls: Vec<_> = functions.into_iter().map(call).collect();
    let mut analytic = Analytic::try_new(&calls, &input, Arc::new(Schema::new(fields))).unwrap();
    let input = Arc::new(input);
    for round in 0..500i64 {
        // A hundred rows each 100 us, each of a partition of its own.
        let keys = Int64Array::from_iter_values(round * 100..(round + 1) * 100);
        let times = TimestampMicrosecondArray::from_iter_values((0..100).map(|i| round * 100 + i)).with_timezone("UTC");
        let batch = RecordBatch::try_new(Arc::clone(&input), vec![Arc::new(keys), Arc::new(times)]).unwrap();
        analytic.rows(&[batch], &[], &mut Nowhere).unwrap();
        analytic.advance(EventTime((round + 1) * 100), &mut Nowhere).unwrap();
        for call in &analytic.calls {
            assert!(call.histories.len() as i64 <= 2 * WITHIN + 100, "{} in round {round}", call.histories.len());
        }
    }
}
