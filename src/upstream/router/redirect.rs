//! Redirects of hosts that are followed here (`internal_redirect_policy`).

mod location;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, LOCATION};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use nuncio_config::route::{InternalRedirect, RedirectPredicate, Schemes};
use nuncio_filter_api::{Body, ByteStr, Request, RequestHead, ResponseHead, Route, Scheme, StreamCx};
use nuncio_telemetry::{FilterState, FilterValue, LifeSpan};

use super::forward::{Forwarding, cluster_of, note_cluster};
use super::replay::Replay;
use crate::attempt::Answered;
use crate::worker::WorkerClusters;
use location::Location;

static ORIGINAL_URL: HeaderName = HeaderName::from_static("x-envoy-original-url");

/// Name of the number of redirects that were followed, in the filter state.
const FOLLOWED: &str = "num_internal_redirects";

/// Before the name of a route, the name of the set of routes that redirects from it led to.
const PREVIOUS_ROUTES: &str = "envoy.internal_redirect.previous_routes_predicate_state";

/// Why a redirect is passed on to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// The request has not come to its end, or was not kept.
    Request,
    /// There is no Location.
    NoLocation,
    BadLocation,
    UnsafeScheme,
    TooMany,
    NoRoute,
    Predicate,
}

impl Forwarding<'_> {
    /// Makes of `request` the one that `answered` redirects to; `None`: its response is passed on. Follows nothing but
    /// what the route says is to be followed.
    pub(super) fn follow(
        &self,
        answered: &Answered,
        request: &mut Request,
        replay: Option<&Replay>,
        cx: &mut StreamCx,
    ) -> Option<Box<ResponseHead>> {
        let policy = self.forward.internal_redirect.as_deref()?;
        let response = &answered.response.head;
        if !policy.follows(response.status) {
            return None;
        }
        let stats = &self.cluster.shared.cluster.stats;
        match self.redirected(policy, response, request, replay, cx) {
            Ok((head, body)) => {
                stats.upstream_internal_redirect_succeeded_total().inc();
                *request = Request { head, body };
                // A response that is here as a whole leaves its connection as it was.
                if !answered.response.body.may_have_trailers() {
                    answered.active.end();
                }
                Some(Box::new(response.clone()))
            }
            Err(refusal) => {
                tracing::debug!(?refusal, "a redirect is not followed");
                stats.upstream_internal_redirect_failed_total().inc();
                self.count_refusal(refusal);
                None
            }
        }
    }

    fn count_refusal(&self, refusal: Refusal) {
        let stats = &self.config.stats;
        match refusal {
            Refusal::Request | Refusal::NoLocation => {}
            Refusal::BadLocation => stats.passthrough_internal_redirect_bad_location().inc(),
            Refusal::UnsafeScheme => stats.passthrough_internal_redirect_unsafe_scheme().inc(),
            Refusal::TooMany => stats.passthrough_internal_redirect_too_many_redirects().inc(),
            Refusal::NoRoute => stats.passthrough_internal_redirect_no_route().inc(),
            Refusal::Predicate => stats.passthrough_internal_redirect_predicate().inc(),
        }
    }

    /// The request that takes the place of `request`. Where there is none, the route of `cx` is still the new one's, as
    /// in Envoy.
    fn redirected(
        &self,
        policy: &InternalRedirect,
        response: &ResponseHead,
        request: &Request,
        replay: Option<&Replay>,
        cx: &mut StreamCx,
    ) -> Result<(RequestHead, Body), Refusal> {
        // Envoy would send on the length of a body that it has not kept, and no body. We pass the redirect on.
        let body = replay.and_then(Replay::whole).filter(|_| cx.info.times.request_end.get().is_some());
        let body = body.ok_or(Refusal::Request)?;
        let location = location(response).ok_or(Refusal::NoLocation)?;
        let location = Location::parse(&location).ok_or(Refusal::BadLocation)?;
        if policy.schemes == Schemes::Same && !location.is_http() {
            return Err(Refusal::UnsafeScheme);
        }
        let followed = followed(&cx.info.filter_state.borrow());
        if followed >= policy.max {
            return Err(Refusal::TooMany);
        }
        let (head, body) = moved(policy, response, &request.head, &location, body);
        cx.refresh_route(&head);
        self.note_target(cx);
        let route = cx.route().ok_or(Refusal::NoRoute)?;
        let mut state = cx.info.filter_state.borrow_mut();
        let (from, to) = (self.entry.name(), route.get().name());
        if !policy.predicates.iter().all(|predicate| accepts(predicate, from, to, &location, &mut state)) {
            return Err(Refusal::Predicate);
        }
        state.set(FOLLOWED, FilterValue::Number(followed + 1), LifeSpan::Request);
        Ok((head, body))
    }
}

impl Forwarding<'_> {
    /// Notes for the logs the cluster that the new route leads to: Envoy finds it with the route.
    fn note_target(&self, cx: &StreamCx) {
        let cluster = cx.route().and_then(|route| cluster_of(route, &WorkerClusters::of(self.worker)));
        note_cluster(&mut cx.info.upstream.borrow_mut(), cluster.as_deref());
    }
}

/// Its value. Envoy joins several, as if they were a list.
fn location(response: &ResponseHead) -> Option<Cow<'_, [u8]>> {
    let mut values = response.headers.get_all(LOCATION).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    let rest: Vec<&[u8]> = values.collect();
    match rest.is_empty() {
        true => Some(Cow::Borrowed(first)),
        false => Some(Cow::Owned([&[first], &rest[..]].concat().join(&b","[..]))),
    }
}

/// `old` with the target that `response` names.
fn moved(
    policy: &InternalRedirect,
    response: &ResponseHead,
    old: &RequestHead,
    location: &Location<'_>,
    mut body: Body,
) -> (RequestHead, Body) {
    let mut head = old.clone();
    for name in &policy.copied_headers {
        head.headers.remove(name);
        for value in response.headers.get_all(name) {
            let _ = head.headers.try_append(name, value.clone());
        }
    }
    // This listener is cleartext; TLS will say otherwise.
    let original = format!("http://{}{}", old.authority, old.path);
    head.scheme = Scheme::parse(location.scheme.as_bytes()).unwrap_or(Scheme::Http);
    head.authority = ByteStr::from(location.authority);
    head.path = ByteStr::from(location.path);
    // RFC 9110 §15.4.4: what the other resource says is asked for by GET.
    if response.status == StatusCode::SEE_OTHER && !matches!(head.method, Method::GET | Method::HEAD) {
        head.method = Method::GET;
        head.headers.remove(CONTENT_LENGTH);
        body = Body::empty();
    }
    if let Ok(original) = HeaderValue::try_from(original) {
        let _ = head.headers.try_insert(&ORIGINAL_URL, original);
    }
    (head, body)
}

fn followed(state: &FilterState) -> u32 {
    if let Some(FilterValue::Number(n)) = state.get(FOLLOWED) { *n } else { 0 }
}

/// Whether `predicate` lets a redirect lead from the route named `from` to that named `to`.
fn accepts(
    predicate: &RedirectPredicate,
    from: &Arc<str>,
    to: &Arc<str>,
    location: &Location<'_>,
    state: &mut FilterState,
) -> bool {
    match predicate {
        RedirectPredicate::AllowListedRoutes(names) => names.iter().any(|name| **name == **to),
        // This listener is cleartext; TLS will say otherwise.
        RedirectPredicate::SafeCrossScheme => location.is_http(),
        RedirectPredicate::FilterState { key, if_absent } => match state.get(key) {
            Some(FilterValue::Flag(follow)) => *follow,
            _ => *if_absent,
        },
        RedirectPredicate::PreviousRoutes => previous_routes(from, state).borrow_mut().insert(to.clone()),
    }
}

/// The routes that redirects of this request from the route named `from` led to.
fn previous_routes(from: &str, state: &mut FilterState) -> Rc<RefCell<HashSet<Arc<str>>>> {
    let key = format!("{PREVIOUS_ROUTES}.{from}");
    if let Some(FilterValue::Object(routes)) = state.get(&key)
        && let Ok(routes) = routes.clone().downcast()
    {
        return routes;
    }
    let routes = Rc::default();
    let object: Rc<RefCell<HashSet<Arc<str>>>> = Rc::clone(&routes);
    state.set(key, FilterValue::Object(object), LifeSpan::Request);
    routes
}
