//! `segment`: the calls of Segment and RudderStack.
//!
//! `identify`, `group` and `alias` describe somebody and are never activity. `page` and `screen` have no `event`: the
//! kind of call is their name. Tracked properties are the call's `properties`, else the user's `traits`, which
//! RudderStack keeps under `context`; the traits of a `group` call are the group's and not the user's.

use std::borrow::Cow;

use super::{Kinds, Layout, Source, json, source};

pub(in crate::event) fn layout() -> Layout {
    Layout {
        user: vec![json("/userId"), json("/anonymousId")],
        name: vec![json("/event")],
        time: vec![json("/timestamp")],
        id: vec![json("/messageId")],
        properties: vec![
            source("/properties"),
            Source { pointer: Cow::Borrowed("/traits"), not_in_kind: Some("group") },
            source("/context/traits"),
        ],
        kind: Some(Kinds {
            place: json("/type"),
            naming: &["page", "screen", "identify", "group", "alias"],
            profile: &["identify", "group", "alias"],
        }),
        acting: Some(json("/context/active")),
        ..Layout::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::*;
    use crate::event::Preset;

    #[test]
    fn segment_and_rudderstack_calls() {
        let time = r#""timestamp":"2024-03-01T00:00:00.000Z""#;
        let call = |rest: &str| format!("{{{time},{rest}}}");
        let cases = [
            (
                r#""type":"track","userId":"u1","anonymousId":"a1","event":"Order","messageId":"m1","properties":{"plan":"pro"}"#,
                "u1 | Order | +0 | id m1 | activity+activation+core | 0=\"pro\"",
            ),
            (
                r#""type":"track","userId":null,"anonymousId":"a1","event":"Order""#,
                "a1 | Order | +0 | activity+activation+core",
            ),
            (
                r#""type":"track","userId":"","anonymousId":"a1","event":"Order""#,
                "a1 | Order | +0 | activity+activation+core",
            ),
            (r#""userId":"u1","event":"Order""#, "u1 | Order | +0 | activity+activation+core"),
            (r#""type":"page","userId":"u1","name":"Home""#, "u1 | page | +0 | activity+activation+core"),
            (r#""type":"screen","userId":"u1""#, "u1 | screen | +0 | activity+activation+core"),
            (
                r#""type":"identify","userId":"u1","traits":{"plan":"pro","seats":2},"context":{"traits":{"plan":"old"}}"#,
                "u1 | identify | +0 | nothing | 0=\"pro\" | 1=2",
            ),
            (
                r#""type":"identify","userId":"u1","context":{"traits":{"plan":"rudder"}}"#,
                "u1 | identify | +0 | nothing | 0=\"rudder\"",
            ),
            (r#""type":"identify","event":"identify","userId":"u1""#, "u1 | identify | +0 | nothing"),
            (r#""type":"group","userId":"u1","groupId":"g","traits":{"plan":"corp"}"#, "u1 | group | +0 | nothing"),
            (r#""type":"alias","userId":"u1","previousId":"a1""#, "u1 | alias | +0 | nothing"),
            (
                r#""type":"track","userId":"u1","event":"Push Received","context":{"active":false},"properties":{"seats":9}"#,
                "u1 | Push Received | +0 | nothing | 1=9",
            ),
            (
                r#""type":"track","userId":"u1","event":"Open","context":{"active":true}"#,
                "u1 | Open | +0 | activity+activation+core",
            ),
            (r#""type":"track","userId":"u1""#, "no_name"),
            (r#""type":"track","event":"Order""#, "no_user"),
            (r#""type":"track","event":"Order","userId":"NULL","anonymousId":"a1""#, "placeholder_user"),
        ];
        let decoder = decoder(rules(Preset::Segment));
        for (rest, expected) in cases {
            check(&decoder, &[(&call(rest), expected)]);
        }
        check(&decoder, &[(r#"{"type":"track","userId":"u1","event":"Order"}"#, "no_time")]);
    }

    #[test]
    fn what_does_not_count_has_no_role_at_all() {
        let mut rules = rules(Preset::Segment);
        rules.core = Some(names(&["*"]));
        rules.activation = Some(names(&["identify"]));
        check(
            &decoder(rules),
            &[(
                r#"{"type":"identify","userId":"u1","timestamp":"2024-03-01T00:00:00.000Z"}"#,
                "u1 | identify | +0 | nothing",
            )],
        );
    }
}
