//! The records that others read: transitions, current states and dead letters (SPEC section 5; `schemas/`).
//!
//! Written by hand into one buffer each, because a storm of timers writes hundreds of thousands a second. The order of
//! the fields is part of the contract.

use std::io::Write as _;

use crate::event::{Record, Rejection};
use crate::lifecycle::{Change, Kind, Sink, State, User};
use crate::rules::Rules;
use crate::shard::effect::{Effects, Headers, Output, Topic};
use crate::time::{DAY_MS, EventTime, WallTime};

/// Room for an ordinary transition, so that writing one allocates once.
const TRANSITION_BYTES: usize = 768;
const STATE_BYTES: usize = 512;
const HEADER_BYTES: usize = 256;

/// What the records say beside the user: who writes them, and when.
#[derive(Debug)]
pub(crate) struct Writer {
    /// `/ebbtide/<group>/<partition>`.
    source: String,
    topic: String,
    partition: String,
    /// By place in the shard record's list: the property's name as a JSON string; `None` when it is no longer tracked.
    properties: Vec<Option<String>>,
}

/// Takes the changes of one user, and adds them to the effects.
pub(crate) struct Recorder<'a> {
    pub(crate) out: &'a mut Effects,
    pub(crate) rules: &'a Rules,
    pub(crate) writer: &'a Writer,
    pub(crate) now: WallTime,
}

impl Writer {
    pub(crate) fn new(rules: &Rules, partition: i32, properties: &[String]) -> Self {
        let json = |name: &String| rules.track.contains(name).then(|| serde_json::Value::from(name.as_str()).to_string());
        Self {
            source: format!("/ebbtide/{}/{partition}", rules.origin.group),
            topic: rules.origin.topic.clone(),
            partition: partition.to_string(),
            properties: properties.iter().map(json).collect(),
        }
    }

    /// The record unchanged, with what was wrong with it.
    pub(crate) fn dead_letter(&self, record: &Record<'_>, rejection: &Rejection) -> Output {
        let mut headers = Headers::with_capacity(5 + record.headers.len(), HEADER_BYTES);
        headers.push("ebbtide_reason", rejection.reason.as_str().as_bytes());
        headers.push("ebbtide_message", rejection.message.as_bytes());
        headers.push("ebbtide_topic", self.topic.as_bytes());
        headers.push("ebbtide_partition", self.partition.as_bytes());
        headers.push_with("ebbtide_offset", |bytes| put_number(bytes, record.offset));
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

    fn put_properties(&self, out: &mut Vec<u8>, user: &User) {
        out.push(b'{');
        let mut first = true;
        for (place, value) in &user.properties {
            let Some(Some(name)) = self.properties.get(usize::from(*place)) else { continue };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            out.extend_from_slice(value.as_bytes());
        }
        out.push(b'}');
    }
}

impl Recorder<'_> {
    fn transition(&self, user_id: &str, user: &User, change: &Change) -> Output {
        let mut json = Object::new(TRANSITION_BYTES);
        json.name("id");
        json.text_and(user_id, change.seq);
        json.name("seq");
        put_number(&mut json.bytes, change.seq);
        json.text("user_id", user_id);
        json.code("from", change.from.map(State::as_str));
        json.code("to", change.to.map(State::as_str));
        json.code("kind", Some(change.kind.as_str()));
        json.code("reason", Some(change.reason.as_str()));
        json.time("effective_at", Some(change.effective_at));
        json.time("detected_at", Some(self.now.as_event_time()));
        let life = user.life.as_ref();
        json.time("first_active_at", life.map(|life| life.first_active));
        json.time("last_active_at", life.map(|life| life.last_active));
        json.time("activated_at", life.and_then(|life| life.activated_at));
        json.float("idle_days", user.idle_days(change.effective_at));
        self.totals(&mut json, user);
        if self.rules.policy.survival.is_some() {
            json.float("p_alive", user.p_alive(change.effective_at, &self.rules.policy));
        }
        json.time("previous_since", change.previous_since);
        if change.kind == Kind::Reactivated {
            json.float("away_days", change.away_since.map(|since| (change.effective_at - since).as_days()));
            json.code("away_from", change.from.map(State::as_str));
        }
        let mut headers = Headers::with_capacity(6, HEADER_BYTES);
        headers.push("ce_specversion", b"1.0");
        headers.push("ce_type", b"ebbtide.transition.v1");
        headers.push("ce_source", self.writer.source.as_bytes());
        headers.push_with("ce_id", |bytes| {
            bytes.extend_from_slice(user_id.as_bytes());
            bytes.push(b':');
            put_number(bytes, change.seq);
        });
        headers.push_with("ce_time", |bytes| put_time(bytes, change.effective_at));
        headers.push("content-type", b"application/json");
        Output {
            topic: Topic::Transitions,
            key: Some(user_id.as_bytes().to_vec()),
            value: Some(json.end()),
            headers,
        }
    }

    fn state(&self, user_id: &str, user: &User, change: &Change) -> Output {
        let value = change.to.and(user.life.as_ref()).map(|life| {
            let mut json = Object::new(STATE_BYTES);
            json.text("user_id", user_id);
            json.code("state", Some(life.state.as_str()));
            json.time("since", Some(life.since));
            json.code("reason", Some(life.reason.as_str()));
            json.name("activated");
            json.bytes.extend_from_slice(if life.activated_at.is_some() { b"true" } else { b"false" });
            json.name("seq");
            put_number(&mut json.bytes, user.seq);
            json.time("first_active_at", Some(life.first_active));
            json.time("last_active_at", Some(life.last_active));
            json.time("activated_at", life.activated_at);
            self.totals(&mut json, user);
            json.name("segments");
            json.bytes.extend_from_slice(b"[]");
            json.time("next_deadline_at", user.next_deadline(&self.rules.policy));
            json.time("updated_at", Some(self.now.as_event_time()));
            json.end()
        });
        Output { topic: Topic::States, key: Some(user_id.as_bytes().to_vec()), value, headers: Headers::default() }
    }

    /// The fields that transitions and states share, in their order.
    fn totals(&self, json: &mut Object, user: &User) {
        let (total, core) = user.life.as_ref().map_or((0, 0), |life| (life.total_events, life.core_actions));
        json.name("total_events");
        put_number(&mut json.bytes, total);
        json.name("core_actions");
        put_number(&mut json.bytes, core);
        json.name("last_events");
        json.bytes.push(b'[');
        for (place, name) in user.life.iter().flat_map(|life| &life.last_events).enumerate() {
            if place > 0 {
                json.bytes.push(b',');
            }
            put_string(&mut json.bytes, name);
        }
        json.bytes.push(b']');
        json.name("properties");
        self.writer.put_properties(&mut json.bytes, user);
    }
}

impl Sink for Recorder<'_> {
    fn change(&mut self, user_id: &str, user: &User, change: &Change) {
        let (transition, state) = (self.transition(user_id, user, change), self.state(user_id, user, change));
        self.out.outputs.extend([transition, state]);
        self.out.counts.transition(change.from, change.to, change.reason);
        if let Some(since) = change.away_since {
            self.out.counts.away.push(change.effective_at - since);
        }
    }
}

/// A JSON object under construction.
struct Object {
    bytes: Vec<u8>,
}

impl Object {
    fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(b'{');
        Self { bytes }
    }

    /// A field's name; one of ours, so nothing in it needs escaping.
    fn name(&mut self, name: &str) {
        if self.bytes.len() > 1 {
            self.bytes.push(b',');
        }
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        put_string(&mut self.bytes, value);
    }

    /// `"<text>:<number>"`.
    fn text_and(&mut self, text: &str, number: u64) {
        put_string(&mut self.bytes, text);
        self.bytes.pop();
        self.bytes.push(b':');
        put_number(&mut self.bytes, number);
        self.bytes.push(b'"');
    }

    /// One of our own codes, or null.
    fn code(&mut self, name: &str, value: Option<&str>) {
        self.name(name);
        self.value_or_null(value, |bytes, code| {
            bytes.push(b'"');
            bytes.extend_from_slice(code.as_bytes());
            bytes.push(b'"');
        });
    }

    fn time(&mut self, name: &str, value: Option<EventTime>) {
        self.name(name);
        self.value_or_null(value, |bytes, time| {
            bytes.push(b'"');
            put_time(bytes, time);
            bytes.push(b'"');
        });
    }

    fn float(&mut self, name: &str, value: Option<f64>) {
        self.name(name);
        // JSON has no infinities; a number of days or a probability is never one.
        self.value_or_null(value.filter(|value| value.is_finite()), |bytes, value| {
            let _ = write!(bytes, "{value:?}");
        });
    }

    fn value_or_null<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
        match value {
            Some(value) => put(&mut self.bytes, value),
            None => self.bytes.extend_from_slice(b"null"),
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.bytes.push(b'}');
        self.bytes
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("text always becomes JSON, and a vector takes every write");
    }
}

fn put_number(out: &mut Vec<u8>, number: impl std::fmt::Display) {
    let _ = write!(out, "{number}");
}

/// RFC 3339 with milliseconds, as [`EventTime`] prints, several times faster for the years 1 to 9999.
fn put_time(out: &mut Vec<u8>, time: EventTime) {
    let (day, ms) = (time.as_millis().div_euclid(DAY_MS), time.as_millis().rem_euclid(DAY_MS));
    let (year, month, date) = civil(day);
    if !(1..=9999).contains(&year) {
        let _ = write!(out, "{time}");
        return;
    }
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (end, width, value) in [
        (4, 4, year),
        (7, 2, month),
        (10, 2, date),
        (13, 2, ms / 3_600_000),
        (16, 2, ms / 60_000 % 60),
        (19, 2, ms / 1_000 % 60),
        (23, 3, ms % 1_000),
    ] {
        let mut rest = value;
        for digit in text[end - width..end].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).expect("a decimal digit fits a byte");
            rest /= 10;
        }
    }
    out.extend_from_slice(&text);
}

/// Year, month and day of a day number, in the proleptic Gregorian calendar. Years are counted from March, so that the
/// leap day comes last; 400 years have 146,097 days.
const fn civil(day: i64) -> (i64, i64, i64) {
    let from_march = day + 719_468;
    let (era, day_of_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + (month <= 2) as i64, month, date)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_print_as_event_time_prints(ms in prop_oneof![any::<i64>(), -70_000_000_000_000_i64..260_000_000_000_000]) {
            let mut bytes = Vec::new();
            put_time(&mut bytes, EventTime::from_millis(ms));
            prop_assert_eq!(String::from_utf8(bytes).expect("ASCII"), EventTime::from_millis(ms).to_string());
        }

        #[test]
        fn any_text_becomes_a_json_string(text in "\\PC*|[\\x00-\\x7f]*") {
            let mut bytes = Vec::new();
            put_string(&mut bytes, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&bytes).expect("valid JSON"), text);
        }
    }
}
