//! A user's days, packed: most hold a handful of events or none.
//!
//! | part | |
//! |------|-|
//! | last day, if it is not that of the last activity | days from there |
//! | counts | their number, then half a byte each, the lower half first: 1 to 14 is the count; 0 begins a run of empty days, and the next half is its length less one; 15 is a count that follows |
//! | counts of 15 and more | less 15, one number each |
//! | active days | as a mask: what differs from the days that have counts, those beyond the counts in the lowest bits |
//! | number of active days | |

use crate::lifecycle::activity::{Activity, MAX_BUCKETS};
use crate::store::StoreError;
use crate::store::bytes::{Reader, put_i64, put_u64};
use crate::time::Day;

const HALF: u8 = 4;
const LOWER: u8 = 0x0f;
/// The half that stands for a count of so many or more.
const LARGE: u8 = 15;
/// The longest run of empty days.
const RUN_MAX: usize = 16;

pub(super) fn encode(activity: &Activity, last_active: Day, out: &mut Vec<u8>) {
    let Activity { last_day, buckets, active_mask, active_days } = activity;
    if *last_day != last_active {
        put_i64(out, i64::from(last_day.number()) - i64::from(last_active.number()));
    }
    assert!(buckets.len() <= MAX_BUCKETS, "a user keeps at most {MAX_BUCKETS} days");
    put_u64(out, buckets.len() as u64);
    encode_counts(buckets, out);
    for count in buckets {
        if let Some(more) = count.checked_sub(u32::from(LARGE)) {
            put_u64(out, u64::from(more));
        }
    }
    put_u64(out, (active_mask ^ mask_of(buckets)).rotate_right(beyond(buckets)));
    put_u64(out, u64::from(*active_days));
}

pub(super) fn decode(from: &mut Reader<'_>, last_active: Day, is_other_day: bool) -> Result<Activity, StoreError> {
    let last_day = if is_other_day { decode_last_day(from, last_active)? } else { last_active };
    let count = decode_len(from)?;
    let mut buckets = decode_counts(from, count)?;
    for large in buckets.iter_mut().filter(|count| **count == u32::from(LARGE)) {
        *large = from.u32()?.checked_add(*large).ok_or_else(|| from.damaged("a number is too large"))?;
    }
    let active_mask = from.u64()?.rotate_left(beyond(&buckets)) ^ mask_of(&buckets);
    Ok(Activity { last_day, buckets, active_mask, active_days: from.u32()? })
}

/// Versions 1 and 2: a number for each count, and after a zero how many more follow; the mask as it is.
pub(super) fn decode_in_full(from: &mut Reader<'_>, last_active: Day) -> Result<Activity, StoreError> {
    let last_day = decode_last_day(from, last_active)?;
    let count = decode_len(from)?;
    let mut buckets = Vec::with_capacity(count);
    while buckets.len() < count {
        let value = from.u32()?;
        let more = if value == 0 { usize::try_from(from.u64()?).unwrap_or(usize::MAX) } else { 0 };
        if more >= count - buckets.len() {
            return Err(from.damaged("a run of days is too long"));
        }
        buckets.resize(buckets.len() + 1 + more, value);
    }
    Ok(Activity { last_day, buckets, active_mask: from.u64()?, active_days: from.u32()? })
}

fn decode_last_day(from: &mut Reader<'_>, last_active: Day) -> Result<Day, StoreError> {
    let number = i64::from(last_active.number()).checked_add(from.i64()?).and_then(|day| i32::try_from(day).ok());
    number.map(Day::from_number).ok_or_else(|| from.damaged("a day is out of range"))
}

fn decode_len(from: &mut Reader<'_>) -> Result<usize, StoreError> {
    let count = usize::try_from(from.u64()?).unwrap_or(usize::MAX);
    if count > MAX_BUCKETS {
        return Err(from.damaged("it has too many days"));
    }
    Ok(count)
}

fn encode_counts(buckets: &[u32], out: &mut Vec<u8>) {
    let mut lower = None;
    let mut push = |half: u8| match lower.take() {
        None => lower = Some(half),
        Some(first) => out.push(first | half << HALF),
    };
    let mut rest = buckets;
    while let Some((&count, tail)) = rest.split_first() {
        push(u8::try_from(count).map_or(LARGE, |count| count.min(LARGE)));
        rest = tail;
        if count == 0 {
            let more = tail.iter().take(RUN_MAX - 1).take_while(|&&count| count == 0).count();
            push(u8::try_from(more).unwrap_or(LOWER));
            rest = &tail[more..];
        }
    }
    out.extend(lower);
}

fn decode_counts(from: &mut Reader<'_>, count: usize) -> Result<Vec<u32>, StoreError> {
    let mut buckets = Vec::with_capacity(count);
    let mut upper = None;
    let mut half = |from: &mut Reader<'_>| -> Result<u8, StoreError> {
        if let Some(half) = upper.take() {
            return Ok(half);
        }
        let byte = from.byte()?;
        upper = Some(byte >> HALF);
        Ok(byte & LOWER)
    };
    while buckets.len() < count {
        let value = half(from)?;
        let more = if value == 0 { usize::from(half(from)?) } else { 0 };
        if more >= count - buckets.len() {
            return Err(from.damaged("a run of days is too long"));
        }
        buckets.resize(buckets.len() + 1 + more, u32::from(value));
    }
    if upper.is_some_and(|half| half != 0) {
        return Err(from.damaged("half a day too many"));
    }
    Ok(buckets)
}

/// The days that have a count, as far as the mask reaches.
fn mask_of(buckets: &[u32]) -> u64 {
    buckets.iter().take(64).rev().fold(0, |mask, count| mask << 1 | u64::from(*count > 0))
}

/// The first bit of the mask that no count tells.
fn beyond(buckets: &[u32]) -> u32 {
    u32::try_from(buckets.len()).unwrap_or(u32::MAX) % u64::BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(buckets: Vec<u32>, active_mask: u64) -> usize {
        let activity = Activity { last_day: Day::from_number(9), buckets, active_mask, active_days: 3 };
        let mut bytes = Vec::new();
        encode(&activity, Day::from_number(9), &mut bytes);
        let mut from = Reader::new(&bytes, "days");
        assert_eq!(decode(&mut from, Day::from_number(9), false).expect("what is written reads"), activity);
        from.end().expect("all is read");
        bytes.len()
    }

    #[test]
    fn ordinary_days_take_half_a_byte() {
        // Beside the counts: their number, mask, active days.
        assert_eq!(size(vec![], 0), 3);
        assert_eq!(size(vec![14; 57], (1 << 57) - 1), 3 + 29);
        assert_eq!(size(vec![14; 57], u64::MAX), 3 + 29, "seven days beyond the counts");
        assert_eq!(size(vec![3, 0, 0, 0, 1], 0b10001), 3 + 2);
        assert_eq!(size([vec![3], vec![0; 40], vec![1]].concat(), 1 << 41 | 1), 3 + 4);
        assert_eq!(size(vec![15, 142, 1], 0b111), 3 + 2 + 2);
        assert_eq!(size(vec![u32::MAX; MAX_BUCKETS], u64::MAX), 3 + 61 + 5 * MAX_BUCKETS);
    }
}
