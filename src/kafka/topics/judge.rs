//! What a topic's settings and replicas would break, and what to do about it. Pure.

use super::{Cleanup, DEAD_LETTER_ROOM, DELETIONS_KEPT_MS, Inspection, Wanted};

/// Where to read on.
const TOPICS: &str = "docs/operations.md, \"Topics\"";
const BROKEN: &str = "docs/operations.md, \"When something breaks\"";

/// What the cluster tells of an existing topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// How many partitions.
    pub(super) partitions: i32,
    /// Replicas of the partition that has the fewest.
    pub(super) replicas: usize,
    /// Partitions that have no leader: nothing can be written or read there.
    pub(super) leaderless: Vec<i32>,
    /// Name and value of each setting; `None` where the cluster does not tell them.
    pub(super) settings: Option<Vec<(String, String)>>,
}

impl Found {
    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        let settings = self.settings.as_ref()?;
        settings.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.setting(name)?.parse().ok()
    }

    pub(super) fn size_limit(&self) -> Option<u64> {
        self.number("max.message.bytes")
    }

    /// One line for a person to whom all is well.
    pub(super) fn summary(&self) -> String {
        let counted = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let partitions = counted(usize::try_from(self.partitions).unwrap_or(0), "partition");
        let policy = self.setting("cleanup.policy").map(|policy| format!(", {policy}")).unwrap_or_default();
        format!("{partitions}, {}{policy}", counted(self.replicas, "replica"))
    }
}

/// Judges the input topic.
pub(super) fn input(name: &str, found: &Found, brokers: usize, inspection: &mut Inspection) {
    replicas("events", name, found, brokers, inspection);
    if let Some(policy) = found.setting("cleanup.policy").filter(|policy| policy.contains("compact")) {
        inspection.warnings.push(format!(
            "topics.events: {name} has cleanup.policy={policy}, which keeps only the last event of a user: what was \
             removed before it is read is missing; set cleanup.policy=delete"
        ));
    }
}

/// Judges one of Ebbtide's own topics.
pub(super) fn own(
    topic: &Wanted<'_>,
    found: &Found,
    input_size: Option<u64>,
    brokers: usize,
    inspection: &mut Inspection,
) {
    let (key, name) = (topic.key, topic.name);
    if topic.exact_partitions && found.partitions != topic.partitions {
        inspection.problems.push(format!(
            "topics.{key}: {name} has {} partitions, and the input topic has {}; they must be equal: use a new changelog \
             topic (and a new group id; docs/operations.md, \"Reset\")",
            found.partitions, topic.partitions
        ));
    }
    replicas(key, name, found, brokers, inspection);
    if found.settings.is_none() {
        return;
    }
    let policy = found.setting("cleanup.policy").unwrap_or("delete");
    let has = |wanted: &str| policy.split(',').any(|part| part.trim() == wanted);
    let broken = match topic.cleanup {
        Cleanup::CompactOnly if !has("compact") || has("delete") => {
            Some(("deletes the state of quiet users by age", "compact"))
        }
        Cleanup::Compact if !has("compact") => Some(("forgets the state of quiet users", "compact")),
        Cleanup::NoCompaction if has("compact") => Some(("removes all but the last record of a user", "delete")),
        Cleanup::CompactOnly | Cleanup::Compact | Cleanup::NoCompaction => None,
    };
    if let Some((harm, fit)) = broken {
        inspection.problems.push(format!(
            "topics.{key}: {name} has cleanup.policy={policy}, which {harm}; set cleanup.policy={fit} ({TOPICS})"
        ));
    }
    if key == "changelog"
        && let Some(kept) = found.number::<i64>("delete.retention.ms").filter(|kept| *kept < DELETIONS_KEPT_MS)
    {
        inspection.problems.push(format!(
            "topics.{key}: {name} has delete.retention.ms={kept}: a local copy that was away for longer would bring \
             deleted users back; set delete.retention.ms={DELETIONS_KEPT_MS} ({TOPICS})"
        ));
    }
    if key == "dead_letters"
        && let (Some(input), Some(own)) = (input_size, found.size_limit())
        && own < input + DEAD_LETTER_ROOM
    {
        inspection.warnings.push(format!(
            "topics.{key}: {name} takes records of {own} bytes and the input of {input}; a dead letter has a few headers \
             more than the record it was made from, so set max.message.bytes={}",
            input + DEAD_LETTER_ROOM
        ));
    }
}

fn replicas(key: &str, name: &str, found: &Found, brokers: usize, inspection: &mut Inspection) {
    if !found.leaderless.is_empty() {
        inspection.problems.push(format!(
            "topics.{key}: partitions {:?} of {name} have no leader: bring back the brokers that hold them ({BROKEN})",
            found.leaderless
        ));
    }
    let in_sync = found.number::<usize>("min.insync.replicas").unwrap_or(1);
    if in_sync > found.replicas {
        inspection.problems.push(format!(
            "topics.{key}: {name} has {} replicas and min.insync.replicas={in_sync}: nothing can be written; add replicas \
             or lower it ({TOPICS})",
            found.replicas
        ));
    } else if brokers > 1 && found.replicas < 2 {
        inspection.warnings.push(format!(
            "topics.{key}: {name} has one replica on a cluster of {brokers} brokers: one broker's disk loses it; set \
             topics.replication_factor before it is created, or reassign it"
        ));
    } else if found.settings.is_some() && found.replicas > 2 && in_sync < 2 {
        inspection.warnings.push(format!(
            "topics.{key}: {name} has {} replicas and min.insync.replicas={in_sync}: what one broker alone has taken counts \
             as committed; set min.insync.replicas=2",
            found.replicas
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(settings: &[(&str, &str)]) -> Found {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Found { partitions: 4, replicas: 1, leaderless: Vec::new(), settings: Some(settings) }
    }

    fn judged(key: &'static str, cleanup: Cleanup, found: &Found, brokers: usize) -> (Vec<String>, Vec<String>) {
        let topic = Wanted {
            key,
            name: "t",
            partitions: 4,
            exact_partitions: key == "changelog",
            settings: Vec::new(),
            cleanup,
        };
        let mut inspection = Inspection::default();
        own(&topic, found, Some(1_000_000), brokers, &mut inspection);
        (inspection.problems, inspection.warnings)
    }

    #[test]
    fn each_wrong_setting_is_told_with_what_to_do() {
        let week = DELETIONS_KEPT_MS.to_string();
        let compact = ("cleanup.policy", "compact");
        let table: [(&str, Cleanup, Found, usize, &str); 8] = [
            ("changelog", Cleanup::CompactOnly, found(&[]), 1, "set cleanup.policy=compact"),
            (
                "changelog",
                Cleanup::CompactOnly,
                found(&[("cleanup.policy", "compact,delete")]),
                1,
                "quiet users by age; set cleanup.policy=compact",
            ),
            (
                "changelog",
                Cleanup::CompactOnly,
                found(&[compact, ("delete.retention.ms", "86400000")]),
                1,
                "set delete.retention.ms=604800000",
            ),
            ("states", Cleanup::Compact, found(&[("cleanup.policy", "delete")]), 1, "set cleanup.policy=compact"),
            ("transitions", Cleanup::NoCompaction, found(&[compact]), 1, "set cleanup.policy=delete"),
            (
                "changelog",
                Cleanup::CompactOnly,
                Found { partitions: 3, ..found(&[compact]) },
                1,
                "has 3 partitions, and the input topic has 4",
            ),
            ("states", Cleanup::Compact, found(&[compact, ("min.insync.replicas", "2")]), 1, "nothing can be written"),
            (
                "states",
                Cleanup::Compact,
                Found { leaderless: vec![2], ..found(&[compact]) },
                1,
                "partitions [2] of t have no leader",
            ),
        ];
        for (key, cleanup, found, brokers, says) in table {
            let (problems, _) = judged(key, cleanup, &found, brokers);
            let all = problems.join("\n");
            assert!(all.contains(says) && all.contains(&format!("topics.{key}")), "{says} is not in:\n{all}");
        }
        let good = found(&[compact, ("delete.retention.ms", &week)]);
        assert_eq!(judged("changelog", Cleanup::CompactOnly, &good, 1), (Vec::new(), Vec::new()));
        let untold = Found { settings: None, ..found(&[]) };
        assert_eq!(judged("changelog", Cleanup::CompactOnly, &untold, 1), (Vec::new(), Vec::new()));
    }

    #[test]
    fn what_works_but_is_weak_is_a_warning() {
        let compact = ("cleanup.policy", "compact");
        let (problems, warnings) = judged("states", Cleanup::Compact, &found(&[compact]), 3);
        assert!(problems.is_empty() && warnings[0].contains("one replica on a cluster of 3 brokers"), "{warnings:?}");
        let three = Found { replicas: 3, ..found(&[compact, ("min.insync.replicas", "1")]) };
        let (problems, warnings) = judged("states", Cleanup::Compact, &three, 3);
        assert!(problems.is_empty() && warnings[0].contains("set min.insync.replicas=2"), "{warnings:?}");
        let small = found(&[("max.message.bytes", "1000000")]);
        let (problems, warnings) = judged("dead_letters", Cleanup::NoCompaction, &small, 1);
        assert!(problems.is_empty() && warnings[0].contains("max.message.bytes=1065536"), "{warnings:?}");
        let mut inspection = Inspection::default();
        input("events", &found(&[compact]), 1, &mut inspection);
        assert!(inspection.warnings[0].contains("only the last event of a user"), "{inspection:?}");
    }
}
