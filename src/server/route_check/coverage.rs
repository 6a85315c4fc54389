//! How much of a table the tests are about.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::rc::Rc;

use nuncio_config::route::{Action, EntryPlace, RouteTable};
use nuncio_filter_api::Route;

/// A check that was made of a route and held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Checked {
    Cluster,
    VirtualCluster,
    VirtualHost,
    PathRewrite,
    HostRewrite,
    Redirect,
}

/// Checks that can be made of a route that forwards.
const CHECKS_OF_FORWARD: usize = 5;

/// What was checked so far.
pub(super) struct Coverage {
    table: Rc<RouteTable>,
    places: Vec<EntryPlace>,
    checked: BTreeSet<(usize, Checked)>,
}

impl Coverage {
    pub(super) fn new(table: Rc<RouteTable>) -> Self {
        Self { places: table.places(), table, checked: BTreeSet::new() }
    }

    /// Notes a check that held of the entry of this number.
    pub(super) fn mark(&mut self, entry: usize, checked: Checked) {
        self.checked.insert((entry, checked));
    }

    /// Percentage of the routes of which anything was checked; each weighted cluster counts as a route.
    pub(super) fn of_routes(&self) -> f64 {
        let tested = self.routes().filter(|(entry, _)| self.checks(*entry) > 0).count();
        percent(tested as f64, self.routes().count())
    }

    /// The same, where a route counts by the share of its checks that were made.
    pub(super) fn of_checks(&self) -> f64 {
        let share = |entry: usize| {
            let possible = if self.forwards(entry) { CHECKS_OF_FORWARD } else { 1 };
            self.checks(entry) as f64 / possible as f64
        };
        percent(self.routes().map(|(entry, _)| share(entry)).sum(), self.routes().count())
    }

    /// Each route of which nothing was checked.
    pub(super) fn untested(&self) -> impl Iterator<Item = String> {
        self.routes().filter(|(entry, _)| self.checks(*entry) == 0).map(|(entry, place)| self.describe(entry, place))
    }

    /// All entries but the redirects to https, which are no routes of the configuration.
    fn routes(&self) -> impl Iterator<Item = (usize, &EntryPlace)> {
        self.places.iter().enumerate().filter(|(_, place)| place.route.is_some())
    }

    fn checks(&self, entry: usize) -> usize {
        self.checked.range((entry, Checked::Cluster)..=(entry, Checked::Redirect)).count()
    }

    fn forwards(&self, entry: usize) -> bool {
        matches!(self.table.entry(entry).action(), Action::Forward(_) | Action::NonForwarding)
    }

    fn describe(&self, number: usize, place: &EntryPlace) -> String {
        let entry = self.table.entry(number);
        let EntryPlace { virtual_host, route, weighted } = place;
        let mut text = format!("host: {}, route: virtual_hosts[{virtual_host}]", entry.virtual_host().name);
        // Writing to a String cannot fail.
        let _ = route.map(|route| write!(text, ".routes[{route}]"));
        let _ = weighted.map(|weighted| write!(text, ".route.weighted_clusters.clusters[{weighted}]"));
        if !entry.name().is_empty() {
            let _ = write!(text, " {:?}", entry.name());
        }
        text
    }
}

fn percent(part: f64, whole: usize) -> f64 {
    if whole == 0 { 100.0 } else { 100.0 * part / whole as f64 }
}
