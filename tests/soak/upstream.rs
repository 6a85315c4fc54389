//! An upstream that restarts again and again, as a well-behaved server does.

use crate::support::http1::{Kind, Message, Reader};
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A server of HTTP/1 on a port that it keeps.
pub(super) struct Restarting {
    listener: TcpListener,
    port: u16,
    broken: Rc<Cell<u64>>,
}

/// The answer to `/large`.
pub(super) fn large() -> Vec<u8> {
    (0..60_000_u32).map(|n| n as u8).collect()
}

impl Restarting {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the test may listen");
        let port = listener.local_addr().expect("it is bound").port();
        Self { listener, port, broken: Rc::default() }
    }

    /// How many requests came when their connection was closed already.
    pub(super) fn broken(&self) -> Rc<Cell<u64>> {
        self.broken.clone()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Serves, and restarts each time `life` has passed. The listening socket is handed on, as servers do that lose no
    /// connection over it: closing it would reset what waits to be accepted.
    pub(super) async fn run(self, life: Duration) {
        loop {
            let (stop, stopped) = watch::channel(false);
            let until = tokio::time::sleep(life);
            tokio::pin!(until);
            loop {
                tokio::select! {
                    accepted = self.listener.accept() => {
                        let (stream, _) = accepted.expect("the test may open files");
                        tokio::task::spawn_local(serve(stream, stopped.clone(), self.broken.clone()));
                    }
                    () = &mut until => break,
                }
            }
            let _ = stop.send(true);
        }
    }
}

/// Answers until it is told to stop, and then ends between two requests without a word, as servers do. Its first
/// request a connection gets to send: who has just connected would otherwise be cut in the act.
async fn serve(stream: TcpStream, mut stopped: watch::Receiver<bool>, broken: Rc<Cell<u64>>) {
    let _ = stream.set_nodelay(true);
    let mut reader = Reader::new(stream);
    let mut is_first = true;
    let mut byte = [0];
    loop {
        tokio::select! {
            biased;
            _ = reader.get_mut().peek(&mut byte) => {}
            _ = stopped.wait_for(|s| *s), if !is_first => break,
        }
        is_first = false;
        let Ok(Some(message)) = reader.message(Kind::Request).await else { return };
        if reader.get_mut().write_all(&answer(message)).await.is_err() {
            return;
        }
    }
    let _ = reader.get_mut().shutdown().await;
    let late = tokio::time::timeout(Duration::from_secs(1), reader.raw(1)).await;
    if late.is_ok_and(|bytes| bytes.is_ok_and(|b| !b.is_empty())) {
        broken.set(broken.get() + 1);
    }
}

fn answer(request: Message) -> Vec<u8> {
    let body = match request.target() {
        "/large" => large(),
        "/echo" => request.body,
        _ => b"small".to_vec(),
    };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.into_bytes(), body].concat()
}
