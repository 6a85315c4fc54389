//! What a bootstrap says, to be held against another.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use nuncio_config::load::StaticClusters;
use nuncio_config::protocol::resource_name;
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::listener::v3::Listener;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::Secret;
use twox_hash::XxHash64;

/// The resources of a bootstrap, and all the rest of it.
pub(super) struct Outline {
    /// A hash of each, by name.
    clusters: BTreeMap<String, u64>,
    listeners: BTreeMap<String, Listener>,
    secrets: BTreeMap<String, Secret>,
    rest: Bootstrap,
}

/// How one bootstrap differs from another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) clusters: Difference,
    pub(super) listeners: Difference,
    pub(super) secrets: Difference,
    pub(super) runtime: bool,
    /// Fields that take a restart.
    pub(super) others: Vec<&'static str>,
}

/// Names of resources.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) added: Vec<String>,
    pub(super) changed: Vec<String>,
    pub(super) removed: Vec<String>,
}

// === impl Outline ===

impl Outline {
    pub(super) fn of(loaded: &StaticClusters) -> Self {
        let mut rest = loaded.rest();
        let resources = rest.static_resources.get_or_insert_default();
        let listeners = std::mem::take(&mut resources.listeners);
        let secrets = std::mem::take(&mut resources.secrets);
        let hash = |encoded: &[u8]| XxHash64::oneshot(0, encoded);
        Self {
            clusters: loaded
                .encoded()
                .map(|encoded| (resource_name(encoded).unwrap_or_default(), hash(encoded)))
                .collect(),
            listeners: listeners.into_iter().map(|listener| (listener_name(&listener), listener)).collect(),
            secrets: secrets.into_iter().map(|secret| (secret.name.clone(), secret)).collect(),
            rest,
        }
    }
}

/// As lowering has it: a listener without name is called by its address.
fn listener_name(listener: &Listener) -> String {
    match &*listener.name {
        "" => listener.address.as_ref().and_then(address_name).unwrap_or_default(),
        name => name.to_owned(),
    }
}

fn address_name(address: &core::Address) -> Option<String> {
    match address.address.as_ref()? {
        core::address::Address::SocketAddress(socket) => {
            let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else { return None };
            Some(SocketAddr::new(socket.address.parse().ok()?, u16::try_from(port).ok()?).to_string())
        }
        core::address::Address::Pipe(pipe) => Some(pipe.path.clone()),
        core::address::Address::EnvoyInternalAddress(_) => None,
    }
}

// === impl Changes ===

impl Changes {
    pub(super) fn between(before: &Outline, after: &Outline) -> Self {
        Self {
            clusters: Difference::between(&before.clusters, &after.clusters),
            listeners: Difference::between(&before.listeners, &after.listeners),
            secrets: Difference::between(&before.secrets, &after.secrets),
            runtime: before.rest.layered_runtime != after.rest.layered_runtime,
            others: others(&before.rest, &after.rest),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// One line for each change.
    pub(super) fn lines(&self) -> Vec<String> {
        let Self { clusters, listeners, secrets, runtime, others } = self;
        let mut lines = clusters.lines("cluster");
        lines.extend(listeners.lines("listener"));
        lines.extend(secrets.lines("secret"));
        lines.extend(runtime.then(|| "~ layered_runtime".to_owned()));
        lines.extend(others.iter().map(|field| format!("! {field} (takes a restart)")));
        lines
    }
}

/// Names of the fields that differ, beside clusters, listeners and the runtime.
#[allow(deprecated, reason = "users still write what Envoy deprecates")]
fn others(before: &Bootstrap, after: &Bootstrap) -> Vec<&'static str> {
    let mut all = Vec::new();
    macro_rules! compare {
        ($($field:ident),* $(,)?) => {{
            // A field that the message gains does not compile until it is here.
            let Bootstrap { static_resources: _, layered_runtime: _, $($field: _),* } = before;
            $(if before.$field != after.$field {
                all.push(stringify!($field));
            })*
        }};
    }
    compare!(
        node,
        node_context_params,
        dynamic_resources,
        cluster_manager,
        hds_config,
        flags_path,
        stats_sinks,
        deferred_stat_options,
        stats_config,
        stats_flush_interval,
        watchdog,
        watchdogs,
        tracing,
        admin,
        overload_manager,
        enable_dispatcher_stats,
        header_prefix,
        stats_server_version_override,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        bootstrap_extensions,
        fatal_actions,
        config_sources,
        default_config_source,
        default_socket_interface,
        certificate_provider_instances,
        inline_headers,
        perf_tracing_file_path,
        default_regex_engine,
        xds_delegate_extension,
        xds_config_tracker_extension,
        listener_manager,
        application_log_config,
        grpc_async_client_manager_config,
        memory_allocator_manager,
        enable_worker_cpu_affinity,
        stats_flush,
        stats_eviction,
    );
    all
}

// === impl Difference ===

impl Difference {
    fn between<T: PartialEq>(before: &BTreeMap<String, T>, after: &BTreeMap<String, T>) -> Self {
        let mut difference = Self::default();
        for (name, now) in after {
            match before.get(name) {
                None => difference.added.push(name.clone()),
                Some(then) if then != now => difference.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        difference.removed = before.keys().filter(|name| !after.contains_key(*name)).cloned().collect();
        difference
    }

    /// Whether the resource of this name is new, or another than before.
    pub(super) fn are_put(&self, name: &str) -> bool {
        self.added.iter().chain(&self.changed).any(|put| put == name)
    }

    fn lines(&self, noun: &str) -> Vec<String> {
        let of =
            |sign: char, names: &[String]| names.iter().map(|name| format!("{sign} {noun} {name}")).collect::<Vec<_>>();
        [of('+', &self.added), of('~', &self.changed), of('-', &self.removed)].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nuncio_config::load::{Format, Loader, Source, UnknownFields};

    fn outline(yaml: &str) -> Outline {
        let source = Source::new("b.yaml", Format::Yaml, yaml.as_bytes().to_vec());
        let loaded = Loader::new(UnknownFields::Reject).load_bootstrap(vec![source]);
        Outline::of(&loaded.unwrap_or_else(|problems| panic!("{problems:?}")).1)
    }

    #[test]
    fn a_difference_names_what_comes_changes_and_goes() {
        let before = outline(
            "static_resources: { clusters: [{ name: same }, { name: other }, { name: old }], listeners: [{ name: l }, \
             { address: { socket_address: { address: 127.0.0.1, port_value: 1 } } }] }",
        );
        let after = outline(
            "{ admin: {}, layered_runtime: { layers: [] }, static_resources: { clusters: [{ name: new }, { name: same }, \
             { name: other, lb_policy: RANDOM }], listeners: [{ name: l, transparent: true }] } }",
        );
        let changes = Changes::between(&before, &after);
        let expected = [
            "+ cluster new",
            "~ cluster other",
            "- cluster old",
            "~ listener l",
            "- listener 127.0.0.1:1",
            "~ layered_runtime",
            "! admin (takes a restart)",
        ];
        assert_eq!(changes.lines(), expected);
        assert!(changes.clusters.are_put("new") && !changes.clusters.are_put("same"));
        assert!(Changes::between(&after, &after).is_empty());
    }
}
