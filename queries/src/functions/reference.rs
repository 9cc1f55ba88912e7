//! What is said of each function: the lines of the reference page, which is generated from them, and the examples that
//! tests run.

use std::fmt::Write;

use super::{Function, GROUPS};
use crate::{aggregates, analytic};

/// Where the pages of Azure Stream Analytics stand.
const PAGES: &str = "https://learn.microsoft.com/stream-analytics-query/";

/// What one function is.
#[derive(Clone, Copy, Debug)]
pub struct FunctionDoc {
    /// As a query writes it, e.g. `LEFT(text, n)`.
    pub signature: &'static str,
    /// What it gives.
    pub meaning: &'static str,
    /// What becomes of NULL.
    pub nulls: &'static str,
    /// Expressions and what they give, as JSON. They may name the columns of [`EXAMPLE_ROW`], those of aggregates and
    /// of functions of the rows before the column `x`; these give a value for each row, listed in no order.
    pub examples: &'static [(&'static str, &'static str)],
    /// The page of Azure Stream Analytics that the function follows; empty for our own.
    pub page: &'static str,
}

/// The row that examples see.
pub const EXAMPLE_ROW: &str = r#"{"n": 7, "s": "text", "r": {"a": 1, "b": "x"}, "list": [10, 20]}"#;

/// The values of `x` that examples of aggregates see, in one window.
pub const EXAMPLE_COLUMN: &[i64] = &[1, 2, 3, 3];

/// The rule of most functions.
pub(crate) const NULL_FOR_NULL: &str = "NULL when an argument is NULL";

impl FunctionDoc {
    pub(crate) const NONE: Self = Self { signature: "", meaning: "", nulls: NULL_FOR_NULL, examples: &[], page: "" };
}

/// Every function of the language that is called by name, by group, in the order of the reference page.
pub fn function_docs() -> Vec<(&'static str, Vec<FunctionDoc>)> {
    let scalar = GROUPS.iter().map(|(name, functions)| (*name, functions.iter().map(Function::doc).collect()));
    let mut groups: Vec<(&str, Vec<FunctionDoc>)> = scalar.collect();
    groups.push(("Forms of the language", super::forms::FORMS.iter().map(|f| f.doc).collect()));
    groups.push(("Aggregates", aggregates::docs()));
    groups.push(("Over the rows before", analytic::DOCS.to_vec()));
    groups
}

/// The functions of the language as Markdown, with a closing line break. `docs/functions.md` is a copy.
#[must_use]
pub fn function_reference() -> String {
    let mut text = String::from(
        "# Functions\n\n\
         Generated from the registrations in `queries/src/functions` and `queries/src/aggregates.rs`; the examples are run \
         by a test.\n\n\
         Names are not case-sensitive. Positions in text count characters from 1, positions in arrays elements from 0. \
         Datetimes are UTC, in microseconds. Text that holds a number, a bit or an ISO 8601 datetime is converted where \
         such a value is needed; text that does not stops the job, as CAST does: TRY_CAST gives NULL instead. A value of \
         type `any` (from JSON_PARSE, user code, or branches of different types) has its own type in each row, and is \
         converted likewise.\n\n\
         `udf.name(x, ...)` and, in place of an aggregate, `uda.name(x)` call the JavaScript that the spec declares under \
         `functions`. There a bigint or float is a Number, a bit a Boolean, text a String, a datetime a Date, a record an \
         Object, an array an Array, NULL null; what comes back is what JSON.stringify makes of it, a Number without a \
         fraction a bigint, undefined and NaN NULL. An aggregate is a function that sets `this.init`, \
         `this.accumulate(value, timestamp)` and `this.computeResult`; values come by event time, inside records \
         datetimes as text, and `deaccumulate` is never called. Results must depend on the arguments alone. A call may take 1 s and a function hold \
         64 MiB in each thread. Where one throws, or goes beyond that, the record of its row becomes a dead letter of class `function` \
         that names the script's line, and the job goes on; behind a window or a join, where there is no record, the letter \
         holds the row. `on_error` says otherwise: `fail` stops the job, `give_null` gives NULL.\n\n",
    );
    let _ = writeln!(text, "Examples of scalar functions see the row `{EXAMPLE_ROW}`, the others rows in which");
    let _ = writeln!(text, "`x` is {}.", EXAMPLE_COLUMN.iter().map(i64::to_string).collect::<Vec<_>>().join(", "));
    text.push_str(
        "\nFunctions over the rows before give a value for each row; their examples list them in no order.\n",
    );
    for (group, docs) in function_docs() {
        let _ = write!(text, "\n## {group}\n\n| function | meaning | NULL | example |\n|---|---|---|---|\n");
        for doc in docs {
            let name = match doc.page {
                "" => format!("`{}`", cell(doc.signature)),
                page => format!("[`{}`]({PAGES}{page})", cell(doc.signature)),
            };
            let examples: Vec<_> =
                doc.examples.iter().map(|(e, value)| format!("`{}` = `{}`", cell(e), cell(value))).collect();
            let _ = writeln!(text, "| {name} | {} | {} | {} |", doc.meaning, doc.nulls, examples.join("<br>"));
        }
    }
    text
}

/// Text inside a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
