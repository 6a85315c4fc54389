//! `connection_keepalive`: PINGs that show whether a connection of HTTP/2 is alive.

use std::future::pending;
use std::time::Duration;

use h2::{Ping, PingPong};
use nuncio_config::protocol::Keepalive;
use nuncio_http::h2::client::Driver;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// The PINGs of one connection.
pub(crate) struct Pings {
    keepalive: Keepalive,
    pings: PingPong,
}

impl Pings {
    /// What is configured for the connection of `driver`; none where nothing is.
    pub(crate) fn new(keepalive: Option<Keepalive>, driver: &mut Driver) -> Option<Self> {
        keepalive.and_then(|keepalive| Some(Self { keepalive, pings: driver.ping_pong()? }))
    }
}

/// Sends PINGs as configured, and when `asked` says so; ends once one is not answered. `random` draws below a bound of
/// nanoseconds, which is not 0.
pub(crate) async fn unanswered(pings: Option<Pings>, asked: &Notify, random: impl Fn(u64) -> u64) {
    let Some(Pings { keepalive, mut pings }) = pings else { return pending().await };
    loop {
        tokio::select! {
            () = next_interval(&keepalive, &random) => {}
            () = asked.notified() => {}
        }
        match timeout(keepalive.timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The driver tells what is wrong with the connection.
            Ok(Err(_)) => return pending().await,
            Err(_) => return,
        }
    }
}

/// Never over where no interval is configured.
async fn next_interval(keepalive: &Keepalive, random: impl Fn(u64) -> u64) {
    let Some(interval) = keepalive.interval else { return pending().await };
    let most = interval.mul_f64(keepalive.interval_jitter.clamp(0.0, 100.0) / 100.0);
    let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    let jitter = if most == 0 { 0 } else { random(most) };
    sleep(interval.saturating_add(Duration::from_nanos(jitter))).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn jitter_lengthens_the_interval() {
        let waited = async |interval_jitter, random: fn(u64) -> u64| {
            let interval = Some(Duration::from_secs(10));
            let timeout = Duration::from_secs(1);
            let keepalive = Keepalive { interval, timeout, interval_jitter, connection_idle_interval: None };
            let begin = Instant::now();
            next_interval(&keepalive, random).await;
            begin.elapsed().as_secs_f64().round()
        };
        assert_eq!(waited(0.0, |_| unreachable!()).await, 10.0);
        assert_eq!(waited(20.0, |_| 0).await, 10.0);
        assert_eq!(waited(20.0, |most| most - 1).await, 12.0);
    }
}
