//! The tables of extensions of all crates, put together.

use nuncio_filter_api::{HttpFilterRow, ListenerFilterRow, NetworkFilterRow, Registry, UdpFilterRow};

use crate::Extensions;

/// Category of network filters in `--disable-extensions`.
pub(crate) const NETWORK: &str = "envoy.filters.network";
/// Category of listener filters in `--disable-extensions`.
pub(crate) const LISTENER: &str = "envoy.filters.listener";
/// Category of UDP listener filters in `--disable-extensions`.
pub(crate) const UDP: &str = "envoy.filters.udp_listener";
/// Category of HTTP filters in `--disable-extensions`.
pub(crate) const HTTP: &str = "envoy.filters.http";

/// All extensions, `more` included, less those that `disabled` names as `category/name`. Names of none are given back.
pub(crate) fn registry(more: Extensions, disabled: &[String]) -> (Registry, Vec<String>) {
    let mut all = Registry {
        http: vec![
            nuncio_filters_http::TABLE,
            std::slice::from_ref(&nuncio_upstream::ROUTER),
            std::slice::from_ref(&nuncio_upstream::FORWARD_PROXY),
            more.http,
        ],
        network: vec![
            nuncio_filters_network::FILTERS,
            std::slice::from_ref(&nuncio_http::hcm::ROW),
            std::slice::from_ref(&nuncio_upstream::TCP_PROXY),
            std::slice::from_ref(&nuncio_upstream::SNI_FORWARD_PROXY),
            more.network,
        ],
        listener: vec![nuncio_filters_network::LISTENER_FILTERS],
        udp: vec![
            std::slice::from_ref(&nuncio_upstream::DNS_FILTER),
            std::slice::from_ref(&nuncio_upstream::UDP_PROXY),
        ],
    };
    let (known, unknown): (Vec<_>, Vec<_>) = disabled.iter().partition(|name| is_known(&all, name));
    if !known.is_empty() {
        let off = |category: &str, name: &str| known.iter().any(|d| **d == format!("{category}/{name}"));
        all.network = retained(&all.network, |row: &NetworkFilterRow| !off(NETWORK, row.name));
        all.listener = retained(&all.listener, |row: &ListenerFilterRow| !off(LISTENER, row.name));
        all.udp = retained(&all.udp, |row: &UdpFilterRow| !off(UDP, row.name));
        all.http = retained(&all.http, |row: &HttpFilterRow| !off(HTTP, row.name));
    }
    (all, unknown.into_iter().cloned().collect())
}

fn is_known(registry: &Registry, disabled: &str) -> bool {
    match disabled.split_once('/') {
        Some((NETWORK, name)) => registry.network.iter().copied().flatten().any(|row| row.name == name),
        Some((LISTENER, name)) => registry.listener.iter().copied().flatten().any(|row| row.name == name),
        Some((UDP, name)) => registry.udp.iter().copied().flatten().any(|row| row.name == name),
        Some((HTTP, name)) => registry.http.iter().copied().flatten().any(|row| row.name == name),
        _ => false,
    }
}

/// Each row that stays, as a table of its own.
fn retained<Row>(tables: &[&'static [Row]], keep: impl Fn(&Row) -> bool) -> Vec<&'static [Row]> {
    let rows = tables.iter().copied().flatten().filter(|row| keep(row));
    rows.map(std::slice::from_ref).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disabled_extension_is_gone_and_an_unknown_one_is_named() {
        let disabled = ["envoy.filters.network/envoy.filters.network.echo".to_owned(), "x/y".to_owned()];
        let (registry, unknown) = registry(Extensions::default(), &disabled);
        assert_eq!(unknown, ["x/y"]);
        assert!(registry.network_filter("envoy.extensions.filters.network.echo.v3.Echo").is_none());
        assert!(registry.network_filter("envoy.extensions.filters.network.direct_response.v3.Config").is_some());
    }

    #[test]
    fn the_readme_lists_the_extensions_that_there_are() {
        let (registry, _) = registry(Extensions::default(), &[]);
        let http = registry.http.iter().copied().flatten().map(|row| (row.name, row.config));
        let network = registry.network.iter().copied().flatten().map(|row| (row.name, row.config));
        let listener = registry.listener.iter().copied().flatten().map(|row| (row.name, row.config));
        let udp = registry.udp.iter().copied().flatten().map(|row| (row.name, row.config));
        let all = http.chain(network).chain(listener).chain(udp);
        let mut rows: Vec<String> = all.map(|(n, c)| format!("| `{n}` | `{c}` |\n")).collect();
        rows.sort();
        let table = format!("| extension | configured by |\n|---|---|\n{}", rows.concat());
        let readme = include_str!("../../README.md");
        let found = readme.split("<!-- supported").nth(1).and_then(|s| s.split_once("-->\n"));
        let found = found.and_then(|(_, rest)| rest.split_once("<!-- /supported -->")).map(|(table, _)| table);
        assert_eq!(found, Some(&*table), "put this table into README.md");
    }
}
