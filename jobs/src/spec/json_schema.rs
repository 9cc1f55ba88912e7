//! The spec's JSON Schema, for completion and checks in editors.

use schemars::generate::SchemaSettings;

use super::raw::RawJob;

/// The JSON Schema of a spec, pretty-printed, with a closing line break. Draft 7, because editors' YAML servers know it
/// best. `docs/spec.schema.json` is a copy.
#[must_use]
pub fn json_schema() -> String {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<RawJob>();
    format!("{:#}\n", schema.as_value())
}
