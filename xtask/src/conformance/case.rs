//! A worked example as its file has it. Fields that we do not know are other readers' business.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// A row: column name to value, in the order of the file. 7 is a bigint, 7.0 a float.
pub type Row = Map<String, Value>;

/// A query, its input rows, and the rows that come out.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// Names the case in the output.
    pub id: String,
    /// The script as it stands.
    pub query: String,
    /// Rows of each input in order of arrival.
    pub inputs: BTreeMap<String, Vec<Row>>,
    /// Names of the inputs that are tables and not streams: no event time, all there from the start.
    #[serde(default)]
    pub reference_inputs: Vec<String>,
    /// The event time of the inputs, a datetime whatever its JSON type; a `TIMESTAMP BY` in the query wins over it. None:
    /// rows arrive one after the other, and arrival is the event time.
    pub timestamp_column: Option<TimestampColumn>,
    /// The rows to come out.
    pub expected: Vec<Row>,
    /// Whether their order counts.
    #[serde(default)]
    pub ordered: bool,
    /// The output to compare, of a script with several.
    pub output: Option<String>,
    /// Policies for late, early and out-of-order rows; none: nothing is late or early.
    pub settings: Option<Settings>,
    /// Of the dialect; none: 1.2.
    pub compatibility_level: Option<Value>,
    /// User-defined functions by name.
    #[serde(default)]
    pub functions: BTreeMap<String, Function>,
    /// What else the case takes, such as `js-udf`.
    #[serde(default)]
    pub requires: Vec<String>,
    /// How far apart two equal numbers may be.
    pub float_tolerance: Option<f64>,
    /// Arrays whose order does not count: all of them, or those of the named columns.
    pub unordered_arrays: Option<UnorderedArrays>,
    /// The only columns that count; none: all.
    pub compare_columns: Option<Vec<String>>,
    /// `csv` where the rows stood in such a file: all values are strings.
    pub input_format: Option<String>,
    /// The watermark is the largest event time seen less this delay, such as `1 second`.
    pub watermark_delay: Option<String>,
}

/// Which column is the event time.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum TimestampColumn {
    /// The same of every input.
    OfAll(String),
    /// By input.
    ByInput(BTreeMap<String, String>),
}

impl TimestampColumn {
    /// The event-time column of an input, whose names differ in case from query to file.
    pub fn of(&self, input: &str) -> Option<&str> {
        match self {
            Self::OfAll(column) => Some(column),
            Self::ByInput(columns) => {
                columns.iter().find(|(name, _)| name.eq_ignore_ascii_case(input)).map(|(_, column)| column.as_str())
            }
        }
    }
}

/// Policies of `TIMESTAMP BY`.
#[derive(Clone, Debug, Deserialize)]
pub struct Settings {
    /// Seconds that an event may arrive after its time.
    pub late_arrival_tolerance_s: Option<f64>,
    /// Seconds that an event may arrive before its time.
    pub early_arrival_tolerance_s: Option<f64>,
    /// Seconds that an event may come behind a later one.
    pub out_of_order_tolerance_s: Option<f64>,
    /// `Adjust` or `Drop`.
    pub policy: Option<String>,
    /// When each row arrived; none: at its event time.
    pub arrival_time_column: Option<String>,
}

/// A user-defined function.
#[derive(Clone, Debug, Deserialize)]
pub struct Function {
    /// Such as `JavaScriptUDF`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its text; the function to call is the only top-level one.
    pub body: String,
}

/// Arrays whose order does not count.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum UnorderedArrays {
    /// True: all.
    All(bool),
    /// Those in these columns.
    Columns(Vec<String>),
}
