//! Our functions, and every aggregate in use driven as a window drives it: cut into parts, merged, interrupted.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray, UInt32Array},
    compute::take,
    datatypes::{DataType, Field, Int64Type, Schema},
};
use datafusion_common::ScalarValue;
use datafusion_expr::{AggregateUDF, EmitTo, GroupsAccumulator};
use datafusion_functions_aggregate::{count::count_udaf, min_max};
use datafusion_physical_expr::{
    GroupsAccumulatorAdapter,
    aggregate::{AggregateExprBuilder, AggregateFunctionExpr},
    expressions::col,
};

use super::*;

fn aggregate(function: Arc<AggregateUDF>, data_type: &DataType, distinct: bool) -> Arc<AggregateFunctionExpr> {
    let schema = Arc::new(Schema::new(vec![Field::new("x", data_type.clone(), true)]));
    let builder = AggregateExprBuilder::new(function, vec![col("x", &schema).unwrap()])
        .schema(schema)
        .alias("result")
        .with_distinct(distinct);
    Arc::new(builder.build().unwrap())
}

fn groups(aggregate: &Arc<AggregateFunctionExpr>) -> Box<dyn GroupsAccumulator> {
    if aggregate.groups_accumulator_supported() {
        return aggregate.create_groups_accumulator().unwrap();
    }
    let aggregate = aggregate.clone();
    Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator()))
}

/// Runs one function over one column without groups.
fn over(function: Arc<AggregateUDF>, values: ArrayRef) -> ScalarValue {
    let mut accumulator = aggregate(function, values.data_type(), false).create_accumulator().unwrap();
    accumulator.update_batch(&[values]).unwrap();
    accumulator.evaluate().unwrap()
}

fn floats(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

fn whole(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn float(value: f64) -> ScalarValue {
    ScalarValue::Float64(Some(value))
}

#[test]
fn sums() {
    assert_eq!(over(sum(), floats(&[0.1; 10])), float(1.0));
    assert_eq!(over(sum(), whole(&[i64::MAX, i64::MAX, -i64::MAX, -5])), ScalarValue::Int64(Some(i64::MAX - 5)));
    assert_eq!(over(avg(), whole(&[i64::MAX, i64::MAX])), float(i64::MAX as f64));
    assert_eq!(over(avg(), floats(&[1e16, 1.0, -1e16, 0.0])), float(0.25));
    assert_eq!(over(avg(), whole(&[1, 2])), float(1.5));
}

#[test]
fn a_sum_of_bigint_out_of_range_names_the_column() {
    let aggregate = aggregate(sum(), &DataType::Int64, false);
    for values in [[i64::MAX, 1], [i64::MIN, -1]] {
        let mut accumulator = groups(&aggregate);
        accumulator.update_batch(&[whole(&values)], &[0, 0], None, 1).unwrap();
        let error = accumulator.evaluate(EmitTo::All).unwrap_err().to_string();
        assert!(error.contains("`result`: sum of bigint exceeds its range"), "{error}");
    }
}

#[test]
fn variances() {
    let values = floats(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
    assert_eq!(over(varp(), values.clone()), float(4.0));
    assert_eq!(over(stdevp(), values.clone()), float(2.0));
    assert_eq!(over(var(), values.clone()), float(32.0 / 7.0));
    assert_eq!(over(stdev(), values), float((32.0_f64 / 7.0).sqrt()));
    assert_eq!(over(varp(), whole(&[i64::MAX, i64::MAX - 2])), float(1.0));
    // Where the textbook formula has lost every digit.
    assert_eq!(over(var(), floats(&[1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0])), float(30.0));
    assert_eq!(over(varp(), floats(&[1e200, 1e200, 1e200])), float(0.0));
    assert_eq!(over(varp(), floats(&[3e-170, 1e-170])), float(0.0), "1e-340 is nearer to 0 than to any other float");
    let tiny = 2_f64.powi(-530);
    assert_eq!(over(stdevp(), floats(&[3.0 * tiny, tiny])), float(tiny));
    for value in [f64::NAN, f64::INFINITY] {
        let ScalarValue::Float64(Some(result)) = over(var(), floats(&[1.0, value])) else { panic!("null") };
        assert!(result.is_nan());
    }
}

#[test]
fn few_values_and_nulls() {
    let null = ScalarValue::Float64(None);
    for function in all() {
        let name = function.name().to_owned();
        let empty = over(function.clone(), floats(&[]));
        assert_eq!(empty, null, "{name} of nothing");
        let nulls = Arc::new(Float64Array::from(vec![None, None]));
        assert_eq!(over(function.clone(), nulls), null, "{name} of nulls");
        let one = over(function, Arc::new(Float64Array::from(vec![None, Some(3.0), None])));
        let expected = match &*name {
            "sum" | "avg" => float(3.0),
            "var" | "stdev" => null.clone(),
            _ => float(0.0),
        };
        assert_eq!(one, expected, "{name} of one value");
    }
    assert_eq!(over(sum(), whole(&[])), ScalarValue::Int64(None));
}

#[test]
fn types_of_arguments() {
    for function in all() {
        let name = function.name().to_owned();
        assert_eq!(function.coerce_types(&[DataType::Int16]).unwrap(), [DataType::Int64]);
        assert_eq!(function.coerce_types(&[DataType::Float32]).unwrap(), [DataType::Float64]);
        assert_eq!(function.coerce_types(&[DataType::Null]).unwrap(), [DataType::Float64]);
        let error = function.coerce_types(&[DataType::Utf8]).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}` expects a number, found Utf8")), "{error}");
        assert!(function.coerce_types(&[]).is_err());
    }
    assert_eq!(sum().return_type(&[DataType::Int64]).unwrap(), DataType::Int64);
    assert_eq!(avg().return_type(&[DataType::Int64]).unwrap(), DataType::Float64);
    assert!(aggregate(sum(), &DataType::Float64, true).create_accumulator().is_err());
}

#[test]
fn filters_and_the_first_groups() {
    let mut accumulator = groups(&aggregate(sum(), &DataType::Int64, false));
    let values: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4), Some(8)]));
    let filter = BooleanArray::from(vec![Some(true), Some(false), Some(true), None, Some(true)]);
    accumulator.update_batch(&[values], &[0, 0, 1, 1, 2], Some(&filter), 4).unwrap();
    assert!(accumulator.size() > 0);
    let first = accumulator.evaluate(EmitTo::First(2)).unwrap();
    assert_eq!(first.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(1), None]));
    let rest = accumulator.evaluate(EmitTo::All).unwrap();
    assert_eq!(rest.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(8), None]));
}

#[test]
fn retracting_is_exact() {
    for function in all() {
        let mut accumulator = aggregate(function, &DataType::Float64, false).create_accumulator().unwrap();
        accumulator.update_batch(&[floats(&[1.0, 2.0])]).unwrap();
        let before = accumulator.evaluate().unwrap();
        accumulator.update_batch(&[floats(&[1e300, f64::NAN, -0.1])]).unwrap();
        accumulator.retract_batch(&[floats(&[f64::NAN, 1e300, -0.1])]).unwrap();
        assert_eq!(accumulator.evaluate().unwrap(), before);
    }
}

/// Rows of every magnitude with nulls, as each type that columns have.
fn rows(data_type: &DataType, rows: usize) -> ArrayRef {
    let mut state = 7_u64;
    let random = std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    });
    let values = random.map(|x| (x % 7 != 0).then_some(x)).take(rows);
    match data_type {
        DataType::Int64 => Arc::new(values.map(|x| x.map(|x| x as i64 % 1_000 - 500)).collect::<Int64Array>()),
        DataType::Float64 => {
            let floats = values.map(|x| x.map(|x| (x as f64 - 1e9) * 10_f64.powi((x % 40) as i32 - 20)));
            Arc::new(floats.collect::<Float64Array>())
        }
        _ => Arc::new(values.map(|x| x.map(|x| format!("key-{}", x % 50))).collect::<StringArray>()),
    }
}

/// Every aggregate that queries can use, over every type that it takes.
fn in_use() -> Vec<(Arc<AggregateFunctionExpr>, DataType)> {
    let numbers = [DataType::Int64, DataType::Float64];
    let types = [DataType::Int64, DataType::Float64, DataType::Utf8];
    let mut found = vec![];
    for function in all() {
        found.extend(numbers.iter().map(|of| (aggregate(function.clone(), of, false), of.clone())));
    }
    for of in types {
        for (function, distinct) in
            [(count_udaf(), false), (count_udaf(), true), (min_max::min_udaf(), false), (min_max::max_udaf(), false)]
        {
            found.push((aggregate(function, &of, distinct), of.clone()));
        }
    }
    found
}

const GROUPS: usize = 5;

/// Sent on from a slice to a window, or snapshotted and restored, in the middle of a window.
#[test]
fn every_aggregate_survives_being_interrupted() {
    for (aggregate, of) in in_use() {
        let what = format!("{}, distinct: {}, of {of}", aggregate.fun().name(), aggregate.is_distinct());
        let values = rows(&of, 400);
        let ids: Vec<usize> = (0..400).map(|row| row % GROUPS).collect();

        let mut whole = groups(&aggregate);
        whole.update_batch(std::slice::from_ref(&values), &ids, None, GROUPS).unwrap();
        let expected = whole.evaluate(EmitTo::All).unwrap();

        let mut first = groups(&aggregate);
        first.update_batch(&[values.slice(0, 200)], &ids[..200], None, GROUPS).unwrap();
        let state = first.state(EmitTo::All).unwrap();
        let fields = aggregate.state_fields().unwrap();
        assert_eq!(state.len(), fields.len(), "{what}");
        for (column, field) in state.iter().zip(&fields) {
            assert_eq!(column.data_type(), field.data_type(), "{what}");
            assert!(field.is_nullable() || column.null_count() == 0, "{what}");
        }
        let all_groups: Vec<usize> = (0..GROUPS).collect();
        for same in [true, false] {
            let mut second = groups(&aggregate);
            let target = if same { &mut first } else { &mut second };
            target.merge_batch(&state, &all_groups, GROUPS).unwrap();
            target.update_batch(&[values.slice(200, 200)], &ids[200..], None, GROUPS).unwrap();
            assert_eq!(&target.evaluate(EmitTo::All).unwrap(), &expected, "{what}, put back: {same}");
        }

        let mut row = aggregate.create_accumulator().unwrap();
        row.update_batch(&[values.slice(0, 200)]).unwrap();
        let state: Vec<ArrayRef> = row.state().unwrap().iter().map(|value| value.to_array().unwrap()).collect();
        let mut resumed = aggregate.create_accumulator().unwrap();
        resumed.merge_batch(&state).unwrap();
        resumed.update_batch(&[values.slice(200, 200)]).unwrap();
        let mut uninterrupted = aggregate.create_accumulator().unwrap();
        uninterrupted.update_batch(&[values]).unwrap();
        assert_eq!(resumed.evaluate().unwrap(), uninterrupted.evaluate().unwrap(), "{what}, without groups");
    }
}

/// One worker or many, batches of one row or of all, in any order: the same bits.
#[test]
fn order_batches_and_partitions_do_not_matter() {
    for function in all() {
        for of in [DataType::Int64, DataType::Float64] {
            let aggregate = aggregate(function.clone(), &of, false);
            let values = rows(&of, 300);
            let mut whole = groups(&aggregate);
            whole.update_batch(std::slice::from_ref(&values), &vec![0; 300], None, 1).unwrap();
            let expected = whole.evaluate(EmitTo::All).unwrap();
            for (workers, batch) in [(1, 1), (2, 4_096), (3, 7), (4, 64)] {
                let mut merged = groups(&aggregate);
                for worker in (0..workers).rev() {
                    let mine = UInt32Array::from_iter_values((0..300).rev().filter(|row| row % workers == worker));
                    let mine = take(&values, &mine, None).unwrap();
                    let mut partial = groups(&aggregate);
                    for start in (0..mine.len()).step_by(batch) {
                        let rows = batch.min(mine.len() - start);
                        partial.update_batch(&[mine.slice(start, rows)], &vec![0; rows], None, 1).unwrap();
                    }
                    merged.merge_batch(&partial.state(EmitTo::All).unwrap(), &[0], 1).unwrap();
                }
                let result = merged.evaluate(EmitTo::All).unwrap();
                // Arrays of floats are equal when their bits are.
                assert_eq!(&result, &expected, "{} of {of}: {workers} workers, batches of {batch}", function.name());
            }
        }
    }
}

#[test]
fn rows_become_states_one_by_one() {
    let values = rows(&DataType::Float64, 50);
    for function in all() {
        let aggregate = aggregate(function, &DataType::Float64, false);
        let states = groups(&aggregate).convert_to_state(std::slice::from_ref(&values), None).unwrap();
        let (mut merged, mut whole) = (groups(&aggregate), groups(&aggregate));
        merged.merge_batch(&states, &[0; 50], 1).unwrap();
        whole.update_batch(std::slice::from_ref(&values), &[0; 50], None, 1).unwrap();
        assert_eq!(&merged.evaluate(EmitTo::All).unwrap(), &whole.evaluate(EmitTo::All).unwrap());
    }
}
