//! A host of HTTP/1 that is told how to answer.

use super::schedule::Mode;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UNWELL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 6\r\n\r\nunwell";
const BROKEN: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 6\r\n\r\nbroken";

/// One host; it lives until it is dropped.
pub(super) struct Host {
    pub(super) ip: Ipv4Addr,
    mode: watch::Sender<Mode>,
    _task: JoinSet<()>,
}

impl Host {
    pub(super) fn start(ip: Ipv4Addr, port: u16, mode: Mode) -> Self {
        let (sender, receiver) = watch::channel(mode);
        let mut task = JoinSet::new();
        task.spawn_local(run((ip, port).into(), receiver));
        Self { ip, mode: sender, _task: task }
    }

    pub(super) fn turn(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

fn listen(at: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("sockets are to be had");
    socket.set_reuseaddr(true).expect("an option that every socket has");
    socket.bind(at).expect("the port is ours");
    socket.listen(256).expect("it is bound")
}

async fn run(at: SocketAddr, mut mode: watch::Receiver<Mode>) {
    loop {
        if mode.wait_for(|mode| *mode != Mode::Down).await.is_err() {
            return;
        }
        let listener = listen(at);
        // All connections end with it.
        let mut connections = JoinSet::new();
        let seen = Rc::new(mode.clone());
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.expect("the test may open files");
                    connections.spawn_local(serve(stream, seen.clone()));
                    while connections.try_join_next().is_some() {}
                }
                changed = mode.wait_for(|mode| *mode == Mode::Down) => {
                    if changed.is_err() {
                        return;
                    }
                    break;
                }
            }
        }
    }
}

async fn serve(mut stream: TcpStream, mode: Rc<watch::Receiver<Mode>>) {
    let _ = stream.set_nodelay(true);
    let mut request = Vec::new();
    loop {
        request.clear();
        while !request.ends_with(b"\r\n\r\n") {
            match stream.read_buf(&mut request).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let is_check = request.starts_with(b"GET /hc ");
        let now = *mode.borrow();
        let answer = match now {
            Mode::Well | Mode::Down => OK,
            Mode::Broken if is_check => OK,
            Mode::Broken => BROKEN,
            Mode::Unwell => UNWELL,
            Mode::Slow => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                OK
            }
            Mode::Silent => {
                let _ = stream.readable().await;
                return;
            }
            Mode::Resets => return drop(stream.set_zero_linger()),
        };
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}
