//! Requests at a steady rate, and what came of them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

const CLIENTS: u32 = 100;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// Longer than the time-out of the route.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of all requests to one proxy.
#[derive(Default)]
pub(super) struct Results {
    pub(super) sent: Cell<u64>,
    pub(super) good: Cell<u64>,
    /// Other answers, by what they say.
    pub(super) bad: RefCell<BTreeMap<String, u64>>,
    /// Requests that took so many milliseconds, by powers of two.
    times: RefCell<[u64; 16]>,
}

impl Results {
    pub(super) fn failed(&self) -> u64 {
        self.sent.get() - self.good.get()
    }

    /// In percent.
    pub(super) fn success_rate(&self) -> f64 {
        100.0 * self.good.get() as f64 / self.sent.get().max(1) as f64
    }

    /// No more than one in a thousand took longer.
    pub(super) fn p999(&self) -> Duration {
        let times = self.times.borrow();
        let mut beyond = self.sent.get() / 1000;
        let slowest = times.iter().enumerate().rev().find(|(_, count)| match beyond.checked_sub(**count) {
            Some(left) => {
                beyond = left;
                false
            }
            None => true,
        });
        Duration::from_millis(1 << slowest.map_or(0, |(power, _)| power))
    }

    fn note(&self, begun: Instant, outcome: Result<(), String>) {
        self.sent.set(self.sent.get() + 1);
        let millis = begun.elapsed().as_millis() as u64;
        self.times.borrow_mut()[(64 - millis.leading_zeros() as usize).min(15)] += 1;
        match outcome {
            Ok(()) => self.good.set(self.good.get() + 1),
            Err(what) => *self.bad.borrow_mut().entry(what).or_default() += 1,
        }
    }
}

/// Sends `rate` requests a second until `end`.
pub(super) async fn run(to: SocketAddr, rate: u32, end: Instant, results: Rc<Results>) {
    let mut clients = JoinSet::new();
    let period = Duration::from_secs(1) * CLIENTS / rate;
    for n in 0..CLIENTS {
        let first = Instant::now() + period * n / CLIENTS;
        clients.spawn_local(client(to, first, period, end, results.clone()));
    }
    clients.join_all().await;
}

async fn client(to: SocketAddr, first: Instant, period: Duration, end: Instant, results: Rc<Results>) {
    let mut ticks = interval_at(first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut kept = None;
    while ticks.tick().await < end {
        let begun = Instant::now();
        let outcome = match timeout(PATIENCE, exchange(&mut kept, to)).await {
            Ok(outcome) => outcome,
            Err(_) => Err("no answer".to_owned()),
        };
        if outcome.as_ref().is_err_and(|what| !what.starts_with("HTTP")) {
            kept = None;
        }
        results.note(begun, outcome);
    }
}

async fn exchange(kept: &mut Option<TcpStream>, to: SocketAddr) -> Result<(), String> {
    let broken = |e: std::io::Error| format!("client: {:?}", e.kind());
    if kept.is_none() {
        let stream = TcpStream::connect(to).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        *kept = Some(stream);
    }
    let Some(stream) = kept else { return Err("no connection".to_owned()) };
    stream.write_all(REQUEST).await.map_err(broken)?;
    let mut answer = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut answer).await.map_err(broken)? == 0 {
            return Err("closed without an answer".to_owned());
        }
        let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        let length = length.ok_or_else(|| "no length".to_owned())?;
        if answer.len() < end + 4 + length {
            continue;
        }
        if answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"ok") {
            return Ok(());
        }
        let line = head.lines().next().unwrap_or_default().to_ascii_uppercase();
        return Err(format!("{line}: {}", String::from_utf8_lossy(&answer[end + 4..])));
    }
}
