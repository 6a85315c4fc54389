use std::task::{Context, Poll};

use nuncio_config::protocol::Keepalive;
use tokio::time::Instant;

use crate::timer::LazyTimer;

/// `connection_keepalive`: PINGs, and the end of a peer that does not answer them.
pub(super) struct KeepaliveState {
    settings: Option<Keepalive>,
    ping: Option<h2::PingPong>,
    sent: bool,
    at: Instant,
    timer: LazyTimer,
}

impl KeepaliveState {
    pub(super) fn new(settings: Option<Keepalive>, ping: Option<h2::PingPong>) -> Self {
        let settings = settings.filter(|s| s.interval.is_some());
        Self { settings, ping, sent: false, at: Instant::now(), timer: LazyTimer::default() }
    }

    /// Ready once the peer is taken for dead.
    pub(super) fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(settings), Some(ping)) = (&self.settings, &mut self.ping) else { return Poll::Pending };
        let Some(interval) = settings.interval else { return Poll::Pending };
        loop {
            if self.sent {
                match ping.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.sent = false;
                        self.at = Instant::now();
                        continue;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => return self.timer.poll_reached(Some(self.at + settings.timeout), cx),
                }
            }
            if self.timer.poll_reached(Some(self.at + interval), cx).is_pending() {
                return Poll::Pending;
            }
            if ping.send_ping(h2::Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.sent = true;
            self.at = Instant::now();
        }
    }
}
