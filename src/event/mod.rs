//! Events: what a record of the input topic says (SPEC section 1).
//!
//! Decoding borrows from the record's bytes; nothing is copied on the path of an ordinary event. Bad input is data, not
//! an error: a record that is no event becomes a [`Rejection`] with a bounded reason code.
//!
//! A preset is a table of places (`preset`), compiled together with the wanted properties into one `outline` that
//! picks everything up in a single pass over the bytes; `decoder` then judges what was found. So a new input format
//! is one more table, and all formats share the same limits, time formats and treatment of hostile input.

mod decoder;
mod outline;
mod preset;
mod reader;
mod rules;
mod timestamp;
mod value;

#[cfg(test)]
mod hostile_tests;

use std::borrow::Cow;

pub use decoder::Decoder;
pub use rules::{
    CustomPointers, EventList, EventPattern, EventRules, FilterValue, PatternProblem, Preset, ReportLists, RulesProblem,
};

use crate::lifecycle::Name;
use crate::time::EventTime;

/// One user-activity event in canonical form, borrowing from the record it was read from.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<'a> {
    /// 1 to 1024 bytes.
    pub user_id: Cow<'a, str>,
    /// 1 to 256 bytes.
    pub name: Cow<'a, str>,
    /// The same as the shard's list has it; `None` outside of a shard, and for a name that is not listed.
    pub listed_name: Option<Name>,
    /// When the user acted.
    pub time: EventTime,
    /// For de-duplication.
    pub id: Option<Cow<'a, str>>,
    /// What the event counts as.
    pub roles: Roles,
    /// What the event is in the retention reports.
    pub reports: ReportRoles,
    /// The campaign that a win-back event names; `None` unless `roles.win_back` and the property is there.
    pub campaign: Option<Cow<'a, str>>,
    /// The tracked properties that this event sets: index into `properties.track`, and the value as compact JSON text.
    pub tracked: Vec<(u16, Cow<'a, str>)>,
    /// How many tracked properties came with a value that cannot be kept: the user keeps the old one.
    pub refused: u16,
}

impl Event<'_> {
    /// The name, to be kept.
    #[must_use]
    pub fn shared_name(&self) -> Name {
        self.listed_name.clone().unwrap_or_else(|| Name::from(&*self.name))
    }
}

/// What an event counts as (SPEC section 1, "Roles").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent roles of SPEC section 1")]
pub struct Roles {
    /// Counts as the user being active.
    pub activity: bool,
    /// The moment a user first finds value.
    pub activation: bool,
    /// The recurring action that shows value.
    pub core: bool,
    /// A session that a win-back campaign brought.
    pub win_back: bool,
}

/// What an activity is in the retention reports (SPEC-WINBACK section 11): bit `i` is the report at index `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportRoles {
    /// Reports whose A it is.
    pub starts: u16,
    /// Reports whose B it is.
    pub returns: u16,
}

/// A record of the input topic as it came from Kafka or a file.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The record's key, if any.
    pub key: Option<&'a [u8]>,
    /// The record's value; `None` is a deletion request (SPEC section 6).
    pub value: Option<&'a [u8]>,
    /// Header names and values, in order (CloudEvents in binary mode needs them).
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Position in the partition.
    pub offset: i64,
}

/// What a record turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded<'a> {
    /// An event of a user.
    Event(Event<'a>),
    /// A key with a null value: the user wants to be deleted.
    Deletion {
        /// The user to delete.
        user_id: Cow<'a, str>,
    },
    /// Goes to the dead-letter topic.
    Rejected(Rejection),
}

/// Why a record is no event. The reason is a metric label; the message is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// A bounded code.
    pub reason: RejectReason,
    /// What failed, on what, in one line of at most 256 bytes.
    pub message: String,
}

/// The bounded set of reasons for a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectReason {
    /// Not parseable as the preset's format, broken UTF-8 included.
    Malformed,
    /// The record exceeds `events.max_size`, or a field its limit.
    TooLarge,
    /// No usable user.
    NoUser,
    /// The user is a placeholder of `events.reject_users`.
    PlaceholderUser,
    /// No usable event name.
    NoName,
    /// No usable time.
    NoTime,
    /// Dated more than `events.max_future` ahead of wall time.
    Future,
}

impl Rejection {
    /// Longest message, in bytes: it travels as a record header.
    pub const MAX_MESSAGE: usize = 256;

    /// A rejection whose message is cut to [`Self::MAX_MESSAGE`] and kept to one line.
    #[must_use]
    pub fn new(reason: RejectReason, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if message.len() > Self::MAX_MESSAGE {
            message.truncate(message.floor_char_boundary(Self::MAX_MESSAGE));
        }
        if message.contains(char::is_control) {
            message = message.replace(char::is_control, " ");
            message.truncate(message.floor_char_boundary(Self::MAX_MESSAGE));
        }
        Self { reason, message }
    }
}

impl RejectReason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::TooLarge,
        Self::NoUser,
        Self::PlaceholderUser,
        Self::NoName,
        Self::NoTime,
        Self::Future,
    ];

    /// The code in headers and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::NoUser => "no_user",
            Self::PlaceholderUser => "placeholder_user",
            Self::NoName => "no_name",
            Self::NoTime => "no_time",
            Self::Future => "future",
        }
    }
}
