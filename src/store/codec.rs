//! The persisted user: compact, versioned, and identical in RocksDB and the changelog.
//!
//! Version 3. Version 2 has names and days in full, version 1 the last two rows not either; both still read. All numbers are
//! LEB128 varints, signed ones zigzag; times are distances from the last activity:
//!
//! | part | bytes |
//! |------|-------|
//! | version, flags | 2 |
//! | armed deadline, if any (first, so that [`armed`] need not read the rest) | 6 |
//! | generation, seq | 2 |
//! | ids, if any: their number, then 5 bytes each | 1 + 5n |
//! | properties, if any: their number, then index and text | |
//! | life, if any: state and reason (1 byte), times (since when in days where these are whole), totals, names, days | about 45 |
//! | standing in the segments, if any: members, as of when, number | 3 |
//! | trail, if any: the latest return, the latest entries, the marks of retention reports | |
//!
//! A name is its place in the shard's list of names, or its text where it is not listed; of days see `days`. Reading takes
//! every byte or says [`StoreError::Damaged`]: torn values never pass.

use crate::lifecycle::user::{LAST_EVENTS, Life, RECENT_IDS, User};
use crate::lifecycle::{Name, Names, Reason, State};
use crate::person::Person;
use crate::retention::Marks;
use crate::segment::Standing;
use crate::store::StoreError;
use crate::store::bytes::{Reader, put_before, put_i64, put_text, put_u64};
use crate::time::{DAY_MS, EventTime};
use crate::win_back::Trail;

mod days;
mod trail;

const VERSION: u8 = 3;
/// Until here names refer to each other and not to the shard's list, and each day takes a number.
const UNPACKED: u8 = 2;
const WHAT: &str = "a user";
const ID_LEN: usize = 5;

const HAS_LIFE: u8 = 1;
const HAS_ARMED: u8 = 1 << 1;
const HAS_IDS: u8 = 1 << 2;
const HAS_PROPERTIES: u8 = 1 << 3;
const HAS_ACTIVATED: u8 = 1 << 4;
const HAS_ABSENCE: u8 = 1 << 5;
const HAS_STANDING: u8 = 1 << 6;
const HAS_TRAIL: u8 = 1 << 7;
/// Beside state and reason: a time in days after the last activity, and not in milliseconds.
const SINCE_IN_DAYS: u8 = 1 << 5;
const ABSENT_IN_DAYS: u8 = 1 << 6;
/// Beside them: the latest day is not that of the last activity.
const OTHER_DAY: u8 = 1 << 7;
/// What version 1 does not have.
const NEW_FLAGS: u8 = HAS_STANDING | HAS_TRAIL;

/// Appends a user.
///
/// # Panics
/// If the user breaks a bound of its own type (ids, names, day buckets): it must not reach the disk.
pub fn encode_user(person: &Person, out: &mut Vec<u8>) {
    let Person { user, standing, trail, marks } = person;
    let User { seq, life, recent_ids, properties, generation, armed } = user;
    out.push(VERSION);
    out.push(
        flag(life.is_some(), HAS_LIFE)
            | flag(armed.is_some(), HAS_ARMED)
            | flag(!recent_ids.is_empty(), HAS_IDS)
            | flag(!properties.is_empty(), HAS_PROPERTIES)
            | flag(life.as_ref().is_some_and(|life| life.activated_at.is_some()), HAS_ACTIVATED)
            | flag(life.as_ref().is_some_and(|life| life.absent_since.is_some()), HAS_ABSENCE)
            | flag(*standing != Standing::default(), HAS_STANDING)
            | flag(!trail.is_empty() || !marks.is_empty(), HAS_TRAIL),
    );
    if let Some(armed) = armed {
        put_i64(out, armed.as_millis());
    }
    put_u64(out, u64::from(*generation));
    put_u64(out, *seq);
    if !recent_ids.is_empty() {
        assert!(recent_ids.len() <= RECENT_IDS, "a user keeps at most {RECENT_IDS} ids");
        put_u64(out, recent_ids.len() as u64);
        for id in recent_ids {
            assert!(id >> (8 * ID_LEN) == 0, "an id's hash has 40 bits");
            out.extend_from_slice(&id.to_le_bytes()[..ID_LEN]);
        }
    }
    if !properties.is_empty() {
        put_u64(out, properties.len() as u64);
        for (index, value) in properties {
            put_u64(out, u64::from(*index));
            put_text(out, value);
        }
    }
    if let Some(life) = life {
        encode_life(life, out);
    }
    let base = base(user);
    if *standing != Standing::default() {
        trail::encode_standing(standing, base, out);
    }
    if !trail.is_empty() || !marks.is_empty() {
        trail::encode_trail(trail, marks, base, out);
    }
}

/// Reads a user back; `names` are those of its shard.
///
/// # Errors
/// [`StoreError::UnknownVersion`], or [`StoreError::Damaged`] for anything that [`encode_user`] does not write.
pub fn decode_user(bytes: &[u8], names: &Names) -> Result<Person, StoreError> {
    decode(bytes, names, |place| names.get(place).cloned())
}

/// Reads a user whose shard's names are not known yet, and forgets it: for what a restore writes to the disk. Gives the
/// armed deadline.
///
/// # Errors
/// As [`decode_user`]; places of names may be any.
pub fn check_user(bytes: &[u8]) -> Result<Option<EventTime>, StoreError> {
    let any = Name::from("");
    Ok(decode(bytes, &Names::default(), |_| Some(any.clone()))?.user.armed)
}

fn decode(bytes: &[u8], names: &Names, listed: impl Fn(usize) -> Option<Name>) -> Result<Person, StoreError> {
    let mut from = Reader::new(bytes, WHAT);
    let Head { version, flags, armed } = decode_head(&mut from)?;
    let generation = from.u32()?;
    let seq = from.u64()?;
    let mut recent_ids = Vec::new();
    if flags & HAS_IDS != 0 {
        let count = from.count()?;
        if count > RECENT_IDS {
            return Err(from.damaged("it has too many ids"));
        }
        recent_ids.reserve_exact(RECENT_IDS);
        for id in from.take(count * ID_LEN)?.chunks_exact(ID_LEN) {
            let mut wide = [0; 8];
            wide[..ID_LEN].copy_from_slice(id);
            recent_ids.push(u64::from_le_bytes(wide));
        }
    }
    let mut properties = Vec::new();
    if flags & HAS_PROPERTIES != 0 {
        let count = from.count()?;
        properties.reserve_exact(count);
        for _ in 0..count {
            properties.push((from.u16()?, from.text()?.into()));
        }
    }
    let life = if flags & HAS_LIFE == 0 {
        None
    } else {
        Some(decode_life(&mut from, version, flags, |from| decode_names(from, version, names, listed))?)
    };
    let user = User { seq, life, recent_ids, properties, generation, armed };
    let base = base(&user);
    let mut standing = Standing::default();
    if flags & HAS_STANDING != 0 {
        standing = trail::decode_standing(&mut from, base)?;
    }
    let (mut trail, mut marks) = (Trail::default(), Marks::default());
    if flags & HAS_TRAIL != 0 {
        (trail, marks) = trail::decode_trail(&mut from, base)?;
    }
    from.end()?;
    Ok(Person { user, standing, trail, marks })
}

const fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

/// What the times of the standing and of the trail are distances from.
fn base(user: &User) -> EventTime {
    user.life.as_ref().map_or(EventTime::default(), |life| life.last_active)
}

/// The armed deadline of an encoded user.
///
/// # Errors
/// As [`decode_user`], for what has to be read.
pub fn armed(bytes: &[u8]) -> Result<Option<EventTime>, StoreError> {
    Ok(decode_head(&mut Reader::new(bytes, WHAT))?.armed)
}

struct Head {
    version: u8,
    flags: u8,
    armed: Option<EventTime>,
}

fn decode_head(from: &mut Reader<'_>) -> Result<Head, StoreError> {
    let version = from.version_up_to(VERSION)?;
    let flags = from.byte()?;
    if (version == 1 && flags & NEW_FLAGS != 0) || (flags & HAS_LIFE == 0 && flags & (HAS_ACTIVATED | HAS_ABSENCE) != 0)
    {
        return Err(from.damaged("it has impossible flags"));
    }
    let armed = if flags & HAS_ARMED == 0 { None } else { Some(EventTime::from_millis(from.i64()?)) };
    Ok(Head { version, flags, armed })
}

fn encode_life(life: &Life, out: &mut Vec<u8>) {
    let Life {
        state,
        since,
        reason,
        first_active,
        last_active,
        activated_at,
        absent_since,
        total_events,
        core_actions,
        last_events,
        activity,
    } = life;
    let since_days = whole_days(*since, *last_active);
    let absent_days = absent_since.and_then(|at| whole_days(at, *last_active));
    // Two bits and three: `State` and `Reason` have frozen numbers.
    out.push(
        *state as u8
            | (*reason as u8) << 2
            | flag(since_days.is_some(), SINCE_IN_DAYS)
            | flag(absent_days.is_some(), ABSENT_IN_DAYS)
            | flag(activity.last_day != last_active.day(), OTHER_DAY),
    );
    put_i64(out, last_active.as_millis());
    match since_days {
        Some(days) => put_i64(out, days),
        None => put_before(out, *last_active, *since),
    }
    put_before(out, *last_active, *first_active);
    if let Some(at) = activated_at {
        put_before(out, *at, *first_active);
    }
    match (absent_days, absent_since) {
        (Some(days), _) => put_i64(out, days),
        (None, Some(at)) => put_before(out, *at, *last_active),
        (None, None) => {}
    }
    put_u64(out, *total_events);
    put_u64(out, *core_actions);
    encode_names(last_events, out);
    days::encode(activity, last_active.day(), out);
}

fn decode_life<'a>(
    from: &mut Reader<'a>,
    version: u8,
    flags: u8,
    names: impl FnOnce(&mut Reader<'a>) -> Result<Vec<Name>, StoreError>,
) -> Result<Life, StoreError> {
    let judged = from.byte()?;
    let packed = if version <= UNPACKED { 0 } else { judged & (SINCE_IN_DAYS | ABSENT_IN_DAYS | OTHER_DAY) };
    let state = State::ALL[usize::from(judged & 3)];
    let Some(&reason) = Reason::ALL.get(usize::from((judged & !packed) >> 2)) else {
        return Err(from.damaged("it has an unknown reason"));
    };
    let last_active = EventTime::from_millis(from.i64()?);
    let since = if packed & SINCE_IN_DAYS == 0 { from.before(last_active)? } else { days_after(from, last_active)? };
    let first_active = from.before(last_active)?;
    let after = |from: &mut Reader<'a>, base: EventTime| -> Result<EventTime, StoreError> {
        Ok(EventTime::from_millis(base.as_millis().wrapping_add(from.i64()?)))
    };
    let activated_at = if flags & HAS_ACTIVATED == 0 { None } else { Some(after(from, first_active)?) };
    let absent_since = match (flags & HAS_ABSENCE, packed & ABSENT_IN_DAYS) {
        (0, 0) => None,
        (0, _) => return Err(from.damaged("it has impossible flags")),
        (_, 0) => Some(after(from, last_active)?),
        _ => Some(days_after(from, last_active)?),
    };
    Ok(Life {
        state,
        since,
        reason,
        first_active,
        last_active,
        activated_at,
        absent_since,
        total_events: from.u64()?,
        core_actions: from.u64()?,
        last_events: names(from)?,
        activity: if version <= UNPACKED {
            days::decode_in_full(from, last_active.day())?
        } else {
            days::decode(from, last_active.day(), packed & OTHER_DAY != 0)?
        },
    })
}

/// How many days `at` is after `base`, if these are whole days: silence is measured in days.
fn whole_days(at: EventTime, base: EventTime) -> Option<i64> {
    let millis = at.as_millis().checked_sub(base.as_millis())?;
    (millis % DAY_MS == 0).then_some(millis / DAY_MS)
}

fn days_after(from: &mut Reader<'_>, base: EventTime) -> Result<EventTime, StoreError> {
    let at = from.i64()?.checked_mul(DAY_MS).and_then(|millis| millis.checked_add(base.as_millis()));
    at.map(EventTime::from_millis).ok_or_else(|| from.damaged("a day is out of range"))
}

/// Each name is `place << 1 | 1` in the shard's list, or `len << 1` and its text.
fn encode_names(names: &[Name], out: &mut Vec<u8>) {
    assert!(names.len() <= LAST_EVENTS, "a user keeps at most {LAST_EVENTS} names");
    put_u64(out, names.len() as u64);
    for name in names {
        if let Some(place) = name.place() {
            put_u64(out, u64::from(place) << 1 | 1);
        } else {
            put_u64(out, (name.len() as u64) << 1);
            out.extend_from_slice(name.as_bytes());
        }
    }
}

/// In older versions a place is that of the same name earlier among the user's own.
fn decode_names(
    from: &mut Reader<'_>,
    version: u8,
    listed_names: &Names,
    listed: impl Fn(usize) -> Option<Name>,
) -> Result<Vec<Name>, StoreError> {
    let count = from.count()?;
    if count > LAST_EVENTS {
        return Err(from.damaged("it has too many names"));
    }
    let mut names: Vec<Name> = Vec::with_capacity(count);
    for _ in 0..count {
        let head = from.u64()?;
        let size = usize::try_from(head >> 1).unwrap_or(usize::MAX);
        let name = if head & 1 == 0 {
            let text = from.text_of(size)?;
            Some(listed_names.find(text).cloned().unwrap_or_else(|| Name::from(text)))
        } else if version <= UNPACKED {
            names.get(size).cloned()
        } else {
            listed(size)
        };
        names.push(name.ok_or_else(|| from.damaged("a name refers to nothing"))?);
    }
    Ok(names)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::lifecycle::activity::{Activity, MAX_BUCKETS};
    use crate::retention::Mark;
    use crate::segment::Members;
    use crate::time::Day;
    use crate::win_back::{Comeback, Entry};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn time() -> impl Strategy<Value = EventTime> {
        prop_oneof![any::<i64>(), 800_000_000_000_i64..1_800_000_000_000].prop_map(EventTime::from_millis)
    }

    /// Where one name is listed.
    fn names() -> Names {
        let mut names = Names::default();
        assert!(names.list("opened"));
        names
    }

    fn named(text: &str) -> Name {
        names().find(text).cloned().unwrap_or_else(|| text.into())
    }

    fn lives() -> impl Strategy<Value = Life> {
        let judged = (0..State::ALL.len(), 0..Reason::ALL.len());
        let times = (time(), time(), time(), option::of(time()), option::of(time()));
        let names = vec(prop_oneof![Just("opened".to_owned()), "\\PC{0,9}"], 0..=LAST_EVENTS);
        let days = (
            any::<i32>(),
            vec(prop_oneof![0..3_u32, 0..20_u32, any::<u32>()], 0..=MAX_BUCKETS),
            any::<u64>(),
            any::<u32>(),
        );
        (judged, times, any::<[u64; 2]>(), names, days).prop_map(|(judged, times, totals, names, days)| Life {
            state: State::ALL[judged.0],
            reason: Reason::ALL[judged.1],
            since: times.0,
            first_active: times.1,
            last_active: times.2,
            activated_at: times.3,
            absent_since: times.4,
            total_events: totals[0],
            core_actions: totals[1],
            last_events: names.iter().map(|text| named(text)).collect(),
            activity: Activity {
                last_day: Day::from_number(days.0),
                buckets: days.1,
                active_mask: days.2,
                active_days: days.3,
            },
        })
    }

    fn lifecycles() -> impl Strategy<Value = User> {
        let ids = vec(0..1_u64 << 40, 0..=RECENT_IDS);
        let properties = vec((any::<u16>(), "\\PC{0,12}"), 0..4);
        (any::<u64>(), option::of(lives()), ids, properties, any::<u32>(), option::of(time())).prop_map(
            |(seq, life, recent_ids, properties, generation, armed)| User {
                seq,
                life,
                recent_ids,
                properties: properties.into_iter().map(|(index, text)| (index, text.into())).collect(),
                generation,
                armed,
            },
        )
    }

    fn comebacks() -> impl Strategy<Value = Comeback> {
        let times = (time(), time(), option::of((time(), option::of(time()))));
        let rest = (any::<u64>(), 0..State::ALL.len(), option::of("\\PC{0,9}"), any::<u32>());
        (times, rest).prop_map(|((at, away_since, core), (seq, state, campaign, active_days))| Comeback {
            at,
            seq,
            away_from: State::ALL[state],
            away_since,
            campaign: campaign.map(Into::into),
            active_days,
            core_actions: (core.map(|(first, _)| first), core.and_then(|(_, second)| second)),
        })
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let one = (time(), any::<bool>(), any::<bool>());
        proptest::collection::btree_map(0..64_u8, one, 0..5).prop_map(|entries| {
            let entry = |(segment, (at, held_out, returned))| Entry { segment, at, held_out, returned };
            entries.into_iter().map(entry).collect()
        })
    }

    fn marks() -> impl Strategy<Value = Marks> {
        let returns = proptest::collection::btree_set(-1_000_000_000_000_i64..1_000_000_000_000, 0..9);
        let start = (option::of(time()), any::<u64>());
        let one =
            (any::<u32>(), start, returns, any::<bool>()).prop_map(|(number, (start, periods), returns, settled)| {
                let returns = returns.into_iter().map(EventTime::from_millis).collect();
                (number, Mark { start, periods: start.map_or(0, |_| periods), returns, settled })
            });
        vec(one, 0..4).prop_map(Marks::from_parts)
    }

    /// Any user that the types allow.
    pub(crate) fn users() -> impl Strategy<Value = Person> {
        let standing = (any::<u64>(), time(), any::<u64>());
        let standing =
            standing.prop_map(|(bits, as_of, seq)| Standing { members: Members::from_bits(bits), as_of, seq });
        let trail = (option::of(comebacks()), entries()).prop_map(|(comeback, entries)| Trail { comeback, entries });
        (lifecycles(), prop_oneof![Just(Standing::default()), standing], trail, marks())
            .prop_map(|(user, standing, trail, marks)| Person { user, standing, trail, marks })
    }

    fn encoded(user: &Person) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_user(user, &mut bytes);
        bytes
    }

    proptest! {
        #[test]
        fn decode_of_encode_is_identity(user in users()) {
            let bytes = encoded(&user);
            prop_assert_eq!(armed(&bytes).expect("what is written reads"), user.user.armed);
            prop_assert_eq!(check_user(&bytes).expect("what is written reads"), user.user.armed);
            prop_assert_eq!(decode_user(&bytes, &names()).expect("what is written reads"), user);
        }

        #[test]
        fn torn_bytes_are_damaged(user in users(), more in 1..9_usize) {
            let bytes = encoded(&user);
            for len in 0..bytes.len() {
                let torn = matches!(decode_user(&bytes[..len], &names()), Err(StoreError::Damaged { .. }));
                prop_assert!(torn, "{len} bytes pass");
            }
            let longer = [&bytes[..], &vec![0; more][..]].concat();
            prop_assert!(matches!(decode_user(&longer, &names()), Err(StoreError::Damaged { .. })), "a longer value");
        }

        #[test]
        fn any_bytes_are_refused_or_read(mut bytes in vec(any::<u8>(), 0..200)) {
            let _ = decode_user(&bytes, &names()).is_ok();
            if let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            let _ = decode_user(&bytes, &names()).is_ok();
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let mut bytes = encoded(&Person::default());
        bytes[0] = 4;
        assert!(matches!(decode_user(&bytes, &names()), Err(StoreError::UnknownVersion { version: 4, known: 3, .. })));
    }

    fn frozen_life() -> Life {
        let at = EventTime::from_millis(1_700_000_000_000);
        Life {
            state: State::AtRisk,
            since: at + crate::time::Span::from_days(1),
            reason: Reason::Declining,
            first_active: at,
            last_active: at,
            activated_at: Some(at),
            absent_since: None,
            total_events: 5,
            core_actions: 2,
            last_events: vec!["a".into(), "b".into(), "a".into()],
            activity: Activity { last_day: at.day(), buckets: vec![2, 0, 0, 3], active_mask: 9, active_days: 2 },
        }
    }

    fn frozen_user() -> User {
        let at = EventTime::from_millis(1_700_000_000_000);
        User {
            seq: 3,
            life: Some(frozen_life()),
            recent_ids: vec![0x01_0203_0405],
            properties: vec![(1, "7".into())],
            generation: 1,
            armed: Some(at),
        }
    }

    /// Version 1 is frozen: these bytes are on disks and in changelogs.
    #[test]
    fn version_1_still_reads() {
        let bytes = data_encoding::HEXLOWER.decode(VERSION_1.as_bytes()).expect("digits");
        assert_eq!(decode_user(&bytes, &names()).expect("an older value"), Person::from(frozen_user()));
    }

    const VERSION_1: &str =
        "011f80a0abfef9620103010504030201010101370580a0abfef962ffefb252000005020302610262010004020001030902";

    /// Versions 2 and 3 are frozen: these bytes are on disks and in changelogs.
    #[test]
    fn version_2_still_reads_and_version_3_stays_as_it_is() {
        let user = frozen_user();
        let at = EventTime::from_millis(1_700_000_000_000);
        let day = |days| at + crate::time::Span::from_days(days);
        let comeback = Comeback {
            at: day(-1),
            seq: 2,
            away_from: State::Churned,
            away_since: day(-9),
            campaign: Some("spring".into()),
            active_days: 3,
            core_actions: (Some(day(0)), None),
        };
        let entry = |segment, days, held_out, returned| Entry { segment, at: day(days), held_out, returned };
        let mut person = Person {
            user,
            standing: Standing { members: Members::from_bits(0b101), as_of: day(1), seq: 4 },
            trail: Trail {
                comeback: Some(comeback),
                entries: vec![entry(0, -3, false, true), entry(2, 1, true, false)],
            },
            marks: Marks::default(),
        };
        let bytes = data_encoding::HEXLOWER.decode(VERSION_2.as_bytes()).expect("digits");
        let mut old = decode_user(&bytes, &names()).expect("an older value");
        assert_eq!(old, person);
        // One name is listed, two are not.
        for person in [&mut person, &mut old] {
            person.user.life.as_mut().expect("a life").last_events[1] = named("opened");
            let bytes = encoded(person);
            assert_eq!(data_encoding::HEXLOWER.encode(&bytes), VERSION_3);
            assert_eq!(decode_user(&bytes, &names()).expect("it reads"), *person);
        }
        let nowhere = decode_user(&encoded(&person), &Names::default());
        assert!(matches!(nowhere, Err(StoreError::Damaged { .. })), "{nowhere:?}");
    }

    #[test]
    fn a_name_that_is_listed_by_now_is_found_in_an_older_value() {
        let user = User { life: Some(Life { last_events: vec!["opened".into()], ..frozen_life() }), ..frozen_user() };
        let person = decode_user(&encoded(&user.into()), &names()).expect("it reads");
        assert_eq!(person.user.life.expect("a life").last_events[0].place(), Some(0));
    }

    const VERSION_3: &str = "03df80a0abfef9620103010504030201010101372580a0abfef9620200000502030261010261040231000205ffefb25204\
                             031b80f0b2520280809793050306737072696e6780f0b2520202ffcf98f7010980f0b252";

    const VERSION_2: &str = "02df80a0abfef9620103010504030201010101370580a0abfef962ffefb2520000050203026102620100040200010309\
                             0205ffefb25204031b80f0b2520280809793050306737072696e6780f0b2520202ffcf98f7010980f0b252";
}
