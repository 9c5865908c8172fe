//! `native`: the canonical event itself.

use super::{Layout, json, source};

pub(in crate::event) fn layout() -> Layout {
    Layout {
        user: vec![json("/user_id")],
        name: vec![json("/event")],
        time: vec![json("/time")],
        id: vec![json("/id")],
        properties: vec![source("/properties")],
        ..Layout::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::*;
    use crate::event::Preset;

    #[test]
    fn native_records() {
        check(
            &decoder(rules(Preset::Native)),
            &[
                (
                    r#"{"user_id":"u1","event":"Login","time":"2024-03-01T00:00:00Z"}"#,
                    "u1 | Login | +0 | activity+activation+core",
                ),
                (
                    r#"{"user_id":"u1","event":"Login","time":1709251200,"id":"e1","properties":{"plan":"pro","x":{"plan":1},"seats": 5 }}"#,
                    "u1 | Login | +0 | id e1 | activity+activation+core | 0=\"pro\" | 1=5",
                ),
                (
                    r#"{ "time" : 1709251200250.0 , "extra":[1,{"user_id":"no"}], "event":"\u004cogin", "user_id" : 12345678901234567890123, "id": 7 }"#,
                    "12345678901234567890123 | Login | +250 | id 7 | activity+activation+core",
                ),
                (
                    r#"{"user_id":"Zoë 🦀","event":"été","time":"2024-03-01 00:00:00.5","id":null,"properties":null}"#,
                    "Zoë 🦀 | été | +500 | activity+activation+core",
                ),
                (
                    r#"{"user_id":"u1","event":"Login","time":1709251200,"properties":"plan"}"#,
                    "u1 | Login | +0 | activity+activation+core",
                ),
                (r#"{"event":"Login","time":1709251200}"#, "no_user"),
                (r#"{"user_id":"u1","time":1709251200}"#, "no_name"),
                (r#"{"user_id":"u1","event":"Login"}"#, "no_time"),
                (r#"{"user_id":"u1","event":"Login","time":"soon"}"#, "no_time"),
                (
                    r#"{"user_id":"u1","event":"Login","time":"2024-03-01T01:00:00Z"}"#,
                    "u1 | Login | +3600000 | activity+activation+core",
                ),
                (r#"{"user_id":"u1","event":"Login","time":"2024-03-01T01:00:00.001Z"}"#, "future"),
                (r#"{"user_id":"u1","event":"Login","time":"2099-01-01T00:00:00Z"}"#, "future"),
                (r#"{"user_id":"u1","event":"Login","time":1e300}"#, "future"),
            ],
        );
    }
}
