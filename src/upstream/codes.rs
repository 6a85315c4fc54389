//! What is counted of each response under the prefixes of its cluster.

use std::cell::{OnceCell, RefCell};
use std::rc::Rc;

use http::HeaderName;
use nuncio_filter_api::ResponseHead;
use nuncio_telemetry::stats::catalogue::RequestTimeStats;
use nuncio_telemetry::stats::{ResponseCodes, Scope};

use crate::cluster::Cluster;

/// What is counted for each response.
pub(crate) struct Codes {
    scope: Scope,
    pub(crate) all: ResponseCodes,
    external: Charged,
    internal: Charged,
    canary: OnceCell<Box<Charged>>,
    /// Those of hosts in other zones, or the own one, as they are first seen.
    zones: RefCell<Vec<Zone>>,
    /// Those that were not passed on: the request was sent again.
    retried: OnceCell<ResponseCodes>,
}

/// What decides under which prefixes a response is counted.
#[derive(Clone, Copy)]
pub(crate) struct Origin<'a> {
    /// Whether its request came from within.
    pub(crate) is_internal: bool,
    /// Whether its host is a canary, or it says so itself.
    pub(crate) is_canary: bool,
    /// The zones of this node and of the host; empty where not known.
    pub(crate) zones: [&'a str; 2],
}

struct Charged {
    codes: ResponseCodes,
    time: RequestTimeStats,
}

struct Zone {
    names: [Box<str>; 2],
    charged: Rc<Charged>,
}

static CANARY: HeaderName = HeaderName::from_static("x-envoy-upstream-canary");

/// Whether a host says of itself that it is a canary.
pub(crate) fn says_canary(head: &ResponseHead) -> bool {
    head.headers.get(&CANARY).is_some_and(|value| value == "true")
}

// === impl Codes ===

impl Codes {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let scope = cluster.scope();
        Self {
            all: ResponseCodes::new(&scope),
            external: Charged::new(&scope.scope("external")),
            internal: Charged::new(&scope.scope("internal")),
            canary: OnceCell::new(),
            zones: RefCell::default(),
            retried: OnceCell::new(),
            scope,
        }
    }

    /// Counts a response.
    pub(crate) fn charge(&self, status: u16, origin: Origin<'_>) {
        self.all.charge(status);
        self.each(origin, |charged| charged.codes.charge(status));
    }

    /// Counts a response that was not passed on: its request is sent again.
    pub(crate) fn charge_retried(&self, status: u16) {
        self.retried.get_or_init(|| ResponseCodes::new(&self.scope.scope("retry"))).charge(status);
    }

    /// Notes how many milliseconds a response took.
    pub(crate) fn record(&self, time: u64, origin: Origin<'_>) {
        self.each(origin, |charged| charged.time.upstream_rq_time().record(time));
    }

    fn each(&self, origin: Origin<'_>, charge: impl Fn(&Charged)) {
        charge(if origin.is_internal { &self.internal } else { &self.external });
        if origin.is_canary {
            charge(self.canary.get_or_init(|| Box::new(Charged::new(&self.scope.scope("canary")))));
        }
        if !origin.zones.contains(&"") {
            charge(&self.zone(origin.zones));
        }
    }

    fn zone(&self, zones: [&str; 2]) -> Rc<Charged> {
        let mut known = self.zones.borrow_mut();
        if let Some(zone) = known.iter().find(|zone| zone.names.iter().map(|name| &**name).eq(zones)) {
            return zone.charged.clone();
        }
        let charged =
            Rc::new(Charged::new(&zones.iter().fold(self.scope.scope("zone"), |scope, zone| scope.scope(zone))));
        known.push(Zone { names: zones.map(Box::from), charged: charged.clone() });
        charged
    }
}

// === impl Charged ===

impl Charged {
    fn new(scope: &Scope) -> Self {
        Self { codes: ResponseCodes::new(scope), time: RequestTimeStats::new(scope) }
    }
}
