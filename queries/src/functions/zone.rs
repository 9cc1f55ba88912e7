//! Wall clocks of time zones. A datetime is UTC; what a clock shows is a datetime too, whose parts are those of the clock.

use arrow::array::ArrayRef;
use chrono::{NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;
use datafusion_common::{DataFusionError, Result, exec_datafusion_err};

use super::{
    Args,
    datetime::{datetime, micros, out_of_range},
};

/// What the clocks of the zone show at an instant.
pub(super) fn from_utc(args: &Args) -> Result<ArrayRef> {
    moved(args, |zone, t| Some(t.checked_add_offset(zone.offset_from_utc_datetime(&t).fix())))
}

/// The instant at which the clocks of the zone show a time. Twice in autumn: the first. Never in spring: as if they had
/// not been changed yet.
pub(super) fn to_utc(args: &Args) -> Result<ArrayRef> {
    moved(args, |zone, t| {
        let offset = zone.offset_from_local_datetime(&t).earliest().or_else(|| {
            let before = t.checked_sub_signed(chrono::TimeDelta::hours(3))?;
            zone.offset_from_local_datetime(&before).earliest()
        });
        Some(t.checked_sub_offset(offset?.fix()))
    })
}

fn moved(args: &Args, rule: impl Fn(Tz, NaiveDateTime) -> Option<Option<NaiveDateTime>>) -> Result<ArrayRef> {
    let (t, name) = (args.time(0), args.text(1));
    let constant = name.constant().flatten().map(zone).transpose()?;
    args.to_times(|i| {
        let Some((t, name)) = t.get(i).zip(name.get(i)) else { return Ok(None) };
        let zone = constant.map_or_else(|| zone(name), Ok)?;
        let moved = rule(zone, datetime(t)?).flatten().ok_or_else(out_of_range)?;
        Ok(Some(micros(moved)))
    })
}

fn zone(name: &str) -> Result<Tz, DataFusionError> {
    name.parse().map_err(|_| {
        exec_datafusion_err!("unknown time zone `{name}`; expected a name of the IANA database such as `Europe/Paris`")
    })
}
