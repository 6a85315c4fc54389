//! One connection on its way through the filter, and what is counted and logged of it.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nuncio_filter_api::{Drain, Io, NetworkCx, Worker, filter_state};
use nuncio_telemetry::format::{AccessLogType, FormatCx};
use nuncio_telemetry::{CloseType, ConnectionInfo, FilterValue, ResponseFlag, StreamInfo};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::config::{Config, Connects};
use super::connect::Connected;
use super::relay::{Ended, Relay};
use crate::timer::Timer;
use crate::worker::WorkerClusters;

/// One connection. Dropping it writes the last record of its access logs.
pub(super) struct Session {
    pub(super) config: Arc<Config>,
    pub(super) info: Rc<StreamInfo>,
    pub(super) worker: Rc<Worker>,
    pub(super) clusters: Rc<WorkerClusters>,
    /// Bytes that each direction may hold back.
    pub(super) buffer_limit: usize,
    pub(super) drain: Rc<Drain>,
}

/// What a client sends before there is a host for it.
#[derive(Default)]
pub(super) struct Early {
    pub(super) bytes: Vec<u8>,
    pub(super) has_ended: bool,
}

/// What was waited for of a client.
enum Awaited {
    Enough,
    Nothing,
}

/// The connection of the client is broken.
struct Left;

/// Why a session ends before both directions have.
pub(super) enum Expired {
    Idle,
    MaxDuration,
}

/// The times at which a session ends, or is logged.
pub(super) struct Deadlines {
    idle_timeout: Option<Duration>,
    active_at: Instant,
    ends_at: Option<Instant>,
    log_interval: Option<Duration>,
    logs_at: Option<Instant>,
    timer: Timer,
}

// === impl Session ===

impl Session {
    pub(super) fn new(config: Arc<Config>, connection: Rc<ConnectionInfo>, cx: &NetworkCx) -> Self {
        config.stats.downstream_cx_total().inc();
        let worker = cx.worker.clone();
        let start = connection.start;
        let info = Rc::new(StreamInfo::new(connection, start, worker.clock.wall(start)));
        info.is_logged.set(!config.logs.is_empty() || info.connection.log.is_some());
        info.upstream.borrow_mut().is_of_bytes = true;
        info.flags.set(info.connection.flags.get());
        let clusters = WorkerClusters::of(&worker);
        let (buffer_limit, drain) = (cx.buffer_limit as usize, cx.drain.clone());
        Self { config, info, worker, clusters, buffer_limit, drain }
    }

    /// Serves the connection to its end.
    pub(super) async fn serve(self, mut io: Io) {
        if self.config.log_times.on_start {
            self.log(AccessLogType::TcpConnectionStart);
        }
        let mut deadlines = Deadlines::new(&self);
        let mut early = Early::default();
        let awaited = match self.config.connects {
            Connects::AtOnce => Ok(Awaited::Enough),
            Connects::OnHandshake => self.wait_for_handshake(&mut io, &mut deadlines).await,
            Connects::OnData => self.wait_for_data(&mut io, &mut early, &mut deadlines).await,
        };
        match awaited {
            Ok(Awaited::Enough) => {}
            Ok(Awaited::Nothing) => return,
            Err(expired) => return self.expire(expired),
        }
        let connected = {
            let mut connecting = std::pin::pin!(self.connect());
            poll_fn(|cx| {
                // Envoy: the handshake waits for nobody.
                if matches!(io.poll_handshake(cx), Poll::Ready(Err(_))) {
                    return Poll::Ready(Ok(None));
                }
                match connecting.as_mut().poll(cx) {
                    Poll::Ready(connected) => Poll::Ready(Ok(connected)),
                    Poll::Pending if early.poll_read(&self, &mut io, cx).is_err() => Poll::Ready(Ok(None)),
                    // Before there is a host nothing is idle.
                    Poll::Pending => deadlines.poll_end(&self, cx).map(Err),
                }
            })
            .await
        };
        match connected {
            Ok(Some(connected)) => self.relay(io, early, connected, deadlines).await,
            Ok(None) => {}
            Err(expired) => self.expire(expired),
        }
    }

    async fn wait_for_handshake(&self, io: &mut Io, deadlines: &mut Deadlines) -> Result<Awaited, Expired> {
        poll_fn(|cx| match io.poll_handshake(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(Awaited::Enough)),
            Poll::Ready(Err(_)) => Poll::Ready(Ok(Awaited::Nothing)),
            Poll::Pending => deadlines.poll_end(self, cx).map(Err),
        })
        .await
    }

    /// Waits for the first bytes of the client. Envoy: one that sends its last instead is waited for all the same.
    async fn wait_for_data(
        &self,
        io: &mut Io,
        early: &mut Early,
        deadlines: &mut Deadlines,
    ) -> Result<Awaited, Expired> {
        poll_fn(|cx| match early.poll_read(self, io, cx) {
            Err(Left) => Poll::Ready(Ok(Awaited::Nothing)),
            Ok(()) if !early.bytes.is_empty() => Poll::Ready(Ok(Awaited::Enough)),
            Ok(()) => deadlines.poll_end(self, cx).map(Err),
        })
        .await
    }

    async fn relay(&self, io: Io, early: Early, connected: Connected, mut deadlines: Deadlines) {
        let Connected { io: upstream, active } = connected;
        if self.config.log_times.on_connected {
            self.log(AccessLogType::TcpUpstreamConnected);
        }
        deadlines.touch(self.worker.clock.now());
        let mut relay = Relay::new(self, io, early, upstream, active);
        let ended = poll_fn(|cx| relay.poll(&mut deadlines, cx)).await;
        relay.end(&ended);
        if let Ended::Expired(expired) = ended {
            self.expire(expired);
        }
    }

    /// Whether bytes that pass are to be the last.
    pub(super) fn is_draining(&self) -> bool {
        self.config.checks_drain && self.drain.is_draining()
    }

    pub(super) fn expire(&self, expired: Expired) {
        let stats = &self.config.stats;
        match expired {
            Expired::Idle => {
                stats.idle_timeout().inc();
                self.info.connection.local_close_reason.set(Some("tcp_session_idle_timeout"));
            }
            Expired::MaxDuration => {
                stats.max_downstream_connection_duration().inc();
                self.info.flag(ResponseFlag::DurationTimeout);
                self.info.connection.local_close_reason.set(Some("max_connection_duration_reached"));
            }
        }
    }

    /// Notes what filters have said of the connection since it began.
    fn take_over_from_filters(&self) {
        let Self { info, .. } = self;
        info.filter_state.borrow_mut().adopt(&info.connection.filter_state.borrow());
        info.flags.set(info.flags.get().union(info.connection.flags.get()));
        if let Some(details) = info.connection.details.get() {
            info.set_details(details);
        }
        info.note_inspected();
        info.bytes_received.set(info.bytes_received.get() + info.connection.withheld.get());
        let mut upstream = info.upstream.borrow_mut();
        // One that was asked for a tunnel in vain is none that it had.
        if upstream.remote.is_some() {
            // Envoy: why the client's connection was closed here is why that to the host was.
            upstream.local_close_reason = info.connection.local_close_reason.get();
        }
    }

    /// Writes the one record of the listener's access logs. Envoy: all that there is to know of the connection is known
    /// to them too, and they come first.
    fn log_for_listener(&self) {
        if let Some(log) = &self.info.connection.log {
            self.take_over_metadata();
            let now = self.info.times.complete.get().unwrap_or(self.info.start);
            log.write(&FormatCx::new(&self.info, now, self.worker.clock.wall(now)));
        }
    }

    /// Without HTTP the metadata of the connection is that of its one stream.
    fn take_over_metadata(&self) {
        if let Some(set) = &*self.info.connection.metadata.borrow() {
            *self.info.metadata.borrow_mut() = Some(set.clone());
        }
    }

    /// Writes a record to the access logs.
    pub(super) fn log(&self, why: AccessLogType) {
        if self.config.logs.is_empty() {
            return;
        }
        self.take_over_metadata();
        let now = self.info.times.complete.get().unwrap_or_else(|| self.worker.clock.now());
        let mut cx = FormatCx::new(&self.info, now, self.worker.clock.wall(now));
        cx.log_type = why;
        self.config.logs.iter().for_each(|log| log.log(&cx));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let withheld = self.info.connection.withheld.get();
        if withheld > 0 {
            self.config.stats.downstream_cx_rx_bytes_total().add(withheld);
        }
        if self.info.is_logged.get() {
            self.take_over_from_filters();
            self.info.times.complete.set(Some(self.worker.clock.now()));
            self.log_for_listener();
            self.log(AccessLogType::TcpConnectionEnd);
        }
    }
}

// === impl Early ===

impl Early {
    /// Takes what the client has sent, unless that is enough.
    fn poll_read(&mut self, session: &Session, io: &mut Io, cx: &mut Context<'_>) -> Result<(), Left> {
        let stats = &session.config.stats;
        let Some(most) = session.config.early_data else { return Ok(()) };
        while !self.has_ended && self.bytes.len() <= most {
            let mut scratch = session.clusters.env().scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut *io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(error)) => {
                    if error.kind() == io::ErrorKind::ConnectionReset {
                        session.info.connection.close_type.set(CloseType::RemoteReset);
                    }
                    return Err(Left);
                }
                Poll::Ready(Ok(())) => {
                    stats.early_data_received_count_total().inc();
                    stats.downstream_cx_rx_bytes_total().add(buffer.filled().len() as u64);
                    self.has_ended = buffer.filled().is_empty();
                    self.bytes.extend_from_slice(buffer.filled());
                    session.info.bytes_received.set(self.bytes.len() as u64);
                }
            }
        }
        Ok(())
    }
}

// === impl Deadlines ===

impl Deadlines {
    fn new(session: &Session) -> Self {
        let Session { config, worker, info, clusters, .. } = session;
        let start = info.start;
        let own = match info.filter_state.borrow().get(filter_state::TCP_PROXY_IDLE_TIMEOUT) {
            Some(FilterValue::Number(millis)) => Some(Duration::from_millis((*millis).into())),
            Some(FilterValue::Text(text)) => text.parse().ok().map(Duration::from_millis),
            _ => None,
        };
        let log_interval = config.log_times.interval.filter(|_| !config.logs.is_empty());
        Self {
            idle_timeout: own.map_or(config.idle_timeout, |own| (!own.is_zero()).then_some(own)),
            active_at: start,
            ends_at: config.max_duration.map(|max| start + max.drawn(worker.rng.u64())),
            log_interval,
            logs_at: log_interval.map(|interval| start + interval),
            timer: clusters.env().timers.timer(),
        }
    }

    /// Bytes have passed.
    pub(super) fn touch(&mut self, now: Instant) {
        self.active_at = now;
    }

    /// Ready when the session is over, logging it meanwhile.
    pub(super) fn poll_expired(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<Expired> {
        let idle_at = self.idle_timeout.map(|timeout| self.active_at + timeout);
        self.poll_first(idle_at, session, cx)
    }

    /// As `poll_expired`, while there is nothing yet that could be idle.
    fn poll_end(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<Expired> {
        self.poll_first(None, session, cx)
    }

    fn poll_first(&mut self, idle_at: Option<Instant>, session: &Session, cx: &mut Context<'_>) -> Poll<Expired> {
        loop {
            let first = [idle_at, self.ends_at, self.logs_at].into_iter().flatten().min();
            let Some(first) = first else { return Poll::Pending };
            if self.timer.poll_reached(first, cx).is_pending() {
                return Poll::Pending;
            }
            if self.ends_at == Some(first) {
                return Poll::Ready(Expired::MaxDuration);
            }
            if idle_at == Some(first) {
                return Poll::Ready(Expired::Idle);
            }
            session.log(AccessLogType::TcpPeriodic);
            self.logs_at = self.log_interval.map(|interval| first + interval);
        }
    }
}
