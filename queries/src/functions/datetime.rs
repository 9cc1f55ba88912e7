//! Functions on datetimes; all are UTC, in microseconds since the epoch.

use std::borrow::Cow;

use arrow::{array::ArrayRef, temporal_conversions::timestamp_us_to_datetime};
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime, Timelike, Utc};
use datafusion_common::{DataFusionError, Result, exec_datafusion_err, exec_err};

use super::Args;

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
            "weekday" | "dw" => Self::Weekday,
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

fn out_of_range() -> DataFusionError {
    exec_datafusion_err!("the datetime is out of range")
}

fn datetime(micros: i64) -> Result<NaiveDateTime> {
    timestamp_us_to_datetime(micros).ok_or_else(out_of_range)
}

fn micros(t: NaiveDateTime) -> i64 {
    t.and_utc().timestamp_micros()
}

/// Months and years keep the day of the month where it exists, else take the month's last.
pub(super) fn dateadd(args: &Args) -> Result<ArrayRef> {
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
pub(super) fn datediff(args: &Args) -> Result<ArrayRef> {
    let (part, a, b) = (part(args)?, args.time(1), args.time(2));
    args.to_ints(|i| {
        let Some((a, b)) = a.get(i).zip(b.get(i)) else { return Ok(None) };
        Ok(Some(boundary(part, b)? - boundary(part, a)?))
    })
}

/// Number of the interval of this length that the time lies in.
fn boundary(part: Part, t: i64) -> Result<i64> {
    Ok(match (part, part.months(), part.micros()) {
        (_, Some(months), _) => {
            let t = datetime(t)?;
            (i64::from(t.year()) * 12 + i64::from(t.month0())).div_euclid(months)
        }
        (Part::Week, _, _) => (t - SUNDAY_BEFORE_EPOCH).div_euclid(WEEK),
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

pub(super) fn datepart(args: &Args) -> Result<ArrayRef> {
    let (part, t) = (part(args)?, args.time(1));
    args.to_ints(|i| t.get(i).map(|t| datetime(t).map(|t| value(part, t))).transpose())
}

pub(super) fn datename(args: &Args) -> Result<ArrayRef> {
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

pub(super) fn year(args: &Args) -> Result<ArrayRef> {
    of(args, Part::Year)
}

pub(super) fn month(args: &Args) -> Result<ArrayRef> {
    of(args, Part::Month)
}

pub(super) fn day(args: &Args) -> Result<ArrayRef> {
    of(args, Part::Day)
}

/// Year, month, day, hour, minute, second, millisecond.
pub(super) fn from_parts(args: &Args) -> Result<ArrayRef> {
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
