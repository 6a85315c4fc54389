//! The table of endpoints.

use super::{Admin, Params, Reply, certs, clusters, dump, explain, info, logging, mutate, pages, tap, xds};
use crate::control::Request;

/// One path of the admin server.
pub(super) struct Endpoint {
    pub(super) path: &'static str,
    /// What it does, in a few words.
    pub(super) help: &'static str,
    /// Whether it changes anything; then only POST reaches it.
    pub(super) mutates: bool,
    /// Parameters, each with its help.
    pub(super) params: &'static [(&'static str, &'static str)],
    pub(super) handle: fn(&Admin, &Params) -> Outcome,
    /// Whether it is there: some come with what is configured.
    is_served: fn(&Admin) -> bool,
}

/// What a handler makes of a request.
pub(super) enum Outcome {
    /// The answer.
    Reply(Reply),
    /// Something for the control thread, which is answered with OK when it is done.
    Ask(Request),
    /// What is tapped by what the body says, for as long as the client listens.
    Tap,
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

const fn get(path: &'static str, help: &'static str, handle: fn(&Admin, &Params) -> Outcome) -> Endpoint {
    Endpoint { path, help, mutates: false, params: &[], handle, is_served: |_| true }
}

const fn post(path: &'static str, help: &'static str, handle: fn(&Admin, &Params) -> Outcome) -> Endpoint {
    Endpoint { path, help, mutates: true, params: &[], handle, is_served: |_| true }
}

impl Endpoint {
    const fn params(self, params: &'static [(&'static str, &'static str)]) -> Self {
        Self { params, ..self }
    }

    const fn served_if(self, is_served: fn(&Admin) -> bool) -> Self {
        Self { is_served, ..self }
    }
}

/// The endpoints that are there.
pub(super) fn served(admin: &Admin) -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS.iter().filter(|endpoint| (endpoint.is_served)(admin))
}

/// The endpoint that explains, to which a body may bring the parameters.
pub(super) const EXPLAIN: &str = "/explain";
/// The endpoint that changes the runtime, to which a form may bring the parameters.
pub(super) const RUNTIME_MODIFY: &str = "/runtime_modify";
/// The endpoint that tells what is tapped, to which the body brings how.
pub(super) const TAP: &str = "/tap";

/// Every endpoint, in the order in which they are listed.
pub(super) static ENDPOINTS: &[Endpoint] = &[
    get("/", "this list as a page", |admin, _| pages::home(served(admin)).into()),
    get("/certs", "certificates in use", |admin, _| certs::certs(admin).into()),
    get("/clusters", "clusters, their hosts and what these did", |admin, params| {
        clusters::clusters(admin, params).into()
    })
    .params(&[("format", "text or json"), ("filter", "only clusters whose name this regular expression finds")]),
    get("/config_dump", "the configuration in force", |admin, params| dump::config_dump(admin, params).into()).params(
        &[
            ("resource", "only the elements of this list, as dynamic_listeners"),
            ("mask", "only these fields, as cluster.name,version_info"),
            ("name_regex", "only resources whose whole name this regular expression matches"),
            ("include_eds", "and the hosts of all clusters"),
        ],
    ),
    post("/drain_listeners", "drain and stop listeners", |_, params| mutate::drain_listeners(params)).params(&[
        ("graceful", "first tell connections to close, for the drain time"),
        ("skip_exit", "tell connections to close, but go on accepting"),
        ("inboundonly", "only listeners with traffic_direction INBOUND"),
    ]),
    post(EXPLAIN, "what becomes of a request, and why", |admin, params| explain::answer(admin, params).into()).params(
        &[
            ("authority", "host of the request; required"),
            ("path", "its path with query; / if not given"),
            ("method", "its method; GET if not given"),
            ("header", "a header as name: value; may be given again"),
            ("source_address", "the client's IP address; 127.0.0.1 if not given"),
            ("listener", "only the listener of this name"),
            ("random_value", "chooses among weighted clusters and decides runtime fractions"),
            ("format", "text or json"),
        ],
    ),
    post("/healthcheck/fail", "fail health checks and drain", |_, _| Outcome::Ask(Request::HealthFailed(true))),
    post("/healthcheck/ok", "pass health checks again", |_, _| Outcome::Ask(Request::HealthFailed(false))),
    get("/help", "this list", |admin, _| pages::help(served(admin)).into()),
    get("/hot_restart_version", "version of the hot-restart protocol", |_, _| info::hot_restart_version().into()),
    get("/init_dump", "what listeners wait for", |admin, params| dump::init_dump(admin, params).into())
        .params(&[("mask", "listener: what listeners wait for")]),
    get("/listeners", "addresses listened on", |admin, params| info::listeners(admin, params).into())
        .params(&[("format", "text or json")]),
    post("/logging", "levels of the application log", |admin, params| logging::logging(admin, params).into())
        .params(&[("level", "level of all loggers"), ("paths", "levels of some, as name:level,name:level")]),
    get("/memory", "memory in use", |_, _| info::memory().into()),
    post("/quitquitquit", "end the process", |_, _| Outcome::Ask(Request::Quit)),
    get("/ready", "state of the process; 200 if it serves, else 503", |admin, _| info::ready(admin).into()),
    post("/reopen_logs", "reopen log files", |_, _| Outcome::Ask(Request::ReopenLogs)),
    post("/reset_counters", "set all counters to zero", |admin, _| mutate::reset_counters(admin).into()),
    get("/runtime", "values of the runtime", |admin, _| info::runtime(admin).into()),
    post(RUNTIME_MODIFY, "set values of the runtime, or with an empty value take them back", |admin, params| {
        mutate::runtime(admin, params).into()
    }),
    get("/server_info", "version, state and options", |admin, _| info::server_info(admin).into()),
    get("/stats", "metrics", |admin, params| info::metrics(admin, params).into()).params(&[
        ("usedonly", "only metrics that were ever written"),
        ("filter", "only metrics whose name this regular expression finds"),
        ("format", "text, html, json or prometheus"),
        ("type", "All, Counters, Gauges, Histograms or TextReadouts"),
        ("histogram_buckets", "cumulative, disjoint, detailed or summary"),
    ]),
    get("/stats/prometheus", "metrics for Prometheus", |admin, params| info::prometheus(admin, params).into()).params(
        &[
            ("usedonly", "only metrics that were ever written"),
            ("text_readouts", "text readouts as gauges of value 0"),
            ("filter", "only metrics whose name this regular expression finds"),
            ("histogram_buckets", "cumulative or summary"),
        ],
    ),
    post(TAP, "tell what connections carry, until the client leaves", |_, _| Outcome::Tap).served_if(tap::is_there),
    get("/xds", "what is wanted of each source, and how it answers", |admin, params| xds::xds(admin, params).into())
        .params(&[("format", "text or json")]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_sorted_and_unique() {
        let paths: Vec<&str> = ENDPOINTS.iter().map(|e| e.path).collect();
        assert!(paths.is_sorted_by(|a, b| a < b), "{paths:?}");
    }
}
