//! Scripts: what they are handed, what they give, and where they are stopped.

use std::{sync::Arc, time::Instant};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float64Array, Int64Array, LargeStringArray, StringArray, TimestampMicrosecondArray,
    },
    record_batch::RecordBatch,
};
use sqlparser::tokenizer::Span;

use super::{OnError, UserFunction, engine};
use crate::typed::Typed;

fn run(source: &str, column: ArrayRef) -> Result<Vec<Option<String>>, String> {
    let function = UserFunction::javascript("f", "f.js", source)?;
    let rows = column.len();
    let x = Typed::column("x", 0, column.data_type().clone(), Span::empty());
    let call = function.call(vec![x], Span::empty()).unwrap();
    let batch = RecordBatch::try_from_iter_with_nullable([("x", column, true)]).unwrap();
    let results = call.expr.evaluate(&batch).and_then(|v| v.into_array(rows)).map_err(|e| e.strip_backtrace())?;
    Ok(results.as_string::<i64>().iter().map(|v| v.map(str::to_owned)).collect())
}

fn ints() -> ArrayRef {
    Arc::new(Int64Array::from(vec![Some(1), None, Some(1 << 40)]))
}

#[test]
fn values_go_there_and_come_back() {
    let results = run("function main(x) { return [typeof x, x]; }", ints()).unwrap();
    let expected = [r#"["number",1]"#, r#"["object",null]"#, r#"["number",1099511627776]"#];
    assert_eq!(results, expected.map(|r| Some(r.to_owned())));
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![0.5, 2.0, 1e300, f64::NAN]));
    let texts = |texts: &[Option<&str>]| texts.iter().map(|t| t.map(str::to_owned)).collect::<Vec<_>>();
    assert_eq!(
        run("x => x; function g(x) { return x; }", floats).unwrap(),
        texts(&[Some("0.5"), Some("2"), Some("1e300"), None])
    );
    let strings: ArrayRef = Arc::new(StringArray::from(vec!["B4", "é\"\n"]));
    assert_eq!(
        run("function hex(s) { return parseInt(s, 16); }", Arc::clone(&strings)).unwrap(),
        texts(&[Some("180"), None])
    );
    assert_eq!(run("function same(s) { return s; }", strings).unwrap(), texts(&[Some("\"B4\""), Some("\"é\\\"\\n\"")]));
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_500]).with_timezone("UTC"));
    let source = "function main(t) { return {at: t, ms: t.getTime(), none: undefined}; }";
    assert_eq!(run(source, times).unwrap(), texts(&[Some(r#"{"at":"1970-01-01T00:00:00.001Z","ms":1}"#)]));
    let any: ArrayRef = Arc::new(LargeStringArray::from(vec![r#"{"a":[1,2]}"#]));
    assert_eq!(run("function main(r) { return r.a.length; }", any).unwrap(), texts(&[Some("2")]));
}

#[test]
fn a_text_without_a_function_to_call_is_refused() {
    let error = |source| UserFunction::javascript("f", "f.js", source).unwrap_err();
    assert_eq!(error("var x = 1;"), "`f.js` declares no function; write `function main(x) { return x; }`");
    let several = error("function a() {} function b() {}");
    assert!(several.contains("several functions") && several.contains("`main`"), "{several}");
    assert!(error("function (").contains("f.js:1"), "{}", error("function ("));
}

#[test]
fn an_exception_names_its_line() {
    let error = run("function main(x) {\n  return x.\n    a.b;\n}", ints()).unwrap_err();
    assert!(error.contains("`f` failed at f.js:") && error.contains("TypeError"), "{error}");
    let thrown = run("function main(x) { throw 'no'; }", ints()).unwrap_err();
    assert!(thrown.contains("`f` threw no"), "{thrown}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test is about time")]
fn an_endless_loop_is_stopped_and_the_next_call_goes_on() {
    let source = "function main(x) { while (x === 1) {} return x; }";
    let started = Instant::now();
    let error = run(source, ints()).unwrap_err();
    assert!(error.contains("`f` did not end within 1 s and was stopped"), "{error}");
    assert!(started.elapsed().as_secs() < 10);
    assert_eq!(run(source, Arc::new(Int64Array::from(vec![2]))).unwrap(), [Some("2".to_owned())]);
}

#[test]
fn a_call_that_fails_gives_null_where_that_is_asked_for() {
    let source = "function main(x) { if (x === null) throw 'no'; while (x > 1) {} return x; }";
    let function = UserFunction::javascript("f", "f.js", source).unwrap().on_error(OnError::GiveNull);
    let (column, rows) = (ints(), ints().len());
    let call = function.call(vec![Typed::column("x", 0, column.data_type().clone(), Span::empty())], Span::empty());
    let batch = RecordBatch::try_from_iter_with_nullable([("x", column, true)]).unwrap();
    let results = call.unwrap().expr.evaluate(&batch).and_then(|v| v.into_array(rows)).unwrap();
    assert_eq!(results.as_string::<i64>().iter().collect::<Vec<_>>(), [Some("1"), None, None]);
    assert_eq!(function.failures(), 2);
}

#[test]
fn memory_and_stack_are_bounded() {
    let error = run("function main(x) { var a = []; for (;;) a.push(new Array(1000).fill(x)); }", ints()).unwrap_err();
    assert!(error.contains("out of memory") || error.contains("Allocation"), "{error}");
    let error = run("function main(x) { return main(x) + 1; }", ints()).unwrap_err();
    assert!(error.contains("stack"), "{error}");
}

#[test]
fn what_filled_the_memory_is_gone_at_the_next_call() {
    let source =
        "var kept = []; function main(x) { while (x === 1) kept.push(new Array(1000).fill(x)); return kept.length; }";
    let error = run(source, Arc::new(Int64Array::from(vec![1]))).unwrap_err();
    assert!(error.contains("out of memory"), "{error}");
    let function = UserFunction::javascript("f", "f.js", source).unwrap().on_error(OnError::GiveNull);
    let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 1, 3]));
    let x = Typed::column("x", 0, column.data_type().clone(), Span::empty());
    let batch = RecordBatch::try_from_iter_with_nullable([("x", column, true)]).unwrap();
    let call = function.call(vec![x], Span::empty()).unwrap();
    let results = call.expr.evaluate(&batch).and_then(|v| v.into_array(4)).unwrap();
    assert_eq!(results.as_string::<i64>().iter().collect::<Vec<_>>(), [None, Some("0"), None, Some("0")]);
}

#[test]
fn an_aggregate_sees_its_values_in_the_order_of_their_times() {
    let source = "function main() {
        this.init = function () { this.seen = []; };
        this.accumulate = function (value, time) { this.seen.push([time.getTime(), value]); };
        this.computeResult = function () { return this.seen; };
    }";
    let function = UserFunction::javascript("seen", "seen.js", source).unwrap();
    function.aggregate(Span::empty()).unwrap();
    let super::Body::JavaScript(script) = &function.body else { unreachable!() };
    let result = engine::aggregate(script, [(1_000, Some("1")), (2_000, None)].into_iter()).unwrap();
    assert_eq!(result.as_deref(), Some("[[1,1],[2,null]]"));
    let scalar = UserFunction::javascript("f", "f.js", "function main(x) { return x; }").unwrap();
    let error = scalar.aggregate(Span::empty()).unwrap_err();
    assert!(error.message.contains("has no method `init`"), "{}", error.message);
}
