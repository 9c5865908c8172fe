//! Bad input, thousands of it, through a real broker (issue 2, "What it must show", 5): each record in the dead-letter
//! topic with its reason, bytes unchanged, once; the shard alive, and nothing else lost.

mod support;

use std::collections::BTreeMap;

use ebbtide::lifecycle::Policy;
use ebbtide::shard::watermark::TimeRules;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use support::flow::Sent;
use support::instance::Deployment;
use support::kafka::{Broker, Message};
use support::model::{Input, ModelEvent};
use support::seed;

const PARTITIONS: i32 = 2;
const HOSTILE: usize = 4_000;
/// Records over 1 MiB, which have their price on the way.
const HUGE: usize = 6;
const BEGIN_MS: i64 = 1_704_067_200_000;

const SETTINGS: &str = r#"
[time]
lateness = "0s"
idle_after = "24h"
"#;

/// A record that is no event, and the reason that it has to get.
fn hostile(rng: &mut ChaCha8Rng, number: usize) -> (Message, &'static str) {
    let good = r#"{"user_id":"victim","event":"Opened","time":1704067200000,"id":"x"}"#;
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let (value, reason) = match number % 24 {
        0 => (Some(random_bytes(rng)), "malformed"),
        1 => (Some(Vec::new()), "malformed"),
        2 => (Some(good.as_bytes()[..rng.random_range(1..good.len())].to_vec()), "malformed"),
        3 => {
            // Broken UTF-8 inside a string that is otherwise fine.
            let mut bytes = good.as_bytes().to_vec();
            bytes[13] = 0xff;
            (Some(bytes), "malformed")
        }
        4 => (text(&"[".repeat(50_000)), "malformed"),
        5 => (text(&format!("{good}{good}")), "malformed"),
        6 => (text("[1, 2, 3]"), "malformed"),
        7 => (text("null"), "malformed"),
        8 => (text(r#"{"user_id":"victim","event":"Opened","time":1704067200000,}"#), "malformed"),
        9 => (text(r#"{"event":"Opened","time":1704067200000}"#), "no_user"),
        10 => (text(r#"{"user_id":"","event":"Opened","time":1704067200000}"#), "no_user"),
        11 => (text(r#"{"user_id":null,"event":"Opened","time":1704067200000}"#), "no_user"),
        12 => (text(r#"{"user_id":{"a":1},"event":"Opened","time":1704067200000}"#), "no_user"),
        13 => (text(r#"{"user_id":"Undefined","event":"Opened","time":1704067200000}"#), "placeholder_user"),
        14 => (
            text(r#"{"user_id":"00000000-0000-0000-0000-000000000000","event":"Opened","time":1704067200000}"#),
            "placeholder_user",
        ),
        15 => (text(r#"{"user_id":"victim","time":1704067200000}"#), "no_name"),
        16 => (text(r#"{"user_id":"victim","event":["Opened"],"time":1704067200000}"#), "no_name"),
        17 => (text(r#"{"user_id":"victim","event":"","time":1704067200000}"#), "no_name"),
        18 => (text(r#"{"user_id":"victim","event":"Opened"}"#), "no_time"),
        19 => (text(r#"{"user_id":"victim","event":"Opened","time":"yesterday"}"#), "no_time"),
        20 => (text(r#"{"user_id":"victim","event":"Opened","time":true}"#), "no_time"),
        21 => (text(r#"{"user_id":"victim","event":"Opened","time":"2099-01-01T00:00:00Z"}"#), "future"),
        22 => (
            Some(format!(r#"{{"user_id":"victim","event":"{}","time":1704067200000}}"#, "n".repeat(257)).into_bytes()),
            "too_large",
        ),
        _ => (
            Some(format!(r#"{{"user_id":"{}","event":"Opened","time":1704067200000}}"#, "u".repeat(1025)).into_bytes()),
            "too_large",
        ),
    };
    let key = (!number.is_multiple_of(3)).then(|| random_bytes(rng));
    let headers = vec![("trace".to_owned(), number.to_string().into_bytes())];
    (Message { key, value, headers, ..Message::default() }, reason)
}

/// Never JSON: the first byte cannot begin a value.
fn random_bytes(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(1..200)];
    rng.fill_bytes(&mut bytes);
    bytes[0] = 0xc3;
    bytes
}

#[test]
fn hostile_records_become_dead_letters_with_their_reason_and_nothing_else_suffers() {
    let broker = Broker::shared();
    let deployment = Deployment::new(broker, "hostile", SETTINGS);
    broker.create_topic(&deployment.events(), PARTITIONS, &[]);
    let mut instance = deployment.instance("one");
    instance.start();

    let seed = seed("hostile records");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut sent = Sent::new(PARTITIONS);
    let sender = broker.sender();
    // Where each record lands: partitions are filled by this test alone, in order.
    let mut ends = BTreeMap::from([(0, 0_i64), (1, 0)]);
    let mut expected: BTreeMap<(i32, i64), (Message, &str)> = BTreeMap::new();
    let mut place = |partition: i32| {
        let end = ends.entry(partition).or_default();
        *end += 1;
        (partition, *end - 1)
    };
    for number in 0..HOSTILE + HUGE {
        let (mut message, reason) = if number < HOSTILE {
            hostile(&mut rng, number)
        } else {
            let padding = "p".repeat(2 << 20);
            let huge = format!(r#"{{"user_id":"victim","event":"Opened","time":1704067200000,"p":"{padding}"}}"#);
            (Message { value: Some(huge.into_bytes()), ..Message::default() }, "too_large")
        };
        let partition = i32::from(rng.random_bool(0.5));
        message.partition = Some(partition);
        sender.send(&deployment.events(), &message);
        expected.insert(place(partition), (message, reason));
        if number % 5 == 0 {
            let event = ModelEvent {
                user: format!("user-{}", rng.random_range(0..50)),
                name: "Opened".to_owned(),
                time: BEGIN_MS + i64::try_from(number).expect("few") * 3_600_000,
                id: Some(format!("good-{number}")),
                activity: true,
                activation: true,
                core: true,
                win_back: None,
                properties: BTreeMap::new(),
            };
            let message = sent.add(Input::Event(event));
            place(message.partition.expect("chosen"));
            sender.send(&deployment.events(), &message);
        }
    }
    // Neither key nor value: not even a deletion request.
    let message = Message { partition: Some(0), ..Message::default() };
    sender.send(&deployment.events(), &message);
    expected.insert(place(0), (message, "no_user"));
    sender.flush();

    let mut dead = broker.reader(&deployment.dead_letters());
    dead.read_until("all dead letters", |messages| {
        instance.assert_alive();
        messages.len() >= expected.len()
    });
    let model =
        sent.expected(&Policy::default(), &TimeRules { lateness: ebbtide::time::Span::ZERO, ..TimeRules::default() });
    let mut transitions = broker.reader(&deployment.transitions());
    transitions.read_until("all transitions", |messages| messages.len() >= model.transitions.len());
    instance.stop();

    transitions.read_to(&broker.ends(&deployment.transitions()));
    model.assert_transitions("the transitions topic", &transitions.messages);
    dead.read_to(&broker.ends(&deployment.dead_letters()));
    assert_eq!(dead.messages.len(), expected.len(), "dead letters");
    for message in &dead.messages {
        let header = |name: &str| {
            let found = message.headers.iter().find(|(header, _)| header == name);
            found.map(|(_, value)| String::from_utf8(value.clone()).expect("text")).unwrap_or_default()
        };
        let number = |name: &str| header(name).parse::<i64>().expect("a number");
        let partition = i32::try_from(number("ebbtide_partition")).expect("a partition");
        let from = (partition, number("ebbtide_offset"));
        let Some((original, reason)) = expected.remove(&from) else { panic!("unexpected or doubled: {from:?}") };
        let show = String::from_utf8_lossy(original.value.as_deref().unwrap_or_default())
            .chars()
            .take(120)
            .collect::<String>();
        assert_eq!(header("ebbtide_reason"), reason, "{show}: {}", header("ebbtide_message"));
        assert!(!header("ebbtide_message").is_empty(), "{show}");
        assert_eq!(header("ebbtide_topic"), deployment.events());
        assert!(message.value == original.value, "bytes changed: {show}");
        assert!(message.key == original.key, "key changed: {show}");
        for header in &original.headers {
            assert!(message.headers.contains(header), "the original header {header:?} is gone");
        }
    }
}
