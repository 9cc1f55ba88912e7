//! ISO 8601 text to microseconds since 1970-01-01T00:00:00Z.

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Reads `YYYY-MM-DD`, alone (midnight) or followed by `T` or a space and `HH:MM[:SS[.fraction]]`, then `Z`, an offset
/// (`+HH`, `+HHMM`, `+HH:MM`) or nothing, which is UTC. Digits of the fraction beyond the sixth are cut off. The calendar
/// is the Gregorian one for all years; second 60 and hour 24 are refused.
#[inline]
pub(in crate::formats) fn parse_datetime(text: &[u8]) -> Option<i64> {
    let (date, time) = text.split_at_checked(10)?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let year = two_digits(date, 0)? * 100 + two_digits(date, 2)?;
    let (month, day) = (two_digits(date, 5)?, two_digits(date, 8)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    let seconds = days_since_epoch(year, month, day) * 86_400;
    match time {
        [] => Some(seconds * MICROS_PER_SECOND),
        [b'T' | b't' | b' ', time @ ..] => Some(seconds * MICROS_PER_SECOND + time_of_day(time)?),
        _ => None,
    }
}

/// Microseconds of `HH:MM[:SS[.fraction]][zone]`, less the zone's offset.
#[inline]
fn time_of_day(text: &[u8]) -> Option<i64> {
    let (hour, minute) = (two_digits(text, 0)?, two_digits(text, 3)?);
    if text[2] != b':' || hour > 23 || minute > 59 {
        return None;
    }
    let mut micros = (hour * 60 + minute) * 60 * MICROS_PER_SECOND;
    let mut rest = &text[5..];
    if let [b':', ..] = rest {
        let second = two_digits(rest, 1).filter(|second| *second < 60)?;
        micros += second * MICROS_PER_SECOND;
        rest = &rest[3..];
        if let [b'.', fraction @ ..] = rest {
            let count = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if count == 0 {
                return None;
            }
            let mut unit = MICROS_PER_SECOND;
            for digit in &fraction[..count.min(6)] {
                unit /= 10;
                micros += i64::from(digit - b'0') * unit;
            }
            rest = &fraction[count..];
        }
    }
    match rest {
        [] | [b'Z' | b'z'] => Some(micros),
        [b'+', offset @ ..] => Some(micros - offset_micros(offset)?),
        [b'-', offset @ ..] => Some(micros + offset_micros(offset)?),
        _ => None,
    }
}

fn offset_micros(text: &[u8]) -> Option<i64> {
    let minute = match text {
        [_, _] => 0,
        [_, _, _, _] => two_digits(text, 2)?,
        [_, _, b':', _, _] => two_digits(text, 3)?,
        _ => return None,
    };
    let hour = two_digits(text, 0)?;
    (hour <= 23 && minute <= 59).then_some((hour * 60 + minute) * 60 * MICROS_PER_SECOND)
}

#[inline]
fn two_digits(text: &[u8], at: usize) -> Option<i64> {
    let [tens, ones] = text.get(at..at + 2)?.first_chunk()?.map(|byte: u8| byte.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| i64::from(tens * 10 + ones))
}

#[inline]
fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Howard Hinnant's `days_from_civil`: years begin in March, so that the leap day is their last.
#[inline]
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_agree_with_the_calendar() {
        let first = chrono::NaiveDate::from_ymd_opt(1, 1, 1).unwrap();
        let all_of_a_century = (690_000..730_000).map(chrono::Days::new);
        let some_of_all = (0..3_652_000).step_by(97).map(chrono::Days::new);
        for days in all_of_a_century.chain(some_of_all) {
            let date = first + days;
            let expected = date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros();
            assert_eq!(parse_datetime(date.to_string().as_bytes()), Some(expected), "{date}");
        }
    }

    #[test]
    fn times_fractions_and_zones() {
        let micros = |text: &str| parse_datetime(text.as_bytes());
        assert_eq!(micros("1970-01-01"), Some(0));
        assert_eq!(micros("1970-01-01 00:01"), Some(60_000_000));
        assert_eq!(micros("1970-01-01T00:00:01Z"), Some(1_000_000));
        assert_eq!(micros("1970-01-01t00:00:01.5z"), Some(1_500_000));
        assert_eq!(micros("1970-01-01T00:00:00.1234567Z"), Some(123_456));
        assert_eq!(micros("1970-01-01T00:00:00.1234567899999"), Some(123_456));
        assert_eq!(micros("1970-01-01T02:00:00+02:00"), Some(0));
        assert_eq!(micros("1970-01-01T02:00:00+0200"), Some(0));
        assert_eq!(micros("1969-12-31T19:30-04:30"), Some(0));
        assert_eq!(micros("1970-01-01T01:00:00+01"), Some(0));
        assert_eq!(micros("9999-12-31T23:59:59.9999999Z"), Some(253_402_300_799_999_999));
        assert_eq!(micros("0001-01-01T00:00:00Z"), Some(-62_135_596_800_000_000));
    }

    #[test]
    fn what_is_no_datetime_is_refused() {
        for text in [
            "",
            "2024",
            "2024-13-01",
            "2024-00-01",
            "2023-02-29",
            "2024-02-30",
            "2024-01-32",
            "2024-1-1",
            "2024/01/01",
            "2024-01-01T",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:60Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+2",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00 Z",
            "2024-01-01X00:00:00",
            "2024-01-01T00:00:0",
            "2024-01-01T00",
            "2024-01-01T00:00:00ZZ",
            "2024-01-01T00-00-00",
            "-024-01-01",
        ] {
            assert_eq!(parse_datetime(text.as_bytes()), None, "{text}");
        }
    }
}
