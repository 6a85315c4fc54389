//! Keeps a stream to a control plane and drives its protocol.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use nuncio_filter_api::{ByteStr, GrpcSender, GrpcStream, GrpcTarget, Rng, Upstreams, grpc_frame};
use nuncio_telemetry::stats::{Scope, TextReadout};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use tonic::Status;
use tracing::{debug, warn};

use super::pace::{Backoff, RateLimit};
use super::protocol::{Change, Protocol, Received, Update, Verdict};
use crate::deadline::reached;

nuncio_telemetry::stats! {
    /// `control_plane`, alone for ADS and under the source of a type else.
    pub(crate) struct ControlPlaneStats {
        /// 1 while there is a stream.
        connected_state: Gauge,
        /// Requests that wait for a token of the rate limit.
        pending_requests: Gauge,
        /// Requests that the rate limit held back.
        rate_limit_enforced: Counter,
    }
}

/// A control plane, ready to be called.
pub(crate) struct Server {
    /// Who offers the service, the preferred one first.
    pub(crate) services: Vec<GrpcTarget>,
    /// `/package.Service/Method`
    pub(crate) method: ByteStr,
    /// Pauses between streams.
    pub(crate) backoff: Backoff,
    /// Pace of the requests.
    pub(crate) rate_limit: Option<RateLimit>,
}

/// A change of what is wanted, with the type it is about.
pub(crate) type Wish = (Arc<str>, Change);

/// An update on its way to be applied; the stream rests until the verdict is here.
pub(crate) struct Delivery {
    pub(crate) update: Update,
    pub(crate) verdict: oneshot::Sender<Verdict>,
}

/// One stream that is opened again whenever it ends.
pub(crate) struct Client<P> {
    protocol: P,
    server: Server,
    upstreams: Rc<dyn Upstreams>,
    rng: Rng,
    stats: ControlPlaneStats,
    identifier: TextReadout,
    /// Not bounded but by what configuration names: whoever applies an update wishes for more within it.
    wishes: mpsc::UnboundedReceiver<Wish>,
    deliveries: mpsc::Sender<Delivery>,
    state: watch::Sender<StreamState>,
}

/// How it stands with the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StreamState {
    /// It is there, or about to be.
    #[default]
    Open,
    /// It broke off, or never was.
    BrokenOff,
}

/// Why a stream is over.
enum Ended {
    /// It broke off; another one follows.
    Stream(Status),
    /// Nobody applies updates any longer.
    Process,
}

impl<P: Protocol> Client<P> {
    /// A client that reports to `scope`, the one that holds `control_plane`.
    pub(crate) fn new(
        protocol: P,
        server: Server,
        upstreams: Rc<dyn Upstreams>,
        scope: &Scope,
        wishes: mpsc::UnboundedReceiver<Wish>,
        deliveries: mpsc::Sender<Delivery>,
        state: watch::Sender<StreamState>,
    ) -> Self {
        let scope = scope.scope("control_plane");
        let (stats, identifier) = (ControlPlaneStats::new(&scope), scope.text_readout("identifier"));
        Self { protocol, server, upstreams, rng: Rng::from_entropy(), stats, identifier, wishes, deliveries, state }
    }

    /// Runs until nobody applies updates any longer.
    pub(crate) async fn run(mut self) {
        let mut service = 0;
        loop {
            self.take_wishes();
            self.protocol.connect();
            let target = self.server.services[service].clone();
            let ended = self.serve(&target).await;
            self.stats.connected_state().set(0);
            let Ended::Stream(status) = ended else { return };
            let cluster = &target.cluster.name;
            warn!(target: "config", %cluster, method = %self.server.method, code = status.code() as i32,
                reason = status.message(), "stream to the control plane closed");
            self.state.send_replace(StreamState::BrokenOff);
            service = (service + 1) % self.server.services.len();
            sleep(self.server.backoff.next(&self.rng)).await;
        }
    }

    /// One stream from its begin to its end.
    async fn serve(&mut self, target: &GrpcTarget) -> Ended {
        let (sender, mut stream) = GrpcStream::open(&*self.upstreams, target, self.server.method.clone());
        self.stats.connected_state().set(1);
        self.state.send_if_modified(|state| std::mem::replace(state, StreamState::Open) != StreamState::Open);
        let mut request = None;
        let mut not_before = None;
        loop {
            self.take_wishes();
            if request.is_none() && not_before.is_none_or(|at| at <= Instant::now()) {
                (request, not_before) = self.next_request();
            }
            tokio::select! {
                wish = self.wishes.recv() => match wish {
                    Some((type_url, change)) => self.protocol.change(&type_url, change),
                    None => return Ended::Process,
                },
                () = sent(&sender, &mut request), if request.is_some() => {}
                () = reached(not_before), if not_before.is_some() => not_before = None,
                message = stream.next() => match message {
                    Ok(message) => if let Err(ended) = self.receive(&message).await {
                        return ended;
                    },
                    Err(status) => return Ended::Stream(status),
                },
            }
        }
    }

    /// The next request that is due, framed; or until when the rate limit holds it back.
    fn next_request(&mut self) -> (Option<Bytes>, Option<Instant>) {
        if !self.protocol.is_due() {
            return (None, None);
        }
        let now = Instant::now();
        if let Some(Err(wait)) = self.server.rate_limit.as_mut().map(|limit| limit.take(now)) {
            self.stats.rate_limit_enforced().inc();
            self.stats.pending_requests().set(1);
            return (None, now.checked_add(wait));
        }
        self.stats.pending_requests().set(0);
        (self.protocol.next_request().map(|request| grpc_frame(&request.encode_to_vec())), None)
    }

    fn take_wishes(&mut self) {
        while let Ok((type_url, change)) = self.wishes.try_recv() {
            self.protocol.change(&type_url, change);
        }
    }

    async fn receive(&mut self, message: &[u8]) -> Result<(), Ended> {
        let response = P::Response::decode(message).map_err(|error| {
            Ended::Stream(Status::internal(format!("the server sent what is no response: {error}")))
        })?;
        self.server.backoff.reset();
        let update = match self.protocol.receive(response) {
            Received::Update(update) => update,
            Received::Refused { type_url, reason } => {
                warn!(target: "config", %type_url, %reason, "response of the control plane refused");
                return Ok(());
            }
            Received::Unwanted(type_url) => {
                debug!(target: "config", %type_url, "response of a type that nobody asked for");
                return Ok(());
            }
        };
        if let Some(identifier) = &update.control_plane {
            self.identifier.set(identifier);
        }
        let type_url = update.type_url.clone();
        let (verdict, received) = oneshot::channel();
        self.deliveries.send(Delivery { update, verdict }).await.map_err(|_| Ended::Process)?;
        // Whoever panics over an update has not applied it.
        let lost = |_| Verdict { error: Some("the update could not be applied".into()), ..Verdict::default() };
        self.protocol.settle(&type_url, received.await.unwrap_or_else(lost));
        Ok(())
    }
}

/// Hands the request to the stream, as soon as that takes it.
pub(crate) async fn sent(sender: &GrpcSender, request: &mut Option<Bytes>) {
    match sender.reserve().await {
        Ok(permit) => {
            if let Some(request) = request.take() {
                permit.send(request);
            }
        }
        // The stream is over, and says so itself.
        Err(_) => std::future::pending().await,
    }
}
