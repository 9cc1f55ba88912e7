//! The reference page of the spec, from its JSON Schema.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::json_schema::json_schema;

/// The fields of a spec as Markdown, with a closing line break. `docs/spec.md` is a copy.
#[must_use]
pub fn reference() -> String {
    let schema: Value = serde_json::from_str(&json_schema()).unwrap_or_default();
    let mut page = String::from("# The job spec\n\nGenerated from the types in `jobs/src/spec/raw.rs`; do not edit.\n");
    section(&mut page, "Job", &schema);
    for (name, definition) in object(&schema["definitions"]) {
        section(&mut page, name, definition);
    }
    page
}

fn section(page: &mut String, name: &str, schema: &Value) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "\n## {name}\n\n{}", description(schema));
    if !object(&schema["properties"]).is_empty() {
        let _ = writeln!(page, "\n| field | type | default | meaning |\n|---|---|---|---|");
        for (field, value) in object(&schema["properties"]) {
            let is_required = list(&schema["required"]).iter().any(|required| required == field);
            let default = match &value["default"] {
                _ if is_required => "required".to_owned(),
                Value::Null | Value::Object(_) => String::new(),
                Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            };
            let _ = writeln!(page, "| `{field}` | {} | {default} | {} |", type_of(value), description(value));
        }
    }
    for (i, form) in list(&schema["oneOf"]).iter().enumerate() {
        let break_before = if i == 0 { "\n" } else { "" };
        let colon = if form["description"].is_null() { "" } else { ": " };
        let _ = writeln!(page, "{break_before}- {}{colon}{}", type_of(form), description(form));
    }
    if !schema["enum"].is_null() {
        let _ = writeln!(page, "\n- {}", type_of(schema));
    }
}

fn type_of(schema: &Value) -> String {
    let of = |inner: &Value| if inner.is_object() { type_of(inner) } else { "anything".to_owned() };
    if let Some(reference) = schema["$ref"].as_str().or(schema["allOf"][0]["$ref"].as_str()) {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(name) = schema["const"].as_str() {
        return format!("`{name}`");
    }
    if let Some(names) = schema["enum"].as_array() {
        return names.iter().filter_map(Value::as_str).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    }
    match schema["type"].as_str() {
        Some("array") => format!("list of {}", of(&schema["items"])),
        Some("object") => match object(&schema["properties"]).iter().next() {
            Some((field, value)) => format!("`{field}:` {}", of(value)),
            None => format!("map of {}", of(&schema["additionalProperties"])),
        },
        Some("string") => "text".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        _ => "anything".to_owned(),
    }
}

fn description(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

fn object(value: &Value) -> &Map<String, Value> {
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.as_object().unwrap_or(&EMPTY)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
