//! The input presets of SPEC section 1: each is a table of places, one file an input format. They decide where a field
//! stands and nothing else; how it is judged is the same for all ([`super::decoder`]).

pub(super) mod amplitude;
pub(super) mod cloudevents;
pub(super) mod custom;
pub(super) mod mixpanel;
pub(super) mod native;
pub(super) mod segment;

use std::borrow::Cow;

/// Where a field stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A JSON pointer into the record's value.
    Json(Cow<'static, str>),
    /// A header of the record.
    Header(&'static str),
}

/// Where a format keeps the fields of the canonical event. Of several places the first usable one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) user: Vec<Place>,
    pub(super) name: Vec<Place>,
    pub(super) time: Vec<Place>,
    pub(super) id: Vec<Place>,
    /// JSON pointers of the objects that hold properties; of a property in several of them the first counts.
    pub(super) properties: Vec<Source>,
    /// The kind of call, in formats that have kinds.
    pub(super) kind: Option<Kinds>,
    /// `false` here means that the user did not act.
    pub(super) acting: Option<Place>,
    /// Names of events that only update a profile.
    pub(super) profile_names: &'static [&'static str],
}

/// An object that holds properties.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) pointer: Cow<'static, str>,
    /// In calls of this kind the object describes something other than the user.
    pub(super) not_in_kind: Option<&'static str>,
}

/// The kinds of call that a format has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kinds {
    pub(super) place: Place,
    /// Kinds that are an event by themselves: where the name is missing, the kind is the name.
    pub(super) naming: &'static [&'static str],
    /// Kinds that only update a profile and never count as activity.
    pub(super) profile: &'static [&'static str],
}

const fn json(pointer: &'static str) -> Place {
    Place::Json(Cow::Borrowed(pointer))
}

const fn source(pointer: &'static str) -> Source {
    Source { pointer: Cow::Borrowed(pointer), not_in_kind: None }
}

/// What the tables of all presets are written in.
#[cfg(test)]
pub(super) mod table {
    use std::fmt::Write as _;

    use crate::event::{Decoded, Decoder, Event, EventList, EventRules, Preset, Record};
    use crate::time::WallTime;

    /// 2024-03-01T00:00:00Z, which all tables use as the event's time and as now.
    pub(in crate::event) const MOMENT: i64 = 1_709_251_200_000;

    /// Rules with tracked `plan` and `seats`.
    pub(in crate::event) fn rules(preset: Preset) -> EventRules {
        EventRules { preset, track: vec!["plan".to_owned(), "seats".to_owned()], ..EventRules::default() }
    }

    pub(in crate::event) fn names(names: &[&'static str]) -> EventList {
        EventList::of_names(names.iter().copied()).expect("patterns")
    }

    pub(in crate::event) fn decoder(rules: EventRules) -> Decoder {
        Decoder::new(rules).expect("rules are right")
    }

    pub(in crate::event) fn record(value: &str) -> Record<'_> {
        Record { key: None, value: Some(value.as_bytes()), headers: &[], offset: 0 }
    }

    /// One line that says what a record turned out to be: `user name time-MOMENT id roles tracked`, or the reason.
    pub(in crate::event) fn summary(decoder: &Decoder, record: &Record<'_>) -> String {
        match decoder.decode(record, WallTime::from_millis(MOMENT)) {
            Decoded::Event(event) => line(&event),
            Decoded::Deletion { user_id } => format!("delete {user_id}"),
            Decoded::Rejected(rejection) => rejection.reason.as_str().to_owned(),
        }
    }

    fn line(event: &Event<'_>) -> String {
        let mut line = format!("{} | {} | {:+}", event.user_id, event.name, event.time.as_millis() - MOMENT);
        if let Some(id) = &event.id {
            write!(line, " | id {id}").expect("a string takes all");
        }
        let roles = [
            (event.roles.activity, "activity"),
            (event.roles.activation, "activation"),
            (event.roles.core, "core"),
            (event.roles.win_back, "win_back"),
        ];
        let roles: Vec<&str> = roles.iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect();
        let roles = if roles.is_empty() { "nothing".to_owned() } else { roles.join("+") };
        write!(line, " | {roles}").expect("a string takes all");
        if event.refused > 0 {
            write!(line, " | {} refused", event.refused).expect("a string takes all");
        }
        for (index, value) in &event.tracked {
            write!(line, " | {index}={value}").expect("a string takes all");
        }
        if let Some(campaign) = &event.campaign {
            write!(line, " | campaign {campaign}").expect("a string takes all");
        }
        line
    }

    /// Decodes each value and compares its summary.
    pub(in crate::event) fn check(decoder: &Decoder, cases: &[(&str, &str)]) {
        for (value, expected) in cases {
            assert_eq!(summary(decoder, &record(value)), *expected, "{value}");
        }
    }
}
