//! Names of events, each held once for a whole shard: products have a few dozen of them, and every user keeps the latest.

use std::ops::Deref;
use std::sync::Arc;

use rustc_hash::FxHashMap;

/// How many names a list takes at most.
pub const NAMES_MAX: usize = 512;
/// Bytes of text that a list takes at most: the list is a part of the shard's record, which each commit writes.
pub const NAMES_BYTES_MAX: usize = 4_096;

/// An event's name. One that is listed is a reference to the list's; another one has its own text.
#[derive(Clone)]
pub struct Name(Arc<Named>);

struct Named {
    place: Option<u16>,
    text: Box<str>,
}

impl Name {
    /// The place in the list that it came from; `None` when it is not listed.
    #[must_use]
    pub fn place(&self) -> Option<u16> {
        self.0.place
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(Arc::new(Named { place: None, text: text.into() }))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.text
    }
}

/// Names are equal when their texts are, listed or not.
impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.text == other.0.text
    }
}

impl Eq for Name {}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.text.fmt(f)
    }
}

/// The names of one shard, in the order in which they came. Places stay what they are: names are only ever added, until
/// the list is full; what comes afterwards is held beside it.
#[derive(Clone, Debug, Default)]
pub struct Names {
    list: Vec<Name>,
    places: FxHashMap<Box<str>, u16>,
    bytes: usize,
}

impl Names {
    /// Whether one more name is taken.
    #[must_use]
    pub fn has_room_for(&self, text: &str) -> bool {
        self.list.len() < NAMES_MAX && self.bytes + text.len() <= NAMES_BYTES_MAX
    }

    /// Lists `text` if it is not listed yet and there is room; says whether it did.
    pub fn list(&mut self, text: &str) -> bool {
        let Ok(place) = u16::try_from(self.list.len()) else { return false };
        if !self.has_room_for(text) || self.places.contains_key(text) {
            return false;
        }
        self.list.push(Name(Arc::new(Named { place: Some(place), text: text.into() })));
        self.places.insert(text.into(), place);
        self.bytes += text.len();
        true
    }

    /// The name at a place.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<&Name> {
        self.list.get(place)
    }

    /// The listed name with this text.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<&Name> {
        self.places.get(text).map(|place| &self.list[usize::from(*place)])
    }

    /// How many are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether none is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Those listed, by place.
    pub fn iter(&self) -> impl Iterator<Item = &Name> {
        self.list.iter()
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Names {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_listed_once_and_keeps_its_place() {
        let mut names = Names::default();
        assert!(names.list("opened") && names.list("closed") && !names.list("opened"));
        let opened = names.find("opened").expect("it is listed");
        assert_eq!((opened.place(), &**opened), (Some(0), "opened"));
        assert_eq!(names.get(1).and_then(Name::place), Some(1));
        assert_eq!((names.find("other"), names.get(2), names.len()), (None, None, 2));
        assert_eq!(*opened, Name::from("opened"));
    }

    #[test]
    fn a_full_list_takes_no_more() {
        let mut many = Names::default();
        assert_eq!((0..2 * NAMES_MAX).filter(|number| many.list(&number.to_string())).count(), NAMES_MAX);
        let mut long = Names::default();
        let listed = (0..64).filter(|number| long.list(&format!("{number:0>256}"))).count();
        assert_eq!(listed, NAMES_BYTES_MAX / 256);
        assert!(long.list("") && !long.list("x"));
    }
}
