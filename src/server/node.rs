//! What the process tells of itself: to control planes, and to who asks admin.

use std::collections::HashMap;

use nuncio_filter_api::Registry;
use nuncio_proto::envoy::config::core::v3::{BuildVersion, Extension, Node, node::UserAgentVersionType};
use nuncio_proto::envoy::r#type::v3::SemanticVersion;
use nuncio_proto::google::protobuf::{Struct, Value, value::Kind};

use crate::cli;
use crate::registry::{HTTP, LISTENER, NETWORK, UDP};

/// The release of Envoy whose features we have: control planes look at it.
const ENVOY_VERSION: SemanticVersion = SemanticVersion { major_number: 1, minor_number: 40, patch: 0 };

/// Completes what the bootstrap says of the node by what it runs.
pub(crate) fn identify(configured: Node, registry: &Registry) -> Node {
    let version = Value { kind: Some(Kind::StringValue(cli::version())) };
    let metadata = Struct { fields: HashMap::from([("nuncio.version".to_owned(), version)]) };
    let build = BuildVersion { version: Some(ENVOY_VERSION), metadata: Some(metadata) };
    let network = registry.network.iter().copied().flatten().map(|row| extension(NETWORK, row.name, row.config));
    let listener = registry.listener.iter().copied().flatten().map(|row| extension(LISTENER, row.name, row.config));
    let udp = registry.udp.iter().copied().flatten().map(|row| extension(UDP, row.name, row.config));
    let http = registry.http.iter().copied().flatten().map(|row| extension(HTTP, row.name, row.config));
    Node {
        // Control planes that know features by name and version of the proxy know Envoy's.
        user_agent_name: "envoy".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentBuildVersion(build)),
        extensions: network.chain(listener).chain(udp).chain(http).collect(),
        ..configured
    }
}

fn extension(category: &str, name: &str, config: &str) -> Extension {
    Extension {
        name: name.to_owned(),
        category: category.to_owned(),
        type_urls: vec![config.to_owned()],
        ..Extension::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Extensions;
    use crate::registry::registry;

    #[test]
    fn a_node_says_what_it_was_told_to_and_what_it_can_do() {
        let told = Node { id: "me".into(), client_features: vec!["mine".into()], ..Node::default() };
        let node = identify(told, &registry(Extensions::default(), &[]).0);
        assert_eq!((&*node.id, &*node.client_features), ("me", &["mine".to_owned()][..]));
        let categories = [HTTP, NETWORK, LISTENER, UDP];
        assert!(categories.iter().all(|category| node.extensions.iter().any(|one| one.category == *category)));
        let router = node.extensions.iter().find(|one| one.name == "envoy.filters.http.router").unwrap();
        assert_eq!(router.type_urls, ["envoy.extensions.filters.http.router.v3.Router"]);
    }
}
