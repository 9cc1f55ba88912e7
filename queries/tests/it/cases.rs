//! A case: inputs, a query, and what is expected of it.
//!
//! ```text
//! # input clicks [ts]         JSON lines; the columns in brackets are datetimes
//! # function name             JavaScript of a user's function
//! # table users [since]        the same as reference data
//! # sample clicks              an input whose columns are those of a sample, not declared
//! # level 1.1                 the level of compatibility; 1.2 without one
//! # query                     the script
//! # plan                      expected: one line a node
//! # rows                      expected: one JSON line a row, `output: ` in front when there are several outputs; then the
//!                             rows that user code failed on
//! # errors                    expected: as a user sees them
//! ```
//! Rows are expected of every way to cut the input: as one batch, row by row, on one worker and on four, killed and resumed
//! behind each batch.
//! A file holds several cases; each begins at `## name`.

use std::{fmt::Write, fs, path::Path};

use tidemill_engine::{
    dataflow::plan::{AnalyticCall, Dataflow, OperatorPlan, TimePolicy},
    user_code::FailedRow,
};
use tidemill_queries::{CompatibilityLevel, QueryErrors, Script, Settings, UserFunction, UserFunctions, plan};

use crate::run::{Cut, Input, Ran, lines, run_cut};

struct Case {
    name: String,
    sections: Vec<(String, String)>,
}

fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = vec![];
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            cases.push(Case { name: name.to_owned(), sections: vec![] });
        } else if let Some(title) = line.strip_prefix("# ") {
            cases.last_mut().unwrap().sections.push((title.to_owned(), String::new()));
        } else if let Some((_, body)) = cases.last_mut().and_then(|c| c.sections.last_mut()) {
            body.push_str(line);
            body.push('\n');
        }
    }
    cases
}

impl Case {
    fn inputs(&self) -> Vec<Input> {
        let titled = self.sections.iter().filter_map(|(title, body)| Some((title.split_once(' ')?, body)));
        titled
            .filter(|((kind, _), _)| ["input", "table", "sample"].contains(kind))
            .map(|((kind, title), body)| {
                let (name, datetimes) = title.split_once(" [").unwrap_or((title, "]"));
                let datetimes: Vec<&str> = datetimes.trim_end_matches(']').split(", ").collect();
                let sampled = kind == "sample";
                Input { table: kind == "table", sampled, ..Input::new(name, body.trim(), &datetimes) }
            })
            .collect()
    }

    fn functions(&self) -> UserFunctions {
        let scripts = self.sections.iter().filter_map(|(title, body)| Some((title.strip_prefix("function ")?, body)));
        let function =
            |(name, body): (&str, &String)| UserFunction::javascript(name, &format!("{name}.js"), body).unwrap();
        UserFunctions::new(scripts.map(function).collect())
    }

    fn level(&self) -> CompatibilityLevel {
        let level = self.sections.iter().find_map(|(title, _)| title.strip_prefix("level "));
        match level.unwrap_or("1.2") {
            "1.0" => CompatibilityLevel::V1_0,
            "1.1" => CompatibilityLevel::V1_1,
            "1.2" => CompatibilityLevel::V1_2,
            other => panic!("{}: no level {other}", self.name),
        }
    }

    fn actual(&self, title: &str) -> String {
        let query = self.sections.iter().find(|(t, _)| t == "query").map(|(_, q)| q.trim_end()).unwrap();
        let inputs = self.inputs();
        let (dataflow, names) = match planned(query, &inputs, self.functions(), self.level()) {
            Ok(planned) => planned,
            Err(errors) => return errors.render(query, "query"),
        };
        match title {
            "plan" => describe(&dataflow),
            "errors" => "none\n".to_owned(),
            _ => {
                let whole = rows(&dataflow, &names, &inputs, Cut::WHOLE);
                for cut in Cut::OTHERS {
                    let other = rows(&dataflow, &names, &inputs, cut);
                    assert_eq!(other, whole, "{}, {cut:?}", self.name);
                }
                whole
            }
        }
    }
}

fn rows(dataflow: &Dataflow, names: &[String], inputs: &[Input], cut: Cut) -> String {
    let Ran { outputs, failed } = match run_cut(dataflow, inputs, cut) {
        Ok(ran) => ran,
        Err(error) => return format!("failed: {error}\n"),
    };
    let mut text = String::new();
    for (output, rows) in outputs.iter().enumerate() {
        let name = if names.len() > 1 { format!("{}: ", names[output]) } else { String::new() };
        for line in lines(rows) {
            writeln!(text, "{name}{line}").unwrap();
        }
    }
    let mut letters: Vec<String> = failed.iter().map(letter).collect();
    letters.sort();
    letters.iter().for_each(|letter| writeln!(text, "{letter}").unwrap());
    text
}

/// A row that failed, by its record where it has one.
fn letter(failed: &FailedRow) -> String {
    let values = lines(&[failed.values().unwrap()]).concat();
    match failed.origin() {
        Some((_, _, offset)) => format!("record {offset}, {values}: {}", failed.message),
        None => format!("{values}: {}", failed.message),
    }
}

/// The plan, with the outputs that the script names.
fn planned(
    query: &str,
    inputs: &[Input],
    functions: UserFunctions,
    compatibility: CompatibilityLevel,
) -> Result<(Dataflow, Vec<String>), QueryErrors> {
    let script = Script::parse(query)?;
    let mut outputs: Vec<String> = vec![];
    for name in script.outputs() {
        let name = name.unwrap_or("output".to_owned());
        if !outputs.contains(&name) {
            outputs.push(name);
        }
    }
    let tables: Vec<_> = inputs.iter().map(Input::as_table).collect();
    let settings = Settings { standard_delay: Some(0), functions, compatibility, ..Settings::default() };
    let dataflow = plan(&script, &tables, &outputs, &settings)?;
    Ok((dataflow, outputs))
}

fn describe(dataflow: &Dataflow) -> String {
    let mut text = String::new();
    for (id, node) in dataflow.nodes.iter().enumerate() {
        let what = match &node.operator {
            OperatorPlan::Input(input) => {
                let time = match &input.time {
                    TimePolicy::Arrival => "arrival".to_owned(),
                    TimePolicy::Column { expression, .. } => expression.to_string(),
                };
                format!("input {} time {time}", dataflow.inputs[input.input].name)
            }
            OperatorPlan::Filter(predicate) => format!("filter {predicate}"),
            OperatorPlan::Project(list) => {
                format!("project {}", list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
            }
            OperatorPlan::Assign(windows) => format!("assign {windows:?}"),
            OperatorPlan::AssignSessions { shape, partition } => {
                let keys: Vec<_> = partition.iter().map(ToString::to_string).collect();
                format!("assign {shape:?} by [{}]", keys.join(", "))
            }
            OperatorPlan::Aggregate(a) => {
                let keys: Vec<_> = a.keys.iter().map(ToString::to_string).collect();
                let calls: Vec<_> = a
                    .aggregates
                    .iter()
                    .map(|a| {
                        let args: Vec<_> = a.aggregate.expressions().iter().map(ToString::to_string).collect();
                        format!("{}({})", a.aggregate.fun().name(), args.join(", "))
                    })
                    .collect();
                format!("aggregate {:?} by [{}] [{}]", a.windows, keys.join(", "), calls.join(", "))
            }
            OperatorPlan::Recognize(plan) => format!("recognize {:?} within {}", plan.pattern, plan.within_us),
            OperatorPlan::Rank(plan) => format!("rank by {:?}", plan.order),
            OperatorPlan::Analytic(calls) => {
                format!("analytic {}", calls.iter().map(call).collect::<Vec<_>>().join(", "))
            }
            OperatorPlan::Join(join) => format!(
                "{} on [{}] within {:?}{}",
                if join.outer { "left join" } else { "join" },
                keys(&join.keys),
                join.bounds,
                join.condition.as_ref().map_or(String::new(), |c| format!(" where {c}"))
            ),
            OperatorPlan::Lookup(lookup) => format!(
                "{} of {} on [{}]{}",
                if lookup.outer { "left lookup" } else { "lookup" },
                dataflow.tables[lookup.table].columns.name,
                keys(&lookup.keys),
                lookup.condition.as_ref().map_or(String::new(), |c| format!(" where {c}"))
            ),
            OperatorPlan::Unnest { outer } => format!("unnest{}", if *outer { " outer" } else { "" }),
            OperatorPlan::Union => "union".to_owned(),
            OperatorPlan::Difference(_) => "difference".to_owned(),
            OperatorPlan::Output(output) => format!("output {}", dataflow.outputs[*output]),
        };
        let fields: Vec<_> = node.schema.fields().iter().map(|f| f.name().as_str()).collect();
        writeln!(text, "{id} {what} <- {:?} ({})", node.inputs, fields.join(", ")).unwrap();
    }
    text
}

fn keys<T: std::fmt::Display>(keys: &[(T, T)]) -> String {
    keys.iter().map(|(l, r)| format!("{l} = {r}")).collect::<Vec<_>>().join(", ")
}

fn call(call: &AnalyticCall) -> String {
    let by: Vec<_> = call.partition.iter().map(ToString::to_string).collect();
    let when = call.when.as_ref().map_or(String::new(), |when| format!(" when {when}"));
    format!("{:?} of {} by [{}]{when}", call.function, call.argument, by.join(", "))
}

fn check(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let cases = parse(&fs::read_to_string(&path).unwrap());
    assert!(!cases.is_empty(), "{file} holds no case");
    let (mut failures, mut rewritten) = (vec![], String::new());
    for case in &cases {
        writeln!(rewritten, "## {}", case.name).unwrap();
        for (title, body) in &case.sections {
            let expects = matches!(title.as_str(), "plan" | "rows" | "errors");
            let actual = if expects { case.actual(title) } else { format!("{}\n", body.trim_end()) };
            if expects && actual.trim_end() != body.trim_end() {
                failures.push(format!("{file}, {}: expected {title}\n{body}found\n{actual}", case.name));
            }
            write!(rewritten, "# {title}\n{}\n", if actual.trim().is_empty() { "" } else { actual.trim_end() })
                .unwrap();
        }
        rewritten.push('\n');
    }
    if std::env::var_os("TIDEMILL_UPDATE").is_some() {
        fs::write(&path, rewritten.trim_end().to_owned() + "\n").unwrap();
    } else {
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

macro_rules! files {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            check(concat!(stringify!($name), ".txt"));
        })*
    };
}

files!(
    apply,
    projections,
    conditions,
    windows,
    standard_windows,
    sessions,
    sliding,
    ranked,
    steps,
    names,
    mistakes,
    refusals,
    functions,
    analytic,
    user_functions,
    recognize,
    joins,
    reference,
    time,
    types
);
