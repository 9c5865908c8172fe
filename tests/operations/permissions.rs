//! A cluster that asks who one is, and what one may.

use std::net::TcpListener;

use super::support::kafka::Broker;
use super::{Case, assert_says};

/// A broker with a second listener that asks for a password; on the first one the tests may do everything.
fn guarded() -> (Broker, String) {
    let broker = Broker::start();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    let address = format!("127.0.0.1:{port}");
    broker.reconfigure(|text| {
        let more = |line: &str| match line.split_once('=') {
            Some((name @ ("listeners" | "advertised.listeners"), listeners)) => {
                format!("{name}={listeners},GUARDED://{address}")
            }
            _ => line.to_owned(),
        };
        let lines: Vec<String> = text.lines().map(more).collect();
        let guards = "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT
listener.name.guarded.sasl.enabled.mechanisms=PLAIN
listener.name.guarded.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \
                      user_ebbtide=\"secret\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
";
        format!("{}\n{guards}", lines.join("\n"))
    });
    (broker, address)
}

#[test]
fn each_missing_permission_is_named() {
    let (broker, address) = guarded();
    let allow = |operation: &str, resource: &[&str]| {
        let who = ["--add", "--force", "--allow-principal", "User:ebbtide", "--operation", operation];
        let prefixed = ["--resource-pattern-type", "prefixed"];
        broker.tool("org.apache.kafka.tools.AclCommand", &[&who[..], resource, &prefixed].concat());
    };
    let mut case = Case::new(
        &broker,
        "guarded",
        1,
        r#"
[kafka.properties]
"security.protocol" = "SASL_PLAINTEXT"
"sasl.mechanism" = "PLAIN"
"sasl.username" = "ebbtide"
"#,
    );
    let login = [("EBBTIDE_KAFKA__BROKERS", &*address), ("EBBTIDE_KAFKA__PROPERTIES__SASL__PASSWORD", "secret")];

    case.one.start_with(&[], &[login[0], (login[1].0, "wrong")]);
    assert_says(&case.one.refused(), &["uthentication", "check `kafka.brokers`, the network and the permissions"]);

    case.one.start_with(&[], &login);
    assert_says(&case.one.refused(), &["Kafka refuses access to the topic guarded.events", "grant Read"]);

    allow("Read", &["--topic", "guarded.events"]);
    case.one.start_with(&[], &login);
    assert_says(&case.one.refused(), &["Kafka refuses access to the topic guarded.transitions", "grant Read"]);

    allow("All", &["--topic", "guarded."]);
    case.one.start_with(&[], &login);
    assert_says(&case.one.refused(), &["Kafka refuses: transactions of group guarded", "grant what is missing"]);

    allow("All", &["--transactional-id", "guarded-"]);
    case.one.start_with(&[], &login);
    assert_says(&case.one.refused(), &["Kafka refuses: being a member of the group guarded", "grant what is missing"]);

    allow("Read", &["--group", "guarded"]);
    case.one.start_with(&[], &login);
    case.send(1_000);
    case.settle();
    case.one.stop();
}
