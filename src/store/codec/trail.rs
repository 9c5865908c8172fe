//! The newer parts of a user, from version 2 on: the standing in the segments, and the trail of the measurement.

use crate::lifecycle::State;
use crate::retention::{COUNT_MAX, Mark, Marks, REPORTS_MAX};
use crate::segment::{Members, SEGMENTS_MAX, Standing};
use crate::store::StoreError;
use crate::store::bytes::{Reader, put_before, put_text, put_u64};
use crate::time::EventTime;
use crate::win_back::{Comeback, Entry, Trail};

const HAS_COMEBACK: u8 = 1;
const HAS_ENTRIES: u8 = 1 << 1;
const HAS_MARKS: u8 = 1 << 2;
const KNOWN: u8 = HAS_COMEBACK | HAS_ENTRIES | HAS_MARKS;

const IS_SETTLED: u64 = 1;
const HAS_START: u64 = 1 << 1;
const MARK_BITS: u32 = 2;

const IS_ATTRIBUTED: u8 = 1;
const HAS_FIRST_CORE: u8 = 1 << 1;
const HAS_SECOND_CORE: u8 = 1 << 2;

const IS_HELD_OUT: u64 = 1;
const HAS_RETURNED: u64 = 1 << 1;
const ENTRY_BITS: u32 = 2;

/// Times are distances from `base`, the last activity.
pub(super) fn encode_standing(standing: &Standing, base: EventTime, out: &mut Vec<u8>) {
    let Standing { members, as_of, seq } = standing;
    put_u64(out, members.bits());
    put_before(out, base, *as_of);
    put_u64(out, *seq);
}

pub(super) fn decode_standing(from: &mut Reader<'_>, base: EventTime) -> Result<Standing, StoreError> {
    Ok(Standing { members: Members::from_bits(from.u64()?), as_of: from.before(base)?, seq: from.u64()? })
}

pub(super) fn encode_trail(trail: &Trail, marks: &Marks, base: EventTime, out: &mut Vec<u8>) {
    let Trail { comeback, entries } = trail;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.push(
        flag(comeback.is_some(), HAS_COMEBACK)
            | flag(!entries.is_empty(), HAS_ENTRIES)
            | flag(!marks.is_empty(), HAS_MARKS),
    );
    if let Some(comeback) = comeback {
        encode_comeback(comeback, base, out);
    }
    if !entries.is_empty() {
        assert!(entries.len() <= SEGMENTS_MAX, "a user has at most one entry a segment");
        put_u64(out, entries.len() as u64);
        for Entry { segment, at, held_out, returned } in entries {
            let bits = if *held_out { IS_HELD_OUT } else { 0 } | if *returned { HAS_RETURNED } else { 0 };
            put_u64(out, u64::from(*segment) << ENTRY_BITS | bits);
            put_before(out, *at, base);
        }
    }
    if !marks.is_empty() {
        assert!(marks.parts().len() <= REPORTS_MAX, "a user has at most one mark a report");
        put_u64(out, marks.parts().len() as u64);
        for (number, mark) in marks.parts() {
            put_u64(out, u64::from(*number));
            encode_mark(mark, base, out);
        }
    }
}

/// The returns are distances from the one before, so that they are small.
fn encode_mark(mark: &Mark, base: EventTime, out: &mut Vec<u8>) {
    let Mark { start, periods, returns, settled } = mark;
    assert!(returns.len() <= Mark::returns_max(COUNT_MAX), "returns are thinned");
    let flags = if *settled { IS_SETTLED } else { 0 } | if start.is_some() { HAS_START } else { 0 };
    put_u64(out, (returns.len() as u64) << MARK_BITS | flags);
    if let Some(start) = start {
        put_before(out, base, *start);
        put_u64(out, *periods);
    }
    let mut before = base;
    for at in returns {
        put_before(out, *at, before);
        before = *at;
    }
}

fn decode_mark(from: &mut Reader<'_>, base: EventTime) -> Result<Mark, StoreError> {
    let head = from.u64()?;
    let count = usize::try_from(head >> MARK_BITS).unwrap_or(usize::MAX);
    if count > Mark::returns_max(COUNT_MAX) {
        return Err(from.damaged("it has too many returns"));
    }
    let (mut start, mut periods) = (None, 0);
    if head & HAS_START != 0 {
        start = Some(from.before(base)?);
        periods = from.u64()?;
    }
    let mut returns = Vec::with_capacity(count);
    let mut before = base;
    for _ in 0..count {
        before = after(from, before)?;
        returns.push(before);
    }
    if !returns.is_sorted_by(|a, b| a < b) {
        return Err(from.damaged("its returns are out of order"));
    }
    Ok(Mark { start, periods, returns, settled: head & IS_SETTLED != 0 })
}

pub(super) fn decode_trail(from: &mut Reader<'_>, base: EventTime) -> Result<(Trail, Marks), StoreError> {
    let flags = from.byte()?;
    if flags == 0 || flags & !KNOWN != 0 {
        return Err(from.damaged("its trail has impossible flags"));
    }
    let comeback = if flags & HAS_COMEBACK == 0 { None } else { Some(decode_comeback(from, base)?) };
    let mut entries = Vec::new();
    if flags & HAS_ENTRIES != 0 {
        let count = from.count()?;
        if !(1..=SEGMENTS_MAX).contains(&count) {
            return Err(from.damaged("it has an impossible number of entries"));
        }
        entries.reserve_exact(count);
        for _ in 0..count {
            let head = from.u64()?;
            let segment = u8::try_from(head >> ENTRY_BITS).ok().filter(|segment| usize::from(*segment) < SEGMENTS_MAX);
            let segment = segment.ok_or_else(|| from.damaged("it has entered a segment that cannot be"))?;
            let at = after(from, base)?;
            entries.push(Entry { segment, at, held_out: head & IS_HELD_OUT != 0, returned: head & HAS_RETURNED != 0 });
        }
        if !entries.is_sorted_by(|a, b| a.segment < b.segment) {
            return Err(from.damaged("its entries are out of order"));
        }
    }
    let mut marks = Vec::new();
    if flags & HAS_MARKS != 0 {
        let count = from.count()?;
        if !(1..=REPORTS_MAX).contains(&count) {
            return Err(from.damaged("it has an impossible number of marks"));
        }
        for _ in 0..count {
            marks.push((from.u32()?, decode_mark(from, base)?));
        }
    }
    Ok((Trail { comeback, entries }, Marks::from_parts(marks)))
}

fn encode_comeback(comeback: &Comeback, base: EventTime, out: &mut Vec<u8>) {
    let Comeback { at, seq, away_from, away_since, campaign, active_days, core_actions } = comeback;
    let (first, second) = *core_actions;
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    assert!(first.is_some() || second.is_none(), "there is no second core action without a first");
    out.push(
        flag(campaign.is_some(), IS_ATTRIBUTED)
            | flag(first.is_some(), HAS_FIRST_CORE)
            | flag(second.is_some(), HAS_SECOND_CORE)
            | (*away_from as u8) << 3,
    );
    put_before(out, base, *at);
    put_u64(out, *seq);
    put_before(out, *at, *away_since);
    put_u64(out, u64::from(*active_days));
    if let Some(campaign) = campaign {
        put_text(out, campaign);
    }
    for time in [first, second].into_iter().flatten() {
        put_before(out, time, *at);
    }
}

fn decode_comeback(from: &mut Reader<'_>, base: EventTime) -> Result<Comeback, StoreError> {
    let head = from.byte()?;
    let Some(&away_from) = State::ALL.get(usize::from(head >> 3)) else {
        return Err(from.damaged("it was away in an unknown state"));
    };
    if head & HAS_SECOND_CORE != 0 && head & HAS_FIRST_CORE == 0 {
        return Err(from.damaged("it has a second core action without a first"));
    }
    let at = from.before(base)?;
    let (seq, away_since, active_days) = (from.u64()?, from.before(at)?, from.u32()?);
    let campaign = if head & IS_ATTRIBUTED == 0 { None } else { Some(from.text()?.into()) };
    let first = if head & HAS_FIRST_CORE == 0 { None } else { Some(after(from, at)?) };
    let second = if head & HAS_SECOND_CORE == 0 { None } else { Some(after(from, at)?) };
    Ok(Comeback { at, seq, away_from, away_since, campaign, active_days, core_actions: (first, second) })
}

/// What `put_before(time, base)` wrote: small when `time` is a little after `base`.
fn after(from: &mut Reader<'_>, base: EventTime) -> Result<EventTime, StoreError> {
    Ok(EventTime::from_millis(base.as_millis().wrapping_add(from.i64()?)))
}
