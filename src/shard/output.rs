//! The records that a shard writes, as bytes: transitions, current states, dead letters (SPEC sections 1 and 5, schemas
//! under `schemas/`). JSON is written straight into one buffer: a storm of timers is a storm of these.

use std::io::Write as _;

use crate::event::{Record, Rejection};
use crate::lifecycle::{Change, Policy, User};
use crate::rules::Origin;
use crate::segment::{Members, Segments};
use crate::shard::effect::{Headers, Output, Topic};
use crate::time::{DAY_MS, EventTime, WallTime};

mod win_back;

/// What the records of one shard have in common.
#[derive(Debug)]
pub(super) struct Writer {
    source: String,
    topic: String,
    partition: String,
    /// By place in the shard's list of properties: the name as JSON text with its colon, or `None` where it is no longer
    /// tracked.
    names: Vec<Option<String>>,
    /// The segments' names as JSON text.
    segments: Vec<String>,
}

impl Writer {
    /// `properties` is the shard's list, `track` what is tracked now.
    pub(super) fn new(
        origin: &Origin,
        partition: i32,
        properties: &[String],
        track: &[String],
        segments: &Segments,
    ) -> Self {
        let json = |name: &str| serde_json::to_string(name).unwrap_or_default();
        let name = |name: &String| track.contains(name).then(|| json(name) + ":");
        Self {
            source: format!("/ebbtide/{}/{partition}", origin.group),
            topic: origin.topic.clone(),
            partition: partition.to_string(),
            names: properties.iter().map(name).collect(),
            segments: segments.definitions().iter().map(|definition| json(definition.name())).collect(),
        }
    }

    /// A transition, with the user as it is at the change.
    pub(super) fn transition(
        &self,
        user_id: &str,
        user: &User,
        change: &Change,
        policy: &Policy,
        now: WallTime,
    ) -> Output {
        let mut out = Vec::with_capacity(640);
        out.extend_from_slice(b"{\"id\":");
        let id = format!("{user_id}:{}", change.seq);
        put_string(&mut out, &id);
        put_number(&mut out, "seq", change.seq);
        put_text(&mut out, "user_id", user_id);
        put_name(&mut out, "from", change.from.map(crate::lifecycle::State::as_str));
        put_name(&mut out, "to", change.to.map(crate::lifecycle::State::as_str));
        put_name(&mut out, "kind", Some(change.kind.as_str()));
        put_name(&mut out, "reason", Some(change.reason.as_str()));
        put_time(&mut out, "effective_at", Some(change.effective_at));
        put_time(&mut out, "detected_at", Some(now.as_event_time()));
        self.put_record(&mut out, user, change.effective_at, policy);
        put_time(&mut out, "previous_since", change.previous_since);
        if let Some(away) = change.away() {
            put_float(&mut out, "away_days", Some(away.days));
            put_name(&mut out, "away_from", Some(away.from.as_str()));
        }
        out.push(b'}');
        let headers = self.headers("ebbtide.transition.v1", &id, change.effective_at);
        Output { topic: Topic::Transitions, key: Some(user_id.as_bytes().to_vec()), value: Some(out), headers }
    }

    /// A user's current state; a user without a life has none.
    pub(super) fn state(
        &self,
        user_id: &str,
        user: &User,
        members: Members,
        next: Option<EventTime>,
        now: WallTime,
    ) -> Output {
        let Some(life) = &user.life else { return self.gone(user_id) };
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(b"{\"user_id\":");
        put_string(&mut out, user_id);
        put_name(&mut out, "state", Some(life.state.as_str()));
        put_time(&mut out, "since", Some(life.since));
        put_name(&mut out, "reason", Some(life.reason.as_str()));
        put_flag(&mut out, "activated", life.activated_at.is_some());
        put_number(&mut out, "seq", user.seq);
        put_time(&mut out, "first_active_at", Some(life.first_active));
        put_time(&mut out, "last_active_at", Some(life.last_active));
        put_time(&mut out, "activated_at", life.activated_at);
        self.put_totals(&mut out, user);
        put_list(&mut out, "segments", members.iter().filter_map(|index| self.segments.get(index)));
        put_time(&mut out, "next_deadline_at", next);
        put_time(&mut out, "updated_at", Some(now.as_event_time()));
        out.push(b'}');
        let headers = self.headers("ebbtide.state.v1", &format!("{user_id}:{}:state", user.seq), now.as_event_time());
        Output { topic: Topic::States, key: Some(user_id.as_bytes().to_vec()), value: Some(out), headers }
    }

    /// The user is gone: a null under the user's key.
    #[expect(clippy::unused_self, reason = "one way to make every kind of output")]
    fn gone(&self, user_id: &str) -> Output {
        Output {
            topic: Topic::States,
            key: Some(user_id.as_bytes().to_vec()),
            value: None,
            headers: Headers::default(),
        }
    }

    /// A record that is no event: bytes unchanged, the reason in headers before the record's own.
    pub(super) fn dead_letter(&self, record: &Record<'_>, rejection: &Rejection) -> Output {
        let mut headers = Headers::with_capacity(5 + record.headers.len(), 256);
        headers.push("ebbtide_reason", rejection.reason.as_str().as_bytes());
        headers.push("ebbtide_message", rejection.message.as_bytes());
        headers.push("ebbtide_topic", self.topic.as_bytes());
        headers.push("ebbtide_partition", self.partition.as_bytes());
        headers.push_with("ebbtide_offset", |out| {
            let _ = write!(out, "{}", record.offset);
        });
        for (name, value) in record.headers {
            headers.push(name, value);
        }
        Output {
            topic: Topic::DeadLetters,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers,
        }
    }

    /// The user's record as of `at`, as transitions and segments have it.
    fn put_record(&self, out: &mut Vec<u8>, user: &User, at: EventTime, policy: &Policy) {
        let life = user.life.as_ref();
        put_time(out, "first_active_at", life.map(|life| life.first_active));
        put_time(out, "last_active_at", life.map(|life| life.last_active));
        put_time(out, "activated_at", life.and_then(|life| life.activated_at));
        put_float(out, "idle_days", user.idle_days(at));
        self.put_totals(out, user);
        if policy.survival.is_some() {
            put_float(out, "p_alive", user.p_alive(at, policy));
        }
    }

    fn put_totals(&self, out: &mut Vec<u8>, user: &User) {
        let life = user.life.as_ref();
        put_number(out, "total_events", life.map_or(0, |life| life.total_events));
        put_number(out, "core_actions", life.map_or(0, |life| life.core_actions));
        out.extend_from_slice(b",\"last_events\":[");
        for (place, name) in life.iter().flat_map(|life| &life.last_events).enumerate() {
            if place > 0 {
                out.push(b',');
            }
            put_string(out, name);
        }
        out.extend_from_slice(b"],\"properties\":{");
        let mut first = true;
        for (index, value) in &user.properties {
            let Some(name) = self.names.get(usize::from(*index)).and_then(Option::as_ref) else { continue };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
    }

    /// The CloudEvents attributes.
    fn headers(&self, kind: &str, id: &str, at: EventTime) -> Headers {
        let mut headers = Headers::with_capacity(6, 192 + self.source.len() + id.len());
        headers.push("ce_specversion", b"1.0");
        headers.push("ce_type", kind.as_bytes());
        headers.push("ce_source", self.source.as_bytes());
        headers.push("ce_id", id.as_bytes());
        headers.push_with("ce_time", |out| put_instant(out, at));
        headers.push("content-type", b"application/json");
        headers
    }
}

fn put_key(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(b"\":");
}

fn put_text(out: &mut Vec<u8>, key: &str, text: &str) {
    put_key(out, key);
    put_string(out, text);
}

/// One of our own names, which need no escape.
fn put_name(out: &mut Vec<u8>, key: &str, name: Option<&str>) {
    put_key(out, key);
    match name {
        None => out.extend_from_slice(b"null"),
        Some(name) => {
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.push(b'"');
        }
    }
}

fn put_flag(out: &mut Vec<u8>, key: &str, flag: bool) {
    put_key(out, key);
    out.extend_from_slice(if flag { b"true" } else { b"false" });
}

/// A list of what is JSON already.
fn put_list<'t>(out: &mut Vec<u8>, key: &str, items: impl Iterator<Item = &'t String>) {
    put_key(out, key);
    out.push(b'[');
    for (place, item) in items.enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item.as_bytes());
    }
    out.push(b']');
}

fn put_number(out: &mut Vec<u8>, key: &str, number: u64) {
    put_key(out, key);
    let _ = write!(out, "{number}");
}

fn put_float(out: &mut Vec<u8>, key: &str, number: Option<f64>) {
    put_key(out, key);
    // A number that JSON does not have becomes null.
    if serde_json::to_writer(&mut *out, &number.filter(|number| number.is_finite())).is_err() {
        out.extend_from_slice(b"null");
    }
}

fn put_time(out: &mut Vec<u8>, key: &str, at: Option<EventTime>) {
    put_key(out, key);
    match at {
        None => out.extend_from_slice(b"null"),
        Some(at) => {
            out.push(b'"');
            put_instant(out, at);
            out.push(b'"');
        }
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.extend_from_slice(b"\"\"");
    }
}

/// RFC 3339 with milliseconds, as `Display` has it, without its machinery. Days to calendar date after Howard Hinnant,
/// "chrono-compatible low-level date algorithms".
fn put_instant(out: &mut Vec<u8>, at: EventTime) {
    let millis = at.as_millis();
    let days = millis.div_euclid(DAY_MS);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    // From here on small and not negative: 32 bits divide in a fraction of the time.
    let small = |number: i64| u32::try_from(number).unwrap_or_default();
    let (of_day, of_era) = (small(millis - days * DAY_MS), small(shifted - era * 146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = i64::from(year_of_era) + era * 400 + i64::from(month <= 2);
    if !(0..=9999).contains(&year) {
        let _ = write!(out, "{at}");
        return;
    }
    let year = small(year);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], day);
    digits(&mut text[11..13], of_day / 3_600_000);
    digits(&mut text[14..16], of_day / 60_000 % 60);
    digits(&mut text[17..19], of_day / 1_000 % 60);
    digits(&mut text[20..23], of_day % 1_000);
    out.extend_from_slice(&text);
}

fn digits(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn instants_are_written_as_they_are_displayed(millis in -62_000_000_000_000_i64..253_402_300_799_999) {
            let at = EventTime::from_millis(millis);
            let mut out = Vec::new();
            put_instant(&mut out, at);
            prop_assert_eq!(String::from_utf8(out).expect("digits"), at.to_string());
        }

        #[test]
        fn any_text_is_a_json_string(text in any::<String>()) {
            let mut out = Vec::new();
            put_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("valid JSON"), text);
        }
    }
}
