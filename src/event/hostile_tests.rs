//! Bad input is data: every record comes out as an event or as a rejection with the right reason (SPEC section 1).

use proptest::prelude::*;

use super::preset::table::{MOMENT, decoder, rules, summary};
use super::{CustomPointers, Decoded, Decoder, EventRules, Preset, Record, Rejection};
use crate::time::WallTime;

const GOOD: &str =
    r#"{"user_id":"u1","event":"Login","time":1709251200,"id":"e1","properties":{"plan":"pro","n":[1,{"x":null}]}}"#;

fn bytes(value: &[u8]) -> Record<'_> {
    Record { key: Some(b"k"), value: Some(value), headers: &[], offset: 7 }
}

/// A decoder for each preset, with everything configured that makes a decoder look closer.
fn all() -> Vec<Decoder> {
    let custom = CustomPointers {
        user_id: "/user_id".to_owned(),
        name: "/a/1/b".to_owned(),
        time: "/time".to_owned(),
        id: Some("/properties/plan/id".to_owned()),
        properties: Some(String::new()),
    };
    let all = Preset::ALL.map(|preset| {
        decoder(EventRules { custom: (preset == Preset::Custom).then(|| custom.clone()), ..rules(preset) })
    });
    all.into()
}

#[test]
fn each_bad_record_has_its_reason() {
    let nested = |open: &str, close: &str, levels: usize| {
        format!(
            r#"{{"user_id":"u1","event":"Login","time":1709251200,"properties":{}1{}}}"#,
            open.repeat(levels),
            close.repeat(levels)
        )
    };
    let with = |field: &str, value: &str| {
        let mut fields = vec![("user_id", r#""u1""#), ("event", r#""Login""#), ("time", "1709251200")];
        fields.retain(|(name, _)| *name != field);
        fields.push((field, value));
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    };
    let huge = format!("{{\"x\":\"{}\"}}", "y".repeat(1 << 20));
    let long = |length: usize| format!("\"{}\"", "é".repeat(length / 2));
    let longest_user = format!("{} | Login | +0 | activity+activation+core", "é".repeat(512));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "malformed"),
        (b"  \n".to_vec(), "malformed"),
        (b"null".to_vec(), "malformed"),
        (b"[]".to_vec(), "malformed"),
        (b"1".to_vec(), "malformed"),
        (b"\"text\"".to_vec(), "malformed"),
        (b"hello".to_vec(), "malformed"),
        (b"\0\0\0\0\x01avro".to_vec(), "malformed"),
        (b"\xef\xbb\xbf{}".to_vec(), "malformed"),
        (b"{\"user_id\":\"\xff\"}".to_vec(), "malformed"),
        (b"{\"user_id\":\"u1\",\"event\":\"Login\",\"time\":1709251200,\"z\":\"\xc3\"}".to_vec(), "malformed"),
        (format!("{GOOD}x").into_bytes(), "malformed"),
        (format!("{GOOD}{GOOD}").into_bytes(), "malformed"),
        (GOOD.replace("1709251200", "01709251200").into_bytes(), "malformed"),
        (GOOD.replace("1709251200", "NaN").into_bytes(), "malformed"),
        (GOOD.replace('"', "'").into_bytes(), "malformed"),
        (GOOD.replace("u1", "u\n1").into_bytes(), "malformed"),
        (GOOD.replace("u1", r"u\x1").into_bytes(), "malformed"),
        (GOOD.replace("u1", r"u\ud800").into_bytes(), "malformed"),
        (nested("[", "]", 63).into_bytes(), "u1 | Login | +0 | activity+activation+core"),
        (nested("[", "]", 64).into_bytes(), "malformed"),
        (nested("{\"a\":", "}", 64).into_bytes(), "malformed"),
        (nested("[", "]", 400_000).into_bytes(), "malformed"),
        (nested("{\"properties\":", "}", 50_000).into_bytes(), "malformed"),
        ("[".repeat(1_000_000).into_bytes(), "malformed"),
        ("{\"a\":".repeat(200_000).into_bytes(), "malformed"),
        (huge.into_bytes(), "too_large"),
        (with("user_id", &long(1024)).into_bytes(), &longest_user),
        (with("user_id", &long(1026)).into_bytes(), "too_large"),
        (with("event", &long(258)).into_bytes(), "too_large"),
        (b"{}".to_vec(), "no_user"),
        (with("user_id", "null").into_bytes(), "no_user"),
        (with("user_id", "true").into_bytes(), "no_user"),
        (with("user_id", "[]").into_bytes(), "no_user"),
        (with("user_id", "{}").into_bytes(), "no_user"),
        (with("user_id", "\"\"").into_bytes(), "no_user"),
        (with("user_id", "\" \"").into_bytes(), "no_user"),
        (with("user_id", "12.50").into_bytes(), "12.50 | Login | +0 | activity+activation+core"),
        (with("event", "null").into_bytes(), "no_name"),
        (with("event", "5").into_bytes(), "no_name"),
        (with("event", "\"\"").into_bytes(), "no_name"),
        (with("time", "null").into_bytes(), "no_time"),
        (with("time", "true").into_bytes(), "no_time"),
        (with("time", "[1709251200]").into_bytes(), "no_time"),
        (with("time", "\"\"").into_bytes(), "no_time"),
        (with("time", "\"1709251200\"").into_bytes(), "no_time"),
        (with("time", "-1e18").into_bytes(), "no_time"),
        (with("time", "1e18").into_bytes(), "future"),
        (with("time", "\"2099-01-01T00:00:00Z\"").into_bytes(), "future"),
        (
            b"{\"user_id\":\"u0\",\"event\":\"Login\",\"time\":1,\"user_id\":\"u1\",\"time\":1709251200}".to_vec(),
            "u1 | Login | +0 | activity+activation+core",
        ),
        (b"{\"user_id\":\"u0\",\"event\":\"Login\",\"time\":1,\"user_id\":null}".to_vec(), "no_user"),
    ];
    let decoder = decoder(rules(Preset::Native));
    for (value, expected) in cases {
        let start = String::from_utf8_lossy(&value[..value.len().min(120)]).into_owned();
        assert_eq!(summary(&decoder, &bytes(&value)), expected, "{start}");
    }
}

#[test]
fn every_truncation_is_malformed() {
    let decoder = decoder(rules(Preset::Native));
    for length in 0..GOOD.len() {
        assert_eq!(summary(&decoder, &bytes(&GOOD.as_bytes()[..length])), "malformed", "{length} bytes");
    }
}

#[test]
fn a_size_at_the_limit_is_accepted() {
    let at_limit = decoder(EventRules { max_size: GOOD.len(), ..rules(Preset::Native) });
    assert!(summary(&at_limit, &bytes(GOOD.as_bytes())).starts_with("u1 | Login"));
    let below = decoder(EventRules { max_size: GOOD.len() - 1, ..rules(Preset::Native) });
    assert_eq!(summary(&below, &bytes(GOOD.as_bytes())), "too_large");
}

#[test]
fn an_unusable_tracked_value_leaves_the_event_alone() {
    let decoder = decoder(rules(Preset::Native));
    let large = format!("\"{}\"", "x".repeat(2000));
    for value in [&*large, "1e999", r#""\udc00""#] {
        let record = GOOD.replace("\"pro\"", value);
        assert_eq!(
            summary(&decoder, &bytes(record.as_bytes())),
            "u1 | Login | +0 | id e1 | activity+activation+core | 1 refused"
        );
    }
}

#[test]
fn a_message_is_one_line_of_256_bytes_at_most() {
    let rejection = Rejection::new(super::RejectReason::Malformed, format!("a\nb\r{}", "é".repeat(400)));
    assert!(rejection.message.len() <= 256 && rejection.message.starts_with("a b é"));
}

/// JSON that looks like an event now and then, with all that may stand in the place of each field.
fn almost_event() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1709251200".to_owned()),
        Just("1e400".to_owned()),
        Just("-0.0".to_owned()),
        Just(r#""2024-03-01T00:00:00Z""#.to_owned()),
        Just(r#""\ud800""#.to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
    ];
    let key = prop_oneof![
        proptest::sample::select(vec![
            "user_id",
            "event",
            "time",
            "id",
            "properties",
            "plan",
            "seats",
            "userId",
            "type",
            "context",
            "traits",
            "active",
            "timestamp",
            "distinct_id",
            "event_type",
            "data",
            "subject",
            "a",
            "b",
            "$set",
            "user_properties",
        ])
        .prop_map(String::from),
        "\\PC{0,4}".prop_map(|key| serde_json::Value::from(key).to_string().trim_matches('"').to_owned()),
    ];
    scalar.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            3 => proptest::collection::vec((key.clone(), inner.clone()), 0..6).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
            1 => proptest::collection::vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(", "))),
        ]
    })
}

/// What must hold for whatever comes out.
fn assert_sound(decoded: &Decoded<'_>) -> Result<(), TestCaseError> {
    match decoded {
        Decoded::Event(event) => {
            prop_assert!((1..=1024).contains(&event.user_id.len()));
            prop_assert!((1..=256).contains(&event.name.len()));
            prop_assert!(event.time.as_millis() <= MOMENT + 3_600_000);
            prop_assert!(event.roles.activity || event.roles == super::Roles::default());
            for (index, value) in &event.tracked {
                prop_assert!(*index < 2 && value.len() <= 1024);
                prop_assert!(serde_json::from_str::<serde_json::Value>(value).is_ok());
            }
        }
        Decoded::Deletion { user_id } => prop_assert!((1..=1024).contains(&user_id.len())),
        Decoded::Rejected(rejection) => {
            prop_assert!(rejection.message.len() <= Rejection::MAX_MESSAGE && !rejection.message.contains('\n'));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
        value in proptest::option::weighted(0.9, proptest::collection::vec(any::<u8>(), 0..200)),
        header in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        let headers: &[(&str, &[u8])] = &[("ce_type", &header), ("ce_subject", &header), ("content-type", &header)];
        let record = Record { key: key.as_deref(), value: value.as_deref(), headers, offset: 0 };
        for decoder in all() {
            assert_sound(&decoder.decode(&record, WallTime::from_millis(MOMENT)))?;
        }
    }

    #[test]
    fn almost_events_are_survived(value in almost_event()) {
        for decoder in all() {
            assert_sound(&decoder.decode(&bytes(value.as_bytes()), WallTime::from_millis(MOMENT)))?;
        }
    }

    #[test]
    fn a_damaged_event_is_survived(at in 0..GOOD.len(), byte in any::<u8>()) {
        let mut value = GOOD.as_bytes().to_vec();
        value[at] = byte;
        for decoder in all() {
            assert_sound(&decoder.decode(&bytes(&value), WallTime::from_millis(MOMENT)))?;
        }
    }

    #[test]
    fn any_native_event_comes_through_unchanged(
        user in "\\PC{1,20}", name in "\\PC{1,20}", id in "\\PC{1,20}", millis in 0..MOMENT, plan in "\\PC{0,20}",
    ) {
        prop_assume!([&user, &name, &id].iter().all(|text| !text.trim_ascii().is_empty()));
        prop_assume!(!EventRules::PLACEHOLDER_USERS.iter().any(|one| one.eq_ignore_ascii_case(&user)));
        let time = crate::time::EventTime::from_millis(millis);
        let value = serde_json::json!({
            "properties": { "plan": plan }, "id": id, "time": time.to_string(), "user_id": user, "event": name,
        }).to_string();
        let decoder = decoder(rules(Preset::Native));
        let decoded = decoder.decode(&bytes(value.as_bytes()), WallTime::from_millis(MOMENT));
        let Decoded::Event(event) = decoded else { return Err(TestCaseError::fail(format!("{decoded:?}"))) };
        prop_assert_eq!(&*event.user_id, &*user);
        prop_assert_eq!(&*event.name, &*name);
        prop_assert_eq!(event.id.as_deref(), Some(&*id));
        prop_assert_eq!(event.time, time);
        prop_assert_eq!(serde_json::from_str::<String>(&event.tracked[0].1).expect("text"), plan);
    }
}
