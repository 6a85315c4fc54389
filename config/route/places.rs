//! Where in the configuration the entries of a table come from, for tools that speak to people.

use std::sync::Arc;

use super::{Action, RouteTable};

/// The place of a [`RouteEntry`](super::RouteEntry).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryPlace {
    /// Place in `virtual_hosts`.
    pub virtual_host: usize,
    /// Place among the routes of the virtual host; `None` for the redirect to https that it adds itself.
    pub route: Option<usize>,
    /// Place in `weighted_clusters.clusters`, of a route that has them.
    pub weighted: Option<usize>,
}

impl RouteTable {
    /// The place of each entry, by number. Not for the data path: it looks at all of them.
    pub fn places(&self) -> Vec<EntryPlace> {
        let mut places: Vec<EntryPlace> = Vec::with_capacity(self.entries.len());
        let (mut virtual_host, mut routes) = (0, 0);
        for (i, entry) in self.entries.iter().enumerate() {
            // Entries lie in the order of their virtual hosts, and those of one route follow each other.
            while !Arc::ptr_eq(&self.virtual_hosts[virtual_host].host, &entry.route.virtual_host) {
                (virtual_host, routes) = (virtual_host + 1, 0);
            }
            let weighted = entry.weighted.as_ref().map(|_| match i.checked_sub(1).map(|last| &self.entries[last]) {
                Some(last) if Arc::ptr_eq(&last.route, &entry.route) => places[i - 1].weighted.map_or(0, |n| n + 1),
                _ => 0,
            });
            let is_first = weighted.is_none_or(|number| number == 0);
            let is_own = !matches!(entry.action(), Action::TlsRedirect);
            routes += usize::from(is_own && is_first);
            places.push(EntryPlace { virtual_host, route: is_own.then(|| routes - 1), weighted });
        }
        places
    }
}
