//! A network between an instance and its brokers that can be hurt: a relay that knows where a Kafka request begins and
//! ends, whose it is and which one, and loses, delays or holds what it is told to.
//!
//! Holding is what a network that has gone away does: nothing arrives, nothing is lost, and what was sent may still be
//! delivered when it is back, even after the sender has given up on the connection. A late `EndTxn` is made that way.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// API key of `Produce`.
pub(crate) const PRODUCE: i16 = 0;
/// `OffsetFetch`: where a group stands.
pub(crate) const OFFSET_FETCH: i16 = 9;
/// `FindCoordinator`: which broker keeps a group's offsets, or decides a producer's transactions.
pub(crate) const FIND_COORDINATOR: i16 = 10;
/// `InitProducerId`: a producer begins its life.
pub(crate) const INIT_PRODUCER_ID: i16 = 22;
/// `EndTxn`: commit or abort.
pub(crate) const END_TXN: i16 = 26;

/// Larger than any request or answer of these tests.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// Frames under way in one direction of a connection.
const FRAMES_MAX: usize = 64;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the instance to the broker.
    Requests,
    /// From the broker to the instance.
    Answers,
}

/// What happens to what is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// It takes so much longer.
    Delay(Duration),
    /// It waits until the fault is lifted.
    Hold,
    /// It is swallowed, and the connection stays.
    Lose,
    /// It is swallowed, and the connection is lost with it.
    LoseAndCut,
}

/// One thing that is wrong with the network.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The clients it concerns: those whose `client.id` begins so. Empty for all.
    pub(crate) who: String,
    pub(crate) way: Way,
    /// The requests, or the answers to the requests, it concerns, by API key; `None` for all.
    pub(crate) api: Option<i16>,
    pub(crate) harm: Harm,
    /// How many it strikes before it is over; `None`: all, until it is lifted.
    pub(crate) times: Option<u32>,
}

/// A fault that was imposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FaultId(u64);

/// The relays to all nodes of a cluster, and what is wrong with them. Ends when dropped.
pub(crate) struct Network {
    state: Arc<State>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Default)]
struct State {
    faults: Mutex<Faults>,
    /// Counts changes of the faults, for those who wait for one to be lifted.
    changes: watch::Sender<u64>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    seen: Mutex<HashMap<(String, i16), usize>>,
}

#[derive(Default)]
struct Faults {
    next: u64,
    imposed: Vec<(FaultId, Fault)>,
}

#[derive(Default)]
struct Connection {
    /// The `client.id`, known from the first request on.
    client: OnceLock<String>,
    /// The API keys of requests without an answer yet, by correlation id.
    open: Mutex<HashMap<i32, i16>>,
    cut: CancellationToken,
}

struct Frame {
    bytes: Vec<u8>,
    api: i16,
    due: Instant,
}

impl Network {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("network")
            .enable_all()
            .build()
            .expect("a runtime");
        Self { state: Arc::default(), runtime: Some(runtime) }
    }

    /// Relays to `target` from a new port of this machine. The target need not be there yet.
    pub(crate) fn relay(&self, target: SocketAddr) -> SocketAddr {
        let state = Arc::clone(&self.state);
        let runtime = self.runtime.as_ref().expect("it runs");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = listener.local_addr().expect("bound");
        runtime.spawn(async move {
            let mut number = 0_u64;
            while let Ok((client, from)) = listener.accept().await {
                number += 1;
                let id = (u64::from(target.port()) << 40) | number;
                let state = Arc::clone(&state);
                tokio::spawn(async move {
                    let connection = Arc::new(Connection::default());
                    lock(&state.connections).insert(id, Arc::clone(&connection));
                    // A broker that is down refuses, and so do we, by closing.
                    if let Ok(broker) = TcpStream::connect(target).await {
                        client.set_nodelay(true).expect("a socket from {from}");
                        broker.set_nodelay(true).expect("a socket");
                        connection.serve(&state, client, broker).await;
                    }
                    let _ = from;
                    lock(&state.connections).remove(&id);
                });
            }
        });
        address
    }

    pub(crate) fn impose(&self, fault: Fault) -> FaultId {
        let mut faults = lock(&self.state.faults);
        faults.next += 1;
        let id = FaultId(faults.next);
        faults.imposed.push((id, fault));
        id
    }

    /// Whether it is still there, and not over by the number of times.
    pub(crate) fn is_imposed(&self, id: FaultId) -> bool {
        lock(&self.state.faults).imposed.iter().any(|(imposed, _)| *imposed == id)
    }

    pub(crate) fn lift(&self, id: FaultId) {
        lock(&self.state.faults).imposed.retain(|(imposed, _)| *imposed != id);
        self.state.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn heal(&self) {
        lock(&self.state.faults).imposed.clear();
        self.state.changes.send_modify(|count| *count += 1);
    }

    /// Cuts the connections of the clients whose `client.id` begins so, and says how many.
    pub(crate) fn cut(&self, who: &str) -> usize {
        let connections = lock(&self.state.connections);
        let theirs = connections.values().filter(|connection| connection.is_of(who));
        theirs.map(|connection| connection.cut.cancel()).count()
    }

    /// How many requests of a kind have been seen from the clients whose `client.id` begins so.
    pub(crate) fn seen(&self, who: &str, api: i16) -> usize {
        let seen = lock(&self.state.seen);
        seen.iter().filter(|((client, key), _)| client.starts_with(who) && *key == api).map(|(_, count)| count).sum()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl State {
    /// What strikes this frame; a fault that was to strike a number of times has struck once more.
    fn strike(&self, client: &str, way: Way, api: i16) -> Vec<Harm> {
        let mut faults = lock(&self.faults);
        let mut harms = Vec::new();
        for (_, fault) in &mut faults.imposed {
            if fault.concerns(client, way, api) {
                harms.push(fault.harm);
                fault.times = fault.times.map(|times| times - 1);
            }
        }
        faults.imposed.retain(|(_, fault)| fault.times != Some(0));
        harms
    }

    fn is_held(&self, client: &str, way: Way, api: i16) -> bool {
        let faults = lock(&self.faults);
        faults.imposed.iter().any(|(_, fault)| fault.harm == Harm::Hold && fault.concerns(client, way, api))
    }
}

impl Fault {
    fn concerns(&self, client: &str, way: Way, api: i16) -> bool {
        self.way == way && client.starts_with(&self.who) && self.api.is_none_or(|concerned| concerned == api)
    }
}

impl Connection {
    fn is_of(&self, who: &str) -> bool {
        who.is_empty() || self.client.get().is_some_and(|client| client.starts_with(who))
    }

    async fn serve(&self, state: &State, client: TcpStream, broker: TcpStream) {
        let (from_client, to_client) = client.into_split();
        let (from_broker, to_broker) = broker.into_split();
        tokio::select! {
            // The broker's side ends last: what it was sent late is still answered, if only to nobody.
            _ = async { tokio::join!(
                self.pump(state, Way::Requests, from_client, to_broker),
                self.pump(state, Way::Answers, from_broker, to_client),
            ) } => {}
            () = self.cut.cancelled() => {}
        }
    }

    /// One direction: one half reads frames and says what becomes of each, the other delivers them in order.
    async fn pump(&self, state: &State, way: Way, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let (sender, mut frames) = mpsc::channel::<Frame>(FRAMES_MAX);
        let reading = async move {
            while let Some(bytes) = frame(&mut from).await {
                let api = match way {
                    Way::Requests => self.request(state, &bytes),
                    Way::Answers => self.answer(&bytes),
                };
                let mut due = Instant::now();
                let mut lost = false;
                for harm in state.strike(self.name(), way, api) {
                    match harm {
                        Harm::Delay(length) => due += length,
                        Harm::Hold => {}
                        Harm::Lose => lost = true,
                        Harm::LoseAndCut => return self.cut.cancel(),
                    }
                }
                if !lost && sender.send(Frame { bytes, api, due }).await.is_err() {
                    return;
                }
            }
        };
        let writing = async move {
            let mut changes = state.changes.subscribe();
            while let Some(Frame { bytes, api, due }) = frames.recv().await {
                tokio::time::sleep_until(due).await;
                loop {
                    changes.borrow_and_update();
                    if !state.is_held(self.name(), way, api) || changes.changed().await.is_err() {
                        break;
                    }
                }
                if to.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            to.shutdown().await.ok();
        };
        tokio::join!(reading, writing);
    }

    fn name(&self) -> &str {
        self.client.get().map_or("", String::as_str)
    }

    /// Notes a request down: its header is API key, version, correlation id, and the client's id behind its length.
    fn request(&self, state: &State, bytes: &[u8]) -> i16 {
        let header = &bytes[4..];
        let api = i16::from_be_bytes([header[0], header[1]]);
        let correlation = i32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let length = usize::try_from(i16::from_be_bytes([header[8], header[9]])).unwrap_or(0);
        let client = self.client.get_or_init(|| String::from_utf8_lossy(&header[10..10 + length]).into_owned());
        lock(&self.open).insert(correlation, api);
        *lock(&state.seen).entry((client.clone(), api)).or_default() += 1;
        api
    }

    fn answer(&self, bytes: &[u8]) -> i16 {
        let correlation = i32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        lock(&self.open).remove(&correlation).expect("an answer to a request that was seen")
    }
}

/// The next request or answer with its length in front; `None` at the end.
async fn frame(from: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let length = from.read_u32().await.ok()?;
    let size = usize::try_from(length).expect("32 bits fit");
    assert!((8..=FRAME_BYTES_MAX).contains(&size), "{size} bytes are no frame of Kafka's");
    let mut bytes = Vec::with_capacity(size + 4);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.resize(size + 4, 0);
    from.read_exact(&mut bytes[4..]).await.ok()?;
    Some(bytes)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
