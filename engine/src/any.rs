//! Values that have types of their own, as those of Azure Stream Analytics do: a column of them holds JSON texts. Mixed
//! fields of payloads, user code and text parsed as JSON give such columns.

use std::borrow::Cow;

use arrow::datatypes::DataType;

/// The Arrow type of a column of such values: each a [`compact`] JSON text, null for null. No other column has this type.
#[must_use]
pub fn any_type() -> DataType {
    DataType::LargeUtf8
}

/// A JSON text without the white space between its parts: a row of an output is one line.
#[must_use]
pub fn compact(json: &str) -> Cow<'_, str> {
    const SPACE: [char; 4] = [' ', '\n', '\r', '\t'];
    if !json.contains(SPACE) {
        return json.into();
    }
    let (mut in_string, mut escaped) = (false, false);
    let kept = json.chars().filter(|c| {
        let keep = in_string || !SPACE.contains(c);
        in_string ^= *c == '"' && !escaped;
        escaped = in_string && *c == '\\' && !escaped;
        keep
    });
    kept.collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::compact;

    #[test]
    fn space_in_strings_stays() {
        for (json, expected) in [
            ("{ \"a b\" : [1,\n 2] }", "{\"a b\":[1,2]}"),
            (r#"[ "a \\", "\" " ]"#, r#"["a \\","\" "]"#),
            ("\"x y\"", "\"x y\""),
        ] {
            assert_eq!(compact(json), expected);
        }
    }
}
