//! Hosts, a client that asks one thing after the other, and a load that does not wait for answers.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// A host that answers everything with one byte. Returns its port.
pub(crate) fn host(body: u8) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _ = socket.set_nodelay(true);
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                // A request comes in one piece.
                while socket.read(&mut buffer).is_ok_and(|count| count > 0) {
                    let answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n", &[body][..]].concat();
                    if socket.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// A connection that asks one thing after the other.
pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn connect(port: u16) -> std::io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self(socket))
    }

    /// Status and last byte of the answer.
    pub(crate) fn get(&mut self, path: &str) -> std::io::Result<(u16, u8)> {
        write!(self.0, "GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")?;
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let count = self.0.read(&mut buffer)?;
            if count == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            received.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&received);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() >= length {
                let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
                return Ok((status, received.last().copied().unwrap_or(0)));
            }
        }
    }
}

/// A connection of the load, and since when each answer on it is due.
struct Loaded {
    socket: TcpStream,
    due: VecDeque<Instant>,
    received: Vec<u8>,
}

/// So many requests a second over 20 connections, each at its time whether or not those before were answered. Returns
/// the latencies from when each was to be sent. The thread waits for no other where the kernel allows that: what is
/// measured is the proxy.
pub(crate) fn load(port: u16, rate: u32, time: Duration) -> Vec<Duration> {
    // SAFETY: it only looks at the numbers. Whoever may not have it is content with what all have.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &libc::sched_param { sched_priority: 1 }) };
    let connect = || {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("the listener is there");
        socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true)).expect("sockets can be told so");
        Loaded { socket, due: VecDeque::new(), received: Vec::new() }
    };
    let mut connections: Vec<Loaded> = (0..20).map(|_| connect()).collect();
    let (start, gap) = (Instant::now(), Duration::from_secs(1) / rate);
    let mut latencies = Vec::new();
    let count = (time.as_secs_f64() * f64::from(rate)) as u32;
    for number in 0..count {
        let due = start + gap * number;
        receive_until(due, &mut connections, &mut latencies);
        let connection = &mut connections[number as usize % 20];
        connection.socket.write_all(b"GET /load HTTP/1.1\r\nhost: bench\r\n\r\n").expect("it takes a request");
        connection.due.push_back(due);
    }
    receive_until(Instant::now() + Duration::from_millis(500), &mut connections, &mut latencies);
    latencies
}

fn receive_until(due: Instant, connections: &mut [Loaded], latencies: &mut Vec<Duration>) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let mut polled: Vec<libc::pollfd> = connections
            .iter()
            .map(|c| libc::pollfd { fd: c.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        let timeout = libc::timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        // SAFETY: the array is as long as it is said to be, and the others live until the call returns.
        let ready = unsafe { libc::ppoll(polled.as_mut_ptr(), polled.len() as _, &timeout, std::ptr::null()) };
        if ready <= 0 {
            return;
        }
        for (connection, _) in connections.iter_mut().zip(&polled).filter(|(_, polled)| polled.revents != 0) {
            connection.receive(latencies);
        }
        if left.is_zero() {
            return;
        }
    }
}

impl Loaded {
    fn receive(&mut self, latencies: &mut Vec<Duration>) {
        const END: &[u8] = b"\r\n\r\nx";
        let mut buffer = [0; 16 << 10];
        let Ok(count) = self.socket.read(&mut buffer) else { return };
        assert!(count > 0, "the proxy has closed a connection of the load");
        self.received.extend_from_slice(&buffer[..count]);
        let now = Instant::now();
        while let Some(at) = self.received.windows(END.len()).position(|window| window == END) {
            self.received.drain(..at + END.len());
            let due = self.due.pop_front().expect("answers are to requests");
            latencies.push(now.saturating_duration_since(due));
        }
    }
}
