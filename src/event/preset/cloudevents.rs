//! `cloudevents`: CloudEvents 1.0 over Kafka, in structured mode (one JSON document) and in binary mode (attributes as
//! `ce_` headers, the value is the data).
//!
//! `type` is the name of the event and `data` holds the properties. The user is `data.user_id` where there is one,
//! because it can mean nothing else, and otherwise the `subject`. `time` is optional to CloudEvents but not to us;
//! `data.time` is its substitute.

use super::{Layout, Place, json, source};
use crate::event::Record;

/// How a record carries the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::event) enum Mode {
    /// The value is the whole event, as JSON.
    Structured,
    /// Attributes in headers; the value is the data, and whether that is JSON.
    Binary { json: bool },
    /// Several events in one record, which the Kafka binding does not have.
    Batch,
}

pub(in crate::event) fn structured() -> Layout {
    Layout {
        user: vec![json("/data/user_id"), json("/subject")],
        name: vec![json("/type")],
        time: vec![json("/time"), json("/data/time")],
        id: vec![json("/id")],
        properties: vec![source("/data")],
        ..Layout::default()
    }
}

pub(in crate::event) fn binary() -> Layout {
    Layout {
        user: vec![json("/user_id"), Place::Header("ce_subject")],
        name: vec![Place::Header("ce_type")],
        time: vec![Place::Header("ce_time"), json("/time")],
        id: vec![Place::Header("ce_id")],
        properties: vec![source("")],
        ..Layout::default()
    }
}

/// The mode, as the Kafka protocol binding tells it: by the content type, else by the presence of attributes.
pub(in crate::event) fn mode(record: &Record<'_>) -> Mode {
    let header = |wanted: &str| record.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let content_type = header("content-type").map_or(&b""[..], |(_, value)| value).trim_ascii_start();
    let begins =
        |prefix: &[u8]| content_type.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    if begins(b"application/cloudevents-batch") {
        Mode::Batch
    } else if begins(b"application/cloudevents") || header("ce_specversion").or_else(|| header("ce_type")).is_none() {
        Mode::Structured
    } else {
        Mode::Binary { json: content_type.is_empty() || is_json(content_type) }
    }
}

/// `application/json`, `text/json` and everything ending in `+json`, parameters aside.
fn is_json(content_type: &[u8]) -> bool {
    let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    let (_, subtype) = media_type.split_at(media_type.iter().position(|byte| *byte == b'/').map_or(0, |at| at + 1));
    let suffix = subtype.len().checked_sub(5).map_or(&b""[..], |at| &subtype[at..]);
    subtype.eq_ignore_ascii_case(b"json") || suffix.eq_ignore_ascii_case(b"+json")
}

#[cfg(test)]
mod tests {
    use super::super::table::*;
    use crate::event::{Preset, Record};

    #[test]
    fn structured_mode() {
        check(
            &decoder(rules(Preset::CloudEvents)),
            &[
                (
                    r#"{"specversion":"1.0","id":"c1","source":"/shop","type":"order.placed","subject":"u1","time":"2024-03-01T00:00:00Z","data":{"plan":"pro"}}"#,
                    "u1 | order.placed | +0 | id c1 | activity+activation+core | 0=\"pro\"",
                ),
                (
                    r#"{"specversion":"1.0","id":"c1","type":"order.placed","subject":"orders/9","data":{"user_id":7,"time":1709251200}}"#,
                    "7 | order.placed | +0 | id c1 | activity+activation+core",
                ),
                (
                    r#"{"specversion":"1.0","id":"c1","type":"seen","subject":"u1","time":"2024-03-01T00:00:00Z","data_base64":"AAEC"}"#,
                    "u1 | seen | +0 | id c1 | activity+activation+core",
                ),
                (r#"{"specversion":"1.0","id":"c1","type":"t","time":"2024-03-01T00:00:00Z"}"#, "no_user"),
                (r#"{"specversion":"1.0","id":"c1","subject":"u1","time":"2024-03-01T00:00:00Z"}"#, "no_name"),
                (r#"{"specversion":"1.0","id":"c1","type":"t","subject":"u1"}"#, "no_time"),
            ],
        );
    }

    #[test]
    fn binary_mode() {
        let attributes: &[(&str, &[u8])] = &[
            ("ce_specversion", b"1.0"),
            ("ce_type", b"order.placed"),
            ("ce_id", b"c1"),
            ("ce_source", b"/shop"),
            ("ce_subject", b"u1"),
            ("ce_time", b"2024-03-01T00:00:00Z"),
        ];
        let found = "u1 | order.placed | +0 | id c1 | activity+activation+core";
        let cases: [(&str, &[u8], &str); 10] = [
            ("", b"", found),
            ("application/json", b"", found),
            ("application/json", br#"{"plan":"pro"}"#, &format!("{found} | 0=\"pro\"")),
            ("Application/Vnd.shop+JSON; charset=utf-8", br#"{"plan":"pro"}"#, &format!("{found} | 0=\"pro\"")),
            ("", br#"{"plan":"pro"}"#, &format!("{found} | 0=\"pro\"")),
            ("application/json", b"[1,2]", found),
            ("application/json", b"{", "malformed"),
            ("application/octet-stream", b"\xff\x00{", found),
            ("application/avro", b"", found),
            ("application/cloudevents-batch+json", b"[]", "malformed"),
        ];
        let decoder = decoder(rules(Preset::CloudEvents));
        for (content_type, value, expected) in cases {
            let mut headers = attributes.to_vec();
            if !content_type.is_empty() {
                headers.push(("content-type", content_type.as_bytes()));
            }
            let record = Record { key: None, value: Some(value), headers: &headers, offset: 0 };
            assert_eq!(summary(&decoder, &record), expected, "{content_type} {value:?}");
        }
    }

    #[test]
    fn the_content_type_decides_before_the_headers_do() {
        let value = r#"{"specversion":"1.0","id":"c2","type":"inner","subject":"u2","time":"2024-03-01T00:00:00Z"}"#;
        let headers: &[(&str, &[u8])] =
            &[("Content-Type", b"application/cloudevents+json; charset=UTF-8"), ("ce_type", b"outer")];
        let record = Record { headers, ..record(value) };
        let found = summary(&decoder(rules(Preset::CloudEvents)), &record);
        assert_eq!(found, "u2 | inner | +0 | id c2 | activity+activation+core");
    }

    type Headers<'a> = &'a [(&'a str, &'a [u8])];

    #[test]
    fn broken_headers_are_malformed_and_missing_ones_named() {
        let cases: [(Headers<'_>, &str); 3] = [
            (&[("ce_specversion", b"1.0"), ("ce_type", b"\xff"), ("ce_subject", b"u1")], "malformed"),
            (&[("ce_specversion", b"1.0"), ("ce_type", b"t"), ("ce_subject", b"")], "no_user"),
            (
                &[("ce_specversion", b"1.0"), ("ce_type", b"t"), ("ce_subject", b"u1"), ("ce_time", b"1709251200")],
                "no_time",
            ),
        ];
        let decoder = decoder(rules(Preset::CloudEvents));
        for (headers, expected) in cases {
            let record = Record { key: None, value: Some(b"{}"), headers, offset: 0 };
            assert_eq!(summary(&decoder, &record), expected, "{headers:?}");
        }
    }
}
