//! The shard's own record: what a shard is beside its users. In the changelog under `s`, and in the store (SPEC section
//! 7: what the shard resumes from).

use std::sync::Arc;

use crate::lifecycle::Names;
use crate::segment::Roster;
use crate::shard::cohort::Cohorts;
use crate::shard::watermark::Watermark;
use crate::store::StoreError;
use crate::store::bytes::{Reader, put_i64, put_text, put_u64};
use crate::time::{EventTime, WallTime};

/// Version 2 adds the segments' fingerprint, the policy's generation and the roster at the end, version 3 the reports and
/// the signals, version 4 the names of events; older versions still read.
const VERSION: u8 = 4;

/// What a shard is beside its users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardRecord {
    /// How many partitions the input topic had.
    pub input_partitions: i32,
    /// The next input offset; everything before it is included. `None` before the first record.
    pub position: Option<i64>,
    /// Event time.
    pub watermark: Watermark,
    /// Of the policy that judges.
    pub fingerprint: u64,
    /// Of the segments' definitions; 0 without any.
    pub segments: u64,
    /// How often the policy or the segments have changed.
    pub generation: u32,
    /// The generation that began with the policy's last change.
    pub policy_generation: u32,
    /// What the bits of a user's memberships stand for, by generation.
    pub roster: Roster,
    /// The retention reports that are counted: the number of each, and its definition in frozen words.
    pub reports: Vec<(u32, String)>,
    /// The next report's number.
    pub next_report: u32,
    /// The generation from which on users are counted for signals; `None` when they are not.
    pub signals_since: Option<u32>,
    /// The moment as of which users of earlier generations are judged again.
    pub judged_at: EventTime,
    /// How far that has come; `None` when it is done.
    pub rejudging: Option<Rejudging>,
    /// The sizes of the cohorts.
    pub cohorts: Cohorts,
    /// Every property that was ever tracked: users refer to their places, so names are only ever added.
    pub properties: Vec<String>,
    /// Names of events that users refer to. Shared, since each commit keeps a copy of the record.
    pub names: Arc<Names>,
}

/// How far the judging of all users by changed rules has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejudging {
    /// The last user judged, in order of ids; `None` at the start.
    pub after: Option<Box<str>>,
}

impl ShardRecord {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let Self {
            input_partitions,
            position,
            watermark,
            fingerprint,
            segments,
            generation,
            policy_generation,
            roster,
            reports,
            next_report,
            signals_since,
            judged_at,
            rejudging,
            cohorts,
            properties,
            names,
        } = self;
        out.push(VERSION);
        put_i64(out, i64::from(*input_partitions));
        put_option(out, *position);
        put_i64(out, watermark.at().as_millis());
        put_option(out, watermark.last_received().map(WallTime::as_millis));
        out.extend_from_slice(&fingerprint.to_le_bytes());
        put_u64(out, u64::from(*generation));
        put_i64(out, judged_at.as_millis());
        match rejudging {
            None => out.push(0),
            // No user has an empty id, so an empty text is the start.
            Some(Rejudging { after }) => {
                out.push(1);
                put_text(out, after.as_deref().unwrap_or_default());
            }
        }
        for class in Cohorts::classes() {
            put_u64(out, cohorts.of(class));
        }
        put_u64(out, properties.len() as u64);
        for name in properties {
            put_text(out, name);
        }
        out.extend_from_slice(&segments.to_le_bytes());
        put_u64(out, u64::from(*policy_generation));
        put_u64(out, roster.parts().len() as u64);
        for (generation, names) in roster.parts() {
            put_u64(out, u64::from(*generation));
            put_u64(out, names.len() as u64);
            for name in names {
                put_text(out, name);
            }
        }
        put_u64(out, u64::from(*next_report));
        put_u64(out, reports.len() as u64);
        for (number, frozen) in reports {
            put_u64(out, u64::from(*number));
            put_text(out, frozen);
        }
        put_option(out, signals_since.map(i64::from));
        put_u64(out, names.len() as u64);
        for name in names.iter() {
            put_text(out, name);
        }
    }

    /// Reads a record back.
    ///
    /// # Errors
    /// [`StoreError::UnknownVersion`] or [`StoreError::Damaged`].
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut from = Reader::new(bytes, "a shard record");
        let version = from.version_up_to(VERSION)?;
        let input_partitions =
            i32::try_from(from.i64()?).map_err(|_| from.damaged("the number of partitions is out of range"))?;
        let position = option(&mut from)?;
        let at = EventTime::from_millis(from.i64()?);
        let watermark = Watermark::restored(at, option(&mut from)?.map(WallTime::from_millis));
        let mut fingerprint = [0; 8];
        fingerprint.copy_from_slice(from.take(8)?);
        let generation = from.u32()?;
        let judged_at = EventTime::from_millis(from.i64()?);
        let rejudging = match from.byte()? {
            0 => None,
            1 => {
                let after = from.text()?;
                Some(Rejudging { after: if after.is_empty() { None } else { Some(after.into()) } })
            }
            _ => return Err(from.damaged("it has an impossible flag")),
        };
        let mut cohorts = Cohorts::default();
        for class in Cohorts::classes() {
            cohorts.set(class, from.u64()?);
        }
        let count = from.count()?;
        let properties = (0..count).map(|_| from.text().map(str::to_owned)).collect::<Result<_, _>>()?;
        // Until version 2 every generation began with a change of the policy, and there were no segments.
        let (mut segments, mut policy_generation, mut roster) = (0, generation, Roster::default());
        if version > 1 {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(from.take(8)?);
            segments = u64::from_le_bytes(bytes);
            policy_generation = from.u32()?;
            roster = read_roster(&mut from)?;
        }
        let (mut reports, mut next_report, mut signals_since) = (Vec::new(), 0, None);
        if version > 2 {
            next_report = from.u32()?;
            let count = from.count()?;
            reports =
                (0..count).map(|_| Ok((from.u32()?, from.text()?.to_owned()))).collect::<Result<_, StoreError>>()?;
            let since = option(&mut from)?.map(u32::try_from).transpose();
            signals_since = since.map_err(|_| from.damaged("the signals' generation is out of range"))?;
        }
        let mut names = Names::default();
        if version > 3 {
            for _ in 0..from.count()? {
                if !names.list(from.text()?) {
                    return Err(from.damaged("its names are not a list of names"));
                }
            }
        }
        from.end()?;
        Ok(Self {
            input_partitions,
            position,
            watermark,
            fingerprint: u64::from_le_bytes(fingerprint),
            segments,
            generation,
            policy_generation,
            roster,
            reports,
            next_report,
            signals_since,
            judged_at,
            rejudging,
            cohorts,
            properties,
            names: Arc::new(names),
        })
    }
}

fn read_roster(from: &mut Reader<'_>) -> Result<Roster, StoreError> {
    let mut generations: Vec<(u32, Vec<Box<str>>)> = Vec::new();
    for _ in 0..from.count()? {
        let generation = from.u32()?;
        let count = from.count()?;
        let names = (0..count).map(|_| from.text().map(Box::from)).collect::<Result<_, _>>()?;
        if generations.last().is_some_and(|(last, _)| *last >= generation) {
            return Err(from.damaged("its generations are out of order"));
        }
        generations.push((generation, names));
    }
    Ok(Roster::from_parts(generations))
}

fn put_option(out: &mut Vec<u8>, value: Option<i64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_i64(out, value);
    }
}

fn option(from: &mut Reader<'_>) -> Result<Option<i64>, StoreError> {
    match from.byte()? {
        0 => Ok(None),
        1 => from.i64().map(Some),
        _ => Err(from.damaged("it has an impossible flag")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::option;
    use proptest::prelude::*;

    fn records() -> impl Strategy<Value = ShardRecord> {
        let numbers = (any::<i32>(), option::of(any::<i64>()), any::<i64>(), option::of(any::<i64>()), any::<u64>());
        let judged = (any::<u32>(), any::<i64>(), option::of(option::of("\\PC{1,9}")));
        let rest = (any::<[u32; 9]>(), proptest::collection::vec("\\PC{0,9}", 0..4));
        let names = proptest::collection::vec("[a-z]{1,9}".prop_map(Box::from), 0..4);
        let roster = proptest::collection::btree_map(any::<u32>(), names, 0..4);
        let roster = roster.prop_map(|generations| Roster::from_parts(generations.into_iter().collect()));
        let events = proptest::collection::vec("\\PC{0,9}", 0..4).prop_map(|texts| {
            let mut names = Names::default();
            for text in &texts {
                names.list(text);
            }
            Arc::new(names)
        });
        let reports = proptest::collection::vec((any::<u32>(), "\\PC{0,9}"), 0..4);
        let segments = (any::<u64>(), any::<u32>(), roster, reports, option::of(any::<u32>()), events);
        (numbers, judged, rest, segments).prop_map(|(numbers, judged, (sizes, properties), segments)| {
            let mut cohorts = Cohorts::default();
            Cohorts::classes().zip(sizes).for_each(|(class, size)| cohorts.set(class, u64::from(size)));
            let at = EventTime::from_millis(numbers.2);
            ShardRecord {
                input_partitions: numbers.0,
                position: numbers.1,
                watermark: Watermark::restored(at, numbers.3.map(WallTime::from_millis)),
                fingerprint: numbers.4,
                segments: segments.0,
                generation: judged.0,
                policy_generation: segments.1,
                roster: segments.2,
                reports: segments.3,
                next_report: segments.1,
                signals_since: segments.4,
                names: segments.5,
                judged_at: EventTime::from_millis(judged.1),
                rejudging: judged.2.map(|after| Rejudging { after: after.map(Into::into) }),
                cohorts,
                properties,
            }
        })
    }

    proptest! {
        #[test]
        fn decode_of_encode_is_identity_and_torn_bytes_are_damaged(record in records()) {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(ShardRecord::decode(&bytes).expect("what is written reads"), record);
            for len in 0..bytes.len() {
                let torn = matches!(ShardRecord::decode(&bytes[..len]), Err(StoreError::Damaged { .. }));
                prop_assert!(torn, "{len} bytes pass");
            }
            bytes[0] = 9;
            let newer = matches!(ShardRecord::decode(&bytes), Err(StoreError::UnknownVersion { version: 9, .. }));
            prop_assert!(newer);
        }
    }

    /// Version 3 is version 4 without the names at the end.
    #[test]
    fn version_3_still_reads() {
        let record = ShardRecord { position: Some(7), properties: vec!["plan".to_owned()], ..ShardRecord::default() };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(bytes.pop(), Some(0), "no names");
        bytes[0] = 3;
        assert_eq!(ShardRecord::decode(&bytes).expect("an older record"), record);
    }

    /// Version 1 is frozen: a shard without segments, as an older build left it.
    #[test]
    fn version_1_still_reads() {
        let version_1 = include_bytes!("../../tests/fuzz/corpus/shard-records/version-1.bin");
        let record = ShardRecord::decode(version_1).expect("an older record");
        assert_eq!((record.segments, record.roster), (0, Roster::default()));
        assert_eq!(record.policy_generation, record.generation);
    }
}
