//! The streams of one connection: counted while they live, ended with it.

use std::rc::Rc;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Server;

/// Aborts the connection's streams when it ends, in whatever way.
#[derive(Default)]
pub(super) struct Streams(Vec<AbortHandle>);

impl Streams {
    pub(super) fn push(&mut self, handle: AbortHandle) {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|h| !h.is_finished());
        }
        self.0.push(handle);
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for stream in &self.0 {
            stream.abort();
        }
    }
}

/// Counts a stream as active for as long as it lives.
pub(super) struct Active(Rc<Server>);

impl Active {
    pub(super) fn new(server: Rc<Server>) -> Self {
        server.accepted.set(server.accepted.get() + 1);
        server.active.set(server.active.get() + 1);
        server.idle_since.set(None);
        server.http.hcm.stats.http2.streams_active().inc();
        Self(server)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.http.hcm.stats.http2.streams_active().dec();
        if self.0.active.get() == 0 {
            self.0.idle_since.set(Some(Instant::now()));
            if let Some(waker) = self.0.waker.take() {
                waker.wake();
            }
        }
    }
}
