//! The table of cohorts, as a terminal shows it.

use std::fmt::Write as _;

use crate::lifecycle::State;
use crate::retention::Matrix;
use crate::shard::Cohorts;

/// Width of the longest bar, in characters.
const BAR: u64 = 30;

/// The sizes by state, apart for users who never activated, with each state's share of those who ever were active.
/// Every line ends in a line feed; the number of lines is always the same.
#[must_use]
pub fn cohorts(sizes: &Cohorts) -> String {
    let total = (sizes.total() - sizes.without_life()).max(1);
    let mut text =
        format!("{:<10}{:>12}{:>17}{:>12}{:>8}\n", "state", "activated", "never activated", "users", "share");
    for state in State::ALL {
        let (activated, never) = (sizes.size(state, true), sizes.size(state, false));
        let users = activated + never;
        let tenths = users * 1000 / total;
        let bar = usize::try_from((users * BAR).div_ceil(total)).unwrap_or(0);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<10}{:>12}{:>17}{:>12}{:>5}.{}%  {}",
            state.as_str(),
            grouped(activated),
            grouped(never),
            grouped(users),
            tenths / 10,
            tenths % 10,
            "█".repeat(bar)
        );
    }
    let _ = writeln!(text, "{:<10}{:>41}", "not yet", grouped(sizes.without_life()));
    text
}

/// A retention report: a row a cohort, the share retained in each period in percent, `*` where it can still grow. Of long
/// reports the latest cohorts and the first periods.
#[must_use]
pub fn retention(matrix: &Matrix) -> String {
    const ROWS: usize = 16;
    const COLUMNS: usize = 13;
    let mut text = format!("retention {}, by {}, percent\n{:<12}{:>9}", matrix.name, matrix.period, "cohort", "size");
    let columns = (usize::from(matrix.count) + 1).min(COLUMNS);
    for k in 0..columns {
        let _ = write!(text, "{k:>6}");
    }
    text.push('\n');
    for row in &matrix.cohorts[matrix.cohorts.len().saturating_sub(ROWS)..] {
        let _ = write!(text, "{:<12}{:>9}", row.cohort, grouped(row.size));
        for (k, retained) in row.retained.iter().take(columns).enumerate() {
            let tenths = retained * 1000 / row.size.max(1);
            let open = if k < usize::from(row.complete) { ' ' } else { '*' };
            let _ = write!(text, "{:>3}.{}{open}", tenths / 10, tenths % 10);
        }
        text.push('\n');
    }
    text
}

/// The sizes of the segments by name; nothing where there are none.
#[must_use]
pub fn segments(sizes: &[(String, u64)]) -> String {
    let width = sizes.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(10);
    let mut text = if sizes.is_empty() { String::new() } else { format!("\n{:<width$}{:>12}\n", "segment", "users") };
    for (name, users) in sizes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<width$}{:>12}", grouped(*users));
    }
    text
}

/// A number with thousands apart: `18,665`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (18_665, "18,665"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn nobody_at_all_is_no_division_by_zero() {
        assert_eq!(cohorts(&Cohorts::default()).lines().count(), 6);
    }
}
