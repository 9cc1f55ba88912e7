//! The spec's JSON Schema, for completion and checks in editors.

use schemars::{Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::{Value, json};

use super::raw::RawJob;

/// The JSON Schema of a spec, pretty-printed, with a closing line break. Draft 7, because editors' YAML servers know it
/// best. `docs/spec.schema.json` is a copy.
#[must_use]
pub fn json_schema() -> String {
    let settings = SchemaSettings::draft07().with_transform(RecursiveTransform(without_null));
    format!("{:#}\n", settings.into_generator().into_root_schema_for::<RawJob>().as_value())
}

/// A field may be left out; that it may be null as well is nothing an editor should offer.
fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(forms)) = schema.get_mut("anyOf") {
        forms.retain(|form| form != &json!({"type": "null"}));
        if forms.len() == 1
            && let Some(forms) = schema.remove("anyOf")
        {
            schema.insert("allOf".to_owned(), forms);
        }
    }
}
