//! Sessions whose datagrams go through a tunnel.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use nuncio_filter_api::Body;
use nuncio_telemetry::ResponseFlag;
use nuncio_telemetry::format::{AccessLogType, FormatCx};
use tracing::debug;

use super::session::{Deadlines, Over, Session};
use super::tunnel::{BufferLimits, RESPONSE_TRAILERS, TunnelConfig, Upload};
use crate::attempt::ActiveRequest;
use crate::tcp_proxy::propagate;

/// A tunnel of a session, as far as it has come.
#[derive(Default)]
pub(super) struct Tunnelled {
    upload: Rc<RefCell<Upload>>,
}

// === impl Tunnelled ===

impl Tunnelled {
    /// Adds a datagram. Where it can neither be sent nor wait it is lost, which is counted.
    pub(super) fn send(&self, session: &Session, datagram: Bytes) {
        let Some(config) = &session.sessions.config.tunnel else { return };
        let mut upload = self.upload.borrow_mut();
        let limits = match upload.is_open() {
            true => BufferLimits::of_open(session.target.share.cluster.config.buffer_limit as usize),
            // Envoy: without a buffer they are dropped, and nothing is said of it.
            false => match config.buffer {
                Some(limits) => limits,
                None => return,
            },
        };
        if !upload.push(datagram, limits) {
            session.target.stats.sess_tunnel_buffer_overflow().inc();
        }
    }

    /// Makes the tunnel, and sends what comes out of it to the client, until the session is over.
    pub(super) async fn run(&self, session: &Session) -> Over {
        let Some(config) = &session.sessions.config.tunnel else { return Over::Lost };
        let mut deadlines = Deadlines::new(session);
        let connected = {
            let mut connecting = pin!(self.connect(session, config));
            poll_fn(|cx| match connecting.as_mut().poll(cx) {
                Poll::Ready(connected) => Poll::Ready(Ok(connected)),
                Poll::Pending => deadlines.poll(session, cx).map(Err),
            })
            .await
        };
        let (mut body, active) = match connected {
            Ok(Some(connected)) => connected,
            Ok(None) => {
                session.target.stats.sess_tunnel_failure().inc();
                return Over::Lost;
            }
            Err(over) => return over,
        };
        session.target.stats.sess_tunnel_success().inc();
        if session.sessions.config.log_on_connected {
            session.write_log(AccessLogType::UdpTunnelUpstreamConnected);
        }
        self.upload.borrow_mut().open();
        let over = receive(session, config, &mut body, &mut deadlines).await;
        self.upload.borrow_mut().end();
        active.end();
        over
    }

    /// Asks hosts for a tunnel, as often as may be tried.
    async fn connect(&self, session: &Session, config: &TunnelConfig) -> Option<(Body, ActiveRequest)> {
        let (sessions, stats) = (&session.sessions, &session.target.share.cluster.stats);
        let log = session.log.as_ref()?;
        for attempt in 1..=config.max_attempts {
            let Some(host) = sessions.pick_for_tunnel(session).await else {
                stats.upstream_cx_none_healthy().inc();
                session.flag(ResponseFlag::NoHealthyUpstream);
                return None;
            };
            log.note_host(&host.host);
            log.info.upstream.borrow_mut().attempts = attempt;
            let clock = &sessions.cx.worker.clock;
            let now = clock.now();
            let cx = FormatCx::new(&log.info, now, clock.wall(now));
            match config.open(&host, &cx, &self.upload).await {
                Ok(connected) => return Some(connected),
                Err(error) => {
                    debug!(peer = %session.key.peer, host = %host.host.address(), ?error, "no tunnel");
                    session.flag(ResponseFlag::UpstreamConnectionFailure);
                }
            }
            if attempt < config.max_attempts {
                stats.upstream_rq_retry().inc();
                if let Some(backoff) = config.backoff {
                    tokio::time::sleep(backoff.pause(attempt, sessions.cx.worker.rng.u64())).await;
                }
            }
        }
        stats.upstream_cx_connect_attempts_exceeded().inc();
        session.flag(ResponseFlag::UpstreamRetryLimitExceeded);
        None
    }
}

/// Sends what comes out of the tunnel to the client, until it ends.
async fn receive(session: &Session, config: &TunnelConfig, body: &mut Body, deadlines: &mut Deadlines) -> Over {
    loop {
        let next = poll_fn(|cx| match body.poll_next(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => deadlines.poll(session, cx).map(Err),
        });
        let data = match next.await {
            Err(over) => return over,
            Ok(None | Some(Err(_))) => return Over::Lost,
            Ok(Some(Ok(frame))) => frame.into_data(),
        };
        let data = match data {
            Ok(data) => data,
            Err(frame) => {
                if let (true, Some(log), Ok(trailers)) =
                    (config.propagates_trailers, &session.log, frame.into_trailers())
                {
                    propagate(&log.info, RESPONSE_TRAILERS, None, &trailers);
                }
                continue;
            }
        };
        if data.is_empty() {
            continue;
        }
        session.target.stats.sess_rx_datagrams().inc();
        if let Err(error) = session.pass_back(&[&data]) {
            debug!(peer = %session.key.peer, %error, "what came out of a tunnel is no capsule");
            return Over::Lost;
        }
    }
}
