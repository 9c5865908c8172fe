//! `amplitude`: the events of Amplitude's HTTP API (`time`, `insert_id`) and of its export (`event_time`,
//! `$insert_id`). A profile update carries its values under the `$set` operation.

use super::{Layout, json, source};

pub(in crate::event) fn layout() -> Layout {
    Layout {
        user: vec![json("/user_id"), json("/device_id")],
        name: vec![json("/event_type")],
        time: vec![json("/event_time"), json("/time")],
        id: vec![json("/insert_id"), json("/$insert_id")],
        properties: vec![source("/event_properties"), source("/user_properties"), source("/user_properties/$set")],
        profile_names: &["$identify", "$groupidentify"],
        ..Layout::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::*;
    use crate::event::Preset;

    #[test]
    fn amplitude_records() {
        check(
            &decoder(rules(Preset::Amplitude)),
            &[
                (
                    r#"{"user_id":"u1","device_id":"d1","event_type":"watch","time":1709251200000,"insert_id":"i1","event_properties":{"seats":1},"user_properties":{"plan":"pro","seats":2}}"#,
                    "u1 | watch | +0 | id i1 | activity+activation+core | 0=\"pro\" | 1=1",
                ),
                (
                    r#"{"user_id":null,"device_id":"d1","event_type":"watch","event_time":"2024-03-01 00:00:00.123456","time":5,"$insert_id":"x"}"#,
                    "d1 | watch | +123 | id x | activity+activation+core",
                ),
                (
                    r#"{"device_id":"d1","event_type":"watch","event_time":"?","time":1709251200000}"#,
                    "d1 | watch | +0 | activity+activation+core",
                ),
                (
                    r#"{"user_id":"u1","event_type":"$identify","time":1709251200000,"user_properties":{"$set":{"plan":"team"}}}"#,
                    "u1 | $identify | +0 | nothing | 0=\"team\"",
                ),
                (r#"{"event_type":"watch","time":1709251200000}"#, "no_user"),
                (r#"{"user_id":"u1","time":1709251200000}"#, "no_name"),
                (r#"{"user_id":"u1","event_type":"watch"}"#, "no_time"),
            ],
        );
    }
}
