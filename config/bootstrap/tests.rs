use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use nuncio_filter_api::{Connection, Flow, LowerEnv, NetworkCx, NetworkFilter, NetworkFilterRow};

use super::*;
use crate::listener::{ConnectionBalance, DrainType, TrafficDirection};
use crate::load::{Format, Loader, Source, UnknownFields};
use crate::socket::{SocketPhase, SocketValue};

mod listeners;
mod refusals;

/// A network filter that does nothing; `true` is terminal.
struct Filter(bool);

impl NetworkFilter for Filter {
    fn run(self: Arc<Self>, _: Connection, _: NetworkCx) -> LocalBoxFuture<'static, Flow> {
        Box::pin(async { Flow::Done })
    }

    fn is_terminal(&self) -> bool {
        self.0
    }
}

static FILTERS: &[NetworkFilterRow] = &[
    NetworkFilterRow {
        name: "envoy.filters.network.echo",
        config: "envoy.extensions.filters.network.echo.v3.Echo",
        lower: |_, _| Ok(Arc::new(Filter(true))),
    },
    NetworkFilterRow {
        name: "envoy.filters.network.sni_cluster",
        config: "envoy.extensions.filters.network.sni_cluster.v3.SniCluster",
        lower: |_, _| Ok(Arc::new(Filter(false))),
    },
];

fn env() -> LowerEnv {
    let mut env = crate::testing::env();
    env.registry.network.push(FILTERS);
    env
}

/// The refusals of a bootstrap as `path: reason`, or the bootstrap.
fn lower(yaml: &str) -> Result<BootstrapConfig, Vec<String>> {
    let source = Source::new("b.yaml", Format::Yaml, yaml.as_bytes().to_vec());
    let loaded = Loader::new(UnknownFields::Reject).load_bootstrap(vec![source]);
    let (loaded, clusters) = loaded.unwrap_or_else(|problems| panic!("{problems:?}"));
    let env = env();
    let mut cx = LowerCx::new(&env);
    let lowered = BootstrapConfig::lower(loaded.message, &clusters, &mut cx);
    let invalid = cx.finish();
    assert_eq!(lowered.is_err(), !invalid.is_empty(), "a refusal is recorded exactly where lowering fails");
    lowered.map_err(|Refused| invalid.iter().map(ToString::to_string).collect())
}

fn good(yaml: &str) -> BootstrapConfig {
    lower(yaml).unwrap_or_else(|refusals| panic!("{yaml}\n{}", refusals.join("\n")))
}

#[track_caller]
fn refused(yaml: &str, expected: &[&str]) {
    let Err(refusals) = lower(yaml) else { panic!("accepted: {yaml}") };
    assert_eq!(refusals, expected);
}

#[test]
fn an_empty_bootstrap_has_envoys_defaults() {
    let config = good("{}");
    assert!(config.admin.is_none() && config.listeners.is_empty() && config.clusters.is_empty());
    assert_eq!(config.stats_flush_interval, Duration::from_secs(5));
    assert!(config.without_effect.is_empty());
}

#[test]
fn admin_listens_where_it_is_told() {
    let admin = good("admin: { address: { socket_address: { address: '::1', port_value: 9901 } } }").admin;
    assert_eq!(admin.unwrap().socket.address.address.to_string(), "[::1]:9901");
    assert!(good("admin: { access_log_path: /dev/null }").admin.is_none());
}

#[test]
fn clusters_are_declared_before_listeners_refer_to_them() {
    let env = env();
    let source = Source::new("b.yaml", Format::Yaml, b"static_resources: { clusters: [{ name: c }] }".to_vec());
    let (loaded, clusters) = Loader::new(UnknownFields::Reject).load_bootstrap(vec![source]).unwrap();
    let mut cx = LowerCx::new(&env);
    BootstrapConfig::lower(loaded.message, &clusters, &mut cx).unwrap();
    assert!(env.clusters.is_declared("c") && !env.clusters.is_declared("d"));
}

#[test]
fn layers_of_the_runtime_have_values_by_key_and_feature_guards_are_noted() {
    let config = good(
        "layered_runtime: { layers: [{ name: s, static_layer: { envoy: { reloadable_features: { x: true } }, \
         a: { b: 5, c: { numerator: 1 } } } }, { name: a, admin_layer: {} }, \
         { name: d, disk_layer: { symlink_root: /r/current, subdirectory: s } }] }",
    );
    assert_eq!(config.without_effect, ["the runtime key envoy.reloadable_features.x"]);
    let [fixed, admin, disk] = &*config.runtime.layers else { panic!("three layers") };
    let RuntimeLayerKind::Static(values) = &fixed.kind else { panic!("static") };
    assert_eq!(values.keys().collect::<Vec<_>>(), ["a.b", "a.c", "envoy.reloadable_features.x"]);
    assert_eq!((values["a.b"].integer, values["a.c"].share), (Some(5), Some((1, 100))));
    assert_eq!(admin.kind, RuntimeLayerKind::Admin);
    let folder = RuntimeFolder { link: "/r/current".into(), path: "/r/current/s".into() };
    assert_eq!(disk.kind, RuntimeLayerKind::Disk(folder));
}

#[test]
fn names_of_the_node_are_found() {
    let source = "node: { id: i, cluster: c, locality: { zone: z } }";
    let source = Source::new("b.yaml", Format::Yaml, source.into());
    let loaded = Loader::new(UnknownFields::Reject).load::<proto::Bootstrap>(vec![source]).unwrap();
    let names = node_names(&loaded.message);
    assert_eq!((&*names.id, &*names.cluster, &*names.zone), ("i", "c", "z"));
}
