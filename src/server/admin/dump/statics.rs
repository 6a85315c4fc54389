//! What the bootstrap configures itself.

use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::envoy::config::bootstrap::v3::bootstrap::StaticResources;
use nuncio_proto::envoy::config::listener::v3::Listener;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::ScopedRoutes;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::ConfigSpecifier;
use nuncio_proto::google::protobuf::Timestamp;
use proto::clusters_config_dump::StaticCluster;
use proto::listeners_config_dump::StaticListener;
use proto::routes_config_dump::StaticRouteConfig;
use proto::scoped_routes_config_dump::InlineScopedRouteConfigs;

use super::any;
use super::names::Names;
use crate::route_check::{Inline, of_listener};

pub(super) fn clusters(
    resources: &StaticResources,
    names: &Names,
    last_updated: Option<Timestamp>,
) -> Vec<StaticCluster> {
    let mut clusters: Vec<_> = resources.clusters.iter().filter(|cluster| names.have(&cluster.name)).collect();
    // As Envoy has them.
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters.into_iter().map(|cluster| StaticCluster { cluster: Some(any(cluster)), last_updated }).collect()
}

pub(super) fn listeners(
    resources: &StaticResources,
    names: &Names,
    last_updated: Option<Timestamp>,
) -> Vec<StaticListener> {
    let listeners = resources.listeners.iter().filter(|listener| names.have(&listener.name));
    listeners.map(|listener| StaticListener { listener: Some(any(listener)), last_updated }).collect()
}

/// The routes that stand in a listener itself.
pub(super) fn inline_routes(
    listener: &Listener,
    names: &Names,
    last_updated: Option<Timestamp>,
    routes: &mut proto::RoutesConfigDump,
    scopes: &mut proto::ScopedRoutesConfigDump,
) {
    for (_, inline) in of_listener(listener) {
        match inline {
            Inline::Table(table) if names.have(&table.name) => {
                let route_config = Some(any(&table));
                routes.static_route_configs.push(StaticRouteConfig { route_config, last_updated });
            }
            Inline::Scoped(scoped) if names.have(&scoped.name) => {
                scopes.inline_scoped_route_configs.extend(scoped_routes(scoped, last_updated));
            }
            Inline::Table(_) | Inline::Scoped(_) => {}
        }
    }
}

/// `None` where they are discovered.
fn scoped_routes(message: ScopedRoutes, last_updated: Option<Timestamp>) -> Option<InlineScopedRouteConfigs> {
    let Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) = message.config_specifier else { return None };
    let scoped_route_configs = list.scoped_route_configurations.iter().map(any).collect();
    Some(InlineScopedRouteConfigs { name: message.name, scoped_route_configs, last_updated })
}
