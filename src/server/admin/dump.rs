//! `/config_dump`: the messages that were loaded, in Envoy's order and shape.

mod dynamic;
mod endpoints;
mod extensions;
mod secrets;

use std::time::{SystemTime, UNIX_EPOCH};

use nuncio_config::load::{Defaults, to_json};
use nuncio_config::secret::redact;
use nuncio_proto::envoy::admin::v3 as proto;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::ScopedRoutes;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::ConfigSpecifier;
use nuncio_proto::google::protobuf::{Any, Timestamp};
use prost::{Message, Name};

use super::{Admin, Params, Reply};
use crate::route_check::{Inline, of_listener};

/// `/config_dump`
pub(super) fn config_dump(admin: &Admin, params: &Params) -> Reply {
    // Envoy has them, and a tool that asks for a part must not get the whole instead.
    for refused in ["resource", "mask", "name_regex"] {
        if params.has(refused) {
            return Reply::bad_request(format!("the parameter {refused} is not implemented yet\n"));
        }
    }
    let mut bootstrap = admin.bootstrap();
    let last_updated = Some(timestamp(admin.shared.bootstrap.load().since));
    let resources = bootstrap.static_resources.clone().unwrap_or_default();
    let clusters = proto::ClustersConfigDump {
        static_clusters: resources
            .clusters
            .iter()
            .map(|cluster| proto::clusters_config_dump::StaticCluster { cluster: Some(any(cluster)), last_updated })
            .collect(),
        ..dynamic::clusters(admin)
    };
    let listeners = proto::ListenersConfigDump {
        static_listeners: resources
            .listeners
            .iter()
            .map(|listener| proto::listeners_config_dump::StaticListener {
                listener: Some(any(listener)),
                last_updated,
            })
            .collect(),
        ..dynamic::listeners(admin)
    };
    let mut scopes = proto::ScopedRoutesConfigDump {
        dynamic_scoped_route_configs: dynamic::scopes(admin),
        ..proto::ScopedRoutesConfigDump::default()
    };
    let mut routes = dynamic::routes(admin);
    for (_, inline) in resources.listeners.iter().flat_map(of_listener) {
        match inline {
            Inline::Table(table) => {
                let route_config = Some(any(&table));
                let table = proto::routes_config_dump::StaticRouteConfig { route_config, last_updated };
                routes.static_route_configs.push(table);
            }
            Inline::Scoped(scoped) => scopes.inline_scoped_route_configs.push(scoped_routes(scoped, last_updated)),
        }
    }
    bootstrap.static_resources.iter_mut().flat_map(|resources| &mut resources.secrets).for_each(redact);
    let mut configs =
        vec![any(&proto::BootstrapConfigDump { bootstrap: Some(bootstrap), last_updated }), any(&clusters)];
    if params.has("include_eds") {
        configs.push(any(&endpoints::endpoints(admin)));
    }
    configs.extend(extensions::extensions(admin).iter().map(any));
    configs.extend([
        any(&listeners),
        any(&scopes),
        any(&routes),
        any(&secrets::secrets(admin, resources.secrets, last_updated)),
    ]);
    Reply::json(to_json(&proto::ConfigDump { configs }, Defaults::Omit))
}

fn scoped_routes(
    message: ScopedRoutes,
    last_updated: Option<Timestamp>,
) -> proto::scoped_routes_config_dump::InlineScopedRouteConfigs {
    let scopes = match &message.config_specifier {
        Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => &*list.scoped_route_configurations,
        _ => &[],
    };
    let scoped_route_configs = scopes.iter().map(any).collect();
    proto::scoped_routes_config_dump::InlineScopedRouteConfigs {
        name: message.name,
        scoped_route_configs,
        last_updated,
    }
}

fn any<T: Message + Name>(message: &T) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", T::full_name()), value: message.encode_to_vec() }
}

/// Envoy tells milliseconds.
fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_millis() * 1_000_000).unwrap_or_default(),
    }
}
