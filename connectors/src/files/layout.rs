//! How the rows of an output are laid out in files: which folder a row belongs into, by the names that Hive gives them, and in which order the
//! rows of a file are.
//!
//! A folder is named `<name>=<value>`, one in another for each entry of `partition_by`. The column of a value is not in the files: readers
//! take it from the folder. A unit of a time makes a column of its own (`day(at)`: `day=2026-11-28`, in UTC), beside the time. Null and the empty
//! text are `__HIVE_DEFAULT_PARTITION__`; what cannot be in a path is `%` and two digits.

use std::{collections::HashMap, fmt, fmt::Write as _, str::FromStr, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array},
    compute::{SortColumn, SortOptions, cast, lexsort_to_indices, take_record_batch},
    datatypes::{DataType, Int64Type, Schema, TimeUnit, TimestampMicrosecondType},
    error::ArrowError,
    row::{RowConverter, SortField},
};
use chrono::{DateTime, Datelike};
use tidemill_engine::{EVENT_TIME, any};

use crate::formats::encode::datetime_text;

/// The name of a folder without a value.
const NO_VALUE: &str = "__HIVE_DEFAULT_PARTITION__";
/// The longest name that file systems take, in bytes.
const NAME_MAX: usize = 255;
const HOUR_US: i64 = 3_600_000_000;

/// Of one output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// What makes folders, the outermost first.
    pub partition_by: Vec<PartitionBy>,
    /// The order of the rows of a file, the most significant column first.
    pub sort_by: Vec<SortBy>,
}

/// What makes folders of one depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionBy {
    /// A column of the output.
    pub column: String,
    /// Of a time the unit that it lies in; `None` for the value as it is.
    pub unit: Option<Unit>,
}

/// A unit of time, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// `2026`
    Year,
    /// `2026-11`
    Month,
    /// `2026-11-28`
    Day,
    /// `2026-11-28-13`
    Hour,
}

/// A column that orders rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortBy {
    /// A column of the output.
    pub column: String,
    /// The largest first, and nulls before them; otherwise the smallest, and nulls last.
    pub descending: bool,
}

const UNITS: [(&str, Unit); 4] =
    [("year", Unit::Year), ("month", Unit::Month), ("day", Unit::Day), ("hour", Unit::Hour)];

impl FromStr for PartitionBy {
    type Err = String;

    /// A column, or a unit of one: `country`, `day(at)`.
    fn from_str(text: &str) -> Result<Self, String> {
        let of_unit = text.strip_suffix(')').and_then(|text| text.split_once('('));
        let Some((unit, column)) = of_unit else {
            return Ok(Self { column: named(text)?, unit: None });
        };
        let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()));
        let Some((_, unit)) = known else {
            let names: Vec<_> = UNITS.iter().map(|(name, _)| *name).collect();
            return Err(format!("unknown unit `{}` of a time; available: {}", unit.trim(), names.join(", ")));
        };
        Ok(Self { column: named(column)?, unit: Some(*unit) })
    }
}

impl FromStr for SortBy {
    type Err = String;

    /// A column, `at`, or `at desc`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (column, direction) = text.trim().rsplit_once(char::is_whitespace).unwrap_or((text, ""));
        let (column, descending) = match direction.to_ascii_lowercase().as_str() {
            "desc" => (column, true),
            "asc" => (column, false),
            _ => (text, false),
        };
        Ok(Self { column: named(column)?, descending })
    }
}

fn named(column: &str) -> Result<String, String> {
    match column.trim() {
        "" => Err("expected a column, found an empty text".to_owned()),
        column => Ok(column.to_owned()),
    }
}

impl PartitionBy {
    /// What its folders' names begin with.
    #[must_use]
    pub fn name(&self) -> &str {
        let unit = self.unit.and_then(|unit| UNITS.iter().find(|(_, known)| *known == unit));
        unit.map_or(&self.column, |(name, _)| name)
    }
}

impl fmt::Display for PartitionBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Some(_) => write!(f, "{}({})", self.name(), self.column),
            None => f.write_str(&self.column),
        }
    }
}

impl Layout {
    /// Whether rows go into one folder, as they come.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Whether rows of these columns can be laid out so.
    ///
    /// # Errors
    /// A column that is not there or whose type makes no folder or no order; two folders of one name; files without a column.
    pub fn check(&self, schema: &Schema) -> Result<(), String> {
        let column = |field: &str, name: &str| {
            schema.field_with_name(name).ok().filter(|column| column.name() != EVENT_TIME).ok_or_else(|| {
                let names = schema.fields().iter().map(|column| column.name().as_str());
                let names: Vec<_> = names.filter(|name| *name != EVENT_TIME).collect();
                format!("unknown column `{name}` in `{field}`; available: {}", names.join(", "))
            })
        };
        let mut stay: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        stay.retain(|name| *name != EVENT_TIME && !self.is_in_folders(name));
        for (index, by) in self.partition_by.iter().enumerate() {
            let found = column("partition_by", &by.column)?.data_type();
            let (fits, expected) = match by.unit {
                Some(_) => (is_time(found), "a datetime"),
                None => (makes_folders(found), "text, an integer, a boolean or a datetime"),
            };
            if !fits {
                return Err(format!("`partition_by`: expected {expected} in `{by}`, found {}", type_name(found)));
            }
            let earlier = self.partition_by[..index].iter().find(|other| other.name() == by.name());
            if let Some(other) = earlier {
                return Err(format!("`partition_by`: folders of `{other}` and of `{by}` have the same name"));
            }
            if by.unit.is_some() && stay.contains(&by.name()) {
                let name = by.name();
                return Err(format!(
                    "`partition_by`: folders of `{by}` have the name of column `{name}`; give it another"
                ));
            }
        }
        if stay.is_empty() {
            return Err("`partition_by` names every column: nothing is left for the files".to_owned());
        }
        for by in &self.sort_by {
            let found = column("sort_by", &by.column)?.data_type();
            if !makes_folders(found) && !matches!(found, DataType::Float64 | DataType::Float32) {
                let found = type_name(found);
                return Err(format!("`sort_by`: rows cannot be ordered by `{}`, which is {found}", by.column));
            }
        }
        Ok(())
    }

    fn is_in_folders(&self, column: &str) -> bool {
        self.partition_by.iter().any(|by| by.unit.is_none() && by.column == column)
    }

    /// The rows of each folder, by its path below the output's, in the order in which the folders come up; without the columns that are in
    /// the path.
    ///
    /// # Errors
    /// What [`Layout::check`] refuses; a value that is too long for the name of a folder.
    pub(super) fn split(&self, batch: &RecordBatch) -> Result<Vec<(String, RecordBatch)>, ArrowError> {
        self.check(batch.schema_ref()).map_err(ArrowError::SchemaError)?;
        if self.partition_by.is_empty() {
            return Ok(vec![(String::new(), batch.clone())]);
        }
        let parts: Vec<ArrayRef> = self.partition_by.iter().map(|by| by.values(batch)).collect::<Result<_, _>>()?;
        let fields = parts.iter().map(|part| SortField::new(part.data_type().clone())).collect();
        let keys = RowConverter::new(fields)?.convert_columns(&parts)?;
        let mut indices: Vec<Vec<u32>> = vec![];
        let mut folders = HashMap::new();
        for (row, key) in (0..).zip(&keys) {
            let folder = *folders.entry(key).or_insert_with(|| {
                indices.push(vec![]);
                indices.len() - 1
            });
            indices[folder].push(row);
        }
        let stay: Vec<usize> = (0..batch.num_columns())
            .filter(|column| !self.is_in_folders(batch.schema_ref().field(*column).name()))
            .collect();
        let stay = batch.project(&stay)?;
        let rows_of = |indices: Vec<u32>| {
            let path = self.path(&parts, indices[0] as usize)?;
            Ok((path, take_record_batch(&stay, &UInt32Array::from(indices))?))
        };
        indices.into_iter().map(rows_of).collect()
    }

    fn path(&self, parts: &[ArrayRef], row: usize) -> Result<String, ArrowError> {
        let mut path = String::new();
        for (by, part) in self.partition_by.iter().zip(parts) {
            let name = format!("{}={}", escaped(by.name()), by.text(part, row));
            if name.len() > NAME_MAX {
                return Err(ArrowError::InvalidArgumentError(format!(
                    "a value of `{by}` makes a folder's name of {} bytes; file systems take {NAME_MAX}",
                    name.len()
                )));
            }
            path += if path.is_empty() { "" } else { "/" };
            path += &name;
        }
        Ok(path)
    }

    /// The rows in their order.
    ///
    /// # Errors
    /// As [`Layout::check`].
    pub(super) fn sorted(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let mut columns = vec![];
        // What is in the folder's name is the same in all rows.
        for by in self.sort_by.iter().filter(|by| !self.is_in_folders(&by.column)) {
            let values = rows
                .column_by_name(&by.column)
                .cloned()
                .ok_or_else(|| ArrowError::SchemaError(format!("unknown column `{}` in `sort_by`", by.column)))?;
            let options = SortOptions { descending: by.descending, nulls_first: by.descending };
            columns.push(SortColumn { values, options: Some(options) });
        }
        if columns.is_empty() {
            return Ok(rows.clone());
        }
        take_record_batch(rows, &lexsort_to_indices(&columns, None)?)
    }
}

impl PartitionBy {
    /// What tells the folders of rows apart: the column, or the number of the unit.
    fn values(&self, batch: &RecordBatch) -> Result<ArrayRef, ArrowError> {
        let column = batch.column_by_name(&self.column).cloned();
        let column = column.ok_or_else(|| ArrowError::SchemaError(format!("unknown column `{}`", self.column)))?;
        let Some(unit) = self.unit else { return Ok(column) };
        let micros = cast(&column, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        let number = |micros: i64| match unit {
            Unit::Hour => micros.div_euclid(HOUR_US),
            Unit::Day => micros.div_euclid(24 * HOUR_US),
            Unit::Month | Unit::Year => {
                let date = DateTime::from_timestamp_micros(micros).unwrap_or_default();
                let month = i64::from(date.year()) * 12 + i64::from(date.month0());
                if unit == Unit::Year { month.div_euclid(12) } else { month }
            }
        };
        let numbers: Int64Array = micros.as_primitive::<TimestampMicrosecondType>().unary(number);
        Ok(Arc::new(numbers))
    }

    /// What stands behind `=`.
    fn text(&self, part: &ArrayRef, row: usize) -> String {
        if part.is_null(row) {
            return NO_VALUE.to_owned();
        }
        if let Some(unit) = self.unit {
            return unit.text(part.as_primitive::<Int64Type>().value(row));
        }
        let text = if is_time(part.data_type()) {
            let micros = cast(&part.slice(row, 1), &DataType::Timestamp(TimeUnit::Microsecond, None));
            micros.map(|micros| datetime_text(micros.as_primitive::<TimestampMicrosecondType>().value(0)))
        } else {
            cast(&part.slice(row, 1), &DataType::Utf8).map(|text| text.as_string::<i32>().value(0).to_owned())
        };
        // Of the types that make folders each can be cast to text.
        let text = text.unwrap_or_default();
        if text.is_empty() { NO_VALUE.to_owned() } else { escaped(&text) }
    }
}

impl Unit {
    fn text(self, number: i64) -> String {
        let at = |micros: i64, pattern| DateTime::from_timestamp_micros(micros).unwrap_or_default().format(pattern);
        match self {
            Self::Year => format!("{number:04}"),
            Self::Month => format!("{:04}-{:02}", number.div_euclid(12), number.rem_euclid(12) + 1),
            Self::Day => at(number.saturating_mul(24 * HOUR_US), "%Y-%m-%d").to_string(),
            Self::Hour => at(number.saturating_mul(HOUR_US), "%Y-%m-%d-%H").to_string(),
        }
    }
}

fn type_name(data_type: &DataType) -> String {
    if *data_type == any::any_type() { "any".to_owned() } else { data_type.to_string() }
}

fn is_time(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Timestamp(..))
}

fn makes_folders(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::Boolean) || data_type.is_integer() || is_time(data_type)
}

/// As Hive writes it (`FileUtils.escapePathName`).
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '"'
            | '#'
            | '%'
            | '\''
            | '*'
            | '/'
            | ':'
            | '='
            | '?'
            | '\\'
            | '{'
            | '['
            | ']'
            | '^'
            | '\0'..='\x1f'
            | '\x7f' => {
                let _ = write!(escaped, "%{:02X}", u32::from(letter)); // writing to a String cannot fail
            }
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{BooleanArray, StringArray, TimestampMicrosecondArray},
        datatypes::Field,
    };
    use tidemill_engine::datetime_type;

    use super::*;

    fn layout(partition_by: &[&str], sort_by: &[&str]) -> Layout {
        Layout {
            partition_by: partition_by.iter().map(|text| text.parse().unwrap()).collect(),
            sort_by: sort_by.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn batch(countries: &[Option<&str>], times: &[Option<&str>]) -> RecordBatch {
        let micros = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
        let times: TimestampMicrosecondArray = times.iter().map(|time| time.map(micros)).collect();
        let columns: [(&str, ArrayRef); 3] = [
            ("country", Arc::new(StringArray::from(countries.to_vec()))),
            ("at", Arc::new(times.with_timezone("UTC"))),
            ("n", Arc::new(Int64Array::from_iter_values(0..countries.len() as i64))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn folders(layout: &Layout, batch: &RecordBatch) -> Vec<(String, Vec<i64>)> {
        let numbers = |rows: &RecordBatch| rows["n"].as_primitive::<Int64Type>().values().to_vec();
        layout.split(batch).unwrap().iter().map(|(path, rows)| (path.clone(), numbers(rows))).collect()
    }

    #[test]
    fn rows_go_where_their_values_say() {
        let batch = batch(
            &[Some("FR"), Some("DE"), Some("FR"), None, Some(""), Some("FR")],
            &[
                Some("2026-11-28T23:59:59.999999Z"),
                Some("2026-11-28T23:59:59Z"),
                Some("2026-11-29T00:00:00Z"),
                None,
                Some("1969-12-31T23:00:00Z"),
                Some("2026-11-28T00:00:00Z"),
            ],
        );
        let by_day = layout(&["country", "day(at)"], &[]);
        let none = "country=__HIVE_DEFAULT_PARTITION__";
        let expected = [
            ("country=FR/day=2026-11-28".to_owned(), vec![0, 5]),
            ("country=DE/day=2026-11-28".to_owned(), vec![1]),
            ("country=FR/day=2026-11-29".to_owned(), vec![2]),
            (format!("{none}/day=__HIVE_DEFAULT_PARTITION__"), vec![3]),
            (format!("{none}/day=1969-12-31"), vec![4]),
        ];
        assert_eq!(folders(&by_day, &batch), expected);
        let rows = &by_day.split(&batch).unwrap()[0].1;
        let names: Vec<_> = rows.schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["at", "n"], "what is in the path is not in the file");
        let units = layout(&["year(at)", "month(at)", "hour(at)"], &[]);
        let paths: Vec<_> = folders(&units, &batch).into_iter().map(|(path, _)| path).collect();
        assert_eq!(paths[0], "year=2026/month=2026-11/hour=2026-11-28-23");
        assert_eq!(paths[3], "year=1969/month=1969-12/hour=1969-12-31-23");
    }

    #[test]
    fn names_are_escaped_as_hive_does() {
        let path = |value: &str| folders(&layout(&["country"], &[]), &batch(&[Some(value)], &[None]))[0].0.clone();
        assert_eq!(path("a/b=c: 100%"), "country=a%2Fb%3Dc%3A 100%25");
        assert_eq!(path("../../etc"), "country=..%2F..%2Fetc");
        assert_eq!(path("\u{0}\n[é]"), "country=%00%0A%5Bé%5D");
        let columns: [(&str, ArrayRef); 3] = [
            ("a/b", Arc::new(BooleanArray::from(vec![true]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC"))),
            ("n", Arc::new(Int64Array::from(vec![-7]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let paths = layout(&["a/b", "at"], &[]).split(&batch).unwrap();
        assert_eq!(paths[0].0, "a%2Fb=true/at=1970-01-01T00%3A00%3A00.0000000Z");
        assert_eq!(layout(&["n"], &[]).split(&batch).unwrap()[0].0, "n=-7");

        let long = "é".repeat(124);
        let error = layout(&["country"], &[]).split(&self::batch(&[Some(&long)], &[None])).unwrap_err().to_string();
        assert!(
            error.ends_with("a value of `country` makes a folder's name of 256 bytes; file systems take 255"),
            "{error}"
        );
    }

    #[test]
    fn rows_are_in_order_and_nulls_at_the_end_of_it() {
        let batch = batch(&[Some("b"), None, Some("a"), Some("b")], &[None, None, None, Some("2026-01-01T00:00:00Z")]);
        let sorted = |by: &[&str]| {
            let rows = layout(&[], by).sorted(&batch).unwrap();
            rows["n"].as_primitive::<Int64Type>().values().to_vec()
        };
        assert_eq!(sorted(&["country", "at"]), [2, 3, 0, 1]);
        assert_eq!(sorted(&["country desc", "n DESC"]), [1, 3, 0, 2]);
        assert_eq!(sorted(&["country asc", "n"]), [2, 0, 3, 1]);
    }

    #[test]
    fn what_cannot_be_laid_out_is_refused_by_name() {
        let schema = Schema::new(vec![
            Field::new("country", DataType::Utf8, true),
            Field::new("at", datetime_type(), true),
            Field::new("day", DataType::Int64, true),
            Field::new("x", DataType::Float64, true),
            Field::new("any", any::any_type(), true),
            Field::new(EVENT_TIME, datetime_type(), true),
        ]);
        let refused =
            |partition_by: &[&str], sort_by: &[&str]| layout(partition_by, sort_by).check(&schema).unwrap_err();
        for (partition_by, expected) in [
            (&["countri"][..], "unknown column `countri` in `partition_by`; available: country, at, day, x, any"),
            (&["x"], "`partition_by`: expected text, an integer, a boolean or a datetime in `x`, found Float64"),
            (&["any"], "`partition_by`: expected text, an integer, a boolean or a datetime in `any`, found any"),
            (&["day(country)"], "`partition_by`: expected a datetime in `day(country)`, found Utf8"),
            (&["day", "day(at)"], "`partition_by`: folders of `day` and of `day(at)` have the same name"),
            (&["day(at)"], "`partition_by`: folders of `day(at)` have the name of column `day`; give it another"),
            (&[EVENT_TIME], "unknown column `__time` in `partition_by`; available: country, at, day, x, any"),
        ] {
            assert_eq!(refused(partition_by, &[]), expected);
        }
        assert_eq!(refused(&[], &["any"]), "`sort_by`: rows cannot be ordered by `any`, which is any");
        layout(&["country", "hour(at)"], &["x desc", "country"]).check(&schema).unwrap();
        let only = Schema::new(vec![Field::new("country", DataType::Utf8, true)]);
        let error = layout(&["country"], &[]).check(&only).unwrap_err();
        assert_eq!(error, "`partition_by` names every column: nothing is left for the files");
        let error = "week(at)".parse::<PartitionBy>().unwrap_err();
        assert_eq!(error, "unknown unit `week` of a time; available: year, month, day, hour");
        assert_eq!(" ".parse::<SortBy>().unwrap_err(), "expected a column, found an empty text");
        assert_eq!("a b".parse::<SortBy>().unwrap(), SortBy { column: "a b".to_owned(), descending: false });
    }
}
