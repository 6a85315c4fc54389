//! Whether a request is sent again, and when.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, StatusCode};
use nuncio_config::cluster::Priority;
use nuncio_config::route::{AvoidedHosts, ResetFormat, RetryOn, RetryPolicy};
use nuncio_filter_api::{RequestHead, ResponseHead, Rng};
use nuncio_telemetry::ResponseFlag;

use super::counts::Counts;
use super::priorities::PreviousPriorities;
use crate::failure::Failure;
use crate::host::Host;
use crate::lb::{Avoid, PickContext};
use crate::limits::Resource;
use crate::pool::connection::PoolFailure;
use crate::runtime::RuntimeRules;
use crate::worker::{ClusterShare, WorkerCluster, WorkerHost};

/// What is known of the retries of one request.
pub(super) struct Retries<'a> {
    policy: Option<&'a RetryPolicy>,
    on: RetryOn,
    left: u64,
    /// From x-envoy-retriable-status-codes.
    status_codes: Vec<u32>,
    /// From x-envoy-retriable-header-names.
    header_names: Vec<HeaderName>,
    /// Of the next wait.
    interval: Duration,
    longest: Duration,
    priority: Priority,
    tried: Vec<Arc<Host>>,
    /// Which priorities retries go to, where that is not as for other requests. Boxed, as it hardly ever is.
    priorities: Option<Box<PreviousPriorities>>,
    /// The cluster of the first attempt. Envoy: whose `max_retries` bounds all of them.
    home: Option<Rc<ClusterShare>>,
    /// How long to wait was left to the back-off, for a retry that is not counted yet.
    uncounted: Option<Waited>,
    /// Held from the decision for a retry to the next decision.
    permit: Option<Permit>,
}

/// One of `max_retries`.
struct Permit {
    share: Rc<ClusterShare>,
    priority: Priority,
}

/// What becomes of a request whose attempt has an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// The outcome is the client's.
    Final,
    /// The outcome is the client's for want of a retry, for the reason of the flag.
    Denied(ResponseFlag),
    /// It is sent again after this wait.
    After(Duration),
}

/// What said how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waited {
    AsAsked,
    AsBackedOff,
}

/// Bounds on what an internal client may list in a header.
const MAX_LISTED: usize = 64;

// === impl Retries ===

impl<'a> Retries<'a> {
    /// `None` where nothing is to be retried. `asks`: the request's own headers are obeyed, as those of internal
    /// clients are.
    pub(super) fn new(
        policy: Option<&'a RetryPolicy>,
        head: &RequestHead,
        asks: bool,
        priority: Priority,
        rules: &RuntimeRules,
    ) -> Option<Self> {
        let headers = asks.then_some(&head.headers);
        let asked = |name: &str| headers?.get(name)?.to_str().ok();
        let http = asked("x-envoy-retry-on").map(RetryOn::parse_http).unwrap_or_default();
        let grpc = asked("x-envoy-retry-grpc-on").map(RetryOn::parse_grpc).unwrap_or_default();
        let on = policy.map(|p| p.on).unwrap_or_default().union(http).union(grpc);
        let is_wanted = policy.is_none_or(|p| {
            p.request_headers.is_empty() || p.request_headers.iter().any(|matcher| matcher.matches_request(head))
        });
        if on.is_empty() || !is_wanted {
            return None;
        }
        let left = policy.map_or(1, |p| p.num_retries.into());
        let back_off = policy.map(|p| p.back_off).unwrap_or_default();
        let (interval, longest) = back_off.intervals(&rules.base_retry_back_off);
        let listed = |name| asked(name).into_iter().flat_map(|text| text.split(',').map(str::trim)).take(MAX_LISTED);
        Some(Self {
            policy,
            on,
            left: asked("x-envoy-max-retries").and_then(|text| text.parse().ok()).unwrap_or(left),
            status_codes: listed("x-envoy-retriable-status-codes").filter_map(|code| code.parse().ok()).collect(),
            header_names: listed("x-envoy-retriable-header-names").filter_map(|name| name.parse().ok()).collect(),
            interval,
            longest,
            priority,
            tried: Vec::new(),
            priorities: policy.and_then(|p| p.previous_priorities).map(|n| Box::new(PreviousPriorities::new(n))),
            home: None,
            uncounted: None,
            permit: None,
        })
    }

    /// Chooses the host of the next attempt: of a retry another than the policy avoids, if one comes up.
    pub(super) fn pick(&mut self, cluster: &WorkerCluster, cx: PickContext<'_>) -> Option<Rc<WorkerHost>> {
        let selections = if self.tried.is_empty() { 0 } else { self.policy.map_or(1, |p| p.host_selections) };
        let mut priorities = self.priorities.take();
        let is_avoided = |host: &Host| self.avoids(host);
        let avoid = (selections > 0).then_some(Avoid { is_avoided: &is_avoided, selections });
        let load = priorities.as_mut().and_then(|p| p.load(&cluster.abilities()));
        let host = cluster.pick(&PickContext { avoid, load, ..cx });
        self.priorities = priorities;
        let host = host?;
        if let Some(priorities) = &mut self.priorities
            && let Some(priority) = cluster.priority_of(&host)
        {
            priorities.attempts(priority);
        }
        self.tried.push(host.host.clone());
        Some(host)
    }

    fn avoids(&self, host: &Host) -> bool {
        self.policy.is_some_and(|policy| {
            policy.avoided_hosts.iter().any(|avoided| match avoided {
                AvoidedHosts::Previous => self.tried.iter().any(|tried| std::ptr::eq(&**tried, host)),
                AvoidedHosts::Canary => host.is_canary(),
                AvoidedHosts::WithMetadata(wanted) => wanted.is_met_by(host.metadata().as_deref()),
            })
        })
    }

    /// What becomes of a request that was answered with `head`. `wall` is the time of day.
    pub(super) fn after_response(
        &mut self,
        head: &ResponseHead,
        share: &Rc<ClusterShare>,
        counts: &Counts,
        wall: SystemTime,
    ) -> Decision {
        let wanted = self.wants_another_response(head);
        let asked = wanted.then(|| self.reset_interval(&head.headers, wall)).flatten();
        self.decide(wanted, asked, share, counts)
    }

    /// What becomes of a request that failed; `was_sent`: a connection had taken it.
    pub(super) fn after_failure(
        &mut self,
        failure: &Failure,
        was_sent: bool,
        share: &Rc<ClusterShare>,
        counts: &Counts,
    ) -> Decision {
        match failure {
            // No attempt failed: there was none, or the time of all of them is over.
            Failure::NoCluster
            | Failure::NoHealthyHost
            | Failure::Unresolved(_)
            | Failure::Timeout
            | Failure::RequestBody(_)
            | Failure::Answered(_) => Decision::Final,
            _ => self.decide(self.wants_another_attempt(failure, was_sent), None, share, counts),
        }
    }

    /// What becomes of a request whose attempt takes too long, where that goes on. Envoy: whatever the policy retries.
    pub(super) fn after_delay(&mut self, share: &Rc<ClusterShare>, counts: &Counts) -> Decision {
        self.decide(true, None, share, counts)
    }

    /// Decides and counts: an outcome that is not retried is a success of the retries before it, as Envoy has it.
    fn decide(&mut self, wanted: bool, asked: Option<Duration>, share: &Rc<ClusterShare>, counts: &Counts) -> Decision {
        let stats = &share.cluster.stats;
        if !wanted {
            if self.permit.take().is_some() {
                stats.upstream_rq_retry_success().inc();
                counts.each(|stats| stats.counts.upstream_rq_retry_success().inc());
            }
            return Decision::Final;
        }
        if self.left == 0 {
            stats.upstream_rq_retry_limit_exceeded().inc();
            counts.each(|stats| stats.counts.upstream_rq_retry_limit_exceeded().inc());
            return Decision::Denied(ResponseFlag::UpstreamRetryLimitExceeded);
        }
        self.left -= 1;
        self.permit = None;
        let home = self.home.get_or_insert_with(|| share.clone());
        let Some(permit) = Permit::take(home, self.priority) else {
            stats.upstream_rq_retry_overflow().inc();
            counts.each(|stats| stats.counts.upstream_rq_retry_overflow().inc());
            return Decision::Denied(ResponseFlag::UpstreamOverflow);
        };
        // Envoy: one that the runtime keeps back has taken its place among those that are left.
        if !share.cluster.rules.use_retry.holds_for_percent(100, || share.env.rng.u64()) {
            return Decision::Final;
        }
        self.permit = Some(permit);
        counts.each(|stats| stats.counts.upstream_rq_retry().inc());
        Decision::After(match asked {
            Some(asked) => {
                self.uncounted = Some(Waited::AsAsked);
                asked + random_part(&share.env.rng, asked / 2)
            }
            None => {
                self.uncounted = Some(Waited::AsBackedOff);
                let interval = self.interval;
                self.interval = (interval * 2).min(self.longest);
                random_part(&share.env.rng, interval)
            }
        })
    }

    /// Counts the retry that was decided on, of the cluster that it goes to.
    pub(super) fn count(&mut self, share: &ClusterShare) {
        let stats = &share.cluster.stats;
        match self.uncounted.take() {
            None => return,
            Some(Waited::AsAsked) => stats.upstream_rq_retry_backoff_ratelimited().inc(),
            Some(Waited::AsBackedOff) => stats.upstream_rq_retry_backoff_exponential().inc(),
        }
        stats.upstream_rq_retry().inc();
    }

    /// Whether a retry may go to another cluster.
    pub(super) fn refreshes_cluster(&self) -> bool {
        self.policy.is_some_and(|policy| policy.refresh_cluster)
    }

    /// Whether the policy retries what is answered with `head`.
    pub(super) fn wants_another_response(&self, head: &ResponseHead) -> bool {
        let on = |what| self.on.has(what);
        let status = head.status;
        if head.headers.contains_key("x-envoy-ratelimited") {
            return on(RetryOn::ENVOY_RATELIMITED);
        }
        (on(RetryOn::SERVER_ERROR) && status.is_server_error())
            || (on(RetryOn::GATEWAY_ERROR) && matches!(status.as_u16(), 502..=504))
            || (on(RetryOn::RETRIABLE_4XX) && status == StatusCode::CONFLICT)
            || (on(RetryOn::RETRIABLE_STATUS_CODES) && self.has_retriable_status(status))
            || (on(RetryOn::RETRIABLE_HEADERS) && self.has_retriable_header(head))
            || self.has_retriable_grpc_status(&head.headers)
    }

    fn has_retriable_status(&self, status: StatusCode) -> bool {
        let configured = self.policy.map_or(&[][..], |p| &p.status_codes);
        configured.iter().chain(&self.status_codes).any(|code| *code == u32::from(status.as_u16()))
    }

    fn has_retriable_header(&self, head: &ResponseHead) -> bool {
        let configured = self.policy.map_or(&[][..], |p| &p.response_headers);
        configured.iter().any(|matcher| matcher.matches_response(head))
            || self.header_names.iter().any(|name| head.headers.contains_key(name))
    }

    fn has_retriable_grpc_status(&self, headers: &HeaderMap) -> bool {
        let status = match headers.get("grpc-status").map(|v| v.as_bytes()) {
            Some(b"1") => RetryOn::GRPC_CANCELLED,
            Some(b"4") => RetryOn::GRPC_DEADLINE_EXCEEDED,
            Some(b"8") => RetryOn::GRPC_RESOURCE_EXHAUSTED,
            Some(b"13") => RetryOn::GRPC_INTERNAL,
            Some(b"14") => RetryOn::GRPC_UNAVAILABLE,
            _ => return false,
        };
        self.on.has(status)
    }

    fn wants_another_attempt(&self, failure: &Failure, was_sent: bool) -> bool {
        let on = |what| self.on.has(what);
        if matches!(failure, Failure::Pool(PoolFailure::Overflow) | Failure::RequestOverflow) {
            return false;
        }
        // Envoy: a failed attempt is what would become a 5xx.
        on(RetryOn::RESET)
            || on(RetryOn::SERVER_ERROR)
            || on(RetryOn::GATEWAY_ERROR)
            || (on(RetryOn::RESET_BEFORE_REQUEST) && !was_sent)
            || (on(RetryOn::REFUSED_STREAM) && matches!(failure, Failure::RefusedStream))
            || (on(RetryOn::CONNECT_FAILURE) && matches!(failure, Failure::Pool(_)))
    }

    /// How long the response asks to wait.
    fn reset_interval(&self, headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
        let rate_limited = self.policy?.rate_limited.as_ref()?;
        let mut intervals = rate_limited.headers.iter().filter_map(|header| {
            let number: u64 = headers.get(&header.name)?.to_str().ok()?.trim().parse().ok()?;
            match header.format {
                ResetFormat::Seconds => Some(Duration::from_secs(number)),
                ResetFormat::UnixTimestamp => {
                    let at = UNIX_EPOCH.checked_add(Duration::from_secs(number))?;
                    at.duration_since(wall).ok().filter(|wait| !wait.is_zero())
                }
            }
        });
        // Envoy: what is longer than allowed is passed over.
        intervals.find(|interval| *interval <= rate_limited.max).filter(|i| *i > Duration::from_millis(1))
    }
}

/// A random share of `interval`, in whole milliseconds.
fn random_part(rng: &Rng, interval: Duration) -> Duration {
    let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 { Duration::ZERO } else { Duration::from_millis(rng.below(millis)) }
}

// === impl Permit ===

impl Permit {
    fn take(share: &Rc<ClusterShare>, priority: Priority) -> Option<Self> {
        let taken = share.cluster.limits(priority).try_take_retry(share.env.clock.now(), &share.cluster.stats);
        taken.then(|| Self { share: share.clone(), priority })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.share.cluster.limits(self.priority).give_back(Resource::Retries, &self.share.cluster.stats);
    }
}
