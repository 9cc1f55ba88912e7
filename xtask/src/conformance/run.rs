//! Runs one case: its rows as JSON records through the ordinary decoder, planner and engine, on this thread.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, bail};
use arrow::datatypes::{DataType, Field, Schema};
use chrono::{DateTime, NaiveDateTime};
use serde_json::Value;
use tidemill_connectors::formats::infer::SchemaSample;
use tidemill_engine::{
    dataflow::plan::{LateAction, TimeBounds},
    datetime_type,
};
use tidemill_queries::{CompatibilityLevel, InputTable, Script, Settings, UserFunction, UserFunctions};

use super::case::{Case, Row};
use crate::memory::{self, Cut, Partition};

/// When the first row of an input without event times arrives; the others follow, a millisecond each. At no window's end:
/// rows that follow one another lie in one window.
const FIRST_ARRIVAL_MS: i64 = 1_600_000_000_001;

/// The rows of the case's output.
///
/// # Errors
/// A query that is refused, or that fails on the rows.
pub(super) fn run_case(case: &Case) -> anyhow::Result<Vec<Row>> {
    let refused = |errors: tidemill_queries::QueryErrors| anyhow::anyhow!("{}", errors.render(&case.query, &case.id));
    let script = Script::parse(&case.query).map_err(refused)?;
    let outputs = output_names(&script);
    let compared = case.output.as_deref().or(outputs.first().map(String::as_str)).unwrap_or_default();
    let compared = outputs.iter().position(|o| o.eq_ignore_ascii_case(compared)).context("no such output")?;

    let tables =
        case.inputs.iter().map(|(name, rows)| table(case, &script, name, rows)).collect::<anyhow::Result<Vec<_>>>()?;
    let dataflow = tidemill_queries::plan(&script, &tables, &outputs, &settings(case)?).map_err(refused)?;

    let partition = |(name, rows): (&String, &Vec<Row>)| Ok((name.clone(), vec![records(case, name, rows)?]));
    let inputs = case.inputs.iter().map(partition).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let outcome = memory::run(&dataflow, &inputs, Cut::default()).map_err(|error| anyhow::anyhow!("{error:#}"))?;
    Ok(outcome.rows[compared].clone())
}

/// Each output of the script once; `output` for statements without INTO.
fn output_names(script: &Script) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    for name in script.outputs() {
        let name = name.unwrap_or_else(|| "output".to_owned());
        if !names.iter().any(|n| n.eq_ignore_ascii_case(&name)) {
            names.push(name);
        }
    }
    names
}

fn table(case: &Case, script: &Script, name: &str, rows: &[Row]) -> anyhow::Result<InputTable> {
    let mut sample = SchemaSample::default();
    for row in rows {
        sample.add_json(&serde_json::to_vec(row)?)?;
    }
    let time_column = case.timestamp_column.as_ref().and_then(|t| t.of(name)).map(str::to_owned);
    let reference = case.reference_inputs.iter().any(|r| r.eq_ignore_ascii_case(name));
    let created = script.declared_tables().iter().find(|t| t.name.eq_ignore_ascii_case(name));
    let schema = match created {
        None => with_datetime(&sample.schema(), time_column.as_deref()),
        Some(table) => {
            let inferred = sample.schema();
            let fields = table.columns.iter().map(|(column, declared)| {
                let sampled = || inferred.fields().iter().find(|f| f.name().eq_ignore_ascii_case(column));
                let data_type = declared.clone().or_else(|| sampled().map(|f| f.data_type().clone()));
                Field::new(column, data_type.unwrap_or(DataType::Utf8), true)
            });
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        }
    };
    Ok(InputTable {
        name: name.to_owned(),
        schema,
        sampled: Some(rows.len()),
        time_column,
        exact: created.is_some(),
        reference,
    })
}

/// The event-time column is a datetime, whatever its JSON type.
fn with_datetime(schema: &Schema, column: Option<&str>) -> Arc<Schema> {
    let fields = schema.fields().iter().map(|f| match column {
        Some(column) if f.name().eq_ignore_ascii_case(column) => Field::new(f.name(), datetime_type(), true),
        _ => f.as_ref().clone(),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn settings(case: &Case) -> anyhow::Result<Settings> {
    let micros = |seconds: f64| (seconds * 1e6) as i64;
    let time = case.settings.as_ref().map(|s| TimeBounds {
        late_arrival: s.late_arrival_tolerance_s.map(micros),
        out_of_order: s.out_of_order_tolerance_s.map_or(0, micros),
        early_arrival: s.early_arrival_tolerance_s.map(micros),
        action: match s.policy.as_deref() {
            Some(policy) if policy.eq_ignore_ascii_case("drop") => LateAction::Drop,
            _ => LateAction::Adjust,
        },
    });
    let compatibility = match case.compatibility_level.as_ref().map(Value::to_string) {
        Some(level) if level.contains("1.0") => CompatibilityLevel::V1_0,
        Some(level) if level.contains("1.1") => CompatibilityLevel::V1_1,
        _ => CompatibilityLevel::V1_2,
    };
    let standard_delay = case.watermark_delay.as_deref().map(delay).transpose()?;
    Ok(Settings { time, standard_delay, compatibility, functions: functions(case)? })
}

fn functions(case: &Case) -> anyhow::Result<UserFunctions> {
    let functions = case.functions.iter().map(|(name, function)| {
        UserFunction::javascript(name, &format!("{name}.js"), &function.body).map_err(anyhow::Error::msg)
    });
    Ok(UserFunctions::new(functions.collect::<anyhow::Result<_>>()?))
}

/// `1 second`, in microseconds.
fn delay(text: &str) -> anyhow::Result<i64> {
    let (number, unit) = text.split_once(' ').context("a number and a unit")?;
    let unit = match unit.trim_end_matches('s') {
        "millisecond" => 1_000,
        "second" => 1_000_000,
        "minute" => 60_000_000,
        "hour" => 3_600_000_000,
        other => bail!("unknown unit `{other}`"),
    };
    Ok(number.parse::<i64>()? * unit)
}

/// The rows of an input as records of one partition, each at its arrival.
fn records(case: &Case, name: &str, rows: &[Row]) -> anyhow::Result<Partition> {
    let column = case.settings.as_ref().and_then(|s| s.arrival_time_column.clone());
    let column = column.or_else(|| case.timestamp_column.as_ref()?.of(name).map(str::to_owned));
    let record = |(index, row): (usize, &Row)| {
        let value = column.as_ref().and_then(|c| row.iter().find(|(k, _)| k.eq_ignore_ascii_case(c)).map(|(_, v)| v));
        let arrival = value.and_then(millis).unwrap_or(FIRST_ARRIVAL_MS + index as i64);
        Ok((arrival, serde_json::to_vec(row)?))
    };
    rows.iter().enumerate().map(record).collect()
}

/// Milliseconds since the epoch of an ISO 8601 text with a zone or without one, or of a number that is such already.
fn millis(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => DateTime::parse_from_rfc3339(text)
            .map(|t| t.timestamp_millis())
            .or_else(|_| text.parse::<NaiveDateTime>().map(|t| t.and_utc().timestamp_millis()))
            .ok(),
        _ => None,
    }
}
