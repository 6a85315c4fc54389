//! What the codec costs, without the kernel: a request parsed, sent upstream, its response parsed and sent back.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use nuncio_filter_api::{Io, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::h1::{
    ClientConnection, ExchangeOptions, Incoming, OnIdle, Persistence, ServerConnection, ServerSettings,
    parse_request_head,
};

/// Gives the same bytes whenever it is armed; drops what is written.
struct Endless {
    bytes: Bytes,
    armed: Rc<Cell<bool>>,
}

impl Transport for Endless {}

impl AsyncRead for Endless {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.armed.take() {
            return Poll::Pending;
        }
        buf.put_slice(&self.bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Endless {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(std::hint::black_box(buf).len()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, _: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(std::hint::black_box(bufs).iter().map(|b| b.len()).sum()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const WRK: &str = "GET / HTTP/1.1\r\nHost: 127.0.0.1:10000\r\n\r\n";
const BROWSER: &str = "GET /index.html?a=b HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
    x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9\r\n\
    Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef\r\n\
    Connection: keep-alive\r\nCache-Control: no-cache\r\nX-Custom-Thing: something\r\n\r\n";
const NGINX: &str = "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 01:20:18 GMT\r\n\
    Content-Type: text/plain\r\nContent-Length: 64\r\nConnection: keep-alive\r\nETag: \"654321-40\"\r\n\
    Accept-Ranges: bytes\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123";

/// Nanoseconds of CPU of one call, the best of many rounds: the machine may be busy.
fn time(mut each: impl FnMut()) -> u64 {
    let rounds = (0..rounds()).map(|_| {
        let start = thread_cpu();
        (0..2_000).for_each(|_| each());
        (thread_cpu() - start) / 2_000
    });
    rounds.min().unwrap_or_default()
}

/// Few under a profiler that counts instructions, many to outlast what else the machine does.
fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(200)
}

fn thread_cpu() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec to be filled.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn round_trip(request: &'static str) -> u64 {
    let (asked, answered) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(false)));
    let io = Io::new(Endless { bytes: Bytes::from_static(request.as_bytes()), armed: asked.clone() });
    let server = ServerConnection::new(io, Arc::default(), Bytes::new());
    let io = Io::new(Endless { bytes: Bytes::from_static(NGINX.as_bytes()), armed: answered.clone() });
    let pool = Rc::new(RefCell::new(Some(ClientConnection::new(io, Arc::default()))));
    let idle = pool.clone();
    let on_idle: Rc<dyn OnIdle> = Rc::new(move |connection| *idle.borrow_mut() = Some(connection));
    time(|| {
        asked.set(true);
        answered.set(true);
        let Some(Incoming::Request(incoming)) = server.next_request().now_or_never() else { panic!("a request") };
        let options = ExchangeOptions { on_idle: Some(on_idle.clone()), ..Default::default() };
        let exchange = pool.take().expect("handed back").exchange(&incoming.head, incoming.body, options);
        let response = exchange.now_or_never().and_then(Result::ok).expect("a response");
        let done =
            server.respond(&response.head, response.body, Persistence::KeepAlive).now_or_never().and_then(Result::ok);
        assert_eq!(done, Some(Persistence::KeepAlive));
    })
}

#[test]
#[ignore = "a measurement, not a test: cargo test -p nuncio-http --release -- --ignored --nocapture codec_cost"]
fn codec_cost() {
    if std::env::var("ONLY").is_ok() {
        println!("{} ns", round_trip(WRK));
        return;
    }
    let settings = ServerSettings::default();
    for (name, request) in [("wrk", WRK), ("browser", BROWSER)] {
        let parse = time(|| drop(std::hint::black_box(parse_request_head(request.as_bytes(), &settings))));
        let httparse = time(|| {
            let mut fields = [httparse::EMPTY_HEADER; 24];
            let mut parsed = httparse::Request::new(&mut fields);
            assert!(std::hint::black_box(parsed.parse(request.as_bytes())).is_ok());
        });
        let both = round_trip(request);
        println!("{name}: httparse alone {httparse} ns, parse {parse} ns, parse and encode on both sides {both} ns");
    }
}
