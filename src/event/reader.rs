//! One record read by one preset's table: the values it has, and which of them are the fields of the event. How the
//! fields are judged is the decoder's.

use std::borrow::Cow;

use super::outline::{Outline, parse_pointer};
use super::preset::{Layout, Place};
use super::rules::EventRules;
use super::value::{Given, Scalar, too_deep};
use super::{RejectReason, Rejection, timestamp};
use crate::time::EventTime;

/// A preset's table with a slot for each place, and the outline that fills the slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader {
    outline: Outline,
    headers: Vec<(&'static str, usize)>,
    slots: usize,
    user: Vec<usize>,
    name: Vec<usize>,
    time: Vec<usize>,
    id: Vec<usize>,
    kind: Option<usize>,
    acting: Option<usize>,
    /// For each object with properties: the slot of the first wanted one, and the kind of call that it is not for.
    properties: Vec<(usize, Option<&'static str>)>,
    naming_kinds: &'static [&'static str],
    profile_kinds: &'static [&'static str],
    profile_names: &'static [&'static str],
}

/// The properties that somebody asks for: the tracked ones first, by their index.
pub(super) struct Wanted(Vec<String>);

/// The values that a record has, by slot.
pub(super) struct Found<'r, 'a> {
    reader: &'r Reader,
    slots: &'r [Given<'a>],
    kind: Option<Cow<'a, str>>,
}

impl Wanted {
    /// The tracked properties, which keep their index.
    pub(super) const fn new(tracked: Vec<String>) -> Self {
        Self(tracked)
    }

    /// The index of a property, wanted from now on.
    pub(super) fn index(&mut self, property: &str) -> usize {
        self.0.iter().position(|wanted| wanted == property).unwrap_or_else(|| {
            self.0.push(property.to_owned());
            self.0.len() - 1
        })
    }
}

impl Reader {
    pub(super) fn new(layout: &Layout, wanted: &Wanted) -> Self {
        let mut reader = Self { profile_names: layout.profile_names, ..Self::default() };
        let mut places = |places: &[Place]| places.iter().map(|place| reader.place(place)).collect::<Vec<_>>();
        let (user, name, time, id) =
            (places(&layout.user), places(&layout.name), places(&layout.time), places(&layout.id));
        (reader.user, reader.name, reader.time, reader.id) = (user, name, time, id);
        if let Some(kinds) = &layout.kind {
            reader.kind = Some(reader.place(&kinds.place));
            reader.naming_kinds = kinds.naming;
            reader.profile_kinds = kinds.profile;
        }
        reader.acting = layout.acting.as_ref().map(|place| reader.place(place));
        for source in &layout.properties {
            let first = reader.slots;
            let keys = parse_pointer(&source.pointer).expect("pointers were checked");
            for property in &wanted.0 {
                reader.outline.want(keys.iter().map(String::as_str).chain([property.as_str()]), reader.slots);
                reader.slots += 1;
            }
            reader.properties.push((first, source.not_in_kind));
        }
        reader
    }

    fn place(&mut self, place: &Place) -> usize {
        let slot = self.slots;
        self.slots += 1;
        match place {
            Place::Header(name) => self.headers.push((name, slot)),
            Place::Json(pointer) => {
                let keys = parse_pointer(pointer).expect("pointers were checked");
                self.outline.want(keys.iter().map(String::as_str), slot);
            }
        }
        slot
    }

    /// How many slots a read needs, all of them absent at first.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Fills the slots of headers.
    pub(super) fn fill<'a>(&self, headers: &[(&'a str, &'a [u8])], slots: &mut [Given<'a>]) -> Result<(), Rejection> {
        for (wanted, slot) in &self.headers {
            if let Some((_, value)) = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)) {
                let text = str::from_utf8(value).map_err(|_| malformed(format!("header {wanted} is not UTF-8")))?;
                slots[*slot] = Given::Text(text);
            }
        }
        Ok(())
    }

    /// Fills the slots of the record's value, which must be a JSON object, or any JSON value at all.
    pub(super) fn parse<'a>(&self, value: &'a [u8], any_value: bool, slots: &mut [Given<'a>]) -> Result<(), Rejection> {
        // Once for all: broken UTF-8 anywhere makes the record malformed, and parsing need not look again.
        let text = str::from_utf8(value).map_err(|error| malformed(format!("value is not UTF-8: {error}")))?;
        let first = text.bytes().find(|byte| !matches!(byte, b' ' | b'\n' | b'\r' | b'\t'));
        match first {
            None => return Err(malformed("value is empty")),
            Some(b'{') => {}
            Some(_) if any_value => {}
            Some(_) => return Err(malformed("value is not a JSON object")),
        }
        if too_deep(text) {
            return Err(malformed(format!("value nests deeper than {} levels", EventRules::MAX_DEPTH)));
        }
        self.outline.read(text, slots).map_err(|error| malformed(format!("value is not JSON: {error}")))
    }
}

impl<'r, 'a> Found<'r, 'a> {
    pub(super) fn new(reader: &'r Reader, slots: &'r [Given<'a>]) -> Self {
        let kind = reader.kind.and_then(|slot| match slots[slot].scalar() {
            Scalar::Text(kind) => Some(kind),
            _ => None,
        });
        Self { reader, slots, kind }
    }

    /// The first string that is not blank, or number as written.
    fn first_text(&self, slots: &[usize], what: &str) -> Result<Option<Cow<'a, str>>, Rejection> {
        for slot in slots {
            match self.slots[*slot].scalar() {
                Scalar::Text(text) if !is_blank(&text) => return Ok(Some(text)),
                Scalar::Number(raw) => return Ok(Some(Cow::Borrowed(raw))),
                Scalar::Broken => return Err(malformed(format!("{what} is no Unicode text"))),
                Scalar::Text(_) | Scalar::Missing | Scalar::Other => {}
            }
        }
        Ok(None)
    }

    pub(super) fn user(&self) -> Result<Option<Cow<'a, str>>, Rejection> {
        self.first_text(&self.reader.user, "user id")
    }

    pub(super) fn id(&self) -> Result<Option<Cow<'a, str>>, Rejection> {
        self.first_text(&self.reader.id, "id")
    }

    pub(super) fn name(&self) -> Result<Cow<'a, str>, Rejection> {
        let mut given = None;
        for slot in &self.reader.name {
            match self.slots[*slot].scalar() {
                Scalar::Text(text) if !is_blank(&text) => {
                    given = Some(text);
                    break;
                }
                Scalar::Broken => return Err(malformed("event name is no Unicode text")),
                Scalar::Text(_) | Scalar::Number(_) | Scalar::Missing | Scalar::Other => {}
            }
        }
        let naming_kind = || self.kind.clone().filter(|kind| self.reader.naming_kinds.contains(&&**kind));
        let Some(name) = given.or_else(naming_kind) else {
            return Err(Rejection::new(RejectReason::NoName, "no event name that is a non-blank string"));
        };
        if name.len() > EventRules::MAX_NAME {
            let message = format!("event name has {} bytes, at most {} are allowed", name.len(), EventRules::MAX_NAME);
            return Err(Rejection::new(RejectReason::TooLarge, message));
        }
        Ok(name)
    }

    pub(super) fn time(&self) -> Result<EventTime, Rejection> {
        let mut message = "no time that is a string or a number";
        for slot in &self.reader.time {
            let time = match self.slots[*slot].scalar() {
                Scalar::Text(text) => timestamp::from_text(&text),
                Scalar::Number(raw) => timestamp::from_number(raw),
                Scalar::Missing => continue,
                Scalar::Broken | Scalar::Other => None,
            };
            if let Some(time) = time {
                return Ok(time);
            }
            message = "time is neither RFC 3339, `YYYY-MM-DD HH:MM:SS[.f]`, nor seconds or milliseconds since 1970";
        }
        Err(Rejection::new(RejectReason::NoTime, message))
    }

    /// A wanted property, from the first object that has it.
    pub(super) fn property(&self, wanted: usize) -> Given<'a> {
        for (first, not_in_kind) in &self.reader.properties {
            let given = self.slots[first + wanted];
            if given != Given::Absent && (not_in_kind.is_none() || *not_in_kind != self.kind.as_deref()) {
                return given;
            }
        }
        Given::Absent
    }

    pub(super) fn campaign(&self, property: usize) -> Option<Cow<'a, str>> {
        let campaign = match self.property(property).scalar() {
            Scalar::Text(text) => text,
            Scalar::Number(raw) => Cow::Borrowed(raw),
            Scalar::Missing | Scalar::Broken | Scalar::Other => return None,
        };
        (!is_blank(&campaign) && campaign.len() <= EventRules::MAX_CAMPAIGN).then_some(campaign)
    }

    pub(super) fn only_updates_profile(&self, name: &str) -> bool {
        self.reader.profile_names.contains(&name)
            || self.kind.as_deref().is_some_and(|kind| self.reader.profile_kinds.contains(&kind))
            || self.reader.acting.is_some_and(|slot| self.slots[slot].is_false())
    }
}

fn is_blank(text: &str) -> bool {
    text.trim_ascii().is_empty()
}

fn malformed(message: impl Into<String>) -> Rejection {
    Rejection::new(RejectReason::Malformed, message)
}
