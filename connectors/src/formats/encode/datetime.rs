//! Datetimes as text: ISO 8601, UTC, seven fractional digits, as Azure Stream Analytics prints them.

use std::io::Write;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// Appends microseconds since 1970 as `2020-03-04T14:50:25.0000000Z`. Every `i64` has a text: a year outside 0 to 9999 is
/// written with its sign (`+10000-01-01T...`), as ISO 8601 has it.
pub(crate) fn push_datetime(out: &mut Vec<u8>, micros: i64) {
    let (year, month, day) = civil(micros.div_euclid(MICROS_PER_DAY));
    let time = micros.rem_euclid(MICROS_PER_DAY);
    let mut text = *b"0000-00-00T00:00:00.0000000Z";
    let mut digits = |end: usize, count: usize, mut value: i64| {
        for slot in text[end - count..end].iter_mut().rev() {
            *slot = b'0' + (value % 10) as u8;
            value /= 10;
        }
    };
    digits(7, 2, month);
    digits(10, 2, day);
    digits(13, 2, time / 3_600_000_000);
    digits(16, 2, time / 60_000_000 % 60);
    digits(19, 2, time / 1_000_000 % 60);
    digits(26, 6, time % 1_000_000);
    if (0..=9999).contains(&year) {
        digits(4, 4, year);
        out.extend_from_slice(&text);
    } else {
        write!(out, "{year:+05}").expect("memory takes every byte");
        out.extend_from_slice(&text[4..]);
    }
}

/// Microseconds since 1970 as ISO 8601 in UTC with seven fractional digits.
#[must_use]
pub fn datetime_text(micros: i64) -> String {
    let mut out = Vec::with_capacity(28);
    push_datetime(&mut out, micros);
    String::from_utf8(out).expect("digits and signs")
}

/// Year, month and day of a day counted from 1970-01-01 in the proleptic Gregorian calendar; Howard Hinnant's
/// `civil_from_days`, whose years begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * march_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_seven_digits_and_every_i64() {
        assert_eq!(datetime_text(0), "1970-01-01T00:00:00.0000000Z");
        assert_eq!(datetime_text(1_583_333_425_000_000), "2020-03-04T14:50:25.0000000Z");
        assert_eq!(datetime_text(-1), "1969-12-31T23:59:59.9999990Z");
        assert_eq!(datetime_text(253_402_300_799_999_999), "9999-12-31T23:59:59.9999990Z");
        assert_eq!(datetime_text(253_402_300_800_000_000), "+10000-01-01T00:00:00.0000000Z");
        assert_eq!(datetime_text(i64::MAX), "+294247-01-10T04:00:54.7758070Z");
        assert_eq!(datetime_text(i64::MIN), "-290308-12-21T19:59:05.2241920Z");
    }

    #[test]
    fn agrees_with_chrono() {
        for day in (-800_000..800_000).step_by(97) {
            let micros = day * MICROS_PER_DAY + day.rem_euclid(7) * 12_345_678_901;
            let oracle = chrono::DateTime::from_timestamp_micros(micros).unwrap();
            if (0..=9999).contains(&chrono::Datelike::year(&oracle)) {
                assert_eq!(datetime_text(micros), oracle.format("%Y-%m-%dT%H:%M:%S%.6f0Z").to_string());
            }
        }
    }
}
