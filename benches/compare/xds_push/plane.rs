//! A control plane of one stream: aggregated discovery in both dialects. What it is told to push is encoded before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use nuncio_proto::envoy::service::discovery::v3 as proto;
use nuncio_proto::google::protobuf::Any;
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::world::{Kind, World};

/// Bytes of the prefix of a gRPC message.
const PREFIX: usize = 5;
/// What may be on its way at once.
const WINDOW: u32 = 64 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sotw,
    Delta,
}

/// The answer to a response.
struct Answer {
    nonce: String,
    at: Instant,
    error: Option<String>,
}

pub(crate) struct Plane {
    pub(crate) port: u16,
    /// Of its thread.
    id: Receiver<libc::pid_t>,
    shared: Arc<Shared>,
    answers: Receiver<Answer>,
}

struct Shared {
    dialect: Dialect,
    world: World,
    state: Mutex<State>,
    answers: Sender<Answer>,
}

/// What is kept of the stream.
#[derive(Default)]
struct State {
    nonce: u64,
    /// By type, names that were sent.
    sent: BTreeMap<Kind, BTreeSet<String>>,
    outbox: Option<mpsc::UnboundedSender<Bytes>>,
}

/// A response that is ready to be sent.
pub(crate) struct Encoded {
    nonce: String,
    frame: Bytes,
}

impl Plane {
    pub(crate) fn start(dialect: Dialect, world: World) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("sockets can be told so");
        let port = listener.local_addr().expect("it is bound").port();
        let ((sender, answers), (tell_id, id)) = (channel(), channel());
        let shared = Arc::new(Shared { dialect, world, state: Mutex::default(), answers: sender });
        let served = shared.clone();
        std::thread::spawn(move || {
            // SAFETY: it has no precondition. Nobody waits for it before all runs.
            let _ = tell_id.send(unsafe { libc::gettid() });
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("threads are to be had");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("it is a listener");
                while let Ok((socket, _)) = listener.accept().await {
                    let _ = socket.set_nodelay(true);
                    tokio::spawn(serve(socket, served.clone()));
                }
            });
        });
        Self { port, id, shared, answers }
    }

    /// Whatever else wants the core that it runs on gets it. A real one is on another machine.
    pub(crate) fn give_way(&self) {
        let id = self.id.recv().expect("its thread runs");
        // SAFETY: it takes numbers. Anybody may be nicer than he was.
        let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, id as _, 19) };
        assert_eq!(done, 0, "a thread may give way");
    }

    /// A response with these resources; for the state of the world they are all that there are.
    pub(crate) fn encode(&self, kind: Kind, resources: Vec<(String, Any)>) -> Encoded {
        self.shared.encode(kind, resources)
    }

    /// Sends it.
    pub(crate) fn send(&self, response: &Encoded) {
        let state = self.shared.state();
        let outbox = state.outbox.as_ref().expect("there is a stream");
        outbox.send(response.frame.clone()).expect("the stream goes on");
    }

    /// Sends them one after the other, and tells how long it takes until the first is acknowledged. Returns once all are.
    pub(crate) fn push(&self, responses: &[Encoded]) -> Duration {
        let started = Instant::now();
        responses.iter().for_each(|response| self.send(response));
        let mut pending: BTreeSet<&str> = responses.iter().map(|response| &*response.nonce).collect();
        let mut took = Duration::ZERO;
        while !pending.is_empty() {
            let answer =
                self.answers.recv_timeout(Duration::from_secs(60)).expect("responses are answered in a minute");
            assert!(answer.error.is_none(), "refused: {:?}", answer.error);
            if pending.remove(&*answer.nonce) && answer.nonce == responses[0].nonce {
                took = answer.at - started;
            }
        }
        took
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn encode(&self, kind: Kind, resources: Vec<(String, Any)>) -> Encoded {
        let mut state = self.state();
        state.nonce += 1;
        let (nonce, type_url) = (state.nonce.to_string(), kind.type_url());
        let version = nonce.clone();
        let message = match self.dialect {
            Dialect::Sotw => {
                let resources = resources.into_iter().map(|(_, any)| any).collect();
                let nonce = nonce.clone();
                proto::DiscoveryResponse { version_info: version, resources, type_url, nonce, ..Default::default() }
                    .encode_to_vec()
            }
            Dialect::Delta => {
                let wrap = |(name, any)| proto::Resource {
                    name,
                    version: version.clone(),
                    resource: Some(any),
                    ..Default::default()
                };
                let resources = resources.into_iter().map(wrap).collect();
                let (nonce, system_version_info) = (nonce.clone(), version.clone());
                proto::DeltaDiscoveryResponse { system_version_info, resources, type_url, nonce, ..Default::default() }
                    .encode_to_vec()
            }
        };
        Encoded { nonce, frame: frame(&message) }
    }

    /// What a request asks for is sent; answers are passed on.
    fn receive(&self, message: &[u8]) {
        let (type_url, names, nonce, error) = match self.dialect {
            Dialect::Sotw => {
                let request = proto::DiscoveryRequest::decode(message).expect("it is a request");
                (request.type_url, request.resource_names, request.response_nonce, request.error_detail)
            }
            Dialect::Delta => {
                let request = proto::DeltaDiscoveryRequest::decode(message).expect("it is a request");
                (request.type_url, request.resource_names_subscribe, request.response_nonce, request.error_detail)
            }
        };
        let Some(kind) = Kind::of(&type_url) else { return };
        if !nonce.is_empty() {
            let error = error.map(|status| status.message);
            // Nobody listens once all is measured.
            let _ = self.answers.send(Answer { nonce: nonce.clone(), at: Instant::now(), error });
        }
        let wanted = match kind {
            Kind::Cluster | Kind::Listener if nonce.is_empty() => self.world.all(kind),
            Kind::Cluster | Kind::Listener => return,
            Kind::Endpoints | Kind::Routes => {
                let mut state = self.state();
                let sent = state.sent.entry(kind).or_default();
                // Incremental: what is subscribed to again is wanted again.
                let is_new = |name: &String| sent.insert(name.clone()) || self.dialect == Dialect::Delta;
                let names: Vec<_> = names.into_iter().filter(is_new).collect();
                drop(state);
                names.into_iter().filter_map(|name| self.world.find(kind, &name)).collect()
            }
        };
        if wanted.is_empty() {
            return;
        }
        let response = self.encode(kind, wanted);
        if let Some(outbox) = &self.state().outbox {
            let _ = outbox.send(response.frame);
        }
    }
}

fn frame(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("messages are shorter than 4 GiB"));
    bytes.put_slice(message);
    bytes.freeze()
}

async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).max_send_buffer_size(WINDOW as usize);
    let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(stream(request.into_body(), respond, shared.clone()));
    }
}

async fn stream(mut requests: h2::RecvStream, mut respond: SendResponse<Bytes>, shared: Arc<Shared>) {
    let head = http::Response::builder().header("content-type", "application/grpc").body(()).expect("it is a response");
    let Ok(mut responses) = respond.send_response(head, false) else { return };
    let (outbox, mut outgoing) = mpsc::unbounded_channel();
    {
        let mut state = shared.state();
        *state = State { outbox: Some(outbox), nonce: state.nonce, ..State::default() };
    }
    let mut received = BytesMut::new();
    loop {
        tokio::select! {
            data = requests.data() => {
                let Some(Ok(data)) = data else { return };
                let _ = requests.flow_control().release_capacity(data.len());
                received.extend_from_slice(&data);
                while let Some(message) = next_message(&mut received) {
                    shared.receive(&message);
                }
            }
            Some(frame) = outgoing.recv() => if responses.send_data(frame, false).is_err() {
                return;
            },
        }
    }
}

fn next_message(received: &mut BytesMut) -> Option<BytesMut> {
    let &[_, a, b, c, d] = received.first_chunk::<PREFIX>()?;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if received.len() < PREFIX + length {
        return None;
    }
    received.advance(PREFIX);
    Some(received.split_to(length))
}
