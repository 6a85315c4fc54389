//! A request on its way to a host and the response on its way back.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue, StatusCode};
use nuncio_config::metadata::MetadataMatch;
use nuncio_config::route::{Action, Cluster as RouteCluster, EnvoyHeaders, Forward, Hedging, RouteEntry};
use nuncio_filter_api::{LocalReply, Reply, Request, RequestHead, Response, RouteRef, StreamCx, Verdict, Worker};
use nuncio_telemetry::{Protocol, StreamInfo, UpstreamInfo, WantedHost};

use super::body::{Counted, Success, UpstreamBody, read_what_came};
use super::counts::Counts;
use super::deadline::Deadline;
use super::mirror::Been;
use super::numbers::small_number;
use super::replay::Replay;
use super::retry::Retries;
use super::timeouts::Timeouts;
use super::tunnel::{self, Terminated};
use super::watch::{self, Watch};
use super::{Config, entry_of, format_cx};
use crate::attempt::{Answered, Attempt, UpstreamFilters};
use crate::codes::{Origin, says_canary};
use crate::failure::Failure;
use crate::host::Host;
use crate::lb::PickContext;
use crate::pool::connection::millis;
use crate::worker::{WorkerCluster, WorkerClusters, WorkerHost};

pub(super) static ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
static SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// What one stream needs to know while its request is forwarded.
pub(super) struct Forwarding<'a> {
    pub(super) config: &'a Arc<Config>,
    pub(super) entry: &'a RouteEntry,
    pub(super) route: &'a RouteRef,
    pub(super) forward: &'a Forward,
    pub(super) cluster: Rc<WorkerCluster>,
    pub(super) info: &'a Rc<StreamInfo>,
    pub(super) worker: &'a Worker,
    pub(super) timeouts: Timeouts,
    pub(super) counts: Counts,
    /// What the load balancer is asked for besides the route's own: where a filter left it.
    pub(super) metadata: Option<Arc<MetadataMatch>>,
    /// Cookies by which the client is to be known again, for the response.
    pub(super) cookies: RefCell<Vec<HeaderValue>>,
    /// The host that a filter wants.
    pub(super) wanted: Option<Rc<WantedHost>>,
}

/// A failure, and the host that was chosen, if one was.
pub(super) struct Failed {
    pub(super) failure: Failure,
    pub(super) host: Option<Rc<WorkerHost>>,
}

impl Config {
    /// Sends `request` along `route`, which forwards, and waits for the head of the response.
    ///
    /// What this future holds while it waits is memory of each stream, and beyond 1 KiB the allocator is slow: what is
    /// rare is boxed, and nothing large is handed down by value.
    pub(super) async fn forward(
        self: &Arc<Self>,
        request: &mut Request,
        cx: &mut StreamCx,
        route: &RouteRef,
    ) -> Verdict {
        let entry = entry_of(route);
        let Action::Forward(forward) = entry.action() else { unreachable!("the caller looked at the action") };
        let (worker, info) = (cx.worker.clone(), cx.info.clone());
        let clusters = WorkerClusters::of(&worker);
        let cluster = cluster_of(route, &clusters);
        let Some(cluster) = cluster else {
            self.stats.no_cluster().inc();
            let reply = LocalReply { status: forward.cluster_not_found, ..Failure::NoCluster.reply() };
            return self.refuse(reply, entry, request, cx);
        };
        self.check_strict_headers(&request.head)?;
        // Taken out of the request with what else was meant for this proxy alone.
        let rules = &cluster.shared.cluster.rules;
        let policies = cluster.shared.cluster.config.http.policies.clone();
        let policy = policies.as_deref().and_then(|own| own.retry.as_ref()).or_else(|| entry.retry_policy());
        let mut retries =
            Retries::new(policy, &request.head, info.internal.get(), forward.priority, rules).map(Box::new);
        let timeouts = self.timeouts(entry, forward, &mut request.head, &info, &clusters.env().timeout_value);
        let counts = Counts::of(entry, &request.head, &info);
        let mut deadline = Deadline::new(&cluster.shared, &info, timeouts, &request.head);
        let mut forwarding = Forwarding {
            config: self,
            entry,
            route,
            forward,
            cluster,
            info: &info,
            worker: &worker,
            timeouts,
            counts,
            metadata: metadata_match(entry, &info),
            cookies: RefCell::default(),
            wanted: info.wanted_host.borrow().clone(),
        };
        note_cluster(&mut info.upstream.borrow_mut(), Some(&forwarding.cluster));
        if let Some(reply) = forwarding.dropped() {
            return self.refuse(reply, entry, request, cx);
        }
        forwarding.prepare(&mut request.head, cx);
        forwarding.mirror(request, cx);
        let is_kept = retries.is_some() || forward.internal_redirect.is_some();
        let replay = is_kept.then(|| forwarding.keep_body(request, cx));
        let is_hedging = matches!(timeouts.hedging, Hedging::OnPerTryTimeout)
            && !retries.as_deref().is_some_and(Retries::refreshes_cluster);
        if is_hedging {
            deadline.spare_attempts();
        }
        let preparing = forwarding.cluster.prepare(|| forwarding.pick_context(&request.head));
        if let Some(preparing) = preparing
            && let Err(failed) = forwarding.wait_for(preparing, &mut deadline).await
        {
            return self.refuse(forwarding.fail(&failed), entry, request, cx);
        }
        let outcome = match (&replay, &mut retries) {
            (None, _) => forwarding.run(request, cx, &mut deadline).await,
            // Boxed: who is not sent again does not carry its future about.
            (Some(replay), Some(retries)) if is_hedging && !tunnel::asks_for_tunnel(&request.head) => {
                Box::pin(forwarding.run_hedged(request, replay, cx, &mut deadline, retries)).await
            }
            (Some(replay), retries) => {
                let retries = retries.as_deref_mut();
                Box::pin(forwarding.run_again(request, replay, cx, &mut deadline, retries)).await
            }
        };
        match outcome {
            Ok(answered) => forwarding.conclude(answered, request, replay.as_ref(), deadline, cx),
            Err(failed) => self.refuse(forwarding.fail(&failed), forwarding.entry, request, cx),
        }
    }

    /// The verdict over a request that is answered by a reply of the router's own.
    fn refuse(&self, reply: LocalReply, entry: &RouteEntry, request: &Request, cx: &StreamCx) -> Verdict {
        Err(self.with_route_headers(reply, entry, request, cx).into())
    }

    /// The cluster that a mirror or a weighted cluster names, or has the request name.
    pub(super) fn cluster_named(
        &self,
        named: &RouteCluster,
        head: &RequestHead,
        clusters: &WorkerClusters,
    ) -> Option<Rc<WorkerCluster>> {
        match named {
            RouteCluster::Named(name) => clusters.get(name.id),
            RouteCluster::Header(header) => clusters.get(self.names.find(header.name(head)?)?.id),
            // Neither has one.
            RouteCluster::Matcher(_) => None,
        }
    }
}

/// Notes the cluster that a route leads to.
pub(crate) fn note_cluster(upstream: &mut UpstreamInfo, cluster: Option<&WorkerCluster>) {
    let config = cluster.map(|cluster| &cluster.shared.cluster.config);
    upstream.cluster = config.map(|config| config.observable_name.clone());
    upstream.cluster_raw = config.map(|config| config.name.name.clone());
    upstream.cluster_metadata = config.and_then(|config| config.metadata.clone());
}

/// What the route asks of the metadata of hosts, and over it what filters ask.
pub(super) fn metadata_match(entry: &RouteEntry, info: &StreamInfo) -> Option<Arc<MetadataMatch>> {
    let dynamic = info.metadata.borrow();
    let asked = dynamic.as_ref().and_then(|metadata| metadata.get("envoy.lb"));
    match (entry.metadata_match(), asked) {
        (route, None) => route.cloned(),
        (Some(route), Some(fields)) => Some(Arc::new(route.with(fields))),
        (None, Some(fields)) => Some(Arc::new(MetadataMatch::default().with(fields))),
    }
}

/// The cluster that a route leads its request to.
pub(crate) fn cluster_of(route: &RouteRef, clusters: &WorkerClusters) -> Option<Rc<WorkerCluster>> {
    match entry_of(route).cluster() {
        Some(RouteCluster::Named(name)) => clusters.get(name.id),
        _ => clusters.get(route.chosen_cluster()?.id),
    }
}

impl Forwarding<'_> {
    /// The verdict over a request that was answered.
    fn conclude(
        &self,
        answered: Answered,
        request: &mut Request,
        replay: Option<&Replay>,
        deadline: Deadline,
        cx: &mut StreamCx,
    ) -> Verdict {
        let protocol = answered.active.record.protocol();
        if let Some(reply) = tunnel::failed_handshake(&request.head, &answered.response.head, protocol) {
            return Err(reply.into());
        }
        if let Some(response) = self.follow(&answered, request, replay, cx) {
            return Err(Reply::Again(response));
        }
        Err(Reply::Response(self.accept(answered, deadline, request, cx)))
    }

    /// Makes of the request that was received the one that is sent.
    fn prepare(&self, head: &mut RequestHead, cx: &StreamCx) {
        self.info.upstream.borrow_mut().attempts = 1;
        if self.entry.virtual_host().include_request_attempt_count {
            let _ = head.headers.try_insert(&ATTEMPT_COUNT, small_number(1));
        }
        self.entry.rewrite_request(head, &format_cx(cx), self.config.envoy_headers);
    }

    /// Starts the copies of the request for other clusters. A tunnel has none: nobody would talk to its other end.
    fn mirror(&self, request: &mut Request, cx: &StreamCx) {
        let own = self.cluster.own_mirrors();
        let policies = if own.is_empty() { self.entry.mirror_policies() } else { own };
        if policies.is_empty() || tunnel::asks_for_tunnel(&request.head) {
            return;
        }
        let been = (!own.is_empty()).then(|| Been { cluster: self.cluster.name().id, before: None });
        let deadline = self.timeouts.response.map(|timeout| self.worker.clock.now() + timeout);
        self.config.mirror(policies, request, deadline, been.as_ref(), cx);
    }

    /// What `head`, which is sent, asks of its host.
    pub(super) fn pick_context<'a>(&'a self, head: &'a RequestHead) -> PickContext<'a> {
        let own = self.cluster.shared.cluster.config.http.hash.as_deref();
        let by_balancer = self.cluster.shared.cluster.config.lb.says_what_is_hashed();
        let is_wanted = self.cluster.is_by_hash() && !by_balancer;
        let policies = own.or(self.entry.hash_policies()).filter(|_| is_wanted);
        // Envoy: a cookie is generated for each attempt, and each is told.
        let hash = policies.and_then(|policies| policies.hash(head, self.info, Some(&mut self.cookies.borrow_mut())));
        PickContext {
            hash,
            metadata: self.metadata.as_deref(),
            wanted: self.wanted.as_deref(),
            head: Some(head),
            info: Some(self.info),
            cookies: Some(&self.cookies),
            ..PickContext::default()
        }
    }

    /// Waits, in time, until the cluster can choose a host.
    async fn wait_for(
        &self,
        mut preparing: LocalBoxFuture<'static, Result<(), Failure>>,
        deadline: &mut Deadline,
    ) -> Result<(), Failed> {
        let prepared = poll_fn(|task| match preparing.as_mut().poll(task) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => deadline.poll_expired(task).map(Err),
        });
        prepared.await.map_err(|failure| Failed { failure, host: None })
    }

    /// Chooses a host and gets its response, in time.
    async fn run(&self, request: &mut Request, cx: &StreamCx, deadline: &mut Deadline) -> Result<Answered, Failed> {
        let host = self.cluster.pick(&self.pick_context(&request.head));
        self.attempt(host, request, cx, deadline).await
    }

    /// The host that was chosen, which the request is addressed to.
    pub(super) fn chosen(
        &self,
        host: Option<Rc<WorkerHost>>,
        head: &mut RequestHead,
    ) -> Result<Rc<WorkerHost>, Failed> {
        let Some(host) = host else {
            self.cluster.shared.cluster.stats.upstream_cx_none_healthy().inc();
            return Err(Failed { failure: Failure::NoHealthyHost, host: None });
        };
        if self.forward.auto_host_rewrite && !host.host.hostname.is_empty() {
            self.forward.set_host(head, (&*host.host.hostname).into(), self.config.envoy_headers);
        }
        Ok(host)
    }

    /// Gets a response from `host`, in time.
    pub(super) async fn attempt(
        &self,
        host: Option<Rc<WorkerHost>>,
        request: &mut Request,
        cx: &StreamCx,
        deadline: &mut Deadline,
    ) -> Result<Answered, Failed> {
        let host = self.chosen(host, &mut request.head)?;
        let terminated = tunnel::terminated(&request.head, self.forward, host.share.cluster.config.upstream_pool);
        let gate = tunnel::hold_back(request, terminated);
        let attempt = Attempt {
            host: &host,
            priority: self.forward.priority,
            info: Some(self.info),
            informational: cx.informational.as_ref(),
        };
        let filters = self.filters(self.info, cx);
        let mut watch = Watch::begin(self.config, &self.cluster.shared, self.info, self.timeouts.per_try, request);
        let mut answered = {
            let request = &mut *request;
            let mut exchange = pin!(async {
                match (terminated, filters) {
                    (Some(Terminated::Tcp), _) => {
                        let body = std::mem::take(&mut request.body);
                        let body = tunnel::introduced(body, self.forward, self.info);
                        Box::pin(attempt.run_tunnel(&request.head, body)).await
                    }
                    (Some(Terminated::Udp), _) => attempt.run_udp_tunnel(std::mem::take(&mut request.body)),
                    (None, None) => attempt.run(&request.head, &mut request.body).await,
                    // Boxed: attempts that pass no filters do not carry its future about.
                    (None, Some(filters)) => Box::pin(attempt.run_filtered(filters, request)).await,
                }
            });
            poll_fn(|task| {
                let polled = exchange.as_mut().poll(task);
                if let Some(watch) = &mut watch {
                    watch.poll(task);
                }
                match polled {
                    Poll::Ready(done) => Poll::Ready(done),
                    Poll::Pending => deadline.poll_expired(task).map(Err),
                }
            })
            .await
        };
        if let Some(watch) = watch {
            watch.attend(&mut answered);
        }
        self.count_attempt(self.info);
        if let Err(failure) = &answered {
            // Envoy has read what came meanwhile, unless it never went as far as to wait for a connection.
            if !failure.is_overflow() {
                read_what_came(&mut request.body, cx.buffer_limit).await;
            }
            // Nobody reads on a request that no host took.
            drop(std::mem::take(&mut request.body));
            self.note_expiry(&host, self.info, failure);
        }
        if let Ok(answered) = &answered {
            deadline.answered(&self.worker.clock);
            gate.open_if_granted(&request.head, answered.response.head.status);
        }
        answered.map_err(|failure| Failed { failure, host: Some(host.clone()) })
    }

    /// The filters of an attempt whose record is `info`, if it passes any: those of the cluster, or else the router's.
    pub(super) fn filters(&self, info: &Rc<StreamInfo>, cx: &StreamCx) -> Option<Box<UpstreamFilters>> {
        let chain = self.cluster.shared.cluster.config.http.filters.as_ref().or(self.config.filters.as_ref())?;
        UpstreamFilters::new(chain, || cx.of_attempt(info.clone()))
    }

    /// Tells outlier detection of an attempt that was given up.
    pub(super) fn note_expiry(&self, host: &WorkerHost, info: &StreamInfo, failure: &Failure) {
        // A host that was chosen but never noted was not asked.
        if let Some(health) = host.share.cluster.health()
            && info.upstream.borrow().host.is_some()
        {
            health.note_expiry(&host.host, failure);
        }
    }

    /// Makes of the response that was received the one that is sent.
    fn accept(&self, answered: Answered, deadline: Deadline, request: &Request, cx: &StreamCx) -> Response {
        let Answered { mut response, active } = answered;
        let now = self.worker.clock.now();
        self.info.times.upstream_response_start.set(Some(now));
        self.info.set_details("via_upstream");
        let status = response.head.status;
        self.info.response_code.set(status.as_u16());
        let interim = std::mem::take(&mut self.info.upstream.borrow_mut().interim);
        let mut origin = self.origin(Some(&active.host));
        origin.is_canary |= says_canary(&response.head);
        interim.into_iter().for_each(|status| self.count_status(status, origin));
        self.count_status(status.as_u16(), origin);
        let success = Success::of(request, &response.head);
        match success {
            Success::Yes => active.host.stats.rq_success.inc(),
            Success::No => active.host.stats.rq_error.inc(),
            Success::Later => {}
        }
        if self.config.envoy_headers == EnvoyHeaders::Add
            && let Some(end) = self.info.times.request_end.get()
        {
            let time = millis(now.saturating_duration_since(end));
            let _ = response.head.headers.try_insert(&SERVICE_TIME, small_number(time));
        }
        if self.entry.virtual_host().include_attempt_count_in_response {
            let attempts = self.info.upstream.borrow().attempts.into();
            let _ = response.head.headers.try_insert(&ATTEMPT_COUNT, small_number(attempts));
        }
        for cookie in self.cookies.take() {
            let _ = response.head.headers.try_append(http::header::SET_COOKIE, cookie);
        }
        self.entry.rewrite_response(&mut response.head, &request.head, &format_cx(cx));
        let counted = Counted {
            config: self.config.clone(),
            share: self.cluster.shared.clone(),
            counts: self.counts.clone(),
            is_canary: origin.is_canary,
            success,
            timeout: self.timeouts.response,
        };
        response.body = UpstreamBody::wrap(response.body, counted, active, deadline, cx.buffer_limit);
        response
    }

    /// Counts a failure and makes its reply.
    fn fail(&self, failed: &Failed) -> LocalReply {
        let attempts = self.info.upstream.borrow().attempts;
        let mut reply = failed.failure.reply_after(attempts);
        if self.timeouts.is_tolerated && failed.failure.is_timeout() {
            reply = LocalReply { status: StatusCode::NO_CONTENT, ..reply.body("") };
        }
        if self.entry.virtual_host().include_attempt_count_in_response {
            reply.headers.insert(&ATTEMPT_COUNT, small_number(attempts.into()));
        }
        self.count_failure(failed, self.info);
        if failed.failure.is_timeout() {
            self.count_budget();
        }
        if !matches!(failed.failure, Failure::RequestBody(_) | Failure::Answered(_)) {
            self.count_status(reply.status.as_u16(), self.origin(failed.host.as_ref().map(|host| &*host.host)));
        }
        if failed.failure.is_overflow() && self.config.dynamic_stats {
            self.cluster.shared.cluster.drops.note();
        }
        // Envoy: a balancer without hosts makes no cookies.
        for cookie in self.cookies.take().into_iter().filter(|_| failed.host.is_some()) {
            reply.headers.append(http::header::SET_COOKIE, cookie);
        }
        reply
    }

    /// Counts an attempt with this record, if a connection took it.
    pub(super) fn count_attempt(&self, info: &StreamInfo) {
        if info.times.upstream_request_start.get().is_some() {
            self.counts.each(|stats| stats.counts.upstream_rq_total().inc());
        }
    }

    /// Counts the failure of an attempt with this record.
    pub(super) fn count_failure(&self, failed: &Failed, info: &StreamInfo) {
        let Failed { failure, host } = failed;
        self.info.upstream.borrow_mut().transport_failure = failure.transport_failure().cloned();
        // A host that was chosen but never noted was not asked: the queue was full, or time ran out in it.
        let owner = host.as_ref().map_or(&self.cluster.shared, |host| &host.share);
        let host = host.as_ref().filter(|_| info.upstream.borrow().host.is_some()).map(|h| &h.host.stats);
        let stats = &self.cluster.shared.cluster.stats;
        match failure {
            Failure::RequestBody(_) | Failure::Answered(_) => return,
            // An HTTP/2 connection may outlive a stream at fault; its driver counts what ends it.
            Failure::Protocol if info.upstream.borrow().protocol != Some(Protocol::Http2) => {
                owner.cluster.stats.upstream_cx_protocol_error().inc();
            }
            Failure::MaxStreamDuration => stats.upstream_rq_max_duration_reached().inc(),
            // Envoy: time that ran out between attempts is none of an attempt's.
            Failure::Timeout if failed.host.is_none() => {}
            Failure::Timeout => {
                stats.upstream_rq_timeout().inc();
                self.counts.each(|stats| stats.counts.upstream_rq_timeout().inc());
                host.inspect(|host| host.rq_timeout.inc());
            }
            Failure::PerTryTimeout => {
                stats.upstream_rq_per_try_timeout().inc();
                host.inspect(|host| host.rq_timeout.inc());
            }
            Failure::PerTryIdleTimeout => {
                stats.upstream_rq_per_try_idle_timeout().inc();
                host.inspect(|host| host.rq_timeout.inc());
            }
            _ => {}
        }
        if !matches!(failure, Failure::RequestOverflow) {
            host.inspect(|host| host.rq_error.inc());
        }
    }

    /// Counts how much of the time-out is gone when the request is over.
    fn count_budget(&self) {
        let Some(begin) = self.info.times.request_end.get() else { return };
        let time = self.worker.clock.now().saturating_duration_since(begin);
        watch::count_budget(&self.cluster.shared, time, self.timeouts.response);
    }

    /// Counts a response, of a host or in place of its.
    pub(super) fn count_status(&self, status: u16, origin: Origin<'_>) {
        if !self.config.dynamic_stats {
            return;
        }
        self.cluster.shared.codes.charge(status, origin);
        self.counts.each(|stats| stats.codes.charge(status));
    }

    /// What decides where a response of `host` is counted.
    pub(super) fn origin<'a>(&'a self, host: Option<&'a Host>) -> Origin<'a> {
        self.config.origin(host, self.info.internal.get())
    }
}
