//! Several nodes of Kafka on one machine, with a network in front that can be hurt.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use rand::RngExt as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};

use super::kafka::{Broker, Node, eventually, temporary_folder};
use super::network::Network;

/// Below the ports that the system gives to clients: a node that is down keeps its own.
const PORTS: std::ops::Range<u16> = 20_000..30_000;
/// The least that a node needs; there are several of them, and other tests beside.
const JVM: &str = "-Xms128m -Xmx320m -XX:+UseSerialGC -XX:TieredStopAtLevel=1";

/// Kafka, reached directly by the test and through a network that can be hurt by the instances.
pub(crate) struct Cluster {
    pub(crate) broker: Broker,
    pub(crate) network: Network,
    /// The brokers' addresses as the instances know them.
    pub(crate) relayed: String,
}

impl Cluster {
    /// Starts so many nodes; each topic has as many replicas, and a write needs all but one of them.
    pub(crate) fn start(size: usize) -> Self {
        let network = Network::new();
        let mut taken = Vec::new();
        let mut ports = |count: usize| -> Vec<u16> { (0..count).map(|_| free_port(&mut taken)).collect() };
        let (direct, behind, controllers) = (ports(size), ports(size), ports(size));
        let relays: Vec<SocketAddr> =
            behind.iter().map(|port| network.relay(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)))).collect();
        let voters: Vec<String> = (1..).zip(&controllers).map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let voters = voters.join(",");
        // A node is up only when the others are.
        let nodes: Vec<Node> = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..size)
                .map(|place| {
                    let folder = temporary_folder(&format!("node-{}", place + 1));
                    let listeners = Listeners {
                        direct: direct[place],
                        behind: behind[place],
                        relay: relays[place],
                        controller: controllers[place],
                    };
                    let voters = &voters;
                    scope.spawn(move || start(folder, place + 1, size, &listeners, voters))
                })
                .collect();
            starting.into_iter().map(|node| node.join().expect("a node that started")).collect()
        });
        let address = nodes.iter().map(|node| node.address.clone()).collect::<Vec<_>>().join(",");
        let broker = Broker { nodes, address, replicas: i32::try_from(size).expect("a few") };
        let relayed = relays.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let cluster = Self { broker, network, relayed };
        eventually("all nodes to know each other", || cluster.leaders(None).0 == size);
        cluster
    }

    pub(crate) fn node(&self, place: usize) -> &Node {
        &self.broker.nodes[place]
    }

    pub(crate) fn size(&self) -> usize {
        self.broker.nodes.len()
    }

    /// How many nodes are up, the leader of each partition of a topic (all topics), and whether all replicas are in sync.
    pub(crate) fn leaders(&self, topic: Option<&str>) -> (usize, Vec<i32>, bool) {
        let consumer: BaseConsumer = self.broker.client().create().expect("a client");
        let Ok(metadata) = consumer.fetch_metadata(topic, std::time::Duration::from_secs(10)) else {
            return (0, Vec::new(), false);
        };
        let partitions = || metadata.topics().iter().flat_map(MetadataTopic::partitions);
        let leaders = partitions().map(MetadataPartition::leader).collect();
        let in_sync = partitions().all(|partition| partition.isr().len() == partition.replicas().len());
        (metadata.brokers().len(), leaders, in_sync)
    }

    /// Waits until every node is up and has caught up with every partition.
    pub(crate) fn wait_until_whole(&self) {
        eventually("all replicas to be in sync", || {
            let (up, _, in_sync) = self.leaders(None);
            up == self.size() && in_sync
        });
    }
}

struct Listeners {
    direct: u16,
    behind: u16,
    relay: SocketAddr,
    controller: u16,
}

fn start(folder: PathBuf, id: usize, size: usize, listeners: &Listeners, voters: &str) -> Node {
    let &Listeners { direct, behind, relay, controller } = listeners;
    let least = (size - 1).max(1);
    let properties = format!(
        "node.id={id}
listeners=PLAINTEXT://127.0.0.1:{direct},RELAYED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{direct},RELAYED://{relay}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,RELAYED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
controller.quorum.voters={voters}
default.replication.factor={size}
min.insync.replicas={least}
offsets.topic.replication.factor={size}
transaction.state.log.replication.factor={size}
transaction.state.log.min.isr={least}
share.coordinator.state.topic.replication.factor={size}
share.coordinator.state.topic.min.isr={least}
# Leaders go back where they belong soon after a restart: one more move.
leader.imbalance.check.interval.seconds=5
leader.imbalance.per.broker.percentage=0
replica.lag.time.max.ms=10000
"
    );
    let file = folder.join("cluster.properties");
    std::fs::write(&file, properties).expect("a file");
    let (port, controller) = (direct.to_string(), controller.to_string());
    let file = file.to_string_lossy();
    Node::start_with(folder.clone(), JVM, &["--port", &port, "--controller", &controller, "--properties", &file])
}

fn free_port(taken: &mut Vec<u16>) -> u16 {
    loop {
        let port = rand::rng().random_range(PORTS);
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.push(port);
            return port;
        }
    }
}
