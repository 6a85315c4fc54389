use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;

use crate::{Connection, Worker};

/// What becomes of a connection after a network filter.
pub enum Flow {
    /// The next filter gets it.
    Next(Connection),
    /// It was served to its end, or closed.
    Done,
}

/// A network filter as configured: shared by all workers, one call for each connection.
pub trait NetworkFilter: Send + Sync {
    /// Handles `connection`. A terminal filter returns [`Flow::Done`]; any other returns the connection, its transport
    /// perhaps wrapped. Dropping the future closes the connection.
    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow>;

    /// Whether it must be the last of its chain.
    fn is_terminal(&self) -> bool;
}

/// What a network filter works with.
#[derive(Clone)]
pub struct NetworkCx {
    /// The worker it runs on.
    pub worker: Rc<Worker>,
    /// Drain state of the listener that accepted the connection.
    pub drain: Rc<Drain>,
    /// `per_connection_buffer_limit_bytes` of the listener, in bytes.
    pub buffer_limit: u32,
}

/// Whether a listener (or the whole server) is draining, as one worker sees it.
pub struct Drain {
    state: watch::Receiver<bool>,
    seen: Cell<bool>,
}

impl Drain {
    /// Follows `state`: true once the listener drains.
    pub fn new(state: watch::Receiver<bool>) -> Self {
        Self { state, seen: Cell::new(false) }
    }

    /// Whether draining has begun.
    pub fn is_draining(&self) -> bool {
        if !self.seen.get() && *self.state.borrow() {
            self.seen.set(true);
        }
        self.seen.get()
    }

    /// Waits until draining begins; never ends if it never does.
    pub async fn begun(&self) {
        let mut state = self.state.clone();
        if state.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The state of the process that filters and admin share.
#[derive(Debug, Default)]
pub struct ServerState {
    health_failed: AtomicBool,
    live: AtomicU8,
}

impl ServerState {
    /// `/healthcheck/fail` was asked for.
    pub fn fail_health_check(&self, failed: bool) {
        self.health_failed.store(failed, Ordering::Relaxed);
    }

    /// Whether `/healthcheck/fail` is in force: health-check filters answer 503 and connections drain.
    pub fn is_health_check_failed(&self) -> bool {
        self.health_failed.load(Ordering::Relaxed)
    }

    /// Sets Envoy's `server.state`: 0 LIVE, 1 DRAINING, 2 PRE_INITIALIZING, 3 INITIALIZING.
    pub fn set_state(&self, state: u8) {
        self.live.store(state, Ordering::Release);
    }

    /// Envoy's `server.state`.
    pub fn state(&self) -> u8 {
        self.live.load(Ordering::Acquire)
    }
}
