//! What was found, as the `inputs` of a spec.

use std::{fmt::Write as _, path::Path};

use arrow::datatypes::{DataType, Fields};
use tidemill_connectors::formats::csv::Dialect;

use tidemill_engine::any::any_type;

use super::{Format, Found};

/// The input of a topic.
pub(super) fn of_topic(brokers: &[String], topic: &str, found: &Found) -> String {
    let brokers: Vec<_> = brokers.iter().map(|broker| scalar(broker)).collect();
    let transport = format!("kafka: {{brokers: [{}], topic: {}}}", brokers.join(", "), scalar(topic));
    input(topic, &transport, found)
}

/// The input of a file.
pub(super) fn of_file(path: &Path, name: &str, found: &Found) -> String {
    input(name, &format!("file: {{path: {}}}", scalar(&path.display().to_string())), found)
}

fn input(name: &str, transport: &str, found: &Found) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(out, "# {} records were looked at", found.records + found.others);
    if found.others > 0 {
        let _ = write!(out, "; {} of them are of another format", found.others);
    }
    let _ = writeln!(out, "\ninputs:\n  {}:\n    {transport}\n    format: {}", scalar(name), format(found.format));
    if let Some(compression) = found.compression {
        let _ = writeln!(out, "    compression: {}", format!("{compression:?}").to_lowercase());
    }
    if let Format::Registered { id } = found.format {
        let _ = writeln!(
            out,
            "    # The first record's schema has id {id}; the registry says whether it is Avro or Protobuf."
        );
    }
    if let Some(schema) = found.schema.as_ref().filter(|schema| !schema.fields().is_empty()) {
        out.push_str("    schema:\n");
        columns(schema.fields(), "", 6, found, &mut out);
    }
    out
}

fn format(format: Format) -> String {
    match format {
        Format::Json { ids: false } => "json".to_owned(),
        Format::Json { ids: true } => "{json: {framing: confluent}}".to_owned(),
        Format::Csv(dialect) if dialect == Dialect::default() => "csv".to_owned(),
        Format::Csv(Dialect { delimiter, .. }) => {
            format!("{{csv: {{delimiter: {:?}}}}}", char::from(delimiter).to_string())
        }
        Format::AvroContainer => "avro".to_owned(),
        Format::Registered { .. } => "{avro: {registry: {url: \"http://localhost:8081\"}}}".to_owned(),
        Format::Parquet => "parquet".to_owned(),
    }
}

fn columns(fields: &Fields, prefix: &str, indent: usize, found: &Found, out: &mut String) {
    for field in fields {
        let path = format!("{prefix}{}", field.name());
        let _ = write!(out, "{:indent$}{}:", "", scalar(field.name()));
        match field.data_type() {
            DataType::Struct(members) => {
                let _ = writeln!(out, "{}", comment(&path, found));
                columns(members, &format!("{path}."), indent + 2, found, out);
            }
            other => {
                let _ = writeln!(out, " {}{}", type_name(other), comment(&path, found));
            }
        }
    }
}

/// A type as a spec has it.
pub(crate) fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Int64 => "int".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::List(item) => format!("[{}]", type_name(item.data_type())),
        DataType::Struct(members) => {
            let members =
                members.iter().map(|member| format!("{}: {}", scalar(member.name()), type_name(member.data_type())));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        any if *any == any_type() => "any".to_owned(),
        _ => "string".to_owned(),
    }
}

/// What was seen of a field: how often it was there, which kinds of values, nulls.
fn comment(path: &str, found: &Found) -> String {
    let Some(field) = found.statistics.get(path) else { return String::new() };
    let mut seen: Vec<String> = field.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    if field.nulls > 0 {
        seen.push(format!("{} null", field.nulls));
    }
    let share = if path.contains(['.', '[']) || field.seen >= found.records as u64 {
        String::new()
    } else {
        format!("in {} of {} records: ", field.seen, found.records)
    };
    format!("  # {share}{}", seen.join(", "))
}

/// A text as YAML has it: plain where that is safe.
fn scalar(text: &str) -> String {
    let plain = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/'))
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
        );
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}
