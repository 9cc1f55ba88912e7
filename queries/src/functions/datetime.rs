//! Functions on datetimes; all are UTC, in microseconds since the epoch.

use std::borrow::Cow;

use arrow::{array::ArrayRef, temporal_conversions::timestamp_us_to_datetime};
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime, Timelike, Utc};
use datafusion_common::{DataFusionError, Result, exec_datafusion_err, exec_err};

use super::{
    Arg::{Int, Part as PartName, Text, Time},
    Args, Function, Returns, function, zone,
};

pub(super) static FUNCTIONS: &[Function] = &[
    function("dateadd", &[PartName, Int, Time], Returns::Time, dateadd)
        .doc_of("DATEADD(part, n, t)", "t moved by n parts; a fraction of n is cut off, and a day that the month does not have becomes its last", &[("DATEADD(month, 1, '2024-01-31')", "\"2024-02-29T00:00:00.0000000Z\"")])
        .page("dateadd-azure-stream-analytics"),
    function("datediff", &[PartName, Time, Time], Returns::Int, datediff)
        .doc_of("DATEDIFF(part, a, b)", "how many boundaries of the part lie between a and b; negative when a is later; weeks begin on Sunday", &[("DATEDIFF(year, '2023-12-31T23:59:59Z', '2024-01-01')", "1"), ("DATEDIFF(hour, '2024-01-01T00:59:00', '2024-01-01T00:01:00')", "0")])
        .page("datediff-azure-stream-analytics"),
    function("datename", &[PartName, Time], Returns::Text, datename)
        .doc_of("DATENAME(part, t)", "the part as text, months and weekdays by their English names", &[("DATENAME(month, '2024-02-29')", "\"February\"")])
        .page("datename-azure-stream-analytics"),
    function("datepart", &[PartName, Time], Returns::Int, datepart)
        .doc_of("DATEPART(part, t)", "the part as a number; weekday 1 is Sunday, week 1 holds January 1st", &[("DATEPART(weekday, '2024-02-29')", "5")])
        .page("datepart-azure-stream-analytics"),
    function("datetimefromparts", &[Int, Int, Int, Int, Int, Int, Int], Returns::Time, from_parts)
        .doc_of("DATETIMEFROMPARTS(y, m, d, h, mi, s, ms)", "the datetime of these parts; parts that are none are an error", &[("DATETIMEFROMPARTS(2024, 2, 29, 1, 2, 3, 4)", "\"2024-02-29T01:02:03.0040000Z\"")])
        .page("datetimefromparts-azure-stream-analytics"),
    function("day", &[Time], Returns::Int, day)
        .doc_of("DAY(t)", "day of the month", &[("DAY('2024-02-29')", "29")])
        .page("day-azure-stream-analytics"),
    function("month", &[Time], Returns::Int, month)
        .doc_of("MONTH(t)", "month, from 1", &[("MONTH('2024-02-29')", "2")])
        .page("month-azure-stream-analytics"),
    function("year", &[Time], Returns::Int, year)
        .doc_of("YEAR(t)", "year", &[("YEAR('2024-02-29')", "2024")])
        .page("year-azure-stream-analytics"),
    function("from_utc_timestamp", &[Time, Text], Returns::Time, zone::from_utc)
        .doc_of("FROM_UTC_TIMESTAMP(t, zone)", "what the clocks of a time zone of the IANA database show at t, for DATEPART and its like", &[("FROM_UTC_TIMESTAMP('2024-07-01T12:00:00Z', 'Europe/Paris')", "\"2024-07-01T14:00:00.0000000Z\"")]),
    function("to_utc_timestamp", &[Time, Text], Returns::Time, zone::to_utc)
        .doc_of("TO_UTC_TIMESTAMP(local, zone)", "when the clocks of a time zone show `local`: the first time where they do twice, as if before the change where they never do", &[("TO_UTC_TIMESTAMP('2024-07-01T14:00:00', 'Europe/Paris')", "\"2024-07-01T12:00:00.0000000Z\"")]),
];

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
/// 1970-01-01 was a Thursday; weeks start on Sunday.
const SUNDAY_BEFORE_EPOCH: i64 = -4 * DAY;

/// A part of a datetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Year,
    Quarter,
    Month,
    DayOfYear,
    Day,
    Week,
    Weekday,
    Hour,
    Minute,
    Second,
    Millisecond,
    Microsecond,
}

impl Part {
    pub(crate) const HELP: &str = "parts are year, quarter, month, dayofyear, day, week, weekday, hour, minute, second, \
                                   millisecond and microsecond";

    /// By name or abbreviation, in any case; a plural `s` is allowed on names.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Some(match name.as_str() {
            "year" | "years" | "yy" | "yyyy" => Self::Year,
            "quarter" | "quarters" | "qq" | "q" => Self::Quarter,
            "month" | "months" | "mm" | "m" => Self::Month,
            "dayofyear" | "dy" | "y" => Self::DayOfYear,
            "day" | "days" | "dd" | "d" => Self::Day,
            "week" | "weeks" | "wk" | "ww" => Self::Week,
            "weekday" | "dw" | "w" => Self::Weekday,
            "hour" | "hours" | "hh" => Self::Hour,
            "minute" | "minutes" | "mi" | "n" => Self::Minute,
            "second" | "seconds" | "ss" | "s" => Self::Second,
            "millisecond" | "milliseconds" | "ms" => Self::Millisecond,
            "microsecond" | "microseconds" | "mcs" => Self::Microsecond,
            _ => return None,
        })
    }

    /// Microseconds, for parts of fixed length.
    pub(crate) fn micros(self) -> Option<i64> {
        Some(match self {
            Self::Year | Self::Quarter | Self::Month => return None,
            Self::Week => WEEK,
            Self::DayOfYear | Self::Day | Self::Weekday => DAY,
            Self::Hour => HOUR,
            Self::Minute => MINUTE,
            Self::Second => SECOND,
            Self::Millisecond => 1_000,
            Self::Microsecond => 1,
        })
    }

    /// How many months, for the parts made of months.
    fn months(self) -> Option<i64> {
        match self {
            Self::Year => Some(12),
            Self::Quarter => Some(3),
            Self::Month => Some(1),
            _ => None,
        }
    }
}

fn part(args: &Args) -> Result<Part> {
    let name = args.text(0).get(0).unwrap_or_default();
    Part::parse(name).ok_or_else(|| exec_datafusion_err!("unknown part of a datetime `{name}`"))
}

pub(super) fn out_of_range() -> DataFusionError {
    exec_datafusion_err!("the datetime is out of range")
}

pub(super) fn datetime(micros: i64) -> Result<NaiveDateTime> {
    timestamp_us_to_datetime(micros).ok_or_else(out_of_range)
}

pub(super) fn micros(t: NaiveDateTime) -> i64 {
    t.and_utc().timestamp_micros()
}

/// Months and years keep the day of the month where it exists, else take the month's last.
fn dateadd(args: &Args) -> Result<ArrayRef> {
    let (part, n, t) = (part(args)?, args.int(1), args.time(2));
    args.to_times(|i| {
        let Some((n, t)) = n.get(i).zip(t.get(i)) else { return Ok(None) };
        let moved = match part.months() {
            Some(months) => add_months(t, n.checked_mul(months).ok_or_else(out_of_range)?)?,
            None => {
                part.micros().and_then(|m| m.checked_mul(n)).and_then(|d| t.checked_add(d)).ok_or_else(out_of_range)?
            }
        };
        Ok(Some(moved))
    })
}

fn add_months(t: i64, n: i64) -> Result<i64> {
    let t = datetime(t)?;
    let months = Months::new(u32::try_from(n.unsigned_abs()).map_err(|_| out_of_range())?);
    let moved = if n < 0 { t.checked_sub_months(months) } else { t.checked_add_months(months) };
    moved.map(micros).ok_or_else(out_of_range)
}

/// How many boundaries of the part lie between the two, negative when the first is later.
fn datediff(args: &Args) -> Result<ArrayRef> {
    let (part, a, b) = (part(args)?, args.time(1), args.time(2));
    args.to_ints(|i| {
        let Some((a, b)) = a.get(i).zip(b.get(i)) else { return Ok(None) };
        boundary(part, b)?.checked_sub(boundary(part, a)?).map(Some).ok_or_else(out_of_range)
    })
}

/// Number of the interval of this length that the time lies in.
fn boundary(part: Part, t: i64) -> Result<i64> {
    Ok(match (part, part.months(), part.micros()) {
        (_, Some(months), _) => {
            let t = datetime(t)?;
            (i64::from(t.year()) * 12 + i64::from(t.month0())).div_euclid(months)
        }
        (Part::Week, _, _) => t.saturating_sub(SUNDAY_BEFORE_EPOCH).div_euclid(WEEK),
        (_, _, Some(length)) => t.div_euclid(length),
        (_, None, None) => t,
    })
}

fn value(part: Part, t: NaiveDateTime) -> i64 {
    let micros = i64::from(t.nanosecond() / 1_000);
    i64::from(match part {
        Part::Year => t.year(),
        Part::Quarter => t.month0() as i32 / 3 + 1,
        Part::Month => t.month() as i32,
        Part::DayOfYear => t.ordinal() as i32,
        Part::Day => t.day() as i32,
        // Week 1 holds January 1st.
        Part::Week => {
            let first = t.date().with_ordinal(1).map_or(0, |d| d.weekday().num_days_from_sunday());
            ((t.ordinal0() + first) / 7 + 1) as i32
        }
        Part::Weekday => t.weekday().number_from_sunday() as i32,
        Part::Hour => t.hour() as i32,
        Part::Minute => t.minute() as i32,
        Part::Second => t.second() as i32,
        Part::Millisecond => return micros / 1_000,
        Part::Microsecond => return micros,
    })
}

fn datepart(args: &Args) -> Result<ArrayRef> {
    let (part, t) = (part(args)?, args.time(1));
    args.to_ints(|i| t.get(i).map(|t| datetime(t).map(|t| value(part, t))).transpose())
}

fn datename(args: &Args) -> Result<ArrayRef> {
    let (part, t) = (part(args)?, args.time(1));
    args.to_text(|i| {
        let Some(t) = t.get(i) else { return Ok(None) };
        let t = datetime(t)?;
        let name = match part {
            Part::Month => t.format("%B").to_string(),
            Part::Weekday => t.format("%A").to_string(),
            part => value(part, t).to_string(),
        };
        Ok(Some(Cow::from(name)))
    })
}

fn of(args: &Args, part: Part) -> Result<ArrayRef> {
    let t = args.time(0);
    args.to_ints(|i| t.get(i).map(|t| datetime(t).map(|t| value(part, t))).transpose())
}

fn year(args: &Args) -> Result<ArrayRef> {
    of(args, Part::Year)
}

fn month(args: &Args) -> Result<ArrayRef> {
    of(args, Part::Month)
}

fn day(args: &Args) -> Result<ArrayRef> {
    of(args, Part::Day)
}

/// Year, month, day, hour, minute, second, millisecond.
fn from_parts(args: &Args) -> Result<ArrayRef> {
    let parts: Vec<_> = (0..args.len()).map(|a| args.int(a)).collect();
    args.to_times(|i| {
        let Some(p) = parts.iter().map(|p| p.get(i)).collect::<Option<Vec<_>>>() else { return Ok(None) };
        let small = |n: i64| u32::try_from(n).ok();
        let made = i32::try_from(p[0]).ok().and_then(|year| {
            NaiveDate::from_ymd_opt(year, small(p[1])?, small(p[2])?)?.and_hms_milli_opt(
                small(p[3])?,
                small(p[4])?,
                small(p[5])?,
                small(p[6])?,
            )
        });
        match made {
            Some(t) => Ok(Some(micros(t))),
            None => exec_err!("no such datetime: {p:?}"),
        }
    })
}

/// ISO 8601 text as microseconds since the epoch; without a zone it is UTC.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    arrow::compute::kernels::cast_utils::string_to_datetime(&Utc, text)
        .ok()
        .or_else(|| without_seconds(text))
        .map(|t: DateTime<Utc>| t.timestamp_micros())
}

fn without_seconds(text: &str) -> Option<DateTime<Utc>> {
    let text = text.strip_suffix(['Z', 'z']).unwrap_or(text);
    ["%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .map(|t| t.and_utc())
}

/// As ASA prints datetimes: seven fractional digits and `Z`.
pub(crate) fn print(micros: i64) -> Option<String> {
    timestamp_us_to_datetime(micros).map(|t| format!("{}0Z", t.format("%Y-%m-%dT%H:%M:%S%.6f")))
}
