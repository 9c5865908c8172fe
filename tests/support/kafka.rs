//! A real Kafka broker for the tests, and the few things that they do with it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// What any single wait on the broker may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);
const REQUEST: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);
/// Larger than any record the tests send on purpose.
const MESSAGE_BYTES_MAX: &str = "8000000";

/// One broker on a free port, in a temporary folder; or a [cluster](super::cluster) of them.
pub(crate) struct Broker {
    pub(super) nodes: Vec<Node>,
    /// Addresses of all nodes, as clients take them.
    pub(super) address: String,
    /// Replicas of the topics that a test creates.
    pub(super) replicas: i32,
}

/// One process of Kafka.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) folder: PathBuf,
    /// Options of its virtual machine; `None` for the script's.
    jvm: Option<&'static str>,
    /// `host:port`; kept over a restart.
    pub(super) address: String,
}

/// A record as a test wants it, or as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) partition: Option<i32>,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl Broker {
    /// The one broker of this test binary. The script stops it when the test process is gone, however it went.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A broker of one's own, for tests that stop it.
    pub(crate) fn start() -> Self {
        let node = Node::start(temporary_folder("broker"));
        Self { address: node.address.clone(), nodes: vec![node], replicas: 1 }
    }

    /// `host:port`, several separated by commas.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Stops the broker and keeps its data.
    pub(crate) fn stop(&self) {
        self.nodes.iter().for_each(Node::stop);
    }

    /// Starts it again, with its data, on the same port.
    pub(crate) fn start_again(&self) {
        self.nodes.iter().for_each(Node::start_again);
    }

    /// Where the one node keeps its topics.
    pub(crate) fn data(&self) -> PathBuf {
        self.nodes[0].folder.join("data")
    }

    /// Changes its settings, with a restart.
    pub(crate) fn reconfigure(&self, change: impl FnOnce(&str) -> String) {
        self.stop();
        let file = self.nodes[0].folder.join("server.properties");
        let text = std::fs::read_to_string(&file).expect("settings");
        std::fs::write(&file, change(&text)).expect("written");
        self.start_again();
    }

    /// Runs one of Kafka's own tools on this broker.
    pub(crate) fn tool(&self, class: &str, arguments: &[&str]) -> String {
        script(&[&["tool", &self.nodes[0].folder.to_string_lossy(), class], arguments].concat())
    }

    /// Creates a topic.
    pub(crate) fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().expect("an admin client");
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.replicas));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let created = wait_on(admin.create_topics(&[topic], &AdminOptions::new().operation_timeout(Some(REQUEST))))
            .expect("the broker answers");
        for outcome in created {
            outcome.unwrap_or_else(|(topic, code)| panic!("topic {topic} could not be created: {code}"));
        }
        // Created is not yet known everywhere, even on one node.
        eventually(&format!("topic {name} to be there"), || self.partitions(name) == Some(partitions));
    }

    /// How many partitions a topic has; `None` when it does not exist.
    pub(crate) fn partitions(&self, topic: &str) -> Option<i32> {
        let consumer: BaseConsumer = self.client().create().expect("a client");
        let metadata = consumer.fetch_metadata(Some(topic), REQUEST).ok()?;
        let topic = metadata.topics().first()?;
        if topic.error().is_some() || topic.partitions().iter().any(|partition| partition.error().is_some()) {
            return None;
        }
        i32::try_from(topic.partitions().len()).ok().filter(|count| *count > 0)
    }

    /// The offset after the last record of each partition, undecided transactions included: the high watermark. A
    /// client in `read_committed`, librdkafka's default, is told the last stable offset instead.
    pub(crate) fn ends(&self, topic: &str) -> Vec<i64> {
        let mut config = self.client();
        config.set("isolation.level", "read_uncommitted");
        let consumer: BaseConsumer = config.create().expect("a client");
        let partitions = self.partitions(topic).unwrap_or(0);
        (0..partitions)
            .map(|partition| {
                let mut end = None;
                // A leader that has just moved is asked once more.
                eventually(&format!("the end of {topic}/{partition}"), || {
                    end = consumer.fetch_watermarks(topic, partition, REQUEST).ok().map(|(_, end)| end);
                    end.is_some()
                });
                end.expect("just told")
            })
            .collect()
    }

    /// Waits until a consumer group is settled and has so many members.
    pub(crate) fn wait_for_members(&self, group: &str, members: usize) {
        let consumer: BaseConsumer = self.client().create().expect("a client");
        eventually(&format!("{members} members in {group}"), || {
            let Ok(list) = consumer.fetch_group_list(Some(group), REQUEST) else { return false };
            list.groups().iter().any(|group| group.state() == "Stable" && group.members().len() == members)
        });
    }

    /// Sends records and waits until each is delivered.
    pub(crate) fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Message>) {
        let sender = self.sender();
        for message in messages {
            sender.send(topic, &message);
        }
        sender.flush();
    }

    /// A producer that keeps each key's order, for tests that send while something happens.
    pub(crate) fn sender(&self) -> Sender {
        let mut config = self.client();
        config
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .set("message.max.bytes", MESSAGE_BYTES_MAX)
            .set("linger.ms", "2")
            .set("message.timeout.ms", "300000");
        Sender { producer: config.create().expect("a producer") }
    }

    /// A reader of committed records from the beginning of a topic, all partitions, outside any group.
    pub(crate) fn reader(&self, topic: &str) -> Reader {
        self.reader_from(topic, &[])
    }

    /// The same from given offsets; partitions beyond those given are read from the beginning.
    pub(crate) fn reader_from(&self, topic: &str, offsets: &[i64]) -> Reader {
        let mut partitions = None;
        eventually(&format!("topic {topic} to be there"), || {
            partitions = self.partitions(topic);
            partitions.is_some()
        });
        let partitions = partitions.expect("just seen");
        let mut config = self.client();
        config
            .set("group.id", "reader-without-a-group")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.message.max.bytes", MESSAGE_BYTES_MAX)
            .set("fetch.wait.max.ms", "50");
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut assignment = TopicPartitionList::new();
        for (partition, place) in (0..partitions).zip(0..) {
            let offset = offsets.get(place).map_or(Offset::Beginning, |offset: &i64| Offset::Offset(*offset));
            assignment.add_partition_offset(topic, partition, offset).expect("a valid offset");
        }
        consumer.assign(&assignment).expect("an assignment");
        Reader { consumer, topic: topic.to_owned(), messages: Vec::new() }
    }

    /// All committed records of a topic, to the end offsets as they are now: waits for undecided transactions.
    pub(crate) fn read_all(&self, topic: &str) -> Vec<Message> {
        let mut reader = self.reader(topic);
        reader.read_to(&self.ends(topic));
        reader.messages
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("topic.metadata.refresh.interval.ms", "1000");
        config
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        for node in &self.nodes {
            script(&["stop", &node.folder.to_string_lossy(), "--purge"]);
        }
    }
}

impl Node {
    /// Starts a node that lives as long as this process at the most.
    fn start(folder: PathBuf) -> Self {
        let address = launch(&folder, None, &[]);
        Self { folder, jvm: None, address }
    }

    /// The same with options of the script, which count when the folder is new.
    pub(super) fn start_with(folder: PathBuf, jvm: &'static str, options: &[&str]) -> Self {
        let address = launch(&folder, Some(jvm), options);
        Self { folder, jvm: Some(jvm), address }
    }

    /// In order: it hands its partitions over first. Its data stays.
    pub(crate) fn stop(&self) {
        script(&["stop", &self.folder.to_string_lossy()]);
    }

    /// At once. Its data stays.
    pub(crate) fn kill(&self) {
        script(&["kill", &self.folder.to_string_lossy()]);
    }

    /// With its data, on the same port.
    pub(crate) fn start_again(&self) {
        let address = launch(&self.folder, self.jvm, &[]);
        assert_eq!(address, self.address, "the broker came back elsewhere");
    }
}

/// Sends records of one test, in order per key.
pub(crate) struct Sender {
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Sender {
    /// Queues a record; waits when the queue is full.
    pub(crate) fn send(&self, topic: &str, message: &Message) {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic);
        record.partition = message.partition;
        record.key = message.key.as_deref();
        record.payload = message.value.as_deref();
        if !message.headers.is_empty() {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &message.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            record.headers = Some(headers);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    assert!(Instant::now() < deadline, "the producer's queue stays full");
                    record = back;
                    self.producer.flush(POLL).ok();
                }
                Err((error, _)) => panic!("a record cannot be sent: {error}"),
            }
        }
    }

    /// Waits until everything sent is delivered.
    pub(crate) fn flush(&self) {
        self.producer.flush(PATIENCE).expect("everything sent is delivered");
    }
}

/// Reads along.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    topic: String,
    /// What was read so far, per partition in order.
    pub(crate) messages: Vec<Message>,
}

impl Reader {
    /// Reads what is there within a moment. Returns how many records came.
    pub(crate) fn poll(&mut self) -> usize {
        let before = self.messages.len();
        let mut patience = POLL;
        while let Some(polled) = self.consumer.poll(patience) {
            patience = Duration::ZERO;
            match polled {
                Ok(message) => {
                    let headers = message.headers().map_or_else(Vec::new, |headers| {
                        headers
                            .iter()
                            .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
                            .collect()
                    });
                    self.messages.push(Message {
                        partition: Some(message.partition()),
                        offset: message.offset(),
                        key: message.key().map(<[u8]>::to_vec),
                        value: message.payload().map(<[u8]>::to_vec),
                        headers,
                    });
                }
                // A stopped broker is part of some tests; the deadline of the caller judges.
                Err(error) => eprintln!("reading {}: {error}", self.topic),
            }
        }
        self.messages.len() - before
    }

    /// Reads on until `enough` says so.
    pub(crate) fn read_until(&mut self, what: &str, mut enough: impl FnMut(&[Message]) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.messages) {
            assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}; read {}", self.messages.len());
            self.poll();
        }
    }

    /// Reads until the position in each partition has reached `ends`.
    pub(crate) fn read_to(&mut self, ends: &[i64]) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let position = self.consumer.position().expect("a position");
            let reached = ends.iter().enumerate().all(|(partition, end)| {
                let partition = i32::try_from(partition).expect("few partitions");
                let at = position.find_partition(&self.topic, partition).map(|element| element.offset());
                *end == 0 || matches!(at, Some(Offset::Offset(offset)) if offset >= *end)
            });
            if reached {
                return;
            }
            assert!(Instant::now() < deadline, "{} not read to {ends:?} in {PATIENCE:?}: {position:?}", self.topic);
            self.poll();
        }
    }
}

/// Waits for a condition; says what was waited for when it never comes.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A new folder for a test, removed by nobody but the system, unless the test does.
pub(crate) fn temporary_folder(name: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("ebbtide-test-{}-{name}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

fn launch(folder: &Path, jvm: Option<&str>, options: &[&str]) -> String {
    let process = std::process::id().to_string();
    let folder = folder.to_string_lossy();
    let arguments = [&["start", &folder, "--until", &process], options].concat();
    run_script(&arguments, jvm).trim().to_owned()
}

fn script(arguments: &[&str]) -> String {
    run_script(arguments, None)
}

fn run_script(arguments: &[&str], jvm: Option<&str>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/kafka/kafka");
    let output = Command::new(path)
        .args(arguments)
        .envs(jvm.map(|options| ("EBBTIDE_KAFKA_JVM", options)))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("tools/kafka/kafka can be run");
    assert!(output.status.success(), "tools/kafka/kafka {} failed: {}", arguments.join(" "), output.status);
    String::from_utf8(output.stdout).expect("an address")
}

pub(crate) fn wait_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}
