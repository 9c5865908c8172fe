//! Taking over a shard: what to replay, and where to resume (SPEC section 7). Pure: facts in, a decision out.
//!
//! The order in which the facts are gathered is part of the protocol, and [`super::restore`] keeps it:
//!
//! 1. the group's *stable* committed offset: reading it waits for a transaction that is still being decided;
//! 2. the changelog's *high watermark*, past every record of any such transaction. The last stable offset would not do:
//!    what lies beyond it may be the last commit;
//! 3. the changelog up to that high watermark, committed records only;
//! 4. before giving up over a contradiction, the stable offset *again*: see [`TakeoverError::stands`].
//!
//! Read the other way round, a commit that falls between the two readings would be missing from the state and present in
//! the offset: lost events. (KAFKA-10167 is the same lesson in Kafka Streams.)

use crate::config::AcceptOffsets;

/// What the local copy of a shard needs to reach the end of its changelog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Nothing: it is there.
    Nothing,
    /// The tail from this changelog offset.
    Tail {
        /// The first offset to read.
        from: i64,
    },
    /// Everything, after the local copy was dropped.
    All {
        /// The first offset to read.
        from: i64,
        /// Why the local copy cannot be used; `None` if there was none.
        because: Option<Unusable>,
    },
}

/// Why a local copy cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The local position is so old that deletions after it may be gone from the changelog: users who left would stay.
    FellBehind,
    /// The changelog ends before the local position: it is another one, or was cut.
    ChangelogCut,
}

/// Decides what to replay. `local` is the changelog offset that the local copy reaches to, `start` and `end` are the
/// changelog's first offset and high watermark.
///
/// `whole` is the first offset that is younger than half of the changelog's `delete.retention.ms` (`end` if there is
/// none); the other half is for the time that the replay takes.
/// Compaction drops older deletions without moving `start`, so a copy that ends before `whole` may hold users whose
/// deletion can no longer be read: a disk that comes back after days would bring them back. One offset before `whole` is
/// near enough: a commit is followed by its marker, which is none of the records that a copy reaches past, and without
/// that a shard that is quiet for long would be restored for a marker's sake.
#[must_use]
pub fn replay(local: Option<i64>, start: i64, whole: i64, end: i64) -> Replay {
    match local {
        None if start >= end => Replay::Nothing,
        None => Replay::All { from: start, because: None },
        Some(local) if local == end => Replay::Nothing,
        Some(local) if local > end => Replay::All { from: start, because: Some(Unusable::ChangelogCut) },
        Some(local) if local < start || local + 1 < whole => {
            Replay::All { from: start, because: Some(Unusable::FellBehind) }
        }
        Some(local) => Replay::Tail { from: local },
    }
}

/// Whether the changelog has nothing left of a shard of which `group` says that it was read, and `local` that its state
/// was here: then the local copy is the last one, and not to be dropped before a person has decided.
#[must_use]
pub fn is_last_copy(local: Option<i64>, start: i64, end: i64, group: Option<i64>) -> bool {
    start >= end && group.is_some() && local.is_some_and(|local| local > end)
}

/// What is known about where a shard's input was left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The input topic.
    pub topic: &'a str,
    /// The partition.
    pub partition: i32,
    /// The group's stable committed offset.
    pub group: Option<i64>,
    /// The next input offset by the shard's own record, after the replay.
    pub shard: Option<i64>,
    /// The input partition's first offset.
    pub start: i64,
    /// The input partition's high watermark.
    pub end: i64,
    /// The operator's answer to a difference.
    pub accept: Option<AcceptOffsets>,
}

/// Where to resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The first input offset to read.
    pub from: i64,
    /// What a person should know about it.
    pub note: Option<Note>,
}

/// What a person should know about where a shard resumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The group has no offset (it may have expired): the shard's record decides.
    GroupHasNone,
    /// The operator chose one of two different offsets; this is the other one.
    Accepted {
        /// What the chosen side was.
        side: AcceptOffsets,
        /// The offset that was not taken.
        instead_of: Option<i64>,
    },
    /// The input's retention has removed records before they were read.
    RecordsExpired {
        /// How many offsets.
        missed: i64,
    },
}

/// Why a shard cannot be taken over: an operator has to decide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TakeoverError {
    /// Somebody moved the group's offset.
    #[error(
        "the group's offset for {topic}/{partition} is {group}, and the shard's own record says {shard}: somebody moved \
         the group; start once with `--accept-offsets shard` to go on from {shard} as if nobody had, or with \
         `--accept-offsets group` to go on from {group} (what lies between is skipped, or counted twice)"
    )]
    OffsetsDiffer {
        /// The input topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The group's offset.
        group: i64,
        /// The shard's offset.
        shard: i64,
    },
    /// The group has read, and there is no state of it.
    #[error(
        "the group's offset for {topic}/{partition} is {group}, but the changelog holds no state for it: was the \
         changelog deleted, or is another group's id in use? start once with `--accept-offsets shard` to build the state \
         from the beginning of the topic, or with `--accept-offsets group` to begin with empty state at {group}"
    )]
    StateMissing {
        /// The input topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The group's offset.
        group: i64,
    },
    /// The input ends before the position.
    #[error(
        "{topic}/{partition} ends at offset {end}, and the shard has read up to {position}: the topic was made anew or \
         cut; use a new group id and a new changelog topic for a new input"
    )]
    InputCut {
        /// The input topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Its high watermark.
        end: i64,
        /// The next offset to read.
        position: i64,
    },
}

impl TakeoverError {
    /// Whether the contradiction is a real one, given the group's stable offset as it is now, after the replay.
    ///
    /// A worker whose session ended while it restored (it was stopped, or cut off) does not know yet that somebody else
    /// owns the shard. That one goes on committing between the first look at the group and the end of the replay, and
    /// the two differ although nobody moved anything. Then the group's offset has moved since: start the restoring over,
    /// until the group says that the shard is lost.
    #[must_use]
    pub fn stands(&self, group_now: Option<i64>) -> bool {
        match *self {
            Self::OffsetsDiffer { group, .. } | Self::StateMissing { group, .. } => group_now == Some(group),
            Self::InputCut { .. } => true,
        }
    }
}

/// Decides where to resume. Ask [`TakeoverError::stands`] before an error stops the program.
///
/// # Errors
/// The offsets contradict each other, and nobody has said which one to believe.
pub fn resume(facts: &Facts<'_>) -> Result<Resume, TakeoverError> {
    let &Facts { topic, partition, group, shard, start, end, accept } = facts;
    let accepted = |side, instead_of| Some(Note::Accepted { side, instead_of });
    let (from, note) = match (group, shard, accept) {
        (None, None, _) => (start, None),
        (None, Some(shard), _) => (shard, Some(Note::GroupHasNone)),
        (Some(group), Some(shard), _) if group == shard => (shard, None),
        (Some(group), Some(shard), None) => {
            return Err(TakeoverError::OffsetsDiffer { topic: topic.to_owned(), partition, group, shard });
        }
        (Some(group), None, None) => {
            return Err(TakeoverError::StateMissing { topic: topic.to_owned(), partition, group });
        }
        (Some(group), shard, Some(AcceptOffsets::Shard)) => {
            (shard.unwrap_or(start), accepted(AcceptOffsets::Shard, Some(group)))
        }
        (Some(group), shard, Some(AcceptOffsets::Group)) => (group, accepted(AcceptOffsets::Group, shard)),
    };
    if from > end {
        return Err(TakeoverError::InputCut { topic: topic.to_owned(), partition, end, position: from });
    }
    if from < start {
        return Ok(Resume { from: start, note: Some(Note::RecordsExpired { missed: start - from }) });
    }
    Ok(Resume { from, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_copy_is_used_exactly_when_the_changelog_reaches_around_it() {
        let table = [
            // (local, start, whole, end, replay)
            (None, 0, 0, 0, Replay::Nothing),
            (None, 7, 7, 7, Replay::Nothing),
            (None, 0, 0, 5, Replay::All { from: 0, because: None }),
            (None, 3, 3, 5, Replay::All { from: 3, because: None }),
            (Some(5), 0, 0, 5, Replay::Nothing),
            (Some(4), 0, 0, 5, Replay::Tail { from: 4 }),
            (Some(3), 3, 3, 5, Replay::Tail { from: 3 }),
            (Some(2), 3, 3, 5, Replay::All { from: 3, because: Some(Unusable::FellBehind) }),
            (Some(6), 0, 0, 5, Replay::All { from: 0, because: Some(Unusable::ChangelogCut) }),
            (Some(6), 0, 0, 0, Replay::All { from: 0, because: Some(Unusable::ChangelogCut) }),
            (Some(2), 5, 5, 5, Replay::All { from: 5, because: Some(Unusable::FellBehind) }),
            (Some(4), 0, 4, 5, Replay::Tail { from: 4 }),
            (Some(3), 0, 4, 5, Replay::Tail { from: 3 }),
            (Some(2), 0, 4, 5, Replay::All { from: 0, because: Some(Unusable::FellBehind) }),
            // A quiet shard: only the marker of its last commit lies between.
            (Some(4), 0, 5, 5, Replay::Tail { from: 4 }),
            (None, 0, 4, 5, Replay::All { from: 0, because: None }),
            (Some(5), 0, 5, 5, Replay::Nothing),
        ];
        for (local, start, whole, end, expected) in table {
            assert_eq!(
                replay(local, start, whole, end),
                expected,
                "local {local:?} in {start}..{end}, whole from {whole}"
            );
        }
    }

    #[test]
    fn the_last_copy_is_not_dropped() {
        let table = [
            (Some(9), 0, 0, Some(5), true),
            (Some(9), 0, 0, None, false),
            (None, 0, 0, Some(5), false),
            (Some(9), 0, 4, Some(5), false),
            (Some(9), 9, 9, Some(5), false),
        ];
        for (local, start, end, group, expected) in table {
            assert_eq!(is_last_copy(local, start, end, group), expected, "{local:?} in {start}..{end}, {group:?}");
        }
    }

    fn facts(group: Option<i64>, shard: Option<i64>, accept: Option<AcceptOffsets>) -> Facts<'static> {
        Facts { topic: "events", partition: 2, group, shard, start: 10, end: 100, accept }
    }

    #[test]
    fn the_shards_record_decides_and_a_moved_group_stops() {
        use AcceptOffsets::{Group, Shard};
        let plain = |from| Ok(Resume { from, note: None });
        let noted = |from, note| Ok(Resume { from, note: Some(note) });
        let accepted = |side, instead_of| Note::Accepted { side, instead_of };
        let topic = || "events".to_owned();
        let table = [
            (None, None, None, plain(10)),
            (None, None, Some(Group), plain(10)),
            (None, Some(50), None, noted(50, Note::GroupHasNone)),
            (None, Some(50), Some(Group), noted(50, Note::GroupHasNone)),
            (Some(50), Some(50), None, plain(50)),
            (Some(50), Some(50), Some(Group), plain(50)),
            (
                Some(60),
                Some(50),
                None,
                Err(TakeoverError::OffsetsDiffer { topic: topic(), partition: 2, group: 60, shard: 50 }),
            ),
            (Some(60), Some(50), Some(Shard), noted(50, accepted(Shard, Some(60)))),
            (Some(60), Some(50), Some(Group), noted(60, accepted(Group, Some(50)))),
            (Some(60), None, None, Err(TakeoverError::StateMissing { topic: topic(), partition: 2, group: 60 })),
            (Some(60), None, Some(Shard), noted(10, accepted(Shard, Some(60)))),
            (Some(60), None, Some(Group), noted(60, accepted(Group, None))),
        ];
        for (group, shard, accept, expected) in table {
            assert_eq!(resume(&facts(group, shard, accept)), expected, "{group:?} {shard:?} {accept:?}");
        }
    }

    #[test]
    fn expired_records_are_told_and_a_cut_input_stops() {
        assert_eq!(
            resume(&facts(Some(4), Some(4), None)),
            Ok(Resume { from: 10, note: Some(Note::RecordsExpired { missed: 6 }) })
        );
        assert_eq!(resume(&facts(Some(100), Some(100), None)), Ok(Resume { from: 100, note: None }));
        assert_eq!(
            resume(&facts(Some(101), Some(101), None)),
            Err(TakeoverError::InputCut { topic: "events".to_owned(), partition: 2, end: 100, position: 101 })
        );
    }

    #[test]
    fn a_difference_that_somebody_elses_commit_made_does_not_stand() {
        let differ = resume(&facts(Some(50), Some(60), None)).expect_err("they differ");
        assert!(differ.stands(Some(50)), "an operator has set it, and it stays there");
        assert!(!differ.stands(Some(60)), "the shard's new owner has committed");
        assert!(!differ.stands(None));
        let cut = resume(&facts(Some(101), Some(101), None)).expect_err("it is cut");
        assert!(cut.stands(Some(101)));
    }

    #[test]
    fn an_error_says_what_to_do() {
        let error = resume(&facts(Some(60), Some(50), None)).expect_err("they differ").to_string();
        assert!(error.contains("--accept-offsets shard") && error.contains("--accept-offsets group"), "{error}");
    }
}
