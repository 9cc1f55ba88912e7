//! Both halves of a dataflow interrupted anywhere: state taken out and put into new operators gives what an undisturbed run
//! gives, with every kind of operator and aggregate.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use arrow::{
    array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray},
    compute::SortOptions,
    datatypes::{DataType, Field, Schema, SchemaRef},
    util::pretty::pretty_format_batches,
};
use datafusion_expr::AggregateUDF;
use datafusion_functions_aggregate::{
    count::count_udaf,
    min_max::{max_udaf, min_udaf},
};
use datafusion_physical_expr::{
    PhysicalExpr,
    aggregate::{AggregateExprBuilder, LoweredAggregate},
    expressions::{BinaryExpr, Column, IsNotNullExpr, col, lit},
};

use super::{
    budget::StateBudget,
    difference::twice,
    plan::{
        AggregatePlan, AnalyticCall, AnalyticFunction, AnomalyPlan, Dataflow, InputColumns, InputPlan, JoinPlan,
        MatchPlan, Node, OperatorPlan, RankPlan, Reference, ReferenceKind, RollingAggregate, TimeBound, TimePolicy,
        Variable,
    },
    stage::Stage,
};
use crate::{
    EVENT_TIME, EventTime, Signal,
    aggregate::{self, Ranked},
    analytic::{anomaly::Anomaly, verdict_type},
    datetime_type,
    recognize::pattern::Pattern,
    window::shape::{Closed, SessionShape, WindowShape, Windows},
};

fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

fn input_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field("k", DataType::Utf8),
        field("x", DataType::Float64),
        field("n", DataType::Int64),
        Field::new(EVENT_TIME, datetime_type(), false),
    ]))
}

fn call(function: Arc<AggregateUDF>, column: &str, distinct: bool) -> Arc<LoweredAggregate> {
    let schema = input_schema();
    let builder = AggregateExprBuilder::new(function, vec![col(column, &schema).unwrap()]).schema(schema);
    let builder = builder.alias(format!("{column}{distinct}")).with_distinct(distinct);
    Arc::new(LoweredAggregate { aggregate: Arc::new(builder.build().unwrap()), filter: None, order_bys: vec![] })
}

fn windowed(input: usize, keys: &[&str], windows: Windows, calls: &[Arc<LoweredAggregate>]) -> Node {
    let schema = input_schema();
    let mut fields: Vec<Field> = keys.iter().map(|k| field(k, DataType::Utf8)).collect();
    fields.extend([field("window_start", datetime_type()), field("window_end", datetime_type())]);
    fields.extend(
        calls.iter().enumerate().map(|(i, c)| field(&format!("a{i}"), c.aggregate.field().data_type().clone())),
    );
    fields.push(Field::new(EVENT_TIME, datetime_type(), false));
    let keys: Vec<_> = keys.iter().map(|k| col(k, &schema).unwrap()).collect();
    let partition = (0..keys.len()).collect();
    let plan = AggregatePlan { windows, keys, partition, aggregates: calls.to_vec() };
    Node { operator: OperatorPlan::Aggregate(plan), inputs: vec![input], schema: Arc::new(Schema::new(fields)) }
}

/// Input, filter, then a reader of it for each kind of window, rows by window and by session, a union, every function of the
/// rows before; one over results of windows; each with an output of its own.
fn dataflow() -> Dataflow {
    let schema = input_schema();
    let predicate: Arc<dyn PhysicalExpr> =
        Arc::new(BinaryExpr::new(col("n", &schema).unwrap(), datafusion_expr::Operator::GtEq, lit(0i64)));
    let hop = Windows::Aligned(WindowShape { size: 70, hop: 30, offset: 0, closed: Closed::End });
    let tumble = Windows::Aligned(WindowShape { size: 40, hop: 40, offset: 7, closed: Closed::Start });
    let grow = Windows::Cumulating(WindowShape { size: 60, hop: 20, offset: 3, closed: Closed::Start });
    let cut = Windows::Session(SessionShape { gap: 13, max: Some(50), closed: Closed::End });
    let session = SessionShape { gap: 5, max: None, closed: Closed::Start };
    let partition = vec![col("k", &schema).unwrap()];
    let every = [
        call(count_udaf(), "n", false),
        call(count_udaf(), "n", true),
        call(aggregate::sum(), "x", false),
        call(aggregate::avg(), "x", false),
        call(aggregate::stdev(), "x", false),
        call(aggregate::varp(), "n", false),
        call(aggregate::sum(), "n", false),
        call(min_udaf(), "x", false),
        call(max_udaf(), "k", false),
        call(max_udaf(), "n", false),
        call(aggregate::ranked(Ranked::First, vec![]), "k", false),
        call(aggregate::ranked(Ranked::Top(2), vec![]), "x", false),
        call(aggregate::ranked(Ranked::All { nulls: true }, vec![]), "n", false),
        call(aggregate::percentile(0.3, true, false), "x", false),
        call(aggregate::percentile(0.7, false, true), "n", false),
    ];
    let mut assigned: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    let time = assigned.pop().unwrap();
    assigned.extend(["window_start", "window_end", "window_time"].map(|name| field(name, datetime_type())));
    assigned.push(time);
    let node = |operator, inputs: Vec<usize>, schema: &SchemaRef| Node { operator, inputs, schema: Arc::clone(schema) };
    let by_key = windowed(1, &["k"], hop, &every);
    let without_key = windowed(1, &[], tumble, &every[..3]);
    let lag = AnalyticFunction::Lag { offset: 1, default: None, within_us: 100 };
    let over_windows = analytic(2, &by_key.schema, vec![(lag, "a2", DataType::Float64)]);
    let joined = join(1, 0, true, &schema).schema;
    let mut nodes = vec![
        node(OperatorPlan::Input(InputPlan { input: 0, time: TimePolicy::Arrival }), vec![], &schema),
        node(OperatorPlan::Filter(predicate), vec![0], &schema),
        by_key,
        without_key,
        node(OperatorPlan::Assign(tumble), vec![1], &Arc::new(Schema::new(assigned))),
        node(OperatorPlan::Union, vec![1, 0], &schema),
        analytic(1, &schema, every_analytic()),
        over_windows,
        join(1, 0, true, &schema),
        join(1, 8, false, &joined),
    ];
    let assigned = Arc::clone(&nodes[4].schema);
    nodes.push(windowed(1, &["k"], grow, &every[..2]));
    nodes.push(windowed(1, &["k"], cut, &every));
    nodes.push(node(OperatorPlan::AssignSessions { shape: session, partition }, vec![1], &assigned));
    nodes.push(windowed(1, &["k"], Windows::Session(session), &every[1..4]));
    nodes.push(matches(1, &schema));
    nodes.push(windowed(1, &["k"], Windows::Sliding { size: 45 }, &every));
    let mut numbered: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    numbered.insert(3, field("row_number", DataType::Int64));
    let order = (col("x", &schema).unwrap(), SortOptions::default());
    let rank = RankPlan { partition: vec![col("k", &schema).unwrap()], order: vec![order] };
    nodes.push(node(OperatorPlan::Rank(rank), vec![1], &Arc::new(Schema::new(numbered))));
    let outputs: Vec<String> = (2..nodes.len()).map(|from| format!("of {from}")).collect();
    for (output, from) in (2..nodes.len()).enumerate() {
        let schema = Arc::clone(&nodes[from].schema);
        nodes.push(Node { operator: OperatorPlan::Output(output), inputs: vec![from], schema });
    }
    let payload = Arc::new(schema.project(&[0, 1, 2]).unwrap());
    let inputs = vec![InputColumns {
        name: "events".into(),
        payload,
        metadata: vec![],
        ordered: false,
        may_fail: false,
        exact: false,
    }];
    Dataflow { nodes, inputs, tables: vec![], outputs }
}

/// Analytic calls by the first column over the rows of a node of this schema: (function, argument, result).
fn analytic(input: usize, schema: &Schema, calls: Vec<(AnalyticFunction, &str, DataType)>) -> Node {
    let key = schema.field(0).name();
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    let time = fields.pop().unwrap();
    fields.extend(calls.iter().enumerate().map(|(i, (.., result))| field(&format!("r{i}"), result.clone())));
    fields.push(time);
    let calls = calls.into_iter().map(|(function, argument, _)| AnalyticCall {
        function,
        argument: col(argument, schema).unwrap(),
        partition: vec![col(key, schema).unwrap()],
        when: Some(Arc::new(IsNotNullExpr::new(col(argument, schema).unwrap()))),
    });
    let operator = OperatorPlan::Analytic(calls.collect());
    Node { operator, inputs: vec![input], schema: Arc::new(Schema::new(fields)) }
}

/// A join by the first column of rows of the input's schema with those of another, all of whose columns it keeps.
fn join(left: usize, right: usize, outer: bool, right_schema: &Schema) -> Node {
    let schema = input_schema();
    let width = right_schema.fields().len() - 1;
    let mut fields: Vec<Field> = schema.fields()[..3].iter().map(|f| f.as_ref().clone()).collect();
    fields.extend((0..width).map(|i| field(&format!("r{i}"), right_schema.field(i).data_type().clone())));
    fields.push(schema.field(3).clone());
    let fields = Schema::new(fields);
    let condition: Arc<dyn PhysicalExpr> =
        Arc::new(BinaryExpr::new(col("n", &fields).unwrap(), datafusion_expr::Operator::NotEq, lit(5i64)));
    let plan = JoinPlan {
        outer,
        keys: vec![(col("k", &schema).unwrap(), col(right_schema.field(0).name(), right_schema).unwrap())],
        bounds: vec![TimeBound { left_time: 3, lag_us: 0, unit_us: 7, min: Some(-2), max: Some(3) }],
        condition: Some(condition),
        left_columns: vec![0, 1, 2],
        right_columns: (0..width).collect(),
    };
    Node { operator: OperatorPlan::Join(plan), inputs: vec![left, right], schema: Arc::new(fields) }
}

/// Every analytic function.
fn every_analytic() -> Vec<(AnalyticFunction, &'static str, DataType)> {
    use RollingAggregate::{Avg, Count, Max, Min, Sum};
    let lag = |offset| AnalyticFunction::Lag { offset, default: None, within_us: 50 };
    let rolling = |aggregate| AnalyticFunction::Rolling { aggregate, within_us: 35 };
    let detector =
        |anomaly| AnalyticFunction::Anomaly(AnomalyPlan { anomaly, confidence: 60.0, history: 20, within_us: 300 });
    let interval = WindowShape { size: 40, hop: 40, offset: 0, closed: Closed::End };
    vec![
        (lag(2), "x", DataType::Float64),
        (lag(0), "k", DataType::Utf8),
        (AnalyticFunction::First(interval), "x", DataType::Int64),
        (rolling(Count), "x", DataType::Int64),
        (rolling(Sum), "n", DataType::Int64),
        (rolling(Sum), "x", DataType::Float64),
        (rolling(Avg), "x", DataType::Float64),
        (rolling(Min), "n", DataType::Int64),
        (rolling(Max), "k", DataType::Utf8),
        (detector(Anomaly::SpikesAndDips), "x", verdict_type()),
        (detector(Anomaly::ChangePoint), "x", verdict_type()),
    ]
}

/// Runs of small `n` and of larger ones behind them, by `k`.
fn matches(input: usize, schema: &Schema) -> Node {
    let reference = |kind, variable, argument: &str, data_type| Reference {
        kind,
        variable,
        argument: col(argument, schema).unwrap(),
        data_type,
    };
    let references = vec![
        reference(ReferenceKind::Last, Some(0), "n", DataType::Int64),
        reference(ReferenceKind::First, None, "x", DataType::Float64),
        reference(ReferenceKind::Max, Some(1), "x", DataType::Float64),
        reference(ReferenceKind::Classifier, None, "n", DataType::new_list(DataType::Utf8, true)),
    ];
    let width = schema.fields().len();
    let column = |i: usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new("reference", width + i)) };
    let compare =
        |op, right| Some(Arc::new(BinaryExpr::new(col("n", schema).unwrap(), op, right)) as Arc<dyn PhysicalExpr>);
    let small = compare(datafusion_expr::Operator::Lt, lit(3i64));
    let larger = compare(datafusion_expr::Operator::Gt, column(0));
    let more = |variable| Pattern::Repeat { pattern: Box::new(Pattern::Variable(variable)), least: 1, most: None };
    let mut fields: Vec<Field> =
        references.iter().enumerate().map(|(i, r)| field(&format!("m{i}"), r.data_type.clone())).collect();
    fields.push(Field::new(EVENT_TIME, datetime_type(), false));
    let plan = MatchPlan {
        partition: vec![col("k", schema).unwrap()],
        within_us: 60,
        pattern: Pattern::Sequence(vec![more(0), more(1)]),
        variables: vec![
            Variable { name: "small".into(), condition: small, reads: vec![] },
            Variable { name: "larger".into(), condition: larger, reads: vec![0] },
        ],
        measures: (0..references.len()).map(column).collect(),
        references,
    };
    Node { operator: OperatorPlan::Recognize(plan), inputs: vec![input], schema: Arc::new(Schema::new(fields)) }
}

/// Rows in order of time, one batch for each step, with a watermark behind it.
fn steps() -> Vec<(RecordBatch, EventTime)> {
    (0..40i64)
        .map(|step| {
            let times: Vec<i64> = (0..5).map(|i| step * 11 + i * 2).collect();
            let keys = StringArray::from_iter((0..5).map(|i| (i != 3).then(|| format!("k{}", (step * 3 + i) % 4))));
            let xs =
                Float64Array::from_iter((0..5).map(|i| ((step + i) % 7 != 0).then(|| (step * 37 + i) as f64 / 10.0)));
            let ns = Int64Array::from_iter_values((0..5).map(|i| (step * 5 + i) % 9 - 1));
            let time = TimestampMicrosecondArray::from(times).with_timezone("UTC");
            let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(xs), Arc::new(ns), Arc::new(time)];
            (RecordBatch::try_new(input_schema(), columns).unwrap(), EventTime(step * 11))
        })
        .collect()
}

/// Rows by output, as text, of signals for input nodes, which end all. What was kept is gone then.
fn run_through(dataflow: &Dataflow, signals: impl Iterator<Item = (usize, Signal)>) -> Vec<Vec<String>> {
    let mut worker = Stage::worker(dataflow, &Arc::default()).unwrap();
    let mut merge = Stage::merge(dataflow, &Arc::default()).unwrap();
    let state = Arc::new(StateBudget::new(u64::MAX));
    worker.bound_state(&state).unwrap();
    merge.bound_state(&state).unwrap();
    let mut most = 0;
    let mut rows: Vec<Vec<String>> = vec![vec![]; dataflow.outputs.len()];
    for (node, signal) in signals {
        let merged = worker.push(node, 0, signal, &mut |exchange| {
            merge.push(exchange.node, exchange.port, exchange.signal, &mut |leaving| {
                if let (Signal::Batch(batch), OperatorPlan::Output(output)) =
                    (leaving.signal, &dataflow.nodes[leaving.node].operator)
                {
                    let row = |row| format!("{:?}", batch.slice(row, 1).columns());
                    rows[*output].extend((0..batch.num_rows()).map(row));
                }
                Ok(())
            })
        });
        merged.unwrap();
        most = most.max(state.held_bytes());
    }
    assert!(most > 10_000, "{most} bytes");
    assert_eq!(state.held_bytes(), 0);
    rows.iter_mut().for_each(|rows| rows.sort_unstable());
    rows
}

#[test]
fn what_more_records_change_is_written_and_what_is_outdated_is_counted() {
    let dataflow = dataflow();
    let (both, outdated) = twice(&dataflow, &vec![Some(EventTime::MAX); dataflow.outputs.len()]);
    let is_input = |id: &usize| matches!(both.nodes[*id].operator, OperatorPlan::Input(_));
    let inputs: Vec<usize> = (0..both.nodes.len()).filter(is_input).collect();
    assert_eq!((inputs.len(), both.inputs.len()), (2, 2));
    let all = || steps().into_iter();
    // Rows of a few steps come later.
    let fewer =
        || all().enumerate().map(|(step, (batch, t))| (if step % 9 == 4 { batch.slice(0, 2) } else { batch }, t));
    let at = |node: usize, steps: &mut dyn Iterator<Item = (RecordBatch, EventTime)>| {
        let signals = steps.flat_map(|(batch, t)| [Signal::Batch(batch), Signal::Watermark(t)]);
        signals.chain([Signal::Watermark(EventTime::MAX)]).map(|signal| (node, signal)).collect::<Vec<_>>()
    };
    let before = run_through(&dataflow, at(0, &mut fewer()).into_iter());
    let after = run_through(&dataflow, at(0, &mut all()).into_iter());
    let [one, other] = [at(inputs[0], &mut fewer()), at(inputs[1], &mut all())];
    let one_by_one = one.iter().cloned().zip(other.iter().cloned()).flat_map(|(one, other)| [one, other]);
    let new = run_through(&both, one_by_one);
    assert_eq!(new, run_through(&both, other.iter().chain(&one).cloned()), "whichever comes first");
    let mut expected_counts = vec![];
    for ((before, after), new) in before.iter().zip(&after).zip(&new) {
        assert!(!new.is_empty() && new.len() < after.len(), "some rows are new, some are not: {}", new.len());
        let mut outdated = before.clone();
        let mut expected = after.clone();
        expected.retain(|row| outdated.iter().position(|other| other == row).map(|i| outdated.remove(i)).is_none());
        assert_eq!(*new, expected);
        expected_counts.push(outdated.len() as u64);
    }
    let counts = outdated.iter().map(|(_, outdated)| outdated.rows.load(Relaxed) / 2); // it ran twice
    assert_eq!(counts.collect::<Vec<_>>(), expected_counts);
    assert!(expected_counts.iter().any(|&count| count > 0));
}

#[test]
fn state_beyond_its_budget_ends_the_run_and_names_the_step() {
    let windows = Windows::Aligned(WindowShape { size: 1_000_000, hop: 1_000_000, offset: 0, closed: Closed::Start });
    let mut dataflow = dataflow();
    dataflow.nodes.truncate(2);
    dataflow.nodes.push(windowed(1, &["k"], windows, &[call(count_udaf(), "n", false)]));
    let mut worker = Stage::worker(&dataflow, &Arc::default()).unwrap();
    let state = Arc::new(StateBudget::new(50_000));
    worker.bound_state(&state).unwrap();
    let mut of_keys = |keys: std::ops::Range<i64>| {
        let rows = keys.end - keys.start;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(keys.map(|key| format!("key {key}")))),
            Arc::new(Float64Array::from_value(1.0, rows as usize)),
            Arc::new(Int64Array::from_value(1, rows as usize)),
            Arc::new(TimestampMicrosecondArray::from_value(0, rows as usize).with_timezone("UTC")),
        ];
        let batch = RecordBatch::try_new(input_schema(), columns).unwrap();
        worker.push(0, 0, Signal::Batch(batch), &mut |_| Ok(()))
    };
    for _ in 0..100 {
        of_keys(0..100).unwrap();
    }
    let error = of_keys(0..10_000).unwrap_err().to_string();
    assert!(error.starts_with("step 2 (aggregate: tumbling window of 1 s [start, end): count(n) by k"), "{error}");
    assert!(state.held_bytes() > 50_000);
    drop(worker);
    assert_eq!(state.held_bytes(), 0);
}

/// Runs all steps; before each step in `interrupted` both halves give up their state to new ones.
fn run(interrupted: &[usize]) -> Vec<String> {
    let dataflow = dataflow();
    let new =
        || (Stage::worker(&dataflow, &Arc::default()).unwrap(), Stage::merge(&dataflow, &Arc::default()).unwrap());
    let (mut worker, mut merge) = new();
    let mut rows: Vec<Vec<RecordBatch>> = vec![vec![]; dataflow.outputs.len()];
    let mut push = |worker: &mut Stage, merge: &mut Stage, signal: Signal| {
        worker
            .push(0, 0, signal, &mut |exchange| {
                merge.push(exchange.node, exchange.port, exchange.signal, &mut |leaving| {
                    if let (Signal::Batch(batch), OperatorPlan::Output(output)) =
                        (leaving.signal, &dataflow.nodes[leaving.node].operator)
                    {
                        rows[*output].push(batch);
                    }
                    Ok(())
                })
            })
            .unwrap();
    };
    for (step, (batch, watermark)) in steps().into_iter().enumerate() {
        if interrupted.contains(&step) {
            let state = (worker.snapshot().unwrap(), merge.snapshot().unwrap());
            let untouched = (worker.snapshot().unwrap(), merge.snapshot().unwrap());
            assert_eq!(format!("{state:?}").len(), format!("{untouched:?}").len(), "taking state out changes nothing");
            (worker, merge) = new();
            worker.restore(state.0).unwrap();
            merge.restore(state.1).unwrap();
        }
        push(&mut worker, &mut merge, Signal::Batch(batch));
        push(&mut worker, &mut merge, Signal::Watermark(watermark));
    }
    push(&mut worker, &mut merge, Signal::Watermark(EventTime::MAX));
    rows.iter().map(|batches| sorted(batches)).collect()
}

/// Rows as text in a fixed order: groups come in the order in which their keys were first met.
fn sorted(batches: &[RecordBatch]) -> String {
    let text = pretty_format_batches(batches).unwrap().to_string();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn operators_interrupted_anywhere_go_on_as_if_nothing_had_happened() {
    let undisturbed = run(&[]);
    assert!(undisturbed.iter().all(|rows| rows.lines().count() > 10));
    for step in (0..40).step_by(3) {
        assert!(run(&[step]) == undisturbed, "interrupted before step {step}");
    }
    assert!(run(&(0..40).collect::<Vec<_>>()) == undisturbed, "interrupted before each step");
}

#[test]
fn state_of_another_plan_is_refused() {
    let dataflow = dataflow();
    let mut worker = Stage::worker(&dataflow, &Arc::default()).unwrap();
    let mut state = worker.snapshot().unwrap();
    state.pop();
    let error = Stage::worker(&dataflow, &Arc::default()).unwrap().restore(state).unwrap_err();
    assert!(error.to_string().contains("state does not fit"), "{error}");
    let foreign = vec![vec![steps().remove(0).0]; worker.snapshot().unwrap().len()];
    assert!(Stage::worker(&dataflow, &Arc::default()).unwrap().restore(foreign).is_err());
}

#[test]
fn a_window_closes_once_and_only_with_rows() {
    let dataflow = dataflow();
    let mut merge = Stage::merge(&dataflow, &Arc::default()).unwrap();
    let mut worker = Stage::worker(&dataflow, &Arc::default()).unwrap();
    let mut ends = vec![];
    for (batch, watermark) in steps() {
        for signal in [Signal::Batch(batch), Signal::Watermark(watermark), Signal::Watermark(watermark)] {
            worker
                .push(0, 0, signal, &mut |exchange| {
                    merge.push(exchange.node, exchange.port, exchange.signal, &mut |leaving| {
                        if let (3, Signal::Batch(batch)) = (dataflow.nodes[leaving.node].inputs[0], leaving.signal) {
                            assert!(batch.num_rows() == 1, "one group without a key");
                            ends.push(
                                batch.column(1).as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(0),
                            );
                        }
                        Ok(())
                    })
                })
                .unwrap();
        }
    }
    // [7 + 40k, 47 + 40k), the first from -33; the last watermark is 429.
    assert_eq!(ends, (0..).map(|k| 7 + 40 * k).take_while(|end| *end <= 429).collect::<Vec<_>>());
}
