//! A server of HDS that says what a test has it say.

use std::pin::Pin;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use nuncio_proto::envoy::service::health::v3::health_discovery_service_server::{
    HealthDiscoveryService, HealthDiscoveryServiceServer,
};
use nuncio_proto::envoy::service::health::v3::{HealthCheckRequestOrEndpointHealthResponse, HealthCheckSpecifier};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// It ends with the runtime of its test.
pub(super) struct Server {
    port: u16,
    received: mpsc::UnboundedReceiver<HealthCheckRequestOrEndpointHealthResponse>,
    words: broadcast::Sender<Option<HealthCheckSpecifier>>,
    /// One for each stream that is to hear the words.
    _open: broadcast::Receiver<Option<HealthCheckSpecifier>>,
}

struct Service {
    received: mpsc::UnboundedSender<HealthCheckRequestOrEndpointHealthResponse>,
    words: broadcast::Sender<Option<HealthCheckSpecifier>>,
}

impl Server {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (sender, received) = mpsc::unbounded_channel();
        let (words, open) = broadcast::channel(16);
        let service = HealthDiscoveryServiceServer::new(Service { received: sender, words: words.clone() });
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = TowerToHyperService::new(service.clone());
                tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { port, received, words, _open: open }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The next message of whichever stream.
    pub(super) async fn next(&mut self) -> HealthCheckRequestOrEndpointHealthResponse {
        self.received.recv().await.expect("the service is there")
    }

    /// Says it on every stream that has begun.
    pub(super) fn say(&self, response: HealthCheckSpecifier) {
        let _ = self.words.send(Some(response));
    }

    /// Breaks off every stream.
    pub(super) fn close(&self) {
        let _ = self.words.send(None);
    }
}

#[tonic::async_trait]
impl HealthDiscoveryService for Service {
    type StreamHealthCheckStream = Pin<Box<dyn Stream<Item = Result<HealthCheckSpecifier, Status>> + Send>>;

    async fn stream_health_check(
        &self,
        request: Request<Streaming<HealthCheckRequestOrEndpointHealthResponse>>,
    ) -> Result<Response<Self::StreamHealthCheckStream>, Status> {
        let (sender, responses) = mpsc::channel(16);
        let (received, mut words) = (self.received.clone(), self.words.subscribe());
        let mut messages = request.into_inner();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = messages.message() => match message {
                        Ok(Some(message)) => _ = received.send(message),
                        _ => return,
                    },
                    word = words.recv() => {
                        let word = word.ok().flatten().ok_or_else(|| Status::unavailable("it is over"));
                        let is_last = word.is_err();
                        if sender.send(word).await.is_err() || is_last {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }

    async fn fetch_health_check(
        &self,
        _: Request<HealthCheckRequestOrEndpointHealthResponse>,
    ) -> Result<Response<HealthCheckSpecifier>, Status> {
        Err(Status::unimplemented("nobody polls"))
    }
}
