//! The harness itself: a real broker starts, answers, forgets nothing when it is stopped, and hides what is undecided.

#[allow(dead_code, reason = "each test binary uses a part of it")]
mod support;

use support::kafka::{Broker, Message};

fn message(text: &str) -> Message {
    Message { key: Some(b"k".to_vec()), value: Some(text.as_bytes().to_vec()), ..Message::default() }
}

#[test]
fn a_broker_keeps_its_records_and_its_address_over_a_restart() {
    let broker = Broker::start();
    broker.create_topic("kept", 3, &[]);
    broker.produce("kept", (0..100).map(|number| message(&number.to_string())));
    broker.stop();
    broker.start_again();
    let values: Vec<_> = broker.read_all("kept").into_iter().filter_map(|message| message.value).collect();
    assert_eq!(values, (0..100).map(|number| number.to_string().into_bytes()).collect::<Vec<_>>());
}
