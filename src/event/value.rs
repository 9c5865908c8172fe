//! What a field was given as, and what it means: the raw text of a JSON value, or a header's text. Raw text keeps
//! numbers as written (an id of 30 digits stays itself) and costs nothing until somebody looks.

use std::borrow::Cow;

use super::rules::{EventRules, FilterValue};

/// A value as found in a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Given<'a> {
    /// Nowhere.
    #[default]
    Absent,
    /// The text of one syntactically valid JSON value, without surrounding whitespace.
    Json(&'a str),
    /// Plain text, from a header.
    Text(&'a str),
}

/// A value by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    /// Absent or null.
    Missing,
    /// A string.
    Text(Cow<'a, str>),
    /// A number, as written.
    Number(&'a str),
    /// A string that is no Unicode text (an escaped half of a surrogate pair).
    Broken,
    /// `true`, `false`, an array or an object.
    Other,
}

/// A value that cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

impl<'a> Given<'a> {
    pub(super) fn scalar(self) -> Scalar<'a> {
        let raw = match self {
            Self::Absent => return Scalar::Missing,
            Self::Text(text) => return Scalar::Text(Cow::Borrowed(text)),
            Self::Json(raw) => raw,
        };
        match raw.as_bytes() {
            [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Scalar::Text(Cow::Borrowed(&raw[1..raw.len() - 1])),
            [b'"', ..] => serde_json::from_str(raw).map_or(Scalar::Broken, |text| Scalar::Text(Cow::Owned(text))),
            [b'-' | b'0'..=b'9', ..] => Scalar::Number(raw),
            b"null" => Scalar::Missing,
            _ => Scalar::Other,
        }
    }

    /// Whether the record says exactly `false` here.
    pub(super) fn is_false(self) -> bool {
        self == Self::Json("false")
    }

    /// Whether the value equals a filter's.
    pub(super) fn equals(self, filter: &FilterValue) -> bool {
        match (filter, self.scalar()) {
            (FilterValue::Text(expected), Scalar::Text(text)) => *expected == text,
            (FilterValue::Integer(expected), Scalar::Number(raw)) => match raw.parse::<i64>() {
                Ok(number) => number == *expected,
                #[expect(clippy::cast_precision_loss, clippy::float_cmp, reason = "equality of JSON numbers is meant")]
                Err(_) => raw.parse::<f64>().is_ok_and(|number| number == *expected as f64),
            },
            #[expect(clippy::float_cmp, reason = "equality of JSON numbers is meant")]
            (FilterValue::Float(expected), Scalar::Number(raw)) => {
                raw.parse::<f64>().is_ok_and(|number| number == *expected)
            }
            (FilterValue::Boolean(expected), Scalar::Other) => {
                self == Self::Json(if *expected { "true" } else { "false" })
            }
            _ => false,
        }
    }

    /// The value as compact JSON text to keep with the user, if there is one. It is refused when longer than
    /// [`EventRules::MAX_TRACKED_VALUE`], or such that common JSON parsers refuse it (numbers beyond a double, halves
    /// of surrogate pairs): it goes into every transition of the user, and must not make those unreadable.
    pub(super) fn tracked(self) -> Option<Result<Cow<'a, str>, Refused>> {
        let Self::Json(raw) = self else { return None };
        let compact = match raw.as_bytes()[0] {
            b'{' | b'[' => compact(raw),
            _ => Cow::Borrowed(raw),
        };
        if compact.len() > EventRules::MAX_TRACKED_VALUE {
            return Some(Err(Refused));
        }
        let plainly_fine = match raw.as_bytes() {
            [b'"', inner @ ..] => !inner.contains(&b'\\'),
            [b'-' | b'0'..=b'9', ..] => raw.len() <= 15 && !raw.contains(['e', 'E']),
            [b'{' | b'[', ..] => false,
            _ => true,
        };
        let usable = plainly_fine || serde_json::from_str::<serde_json::Value>(&compact).is_ok();
        Some(if usable { Ok(compact) } else { Err(Refused) })
    }
}

/// JSON text without the whitespace between its tokens.
fn compact(raw: &str) -> Cow<'_, str> {
    if !raw.contains([' ', '\n', '\r', '\t']) {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in raw.chars() {
        if in_string {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_string = false,
                _ => {}
            }
        } else if matches!(character, ' ' | '\n' | '\r' | '\t') {
            continue;
        } else if character == '"' {
            in_string = true;
        }
        text.push(character);
    }
    Cow::Owned(text)
}

/// Whether arrays and objects nest deeper than [`EventRules::MAX_DEPTH`]. For text that is no JSON the answer may be
/// either.
pub(super) fn too_deep(text: &str) -> bool {
    // Nearly every record has fewer brackets than levels allowed, and counting bytes is almost free.
    let openings = text.bytes().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if openings <= EventRules::MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > EventRules::MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scalars_by_type() {
        let text = |text: &'static str| Scalar::Text(Cow::Borrowed(text));
        let cases = [
            (Given::Absent, Scalar::Missing),
            (Given::Json("null"), Scalar::Missing),
            (Given::Json("\"\""), text("")),
            (Given::Json("\"a b\""), text("a b")),
            (Given::Json(r#""\u0061\"""#), text("a\"")),
            (Given::Json(r#""\ud83d\ude00""#), text("\u{1f600}")),
            (Given::Json(r#""\ud83d""#), Scalar::Broken),
            (Given::Json("123456789012345678901234567890"), Scalar::Number("123456789012345678901234567890")),
            (Given::Json("-1.50"), Scalar::Number("-1.50")),
            (Given::Json("true"), Scalar::Other),
            (Given::Json("[]"), Scalar::Other),
            (Given::Json("{}"), Scalar::Other),
            (Given::Text("null"), text("null")),
        ];
        for (given, expected) in cases {
            assert_eq!(given.scalar(), expected, "{given:?}");
        }
    }

    #[test]
    fn filters_compare_values_not_spellings() {
        let pro = FilterValue::Text("pro".to_owned());
        let cases = [
            (r#""pro""#, &pro, true),
            (r#""\u0070ro""#, &pro, true),
            (r#""Pro""#, &pro, false),
            ("null", &pro, false),
            ("1", &FilterValue::Integer(1), true),
            ("1.0", &FilterValue::Integer(1), true),
            ("1e0", &FilterValue::Integer(1), true),
            ("1.5", &FilterValue::Integer(1), false),
            ("9007199254740993", &FilterValue::Integer(9_007_199_254_740_992), false),
            ("\"1\"", &FilterValue::Integer(1), false),
            ("2.50", &FilterValue::Float(2.5), true),
            ("true", &FilterValue::Boolean(true), true),
            ("false", &FilterValue::Boolean(true), false),
            ("\"true\"", &FilterValue::Boolean(true), false),
        ];
        for (raw, filter, expected) in cases {
            assert_eq!(Given::Json(raw).equals(filter), expected, "{raw} = {filter:?}");
        }
    }

    #[test]
    fn tracked_values_are_compact_bounded_and_readable_by_all() {
        let long = format!("\"{}\"", "x".repeat(1022));
        let longer = format!("\"{}\"", "x".repeat(1023));
        let airy = format!("[{}1]", " ".repeat(5000));
        let cases = [
            ("\"pro\"", Some("\"pro\"")),
            ("null", Some("null")),
            ("1.50", Some("1.50")),
            ("1e3", Some("1e3")),
            ("1e999", None),
            (r#""\ud800""#, None),
            (r#"["\udc00"]"#, None),
            ("{ \"a b\" :\t[1, \"x \\\" y\"],\n\"c\": null }", Some("{\"a b\":[1,\"x \\\" y\"],\"c\":null}")),
            (&long, Some(&*long)),
            (&longer, None),
            (&airy, Some("[1]")),
        ];
        for (raw, expected) in cases {
            let tracked = Given::Json(raw).tracked().expect("it is there");
            assert_eq!(tracked.as_deref(), expected.ok_or(&Refused), "{raw}");
        }
        assert_eq!(Given::Absent.tracked(), None);
    }

    #[test]
    fn brackets_inside_strings_are_no_depth() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(!too_deep(&nested(64)));
        assert!(too_deep(&nested(65)));
        assert!(!too_deep(&format!("{{\"a\":\"{}\\\"{}\"}}", "[".repeat(200), "{".repeat(200))));
        assert!(!too_deep(&format!("[{}1]", "[],".repeat(200))));
    }

    proptest! {
        #[test]
        fn compact_says_the_same(value in r#"[a-z" \\\\\n\t{}\[\]]{0,40}"#) {
            let value = serde_json::json!({ &*value: [value, 1, null] });
            let pretty = serde_json::to_string_pretty(&value).expect("serializes");
            prop_assert_eq!(compact(&pretty), value.to_string());
        }
    }
}
