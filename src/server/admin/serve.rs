//! HTTP/1.1 and HTTP/2 for the admin server.

mod connections;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Buf, Bytes};
use connections::{Activity, BodyUnderWay, Connection, Connections};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nuncio_net::BoundSocket;
use nuncio_telemetry::Address;
use socket2::Socket;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::grpc;
use super::stats::Codec;
use super::{Admin, Answer, Reply};
use crate::startup::StartError;

/// How long a client may take to send a request, or leave its connection idle.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take none of the bytes of an answer.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// Connections served at the same time; for one more, the one that is idle longest is closed.
const MAX_CONNECTIONS: usize = 256;
/// What a client begins with that knows beforehand that HTTP/2 is spoken (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests of an HTTP/2 connection at the same time.
const MAX_STREAMS: u32 = 16;
/// Longest request head in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Longest request body in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Pause after accept(2) failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long answers under way may take when the process ends.
const LINGER: Duration = Duration::from_millis(500);

/// The admin thread, as the control thread sees it.
pub(crate) struct AdminThread {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl AdminThread {
    /// Listens on `socket`, writes its address to the file that the options name, and answers from then on.
    pub(crate) fn spawn(socket: BoundSocket, admin: Admin) -> Result<Self, StartError> {
        socket.listen().map_err(StartError::Admin)?;
        let accepting = socket.socket_of(0).map_err(|source| StartError::System { what: "start admin", source })?;
        if let Some(path) = &admin.options.admin_address_path {
            let what = "write the file of --admin-address-path";
            std::fs::write(path, socket.local().to_string()).map_err(|source| StartError::System { what, source })?;
        }
        info!(target: "admin", address = %socket.local(), "admin listens");
        let is_ip = matches!(socket.local(), Address::Ip(_));
        let (stop, stopped) = watch::channel(false);
        let thread = std::thread::Builder::new().name("admin".to_owned()).spawn(move || {
            let admin = Rc::new(admin);
            // A panic in an answer is caught by its task; any other starts the server again on the same socket.
            while catch_unwind(AssertUnwindSafe(|| run(&accepting, is_ip, &admin, &stopped))).is_err() {
                std::thread::sleep(ACCEPT_PAUSE);
            }
        });
        Ok(Self { stop, thread: thread.map_err(|source| StartError::System { what: "start admin", source })? })
    }

    /// Ends the thread once the answers under way are sent, or at `deadline`.
    pub(crate) async fn stop(self, deadline: Instant) {
        self.stop.send_replace(true);
        while !self.thread.is_finished() && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

fn run(socket: &Socket, is_ip: bool, admin: &Rc<Admin>, stopped: &watch::Receiver<bool>) {
    if let Err(error) = serve(socket, is_ip, admin, stopped) {
        warn!(target: "admin", %error, "admin cannot run");
    }
}

fn serve(socket: &Socket, is_ip: bool, admin: &Rc<Admin>, stopped: &watch::Receiver<bool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let socket = socket.try_clone()?;
        let acceptor = if is_ip {
            Acceptor::Tcp(TcpListener::from_std(socket.into())?)
        } else {
            Acceptor::Unix(UnixListener::from_std(socket.into())?)
        };
        accept(acceptor, admin.clone(), stopped.clone()).await;
        Ok(())
    })
}

async fn accept(acceptor: Acceptor, admin: Rc<Admin>, mut stopped: watch::Receiver<bool>) {
    let connections = Rc::new(Connections::default());
    loop {
        let accepted = async {
            match &acceptor {
                Acceptor::Tcp(listener) => listener.accept().await.map(|(stream, _)| Accepted::Tcp(stream)),
                Acceptor::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
            }
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok(Accepted::Tcp(stream)) => start(stream, &admin, connections.open(MAX_CONNECTIONS), &stopped),
            Ok(Accepted::Unix(stream)) => start(stream, &admin, connections.open(MAX_CONNECTIONS), &stopped),
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
    // What is still being answered, such as the request that ended the process.
    let deadline = Instant::now() + LINGER;
    while !connections.is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(1)).await;
    }
}

enum Accepted {
    Tcp(tokio::net::TcpStream),
    Unix(tokio::net::UnixStream),
}

/// Serves a connection as a task of its own.
fn start<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    stream: S,
    admin: &Rc<Admin>,
    connection: Connection,
    stopped: &watch::Receiver<bool>,
) {
    let (admin, stopped) = (admin.clone(), stopped.clone());
    spawn_local(async move {
        tokio::select! {
            () = converse(stream, admin, connection.activity.clone(), stopped) => {}
            () = connection.gives_way() => {}
        }
    });
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    mut stream: S,
    admin: Rc<Admin>,
    activity: Rc<Activity>,
    mut stopped: watch::Receiver<bool>,
) {
    let counted = admin.stats.connection();
    let begin = tokio::select! {
        begin = timeout(REQUEST_TIMEOUT, read_begin(&mut stream)) => begin,
        _ = stopped.wait_for(|stop| *stop) => return,
    };
    let Ok(Ok(begin)) = begin else { return };
    let io = TokioIo::new(Unstalled::new(stream, begin.clone(), activity.clone()));
    let of_connection = admin.clone();
    let service = service_fn(move |request| answer_in_turn(of_connection.clone(), activity.clone(), request));
    // How a connection of admin ends is of no interest.
    if begin == PREFACE {
        counted.speaks(Codec::Http2);
        let mut builder = http2::Builder::new(LocalExecutor);
        let builder = builder.timer(TokioTimer::new()).keep_alive_interval(REQUEST_TIMEOUT);
        let mut connection = pin!(builder.max_concurrent_streams(MAX_STREAMS).serve_connection(io, service));
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = stopped.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
        return;
    }
    counted.speaks(Codec::Http1);
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_TIMEOUT).max_buf_size(MAX_HEAD);
    let mut connection = pin!(builder.serve_connection(io, service));
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// The first bytes: the preface of HTTP/2, or as many as tell that it is none.
async fn read_begin<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Bytes> {
    let mut begin = Vec::with_capacity(PREFACE.len());
    while begin.len() < PREFACE.len() && PREFACE.starts_with(&begin) {
        let missing = PREFACE.len() - begin.len();
        let mut part = (&mut *stream).take(missing as u64);
        if part.read_buf(&mut begin).await? == 0 {
            break;
        }
    }
    Ok(begin.into())
}

/// Runs the streams of an HTTP/2 connection on the admin thread.
#[derive(Clone)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// The body of an answer, of whatever endpoint.
type AnswerBody = Pin<Box<dyn Body<Data = Bytes, Error = Infallible>>>;

/// Answers once all other connections had their turn: one that sends many requests at once does not hold them up.
async fn answer_in_turn(
    admin: Rc<Admin>,
    activity: Rc<Activity>,
    request: Request<Incoming>,
) -> Result<Response<BodyUnderWay>, Infallible> {
    let under_way = activity.request();
    yield_now().await;
    answer(admin, request).await.map(|response| response.map(|body| under_way.body(body)))
}

async fn answer(admin: Rc<Admin>, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
    admin.stats.request_begins(if request.version() == Version::HTTP_2 { Codec::Http2 } else { Codec::Http1 });
    let (head, body) = request.into_parts();
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let body = match grpc::respond(&admin, path, body) {
        Ok(response) => {
            admin.stats.request_ends(response.status());
            return Ok(response.map(|answers| Box::pin(answers) as AnswerBody));
        }
        Err(body) => body,
    };
    let body = match Admin::takes_body(&head.method, path) {
        // A body that breaks off or is too long is none: what lacks is then named.
        true => Limited::new(body, MAX_BODY).collect().await.map(Collected::to_bytes).unwrap_or_default(),
        false => Bytes::new(),
    };
    Ok(match admin.answer(&head.method, path, query, &body).await {
        Answer::Tapped(tapped) => respond(&admin, StatusCode::OK, super::TEXT, Box::pin(tapped)),
        Answer::Reply(Reply { status, content_type, body }) => {
            respond(&admin, status, content_type, Box::pin(Full::new(Bytes::from(body.into_owned()))))
        }
    })
}

fn respond(admin: &Admin, status: StatusCode, content_type: &'static str, body: AnswerBody) -> Response<AnswerBody> {
    admin.stats.request_ends(status);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, max-age=0"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::SERVER, HeaderValue::from_static("envoy"));
    response
}

/// A stream that breaks when its peer takes nothing for [`WRITE_STALL`].
struct Unstalled<S> {
    stream: S,
    /// What was read of it already.
    begin: Bytes,
    stall: Option<Pin<Box<Sleep>>>,
    activity: Rc<Activity>,
}

impl<S> Unstalled<S> {
    fn new(stream: S, begin: Bytes, activity: Rc<Activity>) -> Self {
        Self { stream, begin, stall: None, activity }
    }

    fn watch<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stall = None;
            return polled;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_STALL)));
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.begin.is_empty() {
            let count = self.begin.len().min(buf.remaining());
            buf.put_slice(&self.begin[..count]);
            self.begin.advance(count);
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            self.activity.moves();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if polled.is_ready() {
            self.activity.moves();
        }
        self.watch(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
