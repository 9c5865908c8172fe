//! The parts of a record that matter, as a tree of keys; reading follows the tree and skips everything else. One pass,
//! nothing copied, no tree of values.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::value::Given;

/// Where the wanted values stand. Each place has one or more slots; a read fills the slots of the places it meets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    root: Node,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    key: Box<str>,
    /// The key as a place in an array, where it is one.
    index: Option<usize>,
    /// Filled with this very value.
    slots: Vec<usize>,
    /// The slots of this node and of all below it: emptied when the value comes up again under the same key, because
    /// of duplicate keys the last one counts, whole.
    subtree: Vec<usize>,
    children: Vec<Node>,
}

/// Why a text is no JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PointerProblem {
    #[error("a JSON pointer begins with `/`, such as `/properties/user`")]
    NoSlash,
    #[error("in a JSON pointer `~` stands only in `~0` (for `~`) and `~1` (for `/`)")]
    BadEscape,
}

/// The keys of a JSON pointer (RFC 6901).
pub(super) fn parse_pointer(pointer: &str) -> Result<Vec<String>, PointerProblem> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let keys = pointer.strip_prefix('/').ok_or(PointerProblem::NoSlash)?;
    keys.split('/').map(unescape_key).collect()
}

fn unescape_key(key: &str) -> Result<String, PointerProblem> {
    let mut parts = key.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (replacement, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            _ => return Err(PointerProblem::BadEscape),
        };
        text.push(replacement);
        text.push_str(rest);
    }
    Ok(text)
}

impl Outline {
    /// Wants the value under these keys (of nested objects; a number also counts into an array) in a slot.
    pub(super) fn want<'k>(&mut self, keys: impl IntoIterator<Item = &'k str>, slot: usize) {
        let mut node = &mut self.root;
        node.subtree.push(slot);
        for key in keys {
            let at = node.children.iter().position(|child| *child.key == *key).unwrap_or_else(|| {
                let index = key.parse().ok().filter(|index: &usize| index.to_string() == key);
                node.children.push(Node { key: key.into(), index, ..Node::default() });
                node.children.len() - 1
            });
            node = &mut node.children[at];
            node.subtree.push(slot);
        }
        node.slots.push(slot);
    }

    /// Fills the slots from the text of one JSON value. Slots of places that are not there are left alone.
    ///
    /// # Errors
    /// When the text is not exactly one JSON value.
    ///
    /// # Panics
    /// When there are fewer slots than were wanted.
    pub(super) fn read<'a>(&self, text: &'a str, slots: &mut [Given<'a>]) -> Result<(), serde_json::Error> {
        let mut input = serde_json::Deserializer::from_str(text);
        Walk { node: &self.root, slots }.deserialize(&mut input)?;
        input.end()
    }
}

/// Reads one value that stands at a node.
struct Walk<'n, 's, 'a> {
    node: &'n Node,
    slots: &'s mut [Given<'a>],
}

impl<'a> DeserializeSeed<'a> for Walk<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<(), D::Error> {
        let Self { node, slots } = self;
        if node.children.is_empty() {
            let raw: &'a RawValue = serde::Deserialize::deserialize(input)?;
            for slot in &node.slots {
                slots[*slot] = Given::Json(raw.get());
            }
            return Ok(());
        }
        for slot in &node.subtree {
            slots[*slot] = Given::Absent;
        }
        if node.slots.is_empty() {
            return input.deserialize_any(Walk { node, slots });
        }
        // Wanted both whole and in part, such as a tracked object that holds the user id: read the part again.
        let raw: &'a RawValue = serde::Deserialize::deserialize(input)?;
        for slot in &node.slots {
            slots[*slot] = Given::Json(raw.get());
        }
        serde_json::Deserializer::from_str(raw.get()).deserialize_any(Walk { node, slots }).map_err(D::Error::custom)
    }
}

impl<'a> Visitor<'a> for Walk<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(ChildOf(self.node))? {
            match child {
                Some(node) => map.next_value_seed(Walk { node, slots: &mut *self.slots })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0_usize.. {
            let met = match self.node.children.iter().find(|child| child.index == Some(index)) {
                Some(node) => items.next_element_seed(Walk { node, slots: &mut *self.slots })?.is_some(),
                None => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !met {
                break;
            }
        }
        Ok(())
    }

    // Anything else has no parts, so nothing that is wanted below it is there.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

/// Reads a key and finds the node it leads to.
struct ChildOf<'n>(&'n Node);

impl<'a, 'n> DeserializeSeed<'a> for ChildOf<'n> {
    type Value = Option<&'n Node>;

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_str(self)
    }
}

impl<'n> Visitor<'_> for ChildOf<'n> {
    type Value = Option<&'n Node>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.children.iter().find(|child| *child.key == *key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(pointers: &[&str], text: &'a str) -> Vec<Option<&'a str>> {
        let mut outline = Outline::default();
        for (slot, pointer) in pointers.iter().enumerate() {
            let keys = parse_pointer(pointer).expect("a pointer");
            outline.want(keys.iter().map(String::as_str), slot);
        }
        let mut slots = vec![Given::Absent; pointers.len()];
        outline.read(text, &mut slots).expect("JSON");
        slots.into_iter().map(|given| if let Given::Json(raw) = given { Some(raw) } else { None }).collect()
    }

    #[test]
    fn values_are_found_by_pointer_and_kept_as_written() {
        let text = r#" {"a": {"b" : 1.50, "c": [10, {"d": "x"}]}, "e/f": true, "g~": null, "": 7, "z": {"a": 1}} "#;
        let cases = [
            (&["/a/b"][..], vec![Some("1.50")]),
            (&["/a/c/1/d", "/a/c/0", "/a/c/2"], vec![Some("\"x\""), Some("10"), None]),
            (&["/e~1f", "/g~0", "/"], vec![Some("true"), Some("null"), Some("7")]),
            (&["/a/b", "/a/b"], vec![Some("1.50"), Some("1.50")]),
            (&["/z", "/z/a"], vec![Some("{\"a\": 1}"), Some("1")]),
            (&["/a/b/c", "/e~1f/x", "/none"], vec![None, None, None]),
        ];
        for (pointers, expected) in cases {
            assert_eq!(read(pointers, text), expected, "{pointers:?}");
        }
    }

    #[test]
    fn of_duplicate_keys_the_last_counts_whole() {
        assert_eq!(read(&["/a"], r#"{"a":1,"a":2}"#), [Some("2")]);
        assert_eq!(read(&["/a/b", "/a/c"], r#"{"a":{"b":1},"a":{"c":2}}"#), [None, Some("2")]);
        assert_eq!(read(&["/a/b"], r#"{"a":{"b":1},"a":"x"}"#), [None]);
        assert_eq!(read(&["/a"], r#"{"\u0061":1}"#), [Some("1")]);
    }

    #[test]
    fn a_pointer_begins_with_a_slash() {
        assert_eq!(parse_pointer("a"), Err(PointerProblem::NoSlash));
        assert_eq!(parse_pointer("/a~2"), Err(PointerProblem::BadEscape));
        assert_eq!(parse_pointer("/a~"), Err(PointerProblem::BadEscape));
        assert_eq!(parse_pointer("/~01"), Ok(vec!["~1".to_owned()]));
        assert_eq!(parse_pointer(""), Ok(Vec::new()));
    }
}
