//! `custom`: a JSON pointer for each field.

use std::borrow::Cow;

use super::{Layout, Place, Source};
use crate::event::CustomPointers;

pub(in crate::event) fn layout(pointers: &CustomPointers) -> Layout {
    let place = |pointer: &String| vec![Place::Json(Cow::Owned(pointer.clone()))];
    Layout {
        user: place(&pointers.user_id),
        name: place(&pointers.name),
        time: place(&pointers.time),
        id: pointers.id.as_ref().map(place).unwrap_or_default(),
        properties: pointers
            .properties
            .iter()
            .map(|pointer| Source { pointer: Cow::Owned(pointer.clone()), not_in_kind: None })
            .collect(),
        ..Layout::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::*;
    use crate::event::{CustomPointers, Decoder, EventRules, Preset};

    fn pointers(user_id: &str, name: &str, time: &str, id: Option<&str>, properties: Option<&str>) -> EventRules {
        let custom = CustomPointers {
            user_id: user_id.to_owned(),
            name: name.to_owned(),
            time: time.to_owned(),
            id: id.map(String::from),
            properties: properties.map(String::from),
        };
        EventRules { custom: Some(custom), ..rules(Preset::Custom) }
    }

    #[test]
    fn fields_anywhere() {
        check(
            &decoder(pointers("/who/ids/0", "/what~1how", "/at", Some("/meta/id"), Some("/meta/attributes"))),
            &[
                (
                    r#"{"who":{"ids":["u1","u2"]},"what/how":"Login","at":1709251200,"meta":{"id":"e1","attributes":{"plan":"pro"}}}"#,
                    "u1 | Login | +0 | id e1 | activity+activation+core | 0=\"pro\"",
                ),
                (r#"{"who":{"ids":[]},"what/how":"Login","at":1709251200}"#, "no_user"),
                (r#"{"who":"u1","what/how":"Login","at":1709251200}"#, "no_user"),
            ],
        );
    }

    #[test]
    fn a_flat_record_is_its_own_properties() {
        check(
            &decoder(pointers("/uid", "/plan", "/ts", None, Some(""))),
            &[(
                r#"{"uid":"u1","plan":"pro","ts":1709251200,"seats":4}"#,
                "u1 | pro | +0 | activity+activation+core | 0=\"pro\" | 1=4",
            )],
        );
    }

    #[test]
    fn every_wrong_pointer_is_reported() {
        let problems = Decoder::new(pointers("uid", "", "/a~3", Some("x"), Some("y"))).expect_err("wrong");
        let paths: Vec<_> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "events.custom.user_id",
                "events.custom.name",
                "events.custom.time",
                "events.custom.id",
                "events.custom.properties"
            ]
        );
        let missing = Decoder::new(rules(Preset::Custom)).expect_err("no pointers");
        assert_eq!(missing[0].path, "events.custom");
    }
}
