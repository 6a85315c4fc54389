use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use nuncio_telemetry::ConnectionInfo;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Connection, Worker};

/// What a network filter makes of a connection that was just accepted.
pub enum Admission {
    /// It may go on.
    Pass,
    /// It may go on; what is held for it is dropped when it ends.
    Hold(Box<dyn Any>),
    /// It is closed at once.
    Refuse,
    /// It is closed after this time, in which nothing is read of it.
    RefuseAfter(Duration),
}

/// What becomes of a connection after a network filter.
pub enum Flow {
    /// The next filter gets it.
    Next(Connection),
    /// It is closed, unserved.
    Refused(Connection),
    /// It was served to its end, or closed.
    Done,
}

/// Why a connection does not get as far as the terminal filter of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    /// A filter has refused it.
    Refused,
    /// Its handshake has failed.
    NoHandshake,
    /// Its handshake took longer than the terminal filter has patience.
    TooSlow,
}

/// A network filter as configured: shared by all workers, one call for each connection. Tools may ask which it is.
pub trait NetworkFilter: Any + Send + Sync {
    /// Looks at a connection as soon as it is accepted, before the handshake where there is one. The filters of a chain
    /// are asked in order, up to the first that refuses; a terminal filter is not asked.
    fn admit(&self, info: &Rc<ConnectionInfo>, cx: &NetworkCx) -> Admission {
        let _ = (info, cx);
        Admission::Pass
    }

    /// A connection does not get as far as this terminal filter, and is closed now: for what is counted and logged.
    fn turned_away(&self, info: Rc<ConnectionInfo>, why: TurnedAway, cx: &NetworkCx) {
        let _ = (info, why, cx);
    }

    /// Handles `connection`. A terminal filter returns [`Flow::Done`]; any other returns the connection, its transport
    /// perhaps wrapped. Dropping the future closes the connection.
    fn run(self: Arc<Self>, connection: Connection, cx: NetworkCx) -> LocalBoxFuture<'static, Flow>;

    /// Whether it is run before the handshake of TLS, if all of its chain are: of that it asks nothing, and the handshake
    /// is made as the connection is read or written.
    fn precedes_handshake(&self) -> bool {
        false
    }

    /// How long a connection may wait for the handshake of TLS, where filters before this terminal one want it made.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// Whether it must be the last of its chain.
    fn is_terminal(&self) -> bool;

    /// Where another filter does the work of this one, which changes as discovery says: the one for a connection that
    /// begins now, or that there is none, for which the connection is closed.
    fn stand_in(&self) -> Option<Option<Arc<dyn NetworkFilter>>> {
        None
    }
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

/// How far a listener is with its drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainState {
    /// Connections are kept.
    Serving,
    /// Connections close little by little from `since` on, all of them by `since + over`.
    Gradual {
        /// When the drain began.
        since: Instant,
        /// How long it takes (`--drain-time-s`).
        over: Duration,
    },
    /// Every connection closes as soon as it can.
    Immediate,
}

/// Whether the connections of a listener should close, as one worker sees it.
pub struct Drain {
    state: watch::Receiver<DrainState>,
    worker: Rc<Worker>,
}

impl Drain {
    /// Follows `state` on `worker`.
    pub fn new(state: watch::Receiver<DrainState>, worker: Rc<Worker>) -> Self {
        Self { state, worker }
    }

    /// Whether a connection that could close now should. During a gradual drain the answer is drawn anew each time,
    /// with a probability that grows evenly over the drain time (Envoy: drainClose).
    pub fn is_draining(&self) -> bool {
        // A read lock that no other thread writes but when a drain begins.
        match *self.state.borrow() {
            DrainState::Serving => false,
            DrainState::Immediate => true,
            DrainState::Gradual { since, over } => {
                let elapsed = self.worker.clock.now().saturating_duration_since(since);
                elapsed >= over || Duration::from_nanos(self.worker.rng.below(nanos(over))) < elapsed
            }
        }
    }

    /// Waits until one connection should close; never ends while nothing drains. In a gradual drain each caller is
    /// given a point of the drain time at random.
    pub async fn begun(&self) {
        let mut state = self.state.clone();
        let Ok(draining) = state.wait_for(|state| *state != DrainState::Serving).await.map(|state| *state) else {
            return std::future::pending().await;
        };
        if let DrainState::Gradual { since, over } = draining {
            tokio::time::sleep_until(since + Duration::from_nanos(self.worker.rng.below(nanos(over)))).await;
        }
    }
}

/// A duration as nanoseconds for a draw of lots: never 0.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).max(1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    fn drain(state: DrainState) -> (watch::Sender<DrainState>, Drain) {
        let worker = Rc::new(Worker::new(0, Rng::seeded(7), Arc::default()));
        let (sender, receiver) = watch::channel(state);
        (sender, Drain::new(receiver, worker))
    }

    #[tokio::test(start_paused = true)]
    async fn a_gradual_drain_closes_more_and_more_and_in_the_end_all() {
        let over = Duration::from_secs(100);
        let (_sender, drain) = drain(DrainState::Gradual { since: Instant::now(), over });
        let closes = |drain: &Drain| (0..1000).filter(|_| drain.is_draining()).count();
        assert_eq!(closes(&drain), 0);
        tokio::time::advance(over / 4).await;
        assert!((200..300).contains(&closes(&drain)));
        tokio::time::advance(over).await;
        assert_eq!(closes(&drain), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn each_waiter_of_a_gradual_drain_ends_within_its_time() {
        let (sender, drain) = drain(DrainState::Serving);
        let since = Instant::now();
        sender.send_replace(DrainState::Gradual { since, over: Duration::from_secs(10) });
        let mut ends = Vec::new();
        for _ in 0..20 {
            sender.send_replace(DrainState::Gradual { since: Instant::now(), over: Duration::from_secs(10) });
            let begun = Instant::now();
            drain.begun().await;
            ends.push(begun.elapsed());
        }
        assert!(ends.iter().all(|end| *end <= Duration::from_secs(10)));
        assert!(ends.iter().any(|end| *end > Duration::from_secs(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_drains_while_serving_and_everything_at_once_when_immediate() {
        let (sender, drain) = drain(DrainState::Serving);
        assert!(!drain.is_draining());
        assert!(tokio::time::timeout(Duration::from_secs(60), drain.begun()).await.is_err());
        sender.send_replace(DrainState::Immediate);
        assert!(drain.is_draining());
        drain.begun().await;
    }
}
