//! Keeps a stream to a control plane and drives its protocol.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use nuncio_filter_api::{ByteStr, GrpcSender, GrpcStream, GrpcTarget, Rng, Upstreams, grpc_frame};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use tonic::Status;
use tracing::{debug, warn};

use super::pace::{Backoff, RateLimit};
use super::protocol::{CLUSTER, Change, Protocol, Received, Update, Verdict};
use crate::deadline::reached;
use crate::update::{PlaneCounted, PlaneState};

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
    /// Where it is asked for clusters among all else: whether some of them cannot be used yet.
    pub(crate) warming: Option<watch::Receiver<bool>>,
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
    /// Of a stream for all kinds; of others the targets count it.
    counted: Option<PlaneCounted>,
    /// Not bounded but by what configuration names: whoever applies an update wishes for more within it.
    wishes: mpsc::UnboundedReceiver<Wish>,
    deliveries: mpsc::Sender<Delivery>,
    state: watch::Sender<PlaneState>,
}

/// Why a stream is over.
enum Ended {
    /// It broke off; another one follows.
    Stream(Status),
    /// Nobody applies updates any longer.
    Process,
}

impl<P: Protocol> Client<P> {
    /// A client that counts there itself, where others do not.
    pub(crate) fn new(
        protocol: P,
        server: Server,
        upstreams: Rc<dyn Upstreams>,
        counted: Option<PlaneCounted>,
        wishes: mpsc::UnboundedReceiver<Wish>,
        deliveries: mpsc::Sender<Delivery>,
        state: watch::Sender<PlaneState>,
    ) -> Self {
        Self { protocol, server, upstreams, rng: Rng::from_entropy(), counted, wishes, deliveries, state }
    }

    /// Runs until nobody applies updates any longer.
    pub(crate) async fn run(mut self) {
        let mut service = 0;
        loop {
            self.take_wishes();
            self.protocol.connect();
            let target = self.server.services[service].clone();
            let ended = self.serve(&target).await;
            let Ended::Stream(status) = ended else { return };
            self.tell(|state| {
                state.is_connected = false;
                state.failures += 1;
            });
            let cluster = &target.cluster.name;
            warn!(target: "config", %cluster, method = %self.server.method, code = status.code() as i32,
                reason = status.message(), "stream to the control plane closed");
            service = (service + 1) % self.server.services.len();
            sleep(self.server.backoff.next(&self.rng)).await;
        }
    }

    /// One stream from its begin to its end.
    async fn serve(&mut self, target: &GrpcTarget) -> Ended {
        let (sender, mut stream) = GrpcStream::open(&*self.upstreams, target, self.server.method.clone());
        self.tell(|state| state.is_connected = true);
        let mut request = None;
        let mut not_before = None;
        loop {
            self.take_wishes();
            self.hold_clusters();
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
                () = changed(&mut self.server.warming) => {}
                message = stream.next() => match message {
                    Ok(message) => if let Err(ended) = self.receive(&message).await {
                        return ended;
                    },
                    Err(status) => return Ended::Stream(status),
                },
            }
        }
    }

    /// Envoy: clusters are acknowledged when all of them can be used, so that the server may send their routes then.
    fn hold_clusters(&mut self) {
        let is_warming = self.server.warming.as_mut().is_some_and(|warming| *warming.borrow_and_update());
        self.protocol.hold(is_warming.then_some(CLUSTER));
    }

    /// The next request that is due, framed; or until when the rate limit holds it back.
    fn next_request(&mut self) -> (Option<Bytes>, Option<Instant>) {
        if !self.protocol.is_due() {
            return (None, None);
        }
        let now = Instant::now();
        if let Some(Err(wait)) = self.server.rate_limit.as_mut().map(|limit| limit.take(now)) {
            self.tell(|state| {
                state.rate_limit_enforced += 1;
                state.pending_requests = 1;
            });
            return (None, now.checked_add(wait));
        }
        self.tell(|state| state.pending_requests = 0);
        (self.protocol.next_request().map(|request| grpc_frame(&request.encode_to_vec())), None)
    }

    /// Changes the state of the stream, and tells it where it is another.
    fn tell(&mut self, change: impl FnOnce(&mut PlaneState)) {
        let is_new = self.state.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            *state != before
        });
        if let Some(counted) = self.counted.as_mut().filter(|_| is_new) {
            counted.show(&self.state.borrow());
        }
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
            self.tell(|state| state.identifier.clone_from(identifier));
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

/// Waits for a change of what is watched, if anything is.
async fn changed(watched: &mut Option<watch::Receiver<bool>>) {
    let is_gone = match watched {
        Some(watched) => watched.changed().await.is_err(),
        None => true,
    };
    if is_gone {
        std::future::pending().await
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
