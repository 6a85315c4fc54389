//! A request that is sent again until it has a response worth passing on, or may not be sent again.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use nuncio_config::route::{NextCluster, TriedClusters};
use nuncio_filter_api::{Request, RequestHead, StreamCx};
use nuncio_telemetry::StreamInfo;

use super::deadline::Deadline;
use super::forward::{ATTEMPT_COUNT, Failed, Forwarding, metadata_match, note_cluster};
use super::numbers::small_number;
use super::replay::Replay;
use super::retry::{Decision, Retries};
use crate::attempt::Answered;
use crate::failure::Failure;
use crate::worker::WorkerClusters;

static IS_TIMEOUT_RETRY: HeaderName = HeaderName::from_static("x-envoy-is-timeout-retry");

impl Forwarding<'_> {
    /// The body of `request` for as many attempts as it takes.
    pub(super) fn keep_body(&self, request: &mut Request, cx: &StreamCx) -> Replay {
        let limit = self.entry.buffer_limit(cx.buffer_limit as u64);
        Replay::new(std::mem::take(&mut request.body), limit)
    }

    /// As `run`, with a body that is kept, and with retries.
    pub(super) async fn run_again(
        &mut self,
        request: &mut Request,
        replay: &Replay,
        cx: &StreamCx,
        deadline: &mut Deadline,
        mut retries: Option<&mut Retries<'_>>,
    ) -> Result<Answered, Failed> {
        let mut tried = None;
        loop {
            let host = match &mut retries {
                Some(retries) => retries.pick(&self.cluster, self.pick_context(&request.head)),
                None => self.cluster.pick(&self.pick_context(&request.head)),
            };
            request.body = replay.body();
            let outcome = self.attempt(host, request, cx, deadline).await;
            if replay.is_abandoned() {
                self.cluster.shared.cluster.stats.retry_or_shadow_abandoned().inc();
                return outcome;
            }
            let Some(retries) = &mut retries else { return outcome };
            let was_sent = self.info.times.upstream_request_start.get().is_some();
            let decision = self.decide(outcome.as_ref().map_err(|failed| &failed.failure), was_sent, retries);
            match decision {
                Decision::Final => return outcome,
                Decision::Denied(flag) => {
                    self.info.flag(flag);
                    return outcome;
                }
                Decision::After(wait) => {
                    let timed_out = matches!(&outcome, Err(failed) if failed.failure.is_timeout());
                    self.give_up(outcome, self.info);
                    let found = !retries.refreshes_cluster() || self.refresh_cluster(&request.head, cx, &mut tried);
                    deadline.try_again(self.timeouts.per_try);
                    self.wait(wait, deadline).await?;
                    if found {
                        retries.count(&self.cluster.shared);
                    } else {
                        // Envoy: an attempt of its own, although there is no cluster to look for hosts in.
                        self.info.upstream.borrow_mut().attempts += 1;
                        return Err(Failed { failure: Failure::NoHealthyHost, host: None });
                    }
                    self.begin_again(request, timed_out);
                }
            }
        }
    }

    /// Goes over to the cluster of the next attempt. False where the route leads to none that exists: what is counted
    /// of the request then still is of the last one.
    fn refresh_cluster(&mut self, head: &RequestHead, cx: &StreamCx, tried: &mut Option<TriedClusters>) -> bool {
        let tried = tried.get_or_insert_with(|| TriedClusters::first(self.entry));
        let clusters = WorkerClusters::of(self.worker);
        let cluster = match self.entry.next_cluster(head, self.info, cx.random, tried) {
            NextCluster::Same => return true,
            NextCluster::Entry(index) => {
                let entry = self.route.sibling(index).as_any().downcast_ref();
                self.entry = entry.expect("all routes of the route table are of one type");
                self.entry.cluster().and_then(|named| self.config.cluster_named(named, head, &clusters))
            }
            NextCluster::Chosen(name) => name.and_then(|name| clusters.get(name.id)),
        };
        note_cluster(&mut self.info.upstream.borrow_mut(), cluster.as_deref());
        let Some(cluster) = cluster else { return false };
        self.cluster = cluster;
        self.metadata = metadata_match(self.entry, self.info);
        true
    }

    /// What becomes of a request whose attempt has this outcome; `was_sent`: a connection had taken it.
    pub(super) fn decide(
        &self,
        outcome: Result<&Answered, &Failure>,
        was_sent: bool,
        retries: &mut Retries<'_>,
    ) -> Decision {
        let share = &self.cluster.shared;
        match outcome {
            Ok(answered) => {
                let clock = &self.worker.clock;
                retries.after_response(&answered.response.head, share, &self.counts, clock.wall(clock.now()))
            }
            Err(failure) => retries.after_failure(failure, was_sent, share, &self.counts),
        }
    }

    /// Counts an attempt with this record whose outcome is not passed on, and ends it.
    pub(super) fn give_up(&self, outcome: Result<Answered, Failed>, info: &StreamInfo) {
        match outcome {
            Ok(answered) => {
                answered.active.host.stats.rq_error.inc();
                if self.config.dynamic_stats {
                    self.cluster.shared.codes.charge_retried(answered.response.head.status.as_u16());
                }
                // A response without body leaves its connection as it was.
                if answered.response.body.is_end() {
                    answered.active.end();
                }
            }
            Err(failed) => self.count_failure(&failed, info),
        }
    }

    async fn wait(&self, wait: Duration, deadline: &mut Deadline) -> Result<(), Failed> {
        if wait.is_zero() {
            return Ok(());
        }
        let until = self.worker.clock.now() + wait;
        let mut timer = self.cluster.shared.env.timers.timer();
        poll_fn(|task| match timer.poll_reached(until, task) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => deadline.poll_expired(task).map(|failure| Err(Failed { failure, host: None })),
        })
        .await
    }

    /// Makes of the request that was sent the one that is sent next.
    pub(super) fn begin_again(&self, request: &mut Request, timed_out: bool) {
        let headers = &mut request.head.headers;
        let attempts = {
            let mut upstream = self.info.upstream.borrow_mut();
            upstream.host = None;
            upstream.host_name = None;
            upstream.connection_id = None;
            upstream.attempts += 1;
            upstream.attempts
        };
        let host = self.entry.virtual_host();
        if host.include_request_attempt_count {
            let _ = headers.try_insert(&ATTEMPT_COUNT, small_number(attempts.into()));
        }
        if host.include_is_timeout_retry {
            let value = HeaderValue::from_static(if timed_out { "true" } else { "false" });
            let _ = headers.try_insert(&IS_TIMEOUT_RETRY, value);
        }
        let now = self.worker.clock.now();
        let elapsed =
            self.info.times.request_end.get().map_or(Duration::ZERO, |end| now.saturating_duration_since(end));
        let numbers = &self.cluster.shared.env.timeout_value;
        self.config.tell_again(self.forward, self.timeouts, elapsed, &mut request.head, self.info, numbers);
    }
}
