//! The time formats of SPEC section 1: RFC 3339, `YYYY-MM-DD HH:MM:SS[.f]` in UTC, and numbers of seconds or
//! milliseconds. Written by hand because every event pays for it; the tests hold it against chrono.
//!
//! Everything below a millisecond is cut off towards the past, so a time never moves across the start of its day.

use crate::time::{DAY_MS, EventTime};

/// Numbers below this are seconds, others milliseconds (SPEC section 1).
const MILLIS_FROM: i64 = 100_000_000_000;
/// 0000-01-01T00:00:00Z, the earliest time of RFC 3339. Nothing earlier is a time at which a user acted.
const EARLIEST_MS: i64 = -62_167_219_200_000;

/// The time that a text says; `None` when it is in neither of the two text formats or before the year 0.
pub(super) fn from_text(text: &str) -> Option<EventTime> {
    let bytes = text.as_bytes();
    // 0123456789012345678
    // YYYY-MM-DDTHH:MM:SS
    let (head, mut rest) = bytes.split_at_checked(19)?;
    if head[4] != b'-' || head[7] != b'-' || head[13] != b':' || head[16] != b':' {
        return None;
    }
    let number = |at: usize| two_digits(head[at], head[at + 1]);
    let year = number(0)? * 100 + number(2)?;
    let (month, day) = (number(5)?, number(8)?);
    let (hour, minute, second) = (number(11)?, number(14)?, number(17)?);
    // RFC 3339 knows leap seconds; Unix time does not, so 60 is the first second of the next minute.
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }

    let mut millis = 0;
    if let [b'.', fraction @ ..] = rest {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        millis = first_three(&fraction[..digits]);
        rest = &fraction[digits..];
    }
    let separator = head[10];
    let offset_minutes = match (separator, rest) {
        (b' ', b"") | (b'T' | b't' | b' ', b"Z" | b"z") => 0,
        (b'T' | b't' | b' ', &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2]) => {
            let (hours, minutes) = (two_digits(h1, h2)?, two_digits(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let offset = hours * 60 + minutes;
            if sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };

    let minutes = hour * 60 + minute - offset_minutes;
    let total = days_from_epoch(year, month, day) * DAY_MS + minutes * 60_000 + second * 1000 + millis;
    (total >= EARLIEST_MS).then(|| EventTime::from_millis(total))
}

/// The time that a JSON number says, given as its text; `None` when it is before the year 0. A number too large for
/// any calendar is the end of time, and so will be refused as lying in the future.
pub(super) fn from_number(text: &str) -> Option<EventTime> {
    let millis = exact_millis(text).or_else(|| rounded_millis(text))?;
    (millis >= EARLIEST_MS).then(|| EventTime::from_millis(millis))
}

/// Without floating point, so that `1700000000.123` is exactly that millisecond; `None` for exponents and for numbers
/// of more than 18 digits before the point.
fn exact_millis(text: &str) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || whole.len() > 18 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut value = 0_i64;
    for byte in whole.bytes() {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(byte - b'0');
    }
    if negative {
        let below = fraction.as_bytes().get(3..).is_some_and(|tail| tail.iter().any(|digit| *digit != b'0'));
        return value.checked_mul(-1000)?.checked_sub(first_three(fraction.as_bytes()) + i64::from(below));
    }
    if value < MILLIS_FROM {
        return Some(value * 1000 + first_three(fraction.as_bytes()));
    }
    Some(value)
}

/// For the rare rest. Saturates.
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "saturating is what is wanted")]
fn rounded_millis(text: &str) -> Option<i64> {
    let value: f64 = text.parse().ok()?;
    let millis = if value < MILLIS_FROM as f64 { (value * 1000.0).round() } else { value.floor() };
    (!millis.is_nan()).then_some(millis as i64)
}

/// The first three digits of a fraction, as thousandths.
fn first_three(digits: &[u8]) -> i64 {
    let digit = |at: usize| digits.get(at).map_or(0, |digit| i64::from(digit - b'0'));
    digit(0) * 100 + digit(1) * 10 + digit(2)
}

fn two_digits(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, for years from 0. Years are taken to begin in March, so
/// that the leap day is the last of its year.
const fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year;
    days - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(text: &str) -> Option<i64> {
        from_text(text).map(EventTime::as_millis)
    }

    fn number(text: &str) -> Option<i64> {
        from_number(text).map(EventTime::as_millis)
    }

    #[test]
    fn text_formats() {
        let day = 1_709_164_800_000; // 2024-02-29
        let cases = [
            ("2024-02-29T00:00:00Z", Some(day)),
            ("2024-02-29t00:00:00z", Some(day)),
            ("2024-02-29T00:00:00.5Z", Some(day + 500)),
            ("2024-02-29T00:00:00.123456789123Z", Some(day + 123)),
            ("2024-02-29T05:30:00+05:30", Some(day)),
            ("2024-02-28T16:00:00-08:00", Some(day)),
            ("2024-02-29 00:00:00", Some(day)),
            ("2024-02-29 00:00:00.25", Some(day + 250)),
            ("2024-02-29 00:00:00Z", Some(day)),
            ("2024-02-28T23:59:60Z", Some(day)),
            ("1969-12-31T23:59:59.999Z", Some(-1)),
            ("0000-01-01T00:00:00Z", Some(EARLIEST_MS)),
            // A local time says no instant.
            ("2024-02-29T00:00:00", None),
            ("2023-02-29T00:00:00Z", None),
            ("1900-02-29T00:00:00Z", None),
            ("2024-13-01T00:00:00Z", None),
            ("2024-00-01T00:00:00Z", None),
            ("2024-01-00T00:00:00Z", None),
            ("2024-01-01T24:00:00Z", None),
            ("2024-01-01T00:60:00Z", None),
            ("2024-01-01T00:00:61Z", None),
            ("2024-01-01T00:00:00.Z", None),
            ("2024-01-01T00:00:00+0530", None),
            ("2024-01-01T00:00:00+24:00", None),
            ("2024-01-01T00:00:00Z ", None),
            (" 2024-01-01T00:00:00Z", None),
            ("2024-01-01", None),
            ("0000-01-01T00:00:00+01:00", None),
            ("1709164800", None),
            ("", None),
            ("yesterday", None),
            ("２０24-01-01T00:00:00Z", None),
        ];
        for (input, expected) in cases {
            assert_eq!(text(input), expected, "{input:?}");
        }
    }

    #[test]
    fn numbers_are_seconds_below_1e11_and_milliseconds_from_there() {
        let cases = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000.123", Some(1_700_000_000_123)),
            ("1700000000.1239", Some(1_700_000_000_123)),
            ("1700000000.5", Some(1_700_000_000_500)),
            ("1.7e9", Some(1_700_000_000_000)),
            ("99999999999", Some(99_999_999_999_000)),
            ("99999999999.999", Some(99_999_999_999_999)),
            ("100000000000", Some(100_000_000_000)),
            ("1700000000123", Some(1_700_000_000_123)),
            ("1700000000123.9", Some(1_700_000_000_123)),
            ("1.7e12", Some(1_700_000_000_000)),
            ("-1", Some(-1000)),
            ("-1.5", Some(-1500)),
            ("-0.0001", Some(-1)),
            ("-62167219200", Some(EARLIEST_MS)),
            ("-62167219201", None),
            ("-999999999999999999", None),
            ("-1e300", None),
            ("99999999999999999999", Some(i64::MAX)),
            ("1e300", Some(i64::MAX)),
            ("1e999", Some(i64::MAX)),
        ];
        for (input, expected) in cases {
            assert_eq!(number(input), expected, "{input:?}");
        }
    }

    proptest! {
        #[test]
        fn rfc_3339_agrees_with_chrono(millis in EARLIEST_MS..253_402_300_800_000_i64, offset in -1439_i32..1440) {
            let time = chrono::DateTime::from_timestamp_millis(millis).expect("in range");
            prop_assert_eq!(text(&time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)), Some(millis));
            prop_assert_eq!(text(&time.format("%Y-%m-%d %H:%M:%S%.3f").to_string()), Some(millis));
            let local = time.with_timezone(&chrono::FixedOffset::east_opt(offset * 60).expect("in range"));
            let written = local.to_rfc3339_opts(chrono::SecondsFormat::Millis, false);
            prop_assume!(written.len() == 29); // the local year has four digits
            prop_assert_eq!(text(&written), Some(millis));
        }

        #[test]
        fn what_we_read_chrono_reads_alike(
            date in "[0-9]{4}-[01][0-9]-[0-3][0-9]",
            time in "[0-2][0-9]:[0-6][0-9]:[0-5][0-9](\\.[0-9]{1,5})?",
            zone in "Z|[+-][0-2][0-9]:[0-6][0-9]",
        ) {
            let input = format!("{date}T{time}{zone}");
            let theirs = chrono::DateTime::parse_from_rfc3339(&input).ok().map(|time| time.timestamp_millis());
            prop_assert_eq!(text(&input), theirs.filter(|millis| *millis >= EARLIEST_MS));
        }

        #[test]
        fn seconds_with_milliseconds_are_exact(millis in 0..99_999_999_999_999_i64) {
            let input = format!("{}.{:03}", millis / 1000, millis % 1000);
            prop_assert_eq!(number(&input), Some(millis));
        }

        #[test]
        fn any_text_is_survived(input in "\\PC*") {
            let _ = (from_text(&input), from_number(&input));
        }
    }
}
