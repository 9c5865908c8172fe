//! The harness itself: a real broker starts, answers, forgets nothing when it is stopped, and hides what is undecided.

mod support;

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
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

#[test]
fn a_reader_sees_what_is_committed_and_nothing_else() {
    let broker = Broker::shared();
    broker.create_topic("decided", 1, &[]);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.address())
        .set("transactional.id", "decided")
        .create()
        .expect("a producer");
    let patience = Duration::from_mins(1);
    let write = |text: &str| {
        producer.begin_transaction().expect("begun");
        producer.send(BaseRecord::<str, str>::to("decided").payload(text)).map_err(|(error, _)| error).expect("queued");
        producer.flush(patience).expect("delivered");
    };
    producer.init_transactions(patience).expect("a transactional producer");
    write("dropped");
    producer.abort_transaction(patience).expect("aborted");
    write("kept");
    let mut reader = broker.reader("decided");
    assert!(broker.ends("decided")[0] >= 3, "the undecided record is on the broker");
    // Several fetches: what is undecided is not shown by any of them.
    for _ in 0..5 {
        reader.poll();
    }
    assert_eq!(reader.messages, [], "before the commit");
    producer.commit_transaction(patience).expect("committed");
    reader.read_to(&broker.ends("decided"));
    let values: Vec<_> = reader.messages.iter().map(|message| message.value.as_deref()).collect();
    assert_eq!(values, [Some(b"kept".as_slice())]);
}
