//! From a record to an event, a deletion or a rejection (SPEC section 1). Pure: the same record at the same wall time
//! is always the same.

use std::borrow::Cow;

use super::preset::{self, cloudevents};
use super::reader::{Found, Reader, Wanted};
use super::rules::{EventList, EventRules, FilterValue, NamePattern, Preset, RulesProblem};
use super::value::Given;
use super::{Decoded, Event, Record, RejectReason, Rejection, ReportRoles, Roles};
use crate::time::WallTime;

/// How many values of a record are picked up without an allocation.
const INLINE_SLOTS: usize = 24;

/// Decodes records by rules that were checked once. Cheap to share, never changes.
#[derive(Clone, Debug)]
pub struct Decoder {
    rules: EventRules,
    /// The longest placeholder: most user ids are longer, and need no comparison.
    longest_placeholder: usize,
    activity: Matcher,
    ignore: Matcher,
    activation: Option<Matcher>,
    core: Option<Matcher>,
    win_back: Option<Matcher>,
    /// A and B of each retention report.
    reports: Vec<(Matcher, Matcher)>,
    /// Index of the campaign property among the wanted ones.
    campaign: Option<usize>,
    /// The format of the record's value.
    main: Reader,
    /// `CloudEvents` in binary mode.
    binary: Option<Reader>,
}

/// An event list whose properties are known by index.
#[derive(Clone, Debug)]
struct Matcher(Vec<(NamePattern, Vec<(usize, FilterValue)>)>);

impl Decoder {
    /// Checks and compiles rules.
    ///
    /// # Errors
    /// Every problem at once, each with its path in the configuration.
    pub fn new(rules: EventRules) -> Result<Self, Vec<RulesProblem>> {
        let problems = rules.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut wanted = Wanted::new(rules.track.clone());
        let activity = Matcher::new(&rules.activity, &mut wanted);
        let ignore = Matcher::new(&rules.ignore, &mut wanted);
        let mut optional = |list: &Option<EventList>| list.as_ref().map(|list| Matcher::new(list, &mut wanted));
        let activation = optional(&rules.activation);
        let core = optional(&rules.core);
        let win_back = optional(&rules.win_back);
        let mut lists = |list: &EventList| Matcher::new(list, &mut wanted);
        let reports = rules.reports.iter().map(|report| (lists(&report.start), lists(&report.back))).collect();
        let campaign = rules.campaign.as_ref().filter(|_| win_back.is_some()).map(|property| wanted.index(property));

        let layout = match rules.preset {
            Preset::Native => preset::native::layout(),
            Preset::Mixpanel => preset::mixpanel::layout(),
            Preset::Segment => preset::segment::layout(),
            Preset::Amplitude => preset::amplitude::layout(),
            Preset::CloudEvents => cloudevents::structured(),
            Preset::Custom => rules.custom.as_ref().map(preset::custom::layout).unwrap_or_default(),
        };
        let binary = (rules.preset == Preset::CloudEvents).then(|| Reader::new(&cloudevents::binary(), &wanted));
        Ok(Self {
            longest_placeholder: rules.reject_users.iter().map(String::len).max().unwrap_or(0),
            main: Reader::new(&layout, &wanted),
            binary,
            activity,
            ignore,
            activation,
            core,
            win_back,
            reports,
            campaign,
            rules,
        })
    }

    /// The rules as given.
    #[must_use]
    pub fn rules(&self) -> &EventRules {
        &self.rules
    }

    /// What a record is. Never fails and never panics, whatever the bytes.
    #[must_use]
    pub fn decode<'a>(&self, record: &Record<'a>, now: WallTime) -> Decoded<'a> {
        match self.read(record, now) {
            Ok(decoded) => decoded,
            Err(rejection) => Decoded::Rejected(rejection),
        }
    }

    fn read<'a>(&self, record: &Record<'a>, now: WallTime) -> Result<Decoded<'a>, Rejection> {
        let Some(value) = record.value else { return deletion(record.key) };
        if value.len() > self.rules.max_size {
            let message = format!("record has {} bytes, events.max_size is {}", value.len(), self.rules.max_size);
            return Err(Rejection::new(RejectReason::TooLarge, message));
        }
        let (reader, is_json) = match &self.binary {
            None => (&self.main, true),
            Some(binary) => match cloudevents::mode(record) {
                cloudevents::Mode::Structured => (&self.main, true),
                // An empty value is an event without data.
                cloudevents::Mode::Binary { json } => (binary, json && !value.is_empty()),
                cloudevents::Mode::Batch => {
                    let message = "a batch of events in one record is not supported";
                    return Err(Rejection::new(RejectReason::Malformed, message));
                }
            },
        };

        let mut inline = [Given::Absent; INLINE_SLOTS];
        let mut heap = Vec::new();
        let slots = if reader.slots() <= INLINE_SLOTS {
            &mut inline[..reader.slots()]
        } else {
            heap.resize(reader.slots(), Given::Absent);
            &mut heap[..]
        };
        reader.fill(record.headers, slots)?;
        if is_json {
            // Binary mode's data may be any JSON value, an event may not.
            let any_value = self.binary.as_ref().is_some_and(|binary| std::ptr::eq(binary, reader));
            reader.parse(value, any_value, slots)?;
        }
        self.judge(&Found::new(reader, slots), now).map(Decoded::Event)
    }

    /// The fields in the order in which their absence is reported: user, name, time.
    fn judge<'a>(&self, found: &Found<'_, 'a>, now: WallTime) -> Result<Event<'a>, Rejection> {
        let user_id = self.user(found)?;
        let name = found.name()?;
        let time = found.time()?;
        if time > (now + self.rules.max_future).as_event_time() {
            let message = format!("dated {time}, more than {} ahead of {now}", self.rules.max_future);
            return Err(Rejection::new(RejectReason::Future, message));
        }
        let roles = self.roles(&name, found);
        let reports = if roles.activity { self.report_roles(&name, found) } else { ReportRoles::default() };
        let campaign = self.campaign.filter(|_| roles.win_back).and_then(|property| found.campaign(property));
        let mut refused = 0;
        let tracked = (0_u16..)
            .zip(0..self.rules.track.len())
            .filter_map(|(index, property)| {
                let value = found.property(property).tracked()?;
                refused += u16::from(value.is_err());
                Some((index, value.ok()?))
            })
            .collect();
        let id = found.id()?;
        Ok(Event { user_id, name, listed_name: None, time, id, roles, reports, campaign, tracked, refused })
    }

    fn user<'a>(&self, found: &Found<'_, 'a>) -> Result<Cow<'a, str>, Rejection> {
        let no_user = |message: &str| Err(Rejection::new(RejectReason::NoUser, message));
        let Some(user_id) = found.user()? else {
            return no_user("no user id that is a non-blank string or a number");
        };
        if user_id.len() > EventRules::MAX_USER_ID {
            let message =
                format!("user id has {} bytes, at most {} are allowed", user_id.len(), EventRules::MAX_USER_ID);
            return Err(Rejection::new(RejectReason::TooLarge, message));
        }
        let is_placeholder = user_id.len() <= self.longest_placeholder
            && self.rules.reject_users.iter().any(|placeholder| placeholder.eq_ignore_ascii_case(&user_id));
        if is_placeholder {
            let message = format!("user id {user_id:?} is a placeholder of events.reject_users");
            return Err(Rejection::new(RejectReason::PlaceholderUser, message));
        }
        Ok(user_id)
    }

    /// What an event counts as. One that is not activity has no role: it only updates properties (SPEC section 1).
    fn roles(&self, name: &str, found: &Found<'_, '_>) -> Roles {
        let is_activity = !found.only_updates_profile(name)
            && self.activity.matches(name, found)
            && !self.ignore.matches(name, found);
        if !is_activity {
            return Roles::default();
        }
        let or_activity = |list: &Option<Matcher>| list.as_ref().is_none_or(|list| list.matches(name, found));
        Roles {
            activity: true,
            activation: or_activity(&self.activation),
            core: or_activity(&self.core),
            win_back: self.win_back.as_ref().is_some_and(|list| list.matches(name, found)),
        }
    }

    fn report_roles(&self, name: &str, found: &Found<'_, '_>) -> ReportRoles {
        let mut roles = ReportRoles::default();
        for (index, (start, back)) in self.reports.iter().enumerate() {
            roles.starts |= u16::from(start.matches(name, found)) << index;
            roles.returns |= u16::from(back.matches(name, found)) << index;
        }
        roles
    }
}

/// A null value: the key is the user to delete (SPEC section 6). A placeholder may be deleted: it may be in the state
/// from before it was refused.
fn deletion(key: Option<&[u8]>) -> Result<Decoded<'_>, Rejection> {
    let no_user = |message: &str| Err(Rejection::new(RejectReason::NoUser, message));
    match key.map(str::from_utf8) {
        None => no_user("deletion request without a key"),
        Some(Err(_)) => no_user("deletion request whose key is not UTF-8"),
        Some(Ok(user_id)) if user_id.trim_ascii().is_empty() => no_user("deletion request with a blank key"),
        Some(Ok(user_id)) if user_id.len() > EventRules::MAX_USER_ID => {
            no_user("deletion request whose key is longer than any user id")
        }
        Some(Ok(user_id)) => Ok(Decoded::Deletion { user_id: Cow::Borrowed(user_id) }),
    }
}

impl Matcher {
    fn new(list: &EventList, wanted: &mut Wanted) -> Self {
        let mut compile = |(property, value): &(String, FilterValue)| (wanted.index(property), value.clone());
        let patterns = list.patterns().iter();
        Self(patterns.map(|one| (one.name.clone(), one.filters.iter().map(&mut compile).collect())).collect())
    }

    fn matches(&self, name: &str, found: &Found<'_, '_>) -> bool {
        self.0.iter().any(|(pattern, filters)| {
            pattern.matches(name) && filters.iter().all(|(property, value)| found.property(*property).equals(value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::EventPattern;
    use super::super::preset::table::*;
    use super::*;

    const LOGIN: &str = "u1 | Login | +0";

    fn event(name: &str, properties: &str) -> String {
        format!(r#"{{"user_id":"u1","event":"{name}","time":1709251200,"properties":{properties}}}"#)
    }

    #[test]
    fn roles_by_name() {
        let decoder = decoder(EventRules {
            ignore: names(&["Email *", "Ping"]),
            activation: Some(names(&["Project Created"])),
            core: Some(names(&["Project *"])),
            win_back: Some(names(&["Campaign Visit"])),
            campaign: Some("utm".to_owned()),
            ..EventRules::default()
        });
        let cases = [
            ("Login", "{}", "activity"),
            ("Ping", "{}", "nothing"),
            ("Pings", "{}", "activity"),
            ("Email Opened", "{}", "nothing"),
            ("Project Created", "{}", "activity+activation+core"),
            ("Project Shared", "{}", "activity+core"),
            ("Project", "{}", "activity"),
            ("project shared", "{}", "activity"),
            ("Campaign Visit", "{}", "activity+win_back"),
            ("Campaign Visit", r#"{"utm":"spring"}"#, "activity+win_back | campaign spring"),
            ("Campaign Visit", r#"{"utm":24}"#, "activity+win_back | campaign 24"),
            ("Campaign Visit", r#"{"utm":""}"#, "activity+win_back"),
            ("Campaign Visit", r#"{"utm":{}}"#, "activity+win_back"),
            ("Login", r#"{"utm":"spring"}"#, "activity"),
        ];
        for (name, properties, expected) in cases {
            let found = summary(&decoder, &record(&event(name, properties)));
            assert_eq!(found, format!("u1 | {name} | +0 | {expected}"), "{name} {properties}");
        }
    }

    #[test]
    fn roles_by_property() {
        let text = |text: &str| FilterValue::Text(text.to_owned());
        let pattern = |name: &str, filters: &[(&str, FilterValue)]| {
            let filters = filters.iter().map(|(property, value)| ((*property).to_owned(), value.clone())).collect();
            EventPattern::new(name, filters).expect("pattern")
        };
        let decoder = decoder(EventRules {
            ignore: EventList::new(vec![pattern("*", &[("bot", FilterValue::Boolean(true))])]),
            core: Some(EventList::new(vec![
                pattern("Order*", &[("plan", text("pro")), ("seats", FilterValue::Integer(3))]),
                pattern("Vip", &[]),
            ])),
            ..rules(Preset::Native)
        });
        let cases = [
            ("Login", r#"{"bot":true}"#, "nothing"),
            ("Login", r#"{"bot":"true"}"#, "activity+activation"),
            ("Order Placed", r#"{"plan":"pro","seats":3.0}"#, "activity+activation+core | 0=\"pro\" | 1=3.0"),
            ("Order Placed", r#"{"plan":"pro"}"#, "activity+activation | 0=\"pro\""),
            ("Order Placed", r#"{"plan":"pro","seats":"3"}"#, "activity+activation | 0=\"pro\" | 1=\"3\""),
            ("Vip", "{}", "activity+activation+core"),
        ];
        for (name, properties, expected) in cases {
            let found = summary(&decoder, &record(&event(name, properties)));
            assert_eq!(found, format!("u1 | {name} | +0 | {expected}"), "{name} {properties}");
        }
    }

    #[test]
    fn an_event_that_is_no_activity_has_no_other_role() {
        let decoder =
            decoder(EventRules { activity: names(&["Login"]), core: Some(names(&["*"])), ..rules(Preset::Native) });
        assert_eq!(summary(&decoder, &record(&event("Order", "{\"plan\":1}"))), "u1 | Order | +0 | nothing | 0=1");
        assert_eq!(summary(&decoder, &record(&event("Login", "{}"))), format!("{LOGIN} | activity+activation+core"));
    }

    #[test]
    fn no_placeholder_is_a_user() {
        let decoder = decoder(EventRules::default());
        for placeholder in EventRules::PLACEHOLDER_USERS {
            for spelling in [placeholder.to_owned(), placeholder.to_uppercase()] {
                let value = event("Login", "{}").replace("u1", &spelling);
                assert_eq!(summary(&decoder, &record(&value)), "placeholder_user", "{spelling}");
            }
        }
        for number in ["0", "-1"] {
            let value = event("Login", "{}").replace("\"u1\"", number);
            assert_eq!(summary(&decoder, &record(&value)), "placeholder_user", "{number}");
        }
        let value = event("Login", "{}").replace("u1", "anonymous2");
        assert_eq!(summary(&decoder, &record(&value)), "anonymous2 | Login | +0 | activity+activation+core");
    }

    #[test]
    fn own_placeholders_replace_the_default_ones() {
        let decoder = decoder(EventRules { reject_users: vec!["Test".to_owned()], ..EventRules::default() });
        let of = |user: &str| summary(&decoder, &record(&event("Login", "{}").replace("u1", user)));
        assert_eq!(of("TEST"), "placeholder_user");
        assert_eq!(of("anonymous"), "anonymous | Login | +0 | activity+activation+core");
    }

    #[test]
    fn a_null_value_under_a_key_is_a_deletion() {
        let decoder = decoder(EventRules::default());
        let long = "x".repeat(1025);
        let cases: [(Option<&[u8]>, &str); 7] = [
            (Some(b"u1"), "delete u1"),
            (Some(b"anonymous"), "delete anonymous"),
            (Some(b""), "no_user"),
            (Some(b" "), "no_user"),
            (Some(b"\xff"), "no_user"),
            (Some(long.as_bytes()), "no_user"),
            (None, "no_user"),
        ];
        for (key, expected) in cases {
            let record = Record { key, value: None, headers: &[], offset: 0 };
            assert_eq!(summary(&decoder, &record), expected, "{key:?}");
        }
    }

    #[test]
    fn an_ordinary_event_is_borrowed_from_the_record() {
        let value = r#"{"user_id":"u1","event":"Login","time":1709251200,"id":"e1","properties":{"plan":"pro"}}"#;
        let decoded = decoder(rules(Preset::Native)).decode(&record(value), WallTime::from_millis(MOMENT));
        let Decoded::Event(event) = decoded else { panic!("an event") };
        assert!(matches!(event.user_id, Cow::Borrowed(_)) && matches!(event.name, Cow::Borrowed(_)));
        assert!(matches!(event.id, Some(Cow::Borrowed(_))) && matches!(event.tracked[0].1, Cow::Borrowed(_)));
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let problems = Decoder::new(EventRules {
            max_size: 0,
            track: vec!["a".to_owned(), "a".to_owned(), String::new()],
            campaign: Some("utm".to_owned()),
            custom: Some(super::super::CustomPointers::default()),
            ..EventRules::default()
        })
        .expect_err("wrong");
        let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        let expected = [
            "events.max_size",
            "properties.track[1]",
            "properties.track[2]",
            "events.campaign_property",
            "events.custom",
        ];
        assert_eq!(paths, expected);
    }
}
