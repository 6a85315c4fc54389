//! A gRPC server that says what a test has it say, on streams that go both ways.

use std::convert::Infallible;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service;
use tonic::{Status, Streaming};

/// A server that hears `I` and says `O`. It ends with the runtime of its test.
pub(crate) struct Server<I, O> {
    port: u16,
    heard: mpsc::UnboundedReceiver<I>,
    words: broadcast::Sender<Option<O>>,
    /// One for each stream that is to hear the words.
    _open: broadcast::Receiver<Option<O>>,
}

/// What a service makes its streams of.
pub(crate) struct Streams<I, O> {
    heard: mpsc::UnboundedSender<I>,
    words: broadcast::Sender<Option<O>>,
}

/// What is said on a stream.
pub(crate) type Words<O> = ReceiverStream<Result<O, Status>>;

impl<I, O: Clone> Server<I, O> {
    /// Has this service serve what comes to a port of its own.
    pub(crate) async fn start<S>(service: impl FnOnce(Streams<I, O>) -> S) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<tonic::body::Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let (sender, heard) = mpsc::unbounded_channel();
        let (words, open) = broadcast::channel(16);
        let service = TowerToHyperService::new(service(Streams { heard: sender, words: words.clone() }));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let builder = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(socket), service.clone()));
            }
        });
        Self { port, heard, words, _open: open }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The next message of whichever stream.
    pub(crate) async fn next(&mut self) -> I {
        self.heard.recv().await.expect("the service is there")
    }

    /// Says it on every stream that has begun.
    pub(crate) fn say(&self, word: O) {
        let _ = self.words.send(Some(word));
    }

    /// Breaks off every stream.
    pub(crate) fn close(&self) {
        let _ = self.words.send(None);
    }
}

impl<I: Send + 'static, O: Clone + Send + 'static> Streams<I, O> {
    /// Serves a stream on which these messages come.
    pub(crate) fn serve(&self, mut messages: Streaming<I>) -> Words<O> {
        let (sender, responses) = mpsc::channel(16);
        let (heard, mut words) = (self.heard.clone(), self.words.subscribe());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = messages.message() => match message {
                        Ok(Some(message)) => _ = heard.send(message),
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
        ReceiverStream::new(responses)
    }
}
