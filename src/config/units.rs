//! Lengths of time and sizes as people write them: `30d`, `12h`, `250ms`, `256MiB`. Both ways.

use std::time::Duration;

use crate::time::Span;

/// Reads a length of time: `30d`, `1d 12h`, `250ms`. Whole milliseconds, zero included.
///
/// Months and years are refused: they have no fixed length, and `M` beside `m` invites a mistake of a factor of 43,830.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn parse_span(text: &str) -> Result<Span, String> {
    if text.trim().parse::<f64>().is_ok_and(|number| number != 0.0) {
        return Err(format!("`{text}` has no unit: write `{text}s`, `{text}m`, `{text}h` or `{text}d`"));
    }
    let units = text.split(|c: char| !c.is_alphabetic()).filter(|unit| !unit.is_empty());
    for unit in units {
        if matches!(unit, "M" | "month" | "months" | "y" | "year" | "years" | "yr" | "yrs") {
            return Err(format!("`{unit}` has no fixed length: write it in days, like `30d`"));
        }
    }
    let length = humantime::parse_duration(text.trim())
        .map_err(|error| format!("`{text}` is no length of time like `30d`, `12h` or `250ms` ({error})"))?;
    if length.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("`{text}` is finer than a millisecond"));
    }
    i64::try_from(length.as_millis()).map(Span::from_millis).map_err(|_| format!("`{text}` is too long"))
}

/// The same length as [`Duration`]; a negative one is zero.
#[must_use]
pub fn as_duration(span: Span) -> Duration {
    Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(0))
}

/// The same length as [`Span`], at most the longest there is.
#[must_use]
pub fn as_span(length: Duration) -> Span {
    Span::from_millis(i64::try_from(length.as_millis()).unwrap_or(i64::MAX))
}

/// Reads a size in bytes: `256MiB`, `1.5GB`, `4096`.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn parse_size(text: &str) -> Result<u64, String> {
    text.trim()
        .parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("`{text}` is no size like `256MiB`, `1GB` or `4096`"))
}

/// Writes a length of time as configuration does: the fewest units, without spaces where one is enough.
#[must_use]
pub fn show_span(span: Span) -> String {
    const UNITS: [(i64, &str); 5] = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let mut left = span.as_millis().max(0);
    let mut parts = Vec::new();
    for (length, unit) in UNITS {
        if left >= length {
            parts.push(format!("{}{unit}", left / length));
            left %= length;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

/// Writes a size as configuration does: in the largest binary unit that divides it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    for (size, unit) in UNITS {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        for (text, millis) in [
            ("30d", 2_592_000_000),
            ("1d 12h", 129_600_000),
            ("2w", 1_209_600_000),
            ("250ms", 250),
            ("0s", 0),
            ("10 s", 10_000),
        ] {
            assert_eq!(parse_span(text), Ok(Span::from_millis(millis)), "{text}");
        }
        for (text, says) in [
            ("30", "no unit"),
            ("1.5", "no unit"),
            ("1M", "no fixed length"),
            ("1year", "no fixed length"),
            ("soon", "no length of time"),
            ("-3d", "no length of time"),
            ("", "no length of time"),
            ("3us", "finer than a millisecond"),
            ("9999999999999d", "too long"),
        ] {
            let error = parse_span(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_itself() {
        for millis in [0, 1, 999, 1000, 90_061_001, 1_209_600_000] {
            let span = Span::from_millis(millis);
            assert_eq!(parse_span(&show_span(span)), Ok(span));
        }
        for bytes in [0, 1, 1023, 1024, 1 << 20, 256 << 20, 3 << 30, (1 << 30) + 1] {
            assert_eq!(parse_size(&show_size(bytes)), Ok(bytes), "{}", show_size(bytes));
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal_as_written() {
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("1MB"), Ok(1_000_000));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("big").is_err());
    }
}
