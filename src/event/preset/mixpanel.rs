//! `mixpanel`: the records of Mixpanel's import and export.

use super::{Layout, json, source};

pub(in crate::event) fn layout() -> Layout {
    Layout {
        user: vec![json("/properties/distinct_id")],
        name: vec![json("/event")],
        time: vec![json("/properties/time")],
        id: vec![json("/properties/$insert_id")],
        properties: vec![source("/properties")],
        // Mixpanel's own identity records: they join ids, nobody acted.
        profile_names: &["$identify", "$create_alias", "$merge"],
        ..Layout::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::*;
    use crate::event::Preset;

    #[test]
    fn mixpanel_records() {
        check(
            &decoder(rules(Preset::Mixpanel)),
            &[
                (
                    r#"{"event":"Sign Up","properties":{"distinct_id":"u1","time":1709251200,"$insert_id":"i1","plan":"free","token":"t"}}"#,
                    "u1 | Sign Up | +0 | id i1 | activity+activation+core | 0=\"free\"",
                ),
                (
                    r#"{"properties":{"time":1709251200123,"distinct_id":42},"event":"Login"}"#,
                    "42 | Login | +123 | activity+activation+core",
                ),
                (
                    r#"{"event":"$identify","properties":{"distinct_id":"u1","time":1709251200,"seats":3}}"#,
                    "u1 | $identify | +0 | nothing | 1=3",
                ),
                (r#"{"event":"Login","distinct_id":"u1","time":1709251200,"properties":{}}"#, "no_user"),
                (r#"{"event":"Login","properties":{"distinct_id":"","time":1709251200}}"#, "no_user"),
                (r#"{"event":"Login","properties":[{"distinct_id":"u1","time":1709251200}]}"#, "no_user"),
                (r#"{"event":"Login","properties":{"distinct_id":"Anonymous","time":1709251200}}"#, "placeholder_user"),
                (r#"{"event":"Login","properties":{"distinct_id":0,"time":1709251200}}"#, "placeholder_user"),
                (r#"[{"event":"Login","properties":{"distinct_id":"u1","time":1709251200}}]"#, "malformed"),
            ],
        );
    }
}
