//! What the configuration says about events: preset, roles, limits (SPEC section 1).
//!
//! These are the rules as meant; [`Decoder::new`](super::Decoder::new) checks what only shows in combination and
//! compiles them.

use std::fmt;

use super::outline::parse_pointer;
use crate::time::Span;

/// How a record maps to the canonical event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preset {
    /// `user_id`, `event`, `time`, `id`, `properties`.
    #[default]
    Native,
    /// Mixpanel's import format.
    Mixpanel,
    /// Segment's and RudderStack's calls.
    Segment,
    /// Amplitude's HTTP and export formats.
    Amplitude,
    /// CloudEvents 1.0, structured and binary mode.
    CloudEvents,
    /// A JSON pointer for each field.
    Custom,
}

/// All that decides what a record means.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRules {
    /// The input format.
    pub preset: Preset,
    /// Counts as the user being active, less `ignore`.
    pub activity: EventList,
    /// Never activity.
    pub ignore: EventList,
    /// The moment a user first finds value; `None`: the first activity activates.
    pub activation: Option<EventList>,
    /// The recurring action that shows value; `None`: every activity.
    pub core: Option<EventList>,
    /// Sessions that a win-back campaign brought; `None`: no event is.
    pub win_back: Option<EventList>,
    /// The property that names the campaign.
    pub campaign: Option<String>,
    /// The retention reports' events, in the reports' order; at most 16.
    pub reports: Vec<ReportLists>,
    /// Placeholder users, compared without regard to ASCII case.
    pub reject_users: Vec<String>,
    /// How far ahead of wall time an event may be dated.
    pub max_future: Span,
    /// Largest record value, in bytes.
    pub max_size: usize,
    /// The tracked properties, at most [`EventRules::MAX_TRACKED`].
    pub track: Vec<String>,
    /// Where the fields are; needed by, and only by, [`Preset::Custom`].
    pub custom: Option<CustomPointers>,
}

/// The events of one retention report; only activity counts, as for the roles.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportLists {
    /// A: the first of these makes the cohort.
    pub start: EventList,
    /// B: the user is back.
    pub back: EventList,
}

/// JSON pointers (RFC 6901) of the custom preset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CustomPointers {
    /// The user id.
    pub user_id: String,
    /// The event name.
    pub name: String,
    /// The event time.
    pub time: String,
    /// The id for de-duplication.
    pub id: Option<String>,
    /// The object that holds the properties; the empty pointer is the whole record.
    pub properties: Option<String>,
}

/// Events by name: an event is in the list when any pattern matches.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventList(Vec<EventPattern>);

/// A name, with a `*` at its end for "begins with", and properties that must have the given values.
#[derive(Clone, Debug, PartialEq)]
pub struct EventPattern {
    pub(super) name: NamePattern,
    pub(super) filters: Vec<(String, FilterValue)>,
}

/// The name part of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NamePattern {
    Any,
    Prefix(Box<str>),
    Exact(Box<str>),
}

/// What a property must equal. Numbers are compared as numbers, so `1` equals `1.0`.
#[derive(Clone, Debug, PartialEq)]
pub enum FilterValue {
    /// A JSON string with this content.
    Text(String),
    /// A JSON number of this value.
    Integer(i64),
    /// A JSON number of this value.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
}

/// Why a pattern is none: write it differently.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternProblem {
    /// Name an event, or `*` for all.
    #[error("an event name must not be empty")]
    EmptyName,
    /// No event can have such a name.
    #[error("an event name has at most {} bytes", EventRules::MAX_NAME)]
    LongName,
    /// `*` means "and anything after it", so it stands last and alone.
    #[error("`*` is allowed only once, at the end of an event name")]
    WildcardInside,
    /// A property without a name.
    #[error("a property name must not be empty")]
    EmptyProperty,
    /// Nothing equals NaN; infinity is no JSON number.
    #[error("property `{0}` is compared with a number that JSON does not have")]
    NotANumber(String),
}

/// What is wrong with the rules as a whole, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesProblem {
    /// The configuration key, such as `events.custom.user_id`.
    pub path: String,
    /// What is wrong and what to do, lowercase, one line.
    pub message: String,
}

impl Preset {
    /// Every preset, in the order of declaration.
    pub const ALL: [Self; 6] =
        [Self::Native, Self::Mixpanel, Self::Segment, Self::Amplitude, Self::CloudEvents, Self::Custom];

    /// The name in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Mixpanel => "mixpanel",
            Self::Segment => "segment",
            Self::Amplitude => "amplitude",
            Self::CloudEvents => "cloudevents",
            Self::Custom => "custom",
        }
    }

    /// The preset of that name; `rudderstack` is another name of `segment`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "rudderstack" {
            return Some(Self::Segment);
        }
        Self::ALL.into_iter().find(|preset| preset.as_str() == name)
    }
}

impl EventRules {
    /// Longest user id, in bytes (SPEC section 1).
    pub const MAX_USER_ID: usize = 1024;
    /// Longest event name, in bytes (SPEC section 1).
    pub const MAX_NAME: usize = 256;
    /// Longest campaign name, in bytes; an event with a longer one names no campaign.
    pub const MAX_CAMPAIGN: usize = 256;
    /// Longest value of a tracked property, in bytes of compact JSON text; a longer one leaves the old value.
    pub const MAX_TRACKED_VALUE: usize = 1024;
    /// How many properties may be tracked: each is kept for each user.
    pub const MAX_TRACKED: usize = 64;
    /// How many retention reports there may be: an event's part in them is a bit each.
    pub const MAX_REPORTS: usize = 16;
    /// Deepest nesting of a record. Well below what common JSON parsers accept, so that a tracked value, set into a
    /// transition, is still readable by all.
    pub const MAX_DEPTH: usize = 64;

    /// Users that are none: Mixpanel's ban list (SPEC section 1).
    pub const PLACEHOLDER_USERS: [&'static str; 16] = [
        "anon",
        "anonymous",
        "nil",
        "none",
        "null",
        "n/a",
        "na",
        "undefined",
        "unknown",
        "0",
        "-1",
        "true",
        "false",
        "[]",
        "{}",
        "00000000-0000-0000-0000-000000000000",
    ];

    /// What only shows when all rules are seen together.
    pub(super) fn problems(&self) -> Vec<RulesProblem> {
        let mut problems = Vec::new();
        let mut problem = |path: &str, message: String| problems.push(RulesProblem { path: path.to_owned(), message });
        if self.activity.0.is_empty() {
            problem(
                "events.activity",
                "lists no events, so nobody would ever be active; `*` is every event".to_owned(),
            );
        }
        if self.max_size == 0 {
            problem("events.max_size", "must be greater than zero, or no record is accepted".to_owned());
        }
        if self.max_future.as_millis() < 0 {
            problem("events.max_future", "must not be negative".to_owned());
        }
        if self.track.len() > EventRules::MAX_TRACKED {
            let message =
                format!("{} properties, at most {} can be tracked", self.track.len(), EventRules::MAX_TRACKED);
            problem("properties.track", message);
        }
        for (index, property) in self.track.iter().enumerate() {
            if property.is_empty() {
                problem(&format!("properties.track[{index}]"), "a property name must not be empty".to_owned());
            } else if self.track[..index].contains(property) {
                problem(&format!("properties.track[{index}]"), format!("`{property}` is tracked already"));
            }
        }
        if self.campaign.is_some() && self.win_back.is_none() {
            problem("events.campaign_property", "names a campaign, but events.win_back lists no events".to_owned());
        }
        if self.reports.len() > EventRules::MAX_REPORTS {
            let message = format!("{} reports, at most {} are possible", self.reports.len(), EventRules::MAX_REPORTS);
            problem("retention", message);
        }
        match (self.preset, &self.custom) {
            (Preset::Custom, None) => {
                problem("events.custom", "the custom preset needs the pointers user_id, name and time".to_owned());
            }
            (Preset::Custom, Some(custom)) => {
                let fields = [
                    ("user_id", Some(&custom.user_id), false),
                    ("name", Some(&custom.name), false),
                    ("time", Some(&custom.time), false),
                    ("id", custom.id.as_ref(), false),
                    ("properties", custom.properties.as_ref(), true),
                ];
                for (field, pointer, may_be_root) in fields {
                    let Some(pointer) = pointer else { continue };
                    let path = format!("events.custom.{field}");
                    match parse_pointer(pointer) {
                        Err(wrong) => problem(&path, format!("`{pointer}` is no pointer: {wrong}")),
                        Ok(keys) if keys.is_empty() && !may_be_root => {
                            problem(
                                &path,
                                "must point at a field, such as `/user`, not at the whole record".to_owned(),
                            );
                        }
                        Ok(_) => {}
                    }
                }
            }
            (other, Some(_)) => {
                problem("events.custom", format!("is only for the custom preset, not for {}", other.as_str()));
            }
            (_, None) => {}
        }
        problems
    }
}

/// SPEC section 1's defaults.
impl Default for EventRules {
    fn default() -> Self {
        Self {
            preset: Preset::Native,
            activity: EventList::all(),
            ignore: EventList::default(),
            activation: None,
            core: None,
            win_back: None,
            campaign: None,
            reports: Vec::new(),
            reject_users: Self::PLACEHOLDER_USERS.map(String::from).to_vec(),
            max_future: Span::from_millis(3_600_000),
            max_size: 1 << 20,
            track: Vec::new(),
            custom: None,
        }
    }
}

impl EventList {
    /// The events that any of the patterns matches.
    #[must_use]
    pub const fn new(patterns: Vec<EventPattern>) -> Self {
        Self(patterns)
    }

    /// Every event.
    #[must_use]
    pub fn all() -> Self {
        Self(vec![EventPattern { name: NamePattern::Any, filters: Vec::new() }])
    }

    /// The events of these names (each with an optional `*` at its end).
    ///
    /// # Errors
    /// The first name that is no pattern.
    pub fn of_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Self, PatternProblem> {
        names.into_iter().map(|name| EventPattern::new(name, Vec::new())).collect::<Result<_, _>>().map(Self)
    }

    /// The patterns, as given.
    #[must_use]
    pub fn patterns(&self) -> &[EventPattern] {
        &self.0
    }
}

impl EventPattern {
    /// An event name, with an optional `*` at its end, and the values that properties must have.
    ///
    /// # Errors
    /// When the name or a filter can match nothing or is not what it seems.
    pub fn new(name: &str, filters: Vec<(String, FilterValue)>) -> Result<Self, PatternProblem> {
        let (stem, wildcard) = name.strip_suffix('*').map_or((name, false), |stem| (stem, true));
        if name.is_empty() {
            return Err(PatternProblem::EmptyName);
        }
        if stem.contains('*') {
            return Err(PatternProblem::WildcardInside);
        }
        if stem.len() > EventRules::MAX_NAME {
            return Err(PatternProblem::LongName);
        }
        for (property, value) in &filters {
            if property.is_empty() {
                return Err(PatternProblem::EmptyProperty);
            }
            if matches!(value, FilterValue::Float(number) if !number.is_finite()) {
                return Err(PatternProblem::NotANumber(property.clone()));
            }
        }
        let name = match (stem, wildcard) {
            ("", _) => NamePattern::Any,
            (stem, true) => NamePattern::Prefix(stem.into()),
            (stem, false) => NamePattern::Exact(stem.into()),
        };
        Ok(Self { name, filters })
    }
}

impl NamePattern {
    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Prefix(stem) => name.starts_with(&**stem),
            Self::Exact(whole) => name == &**whole,
        }
    }
}

impl fmt::Display for EventPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            NamePattern::Any => f.write_str("*")?,
            NamePattern::Prefix(stem) => write!(f, "{stem}*")?,
            NamePattern::Exact(whole) => f.write_str(whole)?,
        }
        for (property, value) in &self.filters {
            match value {
                FilterValue::Text(text) => write!(f, ", {property} = {text:?}")?,
                FilterValue::Integer(number) => write!(f, ", {property} = {number}")?,
                FilterValue::Float(number) => write!(f, ", {property} = {number}")?,
                FilterValue::Boolean(truth) => write!(f, ", {property} = {truth}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for RulesProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for RulesProblem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_at_the_end_only() {
        let cases = [
            ("", Err(PatternProblem::EmptyName)),
            ("*", Ok("*")),
            ("Sign*", Ok("Sign*")),
            ("Sign Up", Ok("Sign Up")),
            ("*Up", Err(PatternProblem::WildcardInside)),
            ("S*n", Err(PatternProblem::WildcardInside)),
            ("Sign**", Err(PatternProblem::WildcardInside)),
        ];
        for (name, expected) in cases {
            let pattern = EventPattern::new(name, Vec::new()).map(|pattern| pattern.to_string());
            assert_eq!(pattern, expected.map(String::from), "{name:?}");
        }
        assert_eq!(EventPattern::new(&"x".repeat(257), Vec::new()), Err(PatternProblem::LongName));
    }

    #[test]
    fn a_filter_that_nothing_can_pass_is_refused() {
        let nan = vec![("amount".to_owned(), FilterValue::Float(f64::NAN))];
        assert_eq!(EventPattern::new("*", nan), Err(PatternProblem::NotANumber("amount".to_owned())));
        let nameless = vec![(String::new(), FilterValue::Boolean(true))];
        assert_eq!(EventPattern::new("*", nameless), Err(PatternProblem::EmptyProperty));
    }

    #[test]
    fn presets_are_found_by_name() {
        for preset in Preset::ALL {
            assert_eq!(Preset::from_name(preset.as_str()), Some(preset));
        }
        assert_eq!(Preset::from_name("rudderstack"), Some(Preset::Segment));
        assert_eq!(Preset::from_name("Native"), None);
    }
}
