//! Copies of requests for other clusters (`request_mirror_policies`). A copy outlives the stream that it is of, but no
//! time-out, and it is dropped rather than waited for.

mod tee;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use nuncio_config::cluster::Priority;
use nuncio_config::route::MirrorPolicy;
use nuncio_filter_api::{Body, Request, RequestHead, StreamCx, Worker};
use nuncio_telemetry::{ConnectionInfo, StreamInfo};
use tokio::time::Instant;

use super::counts::Counts;
use super::replay::Replay;
use super::retry::{Decision, Retries};
use super::{Config, format_cx};
use crate::attempt::{Answered, Attempt, UpstreamFilters};
use crate::codes::{Origin, says_canary};
use crate::failure::Failure;
use crate::lb::PickContext;
use crate::pool::connection::millis;
use crate::worker::{WorkerCluster, WorkerClusters, WorkerHost};
use tee::Tee;

static INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The shortest time that a host is told of.
const MILLISECOND: Duration = Duration::from_millis(1);

/// A copy on its way.
struct Copy {
    config: Arc<Config>,
    cluster: Rc<WorkerCluster>,
    /// The client's.
    connection: Rc<ConnectionInfo>,
    worker: Rc<Worker>,
    buffer_limit: usize,
    begin: Instant,
    deadline: Option<Instant>,
}

/// The clusters whose own policies a request was copied by on its way. Envoy lets a copy come back to one of them, and
/// be copied for ever.
pub(super) struct Been<'a> {
    pub(super) cluster: u32,
    pub(super) before: Option<&'a Self>,
}

/// What became of one attempt to send a copy.
struct Tried {
    host: Option<Rc<WorkerHost>>,
    outcome: Result<Answered, Failure>,
}

// === impl Been ===

impl Been<'_> {
    fn has(been: Option<&Self>, cluster: u32) -> bool {
        been.is_some_and(|been| been.cluster == cluster || Self::has(been.before, cluster))
    }
}

impl Config {
    /// Starts the copies of a request that goes upstream.
    pub(super) fn mirror(
        self: &Arc<Self>,
        policies: &[MirrorPolicy],
        request: &mut Request,
        deadline: Option<Instant>,
        been: Option<&Been<'_>>,
        cx: &StreamCx,
    ) {
        for (copy, request) in self.copies(policies, request, deadline, been, cx) {
            tokio::task::spawn_local(copy.run(request));
        }
    }

    /// The copies, each before those that are made of it. `request` feeds their bodies from then on.
    fn copies(
        self: &Arc<Self>,
        policies: &[MirrorPolicy],
        request: &mut Request,
        deadline: Option<Instant>,
        been: Option<&Been<'_>>,
        cx: &StreamCx,
    ) -> Vec<(Copy, Request)> {
        let mut copies = Vec::new();
        let clusters = WorkerClusters::of(&cx.worker);
        let mut body = std::mem::take(&mut request.body);
        let whole = if body.is_end() { Some(Bytes::new()) } else { body.take_full() };
        let mut tee = Tee::new(body);
        for policy in policies.iter().filter(|policy| policy.applies(cx.random)) {
            let Some(cluster) = self.cluster_named(&policy.cluster, &request.head, &clusters) else { continue };
            let Some(head) = self.copy_head(policy, &request.head, cx) else { continue };
            let body = match &whole {
                Some(bytes) => Body::full(bytes.clone()),
                None => tee.copy(cx.buffer_limit as u64),
            };
            let mut request = Request { head, body };
            let (own, id) = (cluster.own_mirrors(), cluster.name().id);
            let further = match own {
                [] => Vec::new(),
                _ if Been::has(been, id) => Vec::new(),
                own => self.copies(own, &mut request, deadline, Some(&Been { cluster: id, before: been }), cx),
            };
            let copy = Copy {
                config: self.clone(),
                cluster,
                connection: cx.info.connection.clone(),
                worker: cx.worker.clone(),
                buffer_limit: cx.buffer_limit,
                begin: cx.worker.clock.now(),
                deadline,
            };
            copies.push((copy, request));
            copies.extend(further);
        }
        request.body = match whole {
            Some(bytes) => Body::full(bytes),
            None => tee.into_body(),
        };
        copies
    }

    /// Envoy: a copy is a request that this proxy makes by itself, inside, and for whom it forwards.
    fn copy_head(&self, policy: &MirrorPolicy, head: &RequestHead, cx: &StreamCx) -> Option<RequestHead> {
        let mut head = head.clone();
        policy.rewrite(&mut head, &format_cx(cx)).ok()?;
        head.headers.try_insert(&INTERNAL, HeaderValue::from_static("true")).ok()?;
        let forwarded = match head.headers.get(&FORWARDED_FOR) {
            Some(before) => [before.as_bytes(), self.local_ip.as_bytes()].join(&b","[..]),
            None => self.local_ip.clone().into_bytes(),
        };
        head.headers.try_insert(&FORWARDED_FOR, HeaderValue::from_bytes(&forwarded).ok()?).ok()?;
        Some(head)
    }
}

// === impl Copy ===

impl Copy {
    /// Sends the copy, reads the response to its end, and counts.
    async fn run(self, mut request: Request) {
        let mut timer = self.cluster.shared.env.timers.timer();
        let deadline = self.deadline;
        let mut exchange = pin!(self.exchange(&mut request));
        let outcome = poll_fn(|task| match exchange.as_mut().poll(task) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => match deadline {
                Some(at) => timer.poll_reached(at, task).map(|()| Err(Failure::Timeout)),
                None => Poll::Pending,
            },
        })
        .await;
        if let Err(failure) = outcome {
            tracing::debug!(cluster = %self.cluster.name().name, details = %failure.details(),
                "a mirrored request failed");
            if matches!(failure, Failure::Timeout) {
                self.cluster.shared.cluster.stats.upstream_rq_timeout().inc();
            }
            if !matches!(failure, Failure::RequestBody(_) | Failure::Answered(_)) {
                self.count_status(failure.status().as_u16(), self.config.origin(None, true));
            }
        }
    }

    async fn exchange(&self, request: &mut Request) -> Result<(), Failure> {
        let shared = &self.cluster.shared;
        let policies = shared.cluster.config.http.policies.clone();
        let policy = policies.as_deref().and_then(|policies| policies.retry.as_ref());
        // What the client asked for ended where the request was copied.
        let retries = Retries::new(policy, &request.head, false, Priority::Default, &shared.cluster.rules);
        let tried = match retries {
            None => {
                let host = self.cluster.pick(&pick_context(&request.head));
                self.attempt(host, request).await
            }
            Some(retries) => self.run_again(request, retries).await,
        };
        self.conclude(tried).await
    }

    /// Envoy: a copy has no route, and is sent again as its cluster has it alone.
    async fn run_again(&self, request: &mut Request, mut retries: Retries<'_>) -> Tried {
        let shared = &self.cluster.shared;
        let replay = Replay::new(std::mem::take(&mut request.body), self.buffer_limit as u64);
        loop {
            let host = retries.pick(&self.cluster, pick_context(&request.head));
            request.body = replay.body();
            let tried = self.attempt(host, request).await;
            if replay.is_abandoned() {
                shared.cluster.stats.retry_or_shadow_abandoned().inc();
                return tried;
            }
            let (clock, counts) = (&self.worker.clock, Counts::default());
            let decision = match &tried.outcome {
                Ok(answered) => {
                    retries.after_response(&answered.response.head, shared, &counts, clock.wall(clock.now()))
                }
                Err(failure) => retries.after_failure(failure, !matches!(failure, Failure::Pool(_)), shared, &counts),
            };
            let Decision::After(wait) = decision else { return tried };
            self.give_up(tried);
            self.wait(wait).await;
            retries.count(shared);
            let left = self.deadline.map(|at| at.saturating_duration_since(clock.now()).max(MILLISECOND));
            self.config.tell_expected(left, &mut request.head, &shared.env.timeout_value);
        }
    }

    async fn wait(&self, wait: Duration) {
        let until = self.worker.clock.now() + wait;
        let mut timer = self.cluster.shared.env.timers.timer();
        poll_fn(|task| timer.poll_reached(until, task)).await;
    }

    async fn attempt(&self, host: Option<Rc<WorkerHost>>, request: &mut Request) -> Tried {
        let Some(host) = host else {
            self.cluster.shared.cluster.stats.upstream_cx_none_healthy().inc();
            return Tried { host: None, outcome: Err(Failure::NoHealthyHost) };
        };
        let attempt = Attempt { host: &host, priority: Priority::Default, info: None, informational: None };
        let outcome = match self.filters() {
            None => attempt.run(&request.head, &mut request.body).await,
            Some(filters) => attempt.run_filtered(filters, request).await,
        };
        Tried { host: Some(host), outcome }
    }

    /// Envoy: a copy has no route, and passes the filters of its cluster alone.
    fn filters(&self) -> Option<Box<UpstreamFilters>> {
        let chain = self.cluster.shared.cluster.config.http.filters.as_ref()?;
        UpstreamFilters::new(chain, || {
            let now = self.worker.clock.now();
            let info = StreamInfo::new(self.connection.clone(), now, self.worker.clock.wall(now));
            StreamCx::without_route(Rc::new(info), self.worker.clone(), self.buffer_limit)
        })
    }

    /// Counts an attempt whose outcome is not the last.
    fn give_up(&self, tried: Tried) {
        if let Some(host) = &tried.host {
            host.host.stats.rq_error.inc();
        }
        let Ok(answered) = tried.outcome else { return };
        if self.config.dynamic_stats {
            self.cluster.shared.codes.charge_retried(answered.response.head.status.as_u16());
        }
        // A response without body leaves its connection as it was.
        if answered.response.body.is_end() {
            answered.active.end();
        }
    }

    async fn conclude(&self, Tried { host, outcome }: Tried) -> Result<(), Failure> {
        let shared = &self.cluster.shared;
        let stats = host.as_ref().map(|host| &host.host.stats);
        let answered = outcome.inspect_err(|_| stats.iter().for_each(|stats| stats.rq_error.inc()))?;
        let status = answered.response.head.status;
        let mut origin = self.config.origin(host.as_ref().map(|host| &*host.host), true);
        origin.is_canary |= says_canary(&answered.response.head);
        self.count_status(status.as_u16(), origin);
        stats.iter().for_each(|stats| match status.is_server_error() {
            true => stats.rq_error.inc(),
            false => stats.rq_success.inc(),
        });
        let mut body = answered.response.body;
        while !body.is_end() {
            match body.next().await {
                Some(Ok(_)) => {}
                None => break,
                // Counted already, with its status.
                Some(Err(_)) => return Ok(()),
            }
        }
        answered.active.end();
        if self.config.dynamic_stats {
            let time = millis(shared.env.clock.now().saturating_duration_since(self.begin));
            shared.cluster.stats.upstream_rq_time().record(time);
            shared.codes.record(time, origin);
        }
        Ok(())
    }

    fn count_status(&self, status: u16, origin: Origin<'_>) {
        if self.config.dynamic_stats {
            self.cluster.shared.codes.charge(status, origin);
        }
    }
}

fn pick_context(head: &RequestHead) -> PickContext<'_> {
    PickContext { head: Some(head), ..PickContext::default() }
}
